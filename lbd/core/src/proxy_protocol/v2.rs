//! Version 2: a signature, a version and a command, a family, a length, addresses, and extensions (TLVs).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Origin, Parsed, ProxyError, V2_BYTES_MAX};

/// How it begins.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
const VERSION: u8 = 0x20;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const CRC32C_TYPE: u8 = 0x03;

/// Reads a header whose signature is right as far as it goes.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    // Each byte is judged as soon as it is there.
    if let Some(&version_command) = bytes.get(12) {
        // "the most significant four bits contain the version … it must always be sent as \x2"
        if version_command & 0xf0 != VERSION {
            return Err(ProxyError::Unknown("version"));
        }
        if !matches!(version_command & 0x0f, LOCAL | PROXY) {
            return Err(ProxyError::Unknown("command"));
        }
    }
    if let Some(&family) = bytes.get(13)
        && bytes[12] & 0x0f == PROXY
        && !matches!(family, 0x00 | TCP4 | 0x12 | TCP6 | 0x22 | 0x31 | 0x32)
    {
        return Err(ProxyError::Unknown("family"));
    }
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else { return Ok(Parsed::Incomplete) };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > V2_BYTES_MAX {
        return Err(ProxyError::TooLong(length));
    }
    let (command, family) = (fixed[12] & 0x0f, fixed[13]);
    if length < FIXED_BYTES + address_bytes(command, family) {
        return Err(ProxyError::TooShort);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Parsed::Incomplete) };
    Ok(Parsed::Complete { origin: origin(command, family, header)?, length })
}

/// The bytes that a family's addresses take; 0 for what is skipped whole.
const fn address_bytes(command: u8, family: u8) -> usize {
    match (command, family) {
        (PROXY, TCP4) => 12,
        (PROXY, TCP6) => 36,
        _ => 0,
    }
}

fn origin(command: u8, family: u8, header: &[u8]) -> Result<Origin, ProxyError> {
    let body = &header[FIXED_BYTES..];
    let origin = match (command, family) {
        (PROXY, TCP4) => {
            let bytes = body.first_chunk::<12>().ok_or(ProxyError::TooShort)?;
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
            Origin::Proxied {
                source: SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([i, j]))),
                destination: SocketAddr::from((Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([k, l]))),
            }
        }
        (PROXY, TCP6) => {
            let address = |from: usize| -> Option<Ipv6Addr> {
                body.get(from..)?.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes))
            };
            let port = |from: usize| -> Option<u16> {
                body.get(from..)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
            };
            let both = || {
                let source = SocketAddr::from((address(0)?, port(32)?));
                let destination = SocketAddr::from((address(16)?, port(34)?));
                Some(Origin::Proxied { source, destination })
            };
            both().ok_or(ProxyError::TooShort)?
        }
        // "the receiver must accept this connection as valid and must use the real connection endpoints and discard the
        // protocol block including the family which is ignored"; the same for what does not come over TCP.
        _ => return Ok(Origin::Local),
    };
    check_extensions(header, FIXED_BYTES + address_bytes(command, family))?;
    Ok(origin)
}

/// Walks over the extensions from `at` to the header's end, and checks the checksum if there is one.
fn check_extensions(header: &[u8], mut at: usize) -> Result<(), ProxyError> {
    let mut checksum = None;
    while at < header.len() {
        let Some(&[kind, high, low]) = header[at..].first_chunk::<3>() else {
            return Err(ProxyError::Extensions);
        };
        let value = at + 3;
        let next = value + usize::from(u16::from_be_bytes([high, low]));
        if next > header.len() {
            return Err(ProxyError::Extensions);
        }
        if kind == CRC32C_TYPE {
            // Two of them could not both be of the header with their own bytes as zeros.
            if checksum.replace(value).is_some() || next - value != 4 {
                return Err(ProxyError::Extensions);
            }
        }
        at = next;
    }
    let Some(value) = checksum else { return Ok(()) };
    let sent = header[value..].first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
    // "Set all bytes of the checksum field to zero, calculate over the entire PROXY header".
    let crc = crc32c(crc32c(crc32c(!0, &header[..value]), &[0; 4]), &header[value + 4..]);
    if sent == Some(!crc) { Ok(()) } else { Err(ProxyError::Checksum) }
}

/// Continues a CRC-32C (Castagnoli, reflected 0x82F63B78) over `bytes`; begun and ended by inverting.
pub(super) fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

/// Writes the header of a connection between two addresses of one family.
pub(super) fn emit(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.push(VERSION | PROXY);
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            out.extend_from_slice(&[TCP4, 0, 12]);
            out.extend_from_slice(&source.ip().octets());
            out.extend_from_slice(&destination.ip().octets());
        }
        (source, destination) => {
            out.extend_from_slice(&[TCP6, 0, 36]);
            for address in [source, destination] {
                let octets = match address {
                    SocketAddr::V4(address) => address.ip().to_ipv6_mapped().octets(),
                    SocketAddr::V6(address) => address.ip().octets(),
                };
                out.extend_from_slice(&octets);
            }
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

/// Writes the header of a connection of one's own.
pub(super) fn emit_local(out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[VERSION | LOCAL, 0, 0, 0]);
}
