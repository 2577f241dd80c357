//! A service of `mode = "http"` as one worker uses it.

use std::cell::RefCell;
use std::rc::Rc;

use common::config::{HeaderChanges, HeaderTemplates, Http};
use common::hash::{HashKey, PlainMap};
use common::time::Instant;
use lbd_core::http::answer::Answer;
use lbd_core::http::budget::RetryBudget;

use super::tie;
use crate::l4::Pool;
use crate::snapshot::Service;

/// What a worker may send again of a service's requests; lives on over reloads.
pub(crate) type Budget = Rc<RefCell<RetryBudget>>;

/// What the requests of a service need beside what its connections do.
pub(crate) struct Site {
    pools: PlainMap<String, Rc<Pool>>,
    budget: Budget,
    /// Its name in `Via`.
    pub(super) pseudonym: String,
    /// The cookies of its groups that are Tandem's own.
    pub(super) hidden_cookies: Vec<String>,
    /// Where its targets are told whom a request is from, by it or by another service.
    pub(super) told_in: HeaderChanges,
    /// The fields that are set or removed before a target gets a request: of one that meets no rule, and of each rule.
    withheld_from_targets: Vec<Option<Rc<HeaderChanges>>>,
    /// The same before a client gets an answer.
    withheld_from_clients: Vec<Option<Rc<HeaderChanges>>>,
    /// For the choice among weighted groups.
    pub(super) hash_key: HashKey,
}

/// A service that changes nothing.
const UNCHANGED: &HeaderTemplates = &HeaderTemplates::NONE;

impl Site {
    /// The site of a service, whose groups are those that `find` knows.
    pub(crate) fn new(
        service: &Service,
        find: impl Fn(&str) -> Option<Rc<Pool>>,
        hash_key: HashKey,
        budget: Budget,
    ) -> Option<Self> {
        let http = service.config.http.as_ref()?;
        let pools: PlainMap<String, Rc<Pool>> =
            http.groups().filter_map(|name| Some((name.to_owned(), find(name)?))).collect();
        let hidden_cookies =
            pools.values().filter_map(|pool| tie::own_cookie(pool).map(str::to_owned)).collect();
        let told_in = HeaderChanges { remove: service.told_in.clone(), ..HeaderChanges::default() };
        // The same on both nodes of a pair, and another one for each service: a request may well go through two of them.
        let name = hash_key.bytes(format!("via {}", service.config.name).as_bytes());
        Some(Self {
            pools,
            budget,
            pseudonym: format!("tandem-{name:016x}"),
            hidden_cookies,
            told_in,
            withheld_from_targets: withheld(http, request_templates),
            withheld_from_clients: withheld(http, response_templates),
            hash_key,
        })
    }

    /// The group of this name.
    pub(super) fn pool(&self, name: &str) -> Option<Rc<Pool>> {
        self.pools.get(name).map(Rc::clone)
    }

    /// What does not go to a target as a trailer of a request that meets this rule: the fields that are set or removed in its head, if there
    /// are any, and these.
    pub(super) fn withheld_from_targets(
        &self,
        rule: Option<usize>,
        more: Vec<String>,
    ) -> Option<Rc<HeaderChanges>> {
        of_rule(&self.withheld_from_targets, rule, more)
    }

    /// The same of what does not go to a client as a trailer of the answer.
    pub(super) fn withheld_from_clients(
        &self,
        rule: Option<usize>,
        more: Vec<String>,
    ) -> Option<Rc<HeaderChanges>> {
        of_rule(&self.withheld_from_clients, rule, more)
    }

    /// A request has come.
    pub(super) fn earn(&self) {
        self.budget.borrow_mut().earn();
    }

    /// Whether a request may be sent again.
    pub(super) fn may_resend(&self, now: Instant) -> bool {
        self.budget.borrow_mut().spend(now)
    }

    /// Whether it most likely might.
    pub(super) fn could_resend(&self) -> bool {
        self.budget.borrow().has_one()
    }
}

/// What the service changes in answers to requests of which nothing is known, and nothing of a rule.
pub(super) fn response_changes(http: &Http) -> [&HeaderChanges; 2] {
    [http.response_headers.fixed(), UNCHANGED.fixed()]
}

/// What the service and a rule of it change in answers.
pub(super) fn response_templates(http: &Http, rule: Option<usize>) -> [&HeaderTemplates; 2] {
    let rule = rule.and_then(|index| http.rules.get(index));
    [&http.response_headers, rule.map_or(UNCHANGED, |rule| &rule.response_headers)]
}

/// The same in requests.
pub(super) fn request_templates(http: &Http, rule: Option<usize>) -> [&HeaderTemplates; 2] {
    let rule = rule.and_then(|index| http.rules.get(index));
    [&http.request_headers, rule.map_or(UNCHANGED, |rule| &rule.request_headers)]
}

/// The fields that are set or removed in messages that meet no rule, and that meet each rule.
fn withheld(
    http: &Http,
    templates: fn(&Http, Option<usize>) -> [&HeaderTemplates; 2],
) -> Vec<Option<Rc<HeaderChanges>>> {
    let of = |rule: Option<usize>| {
        let fixed = templates(http, rule).map(HeaderTemplates::fixed);
        let names = fixed
            .into_iter()
            .flat_map(|changes| changes.remove.iter().chain(changes.set.iter().map(|(name, _)| name)));
        let remove: Vec<String> = names.cloned().collect();
        (!remove.is_empty()).then(|| Rc::new(HeaderChanges { remove, ..HeaderChanges::default() }))
    };
    std::iter::once(None).chain((0..http.rules.len()).map(Some)).map(of).collect()
}

/// Those of a rule, and `more`, which is mostly nothing.
fn of_rule(
    all: &[Option<Rc<HeaderChanges>>],
    rule: Option<usize>,
    more: Vec<String>,
) -> Option<Rc<HeaderChanges>> {
    let known = all.get(rule.map_or(0, |index| index + 1)).and_then(Option::as_ref);
    if more.is_empty() {
        return known.map(Rc::clone);
    }
    let mut changes = known.map_or_else(HeaderChanges::default, |known| HeaderChanges::clone(known));
    changes.remove.extend(more);
    Some(Rc::new(changes))
}

/// An answer of Tandem's own that says no more than its status, with the page that the service has for that.
pub(super) fn with_page<'a>(service: &'a Service, answer: &Answer<'a>) -> Answer<'a> {
    let mut pages = service.config.http.iter().flat_map(|http| &http.error_pages);
    let named = pages.find(|(status, _)| *status == answer.status && answer.body.is_empty());
    match named.and_then(|(_, file)| service.files.page(&file.path)) {
        Some(page) => Answer { content_type: page.content_type, body: &page.text, ..*answer },
        None => *answer,
    }
}
