//! The programs that make the load, and what they print.

use std::fmt;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::busy::busy;
use super::network::{CLIENT_PROCESSOR, HTTP_PORT, IPERF_PORT, Network};
use super::{Load, Way};
use crate::lab::error::{Context, LabError};
use crate::lab::{Result, load};

/// What a load came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// Requests or bytes.
    pub(super) count: f64,
    pub(super) wall: Duration,
    /// Of the whole machine.
    pub(super) busy: Duration,
    /// That came to the hop, if there is one.
    pub(super) packets: Option<f64>,
}

impl Stretch {
    pub(super) fn per_second(&self) -> f64 {
        self.count / self.wall.as_secs_f64()
    }

    /// Nanoseconds of processor time of the whole machine for each.
    pub(super) fn busy_ns(&self) -> f64 {
        self.busy.as_secs_f64() * 1e9 / self.count
    }

    /// Packets that came to the hop for each; none without a hop, or if it saw nothing.
    pub(super) fn packets_each(&self) -> Option<f64> {
        self.packets.filter(|packets| *packets > 0.0).map(|packets| packets / self.count)
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}/s, {:.3} ns of the machine each", self.per_second(), self.busy_ns())?;
        self.packets.map_or(Ok(()), |packets| write!(f, ", {packets:.0} packets to the hop"))
    }
}

/// The programs that have to be there, and the package each comes from.
const PROGRAMS: [(&str, &str); 5] = [
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
];

/// The first program that is not installed.
#[must_use]
pub fn missing() -> Option<&'static str> {
    let installed = |program: &str| Command::new(program).arg("-v").output().is_ok();
    PROGRAMS.into_iter().find(|(program, _)| !installed(program)).map(|(_, package)| package)
}

/// All versions in one line.
#[must_use]
pub fn versions() -> String {
    let first_line = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.lines().next()?.trim().to_owned())
    };
    let lines = [first_line("nft", "--version"), first_line("haproxy", "-v"), first_line("uname", "-sr")];
    lines.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Runs a load on a way.
pub(super) fn measure(network: &Network, load: Load, way: Way, time: Duration) -> Result<Stretch> {
    let address = network.address(way);
    let arguments = match load {
        Load::Requests => wrk(address, time),
        Load::Upload => iperf(address, time),
        // The target sends, and what the client has got is told.
        Load::Download => [iperf(address, time), vec!["--reverse".to_owned()]].concat(),
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let doing = || "reading how busy the machine is".to_owned();
    let come = || network.hop(way).map(|hop| hop.passed().map(|[come, _]| come.packets)).transpose();
    let come_before = come()?;
    let (begun, before) = (Instant::now(), busy().doing(doing)?);
    let text = network.client().run("taskset", &arguments)?;
    let (wall, busy) = (begun.elapsed(), busy().doing(doing)?.saturating_sub(before));
    let packets = come()?.zip(come_before).map(|(after, before)| after.saturating_sub(before) as f64);
    let (count, own_wall) = match load {
        Load::Requests => load::wrk(&text).map(|done| (done.requests as f64, None)),
        Load::Upload | Load::Download => iperf_bytes(&text).map(|(bytes, seconds)| (bytes, Some(seconds))),
    }
    .ok_or_else(|| LabError::Answer {
        asked: format!("{} on the way {:?}", load.name(), way.name()),
        answer: text,
    })?;
    Ok(Stretch { count, wall: own_wall.map_or(wall, Duration::from_secs_f64), busy, packets })
}

fn wrk(address: IpAddr, time: Duration) -> Vec<String> {
    let url = format!("http://{address}:{HTTP_PORT}/");
    let (seconds, processor) = (format!("{}s", time.as_secs()), CLIENT_PROCESSOR);
    ["-c", processor, "wrk", "-t1", "-c64", "-d", &seconds, &url].map(str::to_owned).to_vec()
}

fn iperf(address: IpAddr, time: Duration) -> Vec<String> {
    let (address, port) = (address.to_string(), IPERF_PORT.to_string());
    let seconds = time.as_secs().to_string();
    let common = [
        "-c",
        CLIENT_PROCESSOR,
        "iperf3",
        "--json",
        "--client",
        &address,
        "--port",
        &port,
        "--time",
        &seconds,
    ];
    common.map(str::to_owned).to_vec()
}

#[derive(Deserialize)]
struct Iperf {
    end: IperfEnd,
}

#[derive(Deserialize)]
struct IperfEnd {
    sum_received: Option<IperfSum>,
}

#[derive(Deserialize)]
struct IperfSum {
    bytes: f64,
    seconds: f64,
}

fn iperf_bytes(text: &str) -> Option<(f64, f64)> {
    let sum = serde_json::from_str::<Iperf>(text).ok()?.end.sum_received?;
    (sum.bytes > 0.0).then_some((sum.bytes, sum.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_print_is_understood() {
        let bulk = r#"{"end":{"sum_received":{"bytes":500,"seconds":2.0}}}"#;
        assert_eq!(iperf_bytes(bulk), Some((500.0, 2.0)));
        assert_eq!(iperf_bytes(r#"{"error":"unable to connect","end":{}}"#), None);
    }
}
