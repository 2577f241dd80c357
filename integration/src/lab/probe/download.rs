//! A download in progress: paced, so that it lasts, and hashed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use common::time::Instant;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, Socket, Type};

use super::report::Failure;
use crate::lab::clock::{now, wait_until};
use crate::lab::error::{Context, Result};
use crate::lab::host::Host;
use crate::lab::netns::Worker;

/// How much the kernel keeps for the client at most: no more than the client takes in a fraction of a second, so that an outage is
/// not hidden by what has come before.
const RECEIVE_BUFFER: usize = 128 << 10;
const CHUNK: usize = 64 << 10;
/// More than the head of any answer here.
const HEAD_BYTES_MAX: usize = 2048;
/// How often the progress is noted.
const STEP: Duration = Duration::from_millis(25);
/// The most notes of progress; later ones are left out.
const STEPS_MAX: usize = 10_000;
/// How long a single read waits: how late a stop may be noticed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a [`DownloadProbe`] downloads.
#[derive(Clone, Debug)]
pub struct DownloadSettings {
    /// The HTTP server.
    pub destination: SocketAddr,
    /// What to ask for.
    pub path: String,
    /// How fast it takes the bytes until it is told to hurry; 1 at least.
    pub bytes_per_second: u64,
    /// Without a byte for this long it is broken.
    pub stall_limit: Duration,
}

impl DownloadSettings {
    /// 4 MiB each second, broken after 20 s of silence.
    #[must_use]
    pub fn new(destination: SocketAddr, path: &str) -> Self {
        let (bytes_per_second, stall_limit) = (4 << 20, Duration::from_secs(20));
        Self { destination, path: path.to_owned(), bytes_per_second, stall_limit }
    }
}

/// What came of a download.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadReport {
    /// The bytes that came, without the head.
    pub bytes: u64,
    /// The length that the server announced.
    pub length: u64,
    /// SHA-256 of the bytes that came, in hexadecimal; empty before the end.
    pub sha256: String,
    /// How it broke and when, if it did.
    pub broken: Option<(Instant, Failure)>,
    /// The longest time without a byte while it wanted some.
    pub worst_stall: Duration,
    /// When that began.
    pub worst_stall_at: Instant,
    /// How many bytes had come by when, every 25 ms or so.
    pub progress: Vec<(Instant, u64)>,
}

impl DownloadReport {
    /// Whether everything came, and is what it should be.
    #[must_use]
    pub fn is_whole(&self, sha256: &str) -> bool {
        self.broken.is_none() && self.length > 0 && self.bytes == self.length && self.sha256 == sha256
    }
}

/// A running download.
#[derive(Debug)]
pub struct DownloadProbe {
    report: Arc<Mutex<DownloadReport>>,
    hurry: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    worker: Worker<()>,
}

impl DownloadProbe {
    /// Connects from a host, usually the client, and begins.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when it cannot connect within two seconds.
    pub fn start(host: &Host, settings: DownloadSettings) -> Result<Self> {
        let doing = || format!("downloading {} from {}", settings.path, settings.destination);
        let stream = host.namespace().inside(|| connect(settings.destination))?.doing(doing)?;
        let report = Arc::new(Mutex::new(DownloadReport::default()));
        let (hurry, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut download = Download {
            settings,
            stream,
            hash: Sha256::new(),
            report: Arc::clone(&report),
            hurry: Arc::clone(&hurry),
            allowance_since: now(),
        };
        let ended = Arc::clone(&done);
        let worker = host.namespace().worker("download", move |stop| {
            download.run(stop);
            ended.store(true, Ordering::Release);
        })?;
        Ok(Self { report, hurry, done, worker })
    }

    /// Waits until so many bytes more have come, or it is over.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when neither is so within `limit`.
    pub fn wait_bytes(&self, count: u64, limit: Duration) -> Result<()> {
        let before = lock(&self.report).bytes;
        wait_until(&format!("{count} bytes of a download"), limit, || {
            self.done.load(Ordering::Acquire) || lock(&self.report).bytes >= before + count
        })
    }

    /// Whether it is over, well or not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Takes the rest as fast as it comes, and reports.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when it is not over within `limit`, [`crate::lab::LabError::Io`] when the thread panicked.
    pub fn finish(self, limit: Duration) -> Result<DownloadReport> {
        self.hurry.store(true, Ordering::Release);
        wait_until("the end of a download", limit, || self.is_over())?;
        self.worker.stop()?;
        Ok(std::mem::take(&mut *lock(&self.report)))
    }
}

struct Download {
    settings: DownloadSettings,
    stream: TcpStream,
    hash: Sha256,
    report: Arc<Mutex<DownloadReport>>,
    hurry: Arc<AtomicBool>,
    /// Since when the bytes that may be taken are counted.
    allowance_since: Instant,
}

impl Download {
    fn run(&mut self, stop: &AtomicBool) {
        let outcome = self.download(stop);
        let mut report = lock(&self.report);
        match outcome {
            Ok(()) => report.sha256 = hexadecimal(&std::mem::take(&mut self.hash).finalize()),
            Err(failure) => report.broken = Some((now(), failure)),
        }
    }

    fn download(&mut self, stop: &AtomicBool) -> std::result::Result<(), Failure> {
        let request =
            format!("GET {} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n", self.settings.path);
        self.stream.write_all(request.as_bytes()).map_err(|error| Failure::of(&error))?;
        let mut buffer = vec![0; CHUNK];
        let mut head = Vec::new();
        let body_at = loop {
            let count = self.read(&mut buffer, stop)?;
            head.extend_from_slice(&buffer[..count]);
            if let Some(at) = head.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if count == 0 || head.len() > HEAD_BYTES_MAX {
                return Err(if count == 0 { Failure::Closed } else { Failure::Garbled });
            }
        };
        let length = content_length(&head[..body_at])?;
        lock(&self.report).length = length;
        self.allowance_since = now();
        self.took(&head[body_at..]);
        loop {
            let bytes = lock(&self.report).bytes;
            if bytes >= length {
                return if bytes == length { Ok(()) } else { Err(Failure::Garbled) };
            }
            self.pace(bytes);
            let count = self.read(&mut buffer, stop)?;
            if count == 0 {
                return Err(Failure::Closed);
            }
            self.took(&buffer[..count]);
        }
    }

    /// Waits for the moment at which the next bytes may be taken.
    fn pace(&self, bytes: u64) {
        let rate = self.settings.bytes_per_second.max(1);
        let due = self.allowance_since + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        let wait = if due > now() { due - now() } else { Duration::ZERO };
        if !self.hurry.load(Ordering::Acquire) {
            thread::sleep(wait.min(LOOK_EVERY));
        }
    }

    /// Reads, and notes how long nothing came.
    fn read(&mut self, buffer: &mut [u8], stop: &AtomicBool) -> std::result::Result<usize, Failure> {
        let begun = now();
        let outcome = loop {
            match self.stream.read(buffer) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if stop.load(Ordering::Acquire) || now() - begun > self.settings.stall_limit {
                        break Err(Failure::Timeout);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => break outcome.map_err(|error| Failure::of(&error)),
            }
        };
        let stall = now() - begun;
        let mut report = lock(&self.report);
        if stall > report.worst_stall {
            (report.worst_stall, report.worst_stall_at) = (stall, begun);
        }
        outcome
    }

    fn took(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        let time = now();
        let mut report = lock(&self.report);
        report.bytes += bytes.len() as u64;
        let due = report.progress.last().is_none_or(|(at, _)| time - *at >= STEP);
        if due && report.progress.len() < STEPS_MAX {
            let bytes = report.bytes;
            report.progress.push((time, bytes));
        }
    }
}

fn connect(destination: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.connect_timeout(&destination.into(), Duration::from_secs(2))?;
    socket.set_read_timeout(Some(LOOK_EVERY))?;
    Ok(socket.into())
}

fn content_length(head: &[u8]) -> std::result::Result<u64, Failure> {
    let head = String::from_utf8_lossy(head);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(Failure::Garbled)?;
    if status != 200 {
        return Err(Failure::Status(status));
    }
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    value.ok_or(Failure::Garbled)
}

/// SHA-256 of some bytes, in hexadecimal: what [`DownloadReport::sha256`] is compared with.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock(report: &Mutex<DownloadReport>) -> MutexGuard<'_, DownloadReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum is the one of FIPS 180-4's first example.
    #[test]
    fn a_download_is_whole_only_with_every_byte() {
        let sum = sha256(b"abc");
        assert_eq!(sum, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let whole = DownloadReport { bytes: 3, length: 3, sha256: sum.clone(), ..DownloadReport::default() };
        assert!(whole.is_whole(&sum));
        assert!(!DownloadReport { bytes: 2, ..whole.clone() }.is_whole(&sum));
        assert!(!DownloadReport { sha256: sha256(b"abd"), ..whole.clone() }.is_whole(&sum));
        let broken = Some((Instant::ZERO, Failure::Reset));
        assert!(!DownloadReport { broken, ..whole }.is_whole(&sum));
        assert!(!DownloadReport::default().is_whole(""), "nothing is no download");
    }

    #[test]
    fn the_length_is_the_servers() {
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n"), Ok(17));
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Failure::Garbled));
        assert_eq!(content_length(b"HTTP/1.1 404 x\r\nContent-Length: 1\r\n\r\n"), Err(Failure::Status(404)));
    }
}
