//! What only services of `mode = "http"` have: rules for requests, and what becomes of a request.

use std::fmt;

use ipnet::IpNet;

use super::{Access, Compress, Compressible, FileAt, HttpAuth, Otlp, Template, Tls, Variable};
use crate::time::Duration;

/// The keys of a service of `mode = "http"` that no other one has.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// How connections are encrypted; none for not.
    pub tls: Option<Tls>,
    /// `[[service.rule]]`: the first one that a request meets decides.
    pub rules: Vec<HttpRule>,
    /// Where requests go that meet no rule; none for an answer of 404.
    pub forward: Option<Split>,
    /// What is changed in every request to a target, before the changes of the rule.
    pub request_headers: HeaderTemplates,
    /// What is changed in every answer of a target, before the changes of the rule.
    pub response_headers: HeaderTemplates,
    /// The proxies in front, whose `X-Forwarded-*`, `Forwarded` and `X-Request-ID` fields are taken for true; from anywhere
    /// else those are replaced. Whom they name is the client.
    pub trust_forwarded: Vec<IpNet>,
    /// The fields that say whom a request is from and how it came.
    pub forwarded: Forwarded,
    /// How long a target may take from the request's end until its answer begins; 1 ms to 1 day, 30 s by default.
    pub response_timeout: Duration,
    /// How long an upgraded connection (WebSocket) may be silent; 1 s to 7 days, 1 h by default.
    pub tunnel_timeout: Duration,
    /// The longest request head in bytes; 1,024 to [`Self::HEADER_BYTES_MOST`], by default 32,768.
    pub header_bytes_max: usize,
    /// Whether clients may speak HTTP/2: with TLS by agreeing on it in the handshake, in clear text by beginning with its preface. By default
    /// those with TLS may.
    pub http2: bool,
    /// How many requests a connection of HTTP/2 may have under way; 1 to 1,000, 100 by default.
    pub streams_max: u32,
    /// The longest path with its query in bytes; 128 to 65,536, by default what the head has room for.
    pub uri_bytes_max: Option<usize>,
    /// The longest body of a request in bytes; up to 2^40, any by default.
    pub body_bytes_max: Option<u64>,
    /// So many bytes of a body a client has to send, or to take, each second that it is waited for, after 10 s; 1 to 1,000,000, any number by default.
    pub body_bytes_per_second_min: Option<u32>,
    /// The field whose values `rate` counts each by itself, in lower case, if it does. Requests without it are counted by the client's address.
    pub rate_header: Option<String>,
    /// Who is let in, unless a rule says something else; everybody if there is none.
    pub auth: Option<HttpAuth>,
    /// The files whose text is the body of Tandem's own answers of a status, 400 to 599.
    pub error_pages: Vec<(u16, FileAt)>,
    /// Where a span is sent for requests, if it is.
    pub otlp: Option<Otlp>,
    /// Which answers of targets are compressed, unless a rule says something else; none if there is none.
    pub compress: Option<Compress>,
}

impl Http {
    /// The most that [`Self::header_bytes_max`] can be: a head is read into one buffer of a worker.
    pub const HEADER_BYTES_MOST: usize = 1 << 16;

    /// Who is let in with a rule, or without one.
    #[must_use]
    pub fn auth_of<'h>(&'h self, rule: Option<&'h HttpRule>) -> Option<&'h HttpAuth> {
        let auth = rule.and_then(|rule| rule.auth.as_ref()).or(self.auth.as_ref());
        auth.filter(|auth| **auth != HttpAuth::Nobody)
    }

    /// Which answers of targets are compressed with a rule, or without one.
    #[must_use]
    pub fn compress_of(&self, rule: Option<usize>) -> Option<&Compressible> {
        let of_rule = rule.and_then(|index| self.rules.get(index)?.compress.as_ref());
        match of_rule.or(self.compress.as_ref())? {
            Compress::Nothing => None,
            Compress::Answers(kinds) => Some(kinds),
        }
    }

    /// What is said anywhere of who is let in.
    pub fn auths(&self) -> impl Iterator<Item = &HttpAuth> {
        self.auth.iter().chain(self.rules.iter().filter_map(|rule| rule.auth.as_ref()))
    }

    /// Every group that a request may be forwarded to, in the file's order; one that is named several times comes several times.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        let of_rules = self.rules.iter().filter_map(|rule| match &rule.action {
            Action::Forward(split) => Some(split),
            Action::Redirect(_) | Action::Respond(_) => None,
        });
        self.forward.iter().chain(of_rules).flat_map(|split| &split.shares).map(|share| share.group.as_str())
    }
}

crate::named! {
    /// `forwarded`: the fields that targets are told in whom a request is from and how it came, and that proxies in front are looked at for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum Forwarded {
        /// `X-Forwarded-For`, `-Proto` and `-Host`. A trusted proxy's `Forwarded` is added to, and says who the client is, where it has not
        /// said that in the former; else it may be anybody's, and is dropped.
        #[default]
        XForwarded => "x-forwarded",
        /// `Forwarded` (RFC 7239), and the others are neither passed on nor looked at.
        Rfc7239 => "rfc7239",
        /// Both; who the client is is taken from the former where it is there.
        Both => "both",
    }
}

impl Forwarded {
    /// Whether `X-Forwarded-For` and the like have a meaning.
    #[must_use]
    pub const fn has_lists(self) -> bool {
        !matches!(self, Self::Rfc7239)
    }

    /// Whether `Forwarded` is written into every request.
    #[must_use]
    pub const fn has_elements(self) -> bool {
        !matches!(self, Self::XForwarded)
    }
}

/// `[[service.rule]]` of an `http` service.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRule {
    /// What a request has to meet, all of it; at least one, and each kind once but for headers and query parameters.
    pub when: Vec<Condition>,
    /// What becomes of a request that does.
    pub action: Action,
    /// The path that targets get instead of the request's; only with [`Action::Forward`].
    pub rewrite: Option<Template>,
    /// Which clients' requests are answered; 403 to the others.
    pub access: Access,
    /// Who is let in, if it is not as with the service.
    pub auth: Option<HttpAuth>,
    /// Which answers of targets are compressed, if it is not as with the service.
    pub compress: Option<Compress>,
    /// What is changed in requests to targets.
    pub request_headers: HeaderTemplates,
    /// What is changed in targets' answers.
    pub response_headers: HeaderTemplates,
}

impl HttpRule {
    /// Its condition for the path.
    #[must_use]
    pub fn path(&self) -> Option<&PathPattern> {
        self.when.iter().find_map(|condition| match condition {
            Condition::Path(pattern) => Some(pattern),
            _ => None,
        })
    }

    /// Whether the same becomes of requests that meet this rule as of those that meet another one.
    #[must_use]
    pub fn does_as(&self, other: &Self) -> bool {
        let Self { when: _, action, rewrite, access, auth, compress, request_headers, response_headers } =
            self;
        *action == other.action
            && *rewrite == other.rewrite
            && *access == other.access
            && *auth == other.auth
            && *compress == other.compress
            && *request_headers == other.request_headers
            && *response_headers == other.response_headers
    }
}

/// One thing that a rule wants of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `host`: the host that is asked for is one of these.
    Host(Vec<HostPattern>),
    /// `path`, `path_prefix` or `path_regex`.
    Path(PathPattern),
    /// `method`: the method is one of these, in capital letters as methods are.
    Method(Vec<String>),
    /// `header`: a field of this name has such a value.
    Header {
        /// The name in lower case.
        name: String,
        /// What one of its values is like.
        value: Glob,
    },
    /// `query`: a parameter of this name has such a value.
    Query {
        /// The name.
        name: String,
        /// What one of its values is like.
        value: Glob,
    },
    /// `source`: the client's address is in one of these.
    Source(Vec<IpNet>),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list(f: &mut fmt::Formatter<'_>, key: &str, values: impl Iterator<Item = String>) -> fmt::Result {
            write!(f, "{key} = {}", values.collect::<Vec<_>>().join(" | "))
        }
        match self {
            Self::Host(hosts) => list(f, "host", hosts.iter().map(ToString::to_string)),
            Self::Path(pattern) => pattern.fmt(f),
            Self::Method(methods) => list(f, "method", methods.iter().cloned()),
            Self::Header { name, value } => write!(f, "header {name} = {value}"),
            Self::Query { name, value } => write!(f, "query {name} = {value}"),
            Self::Source(networks) => list(f, "source", networks.iter().map(ToString::to_string)),
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `forward`: a target of a group answers.
    Forward(Split),
    /// `redirect`: the client is sent elsewhere.
    Redirect(Redirect),
    /// `respond`: always the same answer.
    Respond(Respond),
}

/// The groups that share the requests of a rule. A client keeps its group as long as the shares stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// At least one, and at least one with a weight above 0.
    pub shares: Vec<Share>,
}

/// A group's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The target group.
    pub group: String,
    /// Its part of all weights, 0 to 256; a group without a written weight is alone and has 1.
    pub weight: u16,
}

impl Split {
    /// The group for a client, of whose address `hash` is a keyed hash, which is asked for only where there is a choice.
    #[must_use]
    pub fn choose(&self, hash: impl FnOnce() -> u64) -> Option<&str> {
        if let [only] = &self.shares[..] {
            return (only.weight > 0).then_some(only.group.as_str());
        }
        let total: u64 = self.shares.iter().map(|share| u64::from(share.weight)).sum();
        let mut rest = hash().checked_rem(total)?;
        for share in &self.shares {
            match rest.checked_sub(u64::from(share.weight)) {
                Some(left) => rest = left,
                None => return Some(&share.group),
            }
        }
        None
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shares[..] {
            [only] => f.write_str(&only.group),
            several => {
                let one = |share: &Share| format!("{} ({})", share.group, share.weight);
                f.write_str(&several.iter().map(one).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// `redirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The `Location`: an address with `http://`, `https://` or `{scheme}://`, or a path.
    pub to: Template,
    /// 301, 302, 303, 307 or 308; 302 by default.
    pub status: u16,
}

/// `respond`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// The body, at most 16 KiB.
    pub body: String,
    /// Its type, by default `text/plain; charset=utf-8`.
    pub content_type: String,
}

/// `request_headers` and `response_headers` as they are written: values may have variables in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderTemplates {
    remove: Vec<String>,
    set: Vec<(String, Template)>,
    add: Vec<(String, Template)>,
    fixed: HeaderChanges,
}

/// A value that is longer than this when it is filled in has no place in a head, in bytes.
pub const FILLED_BYTES_MAX: usize = 8 * 1024;

impl HeaderTemplates {
    /// Nothing is changed.
    pub const NONE: Self = Self {
        remove: Vec::new(),
        set: Vec::new(),
        add: Vec::new(),
        fixed: HeaderChanges { remove: Vec::new(), set: Vec::new(), add: Vec::new() },
    };

    /// Names that are removed, in lower case, and names as written with the values that are set and added.
    #[must_use]
    pub fn new(remove: Vec<String>, set: Vec<(String, Template)>, add: Vec<(String, Template)>) -> Self {
        let mut templates = Self { remove, set, add, fixed: HeaderChanges::default() };
        templates.fixed = templates.made_by(|_| None);
        templates
    }

    /// Whether nothing is changed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &Template> {
        self.set.iter().chain(&self.add).map(|(_, value)| value)
    }

    /// Whether any value has a variable in it.
    #[must_use]
    pub fn has_variables(&self) -> bool {
        self.values().any(|value| value.variables().next().is_some())
    }

    /// What is changed where nothing is known of a request: what would be set to a value with variables is removed.
    #[must_use]
    pub const fn fixed(&self) -> &HeaderChanges {
        &self.fixed
    }

    /// What is changed with what `write` appends for each variable. Of that only visible ASCII and the spaces between are left; a field
    /// whose value comes to nothing, or to more than [`FILLED_BYTES_MAX`], is removed where it would be set, and not added.
    #[must_use]
    pub fn filled(&self, mut write: impl FnMut(Variable, &mut String)) -> HeaderChanges {
        self.made_by(|template| {
            let mut text = String::new();
            template.expand(&mut text, &mut write);
            text.retain(|character| character.is_ascii_graphic() || character == ' ');
            let text = text.trim();
            (!text.is_empty() && text.len() <= FILLED_BYTES_MAX).then(|| text.to_owned())
        })
    }

    /// The changes with what `fill` makes of each value that has variables.
    fn made_by(&self, mut fill: impl FnMut(&Template) -> Option<String>) -> HeaderChanges {
        let mut value = |template: &Template| {
            if template.variables().next().is_some() {
                return fill(template);
            }
            let mut text = String::new();
            template.expand(&mut text, |_, _| {});
            Some(text)
        };
        let mut changes = HeaderChanges { remove: self.remove.clone(), ..HeaderChanges::default() };
        for (name, template) in &self.set {
            match value(template) {
                Some(value) => changes.set.push((name.clone(), value)),
                None => changes.remove.push(name.to_ascii_lowercase()),
            }
        }
        for (name, template) in &self.add {
            changes.add.extend(value(template).map(|value| (name.clone(), value)));
        }
        changes
    }
}

/// The same as it is done: first what is removed, then what is set, then what is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Names in lower case.
    pub remove: Vec<String>,
    /// Names as written, and the one value that the field then has.
    pub set: Vec<(String, String)>,
    /// Names as written, and a further value.
    pub add: Vec<(String, String)>,
}

impl HeaderChanges {
    /// Whether nothing is changed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether a field of this name is not taken over, because it is removed or set, under whatever name programs take it for the same.
    #[must_use]
    pub fn replaces(&self, name: &[u8]) -> bool {
        let same = |known: &String| is_same_field(known.as_bytes(), name);
        self.remove.iter().any(same) || self.set.iter().any(|(known, _)| same(known))
    }
}

/// Whether programs that get fields in variables (CGI) take two names for the same: what is neither letter nor digit may be `_` there, in some
/// servers `-` alone, in others (lighttpd) whatever a name can have.
#[must_use]
pub fn is_same_field(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'_' };
    one.len() == other.len() && one.iter().map(plain).eq(other.iter().map(plain))
}

/// A host name, or a wildcard for several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This one, in lower case: a name, an IPv4 address, or an IPv6 address in brackets.
    Exact(String),
    /// `*.example.com`: every name that has one label or more in front of this suffix, which begins with a dot.
    Below(String),
}

impl HostPattern {
    /// Whether a host, in lower case and without a port, is meant.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// Whether every host that `other` means is meant here too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(host)) => self.matches(host),
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(suffix), Self::Below(longer)) => longer.ends_with(suffix.as_str()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// What a path is like, in its normal form.
#[derive(Clone, Debug, PartialEq)]
pub enum PathPattern {
    /// `path`: this one.
    Exact(String),
    /// `path_prefix`: this one and all below it: `/a` means `/a` and `/a/b`, not `/ab`; `/a/` only what is below.
    Prefix(String),
    /// `path_regex`: an expression that is found in it.
    Regex(Regex),
}

impl PathPattern {
    /// Whether a path is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/')),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// Whether it is certain that every path that `other` means is meant here too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(path)) => self.matches(path),
            // What is below it then begins with it, too.
            (Self::Prefix(_), Self::Prefix(deeper)) => self.matches(deeper),
            (Self::Regex(own), Self::Regex(other)) => own == other,
            (Self::Exact(_) | Self::Regex(_), _) | (Self::Prefix(_), Self::Regex(_)) => false,
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "path = {path}"),
            Self::Prefix(prefix) => write!(f, "path_prefix = {prefix}"),
            Self::Regex(regex) => write!(f, "path_regex = {}", regex.as_str()),
        }
    }
}

/// An expression in the syntax of the `regex` crate, whose search takes a time linear in the path's length. Letters and digits
/// are those of ASCII: what else a path holds is escaped.
#[derive(Clone, Debug)]
pub struct Regex(regex::bytes::Regex);

/// More memory than this no compiled expression may take, in bytes.
const REGEX_BYTES_MAX: usize = 256 * 1024;

impl Regex {
    /// Compiles it.
    ///
    /// # Errors
    ///
    /// Why it cannot be, in a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        let built = regex::bytes::RegexBuilder::new(text)
            .unicode(false)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build();
        built.map(Self).map_err(|error| match error {
            // The last line of several says what it is about; the others draw an arrow to the place.
            regex::Error::Syntax(text) => {
                let last = text.lines().last().unwrap_or_default();
                last.strip_prefix("error: ").unwrap_or(last).to_owned()
            }
            _ => format!("compiled it would take more than {} KiB", REGEX_BYTES_MAX / 1024),
        })
    }

    /// The expression.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// How many groups it has, not counting all of it.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.0.captures_len() - 1
    }

    /// Whether it is found in the path.
    #[must_use]
    pub fn is_match(&self, path: &str) -> bool {
        self.0.is_match(path.as_bytes())
    }

    /// What it has found: all of it, and its groups up to the ninth; empty for a group that took no part.
    #[must_use]
    pub fn captures<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        let found = self.0.captures(path.as_bytes())?;
        let part = |part: Option<regex::bytes::Match<'_>>| {
            // Paths are ASCII, so no match ends within a character.
            part.and_then(|part| path.get(part.range())).unwrap_or_default()
        };
        Some(found.iter().take(10).map(part).collect())
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// A text in which `*` stands for any number of any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Any text is one.
    #[must_use]
    pub const fn new(pattern: String) -> Self {
        Self(pattern)
    }

    /// Whether it is for any text at all.
    #[must_use]
    pub fn is_any(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether a text is meant, all of it.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        let mut parts = self.0.as_bytes().split(|byte| *byte == b'*');
        // There is always a first part; it stands at the begin, and if it is the only one it is all.
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(mut last) = parts.next() else { return rest.is_empty() };
        for next in parts {
            let Some(at) = find(rest, last) else { return false };
            rest = &rest[at + last.len()..];
            last = next;
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_is_so_in_any_spelling() {
        let changes = HeaderChanges {
            remove: vec!["x-auth-user".to_owned()],
            set: vec![("X_Team".to_owned(), "a".to_owned())],
            add: vec![("X-More".to_owned(), "b".to_owned())],
        };
        for name in ["X-Auth-User", "x_auth_user", "X_Auth-User", "x.auth!user", "X-Team", "x_team", "X~Team"]
        {
            assert!(changes.replaces(name.as_bytes()), "{name}");
        }
        for name in ["X-More", "XAuthUser", "X-Auth-User2", "X-Auth"] {
            assert!(!changes.replaces(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn values_are_filled_in_and_have_no_line_ends() {
        use super::super::Purpose;
        let named =
            |name: &str, value: &str| (name.to_owned(), Template::parse(value, Purpose::Header).unwrap());
        let plain = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let set =
            vec![named("X-A", "a"), named("X-SNI", "{tls_sni}"), named("X-Path", "{method} {path}{query}")];
        let add = vec![named("X-B", "{tls_sni}"), named("X-C", "c={client_ip}")];
        let templates = HeaderTemplates::new(vec!["server".to_owned()], set, add);
        assert!(templates.has_variables() && !templates.is_empty());
        let filled = templates.filled(|variable, out| match variable {
            Variable::TlsSni => out.push_str(" \r\n"),
            Variable::Path => out.push_str("/\u{e9}\r\nX: y\0"),
            Variable::Query => {}
            other => out.push_str(&other.to_string()),
        });
        let expected = HeaderChanges {
            remove: vec!["server".to_owned(), "x-sni".to_owned()],
            set: vec![plain("X-A", "a"), plain("X-Path", "{method} /X: y")],
            add: vec![plain("X-C", "c={client_ip}")],
        };
        assert_eq!(filled, expected);
        let fixed = HeaderChanges {
            remove: ["server", "x-sni", "x-path"].map(str::to_owned).to_vec(),
            set: vec![plain("X-A", "a")],
            add: Vec::new(),
        };
        assert_eq!(templates.fixed(), &fixed, "of no request");
        let long = |length: usize| {
            let filled = templates.filled(|_, out| out.push_str(&"x".repeat(length)));
            filled.set.iter().any(|(name, _)| name == "X-SNI")
        };
        assert!(long(FILLED_BYTES_MAX) && !long(FILLED_BYTES_MAX + 1));
        let constant = HeaderTemplates::new(Vec::new(), vec![named("X-A", "{{a}}")], Vec::new());
        assert!(!constant.has_variables());
        assert_eq!(constant.fixed().set, [plain("X-A", "{a}")]);
        assert_eq!(HeaderTemplates::NONE, HeaderTemplates::default());
    }

    #[test]
    fn prefixes_end_where_segments_do() {
        let prefix = |text: &str| PathPattern::Prefix(text.to_owned());
        for (pattern, path, expected) in [
            ("/a", "/a", true),
            ("/a", "/a/", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a", "/", false),
            ("/a/", "/a", false),
            ("/a/", "/a/b", true),
            ("/", "/", true),
            ("/", "/x", true),
        ] {
            assert_eq!(prefix(pattern).matches(path), expected, "{pattern} {path}");
        }
        assert!(prefix("/a").covers(&prefix("/a/b")) && !prefix("/a").covers(&prefix("/ab")));
        assert!(prefix("/a").covers(&prefix("/a/")) && !prefix("/a/").covers(&prefix("/a")));
        assert!(prefix("/").covers(&PathPattern::Exact("/x".to_owned())));
        assert!(!PathPattern::Exact("/x".to_owned()).covers(&prefix("/x")));
    }

    #[test]
    fn hosts_match_below_but_not_at_the_suffix() {
        let below = HostPattern::Below(".example.com".to_owned());
        let exact = |host: &str| HostPattern::Exact(host.to_owned());
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        assert!(!below.matches("example.com") && !below.matches(".example.com"));
        assert!(below.covers(&exact("a.example.com")) && !below.covers(&exact("example.com")));
        assert!(below.covers(&HostPattern::Below(".b.example.com".to_owned())));
        assert!(!exact("a.example.com").covers(&below));
    }

    #[test]
    fn globs_match_all_of_a_text() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*a", "a", false),
            ("*Mobile*", "Some Mobile Browser", true),
            ("*Mobile*", "Some mobile Browser", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**", "x", true),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
        ] {
            assert_eq!(Glob::new(pattern.to_owned()).matches(text.as_bytes()), expected, "{pattern} {text}");
        }
        assert!(Glob::new("*".to_owned()).is_any() && !Glob::new(String::new()).is_any());
    }

    #[test]
    fn expressions_compile_within_bounds_and_find_their_groups() {
        let regex = Regex::new("^/user/([0-9]+)(/x)?$").unwrap();
        assert_eq!(regex.groups(), 2);
        assert_eq!(regex.captures("/user/42").unwrap(), ["/user/42", "42", ""]);
        assert!(regex.captures("/user/x").is_none());
        assert!(Regex::new("(?i)^/A\\d\\w$").unwrap().is_match("/a1_"));
        let error = Regex::new("/(a").unwrap_err();
        assert_eq!(error, "unclosed group");
        assert_eq!(Regex::new("(a{1000}){1000}").unwrap_err(), "compiled it would take more than 256 KiB");
    }

    #[test]
    fn a_split_gives_each_group_its_share_and_a_client_its_group() {
        let share = |group: &str, weight| Share { group: group.to_owned(), weight };
        let split = Split { shares: vec![share("shop", 95), share("none", 0), share("canary", 5)] };
        let counted = |group: &str| (0..1000).filter(|hash| split.choose(|| *hash) == Some(group)).count();
        assert_eq!((counted("shop"), counted("none"), counted("canary")), (950, 0, 50));
        assert_eq!(split.choose(|| 7), split.choose(|| 7));
        assert_eq!(split.to_string(), "shop (95), none (0), canary (5)");
        let zero = Split { shares: vec![share("none", 0)] };
        assert_eq!((zero.choose(|| 3), zero.to_string().as_str()), (None, "none"));
        let zeros = Split { shares: vec![share("none", 0), share("nobody", 0)] };
        assert_eq!(zeros.choose(|| 3), None);
        let only = Split { shares: vec![share("shop", 1)] };
        assert_eq!(only.choose(|| panic!("there is no choice")), Some("shop"));
    }
}
