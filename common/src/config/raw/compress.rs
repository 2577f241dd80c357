//! `compress` of a service of `mode = "http"` and of its rules, as written.

use super::auth::none;
use super::http::{is_token, not_empty};
use super::reader::{At, Cursor};
use super::service::size;
use crate::config::diag::Problems;
use crate::config::problem::Problem;
use crate::config::types::{Compress, Compressible};

const BYTES_MIN_DEFAULT: u64 = 1024;
const BYTES_MIN: [u64; 2] = [0, 1 << 30];

const ALGORITHMS: &[(&str, ())] = &[("gzip", ())];

/// Reads it. `may_be_none` says that there is somebody else who compresses, so that nothing may be.
pub(super) fn read(cursor: &Cursor<'_>, may_be_none: bool, out: &mut Problems) -> Option<Compress> {
    if cursor.is_string() {
        let needs = "a [[service.rule]], for a service that compresses nothing has no compress";
        return none(cursor, may_be_none, needs, out).map(|()| Compress::Nothing);
    }
    let mut table = cursor.table(out)?;
    let types = table.get("types").and_then(|c| types(&c, out));
    let bytes_min = table.get("min_bytes").and_then(|c| size(&c, BYTES_MIN, "0 B to 1 GiB", out));
    if let Some(cursor) = table.get("algorithms") {
        for entry in not_empty(&cursor, "a list such as [\"gzip\"]", out).unwrap_or_default() {
            entry.word(ALGORITHMS, out);
        }
    }
    table.finish(out);
    Some(Compress::Answers(Compressible {
        types: types.unwrap_or_else(|| Compressible::TYPES.map(str::to_owned).to_vec()),
        bytes_min: bytes_min.unwrap_or(BYTES_MIN_DEFAULT),
    }))
}

fn types(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Vec<String>> {
    let entries = not_empty(cursor, "a list of media types such as [\"text/html\"]", out)?;
    let problem = |key, value| Problem::BadMediaType { key, value };
    let one = |entry: &Cursor<'_>, out: &mut Problems| {
        entry.string_that(is_media_type, problem, out).map(At::into_inner)
    };
    Some(entries.iter().filter_map(|entry| Some(one(entry, out)?.to_ascii_lowercase())).collect())
}

/// `type/subtype`, or `type/*` for all of them.
fn is_media_type(text: &str) -> bool {
    let Some((kind, subtype)) = text.split_once('/') else { return false };
    let plain = |part: &str| is_token(part) && !part.contains('*');
    plain(kind) && (subtype == "*" || plain(subtype))
}
