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
    withheld: Vec<Option<Rc<HeaderChanges>>>,
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
            withheld: std::iter::once(None)
                .chain((0..http.rules.len()).map(Some))
                .map(|rule| withheld(http, rule))
                .collect(),
            hash_key,
        })
    }

    /// The group of this name.
    pub(super) fn pool(&self, name: &str) -> Option<Rc<Pool>> {
        self.pools.get(name).map(Rc::clone)
    }

    /// The fields that are set or removed before a target gets a request that meets this rule, if there are any.
    pub(super) fn withheld(&self, rule: Option<usize>) -> Option<Rc<HeaderChanges>> {
        self.withheld.get(rule.map_or(0, |index| index + 1))?.clone()
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

fn withheld(http: &Http, rule: Option<usize>) -> Option<Rc<HeaderChanges>> {
    let fixed = request_templates(http, rule).map(HeaderTemplates::fixed);
    let names = fixed
        .into_iter()
        .flat_map(|changes| changes.remove.iter().chain(changes.set.iter().map(|(name, _)| name)));
    let remove: Vec<String> = names.cloned().collect();
    (!remove.is_empty()).then(|| Rc::new(HeaderChanges { remove, ..HeaderChanges::default() }))
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
