//! The lab shows what it is meant to show, with other software in the daemons' place.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use integration::lab::addresses::{mac, vip4, vip6};
use integration::lab::clock::{now, wait_until};
use integration::lab::fault::Fault;
use integration::lab::probe::{
    ConnectMode, ConnectProbe, ConnectSettings, DownloadProbe, DownloadSettings, EchoProbe, EchoSettings,
    Failure, WatchSettings, Watcher, sha256,
};
use integration::lab::reference::{Haproxy, HaproxyService, Keepalived};
use integration::lab::timeline::{EventKind, Timeline};
use integration::lab::{Lab, Result};

const LIMIT: Duration = Duration::from_secs(10);

/// keepalived and haproxy on both nodes; `a` holds the VIP, port 80 is HTTP and port 7 echoes.
fn pair(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    let http = lab.targets().iter().map(|target| target.http_address()).collect();
    let echo = lab.targets().iter().map(|target| target.echo_address()).collect();
    let haproxy = Haproxy {
        services: vec![
            HaproxyService { mode: "http".to_owned(), port: 80, targets: http },
            HaproxyService { mode: "tcp".to_owned(), port: 7, targets: echo },
        ],
    };
    for (node, priority) in [(lab.a(), 200), (lab.b(), 100)] {
        haproxy.start(node)?;
        keepalived(priority).start(node)?;
    }
    wait_until("a to hold the VIP alone", LIMIT, || {
        lab.a().holds(vip4(0)).unwrap_or(false) && !lab.b().holds(vip4(0)).unwrap_or(true)
    })?;
    Ok(lab)
}

fn keepalived(priority: u8) -> Keepalived {
    Keepalived { priority, vips: vec![vip4(0).into()], advert_interval_ms: 100, extra: String::new() }
}

fn vip(port: u16) -> SocketAddr {
    SocketAddr::from((vip4(0), port))
}

#[test]
fn a_blocked_port_shows_as_a_gap_of_the_detection_time() -> Result<()> {
    let lab = pair("gap")?;
    let probe = ConnectProbe::start(lab.client(), ConnectSettings::http(vip(80)))?;
    probe.wait_successes(300, LIMIT)?;
    let cut = lab.inject(&Fault::blocked("a"))?;
    wait_until("b to hold the VIP", LIMIT, || lab.b().holds(vip4(0)).unwrap_or(false))?;
    probe.wait_successes(300, LIMIT)?;
    let report = probe.stop()?;
    let summary = report.summary();

    // Three intervals of 100 ms and a skew of (256 - 100) / 256 of one, counted from the last advert, which is up to
    // one interval old.
    let gap = report.gap_around(cut, Duration::from_secs(3)).length();
    assert!(gap > Duration::from_millis(250), "the gap of {gap:?} is shorter than any detection: {summary}");
    assert!(
        gap < Duration::from_millis(700),
        "the gap of {gap:?} is longer than the detection time: {summary}"
    );
    let before = report.failures_between(report.begun, cut.before.before(Duration::from_millis(250)));
    assert!(before.is_empty(), "failures before the fault: {before:?}");
    let during = report.failures_between(cut.after, cut.after + gap);
    assert!(during.contains_key(&Failure::Timeout), "a silent drop shows as time-outs: {during:?}");
    assert_eq!(report.by_target().len(), 2, "both targets answer: {:?}", report.by_target());
    let recovery = report.recovery(cut, Duration::from_secs(3)).expect("it recovered");
    assert!(recovery < Duration::from_secs(1), "served again after {recovery:?}: {summary}");

    let mut timeline = Timeline::begin("gap");
    timeline.begun = report.begun;
    timeline.window(cut, EventKind::Fault, "a", "the port is blocked");
    timeline.add_connections("http", &report, Duration::from_millis(10));
    timeline.end();
    let text = serde_json::to_string(&timeline).expect("a timeline is plain data");
    let back: Timeline = serde_json::from_str(&text).expect("and can be read back");
    assert_eq!((&back.events, &back.series[0]), (&timeline.events, &timeline.series[0]));
    let served: f64 = back.series[0].points.iter().map(|(_, count)| count).sum();
    assert!((served - f64::from(u32::try_from(report.succeeded()).expect("a few thousand"))).abs() < 0.5);
    lab.finish()
}

#[test]
fn a_download_is_paced_and_whole_or_broken() -> Result<()> {
    let lab = Lab::builder("download").targets(1).build()?;
    let target = &lab.targets()[0];
    let (file, bytes) = (
        lab.dir().join("file"),
        (0..8 << 20).map(|at: u32| at.to_le_bytes()[at as usize % 4]).collect::<Vec<_>>(),
    );
    std::fs::write(&file, &bytes).expect("the lab's directory can be written to");
    target.publish(&file)?;
    let settings = DownloadSettings::new(target.http_address(), "/files/file");
    let start = || DownloadProbe::start(lab.client(), settings.clone());
    let (whole, broken) = (start()?, start()?);
    let (begun, some) = (now(), 1 << 20);
    whole.wait_bytes(some, LIMIT)?;
    let rate = some * 1_000_000_000 / u64::try_from((now() - begun).as_nanos()).unwrap_or(u64::MAX);
    assert!(!whole.is_over() && rate < 2 * settings.bytes_per_second, "{rate} bytes a second");
    let whole = whole.finish(LIMIT)?;
    assert!(whole.is_whole(&sha256(&bytes)), "{whole:?}");
    assert!(!whole.is_whole(&sha256(&bytes[1..])));

    broken.wait_bytes(1, LIMIT)?;
    target.stop("nginx")?;
    let broken = broken.finish(LIMIT)?;
    assert!(broken.broken.is_some() && !broken.is_whole(&sha256(&bytes)), "{broken:?}");
    lab.finish()
}

#[test]
fn the_messages_of_many_connections_all_come_back() -> Result<()> {
    let lab = Lab::builder("many").targets(1).build()?;
    let target = &lab.targets()[0];
    target.move_echo_out()?;
    let start = |server, connections, tunnels| {
        let interval = Duration::from_millis(200);
        let settings = EchoSettings { tunnels, interval, ..EchoSettings::new(server, connections) };
        EchoProbe::start(lab.client(), settings)
    };
    let probe = start(target.echo_address(), 2000, false)?;
    let tunnels = start(target.tunnel_address(), 200, true)?;
    assert!(start(target.echo_address(), 1, true).is_err(), "whoever only echoes opens no tunnel");
    probe.wait_exchanges(5, LIMIT)?;
    tunnels.wait_exchanges(5, LIMIT)?;
    assert_eq!((probe.broken(), tunnels.broken()), (0, 0));
    target.stop("echo")?;
    wait_until("every connection to break", LIMIT, || (probe.broken(), tunnels.broken()) == (2000, 200))?;
    let report = probe.stop()?;
    assert!(report.connections.iter().all(|connection| connection.exchanges >= 5), "{}", report.summary());
    assert_eq!(report.breaks().values().sum::<usize>(), 2000);
    lab.finish()
}

#[test]
fn a_pulled_cable_is_seen_announced_and_breaks_proxied_connections() -> Result<()> {
    let lab = pair("cable")?;
    let watcher = Watcher::start(&lab, WatchSettings::new(&[vip4(0).into()]))?;
    watcher.wait_owner(vip4(0), mac(1), 20, LIMIT)?;
    let echo = EchoProbe::start(lab.client(), EchoSettings::new(vip(7), 20))?;
    echo.wait_exchanges(5, LIMIT)?;
    assert_eq!(echo.snapshot().broken(), 0, "{}", echo.snapshot().summary());

    let pulled = lab.inject(&Fault::link_down("a"))?;
    assert_eq!(lab.a().run("cat", &["/sys/class/net/eth0/carrier"])?.trim(), "0");
    let announced = watcher.wait_announcement(vip4(0), pulled.before, LIMIT)?;
    assert_eq!(announced.mac, mac(2), "b announces the VIP");
    watcher.wait_owner(vip4(0), mac(2), 20, LIMIT)?;
    // b's haproxy knows nothing of a's connections.
    wait_until("every connection to break", LIMIT, || echo.snapshot().broken() == 20)?;
    let report = echo.stop()?;
    let why: BTreeSet<Failure> =
        report.connections.iter().filter_map(|connection| connection.broken.map(|(_, why)| why)).collect();
    assert_eq!(why, BTreeSet::from([Failure::Reset]), "{}", report.summary());

    lab.heal(&Fault::link_down("a"))?;
    watcher.wait_owner(vip4(0), mac(1), 20, LIMIT)?;
    let seen = watcher.stop()?;
    assert_eq!(seen.last_announcement(vip4(0)).map(|last| last.mac), Some(mac(1)), "a has it again");
    lab.finish()
}

#[test]
fn two_answering_at_once_is_measured_for_both_families() -> Result<()> {
    let lab = Lab::builder("overlap").targets(1).target_servers(false).build()?;
    let vips = [vip4(0).into(), vip6(0).into()];
    let watcher = Watcher::start(&lab, WatchSettings::new(&vips))?;
    for vip in vips {
        lab.a().add_address(vip)?;
        watcher.wait_owner(vip, mac(1), 20, LIMIT)?;
        let begin = lab.b().add_address(vip)?;
        wait_until("both to answer for a while", LIMIT, || now() - begin.after > Duration::from_millis(200))?;
        let end = lab.a().remove_address(vip)?;
        watcher.wait_owner(vip, mac(2), 20, LIMIT)?;

        let overlap = watcher.snapshot().longest_overlap(vip).expect("both answered");
        let (least, most) = (end.before - begin.after, end.after - begin.before);
        let slack = Duration::from_millis(30);
        assert!(overlap.length() + slack > least, "{vip}: {overlap:?}, at least {least:?}");
        assert!(overlap.length() < most + slack, "{vip}: {overlap:?}, at most {most:?}");
        assert_eq!(overlap.macs, BTreeSet::from([mac(1), mac(2)]));
    }
    let gone = lab.b().remove_address(vip4(0))?;
    wait_until("nobody to answer for a while", LIMIT, || now() - gone.after > Duration::from_millis(100))?;
    lab.a().add_address(vip4(0))?;
    watcher.wait_owner(vip4(0), mac(1), 20, LIMIT)?;
    let report = watcher.stop()?;
    assert!(report.longest_silence(vip4(0)) >= Duration::from_millis(95), "{:?}", report.owners(vip4(0)));
    assert!(report.longest_silence(vip6(0)) > Duration::ZERO);
    assert_eq!(report.announcements(vip4(0)).count(), 0, "an address added by hand is not announced");
    lab.finish()
}

#[test]
fn connections_without_a_request_and_refused_ones_are_told_apart() -> Result<()> {
    let lab = Lab::builder("connect").targets(1).build()?;
    let target = &lab.targets()[0];
    for port in [8080, 81] {
        let settings = ConnectSettings::connect_only(SocketAddr::from((target.v6(), port)));
        assert_eq!(settings.mode, ConnectMode::ConnectOnly);
        let probe = ConnectProbe::start(lab.client(), settings)?;
        wait_until("some attempts", LIMIT, || probe.len() > 100)?;
        let report = probe.stop()?;
        let kinds: Vec<Failure> = report.failures().into_keys().collect();
        let expected: &[Failure] = if port == 81 { &[Failure::Refused] } else { &[] };
        assert_eq!(kinds, expected, "port {port}: {}", report.summary());
    }
    lab.finish()
}
