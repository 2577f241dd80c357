//! Sets of JSON web keys (RFC 7517, RFC 7518, RFC 8037).

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::{Algorithm, TRIED_MAX};
use crate::tls::bit_length;

/// Keys in a set at most.
const KEYS_MAX: usize = 256;

/// RFC 7518, section 3.2: "A key of the same size as the hash output (for instance, 256 bits for "HS256") or larger MUST be used".
const SECRET_BYTES_MIN: usize = 32;

/// RFC 7518, section 3.3: "A key of size 2048 bits or larger MUST be used". Larger ones than the other bound nobody checks signatures with.
const MODULUS_BITS_MIN: usize = 2048;
const MODULUS_BITS_MAX: usize = 8192;

/// What is known of a key beside the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name, which tokens give (`kid`).
    pub id: Option<String>,
    /// What it is for, and nothing else.
    pub algorithm: Algorithm,
}

/// A key itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// A shared secret.
    Secret(Vec<u8>),
    /// An RSA key: modulus and exponent, big-endian, without zeros before them.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// A point, as `04 x y`.
    Point(Vec<u8>),
    /// The 32 bytes of Ed25519.
    Ed25519(Vec<u8>),
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Material(…)")
    }
}

/// What is wrong with a set of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No JSON, or another one.
    #[error("it is no set of JSON web keys: {0}")]
    Form(String),
    /// No key that can be used.
    #[error("there is no key in it that signatures can be checked with")]
    Empty,
    /// More keys than are taken.
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
    /// An algorithm that is not known.
    #[error(
        "key {number} is for the algorithm {name:?}; known are HS256, RS256, RS384, RS512, PS256, ES256, ES384 and EdDSA"
    )]
    Algorithm {
        /// The key's place, counted from 1.
        number: usize,
        /// What it is for.
        name: String,
    },
    /// Keys that nothing tells apart.
    #[error(
        "{count} of its keys for {algorithm} may have signed one and the same token, and no more than {TRIED_MAX} are tried: give each a \"kid\" of its own, in a set of JSON web keys"
    )]
    Unnamed {
        /// How many.
        count: usize,
        /// What they are for.
        algorithm: &'static str,
    },
    /// A key that cannot be used.
    #[error("key {number} cannot be used: {why}")]
    Key {
        /// The key's place.
        number: usize,
        /// Why.
        why: String,
    },
}

/// Reads a set. Keys that are for encryption are left out.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn parse_set(text: &str) -> Result<Vec<(KeyInfo, Material)>, KeyError> {
    let set: Value = serde_json::from_str(text).map_err(|error| KeyError::Form(error.to_string()))?;
    let Some(keys) = set.get("keys").and_then(Value::as_array) else {
        return Err(KeyError::Form("it has no list \"keys\"".to_owned()));
    };
    if keys.len() > KEYS_MAX {
        return Err(KeyError::TooMany);
    }
    let mut read = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let number = index + 1;
        let bad = |why: &str| KeyError::Key { number, why: why.to_owned() };
        let key = key.as_object().ok_or_else(|| bad("it is no object"))?;
        // RFC 7517, section 4.2: "sig" or "enc".
        if key.get("use").is_some_and(|purpose| purpose.as_str() != Some("sig")) {
            continue;
        }
        read.push(one(key, number)?);
    }
    if read.is_empty() { Err(KeyError::Empty) } else { Ok(read) }
}

/// Looks whether a token that says which key has signed it may be signed by no more keys than are tried. Those without a name may have signed
/// each.
///
/// # Errors
///
/// [`KeyError::Unnamed`].
pub fn check_names(keys: &[KeyInfo]) -> Result<(), KeyError> {
    for algorithm in Algorithm::ALL {
        let named = |name: Option<&str>| {
            let is_its = |key: &&KeyInfo| key.algorithm == algorithm && key.id.as_deref() == name;
            keys.iter().filter(is_its).count()
        };
        let most = keys.iter().filter_map(|key| key.id.as_deref()).map(|id| named(Some(id))).max();
        let count = named(None) + most.unwrap_or_default();
        if count > TRIED_MAX {
            return Err(KeyError::Unnamed { count, algorithm: algorithm.name() });
        }
    }
    Ok(())
}

fn one(key: &Map<String, Value>, number: usize) -> Result<(KeyInfo, Material), KeyError> {
    let bad = |why: String| KeyError::Key { number, why };
    let text = |name: &str| match key.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(bad(format!("\"{name}\" is no text"))),
        None => Err(bad(format!("it has no \"{name}\""))),
    };
    let bytes = |name: &str| {
        BASE64URL_NOPAD
            .decode(text(name)?.as_bytes())
            .map_err(|_| bad(format!("\"{name}\" is no base64url without padding")))
    };
    let (kind, usual, material): (&[Algorithm], Algorithm, Material) = match text("kty")? {
        "oct" => {
            let secret = bytes("k")?;
            if secret.len() < SECRET_BYTES_MIN {
                return Err(bad(format!("its secret has less than {SECRET_BYTES_MIN} bytes")));
            }
            (&[Algorithm::Hs256], Algorithm::Hs256, Material::Secret(secret))
        }
        "RSA" => {
            let (n, e) = (without_zeros(bytes("n")?), without_zeros(bytes("e")?));
            match bit_length(&n) {
                ..MODULUS_BITS_MIN => return Err(bad(format!("it has less than {MODULUS_BITS_MIN} bits"))),
                MODULUS_BITS_MIN..=MODULUS_BITS_MAX => {}
                _ => return Err(bad(format!("it has more than {MODULUS_BITS_MAX} bits"))),
            }
            let kind = &[Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256];
            (kind, Algorithm::Rs256, Material::Rsa { n, e })
        }
        "EC" => {
            let (algorithm, kind, length): (_, &[Algorithm], _) = match text("crv")? {
                "P-256" => (Algorithm::Es256, &[Algorithm::Es256], 32),
                "P-384" => (Algorithm::Es384, &[Algorithm::Es384], 48),
                other => return Err(bad(format!("the curve {other:?} is not known, only P-256 and P-384"))),
            };
            let (x, y) = (bytes("x")?, bytes("y")?);
            // RFC 7518, section 6.2.1.2: "The length of this octet string MUST be the full size of a coordinate".
            if x.len() != length || y.len() != length {
                return Err(bad("a coordinate is not as long as its curve's are".to_owned()));
            }
            (kind, algorithm, Material::Point([&[4][..], &x, &y].concat()))
        }
        "OKP" => {
            match text("crv")? {
                "Ed25519" => {}
                other => return Err(bad(format!("the curve {other:?} is not known, only Ed25519"))),
            }
            let x = bytes("x")?;
            if x.len() != 32 {
                return Err(bad("\"x\" has not the 32 bytes of Ed25519".to_owned()));
            }
            (&[Algorithm::EdDsa], Algorithm::EdDsa, Material::Ed25519(x))
        }
        other => return Err(bad(format!("keys of type {other:?} are not known"))),
    };
    let algorithm = match key.get("alg") {
        None => usual,
        Some(_) => {
            let name = text("alg")?;
            let known = Algorithm::of_name(name);
            let known = known.ok_or_else(|| KeyError::Algorithm { number, name: name.to_owned() })?;
            if !kind.contains(&known) {
                return Err(bad(format!("a key of its type is not for {name}")));
            }
            known
        }
    };
    let id = if key.contains_key("kid") { Some(text("kid")?.to_owned()) } else { None };
    Ok((KeyInfo { id, algorithm }, material))
}

fn without_zeros(mut bytes: Vec<u8>) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    bytes
}
