//! `vrrpd` alone on both nodes, without `lbd`, as a replacement of keepalived in front of another balancer: HAProxy.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::{Window, now, wait_until};
use integration::lab::config::{Instance, PairConfig};
use integration::lab::probe::{ConnectProbe, ConnectSettings, Failure, WatchSettings, Watcher};
use integration::lab::{Lab, LabError, Node, Result};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(100);

fn vips() -> [IpAddr; 2] {
    [vip4(0).into(), vip6(0).into()]
}

/// HAProxy with a frontend on the VIPs themselves, as most configurations have it. IPv4 binds as it is, thanks to
/// the local route that `vrrpd` keeps on both nodes; for IPv6 the kernel wants to be told, which `transparent` does.
fn haproxy_config(lab: &Lab) -> String {
    let (v4, v6) = (vip4(0), vip6(0));
    let mut text = format!(
        "global
  log stderr local0 notice
defaults
  mode http
  timeout connect 1s
  timeout client 10s
  timeout server 10s
listen web
  bind {v4}:80
  bind [{v6}]:80 transparent
  balance roundrobin
"
    );
    for (index, target) in lab.targets().iter().enumerate() {
        text.push_str(&format!("  server t{} {}\n", index + 1, target.http_address()));
    }
    text
}

fn start_haproxy(lab: &Lab, node: &Node) -> Result<()> {
    let file = node.run_dir().join("haproxy.cfg");
    let doing = || format!("writing {}", file.display());
    fs::write(&file, haproxy_config(lab)).map_err(|source| LabError::Io { doing: doing(), source })?;
    let mut command = node.command("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    node.start("haproxy", command)?;
    // The node itself reaches the VIP by its local route, whatever its role.
    for vip in vips() {
        wait_until(&format!("haproxy on {} to listen on {vip}", node.name()), LIMIT, || {
            let connected = node.namespace().inside(|| TcpStream::connect(SocketAddr::new(vip, 80)).is_ok());
            node.running("haproxy") && connected.unwrap_or(false)
        })?;
    }
    Ok(())
}

/// Both nodes with both programs; `a` is active.
fn pair() -> Result<Lab> {
    let lab = Lab::builder("haproxy").targets(2).build()?;
    // No services, and so nothing of lbd to track.
    let instance = Instance { extra: "track = { lbd = false }".to_owned(), ..Instance::default() };
    lab.write_config(&PairConfig::new(vec![instance]))?;
    for (node, role) in [(lab.a(), "active"), (lab.b(), "backup")] {
        node.start_vrrpd()?;
        node.wait_role("web", role, LIMIT)?;
        for family in ["ipv4", "ipv6"] {
            assert_eq!(node.run("cat", &[&format!("/proc/sys/net/{family}/ip_nonlocal_bind")])?.trim(), "0");
        }
        start_haproxy(&lab, node)?;
    }
    assert!(!lab.b().holds(vip4(0))?, "b listens on an address it does not have");
    let bind = |vip| lab.b().namespace().inside(|| TcpListener::bind(SocketAddr::new(vip, 81)).map(drop));
    assert!(bind(vip4(0).into())?.is_ok());
    let refused = bind(vip6(0).into())?.map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::AddrNotAvailable), "why HAProxy's configuration says `transparent`");
    Ok(lab)
}

fn probe(lab: &Lab, vip: IpAddr) -> Result<ConnectProbe> {
    let settings = ConnectSettings {
        // Two probes at once, beside whatever else the machine does.
        interval: Duration::from_millis(4),
        deadline: Duration::from_millis(900),
        ..ConnectSettings::http(SocketAddr::new(vip, 80))
    };
    let probe = ConnectProbe::start(lab.client(), settings)?;
    probe.wait_steady(50, LIMIT)?;
    Ok(probe)
}

/// New connections never notice. One that is under way when the VIP moves has its socket on the node that loses it, and
/// no balancer but `lbd` knows how to go on with it there: it is reset.
#[test]
fn planned_moves_cost_at_most_the_connections_under_way() -> Result<()> {
    let lab = pair()?;
    let probes = [probe(&lab, vip4(0).into())?, probe(&lab, vip6(0).into())?];
    let mut moves: Vec<Window> = Vec::new();
    let mut moved = |to: &Node, act: &dyn Fn() -> Result<()>| -> Result<()> {
        let before = now();
        act()?;
        to.wait_role("web", "active", LIMIT)?;
        moves.push(Window { before, after: now() });
        probes.iter().try_for_each(|probe| probe.wait_steady(100, LIMIT))
    };
    let (a, b) = (lab.a(), lab.b());
    moved(b, &|| {
        let answer = a.send("vrrpd", "POST", "/v1/switchover", "{\"instance\":\"web\"}")?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Ok(())
    })?;
    moved(a, &|| b.stop("vrrpd").map(drop))?;
    b.start_vrrpd()?;
    b.wait_role("web", "backup", LIMIT)?;
    moved(b, &|| a.stop("vrrpd").map(drop))?;
    moved(a, &|| a.start_vrrpd().map(drop))?;
    for probe in probes {
        let report = probe.stop()?;
        for attempt in report.attempts.iter().filter(|attempt| attempt.failure.is_some()) {
            let (begun, ended) = (attempt.start, attempt.end);
            let under_way = moves.iter().any(|window| begun <= window.after && ended >= window.before);
            let excused = under_way && attempt.failure == Some(Failure::Reset);
            assert!(excused, "{attempt:?} {moves:?}: {}", report.summary());
        }
        // A reset costs nothing but itself; a VIP that nobody has would cost every attempt.
        assert!(report.failed() <= moves.len() * 4, "{}", report.summary());
    }
    lab.finish()
}

#[test]
fn a_killed_vrrpd_costs_less_than_three_intervals() -> Result<()> {
    let lab = pair()?;
    let watcher = Watcher::start(&lab, WatchSettings::new(&vips()))?;
    let probes = [probe(&lab, vip4(0).into())?, probe(&lab, vip6(0).into())?];
    let killed = lab.a().signal("vrrpd", Signal::SIGKILL)?;
    lab.b().wait_role("web", "active", LIMIT)?;
    for vip in vips() {
        watcher.wait_owner(vip, lab.b().mac(), 60, LIMIT)?;
    }
    for probe in probes {
        probe.wait_steady(100, LIMIT)?;
        let report = probe.stop()?;
        let gap = report.gap_around(killed, Duration::from_secs(3)).length();
        // Silence would take three intervals and a skew to be noticed.
        assert!(gap < INTERVAL * 3, "{}", report.summary());
    }
    assert!(!lab.a().holds(vip4(0))? && !lab.a().holds(vip6(0))?, "the warden released the VIPs");

    lab.a().start_vrrpd()?;
    for vip in vips() {
        watcher.wait_owner(vip, lab.a().mac(), 60, LIMIT)?;
    }
    let seen = watcher.stop()?;
    for vip in vips() {
        let overlap = seen.longest_overlap(vip).map(|overlap| overlap.length()).unwrap_or_default();
        assert!(overlap <= INTERVAL, "two answered for {vip} for {overlap:?}");
    }
    lab.finish()
}
