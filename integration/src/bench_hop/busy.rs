//! How much processor time the machine has spent.

use std::fs;
use std::io;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// Time that all processors have spent on anything so far, the host's theft included: to the kernel's tick, 10 ms.
pub(super) fn busy() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    let ticks =
        parse(&text).ok_or_else(|| io::Error::other("/proc/stat does not begin with all processors"))?;
    Ok(Duration::from_secs(ticks) / u32::try_from(per_second).map_err(io::Error::other)?)
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
    fn the_machine_gets_busier() {
        let before = busy().unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        assert!(busy().unwrap() > before);
    }
}
