//! Access logs: a line for each connection that has ended, written by a thread of its own so that no worker waits for a
//! disk or a pipe.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use common::config::{AccessLog, AccessLogFormat, Config};
use lbd_core::access_log::Record;
use nix::unistd::{AccessFlags, access};

/// Lines that may wait for the thread that writes them; more are dropped and counted.
const LINES_MAX: usize = 16_384;

/// How long a line may stay in the buffer.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// After a failure the file is opened again, not more often than this.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long the end of the daemon waits for a log.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// Who may read an access log: it names clients.
const FILE_MODE: u32 = 0o640;

/// Why a log cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessLogError {
    /// Its file.
    #[error("cannot write the access log {}: {source}; make its folder, or change access_log.file", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// Its thread.
    #[error("cannot start the thread that writes an access log: {0}")]
    Thread(io::Error),
}

/// Where the records of a service go.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    format: AccessLogFormat,
    writer: Arc<Writer>,
}

impl Sink {
    /// Hands a record to the writer. Never waits: what the writer has no room for is lost and counted.
    pub(crate) fn record(&self, record: &Record<'_>) {
        let line = match self.format {
            AccessLogFormat::Line => record.to_string(),
            // A record is plain text and numbers, which have a JSON form.
            AccessLogFormat::Json => serde_json::to_string(record).unwrap_or_default(),
        };
        if self.writer.lines.try_send(Job::Line(line)).is_err() {
            self.writer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records lost so far of all services that log to the same place.
    pub(crate) fn dropped(&self) -> u64 {
        self.writer.dropped.load(Ordering::Relaxed)
    }
}

/// One file, or standard output, with the thread that writes it. The thread ends with the last [`Sink`].
#[derive(Debug)]
struct Writer {
    lines: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Job {
    Line(String),
    /// The file was moved away: go on in a new one.
    Reopen,
    /// Write out what came so far, and say so.
    Flush(SyncSender<()>),
}

/// The logs of a configuration, by file; `None` is standard output.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccessLogs(HashMap<Option<PathBuf>, Arc<Writer>>);

impl AccessLogs {
    /// Opens the logs of a configuration that `before` has not open yet.
    pub(crate) fn of(config: &Config, before: &Self) -> Result<Self, AccessLogError> {
        Self::open(config.services.iter().filter_map(|service| service.access_log.as_ref()), before)
    }

    /// Opens what `wanted` names and `before` has not open yet. Nothing changes for `before`, so that a reload that fails
    /// later on leaves everything as it was.
    fn open<'a>(wanted: impl Iterator<Item = &'a AccessLog>, before: &Self) -> Result<Self, AccessLogError> {
        let mut logs = HashMap::new();
        for log in wanted {
            if logs.contains_key(&log.file) {
                continue;
            }
            let writer = match before.0.get(&log.file) {
                Some(writer) => Arc::clone(writer),
                None => Arc::new(start(log.file.as_deref())?),
            };
            logs.insert(log.file.clone(), writer);
        }
        Ok(Self(logs))
    }

    /// The sink for a service's setting, which was among those opened.
    pub(crate) fn sink(&self, log: &AccessLog) -> Option<Sink> {
        let writer = self.0.get(&log.file)?;
        Some(Sink { format: log.format, writer: Arc::clone(writer) })
    }

    /// Waits until everything recorded so far is written, for each log not longer than [`FINISH_MAX`].
    pub(crate) fn finish(&self) {
        for writer in self.0.values() {
            let (done, wait) = sync_channel(1);
            if writer.lines.try_send(Job::Flush(done)).is_err() || wait.recv_timeout(FINISH_MAX).is_err() {
                tracing::warn!("an access log is behind, its last lines are lost");
            }
        }
    }

    /// Has each file opened anew, as log rotation asks for.
    pub(crate) fn reopen(&self) {
        for writer in self.0.values() {
            // A full queue: the file is opened again with the next SIGHUP.
            if writer.lines.try_send(Job::Reopen).is_err() {
                tracing::warn!("an access log is behind and was not opened again");
            }
        }
    }
}

/// The access logs of a configuration that cannot be written. Makes no file.
pub(crate) fn problems(config: &Config) -> impl Iterator<Item = AccessLogError> {
    let logs = config.services.iter().filter_map(|service| service.access_log.as_ref());
    let files: BTreeSet<&PathBuf> = logs.filter_map(|log| log.file.as_ref()).collect();
    files.into_iter().filter_map(|path| {
        let source = try_to_write(path).err()?;
        Some(AccessLogError::Open { path: path.clone(), source })
    })
}

fn try_to_write(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A file of its own is made at the start, if the folder is there and lets it.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            Ok(access(folder.unwrap_or(Path::new(".")), AccessFlags::W_OK | AccessFlags::X_OK)?)
        }
        other => other.map(drop),
    }
}

fn start(file: Option<&Path>) -> Result<Writer, AccessLogError> {
    let output = open(file).map_err(|source| AccessLogError::Open {
        path: file.map(Path::to_owned).unwrap_or_default(),
        source,
    })?;
    let (lines, jobs) = sync_channel(LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let log = Log {
        file: file.map(Path::to_owned),
        output: Some(output),
        dropped: Arc::clone(&dropped),
        retry_at: Instant::now(),
    };
    std::thread::Builder::new()
        .name("lbd-access-log".to_owned())
        .spawn(move || log.run(&jobs))
        .map_err(AccessLogError::Thread)?;
    Ok(Writer { lines, dropped })
}

type Output = BufWriter<Box<dyn Write + Send>>;

fn open(file: Option<&Path>) -> io::Result<Output> {
    let output: Box<dyn Write + Send> = match file {
        None => Box::new(io::stdout()),
        Some(path) => {
            let file: File = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
            Box::new(file)
        }
    };
    Ok(BufWriter::with_capacity(64 * 1024, output))
}

/// The writing thread's side.
struct Log {
    file: Option<PathBuf>,
    /// `None` after a failure.
    output: Option<Output>,
    dropped: Arc<AtomicU64>,
    retry_at: Instant,
}

impl Log {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut flush_at = None;
        loop {
            let wait =
                flush_at.map_or(Duration::MAX, |at: Instant| at.saturating_duration_since(Instant::now()));
            match jobs.recv_timeout(wait.min(RETRY_INTERVAL)) {
                Ok(Job::Line(line)) => {
                    self.write(&line);
                    flush_at = flush_at.or_else(|| Some(Instant::now() + FLUSH_INTERVAL));
                }
                Ok(Job::Reopen) => {
                    self.flush();
                    self.reopen();
                }
                Ok(Job::Flush(done)) => {
                    self.flush();
                    // Whoever asked may have stopped waiting.
                    done.try_send(()).ok();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
            if flush_at.is_some_and(|at| at <= Instant::now()) {
                self.flush();
                flush_at = None;
            }
        }
    }

    fn write(&mut self, line: &str) {
        if self.output.is_none() && self.retry_at <= Instant::now() {
            self.reopen();
        }
        let Some(output) = &mut self.output else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if let Err(error) = writeln!(output, "{line}") {
            self.fail(&error);
        }
    }

    fn flush(&mut self) {
        if let Some(output) = &mut self.output
            && let Err(error) = output.flush()
        {
            self.fail(&error);
        }
    }

    fn reopen(&mut self) {
        match open(self.file.as_deref()) {
            Ok(output) => self.output = Some(output),
            Err(error) => self.fail(&error),
        }
    }

    /// What is in the buffer is lost; how many lines that are, nobody knows: at least one is counted.
    fn fail(&mut self, error: &io::Error) {
        let file = self.file.as_deref().unwrap_or(Path::new("standard output")).display().to_string();
        tracing::error!(file, %error, "cannot write an access log; trying again every second");
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.retry_at = Instant::now() + RETRY_INTERVAL;
        if let Some(output) = self.output.take() {
            // Its buffer is not written once more on drop.
            drop(output.into_parts());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::time::{Duration as Span, UnixTime};
    use lbd_core::access_log::Phases;

    fn record(service: &str) -> Record<'_> {
        Record {
            at: UnixTime::from_nanos(0),
            service,
            client: ([127, 0, 0, 1], 9).into(),
            proxy: None,
            listen: ([127, 0, 0, 1], 80).into(),
            tag: None,
            sni: None,
            group: "g",
            target: None,
            target_address: None,
            tries: 0,
            phases: Phases { total: Span::from_millis(1), ..Phases::default() },
            bytes_to_target: 0,
            bytes_to_client: 0,
            end: "denied",
        }
    }

    fn wait_for_lines(path: &Path, count: usize) -> Vec<String> {
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "{lines:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("lbd-access-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn records_are_written_and_a_moved_file_is_opened_anew() {
        let folder = folder("rotate");
        let path = folder.join("access.log");
        let setting = AccessLog { format: AccessLogFormat::Json, file: Some(path.clone()) };
        let logs = AccessLogs::open([&setting].into_iter(), &AccessLogs::default()).unwrap();
        let sink = logs.sink(&setting).unwrap();
        sink.record(&record("one"));
        let lines = wait_for_lines(&path, 1);
        let first: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            (&first["service"], &first["end"], &first["total_us"]),
            (&"one".into(), &"denied".into(), &1000.into())
        );
        assert!(first.get("target").is_none());

        let moved = folder.join("access.log.1");
        std::fs::rename(&path, &moved).unwrap();
        logs.reopen();
        sink.record(&record("two"));
        assert!(wait_for_lines(&path, 1)[0].contains("two"));
        assert_eq!(wait_for_lines(&moved, 1).len(), 1);
        assert_eq!(sink.dropped(), 0);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_at_once() {
        let setting =
            AccessLog { format: AccessLogFormat::Line, file: Some("/nonexistent/tandem/access.log".into()) };
        let error = AccessLogs::open([&setting].into_iter(), &AccessLogs::default()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tandem/access.log"), "{error}");
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many_at_least() {
        let setting = AccessLog { format: AccessLogFormat::Line, file: Some("/dev/full".into()) };
        let logs = AccessLogs::open([&setting].into_iter(), &AccessLogs::default()).unwrap();
        let sink = logs.sink(&setting).unwrap();
        let begin = Instant::now();
        while sink.dropped() == 0 {
            sink.record(&record("lost"));
            assert!(begin.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
