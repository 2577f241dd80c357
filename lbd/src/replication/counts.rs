//! What the kernel has counted of clients' new flows, where a rate is the pair's, as the core knows it.

use common::time::{Duration, Instant};
use lbd_core::forward::abi::{Address, OtherSource, Source, SourceKey, duration_of, ticks_of};
use lbd_core::forward::copies::Places;
use lbd_core::forward::counts::{self, News, Told};
use lbd_core::replication::{Cursor, Entry, Key, Live, Name, Removal, Replica, Scan};

use super::clients;
use super::flows::Names;
use crate::l4::kernel::{KernelError, Position, SourceTables, Written};

/// Sources read with one call. So many are told at a time at most, and as many that are over.
const STEP: usize = 4096;

/// From one call to the next: the program does not say when it has counted. A table with no more sources in it than one call reads is known by then;
/// a full one within 16 of these, so that whoever makes sources up cannot have this node tell of nothing else.
const STEP_EVERY: Duration = Duration::from_millis(50);

/// The same after one that has failed.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// The first byte of cursors that are places in the kernel's table.
const KERNELS: u8 = b'k';

/// The counts, while the kernel forwards.
pub(super) struct Counts {
    tables: SourceTables,
    news: News,
    position: Position,
    step_at: Instant,
    found: Vec<Live>,
}

impl Counts {
    pub(super) fn new(tables: SourceTables) -> Self {
        let (news, position) = (News::default(), Position::default());
        Self { tables, news, position, step_at: Instant::ZERO, found: Vec::new() }
    }

    /// When it is looked next for what is new.
    pub(super) const fn step_at(&self) -> Instant {
        self.step_at
    }

    /// Goes on with the walk through all sources, and tells the core what has changed. `now` is the program's time.
    pub(super) fn step(
        &mut self,
        replica: &mut Replica,
        places: &Places,
        names: &mut Names,
        at: Instant,
        now: u32,
    ) -> Result<(), KernelError> {
        self.step_at = at + RETRY_EVERY;
        let Self { tables, news, position, found, .. } = self;
        found.clear();
        tables.scan(position, STEP, |key, source| {
            let Some(told) = told(places, &key, &source, now) else { return };
            if news.is_new(key, source.window, told.count) {
                found.extend(live(replica, places, names, &key, told));
            }
        })?;
        if position.is_end() {
            *position = Position::default();
            news.end_walk();
        }
        // First what has gone: a service whose number is another one now counts on under the same name.
        for SourceKey { address, service, .. } in news.take_gone(STEP) {
            if let Some(service) = names.service(replica, places, service) {
                replica.deleted(at, &Key::Rate { service, source: address.0 }, Removal::Expired);
            }
        }
        replica.changed_all(at, found);
        self.step_at = at + STEP_EVERY;
        Ok(())
    }

    /// Finds what there is to tell for a scan that has come to the kernel's table; where to go on, if there is more.
    pub(super) fn scan(
        &mut self,
        replica: &mut Replica,
        places: &Places,
        names: &mut Names,
        scan: &Scan,
        found: &mut Vec<Live>,
        now: u32,
    ) -> Result<Option<Cursor>, KernelError> {
        let mut position = position(&scan.cursor).unwrap_or_default();
        self.tables.scan(&mut position, scan.limit.min(STEP), |key, source| {
            if let Some(told) = told(places, &key, &source, now) {
                found.extend(live(replica, places, names, &key, told));
            }
        })?;
        Ok((!position.is_end()).then(|| cursor(position)))
    }

    /// Writes what the other node has counted; puts what has no place here into `refused`.
    pub(super) fn put(
        &mut self,
        replica: &Replica,
        places: &Places,
        counted: &[Live],
        now: u32,
        refused: &mut Vec<Key>,
    ) -> Result<Written, KernelError> {
        let mut written = Written::default();
        let (mut keys, mut entries) = (Vec::new(), Vec::new());
        for live in counted {
            match placed(replica, places, live, now) {
                Some(entry) => {
                    keys.push(live.entry.key());
                    entries.push(entry);
                }
                None => {
                    written.misfits += 1;
                    refused.push(live.entry.key());
                }
            }
        }
        self.tables.put(&entries, |place| {
            written.full += 1;
            refused.extend(keys.get(place));
        })?;
        Ok(written)
    }
}

/// The place in the kernel's table that a cursor of the rates stands for; none of one that is a place in the proxies' tables.
pub(super) fn position(cursor: &Cursor) -> Option<Position> {
    match cursor.0.as_slice() {
        // Theirs are longer.
        [KERNELS, place @ ..] if place.len() <= size_of::<u32>() => Some(Position::from_bytes(place)),
        _ => None,
    }
}

/// The cursor of a place in the kernel's table.
pub(super) fn cursor(position: Position) -> Cursor {
    Cursor([&[KERNELS][..], &position.to_bytes()].concat())
}

/// What is to be told of a source, if its window runs and the other node is told of its service's at all.
fn told(places: &Places, key: &SourceKey, source: &Source, now: u32) -> Option<Told> {
    counts::tell(source, places.pair_rate(key.service)?, now)
}

/// The same for the core; none of the address that stands for all clients together, which no client has.
fn live(
    replica: &mut Replica,
    places: &Places,
    names: &mut Names,
    key: &SourceKey,
    told: Told,
) -> Option<Live> {
    let source = key.address.0;
    if clients::is_of_all(source) {
        return None;
    }
    let service = names.service(replica, places, key.service)?;
    let entry = Entry::Rate { service, source, total: u64::from(told.count) };
    Some(Live { entry, remaining: Some(duration_of(told.remaining)) })
}

/// Where what the other node has counted belongs here.
fn placed(replica: &Replica, places: &Places, live: &Live, now: u32) -> Option<(SourceKey, OtherSource)> {
    let Entry::Rate { service, source, total } = live.entry else { return None };
    let Some(Name::Service(name)) = replica.name_of(service) else { return None };
    let service = places.pair_rate_of(name)?;
    let key = SourceKey { address: Address(source), service: service.counts_as, spare: 0 };
    let count = u32::try_from(total).unwrap_or(u32::MAX);
    let told = Told { count, remaining: ticks_of(live.remaining?) };
    Some((key, counts::place(told, service, now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_of_both_kinds_of_tables_are_told_apart() {
        assert!(position(&Cursor::default()).is_none(), "the proxies' come first");
        for bytes in [Vec::new(), 7_u32.to_ne_bytes().to_vec()] {
            let found = position(&cursor(Position::from_bytes(&bytes))).unwrap();
            assert_eq!(found.to_bytes(), bytes);
        }
        assert!(position(&clients::a_cursor("k")).is_none());
    }
}
