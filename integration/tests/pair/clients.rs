//! What the proxies know of their clients, and what administrators want of targets, survives the loss of a node.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::pair_support::{LIMIT, config, every, owned_by, serves, settled, start_all, vips};
use integration::lab::clock::wait_until;
use integration::lab::probe::talker;
use integration::lab::{Lab, Node, Result, Target};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The port of the service, and of the targets' echo server.
const PORT: u16 = 7;

/// Sessions of each family.
const SESSIONS: usize = 30;

/// A pair with a UDP echo and a TCP service whose clients are sticky, and the chance decides about new ones.
fn serving(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(4).build()?;
    let in_file = &lab.targets()[..3];
    let echoes: Vec<SocketAddr> = in_file.iter().map(Target::echo_address).collect();
    let pages: Vec<SocketAddr> = in_file.iter().map(Target::http_address).collect();
    let sticky = "algorithm = \"random\"\nsticky = { by = \"source_ip\" }";
    let limit = "rate = { key = \"source_ip\", requests = 40, per = \"1h\", scope = \"pair\" }";
    let config = config(&lab, every("100ms"))
        .service("echo", "udp", "@web:7", "echo", "")
        .target_group("echo", &echoes, "algorithm = \"random\"")
        .service("shop", "tcp", "@web:81", "shop", limit)
        .target_group("shop", &pages, sticky)
        .service("late", "tcp", "@web:82", "late", "")
        .target_group("late", &pages[..1], "");
    lab.write_config(&config)?;
    start_all(&lab)?;
    in_sync(&lab)?;
    Ok(lab)
}

fn replication(node: &Node) -> Value {
    let answer = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
    answer.unwrap_or_default()["state"].clone()
}

fn in_sync(lab: &Lab) -> Result<()> {
    wait_until("both nodes to have everything", LIMIT, || {
        lab.nodes().into_iter().all(|node| {
            let state = replication(node);
            state["state"] == "synced" && state["peer_synced"] == true
        })
    })
}

/// Connections and sessions of a group since the daemon's start, by target.
fn totals(node: &Node, group: &str) -> Vec<u64> {
    let groups: Value =
        node.get("lbd", "/v1/target-groups").ok().and_then(|answer| answer.json().ok()).unwrap_or_default();
    let found = groups.as_array().into_iter().flatten().find(|it| it["name"] == group).cloned();
    let targets = found.unwrap_or_default()["targets"].as_array().cloned().unwrap_or_default();
    targets.iter().filter_map(|target| target["connections_total"].as_u64()).collect()
}

fn targets(node: &Node, group: &str, key: &str) -> Vec<Value> {
    let groups: Value =
        node.get("lbd", "/v1/target-groups").ok().and_then(|answer| answer.json().ok()).unwrap_or_default();
    let found = groups.as_array().into_iter().flatten().find(|it| it["name"] == group).cloned();
    let targets = found.unwrap_or_default()["targets"].as_array().cloned().unwrap_or_default();
    targets.iter().map(|target| target[key].clone()).collect()
}

fn lbd(node: &Node, arguments: &[&str]) {
    let program = integration::lab::binary("lbd").expect("lbd has been built");
    let mut command = node.command(&program.to_string_lossy());
    let output =
        command.args(arguments).arg("--run-dir").arg(node.run_dir()).output().expect("it can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Clients of the echo, each with a socket of its own that it keeps.
fn clients(lab: &Lab) -> Result<Vec<UdpSocket>> {
    let open = |vip: IpAddr| {
        let patience = Duration::from_millis(100);
        talker(SocketAddr::new(vip, PORT), patience).expect("the LAN is there, and a port is free")
    };
    let vips = vips().into_iter().flat_map(|vip| std::iter::repeat_n(vip, SESSIONS));
    lab.client().namespace().inside(|| vips.map(open).collect())
}

/// Asks until each client has an answer.
fn all_answered(clients: &[UdpSocket]) -> Result<()> {
    clients.iter().try_for_each(|client| {
        wait_until("an answer", LIMIT, || {
            let mut answer = [0; 16];
            client.send(b"hello").is_ok() && client.recv(&mut answer).is_ok_and(|length| length == 5)
        })
    })
}

/// Has another target than the file's, by the API of `node`.
fn replace_target(lab: &Lab, node: &Node) -> Result<()> {
    let path = "/v1/target-groups/late/targets";
    let target = format!("{{\"id\":\"x\",\"address\":\"{}\"}}", lab.targets()[3].http_address());
    assert_eq!(node.send("lbd", "POST", path, &target)?.status, 201);
    assert_eq!(node.send("lbd", "DELETE", &format!("{path}/t1"), "")?.status, 200);
    Ok(())
}

/// Ten pages for each family from the target that was added, which is the only one there is.
fn added_one_serves(lab: &Lab, node: &Node) -> Result<()> {
    assert_eq!(targets(node, "late", "id"), ["x"]);
    let before = totals(node, "late");
    for vip in vips() {
        for _ in 0..10 {
            wait_until("a page of the target that was added", LIMIT, || {
                visits_at(lab, SocketAddr::new(vip, 82))
            })?;
        }
    }
    assert!(totals(node, "late")[0] >= before[0] + 20);
    Ok(())
}

/// Whether the client gets a page of the sticky service.
fn visits(lab: &Lab, vip: IpAddr) -> bool {
    visits_at(lab, SocketAddr::new(vip, 81))
}

fn visits_at(lab: &Lab, server: SocketAddr) -> bool {
    let ask = || integration::lab::http::tcp(server, "GET", "/", "", Duration::from_secs(1));
    let answer = lab.client().namespace().inside(ask);
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
}

#[test]
fn clients_keep_target_and_limit_when_the_active_node_dies_and_when_it_returns() -> Result<()> {
    let lab = serving("pair-clients")?;
    let [a, b] = lab.nodes();
    let clients = clients(&lab)?;
    all_answered(&clients)?;
    let homes = totals(a, "echo");
    assert_eq!(homes.iter().sum::<u64>(), 2 * SESSIONS as u64, "{homes:?}");
    for vip in vips() {
        for _ in 0..10 {
            wait_until("a page", LIMIT, || visits(&lab, vip))?;
        }
    }
    let sticky = totals(a, "shop");
    let known = |node: &Node, table: &str, count: usize| {
        wait_until(&format!("{} to know {count} {table}", node.name()), LIMIT, || {
            replication(node)["entries"][table] == count
        })
    };
    known(b, "udp_sessions", 2 * SESSIONS)?;
    known(b, "sticky", 2)?;
    lbd(a, &["set", "echo/t1", "--state", "drain"]);
    lbd(a, &["set", "shop/t3", "--weight", "7"]);
    let words_at = |node: &Node| {
        targets(node, "echo", "state") == ["drain", "ready", "ready"]
            && targets(node, "shop", "weight") == [1, 1, 7]
    };
    wait_until("b to know the words", LIMIT, || words_at(b))?;
    replace_target(&lab, a)?;
    wait_until("b to have the same targets", LIMIT, || targets(b, "late", "id") == ["x"])?;
    for daemon in ["vrrpd", "lbd"] {
        a.signal(daemon, Signal::SIGKILL)?;
        a.wait_end(daemon, LIMIT)?;
    }
    b.wait_role("web", "active", LIMIT)?;
    owned_by(&lab, b)?;
    all_answered(&clients)?;
    assert_eq!(totals(b, "echo"), homes, "each session went on with its target, drained or not");
    for vip in vips() {
        for _ in 0..10 {
            wait_until("a page", LIMIT, || visits(&lab, vip))?;
        }
    }
    assert_eq!(totals(b, "shop"), sticky, "each client came back to its target");
    added_one_serves(&lab, b)?;
    // Twenty pages of each family's forty are used up; the other node had its share of them.
    for daemon in ["lbd", "vrrpd"] {
        a.start_daemon(daemon)?;
    }
    settled(&lab, a)?;
    in_sync(&lab)?;
    assert!(words_at(a), "a has the words again");
    added_one_serves(&lab, a)?;
    all_answered(&clients)?;
    assert_eq!(totals(a, "echo").iter().sum::<u64>(), 0, "b has the sessions, and goes on with them");
    assert_eq!(totals(b, "echo"), homes);
    for vip in vips() {
        let more = (0..40).filter(|_| visits(&lab, vip)).count();
        assert!((15..=20).contains(&more), "{more} of the 20 that were left for {vip}");
        assert!(serves(&lab, vip), "the other service has no such limit");
    }
    let seen = totals(a, "shop");
    assert!(seen.iter().zip(&sticky).all(|(now, then)| (*now > 0) == (*then > 0)), "{seen:?} {sticky:?}");
    lab.finish()
}
