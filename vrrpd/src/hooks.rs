//! Hooks: the programs an operator wants run when an instance changes its role.
//!
//! A virtual router changes its role by address family, a hook is about the *instance*: its role is that of its routers
//! if they agree, else `fault` if one is, else `backup`. Hooks run in the order of the changes, one at a time for the
//! whole daemon, on a thread of their own: the real-time loop never waits for them, and a role never depends on how one
//! ends. Leaving `active` for `init` (the daemon stops, or the instance is taken out of the configuration) runs
//! `on_backup` with `TANDEM_ROLE=init`, so that whatever `on_active` took is let go.
//!
//! A hook is run without a shell, with standard input closed, in a process group of its own that is killed whole when
//! `timeout` passes. Its output is logged, at most [`OUTPUT_MAX`] bytes of it. Its environment is the daemon's, and:
//!
//! | variable | value |
//! |---|---|
//! | `TANDEM_INSTANCE` | the instance's name |
//! | `TANDEM_ROLE` | `active`, `backup`, `fault` or `init` |
//! | `TANDEM_PREVIOUS_ROLE` | the role before; if changes in between were dropped, the one before those |
//! | `TANDEM_NODE` | this node's name |
//! | `TANDEM_FENCE` | grows with every change: Unix time in nanoseconds, for fencing a shared resource |
//! | `TANDEM_VIPS` | the virtual IPs with prefix lengths, separated by spaces |
//!
//! Hooks inherit what the daemon is confined to: `no_new_privs`, so a set-user-id program such as `sudo` gains nothing,
//! and only the capabilities that the daemon kept for itself. A hook that must do more asks someone else to, for
//! instance a systemd unit that it starts.

mod queue;
mod runner;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::config::Config;
use common::ipc::Role;
use common::time::UnixTime;
use vrrpd_core::packet::Family;
use vrrpd_core::status::NodeStatus;

use queue::{Job, Queue};

pub use queue::{HookCounts, QUEUE_MAX};
pub use runner::OUTPUT_MAX;

/// Tracks the roles and runs the hooks.
#[derive(Debug)]
pub struct Hooks {
    node: String,
    tracker: Mutex<Tracker>,
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Tracker {
    instances: HashMap<String, Instance>,
    fence: u64,
}

#[derive(Debug)]
struct Instance {
    hooks: common::config::Hooks,
    vips: String,
    roles: Vec<(Family, Role)>,
    told: Role,
}

impl Hooks {
    /// Starts the thread that runs hooks.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn start(node: &str, config: &Config) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let hooks = Self { node: node.to_owned(), tracker: Mutex::default(), queue: Arc::clone(&queue) };
        hooks.configure(config);
        std::thread::Builder::new().name("hooks".to_owned()).spawn(move || runner::run(&queue))?;
        Ok(hooks)
    }

    /// Takes over the hooks and instances of a configuration; roles of instances that stay are kept.
    pub fn configure(&self, config: &Config) {
        let mut tracker = self.tracker();
        let mut former = std::mem::take(&mut tracker.instances);
        for vrrp in &config.vrrp {
            let mut families: Vec<_> = vrrp.vips.iter().map(|vip| Family::of(vip.addr())).collect();
            families.sort_unstable_by_key(|family| family.name());
            families.dedup();
            let vips: Vec<_> = vrrp.vips.iter().map(ToString::to_string).collect();
            let known = former.remove(&vrrp.name);
            let role_of = |family: Family| {
                let roles = known.as_ref().map_or(&[][..], |known| &known.roles);
                roles.iter().find(|(other, _)| *other == family).map_or(Role::Init, |(_, role)| *role)
            };
            let roles = families.into_iter().map(|family| (family, role_of(family))).collect();
            let told = known.as_ref().map_or(Role::Init, |known| known.told);
            let hooks = vrrp.hooks.clone();
            tracker
                .instances
                .insert(vrrp.name.clone(), Instance { hooks, vips: vips.join(" "), roles, told });
        }
        // An instance that is gone keeps its hooks until its last role change, which is still to come.
        former.retain(|_, gone| gone.told != Role::Init);
        tracker.instances.extend(former);
    }

    /// Notes that a virtual router changed its role, and queues a hook if the instance did.
    pub fn role_changed(&self, instance: &str, family: Family, to: Role, at: UnixTime) {
        let mut tracker = self.tracker();
        let Some(known) = tracker.instances.get_mut(instance) else { return };
        match known.roles.iter_mut().find(|(other, _)| *other == family) {
            Some((_, role)) => *role = to,
            None => known.roles.push((family, to)),
        }
        self.tell(&mut tracker, instance, at);
    }

    /// Compares with the loop's state, for when events were dropped.
    pub fn resync(&self, status: &NodeStatus, at: UnixTime) {
        for instance in &status.instances {
            for router in &instance.routers {
                self.role_changed(&instance.name, router.family, router.role, at);
            }
        }
    }

    /// What happened to the hooks so far.
    #[must_use]
    pub fn counts(&self) -> HookCounts {
        self.queue.counts()
    }

    /// Waits until every queued hook has run, at most `wait`; after that the running one is killed and the others are
    /// forgotten. `false` if that was needed.
    #[must_use]
    pub fn finish(&self, wait: Duration) -> bool {
        self.queue.finish(Instant::now() + wait)
    }

    fn tell(&self, tracker: &mut Tracker, name: &str, at: UnixTime) {
        let Some(instance) = tracker.instances.get_mut(name) else { return };
        let role = combined(&instance.roles);
        let previous = std::mem::replace(&mut instance.told, role);
        if role == previous {
            return;
        }
        // The wall clock may step back, the fence must not.
        tracker.fence = at.as_nanos().max(tracker.fence + 1);
        let program = match role {
            Role::Active => &instance.hooks.on_active,
            Role::Backup => &instance.hooks.on_backup,
            Role::Fault => &instance.hooks.on_fault,
            Role::Init if previous == Role::Active => &instance.hooks.on_backup,
            Role::Init => return,
        };
        let job = Job {
            program: program.clone(),
            timeout: instance.hooks.timeout,
            instance: name.to_owned(),
            role,
            previous,
            node: self.node.clone(),
            fence: tracker.fence,
            vips: instance.vips.clone(),
        };
        self.queue.push(job);
    }

    fn tracker(&self) -> MutexGuard<'_, Tracker> {
        // Consistent after every statement that could panic.
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn combined(roles: &[(Family, Role)]) -> Role {
    let Some((_, first)) = roles.first() else { return Role::Init };
    if roles.iter().all(|(_, role)| role == first) {
        *first
    } else if roles.iter().any(|(_, role)| *role == Role::Fault) {
        Role::Fault
    } else {
        Role::Backup
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_active_only_when_all_its_routers_are() {
        let roles = |v4, v6| combined(&[(Family::V4, v4), (Family::V6, v6)]);
        assert_eq!(roles(Role::Active, Role::Active), Role::Active);
        assert_eq!(roles(Role::Active, Role::Backup), Role::Backup);
        assert_eq!(roles(Role::Active, Role::Fault), Role::Fault);
        assert_eq!(combined(&[]), Role::Init);
    }
}
