//! Other versions of the configuration file, put in force while the pair serves.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::pair_support::{
    CALM, LIMIT, Watch, config, events, every, is, last_event, router, serving, settled, status, transitions,
    vrrpd, wait_event,
};
use integration::lab::addresses::{mac, vip4, vip6};
use integration::lab::clock::{now, wait_until};
use integration::lab::config::{Instance, PairConfig};
use integration::lab::{Lab, Node, Result};
use nix::sys::signal::Signal;
use serde_json::json;

/// Tells both daemons of both nodes to read the file, and waits until `vrrpd` has it in force.
pub(crate) fn reload_everywhere(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        let known = last_event(node)?;
        node.signal("lbd", Signal::SIGHUP)?;
        node.signal("vrrpd", Signal::SIGHUP)?;
        wait_event(node, known, &json!({ "event": "reloaded" }))?;
    }
    let same = |node: &Node| status(node).is_some_and(|status| status["peer_link"]["same_config"] == true);
    wait_until("both to run the same configuration", LIMIT, || lab.nodes().into_iter().all(same))
}

/// Whether the client gets a page from this port of an address.
fn serves_at(lab: &Lab, vip: IpAddr, port: u16) -> bool {
    let ask =
        || integration::lab::http::tcp(SocketAddr::new(vip, port), "GET", "/", "", Duration::from_secs(1));
    let answer = lab.client().namespace().inside(ask);
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
}

#[test]
fn everything_can_be_changed_under_load_without_a_role_change_or_a_loss() -> Result<()> {
    let lab = serving("reload", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    let before = lab.nodes().map(transitions);

    // More VIPs.
    let mut instance = every("100ms");
    instance.vips.extend([IpAddr::V4(vip4(1)), IpAddr::V6(vip6(1))]);
    lab.write_config(&config(&lab, instance.clone()))?;
    reload_everywhere(&lab)?;
    for vip in [IpAddr::V4(vip4(1)), vip6(1).into()] {
        wait_until("the new VIP to serve", LIMIT, || serves_at(&lab, vip, 80))?;
        assert!(lab.a().holds(vip)? && !lab.b().holds(vip)?);
    }

    // Another interval, longer and shorter.
    for interval in ["250ms", "50ms"] {
        instance.advert_interval = interval.to_owned();
        lab.write_config(&config(&lab, instance.clone()))?;
        reload_everywhere(&lab)?;
        let expected = interval.trim_end_matches("ms").parse::<u64>().expect("milliseconds");
        wait_until("b to have learned it", LIMIT, || {
            router(lab.b(), "ipv4")["active_interval_ms"] == expected
        })?;
        wait_until("a to say so", LIMIT, || router(lab.a(), "ipv6")["advert_interval_ms"] == expected)?;
    }

    // Another priority: still the higher one.
    instance.priority = (180, 120);
    lab.write_config(&config(&lab, instance.clone()))?;
    reload_everywhere(&lab)?;
    wait_until("b to say its new one", LIMIT, || {
        status(lab.b()).is_some_and(|status| status["instances"][0]["priority"] == 120)
    })?;
    wait_until("b to hear the new one", LIMIT, || router(lab.b(), "ipv4")["last_advert_priority"] == 180)?;

    // One service more, one VIP less.
    instance.vips.truncate(2);
    let services = config(&lab, instance).service("alt", "tcp", "@web:8081", "web", "");
    lab.write_config(&services)?;
    reload_everywhere(&lab)?;
    for vip in crate::pair_support::vips() {
        wait_until("the new service", LIMIT, || serves_at(&lab, vip, 8081))?;
    }
    wait_until("the VIP to be gone", LIMIT, || !lab.a().holds(vip4(1)).unwrap_or(true))?;
    for node in lab.nodes() {
        let routes = node.run("ip", &["route", "show", "table", "local"])?;
        assert!(!routes.contains(&vip4(1).to_string()), "{routes}");
    }

    let calm = now();
    wait_until("some calm", LIMIT, || now() - calm > CALM)?;
    watch.steady()?;
    assert_eq!(lab.nodes().map(transitions), before, "no role changed");
    let seen = watch.end()?;
    seen.assert_all_served();
    seen.assert_one_owner(Duration::ZERO);
    assert_eq!((seen.roles_of("a").len(), seen.roles_of("b").len()), (1, 1));
    lab.finish()
}

#[test]
fn swapped_priorities_swap_the_roles_like_a_preemption() -> Result<()> {
    let lab = serving("swap", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    lab.write_config(&config(&lab, Instance { priority: (100, 200), ..every("100ms") }))?;
    reload_everywhere(&lab)?;
    settled(&lab, lab.b())?;
    watch.wait_owner(mac(2))?;
    watch.steady()?;
    let seen = watch.end()?;
    seen.assert_all_served();
    seen.assert_announced_last_by(mac(2));
    lab.finish()
}

/// As an editor does it: the file is the former one or the new one, never half of it.
fn replace_file(file: &Path, text: &str) {
    let fresh = file.with_extension("new");
    fs::write(&fresh, text).expect("it can be written");
    fs::rename(fresh, file).expect("it can be renamed");
}

#[test]
fn a_broken_file_changes_nothing_and_is_reported() -> Result<()> {
    let lab = serving("broken", every("100ms"))?;
    let file = lab.dir().join("pair.toml");
    let good = fs::read_to_string(&file).expect("it is there");
    let hash = |node| status(node).map(|status| status["config_hash"].clone());
    let before = (hash(lab.a()), lab.nodes().map(transitions));

    let unknown = good.replace("preempt = true", "preemt = true");
    let no_node = good.replace("name = \"a\"", "name = \"c\"").replace("{ a =", "{ c =");
    let refusals = |daemon, words: &str| lab.a().log(daemon).matches(words).count();
    for (text, complaint) in [
        (unknown.as_str(), "did you mean"),
        ("this is no TOML", "not valid TOML"),
        (no_node.as_str(), "no node a"),
        ("", "nothing to do"),
    ] {
        replace_file(&file, text);
        let (succeeded, said, complained) = vrrpd(lab.a(), &["reload"]);
        assert!(!succeeded && complained.contains(complaint), "{said} {complained}");
        for (daemon, words) in [
            ("vrrpd", "the former configuration stays in force"),
            ("lbd", "the configuration was not reloaded"),
        ] {
            let known = refusals(daemon, words);
            lab.a().signal(daemon, Signal::SIGHUP)?;
            wait_until("the report in the log", LIMIT, || refusals(daemon, words) > known)?;
        }
    }
    replace_file(&file, &good);
    assert_eq!((hash(lab.a()), lab.nodes().map(transitions)), before);
    assert!(events(lab.a())?.iter().all(|event| !is(event, &json!({ "event": "reloaded" }))));
    settled(&lab, lab.a())?;

    let (succeeded, said, complained) = vrrpd(lab.a(), &["reload"]);
    assert!(succeeded && said.contains("is in force"), "{complained}");
    lab.finish()
}

#[test]
fn a_node_with_another_file_is_reported_until_both_have_the_same() -> Result<()> {
    let lab = serving("mismatch", every("100ms"))?;
    let other = config(&lab, Instance { preempt_delay: "1s".to_owned(), ..every("100ms") });
    lab.write_config(&other)?;
    let (succeeded, _, complained) = vrrpd(lab.a(), &["reload"]);
    assert!(succeeded, "{complained}");
    // Who was reloaded knows that it was; the other one has news.
    wait_event(lab.b(), 0, &json!({ "event": "peer_differs" }))?;
    for node in lab.nodes() {
        wait_until("the status to say so", LIMIT, || {
            status(node).is_some_and(|status| status["peer_link"]["same_config"] == false)
        })?;
        let (_, table, _) = vrrpd(node, &["status"]);
        assert!(table.contains("OTHER configuration"), "{table}");
    }
    let hashes = lab.nodes().map(|node| status(node).map(|status| status["config_hash"].clone()));
    assert_ne!(hashes[0], hashes[1]);
    vrrpd(lab.b(), &["reload"]);
    for node in lab.nodes() {
        wait_until("the status to say so", LIMIT, || {
            status(node).is_some_and(|status| status["peer_link"]["same_config"] == true)
        })?;
        let (_, table, _) = vrrpd(node, &["status"]);
        assert!(table.contains("same configuration"), "{table}");
    }
    settled(&lab, lab.a())?;
    lab.finish()
}

#[test]
fn an_instance_that_is_added_or_removed_leaves_the_others_alone() -> Result<()> {
    let lab = serving("instances", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    let second = Instance {
        name: "dns".to_owned(),
        vrid: 52,
        priority: (100, 200),
        vips: vec![vip4(5).into(), vip6(5).into()],
        ..every("100ms")
    };
    let targets: Vec<_> = lab.targets().iter().map(integration::lab::Target::http_address).collect();
    let both = PairConfig::new(vec![every("100ms"), second])
        .service("web", "tcp", "@web:80", "web", "")
        .service("dns", "tcp", "@dns:80", "web", "")
        .target_group("web", &targets, "");
    lab.write_config(&both)?;
    reload_everywhere(&lab)?;
    lab.b().wait_role("dns", "active", LIMIT)?;
    lab.a().wait_role("dns", "backup", LIMIT)?;
    wait_until("the second instance to serve", LIMIT, || {
        serves_at(&lab, vip4(5).into(), 80) && serves_at(&lab, vip6(5).into(), 80)
    })?;
    assert!(lab.b().holds(vip4(5))? && !lab.a().holds(vip4(5))?);

    lab.write_config(&config(&lab, every("100ms")))?;
    reload_everywhere(&lab)?;
    assert_eq!(lab.b().role("dns"), None);
    wait_until("its VIPs to go", LIMIT, || {
        !lab.b().holds(vip4(5)).unwrap_or(true) && !lab.b().holds(vip6(5)).unwrap_or(true)
    })?;
    watch.steady()?;
    let seen = watch.end()?;
    seen.assert_all_served();
    seen.assert_one_owner(Duration::ZERO);
    assert_eq!((seen.roles_of("a").len(), seen.roles_of("b").len()), (1, 1));
    lab.finish()
}

#[test]
fn the_warden_knows_what_a_reload_added() -> Result<()> {
    let lab = serving("warden-reload", every("100ms"))?;
    let mut instance = every("100ms");
    let added: [IpAddr; 2] = [vip4(1).into(), vip6(1).into()];
    instance.vips.extend(added);
    lab.write_config(&config(&lab, instance))?;
    reload_everywhere(&lab)?;
    for vip in added {
        wait_until("the new VIP", LIMIT, || lab.a().holds(vip).unwrap_or(false))?;
    }
    lab.a().signal("vrrpd", Signal::SIGKILL)?;
    for vip in crate::pair_support::vips().into_iter().chain(added) {
        wait_until("b to hold it alone", LIMIT, || {
            lab.b().holds(vip).unwrap_or(false) && !lab.a().holds(vip).unwrap_or(true)
        })?;
    }
    lab.finish()
}
