//! Services of `mode = "http"`, between clients and targets that are written down here to the byte, and real ones.

mod ambiguous;
mod auth;
mod bodies;
mod compared;
mod compress;
mod failures;
mod forwarding;
mod hashed;
mod life;
mod limits;
mod logged;
mod observed;
mod peers;
mod proxied;
mod real;
mod route;
mod rules;
mod sticky;
pub(crate) mod tls;
mod traces;

pub(crate) use peers::{Client, Message, Target, answer, ask, get, leave_no_port_behind, write};

use std::net::{Ipv4Addr, SocketAddr};

use crate::support::Config;

/// The configuration of most tests here: one service of `mode = "http"` before these targets.
fn config(ip: Ipv4Addr, targets: &[SocketAddr]) -> Config {
    let mut config = Config::new(ip, targets);
    config.mode = "http".to_owned();
    config
}
