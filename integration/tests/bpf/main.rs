//! The forwarding programs load here and forward: each kind of service, and what comes rarely; and that of the second chance knows whose a
//! segment is.

mod answers;
mod chance;
mod forward;
mod programs;
mod returns;
mod support;
mod tunnels;
