//! What a pair tells, and to whom; and the ways to set it up that differ from the usual one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::pair_support::{
    LIMIT, Watch, agreed, config, events, every, owned_by, router, served, serving, settled, status,
    transitions, vips, vrrpd,
};
use integration::lab::addresses::{Mac, mac, vip4, vip6};
use integration::lab::capture::{Capture, fields};
use integration::lab::clock::{now, wait_until};
use integration::lab::config::Instance;
use integration::lab::probe::{WatchSettings, Watcher};
use integration::lab::{Lab, Node, Result, http};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const VRRPD: ([u8; 4], u16) = ([127, 0, 0, 1], 9112);
const LBD: ([u8; 4], u16) = ([127, 0, 0, 1], 9180);
const VIRTUAL_V4: Mac = [0, 0, 0x5e, 0, 1, 51];
const VIRTUAL_V6: Mac = [0, 0, 0x5e, 0, 2, 51];

/// Starts the daemons of a lab with this instance; nothing is waited for but them.
fn started(label: &str, instance: Instance) -> Result<Lab> {
    let lab = crate::pair_support::prepared(label, instance)?;
    for node in lab.nodes() {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    Ok(lab)
}

/// Asks for something that changes a node, over TCP.
fn post(node: &Node, server: SocketAddr, path: &str, body: &str) -> Result<u16> {
    let ask = || http::tcp(server, "POST", path, body, LIMIT);
    Ok(node.namespace().inside(ask)??.status)
}

#[test]
fn both_daemons_tell_the_same_over_both_sockets() -> Result<()> {
    let lab = serving("api", every("100ms"))?;
    let a = lab.a();
    for (daemon, server, paths) in [
        ("vrrpd", VRRPD, &["/v1/role", "/v1/role/web", "/v1/status", "/v1/events", "/v1/events?after=3"][..]),
        ("lbd", LBD, &["/v1/services", "/v1/target-groups", "/v1/status"]),
    ] {
        let health = ["/health", "/health/live", "/health/ready", "/health/details", "/metrics"];
        for path in paths.iter().chain(&health) {
            let (tcp, unix) = (a.get_tcp(server.into(), path)?, a.get(daemon, path)?);
            assert_eq!((tcp.status, unix.status), (200, 200), "{daemon} {path}: {}", unix.body);
            if *path != "/metrics" {
                let keys =
                    |body: Value| body.as_object().map(|map| map.keys().cloned().collect::<BTreeSet<_>>());
                assert_eq!(keys(tcp.json()?), keys(unix.json()?), "{daemon} {path}");
            }
        }
        assert_eq!(a.get(daemon, "/v1/nothing")?.status, 404);
    }
    assert_eq!(a.get("vrrpd", "/v1/role")?.json()?, json!({ "web": "active" }));
    assert_eq!(lab.b().get("vrrpd", "/v1/role/web")?.json()?, json!({ "role": "backup" }));
    let page = events(a)?;
    let ids: Vec<u64> = page.iter().filter_map(|event| event["id"].as_u64()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "numbered without a gap");

    let metrics = a.get("vrrpd", "/metrics")?.body;
    for line in [
        "tandem_vrrp_role{instance=\"web\",family=\"ipv6\",role=\"active\"} 1.0",
        "tandem_vrrp_effective_priority{instance=\"web\"} 200.0",
        "tandem_vrrp_peer_link_alive{} 1.0",
        "tandem_vrrp_lbd_connected{} 1.0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    let services = a.get("lbd", "/v1/services")?.body;
    assert!(services.contains("10.77.0.50:80") && services.contains("[fd77::50]:80"), "{services}");
    lab.finish()
}

#[test]
fn changes_are_for_the_unix_socket_only() -> Result<()> {
    let lab = serving("changes", every("100ms"))?;
    let before = lab.nodes().map(transitions);
    for (path, body) in [
        ("/v1/switchover", "{\"instance\":\"web\"}"),
        ("/v1/maintenance", "{\"on\":true}"),
        ("/v1/reload", ""),
    ] {
        assert_eq!(post(lab.a(), VRRPD.into(), path, body)?, 403, "{path}");
    }
    assert_eq!(post(lab.a(), LBD.into(), "/v1/reload", "")?, 403);
    assert_eq!(lab.nodes().map(transitions), before);
    // Nor is any of it to be reached from outside.
    for port in [VRRPD.1, LBD.1] {
        let outside = || http::tcp((lab.a().v4(), port).into(), "GET", "/health", "", LIMIT);
        assert!(lab.client().namespace().inside(outside)?.is_err(), "port {port}");
    }
    assert_eq!(lab.a().send("vrrpd", "POST", "/v1/switchover", "{\"instance\":\"web\"}")?.status, 200);
    settled(&lab, lab.b())?;
    lab.finish()
}

#[test]
fn events_can_be_followed() -> Result<()> {
    let lab = serving("follow", every("100ms"))?;
    let program = integration::lab::binary("vrrpd")?;
    let mut command = lab.b().command(&program.to_string_lossy());
    command.args(["events", "--follow", "--json", "--run-dir"]).arg(lab.b().run_dir());
    lab.b().start("follow", command)?;
    wait_until("the former events", LIMIT, || lab.b().log("follow").contains("\"startup\""))?;

    let mut stream = UnixStream::connect(lab.b().socket("vrrpd")).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time-out can be set");
    let request = "GET /v1/events?after=0 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");

    let (good, _, complaint) = vrrpd(lab.a(), &["switchover", "web"]);
    assert!(good, "{complaint}");
    wait_until("the news", LIMIT, || lab.b().log("follow").contains("\"reason\":\"handover\""))?;
    let mut lines = BufReader::new(stream).lines();
    let told = lines.by_ref().take(500).map_while(std::result::Result::ok);
    assert!(told.into_iter().any(|line| line.starts_with("data:") && line.contains("\"handover\"")));
    lab.finish()
}

#[test]
fn hooks_run_in_order_and_know_what_they_are_for() -> Result<()> {
    let lab = Lab::builder("hooks").targets(2).build()?;
    let file = |node: &Node| lab.dir().join(format!("hooks-{}", node.name()));
    let script = format!(
        "[ $TANDEM_ROLE = backup ] && sleep 0.3; echo $TANDEM_INSTANCE $TANDEM_PREVIOUS_ROLE $TANDEM_ROLE \
         $TANDEM_VIPS $1 >> {}/hooks-$TANDEM_NODE",
        lab.dir().display()
    );
    let hook = |name: &str| format!("[\"/bin/sh\", \"-c\", {script:?}, \"sh\", \"{name}\"]");
    let extra = format!(
        "hooks = {{ on_active = {}, on_backup = {}, on_fault = {} }}",
        hook("A"),
        hook("B"),
        hook("F")
    );
    lab.write_config(&config(&lab, Instance { extra, ..every("100ms") }))?;
    crate::pair_support::start_all(&lab)?;
    let fault = integration::lab::fault::Fault::link_down("a");
    lab.inject(&fault)?;
    settled_roles(&lab, "fault", "active")?;
    lab.heal(&fault)?;
    settled(&lab, lab.a())?;
    let vips = "10.77.0.50/24 fd77::50/64";
    let text = |node: &Node| fs::read_to_string(file(node)).unwrap_or_default();
    let expected = |steps: &[&str]| -> String {
        steps
            .iter()
            .map(|step| {
                let (roles, hook) = step.rsplit_once(' ').expect("roles and a hook");
                format!("web {roles} {vips} {hook}\n")
            })
            .collect()
    };
    let on_a = expected(&[
        "init backup B",
        "backup active A",
        "active fault F",
        "fault backup B",
        "backup active A",
    ]);
    let on_b = expected(&["init backup B", "backup active A", "active backup B"]);
    wait_until("the hooks to have run", LIMIT, || {
        text(lab.a()).len() >= on_a.len() && text(lab.b()).len() >= on_b.len()
    })?;
    assert_eq!((text(lab.a()), text(lab.b())), (on_a, on_b));
    lab.finish()
}

fn settled_roles(lab: &Lab, a: &str, b: &str) -> Result<()> {
    lab.a().wait_role("web", a, LIMIT)?;
    lab.b().wait_role("web", b, LIMIT)
}

#[test]
fn virtual_mac_addresses_move_with_the_role() -> Result<()> {
    let lab = started("vmac", Instance { extra: "virtual_mac = true".to_owned(), ..every("100ms") })?;
    agreed(&lab, lab.a())?;
    served(&lab, &vips())?;
    let on_macvlan = |node: &Node, vip: IpAddr| {
        let text =
            node.run("ip", &["-oneline", "address", "show", "to", &vip.to_string()]).unwrap_or_default();
        text.contains(": tandem")
    };
    assert!(vips().into_iter().all(|vip| on_macvlan(lab.a(), vip) && !on_macvlan(lab.b(), vip)));
    let watcher = Watcher::start(&lab, WatchSettings::new(&vips()))?;
    let capture = Capture::on_switch(&lab, "lan", "arp or icmp6 or proto 112 or ip6 proto 112")?;
    watcher.wait_owner(vip4(0), VIRTUAL_V4, 20, LIMIT)?;
    watcher.wait_owner(vip6(0), VIRTUAL_V6, 20, LIMIT)?;

    let killed = lab.a().signal("vrrpd", Signal::SIGKILL)?;
    lab.b().wait_role("web", "active", LIMIT)?;
    served(&lab, &vips())?;
    assert!(vips().into_iter().all(|vip| on_macvlan(lab.b(), vip)));
    wait_until("a to have none", LIMIT, || vips().into_iter().all(|vip| !on_macvlan(lab.a(), vip)))?;
    for (vip, expected) in [(IpAddr::from(vip4(0)), VIRTUAL_V4), (vip6(0).into(), VIRTUAL_V6)] {
        let announced = watcher.wait_announcement(vip, killed.before, LIMIT)?;
        assert_eq!(announced.mac, expected);
    }
    lab.a().start_vrrpd()?;
    agreed(&lab, lab.a())?;
    served(&lab, &vips())?;
    watcher.stop()?;
    let file = capture.stop()?;
    let announcements =
        fields(&file, "arp.isgratuitous == 1 && arp.src.proto_ipv4 == 10.77.0.50", &["eth.src"])?;
    assert!(
        !announcements.is_empty() && announcements.iter().all(|row| row[0] == "00:00:5e:00:01:33"),
        "{announcements:?}"
    );
    let adverts = fields(&file, "vrrp.prio > 0 && vrrp.prio < 255 && ipv6", &["eth.src"])?;
    assert!(!adverts.is_empty() && adverts.iter().all(|row| row[0] == "00:00:5e:00:02:33"), "{adverts:?}");
    for node in lab.nodes() {
        node.stop("vrrpd")?;
        assert!(!node.run("ip", &["-oneline", "link", "show"])?.contains("tandem"), "no macvlan is left");
    }
    lab.finish()
}

#[test]
fn a_unicast_pair_needs_no_multicast() -> Result<()> {
    let extra = "address = { a = [\"10.77.0.1\", \"fd77::1\"], b = [\"10.77.0.2\", \"fd77::2\"] }".to_owned();
    let lab = started("unicast", Instance { transport: "unicast".to_owned(), extra, ..every("100ms") })?;
    settled(&lab, lab.a())?;
    let watch = Watch::begin(&lab)?;
    let capture = Capture::on_switch(&lab, "lan", "proto 112 or ip6 proto 112")?;
    lab.a().signal("vrrpd", Signal::SIGKILL)?;
    lab.b().wait_role("web", "active", LIMIT)?;
    owned_by(&lab, lab.b())?;
    watch.wait_owner(mac(2))?;
    lab.a().start_vrrpd()?;
    settled(&lab, lab.a())?;
    watch.wait_owner(mac(1))?;
    watch.steady()?;
    let seen = watch.end()?;
    seen.assert_one_owner(Duration::from_millis(100));
    let file = capture.stop()?;
    let to: BTreeSet<String> = fields(&file, "vrrp", &["eth.dst"])?.into_iter().flatten().collect();
    let nodes = [mac(1), mac(2)].map(integration::lab::addresses::mac_text);
    assert_eq!(to, BTreeSet::from(nodes), "only to each other");
    for family in ["ipv4", "ipv6"] {
        assert!(router(lab.b(), family)["adverts_received"].as_u64() > Some(0), "{family}");
    }
    lab.finish()
}

#[test]
fn version_2_works_between_two_of_ours() -> Result<()> {
    let extra = "version = 2".to_owned();
    let instance = Instance { vips: vec![vip4(0).into()], auth: "none".to_owned(), extra, ..every("1s") };
    let lab = started("v2", instance)?;
    agreed(&lab, lab.a())?;
    served(&lab, &[vip4(0).into()])?;
    let capture = Capture::on_switch(&lab, "lan", "proto 112")?;
    let (good, _, complaint) = vrrpd(lab.a(), &["switchover", "web"]);
    assert!(good, "{complaint}");
    agreed(&lab, lab.b())?;
    served(&lab, &[vip4(0).into()])?;
    lab.b().signal("vrrpd", Signal::SIGTERM)?;
    lab.a().wait_role("web", "active", LIMIT)?;
    served(&lab, &[vip4(0).into()])?;
    wait_until("an advertisement more", LIMIT, || {
        router(lab.a(), "ipv4")["adverts_sent"].as_u64() > Some(3)
    })?;
    let versions = fields(&capture.stop()?, "vrrp", &["vrrp.version"])?;
    assert!(!versions.is_empty() && versions.iter().all(|row| row[0] == "2"), "{versions:?}");
    lab.finish()
}

#[test]
fn without_authentication_nothing_is_signed() -> Result<()> {
    let lab = started("no-auth", Instance { auth: "none".to_owned(), ..every("100ms") })?;
    settled(&lab, lab.a())?;
    let capture = Capture::on_switch(&lab, "lan", "proto 112")?;
    lab.a().signal("vrrpd", Signal::SIGKILL)?;
    settled_after_death(&lab)?;
    lab.a().start_vrrpd()?;
    settled(&lab, lab.a())?;
    // 20 of IPv4, 8 of VRRP, 4 for the address: no trailer.
    let lengths: BTreeSet<String> =
        fields(&capture.stop()?, "vrrp && ip", &["ip.len"])?.into_iter().flatten().collect();
    assert_eq!(lengths, BTreeSet::from(["32".to_owned()]));
    lab.finish()
}

fn settled_after_death(lab: &Lab) -> Result<()> {
    lab.b().wait_role("web", "active", LIMIT)?;
    owned_by(lab, lab.b())?;
    served(lab, &vips())
}

#[test]
fn advertisements_every_10_ms_hold_and_fail_over() -> Result<()> {
    let lab = serving("fast", every("10ms"))?;
    let watch = Watch::begin(&lab)?;
    let sent = || router(lab.a(), "ipv4")["adverts_sent"].as_u64().unwrap_or(0);
    let (start, first) = (now(), sent());
    wait_until("a second", LIMIT, || now() - start > Duration::from_secs(1))?;
    let rate = (sent() - first) * 1000 / u64::try_from((now() - start).as_millis()).expect("some seconds");
    assert!((50..=120).contains(&rate), "{rate} advertisements a second");
    agreed(&lab, lab.a())?;
    assert!(status(lab.b()).is_some_and(|status| status["peer_link"]["alive"] == true));
    lab.a().signal("vrrpd", Signal::SIGKILL)?;
    lab.b().wait_role("web", "active", LIMIT)?;
    watch.wait_owner(mac(2))?;
    watch.steady()?;
    let seen = watch.end()?;
    seen.assert_one_owner(Duration::from_millis(10));
    seen.assert_announced_last_by(mac(2));
    lab.finish()
}
