//! `auth` of a service of `mode = "http"` and of its rules, as written. Paths are not yet in the file's folder.

use super::http::field_of_requests;
use super::reader::{At, Cursor, Table};
use super::text;
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::types::is_same_field;
use crate::time::Duration;

/// `auth`.
pub(crate) enum RawAuth {
    /// `"none"`.
    Nobody,
    /// `basic`.
    Basic { users: At<String>, realm: Option<String>, user_header: Option<String> },
    /// `jwt`.
    Jwt {
        keys: At<String>,
        realm: Option<String>,
        issuers: Vec<String>,
        audiences: Vec<String>,
        leeway: Duration,
        claims: Vec<(String, String)>,
    },
}

impl RawAuth {
    /// The fields in which targets are told who it is.
    pub(crate) fn told_in(&self) -> Vec<&str> {
        match self {
            Self::Nobody => Vec::new(),
            Self::Basic { user_header, .. } => user_header.iter().map(String::as_str).collect(),
            Self::Jwt { claims, .. } => claims.iter().map(|(_, header)| header.as_str()).collect(),
        }
    }
}

const LEEWAY_MAX: Duration = Duration::from_secs(600);
const LEEWAY_DEFAULT: Duration = Duration::from_secs(30);

/// Reads it. `may_be_none` says that there is somebody else who asks, so that nobody may be asked.
pub(super) fn read(cursor: &Cursor<'_>, may_be_none: bool, out: &mut Problems) -> Option<RawAuth> {
    if cursor.is_string() {
        let needs = "a [[service.rule]], for a service that asks nobody has no auth";
        return none(cursor, may_be_none, needs, out).map(|()| RawAuth::Nobody);
    }
    let mut table = cursor.table(out)?;
    let (basic, jwt) = (table.get("basic"), table.get("jwt"));
    table.finish(out);
    match (basic, jwt) {
        (Some(cursor), None) => self::basic(&cursor, out),
        (None, Some(cursor)) => self::jwt(&cursor, out),
        (basic, _) => {
            let found = if basic.is_some() { "both" } else { "none" }.to_owned();
            let choices = "basic and jwt".to_owned();
            out.add(cursor.span(), Problem::OneOf { key: cursor.key(), choices, found });
            None
        }
    }
}

/// The word `"none"`, by which a rule has nothing of what its service has; anywhere else it `needs` something else.
pub(super) fn none(cursor: &Cursor<'_>, may_be: bool, needs: &str, out: &mut Problems) -> Option<()> {
    cursor.word(&[("none", ())], out)?;
    if !may_be {
        let key = format!("{} = \"none\"", cursor.key());
        out.add(cursor.span(), Problem::KeyWithout { key, needs: needs.to_owned() });
    }
    may_be.then_some(())
}

fn basic(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawAuth> {
    let mut table = cursor.table(out)?;
    let users = table.required("users", out).and_then(|c| text(&c, out));
    let realm = realm(&mut table, out);
    let user_header = table.get("user_header").and_then(|c| {
        let name = c.string(out)?;
        field_of_requests(&name, &c.key(), out).then(|| name.into_inner())
    });
    table.finish(out);
    Some(RawAuth::Basic { users: users?, realm, user_header })
}

fn jwt(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawAuth> {
    let mut table = cursor.table(out)?;
    let keys = table.required("keys", out).and_then(|c| text(&c, out));
    let realm = realm(&mut table, out);
    let issuers = texts(table.get("issuer"), "a list such as [\"https://login.example.com\"]", out);
    let audiences = texts(table.get("audience"), "a list such as [\"shop\"]", out);
    let leeway = table.get("leeway").and_then(|c| c.duration(Duration::ZERO, LEEWAY_MAX, out));
    let claims = table.get("claims").map(|c| claims(&c, out)).unwrap_or_default();
    table.finish(out);
    let leeway = leeway.map_or(LEEWAY_DEFAULT, At::into_inner);
    Some(RawAuth::Jwt { keys: keys?, realm, issuers, audiences, leeway, claims })
}

/// A realm can be written between quotes.
fn realm(table: &mut Table<'_>, out: &mut Problems) -> Option<String> {
    let fits = |text: &str| {
        text.len() <= 255
            && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
    };
    let problem = |key, value| Problem::BadRealm { key, value };
    table.get("realm")?.string_that(fits, problem, out).map(At::into_inner)
}

fn texts(cursor: Option<Cursor<'_>>, expected: &str, out: &mut Problems) -> Vec<String> {
    let Some(cursor) = cursor else { return Vec::new() };
    let Some(entries) = cursor.list(expected, out) else { return Vec::new() };
    if entries.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    entries.iter().filter_map(|entry| text(entry, out).map(At::into_inner)).collect()
}

/// `{ CLAIM = "Field" }`.
fn claims(cursor: &Cursor<'_>, out: &mut Problems) -> Vec<(String, String)> {
    let Some(table) = cursor.table(out) else { return Vec::new() };
    let entries = table.entries();
    if entries.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    let mut claims: Vec<(String, String)> = Vec::new();
    for (claim, header) in entries {
        let Some(name) = header.string(out) else { continue };
        if !field_of_requests(&name, &header.key(), out) {
            continue;
        }
        if claims.iter().any(|(_, known)| is_same_field(known.as_bytes(), name.get_ref().as_bytes())) {
            let (key, value) = (header.key(), quoted(name.get_ref()));
            out.add(name.span(), Problem::DuplicateEntry { key, value });
        }
        claims.push((claim.into_inner(), name.into_inner()));
    }
    claims
}
