//! `[acme]`, and the names of a service that certificates are ordered for, as written.

use super::reader::{At, Cursor};
use super::text;
use super::value::{is_host_name, is_path, is_server};
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::time::Duration;

/// `[acme]`.
pub(crate) struct RawAcme {
    pub(crate) span: Span,
    pub(crate) directory: Option<At<String>>,
    pub(crate) contact: Vec<String>,
    pub(crate) roots: Option<At<String>>,
    /// Whether the authority's terms are accepted.
    pub(crate) accept_terms: bool,
    pub(crate) renew_before: Option<At<Duration>>,
    pub(crate) http_port: Option<u16>,
    pub(crate) folder: Option<At<String>>,
}

const RENEW_BEFORE_MIN: Duration = Duration::from_secs(3600);
const RENEW_BEFORE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// What a contact begins with that is an address of electronic mail.
const MAIL: &str = "mailto:";

/// What a name begins with that stands for many.
const WILDCARD: &str = "*.";

pub(super) fn read(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawAcme> {
    let mut table = cursor.table(out)?;
    let bad_directory = |key, value| Problem::BadAcmeDirectory { key, value };
    let directory = table.get("directory").and_then(|c| c.string_that(is_directory, bad_directory, out));
    let contact = table.get("contact").map(|c| contacts(&c, out)).unwrap_or_default();
    let roots = table.get("roots").and_then(|c| text(&c, out));
    let accept_terms = table.get("accept_terms").and_then(|c| c.boolean(out));
    let renew_before =
        table.get("renew_before").and_then(|c| c.duration(RENEW_BEFORE_MIN, RENEW_BEFORE_MAX, out));
    let http_port = table.get("http_port").and_then(|c| c.integer(1_u16, u16::MAX, out));
    let folder = table.get("folder").and_then(|c| text(&c, out));
    let span = table.span().clone();
    table.finish(out);
    Some(RawAcme {
        span,
        directory,
        contact,
        roots,
        accept_terms: accept_terms.unwrap_or_default(),
        renew_before,
        http_port,
        folder,
    })
}

/// Whether the text is the address of a directory (RFC 8555, section 7.1.1), which is spoken with over TLS only (section 6.1).
fn is_directory(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://") else { return false };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    (is_host_name(authority) || is_server(authority)) && is_path(path) && !path.contains('#')
}

fn contacts(cursor: &Cursor<'_>, out: &mut Problems) -> Vec<String> {
    if cursor.is_string() {
        return contact(cursor, out).into_iter().collect();
    }
    let entries = cursor.list("an address such as \"admin@example.org\", or a list of them", out);
    let entries = entries.unwrap_or_default();
    entries.iter().filter_map(|entry| contact(entry, out)).collect()
}

fn contact(cursor: &Cursor<'_>, out: &mut Problems) -> Option<String> {
    let address = |text: &str| {
        let address = text.strip_prefix(MAIL).unwrap_or(text);
        let (local, domain) = address.rsplit_once('@')?;
        let fits = !local.is_empty()
            && local.len() <= 64
            && local.bytes().all(|byte| byte.is_ascii_graphic() && !b"@,;:?&<>\"\\".contains(&byte))
            && is_host_name(domain);
        fits.then(|| format!("{MAIL}{address}"))
    };
    let bad = |key, value| Problem::BadContact { key, value };
    let text = cursor.string_that(|text| address(text).is_some(), bad, out)?;
    address(text.get_ref())
}

/// `acme` of a service's `tls`: the names, in lower case.
pub(super) fn names(cursor: &Cursor<'_>, out: &mut Problems) -> Vec<At<String>> {
    let entries = cursor.list("a list of names such as [\"www.example.org\"]", out).unwrap_or_default();
    if entries.is_empty() && cursor.is_array() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    entries.iter().filter_map(|entry| name(entry, out)).collect()
}

fn name(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<String>> {
    let bad = |key, value: String| Problem::BadAcmeName { key, value };
    let fits = |text: &str| {
        let name = text.strip_prefix(WILDCARD).unwrap_or(text);
        is_host_name(name) && !name.ends_with('.') && !name.contains('_')
    };
    let name = cursor.string_that(fits, bad, out)?;
    if name.get_ref().starts_with(WILDCARD) {
        let problem = Problem::AcmeWildcard { key: cursor.key(), value: quoted(name.get_ref()) };
        out.add(cursor.span(), problem);
        return None;
    }
    Some(At::new(name.span(), name.get_ref().to_ascii_lowercase()))
}
