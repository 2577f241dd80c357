//! Observing a lab from outside its nodes, with threads of the test's own process.
//!
//! | probe | what it observes |
//! |---|---|
//! | [`ConnectProbe`] | whether new connections are served, one every millisecond |
//! | [`EchoProbe`] | whether established connections live on |
//! | [`DatagramProbe`] | whether datagrams come back, of clients that keep talking from one port |
//! | [`DownloadProbe`] | whether a download in progress goes on, and is whole at its end |
//! | [`Watcher`] | which node answers for a VIP on the LAN, and what is announced |
//! | [`RoleWatcher`] | which role each node's `vrrpd` reports |

mod connect;
mod datagrams;
mod download;
mod echo;
mod frames;
mod report;
mod role;
mod sightings;
mod ticker;
mod watch;

pub use connect::{ConnectMode, ConnectProbe, ConnectSettings};
pub use datagrams::{
    DATAGRAM_HEAD, DatagramClient, DatagramProbe, DatagramReport, DatagramSettings, exchange_datagram, talker,
};
pub use download::{DownloadProbe, DownloadReport, DownloadSettings, sha256};
pub use echo::{EchoConnection, EchoProbe, EchoReport, EchoSettings};
pub use report::{Attempt, ConnectReport, Failure, Gap};
pub use role::{RoleChange, RoleReport, RoleWatcher, Seen};
pub use sightings::{Overlap, Sighting, SightingKind, WatchReport};
pub use watch::{WatchSettings, Watcher, send_frames};
