//! A steady beat for a probe's epoll loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::read;

/// Lets the calling thread go before ordinary ones. A probe stands for another machine, whose processors the nodes' daemons
/// would not share with it. Where it is not permitted, the probe is only less exact.
pub(super) fn go_first() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure outlives the call, which reads it, and 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const lowest) };
}

/// A timer that becomes readable once per interval.
pub(super) struct Ticker(OwnedFd);

impl Ticker {
    /// Starts it; the first beat comes after one interval.
    pub(super) fn new(interval: Duration) -> io::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        timer.set(Expiration::Interval(TimeSpec::from_duration(interval)), TimerSetTimeFlags::empty())?;
        Ok(Self(timer.into()))
    }

    /// How many beats there were since the last call: more than one when the thread was late.
    pub(super) fn beats(&self) -> u64 {
        let mut count = [0; 8];
        match read(&self.0, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            Ok(_) | Err(Errno::EAGAIN) => 0,
            // Reading eight bytes of a timer fails in no other way.
            Err(_) => 0,
        }
    }
}

impl AsFd for Ticker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
