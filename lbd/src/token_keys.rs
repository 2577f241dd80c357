//! The keys that tokens are signed with, ready to check signatures.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use lbd_core::http::auth::Denied;
use lbd_core::http::auth::jwt::{Algorithm, KeyError, KeyInfo, Material, Unverified, check_names, parse_set};
use lbd_core::tls::PublicKey;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenKeysError {
    /// The set has a mistake.
    #[error(transparent)]
    Set(#[from] KeyError),
    /// A PEM file without a public key.
    #[error(
        "it has no public key in it: that is PEM with BEGIN PUBLIC KEY, as `openssl pkey -pubout` writes it"
    )]
    NoPublicKey,
    /// A public key that cannot be used.
    #[error(
        "public key {number} cannot be used: it is none of RSA with 2048 to 8192 bits, of P-256, P-384 or Ed25519"
    )]
    PublicKey {
        /// Its place, counted from 1.
        number: usize,
    },
}

/// The keys of a file.
pub(crate) struct TokenKeys {
    infos: Vec<KeyInfo>,
    /// In the same order.
    keys: Vec<Key>,
}

enum Key {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl TokenKeys {
    /// Reads a file's text: public keys in PEM, or a set of JSON web keys.
    pub(crate) fn parse(text: &str) -> Result<Self, TokenKeysError> {
        let all = Self::read(text)?;
        check_names(&all.infos)?;
        Ok(all)
    }

    fn read(text: &str) -> Result<Self, TokenKeysError> {
        let mut all = Self { infos: Vec::new(), keys: Vec::new() };
        if text.contains("-----BEGIN ") {
            for (index, key) in SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()).enumerate() {
                let bad = TokenKeysError::PublicKey { number: index + 1 };
                let Ok(key) = key else { return Err(bad) };
                let (algorithm, key) = of_der(key.as_ref()).ok_or(bad)?;
                all.infos.push(KeyInfo { id: None, algorithm });
                all.keys.push(Key::Public(key));
            }
            return if all.keys.is_empty() { Err(TokenKeysError::NoPublicKey) } else { Ok(all) };
        }
        for (index, (info, material)) in parse_set(text)?.into_iter().enumerate() {
            let bad = || KeyError::Key { number: index + 1, why: "it is no key of its kind".to_owned() };
            all.keys.push(of_material(info.algorithm, &material).ok_or_else(bad)?);
            all.infos.push(info);
        }
        Ok(all)
    }

    /// Whether a token is signed with one of them.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub(crate) fn verify(&self, token: &Unverified<'_>) -> Result<(), Denied> {
        let candidates = token.candidates(&self.infos)?;
        let signs = |index: &usize| match &self.keys[*index] {
            Key::Secret(key) => hmac::verify(key, token.signed, &token.signature).is_ok(),
            Key::Public(key) => key.verify_sig(token.signed, &token.signature).is_ok(),
        };
        if candidates.iter().any(signs) { Ok(()) } else { Err(Denied::Signature) }
    }
}

/// The algorithm of a public key, which is what it says that it is.
fn of_der(der: &[u8]) -> Option<(Algorithm, ParsedPublicKey)> {
    let known: [(Algorithm, &'static dyn VerificationAlgorithm); 3] = [
        (Algorithm::EdDsa, &signature::ED25519),
        (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED),
        (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED),
    ];
    let parsed = known.into_iter().find_map(|(algorithm, verification)| {
        Some((algorithm, ParsedPublicKey::new(verification, der).ok()?))
    });
    parsed.or_else(|| Some((Algorithm::Rs256, rsa(&signature::RSA_PKCS1_2048_8192_SHA256, der)?)))
}

/// A public key of RSA, which is looked at here as it is otherwise only once a signature is to be checked: for its size, and as a whole.
fn rsa(parameters: &'static RsaParameters, der: &[u8]) -> Option<ParsedPublicKey> {
    let Ok(PublicKey::Rsa { bits }) = PublicKey::of_info(der) else { return None };
    let sizes = parameters.min_modulus_len()..=parameters.max_modulus_len();
    if !sizes.contains(&u32::try_from(bits).ok()?) {
        return None;
    }
    ParsedPublicKey::new(parameters, der).ok()
}

fn of_material(algorithm: Algorithm, material: &Material) -> Option<Key> {
    let public = |verification: &'static dyn VerificationAlgorithm, bytes: &[u8]| {
        ParsedPublicKey::new(verification, bytes).ok().map(Key::Public)
    };
    match (material, algorithm) {
        (Material::Secret(secret), Algorithm::Hs256) => {
            Some(Key::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))))
        }
        (Material::Rsa { n, e }, algorithm) => {
            let parameters: &'static RsaParameters = match algorithm {
                Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                _ => return None,
            };
            let key = RsaPublicKeyComponents { n: &n[..], e: &e[..] };
            let made = key.to_parsed_public_key(parameters).ok()?;
            rsa(parameters, made.as_ref()).map(Key::Public)
        }
        (Material::Point(point), Algorithm::Es256) => public(&signature::ECDSA_P256_SHA256_FIXED, point),
        (Material::Point(point), Algorithm::Es384) => public(&signature::ECDSA_P384_SHA384_FIXED, point),
        (Material::Ed25519(bytes), Algorithm::EdDsa) => public(&signature::ED25519, bytes),
        _ => None,
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeys").field("infos", &self.infos).finish_non_exhaustive()
    }
}
