//! So many new flows each second.

use std::collections::VecDeque;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::network::{Network, flows, lbd, link, state};
use super::source::Source;
use crate::bench_tcp::usage::{thread_sleeps, thread_time};
use crate::lab::clock::wait_until;
use crate::report::statistics::ms;

/// Flows come in bursts of so long, as a link's interrupts bring packets.
const SLOT: Duration = Duration::from_millis(2);
/// How often the other node is asked for the oldest flow that it has not.
const LOOK: Duration = Duration::from_micros(500);
/// How long nothing is done, to know what the daemons take anyway.
const IDLE: Duration = Duration::from_secs(1);

/// So many flows of a burst are looked for in the own table, until one is there.
const SOUGHT_MAX: usize = 64;
/// Whoever has not got a flow for so long does not get it.
const LOST: Duration = Duration::from_secs(2);

/// All of replication is this one's work. (The walks of `lbd-expiry` are there without it, too.)
pub(super) const THREAD: &str = "lbd-peer";

/// What came of a rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    /// New flows that were to be begun each second.
    pub offered: u32,
    /// How many were begun, and got into the table.
    pub begun: u32,
    /// From the first to the last of them.
    pub begun_in: Duration,
    /// How many of these were in the other node's table in the end.
    pub arrived: u32,
    /// Marks that were looked for in vain, one of each burst.
    pub missing: u32,
    /// How many entries the other node was told of, changes included.
    pub told: u64,
    /// Changes that the program had no room to tell of.
    pub untold: u64,
    /// From the first flow until the other node had them all.
    pub arrived_in: Duration,
    /// From the beginning of a flow until it was in the other node's table: half of them, 99 of 100, and the longest.
    pub lag: [Duration; 3],
    /// Nanoseconds of the thread that replicates, in the `lbd` that tells, for each flow, without what it takes anyway.
    pub sender_ns: f64,
    /// The same of the one that is told.
    pub receiver_ns: f64,
    /// Messages that it was told in, and how often the telling thread went to sleep meanwhile: what a message costs beside its flows.
    pub messages: u64,
    /// See there.
    pub sleeps: u64,
    /// And of the program in the kernel, for the two packets that begin a flow.
    pub forwarding_ns: f64,
    /// Nanoseconds of the program for a packet of a flow that is known.
    pub known_ns: f64,
}

impl Stage {
    /// Flows for each second, until the last of them was in the other node's table.
    #[must_use]
    pub fn rate(&self) -> f64 {
        f64::from(self.arrived) / self.arrived_in.as_secs_f64()
    }

    /// What the other node has not got: flows in the end, or changes that it was not told of in time.
    #[must_use]
    pub fn lost(&self) -> u64 {
        u64::from(self.begun.saturating_sub(self.arrived)).max(self.untold)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, longest] = self.lag.map(ms);
        write!(
            f,
            "{}/s offered, {:.0}/s arrived ({} of {}; {} entries told, {} untold), lag {half} ms, 99 % {most} ms, longest {longest} ms; for a flow {:.0} ns \
             of the sender ({} messages, asleep {} times), {:.0} ns of the receiver, {:.0} ns of forwarding",
            self.offered,
            self.rate(),
            self.arrived,
            self.begun,
            self.told,
            self.untold,
            self.sender_ns,
            self.messages,
            self.sleeps,
            self.receiver_ns,
            self.forwarding_ns
        )
    }
}

/// Begins flows from `first` on.
pub(super) fn run(
    network: &Network,
    source: &mut Source,
    first: u32,
    rate: u32,
    seconds: u32,
) -> Result<Stage> {
    let (a, b) = (network.a(), network.b());
    let pids = [lbd(a)?, lbd(b)?];
    let (here, there) = (flows(pids[0])?, flows(pids[1])?);
    let times =
        || -> Result<[Duration; 2]> { Ok([thread_time(pids[0], THREAD)?, thread_time(pids[1], THREAD)?]) };
    let idle_before = times()?;
    thread::sleep(IDLE);
    let (before, counted) = (times()?, counts(network));
    let sleeps_before = thread_sleeps(pids[0], THREAD)?;
    let idle = [0, 1].map(|node| before[node].saturating_sub(idle_before[node]).as_secs_f64());

    let count = rate * seconds;
    let mut waiting: VecDeque<(Instant, [u8; 40])> = VecDeque::new();
    let (mut lags, mut forwarding) = (Vec::new(), Duration::ZERO);
    let (begin, mut done, mut slot) = (Instant::now(), 0, 0);
    let mut last_begun = begin;
    let mut missing = 0;
    while done < count || !waiting.is_empty() {
        if done < count && begin.elapsed() >= SLOT * slot {
            // By the clock: whoever was late catches up.
            slot = u32::try_from(begin.elapsed().as_nanos() / SLOT.as_nanos())
                .unwrap_or(u32::MAX)
                .saturating_add(1);
            let due = u128::from(rate) * SLOT.as_nanos() * u128::from(slot) / 1_000_000_000;
            let end = u32::try_from(due).unwrap_or(count).min(count);
            if end > done {
                let at = Instant::now();
                forwarding += source.begin(first + done, first + end)?;
                // The latest that got into the table: a few are pushed out before, while they have to prove themselves.
                let stored = (done..end).rev().map(|number| Source::key(first + number));
                waiting.extend(
                    stored.take(SOUGHT_MAX).find(|key| here.get(key, 0).is_ok()).map(|key| (at, key)),
                );
                (done, last_begun) = (end, Instant::now());
            }
        }
        while let Some((at, key)) = waiting.front() {
            let (arrived, lag) = (there.get(key, 0).is_ok(), at.elapsed());
            if !arrived && lag < LOST {
                break;
            }
            missing += u32::from(!arrived);
            lags.push(lag);
            waiting.pop_front();
        }
        thread::sleep(LOOK);
    }
    let (arrived_in, elapsed, after) = (begin.elapsed(), begin.elapsed().as_secs_f64(), times()?);
    let sleeps = thread_sleeps(pids[0], THREAD)?.saturating_sub(sleeps_before);
    let keys = (0..count).map(|number| Source::key(first + number));
    let keys: Vec<[u8; 40]> = keys.filter(|key| here.get(key, 0).is_ok()).collect();
    let stored = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let arrived = keys.iter().filter(|key| there.get(key, 0).is_ok()).count();
    // The daemons' counters are shown now and then.
    let settled = || counts(network).told >= counted.told + u64::from(stored);
    // What never arrives is a finding, not an error.
    wait_until("the other node's counters", Duration::from_secs(1), settled).ok();
    let counted_after = counts(network);
    let each = |node: usize| {
        let busy = after[node].saturating_sub(before[node]).as_secs_f64()
            - idle[node] / IDLE.as_secs_f64() * elapsed;
        busy * 1e9 / f64::from(stored.max(1))
    };
    lags.sort_unstable();
    let known_ns = source.known(first, first + count.min(20_000))?;
    Ok(Stage {
        offered: rate,
        begun: stored,
        arrived: u32::try_from(arrived).unwrap_or(u32::MAX),
        missing,
        begun_in: last_begun - begin,
        told: counted_after.told - counted.told,
        untold: counted_after.untold - counted.untold,
        arrived_in,
        lag: [0.5, 0.99, 1.0].map(|share| part(&lags, share)),
        sender_ns: each(0),
        receiver_ns: each(1),
        messages: counted_after.messages.saturating_sub(counted.messages),
        sleeps,
        forwarding_ns: forwarding.as_secs_f64() * 1e9 / f64::from(count),
        known_ns,
    })
}

/// The lag that a share of them has at most.
fn part(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below a number of some thousands"
    )]
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

struct Counts {
    told: u64,
    untold: u64,
    messages: u64,
}

fn counts(network: &Network) -> Counts {
    let (sender, receiver) = (state(network.a()), state(network.b()));
    Counts {
        told: receiver["received"]["flows"].as_u64().unwrap_or(0),
        untold: sender["untold"].as_u64().unwrap_or(0),
        messages: link(network.a())["messages_out"].as_u64().unwrap_or(0),
    }
}
