//! Deletes flows that are over, tells replication of them and of those in use, and finds the clients that are neighbours, on a thread of its own: a walk through the whole
//! table every few seconds, in batches, with pauses in between that keep it to a twentieth of a processor; to half of one where a large table
//! would else be walked through too slowly for copies of flows with short time-outs, or is nearly full; without pauses only while that makes room
//! in it ([`Pace`]).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lbd_core::forward::abi::{
    Abi, Address, Affinity, AffinityKey, Flow, FlowKey, OtherSource, Service, Source, SourceKey, Ticks,
};
use lbd_core::forward::copies::{Places, Tuple};
use lbd_core::forward::expiry;
use lbd_core::forward::next_hops::Clients;
use lbd_core::forward::pace::Pace;
use lbd_core::forward::plan::Gone;
use lbd_core::forward::refresh::Walks;

use super::KernelError;
use super::bpf::{Batch, Cursor, Map};
use super::copies::{Report, tuples};
use super::flows::{Census, Reader, reading, typed};
use super::thread::Signal;

/// Flows looked at with one call.
const BATCH: usize = 4096;

/// Flows that were found to be over are looked at once more, so many at once, before they are deleted: that, and not a whole batch, is
/// the time in which one may begin anew unseen, or be written by replication.
const DELETED_AT_ONCE: usize = 32;

/// How often the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Runs until the signal says stop.
pub(super) fn run(reader: &Arc<Reader>, signal: &Arc<Signal>) {
    let (mut pace, mut walks) = (Pace::default(), Walks::default());
    // Since a walk with these no flow can have lost its listener.
    let mut heard: Option<Arc<Places>> = None;
    // Maps of another layout are empty at first, but the flows of the one before are there already.
    while !reader.written.load(Ordering::Acquire) && !signal.stopped() {
        std::thread::sleep(LOOK);
    }
    while !signal.stopped() {
        let mut begin = Instant::now();
        let (gone, places) = (reader.gone.load_full(), reader.places.load_full());
        let listeners = heard.as_ref().is_none_or(|heard| !Arc::ptr_eq(heard, &places));
        let ends = Ends { listeners, put_off: Cell::new(false) };
        let walked = walk(reader, signal, pace, &ends, &mut walks).and_then(|walked| {
            if gone.is_some() {
                forget_clients(reader, signal)?;
            }
            Ok(walked)
        });
        let waits = match walked {
            Ok((census, deleted)) => {
                if gone.is_some() && !signal.stopped() {
                    reader.gone.store(None);
                }
                if !ends.put_off.get() {
                    heard = Some(places);
                }
                pace = Pace::after(deleted, census.all, u64::from(reader.flows.shape().max_entries));
                reader.census.store(Arc::new(census));
                pace
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look for flows that are over; trying again in a few seconds");
                // However full the table is: at once it would most likely fail once more.
                begin = Instant::now();
                Pace::Steady
            }
        };
        let every = waits.interval(reader.reports.load().is_some().then(|| walks.interval()));
        while begin.elapsed() < every && !signal.stopped() {
            std::thread::sleep(LOOK);
        }
    }
}

/// One walk through all flows: what it left, and how many it deleted.
fn walk(
    reader: &Reader,
    signal: &Signal,
    pace: Pace,
    ends: &Ends,
    walks: &mut Walks,
) -> Result<(Census, u64), KernelError> {
    let mut services = reader.services.all()?;
    let (mut cursor, mut batch) = (Cursor::default(), Batch::default());
    let (mut census, mut all_deleted) = (Census::default(), 0);
    let mut over: Vec<Tuple> = Vec::with_capacity(BATCH);
    let (neighbourhood, mut clients) = (reader.neighbourhood.load_full(), Clients::default());
    walks.begin(now(reader)?);
    let batches = u32::try_from(reader.census.load().all / BATCH as u64 + 1).unwrap_or(u32::MAX);
    let share = walks.longest() / batches;
    while !cursor.done && !signal.stopped() {
        let begin = Instant::now();
        let now = now(reader)?;
        let reports = reader.reports.load();
        // Never those of when the walk began: somebody may listen by now, or have a number again, and have flows.
        let (places, gone) = (reader.places.load(), reader.gone.load());
        let mut used = Vec::new();
        reader.flows.walk(&mut cursor, BATCH, &mut batch).map_err(reading)?;
        over.clear();
        for (tuple, flow) in tuples(&batch) {
            let service = service_of(reader, &mut services, flow.service)?;
            if is_over(&flow, &service, now, gone.as_deref()) || ends.is_unheard(reader, &places, &tuple) {
                over.push(tuple);
                continue;
            }
            // The client's address comes first.
            if !neighbourhood.is_empty()
                && let Some(client) = tuple.get(..Address::SIZE).and_then(Address::from_bytes)
            {
                clients.meet(&neighbourhood, client.ip(), Ticks(now).since(Ticks(flow.seen)));
            }
            let mut told = |key: FlowKey| walks.is_told(&key, &flow, &service);
            if reports.is_some() && FlowKey::from_bytes(&tuple).is_some_and(&mut told) {
                used.push(tuple);
            }
            census.all += 1;
            *census.services.entry(flow.service).or_default() += 1;
            *census.targets.entry(flow.target).or_default() += 1;
        }
        for some in over.chunks(DELETED_AT_ONCE) {
            let deleted = delete_over(&reader.flows, some, |tuple, flow| {
                let service = services.get(&u32::from(flow.service)).copied().unwrap_or_default();
                is_over(flow, &service, now, reader.gone.load().as_deref())
                    || ends.is_unheard(reader, &reader.places.load(), tuple)
            })? as u64;
            all_deleted += deleted;
            reader.expired.fetch_add(deleted, Ordering::Relaxed);
        }
        if let Some(reports) = &*reports {
            reports.send(Report::Used(used));
            // Those that went on after all are still there, which whoever hears of them finds.
            reports.send(Report::Ended(over.clone()));
        }
        std::thread::sleep(pace.pause(begin.elapsed(), reports.is_some().then_some(share)));
    }
    reader.next_hops.left_out.fetch_add(clients.left_out, Ordering::Relaxed);
    reader.clients.store((!clients.met.is_empty()).then(|| Arc::new(clients)));
    Ok((census, all_deleted))
}

/// What ends flows besides their time, and numbers that are gone.
struct Ends {
    /// Listeners may be: the flows of a service that has others would else go on at random, as long as somebody has their port at another address.
    listeners: bool,
    /// A flow that nobody seemed to listen for was let live, since listeners were being written.
    put_off: Cell<bool>,
}

impl Ends {
    fn is_unheard(&self, reader: &Reader, places: &Places, tuple: &Tuple) -> bool {
        // Of most walks that is all there is to ask, of each of a million flows.
        if !self.listeners || FlowKey::from_bytes(tuple).is_none_or(|key| !places.is_unheard(&key)) {
            return false;
        }
        let placed = reader.placed.load(Ordering::Acquire);
        self.put_off.set(self.put_off.get() || !placed);
        placed
    }
}

fn is_over(flow: &Flow, service: &Service, now: u32, gone: Option<&Gone>) -> bool {
    expiry::is_over(flow, service, now) || gone.is_some_and(|gone| gone.is_in(flow))
}

/// Deletes those of some flows that are `over` by now, and says how many.
fn delete_over(
    flows: &Map,
    tuples: &[Tuple],
    over: impl Fn(&Tuple, &Flow) -> bool,
) -> Result<usize, KernelError> {
    let (mut value, mut keys) = ([0; Flow::SIZE], Vec::with_capacity(tuples.len() * FlowKey::SIZE));
    for tuple in tuples {
        let found = flows.get_into(tuple, &mut value).map_err(reading)?;
        if found && Flow::from_bytes(&value).is_some_and(|flow| over(tuple, &flow)) {
            keys.extend_from_slice(tuple);
        }
    }
    if keys.is_empty() {
        return Ok(0);
    }
    flows
        .delete_all(&keys)
        .map_err(|source| KernelError::Map { action: "deleting flows that are over".to_owned(), source })
}

fn now(reader: &Reader) -> Result<u32, KernelError> {
    reader.instances.ticks().now().map_err(|source| KernelError::Clock { source })
}

/// The service of a flow. One that was not there when the walk began may be by now.
fn service_of(
    reader: &Reader,
    known: &mut BTreeMap<u32, Service>,
    index: u16,
) -> Result<Service, KernelError> {
    let service = known.entry(u32::from(index)).or_default();
    if service.mode == 0 {
        *service = reader.services.get(&u32::from(index))?.unwrap_or_default();
    }
    Ok(*service)
}

/// Deletes what is remembered of clients under numbers that are gone: their targets, and what they have begun within a rate.
fn forget_clients(reader: &Reader, signal: &Signal) -> Result<(), KernelError> {
    forget(reader, signal, &reader.affinity, |gone, key: &AffinityKey, value: &Affinity| {
        gone.is_in_affinity(key, value)
    })?;
    forget(reader, signal, &reader.sources, |gone, key: &SourceKey, _: &Source| gone.is_in_sources(key))?;
    forget(reader, signal, &reader.other_sources, |gone, key: &SourceKey, _: &OtherSource| {
        gone.is_in_sources(key)
    })
}

fn forget<K: Abi, V: Abi>(
    reader: &Reader,
    signal: &Signal,
    table: &Map,
    is_over: impl Fn(&Gone, &K, &V) -> bool,
) -> Result<(), KernelError> {
    let failed =
        |source| KernelError::Map { action: "walking through remembered clients".to_owned(), source };
    let (mut cursor, mut batch) = (Cursor::default(), Batch::default());
    let mut over: Vec<u8> = Vec::new();
    while !cursor.done && !signal.stopped() {
        let begin = Instant::now();
        table.walk(&mut cursor, BATCH, &mut batch).map_err(failed)?;
        over.clear();
        let gone = reader.gone.load();
        for (key, value) in typed::<K, V>(&batch) {
            if gone.as_deref().is_some_and(|gone| is_over(gone, &key, &value)) {
                key.put(&mut over);
            }
        }
        if !over.is_empty() {
            table.delete_all(&over).map_err(failed)?;
        }
        std::thread::sleep(Pace::Steady.pause(begin.elapsed(), None));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lbd_core::forward::abi::STATE_ESTABLISHED;

    use super::*;

    #[test]
    fn what_goes_on_after_it_was_found_over_is_not_deleted() {
        let sizes = [FlowKey::SIZE, Flow::SIZE].map(|size| size.try_into().unwrap());
        let map = Map::new_hash("test", sizes, 8).unwrap();
        let service = Service { established_ticks: 100, ..Service::default() };
        let put = |tuple: Tuple, seen: u32, copied: u8| {
            let mut value = Vec::new();
            Flow { seen, copied, state: STATE_ESTABLISHED, ..Flow::default() }.put(&mut value);
            map.put(&tuple, &value).unwrap();
        };
        let over = |_: &Tuple, flow: &Flow| is_over(flow, &service, 1000, None);
        // Three were over when the walk came by; then one was written by replication, one had a packet, and one is gone by itself.
        let tuples = [1, 2, 3, 4].map(|number| [number; 40]);
        put(tuples[0], 10, 0);
        put(tuples[1], 990, 1);
        put(tuples[2], 1003, 0);
        assert_eq!(delete_over(&map, &tuples, over).unwrap(), 1);
        let left = tuples.map(|tuple| map.get(&tuple).unwrap().is_some());
        assert_eq!(left, [false, true, true, false]);
        assert_eq!(delete_over(&map, &tuples, over).unwrap(), 0);
    }
}
