//! A new configuration applied to a running node.

use common::config::VrrpVersion;
use common::ipc::Role;
use common::key::PairKey;
use common::time::Duration;
use ipnet::IpNet;
use vrrpd_core::event::{Event, Reason};
use vrrpd_core::node::{Action, Input};
use vrrpd_core::peer::Body;
use vrrpd_core::settings::{RouterSettings, Settings};

use crate::harness::*;

fn reload(lab: &mut Lab, settings: Settings) -> Vec<Action> {
    lab.input(Input::Reconfigure(Box::new(settings)))
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn role_events(actions: &[Action]) -> Vec<(Role, Reason)> {
    let change = |event: Event| match event {
        Event::Role { to, reason, .. } => Some((to, reason)),
        _ => None,
    };
    events(actions).into_iter().filter_map(change).collect()
}

fn addresses(actions: &[Action]) -> (Vec<IpNet>, Vec<IpNet>) {
    let (mut added, mut removed) = (vec![], vec![]);
    for action in actions {
        match action {
            Action::AddAddresses { addresses, .. } => added.extend(addresses),
            Action::RemoveAddresses { addresses, .. } => removed.extend(addresses),
            _ => {}
        }
    }
    (added, removed)
}

#[test]
fn the_same_configuration_changes_nothing() {
    let mut lab = Lab::active(settings());
    let actions = reload(&mut lab, settings());
    assert_eq!(addresses(&actions), (vec![], vec![]));
    assert!(matches!(events(&actions)[..], [Event::Reloaded { .. }]));
    assert!(actions.contains(&Action::Routers));
    assert_eq!(adverts(&lab.run_for(Duration::from_secs(1))).len(), 10);
}

#[test]
fn only_the_difference_of_addresses_is_applied() {
    let with =
        |vips: &[&str]| settings_with(|router| router.addresses = vips.iter().map(|vip| net(vip)).collect());
    let mut lab = Lab::active(with(&["192.0.2.100/24", "192.0.2.101/24"]));
    let actions = reload(&mut lab, with(&["192.0.2.101/24", "192.0.2.102/24"]));
    assert_eq!(addresses(&actions), (vec![net("192.0.2.102/24")], vec![net("192.0.2.100/24")]));
    assert_eq!(frames(&actions).len(), 2, "announced at once");
    let place = |wanted: &Action| actions.iter().position(|action| action == wanted);
    let told = place(&Action::Guard { slot: SLOT, active: true });
    assert!(told.is_some() && told > place(&Action::Routers), "the warden is to know, and the new ones");
    assert!(role_events(&actions).is_empty());
    let advert = lab.run_for(INTERVAL).iter().find_map(|(_, action)| advert_sent(action)).unwrap();
    assert_eq!(advert.addresses, [ip("192.0.2.101"), ip("192.0.2.102")]);
}

#[test]
fn a_backups_addresses_are_only_noted() {
    let mut lab = Lab::backup(settings());
    let actions = reload(&mut lab, settings_with(|router| router.addresses = vec![net("192.0.2.9/32")]));
    assert_eq!(addresses(&actions), (vec![], vec![]));
    lab.run_until_role(Role::Active);
}

#[test]
fn a_shorter_interval_takes_effect_at_once() {
    let slow = || settings_with(|router| router.interval = Duration::from_secs(10));
    let mut lab = Lab::active(slow());
    lab.run_for(Duration::from_secs(1));
    reload(&mut lab, settings());
    let start = lab.at();
    let sent = adverts(&lab.run_for(ms(500)));
    assert_eq!(sent[0].0 - start, INTERVAL);
    assert_eq!((sent.len(), lab.role()), (5, Role::Active));
    // And back: the next one is on time, those after it are slow.
    reload(&mut lab, slow());
    assert_eq!(adverts(&lab.run_for(Duration::from_secs(11))).len(), 2);
}

#[test]
fn a_backup_keeps_the_interval_it_learned_but_not_in_version_2() {
    let version = |version, interval| {
        settings_with(move |router: &mut RouterSettings| {
            router.version = version;
            router.interval = interval;
            router.preempt = false;
        })
    };
    let second = Duration::from_secs(1);
    for (number, expected) in [(VrrpVersion::V3, second), (VrrpVersion::V2, second * 2)] {
        let mut lab = Lab::backup(version(number, second));
        lab.hear(100);
        reload(&mut lab, version(number, second * 2));
        let learned = lab.node.status().instances[0].routers[0].active_interval_ms;
        assert_eq!(Duration::from_millis(learned), expected, "{number:?}");
    }
}

#[test]
fn a_new_priority_is_advertised_and_no_role_changes_for_it() {
    let mut lab = Lab::active(settings());
    let actions = reload(&mut lab, settings_with(|router| router.priority = 150));
    assert!(role_events(&actions).is_empty());
    assert_eq!(adverts(&lab.run_for(INTERVAL))[0].1, 150);
}

#[test]
fn a_reload_says_anew_whether_lbd_is_awaited_until_that_has_spoken() {
    let replicating = |replicates| Settings { replicates, ..linked(settings()) };
    let mut lab = Lab::backup(replicating(true));
    for replicates in [false, true] {
        reload(&mut lab, replicating(replicates));
        assert_eq!(lab.node.is_behind(), replicates);
    }
    lab.input(Input::Behind(false));
    reload(&mut lab, replicating(true));
    assert!(!lab.node.is_behind());
}

#[test]
fn another_interface_is_another_router() {
    let mut lab = Lab::active(settings());
    let moved = || settings_with(|router| router.interface = "eth1".to_owned());
    let actions = reload(&mut lab, moved());
    assert_eq!(role_events(&actions), [(Role::Init, Reason::Removed), (Role::Fault, Reason::Interface)]);
    assert_eq!(priorities(&actions), [0]);
    lab.input(Input::Interface { name: "eth1", state: Some(interface_up()) });
    assert_eq!(lab.role(), Role::Backup);
    lab.interface(None);
    assert_eq!(lab.role(), Role::Backup, "the old interface does not matter any more");
}

#[test]
fn a_known_interface_is_used_at_once() {
    let mut lab = Lab::active(settings());
    lab.input(Input::Interface { name: "eth1", state: Some(interface_up()) });
    let actions = reload(&mut lab, settings_with(|router| router.interface = "eth1".to_owned()));
    assert_eq!(role_events(&actions), [(Role::Init, Reason::Removed), (Role::Backup, Reason::Startup)]);
}

#[test]
fn instances_come_and_go() {
    let second = || {
        let mut settings = settings();
        let mut more = settings.instances[0].clone();
        more.name = "second".to_owned();
        more.routers[0].instance = "second".to_owned();
        more.routers[0].vrid = 52;
        more.routers[0].addresses = vec![net("192.0.2.200/24")];
        settings.instances.push(more);
        settings
    };
    let mut lab = Lab::active(settings());
    let actions = reload(&mut lab, second());
    assert_eq!(lab.role(), Role::Active, "the first goes on");
    assert_eq!(role_events(&actions), [(Role::Backup, Reason::Startup)]);
    assert_eq!(lab.node.slots().count(), 2);
    lab.run_for(Duration::from_secs(1));
    assert_eq!(lab.node.instance_role("second"), Some(Role::Active));
    let mut only_second = second();
    only_second.instances.remove(0);
    let actions = reload(&mut lab, only_second);
    assert_eq!(role_events(&actions), [(Role::Init, Reason::Removed)]);
    assert_eq!(lab.node.instance_role(INSTANCE), None);
    assert_eq!(lab.node.instance_role("second"), Some(Role::Active));
    // The free slot is used again.
    let slots: Vec<u8> = lab.node.slots().map(|(slot, _)| slot).collect();
    assert_eq!(slots, [1]);
    reload(&mut lab, second());
    assert_eq!(lab.role(), Role::Backup);
}

#[test]
fn a_removed_router_ends_its_handover() {
    let (mut lab, _) = crate::switchover::active();
    lab.input(Input::Switchover { instance: INSTANCE, token: 5 });
    let actions = reload(&mut lab, linked(settings_with(|router| router.vrid = 99)));
    let answered = |action: &Action| matches!(action, Action::SwitchoverDone { token: 5, result: Err(_) });
    assert!(actions.iter().any(answered));
}

#[test]
fn a_new_key_is_used_for_both_links() {
    let keyed = |key: PairKey| {
        let mut settings = linked(settings_with(|router| router.auth = common::config::Auth::Hmac));
        settings.key = Some(key);
        settings
    };
    let mut lab = Lab::active(keyed(key()));
    let mut peer = Peer::new();
    peer.beat(&mut lab);
    assert!(lab.node.status().peer_link.alive);
    reload(&mut lab, keyed(PairKey::new([9; 32])));
    assert_eq!(lab.role(), Role::Active);
    assert!(!lab.node.status().peer_link.alive);
    peer.beat(&mut lab);
    assert!(!lab.node.status().peer_link.alive, "the peer still has the old key");
    assert_eq!(crate::handover::peer_drops(&lab, "tag"), 1);
    let router = lab.first();
    let meta = meta_from(PEER);
    let advert = advert_of(&router, 255);
    for (key, role) in [(key(), Role::Active), (PairKey::new([9; 32]), Role::Backup)] {
        let mut signer = vrrpd_core::auth::Signer::new(&key);
        let bytes = vrrpd_core::auth::emit_signed(
            &advert,
            meta.source,
            meta.destination,
            router.checksum,
            &mut signer,
            lab.unix(),
        );
        lab.hear_bytes(&bytes, meta);
        assert_eq!(lab.role(), role);
    }
}

#[test]
fn another_address_of_the_peer_does_not_bring_old_datagrams_back() {
    let (mut lab, mut peer) = crate::handover::backup();
    let release = peer.datagram(&lab, Body::Release { routers: vec![peer.router()] });
    lab.input(Input::Peer(&release));
    let mut moved = linked(settings_with(|router| router.priority = 100));
    moved.peer_link.as_mut().unwrap().remote = ip("10.0.0.99");
    reload(&mut lab, moved);
    lab.hear(255);
    lab.run_for(ms(50));
    assert_eq!(lab.role(), Role::Active, "it defers");
    peer.beat_as(&mut lab, Role::Backup, 0);
    lab.run_for(ms(100));
    lab.hear(255);
    assert_eq!(lab.role(), Role::Backup);
    lab.input(Input::Peer(&release));
    assert_eq!((lab.role(), crate::handover::peer_drops(&lab, "replayed")), (Role::Backup, 1));
}

#[test]
fn the_peer_link_comes_and_goes() {
    let mut lab = Lab::active(settings());
    reload(&mut lab, linked(settings()));
    let mut peer = Peer::new();
    peer.beat(&mut lab);
    assert!(lab.node.status().peer_link.alive);
    reload(&mut lab, settings());
    assert!(!lab.node.status().peer_link.configured);
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn health_is_kept_where_tracking_stays() {
    let gateway = || {
        let mut settings = settings();
        settings.instances[0].track.gateway = Some(ip("192.0.2.254"));
        settings
    };
    let mut lab = Lab::active(gateway());
    lab.run_for(Duration::from_secs(2));
    assert_eq!(lab.node.status().instances[0].reasons, ["gateway"]);
    reload(&mut lab, gateway());
    assert_eq!(lab.node.status().instances[0].reasons, ["gateway"]);
    reload(&mut lab, settings());
    assert!(lab.node.status().instances[0].reasons.is_empty());
}

#[test]
fn a_stopping_node_is_not_reconfigured() {
    let (mut lab, _) = crate::switchover::active();
    lab.input(Input::Shutdown);
    assert!(events(&reload(&mut lab, settings())).is_empty());
    assert!(lab.node.settings().peer_link.is_some());
}
