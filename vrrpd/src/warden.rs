//! The warden: a second process that releases the virtual IPs when the daemon fails, however it fails.
//!
//! The daemon says for each virtual router it is active for what is to be done (a [`Plan`]), and then beats in every
//! pass of its loop. When the daemon ends without having said otherwise (killed, crashed), or a beat is overdue (stopped,
//! hung, starved), the warden tells the other node to take over and removes the addresses. A daemon that wakes up
//! after that finds that its beat fails, and is backup. The warden does nothing else.
//!
//! It is this same program, executed anew as `vrrpd warden`, not a bare fork: a fork of a process with threads may not even
//! allocate memory safely, as another thread may have held the lock; executed anew it can be started again at any time, when
//! someone killed it. Standard input is a pipe (a pair of sockets) to the daemon, whose end means the daemon's end; standard output
//! is the shared page ([`page`]). It leads a session of its own and blocks all signals that can be blocked, so that what ends
//! or stops the daemon's process group leaves it be: it ends when its pipe does.

mod fire;
mod page;
mod plan;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};

use crate::clock;
use page::{Page, Watch};
use plan::ToWarden;

pub use plan::{Plan, PlanPeer};
pub use watch::main;

/// The hidden subcommand under which the program is the warden.
pub const SUBCOMMAND: &str = "warden";

/// The number of slots.
pub const SLOTS: usize = 64;

/// The least time between two starts of a warden, so that one that cannot live does not keep the loop busy.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// How long a warden may take to end when its pipe has ended, before it is killed.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// The daemon's side. Dropping it ends the warden; slots that are still armed are released then.
#[derive(Debug)]
pub struct WardenHandle {
    program: PathBuf,
    child: Child,
    /// To the warden; none once it is found dead.
    pipe: Option<OwnedFd>,
    /// Both ends of a pair, so that polling one of them waits: that is polled when the warden is dead.
    idle: (OwnedFd, OwnedFd),
    page: Page,
    /// Plans that are still to be sent, because the pipe was full or the slot is just being released; one per slot.
    unsent: BTreeMap<u8, Vec<u8>>,
    started: common::time::Instant,
}

impl WardenHandle {
    /// Starts a warden, in the network namespace and with the capabilities of the calling thread.
    pub fn spawn() -> io::Result<Self> {
        Self::spawn_program(Path::new("/proc/self/exe"))
    }

    /// The same with another program than this process's own.
    pub fn spawn_program(program: &Path) -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        let idle = pair()?;
        let (page, file) = Page::create()?;
        let child = Command::new(program).arg(SUBCOMMAND).stdin(theirs).stdout(Stdio::from(file)).spawn()?;
        let started = clock::now().at;
        Ok(Self {
            program: program.to_owned(),
            child,
            pipe: Some(ours),
            idle,
            page,
            unsent: BTreeMap::new(),
            started,
        })
    }

    /// Tells the warden what to do for a slot, and begins to watch it. Arming a watched slot anew replaces its plan.
    ///
    /// Do this before the addresses are added. Should the warden not be able to take it now, [`Self::beat`] tries again.
    pub fn arm(&mut self, plan: &Plan) {
        // A plan is far smaller than the limit: 255 addresses take 5 KiB of 16.
        let Ok(bytes) = ToWarden::Arm(Box::new(plan.clone())).encode() else { return };
        self.unsent.insert(plan.slot, bytes);
        self.flush(plan.slot);
    }

    /// Says that a slot is well: no later than [`Plan::timeout`] after the last time. `stamp_floor` is what the stamps of the
    /// warden's packets have to be above, in nanoseconds since 1970. False if the warden has released the slot.
    pub fn beat(&mut self, slot: u8, stamp_floor: u64) -> bool {
        self.flush(slot);
        self.page.beat(slot, clock::now().at.as_nanos(), stamp_floor)
    }

    /// Ends the watch on a slot, and forgets that it was released.
    pub fn disarm(&mut self, slot: u8) {
        self.unsent.remove(&slot);
        self.page.disarm(slot);
        // The page alone decides; the message spares the warden a wake-up.
        if let Ok(bytes) = ToWarden::Disarm(slot).encode() {
            self.send(&bytes);
        }
    }

    /// Whether the warden has released a slot since it was armed, or is doing it right now.
    #[must_use]
    pub fn fired(&self, slot: u8) -> bool {
        matches!(self.page.watch(slot), Watch::Firing | Watch::Fired)
    }

    /// Whether the warden lives. Its death makes [`AsFd::as_fd`] readable, until this was asked.
    pub fn is_alive(&mut self) -> bool {
        // That its state cannot be told does not happen to a child not waited for.
        if self.pipe.is_some() && !matches!(self.child.try_wait(), Ok(None)) {
            self.pipe = None;
        }
        self.pipe.is_some()
    }

    /// Starts a new warden in the place of a dead one, at most once a second. True if it did: then arm all slots anew.
    pub fn revive(&mut self) -> io::Result<bool> {
        if self.is_alive() || clock::now().at.since(self.started) < RESTART_PAUSE {
            return Ok(false);
        }
        // Should it fail, it is not tried again before the pause is over.
        self.started = clock::now().at;
        *self = Self::spawn_program(&self.program)?;
        Ok(true)
    }

    /// The warden's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends what is to be sent for a slot. The slot is marked first: the message wakes the warden up, which then looks at it.
    fn flush(&mut self, slot: u8) {
        let Some(bytes) = self.unsent.get(&slot) else { return };
        if self.page.arm(slot, clock::now().at.as_nanos()) && self.send(bytes) {
            self.unsent.remove(&slot);
        }
    }

    /// Whether the pipe took it, or nobody will ever read it.
    fn send(&self, bytes: &[u8]) -> bool {
        let Some(pipe) = &self.pipe else { return true };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        !matches!(send(pipe.as_raw_fd(), bytes, flags), Err(nix::Error::EAGAIN))
    }
}

impl AsFd for WardenHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_ref().unwrap_or(&self.idle.0).as_fd()
    }
}

impl Drop for WardenHandle {
    fn drop(&mut self) {
        self.pipe = None;
        let start = clock::now().at;
        while matches!(self.child.try_wait(), Ok(None)) {
            if clock::now().at.since(start) >= END_TIMEOUT {
                // It hangs: neither call can do more than fail.
                drop(self.child.kill());
                drop(self.child.wait());
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A pair of connected sockets that keep messages apart; neither survives an exec.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}
