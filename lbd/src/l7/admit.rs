//! Whether a request is let in, by who it is from.

use common::config::HttpAuth;
use common::time::Instant;
use lbd_core::http::auth::jwt::Unverified;
use lbd_core::http::auth::{Denied, Scheme, basic, can_be_told, challenge};
use lbd_core::http::framing::Field;

use super::passwords::{Compared, Comparison, known};
use crate::clock::unix_now;
use crate::site_files::SiteFiles;

/// What becomes of a request.
pub(super) enum Admission {
    /// It is let in, and targets are told this in fields.
    In(Vec<(String, String)>),
    /// It is not, and the client is told how it could be.
    Out(Denied, String),
    /// A password has to be compared first.
    Compare(Comparison),
}

/// Looks at what a request says of whom it is from. `compared` is how the comparison ended that was asked for the last time.
pub(super) fn admit(
    auth: Option<&HttpAuth>,
    files: &SiteFiles,
    fields: &[Field<'_>],
    compared: Option<Compared>,
    now: Instant,
) -> Admission {
    let (scheme, realm, outcome) = match auth {
        None | Some(HttpAuth::Nobody) => return Admission::In(Vec::new()),
        Some(HttpAuth::Basic(wanted)) => {
            let login = basic::login(fields).and_then(|login| {
                // A configuration in force has read its files.
                let users = files.users(&wanted.users.path).ok_or(Denied::Credentials)?;
                let (hash, is_there) = users.hash_of(&login.name);
                let compared = match compared.map_or_else(|| known(&login, hash, now), Ok) {
                    Ok(compared) => compared,
                    Err(comparison) => return Ok(Err(comparison)),
                };
                match compared {
                    Compared::Equal if is_there => Ok(Ok(login.name)),
                    Compared::Equal | Compared::Different => Err(Denied::Credentials),
                    Compared::Busy => Err(Denied::Busy),
                }
            });
            let outcome = match login {
                Ok(Err(comparison)) => return Admission::Compare(comparison),
                Ok(Ok(name)) if wanted.user_header.is_some() && !can_be_told(&name) => {
                    Err(Denied::Untellable)
                }
                Ok(Ok(name)) => {
                    Ok(wanted.user_header.iter().map(|header| (header.clone(), name.clone())).collect())
                }
                Err(denied) => Err(denied),
            };
            (Scheme::Basic, &wanted.realm, outcome)
        }
        Some(HttpAuth::Jwt(wanted)) => {
            let outcome = Unverified::of(fields).and_then(|token| {
                let keys = files.keys(&wanted.keys.path).ok_or(Denied::Signature)?;
                keys.verify(&token)?;
                let claims = token.claims()?;
                claims.check(wanted, unix_now())?;
                claims.told(&wanted.claims)
            });
            (Scheme::Bearer, &wanted.realm, outcome)
        }
    };
    match outcome {
        Ok(told) => Admission::In(told),
        Err(denied) => Admission::Out(denied, challenge(scheme, realm, denied)),
    }
}
