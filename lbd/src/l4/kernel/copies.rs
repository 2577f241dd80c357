//! The kernel's flows for replication: what the program tells of its own, all of them by a walk, and the other node's written
//! into the same maps, many with one call.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{Map as AyaMap, MapData, RingBuf};
use lbd_core::forward::abi::{Abi, Address, ENDPOINTS_MAX, Flow, FlowKey, Slot};
use lbd_core::forward::copies::{Misfit, Place, Places, Told, Tuple};
use lbd_core::forward::expiry;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::KernelError;
use super::bpf::{Batch, Cursor, Map};
use super::flows::{Reader, reading};
use super::maps::{SLOTS_PREFIX, slots_shape};
use super::ports::Ports;
use super::sources::SourceTables;
use super::ticks::Reading;

/// Flows read with one call, to be given their ports.
const REFILL_BATCH: usize = 4096;

/// What a walk through all flows finds.
#[derive(Debug)]
pub(crate) enum Report {
    /// These were used since they were told last.
    Used(Vec<Tuple>),
    /// These are over and deleted.
    Ended(Vec<Tuple>),
}

impl Report {
    fn is_empty(&self) -> bool {
        match self {
            Self::Used(flows) => flows.is_empty(),
            Self::Ended(keys) => keys.is_empty(),
        }
    }
}

/// Where the walk reports to. It waits there for a moment only, and only with what nobody would tell later.
#[derive(Debug)]
pub(crate) struct Reports {
    queue: Sender<Report>,
    lost: AtomicU64,
    lost_ends: AtomicU64,
}

/// More than the ring of news has room for.
const NEWS_WAITING_MAX: usize = 1 << 17;

/// Reports that wait, at most; each is of 4,096 flows at most.
const REPORTS_MAX: usize = 64;

/// So long a report of what has ended waits for room, and so often it looks for it.
const ROOM_MAX: Duration = Duration::from_secs(1);
const ROOM_LOOK: Duration = Duration::from_millis(2);

impl Reports {
    /// A way to report, and its other end.
    pub(crate) fn new() -> (Arc<Self>, Receiver<Report>) {
        let (queue, reports) = channel(REPORTS_MAX);
        (Arc::new(Self { queue, lost: AtomicU64::new(0), lost_ends: AtomicU64::new(0) }), reports)
    }

    /// Reports that found no room: flows that are used go on to be told. Those of [`Self::lost_ends`] among them.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Of these, reports of flows that are over, which replication takes for ones that go on until everything is told anew.
    pub(crate) fn lost_ends(&self) -> u64 {
        self.lost_ends.load(Ordering::Relaxed)
    }

    /// Waits for room for up to a second with what has ended, and not at all with what is used.
    pub(super) fn send(&self, report: Report) {
        if report.is_empty() {
            return;
        }
        let is_end = matches!(report, Report::Ended(_));
        let until = Instant::now() + ROOM_MAX;
        let mut waiting = report;
        loop {
            waiting = match self.queue.try_send(waiting) {
                Ok(()) => return,
                Err(TrySendError::Full(report)) if is_end && Instant::now() < until => report,
                Err(_) => break,
            };
            std::thread::sleep(ROOM_LOOK);
        }
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.lost_ends.fetch_add(u64::from(is_end), Ordering::Relaxed);
    }
}

/// What stands where a flow of the other node goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prior {
    /// Nothing: it is new.
    Nothing,
    /// What the other node told of it before.
    Copy,
    /// That has to be looked at, with a call of the kernel: maybe this node's own, which is to stay if it was used later.
    Unknown,
}

/// What became of flows that were to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Now in the maps, or deleted from them.
    pub(crate) applied: u64,
    /// No place for them on this node: other services or targets, or another way.
    pub(crate) misfits: u64,
    /// The port towards the target is somebody else's here.
    pub(crate) taken: u64,
    /// The table of flows is full.
    pub(crate) full: u64,
    /// This node's own flow was used later.
    pub(crate) kept: u64,
}

impl Written {
    /// Adds what became of others.
    pub(crate) const fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.misfits += other.misfits;
        self.taken += other.taken;
        self.full += other.full;
        self.kept += other.kept;
    }
}

/// Where the flows are, for replication.
#[derive(Debug)]
pub(crate) struct Copies {
    folder: PathBuf,
    reader: Arc<Reader>,
}

impl Copies {
    /// The maps pinned in `folder`.
    pub(super) fn new(folder: &Path, reader: Arc<Reader>) -> Self {
        Self { folder: folder.to_owned(), reader }
    }

    /// Opens them.
    pub(crate) fn open(&self) -> Result<FlowTables, KernelError> {
        FlowTables::open(&self.folder, Arc::clone(&self.reader))
    }

    /// Opens those in which sources are counted.
    pub(crate) fn open_sources(&self) -> Result<SourceTables, KernelError> {
        SourceTables::open(&self.folder)
    }

    /// Has the walk through all flows report there, or nowhere.
    pub(crate) fn report_to(&self, reports: Option<Arc<Reports>>) {
        self.reader.reports.store(reports);
    }
}

/// Where a walk through the flows is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position(pub(super) Cursor);

impl Position {
    /// From where a walk was interrupted; of no bytes, the start.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let position = bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        Self(Cursor { position, done: false })
    }

    /// Whether there is nothing more.
    pub(crate) const fn is_end(&self) -> bool {
        self.0.done
    }

    /// For later.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        self.0.position.map_or_else(Vec::new, |position| position.to_ne_bytes().to_vec())
    }
}

/// The maps with descriptors of their own.
pub(crate) struct FlowTables {
    reader: Arc<Reader>,
    folder: PathBuf,
    news: RingBuf<MapData>,
    processors: Map,
    /// By which numbers `ports` were mapped.
    places: Arc<Places>,
    ports: BTreeMap<u32, Ports>,
    clock: Option<Reading>,
    /// Scratch space.
    flows: Batch,
    clients: Batch,
}

impl FlowTables {
    /// Of the maps pinned in `folder`.
    pub(super) fn open(folder: &Path, reader: Arc<Reader>) -> Result<Self, KernelError> {
        let path = folder.join("flow_events");
        let failed = |source: std::io::Error| KernelError::Map {
            action: format!("opening {}", path.display()),
            source,
        };
        let data = MapData::from_pin(&path).map_err(|error| failed(std::io::Error::other(error)))?;
        let map = AyaMap::from_map_data(data).map_err(|error| failed(std::io::Error::other(error)))?;
        let news = RingBuf::try_from(map).map_err(|error| failed(std::io::Error::other(error)))?;
        let (places, folder) = (reader.places.load_full(), folder.to_owned());
        let processors = Map::open(&folder.join("processors")).map_err(failed)?;
        let ports = BTreeMap::new();
        let (flows, clients) = (Batch::default(), Batch::default());
        Ok(Self { reader, folder, news, processors, places, ports, clock: None, flows, clients })
    }

    /// Readable when the program has news.
    pub(crate) fn news_fd(&self) -> Result<OwnedFd, KernelError> {
        // SAFETY: the ring, and so its descriptor, outlives the borrow, which ends with this function.
        let ring = unsafe { BorrowedFd::borrow_raw(self.news.as_raw_fd()) };
        ring.try_clone_to_owned().map_err(|source| failed("watching the program's news", source))
    }

    /// Hands out what the program has told since the last call, the oldest first, `max` at most; how many there were.
    pub(crate) fn news(&mut self, max: usize, mut each: impl FnMut(Tuple, Flow)) -> usize {
        for count in 0..max {
            let Some(item) = self.news.next() else { return count };
            // The key comes first.
            let event = item.split_first_chunk();
            if let Some((tuple, flow)) = event.and_then(|(key, rest)| Some((*key, Flow::from_bytes(rest)?))) {
                each(tuple, flow);
            }
        }
        max
    }

    /// Passes over what the program has told so far; how much that was.
    pub(crate) fn skip_news(&mut self) -> usize {
        std::iter::from_fn(|| self.news.next().map(drop)).take(NEWS_WAITING_MAX).count()
    }

    /// News that there was no room for, since the maps were made. Whoever walks through all flows finds what is in them.
    pub(crate) fn untold(&self) -> u64 {
        let each = (self.processors.shape().value_size as usize).next_multiple_of(8).max(1);
        let values = self.processors.get(&0_u32.to_ne_bytes()).ok().flatten().unwrap_or_default();
        // The last word of each processor's.
        let last = |value: &[u8]| value.last_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
        values.chunks_exact(each).map(last).sum()
    }

    /// The next flows of a walk through all, about `count`.
    pub(crate) fn scan(
        &mut self,
        position: &mut Position,
        count: usize,
        mut each: impl FnMut(Tuple, Flow),
    ) -> Result<(), KernelError> {
        self.reader.flows.walk(&mut position.0, count, &mut self.flows).map_err(reading)?;
        tuples(&self.flows).for_each(|(tuple, flow)| each(tuple, flow));
        Ok(())
    }

    /// A flow, as it is now.
    pub(crate) fn flow(&self, tuple: &Tuple) -> Result<Option<Flow>, KernelError> {
        let mut value = [0; Flow::SIZE];
        let found = self.reader.flows.get_into(tuple, &mut value).map_err(reading)?;
        Ok(Flow::from_bytes(&value).filter(|_| found))
    }

    /// What numbers stand for now.
    pub(crate) fn places(&self) -> Arc<Places> {
        self.reader.places.load_full()
    }

    /// The program's clock.
    pub(crate) fn now(&mut self) -> Result<u32, KernelError> {
        let ticks = self.reader.instances.ticks();
        ticks.reckon(&mut self.clock).map_err(|source| KernelError::Clock { source })
    }

    /// Writes flows of the other node. After an error nobody knows which of them were written.
    pub(crate) fn put<'a>(
        &mut self,
        flows: impl IntoIterator<Item = (&'a Tuple, Told<'a>, Prior)>,
        mut refused: impl FnMut(&Tuple),
    ) -> Result<Written, KernelError> {
        self.renumber();
        let (now, places) = (self.now()?, Arc::clone(&self.places));
        let mut written = Written::default();
        self.flows.clear();
        self.clients.clear();
        for (tuple, told, prior) in flows {
            let Some(key) = FlowKey::from_bytes(tuple) else { continue };
            let placed = places.place(&key, &told, now).map_err(Refusal::from);
            match placed.and_then(|place| self.add((tuple, key.source), place, now, prior)) {
                Ok(()) => continue,
                Err(Refusal::Misfit) => written.misfits += 1,
                Err(Refusal::Taken) => written.taken += 1,
                Err(Refusal::Kept) => written.kept += 1,
                Err(Refusal::Failed(error)) => return Err(error),
            }
            refused(tuple);
        }
        if self.clients.count > 0 {
            // What is not used for the longest makes room.
            let put = self.reader.affinity.put_all(&self.clients, |_| {});
            put.map_err(|source| failed("writing the other node's clients", source))?;
        }
        let (tuples, _) = self.flows.keys.as_chunks();
        let put = self.reader.flows.put_all(&self.flows, |place| {
            written.full += 1;
            tuples.get(place).into_iter().for_each(&mut refused);
        });
        put.map_err(|source| failed("writing flows of the other node", source))?;
        written.applied = self.flows.count as u64 - written.full;
        Ok(written)
    }

    /// Deletes copies of flows that the other node says are over; how many there were. `kept` hears of those that this node has used since they
    /// were written: they are its own.
    pub(crate) fn delete<'a>(
        &mut self,
        tuples: impl IntoIterator<Item = &'a Tuple>,
        kept: impl FnMut(&Tuple),
    ) -> Result<u64, KernelError> {
        let deleted = delete_copies(&self.reader.flows, &mut self.flows, tuples, kept);
        Ok(deleted.map_err(|source| failed("deleting flows of the other node", source))? as u64)
    }

    /// Adds a flow to those that are about to be written, and takes its port at once: a flow in the table has its port.
    fn add(
        &mut self,
        (tuple, source): (&Tuple, Address),
        place: Place,
        now: u32,
        prior: Prior,
    ) -> Result<(), Refusal> {
        let is_new = match prior {
            Prior::Nothing => true,
            Prior::Copy => false,
            Prior::Unknown => {
                let present = self.flow(tuple)?;
                if present.is_some_and(|present| Places::keeps(&present, &place, now)) {
                    return Err(Refusal::Kept);
                }
                present.is_none()
            }
        };
        if let Some(slot) = place.slot {
            self.take_port(slot, source, now)?;
        }
        self.flows.keys.extend_from_slice(tuple);
        place.flow.put(&mut self.flows.values);
        self.flows.count += 1;
        // One that only goes on is not where the client was sent last.
        if let Some((client, remembered)) = place.client.filter(|_| is_new) {
            client.put(&mut self.clients.keys);
            remembered.put(&mut self.clients.values);
            self.clients.count += 1;
        }
        Ok(())
    }

    /// Gives a port to a client's flow.
    fn take_port(
        &mut self,
        (endpoint, port, slot): (u32, u32, Slot),
        source: Address,
        now: u32,
    ) -> Result<(), Refusal> {
        // Those of a target that is new here may not be there yet.
        self.map_ports(endpoint, source.is_ipv4())?;
        let Some(ports) = self.ports.get(&endpoint) else { return Err(Refusal::Misfit) };
        let service = |number| self.reader.services.get(&u32::from(number)).ok().flatten();
        let is_taken = |present: &Slot| expiry::is_slot_busy(present, service, now);
        if ports.take(port, &slot, source, now, is_taken) { Ok(()) } else { Err(Refusal::Taken) }
    }

    /// Gives all flows of the table the ports that they have: those that a former life has written down in another way could not be taken over.
    /// How many have theirs.
    pub(super) fn refill_ports(&mut self) -> Result<u64, KernelError> {
        self.renumber();
        let places = Arc::clone(&self.places);
        let (mut cursor, mut batch, mut given) = (Cursor::default(), Batch::default(), 0);
        while !cursor.done {
            self.reader.flows.walk(&mut cursor, REFILL_BATCH, &mut batch).map_err(reading)?;
            // With each batch: the walk takes seconds, and the program gives away what seems to be locked for one.
            let now = self.now()?;
            for (tuple, flow) in tuples(&batch) {
                let Some(key) = FlowKey::from_bytes(&tuple) else { continue };
                let Some(slot) = places.slot(&key, &flow) else { continue };
                match self.take_port(slot, key.source, now) {
                    Ok(()) => given += 1,
                    Err(Refusal::Failed(error)) => return Err(error),
                    // Its flow goes on as one without a port does: with another one.
                    Err(Refusal::Misfit | Refusal::Taken | Refusal::Kept) => {}
                }
            }
        }
        Ok(given)
    }

    /// Maps an endpoint's ports, if there are any; those of IPv6 with their clients' addresses.
    fn map_ports(&mut self, endpoint: u32, is_ipv4: bool) -> Result<(), KernelError> {
        if self.ports.contains_key(&endpoint) {
            return Ok(());
        }
        let Some(slots) = self.open_ports(endpoint)? else { return Ok(()) };
        let clients = if is_ipv4 {
            None
        } else {
            let Some(clients) = self.open_ports(ENDPOINTS_MAX + endpoint)? else { return Ok(()) };
            Some(clients)
        };
        let ports = Ports::map(&slots, clients.as_ref())
            .map_err(|errno| failed("mapping an endpoint's ports", errno.into()))?;
        self.ports.insert(endpoint, ports);
        Ok(())
    }

    /// One of the arrays in `slots`, if it is there.
    fn open_ports(&self, index: u32) -> Result<Option<Map>, KernelError> {
        let path = self.folder.join(format!("{SLOTS_PREFIX}{index}"));
        let map = match Map::open(&path) {
            Ok(map) => map,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("opening an endpoint's ports", source)),
        };
        let (found, wanted) = (map.shape(), slots_shape());
        if found != wanted {
            return Err(KernelError::MapDiffers { path, found, wanted });
        }
        Ok(Some(map))
    }

    /// Takes over other numbers of things.
    fn renumber(&mut self) {
        let places = self.reader.places.load_full();
        if !Arc::ptr_eq(&places, &self.places) {
            self.places = places;
            self.ports.clear();
        }
    }
}

/// Why a flow is not written.
enum Refusal {
    Misfit,
    Taken,
    Kept,
    Failed(KernelError),
}

impl From<Misfit> for Refusal {
    fn from(misfit: Misfit) -> Self {
        tracing::trace!(%misfit, "a flow of the other node has no place here");
        Self::Misfit
    }
}

impl From<KernelError> for Refusal {
    fn from(error: KernelError) -> Self {
        Self::Failed(error)
    }
}

/// Deletes those of these flows that are copies; how many there were. A packet that uses one in the moment between comes too late.
fn delete_copies<'a>(
    flows: &Map,
    scratch: &mut Batch,
    tuples: impl IntoIterator<Item = &'a Tuple>,
    mut kept: impl FnMut(&Tuple),
) -> std::io::Result<usize> {
    let mut value = [0; Flow::SIZE];
    scratch.clear();
    for tuple in tuples {
        match flows.get_into(tuple, &mut value) {
            Ok(false) => {}
            Ok(true) if Flow::from_bytes(&value).is_some_and(|flow| flow.copied == 0) => kept(tuple),
            // What cannot be looked at cannot be deleted either, and that says why.
            Ok(true) | Err(_) => scratch.keys.extend_from_slice(tuple),
        }
    }
    flows.delete_all(&scratch.keys)
}

/// The flows of a batch.
pub(super) fn tuples(batch: &Batch) -> impl Iterator<Item = (Tuple, Flow)> + '_ {
    let (keys, _) = batch.keys.as_chunks();
    let values = batch.values.chunks_exact(Flow::SIZE).take(batch.count);
    keys.iter().zip(values).filter_map(|(key, value)| Some((*key, Flow::from_bytes(value)?)))
}

fn failed(action: &str, source: std::io::Error) -> KernelError {
    KernelError::Map { action: action.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_waits_for_room_and_is_counted_if_there_is_none() {
        let (reports, mut queue) = Reports::new();
        let used = || Report::Used(vec![[0; 40]]);
        (0..REPORTS_MAX).for_each(|_| reports.send(used()));
        assert_eq!(reports.lost(), 0);
        reports.send(used());
        assert_eq!([reports.lost(), reports.lost_ends()], [1, 0]);
        // Nobody takes anything.
        reports.send(Report::Ended(vec![[1; 40]]));
        assert_eq!([reports.lost(), reports.lost_ends()], [2, 1]);
        let (sender, full) = (Arc::clone(&reports), std::sync::mpsc::channel());
        let walk = std::thread::spawn(move || {
            full.0.send(()).unwrap();
            sender.send(Report::Ended(vec![[2; 40]]));
        });
        full.1.recv().unwrap();
        let mut last = queue.try_recv().unwrap();
        walk.join().unwrap();
        while let Ok(report) = queue.try_recv() {
            last = report;
        }
        assert!(matches!(last, Report::Ended(tuples) if tuples == [[2; 40]]));
        assert_eq!([reports.lost(), reports.lost_ends()], [2, 1]);
    }
    #[test]
    fn of_what_is_over_on_the_other_node_only_copies_are_deleted() {
        let sizes = [FlowKey::SIZE, Flow::SIZE].map(|size| size.try_into().unwrap());
        let map = Map::new_hash("test", sizes, 8).unwrap();
        // One was used here since it was written, and one is gone by itself.
        let tuples = [1, 2, 3].map(|number| [number; 40]);
        for (tuple, copied) in tuples.iter().zip([1, 0]) {
            map.put(tuple, &Flow { copied, ..Flow::default() }.to_bytes()).unwrap();
        }
        let (mut batch, mut kept) = (Batch::default(), Vec::new());
        let deleted = delete_copies(&map, &mut batch, &tuples, |tuple| kept.push(*tuple)).unwrap();
        assert_eq!((deleted, kept), (1, vec![tuples[1]]));
        let left = tuples.map(|tuple| map.get(&tuple).unwrap().is_some());
        assert_eq!(left, [false, true, false]);
        assert_eq!(delete_copies(&map, &mut batch, &tuples, |_| {}).unwrap(), 0);
    }
}
