//! The pair's secret key and the keys derived from it.
//!
//! One file holds 32 random bytes as 64 hexadecimal digits (`vrrpd keygen` writes it). Nothing is signed with those
//! bytes themselves: each use gets a key of its own by HKDF-SHA-256 (RFC 5869) with the use's name as `info`, so that a
//! message of one protocol can never be replayed into another.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

/// What is wrong with the text of a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file does not hold 64 hexadecimal digits.
    #[error(
        "a key is 64 hexadecimal digits on one line, this file holds {0} characters; write one with `vrrpd keygen --out FILE`"
    )]
    Length(usize),
    /// A character that is no hexadecimal digit.
    #[error(
        "a key is 64 hexadecimal digits, character {0} is something else; write one with `vrrpd keygen --out FILE`"
    )]
    Digit(usize),
}

/// The secret that both nodes share. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct PairKey([u8; 32]);

/// What a derived key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// The datagrams of the peer link (heartbeat and switchover, UDP 7112).
    PeerLink,
    /// The replication stream (TCP 7112).
    Replication,
    /// The hash that assigns clients and connections to targets.
    TargetHash,
    /// What TLS clients bring to go on with a session (RFC 8446, section 2.2; RFC 5077).
    SessionTickets,
}

impl KeyUse {
    /// The use's name as HKDF gets it. None is the begin of another.
    const fn info(self) -> &'static [u8] {
        match self {
            Self::PeerLink => b"tandem peer link v1",
            Self::Replication => b"tandem replication v1",
            Self::TargetHash => b"tandem target hash v1",
            Self::SessionTickets => b"tandem session tickets v1",
        }
    }
}

impl PairKey {
    /// Wraps 32 secret bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the text of a key file; white space around the digits is allowed.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let digits = text.trim();
        if digits.chars().count() != 64 {
            return Err(KeyError::Length(digits.chars().count()));
        }
        let mut bytes = [0; 32];
        for (index, digit) in digits.chars().enumerate() {
            let value = digit.to_digit(16).ok_or(KeyError::Digit(index + 1))?;
            let value = u8::try_from(value).unwrap_or_default();
            bytes[index / 2] = bytes[index / 2] << 4 | value;
        }
        Ok(Self(bytes))
    }

    /// The key as the text of a key file, with a newline.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push('\n');
        text
    }

    /// The secret itself. It signs advertisements (key id 1 of the HMAC trailer), because there the other end may be
    /// other software that was given the same 32 bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key for one use.
    #[must_use]
    pub fn derive(&self, purpose: KeyUse) -> [u8; 32] {
        self.expand(&[purpose.info()])
    }

    /// The key for one use by one node, so that neither node can be taken for the other. Only the node's name follows the fixed words
    /// in HKDF's `info`, so that no two pairs of use and name share one.
    #[must_use]
    pub fn derive_for_node(&self, purpose: KeyUse, node: &str) -> [u8; 32] {
        self.expand(&[purpose.info(), b" of node ", node.as_bytes()])
    }

    /// The key for the session tickets of one service in one epoch. `policy` is a hash of what the service wants of its clients: no
    /// ticket of a time when it wanted less, or of another service, opens with it. All that follows the service's name in HKDF's
    /// `info` has a fixed length, so that no two keys share one.
    #[must_use]
    pub fn derive_for_tickets(&self, service: &str, policy: &[u8; 32], epoch: u64) -> [u8; 32] {
        let purpose = KeyUse::SessionTickets.info();
        self.expand(&[purpose, b" of service ", service.as_bytes(), policy, &epoch.to_be_bytes()])
    }

    fn expand(&self, info: &[&[u8]]) -> [u8; 32] {
        let mut out = [0; 32];
        // Expanding to 32 bytes cannot fail: the limit is 255 times the hash length.
        if Hkdf::<Sha256>::new(None, &self.0).expand_multi_info(info, &mut out).is_err() {
            debug_assert!(false, "32 bytes are within HKDF's limit");
        }
        out
    }
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let key = PairKey::new(std::array::from_fn(|i| u8::try_from(i).unwrap() * 7));
        assert_eq!(PairKey::parse(&key.to_text()), Ok(key));
    }

    #[test]
    fn bad_texts_are_named() {
        assert_eq!(PairKey::parse("abc"), Err(KeyError::Length(3)));
        let text = format!("{}g{}", "0".repeat(10), "0".repeat(53));
        assert_eq!(PairKey::parse(&text), Err(KeyError::Digit(11)));
    }

    #[test]
    fn each_node_has_a_key_of_its_own() {
        let key = PairKey::new([7; 32]);
        let of = |node| key.derive_for_node(KeyUse::Replication, node);
        // By HMAC-SHA-256 as Python's `hmac` computes it, after RFC 5869.
        let expected = "51f9b657749ca82f29634ae183b2c175c5f55118f12fce216c59dfbb7b3ec442";
        assert_eq!(PairKey::new(of("a")), PairKey::parse(expected).unwrap());
        let plain = key.derive(KeyUse::Replication);
        assert!(of("a") != of("b") && of("") != of("a") && of("") != plain && of("a") != plain);
        assert_ne!(of("a"), key.derive_for_node(KeyUse::PeerLink, "a"));
    }

    #[test]
    fn each_service_policy_and_epoch_has_tickets_of_its_own() {
        let key = PairKey::new([7; 32]);
        let of = |service, policy, epoch| key.derive_for_tickets(service, &[policy; 32], epoch);
        let all = [of("web", 1, 5), of("web", 1, 6), of("web", 2, 5), of("shop", 1, 5), of("", 1, 5)];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one));
        }
        assert_eq!(of("web", 1, 5), all[0], "both nodes have the same");
    }

    #[test]
    fn uses_do_not_share_a_key_and_debug_hides_it() {
        let key = PairKey::new([7; 32]);
        assert_ne!(key.derive(KeyUse::PeerLink), key.derive(KeyUse::Replication));
        assert_ne!(&key.derive(KeyUse::PeerLink), key.bytes());
        assert_eq!(format!("{key:?}"), "PairKey(…)");
    }
}
