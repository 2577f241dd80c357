//! What is compared of HTTP proxies.

use serde::{Deserialize, Serialize};

use super::Load;
use crate::bench_tcp::Compared;

/// A figure: something of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Figure {
    /// The load.
    pub load: Load,
    /// What of it.
    pub measure: Measure,
}

/// What is measured of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Processor time of a request with its answer, in microseconds.
    Processor,
    /// Requests a second.
    Rate,
    /// Memory, in megabytes (10^6 bytes).
    Memory,
}

impl Figure {
    pub(super) const fn processor(load: Load) -> Self {
        Self { load, measure: Measure::Processor }
    }

    pub(super) const fn rate(load: Load) -> Self {
        Self { load, measure: Measure::Rate }
    }

    pub(super) const fn memory() -> Self {
        Self { load: Load::Websockets, measure: Measure::Memory }
    }
}

impl Compared for Figure {
    fn title(self) -> &'static str {
        match (self.load, self.measure) {
            (Load::Small, Measure::Processor) => "CPU per request, kept connections, µs",
            (Load::Small, Measure::Rate) => "requests per second, kept connections",
            (Load::Large, Measure::Processor) => "CPU per answer of 64 KiB, µs",
            (Load::Large, Measure::Rate) => "answers of 64 KiB per second",
            (Load::Fresh, Measure::Processor) => "CPU per request with its own connection, µs",
            (Load::Fresh, Measure::Rate) => "requests with their own connections per second",
            (Load::Handshakes, Measure::Processor) => "CPU per request with a new TLS session, µs",
            (Load::Handshakes, Measure::Rate) => "requests with new TLS sessions per second",
            (Load::Resumed, Measure::Processor) => "CPU per request with a resumed TLS session, µs",
            (Load::Resumed, Measure::Rate) => "requests with resumed TLS sessions per second",
            (Load::Http2, Measure::Processor) => "CPU per request of HTTP/2, 100 streams, µs",
            (Load::Http2, Measure::Rate) => "requests of HTTP/2 per second, 100 streams",
            (Load::Websockets, Measure::Processor | Measure::Rate) | (_, Measure::Memory) => {
                "memory of 1,000 idle WebSockets, MB"
            }
        }
    }

    fn more_is_better(self) -> bool {
        self.measure == Measure::Rate
    }

    fn decimals(self) -> usize {
        match self.measure {
            Measure::Processor => 1,
            Measure::Rate => 0,
            Measure::Memory => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::bench_tcp::load::Stretch;
    use crate::bench_tcp::row::Samples;
    use crate::bench_tcp::{Proxy, render};

    #[test]
    fn each_load_has_its_time_and_its_rate_in_the_order_of_the_loads() {
        let stretch = Stretch {
            count: 10_000,
            wall: Duration::from_millis(500),
            processor: Duration::from_millis(490),
        };
        let mut samples = Samples::default();
        for proxy in Proxy::ALL {
            samples.add_memory(Figure::memory(), proxy, 1_500_000);
            for load in Load::ALL.into_iter().rev().filter(|load| *load != Load::Websockets) {
                samples.add(Figure::processor(load), proxy, stretch.processor_ns() / 1e3);
                samples.add_rate(Figure::rate(load), proxy, &stretch);
            }
        }
        let rows = samples.rows();
        let figures: Vec<Load> = rows.iter().map(|row| row.figure.load).collect();
        assert!(figures.is_sorted() && figures.len() == 13, "{figures:?}");
        assert!(rows.iter().all(|row| row.judged && row.met()));
        assert_eq!(rows.iter().map(|row| row.figure.title()).collect::<BTreeSet<_>>().len(), 13);
        let text = render(&rows);
        let line = |title: &str| text.lines().find(|line| line.contains(title)).map(str::to_owned).unwrap();
        assert!(line("CPU per request of HTTP/2").contains("49.0"), "{text}");
        assert!(line("requests of HTTP/2 per second").contains("20000"), "{text}");
        assert!(line("1,000 idle WebSockets").contains("1.50"), "{text}");
    }
}
