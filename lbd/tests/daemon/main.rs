//! Runs the real daemon on loopback addresses, with real sockets on both sides.

mod api;
mod balancing;
mod health;
mod limits;
mod link;
mod relay;
mod reload;
mod server;
mod startup;
mod stop;
mod support;
