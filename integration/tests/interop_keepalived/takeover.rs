//! Who takes over from whom, and how.

use std::time::Duration;

use integration::lab::fault::Fault;
use integration::lab::probe::{WatchSettings, Watcher};
use integration::lab::{Lab, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pair::{LIMIT, Pair, Preferred, Setup, Transport};

/// keepalived takes over from `vrrpd` when that stops, is killed and loses its power, and gives way each time it is back.
fn vrrpd_leaves_and_returns(setup: Setup) -> Result<()> {
    let pair = Pair::new(setup)?;
    let (a, b) = (pair.lab.a(), pair.lab.b());
    pair.start_keepalived()?;
    pair.start_vrrpd()?;
    pair.wait_owner(a)?;
    a.stop("vrrpd")?;
    pair.wait_owner(b)?;

    pair.start_vrrpd()?;
    pair.wait_owner(a)?;
    a.signal("vrrpd", Signal::SIGKILL)?;
    pair.wait_owner(b)?;

    pair.start_vrrpd()?;
    pair.wait_owner(a)?;
    assert_eq!(pair.drops()?, []);
    pair.lab.inject(&Fault::power_loss("a"))?;
    pair.wait_owner(b)?;

    pair.lab.heal(&Fault::power_loss("a"))?;
    pair.start_vrrpd()?;
    pair.wait_owner(a)?;
    assert_eq!(pair.drops()?, []);
    pair.finish(Lab::a)
}

/// `vrrpd` takes over from keepalived when that stops and when it loses its power, and gives way each time it is back.
fn keepalived_leaves_and_returns(setup: Setup) -> Result<()> {
    let pair = Pair::new(setup)?;
    let (a, b) = (pair.lab.a(), pair.lab.b());
    pair.start_vrrpd()?;
    pair.start_keepalived()?;
    pair.wait_owner(b)?;
    pair.wait_role("backup")?;
    b.stop("keepalived")?;
    pair.wait_owner(a)?;

    pair.start_keepalived()?;
    pair.wait_owner(b)?;
    pair.lab.inject(&Fault::power_loss("b"))?;
    pair.wait_owner(a)?;

    pair.lab.heal(&Fault::power_loss("b"))?;
    pair.start_keepalived()?;
    pair.wait_owner(b)?;
    pair.wait_role("backup")?;
    assert_eq!(pair.drops()?, []);
    pair.finish(Lab::b)
}

/// Killed as it is, keepalived leaves its addresses on the host, and no other node can take them away. `vrrpd` takes over
/// all the same, and all is well once keepalived runs again.
#[test]
fn a_killed_keepalived_is_succeeded() -> Result<()> {
    let pair = Pair::new(Setup::new("killed keepalived", Preferred::Keepalived, 100))?;
    let (a, b) = (pair.lab.a(), pair.lab.b());
    pair.start_vrrpd()?;
    pair.start_keepalived()?;
    pair.wait_owner(b)?;
    // Stopped first, so that the parent does not start another child; and the child first, which the kernel would let
    // go on when its parent is gone, to end in an orderly way.
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in b.namespace().pids()?.into_iter().rev() {
            kill(Pid::from_raw(pid), signal).expect("keepalived is there until it is killed");
        }
    }
    pair.wait_role("active")?;
    for vip in &pair.setup.vips {
        assert!(a.holds(*vip)? && b.holds(*vip)?, "{vip} is on both");
        pair.wait_announced(*vip, a.mac())?;
    }
    pair.start_keepalived()?;
    pair.wait_owner(b)?;
    pair.wait_role("backup")?;
    assert_eq!(pair.drops()?, []);
    pair.end().map(drop)
}

/// A backup has a local route to every VIP, and the kernel answers ARP for what it has a local route to, if it is let. While
/// `vrrpd` starts, runs as backup, stops or dies it must not, not even for a moment.
#[test]
fn a_backup_that_comes_and_goes_never_answers() -> Result<()> {
    let pair = Pair::new(Setup::new("backup", Preferred::Keepalived, 100))?;
    let (a, b) = (pair.lab.a(), pair.lab.b());
    pair.start_keepalived()?;
    pair.wait_owner(b)?;
    let settings =
        WatchSettings { interval: Duration::from_millis(1), ..WatchSettings::new(&pair.setup.vips) };
    let watcher = Watcher::start(&pair.lab, settings)?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM, Signal::SIGTERM] {
        pair.start_vrrpd()?;
        pair.wait_role("backup")?;
        a.signal("vrrpd", signal)?;
        a.wait_end("vrrpd", LIMIT)?;
    }
    let seen = watcher.stop()?;
    for vip in &pair.setup.vips {
        let strangers: Vec<_> =
            seen.owners(*vip).into_iter().filter(|(_, macs)| macs.contains(&a.mac())).collect();
        assert!(strangers.is_empty(), "a answered for {vip}: {strangers:?}");
    }
    pair.finish(Lab::b)
}

#[test]
fn multicast_at_100_ms_vrrpd_preferred() -> Result<()> {
    vrrpd_leaves_and_returns(Setup::new("multicast", Preferred::Vrrpd, 100))
}

#[test]
fn multicast_at_100_ms_keepalived_preferred() -> Result<()> {
    keepalived_leaves_and_returns(Setup::new("multicast", Preferred::Keepalived, 100))
}

#[test]
fn multicast_at_1_s_vrrpd_preferred() -> Result<()> {
    vrrpd_leaves_and_returns(Setup::new("multicast 1 s", Preferred::Vrrpd, 1000))
}

#[test]
fn multicast_at_1_s_keepalived_preferred() -> Result<()> {
    keepalived_leaves_and_returns(Setup::new("multicast 1 s", Preferred::Keepalived, 1000))
}

fn unicast(preferred: Preferred, transport: Transport) -> Setup {
    Setup { transport, ..Setup::new("unicast", preferred, 100) }
}

#[test]
fn unicast_vrrpd_preferred() -> Result<()> {
    vrrpd_leaves_and_returns(unicast(Preferred::Vrrpd, Transport::LinkLocal))
}

#[test]
fn unicast_keepalived_preferred() -> Result<()> {
    keepalived_leaves_and_returns(unicast(Preferred::Keepalived, Transport::LinkLocal))
}

#[test]
fn unicast_to_global_addresses() -> Result<()> {
    keepalived_leaves_and_returns(unicast(Preferred::Keepalived, Transport::Global))
}

fn version_2(preferred: Preferred) -> Setup {
    let mut setup = Setup::new("version 2", preferred, 1000);
    setup.version = 2;
    // Version 2 has neither IPv6 nor two readings of the checksum.
    setup.vips.retain(std::net::IpAddr::is_ipv4);
    setup.extra.clear();
    setup
}

#[test]
fn version_2_vrrpd_preferred() -> Result<()> {
    vrrpd_leaves_and_returns(version_2(Preferred::Vrrpd))
}

#[test]
fn version_2_keepalived_preferred() -> Result<()> {
    keepalived_leaves_and_returns(version_2(Preferred::Keepalived))
}
