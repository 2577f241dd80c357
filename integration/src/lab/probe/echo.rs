//! Long-lived connections that keep talking.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::time::Instant;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::report::Failure;
use super::ticker::Ticker;
use crate::lab::addresses::client_addresses;
use crate::lab::clock::{now, wait_until};
use crate::lab::error::{Context, Result};
use crate::lab::host::Host;
use crate::lab::netns::Worker;
use crate::lab::upgrade;

/// A message: a number in hexadecimal and a line end.
const MESSAGE_LEN: usize = 17;
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// About so many messages are sent at once; those of more connections are spread over the interval, so that none waits for thousands
/// of others.
const BURST: usize = 64;
/// The least time between bursts.
const BURST_INTERVAL_MIN: Duration = Duration::from_millis(1);
const TICK: u64 = u64::MAX;

/// How an [`EchoProbe`] probes.
#[derive(Clone, Debug)]
pub struct EchoSettings {
    /// Where to connect to: an echo service.
    pub destination: SocketAddr,
    /// Whether each connection begins with a request for a tunnel, as WebSockets do, and is an echo behind the answer.
    pub tunnels: bool,
    /// How many connections.
    pub connections: usize,
    /// The time between the messages of each connection, whose turns are spread over it; the next is sent only after the last came
    /// back.
    pub interval: Duration,
    /// A connection whose message has not come back for this long is broken.
    pub stall_limit: Duration,
    /// The addresses the connections come from, in turn.
    pub sources: Vec<IpAddr>,
}

impl EchoSettings {
    /// A message every 10 ms on each connection, broken after 20 s of silence, from all of the client's addresses.
    #[must_use]
    pub fn new(destination: SocketAddr, connections: usize) -> Self {
        let (interval, stall_limit) = (Duration::from_millis(10), Duration::from_secs(20));
        let sources = client_addresses(destination.ip());
        Self { destination, tunnels: false, connections, interval, stall_limit, sources }
    }
}

/// What became of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoConnection {
    /// How many messages came back.
    pub exchanges: u64,
    /// How it broke and when, if it did.
    pub broken: Option<(Instant, Failure)>,
    /// The longest time from sending a message to having it back, or to the break or the end of the run.
    pub worst_stall: Duration,
    /// When the message of the worst stall was sent.
    pub worst_stall_at: Instant,
}

/// What became of all connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoReport {
    /// Each connection.
    pub connections: Vec<EchoConnection>,
    /// The longest that the probe itself was late with its next messages: a stall may be so much longer by its doing, or the machine's.
    pub pause: Duration,
}

impl EchoReport {
    /// How many broke.
    #[must_use]
    pub fn broken(&self) -> usize {
        self.connections.iter().filter(|connection| connection.broken.is_some()).count()
    }

    /// The longest stall of any connection that did not break.
    #[must_use]
    pub fn worst_stall(&self) -> Duration {
        let alive = self.connections.iter().filter(|connection| connection.broken.is_none());
        alive.map(|connection| connection.worst_stall).max().unwrap_or_default()
    }

    /// How many messages came back in all.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.connections.iter().map(|connection| connection.exchanges).sum()
    }

    /// How many broke in each way.
    #[must_use]
    pub fn breaks(&self) -> BTreeMap<Failure, usize> {
        let mut kinds = BTreeMap::new();
        for (_, failure) in self.connections.iter().filter_map(|connection| connection.broken) {
            *kinds.entry(failure).or_default() += 1;
        }
        kinds
    }

    /// One line for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let breaks: Vec<Failure> =
            self.connections.iter().filter_map(|one| one.broken.map(|(_, why)| why)).collect();
        format!(
            "{} of {} connections broken {:?}, worst stall of the others {:?}, the probe {:?} late, {} messages",
            self.broken(),
            self.connections.len(),
            breaks.iter().take(5).collect::<Vec<_>>(),
            self.worst_stall(),
            self.pause,
            self.exchanges()
        )
    }
}

/// A running probe.
#[derive(Debug)]
pub struct EchoProbe {
    report: Arc<Mutex<EchoReport>>,
    worker: Worker<()>,
}

impl EchoProbe {
    /// Makes the connections from a host, usually the client, and starts talking on them.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when one cannot be made within two seconds, or is to be a tunnel and is not made one.
    pub fn start(host: &Host, settings: EchoSettings) -> Result<Self> {
        let doing = || format!("connecting {} times to {}", settings.connections, settings.destination);
        let lines = host.namespace().inside(|| connect(&settings))?.doing(doing)?;
        let connections = vec![EchoConnection::default(); lines.len()];
        let report = Arc::new(Mutex::new(EchoReport { connections, ..EchoReport::default() }));
        let mut engine = Engine::new(settings.clone(), lines, Arc::clone(&report)).doing(doing)?;
        let worker = host.namespace().worker("echo probe", move |stop| engine.run(stop))?;
        Ok(Self { report, worker })
    }

    /// Waits until every connection that is not broken has had this many messages more come back.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when they have not within `limit`.
    pub fn wait_exchanges(&self, count: u64, limit: Duration) -> Result<()> {
        let before = self.snapshot();
        // How many of them are known to be there: thousands are not looked at again each time.
        let mut done = 0;
        wait_until(&format!("{count} messages on each connection"), limit, || {
            let now = lock(&self.report);
            let pairs = now.connections.iter().zip(&before.connections).skip(done);
            let there = pairs.take_while(|(now, before)| {
                now.broken.is_some() || now.exchanges >= before.exchanges + count
            });
            done += there.count();
            done == before.connections.len()
        })
    }

    /// How many have broken so far.
    #[must_use]
    pub fn broken(&self) -> usize {
        lock(&self.report).broken()
    }

    /// Begins anew to look for the longest stall, and for the probe's own pauses, and returns the longest stall until now.
    pub fn forget_stalls(&self) -> Duration {
        let mut report = lock(&self.report);
        let longest = report.worst_stall();
        report.connections.iter_mut().for_each(|connection| connection.worst_stall = Duration::ZERO);
        report.pause = Duration::ZERO;
        longest
    }

    /// What is known so far.
    #[must_use]
    pub fn snapshot(&self) -> EchoReport {
        lock(&self.report).clone()
    }

    /// Stops talking, closes the connections and reports. A message under way counts as stalled until now.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when the thread panicked.
    pub fn stop(self) -> Result<EchoReport> {
        self.worker.stop()?;
        Ok(std::mem::take(&mut *lock(&self.report)))
    }
}

/// One connection.
struct Line {
    socket: Socket,
    /// The message under way, and when it was sent.
    sent: Option<(u64, Instant)>,
    next: u64,
    received: Vec<u8>,
    open: bool,
}

struct Engine {
    settings: EchoSettings,
    lines: Vec<Line>,
    epoll: Epoll,
    ticker: Ticker,
    /// The time between its beats, and when the last one was served.
    beat: Duration,
    served: Instant,
    /// How many lines have their turn at each beat of the ticker, and which of them is the next.
    turns: usize,
    next: usize,
    report: Arc<Mutex<EchoReport>>,
}

impl Engine {
    fn new(settings: EchoSettings, sockets: Vec<Socket>, report: Arc<Mutex<EchoReport>>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (beat, turns) = turns(sockets.len(), settings.interval);
        let ticker = Ticker::new(beat)?;
        epoll.add(&ticker, EpollEvent::new(EpollFlags::EPOLLIN, TICK))?;
        let mut lines = Vec::new();
        for (index, socket) in sockets.into_iter().enumerate() {
            let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
            epoll.add(&socket, EpollEvent::new(interest, index as u64))?;
            lines.push(Line { socket, sent: None, next: 0, received: Vec::new(), open: true });
        }
        Ok(Self { settings, lines, epoll, ticker, beat, served: now(), turns, next: 0, report })
    }

    fn run(&mut self, stop: &AtomicBool) {
        let mut events = [EpollEvent::empty(); 256];
        while !stop.load(Ordering::Acquire) {
            let count = self.epoll.wait(&mut events, 50_u16).unwrap_or(0);
            for event in &events[..count] {
                match usize::try_from(event.data()) {
                    Ok(index) if index < self.lines.len() => self.receive(index),
                    // The ticker, whose data is no index.
                    _ => {
                        self.note_pause(now());
                        let beats = usize::try_from(self.ticker.beats()).unwrap_or(usize::MAX);
                        self.send_next(beats.saturating_mul(self.turns).min(self.lines.len()));
                    }
                }
            }
        }
        let end = now();
        for index in 0..self.lines.len() {
            self.note_stall(index, end);
        }
    }

    /// Gives the next lines their turn.
    fn send_next(&mut self, count: usize) {
        let time = now();
        for _ in 0..count {
            let index = self.next;
            self.next = (index + 1) % self.lines.len();
            let line = &mut self.lines[index];
            if !line.open {
                continue;
            }
            match line.sent {
                Some((_, sent)) if time - sent > self.settings.stall_limit => {
                    self.break_off(index, Failure::Timeout);
                }
                Some(_) => {}
                None => {
                    let number = line.next;
                    line.next += 1;
                    line.sent = Some((number, time));
                    // A message is far smaller than the socket's buffer, and there is only one.
                    if let Err(error) = line.socket.write_all(&message(number)) {
                        self.break_off(index, Failure::of(&error));
                    }
                }
            }
        }
    }

    fn receive(&mut self, index: usize) {
        let mut buffer = [0; 256];
        let line = &mut self.lines[index];
        match line.socket.read(&mut buffer) {
            Ok(0) => self.break_off(index, Failure::Closed),
            Ok(length) => {
                line.received.extend_from_slice(&buffer[..length]);
                if line.received.len() < MESSAGE_LEN {
                    return;
                }
                match line.sent {
                    Some((number, _)) if line.received == message(number) => {
                        line.received.clear();
                        self.note_stall(index, now());
                        self.lines[index].sent = None;
                        lock(&self.report).connections[index].exchanges += 1;
                    }
                    _ => self.break_off(index, Failure::Garbled),
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.break_off(index, Failure::of(&error)),
        }
    }

    fn note_stall(&self, index: usize, until: Instant) {
        let Some((_, sent)) = self.lines[index].sent.filter(|_| self.lines[index].open) else { return };
        let mut report = lock(&self.report);
        let connection = &mut report.connections[index];
        if until - sent > connection.worst_stall {
            connection.worst_stall = until - sent;
            connection.worst_stall_at = sent;
        }
    }

    /// How late a beat is served.
    fn note_pause(&mut self, time: Instant) {
        let late = (time - self.served).saturating_sub(self.beat);
        self.served = time;
        let mut report = lock(&self.report);
        report.pause = report.pause.max(late);
    }

    fn break_off(&mut self, index: usize, failure: Failure) {
        let time = now();
        self.note_stall(index, time);
        let line = &mut self.lines[index];
        line.open = false;
        // Not closed before the end of the run, so that no other connection gets its port; but heard no more.
        self.epoll.delete(&line.socket).ok();
        lock(&self.report).connections[index].broken = Some((time, failure));
    }
}

/// How often there are turns, and how many lines have theirs each time, so that each line has one in every interval.
fn turns(lines: usize, interval: Duration) -> (Duration, usize) {
    let bursts = lines.div_ceil(BURST).max(1);
    let beat = (interval / u32::try_from(bursts).unwrap_or(u32::MAX)).max(BURST_INTERVAL_MIN.min(interval));
    // As many beats as there are in an interval, in full.
    let beats = usize::try_from(interval.as_nanos() / beat.as_nanos().max(1)).unwrap_or(1).max(1);
    (beat, lines.div_ceil(beats))
}

fn connect(settings: &EchoSettings) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for source in settings.sources.iter().cycle().take(settings.connections) {
        let mut socket =
            Socket::new(Domain::for_address(settings.destination), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(*source, 0).into())?;
        socket.connect_timeout(&settings.destination.into(), CONNECT_LIMIT)?;
        socket.set_tcp_nodelay(true)?;
        if settings.tunnels {
            socket.set_read_timeout(Some(CONNECT_LIMIT))?;
            upgrade::ask(&mut socket)?;
        }
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn message(number: u64) -> [u8; MESSAGE_LEN] {
    let mut message = [b'\n'; MESSAGE_LEN];
    for (place, byte) in message[..16].iter_mut().enumerate() {
        let digit = number >> (60 - 4 * place) & 0xf;
        *byte = b"0123456789abcdef"[usize::try_from(digit).unwrap_or(0)];
    }
    message
}

fn lock(report: &Mutex<EchoReport>) -> MutexGuard<'_, EchoReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_one_turn_in_an_interval() {
        let ms = Duration::from_millis;
        assert_eq!(turns(1, ms(10)), (ms(10), 1));
        assert_eq!(turns(64, ms(10)), (ms(10), 64));
        assert_eq!(turns(640, ms(10)), (ms(1), 64));
        assert_eq!(turns(10_000, ms(10)), (ms(1), 1000), "more often than each millisecond nothing is sent");
        let (beat, each) = turns(10_000, ms(1000));
        let beats = ms(1000).as_nanos() / beat.as_nanos();
        assert!(beats * each as u128 >= 10_000 && each <= BURST + 1, "{beats} times {each}");
    }

    #[test]
    fn messages_are_numbers() {
        assert_eq!(&message(0x1_002f), b"000000000001002f\n");
    }
}
