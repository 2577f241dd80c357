//! What becomes of a request, decided from its head alone, before anything of it is sent anywhere.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use common::config::{HeaderChanges, HeaderTemplates, Http, Template, Variable};
use common::time::Instant;
use h2::ext::Protocol;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri};
use lbd_core::http::answer::Answer;
use lbd_core::http::auth::Denied;
use lbd_core::http::bounds;
use lbd_core::http::compress::takes_gzip;
use lbd_core::http::fields::authenticates_connection;
use lbd_core::http::framing::{Fault, RequestBody, RequestHead, Version};
use lbd_core::http::hops;
use lbd_core::http::origin::Origin;
use lbd_core::http::pass_on::{self, Afterwards, Passing, Shown};
use lbd_core::http::route::{
    Arrival, Asked, Background, Otherwise, Outcome, Routed, changes, location, read_otherwise, rewritten,
    route,
};
use lbd_core::http::trace::Trace;

use super::admit::{Admission, admit};
use super::handshake::Encrypted;
use super::http2::Map;
use super::journal::Asking;
use super::passwords::{Compared, Comparison};
use super::session::Session;
use super::site::{Site, request_templates, response_templates, with_page};
use super::tie::{self, Tied};
use super::websocket;
use crate::clock::unix_now;
use crate::l4::{Ends, Pool, Refusal};
use crate::worker::Route;

/// A request, as far as it is still of interest once its head has been read.
pub(super) struct Plan {
    /// What is done.
    pub(super) step: Step,
    /// Whom it is from.
    pub(super) client: SocketAddr,
    /// The rule that it met.
    pub(super) rule: Option<usize>,
    /// The client's version.
    pub(super) version: Version,
    /// The body that follows.
    pub(super) body: RequestBody,
    /// Whether the client would use the connection again.
    pub(super) keep_alive: bool,
    /// Whether the client has said that nothing comes behind it, and no body does either.
    pub(super) is_last: bool,
    /// Whether its method is `HEAD`.
    pub(super) to_head: bool,
    /// Whether it may be asked twice.
    pub(super) idempotent: bool,
    /// Whether a tunnel is asked for.
    pub(super) upgrade: bool,
    /// Whether the client takes answers that are compressed, where some are.
    pub(super) takes_gzip: bool,
    /// What it says of what the client has already, where answers may be compressed.
    pub(super) if_none_match: Vec<u8>,
    /// What a client of HTTP/1 is told if its tunnel leads through a stream of HTTP/2.
    pub(super) accept: Option<String>,
    /// Whether the connection to the target is its own, and nobody else's after it. It may authenticate that connection, or have a body where many
    /// do not look for one: a target that leaves it would take it for the next request. Or its trailers may end a connection of HTTP/2, or its group
    /// wants no connection used again.
    pub(super) alone: bool,
    /// Whether its trailers stay here: targets are told in fields who it is from, or might end a connection that it shares.
    pub(super) drops_trailers: bool,
    /// The fields that do not go on as trailers, if there may be some.
    pub(super) withheld: Option<Rc<HeaderChanges>>,
    /// What it says about its target.
    pub(super) tied: Tied,
    /// When a password had been compared for it, if one was.
    pub(super) compared: Option<std::time::Instant>,
    /// Why it is not let in.
    pub(super) denied: Option<Denied>,
    /// More came than `rate` allows.
    pub(super) over_rate: bool,
    /// What service and rule change in answers, where their values have variables.
    pub(super) filled: Option<Rc<[HeaderChanges; 2]>>,
    /// The trace that it belongs to, if somebody is told of traces.
    pub(super) trace: Option<Box<Trace>>,
    /// For the access log and for who is told of the trace, if there is either.
    pub(super) asking: Option<Box<Asking>>,
}

/// What is done with a request.
pub(super) enum Step {
    /// A target of this group gets this head.
    Forward(Rc<Pool>, ForTarget),
    /// A password is compared; what becomes of the request is asked again after that.
    Compare(Box<Comparison>),
    /// Nothing: the client did not wait for that.
    Gone(Refusal),
    /// The client gets this answer.
    Answer(Own),
}

/// The head of a request, as its target's protocol has it.
pub(super) enum ForTarget {
    /// As text.
    Http1(Vec<u8>),
    /// As what is compressed.
    Http2(Box<Request<()>>),
}

impl ForTarget {
    /// Whether it has a stream become a tunnel (RFC 8441).
    pub(super) fn opens_tunnel(&self) -> bool {
        matches!(self, Self::Http2(head) if head.method() == Method::CONNECT)
    }
}

/// The head of an answer, as the client's protocol has it.
pub(super) enum ForClient {
    /// As text.
    Http1(Vec<u8>),
    /// As what is compressed.
    Http2(Box<Response<()>>),
}

/// An answer that no target has given.
pub(super) struct Own {
    /// Its status.
    pub(super) status: u16,
    /// Its head; of HTTP/1 with the body.
    pub(super) head: ForClient,
    /// The body for HTTP/2.
    pub(super) body: Bytes,
}

impl Own {
    /// Writes it for a client of this version.
    pub(super) fn write(
        answer: &Answer<'_>,
        version: Version,
        to_head: bool,
        afterwards: Afterwards,
        changes: [&HeaderChanges; 2],
    ) -> Self {
        let (status, now) = (answer.status, unix_now());
        if version != Version::Http2 {
            let mut out = Vec::new();
            answer.write(to_head, afterwards, changes, now, &mut out);
            return Self { status, head: ForClient::Http1(out), body: Bytes::new() };
        }
        let (content, mut map) = (answer.content(), Map::default());
        answer.write_fields(&content, changes, now, &mut map);
        let has_content = answer.has_content(to_head);
        let body = if has_content { Bytes::from(content.into_owned()) } else { Bytes::new() };
        Self { status, head: ForClient::Http2(Box::new(response(status, map))), body }
    }
}

/// The head of an answer for HTTP/2.
pub(super) fn response(status: u16, map: Map) -> Response<()> {
    let mut response = Response::new(());
    // Each status is one of three digits.
    if let Ok(status) = http::StatusCode::from_u16(status) {
        *response.status_mut() = status;
    }
    *response.headers_mut() = map.into_inner();
    response
}

/// What is known of a request beside its head.
pub(super) struct Circumstances<'c> {
    /// The service as it is now.
    pub(super) route: &'c Route,
    /// Both ends of the client's connection.
    pub(super) ends: &'c Ends,
    /// Whom the request is from.
    pub(super) origin: &'c Origin<'c>,
    /// A number for a request that has none, and for a trace that begins with it.
    pub(super) request_id: u128,
    /// A number for its span.
    pub(super) span_id: u64,
    /// What there is to know of the connection's encryption, if it is encrypted.
    pub(super) encrypted: Option<&'c Encrypted>,
    /// How the comparison ended that was asked for, if one was.
    pub(super) compared: Option<Compared>,
    /// The process's clock.
    pub(super) now: Instant,
    /// More came than `rate` allows.
    pub(super) over_rate: bool,
    /// The lists of the service let the client in.
    pub(super) let_in: bool,
    /// The client's connection is not to be used again.
    pub(super) closing: bool,
    /// What it gets because it is the authority that a certificate is ordered from, whatever the rules say.
    pub(super) challenge: Option<&'c str>,
}

impl Circumstances<'_> {
    /// What a service and a rule change, if any of the values has variables.
    fn fill(
        &self,
        templates: [&HeaderTemplates; 2],
        head: &RequestHead<'_>,
        asked: &Asked<'_>,
        (routed, arrival): (&Routed<'_>, Arrival),
    ) -> Option<Rc<[HeaderChanges; 2]>> {
        if !templates.iter().any(|templates| templates.has_variables()) {
            return None;
        }
        let request_id = pass_on::request_id(head, self.origin.trusted, self.request_id);
        let background = self.background(&request_id);
        let rule = routed.rule.map(|(_, rule)| rule);
        Some(Rc::new(templates.map(|templates| changes(templates, rule, asked, arrival, background))))
    }

    /// What is known of a request, which has this id.
    fn background<'b>(&'b self, request_id: &'b str) -> Background<'b> {
        Background {
            request_id,
            tls_version: self.encrypted.map_or("", |encrypted| encrypted.version),
            server_name: self.encrypted.and_then(Encrypted::server_name).unwrap_or_default(),
            certificate: self.encrypted.map_or(Shown::NotAsked, Encrypted::shown),
        }
    }

    /// The id of a request, if an address is made with it.
    fn id_for(&self, template: &Template, head: &RequestHead<'_>) -> String {
        if template.variables().any(|variable| variable == Variable::RequestId) {
            pass_on::request_id(head, self.origin.trusted, self.request_id)
        } else {
            String::new()
        }
    }
}

impl Plan {
    /// Looks at a head. It is handed on several times, so it stays where it is.
    ///
    /// # Errors
    /// Why the request is refused.
    pub(super) fn make(head: &RequestHead<'_>, around: &Circumstances<'_>) -> Result<Box<Self>, Fault> {
        let (Some(http), Some(site)) = (&around.route.service.config.http, &around.route.http) else {
            return Err(Fault::Target);
        };
        bounds::check(head, http)?;
        // RFC 9110, section 15.5.20.
        if around.encrypted.is_some_and(|encrypted| !encrypted.is_for(head.authority.host())) {
            return Err(Fault::Misdirected);
        }
        let scheme = if around.encrypted.is_some() { "https" } else { "http" };
        let arrival = Arrival { scheme, local: around.ends.local };
        let asked = Asked {
            method: head.method,
            host: head.authority.host(),
            path: &head.path,
            query: head.query.as_deref(),
            fields: &head.fields,
            client: around.origin.client.ip(),
        };
        let routed = route(http, &asked, || site.hash_key.source(asked.client));
        match read_otherwise(http, &asked, &routed).filter(|_| around.challenge.is_none()) {
            None => {}
            Some(Otherwise::Rule(_)) => return Err(Fault::OtherRule),
            Some(Otherwise::Unclear) => return Err(Fault::Path),
        }
        let rule = routed.rule.map(|(index, _)| index).filter(|_| around.challenge.is_none());
        let service = &around.route.service;
        let trace = service.tracer.as_ref().map(|tracer| {
            let ids = (around.request_id, around.span_id);
            Box::new(Trace::begin(&head.fields, around.origin.trusted, tracer.sample, ids))
        });
        let is_told = service.access_log.is_some() || trace.as_ref().is_some_and(|trace| trace.sampled);
        let mut plan = Box::new(Self {
            step: Step::nothing(),
            client: around.origin.client,
            rule,
            version: head.version,
            body: head.body,
            keep_alive: head.keep_alive && !around.closing,
            is_last: !head.keep_alive && !has_body(head.body),
            to_head: head.method == "HEAD",
            idempotent: is_idempotent(head.method),
            upgrade: head.upgrade.is_some(),
            // One of HTTP/1.0 knows an end that was not said beforehand by the connection's only.
            takes_gzip: head.version != Version::Http10
                && http.compress_of(rule).is_some()
                && takes_gzip(&head.fields),
            if_none_match: match http.compress_of(rule) {
                Some(_) => head.values("if-none-match").collect::<Vec<_>>().join(&b", "[..]),
                None => Vec::new(),
            },
            accept: None,
            alone: authenticates_connection(&head.fields)
                || (has_body(head.body) && wants_no_body(head.method)),
            drops_trailers: !site.told_in.is_empty(),
            withheld: None,
            tied: Tied::default(),
            compared: None,
            denied: None,
            over_rate: around.over_rate && around.challenge.is_none(),
            filled: around.fill(response_templates(http, rule), head, &asked, (&routed, arrival)),
            trace,
            asking: is_told.then(|| {
                let server_name = around.encrypted.and_then(Encrypted::server_name);
                Box::new(Asking::of(head, scheme, server_name))
            }),
        });
        plan.step = if let Some(body) = around.challenge {
            let content_type = "application/octet-stream";
            plan.answer(around, &Answer { body, content_type, ..Answer::plain(200) })
        } else if plan.over_rate {
            let seconds = around.route.service.guard.retry_after_seconds().to_string();
            plan.answer(around, &Answer { fields: &[("Retry-After", seconds)], ..Answer::plain(429) })
        } else {
            plan.enter(head, &asked, (&routed, arrival), (http, site), around)?
        };
        Ok(plan)
    }

    /// Goes on with a request if it is let in.
    fn enter(
        &mut self,
        head: &RequestHead<'_>,
        asked: &Asked<'_>,
        (routed, arrival): (&Routed<'_>, Arrival),
        (http, site): (&Http, &Site),
        around: &Circumstances<'_>,
    ) -> Result<Step, Fault> {
        let service = &around.route.service;
        if !around.let_in || !service.guard.rule_allows(self.rule, asked.client) {
            return Ok(self.deny(around, Denied::Access, String::new()));
        }
        let auth = http.auth_of(routed.rule.map(|(_, rule)| rule));
        match admit(auth, &service.files, &head.fields, around.compared, around.now) {
            Admission::In(told) => self.decide(head, asked, (routed, arrival), (http, site), &told, around),
            Admission::Compare(comparison) => Ok(Step::Compare(Box::new(comparison))),
            Admission::Out(denied, challenge) => Ok(self.deny(around, denied, challenge)),
        }
    }

    fn deny(&mut self, around: &Circumstances<'_>, denied: Denied, challenge: String) -> Step {
        self.denied = Some(denied);
        let status = denied.status();
        let field = match status {
            401 => Some(("WWW-Authenticate", challenge)),
            503 => Some(("Retry-After", "1".to_owned())),
            _ => None,
        };
        self.answer(around, &Answer { fields: field.as_slice(), ..Answer::plain(status) })
    }

    fn decide(
        &mut self,
        head: &RequestHead<'_>,
        asked: &Asked<'_>,
        (routed, arrival): (&Routed<'_>, Arrival),
        (http, site): (&Http, &Site),
        told: &[(String, String)],
        around: &Circumstances<'_>,
    ) -> Result<Step, Fault> {
        let rule = routed.rule.map(|(_, rule)| rule);
        let group = match (routed.outcome, rule) {
            // RFC 9110, section 7.6.2: at 0 "the intermediary MUST NOT forward the request; instead, the intermediary MUST respond as the
            // final recipient", which here knows nothing but OPTIONS. A target that answers TRACE (section 9.3.8) shows a client what it is told
            // about it, so none is asked to.
            (Outcome::Forward(_), _) if head.method == "TRACE" || hops::left(head)? == Some(0) => {
                let allow = [("Allow", "OPTIONS".to_owned())];
                let status = if head.method == "OPTIONS" { 204 } else { 405 };
                return Ok(self.answer(around, &Answer { fields: &allow, ..Answer::plain(status) }));
            }
            (Outcome::Forward(group), _) => {
                tie::home_group(http, routed, site, asked, around.now).unwrap_or(group)
            }
            (Outcome::Redirect(redirect), Some(rule)) => {
                let request_id = around.id_for(&redirect.to, head);
                let to = location(redirect, rule, asked, arrival, around.background(&request_id));
                let answer = Answer { fields: &[("Location", to)], ..Answer::plain(redirect.status) };
                return Ok(self.answer(around, &answer));
            }
            (Outcome::Respond(respond), _) => {
                let (content_type, body) = (&respond.content_type, &respond.body);
                let answer = Answer { status: respond.status, content_type, body, fields: &[] };
                return Ok(self.answer(around, &answer));
            }
            (Outcome::Redirect(_) | Outcome::Nothing, _) => {
                return Ok(self.answer(around, &Answer::plain(404)));
            }
        };
        let new_path = match rule.and_then(|rule| Some((rule, rule.rewrite.as_ref()?))) {
            Some((rule, rewrite)) => {
                let request_id = around.id_for(rewrite, head);
                let path = rewritten(rewrite, rule, asked, arrival, around.background(&request_id));
                Some(path.map_err(|_| Fault::Path)?)
            }
            None => None,
        };
        let templates = request_templates(http, self.rule);
        let filled = around.fill(templates, head, asked, (routed, arrival));
        let passing = Passing {
            path: new_path.as_deref().unwrap_or(&head.path),
            client: around.ends.client.ip(),
            trusted: around.origin.trusted,
            forwarded: http.forwarded,
            arrival,
            pseudonym: &site.pseudonym,
            request_id: around.request_id,
            certificate: around.encrypted.map_or(Shown::NotAsked, Encrypted::shown),
            changes: with_values(templates, filled.as_deref()),
            hidden_cookies: &site.hidden_cookies,
            told,
            told_in: &site.told_in,
            trace: self.trace.as_deref(),
            weakens_tags: http.compress_of(self.rule).is_some(),
        };
        // A configuration that is in force names its own groups only.
        let Some(pool) = site.pool(group) else { return Ok(self.answer(around, &Answer::plain(503))) };
        // A header that names the client makes a connection this request's own. Of HTTP/2 those that are under way at the same time share one
        // also where none is kept.
        self.alone |= pool.group.config.send_proxy.is_some()
            || (!pool.group.config.http2 && pool.group.config.keep_alive.max == 0);
        if pool.group.config.http2 && head.version != Version::Http2 && head.asks_for_websocket() {
            self.accept = head.values("sec-websocket-key").next().map(websocket::accept);
        }
        let written = if pool.group.config.http2 {
            let scheme = if pool.group.config.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            ForTarget::Http2(Box::new(http2_request(head, &passing, scheme)?))
        } else {
            let mut out = Vec::new();
            pass_on::request(head, &passing, self.alone, &mut out)?;
            ForTarget::Http1(out)
        };
        // Servers may end the whole connection at trailers that they do not look for, and with it the requests of others. So who says that
        // some come has one for himself, and what comes unsaid stays here.
        if pool.group.config.http2 && pool.group.config.send_proxy.is_none() && has_body(head.body) {
            self.alone |= !self.drops_trailers && head.values("trailer").next().is_some();
            self.drops_trailers |= !self.alone;
        }
        if has_body(head.body) {
            let for_one_hop = pass_on::trailers_for_one_hop(&head.for_one_hop);
            self.withheld = site.withheld_from_targets(self.rule, for_one_hop);
        }
        self.tied = Tied::of(&pool, asked, &passing, around.origin);
        Ok(Step::Forward(pool, written))
    }

    /// What the service and the rule change in its answer.
    pub(super) fn response_changes<'p>(&'p self, http: &'p Http) -> [&'p HeaderChanges; 2] {
        with_values(response_templates(http, self.rule), self.filled.as_deref())
    }

    /// Both ends of the request's way here: its client, and the address that was come to.
    pub(super) fn ends(&self, session: &Session) -> Ends {
        Ends { client: self.client, ..session.ends }
    }

    /// Takes the comparison that has to be made first, if one has to be.
    pub(super) fn take_comparison(&mut self) -> Option<Comparison> {
        if !matches!(self.step, Step::Compare(_)) {
            return None;
        }
        match std::mem::replace(&mut self.step, Step::nothing()) {
            Step::Compare(comparison) => Some(*comparison),
            Step::Forward(..) | Step::Gone(_) | Step::Answer(_) => None,
        }
    }

    /// What becomes of the client's connection after an answer that does not wait for the request's body.
    pub(super) fn afterwards(&self) -> Afterwards {
        self.afterwards_if(!has_body(self.body))
    }

    /// The same if the body `has_come` by then, or has not.
    pub(super) const fn afterwards_if(&self, has_come: bool) -> Afterwards {
        match self.version {
            _ if !self.keep_alive || !has_come => Afterwards::Closed,
            Version::Http11 | Version::Http2 => Afterwards::Kept,
            Version::Http10 => Afterwards::KeptHttp10,
        }
    }

    fn answer(&self, around: &Circumstances<'_>, answer: &Answer<'_>) -> Step {
        let service = &around.route.service;
        let Some(http) = &service.config.http else { return Step::nothing() };
        let (page, changes) = (with_page(service, answer), self.response_changes(http));
        Step::Answer(Own::write(&page, self.version, self.to_head, self.afterwards(), changes))
    }
}

/// What is changed: with values that were `filled` in, where some have variables.
fn with_values<'c>(
    templates: [&'c HeaderTemplates; 2],
    filled: Option<&'c [HeaderChanges; 2]>,
) -> [&'c HeaderChanges; 2] {
    filled.map_or_else(|| templates.map(HeaderTemplates::fixed), <[_; 2]>::each_ref)
}

impl Step {
    /// What stands where one has been taken out.
    pub(super) fn nothing() -> Self {
        Self::Answer(Own { status: 404, head: ForClient::Http1(Vec::new()), body: Bytes::new() })
    }
}

/// The head of a request for a target of HTTP/2. The scheme is that of the connection it goes on: targets compare the two, and read in
/// `X-Forwarded-Proto` what the client's was.
fn http2_request(
    head: &RequestHead<'_>,
    passing: &Passing<'_>,
    scheme: Scheme,
) -> Result<Request<()>, Fault> {
    let mut map = Map::default();
    pass_on::http2_request(head, passing, &mut map)?;
    let mut parts = http::uri::Parts::default();
    // RFC 9113, section 8.3.1: ":authority" is the host and the port "for which the request is made"; a configured Host is one, too.
    let host = map.take_host().ok_or(Fault::Host)?;
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| Fault::Host)?);
    parts.scheme = Some(scheme);
    let path = match &head.query {
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", passing.path)),
        None => PathAndQuery::try_from(passing.path),
    };
    parts.path_and_query = Some(path.map_err(|_| Fault::Path)?);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).map_err(|_| Fault::Method)?;
    if head.asks_for_websocket() {
        // RFC 8441, section 4.
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Fault::Path)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = map.into_inner();
    Ok(request)
}

/// Whether a body follows that has to be read.
pub(super) const fn has_body(body: RequestBody) -> bool {
    !matches!(body, RequestBody::None | RequestBody::Length(0))
}

/// RFC 9110, sections 9.3.1, 9.3.2 and 9.3.5: "content received in a GET request has no generally defined semantics".
fn wants_no_body(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "DELETE")
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}
