//! Changes of the running daemon that the API and the discovery ask for: they are made by the control loop, one after the
//! other, and live on over reloads.

use std::sync::Arc;

use common::config;
use lbd_core::group::{Admin, Roster, RosterError};
use tokio::sync::oneshot;

use crate::reload::Parts;
use crate::replication::Heed;
use crate::snapshot::{Carry, Group, Snapshot};
use crate::summary;

/// What an administrator wants of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Its state, if that is to change.
    pub(crate) state: Option<Admin>,
    /// Its weight, if that is to change: 0 to 256, or none for the configured one.
    pub(crate) weight: Option<Option<u16>>,
}

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// There is no such group.
    #[error("there is no target group {group:?}; `lbd status` shows all")]
    NoGroup {
        /// The name asked for.
        group: String,
    },
    /// There is no such target.
    #[error("the target group {group:?} has no target {target:?}; `lbd status` shows all")]
    NoTarget {
        /// The group.
        group: String,
        /// The name asked for.
        target: String,
    },
    /// The target cannot be added or deleted.
    #[error(transparent)]
    Roster(#[from] RosterError),
}

/// A change, and where to answer how it went.
pub(crate) enum Asked {
    /// Set a target's state or weight.
    Set {
        /// Its group.
        group: String,
        /// Its name.
        target: String,
        /// What to set.
        change: Change,
    },
    /// Add a target.
    Add {
        /// To this group.
        group: String,
        /// The target.
        target: config::Target,
    },
    /// Delete a target.
    Delete {
        /// From this group.
        group: String,
        /// Its name.
        target: String,
    },
}

/// Where the answer goes.
pub(crate) type Reply = oneshot::Sender<Result<(), ChangeError>>;

impl Parts {
    /// Makes a change.
    pub(crate) fn change(&mut self, asked: Asked) -> Result<(), ChangeError> {
        match asked {
            Asked::Set { group, target, change } => self.set(&group, &target, change),
            Asked::Add { group, target } => {
                tracing::info!(group, target = target.id, address = %target.address, "adding a target");
                self.change_roster(&group, |roster, file| roster.add(file, target))
            }
            Asked::Delete { group, target } => {
                tracing::info!(group, target, "deleting a target");
                self.change_roster(&group, |roster, file| roster.delete(file, &target))
            }
        }
    }

    /// Takes the targets that were discovered for a group; those of before are no longer of it.
    pub(crate) fn discovered(&mut self, group: &str, targets: Vec<config::Target>) {
        // A group that a reload has removed meanwhile needs none.
        drop(self.change_roster(group, |roster, file| {
            roster.settle(file, Some(targets));
            Ok(())
        }));
    }

    /// Has targets discovered as the configuration in force says.
    pub(crate) fn update_discovery(&mut self) {
        let config = Arc::clone(&self.shared.snapshot.load().config);
        for group in self.discoverer.update(&config) {
            self.discovered(&group, Vec::new());
        }
    }

    fn set(&mut self, name: &str, target: &str, change: Change) -> Result<(), ChangeError> {
        let group = self.group(name)?;
        let no_target = || ChangeError::NoTarget { group: name.to_owned(), target: target.to_owned() };
        let index = group.targets.iter().position(|known| known.key.id == target).ok_or_else(no_target)?;
        group.set(self.shared.clock.now().at, index, change.state, change.weight);
        let state = change.state.map(Admin::name);
        tracing::info!(group = name, target, state, weight = ?change.weight.flatten(), "target set");
        if change.weight.is_some() {
            // The tables of some algorithms are made from the weights.
            self.rebuild();
        }
        self.shared.groups_changed();
        summary::update(&self.shared);
        Ok(())
    }

    /// Makes what the other node's administrators want of targets this node's. Answers for each whether there is such a target.
    pub(crate) fn heed(&mut self, heeds: Vec<Heed>) -> Vec<bool> {
        let now = self.shared.clock.now().at;
        let snapshot = self.shared.snapshot.load_full();
        let mut reweighted = false;
        let mut heed = |Heed { group: name, target, word }: Heed| {
            let Some(group) = snapshot.group(&name) else { return false };
            let Some(index) = group.targets.iter().position(|known| known.key.id == target) else {
                return false;
            };
            let before = group.view(now, index);
            let weight = before.filter(|view| view.weight_overridden).map(|view| view.weight);
            // Each change goes through all targets of the group, and most words say what is so.
            if before.is_none_or(|view| view.admin != word.admin) || weight != word.weight {
                group.set(now, index, Some(word.admin), Some(word.weight));
                reweighted |= weight != word.weight;
                let (state, weight) = (word.admin.name(), word.weight);
                tracing::info!(group = name, target, state, ?weight, "target set by the other node");
            }
            true
        };
        let known = heeds.into_iter().map(&mut heed).collect();
        if reweighted {
            self.rebuild();
        }
        self.shared.groups_changed();
        summary::update(&self.shared);
        known
    }

    fn change_roster(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut Roster, &[config::Target]) -> Result<(), RosterError>,
    ) -> Result<(), ChangeError> {
        let group = self.group(name)?;
        let config = Arc::clone(&self.shared.snapshot.load().config);
        let file = config.target_group(name).map(|group| group.targets.as_slice()).unwrap_or_default();
        let before = group.shared.roster().clone();
        change(&mut group.shared.roster(), file)?;
        if *group.shared.roster() != before {
            self.rebuild();
        }
        Ok(())
    }

    fn group(&self, name: &str) -> Result<Arc<Group>, ChangeError> {
        let snapshot = self.shared.snapshot.load();
        snapshot.group(name).map(Arc::clone).ok_or_else(|| ChangeError::NoGroup { group: name.to_owned() })
    }

    /// Replaces the snapshot by one of the same configuration with the targets and weights as they are now. Listeners
    /// and connections are not touched.
    fn rebuild(&mut self) {
        let before = self.shared.snapshot.load_full();
        let carry = Carry::from(self.shared.life.clone(), before.hash_key, &before, &self.shared.removed());
        let next = Arc::new(Snapshot::build(Arc::clone(&before.config), &carry));
        self.put_in_force(&before, &next);
        self.shared.groups_changed();
        summary::update(&self.shared);
    }
}
