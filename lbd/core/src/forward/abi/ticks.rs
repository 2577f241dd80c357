//! The program's time.

use common::time::Duration;

/// Time as the program counts it: sixteenths of a second, 32 bits, which wrap after eight years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ticks(pub u32);

impl Ticks {
    /// Ticks of a second.
    pub const PER_SECOND: u32 = 16;

    /// The tick of this moment, where the clock's start is that of the kernel's jiffies.
    ///
    /// Jiffies begin five minutes before their first overflow in 32 bits; `bpf_jiffies64` shows them as they are. Who wants
    /// to compare with entries of the maps takes the tick of the program's clock, not one made here from another clock.
    #[must_use]
    pub fn at(jiffies: u64, multiplier: u64) -> Self {
        let ticks = (u128::from(jiffies) * u128::from(multiplier)) >> 32;
        // Wraps as the program's do.
        Self(u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or_default())
    }

    /// The ticks from `earlier` to `self`; 0 when `earlier` is in fact later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        let difference = self.0.wrapping_sub(earlier.0);
        if difference > u32::MAX / 2 { 0 } else { difference }
    }

    /// So many ticks later.
    #[must_use]
    pub const fn after(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }
}

/// The kernel's jiffies and the clock of boot time, which goes on while the host sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelClock {
    /// Length of a jiffy in nanoseconds, at least 1.
    pub jiffy_ns: u64,
    /// What boot time is ahead of all jiffies together, in nanoseconds; wraps.
    pub boot_offset_ns: u64,
}

impl KernelClock {
    /// The clock where `boot_ns` was read when there had been so many jiffies.
    #[must_use]
    pub const fn of(jiffy_ns: u64, jiffies: u64, boot_ns: u64) -> Self {
        Self { jiffy_ns, boot_offset_ns: boot_ns.wrapping_sub(jiffies.wrapping_mul(jiffy_ns)) }
    }

    /// Jiffies in a second.
    #[must_use]
    pub fn hz(self) -> u32 {
        u32::try_from(1_000_000_000 / self.jiffy_ns.max(1)).unwrap_or(u32::MAX)
    }

    /// This one, unless the host has slept since: what is read differs by a jiffy each time, and that is no news.
    #[must_use]
    pub const fn or_after_sleep(self, read: Self) -> Self {
        const SLEEP_NS: u64 = 500_000_000;
        let same = self.jiffy_ns == read.jiffy_ns;
        let (ahead, behind) = (
            read.boot_offset_ns.wrapping_sub(self.boot_offset_ns),
            self.boot_offset_ns.wrapping_sub(read.boot_offset_ns),
        );
        if same && (ahead < SLEEP_NS || behind < SLEEP_NS) { self } else { read }
    }
}

/// A span in ticks, rounded up, so that nothing ends too early; at most half of what 32 bits hold.
#[must_use]
pub fn ticks_of(span: Duration) -> u32 {
    let sixteenths = (span.as_nanos() * u128::from(Ticks::PER_SECOND)).div_ceil(1_000_000_000);
    u32::try_from(sixteenths).unwrap_or(u32::MAX).min(u32::MAX / 2)
}

/// A span of ticks.
#[must_use]
pub fn duration_of(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) * 62_500_000)
}

/// [`Config::ticks_multiplier`] of a kernel with so many jiffies in a second.
#[must_use]
pub const fn ticks_multiplier(hz: u32) -> u64 {
    let hz = if hz == 0 { 1 } else { hz as u64 };
    ((Ticks::PER_SECOND as u64) << 32) / hz
}
