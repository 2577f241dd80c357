//! What a service asks of a client before it is let in, ready for use.

use std::net::IpAddr;
use std::sync::Arc;

use common::config::{self, RateScope};
use common::time::Instant;
use ipnet::IpNet;
use lbd_core::access::{AccessEntry, AccessList};
use lbd_core::bell::Bell;
use lbd_core::rate::{Bucket, RateLimit, SOURCES_MAX, SourceBuckets};
use lbd_core::sni::SniRules;

/// The lists, the rate and the rules of a service. What is not configured costs a look at an empty option.
#[derive(Debug)]
pub(crate) struct Guard {
    access: Option<AccessList>,
    /// The same of each rule of `http`, in the file's order.
    rules: Vec<Option<AccessList>>,
    /// The proxies whose header names the client.
    trusted: Option<AccessList>,
    /// The proxies whose word on their clients is taken, with `http`.
    forwarders: Option<AccessList>,
    rate_of_all: Option<Limit<Bucket>>,
    rate_of_each: Option<Limit<SourceBuckets>>,
    /// Rules for server names, by their place in the file.
    pub(crate) sni: SniRules,
}

/// A rate, and how much of it is used up.
#[derive(Debug)]
struct Limit<B> {
    rate: config::Rate,
    buckets: Arc<B>,
}

/// The buckets that both nodes keep together; at least one of the two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PairRates<'g> {
    /// One for all clients.
    pub(crate) of_all: Option<&'g Bucket>,
    /// One for each source.
    pub(crate) of_each: Option<&'g SourceBuckets>,
}

impl Guard {
    /// The guard of a service. The buckets of a rate that has not changed are those of `before`.
    pub(crate) fn new(service: &config::Service, before: Option<&Self>, bell: &Arc<Bell>) -> Self {
        let trusted = |&network: &IpNet| AccessEntry { network, allowed: true, tag: None };
        let forwarders = service.http.iter().flat_map(|http| &http.trust_forwarded).map(trusted).collect();
        let trusted: Vec<AccessEntry> = service.accept_proxy.iter().map(trusted).collect();
        let list = |entries: Vec<AccessEntry>| (!entries.is_empty()).then(|| AccessList::new(entries));
        Self {
            access: access(&service.access),
            rules: service
                .http
                .iter()
                .flat_map(|http| &http.rules)
                .map(|rule| access(&rule.access))
                .collect(),
            trusted: list(trusted),
            forwarders: list(forwarders),
            rate_of_all: service.rates.of_all.map(|rate| {
                let before = before.and_then(|guard| guard.rate_of_all.as_ref());
                Limit::new(rate, before, bell, Bucket::watched)
            }),
            rate_of_each: service.rates.of_each.map(|rate| {
                let before = before.and_then(|guard| guard.rate_of_each.as_ref());
                Limit::new(rate, before, bell, |limit, bell| SourceBuckets::watched(limit, SOURCES_MAX, bell))
            }),
            sni: SniRules::new(service.rules.iter().map(|rule| rule.sni.iter().map(String::as_str))),
        }
    }

    /// Whether a connection from `address` begins with a PROXY header.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.as_ref().is_some_and(|list| list.check(address).allowed)
    }

    /// Whether what `address` says of the client that it asks for is taken for true. Whom an entry of the service's list denies is
    /// no such proxy, whatever network of theirs holds him: the entry would mean nothing.
    pub(crate) fn trusts_word(&self, address: IpAddr) -> bool {
        let may_be_one = |list: &AccessList| {
            let verdict = list.check(address);
            verdict.allowed || !verdict.listed
        };
        self.forwarders.as_ref().is_some_and(|list| list.check(address).allowed)
            && self.access.as_ref().is_none_or(may_be_one)
    }

    /// How long to wait before there is room in the rate again, in whole seconds; at least one.
    pub(crate) fn retry_after_seconds(&self) -> u64 {
        let of_all = self.rate_of_all.as_ref().map(|limit| limit.rate);
        let rates = of_all.into_iter().chain(self.rate_of_each.as_ref().map(|limit| limit.rate));
        rates.map(|rate| rate.per.as_secs() / u64::from(rate.requests)).max().unwrap_or_default().max(1)
    }

    /// Whether `address` may connect. A proxy whose word is taken is nobody's client, so that it need not be in a list of those who may: its
    /// requests are looked at, each for the client that it names.
    pub(crate) fn lets_connect(&self, address: IpAddr) -> bool {
        self.allows(address) || self.trusts_word(address)
    }

    /// Whether `client` is let in at all.
    pub(crate) fn allows(&self, client: IpAddr) -> bool {
        self.access.as_ref().is_none_or(|list| list.check(client).allowed)
    }

    /// Whether requests of `client` that meet this rule are answered.
    pub(crate) fn rule_allows(&self, rule: Option<usize>, client: IpAddr) -> bool {
        self.of_rule(rule).is_none_or(|list| list.check(client).allowed)
    }

    /// The tag of the entry that says so, of the rule or of the service.
    pub(crate) fn tag(&self, rule: Option<usize>, client: IpAddr) -> Option<&str> {
        let of_rule = self.of_rule(rule).and_then(|list| list.check(client).tag);
        of_rule.or_else(|| self.access.as_ref()?.check(client).tag)
    }

    fn of_rule(&self, rule: Option<usize>) -> Option<&AccessList> {
        self.rules.get(rule?)?.as_ref()
    }

    /// Whether there is a rate, so that it takes the time.
    pub(crate) const fn has_rate(&self) -> bool {
        self.rate_of_all.is_some() || self.rate_of_each.is_some()
    }

    /// Whether what comes from `source` comes within the rates: from what [`stands for`](lbd_core::sources::network_of) the client, or for
    /// the value of the field that the rate counts by.
    pub(crate) fn within_rate(&self, source: IpAddr, now: Instant) -> bool {
        let of_all = self.rate_of_all.as_ref().map(|limit| &*limit.buckets);
        // What is refused takes no token from anybody: first what only looks, then the source's own, so that one source that asks for
        // too much leaves the others theirs.
        of_all.is_none_or(|bucket| bucket.has_token(now))
            && self.rate_of_each.as_ref().is_none_or(|limit| limit.buckets.admit(source, now))
            && of_all.is_none_or(|bucket| bucket.admit(now))
    }

    /// The buckets that both nodes keep together.
    pub(crate) fn pair_rates(&self) -> Option<PairRates<'_>> {
        let of_all = self.rate_of_all.as_ref().and_then(Limit::of_pair);
        let of_each = self.rate_of_each.as_ref().and_then(Limit::of_pair);
        (of_all.is_some() || of_each.is_some()).then_some(PairRates { of_all, of_each })
    }

    /// Sources whose bucket was forgotten for want of room, before it was full again.
    pub(crate) fn rate_sources_forgotten(&self) -> u64 {
        self.rate_of_each.as_ref().map_or(0, |limit| limit.buckets.forgotten())
    }
}

impl<B> Limit<B> {
    /// The buckets of `before`, if the rate is the same; else full ones, which ring the bell if the other node is told of them.
    fn new(
        rate: config::Rate,
        before: Option<&Self>,
        bell: &Arc<Bell>,
        make: impl FnOnce(RateLimit, &Arc<Bell>) -> B,
    ) -> Self {
        let buckets = match before {
            Some(before) if before.rate == rate => Arc::clone(&before.buckets),
            _ => {
                let nobody = Arc::default();
                let bell = if rate.scope == RateScope::Pair { bell } else { &nobody };
                Arc::new(make(RateLimit::new(rate.requests, rate.per), bell))
            }
        };
        Self { rate, buckets }
    }

    fn of_pair(&self) -> Option<&B> {
        (self.rate.scope == RateScope::Pair).then_some(&*self.buckets)
    }
}

/// A list, if there is anything in it.
fn access(lists: &config::Access) -> Option<AccessList> {
    let entry = |entry: &config::AccessEntry, allowed| AccessEntry {
        network: entry.network,
        allowed,
        tag: entry.tag.clone(),
    };
    let allowed = lists.allow.iter().map(|it| entry(it, true));
    let entries: Vec<AccessEntry> = allowed.chain(lists.deny.iter().map(|it| entry(it, false))).collect();
    (!entries.is_empty()).then(|| AccessList::new(entries))
}
