//! Signed advertisements: the HMAC trailer of draft-cassen-vrrp-auth-hmac, as keepalived 2.4 sends it.
//!
//! [`TRAILER_LEN`] bytes follow the VRRP message, in network order:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | type, 1: HMAC-SHA-256 cut to 128 bits |
//! | 1 | key id, [`KEY_ID`] |
//! | 2 | reserved, 0 |
//! | 4 | seconds of the Unix time |
//! | 2 | fraction of the second in units of 1/65536 |
//! | 2 | counter |
//! | 16 | MAC |
//!
//! The MAC covers: family (4 or 6), version, VRID, 0, the source address in 16 bytes (an IPv4 address and twelve zeros);
//! the message with its checksum as 0; the trailer with its MAC as zeros. Seconds, fraction and counter are one number, the
//! *stamp*, that only grows: this is what tells a replayed packet from a new one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::config::{ChecksumReading, VrrpVersion};
use common::key::PairKey;
use common::time::{Duration, UnixTime};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::packet::{self, Advert, CHECKSUM_OFFSET, Family, Meta, Parsed};

/// The length of the trailer, in bytes.
pub const TRAILER_LEN: usize = 28;

/// The number of the pair's key in the trailer. There is only one key, so there is only one number.
pub const KEY_ID: u8 = 1;

/// How far a stamp may be from the local wall clock.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// How many senders a [`Verifier`] remembers. A pair has two; the rest is room for addresses that changed.
pub const SENDERS_MAX: usize = 16;

/// The trailer's type: HMAC-SHA-256 cut to 128 bits.
const TYPE_HMAC_SHA256_128: u8 = 1;

/// The trailer up to its MAC.
const HEAD_LEN: usize = 12;

/// The MAC, in bytes.
const MAC_LEN: usize = TRAILER_LEN - HEAD_LEN;

/// Why a packet does not count as signed by the other holder of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No trailer, or something of another length in its place.
    #[error(
        "the packet is not signed; give its sender the pair's key, or set auth = \"permissive\" meanwhile"
    )]
    Missing,
    /// A key id other than [`KEY_ID`].
    #[error(
        "the packet is signed with key {0}, this pair has only key {KEY_ID}; use that key id at its sender"
    )]
    KeyId(u8),
    /// An algorithm other than HMAC-SHA-256 cut to 128 bits.
    #[error("the packet's signature is of type {0}, only type 1 is known; use HMAC-SHA-256 at its sender")]
    Type(u8),
    /// The MAC does not match.
    #[error(
        "the packet's signature is wrong; compare the key files of both ends, else someone forges packets"
    )]
    Mac,
    /// A stamp that is not newer than the last one of this sender.
    #[error(
        "the packet's stamp is not newer than its sender's last; it was recorded and sent again, or its sender's clock was set back"
    )]
    Replayed,
    /// A stamp too far from the local clock.
    #[error("the packet's stamp is more than 300 s from this node's clock; set the clocks of both ends")]
    ClockSkew,
    /// More senders than are remembered.
    #[error("more than 16 routers sign packets for this virtual router; give each pair a key of its own")]
    SendersFull,
}

impl AuthError {
    /// All of them, once each, for registering metrics ahead of the first occurrence.
    pub const NAMES: [&'static str; 7] = [
        "auth_missing",
        "auth_key_id",
        "auth_type",
        "auth_mac",
        "auth_replayed",
        "auth_clock_skew",
        "auth_senders_full",
    ];

    /// The label in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Missing => Self::NAMES[0],
            Self::KeyId(_) => Self::NAMES[1],
            Self::Type(_) => Self::NAMES[2],
            Self::Mac => Self::NAMES[3],
            Self::Replayed => Self::NAMES[4],
            Self::ClockSkew => Self::NAMES[5],
            Self::SendersFull => Self::NAMES[6],
        }
    }
}

/// A position in a sender's sequence of packets, ordered as its fields are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    seconds: u32,
    /// In units of 1/65536 s, 15.3 µs.
    fraction: u16,
    counter: u16,
}

impl Stamp {
    /// The first stamp of a moment. Times after 2106 do not fit and become the last second before.
    fn at(time: UnixTime) -> Self {
        let nanos = time.as_nanos();
        let fraction = (nanos % 1_000_000_000) * 65_536 / 1_000_000_000;
        Self {
            seconds: u32::try_from(nanos / 1_000_000_000).unwrap_or(u32::MAX),
            // Less than one second is less than 65536 units.
            fraction: u16::try_from(fraction).unwrap_or(u16::MAX),
            counter: 0,
        }
    }

    /// The moment of the stamp, to 15.3 µs.
    const fn time(self) -> UnixTime {
        UnixTime::from_nanos(
            self.seconds as u64 * 1_000_000_000 + self.fraction as u64 * 1_000_000_000 / 65_536,
        )
    }

    /// The stamp right after this one; the very last has none and stays, which receivers then refuse.
    fn next(self) -> Self {
        let number = u64::from(self.seconds) << 32 | u64::from(self.fraction) << 16 | u64::from(self.counter);
        Self::from_bytes(number.saturating_add(1).to_be_bytes())
    }

    /// The stamp as in the trailer.
    const fn from_bytes(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            seconds: u32::from_be_bytes([a, b, c, d]),
            fraction: u16::from_be_bytes([e, f]),
            counter: u16::from_be_bytes([g, h]),
        }
    }
}

/// Signs the packets of one virtual router (one VRID and family).
///
/// Clone it only to hand the work over: two that sign for the same address at once would produce stamps out of order.
#[derive(Clone, Debug)]
pub struct Signer {
    key: PairKey,
    last: Option<Stamp>,
}

impl Signer {
    /// A signer with no past. After a restart the wall clock carries the sequence on, so it must not have been set back.
    #[must_use]
    pub fn new(key: &PairKey) -> Self {
        Self { key: key.clone(), last: None }
    }

    /// Appends the trailer to `message`, which is a VRRP message and nothing else.
    ///
    /// `family`, `version`, `vrid` and `source` are what the packet will be sent with. The stamp is the time `now`, or right
    /// after the last one if that is later: it grows with each call, whatever the clock does.
    ///
    /// The message's checksum is not part of the MAC and not touched; with IPv6 it has to cover the trailer and be
    /// computed afterwards, as [`emit_signed`] does.
    pub fn sign(
        &mut self,
        family: Family,
        version: VrrpVersion,
        vrid: u8,
        source: IpAddr,
        message: &mut Vec<u8>,
        now: UnixTime,
    ) {
        let clock = Stamp::at(now);
        let stamp = self.last.map_or(clock, |last| clock.max(last.next()));
        self.last = Some(stamp);
        let mut head = [0; HEAD_LEN];
        head[0] = TYPE_HMAC_SHA256_128;
        head[1] = KEY_ID;
        head[4..8].copy_from_slice(&stamp.seconds.to_be_bytes());
        head[8..10].copy_from_slice(&stamp.fraction.to_be_bytes());
        head[10..12].copy_from_slice(&stamp.counter.to_be_bytes());
        let mac =
            compute(&self.key, [family_number(family), version.into(), vrid, 0], source, message, &head);
        message.extend(head);
        message.extend(mac.finalize().into_bytes().iter().take(MAC_LEN));
    }
}

/// Writes `advert` as [`Advert::emit`] does and signs it, with a checksum that is right for the whole.
#[must_use]
pub fn emit_signed(
    advert: &Advert,
    source: IpAddr,
    destination: IpAddr,
    checksum: ChecksumReading,
    signer: &mut Signer,
    now: UnixTime,
) -> Vec<u8> {
    let mut bytes = advert.emit(source, destination, checksum);
    let family = Family::of(source);
    signer.sign(family, advert.version, advert.vrid, source, &mut bytes, now);
    if family == Family::V6 {
        packet::write_checksum_v6(&mut bytes, source, destination);
    }
    bytes
}

/// Tells packets of holders of the key from others, and new ones from replayed ones.
///
/// For each sender (source address and VRID) it keeps the stamp of the last accepted packet, and nothing of others:
/// - A new packet's stamp must be greater. How far it lags behind the local clock does not matter then, so setting the local
///   clock forward cuts nobody off.
/// - It must also be no more than [`CLOCK_SKEW_MAX`] ahead of the local clock or, if that clock was set back, ahead of
///   the sender's last stamp. Otherwise one packet of a moment with a wrong clock would lock its sender out for long.
/// - A sender not heard before has to be within [`CLOCK_SKEW_MAX`] of the local clock, either way. So what was recorded
///   can be replayed for at most that long to a node that has just started, and not at all to one that has heard a later
///   packet.
///
/// Only holders of the key get remembered, at most [`SENDERS_MAX`] of them. When that is full, senders not heard for
/// [`CLOCK_SKEW_MAX`] are forgotten, because their old packets are by now refused for their age alone; if there are none,
/// the new sender is refused.
#[derive(Clone, Debug)]
pub struct Verifier {
    key: PairKey,
    last: BTreeMap<(IpAddr, u8), Stamp>,
}

impl Verifier {
    /// A verifier that has heard nobody yet.
    #[must_use]
    pub fn new(key: &PairKey) -> Self {
        Self { key: key.clone(), last: BTreeMap::new() }
    }

    /// Accepts or refuses a packet that [`Advert::parse`] has read; `meta` is the same as there and `now` the local wall
    /// clock. A refused packet leaves no trace.
    pub fn verify(
        &mut self,
        parsed: &Parsed<'_>,
        family: Family,
        meta: &Meta,
        now: UnixTime,
    ) -> Result<(), AuthError> {
        let Ok(trailer) = <&[u8; TRAILER_LEN]>::try_from(parsed.trailer) else {
            return Err(AuthError::Missing);
        };
        let (head, mac) = trailer.split_at(HEAD_LEN);
        if head[0] != TYPE_HMAC_SHA256_128 {
            return Err(AuthError::Type(head[0]));
        }
        if head[1] != KEY_ID {
            return Err(AuthError::KeyId(head[1]));
        }
        let vrid = parsed.advert.vrid;
        let context = [family_number(family), parsed.advert.version.into(), vrid, 0];
        // Compares in constant time.
        compute(&self.key, context, meta.source, parsed.message, head)
            .verify_truncated_left(mac)
            .map_err(|_| AuthError::Mac)?;
        let [_, _, _, _, stamp @ ..] = head else { return Err(AuthError::Missing) };
        let stamp = Stamp::from_bytes(<[u8; 8]>::try_from(stamp).map_err(|_| AuthError::Missing)?);
        self.advance((meta.source, vrid), stamp, now)
    }

    /// Makes `stamp` the sender's last one, if it may be.
    fn advance(&mut self, sender: (IpAddr, u8), stamp: Stamp, now: UnixTime) -> Result<(), AuthError> {
        let ahead_of = |time: UnixTime| stamp.time() > time && stamp.time().distance(time) > CLOCK_SKEW_MAX;
        if let Some(last) = self.last.get_mut(&sender) {
            if stamp <= *last {
                return Err(AuthError::Replayed);
            }
            if ahead_of(now) && ahead_of(last.time()) {
                return Err(AuthError::ClockSkew);
            }
            *last = stamp;
            return Ok(());
        }
        if stamp.time().distance(now) > CLOCK_SKEW_MAX {
            return Err(AuthError::ClockSkew);
        }
        if self.last.len() >= SENDERS_MAX {
            self.last.retain(|_, last| last.time() > now || last.time().distance(now) <= CLOCK_SKEW_MAX);
        }
        if self.last.len() >= SENDERS_MAX {
            return Err(AuthError::SendersFull);
        }
        self.last.insert(sender, stamp);
        Ok(())
    }
}

/// The MAC, ready to be cut off or compared. `head` is the trailer up to its MAC.
fn compute(key: &PairKey, context: [u8; 4], source: IpAddr, message: &[u8], head: &[u8]) -> Hmac<Sha256> {
    // HMAC pads a key shorter than the hash's block with zeros (RFC 2104 §2); doing so here leaves no error to handle.
    let mut block = [0; 64];
    block[..32].copy_from_slice(key.bytes());
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(&context);
    let mut address = [0; 16];
    match source {
        IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => address = ip.octets(),
    }
    mac.update(&address);
    let (before, rest) = message.split_at(message.len().min(CHECKSUM_OFFSET));
    let (checksum, after) = rest.split_at(rest.len().min(2));
    mac.update(before);
    mac.update(&[0; 2][..checksum.len()]);
    mac.update(after);
    mac.update(head);
    mac.update(&[0; MAC_LEN]);
    mac
}

/// The family in the MAC.
const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

#[cfg(test)]
mod tests;
