//! The loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::time::{Duration, Instant};
use lbd_core::chance::Word;
use lbd_core::replication::{
    Action, Apply, Counters, Entry, Key, NAMES_MAX, Name, NameError, Put, Replica, Settings, State, Table,
};
use tokio::sync::watch;

use super::flows::{ANEW_PAUSE, Flows, SCAN};
use super::tables::{Heeding, Tables};
use super::words::Past;
use super::{Outlets, Shown, StateView, clients, rings};
use crate::l4::kernel::{self, Copies, KernelError, Report, Written};
use crate::peer::{Port, SendError, Session};
use crate::random;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// So many names, and those that stand for nothing any more are forgotten.
const NAMES_ENOUGH: usize = NAMES_MAX / 2;

/// For so many of them that the other node has announced, which are known for as long as a session lasts, another one begins: it costs both
/// nodes a snapshot.
const NAMES_HELD_MAX: usize = NAMES_MAX / 16;

/// So long a session waits for the kernel's part to be ready.
const READY_MAX: Duration = Duration::from_secs(5);

/// So long the control loop may take to heed what the other node says of targets. Nothing is read from that node meanwhile, so this one must not
/// pass for one that is in step for longer.
const HEED_MAX: Duration = Duration::from_secs(5);

/// So long what has changed waits for other changes: looking for each would cost more than the changes do.
const NEWS_PAUSE: Duration = Duration::from_millis(2);

/// How often that is looked at.
const READY_LOOK: Duration = Duration::from_millis(10);

/// The pause between attempts to open the kernel's maps.
const OPEN_EVERY: Duration = Duration::from_secs(1);

/// Why flows are not replicated while the kernel's maps are not there or hold no service.
const NO_PLACE: &str = "the kernel does not forward yet, so flows of the other node have no place";

/// States, weights and health of targets that are told of.
const TARGETS_MAX: u32 = 16_384;

/// Entries that each of the tables of clients may have at the least: what the other node has may be more than this one has room for.
const CLIENTS_MIN: u32 = 131_072;

/// And at the most, over all groups or services: what is beyond it is not told, which is counted.
const CLIENTS_MAX: u32 = 1 << 23;

/// What is shown is this old at most.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// So much older without a session, when nothing but the time changes.
const SHOW_ALONE: Duration = Duration::from_millis(900);

/// Drives replication for as long as the link runs.
pub(crate) async fn drive(port: Port, shared: Arc<Shared>, outlets: Outlets) {
    let _life = Life::new(&outlets);
    let _heard = Heard(Arc::clone(&shared));
    let mut driver = Driver::new(shared, outlets);
    // Before anything is told: what is told to a replica that is then replaced counts as older than everything.
    driver.kernel_changed();
    while driver.step(&port).await {}
}

/// While the other node can be heard.
struct Heard(Arc<Shared>);

impl Drop for Heard {
    fn drop(&mut self) {
        self.0.chance.heard(None);
        self.0.chance.in_step(false);
        self.0.kernel.rings().stopped(self.0.clock.now().at);
        self.0.kernel.wake();
    }
}

/// While replication is driven.
struct Life {
    shown: Shown,
    behind: watch::Sender<bool>,
    waits: Arc<AtomicBool>,
}

impl Life {
    fn new(outlets: &Outlets) -> Self {
        let Outlets { shown, behind, waits, .. } = outlets;
        Self { shown: Arc::clone(shown), behind: behind.clone(), waits: Arc::clone(waits) }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.shown.store(None);
        if std::thread::panicking() {
            // From now on nobody would say it.
            self.behind.send_replace(self.waits.load(Ordering::Relaxed));
            tracing::error!(
                "replication has failed and ends; please report it; a reload of lbd starts it anew"
            );
        }
    }
}

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    outlets: Outlets,
    pub(super) replica: Replica,
    session: Option<Session>,
    /// A message that the session has no room for.
    waiting: Option<Vec<u8>>,
    pub(super) flows: Option<Flows>,
    /// What became of flows of the other node's in maps that are gone.
    written: Written,
    /// Reports that were lost of those, and news that the program had no room for.
    reports_lost: u64,
    untold: u64,
    /// The kernel's maps could not be opened: when that is tried again.
    open_at: Option<Instant>,
    tables: Tables,
    /// What is written of the other node's entries waits for the control loop.
    heeding: Option<Heeding>,
    /// Not longer than until then.
    heed_by: Instant,
    kernel: watch::Receiver<Option<Arc<Copies>>>,
    config_hash: watch::Receiver<u64>,
    word: watch::Receiver<Word>,
    show_at: Instant,
    /// When what has changed here is to be told, if something has.
    news_at: Option<Instant>,
    /// No session waits longer than this for what it is about.
    ready_by: Instant,
    /// Why flows are not replicated, if they are not.
    failing: Option<String>,
    /// The kernel's counts of clients' new flows could not be read, or written.
    counts_failing: bool,
    /// There is more to be read for a snapshot.
    scanning: bool,
    /// Names are not looked through before.
    forget_at: Instant,
    /// Why a name got no number, as last logged.
    name_refused: Option<NameError>,
    /// The second chance has heeded what the other node had said of its connections when the two came into step. What is said later changes
    /// with each of these connections, and is waited for by nobody.
    heeded_word: bool,
}

impl Driver {
    fn new(shared: Arc<Shared>, outlets: Outlets) -> Self {
        let now = shared.clock.now();
        let past = outlets.memory.lock().past.clone();
        let mut config_hash = shared.config_hash.subscribe();
        config_hash.mark_unchanged();
        let kernel = shared.kernel.copies();
        let mut word = shared.chance.word();
        word.mark_changed();
        let mut driver = Self {
            replica: replica(&shared, past.counters),
            written: past.written,
            reports_lost: past.reports_lost,
            untold: past.untold,
            session: None,
            waiting: None,
            flows: None,
            open_at: None,
            tables: Tables::new(&shared, &outlets),
            heeding: None,
            heed_by: now.at,
            kernel,
            config_hash,
            word,
            show_at: now.at,
            news_at: Some(now.at),
            ready_by: now.at + READY_MAX,
            failing: None,
            counts_failing: false,
            scanning: false,
            forget_at: now.at,
            name_refused: None,
            heeded_word: false,
            shared,
            outlets,
        };
        driver.tables.begin_anew(&mut driver.replica);
        driver.shared.kernel.rings().tell_again();
        driver
    }

    fn now(&self) -> Instant {
        self.shared.clock.now().at
    }

    /// Waits until something happens and sees to it; false once the link has stopped.
    async fn step(&mut self, port: &Port) -> bool {
        self.work();
        let ready = self.is_ready();
        let looks = !ready || self.waits_for_chance();
        let deadline = self.deadline().into_iter().chain(looks.then(|| self.now() + READY_LOOK)).min();
        let left = deadline.map(|deadline| deadline.since(self.now()));
        let wants_bytes = self.replica.wants_bytes();
        let Self { session, flows, kernel, config_hash, word, waiting, heeding, .. } = self;
        let (news, shared) = (Arc::clone(&self.outlets.news), Arc::clone(&self.shared));
        tokio::select! {
            next = port.session(), if ready => {
                let Some(next) = next else { return false };
                *session = Some(next);
                *waiting = None;
                let now = self.now();
                self.replica.connected(now);
            }
            message = receive(session.as_ref()), if wants_bytes => {
                match message {
                    Some(message) => self.received(&message),
                    None => self.session_ended(),
                }
            }
            () = room(session.as_ref()), if waiting.is_some() => {}
            report = told(flows.as_mut()) => self.take_report(report),
            known = heeded(heeding.as_mut()) => self.heeded(&known),
            () = news.notified() => self.take_news(),
            () = shared.kernel.rings().told() => {}
            changed = kernel.changed() => {
                // Its sender lives in `shared`.
                debug_assert!(changed.is_ok());
                self.kernel_changed();
            }
            changed = config_hash.changed() => {
                debug_assert!(changed.is_ok());
                let hash = *config_hash.borrow_and_update();
                self.reconfigured(hash);
            }
            changed = word.changed() => {
                debug_assert!(changed.is_ok());
                let word = word.borrow_and_update().clone();
                self.replica.say(word);
            }
            () = sleep(left) => {
                let now = self.now();
                self.replica.timeout(now);
            }
        }
        true
    }

    /// Whether what comes has a place to be written to. A snapshot of flows before that would be refused, flow by flow.
    fn is_ready(&self) -> bool {
        self.has_place() || self.session.is_some() || self.now() >= self.ready_by
    }

    /// Whether the kernel's part is there, or none is wanted.
    fn has_place(&self) -> bool {
        let idle = || !kernel::wanted(&self.shared.snapshot.load().config);
        self.flows.as_ref().map_or_else(idle, Flows::are_ready)
    }

    fn is_synced(&self) -> bool {
        self.replica.state() == State::Synced
    }

    /// Whether all is here but for what the second chance is to know of the other node's connections. Soon it does.
    fn waits_for_chance(&self) -> bool {
        self.is_synced() && !self.heeded_word
    }

    /// Does everything that can be done now.
    fn work(&mut self) {
        let now = self.now();
        if self.open_at.is_some_and(|at| at <= now) {
            self.open_flows();
        }
        if self.heed_by <= now {
            self.give_up_heeding();
        }
        if let Some(flows) = &mut self.flows {
            let taken = flows.take_news(&mut self.replica, now);
            // Nobody else wants to know, and the next session begins with all there is.
            if taken.is_ok() && self.session.is_some() {
                let counted = flows.take_counts(&mut self.replica, now);
                self.note_counts(counted);
            }
            self.note(taken);
        }
        if self.news_at.is_some_and(|at| at <= now) {
            self.take_news_now(now);
        }
        if self.heeding.is_none() {
            self.tables.make_good(&mut self.replica, now);
        }
        rings::tell(self, now);
        self.scanning = false;
        self.tables.look_at_other(&self.replica);
        while let Some(action) = self.replica.poll() {
            self.scanning = matches!(action, Action::Scan(_));
            self.act(action, now);
            // A table of millions is not read in one go: what comes meanwhile has its turn.
            if self.scanning {
                break;
            }
        }
        let may_fit = self.flows.as_mut().is_some_and(|flows| flows.must_begin_anew(now))
            | self.tables.may_fit_now(now);
        if may_fit && self.session.is_some() {
            self.disconnected();
        }
        self.transmit(now);
        rings::hear(self, now);
        self.shared.chance.heard(self.replica.peer_word());
        self.shared.chance.in_step(self.is_synced());
        self.heeded_word = self.is_synced() && (self.heeded_word || self.shared.chance.has_heeded());
        let waits = self.outlets.waits.load(Ordering::Relaxed);
        let lacks =
            !self.has_place() || self.flows.as_ref().is_some_and(Flows::lacks) || self.waits_for_chance();
        let behind = is_behind(waits, self.replica.state(), lacks);
        self.outlets.behind.send_if_modified(|told| std::mem::replace(told, behind) != behind);
        if self.show_at <= now {
            self.show(now);
        }
    }

    fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Apply(apply) => self.apply(&apply, now),
            Action::Scan(scan) => match &mut self.flows {
                Some(flows) if scan.table == Table::Flows => {
                    let scanned = flows.scan(&mut self.replica, now, &scan);
                    let failed = scanned.is_err();
                    self.note(scanned);
                    // An answer that is not whole would have the peer delete what it lacks.
                    if failed {
                        self.disconnected();
                    }
                }
                None if scan.table == Table::Flows => self.replica.scanned(now, scan.id, &[], None),
                flows => {
                    let scanned = self.tables.scan(&mut self.replica, now, &scan, flows.as_mut());
                    // One that succeeds may have nothing to do with the kernel, and is not the end of its failure.
                    if scanned.is_err() {
                        self.note(scanned);
                        self.disconnected();
                    }
                }
            },
            Action::SwitchRing { ring, hash, outcome } => rings::ready(self, ring, hash, outcome),
            Action::PeerRing(ring) => rings::of_peer(self, ring),
            Action::Note(note) => self.shared.acme.hear(&note, self.shared.clock.at()),
            Action::Disconnect(reason) => {
                tracing::error!("replication with the other node stops for now: {reason}");
                self.disconnected();
            }
        }
    }

    fn apply(&mut self, apply: &Apply, now: Instant) {
        let (mut words, mut refused, mut counted) = (Vec::new(), Vec::new(), Vec::new());
        for Put { live, .. } in &apply.puts {
            match live.entry {
                // They are written together.
                Entry::Flow(_) if self.flows.is_some() => {}
                // No live table for it.
                Entry::Flow(flow) => refused.push(Key::Flow(flow.tuple)),
                Entry::Rate { service, source, .. }
                    if self.tables.counts_in_kernel(&self.replica, service, source) =>
                {
                    // As with flows.
                    if self.flows.is_some() { counted.push(*live) } else { refused.push(live.entry.key()) }
                }
                _ => self.tables.put(&self.replica, live, now, &mut words, &mut refused),
            }
        }
        let mut deletes = Vec::new();
        for key in &apply.deletes {
            match key {
                Key::Flow(tuple) => deletes.push(*tuple),
                key => self.tables.delete(&self.replica, key, &mut words),
            }
        }
        if let Some(flows) = &mut self.flows {
            let applied = flows.apply(&self.replica, &apply.puts, &deletes, &mut refused);
            // What is missing of these counts for no longer than a window.
            let put = flows.put_counts(&self.replica, &counted, &mut refused);
            if put.is_err() {
                refused.extend(counted.iter().map(|live| live.entry.key()));
            }
            self.note_counts(put);
            let failed = applied.is_err();
            self.note(applied);
            // The peer is to tell everything once more.
            if failed {
                refused = apply.puts.iter().map(|put| put.live.entry.key()).collect();
                self.disconnected();
            }
        }
        if words.is_empty() {
            self.applied(apply.id, &refused);
        } else {
            self.heeding = Some(self.tables.heed(apply.id, words, refused));
            self.heed_by = now + HEED_MAX;
        }
    }

    /// If the control loop has not answered by now, it may yet do what it was asked for; and it is asked once more by the next session.
    fn give_up_heeding(&mut self) {
        let Some(heeding) = self.heeding.take() else { return };
        tracing::warn!(
            "the control loop is busy: it has not heeded in time what the other node says of targets, which is told once more"
        );
        let (id, refused) = heeding.given_up();
        self.disconnected();
        self.applied(id, &refused);
    }

    /// The control loop has made the changes that were asked for, where it knew the targets.
    fn heeded(&mut self, known: &[bool]) {
        let Some(heeding) = self.heeding.take() else { return };
        let (id, refused) = self.tables.heeded(&self.replica, heeding, known);
        self.applied(id, &refused);
    }

    fn applied(&mut self, id: u64, refused: &[Key]) {
        let now = self.now();
        // What is kept is this node's own before anything else is read.
        if let Some(flows) = &mut self.flows {
            let told = flows.tell_kept(&mut self.replica, now);
            self.note(told);
        }
        self.replica.applied(now, id, refused);
    }

    fn received(&mut self, message: &[u8]) {
        let now = self.now();
        // What was changed here is told before something of the other node's is written over it. To look for flows costs a lot.
        if self.replica.may_write(message)
            && let Some(flows) = &mut self.flows
        {
            let taken = flows.take_news_now(&mut self.replica, now);
            self.note(taken);
        }
        // Always: what was lost of these is found by a new snapshot once the one under way has been acknowledged.
        self.take_news_now(now);
        self.replica.received(now, message);
    }

    /// Something has changed here; what else changes in this moment is taken together with it.
    fn take_news(&mut self) {
        let at = self.now() + NEWS_PAUSE;
        self.news_at.get_or_insert(at);
    }

    /// Tells of what has changed here.
    fn take_news_now(&mut self, now: Instant) {
        // What is being written is neither as it was nor as it will be.
        if self.heeding.is_none() {
            self.news_at = None;
            self.replica.set_clock(self.shared.clock.now());
            if self.tables.take_news(&mut self.replica, now) {
                self.news_at = Some(now);
            }
        }
    }

    fn transmit(&mut self, now: Instant) {
        let Some(session) = &self.session else { return };
        let mut next = self.waiting.take();
        loop {
            let message = next.take().or_else(|| {
                let mut bytes = Vec::new();
                self.replica.poll_transmit(now, &mut bytes).then_some(bytes)
            });
            let Some(message) = message else { return };
            match session.send(message) {
                Ok(()) => {}
                Err(SendError::Full(message)) => {
                    self.waiting = Some(message);
                    return;
                }
                Err(SendError::Ended | SendError::Length(_)) => {
                    self.session_ended();
                    return;
                }
            }
        }
    }

    /// The link's session has ended by itself.
    fn session_ended(&mut self) {
        let gone = self.session.as_ref().is_some_and(Session::is_peer_gone);
        self.disconnected();
        if gone {
            self.shared.chance.other_ended();
        }
    }

    fn disconnected(&mut self) {
        (self.session, self.waiting) = (None, None);
        let now = self.now();
        self.replica.disconnected(now);
        if let Some(flows) = &mut self.flows {
            flows.begin_anew();
        }
        self.show(now);
    }

    fn take_report(&mut self, report: Option<Report>) {
        let now = self.now();
        let (Some(flows), Some(report)) = (&mut self.flows, report) else { return };
        let taken = flows.take_report(&mut self.replica, now, report);
        self.note(taken);
    }

    /// The kernel has begun to forward, or has stopped.
    fn kernel_changed(&mut self) {
        self.kernel.mark_unchanged();
        self.end_flows();
        self.forget();
        self.ready_by = self.now() + READY_MAX;
        self.open_flows();
    }

    /// There is another configuration. What had no room before may have some now: both nodes are to tell everything once more.
    fn reconfigured(&mut self, hash: u64) {
        self.replica.reconfigured(hash);
        let (tables, dirty_max) = sizes(&self.shared.snapshot.load());
        if self.replica.resize(tables, dirty_max) && self.session.is_some() {
            self.disconnected();
        }
    }

    /// What was told before had no place, or what is known is of maps that are gone: the next session begins with everything.
    fn forget(&mut self) {
        self.heeding = None;
        self.disconnected();
        self.replica = replica(&self.shared, self.replica.counters().clone());
        self.name_refused = None;
        self.word.mark_changed();
        self.tables.begin_anew(&mut self.replica);
        self.shared.kernel.rings().tell_again();
        self.news_at = Some(Instant::ZERO);
    }

    /// The kernel's maps are gone, or others are.
    fn end_flows(&mut self) {
        if let Some(flows) = self.flows.take() {
            self.written.add(flows.written);
            self.reports_lost += flows.lost_reports();
            self.untold += flows.untold();
        }
    }

    /// Opens the kernel's maps, if it forwards; if that fails, in a moment once more.
    fn open_flows(&mut self) {
        self.open_at = None;
        let copies = self.kernel.borrow().clone();
        match copies.map(Flows::open).transpose() {
            Ok(flows) => {
                // The other node's flows found no place meanwhile.
                self.forget();
                self.flows = flows;
                self.note(Ok(()));
            }
            Err(error) => {
                self.open_at = Some(self.now() + OPEN_EVERY);
                self.note(Err(error));
            }
        }
    }

    /// Failures of the kernel's maps are logged when they begin.
    pub(super) fn note(&mut self, result: Result<(), KernelError>) {
        match result {
            Ok(()) => self.failing = None,
            Err(error) => {
                if self.failing.is_none() {
                    tracing::error!(%error, "flows are not replicated");
                    self.show_at = Instant::ZERO;
                }
                self.failing = Some(error.to_string());
            }
        }
    }

    fn note_counts(&mut self, result: Result<(), KernelError>) {
        if let Err(error) = &result
            && !self.counts_failing
        {
            tracing::warn!(%error, "rates of the pair are each node's own for the kernel's services meanwhile");
        }
        self.counts_failing = result.is_err();
    }

    fn show(&mut self, now: Instant) {
        self.show_at = now + SHOW_EVERY;
        self.tables.expire(now);
        // Words that the control loop is asked to heed go by numbers of names.
        if self.replica.names() > NAMES_ENOUGH && self.forget_at <= now && self.heeding.is_none() {
            self.forget_names(now);
        }
        let stats = self.replica.stats(now);
        self.log_refused_names(stats.name_refused);
        let (mut written, mut untold, mut reports_lost) = (self.written, self.untold, self.reports_lost);
        if let Some(flows) = &self.flows {
            written.add(flows.written);
            untold += flows.untold();
            reports_lost += flows.lost_reports();
        }
        self.tables.show_health(&self.replica, &stats, self.session.is_some());
        let view = StateView::of(
            &stats,
            now,
            &self.tables.refused,
            written,
            [untold, reports_lost],
            self.tables.words_lost(),
            self.failing.clone().or_else(|| (!self.has_place()).then(|| NO_PLACE.to_owned())),
        );
        self.outlets.shown.store(Some(Arc::new(view)));
    }

    /// Forgets names of services and targets that are gone. Both nodes announce every target, and what the other one has announced is known until
    /// the session ends: so one that holds many of them ends.
    fn forget_names(&mut self, now: Instant) {
        self.forget_at = now + ANEW_PAUSE;
        if self.forget_unused_names() >= NAMES_HELD_MAX {
            tracing::info!(
                "the session with the other node begins anew, to forget names of targets that are gone"
            );
            self.disconnected();
            self.forget_unused_names();
        }
    }

    /// Answers how many are known only because the other node has announced them.
    fn forget_unused_names(&mut self) -> usize {
        let Self { flows, tables, replica, .. } = self;
        let in_flows = |name: &Name| flows.as_ref().is_some_and(|flows| flows.knows(name));
        let forgotten = replica.forget_names(|_, name| in_flows(name) || tables.knows(name));
        // Their numbers are others' next.
        if forgotten.names > 0 {
            if let Some(flows) = flows {
                flows.forget_names();
            }
            tables.forget_names();
        }
        forgotten.held
    }

    /// Names without a number are logged when that begins.
    fn log_refused_names(&mut self, refused: Option<NameError>) {
        let before = std::mem::replace(&mut self.name_refused, refused);
        if let Some(error) = refused.filter(|_| refused != before) {
            tracing::warn!("{error}");
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let news = self.flows.as_ref().and_then(Flows::deadline);
        let show = if self.session.is_some() { self.show_at } else { self.show_at + SHOW_ALONE };
        let scan = self.scanning.then_some(Instant::ZERO);
        let own_news = self.news_at.into_iter().chain(self.tables.owed_at(&self.replica)).min();
        let own_news = own_news.filter(|_| self.heeding.is_none());
        let known = self.tables.deadline();
        let heed = self.heeding.as_ref().map(|_| self.heed_by);
        let counts = self.session.as_ref().and(self.flows.as_ref()).and_then(Flows::counts_deadline);
        // What is to be sent next waits for the session to have room, which wakes by itself.
        let is_full = self.waiting.is_some();
        let replica = if is_full { self.replica.deadline_without_room() } else { self.replica.deadline() };
        let others = [replica, news, counts, own_news, scan, self.open_at, known, heed];
        others.into_iter().flatten().chain([show]).min()
    }
}

impl Drop for Driver {
    /// What was counted is counted on by the next link's.
    fn drop(&mut self) {
        self.end_flows();
        self.outlets.memory.lock().past = Past {
            counters: self.replica.counters().clone(),
            refused: self.tables.refused,
            written: self.written,
            reports_lost: self.reports_lost,
            untold: self.untold,
        };
    }
}

/// Whether this node is behind. One that `lacks` flows of the other's because they had no place in it has refused them, and is in step
/// with the other node all the same; so is one that does not yet know which packets are of the other node's connections.
fn is_behind(waits: bool, state: State, lacks: bool) -> bool {
    waits && (state != State::Synced || lacks)
}

/// One that knows nothing but what those before it have counted.
fn replica(shared: &Shared, counters: Counters) -> Replica {
    let now = shared.clock.now();
    let (hash, generation) = (*shared.config_hash.borrow(), now.unix.as_micros());
    let (node, boot, key) = (&shared.life.node, random::number(), random::hash_key());
    let mut settings = Settings::new(node, boot, hash, key, generation);
    settings.process = shared.life.process;
    settings.release = Arc::from(crate::process::release());
    (settings.tables, settings.dirty_max) = sizes(&shared.snapshot.load());
    settings.scan_limit = SCAN;
    let mut replica = Replica::new(settings, now.at);
    replica.count_from(counters);
    replica
}

/// How many entries each table may have, as many as the live ones have room for, and how many may wait to be sent.
fn sizes(snapshot: &Snapshot) -> ([u32; Table::COUNT], usize) {
    let mut tables = [TARGETS_MAX; Table::COUNT];
    tables[Table::Flows.index()] = snapshot.config.kernel.max_flows;
    let sizes = clients::sizes(snapshot);
    for (table, size) in [Table::Sticky, Table::UdpSessions, Table::Rates].into_iter().zip(sizes) {
        tables[table.index()] = u32::try_from(size).unwrap_or(u32::MAX).clamp(CLIENTS_MIN, CLIENTS_MAX);
    }
    (tables, tables.iter().map(|&size| size as usize).sum())
}

async fn receive(session: Option<&Session>) -> Option<Vec<u8>> {
    match session {
        Some(session) => session.receive().await,
        None => std::future::pending().await,
    }
}

async fn room(session: Option<&Session>) {
    match session {
        Some(session) => session.room().await,
        None => std::future::pending().await,
    }
}

async fn told(flows: Option<&mut Flows>) -> Option<Report> {
    match flows {
        Some(flows) => flows.told().await,
        None => std::future::pending().await,
    }
}

async fn heeded(heeding: Option<&mut Heeding>) -> Vec<bool> {
    match heeding {
        Some(heeding) => heeding.answered().await,
        None => std::future::pending().await,
    }
}

async fn sleep(left: Option<Duration>) {
    match left {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
