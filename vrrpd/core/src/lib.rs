//! The VRRP election and the planned switchover of Tandem, without IO.
//!
//! [`node::Node`] is one node: it takes inputs (packets, timers, link and health changes, commands) together with the
//! time, and hands out actions (packets to send, addresses to add and remove, events) and its next deadline. It reads no
//! clock and no socket, so the daemon and the simulation run the same code.
#![forbid(unsafe_code)]

pub mod auth;
pub mod event;
pub mod handover;
pub mod neighbor;
pub mod node;
pub mod packet;
pub mod peer;
pub mod settings;
pub mod status;
pub mod track;

mod router;
mod timer;
