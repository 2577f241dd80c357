//! A target behind routers: which one leads to it changes under load without a packet lost, a router may become another machine, and the
//! way may be gone for a while.

use std::net::{IpAddr, SocketAddr};

use integration::lab::clock::wait_until;
use integration::lab::{Host, Lab, Result};

use crate::kernel_support::{LIMIT, address, answerer, start, status, vips};
use crate::lossless::{Load, family, send_once, served};

/// The target's addresses, and the networks that they are in.
const FAR: [(&str, &str); 2] = [("10.99.0.11", "10.99.0.0/24"), ("fd99::11", "fd99::/64")];

/// Each VIP with the target's address of its family, the network of that, its bits, and how `ip` is told of the family.
fn families() -> impl Iterator<Item = (IpAddr, &'static str, &'static str, u8, &'static str)> {
    let families = vips().into_iter().zip(FAR);
    families.map(|(vip, (far, network))| {
        let (bits, option) = if vip.is_ipv4() { (32, "-4") } else { (128, "-6") };
        (vip, far, network, bits, option)
    })
}

fn text() -> String {
    let mut text = String::new();
    for (vip, far, ..) in families() {
        for (what, port) in [("http", 80), ("echo", 7)] {
            let (name, far) = (format!("{what}{}", family(vip)), SocketAddr::new(far.parse().unwrap(), port));
            text.push_str(&format!(
                "[[service]]\nname = \"{name}\"\nmode = \"nat\"\nlisten = [\"{}\"]\nforward = \"{name}\"\n\
                 [[target_group]]\nname = \"{name}\"\ntargets = [{{ id = \"far\", address = \"{far}\" }}]\n",
                SocketAddr::new(vip, port)
            ));
        }
    }
    text
}

/// Makes a host a router to the far addresses of `target`, which says nothing of shorter ways.
fn route_through(router: &Host, target: &Host) -> Result<()> {
    router.namespace().sysctl(&[
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        // Whoever it becomes, it says so.
        ("ipv4/conf/eth0/arp_notify", "1"),
        ("ipv6/conf/eth0/ndisc_notify", "1"),
    ])?;
    router.namespace().without_redirects()?;
    for (vip, far, _, bits, option) in families() {
        router.ip(&format!("{option} route add {far}/{bits} via {}", address(target, vip)))?;
    }
    Ok(())
}

/// Has node `a` go by this router, whom it has spoken to.
fn go_by(lab: &Lab, router: &Host) -> Result<()> {
    for (vip, _, network, _, option) in families() {
        let gateway = address(router, vip).to_string();
        lab.a().run("ping", &["-n", "-c", "1", "-W", "2", &gateway])?;
        lab.a().ip(&format!("{option} route replace {network} via {gateway}"))?;
    }
    Ok(())
}

/// Packets that a host has forwarded.
fn forwarded(host: &Host) -> Result<[u64; 2]> {
    let text = host.run("cat", &["/proc/self/net/snmp", "/proc/self/net/snmp6"])?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let four = pairs.find(|(name, _)| *name == "ForwDatagrams").unwrap().1.parse().unwrap();
    let six = text.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams")).unwrap();
    Ok([four, six.trim().parse().unwrap()])
}

/// Waits until this router has got packets of both families, and the other one gets no more.
fn goes_by(load: &Load, router: &Host, other: &Host) -> Result<()> {
    let before = forwarded(router)?;
    wait_until(&format!("packets through {}", router.name()), LIMIT, || {
        forwarded(router).is_ok_and(|now| now.iter().zip(before).all(|(now, before)| *now > before + 50))
    })?;
    load.goes_on()?;
    let others = forwarded(other)?;
    load.goes_on()?;
    assert_eq!(forwarded(other)?, others, "{} is no longer asked", other.name());
    Ok(())
}

/// Waits until the target answers through both VIPs.
fn answered(lab: &Lab) -> Result<()> {
    vips().into_iter().try_for_each(|vip| {
        wait_until(&format!("an answer through {vip}"), LIMIT, || answerer(lab, vip).is_some())
    })
}

/// What node `a` says is in the way.
fn troubles(lab: &Lab) -> Vec<String> {
    let troubles = status(lab).map(|status| status["kernel"]["troubles"].clone()).unwrap_or_default();
    let troubles = troubles.as_array().cloned().unwrap_or_default();
    troubles.iter().map(|trouble| format!("{}: {}", trouble["what"], trouble["why"])).collect()
}

#[test]
fn the_way_to_a_target_behind_routers_changes() -> Result<()> {
    let lab = Lab::builder("kernel-routers").targets(2).gateway().build()?;
    send_once(&lab)?;
    let (target, second) = (&lab.targets()[0], &*lab.targets()[1]);
    let first = lab.gateway().expect("it was asked for");
    for (_, far, _, bits, option) in families() {
        target.ip(&format!("{option} address add {far}/{bits} dev lo"))?;
    }
    target.namespace().sysctl(&[("ipv4/conf/all/arp_announce", "2")])?;
    lab.a().namespace().without_redirects()?;
    for router in [first, second] {
        route_through(router, target)?;
    }
    go_by(&lab, first)?;
    start(&lab, &text())?;
    let servers = vips().map(|vip| (SocketAddr::new(vip, 80), SocketAddr::new(vip, 7)));
    served(&lab, &servers)?;

    let load = Load::begin_beside(&lab, &servers, Vec::new())?;
    goes_by(&load, first, second)?;
    for (router, other) in [(second, first), (first, second), (second, first)] {
        go_by(&lab, router)?;
        goes_by(&load, router, other)?;
    }
    load.end(&lab)?;

    // Another machine has the router's address, and says so.
    second.ip("link set eth0 address 02:00:0a:4d:ff:02")?;
    answered(&lab)?;
    // No way, and one again.
    for (_, _, network, _, option) in families() {
        lab.a().ip(&format!("{option} route delete {network}"))?;
    }
    wait_until("the missing ways to be told of", LIMIT, || {
        let told = troubles(&lab);
        told.iter().filter(|trouble| trouble.contains("no route")).count() >= 4
    })?;
    wait_until("nobody to answer", LIMIT, || vips().into_iter().all(|vip| answerer(&lab, vip).is_none()))?;
    go_by(&lab, first)?;
    answered(&lab)?;
    wait_until("no troubles", LIMIT, || troubles(&lab).is_empty())?;
    lab.finish()
}
