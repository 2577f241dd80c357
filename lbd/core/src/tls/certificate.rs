//! What a certificate (RFC 5280) says, as far as it matters here. Whether it is true is for others to verify.

use std::net::IpAddr;
use std::ops::Range;

pub use super::der::Malformed;
use super::der::{BIT_STRING, INTEGER, OCTET_STRING, OID, Reader, SEQUENCE, time};
use super::name;

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its number, as its authority gave it.
    pub serial: Vec<u8>,
    /// Whose it is, as RFC 4514 writes names: visible ASCII and spaces.
    pub subject: String,
    /// The names that it is for, in lower case, some with `*` for their first label.
    pub names: Vec<String>,
    /// The addresses that it is for.
    pub addresses: Vec<IpAddr>,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
    /// Its key.
    pub key: PublicKey,
    /// Where in the certificate its `SubjectPublicKeyInfo` is, which pins are hashes of.
    pub public_key: Range<usize>,
}

/// The kind of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA.
    Rsa {
        /// The bits of its modulus.
        bits: usize,
    },
    /// A point on a curve.
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// Another one.
    Other,
}

impl PublicKey {
    /// The kind of the key in a `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    ///
    /// That it is none.
    pub fn of_info(der: &[u8]) -> Result<Self, Malformed> {
        public_key(Reader::new(der).expect(SEQUENCE)?.content)
    }
}

const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    ///
    /// That it is none.
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let mut outer = Reader::new(der).enter(SEQUENCE)?;
        let mut reader = outer.enter(SEQUENCE)?;
        // The version, the serial number, the algorithm, the issuer.
        reader.optional(0xa0)?;
        let serial = reader.expect(INTEGER)?.content.to_vec();
        reader.expect(SEQUENCE)?;
        reader.expect(SEQUENCE)?;
        let mut validity = reader.enter(SEQUENCE)?;
        let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
        let subject = name::text(reader.expect(SEQUENCE)?.content)?;
        let key = reader.expect(SEQUENCE)?;
        let start = key.whole.as_ptr() as usize - der.as_ptr() as usize;
        let mut certificate = Self {
            serial,
            subject,
            names: Vec::new(),
            addresses: Vec::new(),
            not_before,
            not_after,
            key: public_key(key.content)?,
            public_key: start..start + key.whole.len(),
        };
        // Identifiers that nobody uses, and the extensions.
        reader.optional(0x81)?;
        reader.optional(0x82)?;
        if let Some(extensions) = reader.optional(0xa3)? {
            let mut list = Reader::new(extensions.content).enter(SEQUENCE)?;
            while !list.is_empty() {
                let mut extension = list.enter(SEQUENCE)?;
                let kind = extension.expect(OID)?.content;
                extension.optional(0x01)?;
                let value = extension.expect(OCTET_STRING)?;
                if kind == SUBJECT_ALTERNATIVE_NAME {
                    certificate.read_names(value.content)?;
                }
            }
        }
        Ok(certificate)
    }

    fn read_names(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut list = Reader::new(value).enter(SEQUENCE)?;
        while !list.is_empty() {
            let value = list.next()?;
            match (value.tag, value.content.len()) {
                (0x82, _) => {
                    let name = std::str::from_utf8(value.content).ok().filter(|name| name.is_ascii());
                    let name = name.ok_or(Malformed("a name that is none"))?;
                    self.names.push(name.to_ascii_lowercase());
                }
                (0x87, 4) => {
                    let bytes: [u8; 4] = value.content.try_into().unwrap_or_default();
                    self.addresses.push(bytes.into());
                }
                (0x87, 16) => {
                    let bytes: [u8; 16] = value.content.try_into().unwrap_or_default();
                    self.addresses.push(bytes.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it is for a host: a name in lower case without a dot at its end, or an address, of IPv6 in brackets.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        self.names.iter().any(|name| matches(name, host))
    }
}

/// RFC 9525, section 6.3: a wildcard is "only as the complete content of the left-most DNS label", and stands for one label.
fn matches(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => name == host,
    }
}

/// How many bits a number has, big-endian.
pub(crate) fn bit_length(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let first = number.get(zeros).copied().unwrap_or_default();
    ((number.len() - zeros) * 8).saturating_sub(first.leading_zeros() as usize)
}

fn public_key(info: &[u8]) -> Result<PublicKey, Malformed> {
    let mut reader = Reader::new(info);
    let algorithm = reader.enter(SEQUENCE)?.expect(OID)?.content;
    let key = reader.expect(BIT_STRING)?.content;
    Ok(match algorithm {
        RSA => {
            let key = key.strip_prefix(&[0]).ok_or(Malformed("a key that is none"))?;
            let modulus = Reader::new(key).enter(SEQUENCE)?.expect(INTEGER)?.content;
            PublicKey::Rsa { bits: bit_length(modulus) }
        }
        EC => PublicKey::Ecdsa,
        ED25519 => PublicKey::Ed25519,
        _ => PublicKey::Other,
    })
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use proptest::prelude::*;

    use super::*;

    /// By `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/C=DE/O=Shop, Inc./CN=shop.example"
    /// -addext "subjectAltName=DNS:Shop.example,DNS:*.shop.example,IP:192.0.2.1,IP:2001:db8::1"`.
    const SHOP: &str = include_str!("shop.b64");

    fn shop() -> Vec<u8> {
        BASE64.decode(SHOP.split_whitespace().collect::<String>().as_bytes()).unwrap()
    }

    #[test]
    fn what_openssl_has_written_is_read() {
        let der = shop();
        let certificate = Certificate::parse(&der).unwrap();
        assert_eq!(certificate.subject, r"CN=shop.example,O=Shop\, Inc.,C=DE");
        assert_eq!(certificate.names, ["shop.example", "*.shop.example"]);
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(certificate.addresses, addresses);
        assert_eq!(certificate.not_after - certificate.not_before, 3650 * 86_400);
        assert_eq!(certificate.key, PublicKey::Ecdsa);
        assert_eq!(certificate.public_key.len(), 91, "that of a key on P-256");
        assert_eq!(der[certificate.public_key.start], SEQUENCE);
        assert_eq!(PublicKey::of_info(&der[certificate.public_key.clone()]), Ok(PublicKey::Ecdsa));
        assert!(PublicKey::of_info(&der).is_err());
    }

    #[test]
    fn bits_are_counted_from_the_first_that_is_one() {
        for (number, expected) in
            [(&[][..], 0), (&[0, 0], 0), (&[1], 1), (&[0, 0x80, 0], 16), (&[0x7f, 0], 15)]
        {
            assert_eq!(bit_length(number), expected, "{number:?}");
        }
    }

    #[test]
    fn it_is_for_its_names_and_addresses_and_no_others() {
        let certificate = Certificate::parse(&shop()).unwrap();
        for host in ["shop.example", "a.shop.example", "192.0.2.1", "[2001:db8::1]"] {
            assert!(certificate.covers(host), "{host}");
        }
        for host in
            ["example", "a.b.shop.example", ".shop.example", "192.0.2.2", "[::1]", "", "xshop.example"]
        {
            assert!(!certificate.covers(host), "{host}");
        }
    }

    proptest! {
        /// Whatever is done to a certificate, it is read or refused.
        #[test]
        fn damaged_ones_are_read_or_refused(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>(),
        ) {
            let mut der = shop();
            for (index, byte) in changes {
                let at = index.index(der.len());
                der[at] = byte;
            }
            let length = cut.index(der.len() + 1);
            for der in [&der[..], &der[..length]] {
                if let Ok(certificate) = Certificate::parse(der) {
                    let visible = |byte: u8| (b' '..=b'~').contains(&byte);
                    prop_assert!(certificate.subject.bytes().all(visible));
                    prop_assert!(certificate.public_key.end <= der.len());
                }
            }
        }

        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            drop(Certificate::parse(&bytes));
            PublicKey::of_info(&bytes).ok();
        }
    }
}
