//! Which target a client was sent to, so that it is sent there again.
//!
//! Targets are named by their id, never by their place in a list: a reload, or the other node of a pair, may have them in
//! another order.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use common::time::{Duration, Instant};

use crate::bell::Bell;
use crate::holder::{Holder, Holders};
use crate::sharded::Parts;
use crate::sources::{SourceCounts, network_of};
use crate::watched::{self, Place, Watched};

/// The clients of a target group, or the sessions of a service, by `K`. All workers share it.
///
/// An entry lasts for `ttl` after its last use. In a full table the one unused for the longest makes room, which is counted;
/// its client gets a target like a new one when it comes back. What an entry takes, the README says; its key takes room once more
/// while it waits to be told.
///
/// What is new is told to whoever listens to the table's [`Bell`]: entries that came or went, other targets, that another node has what is
/// behind an entry, and that an entry lasts longer than was told, once that is an eighth of `ttl` or more.
#[derive(Debug)]
pub struct StickyTable<K = IpAddr> {
    ttl: AtomicU64,
    parts: Parts<Watched<K, Entry>>,
    forgotten: AtomicU64,
    /// Entries that each client has of those that targets have given it, and as many of which it may have for certain.
    shares: SourceCounts,
    share: AtomicU32,
    withheld: AtomicU64,
    bell: Arc<Bell>,
    holders: Option<Arc<dyn Holders<K>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    target: Arc<str>,
    expires: Instant,
    /// When it expires as far as whoever listens knows.
    told: Instant,
    holder: Holder,
    /// The client of whose share it takes a place.
    client: Option<IpAddr>,
}

/// This part of a table is a client's for what targets give to it.
const SHARE_PART: usize = 8;

/// By how much of its lifetime an entry lasts longer than was told before that is told: a client that comes all the time costs
/// eight words in a lifetime.
const TOLD_PARTS: u64 = 8;

/// What the other node has is kept for this part of `ttl` longer than it said: so much later than the last word on it may it have been
/// used there, and twice that.
const UNTOLD_PART: u32 = 4;

/// What there is of a key.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The target's id.
    pub target: &'a Arc<str>,
    /// How long that lasts.
    pub remaining: Duration,
    /// Whether it is this node that has what is behind it.
    pub here: bool,
}

impl Entry {
    /// One that nobody has been told of.
    fn new(target: &Arc<str>, expires: Instant, holder: Holder, client: Option<IpAddr>) -> Self {
        Self { target: Arc::clone(target), expires, told: Instant::ZERO, holder, client }
    }
}

impl<'a> Found<'a> {
    fn of(entry: &'a Entry, now: Instant) -> Self {
        let Entry { target, expires, holder, .. } = entry;
        Self { target, remaining: *expires - now, here: *holder == Holder::Us }
    }
}

/// An entry, as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyView {
    /// The client.
    pub source: IpAddr,
    /// The target's id.
    pub target: Arc<str>,
    /// How long the entry lasts if it is not used again.
    pub remaining: Duration,
}

impl<K: Hash + Eq + Clone> StickyTable<K> {
    /// An empty table of at most `entries_max` entries, which rings `bell` when it has news.
    #[must_use]
    pub fn new(entries_max: usize, ttl: Duration, bell: &Arc<Bell>) -> Self {
        Self {
            ttl: AtomicU64::new(nanos(ttl)),
            parts: Parts::new(entries_max, |max| Watched::new(max, Arc::clone(bell))),
            forgotten: AtomicU64::new(0),
            shares: SourceCounts::default(),
            share: AtomicU32::new(share(entries_max)),
            withheld: AtomicU64::new(0),
            bell: Arc::clone(bell),
            holders: None,
        }
    }

    /// Has `holders` told who has what is behind each entry.
    #[must_use]
    pub fn telling(self, holders: Arc<dyn Holders<K>>) -> Self {
        Self { holders: Some(holders), ..self }
    }

    /// Whether somebody listens to its news.
    #[must_use]
    pub fn is_listened_to(&self) -> bool {
        self.bell.is_listened_to()
    }

    /// Applies changed settings. Entries keep the lifetime they had, or go if there is no more room for them.
    pub fn reconfigure(&self, entries_max: usize, ttl: Duration) {
        self.ttl.store(nanos(ttl), Ordering::Relaxed);
        self.share.store(share(entries_max), Ordering::Relaxed);
        let each = self.parts.entries_each(entries_max);
        for mut part in self.parts.iter() {
            part.set_max(each, |key, entry| {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
                self.gone(&key, &entry);
            });
        }
    }

    /// The id of the target that `source` was sent to; its entry lasts longer for it, unless it is the other node that has what is behind it
    /// and says how long that lasts.
    pub fn find(&self, source: &K, now: Instant) -> Option<Arc<str>> {
        let mut part = self.parts.of(source);
        let entry = part.use_value(source).filter(|entry| entry.expires > now)?;
        if entry.holder == Holder::Other {
            return Some(Arc::clone(&entry.target));
        }
        entry.expires = self.expiry(now);
        let (target, overdue) = (Arc::clone(&entry.target), self.is_overdue(entry));
        if overdue {
            part.note(source);
        }
        Some(target)
    }

    /// Whether an entry for `source` would take nobody's place, and leave room for others.
    #[must_use]
    pub fn has_room(&self, source: &K) -> bool {
        self.parts.of(source).has_room()
    }

    /// Says that `source` is sent to `target`. If another connection of the same source has been sent elsewhere meanwhile,
    /// that target counts and is answered, unless it is `except`, the one that turned out to be of no use.
    pub fn enter(&self, source: &K, target: &Arc<str>, except: Option<&str>, now: Instant) -> Arc<str> {
        let expires = self.expiry(now);
        let mut part = self.parts.of(source);
        if let Some(entry) = part.use_value(source) {
            let replaced = entry.expires <= now || Some(&*entry.target) == except;
            if replaced {
                entry.target = Arc::clone(target);
            }
            entry.expires = expires;
            let (decided, overdue) = (Arc::clone(&entry.target), self.is_overdue(entry));
            if replaced || overdue {
                part.note(source);
            }
            return decided;
        }
        let new = Entry::new(target, expires, Holder::Nobody, None);
        self.insert(&mut part, source, new, now);
        part.note(source);
        Arc::clone(target)
    }

    /// Says that `target` has given `source` to a client, which is sent there from now on. Who has ever new ones given to it pushes nobody
    /// else's out: beyond a `client`'s share nothing is remembered that would leave less than half of the table to others. Of one that
    /// stands for many (`None`) everything is.
    pub fn learn(&self, source: &K, target: &Arc<str>, client: Option<IpAddr>, now: Instant) {
        let expires = self.expiry(now);
        let mut part = self.parts.of(source);
        if let Some(entry) = part.use_value(source) {
            let moved = entry.expires <= now || entry.target != *target;
            (entry.target, entry.expires) = (Arc::clone(target), expires);
            if moved || self.is_overdue(entry) {
                part.note(source);
            }
            return;
        }
        self.remove_expired(&mut part, now);
        let client = client.map(network_of);
        let share = self.share.load(Ordering::Relaxed);
        let has_place = |client| {
            self.shares.admit(client, share) || (part.has_room() && self.shares.admit(client, u32::MAX))
        };
        if !client.is_none_or(has_place) {
            self.withheld.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.insert(&mut part, source, Entry::new(target, expires, Holder::Nobody, client), now);
        part.note(source);
    }

    /// Says that this node has what is behind `source`, at `target`, whoever had it before.
    pub fn hold(&self, source: &K, target: &Arc<str>, now: Instant) {
        let mut new = Entry::new(target, self.expiry(now), Holder::Us, None);
        let mut part = self.parts.of(source);
        let Some(entry) = part.use_value(source) else {
            self.insert(&mut part, source, new, now);
            return part.note(source);
        };
        let moved = entry.holder != Holder::Us;
        if !moved && entry.target == new.target {
            new.told = entry.told;
        }
        *entry = Entry { client: entry.client, ..new };
        if self.is_overdue(entry) {
            part.note(source);
        }
        if moved {
            self.tell_holder(source, Holder::Us);
        }
    }

    /// What is behind the entry of `source` is used here: it lasts longer if this node has it. Answers who has; `None` without an entry.
    pub fn go_on(&self, source: &K, now: Instant) -> Option<Holder> {
        let mut part = self.parts.of(source);
        let entry = part.get_mut(source).filter(|entry| entry.expires > now)?;
        if entry.holder != Holder::Us {
            return Some(entry.holder);
        }
        // It was there just now.
        let entry = part.use_value(source)?;
        entry.expires = self.expiry(now);
        if self.is_overdue(entry) {
            part.note(source);
        }
        Some(Holder::Us)
    }

    /// What is behind the entry of `source` is over. If it is the other node that has it, that one says so.
    pub fn leave(&self, source: &K) {
        let mut part = self.parts.of(source);
        if part.get_mut(source).is_some_and(|entry| entry.holder == Holder::Other) {
            return;
        }
        if let Some(entry) = part.remove(source) {
            self.gone(source, &entry);
        }
    }

    /// This node does not have what is behind the entry of `source` any more, whose target is remembered.
    pub fn release(&self, source: &K) {
        let mut part = self.parts.of(source);
        let Some(entry) = part.get_mut(source).filter(|entry| entry.holder == Holder::Us) else { return };
        entry.holder = Holder::Nobody;
        part.note(source);
        self.tell_holder(source, Holder::Nobody);
    }

    /// Takes over the other node's entry, for what is left of its lifetime, but no longer than a new one of this table has. It makes room
    /// for itself as any other does, and is no news. What the other node has lasts until that one says that it is over, or says nothing
    /// of it for longer than it would.
    pub fn put(&self, source: &K, target: &Arc<str>, remaining: Duration, holder: Holder, now: Instant) {
        let ttl = Duration::from_nanos(self.ttl.load(Ordering::Relaxed));
        let untold = if holder == Holder::Other { ttl / UNTOLD_PART } else { Duration::ZERO };
        let expires = now + remaining.min(ttl) + untold;
        let mut part = self.parts.of(source);
        let new = Entry { told: expires, ..Entry::new(target, expires, holder, None) };
        match part.use_value(source) {
            Some(entry) => {
                let moved = entry.holder != holder;
                *entry = Entry { client: entry.client, ..new };
                if moved {
                    self.tell_holder(source, holder);
                }
            }
            None => self.insert(&mut part, source, new, now),
        }
    }

    /// The other node says that the entry of `source` is over, which is no news.
    pub fn withdraw(&self, source: &K) {
        let mut part = self.parts.of(source);
        if let Some(entry) = part.remove_silently(source) {
            self.gone(source, &entry);
        }
    }

    /// What the other node had is lost; the targets are remembered.
    pub fn other_is_gone(&self) {
        for mut part in self.parts.iter() {
            let had = part.iter().filter(|(_, entry)| entry.holder == Holder::Other);
            let had: Vec<K> = had.map(|(key, _)| key.clone()).collect();
            for key in had {
                if let Some(entry) = part.get_mut(&key) {
                    entry.holder = Holder::Nobody;
                    self.tell_holder(&key, Holder::Nobody);
                }
            }
        }
    }

    /// Tells who has what is behind all entries once more, to somebody who knows of none.
    pub fn tell_all(&self) {
        for part in self.parts.iter() {
            let held = part.iter().filter(|(_, entry)| entry.holder != Holder::Nobody);
            held.for_each(|(key, entry)| self.tell_holder(key, entry.holder));
        }
    }

    /// Visits what this node has.
    pub fn visit_own(&self, mut visit: impl FnMut(&K)) {
        for part in self.parts.iter() {
            let own = part.iter().filter(|(_, entry)| entry.holder == Holder::Us);
            own.for_each(|(key, _)| visit(key));
        }
    }

    /// Nobody has anything any more, for this is the table's end.
    pub fn close(&self) {
        for part in self.parts.iter() {
            part.iter().for_each(|(key, entry)| self.gone(key, entry));
        }
    }

    /// Takes out entries that have expired, which is told; those that lie behind one that has not stay for now.
    pub fn expire(&self, now: Instant) {
        for mut part in self.parts.iter() {
            self.remove_expired(&mut part, now);
        }
    }

    /// Tells of what has changed: what there is of a key now, if anything. Whether there is more.
    pub fn take_news(&self, now: Instant, mut tell: impl FnMut(&K, Option<Found<'_>>)) -> bool {
        watched::take_news(&self.parts, |key, entry| {
            let entry = entry.filter(|entry| entry.expires > now);
            tell(
                key,
                entry.map(|entry| {
                    entry.told = entry.expires;
                    Found::of(entry, now)
                }),
            );
        })
    }

    /// News that were not told for want of room: whoever listens is to look at everything.
    #[must_use]
    pub fn news_lost(&self) -> u64 {
        watched::lost(&self.parts)
    }

    /// Visits about `max` live entries from `place` on; answers where to go on, `None` at the end. None that is there all the time is left
    /// out.
    pub fn scan(
        &self,
        place: Place,
        max: usize,
        now: Instant,
        mut visit: impl FnMut(&K, Found<'_>),
    ) -> Option<Place> {
        watched::scan(&self.parts, place, max, |key, entry| {
            if entry.expires > now {
                visit(key, Found::of(entry, now));
            }
        })
    }

    /// Entries that had not expired when the table had no more room for them.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// What targets gave to clients and was not remembered because they had their shares.
    #[must_use]
    pub fn withheld(&self) -> u64 {
        self.withheld.load(Ordering::Relaxed)
    }

    /// Entries in the table, expired ones that nobody has asked for since included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Whether it has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn insert(&self, part: &mut Watched<K, Entry>, source: &K, entry: Entry, now: Instant) {
        // What has expired makes room first: the order of use is the order of expiry, as long as `ttl` stays the same.
        self.remove_expired(part, now);
        let holder = entry.holder;
        if let Some((key, evicted)) = part.insert(source.clone(), entry) {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
            self.gone(&key, &evicted);
        }
        if holder != Holder::Nobody {
            self.tell_holder(source, holder);
        }
    }

    fn remove_expired(&self, part: &mut Watched<K, Entry>, now: Instant) {
        while part.oldest().is_some_and(|(_, entry)| entry.expires <= now) {
            let Some((key, entry)) = part.remove_oldest() else { return };
            self.gone(&key, &entry);
        }
    }

    /// An entry has left the table.
    fn gone(&self, key: &K, entry: &Entry) {
        if let Some(client) = entry.client {
            self.shares.release(client);
        }
        if entry.holder != Holder::Nobody {
            self.tell_holder(key, Holder::Nobody);
        }
    }

    fn tell_holder(&self, key: &K, holder: Holder) {
        if let Some(holders) = &self.holders {
            holders.holds(key, holder);
        }
    }

    fn expiry(&self, now: Instant) -> Instant {
        now + Duration::from_nanos(self.ttl.load(Ordering::Relaxed))
    }

    /// Whether an entry lasts so much longer than was told that it is to be told.
    fn is_overdue(&self, entry: &Entry) -> bool {
        let least = Duration::from_nanos(self.ttl.load(Ordering::Relaxed) / TOLD_PARTS);
        entry.expires.since(entry.told) >= least
    }
}

impl StickyTable {
    /// Up to `max` live entries, for people to look at.
    #[must_use]
    pub fn entries(&self, max: usize, now: Instant) -> Vec<StickyView> {
        let mut entries = Vec::new();
        for part in self.parts.iter() {
            let live = part.iter().filter(|(_, entry)| entry.expires > now);
            let view = |(&source, entry): (&IpAddr, &Entry)| StickyView {
                source,
                target: Arc::clone(&entry.target),
                remaining: entry.expires - now,
            };
            entries.extend(live.map(view).take(max - entries.len()));
        }
        entries
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A client's share of so many entries.
fn share(entries_max: usize) -> u32 {
    u32::try_from(entries_max / SHARE_PART).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn source(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn id(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_client_stays_as_long_as_it_comes_back_in_time() {
        let table = StickyTable::new(100, TTL, &Arc::default());
        assert_eq!(table.find(&source(1), at(0)), None);
        assert_eq!(table.enter(&source(1), &id("a"), None, at(0)), id("a"));
        assert_eq!(table.find(&source(1), at(9)), Some(id("a")));
        assert_eq!(table.find(&source(1), at(18)), Some(id("a")));
        assert_eq!(table.find(&source(1), at(28)), None);
        assert_eq!(
            table.enter(&source(1), &id("b"), None, at(28)),
            id("b"),
            "an expired entry does not count"
        );
    }

    /// As the README says of it.
    #[test]
    fn a_client_takes_190_bytes() {
        let table = StickyTable::new(100_000, TTL, &Arc::default());
        let target = id("a");
        // More than there is room for, so that each part is full.
        for number in 0..200_000_u32 {
            table.enter(&IpAddr::from(number.to_be_bytes()), &target, None, at(0));
        }
        let each = table.parts.iter().map(|part| part.bytes()).sum::<usize>() / table.len();
        assert!((180..=200).contains(&each), "{each}");
    }

    #[test]
    fn connections_that_come_at_the_same_time_end_up_together() {
        let table = StickyTable::new(100, TTL, &Arc::default());
        assert_eq!(table.enter(&source(1), &id("a"), None, at(0)), id("a"));
        assert_eq!(table.enter(&source(1), &id("b"), None, at(0)), id("a"));
        assert_eq!(table.enter(&source(1), &id("c"), Some("a"), at(0)), id("c"), "its target failed");
        assert_eq!(
            table.enter(&source(1), &id("d"), Some("a"), at(0)),
            id("c"),
            "and another one found the new one"
        );
        let shown = table.entries(10, at(4));
        assert_eq!(
            shown,
            [StickyView { source: source(1), target: id("c"), remaining: Duration::from_secs(6) }]
        );
    }

    #[test]
    fn the_table_is_bounded() {
        let table = StickyTable::new(3, TTL, &Arc::default());
        for number in 0..3 {
            table.enter(&source(number), &id("a"), None, at(u64::from(number)));
        }
        assert_eq!(table.find(&source(0), at(3)), Some(id("a")));
        table.enter(&source(9), &id("b"), None, at(3));
        assert_eq!((table.len(), table.forgotten()), (3, 1));
        assert_eq!(table.find(&source(1), at(3)), None, "the one unused for the longest");
        assert_eq!(table.find(&source(0), at(3)), Some(id("a")));
        // Expired ones go without being counted.
        table.enter(&source(10), &id("b"), None, at(100));
        assert_eq!((table.len(), table.forgotten(), table.is_empty()), (1, 1, false));
        table.reconfigure(1, Duration::from_secs(1));
        table.enter(&source(11), &id("b"), None, at(100));
        assert_eq!((table.len(), table.forgotten()), (1, 2));
        assert_eq!(table.find(&source(11), at(101)), None, "the new lifetime");
        assert!(table.entries(10, at(101)).is_empty());
    }

    #[test]
    fn a_client_has_a_share_of_what_targets_give_away() {
        let table = StickyTable::new(40, TTL, &Arc::default());
        let learn = |first: u8, count: u8, client: Option<u8>, at_seconds| {
            for number in first..first + count {
                table.learn(&source(number), &id("a"), client.map(source), at(at_seconds));
            }
            (table.len(), table.withheld(), table.forgotten())
        };
        assert_eq!(
            learn(0, 30, Some(201), 0),
            (20, 10, 0),
            "more than a share while half of the table is free"
        );
        assert_eq!(learn(50, 8, Some(202), 0), (25, 13, 0), "and then a share");
        assert_eq!(learn(60, 8, Some(203), 0), (30, 16, 0));
        assert_eq!(table.find(&source(0), at(1)), Some(id("a")), "nobody was pushed out");
        assert_eq!(learn(0, 20, Some(201), 2), (30, 16, 0), "what is known already is no more");
        assert_eq!(table.shares.open(source(201)), 20);
        // Who has left his places may have others, and who stands for many has as many as there are.
        table.leave(&source(50));
        table.withdraw(&source(51));
        assert_eq!(learn(70, 3, Some(202), 2), (30, 17, 0));
        assert_eq!(learn(100, 20, None, 3), (40, 17, 10));
        table.reconfigure(1, TTL);
        assert_eq!((table.len(), table.shares.len()), (1, 0), "those that had to go take nothing of a share");
        // Another target has given it anew.
        table.learn(&source(119), &id("b"), Some(source(201)), at(4));
        assert_eq!((table.find(&source(119), at(4)), table.shares.len()), (Some(id("b")), 0));
        assert_eq!(learn(200, 1, Some(202), 20), (1, 17, 10 + 39), "what has expired makes room");
    }

    /// A table of somebody who listens.
    fn told() -> StickyTable {
        let bell = Bell::default();
        bell.listen(true);
        StickyTable::new(100, TTL, &Arc::new(bell))
    }

    /// A client, with its target and how long that lasts, in seconds.
    type Told = (IpAddr, Option<(Arc<str>, u64)>);

    fn news(table: &StickyTable, seconds: u64) -> Vec<Told> {
        let mut news = Vec::new();
        while table.take_news(at(seconds), |key, entry| {
            news.push((*key, entry.map(|it| (Arc::clone(it.target), it.remaining.as_secs()))));
        }) {}
        news
    }

    #[test]
    fn what_is_new_is_told_and_what_lasts_longer_only_now_and_then() {
        let table = told();
        table.enter(&source(1), &id("a"), None, at(0));
        table.enter(&source(1), &id("b"), Some("a"), at(0));
        assert_eq!(news(&table, 0), [(source(1), Some((id("b"), 10)))]);
        for millis in (0..1250).step_by(50) {
            table.find(&source(1), Instant::from_nanos(millis * 1_000_000));
        }
        assert_eq!(news(&table, 1), []);
        table.find(&source(1), Instant::from_nanos(1_250_000_000));
        assert_eq!(news(&table, 2), [(source(1), Some((id("b"), 9)))]);
        table.leave(&source(1));
        assert_eq!(news(&table, 2), [(source(1), None)]);
        table.enter(&source(2), &id("a"), None, at(2));
        assert_eq!(news(&table, 12), [(source(2), None)], "it expired before anybody asked");
        table.expire(at(12));
        assert_eq!((news(&table, 12), table.len()), (vec![(source(2), None)], 0));
    }

    #[test]
    fn what_the_other_node_tells_is_no_news_until_it_is_used() {
        let table = told();
        table.put(&source(1), &id("a"), Duration::from_secs(3), Holder::Nobody, at(0));
        table.put(&source(2), &id("a"), Duration::from_secs(99), Holder::Nobody, at(0));
        let mut found = Vec::new();
        let next = table.scan(Place::default(), 10, at(1), |key, it| {
            found.push((*key, Arc::clone(it.target), it.remaining.as_secs()));
        });
        assert_eq!((next, &found[..]), (None, &[(source(1), id("a"), 2), (source(2), id("a"), 9)][..]));
        assert_eq!(news(&table, 0), []);
        assert_eq!(table.find(&source(1), at(2)), Some(id("a")));
        assert_eq!(news(&table, 2), [(source(1), Some((id("a"), 10)))]);
        table.withdraw(&source(1));
        assert_eq!((news(&table, 2), table.find(&source(1), at(2))), (vec![], None));
        let full = StickyTable::new(1, TTL, &Arc::default());
        full.enter(&source(1), &id("a"), None, at(0));
        full.put(&source(2), &id("b"), TTL, Holder::Nobody, at(0));
        assert_eq!((full.len(), full.forgotten(), full.find(&source(2), at(1))), (1, 1, Some(id("b"))));
    }

    /// Remembers what it is told.
    #[derive(Debug, Default)]
    struct Heard(std::sync::Mutex<HashMap<IpAddr, Holder>>);

    impl Holders<IpAddr> for Heard {
        fn holds(&self, key: &IpAddr, holder: Holder) {
            let mut heard = self.0.lock().unwrap();
            let before = match holder {
                Holder::Nobody => heard.remove(key),
                holder => heard.insert(*key, holder),
            };
            assert_ne!(before.unwrap_or_default(), holder, "that is no news");
        }
    }

    impl Heard {
        fn all(&self) -> Vec<(u8, Holder)> {
            let number = |ip: &IpAddr| match ip {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => unreachable!("there are none"),
            };
            let mut all: Vec<_> =
                self.0.lock().unwrap().iter().map(|(ip, holder)| (number(ip), *holder)).collect();
            all.sort_by_key(|(number, _)| *number);
            all
        }
    }

    fn held(max: usize) -> (StickyTable, Arc<Heard>) {
        let bell = Bell::default();
        bell.listen(true);
        let heard = Arc::<Heard>::default();
        (StickyTable::new(max, TTL, &Arc::new(bell)).telling(heard.clone()), heard)
    }

    /// Whether this node says that it has it.
    fn said(table: &StickyTable, seconds: u64) -> Vec<(IpAddr, Option<bool>)> {
        let mut said = Vec::new();
        while table.take_news(at(seconds), |key, entry| said.push((*key, entry.map(|it| it.here)))) {}
        said
    }

    #[test]
    fn who_has_it_changes_by_what_either_node_does() {
        let (table, heard) = held(100);
        table.hold(&source(1), &id("a"), at(0));
        assert_eq!((heard.all(), said(&table, 0)), (vec![(1, Holder::Us)], vec![(source(1), Some(true))]));
        assert_eq!(table.go_on(&source(1), at(1)), Some(Holder::Us));
        assert_eq!(said(&table, 1), [], "not much longer than was told");
        assert_eq!(table.go_on(&source(1), at(2)), Some(Holder::Us));
        assert_eq!(said(&table, 2), [(source(1), Some(true))]);

        // The other node takes it, and this one's falls silent.
        table.put(&source(1), &id("a"), TTL, Holder::Other, at(2));
        assert_eq!(heard.all(), [(1, Holder::Other)]);
        assert_eq!(table.go_on(&source(1), at(3)), Some(Holder::Other));
        table.leave(&source(1));
        table.release(&source(1));
        assert_eq!(
            (said(&table, 3), heard.all()),
            (vec![], vec![(1, Holder::Other)]),
            "it is not ours to end"
        );

        // Its last use here, of which the other node hears, is that it has it.
        assert_eq!(table.find(&source(1), at(11)), Some(id("a")));
        assert_eq!(said(&table, 11), [], "to look is not to have");
        table.hold(&source(1), &id("a"), at(11));
        assert_eq!((said(&table, 11), heard.all()), (vec![(source(1), Some(true))], vec![(1, Holder::Us)]));
        table.release(&source(1));
        assert_eq!((said(&table, 11), heard.all()), (vec![(source(1), Some(false))], vec![]));
        assert_eq!(table.find(&source(1), at(12)), Some(id("a")), "the target stays");
        assert_eq!(table.go_on(&source(1), at(12)), Some(Holder::Nobody));
        table.leave(&source(1));
        assert_eq!((table.go_on(&source(1), at(12)), said(&table, 12)), (None, vec![(source(1), None)]));
    }

    #[test]
    fn what_the_other_node_has_outlasts_its_last_word_a_little() {
        let (table, heard) = held(100);
        table.put(&source(1), &id("a"), TTL, Holder::Other, at(0));
        table.put(&source(2), &id("a"), TTL, Holder::Nobody, at(0));
        assert_eq!((table.find(&source(1), at(11)), table.find(&source(2), at(11))), (Some(id("a")), None));
        table.expire(at(13));
        assert_eq!((table.len(), heard.all()), (0, vec![]));
    }

    #[test]
    fn whoever_leaves_the_table_is_told_of() {
        let (table, heard) = held(2);
        table.hold(&source(1), &id("a"), at(0));
        table.put(&source(2), &id("a"), TTL, Holder::Other, at(0));
        table.hold(&source(3), &id("a"), at(1));
        assert_eq!(heard.all(), [(2, Holder::Other), (3, Holder::Us)], "one made room");
        let mut own = Vec::new();
        table.visit_own(|key| own.push(*key));
        assert_eq!(own, [source(3)]);
        table.reconfigure(1, TTL);
        assert_eq!(heard.all(), [(3, Holder::Us)]);
        table.reconfigure(2, TTL);
        table.put(&source(4), &id("a"), TTL, Holder::Other, at(1));
        heard.0.lock().unwrap().clear();
        table.tell_all();
        assert_eq!(heard.all(), [(3, Holder::Us), (4, Holder::Other)], "to somebody new");
        table.other_is_gone();
        assert_eq!((heard.all(), table.len()), (vec![(3, Holder::Us)], 2));
        table.put(&source(4), &id("a"), TTL, Holder::Other, at(1));
        table.withdraw(&source(4));
        table.put(&source(5), &id("a"), TTL, Holder::Other, at(1));
        table.close();
        assert_eq!(heard.all(), []);
    }

    proptest! {
        /// As long as there is room, the same as a plain map with times.
        #[test]
        fn as_a_map(steps in proptest::collection::vec((any::<bool>(), 0_u8..6, 0_u64..6), 0..200)) {
            let table = StickyTable::new(100, TTL, &Arc::default());
            let mut map: HashMap<u8, (Arc<str>, u64)> = HashMap::new();
            let mut now = 0;
            for (enters, number, wait) in steps {
                now += wait;
                let known = map.get(&number).filter(|(_, expires)| *expires > now).map(|(target, _)| Arc::clone(target));
                let answer = if enters {
                    let chosen = id(&now.to_string());
                    let answer = table.enter(&source(number), &chosen, None, at(now));
                    prop_assert_eq!(&answer, known.as_ref().unwrap_or(&chosen));
                    Some(answer)
                } else {
                    let answer = table.find(&source(number), at(now));
                    prop_assert_eq!(&answer, &known);
                    answer
                };
                if let Some(target) = answer {
                    map.insert(number, (target, now + 10));
                }
            }
        }
    }
}
