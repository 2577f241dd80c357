//! A pair that carries traffic: ours, or the software it is compared with.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{INSTANCE, PORT, lasting, rival, wait};
use crate::lab::addresses::{vip4, vip6};
use crate::lab::config::{Instance, PairConfig};
use crate::lab::{Lab, Node, Result};

/// An election takes less than four intervals; the rest is for starting on a busy machine.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// Which software runs on both nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// `vrrpd` and `lbd`.
    Tandem,
    /// keepalived and HAProxy, as Debian has them.
    Rival,
    /// keepalived, nftables and conntrackd, as Debian has them.
    Conntrackd,
}

impl System {
    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tandem => "Tandem",
            Self::Rival => "keepalived + HAProxy",
            Self::Conntrackd => "keepalived + nftables + conntrackd",
        }
    }

    /// The program that speaks VRRP.
    #[must_use]
    pub const fn vrrp_program(self) -> &'static str {
        match self {
            Self::Tandem => "vrrpd",
            Self::Rival | Self::Conntrackd => "keepalived",
        }
    }

    /// The program that forwards connections, or without which they are not carried over.
    #[must_use]
    pub const fn balancer_program(self) -> &'static str {
        match self {
            Self::Tandem => "lbd",
            Self::Rival => "haproxy",
            Self::Conntrackd => "conntrackd",
        }
    }
}

/// The address family of the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The VIP of this family.
    #[must_use]
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => vip4(0).into(),
            Self::V6 => vip6(0).into(),
        }
    }

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// How a pair is set up. The rest is the same for all: VRRP version 3, VRID 51, priorities 200 for `a` and 100 for `b`,
/// multicast adverts, TCP forwarding from port 80 of the VIPs to the targets in turn.
#[derive(Clone, Debug)]
pub struct PairSettings {
    /// For people who list labs.
    pub label: String,
    /// Which software.
    pub system: System,
    /// The VIPs; of the rival, all of one family.
    pub vips: Vec<IpAddr>,
    /// The advert interval, whole multiples of 10 ms.
    pub advert_interval: Duration,
    /// Whether `a` takes over again when it can.
    pub preempt: bool,
    /// Whether the rival watches its balancer (a check every second). Ours always does.
    pub rival_tracks: bool,
    /// How many targets.
    pub targets: u8,
    /// Further lines of the target group, for ours.
    pub group_extra: String,
    /// Whether there are services for what lasts (see [`lasting`]), which take [`lasting::TARGETS`] targets.
    pub lasting: bool,
}

impl PairSettings {
    /// A preempting pair with two targets.
    #[must_use]
    pub fn new(label: &str, system: System, vips: &[IpAddr], advert_interval: Duration) -> Self {
        Self {
            label: label.to_owned(),
            system,
            vips: vips.to_vec(),
            advert_interval,
            preempt: true,
            rival_tracks: false,
            targets: 2,
            group_extra: String::new(),
            lasting: false,
        }
    }
}

/// A lab with a running pair.
#[derive(Debug)]
pub struct Pair {
    lab: Lab,
    settings: PairSettings,
}

impl Pair {
    /// Builds the lab, starts everything and waits until `a` alone is active.
    ///
    /// # Errors
    /// [`crate::lab::LabError`] when something cannot be started or the pair does not settle.
    pub fn start(settings: PairSettings) -> Result<Self> {
        let lab = Lab::builder(&settings.label).targets(settings.targets).build()?;
        let pair = Self { lab, settings };
        if pair.settings.system == System::Tandem {
            pair.lab.write_config(&pair.config())?;
        }
        let [a, b] = pair.lab.nodes();
        pair.start_node(a)?;
        if !pair.settings.preempt {
            // Whoever is first stays active then.
            pair.wait_holding(a)?;
        }
        pair.start_node(b)?;
        pair.wait_settled()?;
        Ok(pair)
    }

    /// Its lab.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// How it was set up.
    #[must_use]
    pub const fn settings(&self) -> &PairSettings {
        &self.settings
    }

    /// Starts both daemons on a node, as its boot would. Ours are started at the same time and not waited for. HAProxy
    /// is given the time to open its port before keepalived starts, which nothing but luck does on a real host.
    ///
    /// # Errors
    /// [`crate::lab::LabError`] when one cannot be started.
    pub fn start_node(&self, node: &Node) -> Result<()> {
        match self.settings.system {
            System::Tandem => {
                node.spawn_daemon("vrrpd")?;
                node.spawn_daemon("lbd").map(drop)
            }
            System::Rival | System::Conntrackd => rival::start(self, node),
        }
    }

    /// Waits until `a` holds every VIP and `b` none, and each daemon of ours says so too.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when that does not come about.
    pub fn wait_settled(&self) -> Result<()> {
        let [a, b] = self.lab.nodes();
        if self.settings.system == System::Tandem {
            for (node, role) in [(a, "active"), (b, "backup")] {
                let what = format!("{} to be {role}", node.name());
                wait(&what, SETTLE_LIMIT, || node.role(INSTANCE).as_deref() == Some(role))?;
            }
        }
        self.wait_holding(a)?;
        wait("b to hold no VIP", SETTLE_LIMIT, || {
            self.settings.vips.iter().all(|vip| !b.holds(*vip).unwrap_or(true))
        })
    }

    fn wait_holding(&self, node: &Node) -> Result<()> {
        wait(&format!("{} to hold the VIP", node.name()), SETTLE_LIMIT, || {
            self.settings.vips.iter().all(|vip| node.holds(*vip).unwrap_or(false))
        })
    }

    /// Who has this hardware address.
    #[must_use]
    pub fn name_of(&self, mac: crate::lab::addresses::Mac) -> Option<String> {
        self.lab.hosts().find(|host| host.mac() == mac).map(|host| host.name().to_owned())
    }

    /// The pair's configuration.
    fn config(&self) -> PairConfig {
        let interval = self.settings.advert_interval.as_millis();
        let instance = Instance {
            name: INSTANCE.to_owned(),
            vips: self.settings.vips.clone(),
            advert_interval: format!("{interval}ms"),
            preempt: self.settings.preempt,
            ..Instance::default()
        };
        let listen = format!("@{INSTANCE}:{PORT}");
        let config = PairConfig::new(vec![instance])
            .service("shop", "tcp", &listen, "shop", "")
            .target_group("shop", &self.target_addresses(), &self.settings.group_extra);
        if self.settings.lasting { lasting::add_services(&self.lab, config) } else { config }
    }

    /// The targets' HTTP servers.
    pub(super) fn target_addresses(&self) -> Vec<SocketAddr> {
        self.lab.targets().iter().map(|target| target.http_address()).collect()
    }

    /// Takes it down after success, without showing the logs.
    ///
    /// # Errors
    /// [`crate::lab::LabError`] when something cannot be removed.
    pub fn finish(self) -> Result<()> {
        self.lab.finish()
    }
}
