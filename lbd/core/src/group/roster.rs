//! Who belongs to a group: the file's targets, those that were discovered, and what the API added and deleted.
//!
//! The API's changes live on over reloads, until `lbd` restarts or they are undone: an added target until it is deleted
//! or the file (or the discovery) has a target of its name, a deletion until the file no longer has the target, or it is
//! added again.
//!
//! Both nodes of a pair keep to what was said to either, and told the other one: [`Roster::said`], [`Roster::heed`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use common::config::Target;

/// The most targets that the API may add to a group.
pub const ADDED_MAX: usize = 1024;

/// The most that a group may have been given by both nodes: of those that take the place of others, all may be told before it is told that
/// the others are gone.
const HEEDED_MAX: usize = 2 * ADDED_MAX;

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
    /// Of the file's and the discovered ones, and whether they have been among those: what the other node was told may be about one
    /// that is discovered later.
    deleted: BTreeMap<String, bool>,
}

/// What people have said of a target's place in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// As file and discovery say.
    Given,
    /// It is not one of the group's, whatever those say.
    Deleted,
    /// It is.
    Added {
        /// The target.
        target: Target,
        /// Whether it is there in the place of one of its name that the file or the discovery has.
        instead: bool,
    },
}

impl Roster {
    /// All targets of the group, each name and address once: the file's first, then the discovered, then the added ones.
    #[must_use]
    pub fn merge(&self, file: &[Target]) -> Vec<Target> {
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let mut fresh =
            |target: &&Target| names.insert(target.id.clone()) && addresses.insert(target.address);
        let given =
            file.iter().chain(&self.discovered).filter(|target| !self.deleted.contains_key(&target.id));
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
        self.deleted.retain(|id, met| {
            let is_given = given.contains(id.as_str());
            let goes_on = is_given || !*met;
            *met |= is_given;
            goes_on
        });
        let deleted = &self.deleted;
        self.added.retain(|target| !given.contains(target.id.as_str()) || deleted.contains_key(&target.id));
    }

    /// What has been said of the target of this name, as far as it still means something.
    #[must_use]
    pub fn said(&self, id: &str) -> Said {
        let deleted = self.deleted.contains_key(id);
        match self.added.iter().find(|target| target.id == id) {
            Some(target) => Said::Added { target: target.clone(), instead: deleted },
            None if deleted => Said::Deleted,
            None => Said::Given,
        }
    }

    /// Does what was said to the other node, whatever was said here before. Nothing where the file or the discovery has made it pointless here.
    ///
    /// A target whose address is another one's here waits until it is free, for what is said of that one may come later: words come in any
    /// order. Of two that were added at one address while the nodes did not hear each other, both nodes have the same one then.
    ///
    /// # Errors
    /// [`RosterError::Full`] when there is no room; then all is as it was.
    pub fn heed(&mut self, file: &[Target], id: &str, said: &Said) -> Result<(), RosterError> {
        let mut next = self.clone();
        let given = file.iter().chain(&self.discovered).any(|target| target.id == id);
        next.added.retain(|target| target.id != id);
        match said {
            Said::Given => {
                next.deleted.remove(id);
            }
            Said::Deleted => next.mark_deleted(id, given)?,
            Said::Added { instead: false, .. } if given && !self.deleted.contains_key(id) => return Ok(()),
            Said::Added { target, instead } => {
                if *instead {
                    next.mark_deleted(id, given)?;
                }
                next.push(target.clone(), HEEDED_MAX)?;
            }
        }
        *self = next;
        Ok(())
    }

    fn mark_deleted(&mut self, id: &str, given: bool) -> Result<(), RosterError> {
        // Those that are met are no more than there are targets.
        let unmet = self.deleted.values().filter(|met| !**met).count();
        if !given && unmet >= ADDED_MAX && !self.deleted.contains_key(id) {
            return Err(RosterError::Full);
        }
        *self.deleted.entry(id.to_owned()).or_default() |= given;
        Ok(())
    }

    /// Adds a target.
    ///
    /// # Errors
    /// [`RosterError`] when its name or address is taken, or too many were added.
    pub fn add(&mut self, file: &[Target], target: Target) -> Result<(), RosterError> {
        self.fits(file, &target)?;
        if self.added.iter().any(|known| known.id == target.id) {
            // It waits for its address.
            return Err(RosterError::IdTaken { id: target.id });
        }
        // One that is back as it was needs no place of its own.
        if file.contains(&target) && self.deleted.remove(&target.id).is_some() {
            return Ok(());
        }
        self.push(target, ADDED_MAX)
    }

    fn fits(&self, file: &[Target], target: &Target) -> Result<(), RosterError> {
        for other in self.merge(file) {
            if other.id == target.id {
                return Err(RosterError::IdTaken { id: other.id });
            }
            if other.address == target.address {
                return Err(RosterError::AddressTaken { address: target.address, id: other.id });
            }
        }
        Ok(())
    }

    fn push(&mut self, target: Target, max: usize) -> Result<(), RosterError> {
        if self.added.len() >= max {
            return Err(RosterError::Full);
        }
        // Whoever of the two nodes was told first, both have them in the same order.
        let place = self.added.partition_point(|known| known.id < target.id);
        self.added.insert(place, target);
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
        if given && !self.deleted.contains_key(id) {
            self.deleted.insert(id.to_owned(), true);
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
