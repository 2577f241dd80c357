//! Whatever comes in, in whatever order: no panic, and what [`crate::harness`] checks after every input holds.

use common::config::Auth;
use common::ipc::{LbdHealth, Role};
use common::time::Duration;
use proptest::collection::vec;
use proptest::prelude::*;
use vrrpd_core::neighbor;
use vrrpd_core::node::{Input, InterfaceState};
use vrrpd_core::packet::{Family, Meta};
use vrrpd_core::peer::{Body, RouterKey};
use vrrpd_core::settings::Settings;
use vrrpd_core::track::LbdState;

use crate::harness::*;

/// One thing that happens to a node.
#[derive(Clone, Debug)]
enum Happening {
    Run(u16),
    Sleep(u16),
    Timeout,
    Advert { priority: u8, from: u8, centiseconds: u16, v6: bool },
    AdvertNoise(Vec<u8>),
    Frame { mac: u8, last: u8 },
    FrameNoise(Vec<u8>),
    PeerNoise(Vec<u8>),
    Beat { role: u8, severity: u8, adverts: u8 },
    PeerBehind,
    Behind(bool),
    Offer(u64),
    Taken(u64),
    Refused(u64),
    Release(bool),
    Interface(u8),
    Lbd(u8),
    AddressAdded(bool),
    AddressRemoved,
    AcquireFailed(u8),
    WardenFired(u8),
    Switchover,
    Maintenance(bool),
    Reload(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        4 => (1_u16..700).prop_map(Run),
        1 => (1_u16..2_000).prop_map(Sleep),
        1 => Just(Timeout),
        6 => (any::<u8>(), 0_u8..6, 1_u16..4_096, any::<bool>())
            .prop_map(|(priority, from, centiseconds, v6)| Advert { priority, from, centiseconds, v6 }),
        1 => vec(any::<u8>(), 0..80).prop_map(AdvertNoise),
        1 => (9_u8..12, 98_u8..102).prop_map(|(mac, last)| Frame { mac, last }),
        1 => vec(any::<u8>(), 0..120).prop_map(FrameNoise),
        1 => vec(any::<u8>(), 0..120).prop_map(PeerNoise),
        4 => (0_u8..4, 0_u8..64, 0_u8..9)
            .prop_map(|(role, severity, adverts)| Beat { role, severity, adverts }),
        1 => Just(PeerBehind),
        1 => any::<bool>().prop_map(Behind),
        2 => (0_u64..6).prop_map(Offer),
        2 => (0_u64..12).prop_map(Taken),
        1 => (0_u64..12).prop_map(Refused),
        1 => any::<bool>().prop_map(Release),
        2 => (0_u8..6).prop_map(Interface),
        2 => (0_u8..4).prop_map(Lbd),
        1 => any::<bool>().prop_map(AddressAdded),
        1 => Just(AddressRemoved),
        1 => (0_u8..3).prop_map(AcquireFailed),
        1 => (0_u8..3).prop_map(WardenFired),
        1 => Just(Switchover),
        1 => any::<bool>().prop_map(Maintenance),
        1 => (0_u8..8).prop_map(Reload),
    ]
}

/// One of eight configurations.
fn configuration(which: u8) -> Settings {
    let mut routers = vec![router(Family::V4), router(Family::V6)];
    for router in &mut routers {
        router.preempt = which & 1 == 0;
        router.interval = if which & 2 == 0 { INTERVAL } else { ms(10) };
        router.priority = if which == 5 { 255 } else { 150 };
        router.preempt_delay = ms(u64::from(which) * 300);
        router.auth = if which == 6 { Auth::Permissive } else { Auth::None };
        if which == 4 {
            router.addresses.truncate(1);
            router.vrid = 60;
        }
        if which == 7 && router.family == Family::V4 {
            router.addresses.push("192.0.2.101/32".parse().unwrap());
        }
    }
    if which == 3 {
        routers.pop();
        routers[0].addresses.clear();
    }
    let mut settings = settings_of(routers);
    settings.instances[0].track.lbd = which & 4 == 0;
    settings.instances[0].track.interfaces = vec!["eth1".to_owned()];
    settings.instances[0].track.gateway = (which & 2 == 0).then(|| ip("192.0.2.254"));
    linked(settings)
}

fn role(number: u8) -> Role {
    [Role::Init, Role::Backup, Role::Active, Role::Fault][usize::from(number % 4)]
}

fn interface(lab: &mut Lab, number: u8) {
    let (name, state) = match number {
        0 => (INTERFACE, None),
        1 => (INTERFACE, Some(InterfaceState { up: false, ..interface_up() })),
        2 => (INTERFACE, Some(InterfaceState { link_local: None, ..interface_up() })),
        3 => ("eth1", Some(interface_up())),
        4 => ("eth1", None),
        _ => (INTERFACE, Some(interface_up())),
    };
    lab.input(Input::Interface { name, state });
}

fn advert(lab: &mut Lab, priority: u8, from: u8, centiseconds: u16, v6: bool) {
    let Some(router) =
        lab.node.slots().map(|(_, router)| router.clone()).find(|router| (router.family == Family::V6) == v6)
    else {
        return;
    };
    let source = if v6 { format!("fe80::{}", from + 1) } else { format!("192.0.2.{}", from + 1) };
    let meta = meta_from(&source);
    let mut advert = advert_of(&router, priority);
    advert.interval = if from == 2 { ms(u64::from(centiseconds) * 10) } else { router.interval };
    if advert.addresses.is_empty() {
        advert.addresses.push(meta.source);
    }
    let bytes = advert.emit(meta.source, meta.destination, router.checksum);
    lab.hear_bytes(&bytes, meta);
}

fn lbd(number: u8) -> LbdState {
    let health =
        LbdHealth { workers_alive: number.into(), workers_expected: 3, services_without_targets: vec![] };
    if number == 0 { LbdState::Absent } else { LbdState::Alive(health) }
}

fn happen(lab: &mut Lab, peer: &mut Peer, happening: Happening) {
    let router = peer.router();
    match happening {
        Happening::Run(span) => drop(lab.run_for(ms(span.into()))),
        Happening::Sleep(span) => lab.sleep(ms(span.into())),
        Happening::Timeout => drop(lab.input(Input::Timeout)),
        Happening::Advert { priority, from, centiseconds, v6 } => {
            advert(lab, priority, from, centiseconds, v6);
        }
        Happening::AdvertNoise(bytes) => {
            let meta = Meta { hop_limit: 255, ..meta_from(PEER) };
            lab.hear_bytes(&bytes, meta);
        }
        Happening::Frame { mac, last } => {
            let frame = neighbor::gratuitous_arp([2, 0, 0, 0, 0, mac], [192, 0, 2, last].into());
            lab.input(Input::Frame { interface: INTERFACE, bytes: &frame });
        }
        Happening::FrameNoise(bytes) => {
            lab.input(Input::Frame { interface: INTERFACE, bytes: &bytes });
        }
        Happening::PeerNoise(bytes) => drop(lab.input(Input::Peer(&bytes))),
        Happening::Beat { role: number, severity, adverts } => {
            peer.report.adverts_sent += u64::from(adverts);
            peer.beat_as(lab, role(number), severity);
        }
        Happening::PeerBehind => drop(peer.beat_behind(lab)),
        Happening::Behind(behind) => drop(lab.input(Input::Behind(behind))),
        Happening::Offer(id) => drop(peer.say(lab, Body::Offer { router, id })),
        Happening::Taken(id) => drop(peer.say(lab, Body::Taken { router, id })),
        Happening::Refused(id) => drop(peer.say(lab, Body::Refused { router, id })),
        Happening::Release(known) => {
            let router = if known { router } else { RouterKey::new("other", Family::V6) };
            peer.say(lab, Body::Release { routers: vec![router; 3] });
        }
        Happening::Interface(number) => interface(lab, number),
        Happening::Lbd(number) => drop(lab.input(Input::Lbd(lbd(number)))),
        Happening::AddressAdded(ours) => {
            lab.input(Input::AddressAdded { interface: INTERFACE, ip: ip(VIP), ours });
        }
        Happening::AddressRemoved => {
            lab.input(Input::AddressRemoved { interface: INTERFACE, ip: ip(VIP) });
        }
        Happening::AcquireFailed(slot) => {
            lab.input(Input::AcquireFailed { slot, what: "no".to_owned() });
        }
        Happening::WardenFired(slot) => drop(lab.input(Input::WardenFired { slot })),
        Happening::Switchover => drop(lab.input(Input::Switchover { instance: INSTANCE, token: 1 })),
        Happening::Maintenance(on) => drop(lab.input(Input::Maintenance(on))),
        Happening::Reload(which) => {
            lab.input(Input::Reconfigure(Box::new(configuration(which))));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_the_node_can_always_be_stopped(
        which in 0_u8..8,
        happenings in vec(happening(), 1..80),
    ) {
        let mut lab = Lab::new(configuration(which));
        let mut peer = Peer::new();
        for happening in happenings {
            happen(&mut lab, &mut peer, happening);
            let status = lab.node.status();
            prop_assert_eq!(status.instances.len(), 1);
        }
        // However it stands: told to stop, it is done within the bounds of offer and resignation.
        lab.input(Input::Shutdown);
        lab.run_for(Duration::from_secs(6));
        prop_assert_eq!(lab.node.next_deadline(), None);
        prop_assert!(lab.node.slots().all(|(slot, _)| lab.node.role(slot) == Some(Role::Init)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn left_alone_a_node_serves(which in 0_u8..8, happenings in vec(happening(), 1..60)) {
        let mut lab = Lab::new(configuration(which));
        let mut peer = Peer::new();
        for happening in happenings {
            happen(&mut lab, &mut peer, happening);
        }
        lab.interface(Some(interface_up()));
        // The longest that may have been learned is 40.95 s, three times that and Skew_Time; a fault is tried again after 5 s.
        lab.run_for(Duration::from_secs(180));
        for (slot, _) in lab.node.slots() {
            prop_assert_eq!(lab.node.role(slot), Some(Role::Active));
        }
    }
}
