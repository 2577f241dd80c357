//! How long flows are kept, and how many packets the program makes itself.

use integration::verdict::compare::Pair;
use integration::verdict::harness::Verdict;
use integration::verdict::oracle::reason::Reason;
use integration::verdict::oracle::{Expected, Outcome, Tuple};
use integration::verdict::packet::{ACK, FIN, RST, SYN, TCP};
use integration::verdict::sample::{Path, answer, nats, paths};
use integration::verdict::world::*;

use crate::each;

/// The clock may stand a few ticks later than it is told to.
const CLOCK: u32 = 5;

/// A flow's last packet need not be noted if it comes so soon after one that was: a sixteenth of its time-out, a second at least and
/// 16 s at most.
const UNNOTED_ESTABLISHED: u32 = 16 * 16 - 1 - CLOCK;
const UNNOTED_UDP: u32 = UDP_TICKS / 16 - 1 - CLOCK;
const UNNOTED_LEAST: u32 = 15 - CLOCK;

/// Begins flows of TCP and UDP from some ports, and has new ones go to another target from now on.
fn begin(path: &Path, pair: &mut Pair<'_>, ports: std::ops::Range<u16>) {
    for port in ports {
        pair.sends(&path.tcp(port, SYN).frame());
        pair.sends(&path.tcp(port, ACK).frame());
        pair.sends(&path.udp(port).frame());
        pair.sends(&path.udp(port).frame());
    }
    pair.tell(|world| {
        for service in &mut world.services {
            (service.members[0].1, service.members[1].1) = (0, 1);
        }
    });
}

/// Has only the first target of each service take new flows.
fn only_first(pair: &mut Pair<'_>) {
    pair.tell(|world| world.services.iter_mut().for_each(|service| service.members[1].1 = 0));
}

#[test]
fn no_flow_is_given_up_before_it_was_silent_for_its_time_out() {
    each(paths(), |path, pair| {
        only_first(pair);
        begin(path, pair, 5300..5304);
        // The next packets are too early to be noted; the time-outs run from them all the same.
        pair.wait(UNNOTED_UDP);
        (5300..5304).for_each(|port| drop(pair.sends(&path.udp(port).frame())));
        pair.wait(UNNOTED_ESTABLISHED - UNNOTED_UDP - CLOCK);
        (5300..5304).for_each(|port| drop(pair.sends(&path.tcp(port, ACK).frame())));
        pair.wait(UDP_TICKS - (UNNOTED_ESTABLISHED - UNNOTED_UDP) - CLOCK);
        (5300..5304).for_each(|port| drop(pair.sends(&path.udp(port).frame())));
        pair.wait(ESTABLISHED_TICKS - (UDP_TICKS - (UNNOTED_ESTABLISHED - UNNOTED_UDP)) - CLOCK);
        (5300..5304).for_each(|port| drop(pair.sends(&path.tcp(port, ACK).frame())));
    });
}

#[test]
fn answers_keep_a_flow_as_long_as_its_client_s_packets() {
    each(nats(), |path, pair| {
        only_first(pair);
        let sent: Vec<Vec<u8>> = (5310..5313)
            .map(|port| {
                let sent = pair.sends(&path.tcp(port, SYN).frame());
                pair.sends(&path.tcp(port, ACK).frame());
                sent
            })
            .collect();
        begin(path, pair, 5313..5314);
        pair.sends(&path.tcp(5311, FIN | ACK).frame());
        pair.wait(UNNOTED_LEAST);
        pair.sends(&answer(&sent[0], ACK).frame());
        pair.sends(&answer(&sent[1], FIN | ACK).frame());
        // Too early to be noted, as a client's packet would be.
        let later = UNNOTED_ESTABLISHED - UNNOTED_LEAST - CLOCK;
        pair.wait(later);
        pair.sends(&answer(&sent[2], ACK).frame());
        pair.wait(CLOSING_TICKS - later - 2 * CLOCK);
        pair.sends(&path.tcp(5311, ACK).frame());
        pair.wait(ESTABLISHED_TICKS - CLOSING_TICKS - CLOCK);
        pair.sends(&path.tcp(5310, ACK).frame());
        pair.wait(later - CLOCK);
        pair.sends(&path.tcp(5312, ACK).frame());
    });
}

/// A RST that somebody else has sent: the ends take no heed of it, and go on.
#[test]
fn a_connection_that_goes_on_after_a_reset_is_kept_as_before() {
    each(paths(), |path, pair| {
        only_first(pair);
        let sent: Vec<Vec<u8>> = (5340..5344)
            .map(|port| {
                let sent = pair.sends(&path.tcp(port, SYN).frame());
                pair.sends(&path.tcp(port, ACK).frame());
                sent
            })
            .collect();
        begin(path, pair, 5344..5345);
        for (port, sent) in (5340..).zip(&sent) {
            // One from the client, and one from the target, as far as these pass; either end is the one that goes on.
            if path.nat && port % 2 == 1 {
                pair.sends(&answer(sent, RST | ACK).frame());
            } else {
                pair.sends(&path.tcp(port, RST).frame());
            }
            if path.nat && port >= 5342 {
                pair.sends(&answer(sent, ACK).carrying(3).frame());
            } else {
                pair.sends(&path.tcp(port, ACK).carrying(3).frame());
            }
        }
        pair.wait(RESET_TICKS + 600);
        for (port, sent) in (5340..).zip(&sent) {
            if path.nat {
                pair.sends(&answer(sent, ACK).frame());
            }
            pair.sends(&path.tcp(port, ACK).frame());
            let tuple = Tuple { protocol: TCP, client: path.client(port), service: path.web() };
            assert_eq!(pair.oracle.flows[&tuple].target, 1, "new ones go to another");
        }
        // One that was reset and is silent is soon forgotten.
        pair.sends(&path.tcp(5340, RST).frame());
        pair.wait(RESET_TICKS + 600);
        pair.sends(&path.tcp(5340, ACK).frame());
        let tuple = Tuple { protocol: TCP, client: path.client(5340), service: path.web() };
        assert_eq!(pair.oracle.flows[&tuple].target, 2);
    });
}

/// Half-open flows of one processor are in sets of four. Who has to go from a full one before his time is over is counted, and nobody else.
#[test]
fn a_half_open_flow_that_makes_place_before_its_time_is_counted() {
    each(paths(), |path, pair| {
        let key = pair.oracle.world.hash_key();
        let set = |port: u16| (key.flow(TCP, path.client(port), path.web()) >> 20) % 4096;
        let ports: Vec<u16> = (1024..u16::MAX).filter(|port| set(*port) == set(1024)).take(8).collect();
        // With the client's address flows are in another table.
        let counted = |pair: &Pair<'_>, count: u64| {
            assert_eq!(pair.harness.pushed_out(1), if path.preserve { 0 } else { count });
        };
        for (port, count) in ports[..6].iter().zip([0, 0, 0, 0, 1, 2]) {
            pair.sends(&path.tcp(*port, SYN).frame());
            counted(pair, count);
        }
        // Who is there already needs no place.
        pair.sends(&path.tcp(ports[5], SYN).frame());
        counted(pair, 2);
        // Who has proved himself is in the table of flows, and makes place first.
        pair.sends(&path.tcp(ports[5], ACK).frame());
        pair.sends(&path.tcp(ports[6], SYN).frame());
        counted(pair, 2);
        pair.wait(HALF_OPEN_TICKS + 100);
        pair.sends(&path.tcp(ports[7], SYN).frame());
        counted(pair, 2);
    });
}

/// Sends packets of some kind until their answers of this tick are used up and beyond, and once more in the next tick.
fn until_no_more(pair: &mut Pair<'_>, frame: &[u8], outcome: &Outcome) {
    pair.wait(1);
    let made = (0..ANSWERS_PER_TICK + 40).map(|_| pair.step(frame)).filter(|(expected, done)| {
        assert!(expected.outcome == *outcome || done.verdict == Verdict::Drop);
        done.verdict == Verdict::Send
    });
    assert_eq!(made.count(), ANSWERS_PER_TICK as usize);
    pair.does(frame, &Expected::counted(Outcome::Drop, Reason::AnswerRate));
    pair.wait(1);
    assert_eq!(pair.step(frame).1.verdict, Verdict::Send, "it is another tick");
}

#[test]
fn resets_are_made_for_so_many_in_a_tick() {
    each(paths(), |path, pair| {
        only_first(pair);
        pair.tell(|world| world.services[0].reset_unhealthy = true);
        pair.sends(&path.tcp(5320, SYN).frame());
        pair.sends(&path.tcp(5320, ACK).frame());
        pair.tell(|world| world.targets.iter_mut().for_each(|target| target.health = Health::Unhealthy));
        until_no_more(pair, &path.tcp(5320, ACK).carrying(3).frame(), &Outcome::Reset);
    });
}

#[test]
fn errors_are_made_for_so_many_in_a_tick() {
    each(paths(), |path, pair| {
        pair.sends(&path.tcp(5330, SYN).frame());
        pair.sends(&path.tcp(5330, ACK).frame());
        pair.tell(|world| world.targets.iter_mut().for_each(|target| target.mtu = 1300));
        let large = path.tcp(5330, ACK).carrying(1400).frame();
        until_no_more(pair, &large, &Outcome::TooBig(1300));
        // What is forwarded and what is dropped without a word is no matter of these.
        until_no_more(pair, &large, &Outcome::TooBig(1300));
        pair.sends(&path.tcp(5330, ACK).carrying(30).frame());
        pair.tell(|world| world.roles[1] = Role::Backup);
        pair.does(&large, &Expected::counted(Outcome::Drop, Reason::NotActive));
    });
}
