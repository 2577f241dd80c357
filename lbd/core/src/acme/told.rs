//! What the nodes tell each other: certificates with their keys, and what is to be answered while one is ordered.

use bincode::{Decode, Encode};
use common::config::Acme;
use common::wire::{WireError, decode_within, encode_within};

use super::challenge::{CHALLENGES_MAX, Challenge};
use crate::replication::NOTE_SIZE_MAX;

/// The largest bundle, in bytes: a chain of certificates that TLS has room for (32 KiB as DER) and a key, as PEM.
pub const BUNDLE_MAX: usize = 54 * 1024;

/// The longest name, in bytes (RFC 1035, section 2.3.4, as text).
const NAME_BYTES_MAX: usize = 253;

/// Something that one node tells the other. The order of variants is part of the format: new ones go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Told {
    /// A certificate.
    Issued(Issued),
    /// All that is pending on the node that says so.
    Challenges(Vec<Challenge>),
}

/// A certificate that was ordered.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Issued {
    /// What it was ordered for.
    pub names: Vec<String>,
    /// The certificate, what leads to its authority, and its private key, as PEM.
    pub bundle: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Why something cannot be told, or is nothing that could have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untellable {
    /// It is larger than it may be.
    #[error("it is larger than it may be: {0}")]
    TooLarge(&'static str),
    /// It does not decode.
    #[error(transparent)]
    Malformed(#[from] WireError),
}

impl Told {
    /// As bytes.
    ///
    /// # Errors
    ///
    /// That it is beyond its bounds.
    pub fn encode(&self) -> Result<Vec<u8>, Untellable> {
        self.check()?;
        Ok(encode_within::<NOTE_SIZE_MAX, Self>(self)?)
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// That they are none, or that what they hold is beyond its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Untellable> {
        let told: Self = decode_within::<NOTE_SIZE_MAX, Self>(bytes)?;
        told.check()?;
        Ok(told)
    }

    fn check(&self) -> Result<(), Untellable> {
        let beyond = match self {
            Self::Issued(issued) => issued.beyond(),
            Self::Challenges(list) => {
                let fits = list.len() <= CHALLENGES_MAX && list.iter().all(Challenge::is_valid);
                (!fits).then_some("what the authority asks")
            }
        };
        beyond.map_or(Ok(()), |what| Err(Untellable::TooLarge(what)))
    }
}

impl Issued {
    /// What of it is larger than it may be.
    fn beyond(&self) -> Option<&'static str> {
        let is_name = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len()) && name.is_ascii();
        if self.names.len() > Acme::NAMES_MAX || !self.names.iter().all(is_name) {
            Some("its names")
        } else if self.bundle.len() > BUNDLE_MAX {
            Some("its chain of certificates")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::acme::{ANSWER_BYTES_MAX, TOKEN_BYTES_MAX};

    fn issued(names: usize, name: usize, bundle: usize) -> Told {
        let names = vec!["n".repeat(name); names];
        Told::Issued(Issued { names, bundle: "b".repeat(bundle) })
    }

    #[test]
    fn the_largest_of_all_fits_and_nothing_beyond() {
        let largest = issued(Acme::NAMES_MAX, NAME_BYTES_MAX, BUNDLE_MAX);
        assert_eq!(Told::decode(&largest.encode().unwrap()), Ok(largest));
        for beyond in [
            issued(Acme::NAMES_MAX + 1, 1, 1),
            issued(1, NAME_BYTES_MAX + 1, 1),
            issued(1, 0, 1),
            issued(1, 1, BUNDLE_MAX + 1),
        ] {
            assert!(beyond.encode().is_err());
            // Whoever says it all the same is not listened to.
            let bytes = encode_within::<{ 2 * NOTE_SIZE_MAX }, Told>(&beyond).unwrap();
            assert!(Told::decode(&bytes).is_err());
        }
        let challenge = Challenge {
            host: "h".repeat(NAME_BYTES_MAX),
            token: "t".repeat(TOKEN_BYTES_MAX),
            answer: "a".repeat(ANSWER_BYTES_MAX),
        };
        assert!(challenge.is_valid());
        let full = Told::Challenges(vec![challenge.clone(); CHALLENGES_MAX]);
        assert_eq!(Told::decode(&full.encode().unwrap()), Ok(full));
        assert!(Told::Challenges(vec![challenge; CHALLENGES_MAX + 1]).encode().is_err());
    }

    #[test]
    fn golden_told() {
        let told = Told::Issued(Issued { names: vec!["a.b".to_owned()], bundle: "CK".to_owned() });
        // The version, the kind, one name of three bytes, and the bundle of two.
        assert_eq!(told.encode().unwrap(), [1, 0, 1, 3, b'a', b'.', b'b', 2, b'C', b'K']);
        assert_eq!(Told::Challenges(Vec::new()).encode().unwrap(), [1, 1, 0]);
        assert!(!format!("{told:?}").contains('K'), "keys are in no log");
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(told) = Told::decode(&bytes) {
                prop_assert!(told.encode().is_ok());
            }
        }
    }
}
