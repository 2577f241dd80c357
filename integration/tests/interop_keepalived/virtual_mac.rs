//! The virtual router's MAC address on both nodes: `virtual_mac` here, `use_vmac` there. What other hosts have learned of
//! the VIPs then stays right whoever serves them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::wait_until;
use integration::lab::fault::Fault;
use integration::lab::probe::WatchReport;
use integration::lab::{Node, Result};
use serde_json::Value;

use crate::pair::{LIMIT, Pair, Preferred, Setup, virtual_mac};

/// Whether a node has the address on any interface.
fn holds(node: &Node, vip: IpAddr) -> Result<bool> {
    let text = node.run("ip", &["-json", "address", "show"])?;
    let links: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut infos =
        links.as_array().into_iter().flatten().filter_map(|link| link["addr_info"].as_array()).flatten();
    Ok(infos.any(|info| info["local"] == vip.to_string().as_str()))
}

/// Whether what the client sends to the VIP comes to a host that has it: nobody listens on port 9, and it says so.
fn reaches(pair: &Pair, vip: IpAddr) -> bool {
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(vip, 9), Duration::from_millis(200));
    let answer = pair.lab.client().namespace().inside(connect);
    answer.is_ok_and(|answer| answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

/// Waits until `owner` holds the VIPs, and the other node, where it is on, does not.
fn wait_owner(pair: &Pair, owner: &Node, other: Option<&Node>) -> Result<()> {
    for vip in &pair.setup.vips {
        wait_until(&format!("{} alone to hold {vip}", owner.name()), LIMIT, || {
            holds(owner, *vip).unwrap_or(false)
                && other.is_none_or(|other| holds(other, *vip).is_ok_and(|holds| !holds))
        })?;
        wait_until(&format!("{} to be reached at {vip}", owner.name()), LIMIT, || reaches(pair, *vip))?;
        pair.watcher.wait_owner(*vip, virtual_mac(*vip), 60, LIMIT)?;
        pair.wait_announced(*vip, virtual_mac(*vip))?;
    }
    Ok(())
}

/// The longest time in which every question for a VIP was answered twice: both answers have the same MAC address.
fn longest_doubled(report: &WatchReport, vip: IpAddr) -> Duration {
    let mut answers: BTreeMap<usize, usize> = BTreeMap::new();
    for question in report.sightings.iter().filter(|seen| seen.vip == vip).filter_map(|seen| seen.question) {
        *answers.entry(usize::try_from(question).unwrap_or(usize::MAX)).or_default() += 1;
    }
    let (mut longest, mut first) = (Duration::ZERO, None);
    for (index, asked) in report.asked.iter().enumerate() {
        if answers.get(&index).copied().unwrap_or(0) > 1 {
            longest = longest.max(*asked - *first.get_or_insert(*asked));
        } else {
            first = None;
        }
    }
    longest
}

/// Whoever has the VIP answers with the virtual router's MAC address, and takes it over by every kind of event. One family
/// at a time: with both, keepalived's interface for IPv6 answers for the IPv4 address too.
fn takes_turns(preferred: Preferred, vip: IpAddr) -> Result<()> {
    let mut setup = Setup::new("virtual MAC", preferred, 100);
    setup.vips = vec![vip];
    setup.extra.push_str("virtual_mac = true\n");
    let mut pair = Pair::new(setup)?;
    pair.keepalived.extra.push_str("  use_vmac\n");
    let (a, b) = (pair.lab.a(), pair.lab.b());
    pair.start_vrrpd()?;
    wait_owner(&pair, a, Some(b))?;
    pair.start_keepalived()?;
    if preferred == Preferred::Vrrpd {
        a.stop("vrrpd")?;
        wait_owner(&pair, b, Some(a))?;
        pair.start_vrrpd()?;
        wait_owner(&pair, a, Some(b))?;
        pair.lab.inject(&Fault::power_loss("a"))?;
        wait_owner(&pair, b, None)?;
    } else {
        wait_owner(&pair, b, Some(a))?;
        b.stop("keepalived")?;
        wait_owner(&pair, a, Some(b))?;
        pair.start_keepalived()?;
        wait_owner(&pair, b, Some(a))?;
        pair.lab.inject(&Fault::power_loss("b"))?;
        wait_owner(&pair, a, None)?;
    }
    for vip in &pair.setup.vips {
        let doubled = longest_doubled(&pair.watcher.snapshot(), *vip);
        // Who gives way does so when it gets to hear the other's advertisement: keepalived, an ordinary process, later on a busy
        // machine, but well before it would have taken silence for a failure.
        assert!(doubled <= 3 * pair.setup.interval(), "both answered for {vip} for {doubled:?}");
    }
    for (vip, other) in pair.end()? {
        assert_eq!(other, Duration::ZERO, "{vip} was answered for with another MAC address");
    }
    Ok(())
}

#[test]
fn ipv4_vrrpd_preferred() -> Result<()> {
    takes_turns(Preferred::Vrrpd, vip4(0).into())
}

#[test]
fn ipv4_keepalived_preferred() -> Result<()> {
    takes_turns(Preferred::Keepalived, vip4(0).into())
}

#[test]
fn ipv6_vrrpd_preferred() -> Result<()> {
    takes_turns(Preferred::Vrrpd, vip6(0).into())
}

#[test]
fn ipv6_keepalived_preferred() -> Result<()> {
    takes_turns(Preferred::Keepalived, vip6(0).into())
}
