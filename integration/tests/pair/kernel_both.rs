//! Both nodes of a pair forward at once, each for VIPs of its own, and each stands by for the other's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::kernel_pair_support::*;
use crate::pair_support::{LIMIT, caught_up, every, vips, vrrpd};
use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::{Window, wait_until};
use integration::lab::config::{Instance, PairConfig};
use integration::lab::{Lab, Node, Result, http};
use serde_json::Value;

/// `a` is to be active for the first, `b` for the second.
const NAMES: [&str; 2] = ["web", "shop"];

fn instances() -> Vec<Instance> {
    let shop = Instance {
        name: NAMES[1].to_owned(),
        vrid: 52,
        priority: (100, 200),
        vips: vips_of(1).to_vec(),
        ..every("100ms")
    };
    vec![every("100ms"), shop]
}

fn vips_of(place: usize) -> [IpAddr; 2] {
    if place == 0 { vips() } else { [vip4(1).into(), vip6(1).into()] }
}

/// Waits until an instance is active on this node alone and forwarded by it.
fn active(lab: &Lab, place: usize, node: &Node) -> Result<()> {
    let other = lab.peer_of(node);
    node.wait_role(NAMES[place], "active", LIMIT)?;
    for vip in vips_of(place) {
        wait_until(&format!("{} to hold {vip} alone", node.name()), LIMIT, || {
            node.holds(vip).unwrap_or(false) && !other.holds(vip).unwrap_or(true)
        })?;
    }
    Ok(())
}

/// Kills a node's daemons, and waits until the other one has everything.
fn dies(lab: &Lab, node: &Node) -> Result<Window> {
    let other = lab.peer_of(node);
    let death = killed(node)?;
    for place in [0, 1] {
        active(lab, place, other)?;
    }
    Ok(death)
}

/// Waits until each node is active for its own VIPs, and knows the other one's connections.
fn shared(lab: &Lab) -> Result<()> {
    for (place, node) in lab.nodes().into_iter().enumerate() {
        active(lab, place, node)?;
        ready(node)?;
        synced(node)?;
    }
    caught_up(lab)
}

#[test]
fn both_forward_and_each_goes_on_for_the_other() -> Result<()> {
    let lab = started("kernel both", instances())?;
    shared(&lab)?;
    let all: Vec<IpAddr> = [0, 1].into_iter().flat_map(vips_of).collect();
    served(&lab, &all)?;
    let [a, b] = lab.nodes();
    let load = Load::begin_at(&lab, &all, WITH_ONE_LOST)?;
    let each_has_its_own = || {
        takes_new_ones_of(a, 0)?;
        takes_new_ones_of(b, 1)?;
        load.steady_after(STALL_OF_A_MOVE)
    };
    each_has_its_own()?;
    let mut deaths = Vec::new();
    for node in [b, a] {
        deaths.push(dies(&lab, node)?);
        for place in [0, 1] {
            takes_new_ones_of(lab.peer_of(node), place)?;
        }
        load.steady_after(STALL_OF_A_LOSS)?;
        for daemon in ["lbd", "vrrpd"] {
            node.start_daemon(daemon)?;
        }
        // It takes back what it is to be active for, once it knows the connections.
        shared(&lab)?;
        each_has_its_own()?;
    }
    // One of the two moves as planned while the other stays where it is.
    let (good, _, complaint) = vrrpd(a, &["switchover", NAMES[0]]);
    assert!(good, "{complaint}");
    for place in [0, 1] {
        active(&lab, place, b)?;
        takes_new_ones_of(b, place)?;
    }
    load.steady_after(STALL_OF_A_MOVE)?;
    load.end_after_deaths(&deaths)?;
    lab.finish()
}

/// The port of the service whose clients have one rate on both nodes.
const COUNTED: u16 = 9000;

/// New connections of a client there, in so long that no test is across the end of it.
const SHARE: u64 = 12;

/// So long a client waits for a page that it is not to get.
const MOMENT: Duration = Duration::from_millis(300);

/// A pair with that service on the VIPs of both instances.
fn counting(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    let addresses = lab.targets().iter().flat_map(|target| [IpAddr::from(target.v4()), target.v6().into()]);
    let targets: String = addresses
        .map(|address| format!("{{ address = \"{}\" }}, ", SocketAddr::new(address, 8080)))
        .collect();
    let tables = format!(
        "\n[[service]]\nname = \"counted\"\nmode = \"nat\"\nforward = \"counted\"\n\
         listen = [\"@{}:{COUNTED}\", \"@{}:{COUNTED}\"]\n\
         rate = {{ key = \"source_ip\", requests = {SHARE}, per = \"1day\", scope = \"pair\" }}\n\
         [[target_group]]\nname = \"counted\"\ntargets = [{targets}]\n",
        NAMES[0], NAMES[1]
    );
    lab.write_config(&PairConfig::new(instances()).raw(&tables))?;
    for node in lab.nodes() {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    shared(&lab)?;
    Ok(lab)
}

/// Whether the client gets a page over a new connection.
fn page(lab: &Lab, vip: IpAddr) -> bool {
    let ask = || http::tcp(SocketAddr::new(vip, COUNTED), "GET", "/", "", MOMENT);
    lab.client().namespace().inside(ask).is_ok_and(|it| it.is_ok_and(|page| page.status == 200))
}

/// Packets of clients that were over the rate on a node, and connections that it has begun.
fn refused_and_begun(node: &Node) -> (u64, u64) {
    let refused = counted(node, "tandem_lbd_kernel_drops_total", "reason=\"source_rate\"");
    (refused, counted(node, "tandem_lbd_kernel_service_new_flows_total", "service=\"counted\""))
}

/// Clients of the other node's whose rate a node knows.
fn clients_known(node: &Node) -> Value {
    let answer = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
    let replication: Value = answer.unwrap_or_default();
    replication["state"]["peer_entries"]["rates"].clone()
}

/// Waits until a node refuses the client for its rate, and fails if it gets a page before that.
fn refuses(lab: &Lab, node: &Node, vip: IpAddr) -> Result<()> {
    let (refused, begun) = refused_and_begun(node);
    wait_until(&format!("{} to refuse the client at {vip}", node.name()), LIMIT, || {
        assert!(!page(lab, vip), "a page from {vip}");
        refused_and_begun(node).0 > refused
    })?;
    assert_eq!(refused_and_begun(node).1, begun, "connections that {} has begun", node.name());
    Ok(())
}

#[test]
fn a_client_has_one_rate_on_both_nodes_and_takes_it_along_when_the_role_moves() -> Result<()> {
    let lab = counting("kernel rates")?;
    let [a, b] = lab.nodes();
    let [[web4, web6], [shop4, shop6]] = [0, 1].map(vips_of);
    wait_until("the client to have had its share from a", LIMIT, || {
        page(&lab, web4);
        refused_and_begun(a).0 > 0
    })?;
    let begun = refused_and_begun(a).1;
    assert!((1..=SHARE).contains(&begun), "{begun} connections");
    // Told after the first, or with it: where this is known, that is known, too.
    wait_until("a page over IPv6", LIMIT, || page(&lab, web6))?;
    wait_until("b to know both clients", LIMIT, || clients_known(b) == 2)?;
    refuses(&lab, b, shop4)?;
    assert_eq!(refused_and_begun(b).1, 0, "b has begun nothing for a client that a has given all");
    wait_until("a page over IPv6 from b", LIMIT, || page(&lab, shop6))?;
    wait_until("a to know that client of b", LIMIT, || clients_known(a) == 1)?;
    let (good, _, complaint) = vrrpd(a, &["switchover", NAMES[0]]);
    assert!(good, "{complaint}");
    active(&lab, 0, b)?;
    wait_until("a page over IPv6 after the move", LIMIT, || page(&lab, web6))?;
    refuses(&lab, b, web4)?;
    lab.finish()
}
