//! Packets whose checksums are wrong when they come: they are passed on, and are as wrong as before, so that whoever gets them can tell.

use std::ops::Range;

use integration::verdict::compare::{Pair, right};
use integration::verdict::packet::{ACK, SYN, TCP};
use integration::verdict::parse::View;
use integration::verdict::sample::{answer, paths};

use crate::each;

/// Where the checksums of a frame are: that of IPv4's header, and that of what is in it.
fn places(frame: &[u8]) -> Vec<Range<usize>> {
    let view = View::of(frame).expect("a packet");
    let transport = view.transport + if view.protocol == TCP { 16 } else { 6 };
    let header = view.is_ipv4().then_some(view.ip + 10);
    header.into_iter().chain([transport]).map(|at| at..at + 2).collect()
}

/// A checksum that is wrong; neither of the two that say the same, one of which says that there is none.
const fn wrong(checksum: [u8; 2]) -> [u8; 2] {
    match u16::from_be_bytes(checksum) {
        0xfffe | 0xffff => [0, 1],
        other => (other + 1).to_be_bytes(),
    }
}

/// Sends a frame, and the same with each of its checksums spoilt in turn.
fn spoil(pair: &mut Pair<'_>, frame: &[u8]) {
    let sound = pair.sends(frame);
    right(&sound, &View::of(&sound).expect("a packet")).expect("its checksums are right");
    for place in places(frame) {
        let mut spoilt = frame.to_vec();
        spoilt[place.clone()].copy_from_slice(&wrong([frame[place.start], frame[place.start + 1]]));
        let out = pair.sends(&spoilt);
        let view = View::of(&out).expect("a packet");
        assert!(right(&out, &view).is_err(), "what was wrong at {place:?} came out right");
        // And nothing else is another: neither the other checksum, nor that of a tunnel's header.
        let others: Vec<usize> = (0..out.len()).filter(|&at| out[at] != sound[at]).collect();
        let (first, last) = (others.first().expect("a difference"), others.last().expect("a difference"));
        assert!(out.len() == sound.len() && last - first <= 1, "different at {others:?}");
    }
}

#[test]
fn what_comes_with_a_wrong_checksum_is_passed_on_with_one() {
    each(paths(), |path, pair| {
        let sent = pair.sends(&path.tcp(1200, SYN).frame());
        pair.sends(&path.tcp(1200, ACK).frame());
        spoil(pair, &path.tcp(1200, ACK).carrying(7).frame());
        let datagram = pair.sends(&path.udp(1200).carrying(7).frame());
        spoil(pair, &path.udp(1200).carrying(7).frame());
        // Flows that are new, too.
        spoil(pair, &path.tcp(1201, SYN).frame());
        if path.nat {
            spoil(pair, &answer(&sent, ACK).carrying(5).frame());
            spoil(pair, &answer(&datagram, 0).frame());
        }
    });
}
