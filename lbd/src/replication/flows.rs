//! The kernel's flows, as the core knows them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use common::time::{Duration, Instant};
use lbd_core::forward::abi::{Flow as Entered, duration_of, ticks_of};
use lbd_core::forward::copies::{Places, Told, Tuple};
use lbd_core::replication::{Cursor, Entry, Flow, Key, Live, Name, NameId, Put, Removal, Replica, Scan};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Receiver;

use super::counts::{self, Counts};
use crate::l4::kernel::{Copies, FlowTables, KernelError, Position, Prior, Report, Reports, Written};

/// News taken at once, so that whoever else waits has a turn.
const NEWS_MAX: usize = 8192;

/// So often as many as that, and whatever the program had room for has been taken.
const NEWS_ROUNDS: usize = 8;

/// News of so long are taken together, and sent at once: each time costs as much as hundreds of them do.
const NEWS_PAUSE: Duration = Duration::from_millis(5);

/// Flows read with one call for a scan.
pub(super) const SCAN: usize = 4096;

/// Between times that the other node is to tell everything once more.
pub(super) const ANEW_PAUSE: Duration = Duration::from_secs(5);

/// The flows, while the kernel forwards.
pub(super) struct Flows {
    copies: Arc<Copies>,
    tables: FlowTables,
    counts: Counts,
    /// Says when there are news; none while they are taken by the clock, so that nobody is woken for those that wait for it.
    readable: Option<AsyncFd<OwnedFd>>,
    reports: Receiver<Report>,
    sender: Arc<Reports>,
    places: Arc<Places>,
    names: Names,
    /// When news are taken next; none if there were none the last time.
    take_at: Option<Instant>,
    /// All news that came before were taken.
    taken: Instant,
    found: Vec<Live>,
    /// Flows that were the peer's when news of them came.
    overtaken: Vec<Tuple>,
    /// There may be flows of this node's own in the table that nobody has told of.
    strangers: bool,
    /// News that the program had no room for, as last counted.
    untold: u64,
    /// Those of before, which the maps may have had with a former life, too.
    untold_before: u64,
    /// There are some since everything was told last, so that the ledger may take a flow of this node's own for a copy.
    doubts: bool,
    /// This node's own that were not written over, or not deleted.
    kept: Vec<Tuple>,
    /// Some of the peer's found no place since everything was told last.
    misfits: bool,
    /// There are more services or targets since that was looked at.
    more_places: bool,
    /// Reports of what is over that were lost before everything was told last.
    ends_missed: u64,
    /// The other node is not asked for everything before.
    anew_at: Instant,
    /// What became of the peer's.
    pub(super) written: Written,
}

impl Flows {
    /// The flows of a kernel that has begun to forward.
    pub(super) fn open(copies: Arc<Copies>) -> Result<Self, KernelError> {
        let mut tables = copies.open()?;
        let counts = Counts::new(copies.open_sources()?);
        // Nobody knows how old that is. What has become of these flows, a walk through all finds.
        let skipped = tables.skip_news();
        tracing::debug!(skipped, "flows that the program told of while nobody listened");
        let (sender, reports) = Reports::new();
        copies.report_to(Some(Arc::clone(&sender)));
        let (places, names, untold) = (tables.places(), Names::default(), tables.untold());
        Ok(Self {
            copies,
            tables,
            counts,
            readable: None,
            reports,
            sender,
            places,
            names,
            take_at: Some(Instant::ZERO),
            taken: Instant::ZERO,
            found: Vec::new(),
            overtaken: Vec::new(),
            // Those of a former life.
            strangers: true,
            untold,
            untold_before: untold,
            doubts: false,
            kept: Vec::new(),
            misfits: false,
            more_places: false,
            ends_missed: 0,
            anew_at: Instant::ZERO,
            written: Written::default(),
        })
    }

    /// Whether the maps hold services, so that what comes for them has a place. As of when news were taken last or
    /// [`Self::must_begin_anew`] was asked: whatever found no place before is then told anew.
    pub(super) fn are_ready(&self) -> bool {
        !self.places.is_empty()
    }

    /// News that the program had no room for since these maps were opened.
    pub(super) fn untold(&self) -> u64 {
        self.tables.untold().saturating_sub(self.untold_before)
    }

    /// Reports that were lost because too many waited.
    pub(super) fn lost_reports(&self) -> u64 {
        self.sender.lost()
    }

    /// When news are to be taken again, if some wait, or everything is to be told.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let anew = (self.lacks() || self.has_missed_ends()).then_some(self.anew_at);
        self.take_at.into_iter().chain(anew).min()
    }

    /// Waits until the walk through all flows reports something, or the program has news, which is no report. May be cancelled.
    pub(super) async fn told(&mut self) -> Option<Report> {
        let Some(readable) = &self.readable else {
            // There is a time for it.
            return self.reports.recv().await;
        };
        tokio::select! {
            report = self.reports.recv() => report,
            ready = readable.readable() => {
                // It fails when the runtime ends.
                let Ok(mut ready) = ready else { std::future::pending().await };
                ready.clear_ready();
                self.readable = None;
                None
            }
        }
    }

    /// Takes what the program has told, if it is time.
    pub(super) fn take_news(&mut self, replica: &mut Replica, at: Instant) -> Result<(), KernelError> {
        match self.take_at {
            Some(take_at) if take_at <= at => self.take_news_now(replica, at),
            // The first one, of which `told` has just heard.
            None if self.readable.is_none() => {
                (self.taken, self.take_at) = (at, Some(at + NEWS_PAUSE));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The same at once: what was changed here is told before something of the peer's is written over it.
    pub(super) fn take_news_now(&mut self, replica: &mut Replica, at: Instant) -> Result<(), KernelError> {
        self.renumber();
        let now = self.tables.now()?;
        let Self { tables, places, names, found, overtaken, .. } = self;
        found.clear();
        let count = tables.news(NEWS_MAX, |tuple, flow| {
            found.extend(names.live(replica, places, tuple, &flow, now));
        });
        replica.changed_since(at, self.taken, found, |live| overtaken.extend(tuple_of(live)));
        if count < NEWS_MAX {
            self.taken = at;
        }
        self.take_at = match count {
            0 => None,
            NEWS_MAX.. => Some(at),
            _ => Some(at + NEWS_PAUSE),
        };
        if count == 0 {
            self.watch()?;
        }
        self.tell_overtaken(replica, at, now)
    }

    /// The same of all there are, as many as the program has room for.
    pub(super) fn take_all_news(&mut self, replica: &mut Replica, at: Instant) -> Result<(), KernelError> {
        for _ in 0..NEWS_ROUNDS {
            self.take_news_now(replica, at)?;
            if self.take_at != Some(at) {
                break;
            }
        }
        Ok(())
    }

    /// Wakes whoever waits in [`Self::told`] with the next news.
    fn watch(&mut self) -> Result<(), KernelError> {
        if self.readable.is_none() {
            let news = self.tables.news_fd()?;
            // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives.
            let readable = unsafe { AsyncFd::register_with_interest(news, Interest::READABLE) };
            self.readable = Some(readable.map_err(|error| KernelError::Map {
                action: "watching the program's news".to_owned(),
                source: error.into(),
            })?);
        }
        Ok(())
    }

    /// Tells what is there of flows that may have been written over after the program told of them, and before that was heard: to the
    /// peer what was heard is the latest.
    fn tell_overtaken(&mut self, replica: &mut Replica, at: Instant, now: u32) -> Result<(), KernelError> {
        if self.overtaken.is_empty() {
            return Ok(());
        }
        self.found.clear();
        for tuple in std::mem::take(&mut self.overtaken) {
            let flow = self.tables.flow(&tuple)?.filter(|flow| flow.copied != 0);
            let live = flow.and_then(|flow| self.names.live(replica, &self.places, tuple, &flow, now));
            self.found.extend(live);
        }
        replica.changed_all(at, &self.found);
        Ok(())
    }

    /// Takes what a walk through all flows has found.
    pub(super) fn take_report(
        &mut self,
        replica: &mut Replica,
        at: Instant,
        report: Report,
    ) -> Result<(), KernelError> {
        self.renumber();
        match report {
            Report::Used(tuples) => {
                let now = self.tables.now()?;
                self.found.clear();
                for tuple in tuples {
                    // As it is by now: what has changed since the walk may have been told already.
                    let flow = self.tables.flow(&tuple)?.filter(|flow| flow.copied == 0);
                    let Some(flow) = flow else { continue };
                    self.found.extend(self.names.live(replica, &self.places, tuple, &flow, now));
                }
                replica.changed_all(at, &self.found);
            }
            Report::Ended(tuples) => {
                for tuple in tuples {
                    // It may have begun anew.
                    if self.tables.flow(&tuple)?.is_none() {
                        replica.deleted(at, &Key::Flow(tuple), Removal::Expired);
                    }
                }
            }
        }
        Ok(())
    }

    /// Answers a scan.
    pub(super) fn scan(
        &mut self,
        replica: &mut Replica,
        at: Instant,
        scan: &Scan,
    ) -> Result<(), KernelError> {
        self.renumber();
        let now = self.tables.now()?;
        let mut position = Position::from_bytes(&scan.cursor.0);
        let Self { tables, places, names, found, .. } = self;
        found.clear();
        tables.scan(&mut position, scan.limit.min(SCAN), |tuple, flow| {
            found.extend(names.live(replica, places, tuple, &flow, now));
        })?;
        let next = (!position.is_end()).then(|| Cursor(position.to_bytes()));
        replica.scanned(at, scan.id, &self.found, next);
        Ok(())
    }

    /// Deletes the flows that the peer says are over, unless this node uses them by now, and writes its others; puts those that are refused into
    /// `refused`. After an error nobody knows which were written; as many as can be are deleted, for nobody would ask for that again.
    pub(super) fn apply(
        &mut self,
        replica: &Replica,
        puts: &[Put],
        deletes: &[Tuple],
        refused: &mut Vec<Key>,
    ) -> Result<(), KernelError> {
        // All that was in the table when the session began is in its snapshot.
        self.strangers &= !replica.peer_is_synced();
        // What the program had no room to tell of is not in the ledger either.
        let untold = self.tables.untold();
        self.doubts |= std::mem::replace(&mut self.untold, untold) != untold;
        let strangers = self.strangers || self.doubts;
        let told = puts.iter().filter_map(|put| {
            let Entry::Flow(flow) = &put.live.entry else { return None };
            let Some(Name::Target { group, id }) = replica.name_of(flow.target) else { return None };
            let remaining = ticks_of(put.live.remaining.unwrap_or_default());
            let told = Told { group, target: id, port: flow.port, state: flow.state, remaining };
            let prior = match put {
                _ if strangers => Prior::Unknown,
                Put { over_own: true, .. } => Prior::Unknown,
                Put { is_new: true, .. } => Prior::Nothing,
                Put { .. } => Prior::Copy,
            };
            Some((&flow.tuple, told, prior))
        });
        let Self { tables, kept, .. } = self;
        kept.clear();
        let deleted = tables.delete(deletes, |tuple| kept.push(*tuple));
        let undeleted = kept.len();
        let written = tables.put(told, |tuple| {
            refused.push(Key::Flow(*tuple));
            kept.push(*tuple);
        })?;
        // Of this node's own flows it was told that the peer has changed them, and they are not what the peer has told.
        if written.kept == 0 && puts.iter().all(|put| !put.over_own) {
            kept.truncate(undeleted);
        }
        self.misfits |= written.misfits > 0;
        self.written.add(written);
        deleted.map(drop)
    }

    /// When it is looked for what the kernel has counted, where a rate is the pair's.
    pub(super) fn counts_deadline(&self) -> Option<Instant> {
        self.places.has_pair_rates().then(|| self.counts.step_at())
    }

    /// Tells the core what the kernel has counted since, if it is time.
    pub(super) fn take_counts(&mut self, replica: &mut Replica, at: Instant) -> Result<(), KernelError> {
        self.renumber();
        if self.counts_deadline().is_none_or(|deadline| deadline > at) {
            return Ok(());
        }
        let now = self.tables.now()?;
        let Self { counts, places, names, .. } = self;
        counts.step(replica, places, names, at, now)
    }

    /// Finds what the kernel has counted for a scan of the rates, once all of the proxies' has been found; where to go on, if there is more.
    pub(super) fn scan_counts(
        &mut self,
        replica: &mut Replica,
        scan: &Scan,
        found: &mut Vec<Live>,
    ) -> Result<Option<Cursor>, KernelError> {
        self.renumber();
        if counts::position(&scan.cursor).is_none() {
            return Ok(self.places.has_pair_rates().then(|| counts::cursor(Position::default())));
        }
        let now = self.tables.now()?;
        let Self { counts, places, names, .. } = self;
        counts.scan(replica, places, names, scan, found, now)
    }

    /// Writes what the peer's kernel has counted; puts what has no place here into `refused`.
    pub(super) fn put_counts(
        &mut self,
        replica: &Replica,
        counted: &[Live],
        refused: &mut Vec<Key>,
    ) -> Result<(), KernelError> {
        if counted.is_empty() {
            return Ok(());
        }
        self.renumber();
        let now = self.tables.now()?;
        let written = self.counts.put(replica, &self.places, counted, now, refused)?;
        self.misfits |= written.misfits > 0;
        self.written.add(written);
        Ok(())
    }

    /// Tells the peer of flows that are this node's own and were used later than what it told of them, their end included.
    pub(super) fn tell_kept(&mut self, replica: &mut Replica, at: Instant) -> Result<(), KernelError> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let kept = std::mem::take(&mut self.kept);
        self.take_report(replica, at, Report::Used(kept))
    }

    /// Whether reports of what is over were lost, so that it is taken for what goes on, on both nodes.
    fn has_missed_ends(&self) -> bool {
        self.sender.lost_ends() != self.ends_missed
    }

    /// Whether something of the peer's that found no place may have one by now.
    pub(super) const fn lacks(&self) -> bool {
        self.misfits && self.more_places
    }

    /// The next session begins with everything.
    pub(super) fn begin_anew(&mut self) {
        self.misfits = false;
        self.doubts = false;
        self.ends_missed = self.sender.lost_ends();
    }

    /// Whether both nodes are to tell everything once more now, because of either. It costs them something, so there is a time between.
    pub(super) fn must_begin_anew(&mut self, now: Instant) -> bool {
        self.renumber();
        if !self.lacks() {
            // What is misfit from now on has been looked for there.
            self.more_places = false;
        }
        let due = (self.lacks() || self.has_missed_ends()) && now >= self.anew_at;
        if due {
            self.anew_at = now + ANEW_PAUSE;
            self.begin_anew();
        }
        due
    }

    /// Whether a name is still one of this node's services and targets.
    pub(super) fn knows(&self, name: &Name) -> bool {
        self.places.knows(name_parts(name))
    }

    /// Names have been forgotten, and may get other numbers.
    pub(super) fn forget_names(&mut self) {
        self.names.clear();
    }

    /// Takes over other numbers of things.
    fn renumber(&mut self) {
        let places = self.tables.places();
        if !Arc::ptr_eq(&places, &self.places) {
            self.more_places |= places.has_more_than(&self.places);
            self.places = places;
            self.names.clear();
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.copies.report_to(None);
    }
}

/// Group, if it has one, and name or id.
fn name_parts(name: &Name) -> (Option<&str>, &str) {
    match name {
        Name::Service(name) | Name::Group(name) | Name::Zone(name) | Name::Ring(name) => (None, name),
        Name::Target { group, id } => (Some(group), id),
    }
}

/// The tuple of a flow.
const fn tuple_of(live: &Live) -> Option<Tuple> {
    match live.entry {
        Entry::Flow(flow) => Some(flow.tuple),
        _ => None,
    }
}

/// The core's numbers of services and targets by the kernel's; none yet, or none of one that is gone.
#[derive(Debug, Default)]
pub(super) struct Names {
    services: Vec<Option<Option<NameId>>>,
    targets: Vec<Option<Option<NameId>>>,
}

impl Names {
    /// A flow for the core; none of one whose service or target is gone.
    fn live(
        &mut self,
        replica: &mut Replica,
        places: &Places,
        tuple: Tuple,
        flow: &Entered,
        now: u32,
    ) -> Option<Live> {
        let service = self.service(replica, places, flow.service)?;
        let target = known(&mut self.targets, flow.target, || {
            let (group, id) = places.target(flow.target)?.clone();
            replica.name(Name::Target { group, id }).ok()
        })?;
        let entry = Entry::Flow(Flow { tuple, service, target, port: flow.port.0, state: flow.state });
        Some(Live { entry, remaining: Some(duration_of(places.remaining(flow, now))) })
    }

    /// A service for the core; none if it is gone.
    pub(super) fn service(&mut self, replica: &mut Replica, places: &Places, number: u16) -> Option<NameId> {
        known(&mut self.services, number, || {
            let name = Name::Service(Arc::clone(places.service(number)?));
            replica.name(name).ok()
        })
    }

    fn clear(&mut self) {
        self.services.clear();
        self.targets.clear();
    }
}

/// What is known of a number, or found out.
fn known(
    names: &mut Vec<Option<Option<NameId>>>,
    number: u16,
    find: impl FnOnce() -> Option<NameId>,
) -> Option<NameId> {
    let index = usize::from(number);
    if names.len() <= index {
        names.resize(index + 1, None);
    }
    *names[index].get_or_insert_with(find)
}
