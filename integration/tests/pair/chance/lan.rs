//! What a node that still has connections of virtual IPs says in their network when these have left, and what it hears: it claims nothing, and
//! learns from the node that has them now which packets fit on the way to a client.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use integration::lab::clock::{now, wait_until};
use integration::lab::probe::{DownloadProbe, DownloadSettings, WatchSettings, Watcher, sha256};
use integration::lab::{Host, Lab, Result};
use integration::scenario::lasting::noise;

use super::{echoes, end, packets, proxy, steady, switch};
use crate::pair_support::{LIMIT, every, vips};

/// A download's length, and how fast it is taken until it may hurry: it lasts for a minute.
const LARGE_BYTES: usize = 8 << 20;
const BYTES_PER_SECOND: u64 = 128 << 10;

/// The largest packet that gets to clients by way of the router.
const NARROW: u32 = 1300;

/// A download for each family.
fn downloads(lab: &Lab) -> Result<Vec<DownloadProbe>> {
    let download = |vip: IpAddr| {
        let mut settings = DownloadSettings::new(SocketAddr::new(vip, 80), "/files/large");
        settings.bytes_per_second = BYTES_PER_SECOND;
        DownloadProbe::start(lab.client(), settings)
    };
    vips().into_iter().map(download).collect()
}

/// From now on the nodes reach the client, whichever of its addresses it uses, by way of the router, which takes no larger packets.
fn make_narrow(lab: &Lab, v4: bool) -> Result<()> {
    let (family, client, router) =
        if v4 { ("-4", "10.77.0.96/28", "10.77.0.254") } else { ("-6", "fd77::100/125", "fd77::254") };
    let gateway = lab.gateway().expect("it was asked for");
    gateway.ip(&format!("{family} route add {client} dev eth0 mtu lock {NARROW}"))?;
    for node in lab.nodes() {
        node.ip(&format!("{family} route add {client} via {router}"))?;
    }
    Ok(())
}

#[test]
fn who_drains_claims_nothing_and_learns_what_fits() -> Result<()> {
    let lab = Lab::builder("chance lan").targets(2).gateway().build()?;
    let (file, bytes) = (lab.dir().join("large"), noise(LARGE_BYTES));
    fs::write(&file, &bytes).expect("the lab's directory can be written to");
    lab.targets().iter().try_for_each(|target| target.publish(&file))?;
    let all: [&Host; 3] = [lab.a(), lab.b(), lab.gateway().expect("it was asked for")];
    all.into_iter().try_for_each(|host| host.namespace().without_redirects())?;
    proxy(&lab, every("100ms"), "")?;
    let [a, b] = lab.nodes();
    let (probes, downloads) = (echoes(&lab, 20)?, downloads(&lab)?);
    steady(&probes)?;
    switch(&lab, a)?;
    let (moved, watcher) = (now(), Watcher::start(&lab, WatchSettings::new(&vips()))?);
    // It has to find the client anew, for packets whose source is a virtual IP that it has no longer.
    for family in ["-4", "-6"] {
        a.run("ip", &[family, "neigh", "flush", "dev", "eth0"])?;
    }
    steady(&probes)?;
    let seen = watcher.stop()?;
    let claims: Vec<_> = seen.sightings.iter().filter(|it| it.at > moved && it.mac == a.mac()).collect();
    assert!(claims.is_empty(), "a claims what it no longer has: {claims:?}");
    assert!(!seen.sightings.is_empty(), "nobody has answered for them");

    // What a sends is too large now. The router says so to the virtual IP, which is b's.
    for vip in vips() {
        let before = packets(b, "sent_error");
        make_narrow(&lab, vip.is_ipv4())?;
        wait_until(&format!("b to pass on what the router says to {vip}"), LIMIT, || {
            packets(b, "sent_error") > before
        })?;
    }
    assert!(!downloads.iter().any(DownloadProbe::is_over), "they were to last");
    for download in downloads {
        let report = download.finish(LIMIT)?;
        assert!(report.is_whole(&sha256(&bytes)), "{} bytes, {:?}", report.bytes, report.broken);
    }
    end(probes)?;
    lab.finish()
}
