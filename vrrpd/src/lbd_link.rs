//! The link to `lbd`: a Unix socket on a thread of its own, so that `lbd`'s death reaches the loop within microseconds
//! whatever the API is doing.
//!
//! One `lbd` counts at a time. A new connection counts from its `Hello` on, and replaces the former one (an `lbd` that
//! was restarted may be back before the old stream has ended). Connections that have not said `Hello` yet are at most
//! [`PENDING_MAX`]; one more closes the oldest. The end of the stream, silence of
//! [`HEALTH_TIMEOUT`](common::ipc::HEALTH_TIMEOUT), and anything that is not such a message close the connection.

mod stream;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::ipc::{HEALTH_TIMEOUT, InstanceNumber, InstanceRole, LbdHealth, ToLbd};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use crate::command::{Command, CommandError, CommandSender, LbdState, StatusCell, new_eventfd, wake};

use crate::ownership::Ownership;

use stream::{End, Message, Stream};

/// Connections that have not said `Hello`, at most.
pub const PENDING_MAX: usize = 4;

/// How soon a report that found the loop's queue full is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// What happened on the link.
#[derive(Debug, Default)]
pub struct LbdLinkCounters {
    /// Whether an `lbd` is connected and heard.
    pub connected: AtomicBool,
    /// Connections that said the right `Hello`.
    pub accepted: AtomicU64,
    /// Connections that were closed for another node's name, or pushed out before their `Hello`.
    pub refused: AtomicU64,
    /// Connections that were closed for bytes that are no message, or a message out of turn.
    pub malformed: AtomicU64,
    /// Connections that were closed for silence.
    pub silent: AtomicU64,
    /// Maps for what this node owns that were none.
    pub maps_refused: AtomicU64,
}

/// The running link.
#[derive(Debug)]
pub struct LbdLink {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    counters: Arc<LbdLinkCounters>,
}

impl LbdLink {
    /// Serves `listener` on a thread of its own.
    ///
    /// # Errors
    ///
    /// When the thread or its descriptors cannot be made.
    pub fn start(
        listener: UnixListener,
        node: &str,
        commands: CommandSender,
        status: Arc<StatusCell>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = Arc::new(new_eventfd()?);
        let counters = Arc::<LbdLinkCounters>::default();
        let server = Server {
            listener,
            node: node.to_owned(),
            commands,
            status,
            stop: Arc::clone(&stop),
            counters: Arc::clone(&counters),
            pending: Vec::new(),
            current: None,
            report: Report::default(),
            accept_after: None,
        };
        let thread = std::thread::Builder::new().name("lbd-link".to_owned()).spawn(move || server.run())?;
        Ok(Self { stop, thread: Some(thread), counters })
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Arc<LbdLinkCounters> {
        Arc::clone(&self.counters)
    }
}

impl Drop for LbdLink {
    fn drop(&mut self) {
        wake(&self.stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that serves lbd panicked");
        }
    }
}

struct Server {
    listener: UnixListener,
    node: String,
    commands: CommandSender,
    status: Arc<StatusCell>,
    stop: Arc<EventFd>,
    counters: Arc<LbdLinkCounters>,
    pending: Vec<Stream>,
    current: Option<Stream>,
    report: Report,
    /// Set while accepting fails for want of descriptors or memory, so that the thread does not spin.
    accept_after: Option<Instant>,
}

/// What the loop was told, and what it is still to be told.
#[derive(Default)]
struct Report {
    told: LbdState,
    /// The latest state that did not fit the loop's queue.
    waiting: Option<LbdState>,
    /// Likewise the latest map, or that there is none.
    ownership: Option<Option<Ownership>>,
    /// Likewise whether this node lacks what the other one has. What an `lbd` said of that holds beyond its end.
    behind: Option<bool>,
    /// The connection has not said that yet.
    silent: bool,
}

/// What is new with `lbd` since the last look.
#[derive(Default)]
struct News {
    health: Option<LbdHealth>,
    instances: Option<(Option<OwnedFd>, Vec<InstanceNumber>)>,
    behind: Option<bool>,
}

/// What became readable or writable.
struct Ready {
    stop: bool,
    roles: bool,
    listener: bool,
    current: PollFlags,
    pending: Vec<PollFlags>,
}

impl Server {
    fn run(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!("cannot wait for lbd: {error}; its health is not tracked any more");
                    break;
                }
            };
            if ready.stop {
                break;
            }
            self.serve_current(ready.current, ready.roles);
            self.serve_pending(&ready.pending);
            if ready.listener {
                self.accept();
            }
            self.flush_report();
        }
        self.counters.connected.store(false, Ordering::Relaxed);
    }

    fn wait(&self) -> Result<Ready, Errno> {
        let accepting = self.accept_after.is_none_or(|after| after <= Instant::now());
        let listener_flags = if accepting { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.status.roles_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), listener_flags),
        ];
        fds.extend(self.current.iter().chain(&self.pending).map(|s| PollFd::new(s.as_fd(), s.interest())));
        poll(&mut fds, self.timeout())?;
        let flags: Vec<_> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        let streams = &flags[3..];
        let (current, pending) = match (&self.current, streams.split_first()) {
            (Some(_), Some((first, rest))) => (*first, rest),
            _ => (PollFlags::empty(), streams),
        };
        Ok(Ready {
            stop: !flags[0].is_empty(),
            roles: !flags[1].is_empty(),
            listener: !flags[2].is_empty(),
            current,
            pending: pending.to_vec(),
        })
    }

    /// Until the next silence is too long, or something is to be tried again.
    fn timeout(&self) -> PollTimeout {
        let now = Instant::now();
        let silences = self.current.iter().chain(&self.pending).map(|stream| stream.heard + HEALTH_TIMEOUT);
        let retry = self.report.is_waiting().then(|| now + RETRY);
        let Some(next) = silences.chain(retry).chain(self.accept_after.filter(|at| *at > now)).min() else {
            return PollTimeout::NONE;
        };
        // Rounded up: waking a little early would make it spin.
        let left = next.saturating_duration_since(now) + Duration::from_micros(999);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn serve_current(&mut self, flags: PollFlags, roles_changed: bool) {
        if roles_changed {
            self.status.clear_roles();
        }
        let Some(stream) = &mut self.current else { return };
        let result = stream.serve(flags).and_then(|messages| {
            if roles_changed {
                stream.send(&roles(&self.status))?;
            }
            Ok(messages)
        });
        let result = match result {
            // An end counts only after the last message before it.
            Ok(messages) => news_of(messages).map(|news| (news, stream.end())),
            Err(end) => Err(end),
        };
        match result {
            Ok((news, end)) => {
                self.take(news);
                if let Some(end) = end {
                    self.lose(&end);
                }
            }
            Err(end) => self.lose(&end),
        }
    }

    /// Has the loop told what is new. A map stays when the connection ends: what forwards outlives `lbd` too.
    fn take(&mut self, news: News) {
        self.report.silent &= news.behind.is_none();
        // One that replicates nothing does not say it at all; one that does says it first.
        let replicates_nothing = self.report.silent && news.health.is_some();
        self.report.behind = news.behind.or(replicates_nothing.then_some(false)).or(self.report.behind);
        self.report.silent &= !replicates_nothing;
        if let Some(health) = news.health {
            self.report.waiting = Some(LbdState::Alive(health));
        }
        let Some((descriptor, numbers)) = news.instances else { return };
        match descriptor.map(|descriptor| Ownership::map(descriptor, &numbers)).transpose() {
            Ok(ownership) => {
                tracing::info!(instances = numbers.len(), "the kernel's map of what this node owns");
                self.report.ownership = Some(ownership);
            }
            Err(error) => {
                self.counters.maps_refused.fetch_add(1, Ordering::Relaxed);
                // Nor is the one before it gone on with: its numbers may stand for other instances by now.
                self.report.ownership = Some(None);
                tracing::error!(
                    "lbd's map of what this node owns is refused, so the kernel forwards nothing new: {error}"
                );
            }
        }
    }

    /// The current connection has ended.
    fn lose(&mut self, end: &End) {
        self.current = None;
        self.counters.connected.store(false, Ordering::Relaxed);
        self.report.waiting = Some(LbdState::Absent);
        // What it lacked is lacking still: where `lbd` is not tracked, its death would have this node preempt the other.
        // The loop is told first, then the log.
        self.flush_report();
        self.count(end);
        tracing::warn!("lbd is gone: {end}");
    }

    fn serve_pending(&mut self, flags: &[PollFlags]) {
        let streams = std::mem::take(&mut self.pending);
        for (index, mut stream) in streams.into_iter().enumerate() {
            let flags = flags.get(index).copied().unwrap_or(PollFlags::empty());
            match stream.serve(flags).and_then(|messages| self.greet(&mut stream, messages)) {
                Ok(None) => match stream.end() {
                    None => self.pending.push(stream),
                    Some(end) => self.refuse(&end),
                },
                Ok(Some(news)) => self.adopt(stream, news),
                Err(end) => self.refuse(&end),
            }
        }
    }

    /// `Some` when the connection has said the right `Hello`, with what it may have told at once.
    fn greet(&self, stream: &mut Stream, messages: Vec<Message>) -> Result<Option<News>, End> {
        let mut messages = messages.into_iter();
        let Some(first) = messages.next() else { return Ok(None) };
        let Message::Hello { node, version, config_hash } = first else { return Err(End::OutOfTurn) };
        if node != self.node {
            return Err(End::OtherNode { theirs: node, ours: self.node.clone() });
        }
        let news = news_of(messages)?;
        stream.send(&roles(&self.status))?;
        let version = version.escape_debug();
        tracing::info!("lbd {version} is connected, it runs configuration {config_hash:016x}");
        Ok(Some(news))
    }

    fn adopt(&mut self, stream: Stream, news: News) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        self.counters.connected.store(true, Ordering::Relaxed);
        if self.current.replace(stream).is_some() {
            tracing::info!("it replaces the former connection of lbd");
        }
        self.report.silent = true;
        self.take(news);
        if let Some(end) = self.current.as_ref().and_then(Stream::end) {
            self.lose(&end);
        }
    }

    fn refuse(&self, end: &End) {
        self.count(end);
        tracing::warn!("a connection to the socket for lbd was closed: {end}");
    }

    fn accept(&mut self) {
        self.accept_after = None;
        match self.listener.accept() {
            Ok((socket, _)) => match Stream::new(socket) {
                Ok(stream) => {
                    if self.pending.len() == PENDING_MAX {
                        self.pending.remove(0);
                        self.refuse(&End::PushedOut);
                    }
                    self.pending.push(stream);
                }
                Err(error) => tracing::warn!("cannot serve a connection of lbd: {error}"),
            },
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!("cannot accept a connection of lbd: {error}");
                self.accept_after = Some(Instant::now() + Duration::from_millis(100));
            }
        }
    }

    fn count(&self, end: &End) {
        let counter = match end {
            End::Closed | End::Io(_) => return,
            End::Silent => &self.counters.silent,
            End::Malformed(_) | End::OutOfTurn | End::Descriptors => &self.counters.malformed,
            End::OtherNode { .. } | End::PushedOut => &self.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells the loop what it does not know yet. A full queue is tried again after [`RETRY`] with the state of then.
    fn flush_report(&mut self) {
        if let Some(ownership) = self.report.ownership.take()
            && let Err((CommandError::Busy, Command::Ownership(ownership))) =
                self.commands.try_send(Command::Ownership(ownership))
        {
            self.report.ownership = Some(ownership);
        }
        if let Some(behind) = self.report.behind.take()
            && let Err(CommandError::Busy) = self.commands.send(Command::Behind(behind))
        {
            // Before it hears that this node is well.
            self.report.behind = Some(behind);
            return;
        }
        let Some(state) = self.report.waiting.take() else { return };
        if state == self.report.told {
            return;
        }
        match self.commands.send(Command::Lbd(state.clone())) {
            Ok(()) => self.report.told = state,
            Err(CommandError::Busy) => self.report.waiting = Some(state),
            // The loop has ended, nobody wants to know any more.
            Err(_) => {}
        }
    }
}

impl Report {
    fn is_waiting(&self) -> bool {
        self.waiting.is_some() || self.ownership.is_some() || self.behind.is_some()
    }
}

/// The newest of what the messages of a connection that has said `Hello` tell.
fn news_of(messages: impl IntoIterator<Item = Message>) -> Result<News, End> {
    let mut news = News::default();
    for message in messages {
        match message {
            Message::Hello { .. } => return Err(End::OutOfTurn),
            Message::Health(health) => news.health = Some(health),
            Message::Instances(descriptor, numbers) => news.instances = Some((descriptor, numbers)),
            Message::Replication(behind) => news.behind = Some(behind),
        }
    }
    Ok(news)
}

fn roles(status: &StatusCell) -> ToLbd {
    let latest = status.latest();
    let instances = latest.status.instances.iter().take(common::ipc::ENTRIES_MAX);
    ToLbd::Roles(
        instances
            .map(|instance| InstanceRole {
                instance: instance.name.clone(),
                role: instance.forwarding_role(),
                from_silence: instance.is_from_silence(),
            })
            .collect(),
    )
}
