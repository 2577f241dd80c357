//! What traffic through the kernel's forwarding meets besides plain connections: DNS, links that take less, fragments, and a target
//! that is no longer well.
#![expect(clippy::print_stderr, reason = "the harness shows it when the test fails")]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use integration::lab::addresses::{CLIENT_ADDRESSES, v4, v6};
use integration::lab::clock::{wait_for, wait_until};
use integration::lab::probe::talker;
use integration::lab::{Lab, Result};
use socket2::{Domain, SockRef, Socket, Type};

use crate::kernel_support::{
    LIMIT, PATIENCE, address, flows, reload_text, segmented, service, start, status, vips,
};

/// What the client asks a DNS server; each target's has its name as the answer.
const QUESTION: &str = "who.test";

/// A link's largest packet that is smaller than all others.
const SMALL_MTU: u32 = 1400;

/// Bytes of a large transfer.
const TRANSFER: usize = 1_000_000;

/// Client addresses behind the gateway.
const FAR: [&str; 2] = ["10.99.0.1", "fd99::1"];

#[test]
fn names_are_resolved_through_nat_and_directly() -> Result<()> {
    let lab = Lab::builder("kernel-dns").targets(2).build()?;
    for target in lab.targets() {
        let mut server = target.command("dnsmasq");
        server.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ]);
        server.args([
            "--pid-file=",
            "--log-facility=-",
            &format!("--txt-record={QUESTION},{}", target.name()),
        ]);
        target.start("dnsmasq", server)?;
    }
    let text = |keys: &str| service(&lab, "dns", keys, &["53", "53/udp"], 53, "");
    start(&lab, &text("mode = \"nat\""))?;
    resolved(&lab)?;
    for target in lab.targets() {
        vips().into_iter().try_for_each(|vip| target.accept_vip(vip))?;
    }
    reload_text(&lab, &text("mode = \"dsr\"\ndsr = \"l2\""))?;
    resolved(&lab)?;
    lab.finish()
}

/// Waits until both servers have answered through both VIPs, over UDP and TCP.
fn resolved(lab: &Lab) -> Result<()> {
    for vip in vips() {
        for transport in ["+notcp", "+tcp"] {
            let server = format!("@{vip}");
            let mut seen = BTreeSet::new();
            wait_until(&format!("answers of both servers through {vip} with {transport}"), LIMIT, || {
                let asked = [&server, QUESTION, "TXT", "+short", "+tries=1", "+time=2", transport];
                let answer = lab.client().run("dig", &asked).unwrap_or_default();
                seen.extend(["t1", "t2"].into_iter().filter(|name| answer.trim() == format!("\"{name}\"")));
                seen.len() == 2
            })?;
        }
    }
    Ok(())
}

#[test]
fn packets_that_a_link_does_not_take_are_made_smaller() -> Result<()> {
    let lab = Lab::builder("kernel-mtu").targets(2).gateway().build()?;
    let gateway = lab.gateway().expect("it was asked for");
    gateway.namespace().without_redirects()?;
    for (vip, far) in vips().into_iter().zip(FAR) {
        let (ip, bits) = if vip.is_ipv4() { ("", 32) } else { ("-6 ", 128) };
        let (client, router) = (address(lab.client(), vip), address(gateway, vip));
        lab.client().ip(&format!("{ip}address add {far}/{bits} dev lo"))?;
        lab.a().ip(&format!("{ip}route add {far}/{bits} via {router}"))?;
        gateway.ip(&format!("{ip}route add {far}/{bits} via {client} mtu {SMALL_MTU}"))?;
        // The program sends nothing to a MAC address that the node has not learned, and from this client and this router it hears
        // nothing from which it would.
        let first = lab.client().v4().octets()[3];
        let clients = (first..first + CLIENT_ADDRESSES).map(|number| match vip {
            IpAddr::V4(_) => (IpAddr::from(v4(number)), lab.client().mac()),
            IpAddr::V6(_) => (v6(number).into(), lab.client().mac()),
        });
        for (neighbour, mac) in clients.chain([(router, gateway.mac())]) {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            lab.a().ip(&format!("neighbour replace {neighbour} lladdr {mac} dev eth0 nud permanent"))?;
        }
    }
    start(&lab, &service(&lab, "echo", "mode = \"nat\"", &["7", "7/udp"], 7, ""))?;
    // The way to the client is small: its router's errors are for the targets.
    for (vip, far) in vips().into_iter().zip(FAR) {
        transfer(&lab, vip, far.parse().ok())?;
    }
    // The way to the targets is: its router's errors are for the client.
    for vip in vips() {
        for target in lab.targets() {
            let (target, router) = (address(target, vip), address(gateway, vip));
            let (ip, bits) = if vip.is_ipv4() { ("", 32) } else { ("-6 ", 128) };
            gateway.ip(&format!("{ip}route add {target}/{bits} dev eth0 mtu {SMALL_MTU}"))?;
            lab.a().ip(&format!("{ip}route add {target}/{bits} via {router}"))?;
        }
        transfer(&lab, vip, None)?;
        told(&lab, vip, "a router behind node `a`")?;
        lab.client().ip("route flush cache")?;
        lab.client().ip("-6 route flush cache")?;
        // The same said by the program, which knows the way by now.
        for target in lab.targets() {
            let target = address(target, vip);
            let (ip, bits) = if vip.is_ipv4() { ("", 32) } else { ("-6 ", 128) };
            lab.a().ip(&format!("{ip}route replace {target}/{bits} dev eth0 mtu {SMALL_MTU}"))?;
        }
        told(&lab, vip, "node `a`")?;
    }
    lab.finish()
}

#[test]
fn both_ends_of_nat_are_told_which_segments_fit() -> Result<()> {
    let lab = Lab::builder("kernel-mss").targets(2).build()?;
    // The way to the targets takes less than everybody's link, which no end of it knows.
    for vip in vips() {
        for target in lab.targets() {
            let (ip, bits) = if vip.is_ipv4() { ("", 32) } else { ("-6 ", 128) };
            let target = address(target, vip);
            lab.a().ip(&format!("{ip}route add {target}/{bits} dev eth0 mtu {SMALL_MTU}"))?;
        }
    }
    start(&lab, &service(&lab, "echo", "mode = \"nat\"", &["7"], 7, ""))?;
    for vip in vips() {
        let most = SMALL_MTU - if vip.is_ipv4() { 40 } else { 60 };
        let segment = lab.client().namespace().inside(|| -> Result<u32> {
            let mut made = None;
            wait_until(&format!("a connection to {vip}"), LIMIT, || {
                made = connected(vip, None).ok();
                made.is_some()
            })?;
            Ok(SockRef::from(&made.expect("just made")).tcp_mss().unwrap())
        })??;
        assert!((most - 20..=most).contains(&segment), "{segment} bytes of {most} through {vip}");
        transfer(&lab, vip, None)?;
    }
    let said = drops(&lab);
    assert!(!said.contains("too_big"), "nobody had to be told more: {said}");
    lab.finish()
}

/// Has a megabyte go to the echo server and come back, from an address of the client's if one is given.
fn transfer(lab: &Lab, vip: IpAddr, from: Option<IpAddr>) -> Result<()> {
    lab.client().namespace().inside(|| -> Result<()> {
        let mut made = None;
        wait_until(&format!("a connection to {vip}"), LIMIT, || {
            made = connected(vip, from).ok();
            made.is_some()
        })
        .inspect_err(|_| eprintln!("from {from:?}: {}", drops(lab)))?;
        let (mut reader, sent) = (made.expect("just made"), vec![b'x'; TRANSFER]);
        let mut writer = reader.try_clone().unwrap();
        let came = std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&sent));
            let mut came = vec![0; TRANSFER];
            reader.read_exact(&mut came).map(|()| came)
        });
        assert!(
            came.as_ref().is_ok_and(|came| *came == sent),
            "through {vip} from {from:?}: {:?}",
            came.err()
        );
        Ok(())
    })?
}

/// What was not forwarded, and why, for people.
fn drops(lab: &Lab) -> String {
    let metrics = lab.a().get("lbd", "/metrics").map(|answer| answer.body).unwrap_or_default();
    let counted = |line: &&str| line.starts_with("tandem_lbd_kernel_drops_total") && !line.ends_with(" 0");
    metrics.lines().filter(counted).collect::<Vec<_>>().join(", ")
}

/// A connection to the echo server of a VIP.
fn connected(vip: IpAddr, from: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let server = SocketAddr::new(vip, 7);
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&server.into(), PATIENCE)?;
    let patience = Some(Duration::from_secs(8));
    socket.set_read_timeout(patience)?;
    socket.set_write_timeout(patience)?;
    Ok(socket.into())
}

/// Waits until the client has been told that packets of 1,450 bytes are too large, and that smaller ones come back.
fn told(lab: &Lab, vip: IpAddr, who: &str) -> Result<()> {
    let small = lab.client().namespace().inside(|| -> Result<bool> {
        let socket = client_socket(vip);
        never_fragment(&socket);
        let headers = if vip.is_ipv4() { 28 } else { 48 };
        let (large, fitting) = (vec![b'l'; 1450 - headers], vec![b's'; SMALL_MTU as usize - headers]);
        wait_until(&format!("{who} to say that the way to {vip} is small"), LIMIT, || {
            let sent = socket.send(&large);
            // Answers to the datagrams before are of no interest.
            socket.recv(&mut [0; 2048]).ok();
            sent.is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE))
        })?;
        Ok((0..3).any(|_| echoed(&socket, &fitting)))
    })??;
    assert!(small, "datagrams that fit come back from {vip}");
    Ok(())
}

/// Has the socket's packets never be fragmented.
fn never_fragment(socket: &UdpSocket) {
    let ipv4 = socket.local_addr().is_ok_and(|it| it.is_ipv4());
    let (level, option, value) = match ipv4 {
        true => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        false => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    };
    let value = value.to_ne_bytes();
    // SAFETY: the descriptor is the socket's, and the option's value is four bytes that live during the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), 4) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A socket for the echo service of a VIP; in the client's namespace.
fn client_socket(vip: IpAddr) -> UdpSocket {
    talker(SocketAddr::new(vip, 7), PATIENCE).unwrap()
}

/// Whether a datagram comes back as it was sent.
fn echoed(socket: &UdpSocket, sent: &[u8]) -> bool {
    let mut answer = vec![0; sent.len() + 1];
    socket.send(sent).is_ok() && socket.recv(&mut answer).is_ok_and(|length| answer[..length] == *sent)
}

#[test]
fn fragments_follow_the_first_one() -> Result<()> {
    let lab = Lab::builder("kernel-fragments").targets(2).build()?;
    start(&lab, &service(&lab, "echo", "mode = \"nat\"", &["7/udp"], 7, ""))?;
    for vip in vips() {
        let sent: Vec<u8> = (0..4000_u32).map(|it| it.to_le_bytes()[0]).collect();
        lab.client().namespace().inside(|| -> Result<()> {
            wait_until(&format!("4,000 bytes to come back from {vip}"), LIMIT, || {
                echoed(&client_socket(vip), &sent)
            })?;
            let came = (0..20).filter(|_| echoed(&client_socket(vip), &sent)).count();
            assert_eq!(came, 20, "new flows that begin with fragments, through {vip}");
            let socket = client_socket(vip);
            let came = (0..20).filter(|_| echoed(&socket, &sent)).count();
            assert_eq!(came, 20, "fragments of a known flow, through {vip}");
            Ok(())
        })??;
    }
    lab.finish()
}

#[test]
fn datagrams_that_are_one_packet_until_the_end_come_as_they_were_sent() -> Result<()> {
    let lab = Lab::builder("kernel-segments").targets(2).build()?;
    start(&lab, &service(&lab, "echo", "mode = \"nat\"", &["7/udp"], 7, ""))?;
    vips().into_iter().try_for_each(|vip| segmented(&lab, vip))?;
    lab.finish()
}

/// Connections and sockets of each kind: so many that both targets have some.
const FLOWS: usize = 12;

/// A client's connections and sockets to the echo service of the IPv4 VIP.
struct Client {
    connections: Vec<TcpStream>,
    sockets: Vec<UdpSocket>,
}

impl Client {
    /// Connects all, and has each exchange enough to be remembered.
    fn connect(lab: &Lab) -> Result<Self> {
        let server = SocketAddr::new(vips()[0], 7);
        lab.client().namespace().inside(|| {
            wait_until("the service", LIMIT, || TcpStream::connect_timeout(&server, PATIENCE).is_ok())?;
            let mut connections: Vec<TcpStream> =
                (0..FLOWS).map(|_| TcpStream::connect(server).unwrap()).collect();
            let sockets: Vec<UdpSocket> = (0..FLOWS).map(|_| client_socket(server.ip())).collect();
            for connection in &mut connections {
                connection.set_read_timeout(Some(PATIENCE)).unwrap();
                assert!(exchanged(connection).is_ok());
            }
            assert!(sockets.iter().all(|socket| echoed(socket, b"one") && echoed(socket, b"two")));
            Ok(Self { connections, sockets })
        })?
    }

    /// The same once both targets are found to be well, so that each has some.
    fn connect_to_both(lab: &Lab) -> Result<Self> {
        wait_for("flows at both targets", LIMIT, || {
            let client = Self::connect(lab).ok()?;
            let has = |target| client.at(lab, target).is_ok_and(|there| there.contains(&true));
            (has("t1") && has("t2")).then_some(client)
        })
    }

    /// Which of the connections are with this target, or were at the last look.
    fn at(&self, lab: &Lab, target: &str) -> Result<Vec<bool>> {
        let listed = flows(lab, "echo4")?;
        let local = |connection: &TcpStream| connection.local_addr().unwrap().to_string();
        let is = |connection: &TcpStream| {
            let name = local(connection);
            let mut flow = listed.iter().filter(|it| it["protocol"] == "tcp" && it["client"] == name);
            flow.any(|it| it["target"] == format!("echo4/{target}"))
        };
        Ok(self.connections.iter().map(is).collect())
    }
}

/// Whether what is sent comes back.
fn exchanged(connection: &mut TcpStream) -> std::io::Result<()> {
    connection.write_all(b"hello")?;
    let mut answer = [0; 5];
    connection.read_exact(&mut answer)
}

/// Stops a target's web server, which its checks ask, and waits until it counts as unhealthy.
fn fail(lab: &Lab, index: usize) -> Result<()> {
    lab.targets()[index].stop("nginx")?;
    wait_until("the target to be unhealthy", LIMIT, || {
        status(lab).is_ok_and(|status| {
            let groups = status["target_groups"].as_array().cloned().unwrap_or_default();
            let group = groups.iter().find(|group| group["name"] == "echo4").cloned().unwrap_or_default();
            group["targets"][index]["health"] == "unhealthy"
        })
    })
}

#[test]
fn flows_leave_a_target_that_is_not_well() -> Result<()> {
    let lab = Lab::builder("kernel-unhealthy").targets(2).build()?;
    let health = "health = { http = \"/health\", port = 8080, interval = \"100ms\", timeout = \"90ms\" }";
    let text =
        |keys: &str| service(&lab, "echo", &format!("mode = \"nat\"\n{keys}"), &["7", "7/udp"], 7, health);
    start(&lab, &text(""))?;
    // Connections are reset, as the configuration has it by default.
    let mut client = Client::connect_to_both(&lab)?;
    let first = client.at(&lab, "t1")?;
    fail(&lab, 0)?;
    for (connection, at_first) in client.connections.iter_mut().zip(&first) {
        if !at_first {
            assert!(exchanged(connection).is_ok(), "the other target is well");
            continue;
        }
        let reset = |error: std::io::Error| {
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
        };
        wait_until("a reset", LIMIT, || exchanged(connection).is_err_and(reset))?;
    }
    // Datagrams go to the other at once: none is lost.
    assert!(client.sockets.iter().all(|socket| echoed(socket, b"three")));
    drop(client);
    lab.targets()[0].start_http()?;

    // Or they move, and the other target, which does not know them, says so.
    reload_text(&lab, &text("on_unhealthy = \"move\""))?;
    let mut client = Client::connect_to_both(&lab)?;
    let first = client.at(&lab, "t1")?;
    fail(&lab, 0)?;
    let moved = |client: &mut Client| -> Result<bool> {
        for (connection, _) in client.connections.iter_mut().zip(&first).filter(|(_, at_first)| **at_first) {
            exchanged(connection).ok();
        }
        Ok(!client.at(&lab, "t1")?.contains(&true) && client.at(&lab, "t2")?.iter().all(|there| *there))
    };
    wait_until("all flows at the other target", LIMIT, || moved(&mut client).unwrap_or(false))?;
    assert!(client.sockets.iter().all(|socket| echoed(socket, b"three")));
    lab.finish()
}
