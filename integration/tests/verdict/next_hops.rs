//! Answers for clients whose next hop the kernel does not know. At TC the kernel looks for it and keeps the packet so long; the driver's program
//! can but drop that and say so, for somebody else to have it looked for.

use std::net::IpAddr;

use integration::verdict::compare::Pair;
use integration::verdict::harness::{Program, Verdict};
use integration::verdict::oracle::reason::Reason;
use integration::verdict::packet::{ACK, SYN};
use integration::verdict::sample::{Path, answer, nats};

use crate::each;

/// Clients whose next hop nobody knows, each with that: itself on the link, and a router.
fn unknown(path: &Path) -> [(IpAddr, IpAddr); 2] {
    let texts = if path.vip.is_ipv4() {
        [("198.51.100.77", "198.51.100.77"), ("198.18.0.5", "198.51.100.9")]
    } else {
        [("2001:db8:ffff::77", "2001:db8:ffff::77"), ("2001:db8:dead::5", "2001:db8:ffff::9")]
    };
    texts.map(|(client, hop)| (client.parse().unwrap(), hop.parse().unwrap()))
}

/// The target's answer to a connection that a client begins.
fn answer_to(path: &Path, client: IpAddr, pair: &mut Pair<'_>) -> Vec<u8> {
    let path = Path { client, ..path.clone() };
    let sent = pair.sends(&path.tcp(920, SYN).frame());
    answer(&sent, SYN | ACK).frame()
}

/// Whether the program has dropped a frame for want of a next hop.
fn is_dropped(pair: &Pair<'_>, frame: &[u8]) -> bool {
    let done = pair.harness.run(pair.program, frame);
    done.verdict == Verdict::Drop && done.counted(Some(Reason::NoNextHop))
}

#[test]
fn a_next_hop_that_is_not_known_is_told_of() {
    each(nats(), |path, pair| {
        pair.harness.unknown_next_hops();
        for (client, hop) in unknown(path) {
            let frame = answer_to(path, client, pair);
            if pair.program == Program::Tc {
                let done = pair.harness.run(pair.program, &frame);
                assert!(done.verdict == Verdict::Send && done.counted(None), "{done:?}");
                assert!(pair.harness.unknown_next_hops().is_empty());
                continue;
            }
            assert!(is_dropped(pair, &frame));
            assert_eq!(pair.harness.unknown_next_hops(), [hop]);
            // Not with each packet, but as long as that is so.
            assert!(is_dropped(pair, &frame) && is_dropped(pair, &frame));
            assert!(pair.harness.unknown_next_hops().is_empty());
            pair.wait(16);
            assert!(is_dropped(pair, &frame));
            assert_eq!(pair.harness.unknown_next_hops(), [hop]);
        }
        // Whose next hop is known is answered, and nothing is told.
        let sent = pair.sends(&path.tcp(921, SYN).frame());
        pair.sends(&answer(&sent, SYN | ACK).frame());
        assert!(pair.harness.unknown_next_hops().is_empty());
        assert_eq!(pair.harness.untold_next_hops(), 0);
    });
}

/// What a program of XDP hands to an interface most drivers send only where one is at that, too.
#[test]
fn by_an_interface_where_the_program_is_not_no_answer_leaves_the_driver() {
    each(nats(), |path, pair| {
        let text = if path.vip.is_ipv4() { "198.51.102.5" } else { "2001:db8:beef::5" };
        let frame = answer_to(path, text.parse().unwrap(), pair);
        let returned = |pair: &Pair<'_>| pair.harness.service_stats(1)[2];
        let is_sent = |pair: &Pair<'_>| {
            let before = returned(pair);
            let done = pair.harness.run(pair.program, &frame);
            done.verdict == Verdict::Send && done.counted(None) && returned(pair) == before + 1
        };
        assert!(is_sent(pair));
        // What was said of the way holds for a second.
        pair.wait(20);
        pair.harness.disown_targets();
        if pair.program == Program::Tc {
            assert!(is_sent(pair), "whoever sends is the stack's concern");
        } else {
            let before = returned(pair);
            assert!(is_dropped(pair, &frame) && is_dropped(pair, &frame));
            assert_eq!(returned(pair), before);
            assert!(pair.harness.unknown_next_hops().is_empty());
        }
        pair.wait(1);
        assert!(is_sent(pair));
    });
}

#[test]
fn a_processor_tells_of_so_many_in_a_tick() {
    const MOST: usize = 64;
    const CLIENTS: u8 = 80;
    each(nats(), |path, pair| {
        if pair.program == Program::Tc {
            return;
        }
        pair.harness.unknown_next_hops();
        let client = |number: u8| -> IpAddr {
            let text = if path.vip.is_ipv4() { "198.51.100." } else { "2001:db8:ffff::" };
            format!("{text}{}", 100 + number).parse().unwrap()
        };
        let clients: Vec<IpAddr> = (0..CLIENTS).map(client).collect();
        let frames: Vec<Vec<u8>> = clients.iter().map(|client| answer_to(path, *client, pair)).collect();
        // From now on the clock stands still for a while.
        pair.wait(1);
        assert!(frames.iter().all(|frame| is_dropped(pair, frame)));
        assert_eq!(pair.harness.unknown_next_hops(), clients[..MOST]);
        let more = usize::from(CLIENTS) - MOST;
        assert_eq!(pair.harness.untold_next_hops(), more as u64);
        // The others with a later packet.
        pair.wait(16);
        assert!(frames[MOST..].iter().all(|frame| is_dropped(pair, frame)));
        assert_eq!(pair.harness.unknown_next_hops(), clients[MOST..]);
    });
}
