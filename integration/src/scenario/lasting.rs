//! What lasts while roles move: connections that keep talking, downloads in progress and clients with datagrams, through services of each
//! mode.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pair::System;
use super::{PORT, Pair};
use crate::lab::addresses::vip4;
use crate::lab::clock::wait_until;
use crate::lab::config::PairConfig;
use crate::lab::error::Context;
use crate::lab::probe::{DownloadProbe, DownloadSettings, EchoSettings, exchange_datagram, sha256};
use crate::lab::{Lab, Result, Target};

/// Until the services are there.
const LIMIT: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(1);
/// The file that is downloaded.
const FILE: &str = "bulk";
/// Its length in MiB: what comes in 16 s of a [`DownloadProbe`]'s pace, or at once when it hurries.
pub const FILE_MIB: usize = 64;
/// How many targets [`add_services`] takes.
pub const TARGETS: u8 = 4;

/// How a service forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By a proxy, which ends the client's connection and makes another.
    Tcp,
    /// By a proxy that reads requests. A connection lasts here as a tunnel, which one of them has opened.
    Http,
    /// In the kernel, with addresses and ports rewritten.
    Nat,
    /// In the kernel, unchanged; the target answers the client itself.
    Dsr,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Http, Self::Nat, Self::Dsr];

    /// Its name, as in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Nat => "nat",
            Self::Dsr => "dsr",
        }
    }

    /// What a system of this kind does, and what that means for connections when roles move.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Tcp => {
                "a proxy ends the client's connection and makes one of its own to a target. Both live in the sockets of one node: \
                 after a planned move the other one sends it their packets, but nothing can save them when it dies."
            }
            Self::Http => {
                "a proxy reads the client's requests and makes its own to a target. The connections here are tunnels that a request \
                 has opened, as WebSockets are. With the download they live in the sockets of one node, as those of tcp do: a planned \
                 move asks only for the next request to come by a new connection, but nothing can save them when it dies."
            }
            Self::Nat => {
                "addresses and ports are rewritten, and back in the answers. The nodes tell each other of their \
                 connections, so whoever takes over goes on with them from the same ports."
            }
            Self::Dsr => {
                "packets go on to the target as they are, and it answers the client itself. Both nodes would choose the same \
                 target, so whoever has the virtual IP can go on with a connection."
            }
        }
    }

    /// The mode of the service that datagrams go through, as in the configuration; none for HTTP, which has none.
    #[must_use]
    pub const fn of_datagrams(self) -> Option<&'static str> {
        match self {
            Self::Tcp => Some("udp"),
            Self::Http => None,
            Self::Nat | Self::Dsr => Some(self.name()),
        }
    }

    /// The echo service, of connections and of datagrams: `dsr` leaves the port as it is.
    #[must_use]
    pub fn echo_server(self) -> SocketAddr {
        let port = match self {
            Self::Tcp => 7070,
            Self::Http => 7071,
            Self::Nat => 7007,
            Self::Dsr => 7,
        };
        SocketAddr::from((vip4(0), port))
    }

    /// Connections that keep talking through the echo service.
    #[must_use]
    pub fn echo_settings(self, connections: usize) -> EchoSettings {
        EchoSettings { tunnels: self == Self::Http, ..EchoSettings::new(self.echo_server(), connections) }
    }

    /// What echoes on a target.
    fn echo_address(self, target: &Target) -> SocketAddr {
        match self {
            Self::Http => target.tunnel_address(),
            Self::Tcp | Self::Nat | Self::Dsr => target.echo_address(),
        }
    }

    /// The service of the targets' nginx.
    #[must_use]
    pub fn http_server(self) -> SocketAddr {
        let port = match self {
            Self::Tcp => PORT,
            Self::Http => 8082,
            Self::Nat => 8081,
            Self::Dsr => 8080,
        };
        SocketAddr::from((vip4(0), port))
    }

    /// The first of its targets, and the one after the last. Who has the VIP for `dsr` takes no packet of `nat` from it.
    const fn target_numbers(self) -> Range<usize> {
        match self {
            Self::Tcp | Self::Http => 0..4,
            Self::Nat => 2..4,
            Self::Dsr => 0..2,
        }
    }

    /// Its targets in a lab.
    #[must_use]
    pub fn targets(self, lab: &Lab) -> &[Target] {
        &lab.targets()[self.target_numbers()]
    }

    /// The modes that a system has.
    #[must_use]
    pub const fn of(system: System) -> &'static [Self] {
        match system {
            System::Tandem => &Self::ALL,
            System::Rival => &[Self::Tcp],
            System::Conntrackd => &[Self::Nat],
        }
    }
}

/// Adds the services that a pair's configuration does not have anyway. Takes [`TARGETS`] targets.
#[must_use]
pub fn add_services(lab: &Lab, mut config: PairConfig) -> PairConfig {
    for mode in Mode::ALL {
        let keys = if mode == Mode::Dsr { "dsr = \"l2\"" } else { "" };
        let mut add = |what: &str, way: &str, listen: &str, targets: &[SocketAddr]| {
            let name = format!("{}-{what}", mode.name());
            let with_service = std::mem::take(&mut config).service(&name, way, listen, &name, keys);
            config = with_service.target_group(&name, targets, "");
        };
        let targets = mode.targets(lab);
        let echoes: Vec<SocketAddr> = targets.iter().map(|target| mode.echo_address(target)).collect();
        let echo = mode.echo_server();
        add("echo", mode.name(), &echo.to_string(), &echoes);
        if let Some(way) = mode.of_datagrams() {
            add("datagrams", way, &format!("{echo}/udp"), &echoes);
        }
        // The pair serves this one already.
        if mode != Mode::Tcp {
            let pages: Vec<SocketAddr> = targets.iter().map(Target::http_address).collect();
            add("pages", mode.name(), &mode.http_server().to_string(), &pages);
        }
    }
    config
}

/// What is needed to download.
#[derive(Clone, Debug)]
pub struct Bulk {
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

impl Bulk {
    /// Begins to download through a service.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when it cannot connect.
    pub fn download(&self, lab: &Lab, mode: Mode) -> Result<DownloadProbe> {
        let settings = DownloadSettings::new(mode.http_server(), &format!("/files/{FILE}"));
        DownloadProbe::start(lab.client(), settings)
    }
}

/// Prepares the targets for the modes of a pair's system, and waits until each service is forwarded.
///
/// # Errors
/// [`crate::lab::LabError`] when the file cannot be written, or a service does not come to be forwarded.
pub fn prepare(pair: &Pair) -> Result<Bulk> {
    let lab = pair.lab();
    let modes = Mode::of(pair.settings().system);
    if modes.contains(&Mode::Dsr) {
        for target in Mode::Dsr.targets(lab) {
            target.accept_vip(vip4(0))?;
        }
    }
    let (file, bytes) = (lab.dir().join(FILE), noise(FILE_MIB << 20));
    fs::write(&file, &bytes).doing(|| format!("writing {}", file.display()))?;
    for target in lab.targets() {
        target.publish(&file)?;
        target.move_echo_out()?;
    }
    for mode in modes {
        for server in [mode.echo_server(), mode.http_server()] {
            let connects = || TcpStream::connect_timeout(&server, PATIENCE).is_ok();
            wait_until(&format!("{server} to be forwarded"), LIMIT, || {
                lab.client().namespace().inside(connects).unwrap_or(false)
            })?;
        }
        // The others forward connections alone.
        if pair.settings().system == System::Tandem && mode.of_datagrams().is_some() {
            let server = mode.echo_server();
            let comes_back = || exchange_datagram(server, PATIENCE).is_ok();
            wait_until(&format!("datagrams for {server} to be forwarded"), LIMIT, || {
                lab.client().namespace().inside(comes_back).unwrap_or(false)
            })?;
        }
    }
    Ok(Bulk { sha256: sha256(&bytes) })
}

/// Bytes of which none tells the next: what is missing, doubled or in the wrong place changes their sum. (Marsaglia's xorshift.)
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut words = Vec::with_capacity(length + 8);
    while words.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words.extend_from_slice(&state.to_ne_bytes());
    }
    words.truncate(length);
    words
}
