//! What the two make of settings that differ: what keepalived 2.2.7 does not take, and what is learned.

use std::time::Duration;

use integration::lab::addresses::vip6;
use integration::lab::clock::wait_until;
use integration::lab::fault::Fault;
use integration::lab::{Lab, Result};
use serde_json::Value;

use crate::pair::{INSTANCE, LIMIT, Pair, Preferred, Setup, link_local};

/// Waits for a line of keepalived's log.
fn wait_log(pair: &Pair, line: &str) -> Result<()> {
    let what = format!("keepalived to log {line:?}");
    wait_until(&what, LIMIT, || pair.lab.b().log("keepalived").contains(line))
}

/// keepalived computes the checksum of version 3 over IPv4 with the pseudo-header, and takes no other.
#[test]
fn the_checksum_of_the_message_alone_is_for_others_than_keepalived() -> Result<()> {
    let mut setup = Setup::new("checksum", Preferred::Keepalived, 100);
    setup.vips.truncate(1);
    setup.extra = "checksum = \"message\"\n".to_owned();
    let pair = Pair::new(setup)?;
    pair.start_vrrpd()?;
    pair.wait_role("active")?;
    pair.start_keepalived()?;
    wait_log(&pair, "(web4) Invalid VRRPv3 checksum")?;
    // The other way there is no trouble: vrrpd takes both.
    pair.wait_role("backup")?;
    assert_eq!(pair.drops()?, []);
    pair.lab.finish()
}

#[test]
fn vrrpd_takes_either_checksum_from_the_other_node() -> Result<()> {
    let lab = Lab::builder("checksums").targets(0).build()?;
    let mut setup = Setup::new("checksums", Preferred::Vrrpd, 100);
    let router = || -> Result<Value> {
        let status = lab.b().get("vrrpd", "/v1/status")?.json()?;
        Ok(status["instances"][0]["routers"][0].clone())
    };
    for (active, backup) in [("message", "pseudo_header"), ("pseudo_header", "message")] {
        for (node, checksum) in [(lab.a(), active), (lab.b(), backup)] {
            setup.extra = format!("checksum = \"{checksum}\"\n");
            lab.write_config(&setup.config(&lab))?;
            node.start_vrrpd()?;
            lab.a().wait_role(INSTANCE, "active", LIMIT)?;
        }
        wait_until("b to hear a", LIMIT, || {
            router().is_ok_and(|router| router["adverts_received"].as_u64() > Some(5))
        })?;
        let router = router()?;
        assert_eq!((router["role"].as_str(), &router["drops"]), (Some("backup"), &Value::Array(Vec::new())));
        lab.b().stop("vrrpd")?;
        lab.a().stop("vrrpd")?;
    }
    lab.finish()
}

/// keepalived drops advertisements that list other addresses than its own, whatever their order.
#[test]
fn keepalived_wants_the_same_addresses_in_any_order() -> Result<()> {
    let vips =
        [vec![vip6(0).into()], vec![vip6(0).into(), vip6(1).into()], vec![vip6(0).into(), link_local()]];
    let answers = [
        Some("(web6) received an unexpected ip number count 2, expected 1!"),
        Some("(web6) ip address associated with VRID 51 not present in MASTER advert: fd77::51"),
        None,
    ];
    let mut setup = Setup::new("addresses", Preferred::Vrrpd, 100);
    setup.vips = vec![vip6(0).into()];
    let mut pair = Pair::new(setup)?;
    pair.start_vrrpd()?;
    pair.wait_role("active")?;
    for (vips, answer) in vips.into_iter().zip(answers) {
        pair.keepalived.vips = vips;
        pair.start_keepalived()?;
        match answer {
            Some(line) => wait_log(&pair, line)?,
            None => pair.wait_owner(pair.lab.a())?,
        }
        pair.lab.b().stop("keepalived")?;
    }
    pair.lab.finish()
}

/// The interval in force is the active router's, not the one configured.
#[test]
fn each_learns_the_interval_of_the_other() -> Result<()> {
    let mut pair = Pair::new(Setup::new("intervals", Preferred::Vrrpd, 100))?;
    pair.keepalived.advert_interval_ms = 10_000;
    pair.start_vrrpd()?;
    pair.wait_role("active")?;
    pair.start_keepalived()?;
    for instance in ["web4", "web6"] {
        wait_log(
            &pair,
            &format!("({instance}) advertisement interval updated from 10000ms to 100ms by master"),
        )?;
    }
    pair.lab.inject(&Fault::power_loss("a"))?;
    // By its own interval this would take 36 s.
    pair.wait_owner(pair.lab.b())?;
    pair.lab.heal(&Fault::power_loss("a"))?;

    pair.keepalived.advert_interval_ms = 200;
    pair.keepalived.priority = 250;
    pair.start_keepalived()?;
    pair.start_vrrpd()?;
    pair.wait_role("backup")?;
    let learned = || {
        let status = pair.lab.a().get("vrrpd", "/v1/status").and_then(|answer| answer.json()).ok()?;
        status["instances"][0]["routers"][1]["active_interval_ms"].as_u64()
    };
    wait_until("vrrpd to learn the interval", LIMIT, || learned() == Some(200))?;
    let counted = ("interval_mismatch_accepted".to_owned(), true);
    let drops = || -> Result<Vec<_>> {
        Ok(pair.drops()?.into_iter().map(|(reason, count)| (reason, count > 0)).collect())
    };
    let of_both = [counted.clone(), counted];
    wait_until("it to be noticed for each family", LIMIT, || drops().is_ok_and(|drops| drops == of_both))?;
    pair.lab.finish()
}

/// Without preemption the one that came first stays, be it the one or the other.
#[test]
fn without_preemption_the_role_stays() -> Result<()> {
    for preferred in [Preferred::Vrrpd, Preferred::Keepalived] {
        let pair = Pair::new(Setup { preempt: false, ..Setup::new("no preemption", preferred, 100) })?;
        if preferred == Preferred::Vrrpd {
            pair.start_keepalived()?;
            pair.wait_owner(pair.lab.b())?;
            pair.start_vrrpd()?;
            pair.stays(pair.lab.b(), Duration::from_secs(1))?;
            pair.wait_role("backup")?;
            pair.lab.b().stop("keepalived")?;
            pair.finish(Lab::a)?;
        } else {
            pair.start_vrrpd()?;
            pair.wait_owner(pair.lab.a())?;
            pair.start_keepalived()?;
            wait_log(&pair, "(web6) Entering BACKUP STATE")?;
            pair.stays(pair.lab.a(), Duration::from_secs(1))?;
            pair.lab.a().stop("vrrpd")?;
            pair.finish(Lab::b)?;
        }
    }
    Ok(())
}
