//! Both nodes of a pair forward at once, each for VIPs of its own, and each stands by for the other's.

use std::net::IpAddr;

use crate::kernel_pair_support::*;
use crate::pair_support::{LIMIT, caught_up, every, vips, vrrpd};
use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::{Window, wait_until};
use integration::lab::config::Instance;
use integration::lab::{Lab, Node, Result};

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
