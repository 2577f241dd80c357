//! What the rules of a service of `mode = "http"` say about each other, and building them.

use std::path::Path;

use ipnet::IpNet;

use super::{auth, tls};
use crate::config::diag::{Problems, quoted};
use crate::config::problem::Problem;
use crate::config::raw::{At, RawAuth, RawChanges, RawHttpRule, RawService};
use crate::config::types::{
    Action, Condition, Http, HttpRule, Otlp, PathPattern, Redirect, SampleShare, Template, Variable,
    is_same_field,
};
use crate::path::normalise;
use crate::time::Duration;

/// Of a request's head.
const HEADER_BYTES_DEFAULT: usize = 32 * 1024;

/// One of a hundred: a span for each of all requests is more than most collectors are made for.
const TRACES_DEFAULT: SampleShare = SampleShare::hundredths(1);

/// Of a connection of HTTP/2. RFC 9113, section 6.5.2: "It is recommended that this value be no smaller than 100".
const STREAMS_DEFAULT: u32 = 100;

pub(super) fn check(service: &RawService, out: &mut Problems) {
    let Some(mode) = service.mode.as_ref().filter(|mode| *mode.get_ref() == "http") else { return };
    if let Some((key, span)) = service.proxy_keys.iter().find(|(key, _)| key == "service.transparent") {
        let needs = "mode = \"tcp\" or \"udp\"; targets learn the client's address from X-Forwarded-For";
        let problem = Problem::KeyWithout { key: key.clone(), needs: needs.to_owned() };
        out.add(span.clone(), problem).related(mode.span(), "the mode");
    }
    let rules = &service.rules.http;
    check_told(service, out);
    let http = &service.http;
    for (key, template) in http.request_headers.variable.iter().chain(&http.response_headers.variable) {
        check_template(None, key, template.get_ref(), template.span(), out);
    }
    for (index, rule) in rules.iter().enumerate() {
        let before = out.count();
        check_templates(service, rule, out);
        check_keys(rule, out);
        // What could not be read may be what tells them apart.
        let earlier: Vec<&RawHttpRule> = rules[..index].iter().filter(|rule| rule.complete).collect();
        if !rule.complete || out.count() > before {
            continue;
        }
        if let Some(first) = earlier.iter().find(|first| takes_all(first, rule)) {
            out.add(rule.span.clone(), Problem::RuleNeverMet {})
                .related(first.span.clone(), "the earlier rule");
        }
        if let Some(action) = &rule.action
            && let Action::Redirect(redirect) = action.get_ref()
            && let Some((example, to)) = (Loop { service, earlier: &earlier, rule, redirect }).find()
        {
            let problem = Problem::RedirectLoop { example: quoted(&example), to: quoted(&to) };
            out.add(action.span(), problem);
        }
    }
}

/// Notes fields that requests are given where `auth` has targets told in them who a request is from.
fn check_told(service: &RawService, out: &mut Problems) {
    let (http, rules) = (&service.http, &service.rules.http);
    // What the service gives requests, those of each rule get, too.
    let all = http.auth.iter().chain(rules.iter().filter_map(|rule| rule.auth.as_ref()));
    note_told(&http.request_headers, all, out);
    for rule in rules {
        note_told(&rule.request_headers, rule.auth.iter().chain(&http.auth).take(1), out);
    }
}

fn note_told<'a>(headers: &RawChanges, auths: impl Iterator<Item = &'a RawAuth>, out: &mut Problems) {
    let told: Vec<&str> = auths.flat_map(RawAuth::told_in).collect();
    for (key, name) in &headers.given {
        if told.iter().any(|field| is_same_field(field.as_bytes(), name.get_ref().as_bytes())) {
            let (key, value) = (key.clone(), quoted(name.get_ref()));
            out.add(name.span(), Problem::ToldField { key, value });
        }
    }
}

fn path_of(rule: &RawHttpRule) -> Option<&PathPattern> {
    rule.when.iter().find_map(|condition| match condition.get_ref() {
        Condition::Path(pattern) => Some(pattern),
        _ => None,
    })
}

/// Notes variables that nothing gives a value.
fn check_templates(service: &RawService, rule: &RawHttpRule, out: &mut Problems) {
    let path = path_of(rule);
    if let Some(rewrite) = &rule.rewrite {
        check_template(path, "service.rule.rewrite", rewrite.get_ref(), rewrite.span(), out);
        check_holes(service, "service.rule.rewrite", rewrite.get_ref(), rewrite.span(), out);
    }
    if let Some(action) = &rule.action
        && let Action::Redirect(redirect) = action.get_ref()
    {
        check_template(path, "service.rule.redirect.to", &redirect.to, action.span(), out);
        check_holes(service, "service.rule.redirect.to", &redirect.to, action.span(), out);
    }
    for (key, template) in rule.request_headers.variable.iter().chain(&rule.response_headers.variable) {
        check_template(path, key, template.get_ref(), template.span(), out);
    }
}

/// Notes those of one template, of a rule with this condition for the path, or of a service.
fn check_template(
    path: Option<&PathPattern>,
    key: &str,
    template: &Template,
    span: std::ops::Range<usize>,
    out: &mut Problems,
) {
    for variable in template.variables() {
        let needs = match (variable, path) {
            (Variable::Rest, Some(PathPattern::Prefix(_))) => continue,
            (Variable::Rest, _) => "path_prefix".to_owned(),
            (Variable::Capture(number), Some(PathPattern::Regex(regex))) => {
                if usize::from(number) <= regex.groups() {
                    continue;
                }
                format!("as many groups in path_regex, which has {}", regex.groups())
            }
            (Variable::Capture(_), _) => "path_regex".to_owned(),
            _ => continue,
        };
        let key = format!("{key}: {variable}");
        out.add(span.clone(), Problem::KeyWithout { key, needs });
    }
}

/// Notes variables that may stand for nothing in the path of an address: it would be another path then.
fn check_holes(
    service: &RawService,
    key: &str,
    template: &Template,
    span: std::ops::Range<usize>,
    out: &mut Problems,
) {
    let tls = service.http.tls.as_ref();
    let is_shown = tls.is_some_and(|tls| tls.client_ca_file.is_some() && tls.client_required);
    for variable in template.variables_of_path() {
        let needs = match variable {
            Variable::TlsVersion if tls.is_none() => "tls",
            Variable::ClientCertSha256 if !is_shown => "client_ca_file and client_certificate = \"required\"",
            Variable::TlsSni | Variable::ClientCertSubject => {
                let reason = format!(
                    "{variable} may be nothing, and the path another one then; it can stand in the query of a redirect, or in a header field"
                );
                let (key, value) = (key.to_owned(), quoted(&template.to_string()));
                out.add(span.clone(), Problem::BadTemplate { key, value, reason });
                continue;
            }
            _ => continue,
        };
        let (key, needs) = (format!("{key}: {variable}"), needs.to_owned());
        out.add(span.clone(), Problem::KeyWithout { key, needs });
    }
}

/// Notes what only requests to targets have.
fn check_keys(rule: &RawHttpRule, out: &mut Problems) {
    let forwards = |action: &At<Action>| matches!(action.get_ref(), Action::Forward(_));
    if rule.action.as_ref().is_none_or(forwards) {
        return;
    }
    let rewrite = rule.rewrite.as_ref().map(|rewrite| ("service.rule.rewrite", rewrite.span()));
    let headers = (!rule.request_headers.changes.is_empty())
        .then(|| ("service.rule.request_headers", rule.span.clone()));
    let compress = rule.compress.as_ref().map(|compress| ("service.rule.compress", compress.span()));
    for (key, span) in rewrite.into_iter().chain(headers).chain(compress) {
        let (key, needs) = (key.to_owned(), "forward, for then no target is asked".to_owned());
        out.add(span, Problem::KeyWithout { key, needs });
    }
}

/// Whether every request that meets `later` meets `first` too, as far as that is certain.
fn takes_all(first: &RawHttpRule, later: &RawHttpRule) -> bool {
    let covered = |condition: &At<Condition>| {
        let always = matches!(condition.get_ref(), Condition::Path(PathPattern::Prefix(all)) if all == "/");
        always || later.when.iter().any(|other| covers(condition.get_ref(), other.get_ref()))
    };
    first.when.iter().all(covered)
}

fn covers(wide: &Condition, narrow: &Condition) -> bool {
    match (wide, narrow) {
        (Condition::Host(wide), Condition::Host(narrow)) => {
            narrow.iter().all(|host| wide.iter().any(|known| known.covers(host)))
        }
        (Condition::Path(wide), Condition::Path(narrow)) => wide.covers(narrow),
        (Condition::Method(wide), Condition::Method(narrow)) => {
            narrow.iter().all(|method| wide.contains(method))
        }
        (
            Condition::Header { name: wide_name, value: wide },
            Condition::Header { name: narrow_name, value: narrow },
        )
        | (
            Condition::Query { name: wide_name, value: wide },
            Condition::Query { name: narrow_name, value: narrow },
        ) => wide_name == narrow_name && (wide.is_any() || wide == narrow),
        (Condition::Source(wide), Condition::Source(narrow)) => {
            narrow.iter().all(|network| wide.iter().any(|known| known.contains(network)))
        }
        _ => false,
    }
}

/// The search for requests that a redirect sends to itself.
struct Loop<'r> {
    service: &'r RawService,
    earlier: &'r [&'r RawHttpRule],
    rule: &'r RawHttpRule,
    redirect: &'r Redirect,
}

/// What a request asks for when no condition says anything of it.
const ANY_HOST: &str = "host.example";
const ANY_SEGMENT: &str = "sample";

impl Loop<'_> {
    /// An example, and where it is sent to. Only what is certain is found: conditions that the new request may not meet, a
    /// host or a port of which it is not known whether they lead here, and earlier rules that may take it are taken for a way out.
    fn find(&self) -> Option<(String, String)> {
        if !self.goes_on() {
            return None;
        }
        let samples = self.samples()?;
        let mut found = Vec::new();
        for path in samples {
            // Whatever stands for what is not known here.
            for other in [ANY_SEGMENT, ""] {
                let to = self.expand(&path, other);
                if !self.comes_back(&path, &to) {
                    return None;
                }
                found.push((path.clone(), to));
            }
        }
        found.into_iter().next()
    }

    /// Whether what is not in an address is still met by a client that follows.
    fn goes_on(&self) -> bool {
        let to = &self.redirect.to;
        // What listens for the other scheme is another service.
        let elsewhere = if self.scheme() == "https" { "http://" } else { "https://" };
        !to.begin().starts_with(elsewhere)
            && self.rule.when.iter().all(|condition| match condition.get_ref() {
                Condition::Query { .. } => to.variables().any(|it| it == Variable::Query),
                // Clients go on with GET after these.
                Condition::Method(methods) if matches!(self.redirect.status, 301..=303) => {
                    methods.iter().any(|method| method == "GET")
                }
                _ => true,
            })
    }

    /// Paths that meet the rule; none if that cannot be told.
    fn samples(&self) -> Option<Vec<String>> {
        let below = |prefix: &str| {
            let slash = if prefix.ends_with('/') { "" } else { "/" };
            vec![prefix.to_owned(), format!("{prefix}{slash}{ANY_SEGMENT}")]
        };
        match path_of(self.rule) {
            None => Some(below("/")),
            Some(PathPattern::Exact(path)) => Some(vec![path.clone()]),
            Some(PathPattern::Prefix(prefix)) => Some(below(prefix)),
            Some(PathPattern::Regex(_)) => {
                let known = |it: Variable| {
                    it.is_of_an_address() && !matches!(it, Variable::Capture(_) | Variable::Rest)
                };
                self.redirect.to.variables().all(known).then(|| vec![format!("/{ANY_SEGMENT}")])
            }
        }
    }

    fn sample_host(&self) -> String {
        let hosts = self.rule.when.iter().find_map(|condition| match condition.get_ref() {
            Condition::Host(hosts) => hosts.first(),
            _ => None,
        });
        hosts.map_or_else(|| ANY_HOST.to_owned(), |host| host.to_string().replacen('*', ANY_SEGMENT, 1))
    }

    /// Where the redirect leads to from this path, with this for what is no part of an address.
    fn expand(&self, path: &str, other: &str) -> String {
        let mut to = String::new();
        self.redirect.to.expand(&mut to, |variable, out| match variable {
            Variable::Scheme => out.push_str(self.scheme()),
            Variable::Host => out.push_str(&self.sample_host()),
            Variable::Port => out.push_str(&self.ports().next().unwrap_or(self.usual_port()).to_string()),
            Variable::Path => out.push_str(path),
            Variable::Rest => {
                let prefix = match path_of(self.rule) {
                    Some(PathPattern::Prefix(prefix)) => prefix.as_str(),
                    _ => "",
                };
                out.push_str(path.strip_prefix(prefix).unwrap_or_default().trim_start_matches('/'));
            }
            // The query is no part of a path, and with expressions nothing comes this far.
            Variable::Query | Variable::Capture(_) => {}
            _ => out.push_str(other),
        });
        to
    }

    /// How clients come to the service.
    const fn scheme(&self) -> &'static str {
        if self.service.http.tls.is_some() { "https" } else { "http" }
    }

    const fn usual_port(&self) -> u16 {
        if self.service.http.tls.is_some() { 443 } else { 80 }
    }

    fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.service.listen.iter().map(|listen| listen.get_ref().ports.first)
    }

    /// Whether a client that was at `from` and is sent to `to` meets the rule again.
    fn comes_back(&self, from: &str, to: &str) -> bool {
        let usual = self.usual_port().to_string();
        let own = to.strip_prefix(self.scheme()).and_then(|rest| rest.strip_prefix("://"));
        let (host, path) = match own {
            None => (self.sample_host(), to),
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                let (host, port) = authority.rsplit_once(':').unwrap_or((authority, usual.as_str()));
                if !self.ports().any(|own| port == own.to_string()) {
                    return false;
                }
                (host.to_ascii_lowercase(), path)
            }
        };
        let path = path.split('?').next().unwrap_or_default();
        let mut normal = String::new();
        let path = if path.is_empty() { "/" } else { path };
        if normalise(path.as_bytes(), &mut normal).is_err() {
            return false;
        }
        let same_host = host == self.sample_host();
        let may_meet = |rule: &RawHttpRule| {
            rule.when.iter().all(|condition| match condition.get_ref() {
                Condition::Host(hosts) => hosts.iter().any(|known| known.matches(&host)),
                // What was taken for an example need not be one.
                Condition::Path(PathPattern::Regex(regex)) => regex.is_match(&normal) || normal == from,
                Condition::Path(pattern) => pattern.matches(&normal),
                _ => true,
            })
        };
        let has_hosts =
            self.rule.when.iter().any(|condition| matches!(condition.get_ref(), Condition::Host(_)));
        (same_host || has_hosts)
            && may_meet(self.rule)
            && !self.earlier.iter().any(|earlier| may_meet(earlier))
    }
}

pub(super) fn build(raw: &RawService, folder: &Path) -> Option<Http> {
    let name = raw.name.as_ref()?.get_ref();
    let rules = raw.rules.http.iter().map(|rule| {
        Some(HttpRule {
            when: rule.when.iter().map(|condition| condition.get_ref().clone()).collect(),
            action: rule.action.as_ref()?.get_ref().clone(),
            rewrite: rule.rewrite.as_ref().map(|rewrite| rewrite.get_ref().clone()),
            access: super::service::access(&rule.access),
            auth: rule.auth.as_ref().map(|raw| auth::build(raw, &auth::OF_RULE, name, folder)),
            compress: rule.compress.as_ref().map(|compress| compress.get_ref().clone()),
            request_headers: rule.request_headers.changes.clone(),
            response_headers: rule.response_headers.changes.clone(),
        })
    });
    let http = &raw.http;
    let seconds = |value: &Option<At<Duration>>, default: u64| {
        value.as_ref().map_or(Duration::from_secs(default), |value| *value.get_ref())
    };
    let network = |network: &At<IpNet>| *network.get_ref();
    Some(Http {
        tls: http.tls.as_ref().map(|raw| tls::of_service(raw, folder)),
        rules: rules.collect::<Option<_>>()?,
        forward: http.forward.as_ref().map(|split| split.get_ref().clone()),
        request_headers: http.request_headers.changes.clone(),
        response_headers: http.response_headers.changes.clone(),
        trust_forwarded: http.trust_forwarded.iter().map(network).collect(),
        forwarded: http.forwarded,
        response_timeout: seconds(&raw.timeout.response, 30),
        tunnel_timeout: seconds(&raw.timeout.tunnel, 3600),
        header_bytes_max: http.header_bytes_max.unwrap_or(HEADER_BYTES_DEFAULT),
        http2: http.http2.unwrap_or(http.tls.is_some()),
        streams_max: http.streams_max.unwrap_or(STREAMS_DEFAULT),
        uri_bytes_max: http.uri_bytes_max,
        body_bytes_max: http.body_bytes_max,
        body_bytes_per_second_min: http.body_bytes_per_second_min,
        rate_header: http.rate_header.clone(),
        error_pages: http
            .error_pages
            .iter()
            .map(|(status, page)| (*status, tls::file(folder, "service.error_pages", page)))
            .collect(),
        auth: http.auth.as_ref().map(|raw| auth::build(raw, &auth::OF_SERVICE, name, folder)),
        otlp: http.otlp.as_ref().map(|raw| Otlp {
            endpoint: raw.endpoint.clone(),
            sample: raw.sample.unwrap_or(TRACES_DEFAULT),
            service_name: raw.service_name.as_ref().unwrap_or(name).clone(),
        }),
        compress: http.compress.clone(),
    })
}
