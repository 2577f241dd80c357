//! What `lbd` and `vrrpd` tell each other over the Unix socket `vrrpd-ipc.sock` in the run directory.
//!
//! `lbd` connects and reconnects; `vrrpd` listens. Frames are those of [`crate::wire`]. Either end sees the other's death
//! as the end of the stream, and a hang as silence: `lbd` sends its health whenever it changes and at least every
//! [`HEALTH_INTERVAL`]; a stream silent for [`HEALTH_TIMEOUT`] counts as a dead `lbd`.
//!
//! Where the kernel forwards, `lbd` also hands over the descriptor of the BPF map that says what this node owns, and from then on
//! it is `vrrpd` that writes it ([`ToVrrpd::Instances`]).

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::time::Duration;

/// The socket's name in the run directory.
pub const SOCKET_NAME: &str = "vrrpd-ipc.sock";

/// The longest silence of a healthy `lbd`.
pub const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// The silence after which `vrrpd` counts `lbd` as dead.
pub const HEALTH_TIMEOUT: Duration = Duration::from_millis(1000);

/// How long a `vrrpd` that is told to stop, or whose node is not well but serves, keeps its roles at most while the other node lacks connections
/// that this one knows of, so that its `lbd` can tell of them. An `lbd` that is told to stop serves for as long, and for the handover itself.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(4);

/// The largest number of instances in one [`ToLbd::Roles`], and of services in one [`ToVrrpd::Health`].
pub const ENTRIES_MAX: usize = 255;

/// Elements of the map that [`ToVrrpd::Instances`] is about. The first one is `lbd`'s own.
pub const INSTANCES_MAX: u32 = 64;

/// A message from `lbd`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToVrrpd {
    /// The first message on a connection.
    Hello {
        /// The node's name in `lbd`'s configuration; another one than `vrrpd`'s is refused.
        node: String,
        /// `lbd`'s version.
        version: String,
        /// The hash of the configuration file it runs with.
        config_hash: u64,
    },
    /// `lbd`'s health now; repeated at least every [`HEALTH_INTERVAL`].
    Health(LbdHealth),
    /// The map in which the kernel's forwarding program reads until when this node owns an instance, in nanoseconds of
    /// `CLOCK_BOOTTIME`: an array of [`INSTANCES_MAX`] words of 64 bits that can be mapped into memory. Its descriptor comes with the
    /// first byte of this message (`SCM_RIGHTS`). `vrrpd` writes the words of these instances, until the next such message or its end; those
    /// that are not named are not its. An empty list comes without a descriptor: there is no map any more.
    Instances(Vec<InstanceNumber>),
    /// Whether the other node's `lbd` has connections and sessions that this one does not know yet: then this node does not take the
    /// role from it. An `lbd` that is to be told of them says so before its first [`Self::Health`]; one that does not replicates nothing. Until
    /// either has come, a node is behind where an `lbd` is to be told.
    Replication {
        /// Not known yet.
        behind: bool,
    },
}

/// Where an instance is in the map.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InstanceNumber {
    /// The `[[vrrp]]` name.
    pub instance: String,
    /// From 1, less than [`INSTANCES_MAX`].
    pub number: u32,
}

/// How well `lbd` serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct LbdHealth {
    /// Worker threads that answer.
    pub workers_alive: u32,
    /// Worker threads there should be.
    pub workers_expected: u32,
    /// Names of services that have no healthy target, at most [`ENTRIES_MAX`].
    pub services_without_targets: Vec<String>,
}

/// A message from `vrrpd`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ToLbd {
    /// The role of each instance, sent after `Hello` and whenever one changes: active as soon as one of its virtual routers is.
    Roles(Vec<InstanceRole>),
}

/// One instance and its role on this node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InstanceRole {
    /// The `[[vrrp]]` name.
    pub instance: String,
    /// The role.
    pub role: Role,
    /// Active because nothing was heard of the other node, which did not give the role up: what it had is lost.
    pub from_silence: bool,
}

/// What a node is for an instance: RFC 9568's states, and `fault` while its interface cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Not started.
    #[default]
    Init,
    /// Stands by.
    Backup,
    /// Owns the virtual IPs.
    Active,
    /// Its interface is missing or down; takes no part.
    Fault,
}

impl Role {
    /// The role's name in the API, the logs and the hooks' environment.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Active => "active",
            Self::Fault => "fault",
        }
    }
}
