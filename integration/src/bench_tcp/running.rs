//! A program under test while it runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::usage;
use crate::lab::clock::wait_until;
use crate::lab::error::{Context, LabError};
use crate::lab::{Daemon, Result};

/// How long one may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(10);

/// One of the programs that are compared, running.
#[derive(Debug)]
pub(crate) struct Running<P> {
    /// Which.
    pub(crate) proxy: P,
    name: &'static str,
    daemon: Daemon,
}

impl<P> Running<P> {
    /// Starts it, and waits until it is `ready`, which is told its processes.
    pub(crate) fn start(
        proxy: P,
        name: &'static str,
        command: Command,
        log: &Path,
        ready: impl Fn(&[i32]) -> bool,
    ) -> Result<Self> {
        let mut running = Self { proxy, name, daemon: Daemon::start(name, command, log)? };
        let waited = wait_until(&format!("{name} to serve"), START_LIMIT, || {
            running.daemon.ended().is_some() || ready(&running.pids())
        });
        if running.daemon.ended().is_some() {
            let answer = fs::read_to_string(log).unwrap_or_default();
            return Err(LabError::Answer { asked: format!("starting {name}"), answer });
        }
        waited.map(|()| running)
    }

    /// Its processes.
    pub(crate) fn pids(&self) -> Vec<i32> {
        usage::family(self.daemon.pid().as_raw())
    }

    /// Has it sleep, so that the others have the processor to themselves.
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Wakes it up.
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        for pid in self.pids() {
            kill(Pid::from_raw(pid), signal).doing(|| format!("sending {signal} to {}", self.name))?;
        }
        Ok(())
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<()> {
        self.daemon.stop().map(drop)
    }
}
