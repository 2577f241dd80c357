//! One target's check: prepared once, made again and again, at the target's own address or as a client of a virtual IP.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::config::HealthCheck;
use lbd_core::check::{Failure, Stage, Verdict};
use lbd_core::forward::plan::{Check as Way, Through};
use tokio::time::{Instant, timeout, timeout_at};

use super::stream::Destination;
use super::{Check, grpc, http, stream, tls, udp};
use crate::l4::kernel::CheckOf;

/// So long what a check takes may be missing before anybody is told: at the start the kernel's program is yet to be loaded.
const PATIENCE: Duration = Duration::from_secs(2);

/// How one target is checked, prepared once.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) own: Destination,
    /// The virtual IP that it is asked at, and what is known of the way there.
    client: Option<(SocketAddr, CheckOf)>,
    limit: Duration,
    how: How,
}

#[derive(Debug)]
enum How {
    Tcp,
    Tls(tls::Client),
    Http(http::Http),
    Grpc(grpc::Grpc),
    Udp(udp::Udp),
}

impl Probe {
    /// For a target with this address; `client` where it is to be asked through a virtual IP.
    pub(super) fn new(check: &Check, mut address: SocketAddr, client: Option<(IpAddr, CheckOf)>) -> Self {
        let health = &check.health;
        if let Some(port) = health.port {
            address.set_port(port);
        }
        let client = client.map(|(vip, way)| (SocketAddr::new(vip, address.port()), way));
        // A client asks for what it connects to.
        let asked = client.as_ref().map_or(address, |(vip, _)| *vip);
        let tls = |host: Option<&str>| tls::Client::new(check.tls.as_ref().map(|(it, _)| it), host, asked);
        let or_address = |host: &Option<String>| host.clone().unwrap_or_else(|| asked.to_string());
        let how = match &health.check {
            HealthCheck::Tcp => How::Tcp,
            HealthCheck::Tls { host, .. } => How::Tls(tls(host.as_deref())),
            HealthCheck::Http { tls: over_tls, path, host, expect, body, .. } => {
                let tls = over_tls.then(|| tls(host.as_deref()));
                let request = http::Request::new(check.manner.http2, path, &or_address(host), *over_tls);
                How::Http(http::Http::new(request, expect, body.as_deref(), tls))
            }
            HealthCheck::Grpc { tls: over_tls, service, host, .. } => {
                let tls = over_tls.then(|| tls(host.as_deref()));
                How::Grpc(grpc::Grpc::new(service, &or_address(host), tls))
            }
            HealthCheck::Udp { payload, expect } => {
                How::Udp(udp::Udp { payload: payload.clone(), expect: expect.clone() })
            }
        };
        let own = Destination { address, through: None, send_proxy: check.manner.send_proxy };
        Self { own, client, limit: health.timeout, how }
    }

    /// Waits until this host can make the check. An error after some time, to be told to people; then this is to be called again.
    pub(super) async fn until_possible(&mut self) -> Result<(), Failure> {
        let Some((_, way)) = &mut self.client else { return Ok(()) };
        let mut why = "the kernel does not forward yet";
        let possible = async {
            loop {
                match way.now() {
                    Some(Way::Later(lacking)) => why = lacking,
                    None => {}
                    Some(_) => return,
                }
                way.changed().await;
            }
        };
        timeout(self.limit.max(PATIENCE), possible).await.map_err(|_| Failure::Local(why.to_owned()))
    }

    /// Makes the check. Answers through which virtual IP; none for the target's own address.
    pub(super) async fn run(&mut self) -> (Option<SocketAddr>, Verdict) {
        let end = Instant::now() + self.limit;
        let (to, through) = match &mut self.client {
            None => (self.own, None),
            Some((vip, way)) => match timeout_at(end, found(way, vip.ip())).await {
                Ok(Some(through)) => {
                    (Destination { address: *vip, through: Some(through), ..self.own }, Some(*vip))
                }
                Ok(None) => (self.own, None),
                Err(_) => return (Some(*vip), Err(Failure::Connect("no way to it is known".to_owned()))),
            },
        };
        let mut stage = Stage::Connect;
        let verdict = timeout_at(end, self.run_unlimited(to, &mut stage)).await;
        (through, verdict.unwrap_or(Err(Failure::Timeout(stage, self.limit))))
    }

    async fn run_unlimited(&self, to: Destination, stage: &mut Stage) -> Verdict {
        match &self.how {
            How::Udp(udp) => udp.run(to, stage).await,
            How::Tcp => stream::connect(to).await.map(drop),
            How::Tls(client) => client.run(to, stage).await,
            How::Http(http) => http.run(to, stage).await,
            How::Grpc(grpc) => grpc.run(to, stage).await,
        }
    }
}

/// The way through the virtual IP, as soon as there is one; none where the target's own address is asked.
async fn found(way: &mut CheckOf, vip: IpAddr) -> Option<Through> {
    loop {
        match way.now() {
            // After a reload, that of before is told a moment longer.
            Some(Way::Through(through)) if through.vip == vip => return Some(through),
            Some(Way::Own(_)) => return None,
            Some(_) | None => way.changed().await,
        }
    }
}
