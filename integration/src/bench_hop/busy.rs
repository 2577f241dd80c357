//! How much processor time the machine has spent.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};

/// Time that all processors have spent on anything so far, the host's theft included: to the kernel's tick, 10 ms.
pub(super) fn busy() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks =
        parse(&text).ok_or_else(|| io::Error::other("/proc/stat does not begin with all processors"))?;
    of_ticks(ticks)
}

/// A moment, and for how long processors had rested until then.
///
/// What they did not rest, they were busy. Where the kernel stops its tick on a processor that is idle (`CONFIG_NO_HZ_IDLE`, as everywhere), it
/// notes when one falls idle and when it wakes, for interrupts, too, and samples nothing: so this is right for loads that sleep by a timer as
/// well, to the 10 ms in which it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    at: Instant,
    rested: Duration,
    processors: u32,
}

impl Moment {
    pub(crate) fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let at = Instant::now();
        let (ticks, processors) =
            parse_rest(&text).ok_or_else(|| io::Error::other("/proc/stat does not have all processors"))?;
        Ok(Self { at, rested: of_ticks(ticks)?, processors })
    }

    /// How long ago another one was.
    pub(crate) fn wall_since(&self, earlier: &Self) -> Duration {
        self.at.saturating_duration_since(earlier.at)
    }

    /// Time that all processors have spent on anything since another one.
    pub(crate) fn busy_since(&self, earlier: &Self) -> Duration {
        let whole = self.wall_since(earlier) * self.processors;
        whole.saturating_sub(self.rested.saturating_sub(earlier.rested))
    }
}

/// Idle, waiting and stolen of the line of all processors, and how many these are.
fn parse_rest(text: &str) -> Option<(u64, u32)> {
    let words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    let [_user, _nice, _system, idle, waiting, _irq, _softirq, stolen, ..] = numbers[..] else { return None };
    let own = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    let processors = u32::try_from(text.lines().filter(own).count()).ok()?;
    Some((idle + waiting + stolen, processors))
}

fn of_ticks(ticks: u64) -> io::Result<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    let per_second = u32::try_from(per_second).map_err(io::Error::other)?;
    Ok(Duration::from_secs(ticks) / per_second)
}

/// User, nice, system, irq and softirq of the line of all processors.
fn parse(text: &str) -> Option<u64> {
    let mut words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let numbers: Vec<u64> = words.by_ref().map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _waiting, irq, softirq, ..] = numbers[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_theft_are_not_counted() {
        assert_eq!(parse("cpu  1 20 300 4000 50000 600000 7000000 8 0 0\ncpu0 9 9\n"), Some(7_600_321));
        assert_eq!(parse("cpu0 1 2 3"), None);
    }

    #[test]
    fn rest_is_idle_time_waiting_and_theft() {
        let text = "cpu  1 20 300 4000 50000 600000 7000000 8 0 0\ncpu0 9 9\ncpu1 9 9\nintr 5\n";
        assert_eq!(parse_rest(text), Some((54_008, 2)));
        assert_eq!(parse_rest("cpu0 1 2 3"), None);
    }

    #[test]
    fn what_was_not_rested_was_spent() {
        let earlier = Moment { at: Instant::now(), rested: Duration::from_secs(7), processors: 2 };
        let later =
            Moment { at: earlier.at + Duration::from_secs(3), rested: Duration::from_secs(9), processors: 2 };
        assert_eq!(later.busy_since(&earlier), Duration::from_secs(4));
        let before = Moment::now().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        assert!(Moment::now().unwrap().busy_since(&before) > Duration::ZERO);
    }

    #[test]
    fn the_machine_gets_busier() {
        let before = busy().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        assert!(busy().unwrap() > before);
    }
}
