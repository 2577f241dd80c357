//! Logs: to standard error, filtered by `RUST_LOG` (`info` without it; release builds have nothing below `debug`).
//!
//! Lines are written by a thread of their own: neither a worker nor the control loop stands still because nobody reads them.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::lines::{LineWriter, Place};

/// How long the end of the daemon waits for its last lines.
const FINISH_MAX: Duration = Duration::from_secs(1);

static WRITER: OnceLock<Arc<LineWriter>> = OnceLock::new();

/// Writes what still waits when it is dropped.
#[derive(Debug)]
pub(crate) struct Flush(());

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(writer) = WRITER.get() {
            // If this fails there is nobody to tell.
            let _written = writer.flush(FINISH_MAX);
        }
    }
}

/// Lines lost so far because standard error was not read.
pub(crate) fn lost() -> u64 {
    WRITER.get().map_or(0, |writer| writer.lost())
}

/// Starts logging. Keep what is returned until the daemon's end.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn start() -> io::Result<Flush> {
    let asked = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let writer = Arc::new(LineWriter::start(Place::StandardError, "lbd-log")?);
    let writer = Arc::clone(WRITER.get_or_init(|| writer));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || Line { writer: Arc::clone(&writer), bytes: Vec::with_capacity(160) })
        .with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    // The journal stamps lines itself.
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() {
        registry.with(lines.without_time()).try_init()
    } else {
        registry.with(lines).try_init()
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
    Ok(Flush(()))
}

/// A line as it is put together.
struct Line {
    writer: Arc<LineWriter>,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim_end_matches('\n');
        if !text.is_empty() {
            self.writer.line(text.to_owned());
        }
    }
}
