//! What is heard on the LAN: what is dropped and why, floods, conflicts.

use common::config::{Auth, VrrpVersion};
use common::ipc::Role;
use common::time::{Duration, UnixTime};
use vrrpd_core::auth::{Signer, emit_signed};
use vrrpd_core::event::Event;
use vrrpd_core::neighbor;
use vrrpd_core::node::{Action, Input};
use vrrpd_core::packet::{Advert, Family, Meta};

use crate::harness::*;

/// The bytes of the peer's advertisement, and what its header says.
fn heard(lab: &Lab, priority: u8) -> (Vec<u8>, Meta) {
    let (router, meta) = (lab.first(), meta_from(PEER));
    (advert_of(&router, priority).emit(meta.source, meta.destination, router.checksum), meta)
}

/// A reason and how a packet comes to be dropped for it.
type Broken = (&'static str, fn(&mut Vec<u8>, &mut Meta));

#[test]
fn a_bad_packet_is_dropped_and_counted_under_its_reason() {
    let broken: [Broken; 8] = [
        ("hop_limit", |_, meta| meta.hop_limit = 254),
        ("version", |bytes, _| bytes[0] = 0x21),
        ("type", |bytes, _| bytes[0] = 0x32),
        ("truncated", |bytes, _| bytes.truncate(11)),
        ("checksum", |bytes, _| bytes[6] ^= 1),
        ("address_count_zero", |bytes, _| bytes[3] = 0),
        ("interval_zero", |bytes, _| bytes[5] = 0),
        ("own", |_, meta| meta.source = ip(OWN)),
    ];
    for (reason, spoil) in broken {
        let mut lab = Lab::active(settings());
        let (mut bytes, mut meta) = heard(&lab, 255);
        spoil(&mut bytes, &mut meta);
        if reason != "truncated" && reason != "checksum" {
            if reason == "address_count_zero" {
                bytes.truncate(8);
            }
            reseal(&mut bytes);
        }
        assert!(lab.hear_bytes(&bytes, meta).is_empty(), "{reason}");
        assert_eq!((lab.role(), lab.dropped(reason)), (Role::Active, 1), "{reason}");
        assert_eq!(lab.node.status().instances[0].routers[0].adverts_received, 0, "{reason}");
    }
}

#[test]
fn what_is_for_no_router_of_ours_is_counted_apart() {
    let mut lab = Lab::active(settings());
    let (mut bytes, meta) = heard(&lab, 255);
    lab.input(Input::Advert { interface: "eth1", meta, bytes: &bytes });
    let v6 = meta_from(PEER_V6);
    lab.hear_bytes(&bytes, v6);
    bytes[1] = 52;
    reseal(&mut bytes);
    lab.hear_bytes(&bytes, meta);
    assert_eq!(lab.unmatched("unknown_vrid"), 3);
    lab.hear_bytes(&bytes[..1], meta);
    lab.hear_bytes(&[], meta);
    assert_eq!(lab.unmatched("truncated"), 2);
    assert_eq!(lab.role(), Role::Active);
}

#[test]
fn a_strange_but_valid_packet_is_accepted_and_counted() {
    let mut lab = Lab::active(settings());
    let mut advert = advert_of(&lab.first(), 255);
    advert.interval = Duration::from_secs(1);
    advert.addresses.push(ip("192.0.2.101"));
    lab.hear_advert(&advert);
    assert_eq!(lab.role(), Role::Backup);
    assert_eq!(lab.dropped("interval_mismatch_accepted"), 1);
    assert_eq!(lab.dropped("address_list_mismatch_accepted"), 1);
}

#[test]
fn both_families_are_heard_apart() {
    let mut lab = Lab::active(settings_of(vec![router(Family::V4), router(Family::V6)]));
    lab.run_for(ms(10));
    let (router, meta) = (router(Family::V6), meta_from(PEER_V6));
    let bytes = advert_of(&router, 255).emit(meta.source, meta.destination, router.checksum);
    lab.hear_bytes(&bytes, meta);
    assert_eq!((lab.node.role(0), lab.node.role(1)), (Some(Role::Active), Some(Role::Backup)));
    assert_eq!(lab.node.instance_role(INSTANCE), Some(Role::Backup));
    lab.interface(Some(vrrpd_core::node::InterfaceState { ipv4: None, ..interface_up() }));
    assert_eq!(lab.node.instance_role(INSTANCE), Some(Role::Fault));
}

#[test]
fn version_2_wants_the_same_interval() {
    let v2 = |router: &mut vrrpd_core::settings::RouterSettings| {
        router.version = VrrpVersion::V2;
        router.interval = Duration::from_secs(1);
    };
    let mut lab = Lab::active(settings_with(v2));
    let mut advert = advert_of(&lab.first(), 255);
    advert.interval = Duration::from_secs(2);
    assert!(lab.hear_advert(&advert).is_empty());
    assert_eq!((lab.role(), lab.dropped("interval_mismatch")), (Role::Active, 1));
    advert.interval = Duration::from_secs(1);
    lab.hear_advert(&advert);
    assert_eq!(lab.role(), Role::Backup);
}

fn with_auth(auth: Auth) -> Lab {
    let mut settings = settings_with(|router| router.auth = auth);
    settings.key = Some(key());
    Lab::active(settings)
}

fn signed(lab: &Lab, signer: &mut Signer, at: UnixTime) -> (Vec<u8>, Meta) {
    let (router, meta) = (lab.first(), meta_from(PEER));
    let advert = advert_of(&router, 255);
    (emit_signed(&advert, meta.source, meta.destination, router.checksum, signer, at), meta)
}

#[test]
fn unsigned_packets_are_for_those_who_allow_them() {
    for (auth, role) in
        [(Auth::Hmac, Role::Active), (Auth::Permissive, Role::Backup), (Auth::None, Role::Backup)]
    {
        let mut lab = with_auth(auth);
        lab.hear(255);
        assert_eq!(lab.role(), role, "{auth:?}");
        assert_eq!(lab.dropped("auth_missing"), u64::from(auth == Auth::Hmac));
    }
}

#[test]
fn signed_packets_are_for_all_who_have_the_key() {
    for auth in [Auth::Hmac, Auth::Permissive, Auth::None] {
        let mut lab = with_auth(auth);
        let (bytes, meta) = signed(&lab, &mut Signer::new(&key()), lab.unix());
        lab.hear_bytes(&bytes, meta);
        assert_eq!(lab.role(), Role::Backup, "{auth:?}");
    }
}

#[test]
fn packets_signed_by_others_are_not_for_those_who_look() {
    let strange = common::key::PairKey::new([8; 32]);
    for (auth, role) in
        [(Auth::Hmac, Role::Active), (Auth::Permissive, Role::Active), (Auth::None, Role::Backup)]
    {
        let mut lab = with_auth(auth);
        let (bytes, meta) = signed(&lab, &mut Signer::new(&strange), lab.unix());
        lab.hear_bytes(&bytes, meta);
        assert_eq!(lab.role(), role, "{auth:?}");
        assert_eq!(lab.dropped("auth_mac"), u64::from(auth != Auth::None));
    }
}

#[test]
fn replayed_and_old_packets_are_dropped() {
    let mut lab = with_auth(Auth::Hmac);
    let mut signer = Signer::new(&key());
    let day_old = UnixTime::from_nanos(lab.unix().as_nanos() - 86_400_000_000_000);
    let (old, meta) = signed(&lab, &mut signer, day_old);
    lab.hear_bytes(&old, meta);
    assert_eq!((lab.role(), lab.dropped("auth_clock_skew")), (Role::Active, 1));
    let (bytes, meta) = signed(&lab, &mut signer, lab.unix());
    lab.hear_bytes(&bytes, meta);
    lab.run_until_role(Role::Active);
    lab.hear_bytes(&bytes, meta);
    assert_eq!((lab.role(), lab.dropped("auth_replayed")), (Role::Active, 1));
}

#[test]
fn signed_is_what_is_sent_unless_auth_is_none() {
    for (auth, trailer) in [(Auth::Hmac, 28), (Auth::Permissive, 28), (Auth::None, 0)] {
        let mut lab = with_auth(auth);
        let sent = |action: &Action| match action {
            Action::SendAdvert { bytes, .. } => Some(bytes.len()),
            _ => None,
        };
        let lengths: Vec<usize> = untimed(lab.run_for(ms(100))).iter().filter_map(sent).collect();
        assert_eq!(lengths, [12 + trailer], "{auth:?}");
    }
}

#[test]
fn a_flood_is_not_answered_in_kind() {
    for priority in [1, 0] {
        let mut lab = Lab::active(settings());
        lab.run_for(INTERVAL);
        let mut sent = 0;
        for _ in 0..1_000 {
            for _ in 0..100 {
                sent += priorities(&lab.hear(priority)).len();
            }
            sent += adverts(&lab.run_for(ms(1))).len();
        }
        assert!((10..=90).contains(&sent), "{sent} answers in a second to priority {priority}");
        assert_eq!(lab.role(), Role::Active);
    }
}

#[test]
fn an_unending_flood_of_priority_0_does_not_put_the_own_advertisements_off() {
    let mut lab = Lab::active(settings());
    let mut last = lab.at();
    for _ in 0..1_000 {
        let mut actions = vec![];
        for _ in 0..20 {
            let at = lab.at();
            actions.extend(lab.hear(0).into_iter().map(|action| (at, action)));
        }
        actions.extend(lab.run_for(ms(1)));
        for (at, _) in adverts(&actions) {
            assert!(at - last <= INTERVAL * 2, "{:?}", at - last);
            last = at;
        }
    }
    assert!(lab.at() - last <= INTERVAL * 2);
}

#[test]
fn a_far_longer_interval_is_waited_for() {
    let mut lab = Lab::backup(settings_with(|router| router.preempt = false));
    let slow = Advert { interval: Duration::from_millis(40_950), ..advert_of(&lab.first(), 150) };
    lab.hear_advert(&slow);
    lab.run_for(Duration::from_secs(122));
    assert_eq!(lab.role(), Role::Backup);
    let waited = Duration::from_secs(122) + lab.run_until_role(Role::Active);
    // 3 · 40.95 s and 56/256 of it.
    assert_eq!(waited, Duration::from_nanos(40_950_000_000 * 3 + 40_950_000_000 * 56 / 256));
}

#[test]
fn a_far_shorter_interval_is_waited_for() {
    let mut lab = Lab::backup(settings_with(|router| {
        router.preempt = false;
        router.interval = Duration::from_secs(10);
    }));
    let quick = Advert { interval: ms(10), ..advert_of(&lab.first(), 150) };
    lab.hear_advert(&quick);
    assert_eq!(lab.run_until_role(Role::Active), Duration::from_nanos(30_000_000 + 10_000_000 * 56 / 256));
}

#[test]
fn a_stall_is_waited_out_by_the_own_interval() {
    let mut lab = Lab::backup(settings_with(|router| router.preempt = false));
    lab.hear_advert(&Advert { interval: ms(10), ..advert_of(&lab.first(), 150) });
    lab.run_until_role(Role::Active);
    lab.input(Input::WardenFired { slot: SLOT });
    assert!(lab.run_until_role(Role::Active) > INTERVAL * 3);
}

fn claim(lab: &mut Lab, mac: [u8; 6]) -> Vec<Action> {
    let frame = neighbor::gratuitous_arp(mac, [192, 0, 2, 100].into());
    lab.input(Input::Frame { interface: INTERFACE, bytes: &frame })
}

#[test]
fn another_claim_of_the_address_is_counted_reported_and_answered() {
    let mut lab = Lab::active(settings());
    lab.run_for(Duration::from_secs(10));
    let actions = claim(&mut lab, OTHER_MAC);
    let [Event::Conflict { mac, address, .. }] = &events(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!((mac.as_str(), *address), ("02:00:00:00:00:0b", ip(VIP)));
    assert_eq!(frames(&untimed(lab.run_for(ms(200)))).len(), 2, "announced again, and once more");
    assert_eq!(lab.node.status().instances[0].routers[0].conflicts, 1);
}

#[test]
fn who_keeps_claiming_does_not_fill_the_log() {
    let mut lab = Lab::active(settings());
    // Counted as a conflict, but not a claim: it must not hide the first one.
    lab.hear(1);
    lab.hear(1);
    lab.hear(1);
    let reported: usize = (0..100).map(|_| events(&claim(&mut lab, OTHER_MAC)).len()).sum();
    assert_eq!(reported, 7, "1, 2, 4, 8, 16, 32 and 64");
    assert_eq!(lab.node.status().instances[0].routers[0].conflicts, 103);
    let announced = frames(&untimed(lab.run_for(ms(1_000)))).len();
    assert!(announced <= 4, "{announced}");
}

#[test]
fn own_and_harmless_frames_are_no_claims() {
    let mut lab = Lab::active(settings_with(|router| router.virtual_mac = true));
    assert!(claim(&mut lab, MAC).is_empty());
    assert!(claim(&mut lab, neighbor::virtual_mac(Family::V4, 51)).is_empty());
    let question = neighbor::arp_request(OTHER_MAC, [192, 0, 2, 9].into(), [192, 0, 2, 100].into());
    assert!(lab.input(Input::Frame { interface: INTERFACE, bytes: &question }).is_empty());
    assert!(lab.input(Input::Frame { interface: INTERFACE, bytes: &[0; 60] }).is_empty());
    let mut lab = Lab::backup(settings());
    assert!(claim(&mut lab, OTHER_MAC).is_empty(), "it is not a backup's address");
}

#[test]
fn the_successors_announcement_in_a_handover_is_no_conflict() {
    let (mut lab, _) = crate::switchover::active();
    lab.input(Input::Switchover { instance: INSTANCE, token: 1 });
    assert!(events(&claim(&mut lab, OTHER_MAC)).is_empty());
    assert_eq!(lab.node.status().instances[0].routers[0].conflicts, 0);
}

#[test]
fn without_a_key_nothing_signed_is_taken_on_trust() {
    let mut lab = Lab::backup(settings_with(|router| router.auth = Auth::Hmac));
    let before = lab.node.status().instances[0].routers[0].adverts_received;
    lab.hear(200);
    assert_eq!(lab.dropped("auth_no_key"), 1);
    assert_eq!(lab.node.status().instances[0].routers[0].adverts_received, before);
}
