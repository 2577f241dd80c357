//! What the API and `lbd status` show of kernel forwarding. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// `kernel` of `GET /v1/status`; null where no service is forwarded by the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct KernelView {
    /// The kernel's version.
    pub(crate) kernel: String,
    /// Where the maps are pinned.
    pub(crate) folder: String,
    /// The interfaces that the program is on.
    pub(crate) interfaces: Vec<InterfaceView>,
    /// Targets that cannot be reached now, and services that are not forwarded.
    pub(crate) troubles: Vec<TroubleView>,
    /// Flows that can be remembered.
    pub(crate) flows_max: u32,
    /// Flows at the last count, made every few seconds.
    pub(crate) flows: u64,
    /// Writes of the maps that failed and were tried again.
    pub(crate) failures: u64,
    /// Questions about the network that the kernel has not answered.
    #[serde(default)]
    pub(crate) network_failures: u64,
    /// How often the program was put where somebody else had taken it off.
    #[serde(default)]
    pub(crate) attached_again: u64,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InterfaceView {
    /// Its name.
    pub(crate) name: String,
    /// `tcx`, `clsact` or `xdp`.
    pub(crate) attached: String,
    /// Why in this way.
    pub(crate) why: String,
    /// What it is there for.
    pub(crate) purpose: String,
}

/// Something that does not work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TroubleView {
    /// What: a target, an interface.
    pub(crate) what: String,
    /// Why.
    pub(crate) why: String,
}
