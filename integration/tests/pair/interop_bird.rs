//! Virtual IPs shared by two pairs: BIRD announces what each pair's active node holds, a router spreads clients over both, and a
//! connection stays with its target whichever node it arrives at.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::pair_support::LIMIT;
use integration::lab::addresses::{v4, v6};
use integration::lab::clock::wait_until;
use integration::lab::probe::{ConnectProbe, ConnectSettings, EchoProbe, EchoSettings};
use integration::lab::{Host, Lab, Node, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The router's number on the LAN.
const ROUTER: u8 = 254;

const CONNECTIONS: usize = 100;

/// On no network of the lab.
fn virtual_ips() -> [IpAddr; 2] {
    ["203.0.113.10", "2001:db8:ff::10"].map(|text| text.parse().expect("an address"))
}

/// What is in the example of a pair, and what is in its place here: targets and the link between the nodes.
const IN_PLACE: [(&str, &str); 6] = [
    ("192.0.2.31:", "10.77.0.11:"),
    ("192.0.2.32:", "10.77.0.12:"),
    ("[2001:db8::31]:", "[fd77::11]:"),
    ("[2001:db8::32]:", "[fd77::12]:"),
    ("\"198.51.100.1\"", "\"10.0.255.1\""),
    ("\"198.51.100.2\"", "\"10.0.255.2\""),
];

/// What is another one in the file of the second pair.
const OF_SECOND: [(&str, &str); 7] = [
    ("\"edge-1\"", "\"edge-2\""),
    ("name = \"a\"", "name = \"c\""),
    ("name = \"b\"", "name = \"d\""),
    ("10.0.255.1", "10.0.255.3"),
    ("10.0.255.2", "10.0.255.4"),
    ("{ a = 200, b = 100 }", "{ c = 200, d = 100 }"),
    ("vrid = 51", "vrid = 52"),
];

/// The targets of both services.
const TARGETS: usize = 8;

/// The example of a pair, with the addresses of the lab, and a second service like its own one: that of the targets' echo servers.
fn config(second: bool) -> String {
    let mut text = file("ecmp.toml");
    for (theirs, ours) in IN_PLACE.iter().chain(OF_SECOND.iter().filter(|_| second)) {
        assert!(text.contains(theirs), "the example has no {theirs} any more");
        text = text.replace(theirs, ours);
    }
    let service = text.find("[[service]]").map(|at| text[at..].to_owned()).expect("it has a service");
    let echo = service.replace("\"web\"", "\"echo\"").replace(":80\"", ":7\"");
    text + &echo.replace("http = \"/health\"", "tcp = true")
}

/// Waits until a node finds all targets well, each of which it asks through a virtual IP.
fn all_are_well(node: &Node) -> Result<()> {
    wait_until(&format!("{} to find all targets well", node.name()), LIMIT, || {
        let status: Option<Value> = node.get("lbd", "/v1/status").ok().and_then(|answer| answer.json().ok());
        let groups = status.unwrap_or_default()["target_groups"].as_array().cloned().unwrap_or_default();
        let targets = groups.iter().flat_map(|group| group["targets"].as_array().into_iter().flatten());
        let well = |it: &&Value| it["health"] == "healthy" && it["last_check"]["via"] == "vip";
        targets.filter(well).count() == TARGETS
    })
}

/// A file of `configs`.
fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
    fs::read_to_string(path).expect("the example is there")
}

/// The example of a routing daemon, with the addresses of the lab for those of the documentation.
fn example(name: &str, number: u8) -> String {
    let text = file(name).replace("192.0.2.254", &v4(ROUTER).to_string());
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
    let lab = Lab::builder("interop bird").targets(2).gateway().second_pair().build()?;
    let router = lab.gateway().expect("it was asked for");
    for target in lab.targets() {
        virtual_ips().into_iter().try_for_each(|vip| target.accept_vip(vip))?;
    }
    lab.write_config_text(&config(false))?;
    lab.write_second_config_text(&config(true))?;
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
    [a, b, c, d].into_iter().try_for_each(all_are_well)?;
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
