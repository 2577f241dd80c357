//! The program where kernels before 6.6 have it, beside the one that forwards; and where virtual IPs have a device of
//! their own.

use std::net::{IpAddr, SocketAddr};

use integration::lab::clock::wait_until;
use integration::lab::config::{Instance, PairConfig};
use integration::lab::probe::{EchoProbe, EchoSettings};
use integration::lab::{Lab, Node, Result, Target};
use serde_json::Value;

use super::{ECHO, chance, drains, echoes, end, packets, sends, steady, switch};
use crate::pair_support::{LIMIT, agreed, caught_up, every, served, start_all, vips, vrrpd};

/// Where the kernel forwards to the echo servers.
const PASSED: u16 = 77;

/// Connections of each family.
const CONNECTIONS: usize = 20;

fn config(lab: &Lab, attach: &str) -> PairConfig {
    let echoes: Vec<SocketAddr> = lab.targets().iter().map(Target::echo_address).collect();
    let of_both = |target: &Target| [target.v4().into(), target.v6().into()];
    let both = lab.targets().iter().flat_map(of_both).map(|ip: IpAddr| SocketAddr::new(ip, ECHO));
    let both: Vec<SocketAddr> = both.collect();
    let pages: Vec<SocketAddr> = lab.targets().iter().map(Target::http_address).collect();
    PairConfig::new(vec![every("100ms")])
        .raw(&format!("\n[kernel]\nattach = \"{attach}\"\n"))
        .service("web", "tcp", "@web:80", "web", "")
        .target_group("web", &pages, "")
        .service("echo", "tcp", &format!("@web:{ECHO}"), "echo", "")
        .target_group("echo", &echoes, "")
        .service("passed", "nat", &format!("@web:{PASSED}"), "passed", "")
        .target_group("passed", &both, "")
}

/// How the programs of forwarding and of the second chance are at a node's interface.
fn attached(node: &Node) -> [Value; 2] {
    let status: Value =
        node.get("lbd", "/v1/status").ok().and_then(|answer| answer.json().ok()).unwrap_or_default();
    let how = |of: &Value| of["interfaces"][0]["attached"].clone();
    [how(&status["kernel"]), how(&chance(node))]
}

/// Has connections of both kinds, and moves them there and back and there again.
fn survives_moves(lab: &Lab, how: [&str; 2]) -> Result<()> {
    let [a, b] = lab.nodes();
    start_all(lab)?;
    sends(b)?;
    for node in [a, b] {
        wait_until(&format!("the programs of {} to be {how:?}", node.name()), LIMIT, || {
            attached(node) == how
        })?;
    }
    let mut probes = echoes(lab, CONNECTIONS)?;
    for vip in vips() {
        let settings = EchoSettings::new(SocketAddr::new(vip, PASSED), CONNECTIONS);
        probes.push(EchoProbe::start(lab.client(), settings)?);
    }
    steady(&probes)?;
    for from in [a, b, a] {
        switch(lab, from)?;
        steady(&probes)?;
    }
    assert!(packets(b, "sent") > 0 && packets(a, "received") > 0, "{} {}", chance(a), chance(b));
    drains(lab, a, 2 * CONNECTIONS)?;
    end(probes)
}

#[test]
fn as_a_filter_beside_that_of_forwarding() -> Result<()> {
    let lab = Lab::builder("chance-clsact").targets(2).build()?;
    lab.write_config(&config(&lab, "clsact"))?;
    survives_moves(&lab, ["clsact", "clsact"])?;
    let filters = lab.b().run("tc", &["filter", "show", "dev", "eth0", "ingress"])?;
    for handle in ["handle 0x7a", "handle 0x7b"] {
        assert_eq!(filters.matches(handle).count(), 1, "{filters}");
    }
    // One that stops leaves nothing behind.
    for node in lab.nodes() {
        node.stop("vrrpd")?;
        node.stop("lbd")?;
        let filters = node.run("tc", &["filter", "show", "dev", "eth0", "ingress"])?;
        assert!(!filters.contains("handle 0x7b"), "{filters}");
    }
    lab.finish()
}

/// What comes to the virtual router's MAC address is sent on to the other node's own.
#[test]
fn with_the_virtual_routers_mac_address() -> Result<()> {
    let lab = Lab::builder("chance vmac").targets(2).build()?;
    let instance = Instance { extra: "virtual_mac = true".to_owned(), ..every("100ms") };
    lab.write_config(&super::config(&lab, instance, ""))?;
    let [a, b] = lab.nodes();
    for node in [a, b] {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    agreed(&lab, a)?;
    served(&lab, &vips())?;
    sends(b)?;
    let probes = echoes(&lab, CONNECTIONS)?;
    steady(&probes)?;
    for from in [a, b, a] {
        caught_up(&lab)?;
        let (good, _, complaint) = vrrpd(from, &["switchover", "web"]);
        assert!(good, "{complaint}");
        agreed(&lab, lab.peer_of(from))?;
        served(&lab, &vips())?;
        steady(&probes)?;
    }
    assert!(packets(b, "sent") > 0 && packets(a, "received") > 0, "{} {}", chance(a), chance(b));
    drains(&lab, a, 2 * CONNECTIONS)?;
    end(probes)?;
    lab.finish()
}
