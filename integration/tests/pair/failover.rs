//! Planned changes and deaths of daemons: who takes over, and what the one that leaves no longer holds.

use std::time::Duration;

use crate::pair_support::{
    Footprint, LIMIT, Watch, assert_order, events, every, last_event, owned_by, prepared, serving, settled,
    transitions, vrrpd, wait_event,
};
use integration::lab::addresses::mac;
use integration::lab::clock::{now, wait_until};
use integration::lab::config::Instance;
use integration::lab::{Lab, Node, Result};
use nix::sys::signal::Signal;
use serde_json::json;

const INTERVAL: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_higher_priority_is_active_whoever_starts_first() -> Result<()> {
    for first in ["a", "b"] {
        let lab = prepared("order", every("100ms"))?;
        let first = lab.node(first)?;
        for node in [first, lab.peer_of(first)] {
            node.start_lbd()?;
            node.start_vrrpd()?;
            // Alone it serves; the second one finds it doing so.
            if node.name() == first.name() {
                node.wait_role("web", "active", LIMIT)?;
            }
        }
        settled(&lab, lab.a())?;
        let expected = if first.name() == "a" { 1 } else { 2 };
        assert_eq!(transitions(lab.b()), 2 * (2 * expected - 1), "b: backup, or active in between");
        lab.finish()?;
    }
    Ok(())
}

#[test]
fn a_switchover_by_command_loses_nothing_and_sticks() -> Result<()> {
    let lab = serving("switchover", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    for (from, to, number) in [(lab.a(), lab.b(), 2), (lab.b(), lab.a(), 1)] {
        let (good, said, complaint) = vrrpd(from, &["switchover", "web"]);
        assert!(good, "{complaint}");
        assert!(said.contains(&format!("active on node {}", to.name())), "{said}");
        to.wait_role("web", "active", LIMIT)?;
        from.wait_role("web", "backup", LIMIT)?;
        owned_by(&lab, to)?;
        watch.wait_owner(mac(number))?;
        watch.steady()?;
        // Three times as long as a preempting node would have waited.
        let done = now();
        wait_until("time to preempt in vain", LIMIT, || now() - done > 12 * INTERVAL)?;
        assert_eq!(to.role("web").as_deref(), Some("active"), "it does not come back by itself");
    }
    let (good, _, complaint) = vrrpd(lab.b(), &["switchover", "web"]);
    assert!(!good && complaint.contains("only the active node"), "{complaint}");
    let seen = watch.end()?;
    seen.assert_all_served();
    seen.assert_one_owner(INTERVAL);
    seen.assert_announced_last_by(mac(1));
    assert_eq!(seen.roles_of("a"), ["active", "backup", "active"]);
    assert_eq!(seen.roles_of("b"), ["backup", "active", "backup"]);
    assert_order(
        &events(lab.a())?,
        &[
            json!({ "event": "role", "to": "backup", "reason": "handed_over" }),
            json!({ "event": "role", "to": "active", "reason": "handover" }),
        ],
    );
    lab.finish()
}

#[test]
fn sigterm_hands_over_and_leaves_the_node_as_it_was() -> Result<()> {
    let lab = prepared("sigterm", every("1s"))?;
    lab.a().start_lbd()?;
    let before = Footprint::of(lab.a())?;
    lab.a().start_vrrpd()?;
    lab.b().start_lbd()?;
    lab.b().start_vrrpd()?;
    settled(&lab, lab.a())?;
    let running = Footprint::of(lab.a())?;
    assert!(running.has_vip_routes() && Footprint::of(lab.b())?.has_vip_routes(), "{running:?}");
    assert_eq!(running.sysctls, ["1", "2", "0"]);

    let watch = Watch::begin(&lab)?;
    end_with(lab.a(), Signal::SIGTERM)?;
    assert_eq!(Footprint::of(lab.a())?, before, "and lbd runs on");
    lab.b().wait_role("web", "active", LIMIT)?;
    watch.wait_owner(mac(2))?;
    watch.steady()?;

    lab.a().start_vrrpd()?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    seen.assert_all_served();
    seen.assert_one_owner(SECOND);
    seen.assert_announced_last_by(mac(1));
    lab.finish()
}

#[test]
fn sigkill_of_vrrpd_frees_the_vips_and_the_peer_need_not_wait() -> Result<()> {
    let lab = serving("sigkill", every("1s"))?;
    let watch = Watch::begin(&lab)?;
    let killed = lab.a().signal("vrrpd", Signal::SIGKILL)?;
    owned_by(&lab, lab.b())?;
    watch.wait_owner(mac(2))?;
    // Of what ran on it, only lbd does.
    wait_until("the warden to end", LIMIT, || {
        lab.a().namespace().pids().is_ok_and(|pids| pids.iter().all(|pid| program_of(*pid) == "lbd"))
    })?;
    watch.steady()?;
    assert!(Footprint::of(lab.a())?.has_vip_routes(), "connections that are being served go on");

    lab.a().start_vrrpd()?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    let taken = seen.roles.of("b", "web").find(|change| change.seen.is("active")).expect("b was active");
    let waited = taken.at - killed.before;
    assert!(waited < SECOND + seen.pause(), "b was active after {waited:?}; Active_Down takes 3.6 s");
    for report in &seen.probes {
        let gap = report.longest_gap().length();
        assert!(gap < SECOND + report.longest_pause(), "{}", report.summary());
    }
    seen.assert_one_owner(SECOND);
    seen.assert_announced_last_by(mac(1));
    assert_order(
        &events(lab.b())?,
        &[
            json!({ "event": "role", "to": "active", "reason": "released" }),
            json!({ "event": "role", "to": "backup", "reason": "higher_priority" }),
        ],
    );
    lab.finish()
}

#[test]
fn sigstop_of_vrrpd_frees_the_vips_and_it_wakes_up_as_backup() -> Result<()> {
    for preempt in [true, false] {
        let lab = serving("sigstop", Instance { preempt, ..every("100ms") })?;
        let watch = Watch::begin(&lab)?;
        let known = last_event(lab.a())?;
        let stopped = lab.a().signal("vrrpd", Signal::SIGSTOP)?;
        owned_by(&lab, lab.b())?;
        watch.wait_owner(mac(2))?;
        watch.steady()?;
        wait_until("a to have been asleep for a while", LIMIT, || now() - stopped.after > 10 * INTERVAL)?;
        lab.a().signal("vrrpd", Signal::SIGCONT)?;
        for family in ["ipv4", "ipv6"] {
            let woken = json!({ "event": "role", "family": family, "from": "active", "to": "backup" });
            let event = wait_event(lab.a(), known, &woken)?;
            let reason = event["reason"].as_str().unwrap_or_default();
            assert!(["warden", "stalled"].contains(&reason), "{event}");
        }
        if preempt {
            settled(&lab, lab.a())?;
        } else {
            let woken = now();
            wait_until("time to preempt in vain", LIMIT, || now() - woken > 12 * INTERVAL)?;
            settled(&lab, lab.b())?;
        }
        watch.steady()?;
        let seen = watch.end()?;
        seen.assert_one_owner(INTERVAL);
        seen.assert_announced_last_by(mac(if preempt { 1 } else { 2 }));
        for report in &seen.probes {
            let gap = report.longest_gap().length();
            assert!(gap < SECOND + report.longest_pause(), "{}", report.summary());
        }
        lab.finish()?;
    }
    Ok(())
}

#[test]
fn a_warden_that_was_killed_is_replaced_and_guards_again() -> Result<()> {
    let lab = serving("warden", every("100ms"))?;
    let warden = |lab: &Lab| -> Result<Option<i32>> {
        let pids = lab.a().namespace().pids()?;
        Ok(pids.into_iter().find(|pid| is_warden(*pid)))
    };
    let first = warden(&lab)?.expect("there is a warden");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), Signal::SIGKILL).expect("it can be killed");
    wait_until("another warden", LIMIT, || {
        warden(&lab).is_ok_and(|found| found.is_some_and(|pid| pid != first))
    })?;
    settled(&lab, lab.a())?;
    assert_eq!(transitions(lab.a()), 4, "init, backup, active, in both families");
    lab.a().signal("vrrpd", Signal::SIGKILL)?;
    owned_by(&lab, lab.b())?;
    lab.finish()
}

/// Sends a signal to a node's `vrrpd` and waits for its good end.
fn end_with(node: &Node, signal: Signal) -> Result<()> {
    node.signal("vrrpd", signal)?;
    let ended = node.wait_end("vrrpd", LIMIT)?;
    assert!(ended.success(), "{ended}: {}", node.log("vrrpd"));
    Ok(())
}

fn program_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn is_warden(pid: i32) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).any(|word| word == b"warden")
}
