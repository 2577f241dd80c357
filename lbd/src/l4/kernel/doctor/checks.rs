//! The targets' side of `dsr`: what the running daemon's health checks say of it, and whether a target that fails them answers at its own
//! address. That one gets the packets and does not take them.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use common::config::{Config, Dsr, Health, HealthCheck, TargetGroup, Via};

use super::{Level, Report};
use crate::view::{CheckView, Status, TargetView};

/// So many targets are asked at their own addresses at most: each may take its time-out.
const ASKED_MAX: usize = 32;

/// No target is waited for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Adds what is known of each target that is checked through a virtual IP.
pub(super) fn look(config: &Config, status: &Status, report: &mut Report) {
    let mut asked = 0;
    for view in &status.target_groups {
        let Some(group) = config.target_group(&view.name) else { continue };
        let Some(health) = group.health.as_ref().filter(|health| health.via == Via::Vip) else { continue };
        for target in &view.targets {
            let topic = format!("target {}/{}", view.name, target.id);
            match &target.last_check {
                None => report.add(Level::Note, &topic, "has not been checked yet"),
                // What keeps it from being asked through the virtual IP is among the troubles.
                Some(CheckView { vip: None, .. }) => {}
                Some(CheckView { vip: Some(vip), result, .. }) if result == "ok" => {
                    report.add(
                        Level::Good,
                        &topic,
                        format!("answers through {vip}, as clients would ask it"),
                    );
                }
                Some(check) => {
                    asked += 1;
                    let own = (asked <= ASKED_MAX).then(|| answers(health, target.address));
                    report.add(Level::Bad, &topic, failing(config, group, target, check, own));
                }
            }
        }
    }
}

/// What is wrong with a target; `own` is whether it answers at its own address, if it was asked.
fn failing(
    config: &Config,
    group: &TargetGroup,
    target: &TargetView,
    check: &CheckView,
    own: Option<bool>,
) -> String {
    let result = &check.result;
    match own {
        None => result.clone(),
        Some(false) => format!("{result}; nor does it answer at its own address"),
        Some(true) => {
            let through = config.checked_through(group, target.address);
            // It is one of `dsr`.
            let way = through.and_then(|(service, _)| service.dsr()).unwrap_or(Dsr::L2);
            let tunnel = match way {
                Dsr::L2 => String::new(),
                tunnel => format!(" or takes no packets out of {}", tunnel.name()),
            };
            let way = way.name();
            let vip = check.vip.map(|vip| vip.ip().to_string()).unwrap_or_default();
            format!(
                "{result}; but it answers at its own address: it lacks {vip} on lo{tunnel}, or does not listen there; \
                 `scripts/dsr-target up {way} {vip}` on it sets it up"
            )
        }
    }
}

/// Whether anybody answers at the target's own address.
fn answers(health: &Health, mut address: SocketAddr) -> bool {
    address.set_port(health.port.unwrap_or(address.port()));
    let limit = health.timeout.min(PATIENCE);
    let HealthCheck::Udp { payload, .. } = &health.check else {
        return TcpStream::connect_timeout(&address, limit).is_ok();
    };
    let ask = || -> std::io::Result<usize> {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(limit))?;
        socket.connect(address)?;
        socket.send(payload)?;
        socket.recv(&mut [0; 1])
    };
    ask().is_ok()
}
