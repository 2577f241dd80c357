//! Who belongs to a group: the file's targets, those that were discovered, and what the API added and deleted.
//!
//! The API's changes live on over reloads, until `lbd` restarts or they are undone: an added target until it is deleted
//! or the file (or the discovery) has a target of its name, a deletion until the file no longer has the target, or it is
//! added again.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use common::config::Target;

/// The most targets that the API may add to a group.
pub const ADDED_MAX: usize = 1024;

/// Why the API's change was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// The name is taken.
    #[error("the group has a target {id:?} already; delete it first, or give the new one another id")]
    IdTaken {
        /// The name.
        id: String,
    },
    /// The address is taken.
    #[error("the group's target {id:?} has the address {address} already")]
    AddressTaken {
        /// The address.
        address: SocketAddr,
        /// Whose it is.
        id: String,
    },
    /// Too many were added.
    #[error("{ADDED_MAX} targets were added to the group already; put them into the configuration file")]
    Full,
    /// There is none of that name.
    #[error("the group has no target {id:?}")]
    Unknown {
        /// The name.
        id: String,
    },
}

/// What a group has beside the file's targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    discovered: Vec<Target>,
    added: Vec<Target>,
    /// Of the file's and the discovered ones.
    deleted: BTreeSet<String>,
}

impl Roster {
    /// All targets of the group, each name and address once: the file's first, then the discovered, then the added ones.
    #[must_use]
    pub fn merge(&self, file: &[Target]) -> Vec<Target> {
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let mut fresh =
            |target: &&Target| names.insert(target.id.clone()) && addresses.insert(target.address);
        let given = file.iter().chain(&self.discovered).filter(|target| !self.deleted.contains(&target.id));
        given.chain(&self.added).filter(|target| fresh(target)).cloned().collect()
    }

    /// Takes what the discovery found, and forgets what the file or the discovery has made pointless. Also to be called
    /// after the file has changed.
    pub fn settle(&mut self, file: &[Target], discovered: Option<Vec<Target>>) {
        if let Some(discovered) = discovered {
            self.discovered = discovered;
        }
        let given: BTreeSet<&str> =
            file.iter().chain(&self.discovered).map(|target| target.id.as_str()).collect();
        self.deleted.retain(|id| given.contains(id.as_str()));
        let deleted = &self.deleted;
        self.added.retain(|target| !given.contains(target.id.as_str()) || deleted.contains(&target.id));
    }

    /// Adds a target.
    ///
    /// # Errors
    /// [`RosterError`] when its name or address is taken, or too many were added.
    pub fn add(&mut self, file: &[Target], target: Target) -> Result<(), RosterError> {
        for other in self.merge(file) {
            if other.id == target.id {
                return Err(RosterError::IdTaken { id: target.id });
            }
            if other.address == target.address {
                return Err(RosterError::AddressTaken { address: target.address, id: other.id });
            }
        }
        // One that is back as it was needs no place of its own.
        if file.contains(&target) && self.deleted.remove(&target.id) {
            return Ok(());
        }
        if self.added.len() >= ADDED_MAX {
            return Err(RosterError::Full);
        }
        self.added.push(target);
        Ok(())
    }

    /// Deletes a target.
    ///
    /// # Errors
    /// [`RosterError::Unknown`] when there is none of that name.
    pub fn delete(&mut self, file: &[Target], id: &str) -> Result<(), RosterError> {
        if let Some(at) = self.added.iter().position(|target| target.id == id) {
            self.added.remove(at);
            return Ok(());
        }
        let given = file.iter().chain(&self.discovered).any(|target| target.id == id);
        if given && self.deleted.insert(id.to_owned()) {
            return Ok(());
        }
        Err(RosterError::Unknown { id: id.to_owned() })
    }

    /// From where each of the group's targets is, by its name.
    #[must_use]
    pub fn origins<'a>(&'a self, file: &'a [Target]) -> HashMap<&'a str, Origin> {
        let of = |targets: &'a [Target], origin| targets.iter().map(move |it| (it.id.as_str(), origin));
        // Later ones go over earlier ones. An added target of the name of a deleted one is the added one.
        let all = of(&self.discovered, Origin::Discovered).chain(of(file, Origin::File));
        all.chain(of(&self.added, Origin::Added)).collect()
    }
}

/// From where a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File,
    /// The discovery.
    Discovered,
    /// The API.
    Added,
}

impl Origin {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Discovered => "discovered",
            Self::Added => "added",
        }
    }
}
