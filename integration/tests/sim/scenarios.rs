//! Single faults at fixed times, and how long each may cost.

use std::time::Duration;

use common::ipc::Role;
use integration::sim::{Fault, Sabotage, Trace, Variant, View, World};

/// Both hosts, by their numbers.
const A: usize = 0;
const B: usize = 1;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The plain pair in both families.
fn variants(interval: Duration) -> [Variant; 2] {
    let ipv4 = Variant { priority: [200, 150], ..Variant::plain(interval) };
    let ipv6 = Variant { ipv4: false, ipv6: true, ..ipv4.clone() };
    [ipv4, ipv6]
}

/// A pair that has been up for a while, with node a active.
fn settled(variant: &Variant, seed: u64) -> World {
    let mut world = World::new(seed, variant, Sabotage::None, Trace::on());
    for host in [A, B] {
        world.schedule(world.now(), Fault::PowerOn(host));
    }
    world.run_for(variant.interval * 12 + ms(2000)).unwrap();
    assert_eq!(world.view().routers[0].actives(), [A]);
    world
}

fn serves(view: &View, host: usize) -> bool {
    view.routers[0].sides[host].serves
}

/// Does `faults` to settled pairs of each family with several seeds: how long until node b serves, at the longest, and the
/// worlds to look further.
fn takeover(interval: Duration, faults: &[Fault]) -> (Duration, Vec<World>) {
    let mut longest = Duration::ZERO;
    let mut worlds = Vec::new();
    for variant in variants(interval) {
        for seed in 0..10 {
            let mut world = settled(&variant, seed);
            world.run_for(interval * u32::try_from(seed).unwrap() / 10).unwrap();
            for fault in faults {
                world.schedule(world.now(), fault.clone());
            }
            let took = world.run_while(interval * 6, |view| !serves(view, B)).unwrap();
            longest = longest.max(took.expect("node b never serves"));
            worlds.push(world);
        }
    }
    (longest, worlds)
}

#[test]
fn sigterm_hands_over_without_a_gap() {
    for interval in [ms(10), ms(100), ms(1000)] {
        // The handover checker watches every instant of it.
        let (took, worlds) = takeover(interval, &[Fault::Terminate(A)]);
        assert!(took <= ms(10), "{took:?} at {interval:?}");
        for mut world in worlds {
            world.run_for(ms(100)).unwrap();
            assert_eq!(world.view().routers[0].actives(), [B]);
            assert!(!serves(world.view(), A));
        }
    }
}

#[test]
fn a_switchover_on_request_is_answered_and_stays() {
    let (took, worlds) = takeover(ms(1000), &[Fault::Switchover(A)]);
    assert!(took <= ms(10), "{took:?}");
    for mut world in worlds {
        world.run_for(ms(20_000)).unwrap();
        assert_eq!(world.switchovers(), [true]);
        assert_eq!(world.view().routers[0].actives(), [B]);
    }
}

#[test]
fn sigkill_costs_what_the_warden_needs() {
    for interval in [ms(100), ms(1000)] {
        let (took, worlds) = takeover(interval, &[Fault::Kill(A)]);
        assert!(took <= ms(20), "{took:?} at {interval:?}");
        assert!(worlds.iter().all(|world| !serves(world.view(), A)));
    }
}

#[test]
fn a_dead_lan_port_is_told_over_the_peer_link() {
    let (took, _) = takeover(ms(100), &[Fault::Carrier(A, false)]);
    assert!(took <= ms(50), "{took:?}");
}

#[test]
fn a_silently_blocked_port_is_noticed_by_what_does_not_arrive() {
    let (took, _) = takeover(ms(10), &[Fault::LanOut(A, false), Fault::LanIn(A, false)]);
    assert!(took <= ms(35), "{took:?}");
}

#[test]
fn a_stopped_daemon_is_released_and_wakes_up_as_backup() {
    let (took, worlds) = takeover(ms(100), &[Fault::Stop(A)]);
    assert!(took <= ms(400), "{took:?}");
    for mut world in worlds {
        // The warden counts from the last beat, node b from the last advertisement: one may be a little before the other.
        let both = world.run_while(ms(100), |view| serves(view, A)).unwrap();
        assert!(both.is_some(), "the stopped node's addresses are still there");
        // Longer than the warden takes, and in the end node a preempts; at no time both.
        world.run_for(ms(2000)).unwrap();
        world.schedule(world.now(), Fault::Continue(A));
        world.run_for(ms(1)).unwrap();
        assert_eq!(world.view().routers[0].sides[A].role, Role::Backup);
        let back = world.run_while(ms(1000), |view| view.routers[0].sides[A].role != Role::Active).unwrap();
        assert!(back.is_some_and(|back| back >= ms(290)), "{back:?}");
    }
}

#[test]
fn a_paused_machine_wakes_up_as_backup() {
    let (_, worlds) = takeover(ms(100), &[Fault::Pause(A)]);
    for mut world in worlds {
        world.run_for(ms(5000)).unwrap();
        world.schedule(world.now(), Fault::Resume(A));
        world.run_for(ms(3)).unwrap();
        assert!(!serves(world.view(), A), "the addresses are still there after 3 ms");
        assert_eq!(world.view().routers[0].sides[A].role, Role::Backup);
    }
}

#[test]
fn the_better_node_comes_back_without_a_gap() {
    for interval in [ms(100), ms(1000)] {
        let (_, worlds) = takeover(interval, &[Fault::PowerOff(A)]);
        for mut world in worlds {
            world.run_for(interval * 4).unwrap();
            world.schedule(world.now(), Fault::PowerOn(A));
            let back = world.run_while(interval * 5, |view| {
                assert!(view.routers[0].none_since.is_none(), "nobody serves");
                view.routers[0].actives() != [A]
            });
            assert!(back.unwrap().is_some());
        }
    }
}

#[test]
fn a_pair_cut_in_two_is_one_again_within_three_intervals() {
    let cut = |open: bool| {
        let each = |host| [Fault::LanOut(host, open), Fault::LanIn(host, open), Fault::PeerOut(host, open)];
        [each(A), each(B)].concat()
    };
    for interval in [ms(10), ms(100), ms(1000)] {
        let (_, worlds) = takeover(interval, &cut(false));
        for mut world in worlds {
            world.run_for(interval * 5).unwrap();
            assert!(serves(world.view(), A) && serves(world.view(), B));
            for fault in cut(true) {
                world.schedule(world.now(), fault);
            }
            world.run_for(interval * 3).unwrap();
            assert_eq!(world.view().routers[0].actives(), [A]);
            world.run_for(ms(200)).unwrap();
            assert_eq!(world.view().routers[0].announced_by, Some(A));
        }
    }
}
