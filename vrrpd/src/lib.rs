//! Tandem's VRRP daemon: one real-time loop that drives [`vrrpd_core`], and the control side around it.

pub mod clock;
pub mod command;
pub mod events;
pub mod hooks;
pub mod lbd_link;
pub mod netlink;
