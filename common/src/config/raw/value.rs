//! The forms that single values have: durations, sizes, names, listening addresses, virtual IPs, status lists.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::reader::{At, Cursor, at};
use crate::config::diag::{Problems, quoted, shortened};
use crate::config::problem::Problem;
use crate::time::Duration;

/// A duration as people write it: `90s` and `2h`, not `1m 30s`, unless it is one unit more or less.
pub(crate) fn shown(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// The words as in `a, b or c`.
pub(super) fn joined(words: &[impl std::borrow::Borrow<str>]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {}", rest.join(", "), last.borrow()),
        _ => words.concat(),
    }
}

pub(super) fn check_duration(
    text: &str,
    key: String,
    min: Duration,
    max: Duration,
) -> Result<Duration, Problem> {
    let digits =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if digits(text.trim()) {
        return Err(Problem::NoUnit { key, value: shortened(text.trim()) });
    }
    let duration = humantime::parse_duration(text).map_err(|error| {
        let reason = shortened_reason(&error);
        Problem::BadDuration { key: key.clone(), value: quoted(text), reason }
    })?;
    if duration < min || duration > max {
        let range = format!("{} to {}", shown(min), shown(max));
        return Err(Problem::OutOfRange { key, value: shortened(text), range });
    }
    Ok(duration)
}

/// `humantime`'s reasons in our words: its own name byte offsets, which the caret shows better.
fn shortened_reason(error: &humantime::DurationError) -> String {
    use humantime::DurationError as Error;
    match error {
        Error::Empty => "it is empty".to_owned(),
        Error::NumberOverflow => "the number is too large or too fine".to_owned(),
        Error::UnknownUnit { unit, .. } if !unit.is_empty() => {
            format!("{} is no unit, write ns, us, ms, s, m, h or days", quoted(unit))
        }
        _ => "write numbers with units, such as \"500ms\" or \"1m 30s\"".to_owned(),
    }
}

/// The size in bytes of a text such as `32KiB`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..unit_at].parse().ok()?;
    let factor = match text[unit_at..].trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Whether the text can name a node, an instance, a service or a group.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Whether the text can name a target: names, and addresses with ports.
pub(crate) fn is_target_id(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#%\"'`\\".contains(&byte))
}

/// Whether the text is short and can be shown.
pub(super) fn is_text(text: &str) -> bool {
    text.chars().count() <= 255 && !text.chars().any(char::is_control)
}

/// Whether Linux would take this as an interface's name (`dev_valid_name`).
pub(super) fn is_interface(text: &str) -> bool {
    let visible = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    text.len() <= 15 && text != "." && text != ".." && text.chars().all(visible)
}

/// Whether the text can be a `Host` header.
pub(super) fn is_host(text: &str) -> bool {
    text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether the text can be the path of a request.
pub(super) fn is_path(text: &str) -> bool {
    text.len() <= 2048 && text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether the text is a name that DNS could have, and no address.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253 && name.split('.').all(label) && name.parse::<Ipv4Addr>().is_err()
}

/// Whether the text is a host name with a port.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    is_host_name(host) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Whether the text is a host name or an address, with a port.
pub(super) fn is_server(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) || is_host_and_port(text)
}

/// Whether the text is a name that TLS clients ask for, or such a name behind `*.`.
pub(super) fn is_server_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    is_host_name(name) && !name.ends_with('.')
}

/// The bytes that the characters up to U+00FF stand for; at least one, at most 1,024.
pub(super) fn parse_payload(text: &str) -> Option<Vec<u8>> {
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<_>>()?;
    (1..=1024).contains(&bytes.len()).then_some(bytes)
}

/// The accepted statuses of a text such as `200,301-302`; at most 32 ranges.
pub(super) fn parse_statuses(text: &str) -> Option<Vec<(u16, u16)>> {
    let status = |text: &str| text.trim().parse().ok().filter(|status: &u16| (100..=599).contains(status));
    let ranges: Vec<(u16, u16)> = text
        .split(',')
        .map(|range| match range.split_once('-') {
            Some((first, last)) => Some((status(first)?, status(last)?)),
            None => Some((status(range)?, status(range)?)),
        })
        .collect::<Option<_>>()?;
    (ranges.len() <= 32 && ranges.iter().all(|(first, last)| first <= last)).then_some(ranges)
}

/// What a `listen` entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenOn {
    /// Every VIP of an instance.
    Instance(String),
    /// One address; its port says nothing.
    Address(SocketAddr),
}

/// Ports of a `listen` entry, both ends included; 0 to 65535 for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawPorts {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl RawPorts {
    const ANY: Self = Self { first: 0, last: u16::MAX };

    pub(crate) const fn is_single(self) -> bool {
        self.first == self.last
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::ANY);
        }
        let port = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(Self { first: port(first)?, last: port(last)? })
    }
}

/// A `listen` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawListen {
    pub(crate) on: ListenOn,
    pub(crate) ports: RawPorts,
    /// Whether it ends in `/udp`.
    pub(crate) udp: bool,
    /// The entry as written.
    pub(crate) text: String,
}

pub(super) fn listen(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<RawListen>> {
    let text = cursor.string(out)?.into_inner();
    let (address, udp) = text.strip_suffix("/udp").map_or((text.as_str(), false), |address| (address, true));
    let parsed = address.rsplit_once(':').and_then(|(host, ports)| {
        let on = match host.strip_prefix('@') {
            Some(name) => is_name(name).then(|| ListenOn::Instance(name.to_owned()))?,
            None => ListenOn::Address(format!("{host}:0").parse().ok()?),
        };
        Some((on, RawPorts::parse(ports)?))
    });
    let key = cursor.key();
    let problem = match parsed {
        None => Problem::BadListen { key, value: quoted(&text) },
        Some((_, ports)) if ports.first == 0 && ports != RawPorts::ANY => Problem::PortZero { key },
        Some((_, ports)) if ports.first > ports.last => {
            let (first, last) = (ports.first.to_string(), ports.last.to_string());
            Problem::PortRangeReversed { key, first, last }
        }
        Some((ListenOn::Address(address), _)) if unusable_host(address.ip(), true).is_some() => {
            let why = unusable_host(address.ip(), true).unwrap_or_default().to_owned();
            Problem::UnusableAddress { key, value: address.ip().to_string(), why }
        }
        Some((on, ports)) => return Some(at(&cursor.span(), RawListen { on, ports, udp, text })),
    };
    out.add(cursor.span(), problem);
    None
}

/// A virtual IP with its prefix length.
pub(super) fn vip(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<IpNet>> {
    let text = cursor.string(out)?.into_inner();
    match parse_vip(&text, cursor.key()) {
        Ok(vip) => Some(at(&cursor.span(), vip)),
        Err(problem) => {
            out.add(cursor.span(), problem);
            None
        }
    }
}

fn parse_vip(text: &str, key: String) -> Result<IpNet, Problem> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let example = format!("{text}/{}", if address.is_ipv4() { 24 } else { 64 });
        return Err(Problem::VipNoPrefix { key, value: quoted(text), example });
    }
    let parts = text.split_once('/').and_then(|(address, prefix)| {
        // Longer numbers than these are no prefix lengths, but their form is still right.
        let digits = (1..=4).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_digit());
        Some((address.parse::<IpAddr>().ok()?, prefix.parse::<u16>().ok().filter(|_| digits)?))
    });
    let Some((address, prefix)) = parts else { return Err(Problem::BadVip { key, value: quoted(text) }) };
    let max = if address.is_ipv4() { 32 } else { 128 };
    let net =
        u8::try_from(prefix).ok().filter(|prefix| *prefix > 0).and_then(|p| IpNet::new(address, p).ok());
    let Some(net) = net else {
        return Err(Problem::VipPrefix { key, value: quoted(text), range: format!("/1 to /{max}") });
    };
    let edge = match net {
        IpNet::V4(net) if net.prefix_len() < 31 && net.addr() == net.network() => {
            Some("it is the network's own address")
        }
        IpNet::V4(net) if net.prefix_len() < 31 && net.addr() == net.broadcast() => {
            Some("it is the network's broadcast address")
        }
        _ => None,
    };
    let loopback = address.is_loopback().then_some("it is a loopback address");
    match loopback.or_else(|| unusable_host(address, false)).or(edge) {
        Some(why) => Err(Problem::UnusableVip { key, value: address.to_string(), why: why.to_owned() }),
        None => Ok(net),
    }
}

/// Why an address cannot be a host's own, if so. Loopback addresses can.
pub(super) fn unusable_host(address: IpAddr, may_be_unspecified: bool) -> Option<&'static str> {
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    if address.is_unspecified() && !may_be_unspecified {
        Some("it is the unspecified address")
    } else if address.is_multicast() {
        Some("it is a multicast address")
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("it is the broadcast address")
    } else if mapped {
        Some("it is an IPv4 address written as IPv6")
    } else {
        None
    }
}

/// Notes an address that cannot be a host's own, or that only has a meaning on one link.
pub(super) fn usable_host(
    address: At<IpAddr>,
    scoped: bool,
    key: String,
    out: &mut Problems,
) -> Option<At<IpAddr>> {
    let ip = *address.get_ref();
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) && !scoped;
    let why = unusable_host(ip, false)
        .or(link_local.then_some("it is a link-local address, which needs an interface"));
    let Some(why) = why else { return Some(address) };
    let problem = Problem::UnusableAddress { key, value: ip.to_string(), why: why.to_owned() };
    out.add(address.span(), problem);
    None
}
