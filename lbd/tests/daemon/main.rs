//! Runs the real daemon on loopback addresses, with real sockets on both sides.

mod alone;
mod api;
mod balancing;
mod discover;
mod bulk;
mod group;
mod health;
mod limits;
mod link;
mod relay;
mod reload;
mod server;
mod set;
mod simulate;
mod startup;
mod stop;
mod support;
mod udp;
