//! Who a client is, as far as it can prove it: by name and password, or by a signed token.
//!
//! Nothing is hashed and no signature is checked here: that is asked of whoever has the time for it.

pub mod basic;
pub mod jwt;
pub mod turns;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use super::framing::{Field, trim};

common::named! {
    /// Why a client is not let in.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Denied {
        /// Its address is none of those that a rule, or by now the service, is for.
        Access => "access",
        /// It has not said who it is.
        Missing => "missing",
        /// What it said cannot be understood.
        Malformed => "malformed",
        /// Another password, or nobody of this name.
        Credentials => "credentials",
        /// Too many passwords are being looked at.
        Busy => "busy",
        /// A token signed with an algorithm that none of the keys is for.
        Algorithm => "algorithm",
        /// A token signed by somebody else.
        Signature => "signature",
        /// A token that does not say by which key it is signed, where there are too many to try them all.
        KeyUnnamed => "key_unnamed",
        /// A token without an end, or with one that has come.
        Expired => "expired",
        /// A token that is not valid yet.
        NotYet => "not_yet",
        /// A token of another issuer.
        Issuer => "issuer",
        /// A token for somebody else.
        Audience => "audience",
        /// Targets are to be told what cannot be told in a field without doubt.
        Untellable => "untellable",
    }
}

impl Denied {
    /// What the client is answered.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Access => 403,
            Self::Busy => 503,
            _ => 401,
        }
    }
}

/// What a request has to prove who it is from, of a scheme that is given in lower case: what stands behind the scheme's name.
///
/// # Errors
///
/// [`Denied::Missing`] without any, or with another scheme only; [`Denied::Malformed`] with two, of which targets may see another one.
pub fn credentials<'f>(fields: &'f [Field<'f>], scheme: &str) -> Result<&'f [u8], Denied> {
    let mut all = fields.iter().filter(|field| field.is("authorization"));
    let Some(first) = all.next() else { return Err(Denied::Missing) };
    if all.next().is_some() {
        return Err(Denied::Malformed);
    }
    // RFC 9110, section 11.4: `credentials = auth-scheme [ 1*SP ( token68 / #auth-param ) ]`.
    let end = first.value.iter().position(|byte| *byte == b' ').unwrap_or(first.value.len());
    if !first.value[..end].eq_ignore_ascii_case(scheme.as_bytes()) {
        return Err(Denied::Missing);
    }
    Ok(trim(&first.value[end..]))
}

/// The challenge of an answer of 401.
#[must_use]
pub fn challenge(scheme: Scheme, realm: &str, denied: Denied) -> String {
    match (scheme, denied) {
        // RFC 7617, section 2.1: names and passwords are in UTF-8.
        (Scheme::Basic, _) => format!("Basic realm=\"{realm}\", charset=\"UTF-8\""),
        // RFC 6750, section 3.1: "If the request lacks any authentication information […] the resource server SHOULD NOT include an
        // error code or other error information."
        (Scheme::Bearer, Denied::Missing) => format!("Bearer realm=\"{realm}\""),
        (Scheme::Bearer, denied) => {
            format!(
                "Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{}\"",
                denied.name()
            )
        }
    }
}

/// How clients say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 7617.
    Basic,
    /// RFC 6750.
    Bearer,
}

/// The longest text that a target is told of a client, in bytes: many servers take 8 KiB for all fields together.
const TOLD_BYTES_MAX: usize = 4096;

/// Whether a text can be told in a field: what comes from a token or a file may hold anything.
#[must_use]
pub fn can_be_told(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TOLD_BYTES_MAX
        && text.trim() == text
        && !text.bytes().any(|byte| byte.is_ascii_control())
}

/// A service, as far as others have to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling<'t, T> {
    /// The fields in which it tells its targets who a request is from.
    pub fields: Vec<&'t str>,
    /// Its targets.
    pub targets: Vec<T>,
}

/// The fields that each of these services takes away from what clients send, in lower case: those in which any of its targets is told who a
/// request is from, by whichever service. Who comes by one that asks nobody is not to say what the others vouch for.
#[must_use]
pub fn taken_away<T: Eq + Hash>(services: &[Telling<'_, T>]) -> Vec<Vec<String>> {
    let mut told: HashMap<&T, BTreeSet<String>> = HashMap::new();
    for service in services.iter().filter(|service| !service.fields.is_empty()) {
        for target in &service.targets {
            let fields = service.fields.iter().map(|field| field.to_ascii_lowercase());
            told.entry(target).or_default().extend(fields);
        }
    }
    let of = |service: &Telling<'_, T>| {
        let own = service.fields.iter().map(|field| field.to_ascii_lowercase());
        let others = service.targets.iter().filter_map(|target| told.get(target)).flatten().cloned();
        own.chain(others).collect::<BTreeSet<_>>().into_iter().collect()
    };
    services.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_service_vouches_for_no_other_one_s_clients_say() {
        let telling = |fields: &[&'static str], targets: &[u8]| Telling {
            fields: fields.to_vec(),
            targets: targets.to_vec(),
        };
        let services = [
            telling(&["X-User", "X-Role"], &[1, 2]),
            telling(&[], &[2, 3]),
            telling(&[], &[3]),
            telling(&["x-user", "X-Mail"], &[4]),
            telling(&[], &[4, 1]),
            telling(&["X-Id"], &[]),
        ];
        let expected: [&[&str]; 6] = [
            &["x-role", "x-user"],
            &["x-role", "x-user"],
            &[],
            &["x-mail", "x-user"],
            &["x-mail", "x-role", "x-user"],
            &["x-id"],
        ];
        assert_eq!(taken_away(&services), expected);
    }

    #[test]
    fn credentials_stand_behind_their_scheme() {
        let of = |values: &[&str]| {
            let fields: Vec<Field<'_>> =
                values.iter().map(|it| Field { name: b"authorization", value: it.as_bytes() }).collect();
            credentials(&fields, "bearer").map(|it| String::from_utf8_lossy(it).into_owned())
        };
        assert_eq!(of(&["Bearer abc"]).as_deref(), Ok("abc"));
        assert_eq!(of(&["bEARER   abc"]).as_deref(), Ok("abc"));
        assert_eq!(of(&["Bearer"]).as_deref(), Ok(""));
        assert_eq!(of(&["Bearerabc"]), Err(Denied::Missing));
        assert_eq!(of(&["Basic abc"]), Err(Denied::Missing));
        assert_eq!(of(&[]), Err(Denied::Missing));
        assert_eq!(of(&["Bearer abc", "Bearer abc"]), Err(Denied::Malformed));
    }

    #[test]
    fn nothing_but_a_line_of_text_is_told() {
        assert!(can_be_told("a b") && can_be_told("J\u{fc}rgen"));
        for bad in ["", " a", "a ", "a\r\nX: b", "a\0", &"a".repeat(4097)] {
            assert!(!can_be_told(bad), "{bad:?}");
        }
    }
}
