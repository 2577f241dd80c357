//! What DNS answers mean: A and AAAA records of one name, and SRV records with the addresses of their hosts.
//!
//! The two families are asked for separately and may fail separately. A family that fails keeps the addresses it last had,
//! so that a server which drops every AAAA question for a while does not take the IPv6 targets away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use common::time::Duration;

use super::{Answer, Entries, Failure, FailureKind, count, is_usable, plain, scaled};

/// A port that targets may have, where it is about the address alone.
const ANY_PORT: u16 = 1;

/// What came of asking for one type of a name's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// Records of this type.
    Found {
        /// Their contents.
        records: Vec<T>,
        /// The smallest time to live among them and the aliases that led there.
        ttl: Duration,
    },
    /// The name does not exist, or has no records of this type.
    Missing {
        /// How long that may be remembered: the smaller of the SOA record's TTL and its MINIMUM (RFC 2308 §5).
        ttl: Option<Duration>,
    },
    /// No answer, or one that says that there is none.
    Failed(String),
}

/// A name's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4 first.
    pub list: Vec<IpAddr>,
    /// How long they hold.
    pub ttl: Duration,
    /// Why a family's addresses are those of a former answer.
    pub half: Option<Failure>,
    /// How many more there were that nothing can be sent to.
    pub unusable: u64,
    /// How many more there were than targets are taken.
    pub over_limit: u64,
}

/// The last good addresses of each family of the names asked for, of each name no more than targets are taken: hosts by the thousand with
/// thousands of addresses each are more than any list has use for.
#[derive(Clone, Debug)]
pub struct Names {
    known: BTreeMap<String, [Vec<IpAddr>; 2]>,
    addresses_max: usize,
}

impl Names {
    /// None yet, for a list of at most `max_targets`.
    #[must_use]
    pub fn up_to(max_targets: u32) -> Self {
        let addresses_max = usize::try_from(max_targets).unwrap_or(usize::MAX);
        Self { known: BTreeMap::new(), addresses_max }
    }

    /// What the answers for a name's A and AAAA records mean together.
    ///
    /// # Errors
    ///
    /// When neither family has records.
    pub fn settle(&mut self, name: &str, lookups: [Lookup<IpAddr>; 2]) -> Result<Addresses, Failure> {
        let found = lookups.iter().any(|lookup| matches!(lookup, Lookup::Found { .. }));
        if !found {
            return Err(nothing_found(name, lookups));
        }
        let known = self.known.entry(name.to_owned()).or_default();
        let mut addresses =
            Addresses { list: Vec::new(), ttl: Duration::MAX, half: None, unusable: 0, over_limit: 0 };
        for ((lookup, known), kind) in lookups.into_iter().zip(known).zip(KINDS) {
            match lookup {
                Lookup::Found { records, ttl } => {
                    *known = records;
                    addresses.ttl = addresses.ttl.min(ttl);
                }
                Lookup::Missing { .. } => known.clear(),
                Lookup::Failed(message) => addresses.half = Some(unanswered(name, kind, &message)),
            }
            let room = self.addresses_max.saturating_sub(addresses.list.len());
            let (unusable, over_limit) = cut(known, room);
            addresses.unusable += unusable;
            addresses.over_limit += over_limit;
            addresses.list.extend(known.iter());
        }
        Ok(addresses)
    }

    /// The addresses a name had when it was last answered.
    #[must_use]
    pub fn last(&self, name: &str) -> Vec<IpAddr> {
        self.known.get(name).into_iter().flatten().flatten().copied().collect()
    }

    /// Forgets the names that are no longer asked for.
    pub fn keep(&mut self, names: &BTreeSet<&str>) {
        self.known.retain(|name, _| names.contains(name.as_str()));
    }
}

/// Leaves as many of the addresses as there is room for, those that come first in the order of answers, and gives the memory of the others
/// back. Answers how many others cannot be used, and how many are too many.
fn cut(addresses: &mut Vec<IpAddr>, room: usize) -> (u64, u64) {
    let all = addresses.len();
    addresses.retain(|ip| is_usable(SocketAddr::new(*ip, ANY_PORT)));
    let usable = addresses.len();
    addresses.sort_unstable();
    addresses.truncate(room);
    addresses.shrink_to_fit();
    (count(all - usable), count(usable - addresses.len()))
}

/// The types of the records of each family.
const KINDS: [&str; 2] = ["A", "AAAA"];

fn unanswered(name: &str, kind: &str, message: &str) -> Failure {
    Failure::unreachable(format!("asking DNS for {kind} records of {name}: {message}"))
}

fn nothing_found(name: &str, lookups: [Lookup<IpAddr>; 2]) -> Failure {
    let mut negative = Vec::new();
    for (lookup, kind) in lookups.into_iter().zip(KINDS) {
        match lookup {
            Lookup::Failed(message) => return unanswered(name, kind, &message),
            Lookup::Missing { ttl } => negative.extend(ttl),
            Lookup::Found { .. } => {}
        }
    }
    let failure = Failure::empty(format!("DNS has no address for {name}"));
    Failure { ttl: negative.into_iter().min(), ..failure }
}

/// The answer that a name's addresses are, all with the same port.
///
/// # Errors
///
/// When none of them can be used.
pub fn from_addresses(
    name: &str,
    addresses: &Addresses,
    port: u16,
    max_targets: u32,
) -> Result<Answer, Failure> {
    let mut entries = Entries::up_to(max_targets);
    for &ip in &addresses.list {
        entries.push(plain(SocketAddr::new(ip, port)));
    }
    let nothing = format!("DNS has no usable address for {name}");
    entries.unusable += addresses.unusable;
    entries.over_limit += addresses.over_limit;
    let answer = entries.into_answer(&nothing)?;
    Ok(Answer { ttl: Some(addresses.ttl), partial: addresses.half.clone(), ..answer })
}

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// The lowest one is used first.
    pub priority: u16,
    /// The host, in lower case with a dot at its end; `.` alone says that there is no such service.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its share among those of the same priority.
    pub weight: u16,
}

/// SRV records ready for asking for their hosts' addresses: in order, no more than `max_targets`, and how many that left out.
#[must_use]
pub fn in_order(mut services: Vec<Service>, max_targets: u32) -> (Vec<Service>, u64) {
    services.sort();
    services.dedup();
    let max_targets = usize::try_from(max_targets).unwrap_or(usize::MAX);
    let over_limit = count(services.len().saturating_sub(max_targets));
    services.truncate(max_targets);
    (services, over_limit)
}

/// The hosts of SRV records in the order in which they are asked for: from behind the one that had its turn last, so that hosts for which the
/// time did not suffice come first the next time.
#[must_use]
pub fn in_turn<'s>(services: &'s [Service], last: &str) -> Vec<&'s str> {
    let hosts = services.iter().map(|service| service.host.as_str()).filter(|host| *host != ".");
    let (behind, before): (BTreeSet<&str>, BTreeSet<&str>) = hosts.partition(|host| *host > last);
    behind.into_iter().chain(before).collect()
}

/// What is known of an SRV record's host.
pub type Hosts = BTreeMap<String, Result<Addresses, Failure>>;

/// The answer that SRV records and their hosts' addresses make: those of the lowest priority are primaries, the others
/// backups. A host that DNS fails for keeps the addresses in `names`; one that has none is left out.
///
/// # Errors
///
/// When no host has a usable address.
pub fn from_services(
    name: &str,
    services: &[Service],
    ttl: Duration,
    hosts: &Hosts,
    names: &Names,
    max_targets: u32,
) -> Result<Answer, Failure> {
    let mut entries = Entries::up_to(max_targets);
    let mut ttl = ttl;
    let (mut failed, mut half) = (None, None);
    let first = services.first().map_or(0, |service| service.priority);
    let weights = weights(services);
    for (service, weight) in services.iter().zip(weights) {
        let unusable_before = entries.unusable;
        let addresses = match hosts.get(&service.host) {
            Some(Ok(addresses)) => {
                ttl = ttl.min(addresses.ttl);
                half = half.or(addresses.half.as_ref());
                entries.unusable += addresses.unusable;
                entries.over_limit += addresses.over_limit;
                addresses.list.clone()
            }
            Some(Err(failure)) if failure.kind == FailureKind::Unreachable => {
                failed = Some(failure);
                names.last(&service.host)
            }
            Some(Err(_)) | None => Vec::new(),
        };
        if addresses.is_empty() && entries.unusable == unusable_before {
            entries.unusable += 1;
        }
        for ip in addresses {
            let mut target = plain(SocketAddr::new(ip, service.port));
            target.weight = weight;
            target.backup = service.priority > first;
            entries.push(target);
        }
    }
    let nothing = format!("no host in the SRV records of {name} has a usable address");
    match (entries.into_answer(&nothing), failed) {
        (Ok(answer), failed) => Ok(Answer { ttl: Some(ttl), partial: failed.or(half).cloned(), ..answer }),
        (Err(_), Some(failed)) => Err(failed.clone()),
        (Err(failure), None) => Err(failure),
    }
}

/// Our weights for SRV records in order: ratios count within a priority only.
fn weights(services: &[Service]) -> Vec<u16> {
    let same_priority = services.chunk_by(|a, b| a.priority == b.priority);
    same_priority
        .flat_map(|services| scaled(&services.iter().map(|service| service.weight).collect::<Vec<_>>()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(60);

    fn found(addresses: &[&str], ttl_s: u64) -> Lookup<IpAddr> {
        let records = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Lookup::Found { records, ttl: Duration::from_secs(ttl_s) }
    }

    fn none() -> Addresses {
        Addresses { list: Vec::new(), ttl: TTL, half: None, unusable: 0, over_limit: 0 }
    }

    fn missing(ttl_s: u64) -> Lookup<IpAddr> {
        Lookup::Missing { ttl: Some(Duration::from_secs(ttl_s)) }
    }

    fn failed() -> Lookup<IpAddr> {
        Lookup::Failed("time-out".to_owned())
    }

    fn service(priority: u16, weight: u16, port: u16, host: &str) -> Service {
        Service { priority, weight, port, host: host.to_owned() }
    }

    fn addresses(answer: &Answer) -> Vec<String> {
        answer.targets.iter().map(|target| target.address.to_string()).collect()
    }

    #[test]
    fn both_families_make_one_list() {
        let mut names = Names::up_to(10);
        let lookups = [found(&["10.0.0.2", "10.0.0.1"], 60), found(&["2001:db8::1"], 20)];
        let settled = names.settle("shop.", lookups).unwrap();
        let answer = from_addresses("shop.", &settled, 80, 10).unwrap();
        assert_eq!(addresses(&answer), ["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"]);
        assert_eq!(answer.targets[0].id, "10.0.0.1:80");
        assert_eq!(answer.ttl, Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_failing_family_keeps_its_addresses_and_a_missing_one_does_not() {
        let mut names = Names::up_to(10);
        names.settle("shop.", [found(&["10.0.0.1"], 60), found(&["2001:db8::1"], 60)]).unwrap();
        let half = names.settle("shop.", [found(&["10.0.0.2"], 60), failed()]).unwrap();
        assert_eq!(half.list, ["10.0.0.2".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        let failure = Failure::unreachable("asking DNS for AAAA records of shop.: time-out");
        assert_eq!(half.half, Some(failure.clone()));
        assert_eq!(from_addresses("shop.", &half, 80, 10).unwrap().partial, Some(failure));
        let only = names.settle("shop.", [found(&["10.0.0.2"], 60), missing(5)]).unwrap();
        assert_eq!((only.list.len(), only.half), (1, None));
        let after = names.settle("shop.", [found(&["10.0.0.2"], 60), failed()]).unwrap();
        assert_eq!(after.list.len(), 1, "what is missing is forgotten");
    }

    #[test]
    fn nothing_at_all_is_a_failure_and_negative_answers_say_for_how_long() {
        let mut names = Names::up_to(10);
        let failure = names.settle("shop.", [missing(30), missing(20)]).unwrap_err();
        assert_eq!((failure.kind, failure.ttl), (FailureKind::Empty, Some(Duration::from_secs(20))));
        for lookups in [[missing(30), failed()], [failed(), missing(30)], [failed(), failed()]] {
            let failure = names.settle("shop.", lookups).unwrap_err();
            assert_eq!((failure.kind, failure.ttl), (FailureKind::Unreachable, None));
        }
    }

    #[test]
    fn thousands_of_records_are_cut_to_the_limit() {
        let records =
            (0..5000_u32).map(|host| IpAddr::from((0x0a00_0000 + host).to_be_bytes())).rev().collect();
        let list = Addresses { list: records, ..none() };
        let answer = from_addresses("shop.", &list, 80, 1024).unwrap();
        assert_eq!((answer.targets.len(), answer.over_limit), (1024, 5000 - 1024));
        assert_eq!(answer.targets[0].id, "10.0.0.0:80");
    }

    /// Of what would be a million targets never more than a few times the limit is there at once; the same ones are taken as if all were.
    #[test]
    fn records_whose_hosts_have_thousands_of_addresses_are_cut_to_the_limit() {
        let services: Vec<_> = (0..500).map(|port| service(1, 1, 8000 + port, "many.")).collect();
        let records: Vec<_> =
            (0..2000_u32).map(|host| IpAddr::from((0x0a00_0000 + host).to_be_bytes())).collect();
        let list = Addresses { list: records, ..none() };
        let hosts = Hosts::from([("many.".to_owned(), Ok(list))]);
        let answer = from_services("x.", &services, TTL, &hosts, &Names::up_to(100), 100).unwrap();
        assert_eq!((answer.targets.len(), answer.over_limit), (100, 1_000_000 - 100));
        assert_eq!([&answer.targets[0].id, &answer.targets[99].id], ["10.0.0.0:8000", "10.0.0.0:8099"]);
    }

    #[test]
    fn no_more_of_a_name_is_remembered_than_is_taken() {
        let mut names = Names::up_to(100);
        let v4: Vec<_> = (0..4000_u32).map(|host| IpAddr::from((0x0a00_0000 + host).to_be_bytes())).collect();
        let v6: Vec<_> = (0..2000_u128)
            .map(|host| IpAddr::from(((0x2001_0db8_u128 << 96) | host).to_be_bytes()))
            .collect();
        let lookup =
            |records: &[IpAddr]| Lookup::Found { records: records.iter().rev().copied().collect(), ttl: TTL };
        let settled = names.settle("many.", [lookup(&v4), lookup(&v6)]).unwrap();
        assert_eq!((&settled.list[..], settled.over_limit, settled.unusable), (&v4[..100], 5900, 0));
        assert_eq!(names.last("many."), v4[..100]);
        assert!(names.known["many."].iter().all(|known| known.capacity() <= 200), "the memory is given back");
        // One family fails, and what it had is no more than there is room for beside the other one.
        let settled = names.settle("many.", [failed(), lookup(&v6)]).unwrap();
        assert_eq!((settled.list.len(), settled.over_limit), (100, 2000));
        let settled = names.settle("many.", [lookup(&v4[..30]), lookup(&v6)]).unwrap();
        assert_eq!(
            (&settled.list[..30], &settled.list[30..], settled.over_limit),
            (&v4[..30], &v6[..70], 1930)
        );
        // Room is for addresses that can be used.
        let nowhere: Vec<_> = (1..=200_u8).map(|host| IpAddr::from([224, 0, 0, host])).collect();
        let settled = names.settle("many.", [lookup(&nowhere), lookup(&v6[..50])]).unwrap();
        assert_eq!((&settled.list[..], settled.over_limit, settled.unusable), (&v6[..50], 0, 200));
        let answer = from_addresses("many.", &settled, 80, 100).unwrap();
        assert_eq!((answer.targets.len(), answer.unusable), (50, 200));
    }

    #[test]
    fn priorities_are_backups_and_weights_are_scaled() {
        let services = vec![
            service(20, 0, 81, "c."),
            service(10, 100, 80, "a."),
            service(10, 1000, 80, "b."),
            service(10, 1000, 80, "b."),
        ];
        let (services, over_limit) = in_order(services, 10);
        assert_eq!(over_limit, 0);
        let host = |address: &str, ttl_s| {
            let list = vec![address.parse().unwrap()];
            Ok(Addresses { list, ttl: Duration::from_secs(ttl_s), ..none() })
        };
        let hosts = Hosts::from([
            ("a.".to_owned(), host("10.0.0.1", 60)),
            ("b.".to_owned(), host("10.0.0.2", 9)),
            ("c.".to_owned(), host("10.0.0.3", 60)),
        ]);
        let answer = from_services("_x._tcp.", &services, TTL, &hosts, &Names::up_to(10), 10).unwrap();
        assert_eq!(addresses(&answer), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:81"]);
        let weights: Vec<(u16, bool)> =
            answer.targets.iter().map(|target| (target.weight, target.backup)).collect();
        assert_eq!(weights, [(26, false), (256, false), (1, true)]);
        assert_eq!(answer.ttl, Some(Duration::from_secs(9)));
    }

    #[test]
    fn each_host_has_its_turn() {
        let services = ["c.", "a.", ".", "b.", "a."].map(|host| service(1, 1, 80, host));
        assert_eq!(in_turn(&services, ""), ["a.", "b.", "c."]);
        assert_eq!(in_turn(&services, "a."), ["b.", "c.", "a."]);
        assert_eq!(in_turn(&services, "bb."), ["c.", "a.", "b."], "also if it is not there any more");
        assert_eq!(in_turn(&services, "c."), ["a.", "b.", "c."]);
    }

    #[test]
    fn a_host_without_an_answer_keeps_its_addresses() {
        let services = [service(1, 1, 80, "a."), service(1, 1, 80, "b."), service(1, 1, 80, ".")];
        let mut names = Names::up_to(10);
        names.settle("a.", [found(&["10.0.0.1"], 60), missing(1)]).unwrap();
        names.settle("b.", [found(&["10.0.0.2"], 60), missing(1)]).unwrap();
        let hosts = Hosts::from([
            ("a.".to_owned(), Err(Failure::unreachable("time-out"))),
            ("b.".to_owned(), Err(Failure::empty("gone"))),
        ]);
        let answer = from_services("x.", &services, TTL, &hosts, &names, 10).unwrap();
        assert_eq!((addresses(&answer), answer.unusable), (vec!["10.0.0.1:80".to_owned()], 2));
        assert_eq!(answer.partial, Some(Failure::unreachable("time-out")));
        names.keep(&BTreeSet::from(["b."]));
        let failure = from_services("x.", &services, TTL, &hosts, &names, 10).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unreachable);
        let failure = from_services("x.", &services[2..], TTL, &hosts, &names, 10).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Empty);
    }

    proptest! {
        /// Whatever DNS says: nothing panics, the limit holds, ids are unique, some primary exists.
        #[test]
        fn any_records_make_a_bounded_answer(
            records in proptest::collection::vec((any::<u16>(), any::<u16>(), any::<u16>(), 0_u8..6), 0..80),
            hosts in proptest::collection::vec(proptest::collection::vec(any::<IpAddr>(), 0..6), 6),
            max_targets in 1_u32..50
        ) {
            let services = records
                .iter()
                .map(|&(priority, weight, port, host)| service(priority % 3, weight, port, &format!("h{host}.")))
                .collect();
            let hosts = (0..)
                .zip(hosts)
                .map(|(number, list): (u8, _)| (format!("h{number}."), Ok(Addresses { list, ..none() })))
                .collect();
            let (services, _) = in_order(services, max_targets);
            let answer = from_services("x.", &services, TTL, &hosts, &Names::up_to(max_targets), max_targets);
            if let Ok(answer) = answer {
                prop_assert!(!answer.targets.is_empty() && answer.targets.len() <= max_targets as usize);
                let ids: BTreeSet<_> = answer.targets.iter().map(|target| &target.id).collect();
                prop_assert_eq!(ids.len(), answer.targets.len());
                prop_assert!(answer.targets.iter().all(|target| (1..=256).contains(&target.weight)));
            }
        }
    }
}
