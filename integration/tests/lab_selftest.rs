//! The lab shows what it is meant to show, with other software in the daemons' place.

use std::net::SocketAddr;
use std::time::Duration;

use integration::lab::addresses::vip4;
use integration::lab::clock::wait_until;
use integration::lab::fault::Fault;
use integration::lab::probe::{ConnectProbe, ConnectSettings};
use integration::lab::reference::{Haproxy, HaproxyService, Keepalived};
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
        let extra = String::new();
        Keepalived { priority, vips: vec![vip4(0).into()], advert_interval_ms: 100, extra }.start(node)?;
    }
    wait_until("a to hold the VIP alone", LIMIT, || {
        lab.a().holds(vip4(0)).unwrap_or(false) && !lab.b().holds(vip4(0)).unwrap_or(true)
    })?;
    Ok(lab)
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
    assert!(!report.failures_between(cut.after, cut.after + gap).is_empty());
    assert_eq!(report.by_target().len(), 2, "both targets answer: {:?}", report.by_target());
    lab.finish()
}
