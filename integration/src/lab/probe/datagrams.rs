//! Clients that talk by datagrams, each from one port all the time, and count what is not answered.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use common::time::Instant;

use crate::lab::clock::{now, wait_until};
use crate::lab::error::{Context, Result};
use crate::lab::host::Host;
use crate::lab::netns::Worker;

/// A datagram begins with its client's number, in four bytes, and its own, in eight.
pub const DATAGRAM_HEAD: usize = 12;

/// How often sockets are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Of one client so many unanswered ones are remembered; what was sent before these stays lost, whatever comes.
const UNANSWERED_MAX: usize = 10_000;

/// How a [`DatagramProbe`] probes.
#[derive(Clone, Debug)]
pub struct DatagramSettings {
    /// What sends back what it gets.
    pub destinations: Vec<SocketAddr>,
    /// How many clients each destination has.
    pub clients: usize,
    /// The number of the first client; those of the others follow, one destination's after the other's.
    pub first: u32,
    /// The time between two datagrams of a client.
    pub interval: Duration,
    /// The length of a datagram in bytes, [`DATAGRAM_HEAD`] at least.
    pub size: usize,
    /// After the end clients wait for so long at most for what has not come back.
    pub linger: Duration,
}

impl DatagramSettings {
    /// A short datagram of each client every 50 ms; at the end a second for the last ones.
    #[must_use]
    pub fn new(destinations: &[SocketAddr], clients: usize) -> Self {
        let (interval, linger) = (Duration::from_millis(50), Duration::from_secs(1));
        Self { destinations: destinations.to_vec(), clients, first: 0, interval, size: DATAGRAM_HEAD, linger }
    }
}

/// What became of one client's datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatagramClient {
    /// How many it has sent.
    pub sent: u64,
    /// How many of these have come back.
    pub answered: u64,
    /// The longest time without an answer that ended with one.
    pub silence: Duration,
    /// The numbers of those that have not come back.
    unanswered: BTreeSet<u64>,
    /// Those that are not among them any more.
    forgotten: u64,
    /// The highest number that has come back.
    latest: Option<u64>,
}

impl DatagramClient {
    /// How many have not come back although a later one has.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let passed = self.latest.map_or(0, |latest| self.unanswered.range(..latest).count());
        self.forgotten + passed as u64
    }

    fn sends(&mut self) -> u64 {
        let number = self.sent;
        self.sent += 1;
        self.unanswered.insert(number);
        if self.unanswered.len() > UNANSWERED_MAX {
            self.unanswered.pop_first();
            self.forgotten += 1;
        }
        number
    }

    fn receives(&mut self, number: u64) {
        if self.unanswered.remove(&number) {
            self.answered += 1;
            self.latest = self.latest.max(Some(number));
        }
    }
}

/// What became of all clients' datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatagramReport {
    /// Each client, the first number's first.
    pub clients: Vec<DatagramClient>,
    /// How late the clients looked at their sockets at most, because they did not run: so much of a silence may be their own.
    pub pause: Duration,
    /// What came to a client without being its own datagram as it was sent.
    pub strange: u64,
}

impl DatagramReport {
    /// How many datagrams have not come back, whether they still may or not.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.clients.iter().map(|client| client.sent - client.answered).sum()
    }

    /// How many have not come back although a later one of the same client has.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.clients.iter().map(DatagramClient::lost).sum()
    }

    /// The longest time without an answer of any client.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.clients.iter().map(|client| client.silence).max().unwrap_or_default()
    }

    /// The clients of one destination, by its place among them, when each has so many.
    #[must_use]
    pub fn of_destination(&self, place: usize, clients: usize) -> Self {
        let own = self.clients.chunks(clients.max(1)).nth(place).unwrap_or_default();
        Self { clients: own.to_vec(), pause: self.pause, strange: self.strange }
    }

    /// How many clients have had so many answers more than in an earlier report.
    #[must_use]
    pub fn ahead_of(&self, before: &Self, count: u64) -> usize {
        let pairs = self.clients.iter().zip(&before.clients);
        pairs.filter(|(now, before)| now.answered >= before.answered + count).count()
    }
}

/// Running clients.
#[derive(Debug)]
pub struct DatagramProbe {
    addresses: Vec<SocketAddr>,
    report: Arc<Mutex<DatagramReport>>,
    worker: Worker<()>,
}

impl DatagramProbe {
    /// Starts talking from a host, usually the client.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when there are no ports left.
    pub fn start(host: &Host, settings: DatagramSettings) -> Result<Self> {
        let doing = || format!("making clients of {:?}", settings.destinations);
        let sockets = host.namespace().inside(|| sockets(&settings))?.doing(doing)?;
        let addresses = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>();
        let addresses = addresses.doing(doing)?;
        let clients = vec![DatagramClient::default(); sockets.len()];
        let report = Arc::new(Mutex::new(DatagramReport { clients, ..DatagramReport::default() }));
        let mut engine = Engine::new(&settings, sockets, Arc::clone(&report));
        let worker = host.namespace().worker("datagram probe", move |stop| engine.run(stop))?;
        Ok(Self { addresses, report, worker })
    }

    /// Where each client talks from, the first number's first.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until each client has had so many answers more.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when one has not within `limit`.
    pub fn wait_answers(&self, count: u64, limit: Duration) -> Result<()> {
        let before = self.snapshot();
        wait_until(&format!("{count} answers to each client"), limit, || {
            lock(&self.report).ahead_of(&before, count) == before.clients.len()
        })
    }

    /// Begins anew to look for the longest time without an answer, and returns the longest until now.
    pub fn forget_silence(&self) -> Duration {
        let mut report = lock(&self.report);
        let longest = report.silence();
        report.clients.iter_mut().for_each(|client| client.silence = Duration::ZERO);
        report.pause = Duration::ZERO;
        longest
    }

    /// What is known so far.
    #[must_use]
    pub fn snapshot(&self) -> DatagramReport {
        lock(&self.report).clone()
    }

    /// Sends nothing more, waits for what has not come back, but not for long, and reports.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when the thread panicked.
    pub fn stop(self) -> Result<DatagramReport> {
        self.worker.stop()?;
        Ok(std::mem::take(&mut *lock(&self.report)))
    }
}

/// Sends a datagram from a port of its own in the calling thread's network, and waits for it to come back.
///
/// # Errors
/// What the kernel says, such as [`io::ErrorKind::WouldBlock`] when nothing has come within `limit`;
/// [`io::ErrorKind::InvalidData`] when something else came.
pub fn exchange_datagram(server: SocketAddr, limit: Duration) -> io::Result<()> {
    let socket = talker(server, limit)?;
    socket.send(b"hello")?;
    let mut answer = [0; 16];
    let length = socket.recv(&mut answer)?;
    if &answer[..length] == b"hello" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A socket in the calling thread's network that hears answers of this server alone, and waits for each for so long.
///
/// # Errors
/// What the kernel says, if there are no ports left for one.
pub fn talker(server: SocketAddr, limit: Duration) -> io::Result<UdpSocket> {
    let socket = connect(server)?;
    socket.set_read_timeout(Some(limit))?;
    Ok(socket)
}

/// A socket that hears answers of this server alone.
fn connect(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

fn sockets(settings: &DatagramSettings) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    for destination in &settings.destinations {
        for _ in 0..settings.clients {
            let socket = connect(*destination)?;
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

/// A client's socket, and its datagrams but for their own numbers.
struct Line {
    socket: UdpSocket,
    datagram: Vec<u8>,
    /// When it was last answered.
    heard: Instant,
}

struct Engine {
    lines: Vec<Line>,
    interval: Duration,
    linger: Duration,
    report: Arc<Mutex<DatagramReport>>,
}

impl Engine {
    fn new(settings: &DatagramSettings, sockets: Vec<UdpSocket>, report: Arc<Mutex<DatagramReport>>) -> Self {
        let line = |(number, socket): (u32, UdpSocket)| {
            let mut datagram = vec![0; settings.size.max(DATAGRAM_HEAD)];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            Line { socket, datagram, heard: now() }
        };
        let lines = (settings.first..).zip(sockets).map(line).collect();
        Self { lines, interval: settings.interval, linger: settings.linger, report }
    }

    /// Has each say something now and then, until the end.
    fn run(&mut self, stop: &AtomicBool) {
        let mut next = now();
        let mut looked = next;
        let mut end: Option<Instant> = None;
        while end.is_none_or(|end| now() < end && lock(&self.report).unanswered() > 0) {
            if stop.load(Ordering::Acquire) && end.is_none() {
                end = Some(now() + self.linger);
            }
            let time = now();
            let late = (time - looked).saturating_sub(LOOK_EVERY);
            looked = time;
            {
                let mut report = lock(&self.report);
                report.pause = report.pause.max(late);
            }
            let speaks = end.is_none() && time >= next;
            for (index, line) in self.lines.iter_mut().enumerate() {
                let mut report = lock(&self.report);
                if speaks {
                    line.speak(&mut report.clients[index]);
                }
                line.listen(index, &mut report);
            }
            if speaks {
                next = next + self.interval;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Line {
    fn speak(&mut self, client: &mut DatagramClient) {
        self.datagram[4..DATAGRAM_HEAD].copy_from_slice(&client.sends().to_be_bytes());
        // An error is that of an earlier one, to which nobody answered.
        if self.socket.send(&self.datagram).is_err() {
            drop(self.socket.send(&self.datagram));
        }
    }

    fn listen(&mut self, index: usize, report: &mut DatagramReport) {
        let mut answer = vec![0; self.datagram.len() + 1];
        while let Ok(length) = self.socket.recv(&mut answer) {
            let number = answer[4..DATAGRAM_HEAD].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            let is_own = length == self.datagram.len() && answer[..4] == self.datagram[..4];
            let Some(number) = number.filter(|_| is_own) else {
                report.strange += 1;
                continue;
            };
            let (client, time) = (&mut report.clients[index], now());
            client.receives(number);
            client.silence = client.silence.max(time - self.heard);
            self.heard = time;
        }
    }
}

fn lock(report: &Mutex<DatagramReport>) -> MutexGuard<'_, DatagramReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_one_has_passed_is_lost_until_it_comes() {
        let mut client = DatagramClient::default();
        assert_eq!((0..5).map(|_| client.sends()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(client.lost(), 0, "all are under way");
        for number in [0, 3, 3] {
            client.receives(number);
        }
        assert_eq!((client.answered, client.lost()), (2, 2), "the last may still come");
        client.receives(1);
        client.receives(17);
        assert_eq!((client.answered, client.lost()), (3, 1));
        let report = DatagramReport { clients: vec![client.clone(), client], ..DatagramReport::default() };
        assert_eq!((report.lost(), report.unanswered()), (2, 4));
        assert_eq!(report.ahead_of(&DatagramReport::default(), 1), 0, "of no client there is nothing to say");
        let before =
            DatagramReport { clients: vec![DatagramClient::default(); 2], ..DatagramReport::default() };
        assert_eq!((report.ahead_of(&before, 3), report.ahead_of(&before, 4)), (2, 0));
        let second = report.of_destination(1, 1);
        assert_eq!((second.clients.len(), second.lost()), (1, 1));
        assert!(report.of_destination(2, 1).clients.is_empty());
    }

    #[test]
    fn what_is_not_remembered_stays_lost() {
        let mut client = DatagramClient::default();
        for _ in 0..=UNANSWERED_MAX {
            client.sends();
        }
        assert_eq!(client.lost(), 1);
        client.receives(0);
        assert_eq!((client.answered, client.lost()), (0, 1));
    }
}
