//! `lbd route`: which rule a request would meet, and why.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use common::config::{
    self, Action, Config, Http, HttpAuth, HttpRule, Mode, Service, Share, Split, StickyBy, Template, Variable,
};
use common::hash::HashKey;
use lbd_core::http::auth::Denied;
use lbd_core::http::framing::{Fault, RequestHead, parse_request};
use lbd_core::http::origin::Origin;
use lbd_core::http::pass_on::{Shown, request_id};
use lbd_core::http::route::{
    Arrival, Asked, Background, Otherwise, Outcome, location, obstacle, read_otherwise, rewritten, route,
};

use crate::l4::Guard;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Question<'q> {
    /// The method.
    pub(crate) method: &'q str,
    /// `http://HOST:PORT/PATH`, or a path.
    pub(crate) url: &'q str,
    /// `NAME: VALUE` each.
    pub(crate) headers: &'q [String],
    /// The client's address.
    pub(crate) source: IpAddr,
    /// The service, if its port does not tell.
    pub(crate) service: Option<&'q str>,
}

/// Answers what would become of a request.
pub(crate) fn explain(file: &Path, question: &Question<'_>) -> anyhow::Result<String> {
    let config = config::load(file)?;
    let text = request_text(question);
    let head = match parse_request(text.as_bytes()) {
        Ok(head) => head,
        Err(fault) => {
            return Ok(format!("refused with {} whichever service it comes to: {fault}\n", fault.status()));
        }
    };
    let service = service(&config, question)?;
    let http = service.http.as_ref().context("the service has no mode = \"http\"")?;
    let local = service.listen.first().map_or_else(|| SocketAddr::from(([0, 0, 0, 0], 80)), |it| it.address);
    let key = config::load_key(&config.pair).ok().flatten().map(|key| HashKey::of_pair(&key));
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    let guard = Guard::new(service, None, &Arc::default());
    let trusts = |address: IpAddr| guard.trusts_word(address);
    let connected = SocketAddr::new(question.source, 0);
    let origin = Origin::of(connected, &head.fields, http.forwarded, trusts);
    let client = origin.client.ip();
    let asked = Asked {
        method: head.method,
        host: head.authority.host(),
        path: &head.path,
        query: head.query.as_deref(),
        fields: &head.fields,
        client,
    };
    let mut out = String::new();
    describe(&mut out, &head, &service.name, question.source);
    if client != question.source {
        line(&mut out, format_args!("the client is {client}, as the proxy that is trusted says"));
    }
    let id = request_id(&head, origin.trusted, 0);
    // With TLS the client is one of today, which says whom it asks for.
    let encrypted = http.tls.is_some();
    let background = Background {
        request_id: &id,
        tls_version: if encrypted { "1.3" } else { "" },
        server_name: if encrypted { head.authority.host() } else { "" },
        certificate: shown(http),
    };
    if guard.lets_connect(question.source) {
        let around = Around { config: &config, guard: &guard, trusted: origin.trusted, key };
        tell(&mut out, http, &asked, (Arrival { scheme, local }, background), &around);
    } else {
        line(
            &mut out,
            format_args!(
                "may not connect: `access` of the service keeps {} out; --source asks for another client",
                question.source
            ),
        );
    }
    Ok(out)
}

/// What decides beside the rules.
struct Around<'a> {
    config: &'a Config,
    guard: &'a Guard,
    /// Whether whom the request is from is said by a proxy that is trusted.
    trusted: bool,
    /// What the addresses of clients are hashed with, if that can be read.
    key: Option<HashKey>,
}

/// The request as a client would send it.
fn request_text(question: &Question<'_>) -> String {
    let named = |header: &String| {
        header.split_once(':').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("host"))
    };
    // A path needs a host as little as a whole address does: rules on hosts are then not met.
    let host = if question.headers.iter().any(named) { "" } else { "Host: unnamed.invalid\r\n" };
    let headers: String = question.headers.iter().map(|header| format!("{}\r\n", header.trim())).collect();
    format!("{} {} HTTP/1.1\r\n{host}{headers}\r\n", question.method, question.url)
}

/// What the client has shown of itself: a certificate, where it has to have one. Which one is not known here: there are words for what it says.
fn shown(http: &Http) -> Shown<'static> {
    match http.tls.as_ref().and_then(|tls| tls.clients.as_ref()) {
        Some(clients) if clients.required => Shown::Certificate { subject: "SUBJECT", sha256: "SHA256" },
        Some(_) => Shown::Nothing,
        None => Shown::NotAsked,
    }
}

/// Says what such words stand for in what was made of this.
fn words(out: &mut String, template: &Template, shown: Shown<'_>) {
    let Shown::Certificate { subject, sha256 } = shown else { return };
    for (variable, word) in [(Variable::ClientCertSubject, subject), (Variable::ClientCertSha256, sha256)] {
        if template.variables().any(|its| its == variable) {
            line(out, format_args!("where {word} stands for {variable} of the client that asks"));
        }
    }
}

/// The service that such a request would come to.
fn service<'c>(config: &'c Config, question: &Question<'_>) -> anyhow::Result<&'c Service> {
    let all: Vec<&Service> = config.services.iter().filter(|it| it.mode == Mode::Http).collect();
    let names = || all.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = question.service {
        let found = all.iter().find(|it| it.name == name);
        return found.copied().with_context(|| match names() {
            names if names.is_empty() => "the file has no service of mode = \"http\"".to_owned(),
            names => format!("there is no service {name:?} of mode = \"http\", only {names}"),
        });
    }
    let port = port(question.url);
    let listens =
        |it: &&&Service| port.is_none_or(|port| it.listen.iter().any(|on| on.address.port() == port));
    match all.iter().filter(listens).collect::<Vec<_>>()[..] {
        [only] => Ok(*only),
        [] if all.is_empty() => bail!("the file has no service of mode = \"http\""),
        // Whoever tries rules out is not always interested in ports.
        [] if all.len() == 1 => Ok(all[0]),
        _ => bail!(
            "which service the request comes to is not clear: say so with --service, one of {}",
            names()
        ),
    }
}

/// The port of an address; none of a path.
fn port(url: &str) -> Option<u16> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let written = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    written.or(Some(if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 }))
}

fn describe(out: &mut String, head: &RequestHead<'_>, service: &str, source: IpAddr) {
    let query = head.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let host = head.authority.host();
    let host = if host == "unnamed.invalid" { "(no host)" } else { host };
    line(
        out,
        format_args!("{} {}{query} for {host} from {source}, at service {service}", head.method, head.path),
    );
}

/// Tells of each rule up to the one that decides, and what that does.
fn tell(
    out: &mut String,
    http: &Http,
    asked: &Asked<'_>,
    (arrival, background): (Arrival, Background<'_>),
    around: &Around<'_>,
) {
    let routed = route(http, asked, || around.key.map_or(0, |key| key.source(asked.client)));
    let met = routed.rule.map(|(index, _)| index);
    for (index, rule) in http.rules.iter().enumerate().take(met.map_or(usize::MAX, |met| met + 1)) {
        match obstacle(rule, asked) {
            Some(condition) => line(out, format_args!("rule {} is not met: {condition}", index + 1)),
            None => {
                let when: Vec<String> = rule.when.iter().map(ToString::to_string).collect();
                line(out, format_args!("rule {} is met: {}", index + 1, when.join(", ")));
            }
        }
    }
    if met.is_none() {
        line(out, format_args!("no rule is met"));
    }
    match read_otherwise(http, asked, &routed) {
        None => {}
        Some(Otherwise::Rule(other)) => {
            let other = other.map_or("no rule".to_owned(), |index| format!("rule {}", index + 1));
            let status = Fault::OtherRule.status();
            line(
                out,
                format_args!("refused with {status}: some servers read the path as one that meets {other}"),
            );
            return;
        }
        Some(Otherwise::Unclear) => {
            let status = Fault::Path.status();
            line(out, format_args!("refused with {status}: servers may read the path in too many ways"));
            return;
        }
    }
    if let Some(keeper) = kept_out(around, met, asked.client) {
        let (status, client) = (Denied::Access.status(), asked.client);
        line(out, format_args!("answered with {status}: `access` of {keeper} keeps {client} out"));
        return;
    }
    asks_for_proof(out, http.auth_of(routed.rule.map(|(_, rule)| rule)));
    match routed.outcome {
        Outcome::Forward(group) => {
            forwarded(out, http, routed.rule.map(|(_, rule)| rule), group, around);
        }
        Outcome::Nothing => line(out, format_args!("answered with 404: the service has no `forward`")),
        Outcome::Respond(respond) => line(out, format_args!("answered with {}", respond.status)),
        Outcome::Redirect(redirect) => {
            let to = routed.rule.map(|(_, rule)| location(redirect, rule, asked, arrival, background));
            let to = to.unwrap_or_default();
            line(out, format_args!("redirected with {} to {to}", redirect.status));
            words(out, &redirect.to, background.certificate);
        }
    }
    if let (Outcome::Forward(_), Some((_, rule))) = (routed.outcome, routed.rule)
        && let Some(rewrite) = &rule.rewrite
    {
        match rewritten(rewrite, rule, asked, arrival, background) {
            Ok(path) => {
                line(out, format_args!("the target gets the path {path}"));
                words(out, rewrite, background.certificate);
            }
            Err(error) => {
                line(out, format_args!("answered with 400: the rewritten path cannot be used: {error}"));
            }
        }
    }
}

/// Whose list keeps a client out whose request has met this rule, if one does. Who has connected has been let in; of those that a proxy speaks for,
/// who may do that without being in the list, each has to be.
fn kept_out(around: &Around<'_>, rule: Option<usize>, client: IpAddr) -> Option<String> {
    if around.trusted && !around.guard.allows(client) {
        return Some("the service".to_owned());
    }
    let index = rule.filter(|_| !around.guard.rule_allows(rule, client))?;
    Some(format!("rule {}", index + 1))
}

fn asks_for_proof(out: &mut String, auth: Option<&HttpAuth>) {
    let (what, file) = match auth {
        Some(HttpAuth::Basic(basic)) => ("a name and password of", &basic.users.path),
        Some(HttpAuth::Jwt(jwt)) => ("a token signed by a key of", &jwt.keys.path),
        Some(HttpAuth::Nobody) | None => return,
    };
    line(out, format_args!("only for whoever has {what} {}", file.display()));
}

fn forwarded(out: &mut String, http: &Http, rule: Option<&HttpRule>, group: &str, around: &Around<'_>) {
    let split = match rule.map(|rule| &rule.action) {
        Some(Action::Forward(split)) => Some(split),
        _ => http.forward.as_ref(),
    };
    match split {
        Some(split) if split.shares.len() > 1 && around.key.is_some() => {
            line(out, format_args!("forwarded to target group {group}, this client's of {split}"));
        }
        Some(split) if split.shares.len() > 1 => line(
            out,
            format_args!(
                "forwarded to one of {split}; which one a client gets depends on pair.key_file, which cannot be read here"
            ),
        ),
        _ => line(out, format_args!("forwarded to target group {group}")),
    }
    let deciding = split.map_or_else(Vec::new, |split| cookies(split, around.config)).join(", ");
    if !deciding.is_empty() {
        line(
            out,
            format_args!(
                "but a valid cookie of {deciding} decides before that; cookies are not looked at here"
            ),
        );
    }
}

/// The groups among several that know their clients by a cookie, with its name: a client goes on where it has been before.
fn cookies(split: &Split, config: &Config) -> Vec<String> {
    let by_cookie = |share: &Share| {
        let cookie = match &config.target_group(&share.group)?.sticky.as_ref()?.by {
            StickyBy::Cookie(cookie) => &cookie.name,
            StickyBy::AppCookie(name) => name,
            StickyBy::SourceIp => return None,
        };
        Some(format!("{} ({cookie})", share.group))
    };
    let several = split.shares.len() > 1;
    split.shares.iter().filter(|share| several && share.weight > 0).filter_map(by_cookie).collect()
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    writeln!(out, "{text}").ok();
}
