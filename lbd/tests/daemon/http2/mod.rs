//! HTTP/2 on either side: frames written by hand, and real programs.

mod apart;
mod floods;
mod frames;
mod grpc;
mod life;
mod pairings;
mod real;
mod sessions;
mod slow;
mod streams;
mod strict;
mod targets;
mod tls;
mod websockets;

use std::net::{Ipv4Addr, SocketAddr};

use crate::support::Config;

/// The configuration of most tests here: one service of `mode = "http"`, with HTTP/2, before these targets.
fn config(ip: Ipv4Addr, targets: &[SocketAddr]) -> Config {
    let mut config = Config::new(ip, targets);
    config.mode = "http".to_owned();
    config.service = "http2 = true\n".to_owned();
    config
}
