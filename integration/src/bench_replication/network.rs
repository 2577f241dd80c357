//! The pair.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};

use super::{PROCESSORS, Subject};
use crate::bench_l4::expiry::flows_of;
use crate::bench_tcp::load::stay_on;
use crate::lab::addresses::vip4;
use crate::lab::clock::wait_until;
use crate::lab::config::{Instance, PairConfig};
use crate::lab::probe::{EchoProbe, EchoSettings};
use crate::lab::{Lab, Node};
use crate::scenario::INSTANCE;
use crate::scenario::lasting::{self, Mode};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// The port of the service whose flows are begun.
const PORT: u16 = 9000;
/// Ports of each target: a node has half of the VIP's ports towards each, and a million flows use a part of them.
const PORTS_OF_TARGET: u16 = 32;
/// The table has room for twice as many flows as there are.
pub(super) const KERNEL: &str = "\n[kernel]\nmax_flows = 2000000\nnew_flows_per_second = 10000000\n";
/// Connections of the traffic that goes on meanwhile.
const CONNECTIONS: usize = 64;

pub(super) struct Network {
    lab: Lab,
    wire_apart: bool,
}

/// The service whose flows are begun.
pub(super) const fn service() -> SocketAddrV4 {
    SocketAddrV4::new(vip4(0), PORT)
}

impl Network {
    /// Brings the pair up: `a` is active, both are synced.
    pub(super) fn build(subject: Subject) -> Result<Self> {
        stay_on(PROCESSORS[0]).context("choosing a processor for the load")?;
        let lab = Lab::builder("bench replication").targets(lasting::TARGETS).build()?;
        for target in Mode::Dsr.targets(&lab) {
            target.accept_vip(vip4(0))?;
        }
        let instance = Instance { vips: vec![vip4(0).into()], ..Instance::default() };
        let config = lasting::add_services(&lab, PairConfig::new(vec![instance]));
        let (mode, extra) = match subject {
            Subject::Nat => (Mode::Nat, ""),
            Subject::Dsr => (Mode::Dsr, "dsr = \"l2\""),
        };
        let address = |host: Ipv4Addr, number| match subject {
            Subject::Nat => SocketAddr::from((host, 10_000 + number)),
            // A packet is left as it is, its port too.
            Subject::Dsr => SocketAddr::from((host, PORT)),
        };
        let hosts = mode.targets(&lab).iter().map(|target| target.v4());
        let numbers = if subject == Subject::Nat { PORTS_OF_TARGET } else { 1 };
        let targets: Vec<SocketAddr> =
            hosts.flat_map(|host| (0..numbers).map(move |number| address(host, number))).collect();
        let config = config
            .service("begun", mode.name(), &service().to_string(), "begun", extra)
            .target_group("begun", &targets, "")
            .raw(KERNEL);
        lab.write_config(&config)?;
        let wire_apart = take_wire_apart(&lab).is_ok();
        let network = Self { lab, wire_apart };
        for (node, processor) in network.lab.nodes().into_iter().zip(PROCESSORS) {
            start(node, processor)?;
        }
        network.lab.a().wait_role(INSTANCE, "active", LIMIT)?;
        for node in network.lab.nodes() {
            wait_synced(node)?;
        }
        Ok(network)
    }

    /// Whether what becomes of a packet beyond the node that sends it is done by the processor of the node that it is for.
    pub(super) const fn is_wire_apart(&self) -> bool {
        self.wire_apart
    }

    pub(super) const fn lab(&self) -> &Lab {
        &self.lab
    }

    pub(super) const fn a(&self) -> &Node {
        self.lab.a()
    }

    pub(super) const fn b(&self) -> &Node {
        self.lab.b()
    }

    /// Traffic of clients through the node that forwards.
    pub(super) fn traffic(&self) -> Result<EchoProbe> {
        let probe =
            EchoProbe::start(self.lab.client(), EchoSettings::new(Mode::Dsr.echo_server(), CONNECTIONS))?;
        probe.wait_exchanges(10, LIMIT)?;
        Ok(probe)
    }

    pub(super) fn finish(self) -> Result<()> {
        Ok(self.lab.finish()?)
    }
}

/// Has packets between the nodes go on by the processor of the node that they are for (RPS), from where they leave the other one. Else
/// whoever sends one does all there is to do until it is in the socket at the other end, and for the answering acknowledgement, too: with
/// a veth that is one and the same thread.
pub(super) fn take_wire_apart(lab: &Lab) -> Result<()> {
    let [of_a, of_b] = PROCESSORS.map(|processor| 1_u32 << processor);
    let chosen =
        |device: &str, mask: u32| format!("echo {mask:x} > /sys/class/net/{device}/queues/rx-0/rps_cpus");
    // A switch is no machine with a /sys of its own.
    let switch = lab.switch().namespace();
    switch.run("ip", &["netns", "exec", switch.name(), "sh", "-c", &chosen("a-peer", of_b)])?;
    lab.a().run("sh", &["-c", &chosen("peer0", of_a)])?;
    Ok(())
}

/// Starts a node's daemons, `lbd` on one processor.
pub(super) fn start(node: &Node, processor: usize) -> Result<i32> {
    let processor = processor.to_string();
    node.spawn_daemon("vrrpd")?;
    let pid = node.spawn_daemon("lbd")?;
    // Before it has threads, which have what the one has that starts them.
    node.run("taskset", &["-apc", &processor, &pid.to_string()])?;
    Ok(pid.as_raw())
}

/// The process id of a node's `lbd`.
pub(super) fn lbd(node: &Node) -> Result<i32> {
    process(node, "lbd")
}

/// The id of a process of a node, by the name that the kernel knows it by.
pub(super) fn process(node: &Node, wanted: &str) -> Result<i32> {
    for pid in node.namespace().pids()? {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() == wanted {
            return Ok(pid);
        }
    }
    anyhow::bail!("no {wanted} runs on {}", node.name())
}

/// A table of flows.
pub(super) type Flows = HashMap<MapData, [u8; 40], [u8; 16]>;

/// That of an `lbd`.
pub(super) fn flows(pid: i32) -> Result<Flows> {
    Ok(Map::HashMap(flows_of(pid)?).try_into()?)
}

/// What a node says of replication; null while it says nothing.
pub(super) fn state(node: &Node) -> serde_json::Value {
    shown(node, "state")
}

/// And of the link that it goes over.
pub(super) fn link(node: &Node) -> serde_json::Value {
    shown(node, "link")
}

fn shown(node: &Node, part: &str) -> serde_json::Value {
    let answer = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
    answer.map(|answer| answer[part].clone()).unwrap_or_default()
}

pub(super) fn wait_synced(node: &Node) -> Result<()> {
    wait_until(&format!("{} to be synced", node.name()), LIMIT, || {
        let state = state(node);
        state["state"] == "synced" && state["peer_synced"] == true
    })?;
    Ok(())
}
