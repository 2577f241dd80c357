//! VRRP advertisements on the wire: RFC 9568 (version 3) and RFC 3768 (version 2).
//!
//! [`Advert`] is what an advertisement says; [`Advert::parse`] reads one from the payload of a received IP packet and
//! makes every check that needs nothing but the packet, [`Advert::emit`] writes one. Which virtual router it belongs to,
//! and what follows from it, is decided elsewhere; so is whether it is genuine ([`crate::auth`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::config::{ChecksumReading, VrrpVersion};
use common::time::Duration;
use serde::Serialize;

pub(crate) use checksum::write_checksum_v6;
use checksum::{verify_checksum, write_checksum};

mod checksum;

/// The IP protocol number of VRRP (RFC 9568 §5.1.1.4, §5.1.2.4).
pub const PROTOCOL: u8 = 112;

/// Where IPv4 advertisements go (RFC 9568 §5.1.1.2).
pub const MULTICAST_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// Where IPv6 advertisements go (RFC 9568 §5.1.2.2).
pub const MULTICAST_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// The TTL or hop limit of every advertisement, sent and received (RFC 9568 §5.1.1.3, §5.1.2.3).
pub const TTL: u8 = 255;

/// The longest interval that a version 3 advertisement can say: 12 bits of centiseconds.
pub const INTERVAL_MAX_V3: Duration = Duration::from_millis(40_950);

/// The longest interval that a version 2 advertisement can say: 8 bits of seconds.
pub const INTERVAL_MAX_V2: Duration = Duration::from_secs(255);

/// The largest number of addresses in one advertisement: the count has 8 bits.
pub const ADDRESSES_MAX: usize = 255;

/// The fixed part of both versions, in bytes.
const HEADER_LEN: usize = 8;

/// Where the checksum is: two bytes from here.
pub(crate) const CHECKSUM_OFFSET: usize = 6;

/// The authentication data at the end of a version 2 message, in bytes (RFC 3768 §5.3.10).
const AUTH_V2_LEN: usize = 8;

/// The only type of VRRP packet: ADVERTISEMENT.
const TYPE_ADVERTISEMENT: u8 = 1;

/// An address family; virtual routers of the two are independent of each other even with the same VRID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Its name in the API, the logs and the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// The address that multicast advertisements of this family go to.
    #[must_use]
    pub const fn multicast(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(MULTICAST_V4),
            Self::V6 => IpAddr::V6(MULTICAST_V6),
        }
    }

    /// The length of one address, in bytes.
    const fn address_len(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// What the IP header of a received packet said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The sender's address.
    pub source: IpAddr,
    /// Where the packet was sent to: the multicast group, or this node.
    pub destination: IpAddr,
    /// TTL or hop limit as received.
    pub hop_limit: u8,
}

/// Why a packet was discarded before anyone looked at what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than its own header, or than the addresses it announces.
    #[error("the packet is cut short; look for other software that sends IP protocol 112 on this link")]
    Truncated,
    /// TTL or hop limit other than 255: it came from beyond the link.
    #[error(
        "the packet came with TTL {0} instead of 255, so a router forwarded it; VRRP does not leave the link"
    )]
    HopLimit(u8),
    /// A version that is not the configured one.
    #[error(
        "the packet is of VRRP version {0}, which is not the one configured; set the same version on all routers"
    )]
    Version(u8),
    /// A type other than ADVERTISEMENT.
    #[error(
        "the packet is of VRRP type {0}, only type 1 exists; look for other software that sends IP protocol 112"
    )]
    Type(u8),
    /// No accepted reading of the checksum matches.
    #[error(
        "the packet's checksum is wrong; it was damaged on the way, or its sender computes it differently"
    )]
    Checksum,
    /// VRID 0.
    #[error(
        "the packet names virtual router 0, identifiers start at 1; correct the configuration of its sender"
    )]
    VridZero,
    /// No address in it.
    #[error("the packet announces no address; give the virtual router of its sender at least one")]
    AddressCountZero,
    /// An interval of nothing.
    #[error("the packet says an advertisement interval of 0; correct the configuration of its sender")]
    IntervalZero,
    /// The first IPv6 address is not link-local. Only [`Parsed::check_first_address`] says this.
    #[error(
        "the first IPv6 address of the packet is not link-local; put a link-local one first at its sender"
    )]
    FirstAddressNotLinkLocal,
    /// A version 2 authentication type other than none and simple password.
    #[error(
        "the version 2 packet uses authentication type {0}, only 0 and 1 are known; switch it off at its sender"
    )]
    AuthTypeV2(u8),
}

impl PacketError {
    /// All of them, once each, for registering metrics ahead of the first occurrence.
    pub const NAMES: [&'static str; 10] = [
        "truncated",
        "hop_limit",
        "version",
        "type",
        "checksum",
        "vrid_zero",
        "address_count_zero",
        "interval_zero",
        "first_address_not_link_local",
        "auth_type_v2",
    ];

    /// The label in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Truncated => Self::NAMES[0],
            Self::HopLimit(_) => Self::NAMES[1],
            Self::Version(_) => Self::NAMES[2],
            Self::Type(_) => Self::NAMES[3],
            Self::Checksum => Self::NAMES[4],
            Self::VridZero => Self::NAMES[5],
            Self::AddressCountZero => Self::NAMES[6],
            Self::IntervalZero => Self::NAMES[7],
            Self::FirstAddressNotLinkLocal => Self::NAMES[8],
            Self::AuthTypeV2(_) => Self::NAMES[9],
        }
    }
}

/// What an advertisement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The protocol version.
    pub version: VrrpVersion,
    /// The virtual router; 1 to 255.
    pub vrid: u8,
    /// The sender's priority; 0 says that it stops being active.
    pub priority: u8,
    /// The sender's advertisement interval: centiseconds up to [`INTERVAL_MAX_V3`], or with version 2 whole seconds up to
    /// [`INTERVAL_MAX_V2`].
    pub interval: Duration,
    /// The virtual addresses, in the sender's order; at most [`ADDRESSES_MAX`], of one family.
    pub addresses: Vec<IpAddr>,
}

/// The authentication of a version 2 message. It is reported and never checked: a password in clear text on the link
/// keeps out nothing but mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthV2 {
    /// Type 0.
    None,
    /// Type 1 of RFC 2338, still keepalived's `auth_type PASS`: 8 bytes, padded with zeros.
    Password([u8; 8]),
}

/// A received advertisement, together with what of the bytes is still needed to authenticate it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// What it says.
    pub advert: Advert,
    /// Which reading of the checksum matched; only for version 3 over IPv4, elsewhere there is just one.
    pub checksum_reading: Option<ChecksumReading>,
    /// The VRRP message, without what follows it.
    pub message: &'a [u8],
    /// What follows the message in the IP packet; empty unless it is signed.
    pub trailer: &'a [u8],
    /// The version 2 authentication; `None` with version 3.
    pub auth_v2: Option<AuthV2>,
}

impl Parsed<'_> {
    /// Whether the first address of an IPv6 advertisement is link-local, as its sender had to make it.
    ///
    /// RFC 9568 §5.2.9: "For IPv6, the first address MUST be the IPv6 link-local address associated with the Virtual
    /// Router." That binds the sender; erratum 8300 puts it among the checks of §7.1 after which a receiver must discard, but
    /// FRR sends such packets, and who does not hear it becomes active beside it. So this is a fault to count, not part of
    /// [`Advert::parse`].
    pub fn check_first_address(&self) -> Result<(), PacketError> {
        match self.advert.addresses.first() {
            Some(IpAddr::V6(first)) if !first.is_unicast_link_local() => {
                Err(PacketError::FirstAddressNotLinkLocal)
            }
            _ => Ok(()),
        }
    }
}

impl Advert {
    /// Reads an advertisement from `bytes`, the payload of an IP packet with protocol number [`PROTOCOL`].
    ///
    /// `expected` is the configured version; another one is an error, as is everything for which the RFC says that the
    /// packet is discarded without looking at the virtual router's configuration.
    pub fn parse<'a>(bytes: &'a [u8], meta: &Meta, expected: VrrpVersion) -> Result<Parsed<'a>, PacketError> {
        // RFC 9568 §5.1.1.3: "A VRRP Router receiving a packet with the TTL not equal to 255 MUST discard the packet";
        // §5.1.2.3 says the same of the IPv6 hop limit. Unicast packets are held to it too: both ends share a link.
        if meta.hop_limit != TTL {
            return Err(PacketError::HopLimit(meta.hop_limit));
        }
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(PacketError::Truncated);
        };
        let [version_type, vrid, priority, count, fifth, sixth, ..] = *header;
        let family = Family::of(meta.source);
        // RFC 9568 §7.1: "It MUST verify that the VRRP version is 3." RFC 3768 §7.1 says so of version 2, which has no IPv6.
        let version = version_type >> 4;
        if version != u8::from(expected) || (expected == VrrpVersion::V2 && family == Family::V6) {
            return Err(PacketError::Version(version));
        }
        // RFC 9568 §5.2.2: "A packet with unknown type MUST be discarded."
        if version_type & 0x0f != TYPE_ADVERTISEMENT {
            return Err(PacketError::Type(version_type & 0x0f));
        }
        // RFC 9568 §7.1: "It MUST verify that the received packet contains the complete VRRP packet (including fixed
        // fields and the IPvX address)."
        let message_len = message_len(expected, family, usize::from(count));
        let Some((message, trailer)) = bytes.split_at_checked(message_len) else {
            return Err(PacketError::Truncated);
        };
        // RFC 9568 §7.1: "It MUST verify the VRRP checksum."
        let checksum_reading = verify_checksum(bytes, message, meta, expected)?;
        // RFC 9568 §5.2.3 has virtual routers 1 to 255.
        if vrid == 0 {
            return Err(PacketError::VridZero);
        }
        // RFC 9568 §5.2.5: "If the received count is 0, the VRRP advertisement MUST be ignored."
        if count == 0 {
            return Err(PacketError::AddressCountZero);
        }
        let (interval, auth_v2) = match expected {
            VrrpVersion::V2 => (Duration::from_secs(u64::from(sixth)), Some(auth_v2(fifth, message)?)),
            // RFC 9568 §5.2.6: "The Reserve field MUST be set to zero on transmission and ignored on reception."
            VrrpVersion::V3 => {
                (Duration::from_millis(u64::from(u16::from_be_bytes([fifth & 0x0f, sixth])) * 10), None)
            }
        };
        // An interval of 0 would make every timer that is learned from it expire at once.
        if interval.is_zero() {
            return Err(PacketError::IntervalZero);
        }
        let addresses = addresses(&message[HEADER_LEN..], family, usize::from(count));
        let advert = Self { version: expected, vrid, priority, interval, addresses };
        Ok(Parsed { advert, checksum_reading, message, trailer, auth_v2 })
    }

    /// Writes the advertisement, checksum included, as the payload of an IP packet from `source` to `destination`.
    ///
    /// `checksum` is the reading used for version 3 over IPv4; elsewhere there is just one. The interval is cut down to
    /// the version's unit and into its range, 1 unit to [`INTERVAL_MAX_V3`] or [`INTERVAL_MAX_V2`]. Addresses of another
    /// family than `source`'s and those beyond [`ADDRESSES_MAX`] are left out. Version 2 is sent without authentication.
    #[must_use]
    pub fn emit(&self, source: IpAddr, destination: IpAddr, checksum: ChecksumReading) -> Vec<u8> {
        let family = Family::of(source);
        let addresses: Vec<_> =
            self.addresses.iter().filter(|ip| Family::of(**ip) == family).take(ADDRESSES_MAX).collect();
        let mut bytes = Vec::with_capacity(message_len(self.version, family, addresses.len()));
        bytes.push(u8::from(self.version) << 4 | TYPE_ADVERTISEMENT);
        bytes.extend([self.vrid, self.priority, u8::try_from(addresses.len()).unwrap_or(u8::MAX)]);
        bytes.extend(self.interval_field());
        bytes.extend([0, 0]);
        for address in addresses {
            match address {
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => bytes.extend(ip.octets()),
            }
        }
        if self.version == VrrpVersion::V2 {
            // RFC 3768 §5.3.10 wants zeros here.
            bytes.extend([0; AUTH_V2_LEN]);
        }
        let pseudo = match (self.version, family) {
            (VrrpVersion::V3, Family::V4) => checksum == ChecksumReading::PseudoHeader,
            (VrrpVersion::V3, Family::V6) => true,
            (VrrpVersion::V2, _) => false,
        };
        write_checksum(&mut bytes, pseudo.then_some((source, destination)));
        bytes
    }

    /// The fifth and sixth byte: reserved bits and centiseconds, or authentication type 0 and seconds.
    fn interval_field(&self) -> [u8; 2] {
        match self.version {
            VrrpVersion::V2 => {
                let seconds = self.interval.clamp(Duration::from_secs(1), INTERVAL_MAX_V2).as_secs();
                [0, u8::try_from(seconds).unwrap_or(u8::MAX)]
            }
            VrrpVersion::V3 => {
                let interval = self.interval.clamp(Duration::from_millis(10), INTERVAL_MAX_V3);
                u16::try_from(interval.as_millis() / 10).unwrap_or(0x0fff).to_be_bytes()
            }
        }
    }
}

/// Splits what a raw IPv4 socket delivers, a whole IPv4 packet, into what its header says and its payload.
pub fn split_ipv4(packet: &[u8]) -> Result<(Meta, &[u8]), PacketError> {
    let Some((header, _)) = packet.split_first_chunk::<20>() else { return Err(PacketError::Truncated) };
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_len < header.len() {
        return Err(PacketError::Truncated);
    }
    let payload = packet.get(header_len..total_len).ok_or(PacketError::Truncated)?;
    let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Ok((Meta { source: address(12), destination: address(16), hop_limit: header[8] }, payload))
}

/// The length of a message with `count` addresses, in bytes.
const fn message_len(version: VrrpVersion, family: Family, count: usize) -> usize {
    let auth_len = match version {
        VrrpVersion::V2 => AUTH_V2_LEN,
        VrrpVersion::V3 => 0,
    };
    HEADER_LEN + count * family.address_len() + auth_len
}

/// The first `count` addresses in `bytes`.
fn addresses(bytes: &[u8], family: Family, count: usize) -> Vec<IpAddr> {
    match family {
        Family::V4 => {
            bytes.as_chunks::<4>().0.iter().take(count).map(|octets| IpAddr::from(*octets)).collect()
        }
        Family::V6 => {
            bytes.as_chunks::<16>().0.iter().take(count).map(|octets| IpAddr::from(*octets)).collect()
        }
    }
}

/// The authentication of a version 2 message.
fn auth_v2(auth_type: u8, message: &[u8]) -> Result<AuthV2, PacketError> {
    match auth_type {
        0 => Ok(AuthV2::None),
        // RFC 3768 §5.3.6 knows no type but 0 and keeps 1 and 2 reserved for what they were in RFC 2338, where 1 is the
        // simple password. Routers that still send one are heard.
        1 => Ok(AuthV2::Password(message.last_chunk().copied().unwrap_or_default())),
        // RFC 3768 §5.3.6: "A packet with unknown authentication type or that does not match the locally configured
        // authentication method MUST be discarded."
        other => Err(PacketError::AuthTypeV2(other)),
    }
}

#[cfg(test)]
mod tests;
