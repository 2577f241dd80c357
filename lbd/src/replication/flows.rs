//! The kernel's flows, as the core knows them.

use std::collections::HashMap;
use std::sync::Arc;

use common::time::{Duration, Instant};
use lbd_core::forward::abi::{Flow as Entered, duration_of, ticks_of};
use lbd_core::forward::copies::{Places, Told, Tuple};
use lbd_core::replication::{Cursor, Entry, Flow, Key, Live, Name, NameId, Removal, Replica, Scan};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Receiver;

use crate::l4::kernel::{Copies, FlowTables, KernelError, Position, Report, Reports, Written};

/// News taken at once, so that whoever else waits has a turn.
const NEWS_MAX: usize = 8192;

/// News of so long are taken together: a call for each would cost more than they do.
const NEWS_PAUSE: Duration = Duration::from_millis(5);

/// Flows read with one call for a scan.
pub(super) const SCAN: usize = 4096;

/// Between times that the other node is to tell everything once more.
pub(super) const ANEW_PAUSE: Duration = Duration::from_secs(5);

/// The flows, while the kernel forwards.
pub(super) struct Flows {
    copies: Arc<Copies>,
    tables: FlowTables,
    readable: AsyncFd<std::os::fd::OwnedFd>,
    reports: Receiver<Report>,
    sender: Arc<Reports>,
    places: Arc<Places>,
    /// By the numbers of service and target.
    names: HashMap<(u16, u16), Option<(NameId, NameId)>>,
    /// The program has told more than was taken.
    more: bool,
    /// No news are taken before.
    resume: Option<Instant>,
    found: Vec<Live>,
    /// This node's own that were not written over.
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
        // Nobody knows how old that is. What has become of these flows, a walk through all finds.
        let skipped = tables.skip_news();
        tracing::debug!(skipped, "flows that the program told of while nobody listened");
        let news = tables.news_fd()?;
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives.
        let readable = unsafe { AsyncFd::register_with_interest(news, Interest::READABLE) };
        let readable = readable.map_err(|error| KernelError::Map {
            action: "watching the program's news".to_owned(),
            source: error.into(),
        })?;
        let (sender, reports) = Reports::new();
        copies.report_to(Some(Arc::clone(&sender)));
        let (places, names) = (tables.places(), HashMap::new());
        Ok(Self {
            copies,
            tables,
            readable,
            reports,
            sender,
            places,
            names,
            more: true,
            resume: None,
            found: Vec::new(),
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

    /// News that the program had no room for.
    pub(super) fn untold(&self) -> u64 {
        self.tables.untold()
    }

    /// Reports that were lost because too many waited.
    pub(super) fn lost_reports(&self) -> u64 {
        self.sender.lost()
    }

    /// When news are to be taken again, if some wait, or everything is to be told.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let news = self.more.then(|| self.resume.unwrap_or(Instant::ZERO));
        let anew = (self.lacks() || self.has_missed_ends()).then_some(self.anew_at);
        news.into_iter().chain(anew).min()
    }

    /// Waits until the walk through all flows reports something, or the program has news, which is no report. May be cancelled.
    pub(super) async fn told(&mut self) -> Option<Report> {
        if self.more {
            // There is a time for it.
            return self.reports.recv().await;
        }
        tokio::select! {
            report = self.reports.recv() => report,
            ready = self.readable.readable() => {
                // It fails when the runtime ends.
                let Ok(mut ready) = ready else { std::future::pending().await };
                ready.clear_ready();
                self.more = true;
                None
            }
        }
    }

    /// Takes what the program has told, if it is time.
    pub(super) fn take_news(&mut self, replica: &mut Replica, at: Instant) -> Result<(), KernelError> {
        if !self.more || self.resume.is_some_and(|resume| resume > at) {
            return Ok(());
        }
        self.take_news_now(replica, at)
    }

    /// The same at once: what was changed here is told before something of the peer's is written over it.
    pub(super) fn take_news_now(&mut self, replica: &mut Replica, at: Instant) -> Result<(), KernelError> {
        self.renumber();
        let now = self.tables.now()?;
        let Self { tables, places, names, found, .. } = self;
        found.clear();
        let count = tables.news(NEWS_MAX, |tuple, flow| {
            found.extend(live(replica, places, names, tuple, &flow, now));
        });
        replica.changed_all(at, found);
        self.more = count > 0;
        self.resume = (count < NEWS_MAX).then(|| at + NEWS_PAUSE);
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
                    self.found.extend(live(replica, &self.places, &mut self.names, tuple, &flow, now));
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
            found.extend(live(replica, places, names, tuple, &flow, now));
        })?;
        let next = (!position.is_end()).then(|| Cursor(position.to_bytes()));
        replica.scanned(at, scan.id, &self.found, next);
        Ok(())
    }

    /// Deletes the flows that the peer says are over, and writes its others; puts those that are refused into `refused`. After an error
    /// nobody knows which were written; as many as can be are deleted, for nobody would ask for that again.
    pub(super) fn apply(
        &mut self,
        replica: &Replica,
        puts: &[Flow],
        remaining: &[Duration],
        deletes: &[Tuple],
        refused: &mut Vec<Key>,
    ) -> Result<(), KernelError> {
        let told = puts.iter().zip(remaining).filter_map(|(flow, remaining)| {
            let Some(Name::Target { group, id }) = replica.name_of(flow.target) else { return None };
            let remaining = ticks_of(*remaining);
            Some((&flow.tuple, Told { group, target: id, port: flow.port, state: flow.state, remaining }))
        });
        let deleted = self.tables.delete(deletes);
        let Self { tables, kept, .. } = self;
        kept.clear();
        let written = tables.put(told, |tuple| {
            refused.push(Key::Flow(*tuple));
            kept.push(*tuple);
        })?;
        if written.kept == 0 {
            kept.clear();
        }
        self.misfits |= written.misfits > 0;
        self.written.add(written);
        deleted.map(drop)
    }

    /// Tells the peer of flows that are this node's own and were used later than what it told of them.
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
        Name::Service(name) | Name::Group(name) | Name::Zone(name) => (None, name),
        Name::Target { group, id } => (Some(group), id),
    }
}

/// A flow for the core; none of one whose service or target is gone.
fn live(
    replica: &mut Replica,
    places: &Places,
    names: &mut HashMap<(u16, u16), Option<(NameId, NameId)>>,
    tuple: Tuple,
    flow: &Entered,
    now: u32,
) -> Option<Live> {
    let numbers = names.entry((flow.service, flow.target)).or_insert_with(|| {
        let service = Name::Service(Arc::clone(places.service(flow.service)?));
        let (group, id) = places.target(flow.target)?.clone();
        Some((replica.name(service).ok()?, replica.name(Name::Target { group, id }).ok()?))
    });
    let (service, target) = (*numbers)?;
    let entry = Entry::Flow(Flow { tuple, service, target, port: flow.port.0, state: flow.state });
    Some(Live { entry, remaining: Some(duration_of(places.remaining(flow, now))) })
}
