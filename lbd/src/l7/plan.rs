//! What becomes of a request, decided from its head alone, before anything of it is sent anywhere.

use std::net::IpAddr;
use std::rc::Rc;

use common::config::Http;
use lbd_core::http::answer::Answer;
use lbd_core::http::fields::authenticates_connection;
use lbd_core::http::framing::{Fault, RequestBody, RequestHead, Version, parse_request};
use lbd_core::http::pass_on::{self, Afterwards, Passing, Shown};
use lbd_core::http::route::{Arrival, Asked, Outcome, Routed, location, rewritten, route};

use super::handshake::Encrypted;
use super::journal::Asking;
use super::site::{Site, request_changes, response_changes};
use crate::clock::unix_now;
use crate::l4::{Ends, Pool};
use crate::worker::Route;

/// A request, as far as it is still of interest once its head has been read.
pub(super) struct Plan {
    /// What is done.
    pub(super) step: Step,
    /// The rule that it met.
    pub(super) rule: Option<usize>,
    /// The client's version.
    pub(super) version: Version,
    /// The body that follows.
    pub(super) body: RequestBody,
    /// Whether the client would use the connection again.
    pub(super) keep_alive: bool,
    /// Whether its method is `HEAD`.
    pub(super) to_head: bool,
    /// Whether it may be asked twice.
    pub(super) idempotent: bool,
    /// Whether a tunnel is asked for.
    pub(super) upgrade: bool,
    /// Whether the connection to the target is nobody else's after it. It may authenticate that connection, or have a body where many do not
    /// look for one: a target that leaves it would take it for the next request.
    pub(super) alone: bool,
    /// For the access log, if there is one.
    pub(super) asking: Option<Box<Asking>>,
}

/// What is done with a request.
pub(super) enum Step {
    /// A target of this group gets this head.
    Forward(Rc<Pool>, Vec<u8>),
    /// The client gets this answer, with this status.
    Answer(Vec<u8>, u16),
}

/// What is known of a request beside its head.
pub(super) struct Circumstances<'c> {
    /// The service as it is now.
    pub(super) route: &'c Route,
    /// Both ends of the client's connection.
    pub(super) ends: &'c Ends,
    /// Who speaks: a proxy in front, or the client itself.
    pub(super) peer: IpAddr,
    /// A number for a request that has none.
    pub(super) request_id: u128,
    /// What there is to know of the connection's encryption, if it is encrypted.
    pub(super) encrypted: Option<&'c Encrypted>,
    /// More came than `rate` allows.
    pub(super) over_rate: bool,
    /// The client's connection is not to be used again.
    pub(super) closing: bool,
}

impl Plan {
    /// Reads a head.
    ///
    /// # Errors
    /// Why the request is refused.
    pub(super) fn make(head: &[u8], around: &Circumstances<'_>) -> Result<Self, Fault> {
        let head = parse_request(head)?;
        let (Some(http), Some(site)) = (&around.route.service.config.http, &around.route.http) else {
            return Err(Fault::Target);
        };
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
            client: around.ends.client.ip(),
        };
        let hash = site.hash_key.source(asked.client);
        let routed = route(http, &asked, hash);
        let rule = routed.rule.map(|(index, _)| index);
        let mut plan = Self {
            step: Step::Answer(Vec::new(), 404),
            rule,
            version: head.version,
            body: head.body,
            keep_alive: head.keep_alive && !around.closing,
            to_head: head.method == "HEAD",
            idempotent: is_idempotent(head.method),
            upgrade: head.upgrade.is_some(),
            alone: authenticates_connection(&head.fields)
                || (has_body(head.body) && wants_no_body(head.method)),
            asking: around.route.service.access_log.as_ref().map(|_| {
                let server_name = around.encrypted.and_then(Encrypted::server_name);
                Box::new(Asking::of(&head, rule, server_name))
            }),
        };
        plan.step = if around.over_rate {
            let seconds = around.route.service.guard.retry_after_seconds().to_string();
            plan.answer(http, &Answer { fields: &[("Retry-After", seconds)], ..Answer::plain(429) })
        } else {
            plan.decide(&head, &asked, &routed, arrival, (http, site), around)?
        };
        Ok(plan)
    }

    fn decide(
        &self,
        head: &RequestHead<'_>,
        asked: &Asked<'_>,
        routed: &Routed<'_>,
        arrival: Arrival,
        (http, site): (&Http, &Site),
        around: &Circumstances<'_>,
    ) -> Result<Step, Fault> {
        let rule = routed.rule.map(|(_, rule)| rule);
        let group = match (routed.outcome, rule) {
            (Outcome::Forward(group), _) => group,
            (Outcome::Redirect(redirect), Some(rule)) => {
                let to = location(redirect, rule, asked, arrival);
                let answer = Answer { fields: &[("Location", to)], ..Answer::plain(redirect.status) };
                return Ok(self.answer(http, &answer));
            }
            (Outcome::Respond(respond), _) => {
                let (content_type, body) = (&respond.content_type, &respond.body);
                let answer = Answer { status: respond.status, content_type, body, fields: &[] };
                return Ok(self.answer(http, &answer));
            }
            (Outcome::Redirect(_) | Outcome::Nothing, _) => return Ok(self.answer(http, &Answer::plain(404))),
        };
        let new_path = match rule.and_then(|rule| Some((rule, rule.rewrite.as_ref()?))) {
            Some((rule, rewrite)) => Some(rewritten(rewrite, rule, asked, arrival).map_err(|_| Fault::Path)?),
            None => None,
        };
        let passing = Passing {
            path: new_path.as_deref().unwrap_or(&head.path),
            client: asked.client,
            trusted: around.route.service.guard.trusts_word(around.peer),
            arrival,
            pseudonym: &site.pseudonym,
            request_id: around.request_id,
            certificate: around.encrypted.map_or(Shown::NotAsked, Encrypted::shown),
            changes: request_changes(http, self.rule),
        };
        // A configuration that is in force names its own groups only.
        let Some(pool) = site.pool(group) else { return Ok(self.answer(http, &Answer::plain(503))) };
        let mut out = Vec::new();
        pass_on::request(head, &passing, &mut out)?;
        Ok(Step::Forward(pool, out))
    }

    /// What becomes of the client's connection after an answer that does not wait for the request's body.
    pub(super) fn afterwards(&self) -> Afterwards {
        self.afterwards_if(!has_body(self.body))
    }

    /// The same if the body `has_come` by then, or has not.
    pub(super) const fn afterwards_if(&self, has_come: bool) -> Afterwards {
        match self.version {
            _ if !self.keep_alive || !has_come => Afterwards::Closed,
            Version::Http11 => Afterwards::Kept,
            Version::Http10 => Afterwards::KeptHttp10,
        }
    }

    fn answer(&self, http: &Http, answer: &Answer<'_>) -> Step {
        let mut out = Vec::new();
        let changes = response_changes(http, self.rule);
        answer.write(self.to_head, self.afterwards(), changes, unix_now(), &mut out);
        Step::Answer(out, answer.status)
    }
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
