//! `tls` of a service and of a target group, as written.

use data_encoding::BASE64;

use super::acme;
use super::health::server_name;
use super::reader::{At, Cursor};
use super::text;
use crate::config::diag::{Problems, Span};
use crate::config::problem::Problem;
use crate::config::types::TlsVersion;

/// `tls` of a service.
pub(crate) struct RawTls {
    pub(crate) certificates: Vec<RawCertificate>,
    /// The names that one is ordered for.
    pub(crate) acme: Vec<At<String>>,
    pub(crate) min_version: TlsVersion,
    pub(crate) client_ca_file: Option<At<String>>,
    pub(crate) client_required: bool,
}

/// An entry of `certificates`.
pub(crate) struct RawCertificate {
    pub(crate) certificate: At<String>,
    pub(crate) key: Option<At<String>>,
    pub(crate) ocsp_file: Option<At<String>>,
}

/// `tls` of a target group.
pub(crate) struct RawTargetTls {
    pub(crate) span: Span,
    pub(crate) verify: bool,
    pub(crate) ca_file: Option<At<String>>,
    pub(crate) server_name: Option<String>,
    pub(crate) pins: Vec<[u8; 32]>,
}

const VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)];
const CLIENT_CERTIFICATES: &[(&str, bool)] = &[("required", true), ("optional", false)];

/// What a pin begins with.
const PIN: &str = "sha256/";

pub(super) fn service(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawTls> {
    let mut table = cursor.table(out)?;
    let ordered = table.get("acme");
    // Either of them will do.
    let listed = match &ordered {
        Some(_) => table.get("certificates"),
        None => table.required("certificates", out),
    };
    let certificates = listed.map(|c| certificates(&c, out)).unwrap_or_default();
    let acme = ordered.map(|c| acme::names(&c, out)).unwrap_or_default();
    let min_version = table.get("min_version").and_then(|c| c.word(VERSIONS, out));
    let client_ca_file = table.get("client_ca_file");
    let has_ca = client_ca_file.is_some();
    let client_ca_file = client_ca_file.and_then(|c| text(&c, out));
    let client_certificate = table.get("client_certificate").and_then(|c| {
        let word = c.word(CLIENT_CERTIFICATES, out);
        if !has_ca {
            let needs = "client_ca_file".to_owned();
            out.add(c.span(), Problem::KeyWithout { key: c.key(), needs });
        }
        word
    });
    table.finish(out);
    Some(RawTls {
        certificates,
        acme,
        min_version: min_version.map(At::into_inner).unwrap_or_default(),
        client_ca_file,
        client_required: client_certificate.is_none_or(At::into_inner),
    })
}

fn certificates(cursor: &Cursor<'_>, out: &mut Problems) -> Vec<RawCertificate> {
    let entries = cursor.list("a list of files such as [\"tls/shop.pem\"]", out).unwrap_or_default();
    if entries.is_empty() && cursor.is_array() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    entries.iter().filter_map(|entry| certificate(entry, out)).collect()
}

fn certificate(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawCertificate> {
    if cursor.is_string() {
        let certificate = text(cursor, out)?;
        return Some(RawCertificate { certificate, key: None, ocsp_file: None });
    }
    if !cursor.is_table() {
        return cursor.mismatch("a file, or { certificate = ..., key = ... }", out);
    }
    let mut table = cursor.table(out)?;
    let certificate = table.required("certificate", out).and_then(|c| text(&c, out));
    let key = table.get("key").and_then(|c| text(&c, out));
    let ocsp_file = table.get("ocsp_file").and_then(|c| text(&c, out));
    table.finish(out);
    Some(RawCertificate { certificate: certificate?, key, ocsp_file })
}

pub(super) fn targets(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawTargetTls> {
    let mut table = cursor.table(out)?;
    let verify = table.get("verify").and_then(|c| c.boolean(out)).unwrap_or(true);
    let ca_file = table.get("ca_file").and_then(|c| {
        if !verify {
            let needs = "verify = true".to_owned();
            out.add(c.span(), Problem::KeyWithout { key: c.key(), needs });
        }
        text(&c, out)
    });
    let server_name = table.get("server_name").and_then(|c| server_name(&c, out));
    let pins = table.get("pin").map(|c| pins(&c, out)).unwrap_or_default();
    table.finish(out);
    Some(RawTargetTls { span: cursor.span(), verify, ca_file, server_name, pins })
}

fn pins(cursor: &Cursor<'_>, out: &mut Problems) -> Vec<[u8; 32]> {
    if cursor.is_string() {
        return pin(cursor, out).into_iter().collect();
    }
    let entries = cursor.list("a pin such as \"sha256/...\", or a list of them", out).unwrap_or_default();
    if entries.is_empty() && cursor.is_array() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    entries.iter().filter_map(|entry| pin(entry, out)).collect()
}

fn pin(cursor: &Cursor<'_>, out: &mut Problems) -> Option<[u8; 32]> {
    let hash = |text: &str| {
        let bytes = BASE64.decode(text.strip_prefix(PIN)?.as_bytes()).ok()?;
        <[u8; 32]>::try_from(bytes).ok()
    };
    let text =
        cursor.string_that(|text| hash(text).is_some(), |key, value| Problem::BadPin { key, value }, out)?;
    hash(text.get_ref())
}
