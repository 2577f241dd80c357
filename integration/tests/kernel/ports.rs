//! More connections through NAT, one after the other, than there are ports towards a target.

use integration::lab::addresses::vip4;
use integration::lab::clock::wait_until;
use integration::lab::{Lab, Result};

use crate::kernel_support::{LIMIT, answerer, service, start};

/// The ports of a node towards a target are fewer, and are kept longer after a connection than this takes.
const CONNECTIONS: u64 = 45_000;

/// Of so many connections one may find no port in the moment that it wants one: thousands a second take what is a second old.
const REFUSED_ONE_IN: u64 = 1000;

/// Requests that `wrk` has made in its seconds, each on a connection of its own, and those that failed.
fn requests(lab: &Lab) -> Result<(u64, u64)> {
    let url = format!("http://{}/", vip4(0));
    let said =
        lab.client().run("wrk", &["-c", "32", "-t", "1", "-d", "2", "-H", "Connection: close", &url])?;
    let count = said.split(" requests in").next().and_then(|text| text.split_whitespace().last());
    let errors = said.lines().find_map(|line| line.trim().strip_prefix("Socket errors:")).unwrap_or_default();
    let failed = errors.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum();
    Ok((count.and_then(|count| count.parse().ok()).expect("wrk counts requests"), failed))
}

#[test]
fn short_connections_use_ports_again() -> Result<()> {
    let lab = Lab::builder("kernel-ports").targets(1).build()?;
    lab.client().namespace().sysctl(&[("ipv4/ip_local_port_range", "1024 65535")])?;
    start(&lab, &service(&lab, "web", "mode = \"nat\"", &["80"], 80, ""))?;
    wait_until("an answer", LIMIT, || answerer(&lab, vip4(0).into()).is_some())?;
    let (mut made, mut failed) = (0, 0);
    while made < CONNECTIONS && failed * REFUSED_ONE_IN <= CONNECTIONS {
        let (more, refused) = requests(&lab)?;
        (made, failed) = (made + more, failed + refused);
    }
    assert!(failed * REFUSED_ONE_IN <= made, "{failed} failed, {made} did not");
    lab.finish()
}
