//! A node that has booted, and what its `lbd` has not said yet.

use common::ipc::Role;
use common::time::Duration;
use vrrpd_core::node::Input;
use vrrpd_core::settings::Settings;
use vrrpd_core::track::LbdState;

use crate::harness::*;
use crate::health::serving;

/// A node that boots beside one of lower priority that is active and well, and whose `lbd` is to say whether it lacks connections.
fn booted() -> Lab {
    let mut settings = linked(settings());
    settings.replicates = true;
    let mut lab = Lab::backup(settings);
    lab.hear_for(100, Duration::from_secs(100));
    assert_eq!((lab.role(), lab.node.status().behind), (Role::Backup, true));
    lab
}

#[test]
fn a_node_that_has_booted_preempts_nobody_before_its_lbd_has_spoken() {
    let preempts = |lab: &mut Lab| {
        lab.hear_for(100, Duration::from_secs(1));
        lab.role() == Role::Active
    };
    let mut lab = booted();
    lab.input(Input::Behind(true));
    lab.input(Input::Lbd(serving()));
    assert!(!preempts(&mut lab), "it lacks something");
    lab.input(Input::Behind(false));
    assert!(preempts(&mut lab));
    let mut lab = booted();
    lab.input(Input::Lbd(LbdState::Absent));
    assert!(!preempts(&mut lab), "it is not there yet");
    lab.input(Input::Lbd(serving()));
    assert!(preempts(&mut lab), "it is well, and has not said that it lacks anything: it replicates nothing");
    // What the last one said holds beyond its end.
    lab.input(Input::Lbd(LbdState::Absent));
    assert!(!lab.node.status().behind);
    booted().run_until_role(Role::Active);
}

#[test]
fn an_owner_that_has_booted_waits_for_its_lbd() {
    let mut settings = linked(settings_with(|router| router.priority = 255));
    settings.instances[0].priority = 255;
    let mut alone = Lab::new(settings.clone());
    assert_eq!(
        priorities(&alone.interface(Some(interface_up()))),
        [255],
        "one without services is active at once"
    );
    settings.replicates = true;
    let mut lab = Lab::backup(settings);
    lab.hear_for(100, Duration::from_secs(2));
    assert_eq!(lab.role(), Role::Backup);
    lab.input(Input::Behind(false));
    lab.hear_for(100, Duration::from_secs(1));
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn whether_an_lbd_is_to_say_what_it_lacks_follows_from_the_configuration() {
    const PAIR: &str = r#"
        [pair]
        name = "edge"
        key_file = "pair.key"
    "#;
    const NODES: &str = r#"
        [[node]]
        name = "a"
        peer_address = "10.0.0.1"
        [[node]]
        name = "b"
        peer_address = "10.0.0.2"
    "#;
    const VRRP: &str = r#"
        [[vrrp]]
        name = "web"
        interface = "eth0"
        vrid = 51
        priority = { a = 200, b = 100 }
        vips = ["192.0.2.100/24"]
        track = { lbd = false }
    "#;
    const SERVICE: &str = r#"
        [[service]]
        name = "shop"
        mode = "tcp"
        listen = ["@web:80"]
        forward = "shop"
        [[target_group]]
        name = "shop"
        targets = [{ address = "10.0.1.11:8080" }]
    "#;
    let replicates = |parts: &[&str]| {
        let config = common::config::parse(&parts.concat(), std::path::Path::new("pair.toml"));
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        Settings::new(&config, "a", Some(key()), "1").unwrap().replicates
    };
    assert!(replicates(&[PAIR, NODES, VRRP, SERVICE]));
    assert!(!replicates(&[PAIR, NODES, VRRP]), "there is nothing to lack");
    let alone = NODES.replace("peer_address", "# peer_address");
    assert!(!replicates(&[PAIR, &alone, VRRP, SERVICE]), "there is nobody to learn from");
    let with_auth = |auth: &str| VRRP.replace("vrid", &format!("auth = \"{auth}\"\n        vrid"));
    assert!(!replicates(&[PAIR, NODES, &with_auth("none"), SERVICE]), "the other node may be anybody's");
    assert!(
        replicates(&[PAIR, NODES, &with_auth("permissive"), SERVICE]),
        "a key is rolled out between two of ours"
    );
}
