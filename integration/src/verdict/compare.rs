//! Whether the program did what the oracle said.

use std::net::IpAddr;

use super::harness::{Done, Harness, Program, Verdict};
use super::oracle::reason::Reason;
use super::oracle::{Expected, Oracle, Outcome};
use super::packet::{ACK, FIN, ICMP, ICMP6, RST, SYN, TCP, UDP};
use super::parse::{View, u16_at, without_priority_tag};
use super::sums;

/// Both at once.
#[derive(Debug)]
pub struct Pair<'a> {
    /// The program.
    pub harness: &'a mut Harness,
    /// Which of the two.
    pub program: Program,
    /// The oracle.
    pub oracle: Oracle,
}

impl<'a> Pair<'a> {
    /// A node that has seen nothing.
    #[must_use]
    pub fn new(harness: &'a mut Harness, program: Program, mut world: super::world::World) -> Self {
        harness.clear();
        harness.tell(&mut world);
        let oracle = Oracle::new(world, harness.links);
        Self { harness, program, oracle }
    }

    /// Changes what both are told.
    pub fn tell(&mut self, change: impl FnOnce(&mut super::world::World)) {
        let mut world = self.oracle.world.clone();
        change(&mut world);
        self.harness.tell(&mut world);
        self.oracle.told(world);
    }

    /// Lets so many ticks go by.
    pub fn wait(&mut self, ticks: u32) {
        self.tell(|world| world.now += ticks);
    }

    /// Gives both a frame, and what they did with it.
    ///
    /// # Panics
    /// If they disagree.
    #[track_caller]
    pub fn step(&mut self, frame: &[u8]) -> (Expected, Done) {
        let expected = self.oracle.step(frame);
        let done = self.harness.run(self.program, frame);
        if let Err(difference) = agree(&expected, &done, frame) {
            panic!(
                "{:?}: {difference}\n     in  {}\n     out {}\n     {:?}, {:?}, not {}, {:?}",
                self.program,
                hex(frame),
                hex(&done.frame),
                done.verdict,
                done.drops,
                expected.outcome.name(),
                expected.reason
            );
        }
        (expected, done)
    }

    /// A frame that both have to send on, and what came out.
    ///
    /// # Panics
    /// If one of them does not.
    #[track_caller]
    pub fn sends(&mut self, frame: &[u8]) -> Vec<u8> {
        let (expected, done) = self.step(frame);
        let (outcome, reason) = (expected.outcome.name(), expected.reason);
        assert!(matches!(expected.outcome, Outcome::Forward(_)), "the oracle says {outcome}, {reason:?}");
        done.frame
    }

    /// A frame with which both do this.
    ///
    /// # Panics
    /// If one of them does not.
    #[track_caller]
    pub fn does(&mut self, frame: &[u8], outcome: &Expected) {
        let (expected, _) = self.step(frame);
        assert_eq!(&expected, outcome);
    }
}

/// Bytes to read.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the program did what it should.
///
/// # Errors
/// What the difference is.
pub fn agree(expected: &Expected, done: &Done, frame: &[u8]) -> Result<(), String> {
    // What does not concern a flow may be none of the program's business at all.
    let optional = expected.outcome == Outcome::Pass && expected.reason == Some(Reason::IcmpInner);
    let counted = done.counted(expected.reason) || (optional && done.counted(None));
    // A tag that is no VLAN's may be taken off whatever becomes of the frame: nobody looks at it.
    let untagged = without_priority_tag(frame);
    let original = untagged.as_deref().unwrap_or(frame);
    match (&expected.outcome, done.verdict) {
        (_, Verdict::Strange(value)) => return Err(format!("an unknown verdict: {value}")),
        (Outcome::Pass, Verdict::Pass) if done.frame == frame || done.frame == original => {}
        (Outcome::Pass, Verdict::Pass) => return Err("passed, but changed".to_owned()),
        (Outcome::Drop, Verdict::Drop) => {}
        (Outcome::Forward(frames), Verdict::Send) => {
            let fits = frames.iter().any(|wanted| same_but_free(wanted, &done.frame));
            if !fits {
                let wanted: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
                return Err(format!("another frame than any of\n     {}", wanted.join("\n     ")));
            }
            checksums(&done.frame, original)?;
        }
        (Outcome::Reset, Verdict::Send) => reset(&done.frame, original)?,
        (Outcome::TooBig(mtu), Verdict::Send) => too_big(&done.frame, original, *mtu)?,
        (_, verdict) => return Err(format!("the verdict is {verdict:?}")),
    }
    if counted { Ok(()) } else { Err(format!("counted {:?}", done.drops)) }
}

/// Whether a frame is the wanted one but for what is free: of a tunnel's header IPv4's ECN, IPv6's flow label, and the source port of
/// GUE, which has to be a dynamic one.
fn same_but_free(wanted: &[u8], frame: &[u8]) -> bool {
    if wanted == frame {
        return true;
    }
    let (Some(outer), true) = (View::of(wanted), wanted.len() == frame.len()) else { return false };
    let mut copy = frame.to_vec();
    // Zero can be written in two ways; for UDP they differ.
    let sums = match outer.protocol {
        TCP => outer.transport + 16,
        ICMP | ICMP6 => outer.transport + 2,
        _ => outer.ip + 10,
    };
    for at in [sums, outer.ip + 10] {
        let is_sum = outer.is_ipv4() || at != outer.ip + 10;
        if let (Some(one), Some(other)) = (u16_at(wanted, at), u16_at(frame, at))
            && is_sum
            && sums::same(one, other)
        {
            copy[at..at + 2].copy_from_slice(&wanted[at..at + 2]);
        }
    }
    if copy == wanted {
        return true;
    }
    let tunnel = matches!(outer.protocol, 4 | 41 | 47 | UDP);
    if !tunnel {
        return false;
    }
    let at = outer.ip;
    if outer.is_ipv4() {
        if wanted[at + 1] & 0xfc == frame[at + 1] & 0xfc && wanted[at + 1] != frame[at + 1] {
            // The header's checksum says so too; it is summed up on its own.
            copy[at + 1] = wanted[at + 1];
            copy[at + 10..at + 12].copy_from_slice(&wanted[at + 10..at + 12]);
        }
    } else {
        // ECN and the flow label; the lower half of the DSCP is in the same byte as ECN, and stays compared.
        if wanted[at + 1] & 0xc0 != frame[at + 1] & 0xc0 {
            return false;
        }
        copy[at + 1..at + 4].copy_from_slice(&wanted[at + 1..at + 4]);
    }
    let gue = outer.protocol == UDP && wanted[outer.transport..outer.transport + 2] == [0, 0];
    if gue {
        let port = u16::from_be_bytes([frame[outer.transport], frame[outer.transport + 1]]);
        if port < 49_152 {
            return false;
        }
        copy[outer.transport..outer.transport + 2].fill(0);
    }
    copy == wanted
}

/// Sums up each checksum of a frame: if those of the original were right, these have to be.
fn checksums(frame: &[u8], original: &[u8]) -> Result<(), String> {
    if View::of(original).is_some_and(|view| right(original, &view).is_err()) {
        return Ok(());
    }
    let view = View::of(frame).ok_or("no IP packet comes out")?;
    right(frame, &view)
}

/// Whether the checksums of a packet, and of one that it carries in a tunnel, are right.
///
/// # Errors
/// Which one is not.
pub fn right(frame: &[u8], view: &View) -> Result<(), String> {
    if view.is_ipv4() && sums::sum(&[&frame[view.ip..view.ip + 20]]) != 0xffff {
        return Err("the IPv4 header's checksum is wrong".to_owned());
    }
    let segment = &frame[view.transport..view.end];
    let inner = match view.protocol {
        4 | 41 => Some(view.transport),
        47 => Some(view.transport + 4),
        UDP if segment.len() > 28 && segment[2..4] == 6080_u16.to_be_bytes() => Some(view.transport + 8),
        _ => None,
    };
    if let Some(at) = inner {
        let inner =
            if frame[at] >> 4 == 4 { View::ipv4(frame, at, false) } else { View::ipv6(frame, at, false) };
        return right(frame, &inner.ok_or("no packet in the tunnel")?);
    }
    if view.piece.is_some() || (view.protocol == UDP && segment.get(6..8) == Some(&[0, 0])) {
        return Ok(());
    }
    let pseudo = sums::pseudo(view.source, view.destination, view.protocol, segment.len());
    let sum = match view.protocol {
        ICMP => sums::sum(&[segment]),
        TCP | UDP | ICMP6 => sums::sum(&[&pseudo, segment]),
        _ => return Ok(()),
    };
    if sum == 0xffff { Ok(()) } else { Err(format!("the checksum of protocol {} is wrong", view.protocol)) }
}

/// Of packets that the node makes itself: what RFC 1700 recommends.
const OWN_HOPS: u8 = 64;

fn answered(frame: &[u8], original: &[u8]) -> Result<(View, View), String> {
    let asked = View::of(original).ok_or("an answer to no IP packet")?;
    let view = View::of(frame).ok_or("the answer is no IP packet")?;
    if frame[..6] != original[6..12] {
        return Err("the answer does not go back to where the packet came from".to_owned());
    }
    if view.source != asked.destination || view.destination != asked.source {
        return Err(format!("the answer goes from {} to {}", view.source, view.destination));
    }
    if view.ttl != OWN_HOPS {
        return Err(format!("the answer has {} hops to live, not {OWN_HOPS}", view.ttl));
    }
    right(frame, &view)?;
    Ok((view, asked))
}

/// RFC 9293, 3.10.7.1: "If the ACK bit is off, sequence number zero is used, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>. If the ACK
/// bit is on, <SEQ=SEG.ACK><CTL=RST>".
fn reset(frame: &[u8], original: &[u8]) -> Result<(), String> {
    let (view, asked) = answered(frame, original)?;
    let (one, other) =
        (view.ports(frame).ok_or("no segment")?, asked.ports(original).ok_or("no segment asked")?);
    if view.protocol != TCP || one.0 != other.1 || one.1 != other.0 {
        return Err(format!("the answer's ports are {one:?}"));
    }
    let word = |frame: &[u8], at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap_or([0; 4]));
    let flags = asked.flags(original);
    let header = usize::from(original[asked.transport + 12] >> 4) * 4;
    let length = asked.end - asked.transport - header;
    let counted =
        u32::try_from(length).unwrap_or(0) + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let sequence = word(frame, view.transport + 4);
    if view.flags(frame) & !ACK != RST {
        return Err(format!("the flags are {:x}", view.flags(frame)));
    }
    if flags & ACK != 0 {
        let wanted = word(original, asked.transport + 8);
        return if sequence == wanted {
            Ok(())
        } else {
            Err(format!("sequence {sequence:x}, not {wanted:x}"))
        };
    }
    let acknowledged = word(frame, view.transport + 8);
    let wanted = word(original, asked.transport + 4).wrapping_add(counted);
    let fits = view.flags(frame) == RST | ACK && acknowledged == wanted;
    if fits { Ok(()) } else { Err(format!("acknowledges {acknowledged:x}, not {wanted:x}")) }
}

/// An ICMP error that quotes the packet, which is longer than the way takes.
fn too_big(frame: &[u8], original: &[u8], mtu: u16) -> Result<(), String> {
    let (view, asked) = answered(frame, original)?;
    let message = &frame[view.transport..view.end];
    let wanted: (u8, u8, u8) = match view.source {
        IpAddr::V4(_) => (ICMP, 3, 4),
        IpAddr::V6(_) => (ICMP6, 2, 0),
    };
    if message.len() < 8 || (view.protocol, message[0], message[1]) != wanted {
        return Err(format!("protocol {}, kind {:?}, not {wanted:?}", view.protocol, message.get(..2)));
    }
    let told = u32::from_be_bytes(message[4..8].try_into().unwrap_or([0; 4]));
    if told != u32::from(mtu) {
        return Err(format!("tells {told}, not {mtu}"));
    }
    // RFC 792 asks for 8 bytes behind the header, RFC 4443 for as much as fits into 1280 bytes, RFC 1812 for 576.
    let quote = &message[8..];
    let least = (asked.transport - asked.ip + 8).min(asked.length());
    let most = if view.is_ipv4() { 576 } else { 1280 };
    if quote.len() < least || view.length() > most {
        return Err(format!("quotes {} bytes in {}", quote.len(), view.length()));
    }
    let whole = &original[asked.ip..asked.end];
    if whole.starts_with(quote) { Ok(()) } else { Err("quotes something else".to_owned()) }
}
