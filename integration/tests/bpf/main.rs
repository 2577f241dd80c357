//! The forwarding programs load here and forward: each kind of service, and what comes rarely.

mod answers;
mod forward;
mod programs;
mod returns;
mod support;
mod tunnels;
