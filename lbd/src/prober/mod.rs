//! Active health checks: one task on the control runtime for each checked target.
//!
//! What is sent, how answers are judged and when the next check is due is decided in `lbd_core::check`. Each check ends by its
//! time-out or by a bound on what is read, whatever the other end does; nothing of it is left behind: its socket is closed
//! with a reset, so that no check leaves a connection in TIME_WAIT, however often it is made.

mod grpc;
mod http;
mod stream;
mod tls;
mod udp;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::config::{Config, Health, HealthCheck, ProxyVersion};
use lbd_core::check::{Failure, Reason, Schedule, Stage, Verdict};
use lbd_core::target::TargetKey;
use rustls::ClientConfig;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub(crate) use tls::UnusableCheck;

use stream::Destination;

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
    /// What connections to the targets begin with.
    send_proxy: Option<ProxyVersion>,
    /// For TLS: how, and the CA file that was read for it.
    tls: Option<(Arc<ClientConfig>, Option<Vec<u8>>)>,
}

#[derive(Debug)]
struct Task {
    check: Arc<Check>,
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
    for health in config.target_groups.iter().filter_map(|group| group.health.as_ref()) {
        Check::new(health, None)?;
        match &health.check {
            HealthCheck::Tls { host: Some(host), .. }
            | HealthCheck::Http { tls: true, host: Some(host), .. } => {
                tls::server_name(host)?;
            }
            HealthCheck::Grpc { host: Some(host), .. } => drop(grpc::uri(host)?),
            _ => {}
        }
    }
    Ok(())
}

impl Prober {
    /// Checks what `snapshot` says from now on. Checks that stay the same go on in their rhythm; new ones begin within a quarter of
    /// a second.
    pub(crate) fn update(&mut self, shared: &Arc<Shared>, snapshot: &Snapshot) {
        let mut tasks_before = std::mem::take(&mut self.tasks);
        let mut checks_before = std::mem::take(&mut self.checks);
        let mut fresh = Vec::new();
        for group in &snapshot.groups {
            let Some(health) = &group.config.health else { continue };
            let before = checks_before.remove(&group.config.name);
            let check = Check::current(health, group.config.send_proxy, before);
            for target in &group.targets {
                match tasks_before.remove(&target.key).filter(|task| Arc::ptr_eq(&task.check, &check)) {
                    Some(task) => drop(self.tasks.insert(target.key.clone(), task)),
                    None => fresh.push((Arc::clone(target), Arc::clone(&check))),
                }
            }
            self.checks.insert(group.config.name.clone(), check);
        }
        let count = fresh.len();
        for (position, (target, check)) in fresh.into_iter().enumerate() {
            let key = target.key.clone();
            let seed = self.seeds.hash_one(&key);
            let (interval, unhealthy) = (check.health.interval, check.health.unhealthy_interval);
            let rhythm = Rhythm {
                schedule: Schedule::new(interval, unhealthy, seed),
                first: Schedule::new(interval, unhealthy, seed).first(position, count),
                room: Arc::clone(&self.room),
            };
            let probe = Probe::new(&check, target.key.address);
            let handle = tokio::spawn(check_forever(Arc::clone(shared), target, probe, rhythm));
            self.tasks.insert(key, Task { check, handle });
        }
    }
}

impl Check {
    fn new(health: &Health, send_proxy: Option<ProxyVersion>) -> Result<Self, UnusableCheck> {
        let (ca_file, alpn) = match &health.check {
            HealthCheck::Tls { ca_file, .. } => (ca_file, None),
            HealthCheck::Http { tls: true, ca_file, .. } => (ca_file, Some("http/1.1")),
            _ => return Ok(Self { health: health.clone(), send_proxy, tls: None }),
        };
        let ca = ca_file.as_deref().map(tls::read).transpose()?;
        let config = match (&ca, ca_file) {
            (Some(pem), Some(path)) => tls::config_with_ca(pem, path, alpn)?,
            _ => tls::config_without_ca(alpn),
        };
        Ok(Self { health: health.clone(), send_proxy, tls: Some((config, ca)) })
    }

    /// The check of a group: the one of before as long as nothing about it has changed, its CA file included.
    fn current(health: &Health, send_proxy: Option<ProxyVersion>, before: Option<Arc<Self>>) -> Arc<Self> {
        let same = |before: &Arc<Self>| before.health == *health && before.send_proxy == send_proxy;
        match (Self::new(health, send_proxy), before.filter(same)) {
            (Ok(new), Some(before)) if new.ca() == before.ca() => before,
            (Ok(new), _) => Arc::new(new),
            // A configuration whose files cannot be used is refused, so it has become unusable since.
            (Err(error), Some(before)) => {
                tracing::warn!(%error, "the checks go on with what was read before");
                before
            }
            (Err(error), None) => {
                tracing::error!(%error, "targets cannot be checked");
                Arc::new(Self { health: health.clone(), send_proxy, tls: None })
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

async fn check_forever(shared: Arc<Shared>, target: Arc<Target>, probe: Probe, mut rhythm: Rhythm) {
    sleep(rhythm.first).await;
    let mut told = false;
    loop {
        let permit = permit(&shared.control.checks, &rhythm.room).await;
        let begin = Instant::now();
        let verdict = probe.run().await;
        drop(permit);
        if let Err(failure) = &verdict {
            shared.control.checks.failures[failure.reason().index()].add(1);
        }
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
                let failure = verdict.err().map(|failure| failure.to_string());
                let last = LastCheck { failure, latency: begin.elapsed(), at: unix_now() };
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

/// How one target is checked, prepared once.
#[derive(Debug)]
struct Probe {
    to: Destination,
    limit: Duration,
    how: How,
}

#[derive(Debug)]
enum How {
    Tcp,
    Tls(tls::Client),
    Http(http::Http),
    Grpc(grpc::Grpc),
    Udp(udp::Udp),
}

impl Probe {
    fn new(check: &Check, mut address: SocketAddr) -> Self {
        let health = &check.health;
        if let Some(port) = health.port {
            address.set_port(port);
        }
        let tls = |host: Option<&str>| tls::Client::new(check.tls.as_ref().map(|(it, _)| it), host, address);
        let or_address = |host: &Option<String>| host.clone().unwrap_or_else(|| address.to_string());
        let how = match &health.check {
            HealthCheck::Tcp => How::Tcp,
            HealthCheck::Tls { host, .. } => How::Tls(tls(host.as_deref())),
            HealthCheck::Http { tls: over_tls, path, host, expect, body, .. } => {
                let tls = over_tls.then(|| tls(host.as_deref()));
                How::Http(http::Http::new(path, &or_address(host), expect, body.as_deref(), tls))
            }
            HealthCheck::Grpc { service, host } => How::Grpc(grpc::Grpc::new(service, &or_address(host))),
            HealthCheck::Udp { payload, expect } => {
                How::Udp(udp::Udp { payload: payload.clone(), expect: expect.clone() })
            }
        };
        // Another port may well belong to another program, which does not expect a header.
        let send_proxy = check.send_proxy.filter(|_| health.port.is_none());
        Self { to: Destination { address, send_proxy }, limit: health.timeout, how }
    }

    async fn run(&self) -> Verdict {
        let mut stage = Stage::Connect;
        let verdict = timeout(self.limit, self.run_unlimited(&mut stage)).await;
        verdict.unwrap_or(Err(Failure::Timeout(stage, self.limit)))
    }

    async fn run_unlimited(&self, stage: &mut Stage) -> Verdict {
        match &self.how {
            How::Udp(udp) => udp.run(self.to.address, stage).await,
            How::Tcp => stream::connect(self.to).await.map(drop),
            How::Tls(client) => client.run(self.to, stage).await,
            How::Http(http) => http.run(self.to, stage).await,
            How::Grpc(grpc) => grpc.run(self.to, stage).await,
        }
    }
}

#[cfg(test)]
mod tests;
