//! Programs that the lab starts, and their end.
//!
//! Every program is a process group of its own, writes its output to a file, and dies with the process that runs the
//! lab. The kernel ties that last promise to the *thread* that forked (`PR_SET_PDEATHSIG`), and a test's thread may end
//! before its lab does; so one thread that lives as long as the process does all the forking.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::clock::{Window, wait_until};
use super::error::{Context, LabError, Result};

/// How long a program has to end after SIGTERM before it is killed.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(5);

/// One running program.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Starts `command` with both its outputs appended to `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let describe = || format!("opening the log {}", log.display());
        let out = OpenOptions::new().create(true).append(true).open(log).doing(describe)?;
        let err = out.try_clone().doing(describe)?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn(command).doing(|| format!("starting {name} ({program})"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), ended: None })
    }

    /// What it was started as.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, which is its process group's too.
    #[must_use]
    pub fn pid(&self) -> Pid {
        // A process id is a positive `pid_t`, which `Child` shows as `u32`.
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Sends a signal to the program itself, not to its children.
    ///
    /// # Errors
    /// [`LabError::Io`] when it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<Window> {
        if self.ended().is_some() {
            // Its id may already be another process's.
            let gone = Err::<Window, _>(Errno::ESRCH);
            return gone.doing(|| format!("sending {signal} to {}, which has ended", self.name));
        }
        let pid = self.pid();
        let (window, ()) =
            Window::around(|| kill(pid, signal).doing(|| format!("sending {signal} to {}", self.name)))?;
        Ok(window)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`LabError::Timeout`] when it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait_until(&what, limit, || self.ended().is_some())?;
        // `wait_until` returned because there is one.
        Ok(self.ended.unwrap_or_else(|| ExitStatus::from_raw(0)))
    }

    /// Asks it to end (SIGTERM), kills it when it does not, and kills what is left of its process group.
    ///
    /// # Errors
    /// [`LabError::Io`] when it cannot be signalled.
    pub fn stop(mut self) -> Result<ExitStatus> {
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM)?;
            if let Err(LabError::Timeout { .. }) = self.wait(STOP_LIMIT) {
                self.signal(Signal::SIGKILL)?;
            }
        }
        let status = self.wait(STOP_LIMIT)?;
        self.kill_group();
        Ok(status)
    }

    /// Kills the whole process group at once.
    fn kill_group(&mut self) {
        // The group outlives its leader while a member lives; when none does there is nothing to kill.
        match killpg(self.pid(), Signal::SIGKILL) {
            Ok(()) | Err(_) => {}
        }
        // An error here means that it has been waited for already.
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// How many descriptors are enough: both ends of ten thousand connections, with room for more.
const DESCRIPTORS: u64 = 65_536;

/// Lets this process and all it starts have as many descriptors as permitted: probes, and the targets' ends of what they
/// connect, need tens of thousands. Root may have more than it was given; where it may not, the given limit has to do.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let doing = || "raising the limit of open files".to_owned();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).doing(doing)?;
    if hard < DESCRIPTORS && setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_ok() {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).doing(doing)
}

/// A request to the forking thread.
type Request = (Command, SyncSender<io::Result<Child>>);

/// Starts a command from the thread that lives as long as the process; the child dies with the process.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    // SAFETY: the closure runs between fork and exec and makes one system call, no allocation and no lock.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
    let requests = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in requests {
                // Whoever asked waits for the answer; if it is gone all the same, the child is not wanted.
                if let Err(unwanted) = answer.send(command.spawn())
                    && let Ok(mut child) = unwanted.0
                    && child.kill().is_ok()
                {
                    child.wait().ok();
                }
            }
        });
        Mutex::new(sender)
    });
    let (answer, reply) = sync_channel(1);
    let gone = || io::Error::other("the lab's forking thread is gone");
    requests.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).map_err(|_| gone())?;
    reply.recv().map_err(|_| gone())?
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(mut command: Command, stdin: &str) -> Result<String> {
    let shown = shown(&command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.spawn().doing(|| format!("starting `{shown}`"))?;
    if let Some(mut pipe) = child.stdin.take() {
        io::Write::write_all(&mut pipe, stdin.as_bytes()).doing(|| format!("writing to `{shown}`"))?;
    }
    let output = child.wait_with_output().doing(|| format!("waiting for `{shown}`"))?;
    if !output.status.success() {
        return Err(LabError::Command {
            command: shown,
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// The last `bytes_max` bytes of a file, or why there are none.
pub(crate) fn tail(path: &Path, bytes_max: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("({error})"))
}
