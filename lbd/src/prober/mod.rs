//! Active health checks: one task on the control runtime for each checked target.
//!
//! What is sent, how answers are judged and when the next check is due is decided in `lbd_core::check`. Each check ends by its
//! time-out or by a bound on what is read, whatever the other end does; nothing of it is left behind: its socket is closed
//! with a reset, so that no check leaves a connection in TIME_WAIT, however often it is made.

mod client;
mod grpc;
mod http;
mod http2;
mod probe;
mod stream;
mod tls;
mod udp;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::config::{Config, Health, HealthCheck, ProxyVersion, TargetGroup};
use lbd_core::check::{Failure, Reason, Schedule};
use lbd_core::target::TargetKey;
use rustls::ClientConfig;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

pub(crate) use tls::UnusableCheck;

use probe::Probe;

use crate::clock::unix_now;
use crate::counters::Counter;
use crate::shared::Shared;
use crate::snapshot::{LastCheck, Snapshot, Target};

/// Checks that may be under way at the same time. One that is due beyond that waits for its turn, first come, first served, without
/// using up its time-out, and is counted: a target has at most one check waiting or under way, so none is left out.
const UNDER_WAY_MAX: usize = 256;

/// What is counted of all checks. Written by the control runtime.
#[derive(Debug, Default)]
pub(crate) struct CheckCounters {
    /// Checks that had to wait because too many were under way.
    pub(crate) delayed: Counter,
    /// Checks that failed, by [`Reason`].
    pub(crate) failures: [Counter; Reason::COUNT],
}

/// The running checks.
#[derive(Debug)]
pub(crate) struct Prober {
    tasks: HashMap<TargetKey, Task>,
    checks: HashMap<String, Arc<Check>>,
    room: Arc<Semaphore>,
    seeds: RandomState,
}

/// What the targets of a group are checked with.
#[derive(Debug)]
struct Check {
    health: Health,
    manner: Manner,
    /// For TLS: how, and the CA file that was read for it.
    tls: Option<(Arc<ClientConfig>, Option<Vec<u8>>)>,
}

/// How a group's targets expect to be spoken to. Another port may well belong to another program, which expects none of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Manner {
    /// What connections begin with.
    send_proxy: Option<ProxyVersion>,
    /// Whether HTTP/2 is spoken.
    http2: bool,
}

impl Manner {
    fn of(group: &TargetGroup, health: &Health) -> Self {
        let own_port = health.port.is_none();
        Self { send_proxy: group.send_proxy.filter(|_| own_port), http2: group.http2 && own_port }
    }
}

#[derive(Debug)]
struct Task {
    check: Arc<Check>,
    /// The virtual IP that it is checked through.
    vip: Option<IpAddr>,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Default for Prober {
    fn default() -> Self {
        Self {
            tasks: HashMap::new(),
            checks: HashMap::new(),
            room: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            seeds: RandomState::new(),
        }
    }
}

/// Whether the checks of `config` can be made: what only this daemon, and not the configuration by itself, can tell.
///
/// # Errors
/// The first one that cannot.
pub(crate) fn check_config(config: &Config) -> Result<(), UnusableCheck> {
    problems(config).next().map_or(Ok(()), Err)
}

/// The same, and all that cannot.
pub(crate) fn problems(config: &Config) -> impl Iterator<Item = UnusableCheck> {
    let checks = config.target_groups.iter().filter_map(|group| Some((group, group.health.as_ref()?)));
    checks.filter_map(|(group, health)| is_usable(health, Manner::of(group, health)).err())
}

fn is_usable(health: &Health, manner: Manner) -> Result<(), UnusableCheck> {
    Check::new(health, manner)?;
    if let HealthCheck::Http { tls, path, host, .. } = &health.check
        && manner.http2
    {
        http2::uri(host.as_deref().unwrap_or("localhost"), *tls, path)?;
    }
    match &health.check {
        HealthCheck::Tls { host: Some(host), .. } | HealthCheck::Http { tls: true, host: Some(host), .. } => {
            tls::server_name(host)?;
        }
        HealthCheck::Grpc { tls, host: Some(host), .. } => {
            http2::uri(host, *tls, lbd_core::check::grpc::PATH)?;
            if *tls {
                tls::server_name(host)?;
            }
        }
        _ => {}
    }
    Ok(())
}

impl Prober {
    /// Checks what `snapshot` says from now on. Checks that stay the same go on in their rhythm; new ones begin within a quarter of
    /// a second. With `reread`, as on a reload, the files that checks need are read again.
    pub(crate) fn update(&mut self, shared: &Arc<Shared>, snapshot: &Snapshot, reread: bool) {
        let mut tasks_before = std::mem::take(&mut self.tasks);
        let mut checks_before = std::mem::take(&mut self.checks);
        let mut fresh = Vec::new();
        for group in &snapshot.groups {
            let Some(health) = &group.config.health else { continue };
            let before = checks_before.remove(&group.config.name);
            let check = Check::current(health, Manner::of(&group.config, health), before, reread);
            for target in &group.targets {
                let through = snapshot.config.checked_through(&group.config, target.key.address);
                let vip = through.map(|(_, listen)| listen.address.ip());
                let same = |task: &Task| Arc::ptr_eq(&task.check, &check) && task.vip == vip;
                match tasks_before.remove(&target.key).filter(same) {
                    Some(task) => drop(self.tasks.insert(target.key.clone(), task)),
                    None => fresh.push((Arc::clone(target), Arc::clone(&check), vip)),
                }
            }
            self.checks.insert(group.config.name.clone(), check);
        }
        let count = fresh.len();
        for (position, (target, check, vip)) in fresh.into_iter().enumerate() {
            let key = target.key.clone();
            let seed = self.seeds.hash_one(&key);
            let (interval, unhealthy) = (check.health.interval, check.health.unhealthy_interval);
            let rhythm = Rhythm {
                schedule: Schedule::new(interval, unhealthy, seed),
                first: Schedule::new(interval, unhealthy, seed).first(position, count),
                room: Arc::clone(&self.room),
            };
            let way = vip.map(|vip| (vip, shared.kernel.check_of(&key)));
            let probe = Probe::new(&check, target.key.address, way);
            let handle = tokio::spawn(check_forever(Arc::clone(shared), target, probe, rhythm));
            self.tasks.insert(key, Task { check, vip, handle });
        }
    }
}

impl Check {
    fn new(health: &Health, manner: Manner) -> Result<Self, UnusableCheck> {
        let (ca_file, alpn) = match &health.check {
            HealthCheck::Tls { ca_file, .. } => (ca_file, None),
            HealthCheck::Http { tls: true, ca_file, .. } if manner.http2 => (ca_file, Some("h2")),
            HealthCheck::Http { tls: true, ca_file, .. } => (ca_file, Some("http/1.1")),
            HealthCheck::Grpc { tls: true, ca_file, .. } => (ca_file, Some("h2")),
            _ => return Ok(Self { health: health.clone(), manner, tls: None }),
        };
        let ca = ca_file.as_deref().map(tls::read).transpose()?;
        let config = match (&ca, ca_file) {
            (Some(pem), Some(path)) => tls::config_with_ca(pem, path, alpn)?,
            _ => tls::config_without_ca(alpn),
        };
        Ok(Self { health: health.clone(), manner, tls: Some((config, ca)) })
    }

    /// The check of a group: the one of before as long as nothing about it has changed, its CA file included.
    fn current(health: &Health, manner: Manner, before: Option<Arc<Self>>, reread: bool) -> Arc<Self> {
        let same = |before: &Arc<Self>| before.health == *health && before.manner == manner;
        let before = match before.filter(same) {
            Some(before) if !reread => return before,
            before => before,
        };
        match (Self::new(health, manner), before) {
            (Ok(new), Some(before)) if new.ca() == before.ca() => before,
            (Ok(new), _) => Arc::new(new),
            // A configuration whose files cannot be used is refused, so it has become unusable since.
            (Err(error), Some(before)) => {
                tracing::warn!(%error, "the checks go on with what was read before");
                before
            }
            (Err(error), None) => {
                tracing::error!(%error, "targets cannot be checked");
                Arc::new(Self { health: health.clone(), manner, tls: None })
            }
        }
    }

    fn ca(&self) -> Option<&[u8]> {
        self.tls.as_ref().and_then(|(_, ca)| ca.as_deref())
    }
}

/// When a target is checked.
#[derive(Debug)]
struct Rhythm {
    schedule: Schedule,
    first: Duration,
    room: Arc<Semaphore>,
}

async fn check_forever(shared: Arc<Shared>, target: Arc<Target>, mut probe: Probe, mut rhythm: Rhythm) {
    sleep(rhythm.first).await;
    let mut told = false;
    loop {
        if let Err(failure) = probe.until_possible().await {
            if !std::mem::replace(&mut told, true) {
                shared.count_check(&target, Some(failure.reason()));
                tracing::error!(target = %target.key, "{failure}");
            }
            continue;
        }
        let permit = permit(&shared.control.checks, &rhythm.room).await;
        let begin = Instant::now();
        let (through, verdict) = probe.run().await;
        drop(permit);
        shared.count_check(&target, verdict.as_ref().err().map(Failure::reason));
        match verdict {
            // Says nothing about the target. One line for any number in a row.
            Err(failure) if failure.reason() == Reason::Local => {
                if !told {
                    tracing::error!(target = %target.key, "{failure}");
                }
                told = true;
            }
            verdict => {
                told = false;
                let failure = verdict.err().map(|failure| match through {
                    Some(vip) => format!("through {vip}: {failure}"),
                    None => failure.to_string(),
                });
                let last = LastCheck { failure, through, latency: begin.elapsed(), at: unix_now() };
                shared.record_check(&target, last);
            }
        }
        sleep_until(begin + rhythm.schedule.pause(target.health())).await;
    }
}

/// Waits until one more check may be under way.
async fn permit<'a>(counters: &CheckCounters, room: &'a Semaphore) -> Option<SemaphorePermit<'a>> {
    if let Ok(permit) = room.try_acquire() {
        return Some(permit);
    }
    counters.delayed.add(1);
    // It is never closed.
    room.acquire().await.ok()
}

#[cfg(test)]
mod tests;
