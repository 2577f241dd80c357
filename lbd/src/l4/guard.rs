//! What a service asks of a client before it is let in, ready for use.

use std::net::IpAddr;
use std::sync::Arc;

use common::config::{self, RateKey, RateScope};
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
    rate: Option<(config::Rate, Arc<Limiter>)>,
    /// Rules for server names, by their place in the file.
    pub(crate) sni: SniRules,
}

/// The buckets of a rate.
#[derive(Debug)]
pub(crate) enum Limiter {
    /// One for all clients.
    Service(Bucket),
    /// One for each source.
    Source(SourceBuckets),
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
            rate: service.rate.map(|rate| (rate, limiter(rate, before, bell))),
            sni: SniRules::new(service.rules.iter().map(|rule| rule.sni.iter().map(String::as_str))),
        }
    }

    /// Whether a connection from `address` begins with a PROXY header.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.as_ref().is_some_and(|list| list.check(address).allowed)
    }

    /// Whether what `address` says of the client that it asks for is taken for true.
    pub(crate) fn trusts_word(&self, address: IpAddr) -> bool {
        self.forwarders.as_ref().is_some_and(|list| list.check(address).allowed)
    }

    /// How long to wait before there is room in the rate again, in whole seconds; at least one.
    pub(crate) fn retry_after_seconds(&self) -> u64 {
        let Some((rate, _)) = &self.rate else { return 1 };
        (rate.per.as_secs() / u64::from(rate.requests)).max(1)
    }

    /// Whether `client` may connect at all.
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

    /// Whether there is a rate, so that it takes the time; one that counts by a header is looked at once there is one.
    pub(crate) const fn has_rate(&self) -> bool {
        matches!(&self.rate, Some((rate, _)) if !matches!(rate.key, RateKey::Header))
    }

    /// Whether `source`, a client or what stands for something else in the place of its address, comes within the rate.
    pub(crate) fn within_rate(&self, source: IpAddr, now: Instant) -> bool {
        match self.rate.as_ref().map(|(_, limiter)| &**limiter) {
            None => true,
            Some(Limiter::Service(bucket)) => bucket.admit(now),
            Some(Limiter::Source(buckets)) => buckets.admit(source, now),
        }
    }

    /// The buckets of a rate that both nodes keep together.
    pub(crate) fn pair_rate(&self) -> Option<&Limiter> {
        let (rate, limiter) = self.rate.as_ref()?;
        (rate.scope == RateScope::Pair).then_some(limiter)
    }

    /// Sources whose bucket was forgotten for want of room, before it was full again.
    pub(crate) fn rate_sources_forgotten(&self) -> u64 {
        match self.rate.as_ref().map(|(_, limiter)| &**limiter) {
            Some(Limiter::Source(buckets)) => buckets.forgotten(),
            _ => 0,
        }
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

fn limiter(rate: config::Rate, before: Option<&Guard>, bell: &Arc<Bell>) -> Arc<Limiter> {
    if let Some((same, limiter)) = before.and_then(|guard| guard.rate.as_ref())
        && *same == rate
    {
        return Arc::clone(limiter);
    }
    let limit = RateLimit::new(rate.requests, rate.per);
    Arc::new(match (rate.key, rate.scope) {
        (RateKey::Service, RateScope::Node) => Limiter::Service(Bucket::new(limit)),
        (RateKey::Service, RateScope::Pair) => Limiter::Service(Bucket::watched(limit, bell)),
        (RateKey::SourceIp | RateKey::Header, RateScope::Node) => {
            Limiter::Source(SourceBuckets::new(limit, SOURCES_MAX))
        }
        (RateKey::SourceIp | RateKey::Header, RateScope::Pair) => {
            Limiter::Source(SourceBuckets::watched(limit, SOURCES_MAX, bell))
        }
    })
}
