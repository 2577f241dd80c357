//! Whom a request is from, where proxies in front say so: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy adds the one that it was asked by at the right end of the list. So it is read from there, and only as far as whoever has
//! written an entry is trusted: what stands to the left of that may be made up by anybody.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::framing::Field;

/// So many entries are looked at, which is more than there are proxies on any way. Whom the last one of them names is the client then.
const HOPS_MAX: usize = 32;

/// The client that has asked, of a request that came from `connected`: the last one that an entry names which was written by somebody whom
/// `trusts` knows. Where such an entry names nobody (`unknown`, a name of the proxy's own, or what is no address), that is the proxy that
/// has written it. The port is 0 unless the entry says it.
///
/// A request with `X-Forwarded-For` is looked at for that alone, and one without for `Forwarded`: the two are not in step where a proxy
/// knows only one of them.
#[must_use]
pub fn client_of(connected: SocketAddr, fields: &[Field<'_>], trusts: impl Fn(IpAddr) -> bool) -> SocketAddr {
    if !trusts(connected.ip()) {
        return connected;
    }
    let has_list = fields.iter().any(|field| field.is("x-forwarded-for"));
    let (name, list) =
        if has_list { ("x-forwarded-for", List::Plain) } else { ("forwarded", List::Elements) };
    // RFC 9110, section 5.2: what stands in several fields of a name is one list, in their order; no entry goes from one into the next.
    let values = fields.iter().rev().filter(|field| field.is(name)).map(|field| field.value);
    let entries = values.flat_map(|value| FromRight { rest: Some(value), separator: b',', list });
    let mut client = connected;
    for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()).take(HOPS_MAX) {
        let Some(named) = named(entry, list) else { break };
        client = named;
        if !trusts(client.ip()) {
            break;
        }
    }
    client
}

/// What an entry is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// An address.
    Plain,
    /// RFC 7239, section 4: `forwarded-element`, in which commas and semicolons may stand in quotes.
    Elements,
}

/// The parts of a text between separators, the last one first. Whoever has written the last one has closed his quotes, so that what stands
/// before it, where one may be left open, makes no difference to it.
struct FromRight<'t> {
    rest: Option<&'t [u8]>,
    separator: u8,
    list: List,
}

impl<'t> Iterator for FromRight<'t> {
    type Item = &'t [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let mut inside = false;
        for (at, &byte) in rest.iter().enumerate().rev() {
            if byte == b'"' && self.list == List::Elements && !is_escaped(rest, at) {
                inside = !inside;
            } else if byte == self.separator && !inside {
                self.rest = Some(&rest[..at]);
                return Some(&rest[at + 1..]);
            }
        }
        Some(rest)
    }
}

/// Whether the character at this place has a backslash of its own before it.
fn is_escaped(text: &[u8], at: usize) -> bool {
    text[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Whom an entry names, if it names somebody.
fn named(entry: &[u8], list: List) -> Option<SocketAddr> {
    match list {
        List::Plain => node(&unquoted(entry)?),
        List::Elements => node(&parameter(entry, b"for")?),
    }
}

/// The value of a parameter of an element, if it is there once.
fn parameter<'e>(element: &'e [u8], name: &[u8]) -> Option<Cow<'e, [u8]>> {
    let mut found = None;
    for pair in (FromRight { rest: Some(element), separator: b';', list: List::Elements }) {
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (its, value) = (&pair[..equals], &pair[equals + 1..]);
        // RFC 7239, section 4: "Each parameter MUST NOT occur more than once per field-value."
        if its.eq_ignore_ascii_case(name) && found.replace(unquoted(value)?).is_some() {
            return None;
        }
    }
    found
}

/// A text without the quotes around it, if there are any (RFC 9110, section 5.6.4); nothing if they are not closed where it ends.
fn unquoted(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(inside) = text.strip_prefix(b"\"") else {
        return (!text.contains(&b'"')).then_some(Cow::Borrowed(text));
    };
    let inside = inside.strip_suffix(b"\"")?;
    let mut plain = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => plain.push(*bytes.next()?),
            byte => plain.push(byte),
        }
    }
    Some(Cow::Owned(plain))
}

/// RFC 7239, section 6: an address of IPv4, or one of IPv6 in brackets, with or without a port. `X-Forwarded-For` has those of IPv6
/// without brackets, too.
fn node(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let of = |address: IpAddr, port| SocketAddr::new(address.to_canonical(), port);
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(of(address, 0));
    }
    let (address, rest) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), rest)
    } else {
        let (address, rest) = text.split_at(text.find(':')?);
        (IpAddr::V4(address.parse::<Ipv4Addr>().ok()?), rest)
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => 0,
        // Section 6.3: a name of the proxy's own.
        Some(port) if port.starts_with('_') => 0,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
        _ => return None,
    };
    Some(of(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.9.1:40000";

    fn trusts(address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => address.octets()[..3] == [10, 0, 9],
            IpAddr::V6(address) => address.segments()[..2] == [0x2001, 0xdb9],
        }
    }

    fn asked_from(connected: &str, fields: &[(&str, &str)]) -> String {
        let mut read = Vec::new();
        for (name, value) in fields {
            read.push(Field { name: name.as_bytes(), value: value.as_bytes() });
        }
        client_of(connected.parse().unwrap(), &read, trusts).to_string()
    }

    #[test]
    fn the_last_one_that_a_trusted_proxy_names_is_the_client() {
        for (value, client) in [
            ("203.0.113.5", "203.0.113.5:0"),
            ("203.0.113.5, 10.0.9.2", "203.0.113.5:0"),
            ("192.0.2.1, 203.0.113.5,10.0.9.2 ,\t10.0.9.3", "203.0.113.5:0"),
            ("203.0.113.5,, 10.0.9.2,", "203.0.113.5:0"),
            ("203.0.113.5:4711", "203.0.113.5:4711"),
            ("2001:db8::5", "[2001:db8::5]:0"),
            ("[2001:db8::5]", "[2001:db8::5]:0"),
            ("\"[2001:db8::5]:80\"", "[2001:db8::5]:80"),
            ("2001:db8::5, 2001:db9::1", "[2001:db8::5]:0"),
            ("::ffff:203.0.113.5", "203.0.113.5:0"),
            ("203.0.113.5:_x", "203.0.113.5:0"),
            // All of them are proxies: the first one has asked.
            ("10.0.9.7, 10.0.9.2", "10.0.9.7:0"),
        ] {
            assert_eq!(asked_from(PROXY, &[("X-Forwarded-For", value)]), client, "{value}");
        }
        let two = [("X-Forwarded-For", "203.0.113.5"), ("x-forwarded-for", "10.0.9.2")];
        assert_eq!(asked_from(PROXY, &two), "203.0.113.5:0", "fields of one name are one list");
    }

    #[test]
    fn what_a_client_has_made_up_is_not_looked_at() {
        for forged in [
            "127.0.0.1",
            "10.0.9.1",
            "\"",
            "for=\"",
            "unknown",
            "\\",
            "\u{ff}",
            ",,,,",
            "192.0.2.1, 10.0.9.5, 10.0.9.6",
            "x=\"\\",
        ] {
            let list = format!("{forged}, 203.0.113.5");
            assert_eq!(asked_from(PROXY, &[("X-Forwarded-For", &list)]), "203.0.113.5:0", "{forged}");
            let list = format!("{forged}, for=203.0.113.5;proto=http");
            assert_eq!(asked_from(PROXY, &[("Forwarded", &list)]), "203.0.113.5:0", "{forged}");
            let list = format!("{forged}, for=\"[2001:db8::5]:80\"");
            assert_eq!(asked_from(PROXY, &[("Forwarded", &list)]), "[2001:db8::5]:80", "{forged}");
            let fields = [("X-Forwarded-For", forged), ("X-Forwarded-For", "203.0.113.5")];
            assert_eq!(asked_from(PROXY, &fields), "203.0.113.5:0", "{forged}");
        }
        // Whoever is no proxy is believed nothing.
        assert_eq!(asked_from("192.0.2.9:5", &[("X-Forwarded-For", "203.0.113.5")]), "192.0.2.9:5");
        // One list is the proxy's, the other may be anybody's.
        let both = [("Forwarded", "for=192.0.2.1"), ("X-Forwarded-For", "203.0.113.5")];
        assert_eq!(asked_from(PROXY, &both), "203.0.113.5:0");
    }

    #[test]
    fn who_is_not_named_is_the_proxy_that_does_not_name_him() {
        for value in [
            "",
            "unknown",
            "_hidden",
            "192.0.2.1, unknown",
            "192.0.2.1, x",
            "192.0.2.1, 203.0.113.5:70000",
            "203.0.113.5:+80",
            "203.0.113.5:",
            "010.0.9.4",
            "203.0.113.256",
            "[203.0.113.5]",
            "[2001:db8::5",
            "[2001:db8::5]80",
            "fe80::1%eth0",
            "\"203.0.113.5",
            "203.0.113.5 203.0.113.6",
        ] {
            assert_eq!(asked_from(PROXY, &[("X-Forwarded-For", value)]), PROXY, "{value}");
        }
        assert_eq!(asked_from(PROXY, &[]), PROXY);
        // The proxy behind which it is not known any more.
        assert_eq!(asked_from(PROXY, &[("X-Forwarded-For", "192.0.2.1, unknown, 10.0.9.2")]), "10.0.9.2:0");
    }

    #[test]
    fn elements_of_forwarded_are_read_as_their_rfc_has_them() {
        for (value, client) in [
            ("for=203.0.113.5", "203.0.113.5:0"),
            ("For=\"203.0.113.5:80\";by=10.0.9.1", "203.0.113.5:80"),
            ("for=203.0.113.5;proto=https, for=10.0.9.2", "203.0.113.5:0"),
            ("proto=https ; FOR=203.0.113.5", "203.0.113.5:0"),
            ("host=\"a, for=192.0.2.1;b\";for=203.0.113.5", "203.0.113.5:0"),
            ("for=203.0.113.5;host=\"a\\\", for=192.0.2.1\"", "203.0.113.5:0"),
            ("for=\"203.0.113\\.5\"", "203.0.113.5:0"),
            ("for=\"[2001:db8::5]\"", "[2001:db8::5]:0"),
            ("for=\"[2001:db8::5]:_port\"", "[2001:db8::5]:0"),
            ("for=_hidden", PROXY),
            ("for=unknown", PROXY),
            ("for=\"_a\", for=10.0.9.2", "10.0.9.2:0"),
            ("by=203.0.113.5", PROXY),
            ("for=192.0.2.1;for=203.0.113.5", PROXY),
            ("for=\"203.0.113.5", PROXY),
            ("for=203.0.113.5\"", PROXY),
            ("for", PROXY),
            ("=", PROXY),
            ("for=", PROXY),
            ("for=\"\\", PROXY),
            ("203.0.113.5", PROXY),
        ] {
            assert_eq!(asked_from(PROXY, &[("Forwarded", value)]), client, "{value}");
        }
    }

    #[test]
    fn so_many_entries_are_looked_at_and_no_more() {
        let list = |proxies: usize| format!("203.0.113.5{}", ", 10.0.9.2".repeat(proxies));
        let asked = |proxies: usize| asked_from(PROXY, &[("X-Forwarded-For", &list(proxies))]);
        assert_eq!([asked(HOPS_MAX - 1), asked(HOPS_MAX)], ["203.0.113.5:0", "10.0.9.2:0"]);
        // What fills a head is looked at once, whatever it is full of.
        for piece in ["\"", "\\\"", ",", "10.0.9.2,", "for=\"\\\\\",", ";", "="] {
            let value = piece.repeat(64 * 1024 / piece.len());
            for name in ["X-Forwarded-For", "Forwarded"] {
                asked_from(PROXY, &[(name, &value)]);
            }
        }
    }
}
