//! Broken links: who serves then, who is told, and how the pair finds back together.

use std::time::Duration;

use crate::pair_support::{
    CALM, LIMIT, Seen, Watch, config, every, owned_by, prepared, router, serving, settled, start_all, status,
    transitions, vips, wait_event,
};
use integration::lab::addresses::{mac, mac_text, vip4};
use integration::lab::clock::{Window, now, wait_until};
use integration::lab::config::Instance;
use integration::lab::fault::Fault;
use integration::lab::{Direction, Lab, Node, Result};
use serde_json::json;

const INTERVAL: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);

/// A pair whose nodes ask the gateway.
fn with_gateway(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).gateway().build()?;
    let gateway = lab.gateway().expect("it was asked for").v4();
    let extra = format!("track = {{ gateway = \"{gateway}\" }}");
    lab.write_config(&config(&lab, Instance { extra, ..every("100ms") }))?;
    start_all(&lab)?;
    Ok(lab)
}

fn peer_link_alive(node: &Node) -> bool {
    status(node).is_some_and(|status| status["peer_link"]["alive"] == true)
}

/// How long after an event a node was first seen in this role.
fn seen_after(seen: &Seen, node: &str, role: &str, event: Window) -> Duration {
    let changes = seen.roles.of(node, "web");
    let mut later = changes.filter(|change| change.at > event.before && change.seen.is(role));
    later.next().expect("it was seen so").at - event.before
}

#[test]
fn a_dead_port_is_a_fault_and_the_peer_is_told_at_once() -> Result<()> {
    for fault in [Fault::link_down("a"), Fault::InterfaceDown("a".to_owned())] {
        let lab = serving("link-down", every("1s"))?;
        let watch = Watch::begin(&lab)?;
        let broken = lab.inject(&fault)?;
        lab.a().wait_role("web", "fault", LIMIT)?;
        lab.b().wait_role("web", "active", LIMIT)?;
        owned_by(&lab, lab.b())?;
        watch.wait_owner(mac(2))?;
        watch.steady()?;
        assert_eq!(lab.a().get("vrrpd", "/health/ready")?.status, 503);
        assert_eq!(lab.a().get("vrrpd", "/health/live")?.status, 200);
        wait_event(lab.a(), 0, &json!({ "event": "role", "to": "fault", "reason": "interface" }))?;

        lab.heal(&fault)?;
        settled(&lab, lab.a())?;
        watch.wait_owner(mac(1))?;
        watch.steady()?;
        wait_event(lab.a(), 0, &json!({ "event": "role", "from": "fault", "reason": "interface_up" }))?;
        assert_eq!(lab.a().get("vrrpd", "/health/ready")?.status, 200);
        let seen = watch.end()?;
        let waited = seen_after(&seen, "b", "active", broken);
        assert!(
            waited < SECOND + seen.pause(),
            "{fault:?}: active after {waited:?}; Active_Down takes 3.6 s"
        );
        seen.assert_one_owner(SECOND);
        seen.assert_announced_last_by(mac(1));
        lab.finish()?;
    }
    Ok(())
}

/// Takes the cable away with the interface on it.
fn delete_interface(lab: &Lab) -> Result<()> {
    lab.a().ip("link delete eth0").map(drop)
}

/// Puts another interface of the same name there.
fn create_interface(lab: &Lab) -> Result<()> {
    let (a, switch) = (lab.a(), lab.switch().namespace());
    let (address, namespace) = (mac_text(a.mac()), a.namespace());
    let name = namespace.name();
    switch.ip(&format!("link add name a type veth peer name eth0 address {address} netns {name}"))?;
    switch.ip("link set dev a master lan up")?;
    a.ip("link set eth0 up")?;
    a.add_address(a.v4())?;
    a.add_address(a.v6())?;
    Ok(())
}

#[test]
fn an_interface_that_is_removed_and_comes_back_is_used_again() -> Result<()> {
    let lab = serving("interface", every("100ms"))?;
    delete_interface(&lab)?;
    lab.a().wait_role("web", "fault", LIMIT)?;
    lab.b().wait_role("web", "active", LIMIT)?;
    create_interface(&lab)?;
    settled(&lab, lab.a())?;
    let sysctl = lab
        .a()
        .namespace()
        .inside(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/arp_ignore").unwrap_or_default())?;
    assert_eq!(sysctl.trim(), "1", "the new interface is prepared as the old one was");
    lab.finish()
}

#[test]
fn a_daemon_that_starts_without_its_interface_waits_for_it() -> Result<()> {
    let lab = prepared("no-interface", every("100ms"))?;
    delete_interface(&lab)?;
    for node in lab.nodes() {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    lab.a().wait_role("web", "fault", LIMIT)?;
    lab.b().wait_role("web", "active", LIMIT)?;
    create_interface(&lab)?;
    settled(&lab, lab.a())?;
    lab.finish()
}

#[test]
fn a_silently_blocked_port_is_told_from_a_dead_node_by_the_peer_link() -> Result<()> {
    let lab = serving("blocked", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    lab.inject(&Fault::blocked("a"))?;
    lab.b().wait_role("web", "active", LIMIT)?;
    watch.wait_owner(mac(2))?;
    watch.steady()?;
    // Without a gateway to ask, `a` cannot know that it is the one who is cut off: it stays active where nobody hears it.
    wait_event(lab.b(), 0, &json!({ "event": "lan_fault" }))?;
    assert!(peer_link_alive(lab.a()) && peer_link_alive(lab.b()));
    assert_eq!(lab.a().role("web").as_deref(), Some("active"));

    let healed = lab.heal(&Fault::blocked("a"))?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    let together = seen_after(&seen, "b", "backup", healed);
    assert!(together < 3 * INTERVAL + seen.pause() + healed.width(), "one again after {together:?}");
    seen.assert_one_owner(3 * INTERVAL);
    seen.assert_announced_last_by(mac(1));
    lab.finish()
}

#[test]
fn with_a_gateway_the_node_that_reaches_it_keeps_the_vip() -> Result<()> {
    for direction in [Direction::Both, Direction::FromHost, Direction::ToHost] {
        let lab = with_gateway("gateway")?;
        let watch = Watch::begin(&lab)?;
        let fault = Fault::Blocked("a".to_owned(), direction);
        lab.inject(&fault)?;
        lab.b().wait_role("web", "active", LIMIT)?;
        lab.a().wait_role("web", "backup", LIMIT)?;
        owned_by(&lab, lab.b())?;
        watch.wait_owner(mac(2))?;
        watch.steady()?;
        wait_event(lab.a(), 0, &json!({ "event": "gateway", "reachable": false }))?;
        let status = status(lab.a()).expect("it answers");
        assert_eq!(status["instances"][0]["reasons"], json!(["gateway"]), "{direction:?}");
        let before = lab.nodes().map(transitions);
        let start = now();
        wait_until("some calm", LIMIT, || now() - start > CALM)?;
        assert_eq!(lab.nodes().map(transitions), before, "{direction:?}: it does not flap");

        lab.heal(&fault)?;
        settled(&lab, lab.a())?;
        wait_event(lab.a(), 0, &json!({ "event": "gateway", "reachable": true }))?;
        watch.wait_owner(mac(1))?;
        watch.steady()?;
        let seen = watch.end()?;
        seen.assert_one_owner(3 * INTERVAL);
        seen.assert_announced_last_by(mac(1));
        lab.finish()?;
    }
    Ok(())
}

#[test]
fn a_node_that_cannot_send_is_replaced_and_one_that_cannot_hear_is_not_noticed_without_a_gateway()
-> Result<()> {
    let lab = serving("one-way", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    let deaf = Fault::Blocked("a".to_owned(), Direction::ToHost);
    lab.inject(&deaf)?;
    let start = now();
    wait_until("b to hear a go on", LIMIT, || now() - start > CALM)?;
    // Its advertisements arrive, so it is the active node, and nothing tells it that nobody reaches it: `track.gateway` would.
    assert_eq!(
        (lab.a().role("web").as_deref(), lab.b().role("web").as_deref()),
        (Some("active"), Some("backup"))
    );
    lab.heal(&deaf)?;
    settled(&lab, lab.a())?;
    watch.steady()?;

    let mute = Fault::Blocked("a".to_owned(), Direction::FromHost);
    lab.inject(&mute)?;
    lab.b().wait_role("web", "active", LIMIT)?;
    watch.wait_owner(mac(2))?;
    watch.steady()?;
    let healed = lab.heal(&mute)?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    let together = seen_after(&seen, "b", "backup", healed);
    assert!(together < 3 * INTERVAL + seen.pause() + healed.width(), "one again after {together:?}");
    seen.assert_one_owner(3 * INTERVAL);
    seen.assert_announced_last_by(mac(1));
    lab.finish()
}

#[test]
fn a_cut_peer_link_changes_no_role() -> Result<()> {
    let lab = serving("peer-cut", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    let before = lab.nodes().map(transitions);
    for fault in [Fault::PeerBlocked, Fault::PeerDown] {
        lab.inject(&fault)?;
        for node in lab.nodes() {
            wait_until("the silence to be noticed", LIMIT, || !peer_link_alive(node))?;
            wait_event(node, 0, &json!({ "event": "peer_link", "alive": false }))?;
        }
        lab.heal(&fault)?;
        for node in lab.nodes() {
            wait_until("the peer to be heard again", LIMIT, || peer_link_alive(node))?;
        }
    }
    assert_eq!(lab.nodes().map(transitions), before);
    let seen = watch.end()?;
    seen.assert_all_served();
    assert_eq!((seen.roles_of("a").len(), seen.roles_of("b").len()), (1, 1));
    lab.finish()
}

#[test]
fn a_switchover_without_a_peer_link_is_plain_vrrp() -> Result<()> {
    let lab = serving("plain", Instance { preempt: false, ..every("100ms") })?;
    lab.inject(&Fault::PeerBlocked)?;
    wait_until("the silence to be noticed", LIMIT, || !peer_link_alive(lab.a()))?;
    let (good, _, complaint) = crate::pair_support::vrrpd(lab.a(), &["switchover", "web"]);
    assert!(good, "{complaint}");
    lab.b().wait_role("web", "active", LIMIT)?;
    lab.a().wait_role("web", "backup", LIMIT)?;
    owned_by(&lab, lab.b())?;
    lab.finish()
}

#[test]
fn two_halves_that_meet_again_are_one_within_three_intervals() -> Result<()> {
    let lab = serving("split", every("200ms"))?;
    let watch = Watch::begin(&lab)?;
    lab.inject(&Fault::isolated("a"))?;
    lab.b().wait_role("web", "active", LIMIT)?;
    watch.wait_owner(mac(2))?;
    watch.steady()?;
    assert_eq!(lab.a().role("web").as_deref(), Some("active"), "each half has its own active node");
    let healed = lab.heal(&Fault::isolated("a"))?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    let together = seen_after(&seen, "b", "backup", healed);
    assert!(together < 6 * INTERVAL + seen.pause() + healed.width(), "one again after {together:?}");
    seen.assert_one_owner(6 * INTERVAL);
    seen.assert_announced_last_by(mac(1));
    lab.finish()
}

#[test]
fn an_address_removed_by_hand_is_put_back_and_announced() -> Result<()> {
    let lab = serving("removed", every("1s"))?;
    let watch = Watch::begin(&lab)?;
    let before = lab.nodes().map(transitions);
    for vip in vips() {
        let removed = lab.inject(&Fault::AddressRemoved("a".to_owned(), vip))?;
        let expected = json!({ "event": "address_restored", "address": vip.to_string() });
        wait_event(lab.a(), 0, &expected)?;
        wait_until("it to be back", LIMIT, || lab.a().holds(vip).unwrap_or(false))?;
        let announced = watch.owners.wait_announcement(vip, removed.before, LIMIT)?;
        assert_eq!(announced.mac, mac(1));
    }
    watch.wait_owner(mac(1))?;
    assert_eq!(lab.nodes().map(transitions), before);
    let seen = watch.end()?;
    seen.assert_all_served();
    lab.finish()
}

#[test]
fn an_address_that_keeps_vanishing_keeps_coming_back() -> Result<()> {
    let lab = serving("stubborn", every("100ms"))?;
    let before = lab.nodes().map(transitions);
    for _ in 0..10 {
        wait_until("it to be there", LIMIT, || lab.a().holds(vip4(0)).unwrap_or(false))?;
        lab.inject(&Fault::AddressRemoved("a".to_owned(), vip4(0).into()))?;
    }
    wait_until("it to be there", LIMIT, || lab.a().holds(vip4(0)).unwrap_or(false))?;
    assert_eq!(lab.nodes().map(transitions), before);
    settled(&lab, lab.a())?;
    lab.finish()
}

#[test]
fn an_address_on_the_wrong_node_is_reported_and_left_alone() -> Result<()> {
    let lab = serving("wrong", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    lab.b().add_address(vip4(0))?;
    let unexpected = json!({ "event": "address_unexpected", "address": vip4(0).to_string() });
    wait_event(lab.b(), 0, &unexpected)?;
    assert!(lab.b().holds(vip4(0))?, "what someone else put there is not ours to remove");
    lab.b().remove_address(vip4(0))?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    assert_eq!(router(lab.b(), "ipv4")["role"], "backup");
    lab.finish()
}
