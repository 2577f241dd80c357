//! What telling the other node of flows costs beside what forwarding itself costs the machine, with real connections at a steady rate.
//!
//! A client asks nginx for something short, each time with a connection of its own, directly and through either mode of the kernel's; once with
//! the pair's two nodes linked and in step, and once with the same pair without the link, so that nobody is told. Client and target have a
//! processor each; the nodes' `lbd`s share them, and so does the hop's work, which is done by whoever sends.
//!
//! - *Forwarding's own* is what the machine spends on a connection through the hop without the link, beyond what it spends directly: receiving
//!   and sending once more, the program, the switch's second frame, and whatever `lbd` does of it. It is not what a network card's driver
//!   would take, for there is none.
//! - *Replication* is the time of the thread that does all of it in the `lbd` that forwards, for each connection, without what the thread
//!   takes while nothing is forwarded. A connection is told when it has proved itself, as it ends, and once more when its flow is forgotten, which
//!   is some seconds after its end: the thread is looked at until the last one is forgotten and the other node has heard so. The services have
//!   the shortest time-outs there are, so that this is soon; how often a flow is told does not depend on them.
//! - Beside it, what the whole machine spends more with the link than without while connections come and go: the program's telling, the other
//!   node's part, wake-ups and the link itself in both directions are in it. It is a difference of differences, and as rough as that.
//!
//! Whatever the machine does besides is shared by as many connections as there are in that time, so ways can only be compared that have equally
//! many: the rate is one that all of them hold, and a run in which one does not is no proof of anything.

mod network;
mod row;
mod visit;

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use row::render;
#[cfg(test)]
pub(super) use row::tests;
pub(super) use row::{Share, share};

use super::Subject;
use super::network::{lbd, state};
use super::stage::THREAD;
use crate::bench_hop::busy::Moment;
use crate::bench_tcp::load::crowd::Pace;
use crate::bench_tcp::usage::thread_time;
use network::Network;

/// Connections a second: so many that two processors do them on every way, and have time left.
const RATE: u32 = 10_000;
/// As many are there at once at most, where the machine does not do so many.
const AT_ONCE: usize = 256;
/// What is measured of a way.
const PACE: Pace = Pace {
    per_second: RATE,
    at_once: AT_ONCE,
    warm: Duration::from_millis(200),
    time: Duration::from_secs(2),
    ends_within: ENDS_WITHIN,
};
/// What goes a way before anything is measured.
const PREPARING: Pace = Pace {
    per_second: 1000,
    at_once: AT_ONCE,
    warm: Duration::ZERO,
    time: Duration::from_millis(200),
    ends_within: ENDS_WITHIN,
};
/// A packet that was lost is sent anew within this, twice.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// After connections without the hop the thread that tells is looked at for so long: about as long as it takes until flows are forgotten, to
/// know what it takes anyway.
const QUIET: Duration = Duration::from_secs(9);
/// The client's processor; the target has the other one.
const CLIENT_PROCESSOR: usize = 1;
/// Longer than it takes until the daemons show what they have counted.
const SHOWN: Duration = Duration::from_millis(150);

/// A way from the client to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// To the target's own address, without a hop.
    Direct,
    /// By the node that forwards.
    Forwarded(Subject),
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Forwarded(Subject::Nat), Self::Forwarded(Subject::Dsr)];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Forwarded(subject) => subject.name(),
        }
    }
}

/// One way, with or without the link between the nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stretch {
    /// Which way.
    pub way: Way,
    /// Whether the nodes had a link.
    pub linked: bool,
    /// Connections that were answered and ended well in the time that counts.
    pub count: u64,
    /// In so long.
    pub wall: Duration,
    /// Processor time of the whole machine.
    pub busy: Duration,
    /// All connections, those before and after that time included.
    pub all: u64,
    /// Time of the thread that replicates, in the `lbd` that forwards, for all of them, until the last was forgotten; none without a link.
    pub sender: Option<Duration>,
    /// From before the first until then.
    pub until_forgotten: Duration,
    /// Packets that came to the node that forwards, for each connection.
    pub packets_each: f64,
    /// Entries that the other node was told, for each connection.
    pub told_each: f64,
    /// And deletions of them.
    pub forgotten_each: f64,
    /// Changes that the program had no room to tell of.
    pub untold: u64,
}

impl Stretch {
    /// Connections a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.wall.as_secs_f64()
    }

    /// Microseconds of the machine for each.
    #[must_use]
    pub fn busy_us(&self) -> f64 {
        self.busy.as_secs_f64() * 1e6 / self.count as f64
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connections {}, {}: {:.0}/s, {:.2} µs of the machine each, {:.1} packets at the hop",
            self.way.name(),
            if self.linked { "told" } else { "not told" },
            self.per_second(),
            self.busy_us(),
            self.packets_each,
        )?;
        let Some(sender) = self.sender else { return Ok(()) };
        write!(
            f,
            "; {:.1} ms of the thread that tells, in {:.1} s, until the last of {} was forgotten, {:.2} entries and {:.2} deletions told each, {} untold",
            sender.as_secs_f64() * 1e3,
            self.until_forgotten.as_secs_f64(),
            self.all,
            self.told_each,
            self.forgotten_each,
            self.untold
        )
    }
}

/// All ways once, with the link and without.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connections {
    /// What was measured.
    pub stretches: Vec<Stretch>,
}

impl Connections {
    fn stretch(&self, way: Way, linked: bool) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.way == way && stretch.linked == linked)
    }

    /// Microseconds of the machine for a connection, more than directly.
    fn beyond_direct_us(&self, subject: Subject, linked: bool) -> Option<f64> {
        let way = self.stretch(Way::Forwarded(subject), linked)?;
        Some(way.busy_us() - self.stretch(Way::Direct, linked)?.busy_us())
    }

    /// Forwarding's own microseconds for a connection.
    #[must_use]
    pub fn own_us(&self, subject: Subject) -> Option<f64> {
        self.beyond_direct_us(subject, false)
    }

    /// Microseconds of the machine for a connection, more with the link than without.
    #[must_use]
    pub fn linked_us(&self, subject: Subject) -> Option<f64> {
        Some(self.beyond_direct_us(subject, true)? - self.beyond_direct_us(subject, false)?)
    }

    /// The least rate of the ways that a mode is judged by, directly and by the hop, told and not, as a part of the direct way's.
    #[must_use]
    pub fn held(&self, subject: Subject) -> Option<f64> {
        let rates = |way: Way| {
            self.stretches.iter().filter(move |stretch| stretch.way == way).map(Stretch::per_second)
        };
        let direct = rates(Way::Direct).max_by(f64::total_cmp)?;
        let least = rates(Way::Direct).chain(rates(Way::Forwarded(subject))).min_by(f64::total_cmp)?;
        Some(least / direct)
    }

    /// Nanoseconds of the thread that replicates for a connection until it is forgotten, without what it takes while the hop has nothing to do.
    #[must_use]
    pub fn sender_ns(&self, subject: Subject) -> Option<f64> {
        let way = self.stretch(Way::Forwarded(subject), true)?;
        let direct = self.stretch(Way::Direct, true)?;
        let part = direct.sender?.as_secs_f64() / direct.until_forgotten.as_secs_f64();
        let anyway = part * way.until_forgotten.as_secs_f64();
        Some((way.sender?.as_secs_f64() - anyway) * 1e9 / way.all as f64)
    }
}

/// Measures everything once, and tells `progress` what it has. `number` says which run it is: each begins with another way. Needs root and two
/// processors.
///
/// # Errors
/// What the lab said, or that a connection failed.
pub fn run(number: u32, mut progress: impl FnMut(&str)) -> Result<Connections> {
    let mut stretches = Vec::new();
    let first = number.is_multiple_of(2);
    for linked in [first, !first] {
        let network = Network::build(linked)?;
        if linked && !network.is_wire_apart() {
            progress(
                "the link between the nodes is on the account of whoever sends: this kernel has no way to part them",
            );
        }
        let skipped = number as usize % Way::ALL.len();
        for way in Way::ALL.into_iter().cycle().skip(skipped).take(Way::ALL.len()) {
            let stretch = measure(&network, way, linked)?;
            progress(&stretch.to_string());
            stretches.push(stretch);
        }
        network.finish()?;
    }
    Ok(Connections { stretches })
}

fn measure(network: &Network, way: Way, linked: bool) -> Result<Stretch> {
    let (a, b) = (network.a(), network.b());
    let pid = lbd(a)?;
    let sender = || linked.then(|| thread_time(pid, THREAD)).transpose();
    let packets = || a.passed().map(|[come, _]| come.packets);
    let counts = || {
        let (of_a, of_b) = (state(a), state(b));
        [&of_b["received"]["flows"], &of_a["deletions_sent"], &of_a["untold"]]
            .map(|count| count.as_u64().unwrap_or(0))
    };
    let (come, counted) = (packets()?, counts());
    let (begin, sender_before) = (Instant::now(), sender()?);
    let came = network.load(way, PACE, Moment::now)?;
    // Also for what goes on of the last connections not to be counted as the next way's.
    thread::sleep(SHOWN);
    let come_after = packets()?;
    if linked && way == Way::Direct {
        thread::sleep(QUIET);
    }
    // Without a link, too: the next way is not to do what is left of this one.
    network.wait_forgotten()?;
    let (until_forgotten, sender_after) = (begin.elapsed(), sender()?);
    thread::sleep(SHOWN);
    let counted_after = counts();
    let [told, forgotten, untold] =
        [0, 1, 2].map(|place| counted_after[place].saturating_sub(counted[place]));
    let [before, after] = &came.looks;
    let each = |count: u64| count as f64 / came.all as f64;
    Ok(Stretch {
        way,
        linked,
        count: came.count,
        wall: after.wall_since(before),
        busy: after.busy_since(before),
        all: came.all,
        sender: sender_after.zip(sender_before).map(|(after, before)| after.saturating_sub(before)),
        until_forgotten,
        packets_each: each(come_after.saturating_sub(come)),
        told_each: each(told),
        forgotten_each: each(forgotten),
        untold,
    })
}
