//! A node loses its power and comes back.

use std::time::Duration;

use crate::pair_support::{CALM, LIMIT, Seen, Watch, events, every, is, owned_by, serving, settled};
use integration::lab::addresses::mac;
use integration::lab::clock::{now, wait_until};
use integration::lab::config::Instance;
use integration::lab::fault::Fault;
use integration::lab::{Lab, Result};
use serde_json::{Value, json};

const INTERVAL: Duration = Duration::from_millis(100);

/// Cuts the active node's power, waits until the other one serves, and boots it again. What was seen from then on.
fn lose_power_and_boot(lab: &Lab) -> Result<Watch> {
    let power = Fault::power_loss("a");
    lab.inject(&power)?;
    lab.b().wait_role("web", "active", LIMIT)?;
    let watch = Watch::begin(lab)?;
    watch.wait_owner(mac(2))?;
    lab.heal(&power)?;
    for vip in crate::pair_support::vips() {
        assert!(!lab.a().holds(vip)?);
    }
    lab.a().start_lbd()?;
    lab.a().start_vrrpd()?;
    Ok(watch)
}

fn assert_nothing_lost(seen: &Seen, last: u8) {
    seen.assert_all_served();
    seen.assert_one_owner(INTERVAL);
    seen.assert_announced_last_by(mac(last));
}

#[test]
fn a_node_that_comes_back_preempts_without_a_loss() -> Result<()> {
    let lab = serving("power", every("100ms"))?;
    let watch = lose_power_and_boot(&lab)?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    assert_nothing_lost(&seen, 1);
    assert_eq!(seen.roles_of("b"), ["active", "backup"]);
    lab.finish()
}

#[test]
fn without_preempt_it_stays_backup() -> Result<()> {
    let lab = serving("no-preempt", Instance { preempt: false, ..every("100ms") })?;
    let watch = lose_power_and_boot(&lab)?;
    settled(&lab, lab.b())?;
    let back = now();
    wait_until("time to preempt in vain", LIMIT, || now() - back > CALM)?;
    settled(&lab, lab.b())?;
    let seen = watch.end()?;
    assert_nothing_lost(&seen, 2);
    assert_eq!(seen.roles_of("b"), ["active"]);
    lab.finish()
}

#[test]
fn preempt_delay_is_waited_for() -> Result<()> {
    let lab = serving("delay", Instance { preempt_delay: "1500ms".to_owned(), ..every("100ms") })?;
    let watch = lose_power_and_boot(&lab)?;
    settled(&lab, lab.b())?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    assert_nothing_lost(&seen, 1);
    let events = events(lab.a())?;
    let role = |to: &str| json!({ "event": "role", "family": "ipv4", "to": to });
    let at = |to: &str| {
        events.iter().find(|event| is(event, &role(to))).and_then(|event| event["at_unix_ms"].as_u64())
    };
    let waited = at("active").zip(at("backup")).map(|(active, backup)| active - backup);
    assert!(waited >= Some(1500), "{waited:?} ms in {:?}", messages(&events));
    lab.finish()
}

#[test]
fn the_backups_power_loss_concerns_nobody() -> Result<()> {
    let lab = serving("backup-power", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    let power = Fault::power_loss("b");
    lab.inject(&power)?;
    crate::pair_support::wait_event(lab.a(), 0, &json!({ "event": "peer_link", "alive": false }))?;
    lab.heal(&power)?;
    lab.b().start_lbd()?;
    lab.b().start_vrrpd()?;
    settled(&lab, lab.a())?;
    owned_by(&lab, lab.a())?;
    let seen = watch.end()?;
    seen.assert_all_served();
    seen.assert_one_owner(INTERVAL);
    seen.assert_announced_by_nobody_but(mac(1));
    assert_eq!(seen.roles_of("a"), ["active"]);
    lab.finish()
}

fn messages(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["message"].as_str()).collect()
}
