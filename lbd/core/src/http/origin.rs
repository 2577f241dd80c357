//! Whom a request is from, where proxies in front say so: `X-Forwarded-For`, or `Forwarded` (RFC 7239); and what is added to the latter.
//!
//! Each proxy adds the one that it was asked by at the right end of the list. So it is read from there, and only as far as whoever has
//! written an entry is trusted: what stands to the left of that may be made up by anybody.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use common::config::Forwarded;

use super::framing::Field;

/// So many entries are looked at, which is more than there are proxies on any way. Whom the last one of them names is the client then.
const HOPS_MAX: usize = 32;

/// Whom a request is from, as far as that is known once its head has been read.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'f> {
    /// The client that has asked: who has connected, or whom a proxy names that is trusted. Its port is 0 where the proxy does not say it.
    pub client: SocketAddr,
    /// Whether who has connected is such a proxy: what the request says of its client and of how it came is taken for true then.
    pub trusted: bool,
    /// Whether the client itself is one: it has named nobody, and stands for many.
    pub is_proxy: bool,
    /// The element of `Forwarded` about the client, if it is that which names him.
    about: Option<&'f [u8]>,
}

impl<'f> Origin<'f> {
    /// Of a request that came from `connected`. The client is the last one that an entry names which was written by somebody whom `trusts`
    /// knows; where such an entry names nobody (`unknown`, a name of the proxy's own, or what is no address), it is the proxy that has written
    /// it.
    ///
    /// A request with `X-Forwarded-For` is looked at for that alone, if that has a meaning, and one without for `Forwarded`: the two are not in
    /// step where a proxy knows only one of them.
    #[must_use]
    pub fn of(
        connected: SocketAddr,
        fields: &[Field<'f>],
        forwarded: Forwarded,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let trusted = trusts(connected.ip());
        let mut origin = Self { client: connected, trusted, is_proxy: trusted, about: None };
        if !trusted {
            return origin;
        }
        let list = if goes_by_list(fields, forwarded) { List::Plain } else { List::Elements };
        for entry in entries(fields, list) {
            origin.about = (list == List::Elements).then_some(entry);
            let Some(named) = named(entry, list) else { break };
            origin.client = named;
            origin.is_proxy = trusts(named.ip());
            if !origin.is_proxy {
                break;
            }
        }
        origin
    }

    /// Whether proxies in front that are trusted say that the client has come by TLS, in these fields, which are the request's. Where they
    /// tell it in both ways, `X-Forwarded-Proto` is what counts: the last one, for what stands before that may be anybody's. In `Forwarded` it
    /// is the element about the client.
    #[must_use]
    pub fn says_https(&self, fields: &[Field<'_>], forwarded: Forwarded) -> bool {
        if !self.trusted {
            return false;
        }
        let last = fields.iter().rfind(|field| field.is("x-forwarded-proto"));
        if let Some(last) = last.filter(|_| forwarded.has_lists()) {
            return last.value.eq_ignore_ascii_case(b"https");
        }
        let scheme = self.about.and_then(|element| parameter(element, b"proto"));
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https"))
    }
}

/// Whether it is `X-Forwarded-For` that says whom a request is from. A proxy that writes that leaves `Forwarded` as it comes, so that this may
/// then be anybody's.
#[must_use]
pub fn goes_by_list(fields: &[Field<'_>], forwarded: Forwarded) -> bool {
    forwarded.has_lists() && fields.iter().any(|field| field.is("x-forwarded-for"))
}

/// What a proxy adds to `Forwarded` (RFC 7239, section 4): whom a request is from, the host that it is for, how it came and where to.
#[must_use]
pub fn element(client: IpAddr, host: &str, scheme: &str, local: IpAddr) -> String {
    format!("for={};host={};proto={scheme};by={}", shown(client), value(host), shown(local))
}

/// What `X-Forwarded-For` says of a request without `Forwarded`, as elements of that (section 7.4): the last entries of it.
#[must_use]
pub fn elements_of_list(fields: &[Field<'_>]) -> Vec<String> {
    let element = |entry: &[u8]| match named(entry, List::Plain) {
        Some(named) => format!("for={}", shown(named.ip())),
        None => "for=unknown".to_owned(),
    };
    let mut elements: Vec<String> = entries(fields, List::Plain).map(element).collect();
    elements.reverse();
    elements
}

/// Section 6: "an IPv6 address is always enclosed in square brackets", and what has those is in quotes.
fn shown(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// A value, in quotes if it is no token.
fn value(text: &str) -> Cow<'_, str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_token) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// The last entries of a list, the last one first.
fn entries<'f>(fields: &[Field<'f>], list: List) -> impl Iterator<Item = &'f [u8]> {
    let name = match list {
        List::Plain => "x-forwarded-for",
        List::Elements => "forwarded",
    };
    // RFC 9110, section 5.2: what stands in several fields of a name is one list, in their order; no entry goes from one into the next.
    let values = fields.iter().rev().filter(move |field| field.is(name)).map(|field| field.value);
    let entries = values.flat_map(move |value| FromRight { rest: Some(value), separator: b',', list });
    entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()).take(HOPS_MAX)
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

    fn read<'t>(fields: &[(&'t str, &'t str)]) -> Vec<Field<'t>> {
        fields.iter().map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() }).collect()
    }

    fn asked_from(connected: &str, fields: &[(&str, &str)]) -> String {
        Origin::of(connected.parse().unwrap(), &read(fields), Forwarded::Both, trusts).client.to_string()
    }

    fn tells_https(connected: &str, fields: &[Field<'_>], forwarded: Forwarded) -> bool {
        Origin::of(connected.parse().unwrap(), fields, forwarded, trusts).says_https(fields, forwarded)
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
    fn a_proxy_that_names_nobody_stands_for_many_and_is_asked_about_once() {
        for (connected, value, is_proxy, asked) in [
            (PROXY, "203.0.113.5", false, 2),
            (PROXY, "203.0.113.5, 10.0.9.2", false, 3),
            (PROXY, "unknown", true, 1),
            (PROXY, "10.0.9.7, 10.0.9.2", true, 3),
            ("192.0.2.9:5", "203.0.113.5", false, 1),
        ] {
            let count = std::cell::Cell::new(0);
            let counted = |address: IpAddr| {
                count.set(count.get() + 1);
                trusts(address)
            };
            let fields = [("X-Forwarded-For", value), ("X-Forwarded-Proto", "https")];
            let fields = read(&fields);
            let origin = Origin::of(connected.parse().unwrap(), &fields, Forwarded::Both, counted);
            assert_eq!((origin.is_proxy, origin.trusted), (is_proxy, connected == PROXY), "{value}");
            assert_eq!(origin.says_https(&fields, Forwarded::Both), connected == PROXY, "{value}");
            assert_eq!(count.get(), asked, "{value}");
        }
        assert!(Origin::of(PROXY.parse().unwrap(), &[], Forwarded::Both, trusts).is_proxy);
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
    fn of_two_ways_to_say_it_the_one_that_has_a_meaning_counts() {
        let both = [
            ("X-Forwarded-For", "203.0.113.5"),
            ("X-Forwarded-Proto", "http"),
            ("Forwarded", "for=203.0.113.6;proto=https"),
        ];
        for (way, client, https) in [
            (Forwarded::XForwarded, "203.0.113.5:0", false),
            (Forwarded::Both, "203.0.113.5:0", false),
            (Forwarded::Rfc7239, "203.0.113.6:0", true),
        ] {
            let fields = read(&both);
            let got = Origin::of(PROXY.parse().unwrap(), &fields, way, trusts).client.to_string();
            assert_eq!((got.as_str(), tells_https(PROXY, &fields, way)), (client, https), "{way:?}");
            let fields = read(&both[2..]);
            let got = Origin::of(PROXY.parse().unwrap(), &fields, way, trusts).client.to_string();
            assert_eq!((got.as_str(), tells_https(PROXY, &fields, way)), ("203.0.113.6:0", true), "{way:?}");
        }
        let fields = read(&both[..1]);
        let got = Origin::of(PROXY.parse().unwrap(), &fields, Forwarded::Rfc7239, trusts).client.to_string();
        assert_eq!(got, PROXY, "it may be anybody's");
    }

    #[test]
    fn that_a_client_has_come_by_tls_only_a_trusted_proxy_says() {
        let proto = "X-Forwarded-Proto";
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[(proto, "HTTPS")], true),
            (&[(proto, "https"), (proto, "http")], false),
            (&[(proto, "http"), (proto, "https")], true),
            (&[("Forwarded", "for=a;Proto=\"https\"")], true),
            (&[("Forwarded", "for=https")], false),
            // What stands to the left of the client may be made up.
            (&[("Forwarded", "for=192.0.2.1;proto=https, for=203.0.113.5;proto=http")], false),
            (&[("Forwarded", "proto=https, for=203.0.113.5")], false),
            (&[("Forwarded", "for=192.0.2.1;proto=https"), ("Forwarded", "for=203.0.113.5")], false),
            // What stands to the right of him is about the proxies.
            (&[("Forwarded", "for=203.0.113.5;proto=https, for=10.0.9.2;proto=http")], true),
            (&[("Forwarded", "for=203.0.113.5;proto=http, for=10.0.9.2;proto=https")], false),
            // So may be the whole of it beside a list.
            (&[("X-Forwarded-For", "203.0.113.5"), ("Forwarded", "for=203.0.113.5;proto=https")], false),
        ];
        for &(fields, https) in cases {
            let read = read(fields);
            assert_eq!(tells_https(PROXY, &read, Forwarded::Both), https, "{fields:?}");
            assert_eq!(tells_https(PROXY, &read, Forwarded::XForwarded), https, "{fields:?}");
            assert!(!tells_https("192.0.2.9:5", &read, Forwarded::Both), "{fields:?}");
        }
    }

    /// The forms of RFC 7239, sections 4 and 6.
    #[test]
    fn what_is_added_is_quoted_where_it_is_no_token() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (four, six) = (address("203.0.113.5"), address("2001:db8::5"));
        assert_eq!(
            element(four, "shop.example", "https", address("192.0.2.10")),
            "for=203.0.113.5;host=shop.example;proto=https;by=192.0.2.10"
        );
        assert_eq!(
            element(six, "[2001:db8::1]:8080", "http", address("::ffff:192.0.2.10")),
            "for=\"[2001:db8::5]\";host=\"[2001:db8::1]:8080\";proto=http;by=192.0.2.10"
        );
        assert_eq!(value("a\"\\b"), "\"a\\\"\\\\b\"");
        for host in ["shop.example", "shop.example:80", "", "a, for=1.2.3.4", "a\"; for=1.2.3.4;x=\"", "a\\"]
        {
            let list = element(six, host, "http", four);
            assert_eq!(asked_from(PROXY, &[("Forwarded", &list)]), "[2001:db8::5]:0", "{list}");
        }
        let fields = [("X-Forwarded-For", "x, 203.0.113.5:80"), ("X-Forwarded-For", "2001:db8::5")];
        let expected = ["for=unknown", "for=203.0.113.5", "for=\"[2001:db8::5]\""];
        assert_eq!(elements_of_list(&read(&fields)), expected);
        assert_eq!(elements_of_list(&read(&[("X-Forwarded-For", &"a,".repeat(1000))])).len(), HOPS_MAX);
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
