//! What only a service of `mode = "http"` has, as written: the conditions and actions of its rules, and changes of headers.

use super::access::{self, RawAccess, network};
use super::auth::{self, RawAuth};
use super::compress;
use super::reader::{At, Cursor, Table, at};
use super::value::{is_path, is_server_name};
use super::{References, name, text};
use crate::config::diag::{Problems, Span, quoted};
use crate::config::problem::Problem;
use crate::config::types::{
    Action, Compress, Condition, Glob, HeaderTemplates, HostPattern, PathPattern, Purpose, Redirect, Regex,
    Respond, Share, Split, Template, Variable,
};
use crate::path;

/// `[[service.rule]]` of such a service.
pub(crate) struct RawHttpRule {
    pub(crate) span: Span,
    /// The conditions that could be read.
    pub(crate) when: Vec<At<Condition>>,
    pub(crate) action: Option<At<Action>>,
    pub(crate) rewrite: Option<At<Template>>,
    pub(crate) access: RawAccess,
    pub(crate) auth: Option<RawAuth>,
    pub(crate) compress: Option<At<Compress>>,
    pub(crate) request_headers: RawChanges,
    pub(crate) response_headers: RawChanges,
    /// Whether all of it could be read.
    pub(crate) complete: bool,
}

/// `request_headers` or `response_headers`.
#[derive(Default)]
pub(crate) struct RawChanges {
    pub(crate) changes: HeaderTemplates,
    /// The names of the fields that are set or added, each with the key that it is in.
    pub(crate) given: Vec<(String, At<String>)>,
    /// Their values that have variables, each with its key.
    pub(crate) variable: Vec<(String, At<Template>)>,
}

/// The longest body of an answer that a rule gives, in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// The longest value of a header that a rule sets, in bytes.
const VALUE_BYTES_MAX: usize = 1024;

/// What a rule can want of a request.
pub(super) const CONDITIONS: [&str; 8] =
    ["host", "path", "path_prefix", "path_regex", "method", "header", "query", "source"];

/// What a rule of `http` has beside `when` and `forward`.
pub(super) const RULE_KEYS: [&str; 8] =
    ["redirect", "respond", "rewrite", "access", "auth", "compress", "request_headers", "response_headers"];

pub(super) fn rule(
    entry: &Cursor<'_>,
    references: &mut References,
    out: &mut Problems,
) -> Option<RawHttpRule> {
    let before = out.count();
    let mut table = entry.table(out)?;
    let when = table.required("when", out).map(|cursor| when(&cursor, out)).unwrap_or_default();
    let action = action(entry, &mut table, references, out);
    let rewrite = table.get("rewrite").and_then(|cursor| rewrite(&cursor, out));
    let access = table.get("access").and_then(|cursor| access::read(&cursor, out)).unwrap_or_default();
    let auth = table.get("auth").and_then(|cursor| auth::read(&cursor, true, out));
    let compress = table
        .get("compress")
        .and_then(|cursor| compress::read(&cursor, true, out).map(|read| at(&cursor.span(), read)));
    let [request_headers, response_headers] = header_changes(&mut table, out);
    table.finish(out);
    let complete = out.count() == before;
    Some(RawHttpRule {
        span: entry.span(),
        when,
        action,
        rewrite,
        access,
        auth,
        compress,
        request_headers,
        response_headers,
        complete,
    })
}

/// `request_headers` and `response_headers` of a rule or a service.
pub(super) fn header_changes(table: &mut Table<'_>, out: &mut Problems) -> [RawChanges; 2] {
    let of_requests = table.get("request_headers").and_then(|cursor| changes(&cursor, Message::Request, out));
    let of_answers = table.get("response_headers").and_then(|cursor| changes(&cursor, Message::Answer, out));
    [of_requests.unwrap_or_default(), of_answers.unwrap_or_default()]
}

fn when(cursor: &Cursor<'_>, out: &mut Problems) -> Vec<At<Condition>> {
    let Some(mut table) = cursor.table(out) else { return Vec::new() };
    if table.entries().is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    if let Some(sni) = table.get("sni") {
        let (key, needs) =
            (sni.key(), "mode = \"tcp\"; write host for the name that is asked for".to_owned());
        out.add(sni.span(), Problem::KeyWithout { key, needs });
    }
    let mut conditions = Vec::new();
    if let Some(hosts) = table.get("host")
        && let Some(read) = hosts_of(&hosts, out)
    {
        conditions.push(at(&hosts.span(), Condition::Host(read)));
    }
    if let Some(pattern) = path_pattern(cursor, &mut table, out) {
        conditions.push(at(&pattern.span(), Condition::Path(pattern.into_inner())));
    }
    if let Some(methods) = table.get("method")
        && let Some(read) = methods_of(&methods, out)
    {
        conditions.push(at(&methods.span(), Condition::Method(read)));
    }
    let header = |name: String, value| Condition::Header { name: name.to_ascii_lowercase(), value };
    named_globs(table.get("header").as_ref(), is_token, header, &mut conditions, out);
    let query = |name, value| Condition::Query { name, value };
    named_globs(table.get("query").as_ref(), super::value::is_text, query, &mut conditions, out);
    if let Some(sources) = table.get("source")
        && let Some(entries) = not_empty(&sources, "a list of networks such as [\"10.0.0.0/8\"]", out)
    {
        let networks = entries.iter().filter_map(|entry| network(entry, out).map(At::into_inner));
        conditions.push(at(&sources.span(), Condition::Source(networks.collect())));
    }
    table.finish(out);
    conditions
}

fn hosts_of(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Vec<HostPattern>> {
    let entries = not_empty(cursor, "a list of host names such as [\"shop.example.com\"]", out)?;
    let host = |entry: &Cursor<'_>, out: &mut Problems| {
        let text = entry.string_that(is_host, |key, value| Problem::BadServerName { key, value }, out)?;
        let text = text.get_ref().to_ascii_lowercase();
        Some(match text.strip_prefix('*') {
            Some(suffix) => HostPattern::Below(suffix.to_owned()),
            None => HostPattern::Exact(text),
        })
    };
    Some(entries.iter().filter_map(|entry| host(entry, out)).collect())
}

/// A name, a wildcard for names, or an address as an URL has it.
fn is_host(text: &str) -> bool {
    let in_brackets = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    is_server_name(text)
        || text.parse::<std::net::Ipv4Addr>().is_ok()
        || in_brackets.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

/// The one of the three keys for paths that is there.
fn path_pattern(when: &Cursor<'_>, table: &mut Table<'_>, out: &mut Problems) -> Option<At<PathPattern>> {
    let exact = table.get("path");
    let prefix = table.get("path_prefix");
    let regex = table.get("path_regex");
    if [&exact, &prefix, &regex].into_iter().flatten().count() > 1 {
        let choices = "path, path_prefix and path_regex".to_owned();
        out.add(when.span(), Problem::OneOf { key: when.key(), choices, found: "several".to_owned() });
        return None;
    }
    if let Some(cursor) = exact {
        return normal_path(&cursor, out).map(|path| at(&cursor.span(), PathPattern::Exact(path)));
    }
    if let Some(cursor) = prefix {
        return normal_path(&cursor, out).map(|path| at(&cursor.span(), PathPattern::Prefix(path)));
    }
    let cursor = regex?;
    let text = text(&cursor, out)?.into_inner();
    match Regex::new(&text) {
        Ok(regex) => Some(at(&cursor.span(), PathPattern::Regex(regex))),
        Err(reason) => {
            out.add(cursor.span(), Problem::BadRegex { key: cursor.key(), value: quoted(&text), reason });
            None
        }
    }
}

/// A path as requests have it when rules see them.
fn normal_path(cursor: &Cursor<'_>, out: &mut Problems) -> Option<String> {
    let text = cursor.string_that(is_path, |key, value| Problem::BadPath { key, value }, out)?.into_inner();
    let mut normal = String::new();
    let why = match path::normalise(text.as_bytes(), &mut normal) {
        Ok(()) if normal == text => return Some(text),
        // The query is not looked at here.
        Ok(()) => format!("rules see it as {}", quoted(&normal)),
        Err(_) if text.contains('?') => "it has a query, for which there is `query`".to_owned(),
        Err(error) => error.to_string(),
    };
    out.add(cursor.span(), Problem::PathForm { key: cursor.key(), value: quoted(&text), why });
    None
}

fn methods_of(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Vec<String>> {
    let entries = not_empty(cursor, "a list of methods such as [\"GET\"]", out)?;
    let fits = |text: &str| is_token(text) && !text.bytes().any(|byte| byte.is_ascii_lowercase());
    let method = |entry: &Cursor<'_>, out: &mut Problems| {
        entry.string_that(fits, |key, value| Problem::BadMethod { key, value }, out).map(At::into_inner)
    };
    Some(entries.iter().filter_map(|entry| method(entry, out)).collect())
}

/// The entries of a table `{ NAME = "PATTERN" }`, each a condition.
fn named_globs(
    cursor: Option<&Cursor<'_>>,
    is_name: fn(&str) -> bool,
    condition: impl Fn(String, Glob) -> Condition,
    conditions: &mut Vec<At<Condition>>,
    out: &mut Problems,
) {
    let Some(cursor) = cursor else { return };
    let Some(table) = cursor.table(out) else { return };
    let entries = table.entries();
    if entries.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    for (name, pattern) in entries {
        if !is_name(name.get_ref()) {
            let (key, value) = (cursor.key(), quoted(name.get_ref()));
            out.add(name.span(), Problem::BadFieldName { key, value });
        } else if let Some(pattern) = text(&pattern, out) {
            let span = name.span().start..pattern.span().end;
            conditions.push(at(&span, condition(name.into_inner(), Glob::new(pattern.into_inner()))));
        }
    }
}

fn action(
    entry: &Cursor<'_>,
    table: &mut Table<'_>,
    references: &mut References,
    out: &mut Problems,
) -> Option<At<Action>> {
    let forward = table.get("forward");
    let redirect = table.get("redirect");
    let respond = table.get("respond");
    let count = [&forward, &redirect, &respond].into_iter().flatten().count();
    if count != 1 {
        let found = if count == 0 { "none" } else { "several" }.to_owned();
        let choices = "forward, redirect and respond".to_owned();
        out.add(entry.span(), Problem::OneOf { key: entry.key(), choices, found });
    }
    let forward = forward.and_then(|cursor| {
        split(&cursor, references, out).map(|split| at(&cursor.span(), Action::Forward(split.into_inner())))
    });
    let redirect = redirect.and_then(|cursor| {
        self::redirect(&cursor, out).map(|redirect| at(&cursor.span(), Action::Redirect(redirect)))
    });
    let respond = respond.and_then(|cursor| {
        self::respond(&cursor, out).map(|respond| at(&cursor.span(), Action::Respond(respond)))
    });
    forward.or(redirect).or(respond).filter(|_| count == 1)
}

/// A target group, or several with weights.
pub(super) fn split(
    cursor: &Cursor<'_>,
    references: &mut References,
    out: &mut Problems,
) -> Option<At<Split>> {
    if !cursor.is_array() {
        if !cursor.is_string() {
            let expected = "the name of a target group, or a list such as [{ group = \"shop\", weight = 1 }]";
            return cursor.mismatch(expected, out);
        }
        let group = name(cursor, out)?;
        references.push((cursor.key(), group.clone()));
        let shares = vec![Share { group: group.into_inner(), weight: 1 }];
        return Some(at(&cursor.span(), Split { shares }));
    }
    let before = out.count();
    let mut shares: Vec<Share> = Vec::new();
    for entry in cursor.list("a list", out)? {
        let Some(mut table) = entry.table(out) else { continue };
        let group = table.required("group", out).and_then(|cursor| {
            let group = name(&cursor, out)?;
            if shares.iter().any(|share| share.group == *group.get_ref()) {
                let (key, value) = (cursor.key(), quoted(group.get_ref()));
                out.add(group.span(), Problem::DuplicateEntry { key, value });
            }
            references.push((cursor.key(), group.clone()));
            Some(group.into_inner())
        });
        let weight = table.required("weight", out).and_then(|cursor| cursor.integer(0_u16, 256, out));
        table.finish(out);
        if let (Some(group), Some(weight)) = (group, weight) {
            shares.push(Share { group, weight });
        }
    }
    if out.count() > before {
        return None;
    }
    if shares.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
        return None;
    }
    if shares.iter().all(|share| share.weight == 0) {
        out.add(cursor.span(), Problem::NoWeight { key: cursor.key() });
        return None;
    }
    Some(at(&cursor.span(), Split { shares }))
}

fn redirect(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Redirect> {
    let mut table = cursor.table(out)?;
    let to = table.required("to", out).and_then(|cursor| {
        let to = template(&cursor, out)?;
        let begin = to.begin();
        let absolute = ["http://", "https://"].iter().any(|scheme| begin.starts_with(scheme));
        let written = to.to_string();
        let variable = ["{scheme}://", "{path}"].iter().any(|begin| written.starts_with(begin));
        let local = begin.starts_with('/') && !begin.starts_with("//");
        if let Some(reason) = no_host(&written) {
            let value = quoted(&written);
            out.add(cursor.span(), Problem::BadTemplate { key: cursor.key(), value, reason });
            return None;
        }
        if absolute || variable || local {
            return Some(to);
        }
        out.add(cursor.span(), Problem::BadLocation { key: cursor.key(), value: quoted(&written) });
        None
    });
    let status = match table.get("status") {
        None => Some(302),
        Some(cursor) => {
            let status = cursor.integer(301_u16, 308, out);
            if let Some(other @ (304..=306)) = status {
                let (value, range) = (other.to_string(), "301, 302, 303, 307 or 308".to_owned());
                out.add(cursor.span(), Problem::OutOfRange { key: cursor.key(), value, range });
            }
            status
        }
    };
    table.finish(out);
    Some(Redirect { to: to?, status: status? })
}

fn respond(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Respond> {
    let mut table = cursor.table(out)?;
    let status = table.required("status", out).and_then(|cursor| cursor.integer(200_u16, 599, out));
    let body = table.get("body").and_then(|cursor| {
        let body = cursor.string(out)?.into_inner();
        if body.len() > BODY_BYTES_MAX {
            let (value, range) = (format!("{} B", body.len()), format!("0 to {BODY_BYTES_MAX} B"));
            out.add(cursor.span(), Problem::OutOfRange { key: cursor.key(), value, range });
        }
        if matches!(status, Some(204 | 205 | 304)) {
            let needs = "a status whose answers have a body".to_owned();
            out.add(cursor.span(), Problem::KeyWithout { key: cursor.key(), needs });
        }
        Some(body)
    });
    let content_type = table.get("content_type").and_then(|cursor| {
        let problem = |key, value| Problem::BadFieldValue { key, value };
        cursor.string_that(is_field_value, problem, out).map(At::into_inner)
    });
    table.finish(out);
    Some(Respond {
        status: status?,
        body: body.unwrap_or_default(),
        content_type: content_type.unwrap_or_else(|| "text/plain; charset=utf-8".to_owned()),
    })
}

fn rewrite(cursor: &Cursor<'_>, out: &mut Problems) -> Option<At<Template>> {
    let to = template(cursor, out)?;
    let written = to.to_string();
    let (key, value) = (cursor.key(), quoted(&written));
    if !to.begin().starts_with('/') && written != "{path}" {
        out.add(cursor.span(), Problem::BadPath { key, value });
        return None;
    }
    let reason = if to.variables().any(|variable| variable == Variable::Query) {
        "a request keeps its query anyway"
    } else if !to.texts().all(is_path_text) {
        "a path has no '?' and no '#', no segments \".\" and \"..\", and two digits behind each '%'"
    } else {
        return Some(at(&cursor.span(), to));
    };
    out.add(cursor.span(), Problem::BadTemplate { key, value, reason: reason.to_owned() });
    None
}

/// A template whose texts an address can hold.
fn template(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Template> {
    let text = text(cursor, out)?.into_inner();
    let reason = match Template::parse(&text, Purpose::Address) {
        Ok(template) if template.texts().all(is_address_text) => return Some(template),
        Ok(_) => {
            "an address holds no spaces, quotes, '<', '>', '\\', '^', '`', '|', and only ASCII".to_owned()
        }
        Err(error) => error.to_string(),
    };
    out.add(cursor.span(), Problem::BadTemplate { key: cursor.key(), value: quoted(&text), reason });
    None
}

/// Whether a part of a path is one without a query or a fragment, without what stands for the segment before or for none, and without an
/// escape that is none.
fn is_path_text(text: &str) -> bool {
    let mut behind = text.split('%').skip(1);
    let escapes =
        behind.all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()));
    let dots = |segment| segment == "." || segment == "..";
    escapes && !text.contains(['?', '#']) && !text.split('/').any(dots)
}

/// Why it is not certain whom a location leads to, but for what the request says of its host: where the client's path would go on in the
/// name of a host, it would be the client who chooses it, and what else is known of a request is none.
fn no_host(written: &str) -> Option<String> {
    let (_, rest) = written.split_once("://")?;
    let end = ["/", "?", "#", "{path}"].iter().filter_map(|end| rest.find(end)).min();
    let (authority, behind) = {
        let whole = &rest[..end.unwrap_or(rest.len())];
        whole.split_once("{query}").unwrap_or((whole, ""))
    };
    if authority.is_empty() {
        return Some("there is no host behind \"://\"".to_owned());
    }
    if !behind.is_empty() {
        let reason = "what stands right behind {query} is a part of the host where there is no query";
        return Some(reason.to_owned());
    }
    let mut names = authority.split('{').skip(1).map(|name| name.split('}').next().unwrap_or_default());
    let other = names.find(|name| !matches!(*name, "scheme" | "host" | "port"))?;
    Some(if other == "rest" || other.starts_with(|first: char| first.is_ascii_digit()) {
        "the client would choose the host; {rest} and {0} to {9} can stand behind it and a '/'".to_owned()
    } else {
        format!("{{{other}}} is no host; it can stand behind one and a '/'")
    })
}

fn is_address_text(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
}

/// Fields that say how long a message is and what becomes of the connection: the proxy's own business.
const FRAMING_FIELDS: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// And those that Tandem writes into each request.
const WRITTEN_FIELDS: &[&str] = &[
    "expect",
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// Whose fields are changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Request,
    Answer,
}

impl Message {
    /// Whether a field is the proxy's own business.
    fn reserves(self, name: &str) -> bool {
        let written = if self == Self::Request { WRITTEN_FIELDS } else { &[] };
        FRAMING_FIELDS.iter().chain(written).any(|reserved| reserved.eq_ignore_ascii_case(name))
    }
}

fn changes(cursor: &Cursor<'_>, message: Message, out: &mut Problems) -> Option<RawChanges> {
    let mut table = cursor.table(out)?;
    let before = out.count();
    let RawChanges { mut given, mut variable, .. } = RawChanges::default();
    let mut remove = Vec::new();
    if let Some(cursor) = table.get("remove") {
        let entries = not_empty(&cursor, "a list of names such as [\"Server\"]", out).unwrap_or_default();
        for entry in entries {
            let Some(name) = entry.string(out) else { continue };
            if is_field(&name, &entry.key(), message, out) && !is_the_host(&name, &entry.key(), message, out)
            {
                remove.push(name.get_ref().to_ascii_lowercase());
            }
        }
    }
    let mut list = |key, is_once, out: &mut Problems| -> Option<Vec<(String, Template)>> {
        let cursor = table.get(key)?;
        let fields = fields(&cursor, message, is_once, out);
        given.extend(fields.iter().map(|(name, _)| (cursor.key(), name.clone())));
        let open = fields.iter().filter(|(_, value)| value.get_ref().variables().next().is_some());
        variable.extend(
            open.map(|(name, value)| (format!("{}.{}", cursor.key(), name.get_ref()), value.clone())),
        );
        Some(fields.into_iter().map(|(name, value)| (name.into_inner(), value.into_inner())).collect())
    };
    let set = list("set", true, out).unwrap_or_default();
    let add = list("add", false, out).unwrap_or_default();
    table.finish(out);
    let changes = HeaderTemplates::new(remove, set, add);
    if out.count() == before && changes.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
    }
    Some(RawChanges { changes, given, variable })
}

/// The entries of a table `{ NAME = "VALUE" }`, which the fields have as their only value, or as one more.
fn fields(
    cursor: &Cursor<'_>,
    message: Message,
    is_once: bool,
    out: &mut Problems,
) -> Vec<(At<String>, At<Template>)> {
    let Some(table) = cursor.table(out) else { return Vec::new() };
    let mut fields: Vec<(At<String>, At<Template>)> = Vec::new();
    for (name, value) in table.entries() {
        let known = is_field(&name, &cursor.key(), message, out)
            && (is_once || !is_the_host(&name, &cursor.key(), message, out));
        if fields.iter().any(|(other, _)| other.get_ref().eq_ignore_ascii_case(name.get_ref())) {
            let (key, value) = (cursor.key(), quoted(name.get_ref()));
            out.add(name.span(), Problem::DuplicateEntry { key, value });
        }
        let names_host = name.get_ref().eq_ignore_ascii_case("host");
        let value = field_template(&value, names_host, out);
        if let Some(value) = value.filter(|_| known) {
            fields.push((name, value));
        }
    }
    fields
}

/// A value that a field can have once its variables are filled in; a `Host` knows those only that are a part of one.
fn field_template(cursor: &Cursor<'_>, names_host: bool, out: &mut Problems) -> Option<At<Template>> {
    let problem = |key, value| Problem::BadFieldValue { key, value };
    let text = cursor.string_that(is_field_value, problem, out)?.into_inner();
    let (key, value) = (cursor.key(), quoted(&text));
    let problem = match Template::parse(&text, Purpose::Header) {
        Err(error) => Problem::BadTemplate { key, value, reason: error.to_string() },
        Ok(template) => {
            let is_other = |it: &Variable| !matches!(it, Variable::Host | Variable::Port);
            let other = template.variables().find(is_other).filter(|_| names_host);
            match other {
                Some(other) => {
                    let reason = format!("{other} is no part of a Host, which knows {{host}} and {{port}}");
                    Problem::BadTemplate { key, value, reason }
                }
                None if names_host && (text.is_empty() || !template.texts().all(is_host_text)) => {
                    problem(key, value)
                }
                None => return Some(at(&cursor.span(), template)),
            }
        }
    };
    out.add(cursor.span(), problem);
    None
}

/// Whether this is a name of a field that may be changed; notes why not.
fn is_field(name: &At<String>, key: &str, message: Message, out: &mut Problems) -> bool {
    let (key, value) = (key.to_owned(), quoted(name.get_ref()));
    if !is_token(name.get_ref()) {
        out.add(name.span(), Problem::BadFieldName { key, value });
        return false;
    }
    if message.reserves(name.get_ref()) {
        out.add(name.span(), Problem::ReservedField { key, value });
        return false;
    }
    true
}

/// Whether this is a name of a field that targets can be told something in; notes why not.
pub(super) fn field_of_requests(name: &At<String>, key: &str, out: &mut Problems) -> bool {
    is_field(name, key, Message::Request, out) && !is_the_host(name, key, Message::Request, out)
}

/// Whether this is a request's `Host`, of which there has to be one: it can be set only. Notes that.
fn is_the_host(name: &At<String>, key: &str, message: Message, out: &mut Problems) -> bool {
    let is = message == Message::Request && name.get_ref().eq_ignore_ascii_case("host");
    if is {
        out.add(name.span(), Problem::HostOnce { key: key.to_owned() });
    }
    is
}

/// Whether this can stand in the name of a host, with or without a port.
fn is_host_text(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
}

/// RFC 9110: `token = 1*tchar`.
pub(super) fn is_token(text: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(tchar)
}

/// Whether a field can have this value.
fn is_field_value(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    text.len() <= VALUE_BYTES_MAX && text.trim() == text && text.bytes().all(fits)
}

/// The entries of a list that has some.
pub(super) fn not_empty<'t>(
    cursor: &Cursor<'t>,
    expected: &str,
    out: &mut Problems,
) -> Option<Vec<Cursor<'t>>> {
    let entries = cursor.list(expected, out)?;
    if entries.is_empty() {
        out.add(cursor.span(), Problem::Empty { key: cursor.key() });
        return None;
    }
    Some(entries)
}
