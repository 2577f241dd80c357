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
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, behind) = rest.split_once(']').ok_or(Fault::Host)?;
                let address: Ipv6Addr = address.parse().map_err(|_| Fault::Host)?;
                let port =
                    if behind.is_empty() { None } else { Some(behind.strip_prefix(':').ok_or(Fault::Host)?) };
                (format!("[{address}]"), port)
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
                (name.to_ascii_lowercase(), port)
            }
        };
        let host_bytes = host.len();
        let mut text = host;
        // RFC 3986, section 3.2.3: "URI producers and normalizers should omit the port component and its ":" delimiter if port is
        // empty".
        if let Some(port) = port.filter(|port| !port.is_empty()) {
            let plain = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
            let port: u16 =
                Some(port).filter(|_| plain).and_then(|port| port.parse().ok()).ok_or(Fault::Host)?;
            text.push_str(&format!(":{port}"));
        }
        Ok(Self { text, host_bytes })
    }
}

fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label)
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
