//! Changes of the running daemon that the API and the discovery ask for: they are made by the control loop, one after the
//! other, and live on over reloads.

use std::sync::Arc;

use common::config;
use common::time::Now;
use lbd_core::group::{Admin, Roster, RosterError, Said};
use tokio::sync::oneshot;

use crate::reload::Parts;
use crate::replication::{Heed, Wanted, Word};
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
    /// Makes a change that was asked for at this time, in microseconds since 1970.
    pub(crate) fn change(&mut self, asked: Asked, at: u64) -> Result<(), ChangeError> {
        match asked {
            Asked::Set { group, target, change } => self.set(&group, &target, change, at),
            Asked::Add { group, target } => {
                tracing::info!(group, target = target.id, address = %target.address, "adding a target");
                let id = target.id.clone();
                self.change_roster(&group, |roster, file| roster.add(file, target))?;
                self.said(&group, &id, at);
                Ok(())
            }
            Asked::Delete { group, target } => {
                tracing::info!(group, target, "deleting a target");
                self.change_roster(&group, |roster, file| roster.delete(file, &target))?;
                self.said(&group, &target, at);
                Ok(())
            }
        }
    }

    /// What was said of a target's place in its group is for the other node, too.
    fn said(&self, group: &str, target: &str, at: u64) {
        if let Some(known) = self.shared.snapshot.load().group(group) {
            let said = known.shared.roster().said(target);
            self.shared.peer.memory().lock().said_member(group, target, said, at);
            self.shared.groups_changed();
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

    fn set(&mut self, name: &str, target: &str, change: Change, at: u64) -> Result<(), ChangeError> {
        let group = self.group(name)?;
        let no_target = || ChangeError::NoTarget { group: name.to_owned(), target: target.to_owned() };
        let index = group.targets.iter().position(|known| known.key.id == target).ok_or_else(no_target)?;
        group.set(self.shared.clock.now().at, index, change.state, change.weight);
        self.shared.peer.memory().lock().said_word(name, target, at);
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

    /// Makes what the other node's administrators want of targets this node's, unless something was said here that is later. Answers for each
    /// whether it has a place here.
    pub(crate) fn heed(&mut self, heeds: &[Heed]) -> Vec<bool> {
        let mut known = vec![true; heeds.len()];
        let (mut moved, mut reweighted) = (false, false);
        // A word on state and weight may be about a target that is added by another one.
        for (heed, known) in heeds.iter().zip(&mut known) {
            if let Wanted::Member(said) = &heed.wanted {
                match self.heed_member(heed, said) {
                    Some(changed) => moved |= changed,
                    None => *known = false,
                }
            }
        }
        if moved {
            self.rebuild();
        }
        for (heed, known) in heeds.iter().zip(&mut known) {
            let word = match heed.wanted {
                Wanted::Word(word) => Some(word),
                Wanted::NoWord => None,
                Wanted::Member(_) => continue,
            };
            match self.heed_word(heed, word) {
                Some(changed) => reweighted |= changed,
                None => *known = false,
            }
        }
        if reweighted {
            self.rebuild();
        }
        self.shared.groups_changed();
        summary::update(&self.shared);
        known
    }

    /// Answers whether the group's targets are others now; none if it has no place here.
    fn heed_member(&self, heed: &Heed, said: &Said) -> Option<bool> {
        let Heed { group: name, target, generation, .. } = heed;
        let snapshot = self.shared.snapshot.load();
        let group = snapshot.group(name)?;
        let mut memory = self.shared.peer.memory().lock();
        if memory.has_later_member(name, target, *generation, self.shared.clock.now().unix.as_micros()) {
            return Some(false);
        }
        let file =
            snapshot.config.target_group(name).map(|group| group.targets.as_slice()).unwrap_or_default();
        let mut roster = group.shared.roster();
        let before = roster.clone();
        if let Err(error) = roster.heed(file, target, said) {
            tracing::warn!(
                group = name,
                target,
                "what was said to the other node of a target does not fit here: {error}"
            );
            return None;
        }
        memory.heeded_member(name, target, said.clone(), *generation);
        let changed = *roster != before;
        if matches!(said, Said::Added { .. }) && roster.merge(file).iter().all(|known| known.id != *target) {
            tracing::warn!(
                group = name,
                target,
                "a target that the other node has waits: another one has its address here"
            );
        }
        if changed {
            let what = match said {
                Said::Given => "given back",
                Said::Deleted => "deleted",
                Said::Added { .. } => "added",
            };
            tracing::info!(group = name, target, "target {what} by the other node");
        }
        Some(changed)
    }

    /// Answers whether its weight is another one now; none if there is no such target.
    fn heed_word(&self, heed: &Heed, word: Option<Word>) -> Option<bool> {
        let Heed { group: name, target, generation, .. } = heed;
        let Now { at: now, unix } = self.shared.clock.now();
        let snapshot = self.shared.snapshot.load();
        let group = snapshot.group(name)?;
        let index = group.targets.iter().position(|known| known.key.id == *target)?;
        let mut memory = self.shared.peer.memory().lock();
        if memory.has_later_word(name, target, *generation, unix.as_micros()) {
            return Some(false);
        }
        let wanted = word.unwrap_or_default();
        let before = group.view(now, index);
        let weight = before.filter(|view| view.weight_overridden).map(|view| view.weight);
        // Each change goes through all targets of the group, and most words say what is so.
        if before.is_none_or(|view| view.admin != wanted.admin) || weight != wanted.weight {
            group.set(now, index, Some(wanted.admin), Some(wanted.weight));
            let (state, weight) = (wanted.admin.name(), wanted.weight);
            tracing::info!(group = name, target, state, ?weight, "target set by the other node");
        }
        match word {
            Some(word) => memory.heeded_word(name, target, word, *generation),
            None => memory.forget_word(name, target),
        }
        Some(weight != wanted.weight)
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
