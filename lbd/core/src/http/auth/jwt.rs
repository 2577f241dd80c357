//! Signed tokens (RFC 7519, RFC 7515): what one says, which key may have signed it, and whether it is for here and now.
//!
//! A key is for one algorithm, which follows from what the key is and never from what a token says: so a public key is never taken for
//! a shared secret, and a token that says "none" has no key at all.

mod keys;

use common::config::JwtAuth;
use common::time::{Duration, UnixTime};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::{Denied, can_be_told, credentials};
use crate::http::framing::Field;

pub use keys::{KeyError, KeyInfo, Material, check_names, parse_set};

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Keys that are tried for a token: each costs the check of a signature, whoever sends it.
const TRIED_MAX: usize = 4;

common::named! {
    /// How a token is signed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Algorithm {
        /// HMAC with SHA-256, by a shared secret.
        Hs256 => "HS256",
        /// RSA (PKCS #1 v1.5) with SHA-256.
        Rs256 => "RS256",
        /// RSA with SHA-384.
        Rs384 => "RS384",
        /// RSA with SHA-512.
        Rs512 => "RS512",
        /// RSA (PSS) with SHA-256.
        Ps256 => "PS256",
        /// ECDSA with P-256 and SHA-256.
        Es256 => "ES256",
        /// ECDSA with P-384 and SHA-384.
        Es384 => "ES384",
        /// Ed25519.
        EdDsa => "EdDSA",
    }
}

impl Algorithm {
    /// The algorithm of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// A token whose signature has yet to be checked: nothing that it says is true until then.
#[derive(Clone, Debug)]
pub struct Unverified<'t> {
    /// What is signed.
    pub signed: &'t [u8],
    /// By what.
    pub signature: Vec<u8>,
    /// How, as it says itself.
    pub algorithm: Algorithm,
    /// By which key, if it says so.
    pub key_id: Option<String>,
    claims: &'t [u8],
}

/// What a token says whose signature was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

impl<'t> Unverified<'t> {
    /// Reads the token of a request.
    ///
    /// # Errors
    ///
    /// That there is none, or one that cannot be understood.
    pub fn of(fields: &'t [Field<'t>]) -> Result<Self, Denied> {
        Self::parse(credentials(fields, "bearer")?)
    }

    /// Reads a token: `BASE64URL(header) "." BASE64URL(claims) "." BASE64URL(signature)` (RFC 7515, section 3.1).
    ///
    /// # Errors
    ///
    /// That it cannot be understood, or is signed in a way that is not known.
    pub fn parse(token: &'t [u8]) -> Result<Self, Denied> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Denied::Malformed);
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Denied::Malformed);
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let header = object(header)?;
        // RFC 7515, section 4.1.11: who does not understand what is critical has to refuse it, and nothing of the kind is understood here.
        if header.contains_key("crit") {
            return Err(Denied::Malformed);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Denied::Malformed)?;
        let algorithm = Algorithm::of_name(algorithm).ok_or(Denied::Algorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(Denied::Malformed),
        };
        let signature = BASE64URL_NOPAD.decode(signature).map_err(|_| Denied::Malformed)?;
        Ok(Self { signed, signature, algorithm, key_id, claims })
    }

    /// The places of the keys that may have signed it, four at most.
    ///
    /// # Errors
    ///
    /// [`Denied::Algorithm`] if there is none for its algorithm, [`Denied::Signature`] if it was signed by one that is not here,
    /// [`Denied::KeyUnnamed`] if there are too many.
    pub fn candidates(&self, keys: &[KeyInfo]) -> Result<Vec<usize>, Denied> {
        let mut of_algorithm =
            keys.iter().enumerate().filter(|(_, key)| key.algorithm == self.algorithm).peekable();
        if of_algorithm.peek().is_none() {
            return Err(Denied::Algorithm);
        }
        let fits = |key: &KeyInfo| match (&self.key_id, &key.id) {
            (Some(own), Some(its)) => own == its,
            // Either does not say.
            _ => true,
        };
        let candidates: Vec<usize> =
            of_algorithm.filter(|(_, key)| fits(key)).map(|(index, _)| index).collect();
        match candidates.len() {
            0 => Err(Denied::Signature),
            1..=TRIED_MAX => Ok(candidates),
            // Not just some of them: whether it is let in is not to depend on where in the file its key is.
            _ => Err(Denied::KeyUnnamed),
        }
    }

    /// What it says, now that its signature was found to be true.
    ///
    /// # Errors
    ///
    /// That it is no JSON object.
    pub fn claims(&self) -> Result<Claims, Denied> {
        object(self.claims).map(Claims)
    }
}

fn object(part: &[u8]) -> Result<Map<String, Value>, Denied> {
    let bytes = BASE64URL_NOPAD.decode(part).map_err(|_| Denied::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Denied::Malformed)
}

impl Claims {
    /// Whether they let a client in, here and now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, wanted: &JwtAuth, now: UnixTime) -> Result<(), Denied> {
        let now = seconds(now);
        let leeway = wanted.leeway.as_secs_f64();
        // RFC 7519, section 4.1.4: "the current date/time MUST be before the expiration date/time". Without one a token would be good for ever.
        match self.0.get("exp") {
            None => return Err(Denied::Expired),
            Some(time) if now >= number(time)? + leeway => return Err(Denied::Expired),
            Some(_) => {}
        }
        // Section 4.1.5: "the current date/time MUST be after or equal to the not-before date/time".
        if let Some(time) = self.0.get("nbf")
            && now + leeway < number(time)?
        {
            return Err(Denied::NotYet);
        }
        let among = |name: &str, known: &[String]| {
            let is_known = |value: &Value| value.as_str().is_some_and(|its| known.iter().any(|it| it == its));
            known.is_empty() || self.0.get(name).is_some_and(is_known)
        };
        if !among("iss", &wanted.issuers) {
            return Err(Denied::Issuer);
        }
        // Section 4.1.3: "In the general case, the "aud" value is an array of case-sensitive strings […]. In the special case when the JWT
        // has one audience, the "aud" value MAY be a single case-sensitive string".
        let is_ours =
            |value: &Value| value.as_str().is_some_and(|its| wanted.audiences.iter().any(|it| it == its));
        let for_us = match self.0.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        };
        if !wanted.audiences.is_empty() && !for_us {
            return Err(Denied::Audience);
        }
        Ok(())
    }

    /// The fields in which a target is told claims. One that is not there, or says nothing, is left out.
    ///
    /// # Errors
    ///
    /// [`Denied::Untellable`] if one says something that cannot be told: without it, or in another form, the target would take the client for
    /// somebody else.
    pub fn told(&self, wanted: &[(String, String)]) -> Result<Vec<(String, String)>, Denied> {
        let mut told = Vec::new();
        for (claim, header) in wanted {
            let line = self.0.get(claim).map(line).transpose()?.flatten();
            told.extend(line.map(|line| (header.clone(), line)));
        }
        Ok(told)
    }
}

/// A claim as a line of text; nothing if it is null, or an empty text or list. The elements of a list have commas between them, as nginx and
/// oauth2-proxy write them, so that an element with one would be two.
fn line(claim: &Value) -> Result<Option<String>, Denied> {
    let line = match claim {
        Value::Null => return Ok(None),
        Value::Array(all) => {
            let element = |value: &Value| text(value).filter(|text| can_be_told(text) && !text.contains(','));
            all.iter().map(element).collect::<Option<Vec<_>>>().map(|all| all.join(","))
        }
        one => text(one),
    };
    let line = line.ok_or(Denied::Untellable)?;
    if line.is_empty() {
        return Ok(None);
    }
    if can_be_told(&line) { Ok(Some(line)) } else { Err(Denied::Untellable) }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// RFC 7519, section 2: `NumericDate`, "a JSON numeric value representing the number of seconds", also with a fraction.
fn number(value: &Value) -> Result<f64, Denied> {
    value.as_f64().filter(|number| number.is_finite()).ok_or(Denied::Malformed)
}

fn seconds(now: UnixTime) -> f64 {
    Duration::from_millis(now.as_millis()).as_secs_f64()
}

#[cfg(test)]
mod tests;
