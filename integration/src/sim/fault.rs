//! Everything that can be done to a pair.

use common::time::Duration;

use super::network::Quality;
use super::variant::Variant;

/// Something that happens to the pair. Hosts are 0 (node a) and 1 (node b).
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The LAN's condition.
    Lan(Quality),
    /// The peer link's condition.
    Peer(Quality),
    /// A switch port stops or starts to take the host's frames, without a word.
    LanOut(usize, bool),
    /// A switch port stops or starts to give frames to the host.
    LanIn(usize, bool),
    /// The host's datagrams to its peer are lost (`false`).
    PeerOut(usize, bool),
    /// The LAN interface loses (`false`) or gets its carrier.
    Carrier(usize, bool),
    /// The gateway stops (`false`) or starts to answer this host.
    Gateway(usize, bool),
    /// Power loss: nothing of the host is left.
    PowerOff(usize),
    /// The host boots, and `vrrpd` starts.
    PowerOn(usize),
    /// SIGKILL of `vrrpd`; its warden lives.
    Kill(usize),
    /// SIGTERM of `vrrpd`.
    Terminate(usize),
    /// `vrrpd` starts (after [`Fault::Kill`] or [`Fault::Terminate`]).
    Start(usize),
    /// SIGSTOP of `vrrpd`.
    Stop(usize),
    /// SIGCONT.
    Continue(usize),
    /// The whole host, a virtual machine, is paused.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// The wall clock is set forward or back, in milliseconds.
    WallClock(usize, i64),
    /// `lbd`: not there, or with so many of its two workers, or without a target for its service.
    Lbd(usize, Lbd),
    /// Someone deletes the host's virtual addresses.
    RemoveAddresses(usize),
    /// Adding addresses fails (`true`) or works again.
    AcquireFails(usize, bool),
    /// `vrrpd switchover` of every instance that is active there.
    Switchover(usize),
    /// `vrrpd maintenance`.
    Maintenance(usize, bool),
    /// SIGHUP with another configuration.
    Reload(usize, Box<Variant>),
}

/// What `lbd` says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lbd {
    /// It is not there.
    Absent,
    /// One of two workers is missing.
    Degraded,
    /// A service has no target.
    NoTargets,
    /// All is well.
    Healthy,
}

/// A fault at its time, counted from the start of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When.
    pub at: Duration,
    /// What.
    pub fault: Fault,
}

impl Step {
    /// A fault so many milliseconds after the start.
    #[must_use]
    pub const fn at_ms(millis: u64, fault: Fault) -> Self {
        Self { at: Duration::from_millis(millis), fault }
    }
}
