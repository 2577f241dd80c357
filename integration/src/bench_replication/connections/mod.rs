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
//!   takes while nothing is forwarded. A connection is told when it has proved itself and as it ends, so this is more than for flows that only begin.
//! - Beside it, what the whole machine spends more with the link than without: the program's telling, the other node's part and the link itself
//!   in both directions are in it. It is a difference of differences, and as rough as that.

mod network;
mod row;
mod visit;

use std::fmt;
use std::io;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use row::render;
pub(super) use row::share;
#[cfg(test)]
pub(super) use row::tests;

use super::Subject;
use super::network::{lbd, state};
use super::stage::THREAD;
use crate::bench_hop::busy::Moment;
use crate::bench_tcp::load::crowd::Pace;
use crate::bench_tcp::usage::thread_time;
use network::Network;

/// Connections a second.
const RATE: u32 = 20_000;
/// As many are there at once at most, where the machine does not do so many.
const AT_ONCE: usize = 256;
/// What is measured of a way.
const PACE: Pace = Pace {
    per_second: RATE,
    at_once: AT_ONCE,
    warm: Duration::from_millis(200),
    time: Duration::from_secs(2),
};
/// What goes a way before anything is measured.
const PREPARING: Pace =
    Pace { per_second: 1000, at_once: AT_ONCE, warm: Duration::ZERO, time: Duration::from_millis(200) };
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
    /// Connections that were answered and ended well.
    pub count: u64,
    /// In so long.
    pub wall: Duration,
    /// Processor time of the whole machine.
    pub busy: Duration,
    /// And of the thread that replicates, in the `lbd` that forwards; none without a link.
    pub sender: Option<Duration>,
    /// Packets that came to the node that forwards, for each connection.
    pub packets_each: f64,
    /// Entries that the other node was told, for each connection.
    pub told_each: f64,
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
            "; {:.1} ms of the thread that tells, {:.2} entries told each, {} untold",
            sender.as_secs_f64() * 1e3,
            self.told_each,
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

    /// Nanoseconds of the thread that replicates for a connection, without what it takes while the hop has nothing to do.
    #[must_use]
    pub fn sender_ns(&self, subject: Subject) -> Option<f64> {
        let way = self.stretch(Way::Forwarded(subject), true)?;
        let direct = self.stretch(Way::Direct, true)?;
        let anyway = direct.sender?.as_secs_f64() / direct.wall.as_secs_f64() * way.wall.as_secs_f64();
        Some((way.sender?.as_secs_f64() - anyway) * 1e9 / way.count as f64)
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

/// What is looked at when the time that counts begins, and when it is over.
struct Look {
    moment: Moment,
    sender: Option<Duration>,
}

fn measure(network: &Network, way: Way, linked: bool) -> Result<Stretch> {
    let (a, b) = (network.a(), network.b());
    let pid = lbd(a)?;
    let look = || -> io::Result<Look> {
        let sender = linked.then(|| thread_time(pid, THREAD)).transpose()?;
        Ok(Look { moment: Moment::now()?, sender })
    };
    let packets = || a.passed().map(|[come, _]| come.packets);
    let counts = || {
        let told = state(b)["received"]["flows"].as_u64().unwrap_or(0);
        (told, state(a)["untold"].as_u64().unwrap_or(0))
    };
    let (come, (told, untold)) = (packets()?, counts());
    let came = network.load(way, PACE, look)?;
    // Also for what goes on of the last connections not to be counted as the next way's.
    thread::sleep(SHOWN);
    let (come_after, (told_after, untold_after)) = (packets()?, counts());
    let [before, after] = &came.looks;
    let each = |count: u64| count as f64 / came.all as f64;
    let sender = after.sender.zip(before.sender).map(|(after, before)| after.saturating_sub(before));
    Ok(Stretch {
        way,
        linked,
        count: came.count,
        wall: after.moment.wall_since(&before.moment),
        busy: after.moment.busy_since(&before.moment),
        sender,
        packets_each: each(come_after.saturating_sub(come)),
        told_each: each(told_after.saturating_sub(told)),
        untold: untold_after.saturating_sub(untold),
    })
}
