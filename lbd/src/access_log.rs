//! Access logs: a line for each connection that has ended.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use common::config::{AccessLog, AccessLogFormat, Config, SampleShare};
use common::rng::Rng;
use lbd_core::access_log::Record;
use nix::unistd::{AccessFlags, access};

use crate::counters::Counter;
use crate::lines::{LineWriter, Place};
use crate::random;

thread_local! {
    /// What says of each record whether it is in the sample; no secret.
    static DRAWS: RefCell<Rng> = RefCell::new(Rng::new(random::number()));
}

/// How long the end of the daemon waits for a log.
const FINISH_MAX: Duration = Duration::from_secs(1);

/// Why a log cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessLogError {
    /// Its file, or the thread that writes it.
    #[error("cannot write the access log {}: {source}; make its folder, or change access_log.file", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

/// Where the records of a service go.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    format: AccessLogFormat,
    sample: SampleShare,
    writer: Arc<LineWriter>,
}

impl Sink {
    /// Hands a record to the writer if it is in the sample, and else counts it in `left_out`. Never waits: what the writer has no room for
    /// is lost and counted.
    pub(crate) fn record(&self, record: &Record<'_>, left_out: &Counter) {
        if self.sample != SampleShare::ALL && !self.sample.takes(DRAWS.with_borrow_mut(Rng::next_u64)) {
            left_out.add(1);
            return;
        }
        let line = match self.format {
            AccessLogFormat::Line => record.to_string(),
            // A record is plain text and numbers, which have a JSON form.
            AccessLogFormat::Json => serde_json::to_string(record).unwrap_or_default(),
        };
        self.writer.line(line);
    }

    /// Records lost so far of all services that log to the same place.
    pub(crate) fn dropped(&self) -> u64 {
        self.writer.lost()
    }
}

/// The logs of a configuration, by file; `None` is standard output.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccessLogs {
    logs: HashMap<Option<PathBuf>, Arc<LineWriter>>,
    /// Those of former configurations, which connections that began under them still write to.
    former: Vec<Weak<LineWriter>>,
}

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
            let writer = match before.logs.get(&log.file) {
                Some(writer) => Arc::clone(writer),
                None => Arc::new(start(log.file.as_deref())?),
            };
            logs.insert(log.file.clone(), writer);
        }
        let gone = before.logs.iter().filter(|(file, _)| !logs.contains_key(*file));
        let former = before.former.iter().filter(|writer| writer.strong_count() > 0).cloned();
        let former = former.chain(gone.map(|(_, writer)| Arc::downgrade(writer))).collect();
        Ok(Self { logs, former })
    }

    /// All that are written to.
    fn writers(&self) -> impl Iterator<Item = Arc<LineWriter>> {
        self.logs.values().cloned().chain(self.former.iter().filter_map(Weak::upgrade))
    }

    /// The sink for a service's setting, which was among those opened.
    pub(crate) fn sink(&self, log: &AccessLog) -> Option<Sink> {
        let writer = self.logs.get(&log.file)?;
        Some(Sink { format: log.format, sample: log.sample, writer: Arc::clone(writer) })
    }

    /// Waits until everything recorded so far is written, for each log not longer than [`FINISH_MAX`].
    pub(crate) fn finish(&self) {
        for writer in self.writers() {
            if !writer.flush(FINISH_MAX) {
                tracing::warn!("an access log is behind, its last lines are lost");
            }
        }
    }

    /// Has each file opened anew, as log rotation asks for.
    pub(crate) fn reopen(&self) {
        for writer in self.writers() {
            // A full queue: the file is opened again with the next SIGHUP.
            if !writer.reopen() {
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

fn start(file: Option<&Path>) -> Result<LineWriter, AccessLogError> {
    let place = file.map_or(Place::StandardOutput, |path| Place::File(path.to_owned()));
    LineWriter::start(place, "lbd-access-log").map_err(|source| AccessLogError::Open {
        path: file.unwrap_or(Path::new("to standard output")).to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

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
            request: None,
        }
    }

    fn setting(format: AccessLogFormat, file: PathBuf) -> AccessLog {
        AccessLog { format, file: Some(file), sample: SampleShare::ALL }
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
        let setting = setting(AccessLogFormat::Json, path.clone());
        let logs = AccessLogs::open([&setting].into_iter(), &AccessLogs::default()).unwrap();
        let sink = logs.sink(&setting).unwrap();
        sink.record(&record("one"), &Counter::default());
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
        sink.record(&record("two"), &Counter::default());
        assert!(wait_for_lines(&path, 1)[0].contains("two"));
        assert_eq!(wait_for_lines(&moved, 1).len(), 1);
        assert_eq!(sink.dropped(), 0);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_not_in_the_sample_is_counted_instead() {
        let folder = folder("sample");
        let half = AccessLog {
            sample: SampleShare::of_millionths(500_000).unwrap(),
            ..setting(AccessLogFormat::Line, folder.join("half.log"))
        };
        let logs = AccessLogs::open([&half].into_iter(), &AccessLogs::default()).unwrap();
        let (sink, left_out) = (logs.sink(&half).unwrap(), Counter::default());
        for _ in 0..1000 {
            sink.record(&record("one"), &left_out);
        }
        logs.finish();
        let written = std::fs::read_to_string(folder.join("half.log")).unwrap().lines().count();
        assert_eq!(written as u64 + left_out.get(), 1000);
        assert!((300..=700).contains(&written), "{written}");
        assert_eq!(sink.dropped(), 0);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_at_once() {
        let setting = setting(AccessLogFormat::Line, "/nonexistent/tandem/access.log".into());
        let error = AccessLogs::open([&setting].into_iter(), &AccessLogs::default()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tandem/access.log"), "{error}");
    }

    /// A connection that began before a reload ends after it.
    #[test]
    fn the_file_of_a_former_configuration_is_opened_anew_while_somebody_writes_there() {
        let folder = folder("former");
        let named = |name: &str| setting(AccessLogFormat::Line, folder.join(name));
        let (old, new) = (named("old.log"), named("new.log"));
        let before = AccessLogs::open([&old].into_iter(), &AccessLogs::default()).unwrap();
        let sink = before.sink(&old).unwrap();
        let after = AccessLogs::open([&new].into_iter(), &before).unwrap();
        drop(before);
        std::fs::rename(folder.join("old.log"), folder.join("old.log.1")).unwrap();
        after.reopen();
        sink.record(&record("late"), &Counter::default());
        after.finish();
        assert!(std::fs::read_to_string(folder.join("old.log")).unwrap().contains("late"));
        drop(sink);
        let later = AccessLogs::open([&new].into_iter(), &after).unwrap();
        assert_eq!((later.former.len(), later.writers().count()), (0, 1));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
