//! What a service forwards to, as written: `forward` and `[[service.rule]]`.

use super::reader::{At, Cursor, at};
use super::value::{is_path, is_server_name};
use super::{name, text, unavailable};
use crate::config::diag::{Problems, Span};
use crate::config::problem::Problem;

/// The target groups that a service names, with the keys that name them.
pub(crate) type References = Vec<(String, At<String>)>;

/// `[[service.rule]]`.
pub(crate) struct RawRule {
    pub(crate) span: Span,
    /// Server names in lower case.
    pub(crate) sni: Vec<At<String>>,
    pub(crate) forward: Option<At<String>>,
}

pub(super) fn read(
    cursor: &Cursor<'_>,
    mode: Option<&str>,
    references: &mut References,
    out: &mut Problems,
) -> Vec<RawRule> {
    let mut rules = Vec::new();
    for rule in cursor.list("tables written as [[service.rule]]", out).unwrap_or_default() {
        let Some(mut table) = rule.table(out) else { continue };
        let sni = table.required("when", out).and_then(|cursor| when(&cursor, mode, out));
        let (forward, redirect) = (table.get("forward"), table.get("redirect"));
        if forward.is_some() == redirect.is_some() {
            let found = if forward.is_some() { "both" } else { "none" };
            let choices = "forward and redirect".to_owned();
            out.add(rule.span(), Problem::OneOf { key: rule.key(), choices, found: found.to_owned() });
        }
        let forward = forward.and_then(|cursor| forward_form(&cursor, references, out));
        unavailable(redirect, out, redirect_form);
        table.finish(out);
        rules.push(RawRule { span: rule.span(), sni: sni.unwrap_or_default(), forward });
    }
    rules
}

/// The server names that a rule is for.
fn when(cursor: &Cursor<'_>, mode: Option<&str>, out: &mut Problems) -> Option<Vec<At<String>>> {
    let mut table = cursor.table(out)?;
    let of_http = ["host", "path_prefix", "header"].into_iter().any(|key| table.has(key));
    unavailable(table.get("host"), out, texts_form);
    unavailable(table.get("path_prefix"), out, |c, out| {
        c.string_that(is_path, |key, value| Problem::BadPath { key, value }, out)
    });
    unavailable(table.get("header"), out, |c, out| {
        for (_, pattern) in c.table(out).iter().flat_map(super::reader::Table::entries) {
            text(&pattern, out);
        }
    });
    let required = mode == Some("tcp") && !of_http;
    let sni = if required { table.required("sni", out) } else { table.get("sni") };
    table.finish(out);
    server_names(&sni?, out)
}

fn server_names(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Vec<At<String>>> {
    let entries = cursor.list("a list of server names such as [\"shop.example.com\"]", out)?;
    if entries.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    let names = entries.iter().filter_map(|entry| {
        let problem = |key, value| Problem::BadServerName { key, value };
        let name = entry.string_that(is_server_name, problem, out)?;
        Some(at(&name.span(), name.get_ref().to_ascii_lowercase()))
    });
    Some(names.collect())
}

/// The group that is named, if it is a single one.
pub(super) fn forward_form(
    cursor: &Cursor<'_>,
    references: &mut References,
    out: &mut Problems,
) -> Option<At<String>> {
    if !cursor.is_array() {
        if !cursor.is_string() {
            return cursor.mismatch("the name of a target group", out);
        }
        let group = name(cursor, out)?;
        references.push((cursor.key(), group.clone()));
        return Some(group);
    }
    let before = out.count();
    let mut weights = Vec::new();
    for entry in cursor.list("a list", out)? {
        let Some(mut share) = entry.table(out) else { continue };
        if let Some(cursor) = share.required("group", out)
            && let Some(group) = name(&cursor, out)
        {
            references.push((cursor.key(), group));
        }
        weights.push(share.required("weight", out).and_then(|c| c.integer(0_u16, 256, out)));
        share.finish(out);
    }
    if weights.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    } else if weights.iter().all(|weight| *weight == Some(0)) {
        out.add(cursor.span(), Problem::NoWeight { key: cursor.key() });
    }
    if out.count() == before {
        let key = format!("{} with weights", cursor.key());
        out.add(cursor.span(), Problem::NotAvailable { key });
    }
    None
}

/// A list with at least one text.
pub(super) fn texts_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(entries) = cursor.list("a list of strings", out) else { return };
    if entries.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    for entry in entries {
        text(&entry, out);
    }
}

fn redirect_form(cursor: &Cursor<'_>, out: &mut Problems) {
    let Some(mut table) = cursor.table(out) else { return };
    table.required("to", out).and_then(|c| text(&c, out));
    if let Some(cursor) = table.get("status")
        && let Some(status) = cursor.integer(301_u16, 308, out)
        && !matches!(status, 301..=303 | 307 | 308)
    {
        let range = "301, 302, 303, 307 or 308".to_owned();
        out.add(cursor.span(), Problem::OutOfRange { key: cursor.key(), value: status.to_string(), range });
    }
    table.finish(out);
}
