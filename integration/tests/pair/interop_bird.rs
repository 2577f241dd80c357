//! Virtual IPs shared by two pairs: BIRD announces what each pair's active node holds, a router spreads clients over both, and a
//! connection stays with its target whichever node it arrives at.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::pair_support::{LIMIT, every};
use integration::lab::addresses::{v4, v6};
use integration::lab::clock::wait_until;
use integration::lab::config::{Instance, PairConfig};
use integration::lab::probe::{ConnectProbe, ConnectSettings, EchoProbe, EchoSettings};
use integration::lab::{Host, Lab, Node, Result};
use nix::sys::signal::Signal;

/// The router's number on the LAN.
const ROUTER: u8 = 254;

const CONNECTIONS: usize = 100;

/// On no network of the lab.
fn virtual_ips() -> [IpAddr; 2] {
    ["203.0.113.10", "2001:db8:ff::10"].map(|text| text.parse().expect("an address"))
}

/// A pair's configuration. Both have the same but for the nodes and the VRID.
fn config(lab: &Lab, second: bool) -> String {
    let instance = Instance { vrid: 51 + u8::from(second), vips: virtual_ips().to_vec(), ..every("100ms") };
    let mut config = PairConfig::new(vec![instance]);
    if second {
        config = config.second_pair();
    }
    for (service, port) in [("http", 80), ("echo", 7)] {
        let targets = lab.targets().iter();
        let targets = targets.flat_map(|target| [IpAddr::from(target.v4()), IpAddr::from(target.v6())]);
        let targets: Vec<SocketAddr> = targets.map(|address| SocketAddr::new(address, port)).collect();
        let listen = format!("@web:{port}");
        config = config
            .service(service, "dsr", &listen, service, "dsr = \"l2\"")
            .target_group(service, &targets, "");
    }
    // The whole prefix, as in the example.
    config
        .render()
        .replace("203.0.113.10/24", "203.0.113.10/32")
        .replace("2001:db8:ff::10/64", "2001:db8:ff::10/128")
}

/// The example in `configs`, with the addresses of the lab for those of the documentation.
fn example(name: &str, number: u8) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
    let text = fs::read_to_string(path).expect("the example is there");
    let text = text.replace("192.0.2.254", &v4(ROUTER).to_string());
    let text = text.replace("2001:db8::254", &v6(ROUTER).to_string());
    let text = text.replace("192.0.2.1;", &format!("{};", v4(number)));
    let text = text.replace("192.0.2.1 ", &format!("{} ", v4(number)));
    let text = text.replace("2001:db8::1 ", &format!("{} ", v6(number)));
    text.replace("192.0.2.0/24", "10.77.0.0/24").replace("2001:db8::/64", "fd77::/64")
}

/// The socket through which a host's BIRD takes orders.
fn control(lab: &Lab, host: &Host) -> PathBuf {
    lab.dir().join(format!("bird-{}.ctl", host.name()))
}

fn start_bird(lab: &Lab, host: &Host, name: &str) -> Result<()> {
    let file = lab.dir().join(format!("bird-{}.conf", host.name()));
    fs::write(&file, example(name, host.v4().octets()[3])).expect("a file in the lab's folder");
    let mut command = host.command("bird");
    command.arg("-f").arg("-c").arg(&file).arg("-s").arg(control(lab, host));
    command.arg("-P").arg(lab.dir().join(format!("bird-{}.pid", host.name())));
    host.start("bird", command).map(drop)
}

/// Gives a host's BIRD an order.
fn order(lab: &Lab, host: &Host, words: &[&str]) -> Result<String> {
    let control = control(lab, host);
    host.run("birdc", &[&["-s", &control.to_string_lossy()], words].concat())
}

/// Waits until the router spreads clients over exactly these nodes.
fn spread_over(router: &Host, nodes: &[&Node]) -> Result<()> {
    for vip in virtual_ips() {
        let (family, ways) = if vip.is_ipv4() {
            ("-4", nodes.iter().map(|node| node.v4().to_string()).collect())
        } else {
            ("-6", nodes.iter().map(|node| node.v6().to_string()).collect::<Vec<_>>())
        };
        let names: Vec<&str> = nodes.iter().map(|node| node.name()).collect();
        wait_until(&format!("the router to have {vip} by {}", names.join(" and ")), LIMIT, || {
            let route = router.ip(&format!("{family} route show {vip}")).unwrap_or_default();
            let mut found: Vec<String> = route
                .split("via ")
                .skip(1)
                .filter_map(|rest| rest.split_whitespace().next())
                .map(str::to_owned)
                .collect();
            let mut ways: Vec<String> = ways.clone();
            found.sort();
            ways.sort();
            found == ways
        })?;
    }
    Ok(())
}

/// Packets of the services that a node has forwarded.
fn forwarded(node: &Node) -> u64 {
    node.counted("tandem_lbd_kernel_service_packets_total", "direction=").unwrap_or_default()
}

/// Waits until these nodes forward, and the client is served steadily.
fn serve(nodes: &[&Node], new: &[ConnectProbe], known: &[EchoProbe]) -> Result<()> {
    for node in nodes {
        let before = forwarded(node);
        wait_until(&format!("{} to forward", node.name()), LIMIT, || forwarded(node) > before + 20)?;
    }
    for probe in new {
        probe.wait_steady(50, LIMIT)?;
    }
    known.iter().try_for_each(|probe| probe.wait_exchanges(3, LIMIT))
}

#[test]
fn a_connection_keeps_its_target_whichever_node_it_arrives_at() -> Result<()> {
    let lab = Lab::builder("interop bird").targets(3).gateway().second_pair().build()?;
    let router = lab.gateway().expect("it was asked for");
    for target in lab.targets() {
        virtual_ips().into_iter().try_for_each(|vip| target.accept_vip(vip))?;
    }
    lab.write_config_text(&config(&lab, false))?;
    lab.write_second_config_text(&config(&lab, true))?;
    router.namespace().sysctl(&[
        ("ipv4/fib_multipath_hash_policy", "1"),
        ("ipv6/fib_multipath_hash_policy", "1"),
        // Clients and nodes share the lab's network, but are to meet at the router.
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/eth0/send_redirects", "0"),
    ])?;
    start_bird(&lab, router, "bird-router.conf")?;
    let [a, b] = lab.nodes();
    let [c, d] = lab.second_pair() else { panic!("two were asked for") };
    for node in [a, b, c, d] {
        node.start_lbd()?;
        node.start_vrrpd()?;
        start_bird(&lab, node, "bird-node.conf")?;
    }
    for (active, other) in [(a, b), (c, d)] {
        active.wait_role("web", "active", LIMIT)?;
        other.wait_role("web", "backup", LIMIT)?;
    }
    spread_over(router, &[a, c])?;
    for vip in virtual_ips() {
        let way: IpAddr = if vip.is_ipv4() { v4(ROUTER).into() } else { v6(ROUTER).into() };
        lab.client().ip(&format!("route add {vip} via {way}"))?;
    }
    let mut new = Vec::new();
    let mut known = Vec::new();
    for vip in virtual_ips() {
        new.push(ConnectProbe::start(lab.client(), ConnectSettings::http(SocketAddr::new(vip, 80)))?);
        known.push(EchoProbe::start(lab.client(), EchoSettings::new(SocketAddr::new(vip, 7), CONNECTIONS))?);
    }
    serve(&[a, c], &new, &known)?;

    // Maintenance of a whole pair: its connections arrive at one that has never heard of them. And back.
    for protocol in ["router4", "router6"] {
        order(&lab, c, &["disable", protocol])?;
    }
    spread_over(router, &[a])?;
    serve(&[a], &new, &known)?;
    for protocol in ["router4", "router6"] {
        order(&lab, c, &["enable", protocol])?;
    }
    spread_over(router, &[a, c])?;
    serve(&[a, c], &new, &known)?;

    // The death of an active node: its pair's other one takes over, and announces.
    for daemon in ["vrrpd", "lbd"] {
        a.signal(daemon, Signal::SIGKILL)?;
    }
    spread_over(router, &[b, c])?;
    serve(&[b, c], &new, &known)?;
    for probe in known {
        let report = probe.stop()?;
        assert!(report.broken() == 0, "{}", report.summary());
    }
    for probe in new {
        let report = probe.stop()?;
        assert!(report.failed() == 0, "{}", report.summary());
    }
    lab.finish()
}
