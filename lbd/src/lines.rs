//! Lines of text for a file or a standard stream, written by a thread of their own so that nobody waits for a disk, a pipe or a
//! terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

/// Lines that may wait for the thread that writes them; more are dropped and counted.
const LINES_MAX: usize = 16_384;

/// How long a line may stay in the buffer of a file.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// After a failure the file is opened again, not more often than this.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Who may read a file: it names clients.
const FILE_MODE: u32 = 0o640;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// A file, which lines are added to.
    File(PathBuf),
    /// Standard output.
    StandardOutput,
    /// Standard error: where the daemon's own log goes, so that failures to write it are only counted.
    StandardError,
}

/// One place, with the thread that writes there. The thread ends, when all is written, after the last writer for it.
#[derive(Debug)]
pub(crate) struct LineWriter {
    jobs: SyncSender<Job>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Job {
    Line(String),
    /// The file was moved away: go on in a new one.
    Reopen,
    /// Write out what came so far, and say so.
    Flush(SyncSender<()>),
}

impl LineWriter {
    /// Opens the place.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread started.
    pub(crate) fn start(place: Place, thread: &str) -> io::Result<Self> {
        let output = open(&place)?;
        let (jobs, waiting) = sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let scribe = Scribe {
            place,
            output: Some(output),
            unflushed: 0,
            lost: Arc::clone(&lost),
            retry_at: Instant::now(),
        };
        std::thread::Builder::new().name(thread.to_owned()).spawn(move || scribe.run(&waiting))?;
        Ok(Self { jobs, lost })
    }

    /// Hands over a line, without the end of line. Never waits: what there is no room for is lost and counted.
    pub(crate) fn line(&self, line: String) {
        if self.jobs.try_send(Job::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines lost so far; at least: those that the kernel took before a disk failed are among them.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Has a file opened anew. False if too many lines wait.
    pub(crate) fn reopen(&self) -> bool {
        self.jobs.try_send(Job::Reopen).is_ok()
    }

    /// Waits until everything handed over so far is written, at most so long. False if it is not.
    pub(crate) fn flush(&self, time_max: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.jobs.try_send(Job::Flush(done)).is_ok() && wait.recv_timeout(time_max).is_ok()
    }
}

type Output = BufWriter<Box<dyn Write + Send>>;

fn open(place: &Place) -> io::Result<Output> {
    let output: Box<dyn Write + Send> = match place {
        Place::StandardOutput => Box::new(io::stdout()),
        Place::StandardError => Box::new(io::stderr()),
        Place::File(path) => {
            let file: File = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
            Box::new(file)
        }
    };
    Ok(BufWriter::with_capacity(64 * 1024, output))
}

/// The writing thread's side.
struct Scribe {
    place: Place,
    /// `None` after a failure.
    output: Option<Output>,
    /// Lines in the buffer, or written out of it since it was last empty for certain.
    unflushed: u64,
    lost: Arc<AtomicU64>,
    retry_at: Instant,
}

impl Scribe {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut flush_at = None;
        loop {
            let wait =
                flush_at.map_or(Duration::MAX, |at: Instant| at.saturating_duration_since(Instant::now()));
            match self.next(jobs, wait) {
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

    /// The next job. What somebody watches, or reads after a crash, is written out before there is a wait for it.
    fn next(&mut self, jobs: &Receiver<Job>, wait: Duration) -> Result<Job, RecvTimeoutError> {
        if self.place == Place::StandardError {
            match jobs.try_recv() {
                Ok(job) => return Ok(job),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => self.flush(),
            }
        }
        jobs.recv_timeout(wait.min(RETRY_INTERVAL))
    }

    fn write(&mut self, line: &str) {
        if self.output.is_none() && self.retry_at <= Instant::now() {
            self.reopen();
        }
        let Some(output) = &mut self.output else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.unflushed += 1;
        if let Err(error) = writeln!(output, "{line}") {
            self.fail(&error);
        }
    }

    fn flush(&mut self) {
        let Some(output) = &mut self.output else { return };
        match output.flush() {
            Ok(()) => self.unflushed = 0,
            Err(error) => self.fail(&error),
        }
    }

    fn reopen(&mut self) {
        match open(&self.place) {
            Ok(output) => self.output = Some(output),
            Err(error) => self.fail(&error),
        }
    }

    /// What is in the buffer is lost.
    fn fail(&mut self, error: &io::Error) {
        self.lost.fetch_add(std::mem::take(&mut self.unflushed), Ordering::Relaxed);
        self.retry_at = Instant::now() + RETRY_INTERVAL;
        if let Some(output) = self.output.take() {
            // Its buffer is not written once more on drop.
            drop(output.into_parts());
        }
        let place = match &self.place {
            Place::File(path) => path.display().to_string(),
            Place::StandardOutput => "standard output".to_owned(),
            // There is nowhere to say it.
            Place::StandardError => return,
        };
        tracing::error!(place, %error, "cannot write an access log; trying again every second");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_loses_all_lines_since_the_last_that_was_written() {
        let writer = LineWriter::start(Place::File("/dev/full".into()), "full").unwrap();
        for _ in 0..5 {
            writer.line("lost".to_owned());
        }
        assert!(writer.flush(Duration::from_secs(10)));
        assert_eq!(writer.lost(), 5);
    }

    /// Nobody reads the pipe: what does not fit into it and the queue is lost, and whoever writes does not stand still.
    #[test]
    fn a_pipe_that_nobody_reads_stops_nobody() {
        let (reader, pipe) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pipe));
        let writer = LineWriter::start(Place::File(path.into()), "pipe").unwrap();
        while writer.lost() == 0 {
            writer.line("a line of the usual length, which says nothing at all".to_owned());
        }
        drop((reader, pipe));
    }
}
