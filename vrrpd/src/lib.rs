//! Tandem's VRRP daemon: one real-time loop that drives [`vrrpd_core`], and the control side around it.

pub mod command;
