//! Who is let in to a service of `mode = "http"`, and how that is proved.

use super::FileAt;
use crate::time::Duration;

/// `auth` of a service or a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAuth {
    /// `"none"`: nobody is asked; of a rule whose service asks.
    Nobody,
    /// `basic`: name and password.
    Basic(BasicAuth),
    /// `jwt`: a signed token.
    Jwt(JwtAuth),
}

/// `auth.basic` (RFC 7617).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// The file of names and passwords, as `htpasswd -B` writes it.
    pub users: FileAt,
    /// What browsers call the place; the service's name by default.
    pub realm: String,
    /// The field in which targets are told the name.
    pub user_header: Option<String>,
}

/// `auth.jwt` (RFC 7519, RFC 6750).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtAuth {
    /// The file of keys: a public key in PEM, or a set of JSON web keys.
    pub keys: FileAt,
    /// What clients are told to have a token for; the service's name by default.
    pub realm: String,
    /// Who may have issued a token (`iss`); anybody who has a key, if it is empty.
    pub issuers: Vec<String>,
    /// For whom a token has to be (`aud`), one of these; for anybody, if it is empty.
    pub audiences: Vec<String>,
    /// How much the clocks of Tandem and the issuer may differ; 0 to 10 min, 30 s by default.
    pub leeway: Duration,
    /// Claims, and the fields in which targets are told them.
    pub claims: Vec<(String, String)>,
}

impl HttpAuth {
    /// The fields in which targets are told who it is: whatever clients send in them is taken away.
    pub fn told_in(&self) -> impl Iterator<Item = &str> {
        let (user, claims): (Option<&String>, &[(String, String)]) = match self {
            Self::Nobody => (None, &[]),
            Self::Basic(basic) => (basic.user_header.as_ref(), &[]),
            Self::Jwt(jwt) => (None, &jwt.claims),
        };
        user.into_iter().chain(claims.iter().map(|(_, header)| header)).map(String::as_str)
    }
}
