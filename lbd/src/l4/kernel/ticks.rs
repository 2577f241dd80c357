//! The program's clocks: sixteenths of a second, and boot time, from the kernel's jiffies, whose rate and value it tells nobody
//! but programs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use lbd_core::forward::abi::{KernelClock, ticks_multiplier};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getres, clock_gettime};

use super::bpf;

/// `r0 = bpf_jiffies64()`, `r0 >>= 32` and the end of a program.
const CALL_JIFFIES: u64 = 0x85 | 118 << 32;
const UPPER_HALF: u64 = 0x77 | 32 << 32;
const EXIT: u64 = 0x95;

/// How often the two clocks are read together: a thread that has to wait in between finds them apart.
const CLOCK_TRIES: u32 = 3;

/// For so long what jiffies were is good for reckoning what they are.
const RECKONED_MAX: Duration = Duration::from_secs(1);

/// What jiffies were at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    at: Instant,
    jiffies: u64,
}

/// The clock.
#[derive(Debug)]
pub(super) struct Ticks {
    lower: OwnedFd,
    upper: OwnedFd,
    /// Length of a jiffy.
    jiffy_ns: u64,
}

impl Ticks {
    /// Finds out the kernel's rate.
    pub(super) fn new() -> io::Result<Self> {
        let lower = bpf::load_classifier("tandem_jiffies", &[CALL_JIFFIES, EXIT])?;
        let upper = bpf::load_classifier("tandem_jiffies", &[CALL_JIFFIES, UPPER_HALF, EXIT])?;
        // The coarse clock goes on with each jiffy, and says by how much.
        let step = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?;
        Ok(Self { lower, upper, jiffy_ns: u64::try_from(step.num_nanoseconds()).unwrap_or(1).max(1) })
    }

    /// Now, as the program reads it.
    pub(super) fn now(&self) -> io::Result<u32> {
        Ok(self.at(self.jiffies()?))
    }

    /// The same for whoever asks often, and up to a jiffy before: reckoned from what was read within the last second, since reading
    /// takes as long as writing a dozen flows.
    pub(super) fn reckon(&self, last: &mut Option<Reading>) -> io::Result<u32> {
        // Jiffies stand still, as this clock does, while the host sleeps.
        let passed = last.map(|last| (last, last.at.elapsed())).filter(|(_, passed)| *passed < RECKONED_MAX);
        if let Some((last, passed)) = passed {
            let passed = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX) / self.jiffy_ns;
            return Ok(self.at(last.jiffies + passed));
        }
        // The time afterwards: what is reckoned from it is never ahead.
        let jiffies = self.jiffies()?;
        let reading = Reading { at: Instant::now(), jiffies };
        *last = Some(reading);
        Ok(self.at(reading.jiffies))
    }

    fn at(&self, jiffies: u64) -> u32 {
        of_jiffies(jiffies, ticks_multiplier(KernelClock::of(self.jiffy_ns, 0, 0).hz()))
    }

    /// How boot time follows from jiffies now, within a jiffy and the time that this takes: the quickest of a few tries.
    pub(super) fn clock(&self) -> io::Result<KernelClock> {
        let mut best: Option<(u64, KernelClock)> = None;
        for _ in 0..CLOCK_TRIES {
            let before = boot_ns()?;
            let jiffies = self.jiffies()?;
            let after = boot_ns()?;
            if best.is_none_or(|(took, _)| after - before < took) {
                best = Some((after - before, KernelClock::of(self.jiffy_ns, jiffies, after)));
            }
        }
        best.map(|(_, clock)| clock).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    fn jiffies(&self) -> io::Result<u64> {
        loop {
            let upper = bpf::run(self.upper.as_fd())?;
            let lower = bpf::run(self.lower.as_fd())?;
            if bpf::run(self.upper.as_fd())? == upper {
                return Ok(u64::from(upper) << 32 | u64::from(lower));
            }
        }
    }
}

/// Now, in nanoseconds of `CLOCK_BOOTTIME`.
pub(super) fn boot_ns() -> io::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(u64::try_from(time.num_nanoseconds()).unwrap_or_default())
}

/// The program's own calculation: the lower 32 bits of the product's whole part.
fn of_jiffies(jiffies: u64, multiplier: u64) -> u32 {
    u32::try_from(jiffies.wrapping_mul(multiplier) >> 32).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_sixteen_times_a_second() {
        let ticks = Ticks::new().unwrap();
        let (begin, first) = (Instant::now(), ticks.now().unwrap());
        std::thread::sleep(Duration::from_millis(500));
        let (passed, took) = (ticks.now().unwrap().wrapping_sub(first), begin.elapsed().as_secs_f64());
        assert!((f64::from(passed) - took * 16.0).abs() < 2.0, "{passed} ticks in {took} s");
    }

    #[test]
    fn what_is_reckoned_is_hardly_behind_what_is_read() {
        let (ticks, mut last) = (Ticks::new().unwrap(), None);
        let begin = Instant::now();
        let mut readings = 0;
        while begin.elapsed() < RECKONED_MAX + Duration::from_millis(300) {
            let was = last.map(|last: Reading| last.at);
            let (before, reckoned, after) =
                (ticks.now().unwrap(), ticks.reckon(&mut last).unwrap(), ticks.now().unwrap());
            readings += u32::from(last.map(|last| last.at) != was);
            assert!(before.wrapping_sub(1) <= reckoned && reckoned <= after, "{before} {reckoned} {after}");
            std::thread::sleep(Duration::from_millis(7));
        }
        assert_eq!(readings, 2);
    }

    #[test]
    fn boot_time_is_that_of_the_jiffies() {
        let ticks = Ticks::new().unwrap();
        let clock = ticks.clock().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let now = ticks.jiffies().unwrap().wrapping_mul(clock.jiffy_ns).wrapping_add(clock.boot_offset_ns);
        let boot = i64::try_from(boot_ns().unwrap()).unwrap();
        let apart = i64::try_from(now).unwrap() - boot;
        // A jiffy either way; a busy machine may be late in reading the second clock.
        assert!(apart < 20_000_000 && apart > -500_000_000, "{apart} ns");
        assert_eq!(clock.or_after_sleep(ticks.clock().unwrap()), clock);
    }

    #[test]
    fn ticks_go_on_over_the_wrap_of_jiffies() {
        let multiplier = ticks_multiplier(250);
        let before = of_jiffies((1 << 32) - 250, multiplier);
        let after = of_jiffies(1 << 32, multiplier);
        assert!((15..=17).contains(&after.wrapping_sub(before)), "{before} {after}");
    }
}
