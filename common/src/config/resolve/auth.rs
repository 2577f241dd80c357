//! `auth` of services of `mode = "http"` and of their rules.

use std::path::Path;

use super::tls::file;
use crate::config::raw::RawAuth;
use crate::config::types::{BasicAuth, HttpAuth, JwtAuth};

/// The keys that name files.
pub(super) struct Keys {
    users: &'static str,
    keys: &'static str,
}

/// Of a service.
pub(super) const OF_SERVICE: Keys = Keys { users: "service.auth.basic.users", keys: "service.auth.jwt.keys" };

/// Of a rule.
pub(super) const OF_RULE: Keys =
    Keys { users: "service.rule.auth.basic.users", keys: "service.rule.auth.jwt.keys" };

/// Who is let in; what is not said of a service of this name filled in.
pub(super) fn build(raw: &RawAuth, key: &Keys, service: &str, folder: &Path) -> HttpAuth {
    let named = |realm: &Option<String>| realm.clone().unwrap_or_else(|| service.to_owned());
    match raw {
        RawAuth::Nobody => HttpAuth::Nobody,
        RawAuth::Basic { users, realm, user_header } => HttpAuth::Basic(BasicAuth {
            users: file(folder, key.users, users),
            realm: named(realm),
            user_header: user_header.clone(),
        }),
        RawAuth::Jwt { keys, realm, issuers, audiences, leeway, claims } => HttpAuth::Jwt(JwtAuth {
            keys: file(folder, key.keys, keys),
            realm: named(realm),
            issuers: issuers.clone(),
            audiences: audiences.clone(),
            leeway: *leeway,
            claims: claims.clone(),
        }),
    }
}
