//! Numbers of names, so that an entry that is told costs no new string.

use std::collections::HashMap;

use lbd_core::replication::{Name, NameId, Replica};

/// The numbers that have been asked for; none for a name that got none.
#[derive(Debug, Default)]
pub(super) struct Ids {
    groups: HashMap<String, Option<NameId>>,
    services: HashMap<String, Option<NameId>>,
    targets: HashMap<String, HashMap<String, Option<NameId>>>,
}

impl Ids {
    /// A target group's.
    pub(super) fn group(&mut self, replica: &mut Replica, group: &str) -> Option<NameId> {
        if let Some(known) = self.groups.get(group) {
            return *known;
        }
        let id = replica.name(Name::Group(group.into())).ok();
        self.groups.insert(group.to_owned(), id);
        id
    }

    /// A service's.
    pub(super) fn service(&mut self, replica: &mut Replica, service: &str) -> Option<NameId> {
        if let Some(known) = self.services.get(service) {
            return *known;
        }
        let id = replica.name(Name::Service(service.into())).ok();
        self.services.insert(service.to_owned(), id);
        id
    }

    /// A target's.
    pub(super) fn target(&mut self, replica: &mut Replica, group: &str, target: &str) -> Option<NameId> {
        if let Some(known) = self.targets.get(group).and_then(|targets| targets.get(target)) {
            return *known;
        }
        let id = replica.name(Name::Target { group: group.into(), id: target.into() }).ok();
        self.targets.entry(group.to_owned()).or_default().insert(target.to_owned(), id);
        id
    }

    /// They are given anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
