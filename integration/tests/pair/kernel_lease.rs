//! The lease: `vrrpd` says in the kernel's map until when its node owns the VIPs. Nothing new is lost at a switchover, a node that
//! stands still falls silent before the other one takes over, and no `lbd` is needed for a renewal.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::kernel_pair_support::*;
use crate::pair_support::{LIMIT, agreed, caught_up, every, owned_by, vips, vrrpd};
use integration::lab::addresses::{mac, mac_text};
use integration::lab::clock::{now, wait_until};
use integration::lab::config::Instance;
use integration::lab::probe::{SightingKind, WatchReport, WatchSettings, Watcher};
use integration::lab::{Node, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const INTERVAL: Duration = Duration::from_millis(100);

fn unanswered(node: &Node) -> u64 {
    counted(node, "tandem_lbd_kernel_drops_total", "reason=\"solicitation\"")
}

#[test]
fn twenty_switchovers_lose_no_new_connection() -> Result<()> {
    let lab = forwarding("lease switchovers", every("100ms"))?;
    // A SYN that is lost is repeated after a second: that is too late.
    let load = Load::begin(&lab, WITHOUT_LOSS)?;
    let (mut from, mut to) = (lab.a(), lab.b());
    for round in 1..=20 {
        let (good, _, complaint) = vrrpd(from, &["switchover", "web"]);
        assert!(good, "{round}: {complaint}");
        agreed(&lab, to)?;
        owned_by(&lab, to)?;
        takes_new_ones(to)?;
        let lost = [not_active(from), not_active(to)];
        assert_eq!(lost, [0, 0], "{round}: dropped by the node that was active, and the one that is");
        (from, to) = (to, from);
    }
    load.end()?;
    lab.finish()
}

/// Stops or continues a node's `vrrpd` and its warden, the one that must not miss the other first.
fn all_of_vrrpd(node: &Node, signals: [Signal; 2]) -> Result<()> {
    let is_warden = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"warden")
    };
    let warden = node.namespace().pids()?.into_iter().find(is_warden).expect("there is a warden");
    kill(Pid::from_raw(warden), signals[0]).expect("the warden can be signalled");
    node.signal("vrrpd", signals[1]).map(drop)
}

/// How long the watcher was not watching at most.
fn pause(report: &WatchReport) -> Duration {
    report.asked.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Whether a connection answers as an echo server's does.
fn echoes(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer == *b"hello"
}

#[test]
fn a_host_that_stands_still_falls_silent_before_the_other_takes_over() -> Result<()> {
    let lab = forwarding("lease stall", Instance { preempt: false, ..every("100ms") })?;
    let [a, b] = lab.nodes();
    // A host whose neighbour table is slow: its packets go to a all the while.
    let late = lab.watch();
    let connect = |server: SocketAddr| {
        late.namespace()
            .inside(|| TcpStream::connect_timeout(&server, PATIENCE).map_err(|error| error.kind()))
    };
    let mut known = Vec::new();
    for vip in vips() {
        late.ip(&format!("neigh replace {vip} lladdr {} dev eth0 nud permanent", mac_text(a.mac())))?;
        let mut stream = connect(SocketAddr::new(vip, DSR_ECHO))?.expect("a is active");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        assert!(echoes(&mut stream), "{vip}");
        known.push(stream);
    }
    let watcher = Watcher::start(&lab, WatchSettings::new(&vips()))?;
    for vip in vips() {
        watcher.wait_owner(vip, mac(1), 10, LIMIT)?;
    }
    let before = not_active(a);
    all_of_vrrpd(a, [Signal::SIGSTOP, Signal::SIGSTOP])?;
    let stopped = now();
    b.wait_role("web", "active", LIMIT)?;
    // First, for a goes on with them for `kernel.drain_timeout` only.
    assert!(known.iter_mut().all(echoes), "connections that a knows");
    for vip in vips() {
        watcher.wait_owner(vip, mac(2), 10, LIMIT)?;
        assert!(a.holds(vip)? && b.holds(vip)?, "{vip}: a cannot have dropped it");
        // Nothing new, and no word that says no.
        assert_eq!(connect(SocketAddr::new(vip, DSR_HTTP))?.err(), Some(ErrorKind::TimedOut), "{vip}");
        assert_eq!(connect(SocketAddr::new(vip, NAT_HTTP))?.err(), Some(ErrorKind::TimedOut), "{vip}");
    }
    assert!(not_active(a) > before && unanswered(a) > 0);
    all_of_vrrpd(a, [Signal::SIGCONT, Signal::SIGCONT])?;
    owned_by(&lab, b)?;
    agreed(&lab, b)?;
    let report = watcher.stop()?;
    let pause = pause(&report);
    for vip in vips() {
        assert_eq!(report.longest_overlap(vip), None, "{vip}: both answered");
        let of =
            |host: u8| report.sightings.iter().filter(move |seen| seen.vip == vip && seen.mac == mac(host));
        let last = of(1).rfind(|seen| seen.kind == SightingKind::Answer).expect("a answered at first");
        let first = of(2).next().expect("b took over");
        assert!(last.at < first.at, "{vip}: a answered after b had it");
        let answered = last.at - stopped;
        assert!(
            answered < INTERVAL * 5 / 2 + pause,
            "{vip}: a answered for {answered:?}; pauses of {pause:?}"
        );
    }
    lab.finish()
}

#[test]
fn without_lbd_the_lease_is_renewed() -> Result<()> {
    // Else the VIPs would move to the node that has an lbd.
    let extra = "track = { lbd = false, targets = false }".to_owned();
    let lab = forwarding("lease without lbd", Instance { extra, ..every("100ms") })?;
    let load = Load::begin(&lab, WITHOUT_LOSS)?;
    lab.a().signal("lbd", Signal::SIGKILL)?;
    lab.a().wait_end("lbd", LIMIT)?;
    let killed = now();
    wait_until("many leases to be over", LIMIT, || now() - killed > 30 * INTERVAL)?;
    load.steady_after(STALL_OF_A_MOVE)?;
    lab.a().start_lbd()?;
    ready(lab.a())?;
    takes_new_ones(lab.a())?;
    assert_eq!((not_active(lab.a()), unanswered(lab.a())), (0, 0));
    caught_up(&lab)?;
    // And it is a restarted lbd's vrrpd that gives it up.
    let (good, _, complaint) = vrrpd(lab.a(), &["switchover", "web"]);
    assert!(good, "{complaint}");
    owned_by(&lab, lab.b())?;
    takes_new_ones(lab.b())?;
    assert_eq!((not_active(lab.a()), not_active(lab.b())), (0, 0));
    load.end()?;
    lab.finish()
}
