//! `lbd`'s health decides who serves: its death, its silence, its return, its targets; and maintenance.

use std::time::Duration;

use crate::pair_support::{
    CALM, LIMIT, Watch, config, every, last_event, owned_by, serving, settled, start_all, status,
    transitions, vrrpd, wait_event,
};
use integration::lab::addresses::mac;
use integration::lab::clock::{now, wait_for, wait_until};
use integration::lab::config::Instance;
use integration::lab::{Lab, Node, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const INTERVAL: Duration = Duration::from_millis(100);

/// What is wrong with a node, as its status says.
fn reasons(node: &Node) -> Vec<String> {
    let status = status(node).unwrap_or_default();
    let reasons = status["instances"][0]["reasons"].as_array().cloned().unwrap_or_default();
    reasons.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn wait_reasons(node: &Node, expected: &[&str]) -> Result<()> {
    wait_until(&format!("{} to suffer from {expected:?}", node.name()), LIMIT, || reasons(node) == expected)
}

/// Lets some time pass in which nothing shall change, and says whether nothing did.
fn stays(lab: &Lab, active: &Node) -> Result<bool> {
    let before = lab.nodes().map(transitions);
    let start = now();
    wait_until("some calm", LIMIT, || now() - start > CALM)?;
    Ok(lab.nodes().map(transitions) == before && active.role("web").as_deref() == Some("active"))
}

/// The node that is active, once only one is.
fn the_active(lab: &Lab) -> Result<&Node> {
    wait_for("exactly one to be active", LIMIT, || {
        let mut active = lab.nodes().into_iter().filter(|node| node.role("web").as_deref() == Some("active"));
        let found = active.next();
        found.filter(|_| active.next().is_none())
    })
}

#[test]
fn a_killed_lbd_passes_the_role_on_and_a_new_one_fetches_it_back() -> Result<()> {
    let lab = serving("lbd-kill", every("1s"))?;
    let watch = Watch::begin(&lab)?;
    let killed = lab.a().signal("lbd", Signal::SIGKILL)?;
    settled(&lab, lab.b())?;
    watch.wait_owner(mac(2))?;
    wait_event(lab.a(), 0, &json!({ "event": "lbd", "health": "down" }))?;
    wait_event(lab.a(), 0, &json!({ "event": "role", "to": "backup", "reason": "handed_over" }))?;
    assert_eq!(reasons(lab.a()), ["lbd_down"]);
    lab.a().start_lbd()?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    let taken = seen.roles.of("b", "web").find(|change| change.seen.is("active")).expect("b was active");
    let waited = taken.at - killed.before;
    assert!(waited < Duration::from_secs(1) + seen.pause(), "b was active after {waited:?}");
    seen.assert_one_owner(Duration::from_secs(1));
    for report in &seen.probes {
        let gap = report.longest_gap().length();
        assert!(gap < Duration::from_secs(1) + report.longest_pause(), "{}", report.summary());
    }
    lab.finish()
}

#[test]
fn a_silent_lbd_counts_as_dead_until_it_speaks_again() -> Result<()> {
    let lab = serving("lbd-stop", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    lab.a().signal("lbd", Signal::SIGSTOP)?;
    settled(&lab, lab.b())?;
    wait_event(lab.a(), 0, &json!({ "event": "lbd", "health": "down" }))?;
    watch.wait_owner(mac(2))?;
    watch.steady()?;
    let metrics = lab.a().get("vrrpd", "/metrics")?.body;
    assert!(metrics.contains("tandem_vrrp_lbd_connections_total{result=\"silent\"} 1"), "{metrics}");
    lab.a().signal("lbd", Signal::SIGCONT)?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    seen.assert_one_owner(INTERVAL);
    assert_eq!(seen.roles_of("b"), ["backup", "active", "backup"]);
    lab.finish()
}

#[test]
fn a_restarted_lbd_on_the_backup_concerns_nobody() -> Result<()> {
    let lab = serving("lbd-restart", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    let before = lab.nodes().map(transitions);
    lab.b().stop("lbd")?;
    wait_reasons(lab.b(), &["lbd_down"])?;
    lab.b().start_lbd()?;
    wait_reasons(lab.b(), &[])?;
    assert_eq!(lab.nodes().map(transitions), before);
    let seen = watch.end()?;
    seen.assert_all_served();
    lab.finish()
}

#[test]
fn the_less_unhealthy_node_serves_and_somebody_always_does() -> Result<()> {
    let lab = Lab::builder("both-sick").targets(2).build()?;
    let instance = Instance { extra: "track = { lbd = true, targets = true }".to_owned(), ..every("100ms") };
    let targets: Vec<_> = lab.targets().iter().map(integration::lab::Target::http_address).collect();
    let health = "health = { tcp = true, interval = \"100ms\", timeout = \"50ms\", healthy_threshold = 1 }";
    let config = integration::lab::config::PairConfig::new(vec![instance])
        .service("web", "tcp", "@web:80", "web", "")
        .target_group("web", &targets, health);
    lab.write_config(&config)?;
    start_all(&lab)?;

    for target in lab.targets() {
        target.stop("nginx")?;
    }
    for node in lab.nodes() {
        wait_reasons(node, &["targets"])?;
    }
    // One of them may have noticed before the other one did.
    let first = the_active(&lab)?;
    let second = lab.peer_of(first);
    assert!(stays(&lab, first)?, "both are equally sick: nothing changes");
    first.signal("lbd", Signal::SIGKILL)?;
    second.wait_role("web", "active", LIMIT)?;
    first.wait_role("web", "backup", LIMIT)?;
    owned_by(&lab, second)?;
    assert_eq!((reasons(first), reasons(second)), (vec!["lbd_down".to_owned()], vec!["targets".to_owned()]));
    second.signal("lbd", Signal::SIGKILL)?;
    wait_reasons(second, &["lbd_down"])?;
    assert!(stays(&lab, second)?, "both have no lbd: the one that is active stays so");
    owned_by(&lab, second)?;

    for target in lab.targets() {
        target.start_http()?;
        target.wait_ready()?;
    }
    for node in lab.nodes() {
        node.start_lbd()?;
    }
    // In this order: the node that is active now hands over to the one whose lbd is there first, and only then preempts it.
    for node in lab.nodes() {
        wait_reasons(node, &[])?;
    }
    settled(&lab, lab.a())?;
    assert!(stays(&lab, lab.a())?);
    lab.finish()
}

#[test]
fn both_lbds_gone_at_once_leave_one_node_active() -> Result<()> {
    let lab = serving("lbds-gone", every("100ms"))?;
    for node in lab.nodes() {
        node.signal("lbd", Signal::SIGKILL)?;
    }
    for node in lab.nodes() {
        wait_reasons(node, &["lbd_down"])?;
    }
    let active = the_active(&lab)?;
    owned_by(&lab, active)?;
    assert!(stays(&lab, active)?);
    lab.finish()
}

#[test]
fn maintenance_moves_the_role_away_and_keeps_it_away_unless_nobody_else_is_there() -> Result<()> {
    let lab = serving("maintenance", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    let (good, said, complaint) = vrrpd(lab.a(), &["maintenance", "on"]);
    assert!(good && said.contains("maintenance is on"), "{said}{complaint}");
    settled(&lab, lab.b())?;
    assert_eq!(reasons(lab.a()), ["maintenance"]);
    watch.wait_owner(mac(2))?;
    assert!(stays(&lab, lab.b())?, "the higher priority does not preempt now");

    let known = last_event(lab.a())?;
    lab.b().signal("vrrpd", Signal::SIGTERM)?;
    lab.a().wait_role("web", "active", LIMIT)?;
    owned_by(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    wait_event(lab.a(), known, &json!({ "event": "role", "to": "active", "reason": "handover" }))?;
    lab.b().wait_end("vrrpd", LIMIT)?;

    lab.b().start_vrrpd()?;
    settled(&lab, lab.b())?;
    watch.wait_owner(mac(2))?;
    let (good, said, _) = vrrpd(lab.a(), &["maintenance", "off"]);
    assert!(good && said.contains("maintenance is off"), "{said}");
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    seen.assert_all_served();
    seen.assert_one_owner(INTERVAL);
    seen.assert_announced_last_by(mac(1));
    lab.finish()
}

#[test]
fn lbd_is_not_needed_where_it_is_not_tracked() -> Result<()> {
    let lab = Lab::builder("untracked").targets(2).build()?;
    let instance = Instance { extra: "track = { lbd = false }".to_owned(), ..every("100ms") };
    lab.write_config(&config(&lab, instance))?;
    start_all(&lab)?;
    lab.a().signal("lbd", Signal::SIGKILL)?;
    assert!(stays(&lab, lab.a())?);
    assert_eq!(reasons(lab.a()), Vec::<String>::new());
    lab.finish()
}
