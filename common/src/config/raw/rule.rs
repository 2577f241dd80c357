//! What a service forwards to, as written: `forward` and `[[service.rule]]`.

use super::http::{self, RawHttpRule};
use super::name;
use super::reader::{At, Cursor, Table, at};
use super::value::is_server_name;
use crate::config::diag::{Problems, Span};
use crate::config::problem::Problem;

/// The target groups that a service names, with the keys that name them.
pub(crate) type References = Vec<(String, At<String>)>;

/// `[[service.rule]]` of a service whose connections go through unopened.
pub(crate) struct RawRule {
    pub(crate) span: Span,
    /// Server names in lower case.
    pub(crate) sni: Vec<At<String>>,
    pub(crate) forward: Option<At<String>>,
}

/// The rules of a service, of which it has one kind.
#[derive(Default)]
pub(crate) struct RawRules {
    pub(crate) sni: Vec<RawRule>,
    pub(crate) http: Vec<RawHttpRule>,
}

pub(super) fn read(
    cursor: &Cursor<'_>,
    mode: Option<&str>,
    references: &mut References,
    out: &mut Problems,
) -> RawRules {
    let mut rules = RawRules::default();
    for entry in cursor.list("tables written as [[service.rule]]", out).unwrap_or_default() {
        // A mode that could not be read may be any: the one that can have most is guessed.
        if mode.is_none_or(|mode| mode == "http") {
            rules.http.extend(http::rule(&entry, references, out));
        } else {
            rules.sni.extend(rule(&entry, mode, references, out));
        }
    }
    rules
}

fn rule(
    entry: &Cursor<'_>,
    mode: Option<&str>,
    references: &mut References,
    out: &mut Problems,
) -> Option<RawRule> {
    let mut table = entry.table(out)?;
    let sni = table.required("when", out).and_then(|cursor| when(&cursor, mode, out));
    let others = only_http(&mut table, &http::RULE_KEYS, out);
    let forward = if others { table.get("forward") } else { table.required("forward", out) };
    let forward = forward.and_then(|cursor| forward_form(&cursor, references, out));
    table.finish(out);
    Some(RawRule { span: entry.span(), sni: sni.unwrap_or_default(), forward })
}

/// The server names that a rule is for.
fn when(cursor: &Cursor<'_>, mode: Option<&str>, out: &mut Problems) -> Option<Vec<At<String>>> {
    let mut table = cursor.table(out)?;
    let others = only_http(&mut table, &http::CONDITIONS, out);
    let required = mode == Some("tcp") && !others;
    let sni = if required { table.required("sni", out) } else { table.get("sni") };
    table.finish(out);
    server_names(&sni?, out)
}

/// Notes the keys that only services of `mode = "http"` have. Answers whether there are any.
pub(super) fn only_http(table: &mut Table<'_>, keys: &[&'static str], out: &mut Problems) -> bool {
    let mut any = false;
    for cursor in keys.iter().filter_map(|key| table.get(key)) {
        let needs = "mode = \"http\"".to_owned();
        out.add(cursor.span(), Problem::KeyWithout { key: cursor.key(), needs });
        any = true;
    }
    any
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

/// The group that is named. Several with weights are for `http` only.
pub(super) fn forward_form(
    cursor: &Cursor<'_>,
    references: &mut References,
    out: &mut Problems,
) -> Option<At<String>> {
    if cursor.is_array() {
        let before = out.count();
        http::split(cursor, references, out);
        if out.count() == before {
            let (key, needs) = (format!("{} with weights", cursor.key()), "mode = \"http\"".to_owned());
            out.add(cursor.span(), Problem::KeyWithout { key, needs });
        }
        return None;
    }
    if !cursor.is_string() {
        return cursor.mismatch("the name of a target group", out);
    }
    let group = name(cursor, out)?;
    references.push((cursor.key(), group.clone()));
    Some(group)
}
