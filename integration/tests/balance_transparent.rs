//! What a target sees of the client with `transparent`, with the routing that it takes; and what becomes of a connection
//! whose target is cut off (`timeout.user`), or whose client is (`timeout.keepalive`). And where answers come from.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::{wait_for, wait_until};
use integration::lab::fault::Fault;
use integration::lab::{Lab, Result};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);
const SERVICE_PORT: u16 = 8000;
const TARGET_PORT: u16 = 9000;
/// Where targets echo.
const ECHO_PORT: u16 = 7;

/// A service on node `a` that forwards to these targets.
fn service(name: &str, listen: SocketAddr, targets: &[SocketAddr], extra: &str) -> String {
    service_of("tcp", name, listen, targets, extra)
}

fn service_of(mode: &str, name: &str, listen: SocketAddr, targets: &[SocketAddr], extra: &str) -> String {
    let targets: Vec<String> = targets.iter().map(|it| format!("{{ address = \"{it}\" }}")).collect();
    format!(
        "[[service]]\nname = \"{name}\"\nmode = \"{mode}\"\nlisten = [\"{listen}\"]\nforward = \"{name}\"\n{extra}\n\
         [[target_group]]\nname = \"{name}\"\ntargets = [{}]\n",
        targets.join(", ")
    )
}

/// A listener on the target.
fn listener(lab: &Lab, address: SocketAddr) -> Result<TcpListener> {
    let namespace = lab.targets()[0].namespace();
    let listener = namespace.inside(|| TcpListener::bind(address).expect("the target can listen"))?;
    listener.set_nonblocking(true).expect("a socket can be non-blocking");
    Ok(listener)
}

/// The next connection, which must come.
fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = wait_for("a connection to the target", LIMIT, || listener.accept().ok())?;
    stream.set_nonblocking(false).expect("a socket can block");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket takes a time-out");
    Ok((stream, peer))
}

/// A connection of the client's to a service on node `a`.
fn connect(lab: &Lab, to: SocketAddr) -> Result<TcpStream> {
    let connected = lab.client().namespace().inside(|| TcpStream::connect_timeout(&to, LIMIT));
    let stream = connected?.expect("the service accepts");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket takes a time-out");
    Ok(stream)
}

fn services(lab: &Lab) -> Result<Value> {
    lab.a().get("lbd", "/v1/services")?.json()
}

/// Has the target send what is for the client back through node `a`, and node `a` take it as its own. What README says.
fn route(lab: &Lab, protocol: &str) -> Result<()> {
    let (a, target, client) = (lab.a(), &lab.targets()[0], lab.client());
    target.ip(&format!("route add {}/32 via {}", client.v4(), a.v4()))?;
    // The client speaks IPv6 from any of its addresses.
    target.ip(&format!("-6 route add {}/120 via {}", client.v6(), a.v6()))?;
    for (family, from) in [("-4", IpAddr::from(target.v4())), ("-6", IpAddr::from(target.v6()))] {
        a.ip(&format!(
            "{family} rule add iif eth0 from {from} ipproto {protocol} sport {TARGET_PORT} lookup 100"
        ))?;
        a.ip(&format!("{family} route add local default dev lo table 100"))?;
    }
    Ok(())
}

#[test]
fn the_target_sees_the_client_in_both_families() -> Result<()> {
    let lab = Lab::builder("transparent").targets(1).target_servers(false).build()?;
    let target = &lab.targets()[0];
    let mut text = String::new();
    let mut ends = Vec::new();
    let families = [
        (IpAddr::from(lab.a().v4()), IpAddr::from(target.v4())),
        (IpAddr::from(lab.a().v6()), IpAddr::from(target.v6())),
    ];
    for (index, (via, to)) in families.into_iter().enumerate() {
        let (listen, to) = (SocketAddr::new(via, SERVICE_PORT), SocketAddr::new(to, TARGET_PORT));
        text.push_str(&service(&format!("same{index}"), listen, &[to], "transparent = true"));
        ends.push((listen, listener(&lab, to)?));
    }
    // A client cannot speak to a target of the other family in its own name: another target has to serve it.
    let mixed = SocketAddr::new(lab.a().v6().into(), SERVICE_PORT + 1);
    let other_family = SocketAddr::new(target.v4().into(), TARGET_PORT);
    text.push_str(&service("mixed", mixed, &[other_family], "transparent = true"));
    lab.write_config_text(&text)?;
    route(&lab, "tcp")?;
    lab.a().start_lbd()?;
    for (listen, listener) in &ends {
        // Several at once from the same client to the same target: each has a port of its own.
        for _ in 0..20 {
            let mut stream = connect(&lab, *listen)?;
            let (mut accepted, peer) = accept(listener)?;
            assert_eq!(peer.ip(), stream.local_addr().expect("it has one").ip());
            stream.write_all(b"ping").expect("the client can send");
            let mut bytes = [0; 4];
            accepted.read_exact(&mut bytes).expect("it arrives");
            accepted.write_all(&[b'x'; 100_000]).expect("the target can answer");
            drop(accepted);
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("the answer arrives");
            assert_eq!((bytes, answer.len()), (*b"ping", 100_000));
        }
    }
    // The reset may be there before the client has looked whether it is connected.
    let client = lab.client().namespace();
    let answer = client.inside(|| TcpStream::connect_timeout(&mixed, LIMIT)?.read(&mut [0]))?;
    let error = answer.expect_err("the client is reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    let refused = || services(&lab).is_ok_and(|all| all[2]["refused"]["no_target"] == 1);
    wait_until("it to be counted", LIMIT, refused)?;
    let said = || lab.a().log("lbd").contains("target of the other address family");
    wait_until("it to be said", LIMIT, said)?;
    lab.finish()
}

/// A connection through a service with these keys over which a byte has gone: the lab, the client's end and the target's.
fn under_way(label: &str, keys: &str) -> Result<(Lab, TcpStream, TcpStream)> {
    let lab = Lab::builder(label).targets(1).target_servers(false).build()?;
    let to = SocketAddr::new(lab.targets()[0].v4().into(), TARGET_PORT);
    let listen = SocketAddr::new(lab.a().v4().into(), SERVICE_PORT);
    lab.write_config_text(&service("web", listen, &[to], keys))?;
    let listener = listener(&lab, to)?;
    lab.a().start_lbd()?;
    let mut stream = connect(&lab, listen)?;
    let (mut accepted, _) = accept(&listener)?;
    stream.write_all(b"x").expect("the client can send");
    accepted.read_exact(&mut [0]).expect("it arrives");
    Ok((lab, stream, accepted))
}

#[test]
fn unacknowledged_data_ends_a_connection_in_time() -> Result<()> {
    let (lab, mut stream, _accepted) = under_way("user-timeout", "timeout = { user = \"2s\" }")?;
    lab.inject(&Fault::blocked("t1"))?;
    stream.write_all(b"y").expect("the client can send");
    let begin = Instant::now();
    let end = stream.read(&mut [0]).expect_err("the client is reset");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset, "{end}");
    let waited = begin.elapsed();
    assert!(waited > Duration::from_millis(1900) && waited < Duration::from_secs(10), "{waited:?}");
    let vanished = || services(&lab).is_ok_and(|all| all[0]["ended"]["target_vanished"] == 1);
    wait_until("it to be counted as a target that vanished", LIMIT, vanished)?;
    assert_eq!(lab.a().counted("tandem_lbd_target_vanished_total", "")?, 1);
    lab.finish()
}

#[test]
fn the_target_sees_who_sent_a_datagram_in_both_families() -> Result<()> {
    let lab = Lab::builder("transparent-udp").targets(1).target_servers(false).build()?;
    let target = &lab.targets()[0];
    let mut text = String::new();
    let mut ends = Vec::new();
    for (index, (via, to)) in [
        (IpAddr::from(lab.a().v4()), IpAddr::from(target.v4())),
        (IpAddr::from(lab.a().v6()), IpAddr::from(target.v6())),
    ]
    .into_iter()
    .enumerate()
    {
        let (listen, to) = (SocketAddr::new(via, SERVICE_PORT), SocketAddr::new(to, TARGET_PORT));
        text.push_str(&service_of("udp", &format!("same{index}"), listen, &[to], "transparent = true"));
        let socket = target.namespace().inside(|| UdpSocket::bind(to).expect("the target can listen"))?;
        socket.set_read_timeout(Some(LIMIT)).expect("a socket takes a time-out");
        ends.push((listen, socket));
    }
    lab.write_config_text(&text)?;
    route(&lab, "udp")?;
    lab.a().start_lbd()?;
    for (listen, socket) in &ends {
        for number in 0..20 {
            let client = lab.client().namespace().inside(|| {
                let any = if listen.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).expect("there is a port");
                socket.connect(listen).expect("there is a way");
                socket
            })?;
            client.set_read_timeout(Some(LIMIT)).expect("a socket takes a time-out");
            client.send(&[number; 700]).expect("the client can send");
            let mut bytes = [0; 1000];
            let (length, from) = socket.recv_from(&mut bytes).expect("it arrives");
            assert_eq!(
                (&bytes[..length], from.ip()),
                (&[number; 700][..], client.local_addr().expect("it has one").ip())
            );
            socket.send_to(&bytes[..length], from).expect("the target can answer");
            let mut answer = [0; 1000];
            let length = client.recv(&mut answer).expect("the answer arrives, from where it was sent to");
            assert_eq!(answer[..length], [number; 700]);
        }
    }
    lab.finish()
}

/// Where a service listens on all addresses, routing would have answers come from the first one of a family.
#[test]
fn datagrams_are_answered_from_the_address_that_was_asked_in_both_families() -> Result<()> {
    let lab = Lab::builder("wildcard-udp").targets(1).build()?;
    let (node, target) = (lab.a(), &lab.targets()[0]);
    node.add_address(vip4(0))?;
    node.add_address(vip6(0))?;
    let mut text = String::new();
    for (name, any, to) in [
        ("four", IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(target.v4())),
        ("six", Ipv6Addr::UNSPECIFIED.into(), target.v6().into()),
    ] {
        let (listen, to) = (SocketAddr::new(any, SERVICE_PORT), SocketAddr::new(to, ECHO_PORT));
        text.push_str(&service_of("udp", name, listen, &[to], ""));
    }
    lab.write_config_text(&text)?;
    node.start_lbd()?;
    let of_node: [IpAddr; 2] = [node.v4().into(), node.v6().into()];
    for asked in of_node.into_iter().chain([vip4(0).into(), vip6(0).into()]) {
        let heard = lab.client().namespace().inside(|| {
            let any = if asked.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("there is a port");
            socket.connect((asked, SERVICE_PORT)).expect("there is a way");
            socket.set_read_timeout(Some(LIMIT)).expect("a socket takes a time-out");
            socket.send(b"ping").expect("the client can send");
            let mut answer = [0; 16];
            // A connected socket hears nobody else.
            socket.recv(&mut answer).map(|length| answer[..length].to_vec())
        })?;
        assert_eq!(heard.expect("the answer comes from there"), b"ping", "{asked}");
    }
    lab.finish()
}

#[test]
fn a_client_that_has_vanished_is_found_out_without_any_data() -> Result<()> {
    let times = "timeout = { keepalive = \"1s\", user = \"2s\" }";
    let (lab, _stream, mut accepted) = under_way("keep-alive", times)?;
    // As long as its kernel answers, a silent client is there.
    let open = || services(&lab).is_ok_and(|all| all[0]["connections_open"] == 1);
    std::thread::sleep(Duration::from_secs(4));
    assert!(open(), "{}", services(&lab)?);
    lab.inject(&Fault::blocked("client"))?;
    // The target sends nothing either: only the kernel's probes can find out.
    let end = accepted.read(&mut [0]).expect_err("the target is reset");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset, "{end}");
    let vanished = || services(&lab).is_ok_and(|all| all[0]["ended"]["client_vanished"] == 1);
    wait_until("it to be counted as a client that vanished", LIMIT, vanished)?;
    lab.finish()
}
