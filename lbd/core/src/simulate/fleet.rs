//! What the balancer knows of the targets: the daemon's own state machine, fed with checks and failed connects.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::balance::Candidate;
use common::time::{Instant, Now};

use super::workload::Workload;
use crate::group::{EjectSettings, Group, Settings, Spec};
use crate::health::Thresholds;

/// The targets as their group sees them.
#[derive(Debug)]
pub(super) struct Fleet {
    group: Group,
    /// Failed connects in a row that eject a target; none for never.
    failures_max: Option<u32>,
    /// Failed connects in a row, by target.
    failures: Vec<u32>,
}

impl Fleet {
    /// All healthy, as found at the start.
    pub(super) fn new(workload: &Workload) -> Self {
        let thresholds = workload.checks.map(|checks| Thresholds {
            healthy: checks.healthy_threshold,
            unhealthy: checks.unhealthy_threshold,
        });
        let settings = Settings {
            thresholds,
            eject: workload.eject.map(|eject| EjectSettings {
                base: eject.base,
                max: eject.max,
                max_percent: eject.max_percent,
            }),
            panic_percent: workload.panic_percent,
            slow_start: workload.slow_start,
            // Nobody is drained here.
            drain_timeout: common::time::Duration::ZERO,
            zone: None,
        };
        // Nobody connects to these; they are only to differ.
        let address = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let specs = (1..).zip(&workload.targets).map(|(port, target)| Spec {
            id: target.id.clone(),
            address: address(port),
            weight: target.weight,
            backup: target.backup,
            zone: None,
        });
        let start = Now::default();
        let mut group = Group::new(start, settings, specs.collect());
        for target in 0..group.len() {
            group.record_check(start, target, true);
        }
        let failures = vec![0; group.len()];
        Self { group, failures_max: workload.eject.map(|eject| eject.consecutive_failures), failures }
    }

    /// Takes the result of a check.
    pub(super) fn checked(&mut self, now: Instant, target: usize, success: bool) {
        self.catch_up(now);
        self.group.record_check(Now { at: now, ..Now::default() }, target, success);
        // Nobody reads them here.
        self.group.take_events();
    }

    /// Takes whether a connection was accepted by a target.
    pub(super) fn connected(&mut self, now: Instant, target: usize, success: bool) {
        let failures = &mut self.failures[target];
        *failures = if success { 0 } else { *failures + 1 };
        if self.failures_max.is_some_and(|max| *failures >= max) {
            *failures = 0;
            self.group.eject(now, target);
            self.group.take_events();
        }
    }

    /// Writes each target's share into its candidate.
    pub(super) fn share(&mut self, now: Instant, candidates: &mut [Candidate]) {
        self.catch_up(now);
        for (target, candidate) in candidates.iter_mut().enumerate() {
            candidate.share = self.group.share(target);
        }
    }

    /// Does what was due by now, each at its time.
    fn catch_up(&mut self, now: Instant) {
        while let Some(due) = self.group.deadline().filter(|&due| due <= now) {
            self.group.tick(due);
            self.group.take_events();
        }
    }
}
