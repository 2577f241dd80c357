//! The warden's own side: waiting.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::time::Duration;

use common::wire::SIZE_MAX;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::time::TimeSpec;
use nix::unistd::setsid;

use super::fire::Armed;
use super::page::{Page, Watch};
use super::plan::ToWarden;
use crate::netlink::Netlink;
use crate::{clock, privilege};

/// The warden's program: returns when the daemon is gone and everything is released.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything else: what is sent to the daemon's process group is not for us.
    SigSet::all().thread_block().ok();
    // Fails only if this process leads its group already, which does as well.
    setsid().ok();
    match Warden::open() {
        Ok(warden) => {
            warden.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("{error}; `vrrpd warden` is started by `vrrpd run` and serves no other purpose"));
            ExitCode::FAILURE
        }
    }
}

/// What has become of the daemon, when a slot is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    /// It does not beat in time.
    Late,
    /// Its end of the pipe is closed.
    Gone,
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Late => "late",
            Self::Gone => "gone",
        })
    }
}

struct Warden {
    page: Page,
    netlink: Netlink,
    armed: BTreeMap<u8, Armed>,
}

impl Warden {
    fn open() -> io::Result<Self> {
        let page = Page::map(io::stdout().as_fd())?;
        let netlink = Netlink::open().map_err(io::Error::other)?;
        let this = Self { page, netlink, armed: BTreeMap::new() };
        // Last, so that all of the above is locked in memory.
        privilege::become_real_time(privilege::WARDEN_PRIORITY);
        Ok(this)
    }

    fn run(mut self) {
        loop {
            self.wait();
            let state = if self.read() { Daemon::Late } else { Daemon::Gone };
            self.fire(state);
            if state == Daemon::Gone {
                return;
            }
        }
    }

    /// Until a message, the end of the pipe, or the time at which a beat becomes overdue.
    fn wait(&self) {
        let now = clock::now().at.as_nanos();
        let next = self.armed.iter().filter_map(|(slot, armed)| armed.deadline(self.page.watch(*slot))).min();
        let timeout = next.map(|at| TimeSpec::from_duration(Duration::from_nanos(at.saturating_sub(now))));
        let stdin = io::stdin();
        // An error is treated as a wake-up: what is to be done is decided by looking.
        ppoll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], timeout, None).ok();
    }

    /// Takes all messages; false at the end of the pipe.
    fn read(&mut self) -> bool {
        let mut bytes = [0; SIZE_MAX];
        loop {
            match recv(io::stdin().as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return false,
                Ok(length) => self.take(bytes.get(..length).unwrap_or_default()),
                Err(nix::Error::EAGAIN) => return true,
                Err(nix::Error::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        match ToWarden::decode(bytes) {
            Ok(ToWarden::Arm(plan)) => {
                self.armed.insert(plan.slot, Armed::new(*plan));
            }
            Ok(ToWarden::Disarm(slot)) => {
                self.armed.remove(&slot);
            }
            Err(error) => say(&format!("a message of the daemon was dropped: {error}")),
        }
    }

    /// Releases the slots whose beat is overdue, or all that are watched if the daemon is gone.
    ///
    /// The page is read here, after the wait: however late the warden itself is, a beat that came meanwhile counts.
    fn fire(&mut self, daemon: Daemon) {
        let now = clock::now().at.as_nanos();
        let due = |(&slot, armed): (&u8, &Armed)| {
            let Watch::Beaten(beat) = self.page.watch(slot) else { return None };
            let due = daemon == Daemon::Gone || armed.deadline(Watch::Beaten(beat))? <= now;
            (due && self.page.fire(slot, beat)).then_some(slot)
        };
        let slots: Vec<u8> = self.armed.iter().filter_map(due).collect();
        let mut due: Vec<Armed> = slots.iter().filter_map(|slot| self.armed.remove(slot)).collect();
        if due.is_empty() {
            return;
        }
        let failures = super::fire::release(&mut due, &self.page, &mut self.netlink);
        for slot in slots {
            self.page.fired(slot);
        }
        let failed = if failures.is_empty() { String::new() } else { format!(": {}", failures.join(", ")) };
        say(&format!("the daemon is {daemon}; virtual routers released: {}{failed}", due.len()));
    }
}

/// Writes a line to standard error if that is possible without waiting.
pub(super) fn say(text: &str) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    // A pipe that can be written to takes at least 4096 bytes.
    let line: String = format!("vrrpd warden: {text}\n").chars().take(1000).collect();
    if poll(&mut fds, PollTimeout::ZERO) == Ok(1) && fds[0].revents() == Some(PollFlags::POLLOUT) {
        nix::unistd::write(stderr.as_fd(), line.as_bytes()).ok();
    }
}
