//! The ping of a virtual IP, with the program in front of the stack in either way: the node that owns it answers, and no other, also what
//! comes in fragments, and whether there is an `lbd` or not.

use std::net::SocketAddr;

use integration::lab::clock::wait_until;
use integration::lab::config::PairConfig;
use integration::lab::{Host, Lab, Node, Result};
use nix::sys::signal::Signal;

use crate::kernel_support::{LIMIT, address, vips};

/// Pings of each size.
const COUNT: u64 = 20;

/// How often they are sent again because the role has moved meanwhile.
const ROUNDS_MAX: usize = 10;

/// Bytes in a ping: as usual, as many as one packet has room for in either family, and in 3 and 14 fragments.
const SIZES: [&str; 4] = ["56", "1450", "4000", "20000"];

fn config(lab: &Lab, attach: &str) -> PairConfig {
    let mut config = PairConfig::default();
    for (name, vip) in ["web4", "web6"].into_iter().zip(vips()) {
        let targets: Vec<SocketAddr> =
            lab.targets().iter().map(|target| SocketAddr::new(address(target, vip), 8080)).collect();
        let listen = SocketAddr::new(vip, 80).to_string();
        config = config.service(name, "nat", &listen, name, "").target_group(name, &targets, "");
    }
    config.raw(&format!("[kernel]\nattach = \"{attach}\"\n"))
}

/// Waits until a node's program is where it should be.
fn attached(node: &Node, how: &str) -> Result<()> {
    wait_until(&format!("the program of {} attached by {how}", node.name()), LIMIT, || {
        let status = node.get("lbd", "/v1/status").ok().and_then(|answer| answer.json().ok());
        status.is_some_and(|status| status["kernel"]["interfaces"][0]["attached"] == how)
    })
}

/// Pings that a host has answered.
fn answered(host: &Host) -> Result<u64> {
    let text = host.run("cat", &["/proc/self/net/snmp", "/proc/self/net/snmp6"])?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let four: u64 = pairs.find(|(name, _)| *name == "OutEchoReps").unwrap().1.parse().unwrap();
    let six = text.lines().find_map(|line| line.strip_prefix("Icmp6OutEchoReplies")).unwrap();
    Ok(four + six.trim().parse::<u64>().unwrap())
}

/// How often the nodes have changed their roles.
fn moves(lab: &Lab) -> u64 {
    let of = |node: &Node| {
        let answer = node.get("vrrpd", "/v1/status").ok().and_then(|answer| answer.json().ok());
        let instances = answer.unwrap_or_default()["instances"].as_array().cloned().unwrap_or_default();
        let routers = instances.iter().filter_map(|instance| instance["routers"].as_array()).flatten();
        routers.filter_map(|router| router["transitions"].as_u64()).sum::<u64>()
    };
    lab.nodes().into_iter().map(of).sum()
}

/// Pings both VIPs, which this node has to answer and the other one must not.
fn answered_by(lab: &Lab, owner: &Node) -> Result<()> {
    for vip in vips() {
        for size in SIZES {
            // Where the machine has stood still for longer than a node takes for dead, the other one has had the virtual IPs meanwhile, and
            // has answered as it should.
            let mut rounds = 0..ROUNDS_MAX;
            while !answers_while_owner(lab, owner, &vip.to_string(), size)? {
                assert!(rounds.next().is_some(), "{} never keeps its role", owner.name());
            }
        }
    }
    Ok(())
}

/// Pings a VIP with so many bytes; whether this node had its role all the time, and so has answered all, and the other one none.
fn answers_while_owner(lab: &Lab, owner: &Node, vip: &str, size: &str) -> Result<bool> {
    let of_both = || -> Result<[u64; 2]> { Ok([answered(owner)?, answered(lab.peer_of(owner))?]) };
    let ping = |count: &str, size: &str| {
        let arguments = ["-n", "-q", "-i", "0.01", "-W", "2", "-c", count, "-s", size, vip];
        lab.client().run("ping", &arguments)
    };
    wait_until(&format!("{} to answer for {vip}", owner.name()), LIMIT, || {
        let before = answered(owner).ok();
        owner.role("web").as_deref() == Some("active")
            && ping("1", SIZES[0]).is_ok()
            && before.is_some_and(|before| answered(owner).is_ok_and(|now| now > before))
    })?;
    let (moved, [own, others]) = (moves(lab), of_both()?);
    let said = ping(&COUNT.to_string(), size);
    let now = of_both()?;
    if moves(lab) != moved {
        return Ok(false);
    }
    let (said, all) = (said?, format!("{COUNT} received, 0% packet loss"));
    assert!(said.contains(&all), "{size} bytes to {vip}: {said}");
    assert_eq!(now, [own + COUNT, others], "of {}: {size} bytes to {vip}", owner.name());
    Ok(true)
}

/// Kills the `lbd` of the node that answers, and starts it again: not one ping may be missing, whichever node has the virtual IPs by then.
fn goes_on_without_lbd(lab: &Lab, how: &str) -> Result<()> {
    const NAMES: [&str; 2] = ["ping4", "ping6"];
    for (name, vip) in NAMES.into_iter().zip(vips()) {
        let mut ping = lab.client().command("ping");
        ping.args(["-n", "-i", "0.01", "-s", "2000", &vip.to_string()]);
        lab.client().start(name, ping)?;
    }
    let more = || -> Result<()> {
        let by_both = || -> Result<u64> { Ok(answered(lab.a())? + answered(lab.b())?) };
        let wanted = by_both()? + 4 * COUNT;
        wait_until("more answers", LIMIT, || by_both().is_ok_and(|now| now >= wanted))
    };
    more()?;
    lab.a().signal("lbd", Signal::SIGKILL)?;
    lab.a().wait_end("lbd", LIMIT)?;
    more()?;
    lab.a().start_lbd()?;
    attached(lab.a(), how)?;
    more()?;
    for name in NAMES {
        lab.client().signal(name, Signal::SIGINT)?;
        lab.client().wait_end(name, LIMIT)?;
        let said = lab.client().log(name);
        let answers = said.lines().filter(|line| line.contains("bytes from"));
        let numbers: Vec<u64> = answers
            .map(|line| line.split("icmp_seq=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(numbers.len() as u64 > COUNT, "{said}");
        // Each once, in order: the last one may still have been on its way.
        assert!(numbers.into_iter().zip(1..).all(|(number, expected)| number == expected), "{said}");
    }
    Ok(())
}

fn pinged(label: &str, attach: &str, how: &str) -> Result<()> {
    let lab = Lab::builder(label).targets(1).build()?;
    if attach == "xdp" {
        lab.prepare_for_xdp()?;
    }
    lab.write_config(&config(&lab, attach))?;
    for node in lab.nodes() {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    for (node, role) in lab.nodes().into_iter().zip(["active", "backup"]) {
        node.wait_role("web", role, LIMIT)?;
        attached(node, how)?;
    }
    answered_by(&lab, lab.a())?;
    goes_on_without_lbd(&lab, how)?;
    lab.a().wait_role("web", "active", LIMIT)?;
    lab.a().stop("vrrpd")?;
    lab.b().wait_role("web", "active", LIMIT)?;
    answered_by(&lab, lab.b())?;
    lab.finish()
}

#[test]
fn a_virtual_ip_is_pinged_behind_the_program() -> Result<()> {
    pinged("ping tc", "auto", "tcx")
}

#[test]
fn a_virtual_ip_is_pinged_behind_the_program_in_the_driver() -> Result<()> {
    pinged("ping xdp", "xdp", "xdp")
}
