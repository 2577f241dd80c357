//! What is compared of TCP proxies, and how it follows from what was measured.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::load::Stretch;
use super::row::{Compared, Samples};
use super::{Load, Proxy};

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Processor time of a short connection, in microseconds.
    ShortProcessor,
    /// Short connections a second.
    ShortRate,
    /// Processor time of a gigabyte (10^9 bytes), in milliseconds.
    BulkProcessor,
    /// Gigabits a second.
    BulkRate,
    /// Processor time of a request with its answer, in microseconds.
    RequestProcessor,
    /// Requests a second.
    RequestRate,
    /// What the proxy adds to the 99th percentile of the time to an answer, in microseconds.
    AddedLatency,
    /// Memory of the idle connections, in megabytes (10^6 bytes).
    IdleMemory,
}

impl Compared for Figure {
    fn title(self) -> &'static str {
        match self {
            Self::ShortProcessor => "CPU per short connection, µs",
            Self::ShortRate => "short connections per second",
            Self::BulkProcessor => "CPU per gigabyte, ms",
            Self::BulkRate => "bulk transfer, Gbit/s",
            Self::RequestProcessor => "CPU per request, µs",
            Self::RequestRate => "requests per second",
            Self::AddedLatency => "p99 added latency, µs",
            Self::IdleMemory => "memory of 5,000 idle connections, MB",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::ShortRate | Self::BulkRate | Self::RequestRate)
    }

    fn decimals(self) -> usize {
        match self {
            Self::ShortRate | Self::RequestRate => 0,
            Self::BulkProcessor | Self::BulkRate | Self::ShortProcessor | Self::AddedLatency => 1,
            Self::RequestProcessor | Self::IdleMemory => 2,
        }
    }
}

pub(super) fn add_stretch(samples: &mut Samples<Figure>, load: Load, proxy: Proxy, stretch: &Stretch) {
    let (rate, each_ns) = (stretch.per_second(), stretch.processor_ns());
    match load {
        Load::Short => {
            samples.add(Figure::ShortProcessor, proxy, each_ns / 1e3);
            samples.add(Figure::ShortRate, proxy, rate);
        }
        Load::Bulk => {
            // Nanoseconds for a byte are seconds for a gigabyte.
            samples.add(Figure::BulkProcessor, proxy, each_ns * 1e3);
            // The other processor, which makes and takes all of it, may be what bounds it.
            samples.add_rate_as(Figure::BulkRate, proxy, rate * 8.0 / 1e9, stretch);
        }
        Load::Requests | Load::Paced | Load::Idle => {
            samples.add(Figure::RequestProcessor, proxy, each_ns / 1e3);
            samples.add(Figure::RequestRate, proxy, rate);
        }
    }
}

pub(super) fn add_latency(samples: &mut Samples<Figure>, proxy: Proxy, added: Duration) {
    samples.add(Figure::AddedLatency, proxy, added.as_secs_f64() * 1e6);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_tcp::render;

    #[test]
    fn units_are_those_of_the_titles() {
        let stretch = Stretch {
            count: 1_000_000_000,
            wall: Duration::from_secs(1),
            processor: Duration::from_millis(250),
        };
        let mut samples = Samples::default();
        for proxy in Proxy::ALL {
            add_stretch(&mut samples, Load::Bulk, proxy, &stretch);
        }
        let text = render(&samples.rows());
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[2],
            ["CPU", "per", "gigabyte,", "ms", "250.0", "250.0", "250.0", "1.00", "≤", "1.00", "met"]
        );
        assert_eq!(lines[3][3..5], ["8.0", "8.0"]);
    }
}
