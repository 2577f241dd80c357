//! Nodes that are no neighbours where the virtual IPs are, or whose frames do not get from one to the other: through the link between them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use integration::lab::addresses::{Mac, mac_text, vip4};
use integration::lab::clock::wait_until;
use integration::lab::config::PairConfig;
use integration::lab::{Host, Lab, Node, Result, Target, binary};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::talk::{Clients, PORT, Targets};
use super::{ECHO, chance, drains, echoes, end, packets, segments, sends, steady, switch};
use crate::pair_support::{LIMIT, agreed, caught_up, every, start_all, vips};

/// What a connection sends at once, which takes many full packets.
const UPLOAD: usize = 1 << 20;

/// The port of the tunnel, and its number.
const TUNNEL: (u16, u32) = (7113, 7112);

/// Has the switch pass what the nodes say to everybody, adverts among it, and nothing from one to the other.
fn part(lab: &Lab) -> Result<()> {
    let [a, b] = lab.nodes().map(|node| mac_text(node.mac()));
    let rules = format!(
        "table bridge apart {{\n chain forward {{\n type filter hook forward priority 0;\n \
         ether saddr {a} ether daddr {b} drop\n ether saddr {b} ether daddr {a} drop\n }}\n}}\n"
    );
    lab.switch().namespace().run_with("nft", &["-f", "-"], &rules).map(drop)
}

/// What proxies connections and datagrams.
fn config(lab: &Lab) -> PairConfig {
    let at = |port: u16| {
        lab.targets().iter().map(|target| SocketAddr::from((target.v4(), port))).collect::<Vec<_>>()
    };
    let pages: Vec<SocketAddr> = lab.targets().iter().map(Target::http_address).collect();
    PairConfig::new(vec![every("100ms")])
        .service("web", "tcp", "@web:80", "web", "")
        .target_group("web", &pages, "")
        .service("echo", "tcp", &format!("@web:{ECHO}"), "echo", "")
        .target_group("echo", &at(ECHO), "")
        .service("talk", "udp", &format!("@web:{PORT}"), "talk", "timeout = { idle = \"5s\" }")
        .target_group("talk", &at(PORT), "")
}

/// A lab whose nodes cannot send each other frames.
fn parted(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).gateway().build()?;
    part(&lab)?;
    Ok(lab)
}

/// A pair in it that proxies; `a` is active, and `b` knows what it has.
fn proxying(label: &str, extra: &str) -> Result<Lab> {
    let lab = parted(label)?;
    lab.write_config(&config(&lab).raw(extra))?;
    start_all(&lab)?;
    sends(lab.b())?;
    lab.nodes().into_iter().try_for_each(goes_by_tunnel)?;
    Ok(lab)
}

/// Waits until a node reaches the other one by the tunnel, and nothing is wrong.
fn goes_by_tunnel(node: &Node) -> Result<()> {
    wait_until(&format!("{} to reach the other node by the tunnel", node.name()), LIMIT, || {
        let view = chance(node);
        let is_open = |it: &Value| it["name"].as_str().is_some_and(|name| name.starts_with("tandem-"));
        view["instances"]["web"]["way"] == "tunnel"
            && view["troubles"].as_array().is_some_and(Vec::is_empty)
            && view["interfaces"].as_array().is_some_and(|all| all.iter().any(is_open))
            && device(node).is_some_and(|(_, up)| up)
    })
}

/// The index of a node's tunnel device, and whether it is up.
fn device(node: &Node) -> Option<(u64, bool)> {
    let text = node.run("ip", &["-json", "link", "show", "type", "vxlan"]).ok()?;
    let all: Value = serde_json::from_str(&text).ok()?;
    let found = all.as_array()?.iter().find(|it| it["ifname"].as_str().is_some())?;
    let up = found["flags"].as_array()?.iter().any(|flag| flag == "UP");
    Some((found["ifindex"].as_u64()?, up))
}

/// Runs a command of `lbd` on a node: whether it succeeded, and what it said.
fn lbd(node: &Node, arguments: &[&str]) -> (bool, String) {
    let program = binary("lbd").expect("lbd has been built");
    let mut command = node.command(&program.to_string_lossy());
    let output =
        command.args(arguments).arg("--run-dir").arg(node.run_dir()).output().expect("it can be run");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A connection of each family that has said something.
fn connections(lab: &Lab) -> Result<Vec<TcpStream>> {
    let connect = |vip| {
        let mut stream = TcpStream::connect(SocketAddr::new(vip, ECHO)).expect("it is accepted");
        stream.set_read_timeout(Some(LIMIT)).expect("it has a time-out");
        upload(&mut stream, 100);
        stream
    };
    lab.client().namespace().inside(|| vips().map(connect).into())
}

/// Sends so much, and has it back.
fn upload(stream: &mut TcpStream, size: usize) {
    let sent: Vec<u8> = (0..size).map(|number| number.to_le_bytes()[0]).collect();
    let mut writer = stream.try_clone().expect("it is open");
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy));
    let mut back = vec![0; size];
    stream.read_exact(&mut back).expect("it is echoed");
    writing.join().expect("it does not panic").expect("it is taken");
    assert!(sent == back, "the echo is another one");
}

#[test]
fn connections_and_sessions_go_on_through_the_link() -> Result<()> {
    let lab = proxying("chance-apart", "")?;
    let targets = Targets::start(&lab)?;
    let [a, b] = lab.nodes();
    let probes = echoes(&lab, 20)?;
    let small = Clients::start(&lab, 0, 10, Duration::from_millis(50), 0)?;
    // As large as they go without being fragmented, and in fragments.
    let full = Clients::start(&lab, 100, 2, Duration::from_millis(100), 1452)?;
    let large = Clients::start(&lab, 200, 2, Duration::from_millis(100), 5000)?;
    let mut streams = connections(&lab)?;
    let all_steady = || -> Result<()> {
        steady(&probes)?;
        [&small, &full, &large].into_iter().try_for_each(Clients::steady)
    };
    all_steady()?;
    for from in [a, b, a] {
        switch(&lab, from)?;
        all_steady()?;
        streams.iter_mut().for_each(|stream| upload(stream, UPLOAD));
    }
    assert!(packets(b, "sent") > 0 && packets(a, "received") > 0, "{} {}", chance(a), chance(b));
    // Full packets did not fit the link whole.
    let fragments = b.run("sh", &["-c", "awk '/^Ip:/ { print $18 }' /proc/net/snmp | tail -1"])?;
    assert!(fragments.trim().parse::<u64>().is_ok_and(|count| count > 500), "{fragments}");
    let text = b.get("lbd", "/metrics")?.body;
    let shown = "tandem_lbd_second_chance_tunnel{instance=\"web\"} 1";
    assert!(text.lines().any(|line| line.starts_with(shown)), "{text}");
    let (_, text) = lbd(b, &["status"]);
    assert!(text.contains("by tunnel"), "{text}");
    drop(streams);
    drains(&lab, a, 2 * 20 + 2 * (10 + 2 + 2))?;
    for clients in [small, full, large] {
        targets.heard_once(&clients, a.v4().into());
        let (lost, gap) = clients.end()?;
        assert_eq!(lost, 0, "the longest wait for an answer was {gap:?}");
    }
    assert_eq!((packets(a, "strange"), packets(b, "strange")), (0, 0));
    end(probes)?;
    lab.finish()
}

/// A frame as the tunnel carries it.
fn in_tunnel(id: u32, to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&[8, 0, 0, 0][..], &(id << 8).to_be_bytes(), &to, &from, &kind, packet].concat()
}

/// Sends a frame in a tunnel's packet, from one of a host's addresses to the other end.
fn send_in_tunnel(host: &Host, from: IpAddr, to: IpAddr, frame: &[u8]) -> Result<()> {
    let send = || UdpSocket::bind((from, 0))?.send_to(frame, (to, TUNNEL.0));
    host.namespace().inside(send)?.expect("it can be sent");
    Ok(())
}

#[test]
fn what_else_comes_through_the_tunnel_is_dropped() -> Result<()> {
    let lab = proxying("chance-apart-strange", "")?;
    let [a, b] = lab.nodes();
    let mut streams = connections(&lab)?;
    switch(&lab, a)?;
    streams.iter_mut().for_each(|stream| upload(stream, 1000));
    // Another host on the link.
    let stranger = Ipv4Addr::new(10, 0, 255, 9);
    b.ip(&format!("addr add {stranger}/24 dev peer0"))?;
    // One elsewhere that claims to be the other node, and is asked for no way back.
    a.namespace().sysctl(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/eth0/rp_filter", "0")])?;
    lab.client().ip(&format!("route add {} via {}", a.peer_address().ip(), a.v4()))?;
    let (id, own, to) = (TUNNEL.1, b.peer_address().ip(), a.peer_address().ip());
    let frame = |packet: &[u8]| in_tunnel(id, a.mac(), b.mac(), packet);
    let count = || ["received", "strange"].map(|what| packets(a, what));
    let counted = |what: &str, expected: [u64; 2]| {
        wait_until(&format!("a to have counted {expected:?} after {what}"), LIMIT, || count() == expected)
    };
    let [mut received, mut strange] = count();
    for (stream, vip) in streams.iter().zip(vips()) {
        let client = stream.local_addr().expect("it is connected");
        let own_address: IpAddr = if vip.is_ipv4() { a.v4().into() } else { a.v6().into() };
        let known = segments::stray(client, SocketAddr::new(vip, ECHO), 64);
        let other_service = segments::stray(client, SocketAddr::new(vip, 9999), 64);
        let not_vip = segments::stray(client, SocketAddr::new(own_address, ECHO), 64);
        let begins = segments::first(client, SocketAddr::new(vip, ECHO));
        let no_session = segments::datagram(client, SocketAddr::new(vip, PORT), &[7; 20]);
        // What the other node would send is taken.
        send_in_tunnel(b, own, to, &frame(&known))?;
        received += 1;
        counted("what the other node would send", [received, strange])?;
        let others = [
            ("another host", IpAddr::from(stranger), frame(&known)),
            ("another tunnel", own, in_tunnel(id + 1, a.mac(), b.mac(), &known)),
            ("another frame", own, in_tunnel(id, a.mac(), a.mac(), &known)),
            ("another service", own, frame(&other_service)),
            ("another address", own, frame(&not_vip)),
            ("a beginning", own, frame(&begins)),
            ("a datagram of no session", own, frame(&no_session)),
            ("options", own, frame(&segments::with_options(&known))),
        ];
        for (what, from, frame) in &others {
            send_in_tunnel(b, *from, to, frame)?;
            strange += 1;
            counted(what, [received, strange])?;
        }
        // By the interface of the virtual IPs, with the other node's address on the link.
        let end = SocketAddr::new(to, TUNNEL.0);
        let forged = segments::datagram(SocketAddr::new(own, 4789), end, &frame(&known));
        lab.client().namespace().inside(|| segments::send(to, &[forged]))?.expect("it is sent");
        strange += 1;
        counted("another interface", [received, strange])?;
    }
    let (_, text) = lbd(a, &["doctor"]);
    let dropped = format!("{strange} packets that came out of the tunnel were dropped");
    assert!(text.contains(&dropped), "{text}");
    // The connections have not noticed.
    streams.iter_mut().for_each(|stream| upload(stream, 1000));
    lab.finish()
}

#[test]
fn nodes_behind_a_router_are_no_neighbours() -> Result<()> {
    let lab = proxying("chance-apart-routed", "")?;
    let [a, b] = lab.nodes();
    let router = lab.gateway().expect("it was asked for");
    // b has addresses of another network, and gets everywhere by the router; and so does the client to the virtual IPs.
    router
        .run("sh", &["-c", "ip addr add 10.78.0.254/24 dev eth0; ip addr add fd78::254/64 dev eth0 nodad"])?;
    router
        .namespace()
        .sysctl(&[("ipv4/conf/all/send_redirects", "0"), ("ipv4/conf/eth0/send_redirects", "0")])?;
    lab.client().namespace().sysctl(&[("ipv6/conf/eth0/accept_redirects", "0")])?;
    for vip in vips() {
        let (bits, by) = if vip.is_ipv4() { (32, "10.77.0.254") } else { (128, "fd77::254") };
        lab.client().ip(&format!("route add {vip}/{bits} via {by}"))?;
    }
    b.run("sh", &["-c", "ip addr del 10.77.0.2/24 dev eth0; ip addr del fd77::2/64 dev eth0"])?;
    b.run("sh", &["-c", "ip addr add 10.78.0.2/24 dev eth0; ip addr add fd78::2/64 dev eth0 nodad"])?;
    b.run("sh", &["-c", "ip route add default via 10.78.0.254; ip -6 route add default via fd78::254"])?;
    a.run(
        "sh",
        &["-c", "ip route add 10.78.0.0/24 via 10.77.0.254; ip -6 route add fd78::/64 via fd77::254"],
    )?;
    for target in lab.targets() {
        target.run("ip", &["route", "add", "10.78.0.0/24", "via", "10.77.0.254"])?;
    }
    agreed(&lab, a)?;
    caught_up(&lab)?;
    lab.nodes().into_iter().try_for_each(goes_by_tunnel)?;
    let probes = echoes(&lab, 5)?;
    let mut streams = connections(&lab)?;
    steady(&probes)?;
    switch(&lab, a)?;
    steady(&probes)?;
    streams.iter_mut().for_each(|stream| upload(stream, UPLOAD));
    assert!(packets(b, "sent") > 0 && packets(a, "received") > 0, "{} {}", chance(a), chance(b));
    end(probes)?;
    lab.finish()
}

#[test]
fn nothing_goes_round() -> Result<()> {
    const STRAYS: u16 = 50;
    let lab = proxying("chance-apart-round", "")?;
    let [a, b] = lab.nodes();
    let mut streams = connections(&lab)?;
    switch(&lab, a)?;
    streams.iter_mut().for_each(|stream| upload(stream, 1000));
    for (stream, vip) in streams.iter().zip(vips()) {
        let (client, at) = (stream.local_addr().expect("it is connected"), SocketAddr::new(vip, ECHO));
        let counts = || [(b, "sent"), (b, "sent_error"), (a, "received"), (a, "sent")];
        let count = || counts().map(|(node, what)| packets(node, what));
        let before = count();
        let nobody = |port| SocketAddr::new(client.ip(), port);
        let mut all: Vec<_> =
            (1000..1000 + STRAYS).map(|port| segments::stray(nobody(port), at, 64)).collect();
        // One with its last hop, one in two fragments, and an error about what lives on a.
        all.push(segments::stray(nobody(2000), at, 1));
        all.extend(segments::in_fragments(&segments::stray(nobody(2001), at, 64)));
        all.push(segments::too_big(client.ip(), client, at));
        lab.client().namespace().inside(move || segments::send(vip, &all))?.expect("they are sent");
        let strays = u64::from(STRAYS);
        let more = [strays + 3, 1, strays + 4, 0];
        let expected: [u64; 4] = std::array::from_fn(|index| before[index] + more[index]);
        wait_until("each to have gone there once", LIMIT, || count() == expected)?;
    }
    // A node that routes, and has no route to itself while nobody is there to say that it has the virtual IPs: it would forward them.
    for node in [a, b] {
        node.namespace().sysctl(&[("ipv4/conf/all/forwarding", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    }
    switch(&lab, b)?;
    let probes = echoes(&lab, 5)?;
    steady(&probes)?;
    let strange = packets(a, "strange");
    assert!(a.stop("vrrpd")?.success());
    b.wait_role("web", "active", LIMIT)?;
    wait_until("a to drop what it would forward", LIMIT, || packets(a, "strange") > strange)?;
    a.start_daemon("vrrpd")?;
    streams.iter_mut().for_each(|stream| upload(stream, 1000));
    steady(&probes)?;
    assert_eq!(packets(b, "back"), 0);
    end(probes)?;
    lab.finish()
}

#[test]
fn over_ipv6_the_link_needs_room() -> Result<()> {
    let lab = parted("chance-apart-v6")?;
    let [a, b] = lab.nodes();
    for (number, node) in (1..).zip([a, b]) {
        node.ip(&format!("addr add fd00:255::{number}/64 dev peer0 nodad"))?;
    }
    lab.write_config_text(&config(&lab).render().replace("\"10.0.255.", "\"fd00:255::"))?;
    start_all(&lab)?;
    for node in [a, b] {
        let says =
            || chance(node)["troubles"][0]["why"].as_str().is_some_and(|why| why.contains("give it 1570"));
        wait_until(&format!("{} to say what the link lacks", node.name()), LIMIT, says)?;
        let (_, text) = lbd(node, &["status"]);
        assert!(text.contains("give it 1570"), "{text}");
    }
    let ports = "for port in a-peer b-peer peers; do ip link set $port mtu 1570; done";
    lab.switch().namespace().run("sh", &["-c", ports])?;
    for node in [a, b] {
        node.ip("link set peer0 mtu 1570")?;
        goes_by_tunnel(node)?;
    }
    sends(b)?;
    let mut streams = connections(&lab)?;
    for from in [a, b, a] {
        switch(&lab, from)?;
        streams.iter_mut().for_each(|stream| upload(stream, UPLOAD));
    }
    assert!(packets(b, "sent") > 0 && packets(a, "received") > 0, "{} {}", chance(a), chance(b));
    assert_eq!((packets(a, "strange"), packets(b, "strange")), (0, 0));
    // Another host on the link.
    b.ip("addr add fd00:255::9/64 dev peer0 nodad")?;
    let [from, to] = [9, 1].map(|host| Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, host).into());
    let client = streams[0].local_addr().expect("it is connected");
    let known = segments::stray(client, SocketAddr::new(vip4(0).into(), ECHO), 64);
    send_in_tunnel(b, from, to, &in_tunnel(TUNNEL.1, a.mac(), b.mac(), &known))?;
    wait_until("a to drop what is not the other node's", LIMIT, || packets(a, "strange") == 1)?;
    lab.finish()
}

#[test]
fn the_device_outlives_who_is_killed_and_nobody_else() -> Result<()> {
    // As before Linux 6.6.
    let lab = proxying("chance-apart-life", "\n[kernel]\nattach = \"clsact\"\n")?;
    let [a, b] = lab.nodes();
    let mut streams = connections(&lab)?;
    switch(&lab, a)?;
    streams.iter_mut().for_each(|stream| upload(stream, 1000));
    let before = device(b);
    b.signal("lbd", Signal::SIGKILL)?;
    b.wait_end("lbd", LIMIT)?;
    assert_eq!(device(b), before, "it stays");
    b.start_lbd()?;
    goes_by_tunnel(b)?;
    assert_eq!(device(b), before, "it is used");
    agreed(&lab, a)?;
    caught_up(&lab)?;
    sends(b)?;
    switch(&lab, a)?;
    streams.iter_mut().for_each(|stream| upload(stream, UPLOAD));
    // Both programs are there, and what would get by them is refused.
    let name = device_name(b)?;
    for (interface, handle) in [(name.as_str(), "handle 0x7a"), ("peer0", "handle 0x7c")] {
        let filters = ingress_filters(b, interface)?;
        assert!(filters.contains(handle), "{filters}");
    }
    for (setting, value) in [("ipv4/conf/DEV/rp_filter", "1"), ("ipv6/conf/DEV/disable_ipv6", "1")] {
        let path = format!("/proc/sys/net/{}", setting.replace("DEV", &name));
        assert_eq!(b.run("cat", &[&path])?.trim(), value, "{path}");
    }
    drop(streams);
    b.signal("lbd", Signal::SIGKILL)?;
    b.wait_end("lbd", LIMIT)?;
    let (good, said) = lbd(b, &["doctor", "--remove"]);
    assert!(good && said.contains(&name), "{said}");
    assert_eq!(device(b), None);
    let left = ingress_filters(b, "peer0")?;
    assert!(!left.contains("handle 0x7c"), "{left}");
    a.stop("vrrpd")?;
    assert!(a.stop("lbd")?.success());
    assert_eq!(device(a), None);
    lab.finish()
}

fn ingress_filters(node: &Node, interface: &str) -> Result<String> {
    node.run("tc", &["filter", "show", "dev", interface, "ingress"])
}

/// The name of a node's tunnel device.
fn device_name(node: &Node) -> Result<String> {
    let text = node.run("ip", &["-oneline", "link", "show", "type", "vxlan"])?;
    Ok(text.split(": ").nth(1).unwrap_or_default().to_owned())
}
