//! Health checks of `dsr` through the virtual IP: a target whose own address answers, but that does not take clients' packets, is
//! found out by both nodes, gets no new connections, and is taken back when it is as it should be.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::pair_support::{LIMIT, agreed, vips};
use integration::lab::clock::wait_until;
use integration::lab::config::{Instance, PairConfig};
use integration::lab::tunnel::{Tunnel, TunnelEnd};
use integration::lab::{Lab, Node, Result, Target, http};
use nix::sys::signal::Signal;
use serde_json::Value;

const PORT: u16 = 80;
const ECHO_PORT: u16 = 7;
const CROSSED_PORT: u16 = 8080;
/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many new connections come to both targets by chance.
const CONNECTIONS: usize = 60;

/// Time-outs that a busy machine does not use up: a target that is thought unhealthy for a moment has its connections reset.
const RHYTHM: &str =
    "interval = \"500ms\", unhealthy_interval = \"100ms\", timeout = \"450ms\", healthy_threshold = 1";
const HTTP: &str = "http = \"/health\"";
const DATAGRAMS: &str = "udp = \"hello\", expect = \"hello\"";

fn address(target: &Target, v4: bool) -> IpAddr {
    if v4 { target.v4().into() } else { target.v6().into() }
}

fn family(vip: IpAddr) -> &'static str {
    if vip.is_ipv4() { "4" } else { "6" }
}

/// A service for HTTP and one for datagrams on each VIP; and with tunnels one for HTTP whose targets are of the other family.
fn config(lab: &Lab, way: &str) -> PairConfig {
    let mut config = PairConfig::new(vec![Instance::default()]);
    let keys = format!("dsr = \"{way}\"");
    for vip in vips() {
        let mut add = |name: &str, port: u16, suffix: &str, v4: bool, health: &str| {
            let name = format!("{name}{}", family(vip));
            let listen = format!("{}{suffix}", SocketAddr::new(vip, port));
            let targets: Vec<SocketAddr> =
                lab.targets().iter().map(|target| SocketAddr::new(address(target, v4), port)).collect();
            config = config.clone().service(&name, "dsr", &listen, &name, &keys).target_group(
                &name,
                &targets,
                &format!("health = {{ {health}, {RHYTHM} }}"),
            );
        };
        add("web", PORT, "", vip.is_ipv4(), HTTP);
        add("echo", ECHO_PORT, "/udp", vip.is_ipv4(), DATAGRAMS);
        if way != "l2" {
            add("crossed", CROSSED_PORT, "", !vip.is_ipv4(), HTTP);
        }
    }
    config
}

/// A pair that is up, and the targets' ends of the tunnels.
fn pair(label: &str, way: &str, tunnel: Option<Tunnel>, extra: &str) -> Result<(Lab, Vec<TunnelEnd>)> {
    let lab = Lab::builder(label).targets(2).build()?;
    let mut ends = Vec::new();
    for target in lab.targets() {
        vips().into_iter().try_for_each(|vip| target.accept_vip(vip))?;
        ends.extend(tunnel.map(|tunnel| TunnelEnd::start(target, tunnel)).transpose()?);
    }
    lab.write_config(&config(&lab, way).raw(extra))?;
    start(&lab)?;
    Ok((lab, ends))
}

fn start(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    agreed(lab, lab.a())
}

/// What `lbd` of a node says of a target.
fn target(node: &Node, group: &str, id: &str) -> Value {
    let status: Value =
        node.get("lbd", "/v1/status").ok().and_then(|answer| answer.json().ok()).unwrap_or_default();
    let named = |list: &Value, key: &str, name: &str| {
        list.as_array().into_iter().flatten().find(|it| it[key] == name).cloned().unwrap_or_default()
    };
    named(&named(&status["target_groups"], "name", group)["targets"], "id", id)
}

/// Waits until both nodes say so of a target, and say that they asked it through this VIP.
#[track_caller]
fn until(lab: &Lab, group: &str, id: &str, health: &str, vip: SocketAddr) -> Result<()> {
    for node in lab.nodes() {
        wait_until(&format!("{group}/{id} to be {health} for {}", node.name()), LIMIT, || {
            let target = target(node, group, id);
            let check = &target["last_check"];
            target["health"] == health && check["via"] == "vip" && check["vip"] == vip.to_string()
        })?;
    }
    Ok(())
}

/// Waits until nobody but `t2` answers: what the status says is in the kernel a moment later.
fn only_t2(lab: &Lab, server: SocketAddr) -> Result<()> {
    wait_until(&format!("t2 alone to answer through {server}"), LIMIT, || {
        answerers(lab, server).is_ok_and(|names| names == BTreeSet::from(["t2".to_owned()]))
    })
}

/// Who answers new connections to the VIP; every one has to be answered.
fn answerers(lab: &Lab, server: SocketAddr) -> Result<BTreeSet<String>> {
    lab.client().namespace().inside(|| {
        let ask = |_| Ok(http::tcp(server, "GET", "/", "", PATIENCE)?.body.trim().to_owned());
        (0..CONNECTIONS).map(ask).collect()
    })?
}

/// Waits until a new connection is answered, as is so once the active node knows its neighbours.
fn until_served(lab: &Lab, server: SocketAddr) -> Result<()> {
    let ask = || http::tcp(server, "GET", "/", "", PATIENCE);
    wait_until(&format!("an answer from {server}"), LIMIT, || {
        lab.client().namespace().inside(ask).is_ok_and(|it| it.is_ok_and(|page| page.status == 200))
    })
}

/// Both nodes find a target out that does not take clients' packets, though its own address answers, and take it back.
fn found_out(
    lab: &Lab,
    services: &[(&str, u16)],
    spoil: impl FnOnce(&Target) -> Result<()>,
    mend: impl FnOnce(&Target) -> Result<()>,
) -> Result<()> {
    let each = || {
        services.iter().flat_map(|(name, port)| {
            vips().map(|vip| (format!("{name}{}", family(vip)), SocketAddr::new(vip, *port)))
        })
    };
    let fetched = || each().filter(|(_, server)| server.port() != ECHO_PORT);
    for (group, server) in each() {
        until(lab, &group, "t1", "healthy", server)?;
        until(lab, &group, "t2", "healthy", server)?;
    }
    for (_, server) in fetched() {
        until_served(lab, server)?;
        assert_eq!(answerers(lab, server)?.len(), 2, "both targets answer through {server}");
    }
    let first = &lab.targets()[0];
    spoil(first)?;
    for (group, server) in each() {
        until(lab, &group, "t1", "unhealthy", server)?;
        let said = target(lab.a(), &group, "t1")["last_check"]["result"].clone();
        assert!(said.as_str().is_some_and(|said| said.starts_with(&format!("through {server}: "))), "{said}");
        assert_eq!(target(lab.b(), &group, "t2")["health"], "healthy");
    }
    for v4 in [true, false] {
        let own = SocketAddr::new(address(first, v4), PORT);
        let page = lab.a().namespace().inside(|| http::tcp(own, "GET", "/health", "", PATIENCE))??;
        assert_eq!(page.status, 200, "{own} answers all the while");
    }
    for (_, server) in fetched() {
        only_t2(lab, server)?;
    }
    mend(first)?;
    for (group, server) in each() {
        until(lab, &group, "t1", "healthy", server)?;
    }
    for (_, server) in fetched() {
        wait_until(&format!("t1 to answer through {server} again"), LIMIT, || {
            answerers(lab, server).is_ok_and(|names| names.len() == 2)
        })?;
    }
    Ok(())
}

fn lose_vips(target: &Target) -> Result<()> {
    target.ip(&format!("address del {}/32 dev lo", vips()[0]))?;
    target.ip(&format!("address del {}/128 dev lo", vips()[1])).map(drop)
}

fn take_vips(target: &Target) -> Result<()> {
    vips().into_iter().try_for_each(|vip| target.accept_vip(vip))
}

#[test]
fn without_the_vip_a_target_gets_nothing() -> Result<()> {
    let (lab, _) = pair("checks-l2", "l2", None, "")?;
    for node in lab.nodes() {
        for vip in vips() {
            until(&lab, &format!("web{}", family(vip)), "t1", "healthy", SocketAddr::new(vip, PORT))?;
        }
        // Nobody has asked for anything yet: all packets are those of checks, and count for no service.
        assert_eq!(node.counted("tandem_lbd_kernel_service_packets_total", "direction=")?, 0);
        let sent = node.counted("tandem_lbd_kernel_check_packets_total", "sent")?;
        let returned = node.counted("tandem_lbd_kernel_check_packets_total", "returned")?;
        assert!(sent > 0 && returned > 0, "{sent} sent, {returned} returned");
    }
    found_out(&lab, &[("web", PORT), ("echo", ECHO_PORT)], lose_vips, take_vips)?;
    lab.finish()
}

/// A target that forwards would send what it does not take to the active node, which might give it to another target that answers.
#[test]
fn a_target_that_forwards_what_it_does_not_take_is_found_out() -> Result<()> {
    let (lab, _) = pair("checks-router", "l2", None, "")?;
    let first = &lab.targets()[0];
    first.namespace().sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    found_out(&lab, &[("web", PORT)], lose_vips, take_vips)?;
    lab.finish()
}

/// As on kernels before 6.6.
#[test]
fn by_filters_of_clsact() -> Result<()> {
    let (lab, _) = pair("checks-clsact", "l2", None, "[kernel]\nattach = \"clsact\"\n")?;
    found_out(&lab, &[("web", PORT)], lose_vips, take_vips)?;
    let filters = lab.a().run("tc", &["filter", "show", "dev", "lo", "egress"])?;
    assert!(filters.contains("handle 0x7a"), "{filters}");
    // With the last such check the filter goes.
    let text = config(&lab, "l2").render().replace("health = {", "health = { via = \"target\",");
    lab.write_config_text(&text)?;
    assert_eq!(lab.a().send("lbd", "POST", "/v1/reload", "")?.status, 200);
    wait_until("the loopback interface to be without a filter", LIMIT, || {
        let filters = lab.a().run("tc", &["filter", "show", "dev", "lo", "egress"]);
        filters.is_ok_and(|it| !it.contains("handle 0x7a"))
    })?;
    wait_until("the target's own address to be asked", LIMIT, || {
        let target = target(lab.a(), "web4", "t1");
        target["health"] == "healthy" && target["last_check"]["via"] == "target"
    })?;
    lab.finish()
}

/// The program in the driver takes what comes first; the answers of targets get in by a program behind it.
#[test]
fn by_the_driver() -> Result<()> {
    let lab = Lab::builder("checks-xdp").targets(2).build()?;
    // Checksums that somebody else was to fill in are lost on the way through XDP: everybody makes his own.
    for host in lab.hosts() {
        host.run("ethtool", &["-K", "eth0", "tx", "off"])?;
    }
    // A veth takes what its peer's program sends only if it polls, which GRO has it do.
    for port in ["a", "b"] {
        lab.switch().namespace().run("ethtool", &["-K", port, "gro", "on"])?;
    }
    lab.targets().iter().try_for_each(take_vips)?;
    lab.write_config(&config(&lab, "l2").raw("[kernel]\nattach = \"xdp\"\n"))?;
    start(&lab)?;
    found_out(&lab, &[("web", PORT), ("echo", ECHO_PORT)], lose_vips, take_vips)?;
    for node in lab.nodes() {
        let status: Value = node.get("lbd", "/v1/status")?.json()?;
        let attached = &status["kernel"]["interfaces"];
        let by_driver = attached.as_array().is_some_and(|all| all.iter().any(|it| it["attached"] == "xdp"));
        assert!(by_driver, "{attached}");
    }
    lab.finish()
}

/// gRPC's health service, on one port as it is and on the other with TLS.
const GRPC_SERVER: &str = r#"
import sys, grpc
from concurrent import futures

handler = grpc.unary_unary_rpc_method_handler(lambda request, context: bytes([8, 1]))
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})])
key, certificate = (open(path, "rb").read() for path in sys.argv[3:5])
server.add_insecure_port("[::]:" + sys.argv[1])
server.add_secure_port("[::]:" + sys.argv[2], grpc.ssl_server_credentials([(key, certificate)]))
server.start()
server.wait_for_termination()
"#;

#[test]
fn by_handshakes_of_tls_and_by_grpc() -> Result<()> {
    const PLAIN: u16 = 50051;
    const SECURE: u16 = 50052;
    let lab = Lab::builder("checks-tls").targets(2).build()?;
    let [key, certificate] =
        ["server.key", "server.pem"].map(|name| lab.dir().join(name).display().to_string());
    let subject = ["-subj", "/CN=shop.test", "-keyout", &key, "-out", &certificate];
    let curve = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    lab.targets()[0].run("openssl", &[&curve[..], &subject[..]].concat())?;
    for target in lab.targets() {
        take_vips(target)?;
        // Debian's interpreter is the one that has Debian's modules.
        let mut command = target.command("/usr/bin/python3");
        command.args(["-c", GRPC_SERVER, &PLAIN.to_string(), &SECURE.to_string(), &key, &certificate]);
        target.start("grpc", command)?;
    }
    let mut config = PairConfig::new(vec![Instance::default()]);
    let mut services = Vec::new();
    for vip in vips() {
        for (name, port, health) in [("tls", SECURE, "tls = true"), ("grpc", PLAIN, "grpc = \"\"")] {
            let name = format!("{name}{}", family(vip));
            let server = SocketAddr::new(vip, port);
            let targets =
                lab.targets().iter().map(|target| SocketAddr::new(address(target, vip.is_ipv4()), port));
            let targets: Vec<SocketAddr> = targets.collect();
            let health = format!("health = {{ {health}, {RHYTHM} }}");
            config = config
                .service(&name, "dsr", &server.to_string(), &name, "dsr = \"l2\"")
                .target_group(&name, &targets, &health);
            services.push((name, server));
        }
    }
    lab.write_config(&config)?;
    start(&lab)?;
    let first = &lab.targets()[0];
    let both = |states: [&str; 2]| {
        services.iter().try_for_each(|(group, server)| {
            until(&lab, group, "t1", states[0], *server)?;
            until(&lab, group, "t2", states[1], *server)
        })
    };
    both(["healthy", "healthy"])?;
    lose_vips(first)?;
    both(["unhealthy", "healthy"])?;
    take_vips(first)?;
    both(["healthy", "healthy"])?;
    lab.finish()
}

fn through_a_tunnel(label: &str, way: &str, tunnel: Tunnel) -> Result<()> {
    let (lab, ends) = pair(label, way, Some(tunnel), "")?;
    let mut ends = ends.into_iter();
    let mut first = ends.next();
    let services = [("web", PORT), ("echo", ECHO_PORT), ("crossed", CROSSED_PORT)];
    let spoil = |_: &Target| match first.take() {
        Some(end) => end.stop().map(|done| assert_eq!(done.malformed, 0, "{done:?}")),
        None => Ok(()),
    };
    let mut again = None;
    let mend = |target: &Target| {
        again = Some(TunnelEnd::start(target, tunnel)?);
        Ok(())
    };
    found_out(&lab, &services, spoil, mend)?;
    for end in ends.chain(again) {
        let done = end.stop()?;
        assert!(done.packets > 0 && done.malformed == 0, "{done:?}");
    }
    lab.finish()
}

#[test]
fn without_its_end_of_ip_in_ip() -> Result<()> {
    through_a_tunnel("checks-ipip", "ipip", Tunnel::Ipip)
}

#[test]
fn without_its_end_of_gre() -> Result<()> {
    through_a_tunnel("checks-gre", "gre", Tunnel::Gre)
}

#[test]
fn without_its_end_of_gue() -> Result<()> {
    through_a_tunnel("checks-gue", "gue", Tunnel::Gue)
}

#[test]
fn a_restart_finds_healthy_what_is_healthy() -> Result<()> {
    let (lab, _) = pair("checks-restart", "l2", None, "")?;
    let server = SocketAddr::new(vips()[0], PORT);
    for id in ["t1", "t2"] {
        until(&lab, "web4", id, "healthy", server)?;
    }
    lab.targets()[0].stop("nginx")?;
    until(&lab, "web4", "t1", "unhealthy", server)?;
    // The other node may become active as soon as this one's `lbd` is gone: its kernel has to know by then, too.
    for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
        let answer = from.send("vrrpd", "POST", "/v1/switchover", "{\"instance\":\"web\"}")?;
        assert!(answer.status < 300, "{}", answer.body);
        agreed(&lab, to)?;
        only_t2(&lab, server)?;
    }
    for _ in 0..3 {
        only_t2(&lab, server)?;
        lab.a().signal("lbd", Signal::SIGKILL)?;
        lab.a().wait_end("lbd", LIMIT)?;
        assert_eq!(answerers(&lab, server)?, BTreeSet::from(["t2".to_owned()]), "without lbd");
        lab.a().start_lbd()?;
        assert_eq!(answerers(&lab, server)?, BTreeSet::from(["t2".to_owned()]), "while the next one begins");
        until(&lab, "web4", "t2", "healthy", server)?;
        until(&lab, "web4", "t1", "unhealthy", server)?;
        let log = lab.a().log("lbd");
        let blamed = |line: &str| line.contains("target is unhealthy") && line.contains("web4/t2");
        assert!(!log.lines().any(blamed), "{log}");
    }
    lab.finish()
}

#[test]
fn a_role_makes_no_difference_and_the_doctor_names_what_is_wrong() -> Result<()> {
    let (lab, _) = pair("checks-doctor", "l2", None, "")?;
    let server = SocketAddr::new(vips()[0], PORT);
    until(&lab, "web4", "t1", "healthy", server)?;
    lab.targets()[0].ip(&format!("address del {}/32 dev lo", vips()[0]))?;
    until(&lab, "web4", "t1", "unhealthy", server)?;
    let doctor = |node: &Node| -> String {
        let mut command = node.command(integration::lab::binary("lbd").unwrap().to_str().unwrap());
        command.args(["doctor", "--config"]).arg(lab.dir().join("pair.toml"));
        command.args(["--node", node.name(), "--run-dir"]).arg(node.run_dir());
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for node in lab.nodes() {
        let said = doctor(node);
        let blamed = |line: &str| line.starts_with("BAD") && line.contains("target web4/t1: through ");
        let blamed = said.lines().any(|line| blamed(line) && line.contains("answers at its own address"));
        assert!(blamed, "{said}");
        assert!(said.contains(&format!("scripts/dsr-target up l2 {}", vips()[0])), "{said}");
        assert!(said.contains(&format!("target web4/t2: answers through {server}")), "{said}");
    }
    // The other node becomes active and goes on finding what this one found.
    let answer = lab.a().send("vrrpd", "POST", "/v1/switchover", "{\"instance\":\"web\"}")?;
    assert!(answer.status < 300, "{}", answer.body);
    agreed(&lab, lab.b())?;
    lab.targets()[0].accept_vip(vips()[0])?;
    until(&lab, "web4", "t1", "healthy", server)?;
    lab.targets()[0].ip(&format!("address del {}/32 dev lo", vips()[0]))?;
    until(&lab, "web4", "t1", "unhealthy", server)?;
    lab.finish()
}
