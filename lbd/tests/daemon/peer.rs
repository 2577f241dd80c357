//! Two daemons of a pair, and the link between them.

use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::server::Server;
use crate::support::{Config, Folder, Lbd, connect, end_of, eventually, own_ip, ping};

/// What both nodes' files have in common.
fn config(node: &str, [a, b]: [Ipv4Addr; 2], target: &Server) -> Config {
    let mut config = Config::new(if node == "a" { a } else { b }, &[target.address]);
    config.head = head([a, b]);
    config.node = Some(node.to_owned());
    config
}

/// The pair, with these addresses of the nodes on the link.
pub(crate) fn head([a, b]: [Ipv4Addr; 2]) -> String {
    format!(
        "[pair]\nkey_file = \"pair.key\"\n\n[[node]]\nname = \"a\"\npeer_address = \"{a}\"\n\n\
         [[node]]\nname = \"b\"\npeer_address = \"{b}\"\n\n"
    )
}

pub(crate) fn write_key(folder: &Folder, digit: char) {
    let file = folder.path().join("pair.key");
    fs::write(&file, digit.to_string().repeat(64)).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn start(config: &Config, digit: char) -> Lbd {
    let folder = Folder::new();
    write_key(&folder, digit);
    Lbd::start_in(folder, config)
}

fn link(lbd: &Lbd) -> Value {
    let (code, body) = lbd.ask("GET", "/v1/replication");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["link"].clone()
}

fn is_connected(lbd: &Lbd) -> bool {
    link(lbd)["state"] == "connected"
}

fn shown(lbd: &Lbd) -> String {
    String::from_utf8(lbd.command(&["status"]).stdout).unwrap()
}

#[test]
fn two_daemons_of_a_pair_have_a_session_that_reloads_keep() {
    let ips = [own_ip(), own_ip()];
    let target = Server::echo((ips[0], 0).into());
    let configs = ["a", "b"].map(|node| config(node, ips, &target));
    let nodes = configs.each_ref().map(|config| start(config, '7'));
    for (lbd, peer) in nodes.iter().zip(["b", "a"]) {
        eventually("the nodes are connected", || is_connected(lbd));
        assert!(shown(lbd).contains(&format!("connected to {peer} (")), "{}", shown(lbd));
        assert_eq!(lbd.status()["replication"]["link"]["peer"], peer);
        let (_, metrics) = lbd.ask("GET", "/metrics");
        assert!(metrics.contains("tandem_lbd_peer_connected 1"), "{metrics}");
    }
    // If both connected at once, the first session was replaced.
    let settled = |lbd: &Lbd| {
        let link = link(lbd);
        let ended: u64 = link["ended"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        link["sessions"].as_u64().unwrap() == ended + 1
    };
    eventually("one session is left", || nodes.iter().all(settled));
    let sessions = nodes.each_ref().map(|lbd| link(lbd)["sessions"].clone());
    let mut changed = configs[0].clone();
    changed.group = "algorithm = \"random\"\n".to_owned();
    assert_eq!(nodes[0].reload(&changed).0, 200);
    assert_eq!(nodes.each_ref().map(|lbd| link(lbd)["sessions"].clone()), sessions);
    assert!(nodes.iter().all(is_connected));
}

#[test]
fn another_key_is_refused_until_both_have_it() {
    let ips = [own_ip(), own_ip()];
    let target = Server::echo((ips[0], 0).into());
    let configs = ["a", "b"].map(|node| config(node, ips, &target));
    let [a, b] = configs.each_ref().map(|config| start(config, '7'));
    eventually("the nodes are connected", || is_connected(&a) && is_connected(&b));
    write_key(&a.folder, '8');
    assert_eq!(a.reload(&configs[0]).0, 200);
    let refused = |lbd: &Lbd| {
        let link = link(lbd);
        link["failed"]["key"].as_u64().unwrap() + link["refused"]["key"].as_u64().unwrap()
    };
    eventually("both say so", || refused(&a) > 0 && refused(&b) > 0);
    for lbd in [&a, &b] {
        assert!(!is_connected(lbd));
        assert!(shown(lbd).contains("must hold the same key on both nodes"), "{}", shown(lbd));
    }
    write_key(&b.folder, '8');
    assert_eq!(b.reload(&configs[1]).0, 200);
    eventually("the nodes are connected", || is_connected(&a) && is_connected(&b));
    // Without a key there is no link, and that is said.
    let mut without = configs[0].clone();
    without.head = without.head.replace("key_file = \"pair.key\"", "");
    assert_eq!(a.reload(&without).0, 200);
    assert_eq!(link(&a), Value::Null);
    assert!(shown(&a).contains("peer      none: [pair] has no key_file"), "{}", shown(&a));
    eventually("the other node sees it", || !is_connected(&b));
}

#[test]
fn traffic_goes_on_when_the_peer_is_lost_and_returns() {
    let ips = [own_ip(), own_ip()];
    let target = Server::echo((ips[0], 0).into());
    let configs = ["a", "b"].map(|node| config(node, ips, &target));
    let [a, mut b] = configs.each_ref().map(|config| start(config, '7'));
    eventually("the nodes are connected", || is_connected(&a) && is_connected(&b));
    let mut stream = a.connect();
    assert_eq!(ping(&mut stream, "before").unwrap(), "before");
    b.kill();
    eventually("it is seen", || !is_connected(&a));
    for part in ["not connected to b", "sessions that broke: ", "; the last session ended at "] {
        assert!(shown(&a).contains(part), "{part} is not in {}", shown(&a));
    }
    assert_eq!(ping(&mut stream, "meanwhile").unwrap(), "meanwhile");
    assert_eq!(ping(&mut a.connect(), "new").unwrap(), "new");
    let b = start(&configs[1], '7');
    eventually("the nodes are connected", || is_connected(&a) && is_connected(&b));
    assert_eq!(ping(&mut stream, "after").unwrap(), "after");
    let ended = || crate::udp::metric(&a, "replication_ended_total", "disconnected");
    eventually("it is counted that a session ended", || ended() > 0);
    // A stranger changes nothing, and shows.
    let mut stranger = connect((ips[0], 7112).into());
    assert!(!matches!(end_of(&mut stranger), Ok(1)));
    eventually("it is counted", || link(&a)["refused"]["address"] == 1);
    assert!(
        shown(&a).contains("1 connections refused") || shown(&a).contains("connections refused, the last at")
    );
    assert!(is_connected(&a));
}
