//! The load: programs that others use, and clients of our own.

mod tls;
mod visits;
mod websockets;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(super) use visits::{Kind, visits};
pub(super) use websockets::websockets;

use crate::bench_tcp::load::{Meter, Stretch};
use crate::lab::error::{Context, LabError, Result};
use crate::lab::load::Done;
use crate::lab::netns::Namespace;
use crate::lab::{certificate, load};

/// The one way in which all of them encrypt.
const SUITE: &str = "TLS_AES_128_GCM_SHA256";
const GROUP: &str = "X25519";
/// A server that is silent for so long has failed; `h2load` would wait for ever.
const SILENCE_LIMIT: &str = "-N10s";

/// Has `wrk` ask for so many seconds on so many connections.
pub(super) fn wrk(
    client: &Namespace,
    address: SocketAddr,
    path: &str,
    (connections, seconds): (u32, u32),
    meter: Meter<'_>,
) -> Result<Stretch> {
    let connections = format!("-c{connections}");
    let (seconds, url) = (format!("-d{seconds}s"), format!("http://{address}{path}"));
    measured(client, "wrk", &["-t1", &connections, &seconds, &url], meter, load::wrk)
}

/// Has `h2load` make so many requests on one connection with TLS, so many at a time.
pub(super) fn h2load(
    client: &Namespace,
    address: SocketAddr,
    (requests, streams): (u64, u32),
    meter: Meter<'_>,
) -> Result<Stretch> {
    let (requests, streams) = (format!("-n{requests}"), format!("-m{streams}"));
    let (suites, groups) = (format!("--tls13-ciphers={SUITE}"), format!("--groups={GROUP}"));
    let authority = format!(":authority: {}", certificate::NAME);
    let url = format!("https://{address}{}", super::target::SMALL_PATH);
    let arguments =
        ["-c1", "-t1", SILENCE_LIMIT, &requests, &streams, &suites, &groups, "-H", &authority, &url];
    measured(client, "h2load", &arguments, meter, load::h2load)
}

/// Runs a program, none of whose requests may fail.
fn measured(
    client: &Namespace,
    program: &str,
    arguments: &[&str],
    meter: Meter<'_>,
    understand: fn(&str) -> Option<Done>,
) -> Result<Stretch> {
    let doing = || "reading the proxy's processor time".to_owned();
    let (begin, before) = (Instant::now(), meter().doing(doing)?);
    let text = client.run(program, arguments)?;
    let (took, processor) = (begin.elapsed(), meter().doing(doing)?.saturating_sub(before));
    let asked = || format!("{program} {}", arguments.join(" "));
    let done = understand(&text).ok_or_else(|| LabError::Answer { asked: asked(), answer: text })?;
    Ok(Stretch { count: done.requests, wall: wall(&done, took), processor })
}

/// How long the requests took: less than the program, which also had to begin and to end.
#[expect(clippy::cast_precision_loss, reason = "there are far less than 2^52 requests")]
fn wall(done: &Done, took: Duration) -> Duration {
    let seconds = done.requests as f64 / done.per_second;
    Duration::try_from_secs_f64(seconds).map_or(took, |wall| wall.min(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_requests_is_theirs_and_not_the_programs() {
        let wall = |requests, per_second| wall(&Done { requests, per_second }, Duration::from_millis(2300));
        assert_eq!(wall(40_000, 20_000.0), Duration::from_secs(2));
        assert_eq!(wall(40_000, 1.0), Duration::from_millis(2300));
        assert_eq!(wall(0, 0.0), Duration::from_millis(2300));
    }
}
