//! Known and new flows, both modes, both kinds of program.

use integration::bench_l4::object::Kind;
use integration::bench_l4::world::{Mode, Way};

use crate::support::{ACK, SCENES, SYN, TARGET_MAC, ends, frame, scene, world};

#[test]
fn l2_forwards_and_promotes() {
    for (texts, protocol) in SCENES.into_iter().flat_map(|texts| [(texts, 6), (texts, 17)]) {
        for kind in Kind::ALL {
            let scene = scene(texts);
            let world = world(&scene, Mode::Dsr, protocol, Way::Plain, kind);
            for (flags, flows) in [(SYN, 0), (ACK, 1), (ACK, 1), (ACK, 1)] {
                let sent = frame(scene.client, scene.vip, protocol, flags);
                let outcome = kind.run(&world.object, &sent).unwrap();
                assert_eq!(outcome.verdict, kind.sent(), "{kind:?} {protocol} {texts:?}");
                assert_eq!(ends(&outcome.packet), (scene.client, scene.vip));
                assert_eq!(outcome.packet[..6], TARGET_MAC);
                assert_eq!(world.flows().unwrap(), flows, "{kind:?} {protocol} {texts:?}");
            }
        }
    }
}

#[test]
fn nat_forwards_with_one_port() {
    for (texts, protocol) in SCENES.into_iter().flat_map(|texts| [(texts, 6), (texts, 17)]) {
        for kind in Kind::ALL {
            let scene = scene(texts);
            let world = world(&scene, Mode::Nat, protocol, Way::Plain, kind);
            let mut port = None;
            for (flags, flows) in [(SYN, 0), (SYN, 0), (ACK, 1), (ACK, 1), (ACK, 1)] {
                if protocol == 17 && flags == SYN && port.is_some() {
                    continue;
                }
                let sent = frame(scene.client, scene.vip, protocol, flags);
                let outcome = kind.run(&world.object, &sent).unwrap();
                assert_eq!(outcome.verdict, kind.sent(), "{kind:?} {protocol} {texts:?}");
                let (from, to) = ends(&outcome.packet);
                assert_eq!((from.ip(), to), (scene.vip.ip(), scene.target));
                assert_eq!(*port.get_or_insert(from.port()), from.port());
                assert_eq!(world.flows().unwrap(), flows, "{kind:?} {protocol} {texts:?}");
            }
        }
    }
}

#[test]
fn what_is_not_ours_stays_as_it_is() {
    for kind in Kind::ALL {
        let scene = scene(SCENES[0]);
        let world = world(&scene, Mode::Nat, 6, Way::Plain, kind);
        let other = "192.0.2.77:80".parse().unwrap();
        let sent = frame(scene.client, other, 6, SYN);
        let outcome = kind.run(&world.object, &sent).unwrap();
        assert_eq!((outcome.verdict, &outcome.packet), (kind.passed(), &sent));
        // The kernel itself refuses shorter ones.
        for length in 34..sent.len() {
            let outcome = kind.run(&world.object, &sent[..length]).unwrap();
            assert_eq!((outcome.verdict, &outcome.packet[..]), (kind.passed(), &sent[..length]));
        }
    }
}
