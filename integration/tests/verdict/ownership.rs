//! Who owns a VIP forwards it and is answered for; a former owner goes on with what it knows.

use std::net::IpAddr;

use integration::verdict::compare::Pair;
use integration::verdict::harness::{CLIENTS, Verdict};
use integration::verdict::oracle::reason::Reason;
use integration::verdict::oracle::{Expected, Outcome};
use integration::verdict::packet::{ACK, SYN};
use integration::verdict::sample::{OWN, Path, answer, path, paths};
use integration::verdict::solicitation::{arp, solicit};
use integration::verdict::world::*;

use crate::each;

/// Far longer than any of this takes, since the clock of those who begin flows cannot be stopped.
const LONG: u32 = 10_000;

fn not_active() -> Expected {
    Expected::counted(Outcome::Drop, Reason::NotActive)
}

fn unanswered() -> Expected {
    Expected::counted(Outcome::Drop, Reason::Solicitation)
}

#[test]
fn a_backup_lets_nobody_have_a_packet_for_a_service() {
    each(paths(), |path, pair| {
        let sent = pair.sends(&path.tcp(100, SYN).frame());
        pair.sends(&path.tcp(100, ACK).frame());
        pair.tell(|world| world.roles[1] = Role::Backup);
        pair.does(&path.tcp(100, ACK).frame(), &not_active());
        pair.does(&path.tcp(101, SYN).frame(), &not_active());
        pair.does(&path.udp(100).frame(), &not_active());
        if path.nat {
            pair.does(&answer(&sent, ACK).frame(), &not_active());
        }
        pair.tell(|world| world.roles[1] = Role::Active);
        pair.sends(&path.tcp(100, ACK).frame());
    });
}

#[test]
fn an_owner_for_a_time_forwards_as_one_for_ever() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.roles[1] = Role::Until(world.now + LONG));
        let sent = pair.sends(&path.tcp(200, SYN).frame());
        pair.sends(&path.tcp(200, ACK).frame());
        pair.sends(&path.udp(200).frame());
        if path.nat {
            pair.sends(&answer(&sent, ACK).frame());
        }
    });
}

#[test]
fn when_ownership_has_ended_what_is_known_goes_on_for_a_while() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.roles[1] = Role::Until(world.now + LONG));
        let sent = pair.sends(&path.tcp(200, SYN).frame());
        pair.sends(&path.tcp(200, ACK).frame());
        pair.sends(&path.tcp(201, SYN).frame());
        pair.sends(&path.udp(200).frame());
        pair.tell(|world| world.roles[1] = Role::Until(world.now));
        pair.sends(&path.tcp(200, ACK).carrying(5).frame());
        // It was under way when it ended: its SYN is at the target already.
        pair.sends(&path.tcp(201, ACK).frame());
        pair.sends(&path.udp(200).frame());
        if path.nat {
            pair.sends(&answer(&sent, ACK).frame());
        }
        pair.does(&path.tcp(202, SYN).frame(), &not_active());
        pair.does(&path.tcp(203, ACK).frame(), &not_active());
        pair.does(&path.udp(202).frame(), &not_active());
        pair.wait(DRAIN_TICKS - 600);
        pair.sends(&path.tcp(200, ACK).frame());
        pair.wait(700);
        pair.does(&path.tcp(200, ACK).frame(), &not_active());
        if path.nat {
            pair.does(&answer(&sent, ACK).frame(), &not_active());
        }
        // Owned anew, all of it goes on.
        pair.tell(|world| world.roles[1] = Role::Until(world.now + LONG));
        pair.sends(&path.tcp(200, ACK).frame());
        pair.sends(&path.tcp(204, SYN).frame());
    });
}

#[test]
fn a_flow_that_lost_its_target_begins_anew_with_the_owner_only() {
    each(paths(), |path, pair| {
        for port in 300..308 {
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.tcp(port, ACK).frame());
        }
        pair.tell(|world| {
            world.change(1).health = Health::Absent;
            world.services[0].members[0].1 = 0;
            world.roles[1] = Role::Until(world.now);
        });
        let mut lost = 0;
        for port in 300..308 {
            let (expected, _) = pair.step(&path.tcp(port, ACK).carrying(3).frame());
            lost += usize::from(expected == not_active());
        }
        assert!((1..8).contains(&lost), "{lost} had the target that is gone");
    });
}

/// Questions for an address, broadcast or multicast as they are at first, and to this very node as they are later, with VLAN tags too.
fn questions(path: &Path, target: IpAddr) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for vlans in [vec![], vec![(0x8100, 7)], vec![(0x88a8, 7), (0x8100, 8)]] {
        for own in [false, true] {
            frames.push(match (path.client, target) {
                (IpAddr::V4(client), IpAddr::V4(target)) => {
                    let to = if own { OWN } else { [0xff; 6] };
                    arp((to, CLIENTS), &vlans, client, target)
                }
                (IpAddr::V6(client), IpAddr::V6(target)) => {
                    let [.., a, b, c] = target.octets();
                    let to = if own { OWN } else { [0x33, 0x33, 0xff, a, b, c] };
                    solicit((to, CLIENTS), &vlans, client, target)
                }
                _ => unreachable!("a path is of one family"),
            });
        }
    }
    frames
}

/// One path of each family: all have the same VIPs.
fn families() -> Vec<Path> {
    [true, false].map(|ipv4| path(ipv4, "l2", Way::Plain, true)).into()
}

#[test]
fn who_asks_for_a_vip_is_answered_by_its_owner_only() {
    each(families(), |path, pair| {
        let other: IpAddr =
            if path.vip.is_ipv4() { "192.0.2.11".parse() } else { "2001:db8::11".parse() }.unwrap();
        for role in [Role::Active, Role::Until(pair.oracle.world.now + LONG)] {
            pair.tell(|world| world.roles[1] = role);
            questions(path, path.vip).iter().for_each(|frame| pair.does(frame, &Expected::pass()));
        }
        for role in [Role::Backup, Role::Until(pair.oracle.world.now)] {
            pair.tell(|world| world.roles[1] = role);
            questions(path, path.vip).iter().for_each(|frame| pair.does(frame, &unanswered()));
            questions(path, other).iter().for_each(|frame| pair.does(frame, &Expected::pass()));
        }
        // Of an interface that nobody said is the node's.
        pair.harness.disown();
        for frame in questions(path, path.vip) {
            assert_eq!(pair.harness.run(pair.program, &frame).verdict, Verdict::Pass);
        }
    });
}

#[test]
fn what_is_no_question_passes() {
    each(families(), |path, pair| {
        pair.tell(|world| world.roles[1] = Role::Backup);
        if let (IpAddr::V4(client), IpAddr::V4(vip)) = (path.client, path.vip) {
            let macs = ([0xff; 6], CLIENTS);
            // An announcement of the other node, which is the owner.
            pair.does(&arp(macs, &[], vip, vip), &Expected::pass());
            let request = arp(macs, &[], client, vip);
            // Of other hardware, for another protocol, with other lengths; an answer; and no operation at all.
            for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 2), (20, 1), (21, 0)] {
                let mut frame = request.clone();
                frame[at] = value;
                pair.does(&frame, &Expected::pass());
            }
        }
        if let (IpAddr::V6(client), IpAddr::V6(vip)) = (path.client, path.vip) {
            let question = solicit(([0x33, 0x33, 0xff, 0, 0, 0x10], CLIENTS), &[], client, vip);
            // An advertisement, an echo request, and TCP.
            for (at, value) in [(54, 136), (54, 128), (20, 6)] {
                let mut frame = question.clone();
                frame[at] = value;
                pair.does(&frame, &Expected::pass());
            }
        }
    });
}

/// As what the oracle says, or as nobody makes packets of.
fn same(pair: &mut Pair<'_>, frame: &[u8]) -> bool {
    if pair.harness.run_quietly(pair.program, frame) == Verdict::Impossible {
        return false;
    }
    pair.step(frame);
    true
}

#[test]
fn truncated_and_garbled_questions_do_no_harm() {
    each(families(), |path, pair| {
        pair.tell(|world| world.roles[1] = Role::Backup);
        for frame in questions(path, path.vip) {
            let tried = (15..frame.len()).filter(|&length| same(pair, &frame[..length])).count();
            assert!(tried > 10, "{tried} of {} bytes", frame.len());
            for at in 12..frame.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut garbled = frame.clone();
                    garbled[at] = value;
                    same(pair, &garbled);
                }
            }
        }
    });
}
