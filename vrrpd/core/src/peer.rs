//! The datagrams of the peer link (UDP 7112): second heartbeat, switchover handshake, release.
//!
//! Each datagram is one bincode [`Envelope`] followed by a 32-byte HMAC-SHA-256 tag under a key derived from the pair's
//! key. Replay is refused without synchronised clocks: within one life of the sender (`boot`) the stamps must grow; a
//! boot identifier once left is never accepted again; and everything but a heartbeat must name the receiver's own boot
//! identifier (`echo`), so that nothing recorded before the receiver's start has any effect.

use std::collections::VecDeque;

use bincode::{Decode, Encode};
use common::ipc::Role;
use common::time::{Duration, UnixTime};
use common::wire::{self, WireError};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::packet::Family;

/// The UDP port of the peer link.
pub const PORT: u16 = 7112;

/// The length of the tag at a datagram's end, in bytes.
pub const TAG_LEN: usize = 32;

/// Boot identifiers of the peer's earlier lives that are remembered; the oldest is forgotten beyond it.
const RETIRED_MAX: usize = 256;

/// A virtual router as both nodes name it: its instance's name, hashed, and its address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct RouterKey {
    /// The first 8 bytes of SHA-256 over the instance's name.
    pub instance: u64,
    /// Whether it is the IPv6 one of the instance.
    pub ipv6: bool,
}

impl RouterKey {
    /// The key of an instance's virtual router in one family.
    #[must_use]
    pub fn new(instance: &str, family: Family) -> Self {
        Self { instance: name_hash(instance), ipv6: family == Family::V6 }
    }
}

/// The first 8 bytes of SHA-256 over a name, as a number.
#[must_use]
pub fn name_hash(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |hash, &byte| hash << 8 | u64::from(byte))
}

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Body {
    /// "I am alive, and this is how I stand."
    Heartbeat(Heartbeat),
    /// "Please become active for this router; I drop the addresses once you are."
    Offer {
        /// Which router.
        router: RouterKey,
        /// Names this attempt; repeated until answered.
        id: u64,
    },
    /// "I am active now": the answer to an offer.
    Taken {
        /// Which router.
        router: RouterKey,
        /// The offer's.
        id: u64,
    },
    /// "I can't": the answer to an offer.
    Refused {
        /// Which router.
        router: RouterKey,
        /// The offer's.
        id: u64,
    },
    /// "I no longer hold these": sent when there is no time for a handshake (link down, or by the warden).
    Release {
        /// Which routers, at most 64.
        routers: Vec<RouterKey>,
    },
    /// "I lack connections that you know of": with each heartbeat of a node that is behind. A release that does not know it
    /// drops it.
    Behind,
}

/// A node's report of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Heartbeat {
    /// Its release, at most 32 bytes.
    pub version: String,
    /// The hash of its configuration file.
    pub config_hash: u64,
    /// Milliseconds between its heartbeats.
    pub interval_ms: u32,
    /// Its virtual routers, at most 64.
    pub routers: Vec<RouterReport>,
}

/// One virtual router in a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RouterReport {
    /// Which.
    pub router: RouterKey,
    /// Its role there.
    pub role: Role,
    /// The priority it advertises, or would.
    pub effective_priority: u8,
    /// How unhealthy it is, 0 for healthy (see [`crate::track`]).
    pub severity: u8,
    /// Advertisements sent on the LAN since its start: what tells a dead LAN port from a dead node.
    pub adverts_sent: u64,
}

/// A body with what guards it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Envelope {
    /// The sender, as [`name_hash`] of its node name.
    from: u64,
    /// The sender's life.
    boot: u64,
    /// The receiver's life as far as the sender knows it; 0 if it has not heard from it.
    echo: u64,
    /// Grows with every datagram of one life.
    stamp: u64,
    body: Body,
}

/// Why a datagram was dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Too short to hold a tag.
    #[error("the datagram is too short")]
    Truncated,
    /// The tag does not match: another key, or tampering.
    #[error("the datagram's tag is wrong; do both nodes have the same key file?")]
    Tag,
    /// The envelope does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Not from the other node of the pair.
    #[error("the datagram is not from the other node of the pair")]
    Sender,
    /// Seen before, or older than one seen.
    #[error("the datagram is a replay")]
    Replayed,
    /// It answers an earlier life of this node.
    #[error("the datagram is meant for an earlier run of this node")]
    Stale,
}

impl PeerError {
    /// The error's name in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Tag => "tag",
            Self::Wire(_) => "malformed",
            Self::Sender => "sender",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
        }
    }
}

/// Makes datagrams.
#[derive(Clone, Debug)]
pub struct Sealer {
    key: [u8; 32],
    from: u64,
    boot: u64,
    stamp: u64,
}

impl Sealer {
    /// A sealer for `node` in the life named `boot`.
    #[must_use]
    pub fn new(key: [u8; 32], node: &str, boot: u64) -> Self {
        Self { key, from: name_hash(node), boot, stamp: 0 }
    }

    /// This node's life.
    #[must_use]
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// The stamp used last: a second sealer of the same life (the warden's) starts above it.
    #[must_use]
    pub const fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Makes the next stamps greater than `stamp`.
    pub fn raise_stamp(&mut self, stamp: u64) {
        self.stamp = self.stamp.max(stamp);
    }

    /// `body` as a datagram for the life `echo` of the receiver. Stamps follow the wall clock where it advances, so that
    /// two sealers of one life stay in order.
    pub fn seal(&mut self, echo: u64, unix: UnixTime, body: Body) -> Result<Vec<u8>, WireError> {
        self.stamp = unix.as_nanos().max(self.stamp.saturating_add(1));
        let envelope = Envelope { from: self.from, boot: self.boot, echo, stamp: self.stamp, body };
        let mut bytes = wire::encode(&envelope)?;
        let tag = tag(&self.key, &bytes);
        bytes.extend_from_slice(&tag);
        Ok(bytes)
    }
}

/// Checks datagrams of the one peer.
#[derive(Clone, Debug)]
pub struct Opener {
    key: [u8; 32],
    peer: u64,
    own_boot: u64,
    boot: u64,
    stamp: u64,
    retired: VecDeque<u64>,
}

impl Opener {
    /// An opener for datagrams of `peer` to this node in the life `own_boot`.
    #[must_use]
    pub fn new(key: [u8; 32], peer: &str, own_boot: u64) -> Self {
        Self { key, peer: name_hash(peer), own_boot, boot: 0, stamp: 0, retired: VecDeque::new() }
    }

    /// The peer's life, 0 until something was heard: the echo of what is sent to it.
    #[must_use]
    pub const fn peer_boot(&self) -> u64 {
        self.boot
    }

    /// The body of a datagram, if it is genuine and new. A refused datagram changes nothing.
    pub fn open(&mut self, bytes: &[u8]) -> Result<Body, PeerError> {
        let split = bytes.len().checked_sub(TAG_LEN).ok_or(PeerError::Truncated)?;
        let (message, given) = bytes.split_at(split);
        let mac = keyed(&self.key).chain_update(message);
        mac.verify_slice(given).map_err(|_| PeerError::Tag)?;
        let envelope: Envelope = wire::decode(message)?;
        if envelope.from != self.peer || envelope.boot == 0 {
            return Err(PeerError::Sender);
        }
        let new_life = envelope.boot != self.boot;
        if new_life && self.retired.contains(&envelope.boot) {
            return Err(PeerError::Replayed);
        }
        if !new_life && envelope.stamp <= self.stamp {
            return Err(PeerError::Replayed);
        }
        let heartbeat = matches!(envelope.body, Body::Heartbeat(_));
        if envelope.echo != self.own_boot && !(heartbeat && envelope.echo == 0) && !(heartbeat && new_life) {
            return Err(PeerError::Stale);
        }
        if new_life {
            self.retire();
        }
        self.boot = envelope.boot;
        self.stamp = envelope.stamp;
        Ok(envelope.body)
    }

    fn retire(&mut self) {
        if self.boot != 0 {
            self.retired.push_back(self.boot);
        }
        if self.retired.len() > RETIRED_MAX {
            self.retired.pop_front();
        }
    }
}

/// How long a peer may be silent and still count as alive.
#[must_use]
pub fn silence_limit(interval: Duration) -> Duration {
    (interval * 3).max(Duration::from_millis(200))
}

/// RFC 2104 pads a key shorter than the hash's block with zeros; doing it here leaves no error to handle.
fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    <Hmac<Sha256> as KeyInit>::new(&block.into())
}

fn tag(key: &[u8; 32], message: &[u8]) -> [u8; TAG_LEN] {
    keyed(key).chain_update(message).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [3; 32];

    fn heartbeat() -> Body {
        Body::Heartbeat(Heartbeat::default())
    }

    fn offer() -> Body {
        Body::Offer { router: RouterKey::new("web", Family::V4), id: 7 }
    }

    fn pair() -> (Sealer, Opener) {
        (Sealer::new(KEY, "a", 11), Opener::new(KEY, "a", 22))
    }

    #[test]
    fn genuine_and_new_is_opened_once() {
        let (mut sealer, mut opener) = pair();
        let bytes = sealer.seal(22, UnixTime::from_nanos(5), offer()).unwrap();
        assert_eq!(opener.open(&bytes), Ok(offer()));
        assert_eq!(opener.open(&bytes), Err(PeerError::Replayed));
        assert_eq!(opener.peer_boot(), 11);
    }

    #[test]
    fn a_clock_set_back_does_not_stop_the_link() {
        let (mut sealer, mut opener) = pair();
        opener.open(&sealer.seal(0, UnixTime::from_nanos(1_000), heartbeat()).unwrap()).unwrap();
        let later = sealer.seal(22, UnixTime::from_nanos(3), heartbeat()).unwrap();
        assert_eq!(opener.open(&later), Ok(heartbeat()));
    }

    #[test]
    fn an_earlier_life_of_the_sender_is_never_heard_again() {
        let (mut first, mut opener) = pair();
        let old = first.seal(22, UnixTime::from_nanos(1), offer()).unwrap();
        let unheard = first.seal(22, UnixTime::from_nanos(2), offer()).unwrap();
        opener.open(&old).unwrap();
        let mut second = Sealer::new(KEY, "a", 12);
        opener.open(&second.seal(22, UnixTime::from_nanos(3), heartbeat()).unwrap()).unwrap();
        assert_eq!(opener.open(&unheard), Err(PeerError::Replayed));
    }

    #[test]
    fn what_was_meant_for_an_earlier_run_has_no_effect() {
        let (mut sealer, mut opener) = pair();
        let bytes = sealer.seal(21, UnixTime::from_nanos(1), offer()).unwrap();
        assert_eq!(opener.open(&bytes), Err(PeerError::Stale));
        let unaddressed = sealer.seal(0, UnixTime::from_nanos(1), offer()).unwrap();
        assert_eq!(opener.open(&unaddressed), Err(PeerError::Stale));
        let hello = sealer.seal(0, UnixTime::from_nanos(1), heartbeat()).unwrap();
        assert_eq!(opener.open(&hello), Ok(heartbeat()));
    }

    #[test]
    fn other_senders_and_keys_are_refused() {
        let (_, mut opener) = pair();
        let mut stranger = Sealer::new(KEY, "c", 11);
        let bytes = stranger.seal(22, UnixTime::from_nanos(1), offer()).unwrap();
        assert_eq!(opener.open(&bytes), Err(PeerError::Sender));
        let mut wrong = Sealer::new([4; 32], "a", 11);
        let bytes = wrong.seal(22, UnixTime::from_nanos(1), offer()).unwrap();
        assert_eq!(opener.open(&bytes), Err(PeerError::Tag));
        assert_eq!(opener.open(&[0; 8]), Err(PeerError::Truncated));
    }

    #[test]
    fn the_largest_heartbeat_fits_a_frame() {
        let report = RouterReport {
            router: RouterKey { instance: u64::MAX, ipv6: true },
            role: Role::Active,
            effective_priority: 255,
            severity: 63,
            adverts_sent: u64::MAX,
        };
        let body = Body::Heartbeat(Heartbeat {
            version: "9".repeat(32),
            config_hash: u64::MAX,
            interval_ms: u32::MAX,
            routers: vec![report; 64],
        });
        let bytes = pair().0.seal(22, UnixTime::from_nanos(1), body).unwrap();
        assert!(bytes.len() < 2048, "{}", bytes.len());
    }

    proptest! {
        #[test]
        fn noise_and_flipped_bits_are_refused(at in 0_usize..60, bit in 0_u8..8, noise in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (mut sealer, mut opener) = pair();
            prop_assert!(opener.open(&noise).is_err());
            let mut bytes = sealer.seal(22, UnixTime::from_nanos(1), offer()).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(opener.open(&bytes).is_err());
            prop_assert_eq!(opener.peer_boot(), 0);
        }
    }
}
