//! Runs one hook after the other.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::queue::{Job, Outcome, Queue};

/// Bytes of a hook's output that are logged, both streams together; the rest is read and forgotten.
pub const OUTPUT_MAX: usize = 16 * 1024;

/// How often a running hook is looked at when it says nothing.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs what is queued until the queue is closed.
pub(super) fn run(queue: &Queue) {
    while let Some(job) = queue.next() {
        queue.done(run_one(&job, queue));
    }
}

fn run_one(job: &Job, queue: &Queue) -> Outcome {
    let Job { instance, .. } = job;
    let role = job.role.name();
    let started = Instant::now();
    let mut child = match spawn(job) {
        Ok(child) => child,
        Err(error) => {
            tracing::error!("hook of {instance} for {role}: cannot run {:?}: {error}", job.program[0]);
            return Outcome::Failed;
        }
    };
    let mut output = Output::default();
    let ended = watch(&mut child, &mut output, started + job.timeout, queue);
    output.log(instance, role);
    let took_ms = started.elapsed().as_millis();
    match ended {
        Ok(Some(status)) if status.success() => {
            tracing::info!("hook of {instance} for {role} ended after {took_ms} ms");
            Outcome::Succeeded
        }
        Ok(Some(status)) => {
            tracing::error!("hook of {instance} for {role} failed after {took_ms} ms: {status}");
            Outcome::Failed
        }
        Ok(None) => {
            tracing::error!(
                "hook of {instance} for {role} was killed after {took_ms} ms, its time-out or the daemon's end"
            );
            Outcome::TimedOut
        }
        Err(error) => {
            tracing::error!("hook of {instance} for {role}: cannot wait for it: {error}");
            Outcome::Failed
        }
    }
}

fn spawn(job: &Job) -> std::io::Result<Child> {
    Command::new(&job.program[0])
        .args(&job.program[1..])
        .env("TANDEM_INSTANCE", &job.instance)
        .env("TANDEM_ROLE", job.role.name())
        .env("TANDEM_PREVIOUS_ROLE", job.previous.name())
        .env("TANDEM_NODE", &job.node)
        .env("TANDEM_FENCE", job.fence.to_string())
        .env("TANDEM_VIPS", &job.vips)
        // A hook must not speak to the service manager in the daemon's name.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Reads the output and waits for the end; `None` when the hook had to be killed.
fn watch(
    child: &mut Child,
    output: &mut Output,
    deadline: Instant,
    queue: &Queue,
) -> std::io::Result<Option<ExitStatus>> {
    let mut pipes = Pipes { out: child.stdout.take(), err: child.stderr.take() };
    pipes.set_nonblocking()?;
    loop {
        pipes.wait(LOOK_EVERY);
        pipes.drain(output);
        if let Some(status) = child.try_wait()? {
            // What it wrote last; whatever it left running in the background keeps nobody waiting.
            pipes.drain(output);
            return Ok(Some(status));
        }
        if Instant::now() >= deadline || queue.must_kill() {
            kill_group(child);
            child.wait()?;
            pipes.drain(output);
            return Ok(None);
        }
    }
}

/// Kills the hook and everything it started that stayed in its process group.
fn kill_group(child: &Child) {
    let Ok(pid) = i32::try_from(child.id()) else { return };
    // The child is not reaped yet, so its id, which is its group's too, cannot belong to anyone else.
    if let Err(error) = killpg(Pid::from_raw(pid), Signal::SIGKILL) {
        tracing::warn!("cannot kill a hook's process group {pid}: {error}");
    }
}

#[derive(Default)]
struct Output {
    kept: Vec<u8>,
    cut: bool,
}

impl Output {
    fn push(&mut self, bytes: &[u8]) {
        let room = OUTPUT_MAX - self.kept.len();
        self.cut |= bytes.len() > room;
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn log(&self, instance: &str, role: &str) {
        for line in String::from_utf8_lossy(&self.kept).lines() {
            // Control characters could forge lines of the log or drive a terminal.
            tracing::info!("hook of {instance} for {role}: {}", line.escape_debug());
        }
        if self.cut {
            tracing::info!(
                "hook of {instance} for {role}: more output than {OUTPUT_MAX} bytes, the rest is not logged"
            );
        }
    }
}

struct Pipes {
    out: Option<std::process::ChildStdout>,
    err: Option<std::process::ChildStderr>,
}

impl Pipes {
    fn set_nonblocking(&self) -> std::io::Result<()> {
        let set = |fd: std::os::fd::BorrowedFd<'_>| fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        if let Some(out) = &self.out {
            set(out.as_fd())?;
        }
        if let Some(err) = &self.err {
            set(err.as_fd())?;
        }
        Ok(())
    }

    /// Until there is something to read or the time has passed.
    fn wait(&self, time: Duration) {
        let mut fds = Vec::with_capacity(2);
        fds.extend(self.out.as_ref().map(|out| PollFd::new(out.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.err.as_ref().map(|err| PollFd::new(err.as_fd(), PollFlags::POLLIN)));
        if fds.is_empty() {
            std::thread::sleep(time.min(LOOK_EVERY));
            return;
        }
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => tracing::warn!("cannot wait for a hook's output: {error}"),
        }
    }

    fn drain(&mut self, output: &mut Output) {
        if drain_one(self.out.as_mut(), output) {
            self.out = None;
        }
        if drain_one(self.err.as_mut(), output) {
            self.err = None;
        }
    }
}

/// Reads what is there, a bounded amount of it; `true` at the end of the stream.
fn drain_one(pipe: Option<&mut impl Read>, output: &mut Output) -> bool {
    const READS_MAX: usize = 16;
    let Some(pipe) = pipe else { return true };
    let mut buffer = [0; 4096];
    for _ in 0..READS_MAX {
        match pipe.read(&mut buffer) {
            Ok(0) => return true,
            Ok(count) => output.push(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
    false
}
