//! Tandem's VRRP daemon: one real-time loop that drives [`vrrpd_core`], and the control side around it.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command;
pub mod control;
pub mod events;
pub mod hooks;
pub mod kernel;
pub mod lbd_link;
pub mod logging;
pub mod metrics;
pub mod netlink;
pub mod ownership;
pub mod privilege;
pub mod run;
pub mod socket;
pub mod sysctl;
pub mod table;
pub mod warden;
