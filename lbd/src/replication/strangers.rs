//! What an entry of the other node's needs to have a place here, and whether it has.

use lbd_core::replication::{Entry, Name, Replica};

use super::clients;
use crate::snapshot::Snapshot;

/// Why an entry has no place here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It is about something that this node does not have.
    Unknown,
    /// It says what cannot be.
    Invalid,
}

/// What an entry of the other node's would need here to have a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stranger {
    /// The target.
    Target(Name),
    /// Its group.
    Group(Name),
    /// A group whose clients are remembered, and the target in it.
    Sticky(Name, Name),
    /// A service with sessions, and the target in its group.
    Session(Name, Name),
    /// A service whose rate is the pair's, for all clients or for each.
    Rate(Name, bool),
}

impl Stranger {
    /// Of an entry that has no place; none for one whose names nobody knows any more.
    pub(super) fn of(replica: &Replica, entry: &Entry) -> Option<Self> {
        let name = |id| replica.name_of(id).cloned();
        Some(match *entry {
            // They are the kernel's to look for.
            Entry::Flow(_) => return None,
            Entry::Sticky { group, target, .. } => Self::Sticky(name(group)?, name(target)?),
            Entry::UdpSession { service, target, .. } => Self::Session(name(service)?, name(target)?),
            Entry::Rate { service, source, .. } => Self::Rate(name(service)?, clients::is_of_all(source)),
            Entry::Target { target, .. } | Entry::Health { target, .. } => Self::Target(name(target)?),
            Entry::Member { target, .. } => match name(target)? {
                Name::Target { group, .. } => Self::Group(Name::Group(group)),
                Name::Service(_) | Name::Group(_) | Name::Zone(_) | Name::Ring(_) => return None,
            },
        })
    }

    pub(super) fn has_place(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Target(name) | Self::Group(name) => knows(snapshot, name),
            Self::Sticky(group, target) => clients::sticky_place(snapshot, Some(group), Some(target)).is_ok(),
            Self::Session(service, target) => {
                clients::session_place(snapshot, Some(service), Some(target)).is_ok()
            }
            Self::Rate(service, of_all) => clients::has_rate(snapshot, service, *of_all),
        }
    }
}

/// Whether a name is one of this node's.
pub(super) fn knows(snapshot: &Snapshot, name: &Name) -> bool {
    match name {
        Name::Service(name) => snapshot.services.iter().any(|service| *service.config.name == **name),
        Name::Group(name) => snapshot.group(name).is_some(),
        Name::Target { group, id } => {
            let targets = snapshot.group(group).map(|group| group.targets.as_slice()).unwrap_or_default();
            targets.iter().any(|target| *target.key.id == **id)
        }
        // Whoever is in it has it.
        Name::Zone(_) | Name::Ring(_) => false,
    }
}
