//! Health checks: one task on the control runtime for each checked target.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use common::config::{Health, HealthCheck};
use lbd_core::http_check::{AnswerError, HEAD_BYTES_MAX, judge, request};
use lbd_core::target::TargetKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::unix_now;
use crate::shared::Shared;
use crate::snapshot::{LastCheck, Snapshot, Target};

/// The running checks.
#[derive(Debug, Default)]
pub(crate) struct Prober {
    tasks: HashMap<TargetKey, Task>,
}

#[derive(Debug)]
struct Task {
    health: Health,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("this daemon has no such check")]
    Unknown,
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("cannot send the request: {0}")]
    Send(std::io::Error),
    #[error("cannot read the answer: {0}")]
    Read(std::io::Error),
    #[error("{0}")]
    Answer(#[from] AnswerError),
    #[error("no result within {0:?}")]
    Timeout(Duration),
}

impl Prober {
    /// Checks what `snapshot` says from now on. Checks that stay the same go on in their rhythm; new ones begin at once.
    pub(crate) fn update(&mut self, shared: &Arc<Shared>, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.tasks);
        for group in &snapshot.groups {
            let Some(health) = &group.config.health else { continue };
            for target in &group.targets {
                let task =
                    before.remove(&target.key).filter(|task| task.health == *health).unwrap_or_else(|| {
                        Task {
                            health: health.clone(),
                            handle: tokio::spawn(check_forever(
                                Arc::clone(shared),
                                Arc::clone(target),
                                health.clone(),
                            )),
                        }
                    });
                self.tasks.insert(target.key.clone(), task);
            }
        }
    }
}

async fn check_forever(shared: Arc<Shared>, target: Arc<Target>, health: Health) {
    let jitter = RandomState::new();
    let mut round = 0_u64;
    loop {
        let begin = Instant::now();
        let failure = check(&target, &health).await.err().map(|error| error.to_string());
        let last = LastCheck { failure: failure.clone(), latency: begin.elapsed(), at: unix_now() };
        if let Some(state) = target.record_check(last) {
            match failure {
                None => tracing::info!(target = %target.key, "target is {}", state.name()),
                Some(failure) => {
                    tracing::warn!(target = %target.key, failure, "target is {}", state.name());
                }
            }
            shared.health_changed.notify_one();
        }
        round += 1;
        tokio::time::sleep_until(begin + spread(health.interval, jitter.hash_one(round))).await;
    }
}

/// The interval, moved by up to a tenth either way, so that the checks of many targets don't fall together.
fn spread(interval: Duration, random: u64) -> Duration {
    let fifth = u64::try_from(interval.as_nanos() / 5).unwrap_or(u64::MAX).max(1);
    interval - interval / 10 + Duration::from_nanos(random % fifth)
}

async fn check(target: &Target, health: &Health) -> Result<(), CheckError> {
    let once = async {
        let mut stream = TcpStream::connect(target.key.address).await.map_err(CheckError::Connect)?;
        match &health.check {
            HealthCheck::Tcp => Ok(()),
            HealthCheck::Http { path, host, expect, .. } => {
                let host = host.clone().unwrap_or_else(|| target.key.address.to_string());
                stream.write_all(&request(path, &host)).await.map_err(CheckError::Send)?;
                read_answer(&mut stream, expect).await
            }
            HealthCheck::Tls { .. } | HealthCheck::Grpc { .. } | HealthCheck::Udp { .. } => {
                Err(CheckError::Unknown)
            }
        }
    };
    tokio::time::timeout(health.timeout, once).await.map_err(|_| CheckError::Timeout(health.timeout))?
}

async fn read_answer(stream: &mut TcpStream, expect: &[(u16, u16)]) -> Result<(), CheckError> {
    let mut head = Vec::with_capacity(1024);
    loop {
        let room = u64::try_from(HEAD_BYTES_MAX - head.len()).unwrap_or(0);
        let count = (&mut *stream).take(room).read_buf(&mut head).await.map_err(CheckError::Read)?;
        if let Some(verdict) = judge(&head, count == 0, expect) {
            return Ok(verdict?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let interval = Duration::from_millis(100);
        for random in [0, 1, 7_777_777, u64::MAX] {
            let spread = spread(interval, random);
            assert!(spread >= interval * 9 / 10 && spread <= interval * 11 / 10, "{spread:?}");
        }
    }
}
