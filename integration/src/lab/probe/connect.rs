//! New connections at a steady rate, each with a deadline of its own, none waiting for another.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::time::Instant;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};

use super::report::{Attempt, ConnectReport, Failure};
use super::ticker::{Ticker, go_first};
use crate::lab::addresses::client_addresses;
use crate::lab::clock::{now, wait_until};
use crate::lab::error::{Context, Result};
use crate::lab::host::Host;
use crate::lab::netns::Worker;

/// More than the head of any answer; what is longer is garbled.
const HEAD_BYTES_MAX: usize = 2048;
/// Epoll's user data of the ticker; no connection has it.
const TICK: u64 = u64::MAX;

/// What an attempt has to reach to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectMode {
    /// The head of an HTTP answer with status 200.
    Http,
    /// An established connection.
    ConnectOnly,
}

/// How a [`ConnectProbe`] probes.
#[derive(Clone, Debug)]
pub struct ConnectSettings {
    /// Where to connect to.
    pub destination: SocketAddr,
    /// What to reach.
    pub mode: ConnectMode,
    /// The path asked for.
    pub path: String,
    /// The time between the starts of attempts.
    pub interval: Duration,
    /// How long an attempt may take. Keep it below a second: a lost SYN is repeated after one, and would then look
    /// like a slow success.
    pub deadline: Duration,
    /// The most attempts under way at once; while there are as many, none begins (and that is counted).
    pub in_flight_max: usize,
    /// The most attempts recorded; later ones are counted only.
    pub records_max: usize,
    /// The client addresses to connect from, in turn. Port numbers are not the limit then: a connection that the
    /// client closes first keeps its port for a minute.
    pub sources: Vec<IpAddr>,
}

impl ConnectSettings {
    /// One HTTP request every millisecond, 250 ms each, from all of the client's addresses.
    #[must_use]
    pub fn http(destination: SocketAddr) -> Self {
        Self {
            destination,
            mode: ConnectMode::Http,
            path: "/".to_owned(),
            interval: Duration::from_millis(1),
            deadline: Duration::from_millis(250),
            in_flight_max: 1000,
            records_max: 1_000_000,
            sources: client_addresses(destination.ip()),
        }
    }

    /// The same without a request: the connection is all.
    #[must_use]
    pub fn connect_only(destination: SocketAddr) -> Self {
        Self { mode: ConnectMode::ConnectOnly, ..Self::http(destination) }
    }
}

/// A running probe. It makes a new TCP connection every interval, asks for a page over HTTP/1.1 with
/// `Connection: close`, and reads to the end.
///
/// Connections end in the ordinary way: the server, asked to, closes first, so that it and not the client keeps the
/// connection's last state; the probe never sends a reset after a success. An attempt that missed its deadline is
/// closed as it is.
#[derive(Debug)]
pub struct ConnectProbe {
    report: Arc<Mutex<ConnectReport>>,
    worker: Worker<()>,
}

impl ConnectProbe {
    /// Starts probing from a host, usually the client.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when the thread or its descriptors cannot be made.
    pub fn start(host: &Host, settings: ConnectSettings) -> Result<Self> {
        let report = Arc::new(Mutex::new(ConnectReport::default()));
        let mut engine =
            Engine::new(settings, Arc::clone(&report)).doing(|| "making a connect probe".to_owned())?;
        let worker = host.namespace().worker("connect probe", move |stop| engine.run(stop))?;
        Ok(Self { report, worker })
    }

    /// Waits until this many attempts more have succeeded.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when they have not within `limit`.
    pub fn wait_successes(&self, count: usize, limit: Duration) -> Result<()> {
        let before = self.len();
        let what = format!("{count} successful connections");
        wait_until(&what, limit, || {
            let report = lock(&self.report);
            let fresh = report.attempts.get(before..).unwrap_or_default();
            fresh.iter().filter(|attempt| attempt.failure.is_none()).count() >= count
        })
    }

    /// Waits until the last `count` attempts to come to an end have all succeeded, not counting those that ended before
    /// this call.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when they have not within `limit`.
    pub fn wait_steady(&self, count: usize, limit: Duration) -> Result<()> {
        let before = self.len();
        wait_until(&format!("{count} successful connections in a row"), limit, || {
            let report = lock(&self.report);
            let fresh = report.attempts.get(before..).unwrap_or_default();
            let last = fresh.len().checked_sub(count).map(|first| &fresh[first..]);
            last.is_some_and(|last| last.iter().all(|attempt| attempt.failure.is_none()))
        })
    }

    /// How many attempts have come to an end.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.report).attempts.len()
    }

    /// Whether none has yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known so far.
    #[must_use]
    pub fn snapshot(&self) -> ConnectReport {
        sorted(lock(&self.report).clone())
    }

    /// Begins no more attempts, lets those under way end (a deadline at most) and reports.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when the thread panicked.
    pub fn stop(self) -> Result<ConnectReport> {
        self.worker.stop()?;
        let report = std::mem::take(&mut *lock(&self.report));
        Ok(sorted(report))
    }
}

/// Makes the process's table of descriptors as large as it will have to be. Growing it later, in the middle of an outage,
/// would take ten milliseconds or more: of a process with threads the kernel waits until nobody can be reading the old one.
fn make_room_for_descriptors(some: &Epoll, count: usize) -> io::Result<()> {
    let highest = i32::try_from(count * 2).unwrap_or(i32::MAX);
    let copy = fcntl(&some.0, FcntlArg::F_DUPFD_CLOEXEC(highest))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    drop(unsafe { OwnedFd::from_raw_fd(copy) });
    Ok(())
}

/// Attempts are recorded as they end; reports have them by their start.
fn sorted(mut report: ConnectReport) -> ConnectReport {
    report.attempts.sort_by_key(|attempt| attempt.start);
    report
}

/// One attempt under way.
struct Flight {
    socket: Socket,
    start: Instant,
    connected: bool,
    /// The attempt is recorded; the rest of the answer is being read.
    answered: bool,
    head: Vec<u8>,
}

struct Engine {
    settings: ConnectSettings,
    request: String,
    epoll: Epoll,
    ticker: Ticker,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Slots by start: the first one's deadline comes first.
    order: VecDeque<(usize, Instant)>,
    next_source: usize,
    report: Arc<Mutex<ConnectReport>>,
}

impl Engine {
    fn new(settings: ConnectSettings, report: Arc<Mutex<ConnectReport>>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        make_room_for_descriptors(&epoll, settings.in_flight_max)?;
        let ticker = Ticker::new(settings.interval)?;
        epoll.add(&ticker, EpollEvent::new(EpollFlags::EPOLLIN, TICK))?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            settings.path, settings.destination
        );
        Ok(Self {
            flights: (0..settings.in_flight_max).map(|_| None).collect(),
            free: (0..settings.in_flight_max).rev().collect(),
            order: VecDeque::new(),
            next_source: 0,
            settings,
            request,
            epoll,
            ticker,
            report,
        })
    }

    fn run(&mut self, stop: &AtomicBool) {
        go_first();
        let begun = now();
        lock(&self.report).begun = begun;
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let stopping = stop.load(Ordering::Acquire);
            if stopping && self.order.is_empty() {
                return;
            }
            let count = self.epoll.wait(&mut events, self.patience_ms()).unwrap_or(0);
            for event in &events[..count] {
                match usize::try_from(event.data()) {
                    Ok(slot) if slot < self.flights.len() => self.progress(slot),
                    // The ticker, whose data is no slot.
                    _ => {
                        let beats = self.ticker.beats();
                        if beats > 0 && !stopping {
                            self.launch(beats);
                        }
                    }
                }
            }
            self.expire();
        }
    }

    /// How long to wait for events: to the nearest deadline, and no longer than a stop may take to be noticed.
    fn patience_ms(&self) -> u16 {
        let limit = Duration::from_millis(50);
        let nearest =
            self.order.front().map_or(limit, |(_, start)| (*start + self.settings.deadline) - now());
        // Rounded up, so that the deadline has passed on waking.
        u16::try_from(nearest.min(limit).as_micros().div_ceil(1000)).unwrap_or(50)
    }

    fn launch(&mut self, beats: u64) {
        let start = now();
        {
            let mut report = lock(&self.report);
            report.ended = start;
            report.skipped_late += beats - 1;
            if self.free.is_empty() {
                report.skipped_in_flight += 1;
            }
        }
        let Some(slot) = self.free.pop() else { return };
        match self.connect(slot) {
            Ok(socket) => {
                self.flights[slot] =
                    Some(Flight { socket, start, connected: false, answered: false, head: Vec::new() });
                self.order.push_back((slot, start));
            }
            Err(error) => {
                self.free.push(slot);
                self.record(start, Some(Failure::of(&error)), None);
            }
        }
    }

    fn connect(&mut self, slot: usize) -> io::Result<Socket> {
        let destination = self.settings.destination;
        let socket =
            Socket::new(Domain::for_address(destination), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if let Some(source) = self.settings.sources.get(self.next_source) {
            // The port is chosen on connecting, when the destination is known: far more are free then.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(*source, 0).into())?;
            self.next_source = (self.next_source + 1) % self.settings.sources.len();
        }
        match socket.connect(&destination.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let interest =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        // A slot number is below `in_flight_max`.
        self.epoll.add(&socket, EpollEvent::new(interest, slot as u64))?;
        Ok(socket)
    }

    /// Something happened on an attempt's socket.
    fn progress(&mut self, slot: usize) {
        // An event of this slot's former socket, closed in the same round, finds the next one's not ready yet.
        let Some(flight) = self.flights[slot].as_mut() else { return };
        match flight.advance(self.settings.mode, &self.request) {
            Step::Wait => {}
            Step::Answered(name) => {
                flight.answered = true;
                let start = flight.start;
                let target = name.map(|name| self.target_index(&name));
                self.record(start, None, target);
                self.progress(slot);
            }
            Step::Over(outcome) => {
                let (start, answered) = (flight.start, flight.answered);
                self.release(slot);
                match (answered, outcome) {
                    (false, outcome) => self.record(start, outcome, None),
                    (true, Some(Failure::Reset)) => lock(&self.report).reset_after_answer += 1,
                    (true, _) => {}
                }
            }
        }
    }

    /// Ends the attempts whose deadline has passed.
    fn expire(&mut self) {
        let now = now();
        while let Some((slot, start)) = self.order.front().copied() {
            let current = self.flights[slot].as_ref().filter(|flight| flight.start == start);
            let answered = current.map(|flight| flight.answered);
            if answered.is_some() && now < start + self.settings.deadline {
                return;
            }
            self.order.pop_front();
            if let Some(answered) = answered {
                self.release(slot);
                if !answered {
                    self.record(start, Some(Failure::Timeout), None);
                }
            }
        }
    }

    fn release(&mut self, slot: usize) {
        // Dropping the socket closes it, which takes it out of the epoll set.
        self.flights[slot] = None;
        self.free.push(slot);
    }

    fn record(&self, start: Instant, failure: Option<Failure>, target: Option<u16>) {
        let attempt = Attempt { start, end: now(), failure, target };
        let mut report = lock(&self.report);
        if report.attempts.len() < self.settings.records_max {
            report.attempts.push(attempt);
        } else {
            report.unrecorded += 1;
        }
    }

    fn target_index(&self, name: &str) -> u16 {
        let mut report = lock(&self.report);
        let found = report.targets.iter().position(|known| known == name);
        let index = found.unwrap_or_else(|| {
            report.targets.push(name.to_owned());
            report.targets.len() - 1
        });
        // A lab has at most thirty targets.
        u16::try_from(index).unwrap_or(u16::MAX)
    }
}

enum Step {
    /// Nothing more can be done now.
    Wait,
    /// The answer is good; the name of who gave it.
    Answered(Option<String>),
    /// The connection is over, with the reason unless it ended as it should.
    Over(Option<Failure>),
}

impl Flight {
    fn advance(&mut self, mode: ConnectMode, request: &str) -> Step {
        match self.try_advance(mode, request) {
            Ok(step) => step,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Step::Wait,
            Err(error) => Step::Over(Some(Failure::of(&error))),
        }
    }

    fn try_advance(&mut self, mode: ConnectMode, request: &str) -> io::Result<Step> {
        if !self.connected {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            if self.socket.peer_addr().is_err() {
                return Ok(Step::Wait);
            }
            self.connected = true;
            if mode == ConnectMode::ConnectOnly {
                return Ok(Step::Over(None));
            }
            // A fresh connection's buffer takes a request whole.
            self.socket.write_all(request.as_bytes())?;
        }
        let mut buffer = [0; 1024];
        loop {
            let length = self.socket.read(&mut buffer)?;
            if self.answered {
                if length == 0 {
                    return Ok(Step::Over(None));
                }
                continue;
            }
            if length == 0 {
                return Ok(Step::Over(Some(Failure::Closed)));
            }
            self.head.extend_from_slice(&buffer[..length]);
            if let Some(head) = head_of(&self.head) {
                return Ok(match judge(head) {
                    Ok(name) => Step::Answered(name),
                    Err(failure) => Step::Over(Some(failure)),
                });
            }
            if self.head.len() > HEAD_BYTES_MAX {
                return Ok(Step::Over(Some(Failure::Garbled)));
            }
        }
    }
}

/// The head of an answer, once it is complete.
fn head_of(bytes: &[u8]) -> Option<&[u8]> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|end| &bytes[..end])
}

/// Who answered, if the answer is good.
fn judge(head: &[u8]) -> std::result::Result<Option<String>, Failure> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse::<u16>().ok());
    match status {
        Some(200) => {}
        Some(other) => return Err(Failure::Status(other)),
        None => return Err(Failure::Garbled),
    }
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let name = fields.find(|(name, _)| name.eq_ignore_ascii_case("x-target"));
    Ok(name.map(|(_, value)| value.trim().to_owned()))
}

fn lock(report: &Mutex<ConnectReport>) -> MutexGuard<'_, ConnectReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_status_and_name() {
        let whole = b"HTTP/1.1 200 OK\r\nServer: x\r\nx-target: t2\r\n\r\nt2\n";
        assert_eq!(judge(head_of(whole).unwrap()), Ok(Some("t2".to_owned())));
        assert_eq!(head_of(&whole[..30]), None);
        assert_eq!(judge(b"HTTP/1.1 503 No"), Err(Failure::Status(503)));
        assert_eq!(judge(b"220 smtp"), Err(Failure::Garbled));
    }
}
