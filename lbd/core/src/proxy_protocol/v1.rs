//! Version 1: `PROXY TCP4 192.0.2.1 203.0.113.10 51234 443\r\n`.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Origin, Parsed, ProxyError, V1_BYTES_MAX};

/// How it begins.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// Reads a header whose signature is right as far as it goes.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = window.iter().position(|&byte| byte == b'\n') else {
        return if window.len() == V1_BYTES_MAX {
            Err(ProxyError::LineTooLong)
        } else {
            Ok(Parsed::Incomplete)
        };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(ProxyError::Line("line end"))?;
    let rest = line.strip_prefix(SIGNATURE).ok_or(ProxyError::NoHeader)?;
    Ok(Parsed::Complete { origin: fields(rest)?, length: end + 1 })
}

fn fields(rest: &[u8]) -> Result<Origin, ProxyError> {
    // "the receiver must ignore anything presented before the CRLF is found" after UNKNOWN.
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        return Ok(Origin::Local);
    }
    let text = std::str::from_utf8(rest).map_err(|_| ProxyError::Line("characters"))?;
    // Exactly one space between fields: two leave an empty field, which is neither an address nor a port.
    let mut fields = text.split(' ');
    let mut field = || fields.next().ok_or(ProxyError::Line("fields"));
    let protocol = field()?;
    let (source, destination, source_port, destination_port) = (field()?, field()?, field()?, field()?);
    if fields.next().is_some() {
        return Err(ProxyError::Line("fields"));
    }
    let (source_port, destination_port) = (port(source_port)?, port(destination_port)?);
    let malformed = || ProxyError::Line("addresses");
    match protocol {
        "TCP4" => {
            let address = |text: &str| text.parse::<Ipv4Addr>().map_err(|_| malformed());
            Ok(Origin::Proxied {
                source: SocketAddr::from((address(source)?, source_port)),
                destination: SocketAddr::from((address(destination)?, destination_port)),
            })
        }
        "TCP6" => {
            let address = |text: &str| text.parse::<Ipv6Addr>().map_err(|_| malformed());
            Ok(Origin::Proxied {
                source: SocketAddr::from((address(source)?, source_port)),
                destination: SocketAddr::from((address(destination)?, destination_port)),
            })
        }
        _ => Err(ProxyError::Line("protocol")),
    }
}

/// "a decimal number between 0 and 65535 with no leading zero".
fn port(text: &str) -> Result<u16, ProxyError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    let number = text.parse().ok().filter(|_| digits && !leading_zero);
    number.ok_or(ProxyError::Line("ports"))
}

/// Writes the header of a connection between two addresses of one family.
pub(super) fn emit(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let protocol = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let written = write!(out, "PROXY {protocol} {from} {to} {} {}\r\n", source.port(), destination.port());
    debug_assert!(written.is_ok(), "writing to a vector does not fail");
}

/// Writes the header of a connection without addresses.
pub(super) fn emit_unknown(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PROXY UNKNOWN\r\n");
}
