//! Roles are told consistently and kept to: each change starts from the former role, only an active node advertises,
//! with a priority no higher than configured, and a node at rest holds the addresses if and only if it is active.

use common::ipc::Role;

use super::{Checker, name};
use crate::sim::view::{Seen, View};

pub(super) struct Roles {
    roles: Vec<[Role; 2]>,
}

impl Roles {
    pub(super) fn new(routers: usize) -> Self {
        Self { roles: vec![[Role::Init; 2]; routers] }
    }

    fn change(
        &mut self,
        view: &View,
        host: usize,
        router: usize,
        from: Role,
        to: Role,
    ) -> Result<(), String> {
        let was = std::mem::replace(&mut self.roles[router][host], to);
        if was == from && from != to {
            return Ok(());
        }
        Err(format!(
            "node {} reports that it went from {} to {} for {}, but it was {}",
            name(host),
            from.name(),
            to.name(),
            view.routers[router].name,
            was.name()
        ))
    }
}

impl Checker for Roles {
    fn name(&self) -> &'static str {
        "roles"
    }

    fn seen(&mut self, view: &View, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Role { host, router, from, to, .. } => self.change(view, host, router, from, to),
            Seen::Gone(host) => {
                for roles in &mut self.roles {
                    roles[host] = Role::Init;
                }
                Ok(())
            }
            Seen::AdvertDecided { host, router, priority, configured, roles: (before, after) } => {
                let active = before == Role::Active || (priority != 0 && after == Role::Active);
                if active && priority <= configured {
                    return Ok(());
                }
                Err(format!(
                    "node {} advertises {} with priority {priority} (configured: {configured}) while it is {}",
                    name(host),
                    view.routers[router].name,
                    before.name()
                ))
            }
            Seen::AtRest { host, router, wrong } if !wrong.is_empty() => {
                let side = view.routers[router].sides[host];
                // What somebody else removed is put back a little later.
                if side.role == Role::Active && !side.serves {
                    return Ok(());
                }
                Err(format!(
                    "node {} is {} for {}, but holds or lacks {wrong}",
                    name(host),
                    side.role.name(),
                    view.routers[router].name
                ))
            }
            _ => Ok(()),
        }
    }
}
