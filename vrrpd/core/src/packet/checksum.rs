//! The checksum of advertisements and its two readings.

use std::net::IpAddr;

use common::config::{ChecksumReading, VrrpVersion};

use super::{CHECKSUM_OFFSET, Family, Meta, PROTOCOL, PacketError};

/// Checks the checksum, and says which reading of it matched where there are two.
pub(super) fn verify_checksum(
    payload: &[u8],
    message: &[u8],
    meta: &Meta,
    version: VrrpVersion,
) -> Result<Option<ChecksumReading>, PacketError> {
    let right = |sum: u64| fold(sum) == 0xffff;
    let pseudo = |len: usize| pseudo_sum(meta.source, meta.destination, len);
    match (version, Family::of(meta.source)) {
        // RFC 3768 §5.3.8: "the 16-bit one's complement of the one's complement sum of the entire VRRP message
        // starting with the version field."
        (VrrpVersion::V2, _) if right(sum(message)) => Ok(None),
        // RFC 9568 §5.2.8 has the same for version 3 over IPv4. RFC 5798 §5.2.8 went on: "and a 'pseudo-header' as
        // defined in Section 8.1 of [RFC2460]", which many read to mean IPv4 too; both are accepted. A trailer is in
        // neither.
        (VrrpVersion::V3, Family::V4) if right(sum(message)) => Ok(Some(ChecksumReading::Message)),
        (VrrpVersion::V3, Family::V4) if right(sum(message) + pseudo(message.len())) => {
            Ok(Some(ChecksumReading::PseudoHeader))
        }
        // RFC 9568 §5.2.8 keeps the pseudo-header for IPv6. The kernel computes the sum over all of the payload, so a
        // trailer is in it.
        (VrrpVersion::V3, Family::V6) if right(sum(payload) + pseudo(payload.len())) => Ok(None),
        _ => Err(PacketError::Checksum),
    }
}

/// Computes the checksum of `bytes`, with the pseudo-header of the two addresses if given, and writes it into them.
pub(super) fn write_checksum(bytes: &mut [u8], pseudo: Option<(IpAddr, IpAddr)>) {
    let len = bytes.len();
    let Some(field) = bytes.get_mut(CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2) else { return };
    field.fill(0);
    let pseudo = pseudo.map_or(0, |(source, destination)| pseudo_sum(source, destination, len));
    let checksum = !fold(sum(bytes) + pseudo);
    bytes[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The sum of the 16-bit words of the pseudo-header. Splitting protocol and length over 32 bits, as IPv6 does, or over 16,
/// as IPv4 does, sums up to the same.
fn pseudo_sum(source: IpAddr, destination: IpAddr, len: usize) -> u64 {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    };
    // The payload of an IP packet is shorter than 64 KiB; a longer one has no right checksum anyway.
    let len = u64::from(u16::try_from(len).unwrap_or(u16::MAX));
    address(source) + address(destination) + u64::from(PROTOCOL) + len
}

/// The sum of the 16-bit words of `bytes`, a last odd byte padded with zero. No slice is long enough to overflow it.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    words + rest.first().map_or(0, |byte| u64::from(*byte) << 8)
}

/// `sum` in 16 bits, with the carries added back in.
fn fold(mut sum: u64) -> u16 {
    loop {
        match u16::try_from(sum) {
            Ok(folded) => return folded,
            Err(_) => sum = (sum & 0xffff) + (sum >> 16),
        }
    }
}

/// Writes the checksum of a whole IPv6 payload, trailer included, into it. Linux does the same on a raw socket with
/// `IPV6_CHECKSUM` at offset 6, and comes to the same value.
pub(crate) fn write_checksum_v6(payload: &mut [u8], source: IpAddr, destination: IpAddr) {
    write_checksum(payload, Some((source, destination)));
}
