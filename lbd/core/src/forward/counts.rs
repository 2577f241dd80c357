//! New flows of clients within rates that are the pair's: what one node tells the other of those that it has counted, and what the other one makes
//! of that.
//!
//! The program counts by windows of its own clock, which begin at other times on the other node. So a node tells what it has counted in the window
//! that runs there, and how long that has left, and until then the other one takes it from its own rate: at no time have the windows that run on
//! both nodes more in them than the rate, but for what is on its way. Nothing is added up, so what is lost, or comes twice, does no harm for
//! longer than a window.

use std::collections::HashMap;

use super::abi::{OtherSource, SERVICE_SOURCE_RATE, SERVICE_SOURCE_RATE_PAIR, Service, Source, SourceKey};

/// Sources that the kernel's tables have room for, of all services together.
pub const SOURCES_MAX: usize = 65_536;

/// Sources remembered as told, at most: those of a walk through the table, and those of the one before.
const KNOWN_MAX: usize = 2 * SOURCES_MAX;

/// What is told of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Flows that it has begun in the window that runs.
    pub count: u32,
    /// What that window has left, in ticks.
    pub remaining: u32,
}

/// Whether both nodes count for a service's rate.
#[must_use]
pub const fn is_pairs(service: &Service) -> bool {
    let both = SERVICE_SOURCE_RATE | SERVICE_SOURCE_RATE_PAIR;
    service.flags & both == both
}

/// What is to be told of a source of a service at the tick `now`; nothing of a window that is over.
#[must_use]
pub fn tell(source: &Source, service: &Service, now: u32) -> Option<Told> {
    let length = service.source_rate_ticks.max(1);
    // Processors that count at once may go beyond the rate, which is no news.
    let count = source.count.min(service.source_rate);
    (source.window == now / length).then_some(Told { count, remaining: length - now % length })
}

/// What was told, for `other_sources` of a node at the tick `now`. No window there is longer than this node's.
#[must_use]
pub fn place(told: Told, service: &Service, now: u32) -> OtherSource {
    let remaining = told.remaining.min(service.source_rate_ticks.max(1));
    OtherSource { until: now.wrapping_add(remaining), count: told.count }
}

/// Which sources have been told of, and what: only what has changed is told again.
#[derive(Debug, Default)]
pub struct News {
    known: HashMap<SourceKey, Known>,
    /// Which walk through the table this is.
    walk: u64,
    /// Those that the last walks have not met any more.
    gone: Vec<SourceKey>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    window: u32,
    count: u32,
    /// The walk that has met it last.
    walk: u64,
}

impl News {
    /// The walk has met a source with so many flows in this window; whether that is to be told. Where there is no room to remember it, it is each
    /// time.
    pub fn is_new(&mut self, key: SourceKey, window: u32, count: u32) -> bool {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&key) {
            return true;
        }
        let known = Known { window, count, walk: self.walk };
        let before = self.known.insert(key, known);
        before.is_none_or(|before| (before.window, before.count) != (window, count))
    }

    /// The walk has come to its end: of whom it has not met there is nothing to be told any more.
    pub fn end_walk(&mut self) {
        let Self { known, walk, gone } = self;
        known.retain(|key, known| {
            let met = known.walk == *walk;
            if !met {
                gone.push(*key);
            }
            met
        });
        // What is left out is remembered by replication until everything is told anew.
        gone.truncate(KNOWN_MAX);
        *walk += 1;
    }

    /// Up to `max` of those who have gone, each once, but for those who are there again.
    pub fn take_gone(&mut self, max: usize) -> Vec<SourceKey> {
        let mut taken = self.gone.split_off(self.gone.len().saturating_sub(max));
        taken.retain(|key| !self.known.contains_key(key));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    /// A rate of 10 in 2 s.
    fn service() -> Service {
        let flags = SERVICE_SOURCE_RATE | SERVICE_SOURCE_RATE_PAIR;
        Service { flags, source_rate: 10, source_rate_ticks: 32, counts_as: 3, ..Service::default() }
    }

    fn key(host: u8) -> SourceKey {
        SourceKey { address: IpAddr::from([198, 51, 100, host]).into(), service: 3, spare: 0 }
    }

    #[test]
    fn a_window_is_told_while_it_runs_and_counts_until_it_ends() {
        let service = service();
        assert!(is_pairs(&service));
        for flags in [0, SERVICE_SOURCE_RATE, SERVICE_SOURCE_RATE_PAIR] {
            assert!(!is_pairs(&Service { flags, ..service }), "{flags}");
        }
        // That window is from 160 to 191.
        let source = Source { window: 5, count: 7 };
        assert_eq!(tell(&source, &service, 159), None);
        assert_eq!(tell(&source, &service, 160), Some(Told { count: 7, remaining: 32 }));
        assert_eq!(tell(&source, &service, 191), Some(Told { count: 7, remaining: 1 }));
        assert_eq!(tell(&source, &service, 192), None);
        let beyond = Source { count: 13, ..source };
        assert_eq!(tell(&beyond, &service, 170).map(|told| told.count), Some(10));
        // The other node's clock is another one, and may be about to wrap.
        let told = Told { count: 7, remaining: 20 };
        assert_eq!(place(told, &service, 70_000), OtherSource { until: 70_020, count: 7 });
        assert_eq!(place(told, &service, u32::MAX), OtherSource { until: 19, count: 7 });
        let long = Told { remaining: u32::MAX, ..told };
        assert_eq!(place(long, &service, 100).until, 132, "no longer than one of its own");
    }

    #[test]
    fn a_window_without_a_length_is_a_tick() {
        let service = Service { source_rate_ticks: 0, ..service() };
        let told = tell(&Source { window: 77, count: 1 }, &service, 77);
        assert_eq!(told, Some(Told { count: 1, remaining: 1 }));
    }

    #[test]
    fn what_has_changed_is_told_once_and_what_is_over_is_gone() {
        let mut news = News::default();
        assert!(news.is_new(key(1), 5, 1) && news.is_new(key(2), 5, 1));
        news.end_walk();
        assert!(news.take_gone(9).is_empty());
        // The same, a flow more; and of a later window.
        assert!(!news.is_new(key(1), 5, 1) && news.is_new(key(1), 5, 2) && news.is_new(key(1), 6, 2));
        news.end_walk();
        assert_eq!(news.take_gone(9), [key(2)]);
        assert!(news.take_gone(9).is_empty());
        assert!(news.is_new(key(2), 6, 1), "it has come back");
        news.end_walk();
        news.end_walk();
        let mut gone = [news.take_gone(1), news.take_gone(1), news.take_gone(1)].concat();
        gone.sort_unstable();
        assert_eq!(gone, [key(1), key(2)], "so many at a time");
        assert!(news.is_new(key(1), 7, 1) && news.is_new(key(2), 7, 1));
        news.end_walk();
        news.end_walk();
        assert!(news.is_new(key(1), 8, 1), "it has come back before anybody was told that it had gone");
        assert_eq!(news.take_gone(9), [key(2)]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut news = News::default();
        let of = |number: usize| {
            let number = u32::try_from(number).unwrap();
            SourceKey { address: IpAddr::from(number.to_be_bytes()).into(), service: 3, spare: 0 }
        };
        assert!((0..KNOWN_MAX + 5).all(|number| news.is_new(of(number), 1, 1)));
        assert_eq!(news.known.len(), KNOWN_MAX);
        assert!(!news.is_new(of(0), 1, 1) && news.is_new(of(KNOWN_MAX), 1, 1));
    }
}
