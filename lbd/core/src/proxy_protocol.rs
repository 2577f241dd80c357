//! The PROXY protocol, versions 1 and 2, as HAProxy's specification (`proxy-protocol.txt`, 2020/03/05) defines it: a header
//! in front of a connection's bytes that says whose connection it is.
//!
//! Receiving is strict: what is not exactly a header is refused, never taken for data, because a header that was taken for
//! data would let anyone who reaches a trusted proxy choose an address.

mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

/// The longest version 1 header in bytes, line end included ("so a 108-byte buffer is always enough to store all the
/// line and a trailing zero").
pub const V1_BYTES_MAX: usize = 107;

/// The longest version 2 header accepted, in bytes. Its length field would allow 64 KiB, of which addresses take 216; the
/// rest are extensions, which senders are asked to keep within what a first segment or two carry.
pub const V2_BYTES_MAX: usize = 4096;

/// The longest header that is made, in bytes.
pub const EMITTED_BYTES_MAX: usize = V1_BYTES_MAX;

/// Which form a header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The connection is the sender's own (a health check), or of a kind without addresses: its own addresses count.
    Local,
    /// It was made for another connection, with these addresses, both of one family.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// The address the client connected to.
        destination: SocketAddr,
    },
}

/// What the bytes received so far hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header; ask again with more bytes behind these.
    Incomplete,
    /// A whole header.
    Complete {
        /// What it says.
        origin: Origin,
        /// Its length in bytes; what follows is the connection's own.
        length: usize,
    },
}

/// Why bytes are not a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// They begin like neither version.
    #[error("the connection does not begin with a PROXY protocol header")]
    NoHeader,
    /// Version 1 without a line end in time.
    #[error("a PROXY protocol header of version 1 is longer than {V1_BYTES_MAX} bytes")]
    LineTooLong,
    /// Version 1 with other fields than it should have.
    #[error("a PROXY protocol header of version 1 has malformed {0}")]
    Line(&'static str),
    /// Version 2 with a command or a family that does not exist.
    #[error("a PROXY protocol header of version 2 has an unknown {0}")]
    Unknown(&'static str),
    /// Version 2, longer than allowed.
    #[error("a PROXY protocol header of version 2 is {0} bytes long, more than {V2_BYTES_MAX}")]
    TooLong(usize),
    /// Version 2, too short for the addresses of its family.
    #[error("a PROXY protocol header of version 2 is too short for its addresses")]
    TooShort,
    /// Version 2 with extensions that don't add up to its length.
    #[error("a PROXY protocol header of version 2 has malformed extensions")]
    Extensions,
    /// Version 2 with a checksum that is not its own.
    #[error("a PROXY protocol header of version 2 has a wrong checksum")]
    Checksum,
}

/// Reads the header at the start of `bytes`, all that has been received of a connection so far.
///
/// Never asks for more than [`V2_BYTES_MAX`] bytes, and refuses as early as the bytes allow.
///
/// # Errors
/// When no continuation of `bytes` could be a header.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if begins(bytes, v1::SIGNATURE) {
        v1::parse(bytes)
    } else if begins(bytes, v2::SIGNATURE) {
        v2::parse(bytes)
    } else {
        Err(ProxyError::NoHeader)
    }
}

/// Whether `bytes` begin with `signature`, as far as they go.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

/// Appends the header of a connection from `source` to `destination`; at most [`EMITTED_BYTES_MAX`] bytes.
///
/// Addresses of different families are both written as IPv6, the IPv4 one mapped into it.
pub fn emit(version: Version, source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (source, destination) = match (source.is_ipv4(), destination.is_ipv4()) {
        (true, false) => (mapped(source), destination),
        (false, true) => (source, mapped(destination)),
        _ => (source, destination),
    };
    match version {
        Version::V1 => v1::emit(source, destination, out),
        Version::V2 => v2::emit(source, destination, out),
    }
}

/// Appends the header of a connection of one's own, such as a health check.
pub fn emit_local(version: Version, out: &mut Vec<u8>) {
    match version {
        Version::V1 => v1::emit_unknown(out),
        Version::V2 => v2::emit_local(out),
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests;
