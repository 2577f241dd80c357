//! Forwarding in the kernel: the program of `lbd/bpf` loaded, attached, and told by its maps what to do.
//!
//! Packets never come here. [`load`] brings the program into the kernel and finds the maps that a former life left, [`layouts`] goes on from maps that look different, [`attach`] puts
//! it on interfaces, [`ways`] knows how targets are reached, [`next_hops`] hears whom the program in the driver cannot reach, [`sync`] writes what `lbd_core::forward` makes of configuration,
//! groups and ways; [`instances`] is for `vrrpd`, which says what this node owns, [`expiry`] deletes flows that are over, [`flows`] reads what the
//! program has noted, [`copies`] exchanges flows with the other node and [`sources`] what clients have begun, and [`doctor`] looks at the host.
//!
//! All of it runs on threads of its own: system calls for a million flows must not keep the control runtime, and
//! nothing here is in a packet's way.

mod attach;
mod bpf;
mod chance;
mod checks;
mod copies;
mod doctor;
mod ethtool;
mod expiry;
mod features;
mod flows;
mod instances;
mod layouts;
mod load;
mod maps;
mod netlink;
mod next_hops;
mod object;
mod path_mtu;
mod ports;
mod rings;
mod settings;
mod sources;
mod sync;
mod thread;
mod ticks;
mod trace;
mod view;
mod ways;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

pub(crate) use bpf::Shape;
pub(crate) use chance::{Chance, ChanceView, InstanceChanceView, Sessions};
pub(crate) use checks::CheckOf;
pub(crate) use copies::{Copies, FlowTables, Position, Prior, Report, Reports, Written};
pub(crate) use doctor::{DoctorOptions, doctor, port_clash};
pub(crate) use features::Version;
pub(crate) use flows::{ListError, Listing, Sum, Totals};
pub(crate) use instances::Offer;
pub(crate) use netlink::{NetlinkError, States, connections_at};
pub(crate) use rings::RingNews;
pub(crate) use sources::SourceTables;
pub(crate) use thread::{Kernel, Prepared, lack, wanted};
pub(crate) use view::KernelView;

/// Why the kernel does not forward.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    /// Too old.
    #[error("kernel forwarding needs Linux {oldest} or newer, this is {found}; use mode tcp or udp here")]
    Version {
        /// What runs here.
        found: Version,
        /// The oldest that will do.
        oldest: Version,
    },
    /// Not permitted.
    #[error(
        "kernel forwarding needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and this process lacks {}; run as root, or give the unit all three \
         (AmbientCapabilities=)",
        missing.join(" and ")
    )]
    Capabilities {
        /// What is not there.
        missing: Vec<&'static str>,
    },
    /// Refused although it is permitted.
    #[error(
        "this host refuses bpf(2), which kernel forwarding goes by: {source}; a container's seccomp filter does that, lockdown, or a \
         kernel without CONFIG_BPF_SYSCALL. Have it allowed, or use mode tcp or udp here"
    )]
    Refused {
        /// How.
        source: io::Error,
    },
    /// No file system for pins.
    #[error(
        "kernel forwarding needs a BPF file system, and mounting one failed: {source}; `mount -t bpf bpf /sys/fs/bpf`"
    )]
    Bpffs {
        /// Why not.
        source: io::Error,
    },
    /// A folder of pins.
    #[error("cannot use {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel does not take the program.
    #[error("cannot load the forwarding program: {reason}")]
    Load {
        /// Why not.
        reason: String,
    },
    /// Somebody else's map in the place of ours.
    #[error(
        "{} is not the map that it should be ({found:?} instead of {wanted:?}); `lbd doctor --remove` clears the way",
        path.display()
    )]
    MapDiffers {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: Shape,
        /// What should be.
        wanted: Shape,
    },
    /// A map.
    #[error("{action} failed: {source}")]
    Map {
        /// What was being done.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// An interface.
    #[error("cannot attach the forwarding program to {interface}: {reason}")]
    Attach {
        /// Which.
        interface: String,
        /// Why not.
        reason: String,
    },
    /// Somebody else's interface.
    #[error(
        "the tunnel to the other node needs an interface called {name}, and there is one that is no VXLAN device: give that another name"
    )]
    TunnelName {
        /// The name.
        name: String,
    },
    /// The stack cannot be told to refuse what comes out of the tunnel.
    #[error("the tunnel to the other node is not used: writing 1 to {} failed: {source}; let lbd write there", path.display())]
    TunnelGuard {
        /// Which setting.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The way of the tunnel.
    #[error(
        "cannot find out by which interface {other} is reached, through which the tunnel to the other node goes: {why}; trying again"
    )]
    TunnelWay {
        /// The other node's address on the link.
        other: IpAddr,
        /// Why not.
        why: String,
    },
    /// The network.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel's clock.
    #[error("cannot read the kernel's clock: {source}")]
    Clock {
        /// Why not.
        source: io::Error,
    },
    /// A thread.
    #[error("cannot start a thread for kernel forwarding: {source}")]
    Thread {
        /// Why not.
        source: io::Error,
    },
}
