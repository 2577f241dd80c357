//! The pair, with or without the link between its nodes, one target and one client.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::network::{Flows, KERNEL, LIMIT, flows, lbd, start, state, take_wire_apart, wait_synced};
use super::super::{PROCESSORS, Subject};
use super::visit::visits;
use super::{CLIENT_PROCESSOR, PREPARING, Way};
use crate::bench_tcp::load::crowd::{Came, Pace};
use crate::bench_tcp::load::stay_on;
use crate::lab::addresses::{client_addresses, v4, vip4};
use crate::lab::clock::wait_until;
use crate::lab::config::{Instance, PairConfig};
use crate::lab::{Lab, Node, http};
use crate::scenario::INSTANCE;

/// nginx's port.
const PORT: u16 = 8080;
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Addresses of the target, each with its ports of `nat`: of one address' ports so many connections would leave none that is free.
const TARGET_ADDRESSES: u8 = 16;
/// As short as can be configured: nobody has to wait for long until the flows are forgotten.
const TIMEOUT: &str = "timeout = { half_open = \"1s\", closing = \"1s\" }";
/// A flow is given up 2 s after its end, and deleted by the walk that comes next once 5 s more are over; of one that was reset it takes 9 s longer.
const FORGOTTEN_MAX: Duration = Duration::from_secs(40);
/// How often it is looked whether that is done: seldom enough for the daemons not to notice.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Network {
    lab: Lab,
    wire_apart: bool,
    replicates: bool,
}

impl Network {
    /// Brings the pair up: `a` is active, and with a link both are synced.
    pub(super) fn build(replicates: bool) -> Result<Self> {
        stay_on(PROCESSORS[0]).context("choosing a processor for the target")?;
        let lab = Lab::builder("bench replication").targets(1).target_servers(false).build()?;
        let wire_apart = take_wire_apart(&lab).is_ok();
        let network = Self { lab, wire_apart, replicates };
        let targets = network.start_target()?;
        network.start_pair(&targets, replicates)?;
        for way in Way::ALL {
            network.wait_ready(way)?;
        }
        network.wait_forgotten()?;
        Ok(network)
    }

    pub(super) const fn a(&self) -> &Node {
        self.lab.a()
    }

    pub(super) const fn b(&self) -> &Node {
        self.lab.b()
    }

    /// Whether what becomes of a packet beyond the node that sends it to the other one is done by that one's processor.
    pub(super) const fn is_wire_apart(&self) -> bool {
        self.wire_apart
    }

    pub(super) fn finish(self) -> Result<()> {
        Ok(self.lab.finish()?)
    }

    /// Has clients come at a pace on a way, and tells what `look` has seen before and after.
    pub(super) fn load<T: Send>(
        &self,
        way: Way,
        pace: Pace,
        look: impl FnMut() -> io::Result<T> + Send,
    ) -> Result<Came<T>> {
        let address = self.address(way);
        let sources = client_addresses(address.ip());
        let came = self.lab.client().namespace().inside(|| {
            stay_on(CLIENT_PROCESSOR)?;
            visits(address, &sources, pace, look)
        })?;
        came.with_context(|| format!("connecting on the way {:?}", way.name()))
    }

    /// Where the client finds the target on this way.
    fn address(&self, way: Way) -> SocketAddr {
        let host = match way {
            Way::Direct => self.lab.targets()[0].v4(),
            Way::Forwarded(Subject::Nat) => vip4(0),
            Way::Forwarded(Subject::Dsr) => vip4(1),
        };
        SocketAddr::from((host, PORT))
    }

    /// Starts nginx, and returns where it is.
    fn start_target(&self) -> Result<Vec<SocketAddr>> {
        let target = &self.lab.targets()[0];
        let first = target.v4().octets()[3];
        for number in first + 1..first + TARGET_ADDRESSES {
            target.add_address(v4(number))?;
        }
        target.start_http()?;
        target.accept_vip(vip4(1))?;
        target.wait_ready()?;
        let processor = PROCESSORS[0].to_string();
        for pid in target.namespace().pids()? {
            target.run("taskset", &["-pc", &processor, &pid.to_string()])?;
        }
        Ok((first..first + TARGET_ADDRESSES).map(|number| SocketAddr::from((v4(number), PORT))).collect())
    }

    fn start_pair(&self, targets: &[SocketAddr], replicates: bool) -> Result<()> {
        let vips = vec![vip4(0).into(), vip4(1).into()];
        let instance = Instance { vips, ..Instance::default() };
        let [nat, dsr] = [0, 1].map(|number| SocketAddr::from((vip4(number), PORT)).to_string());
        let config = PairConfig::new(vec![instance])
            .service("nat", "nat", &nat, "nat", TIMEOUT)
            .target_group("nat", targets, "")
            .service("dsr", "dsr", &dsr, "dsr", &format!("dsr = \"l2\"\n{TIMEOUT}"))
            .target_group("dsr", &targets[..1], "")
            .raw(KERNEL);
        let config = if replicates { config } else { config.without_link() };
        self.lab.write_config(&config)?;
        for (node, processor) in self.lab.nodes().into_iter().zip(PROCESSORS) {
            start(node, processor)?;
        }
        self.a().wait_role(INSTANCE, "active", LIMIT)?;
        self.b().wait_role(INSTANCE, "backup", LIMIT)?;
        if replicates {
            for node in self.lab.nodes() {
                wait_synced(node)?;
            }
        }
        Ok(())
    }

    /// Waits until nginx answers on a way, and has enough clients come for each host to know each address: a program of XDP drops what goes to
    /// one that its host has not asked for yet.
    fn wait_ready(&self, way: Way) -> Result<()> {
        let address = self.address(way);
        self.lab.client().namespace().inside(|| {
            wait_until(&format!("nginx to answer on the way {:?}", way.name()), LIMIT, || {
                http::tcp(address, "GET", "/", "", ANSWER_LIMIT).is_ok_and(|answer| answer.status == 200)
            })
        })??;
        self.load(way, PREPARING, || Ok(()))?;
        Ok(())
    }

    /// Waits until the node that forwards has no flow any more; with a link also until it has told the other one of that, which has said that
    /// it has heard it, and has no copy left.
    pub(super) fn wait_forgotten(&self) -> Result<()> {
        let [here, there] = [flows(lbd(self.a())?)?, flows(lbd(self.b())?)?];
        let heard = || {
            let state = state(self.a());
            let is_none = |count: &serde_json::Value| count.as_u64() == Some(0);
            is_none(&state["entries"]["flows"]) && is_none(&state["dirty"]) && is_none(&state["tombstones"])
        };
        wait_until("the flows to be forgotten", FORGOTTEN_MAX, || {
            thread::sleep(LOOK);
            is_empty(&here) && (!self.replicates || heard() && is_empty(&there))
        })?;
        Ok(())
    }
}

/// Whether there is no flow, by the table itself: what a daemon shows of it is as old as its last walk.
fn is_empty(table: &Flows) -> bool {
    table.keys().next().is_none()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::Path;

    use super::*;
    use crate::lab::addresses::TARGET_FIRST;

    #[test]
    fn time_outs_are_as_short_as_can_be() {
        let accepted = |timeout: &str| {
            let [listen, target] = [vip4(0), v4(TARGET_FIRST)].map(|host| SocketAddr::from((host, PORT)));
            let config = PairConfig::default()
                .service("nat", "nat", &listen.to_string(), "nat", timeout)
                .target_group("nat", &[target], "")
                .raw(KERNEL);
            common::config::parse(&config.render(), Path::new("pair.toml")).is_ok()
        };
        assert!(accepted(TIMEOUT));
        assert!(!accepted(&TIMEOUT.replace("closing = \"1s\"", "closing = \"999ms\"")));
    }

    #[test]
    fn the_targets_addresses_are_nobody_elses() {
        let first = TARGET_FIRST;
        let others = [vip4(0), vip4(1)].map(IpAddr::from);
        for number in first..first + TARGET_ADDRESSES {
            let address = IpAddr::from(v4(number));
            assert!(!others.contains(&address) && !client_addresses(address).contains(&address));
        }
    }
}
