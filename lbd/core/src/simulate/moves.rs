//! Which clients changed their target when a target went or came.

use common::time::{Duration, Instant};

use super::workload::Workload;

const NOWHERE: u16 = u16::MAX;

/// The clients' changes of target from before to after one event: each client's last connection before it is compared with
/// its last one after it (and before the next event).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moves {
    /// When.
    pub at: Duration,
    /// The target that failed or came back.
    pub target: usize,
    /// Whether it came back.
    pub up: bool,
    /// Clients that had connections before and after.
    pub clients: u32,
    /// Those of them that changed their target.
    pub moved: u32,
    /// Those of them that had no reason to: neither from nor to this target.
    pub needless: u32,
}

/// A target that goes or comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) at: Instant,
    pub(super) target: usize,
    pub(super) up: bool,
}

/// All changes of a workload, in order.
pub(super) fn changes(workload: &Workload) -> Vec<Change> {
    let mut changes = Vec::new();
    for (target, model) in workload.targets.iter().enumerate() {
        for down in &model.down {
            changes.push(Change { at: Instant::ZERO + down.from, target, up: false });
            changes.extend(down.to.map(|to| Change { at: Instant::ZERO + to, target, up: true }));
        }
    }
    changes.sort_by_key(|change| (change.at, change.target));
    changes
}

/// Where clients were, while a simulation runs.
#[derive(Debug)]
pub(super) struct Homes {
    changes: Vec<Change>,
    /// Changes that lie behind.
    phase: usize,
    clients: usize,
    /// The last target of each client in each phase: before the first change, between it and the second, and so on.
    homes: Vec<u16>,
    /// The target of each client's last connection.
    last: Vec<u16>,
    /// Connections of clients that had one before.
    pub(super) again: u64,
    /// Those of them that went to another target than the one before.
    pub(super) switched: u64,
}

impl Homes {
    pub(super) fn new(workload: &Workload) -> Self {
        let changes = changes(workload);
        let clients = usize::try_from(workload.clients).unwrap_or(usize::MAX);
        let homes = vec![NOWHERE; clients * (changes.len() + 1)];
        Self { changes, phase: 0, clients, homes, last: vec![NOWHERE; clients], again: 0, switched: 0 }
    }

    /// A client's connection went to a target. Times do not go back.
    pub(super) fn went(&mut self, now: Instant, client: u32, target: usize) {
        while self.changes.get(self.phase).is_some_and(|change| change.at <= now) {
            self.phase += 1;
        }
        // Clients are numbers below `clients`, targets at most some hundred.
        let client = usize::try_from(client).unwrap_or_default();
        let target = u16::try_from(target).unwrap_or(NOWHERE);
        let last = std::mem::replace(&mut self.last[client], target);
        if last != NOWHERE {
            self.again += 1;
            self.switched += u64::from(last != target);
        }
        self.homes[self.phase * self.clients + client] = target;
    }

    /// What each change moved.
    pub(super) fn moves(&self) -> Vec<Moves> {
        let phases: Vec<&[u16]> = self.homes.chunks_exact(self.clients).collect();
        let moves = self.changes.iter().zip(phases.windows(2));
        moves.map(|(change, phases)| compare(*change, phases[0], phases[1])).collect()
    }
}

fn compare(change: Change, before: &[u16], after: &[u16]) -> Moves {
    let at = change.at - Instant::ZERO;
    let mut moves = Moves { at, target: change.target, up: change.up, clients: 0, moved: 0, needless: 0 };
    for (&before, &after) in before.iter().zip(after) {
        if before == NOWHERE || after == NOWHERE {
            continue;
        }
        moves.clients += 1;
        if before != after {
            moves.moved += 1;
            let concerned = [before, after].iter().any(|&target| usize::from(target) == change.target);
            moves.needless += u32::from(!concerned);
        }
    }
    moves
}
