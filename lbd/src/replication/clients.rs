//! The tables that the workers share and that are about clients: which target one comes back to, which target a session has, and how much
//! of a rate is used up. Each is read and written where it is; what has changed, it remembers itself.

use std::net::IpAddr;
use std::sync::Arc;

use common::config::{Mode, RateScope};
use common::time::{Duration, Instant};
use lbd_core::forward::abi::{Abi, Address, FlowKey};
use lbd_core::forward::counts;
use lbd_core::holder::Holder;
use lbd_core::rate::{SOURCES_MAX, SourceBuckets, Told};
use lbd_core::replication::{Cursor, Entry, Key, Live, Name, NameId, Removal, Replica, Scan, Tuple};
use lbd_core::sticky::{Found, StickyTable};
use lbd_core::watched::Place;

use super::ids::Ids;
use super::strangers::Misfit;
use crate::l4::PairRates;
use crate::snapshot::{Group, Service, Snapshot, Stickiness, told_sessions};

/// IP's number of UDP.
const UDP: u8 = 17;

/// The source of a limit that all clients share.
const ALL_CLIENTS: [u8; 16] = [0; 16];

/// The place in the rates of a service at which only the one of all clients is left.
const OF_ALL_LEFT: Place = Place { part: u32::MAX, slot: 0 };

/// What has changed, as the core is told of it.
#[derive(Debug, Default)]
pub(super) struct News {
    puts: Vec<Live>,
    deletes: Vec<Key>,
}

impl News {
    fn tell(&mut self, replica: &mut Replica, now: Instant) {
        replica.changed_all(now, &self.puts);
        for key in &self.deletes {
            replica.deleted(now, key, Removal::Expired);
        }
        self.puts.clear();
        self.deletes.clear();
    }
}

/// Tells the core what has changed in all of them; whether there is more.
pub(super) fn take_news(snapshot: &Snapshot, ids: &mut Ids, replica: &mut Replica, now: Instant) -> bool {
    let mut news = News::default();
    let mut more = false;
    for (group, table) in sticky_tables(snapshot) {
        let Some(id) = ids.group(replica, &group.config.name) else { continue };
        more |= table.take_news(now, |&source, entry| match entry {
            Some(found) => {
                news.puts.extend(sticky(replica, ids, &group.config.name, id, source, found));
            }
            None => news.deletes.push(Key::Sticky { group: id, source: Address::from(source).0 }),
        });
        news.tell(replica, now);
    }
    for (service, table) in session_tables(snapshot) {
        let Some(id) = ids.service(replica, &service.config.name) else { continue };
        more |= table.take_news(now, |tuple, entry| match entry {
            Some(found) => {
                news.puts.extend(session(replica, ids, service, id, tuple, found));
            }
            None => news.deletes.push(Key::UdpSession(*tuple)),
        });
        news.tell(replica, now);
    }
    for (service, rates) in pair_rates(snapshot) {
        let Some(id) = ids.service(replica, &service.config.name) else { continue };
        let of_all = rates.of_all.and_then(|bucket| bucket.take_news(now));
        news.puts.extend(of_all.map(|told| rate(id, ALL_CLIENTS, told)));
        if let Some(buckets) = rates.of_each {
            more |= buckets.take_news(now, |source, told| {
                let source = Address::from(source).0;
                match told {
                    Some(told) => news.puts.push(rate(id, source, told)),
                    None => news.deletes.push(Key::Rate { service: id, source }),
                }
            });
        }
        news.tell(replica, now);
    }
    more
}

/// News that were lost for want of room, over all of them.
pub(super) fn lost(snapshot: &Snapshot) -> u64 {
    let sticky: u64 = sticky_tables(snapshot).map(|(_, table)| table.news_lost()).sum();
    let sessions: u64 = session_tables(snapshot).map(|(_, table)| table.news_lost()).sum();
    let rates = pair_rates(snapshot).map(|(_, rates)| rates.of_each.map_or(0, SourceBuckets::news_lost));
    sticky + sessions + rates.sum::<u64>()
}

/// Takes out what has run out, so that neither node remembers it any longer.
pub(super) fn expire(snapshot: &Snapshot, now: Instant) {
    sticky_tables(snapshot).for_each(|(_, table)| table.expire(now));
    session_tables(snapshot).for_each(|(_, table)| table.expire(now));
    for (_, rates) in pair_rates(snapshot) {
        if let Some(buckets) = rates.of_each {
            buckets.expire(now);
        }
    }
}

/// The other node's process is another one: it counts anew, and has none of the sockets of the one before.
pub(super) fn other_began_anew(snapshot: &Snapshot) {
    session_tables(snapshot).for_each(|(_, table)| table.other_is_gone());
    for (_, rates) in pair_rates(snapshot) {
        if let Some(bucket) = rates.of_all {
            bucket.other_began_anew();
        }
        if let Some(buckets) = rates.of_each {
            buckets.other_began_anew();
        }
    }
}

/// Finds the sticky clients for a scan.
pub(super) fn scan_sticky(
    snapshot: &Snapshot,
    ids: &mut Ids,
    replica: &mut Replica,
    now: Instant,
    scan: &Scan,
    found: &mut Vec<Live>,
) -> Option<Cursor> {
    let tables = sticky_tables(snapshot).map(|(group, table)| (group.config.name.as_str(), table));
    walk(tables, scan, found, |name, table, place, max, found| {
        let id = ids.group(replica, name)?;
        table.scan(place, max, now, |&source, it| {
            found.extend(sticky(replica, ids, name, id, source, it));
        })
    })
}

/// Finds the sessions for a scan.
pub(super) fn scan_sessions(
    snapshot: &Snapshot,
    ids: &mut Ids,
    replica: &mut Replica,
    now: Instant,
    scan: &Scan,
    found: &mut Vec<Live>,
) -> Option<Cursor> {
    let tables = session_tables(snapshot).map(|it| (it.0.config.name.as_str(), it));
    walk(tables, scan, found, |name, (service, table), place, max, found| {
        let id = ids.service(replica, name)?;
        table.scan(place, max, now, |tuple, it| {
            found.extend(session(replica, ids, service, id, tuple, it));
        })
    })
}

/// Finds the rates for a scan.
pub(super) fn scan_rates(
    snapshot: &Snapshot,
    ids: &mut Ids,
    replica: &mut Replica,
    now: Instant,
    scan: &Scan,
    found: &mut Vec<Live>,
) -> Option<Cursor> {
    let tables = pair_rates(snapshot).map(|(service, rates)| (service.config.name.as_str(), rates));
    walk(tables, scan, found, |name, rates, place, max, found| {
        let id = ids.service(replica, name)?;
        let most = found.len() + max;
        if let Some(buckets) = rates.of_each.filter(|_| place != OF_ALL_LEFT) {
            let next = buckets.scan(place, max, now, |source, told| {
                found.push(rate(id, Address::from(source).0, told));
            });
            if next.is_some() {
                return next;
            }
        }
        let told = rates.of_all?.told(now);
        if told.total > 0 || !told.remaining.is_zero() {
            if found.len() >= most {
                return Some(OF_ALL_LEFT);
            }
            found.push(rate(id, ALL_CLIENTS, told));
        }
        None
    })
}

/// Enters the other node's sticky client.
pub(super) fn put_sticky(
    snapshot: &Snapshot,
    (group, source, target): (Option<&Name>, [u8; 16], Option<&Name>),
    remaining: Option<Duration>,
    now: Instant,
) -> Result<(), Misfit> {
    let (sticky, index) = sticky_place(snapshot, group, target)?;
    let remaining = remaining.ok_or(Misfit::Invalid)?;
    sticky.table.put(&Address(source).ip(), sticky.id(index), remaining, Holder::Nobody, now);
    Ok(())
}

/// Where the clients of a group are remembered, and the place of a target among its targets.
pub(super) fn sticky_place<'a>(
    snapshot: &'a Snapshot,
    group: Option<&Name>,
    target: Option<&Name>,
) -> Result<(&'a Stickiness, usize), Misfit> {
    let (Some(Name::Group(group)), Some(Name::Target { group: its, id })) = (group, target) else {
        return Err(Misfit::Invalid);
    };
    if group != its {
        return Err(Misfit::Invalid);
    }
    let sticky = snapshot.group(group).and_then(|group| group.sticky.as_ref()).ok_or(Misfit::Unknown)?;
    Ok((sticky, sticky.index(id).ok_or(Misfit::Unknown)?))
}

/// Deletes one.
pub(super) fn delete_sticky(snapshot: &Snapshot, group: Option<&Name>, source: [u8; 16]) {
    if let Some(Name::Group(group)) = group
        && let Some(sticky) = snapshot.group(group).and_then(|group| group.sticky.as_ref())
    {
        sticky.table.withdraw(&Address(source).ip());
    }
}

/// Enters the target of a session of which the other node says whether it has it.
pub(super) fn put_session(
    snapshot: &Snapshot,
    (tuple, service, target): (&Tuple, Option<&Name>, Option<&Name>),
    there: bool,
    remaining: Option<Duration>,
    now: Instant,
) -> Result<(), Misfit> {
    let key = FlowKey::from_bytes(tuple).ok_or(Misfit::Invalid)?;
    if (key.protocol, key.spare) != (UDP, [0; 3]) {
        return Err(Misfit::Invalid);
    }
    let (table, id) = session_place(snapshot, service, target)?;
    let holder = if there { Holder::Other } else { Holder::Nobody };
    table.put(tuple, id, remaining.ok_or(Misfit::Invalid)?, holder, now);
    Ok(())
}

/// Where the sessions of a service are remembered, and the id of a target as they name it.
pub(super) fn session_place<'a, 'b>(
    snapshot: &'a Snapshot,
    service: Option<&Name>,
    target: Option<&'b Name>,
) -> Result<(&'a StickyTable<Tuple>, &'b Arc<str>), Misfit> {
    let (Some(Name::Service(service)), Some(Name::Target { group, id })) = (service, target) else {
        return Err(Misfit::Invalid);
    };
    let (service, table) =
        session_tables(snapshot).find(|(known, _)| *known.config.name == **service).ok_or(Misfit::Unknown)?;
    let its = &service.group;
    let known = its.targets.iter().any(|target| *target.key.id == **id);
    if *its.config.name != **group || !known {
        return Err(Misfit::Unknown);
    }
    Ok((table, id))
}

/// Deletes it, whosever it is: a tuple is that of one service.
pub(super) fn delete_session(snapshot: &Snapshot, tuple: &Tuple) {
    session_tables(snapshot).for_each(|(_, table)| table.withdraw(tuple));
}

/// Takes what the other node has admitted.
pub(super) fn put_rate(
    snapshot: &Snapshot,
    (service, source): (Option<&Name>, [u8; 16]),
    total: u64,
    remaining: Option<Duration>,
    now: Instant,
) -> Result<(), Misfit> {
    let told = Told { total, remaining: remaining.ok_or(Misfit::Invalid)? };
    let rates = rates_of(snapshot, service)?;
    if is_of_all(source) {
        rates.of_all.ok_or(Misfit::Unknown)?.put(told, now);
    } else {
        rates.of_each.ok_or(Misfit::Unknown)?.put(Address(source).ip(), told, now);
    }
    Ok(())
}

/// Whether a rate is that of all clients together.
pub(super) fn is_of_all(source: [u8; 16]) -> bool {
    source == ALL_CLIENTS
}

/// Whether a service has a rate that is the pair's, for all clients together or for each as asked for.
pub(super) fn has_rate(snapshot: &Snapshot, service: &Name, of_all: bool) -> bool {
    let has = |rates: PairRates<'_>| if of_all { rates.of_all.is_some() } else { rates.of_each.is_some() };
    (!of_all && counts_in_kernel(snapshot, service)) || rates_of(snapshot, Some(service)).is_ok_and(has)
}

/// Whether it is the kernel that counts for a service's rate, which is the pair's.
pub(super) fn counts_in_kernel(snapshot: &Snapshot, service: &Name) -> bool {
    let is_it = |known: &Service| matches!(service, Name::Service(name) if *known.config.name == **name);
    kernel_pair_rates(snapshot).any(is_it)
}

/// The rates of a service that are the pair's.
fn rates_of<'a>(snapshot: &'a Snapshot, service: Option<&Name>) -> Result<PairRates<'a>, Misfit> {
    let Some(Name::Service(service)) = service else { return Err(Misfit::Invalid) };
    let mut all = pair_rates(snapshot);
    all.find(|(known, _)| *known.config.name == **service).map(|it| it.1).ok_or(Misfit::Unknown)
}

/// How many entries the tables may have all together: sticky clients, sessions, rates.
pub(super) fn sizes(snapshot: &Snapshot) -> [usize; 3] {
    let sticky = snapshot.groups.iter().filter_map(|group| group.config.sticky.as_ref());
    let sessions = session_tables(snapshot).map(|(service, _)| told_sessions(&service.config));
    let rates = pair_rates(snapshot)
        .map(|(_, rates)| usize::from(rates.of_all.is_some()) + rates.of_each.map_or(0, |_| SOURCES_MAX));
    // One table is that of all services of the kernel.
    let in_kernel = kernel_pair_rates(snapshot).next().map_or(0, |_| counts::SOURCES_MAX);
    [sticky.map(|sticky| sticky.max_entries as usize).sum(), sessions.sum(), rates.sum::<usize>() + in_kernel]
}

fn sticky_tables(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<Group>, &StickyTable)> {
    snapshot.groups.iter().filter_map(|group| Some((group, &*group.sticky.as_ref()?.table)))
}

fn session_tables(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<Service>, &StickyTable<Tuple>)> {
    let services = snapshot.services.iter().filter(|service| service.config.mode == Mode::Udp);
    services.map(|service| (service, &service.shared.sessions))
}

fn pair_rates(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<Service>, PairRates<'_>)> {
    let proxied = snapshot.services.iter().filter(|service| !service.config.mode.in_kernel());
    proxied.filter_map(|service| Some((service, service.guard.pair_rates()?)))
}

fn kernel_pair_rates(snapshot: &Snapshot) -> impl Iterator<Item = &Service> {
    let in_kernel = snapshot.services.iter().filter(|service| service.config.mode.in_kernel());
    let is_pairs =
        |service: &&Service| service.config.rates.of_each.is_some_and(|rate| rate.scope == RateScope::Pair);
    in_kernel.map(|service| &**service).filter(is_pairs)
}

fn sticky(
    replica: &mut Replica,
    ids: &mut Ids,
    name: &str,
    group: NameId,
    source: IpAddr,
    found: Found<'_>,
) -> Option<Live> {
    let target = ids.target(replica, name, found.target)?;
    let entry = Entry::Sticky { group, source: Address::from(source).0, target };
    Some(Live { entry, remaining: Some(found.remaining) })
}

fn session(
    replica: &mut Replica,
    ids: &mut Ids,
    of: &Service,
    service: NameId,
    tuple: &Tuple,
    found: Found<'_>,
) -> Option<Live> {
    let target = ids.target(replica, &of.group.config.name, found.target)?;
    let entry = Entry::UdpSession { tuple: *tuple, service, target, here: found.here };
    Some(Live { entry, remaining: Some(found.remaining) })
}

fn rate(service: NameId, source: [u8; 16], told: Told) -> Live {
    Live { entry: Entry::Rate { service, source, total: told.total }, remaining: Some(told.remaining) }
}

/// Goes on with a walk through tables, in the order of their names, until enough was found.
fn walk<'a, T: Copy>(
    tables: impl Iterator<Item = (&'a str, T)>,
    scan: &Scan,
    found: &mut Vec<Live>,
    mut visit: impl FnMut(&'a str, T, Place, usize, &mut Vec<Live>) -> Option<Place>,
) -> Option<Cursor> {
    let (from, place) = read_cursor(&scan.cursor.0).unwrap_or_default();
    let mut tables: Vec<(&str, T)> = tables.filter(|(name, _)| *name >= from).collect();
    tables.sort_unstable_by_key(|(name, _)| *name);
    for (name, table) in tables {
        let left = scan.limit.saturating_sub(found.len());
        if left == 0 {
            return Some(Cursor(write_cursor(name, Place::default())));
        }
        let place = if name == from { place } else { Place::default() };
        if let Some(next) = visit(name, table, place, left, found) {
            return Some(Cursor(write_cursor(name, next)));
        }
    }
    None
}

fn write_cursor(name: &str, place: Place) -> Vec<u8> {
    [&place.part.to_le_bytes()[..], &place.slot.to_le_bytes(), name.as_bytes()].concat()
}

fn read_cursor(bytes: &[u8]) -> Option<(&str, Place)> {
    let (part, rest) = bytes.split_first_chunk()?;
    let (slot, name) = rest.split_first_chunk()?;
    let place = Place { part: u32::from_le_bytes(*part), slot: u64::from_le_bytes(*slot) };
    Some((std::str::from_utf8(name).ok()?, place))
}

/// The cursor at the beginning of a table.
#[cfg(test)]
pub(super) fn a_cursor(name: &str) -> Cursor {
    Cursor(write_cursor(name, Place::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Carry, Life};
    use common::hash::HashKey;
    use lbd_core::replication::{Settings, Table};

    #[test]
    fn a_walk_through_tables_finds_all_of_each() {
        let tables = [("b", 5_u64), ("a", 0), ("c", 7), ("ab", 1)];
        for limit in 1..15 {
            let (mut all, mut cursor) = (Vec::new(), Some(Cursor::default()));
            while let Some(at) = cursor {
                let scan = Scan { id: 1, table: Table::Rates, cursor: at, limit };
                let mut found = Vec::new();
                cursor = walk(tables.iter().copied(), &scan, &mut found, |name, count, place, max, found| {
                    for slot in place.slot..count {
                        if found.len() >= max {
                            return Some(Place { part: 3, slot });
                        }
                        all.push((name, slot));
                        let entry = Entry::Rate { service: some_id(), source: [0; 16], total: slot };
                        found.push(Live { entry, remaining: None });
                    }
                    None
                });
                assert!(found.len() <= limit);
            }
            let expected = [("ab", 1), ("b", 5), ("c", 7)];
            let expected =
                expected.into_iter().flat_map(|(name, count)| (0..count).map(move |slot| (name, slot)));
            assert!(all.into_iter().eq(expected), "{limit}");
        }
    }

    /// A node with a sticky group, a session service and rates.
    fn snapshot() -> Snapshot {
        of(TEXT)
    }

    const TEXT: &str = r#"
            [[service]]
            name = "web"
            mode = "tcp"
            listen = ["192.0.2.10:80"]
            forward = "pool"
            rate = { key = "source_ip", requests = 5, per = "1h", scope = "pair" }
            [[service]]
            name = "all"
            mode = "tcp"
            listen = ["192.0.2.10:81"]
            forward = "plain"
            rate = { key = "service", requests = 5, per = "1h" }
            [[service]]
            name = "dns"
            mode = "udp"
            listen = ["192.0.2.10:53"]
            forward = "plain"
            rate = [
                { key = "service", requests = 9, per = "1h", scope = "pair" },
                { key = "source_ip", requests = 5, per = "1h", scope = "pair" },
            ]
            [[target_group]]
            name = "pool"
            targets = [{ id = "s1", address = "192.0.2.20:80" }]
            sticky = { by = "source_ip", ttl = "60s" }
            [[target_group]]
            name = "plain"
            targets = [{ id = "p1", address = "192.0.2.20:53" }]
        "#;

    fn of(text: &str) -> Snapshot {
        let config = common::config::parse(text, std::path::Path::new("test.toml"));
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        let (node, alarm, bell) = ("a".to_owned(), Arc::default(), Arc::default());
        let life = Life {
            node,
            process: 1,
            workers: 1,
            alarm,
            bell,
            sessions: Arc::default(),
            ticket_secret: common::key::PairKey::new([0; 32]),
        };
        Snapshot::build(Arc::new(config), &Carry::nothing(life, HashKey::new([1; 16])))
    }

    const NOW: Instant = Instant::from_nanos(5_000_000_000);

    #[test]
    fn what_the_other_node_tells_is_looked_at_before_it_is_written() {
        let snapshot = snapshot();
        let group = |name: &str| Name::Group(name.into());
        let service = |name: &str| Name::Service(name.into());
        let target = |group: &str, id: &str| Name::Target { group: group.into(), id: id.into() };
        let long = Some(Duration::MAX);
        let source = Address::from(IpAddr::from([198, 51, 100, 1])).0;

        let sticky =
            |of: &Name, to: &Name, left| put_sticky(&snapshot, (Some(of), source, Some(to)), left, NOW);
        assert_eq!(sticky(&group("pool"), &target("pool", "s1"), long), Ok(()));
        assert_eq!(sticky(&group("pool"), &target("pool", "s9"), long), Err(Misfit::Unknown));
        assert_eq!(sticky(&group("none"), &target("none", "s1"), long), Err(Misfit::Unknown));
        assert_eq!(sticky(&group("plain"), &target("plain", "p1"), long), Err(Misfit::Unknown));
        assert_eq!(sticky(&group("pool"), &target("plain", "p1"), long), Err(Misfit::Invalid));
        assert_eq!(sticky(&service("web"), &target("pool", "s1"), long), Err(Misfit::Invalid));
        assert_eq!(sticky(&group("pool"), &group("pool"), long), Err(Misfit::Invalid));
        assert_eq!(sticky(&group("pool"), &target("pool", "s1"), None), Err(Misfit::Invalid));
        assert_eq!(put_sticky(&snapshot, (None, source, None), long, NOW), Err(Misfit::Invalid));
        let table = &snapshot.group("pool").unwrap().sticky.as_ref().unwrap().table;
        let known = table.entries(9, NOW);
        assert_eq!(
            (known.len(), known[0].remaining),
            (1, Duration::from_secs(60)),
            "no longer than one of its own"
        );
        delete_sticky(&snapshot, Some(&group("none")), source);
        delete_sticky(&snapshot, Some(&service("pool")), source);
        delete_sticky(&snapshot, None, source);
        assert_eq!(table.len(), 1);
        delete_sticky(&snapshot, Some(&group("pool")), source);
        assert_eq!(table.len(), 0);

        let tuple = |protocol| -> Tuple {
            let key = FlowKey::new(
                protocol,
                "198.51.100.1:4000".parse().unwrap(),
                "192.0.2.10:53".parse().unwrap(),
            );
            key.to_bytes().try_into().unwrap()
        };
        let session = |tuple: &Tuple, of: &Name, to: &Name, left| {
            put_session(&snapshot, (tuple, Some(of), Some(to)), true, left, NOW)
        };
        let (dns, p1) = (service("dns"), target("plain", "p1"));
        assert_eq!(session(&tuple(17), &dns, &p1, long), Ok(()));
        assert_eq!(session(&tuple(6), &dns, &p1, long), Err(Misfit::Invalid));
        assert_eq!(session(&[255; 40], &dns, &p1, long), Err(Misfit::Invalid));
        assert_eq!(session(&tuple(17), &dns, &p1, None), Err(Misfit::Invalid));
        assert_eq!(session(&tuple(17), &p1, &dns, long), Err(Misfit::Invalid));
        assert_eq!(session(&tuple(17), &service("web"), &target("pool", "s1"), long), Err(Misfit::Unknown));
        assert_eq!(session(&tuple(17), &dns, &target("pool", "s1"), long), Err(Misfit::Unknown));
        assert_eq!(session(&tuple(17), &dns, &target("plain", "p2"), long), Err(Misfit::Unknown));
        delete_session(&snapshot, &tuple(6));
        assert_eq!(session_tables(&snapshot).map(|it| it.1.len()).collect::<Vec<_>>(), [1]);
        delete_session(&snapshot, &tuple(17));
        assert_eq!(session_tables(&snapshot).map(|it| it.1.len()).collect::<Vec<_>>(), [0]);

        let rate = |of: &Name, source, left| put_rate(&snapshot, (Some(of), source), u64::MAX, left, NOW);
        assert_eq!(rate(&service("web"), source, long), Ok(()));
        assert_eq!(rate(&service("web"), source, None), Err(Misfit::Invalid));
        assert_eq!(rate(&group("web"), source, long), Err(Misfit::Invalid));
        assert_eq!(rate(&service("web"), ALL_CLIENTS, long), Err(Misfit::Unknown), "each source has its own");
        assert_eq!(rate(&service("all"), ALL_CLIENTS, long), Err(Misfit::Unknown), "each node has its own");
        assert_eq!(rate(&service("none"), source, long), Err(Misfit::Unknown));
        assert_eq!(rate(&service("dns"), ALL_CLIENTS, long), Ok(()));
        assert_eq!(rate(&service("dns"), source, long), Ok(()));
        assert_eq!([true, false].map(|of_all| has_rate(&snapshot, &service("web"), of_all)), [false, true]);
        assert_eq!([true, false].map(|of_all| has_rate(&snapshot, &service("dns"), of_all)), [true; 2]);
        let guard = &snapshot.services[0].guard;
        assert!(!guard.within_rate(Address(source).ip(), NOW), "as empty as can be, and no emptier");
        assert!(guard.within_rate(Address(source).ip(), NOW + Duration::from_secs(721)));
    }

    #[test]
    fn there_is_room_for_what_each_service_and_group_may_have() {
        let [sticky, sessions, rates] = sizes(&snapshot());
        let configured =
            snapshot().group("pool").unwrap().config.sticky.as_ref().unwrap().max_entries as usize;
        assert_eq!(
            (sticky, rates),
            (configured, 2 * SOURCES_MAX + 1),
            "the rate of each node alone is told to nobody"
        );
        assert_eq!(sessions, told_sessions(&snapshot().services[2].config));
        let mut text = TEXT.to_owned();
        for number in 0..3 {
            text.push_str(&format!(
                "[[service]]\nname = \"web{number}\"\nmode = \"tcp\"\nlisten = [\"192.0.2.11:{}\"]\nforward = \"pool\"\n\
                 rate = {{ key = \"source_ip\", requests = 5, per = \"1h\", scope = \"pair\" }}\n",
                80 + number
            ));
        }
        assert_eq!(sizes(&of(&text))[2], 5 * SOURCES_MAX + 1);
        for number in 0..2 {
            text.push_str(&in_kernel(number));
        }
        assert_eq!(sizes(&of(&text))[2], 5 * SOURCES_MAX + 1 + counts::SOURCES_MAX, "they share one table");
    }

    /// A service of the kernel, and its group.
    fn in_kernel(number: u16) -> String {
        format!(
            "[[service]]\nname = \"nat{number}\"\nmode = \"nat\"\nlisten = [\"192.0.2.12:{}\"]\nforward = \"nat{number}\"\n\
             rate = {{ key = \"source_ip\", requests = 5, per = \"1h\", scope = \"pair\" }}\n\
             [[target_group]]\nname = \"nat{number}\"\ntargets = [{{ address = \"192.0.2.{}:80\" }}]\n",
            80 + number,
            40 + number
        )
    }

    #[test]
    fn what_the_kernel_counts_is_kept_apart_from_what_the_proxies_do() {
        let snapshot = of(&(TEXT.to_owned() + &in_kernel(0)));
        let service = |name: &str| Name::Service(name.into());
        for (name, is_the_kernels) in [("nat0", true), ("web", false), ("all", false), ("none", false)] {
            assert_eq!(counts_in_kernel(&snapshot, &service(name)), is_the_kernels, "{name}");
        }
        assert!(!counts_in_kernel(&snapshot, &Name::Group("nat0".into())));
        assert_eq!([true, false].map(|of_all| has_rate(&snapshot, &service("nat0"), of_all)), [false, true]);
        let source = Address::from(IpAddr::from([198, 51, 100, 1])).0;
        for source in [source, ALL_CLIENTS] {
            let put = put_rate(&snapshot, (Some(&service("nat0")), source), 1, Some(Duration::MAX), NOW);
            assert_eq!(put, Err(Misfit::Unknown));
        }
        let per_node = in_kernel(0).replace("\"pair\"", "\"node\"");
        assert!(!counts_in_kernel(&of(&(TEXT.to_owned() + &per_node)), &service("nat0")));
    }

    #[test]
    fn both_rates_of_a_service_are_told_and_found_once() {
        let snapshot = snapshot();
        let settings = Settings::new("a", 1, 1, HashKey::new([0; 16]), 1);
        let mut replica = Replica::new(settings, Instant::ZERO);
        let mut ids = Ids::default();
        let guard = &snapshot.services[2].guard;
        let clients = (1..=9_u8).map(|host| IpAddr::from([198, 51, 100, host / 2]));
        assert_eq!(clients.filter(|client| guard.within_rate(*client, NOW)).count(), 9);
        assert!(!guard.within_rate(IpAddr::from([198, 51, 100, 9]), NOW), "over the service's");
        for limit in 1..8 {
            let (mut all, mut cursor) = (Vec::new(), Some(Cursor::default()));
            while let Some(at) = cursor {
                let scan = Scan { id: 1, table: Table::Rates, cursor: at, limit };
                let mut found = Vec::new();
                cursor = scan_rates(&snapshot, &mut ids, &mut replica, NOW, &scan, &mut found);
                assert!(found.len() <= limit);
                all.extend(found.into_iter().map(|live| match live.entry {
                    Entry::Rate { source, .. } => source,
                    other => panic!("{other:?}"),
                }));
            }
            all.sort_unstable();
            let expected = (0..=4_u8).map(|host| Address::from(IpAddr::from([198, 51, 100, host])).0);
            assert!(all.iter().copied().eq(std::iter::once(ALL_CLIENTS).chain(expected)), "{limit}: {all:?}");
        }
    }

    fn some_id() -> NameId {
        let settings = Settings::new("a", 1, 1, HashKey::new([0; 16]), 1);
        Replica::new(settings, Instant::ZERO).name(Name::Service("x".into())).unwrap()
    }
}
