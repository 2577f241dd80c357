//! Hosts that are asked for.

use std::net::Ipv6Addr;

use super::Fault;

/// A host with the port that stands behind it, if one does, in its one form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authority {
    text: String,
    host_bytes: usize,
}

impl Authority {
    /// The host: in lower case, without the dot that names may end with; an IPv6 address in brackets. Empty if none was asked for,
    /// as HTTP/1.0 allows.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.text[..self.host_bytes]
    }

    /// The host, and `:PORT` if a port was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Reads RFC 3986's `authority` without a user. Names are what DNS can hold, and `_`.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(text).map_err(|_| Fault::Host)?;
        // Its one form is hardly ever longer.
        let mut one = String::with_capacity(text.len());
        let port = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, behind) = rest.split_once(']').ok_or(Fault::Host)?;
                let address: Ipv6Addr = address.parse().map_err(|_| Fault::Host)?;
                one.push_str(&format!("[{address}]"));
                if behind.is_empty() { None } else { Some(behind.strip_prefix(':').ok_or(Fault::Host)?) }
            }
            None => {
                let (name, port) = match text.split_once(':') {
                    Some((name, port)) => (name, Some(port)),
                    None => (text, None),
                };
                let name = name.strip_suffix('.').unwrap_or(name);
                if !is_name(name) {
                    return Err(Fault::Host);
                }
                one.push_str(name);
                one.make_ascii_lowercase();
                port
            }
        };
        let host_bytes = one.len();
        // RFC 3986, section 3.2.3: "URI producers and normalizers should omit the port component and its ":" delimiter if port is
        // empty".
        if let Some(port) = port.filter(|port| !port.is_empty()) {
            let plain = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
            if !plain || port.parse::<u16>().is_err() {
                return Err(Fault::Host);
            }
            let digits = port.trim_start_matches('0');
            one.push(':');
            one.push_str(if digits.is_empty() { "0" } else { digits });
        }
        Ok(Self { text: one, host_bytes })
    }
}

/// Labels of 1 to 63 bytes, with dots between them.
fn is_name(text: &str) -> bool {
    let mut label_bytes = 0_usize;
    let fits = text.bytes().all(|byte| match byte {
        b'.' => std::mem::take(&mut label_bytes) > 0,
        b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
            label_bytes += 1;
            label_bytes <= 63
        }
        _ => false,
    });
    fits && label_bytes > 0 && text.len() <= 253
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_form() {
        for (text, host, whole) in [
            ("shop.example", "shop.example", "shop.example"),
            ("Shop.Example.", "shop.example", "shop.example"),
            ("shop.example:8080", "shop.example", "shop.example:8080"),
            ("shop.example:080", "shop.example", "shop.example:80"),
            ("shop.example:00000", "shop.example", "shop.example:0"),
            ("shop.example:65535", "shop.example", "shop.example:65535"),
            ("shop.example:", "shop.example", "shop.example"),
            ("192.0.2.1:80", "192.0.2.1", "192.0.2.1:80"),
            ("[2001:DB8::0:1]:443", "[2001:db8::1]", "[2001:db8::1]:443"),
            ("[::1]", "[::1]", "[::1]"),
            ("a_b.example", "a_b.example", "a_b.example"),
        ] {
            let authority = Authority::parse(text.as_bytes()).unwrap();
            assert_eq!((authority.host(), authority.as_str()), (host, whole), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = "a".repeat(64);
        for text in [
            "",
            ".",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a@b",
            "a,b",
            "a/b",
            "a:b",
            "a:65536",
            "a:-1",
            "a:+1",
            "a:80:80",
            ":80",
            "[::1",
            "[::1]80",
            "[::g]",
            "[]",
            "[127.0.0.1]",
            "::1",
            "a%41",
            "\u{fc}.example",
            "a?b",
            "a#b",
            "a\\b",
            &long,
        ] {
            assert_eq!(Authority::parse(text.as_bytes()), Err(Fault::Host), "{text}");
        }
    }
}
