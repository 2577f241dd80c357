//! Logs to standard error without ever waiting for whoever reads it.
//!
//! Lines go through a queue of [`LINES_MAX`] to a thread that writes them. If standard error blocks (a full pipe, a
//! stopped terminal) further lines are dropped and counted, and no thread of the daemon stands still.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use caps::CapSet;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Lines that wait to be written, at most.
pub const LINES_MAX: usize = 1024;

/// The environment variable with the filter, for instance `debug` or `vrrpd::hooks=debug`.
pub const FILTER_VARIABLE: &str = "TANDEM_LOG";

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines dropped since the start.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

enum Job {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Writes what is still queued when it is dropped, as far as that is possible within a moment.
#[derive(Debug)]
pub struct Flush {
    queue: SyncSender<Job>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Job::Flush(done)).is_ok() {
            // Nobody reads standard error if this takes longer.
            wait.recv_timeout(Duration::from_secs(1)).ok();
        }
    }
}

/// Starts logging for the whole process. Keep what is returned until its end.
///
/// # Errors
///
/// When the thread cannot be started, or logging was started before.
pub fn start() -> io::Result<Flush> {
    let (queue, lines) = sync_channel(LINES_MAX);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&lines))?;
    let asked = std::env::var(FILTER_VARIABLE).ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(Writer { queue: queue.clone() });
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(io::Error::other)?;
    Ok(Flush { queue })
}

fn write_all(lines: &Receiver<Job>) {
    renounce();
    let mut stderr = io::stderr();
    while let Ok(job) = lines.recv() {
        match job {
            Job::Line(line) => {
                if stderr.write_all(&line).is_err() {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                }
            }
            Job::Flush(done) => {
                // Whoever asked may have given up.
                done.try_send(()).ok();
            }
        }
    }
}

/// The thread starts before the daemon gives up what it does not need, and needs nothing at all itself.
fn renounce() {
    // A thread that keeps them is no reason not to start, and it has nobody to tell but itself.
    nix::sys::prctl::set_no_new_privs().ok();
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).ok();
    }
}

struct Writer {
    queue: SyncSender<Job>,
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: &self.queue, bytes: Vec::with_capacity(160) }
    }
}

struct Line<'a> {
    queue: &'a SyncSender<Job>,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        if self.queue.try_send(Job::Line(std::mem::take(&mut self.bytes))).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}
