//! Targets that are found instead of written down: what an answer of a file, of DNS, Consul or etcd means, which answer is
//! taken, and when to ask again.
//!
//! ```text
//! text, records, JSON ── parsing (dns, consul, etcd) ──► Answer or Failure ── Discovery ──► the list in use
//! ```
//!
//! One rule holds for every source: **only an answer with targets replaces the last good list.** A source that fails, that
//! answers with something else than it should, or that names no target at all keeps what it said before in use, marked as
//! stale. An empty answer is far more often an outage of the source than the wish to serve nothing; targets that are really
//! gone fail their health checks. To take a group out of service on purpose, put its targets into `maint`.

pub mod consul;
pub mod dns;
pub mod etcd;
mod state;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use common::config::Target;
use common::time::Duration;

pub use state::{Change, Counts, Discovery, LastFailure, Outcome, Pace, Status};

/// The largest weight of a target.
const WEIGHT_MAX: u16 = 256;

/// A failure's message is cut after so many characters: sources choose parts of it.
const MESSAGE_CHARS_MAX: usize = 2000;

/// What a source says the targets are: at least one, with unique ids and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The targets.
    pub targets: Vec<Target>,
    /// How long the source says that this holds.
    pub ttl: Option<Duration>,
    /// Entries left out because they cannot be used: no usable address or port, or the same as another one.
    pub unusable: u64,
    /// Entries left out because there were more than `max_targets`.
    pub over_limit: u64,
    /// Why a part of this is what the source said before: that part could not be asked.
    pub partial: Option<Failure>,
}

/// Why there is no answer to take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What was done and what went wrong, for people.
    pub message: String,
    /// How long the source says that this holds (negative caching, RFC 2308 §5).
    pub ttl: Option<Duration>,
}

common::named! {
    /// The kinds of failure.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum FailureKind {
        /// The source could not be asked, or said that it cannot answer.
        Unreachable => "unreachable",
        /// The answer is not of the form it should have.
        Invalid => "invalid",
        /// The answer names no target that could be used.
        Empty => "empty",
    }
}

impl Failure {
    /// The source could not be asked.
    #[must_use]
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unreachable, message)
    }

    /// The answer has not the form it should have.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Invalid, message)
    }

    /// The answer names no usable target.
    #[must_use]
    pub fn empty(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Empty, message)
    }

    fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
            message.truncate(end);
            message.push('…');
        }
        Self { kind, message, ttl: None }
    }
}

/// Entries on their way to an [`Answer`] of at most so many targets.
#[derive(Debug)]
struct Entries {
    targets: Vec<Target>,
    unusable: u64,
    over_limit: u64,
    max_targets: usize,
}

impl Entries {
    fn up_to(max_targets: u32) -> Self {
        let max_targets = usize::try_from(max_targets).unwrap_or(usize::MAX);
        Self { targets: Vec::new(), unusable: 0, over_limit: 0, max_targets }
    }

    /// Takes one entry, if its address can be a target's.
    fn push(&mut self, target: Target) {
        if !is_usable(target.address) {
            self.unusable += 1;
            return;
        }
        self.targets.push(target);
        // A source may say far more than is taken: records with names that have thousands of addresses each.
        if self.targets.len() >= self.max_targets.saturating_mul(4).max(64) {
            self.cut();
        }
    }

    /// Leaves out what is there twice, and what is beyond `max_targets` in the order of answers: primaries first, by address.
    fn cut(&mut self) {
        self.targets.sort_by(|a, b| {
            (a.backup, a.address, &a.id, a.weight).cmp(&(b.backup, b.address, &b.id, b.weight))
        });
        let (mut addresses, mut ids) = (HashSet::new(), HashSet::new());
        let all = self.targets.len();
        self.targets.retain(|target| addresses.insert(target.address) && ids.insert(target.id.clone()));
        self.unusable += count(all - self.targets.len());
        self.over_limit += count(self.targets.len().saturating_sub(self.max_targets));
        self.targets.truncate(self.max_targets);
    }

    /// The answer they make, the same for the same set of entries in any order.
    fn into_answer(mut self, nothing: &str) -> Result<Answer, Failure> {
        self.cut();
        if self.targets.is_empty() {
            let unusable = match self.unusable {
                0 => String::new(),
                count => format!(" ({count} entries cannot be used)"),
            };
            return Err(Failure::empty(format!("{nothing}{unusable}")));
        }
        Ok(Answer {
            targets: self.targets,
            unusable: self.unusable,
            over_limit: self.over_limit,
            ..Answer::default()
        })
    }
}

/// How many of the found targets count for nothing because a written one has the same id or address: an administrator who
/// names a target means it.
#[must_use]
pub fn shadowed(written: &[Target], found: &[Target]) -> usize {
    let ids: HashSet<&str> = written.iter().map(|target| target.id.as_str()).collect();
    let addresses: HashSet<SocketAddr> = written.iter().map(|target| target.address).collect();
    found
        .iter()
        .filter(|target| ids.contains(target.id.as_str()) || addresses.contains(&target.address))
        .count()
}

/// Whether connections can go there. Loopback addresses are fine; those that need an interface, or that stand for many
/// hosts or none, are not.
fn is_usable(address: SocketAddr) -> bool {
    let ip = address.ip();
    let wrong_kind = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !wrong_kind
}

/// A target of which only the address is known.
fn plain(address: SocketAddr) -> Target {
    Target { id: address.to_string(), address, weight: 1, backup: false, zone: None, max_connections: None }
}

/// Weights of a source with a wider range, made to fit 0 to 256 with nearly the same ratios. A 0 among others stays a small
/// share (RFC 2782: "a very small chance of being selected"), because ours would mean none at all.
fn scaled(weights: &[u16]) -> Vec<u16> {
    let max = weights.iter().copied().max().unwrap_or(0);
    let fits = max <= WEIGHT_MAX && !weights.contains(&0);
    let scale = |weight: u16| {
        let scaled = (u32::from(weight) * u32::from(WEIGHT_MAX)).div_ceil(u32::from(max).max(1));
        u16::try_from(scaled).unwrap_or(WEIGHT_MAX).clamp(1, WEIGHT_MAX)
    };
    weights.iter().map(|&weight| if fits { weight } else { scale(weight) }).collect()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(addresses: &[&str]) -> Entries {
        let mut entries = Entries::up_to(10);
        for address in addresses {
            entries.push(plain(address.parse().unwrap()));
        }
        entries
    }

    #[test]
    fn what_cannot_be_a_target_is_left_out_and_counted() {
        let wrong = [
            "0.0.0.0:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "10.0.0.1:0",
            "[fe80::1]:80",
            "[::]:80",
            "[ff02::1]:80",
            "[::ffff:10.0.0.1]:80",
        ];
        let failure = entries(&wrong).into_answer("nothing there").unwrap_err();
        assert_eq!(failure, Failure::empty("nothing there (8 entries cannot be used)"));
        let answer = entries(&["127.0.0.1:80", "10.0.0.1:0", "127.0.0.1:80"]).into_answer("").unwrap();
        assert_eq!((answer.targets.len(), answer.unusable), (1, 2));
    }

    #[test]
    fn the_limit_leaves_out_backups_first() {
        let mut all = entries(&["10.0.0.9:1", "10.0.0.8:1", "10.0.0.7:1"]);
        all.targets[2].backup = true;
        all.max_targets = 2;
        let answer = all.into_answer("").unwrap();
        let addresses: Vec<String> = answer.targets.iter().map(|target| target.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.8:1", "10.0.0.9:1"]);
        assert_eq!(answer.over_limit, 1);
    }

    #[test]
    fn weights_keep_their_ratios() {
        assert_eq!(scaled(&[]), [0_u16; 0]);
        assert_eq!(scaled(&[1, 3, 256]), [1, 3, 256]);
        assert_eq!(scaled(&[0, 0]), [1, 1]);
        assert_eq!(scaled(&[0, 10, 20]), [1, 128, 256]);
        assert_eq!(scaled(&[65535, 1, 32768]), [256, 1, 129]);
    }

    #[test]
    fn written_targets_win_by_id_and_by_address() {
        let target =
            |id: &str, address: &str| Target { id: id.to_owned(), ..plain(address.parse().unwrap()) };
        let written = [target("a", "10.0.0.1:80"), target("b", "10.0.0.2:80")];
        let found =
            [target("c", "10.0.0.3:80"), target("b", "10.0.0.4:80"), target("10.0.0.1:80", "10.0.0.1:80")];
        assert_eq!(shadowed(&written, &found), 2);
        assert_eq!(shadowed(&[], &found), 0);
    }

    #[test]
    fn messages_are_bounded() {
        let failure = Failure::invalid("ä".repeat(10_000));
        assert_eq!(failure.message.chars().count(), MESSAGE_CHARS_MAX + 1);
    }

    proptest! {
        #[test]
        fn an_answer_does_not_depend_on_the_order(
            mut hosts in proptest::collection::vec((any::<u8>(), 0_u16..3), 1..60), max in 1_u32..40
        ) {
            let build = |hosts: &[(u8, u16)]| {
                let mut entries = Entries::up_to(max);
                for (host, port) in hosts {
                    entries.push(plain(SocketAddr::from(([10, 0, 0, *host], *port))));
                }
                entries.into_answer("none")
            };
            let one = build(&hosts);
            hosts.reverse();
            prop_assert_eq!(&one, &build(&hosts));
            if let Ok(answer) = one {
                prop_assert!(answer.targets.len() <= max as usize);
                let left_out = answer.unusable + answer.over_limit;
                prop_assert_eq!(answer.targets.len() as u64 + left_out, hosts.len() as u64);
            }
        }

        #[test]
        fn scaled_weights_stay_in_range_and_in_order(weights in proptest::collection::vec(any::<u16>(), 1..50)) {
            let scaled = scaled(&weights);
            for (index, &weight) in scaled.iter().enumerate() {
                prop_assert!((1..=256).contains(&weight));
                for (other, &second) in scaled.iter().enumerate() {
                    prop_assert!(weights[index] > weights[other] || weight <= second);
                }
            }
        }
    }
}
