//! The active role, moved back and forth under load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::modes;
use super::trial::{Problems, announced, echo_settings, pair};
use crate::lab::addresses::vip4;
use crate::lab::error::Result;
use crate::lab::probe::{ConnectProbe, ConnectSettings, EchoProbe, Failure, WatchSettings, Watcher};
use crate::report::statistics::ms;
use crate::scenario::lasting::Mode;
use crate::scenario::{INSTANCE, Pair, System, failure_name, hand_over};

/// How often the role moves.
pub(super) const MOVES: usize = 20;
/// How many connections last through each mode.
const CONNECTIONS: usize = 200;
/// New connections of each mode begin so often.
const INTERVAL: Duration = Duration::from_millis(4);
/// How long a new one may take: TCP repeats a lost SYN after 1 s, and another after 2 s more.
const DEADLINE: Duration = Duration::from_millis(2500);
/// New ones served in a row before and after each move.
const STEADY: usize = 50;
const LIMIT: Duration = Duration::from_secs(30);

/// One run of a system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forth {
    /// The software.
    pub system: System,
    /// What came of each of its modes.
    pub modes: Vec<Moved>,
    /// How often the role moved.
    pub moves: usize,
    /// What did not come about, for people.
    pub problems: Vec<String>,
}

/// What came of one mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// The mode.
    pub mode: Mode,
    /// New connections tried.
    pub attempts: usize,
    /// Those that were not served in time.
    pub failed: usize,
    /// The same by kind.
    pub failures: BTreeMap<String, usize>,
    /// The slowest of those that were.
    pub slowest: Duration,
    /// Connections that were to last.
    pub connections: usize,
    /// How many of these broke.
    pub broken: usize,
    /// Resets, of new connections and of those that were to last.
    pub resets: usize,
    /// The longest time from sending a message to having it back, of those that lasted.
    pub worst_stall: Duration,
    /// The longest that the probe itself was late.
    pub pause: Duration,
}

/// What runs through one mode all the while.
struct Load {
    mode: Mode,
    new: ConnectProbe,
    known: EchoProbe,
}

impl Forth {
    /// Moves the role of a fresh pair back and forth.
    ///
    /// # Errors
    /// [`crate::lab::LabError`] when the pair cannot be brought up, or the role does not move.
    pub fn run(system: System) -> Result<Self> {
        let (pair, _) = pair(&format!("survive back and forth {}", system.name()), system)?;
        let lab = pair.lab();
        let mut problems = Problems::default();
        let mut loads = Vec::new();
        for mode in modes(system) {
            let settings = ConnectSettings {
                interval: INTERVAL,
                deadline: DEADLINE,
                ..ConnectSettings::http(mode.http_server())
            };
            let known = EchoProbe::start(lab.client(), echo_settings(mode, CONNECTIONS))?;
            loads.push(Load { mode, new: ConnectProbe::start(lab.client(), settings)?, known });
        }
        let watcher = Watcher::start(lab, WatchSettings::new(&[vip4(0).into()]))?;
        steady(&loads)?;
        let mut moves = 0;
        while moves < MOVES {
            if problems.note(move_once(&pair, &watcher, moves))?.is_none() {
                break;
            }
            moves += 1;
            problems.note(steady(&loads))?;
        }
        let modes = loads.into_iter().map(Load::end).collect::<Result<_>>()?;
        watcher.stop()?;
        pair.finish()?;
        Ok(Self { system, modes, moves, problems: problems.0 })
    }
}

/// Moves the role, and waits until the other node alone has it.
fn move_once(pair: &Pair, watcher: &Watcher, number: usize) -> Result<()> {
    let [a, b] = pair.lab().nodes();
    let (from, to) = if number.is_multiple_of(2) { (a, b) } else { (b, a) };
    let event = hand_over(pair, from)?;
    announced(watcher, to, event)?;
    watcher.wait_owner(vip4(0), to.mac(), 5, LIMIT)?;
    if pair.settings().system == System::Tandem {
        for (node, role) in [(to, "active"), (from, "backup")] {
            node.wait_role(INSTANCE, role, LIMIT)?;
        }
    }
    Ok(())
}

fn steady(loads: &[Load]) -> Result<()> {
    for load in loads {
        load.new.wait_steady(STEADY, LIMIT)?;
        load.known.wait_exchanges(2, LIMIT)?;
    }
    Ok(())
}

impl fmt::Display for Forth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} moves", self.moves)?;
        for it in &self.modes {
            let (slowest, stall) = (ms(it.slowest), ms(it.worst_stall));
            let (name, survived) = (it.mode.name(), it.connections - it.broken);
            write!(f, "; {name}: {} of {} failed", it.failed, it.attempts)?;
            for (kind, count) in &it.failures {
                write!(f, ", {count} {kind}")?;
            }
            write!(f, ", slowest {slowest} ms, {} resets", it.resets)?;
            write!(f, ", {survived} of {} survived, worst stall {stall} ms", it.connections)?;
            write!(f, " (the probe {} late)", ms(it.pause))?;
        }
        self.problems.iter().try_for_each(|problem| write!(f, "; {problem}"))
    }
}

impl Load {
    fn end(self) -> Result<Moved> {
        let (new, known) = (self.new.stop()?, self.known.stop()?);
        let failures = new.failures();
        let resets =
            |kinds: &BTreeMap<Failure, usize>| kinds.get(&Failure::Reset).copied().unwrap_or_default();
        Ok(Moved {
            mode: self.mode,
            attempts: new.attempts.len(),
            failed: new.failed(),
            resets: resets(&failures) + resets(&known.breaks()),
            failures: failures.into_iter().map(|(kind, count)| (failure_name(kind), count)).collect(),
            slowest: new.latency(1.0),
            connections: known.connections.len(),
            broken: known.broken(),
            worst_stall: known.worst_stall(),
            pause: known.pause,
        })
    }
}
