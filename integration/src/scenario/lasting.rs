//! Long-lived connections through services that the kernel forwards, and which of them go on.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Pair;
use crate::lab::addresses::vip4;
use crate::lab::clock::wait_until;
use crate::lab::config::PairConfig;
use crate::lab::probe::{EchoProbe, EchoSettings};
use crate::lab::{Lab, Result};
use crate::report::page::Lasting;

/// How many to each service.
pub const CONNECTIONS: usize = 64;

/// Until the services are there, and until all connections have had something come back or are broken: longer than a packet that was
/// lost several times takes.
const LIMIT: Duration = Duration::from_secs(30);

const PATIENCE: Duration = Duration::from_secs(1);

/// A service that the kernel forwards, to the echo servers of some of the targets.
struct Forwarded {
    name: &'static str,
    description: &'static str,
    keys: &'static str,
    /// At the VIP; `dsr` leaves it as it is.
    port: u16,
    /// The first of its targets, and the one after the last. Who has the VIP for `dsr` takes no packet of `nat` from it.
    targets: (usize, usize),
}

const FORWARDED: [Forwarded; 2] = [
    Forwarded {
        name: "dsr",
        description: "packets go on to the target as they are, and it answers the client itself. Both nodes would choose the same \
                      target, so whoever has the virtual IP can go on with a connection.",
        keys: "dsr = \"l2\"",
        port: 7,
        targets: (0, 2),
    },
    Forwarded {
        name: "nat",
        description: "addresses and ports are rewritten, and back in the answers. The nodes tell each other of their \
                      connections, so whoever takes over goes on with them from the same ports.",
        keys: "",
        port: 7007,
        targets: (2, 4),
    },
];

/// Adds the services. Takes four targets.
#[must_use]
pub fn add_services(lab: &Lab, mut config: PairConfig) -> PairConfig {
    for it in &FORWARDED {
        let targets: Vec<SocketAddr> =
            lab.targets()[it.targets.0..it.targets.1].iter().map(|target| target.echo_address()).collect();
        let listen = format!("{}:{}", vip4(0), it.port);
        config =
            config.service(it.name, it.name, &listen, it.name, it.keys).target_group(it.name, &targets, "");
    }
    config
}

/// The connections to each of the services.
#[derive(Debug)]
pub struct Connections(Vec<EchoProbe>);

impl Connections {
    /// Prepares the targets, and connects.
    ///
    /// # Errors
    /// [`crate::lab::LabError`] when a service does not come to be forwarded.
    pub fn begin(pair: &Pair) -> Result<Self> {
        let (lab, mut probes) = (pair.lab(), Vec::new());
        for target in &lab.targets()[FORWARDED[0].targets.0..FORWARDED[0].targets.1] {
            target.accept_vip(vip4(0))?;
        }
        for it in &FORWARDED {
            let server = SocketAddr::from((vip4(0), it.port));
            let connects = || TcpStream::connect_timeout(&server, PATIENCE).is_ok();
            wait_until(&format!("{server} to be forwarded"), LIMIT, || {
                lab.client().namespace().inside(connects).unwrap_or(false)
            })?;
            probes.push(EchoProbe::start(lab.client(), EchoSettings::new(server, CONNECTIONS))?);
        }
        Ok(Self(probes))
    }

    /// How many go on after what was done, of each service: each has messages come back, or is broken.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when one is neither.
    pub fn alive(&self) -> Result<Vec<usize>> {
        let count = |probe: &EchoProbe| {
            probe.wait_exchanges(5, LIMIT)?;
            Ok(CONNECTIONS - probe.snapshot().broken())
        };
        self.0.iter().map(count).collect()
    }

    /// Ends; with what [`Self::alive`] said after each event.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when a probe failed.
    pub fn end<'a>(self, alive: impl Iterator<Item = &'a [usize]> + Clone) -> Result<Vec<Lasting>> {
        let end = |(number, (it, probe)): (usize, (&Forwarded, EchoProbe))| {
            Ok(Lasting {
                name: it.name.to_owned(),
                description: it.description.to_owned(),
                connections: CONNECTIONS,
                alive: alive.clone().map(|counts| counts.get(number).copied().unwrap_or_default()).collect(),
                worst_stall: probe.stop()?.worst_stall(),
            })
        };
        FORWARDED.iter().zip(self.0).enumerate().map(end).collect()
    }
}
