//! The second chance: proxied connections live in a node's sockets, and go on there when their virtual IPs move to the other node.

mod again;
mod apart;
mod attach;
mod both;
mod datagrams;
mod lan;
mod segments;
mod stop;
mod talk;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::kernel_pair_support::{
    self, DIRECT_TARGETS, Load, STALL_OF_A_LOSS, STALL_OF_A_MOVE, WITH_ONE_LOST, WITHOUT_LOSS, flows,
    service, settled, takes_new_ones,
};
use crate::pair_support::{LIMIT, agreed, caught_up, every, owned_by, start_all, vips, vrrpd};
use crate::reload::reload_everywhere;
use integration::lab::clock::{now, wait_until};
use integration::lab::config::{Instance, PairConfig};
use integration::lab::fault::Fault;
use integration::lab::probe::{
    ConnectProbe, ConnectSettings, DownloadProbe, DownloadSettings, EchoProbe, EchoSettings,
};
use integration::lab::{Lab, Node, Result, Target};
use lbd_core::chance::LEASE;
use serde_json::Value;

/// The echo server through `tcp`.
const ECHO: u16 = 7;

/// What goes through HTTP to one group or another.
const RULES: u16 = 81;

/// Long-lived connections of each family.
const CONNECTIONS: usize = 1000;

/// The time between two messages of each.
const INTERVAL: Duration = Duration::from_millis(200);

/// A download is so often the target's large page, through one connection.
const PAGES: usize = 12;

/// How often the role moves back and forth.
const MOVES: usize = 20;

/// HTTP and the echo server, both proxied.
fn config(lab: &Lab, instance: Instance, group: &str) -> PairConfig {
    let addresses =
        |address: fn(&Target) -> SocketAddr| lab.targets().iter().map(address).collect::<Vec<_>>();
    PairConfig::new(vec![instance])
        .service("web", "tcp", "@web:80", "web", "")
        .target_group("web", &addresses(Target::http_address), group)
        .service("echo", "tcp", &format!("@web:{ECHO}"), "echo", "")
        .target_group("echo", &addresses(Target::echo_address), group)
}

/// A pair that proxies: `a` is active, and `b` knows what it has.
fn proxying(label: &str, instance: Instance, group: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    proxy(&lab, instance, group)?;
    Ok(lab)
}

/// Starts it in a lab.
fn proxy(lab: &Lab, instance: Instance, group: &str) -> Result<()> {
    lab.write_config(&config(lab, instance, group))?;
    start_all(lab)?;
    sends(lab.b())
}

/// What a node's `lbd` says of the second chance.
fn chance(node: &Node) -> Value {
    node.get("lbd", "/v1/second-chance").ok().and_then(|answer| answer.json().ok()).unwrap_or_default()
}

pub(crate) fn packets(node: &Node, what: &str) -> u64 {
    chance(node)["packets"][what].as_u64().unwrap_or(0)
}

/// Waits until a node would send on to the other one what it does not know.
pub(crate) fn sends(node: &Node) -> Result<()> {
    sends_of(node, "web")
}

/// The same of another instance.
fn sends_of(node: &Node, instance: &str) -> Result<()> {
    wait_until(&format!("{} to send on what it does not know of {instance}", node.name()), LIMIT, || {
        let chance = chance(node);
        let none = chance["troubles"].as_array().is_some_and(Vec::is_empty);
        none && chance["instances"][instance]["sends"] == true
    })
}

/// Waits until both say that `node` serves so many connections of virtual IPs that have left it.
fn drains(lab: &Lab, node: &Node, count: usize) -> Result<()> {
    drains_of(lab, node, "web", count)
}

/// The same of another instance.
fn drains_of(lab: &Lab, node: &Node, instance: &str, count: usize) -> Result<()> {
    let (own, other) = (|| chance(node), || chance(lab.peer_of(node)));
    wait_until(&format!("{} to drain {count} connections of {instance}", node.name()), LIMIT, || {
        own()["instances"][instance]["draining"] == count
            && other()["instances"][instance]["draining_by_peer"] == count
    })
}

/// So many connections of each family that say something now and then. Those of one probe do so all at once, so there are several: what a
/// connection waits for shall not be the others.
fn echoes(lab: &Lab, connections: usize) -> Result<Vec<EchoProbe>> {
    const TOGETHER: usize = 50;
    let probe = |vip, first| {
        let settings = EchoSettings::new(SocketAddr::new(vip, ECHO), TOGETHER.min(connections - first));
        EchoProbe::start(lab.client(), EchoSettings { interval: INTERVAL, ..settings })
    };
    let firsts = || (0..connections).step_by(TOGETHER);
    vips().into_iter().flat_map(|vip| firsts().map(move |first| probe(vip, first))).collect()
}

/// Waits until each has been answered some more.
fn steady(echoes: &[EchoProbe]) -> Result<()> {
    let counts = || {
        let reports = echoes.iter().map(EchoProbe::snapshot);
        reports.flat_map(|report| report.connections).map(|it| it.broken.map_or(it.exchanges, |_| u64::MAX))
    };
    let before: Vec<u64> = counts().collect();
    wait_until("messages on each connection", LIMIT, || {
        counts().zip(&before).all(|(now, before)| now >= before.saturating_add(4))
    })
}

/// Ends them, and fails if one broke.
fn end(echoes: Vec<EchoProbe>) -> Result<()> {
    for probe in echoes {
        let report = probe.stop()?;
        assert_eq!(report.broken(), 0, "{}", report.summary());
    }
    Ok(())
}

/// New connections to a service of HTTP, of which none fails unless a packet of it is lost or refused.
fn begins(lab: &Lab, server: SocketAddr) -> Result<ConnectProbe> {
    let (interval, deadline) = (Duration::from_millis(10), WITHOUT_LOSS);
    let settings = ConnectSettings { interval, deadline, ..ConnectSettings::http(server) };
    ConnectProbe::start(lab.client(), settings)
}

/// Ends them, and fails if one was not served, or was reset.
fn end_new(probes: Vec<ConnectProbe>) -> Result<()> {
    for probe in probes {
        let report = probe.stop()?;
        assert_eq!((report.failed(), report.reset_after_answer), (0, 0), "{}", report.summary());
    }
    Ok(())
}

/// Moves the role back and forth, from `active` on, while connections begin and others last.
fn move_back_and_forth<'a>(lab: &'a Lab, mut active: &'a Node) -> Result<()> {
    let new = |vip| begins(lab, SocketAddr::new(vip, 80));
    let known = |vip| {
        let settings = EchoSettings::new(SocketAddr::new(vip, ECHO), 20);
        EchoProbe::start(lab.client(), EchoSettings { interval: Duration::from_millis(50), ..settings })
    };
    let new = vips().into_iter().map(new).collect::<Result<Vec<_>>>()?;
    let known = vips().into_iter().map(known).collect::<Result<Vec<_>>>()?;
    for _ in 0..MOVES {
        new.iter().try_for_each(|probe| probe.wait_steady(20, LIMIT))?;
        steady(&known)?;
        switch(lab, active)?;
        active = lab.peer_of(active);
    }
    new.iter().try_for_each(|probe| probe.wait_steady(20, LIMIT))?;
    steady(&known)?;
    end_new(new)?;
    end(known)
}

/// A download for each family, slowly.
fn downloads(lab: &Lab) -> Vec<Child> {
    let download = |vip| {
        let url = format!("http://{}/large", SocketAddr::new(vip, 80));
        let mut command = lab.client().command("sh");
        // The number of connections goes to another place than what is summed up.
        let script = "curl -sS -m 60 --limit-rate 1500k -w '%{stderr}%{num_connects}\\n' \"$@\" | sha256sum";
        command.args(["-c", script, "download"]).args(std::iter::repeat_n(url, PAGES));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh is there")
    };
    vips().into_iter().map(download).collect()
}

/// Fails unless each is whole, and was made through one connection.
fn are_whole(lab: &Lab, downloads: Vec<Child>) -> Result<()> {
    let direct = format!("http://{}/large", lab.targets()[0].http_address());
    let pages = format!("for i in $(seq {PAGES}); do curl -sS {direct}; done | sha256sum");
    let expected = lab.client().run("sh", &["-c", &pages])?;
    for download in downloads {
        let output = download.wait_with_output().expect("it can be waited for");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let connects: Vec<&str> = said.lines().collect();
        let once = connects.iter().filter(|line| **line == "1").count() == 1;
        let rest = connects.iter().all(|line| ["0", "1"].contains(line));
        assert!(once && rest && connects.len() == PAGES, "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
    Ok(())
}

/// Moves the virtual IPs by a command.
fn switch(lab: &Lab, from: &Node) -> Result<()> {
    caught_up(lab)?;
    let (good, _, complaint) = vrrpd(from, &["switchover", "web"]);
    assert!(good, "{complaint}");
    let to = lab.peer_of(from);
    agreed(lab, to)?;
    owned_by(lab, to)
}

#[test]
fn connections_survive_switchovers_there_and_back() -> Result<()> {
    let lab = proxying("chance switchover", every("100ms"), "")?;
    let [a, b] = lab.nodes();
    let (probes, files) = (echoes(&lab, CONNECTIONS)?, downloads(&lab));
    steady(&probes)?;
    again::leave(&lab, a)?;
    switch(&lab, a)?;
    let back = again::come_back(&lab)?;
    steady(&probes)?;
    assert!(packets(b, "sent") > 0 && packets(a, "received") > 0, "{} {}", chance(a), chance(b));
    assert_eq!(packets(a, "sent"), 0, "what b sent on goes to a's stack, whatever it is");
    // Back to where they live, and there again.
    switch(&lab, b)?;
    again::go_on_and_end(back, a);
    steady(&probes)?;
    switch(&lab, a)?;
    steady(&probes)?;
    are_whole(&lab, files)?;
    drains(&lab, a, 2 * CONNECTIONS)?;
    end(probes)?;
    // What has ended is drained by nobody.
    drains(&lab, a, 0)?;
    wait_until("b to send nothing more to a", LIMIT, || chance(b)["instances"]["web"]["sends"] == false)?;
    // And so often that some begin and end in the middle of it.
    move_back_and_forth(&lab, b)?;
    lab.finish()
}

#[test]
fn maintenance_and_preemption_are_survived() -> Result<()> {
    let lab = proxying("chance preempt", every("100ms"), "")?;
    let [a, b] = lab.nodes();
    let probes = echoes(&lab, 20)?;
    steady(&probes)?;
    let (good, _, complaint) = vrrpd(a, &["maintenance", "on"]);
    assert!(good, "{complaint}");
    agreed(&lab, b)?;
    owned_by(&lab, b)?;
    steady(&probes)?;
    let more = echoes(&lab, 20)?;
    let (good, _, complaint) = vrrpd(a, &["maintenance", "off"]);
    assert!(good, "{complaint}");
    agreed(&lab, a)?;
    owned_by(&lab, a)?;
    steady(&probes)?;
    steady(&more)?;
    drains(&lab, b, 40)?;
    end(probes)?;
    end(more)?;
    lab.finish()
}

#[test]
fn a_restarted_vrrpd_costs_no_connection() -> Result<()> {
    let lab = proxying("chance restart", every("100ms"), "")?;
    let [a, b] = lab.nodes();
    for node in [a, b] {
        // So that a passes on what is not its own: back to b, while nobody is there to say that it is. With early demultiplexing its
        // stack would rather drop what it has a socket for.
        let set = "cd /proc/sys/net; echo 1 >ipv4/conf/all/forwarding; echo 1 >ipv6/conf/all/forwarding; echo 0 >ipv4/tcp_early_demux";
        node.run("sh", &["-c", set])?;
    }
    let probes = echoes(&lab, 20)?;
    steady(&probes)?;
    assert!(a.stop("vrrpd")?.success());
    b.wait_role("web", "active", LIMIT)?;
    let has_routes =
        || a.run("ip", &["route", "show", "table", "local"]).is_ok_and(|it| it.contains("10.77.0.50"));
    wait_until("a to have no route to itself any more", LIMIT, || !has_routes())?;
    wait_until("packets to come back", LIMIT, || packets(b, "back") > 0)?;
    a.start_daemon("vrrpd")?;
    steady(&probes)?;
    end(probes)?;
    lab.finish()
}

/// A service of HTTP whose first group may drain for an hour, with rules for tunnels and for downloads to others that may not.
fn with_rules(lab: &Lab, config: PairConfig, drain: &str) -> PairConfig {
    let addresses =
        |address: fn(&Target) -> SocketAddr| lab.targets().iter().map(address).collect::<Vec<_>>();
    let rules = "[[service.rule]]\nwhen = { path = \"/echo\" }\nforward = \"tunnels\"\n\
                 [[service.rule]]\nwhen = { path_prefix = \"/files\" }\nforward = \"files\"";
    config
        .service("rules", "http", &format!("@web:{RULES}"), "patient", rules)
        .target_group("patient", &addresses(Target::http_address), "drain_timeout = \"1h\"")
        .target_group("tunnels", &addresses(Target::tunnel_address), drain)
        .target_group("files", &addresses(Target::http_address), drain)
}

#[test]
fn a_drain_has_an_end() -> Result<()> {
    const DRAIN: &str = "drain_timeout = \"3s\"";
    let lab = Lab::builder("chance drain").targets(2).build()?;
    let a = lab.a();
    // It lasts for half a minute, and no buffers on its way have room for much of it.
    let (file, bytes_per_second) = (lab.dir().join("large"), 1 << 20);
    let made = File::create(&file).and_then(|file| file.set_len(32 << 20));
    made.expect("the lab's directory can be written to");
    lab.targets().iter().try_for_each(|target| target.publish(&file))?;
    lab.write_config(&with_rules(&lab, config(&lab, every("100ms"), DRAIN), DRAIN))?;
    start_all(&lab)?;
    sends(lab.b())?;
    let tunnels = |vip| {
        let settings = EchoSettings::new(SocketAddr::new(vip, RULES), 20);
        EchoProbe::start(lab.client(), EchoSettings { interval: INTERVAL, tunnels: true, ..settings })
    };
    let download = |vip| {
        let settings = DownloadSettings::new(SocketAddr::new(vip, RULES), "/files/large");
        DownloadProbe::start(lab.client(), DownloadSettings { bytes_per_second, ..settings })
    };
    let mut probes = echoes(&lab, 20)?;
    probes.extend(vips().into_iter().map(tunnels).collect::<Result<Vec<_>>>()?);
    let downloads = vips().into_iter().map(download).collect::<Result<Vec<_>>>()?;
    steady(&probes)?;
    downloads.iter().try_for_each(|download| download.wait_bytes(1, LIMIT))?;
    let before = now();
    switch(&lab, a)?;
    steady(&probes)?;
    for probe in &probes {
        wait_until("all connections to be closed", LIMIT, || probe.broken() == 20)?;
    }
    let reports = probes.into_iter().map(EchoProbe::stop).collect::<Result<Vec<_>>>()?;
    let ends = reports.iter().flat_map(|report| &report.connections).map(|it| it.broken);
    let downloads = downloads.into_iter().map(|it| it.finish(LIMIT)).collect::<Result<Vec<_>>>()?;
    let ends = ends.chain(downloads.iter().map(|report| report.broken)).map(|end| end.expect("it broke").0);
    assert!(ends.min().is_some_and(|first| first - before >= Duration::from_secs(3)));
    let text = a.get("lbd", "/metrics")?.body;
    for (what, how, count) in [
        ("connections_ended_total{service=\"echo\"", "end", 40),
        ("connections_ended_total{service=\"rules\"", "end", 40),
        ("http_requests_cut_total{service=\"rules\"", "reason", 2),
    ] {
        let ended = format!("tandem_lbd_service_{what},{how}=\"drained\"}} {count}");
        assert!(text.lines().any(|line| line == ended), "{ended} in {text}");
    }
    drains(&lab, a, 0)?;
    lab.finish()
}

/// Something there and back.
fn exchange(stream: &mut TcpStream) {
    let mut answer = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer)).expect("it is echoed");
    assert_eq!(&answer, b"hello");
}

/// A quiet connection for each family, which keeps the other node sending on.
fn quiet(lab: &Lab) -> Result<Vec<TcpStream>> {
    let connect = |vip| {
        let mut stream = TcpStream::connect(SocketAddr::new(vip, ECHO)).expect("it is accepted");
        stream.set_read_timeout(Some(LIMIT)).expect("it has a time-out");
        exchange(&mut stream);
        stream
    };
    lab.client().namespace().inside(move || vips().into_iter().map(connect).collect())
}

/// Whether a node's `lbd` has a session with the other one.
fn is_linked(node: &Node) -> bool {
    let view: Option<Value> = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
    view.is_some_and(|view| view["link"]["state"] == "connected")
}

#[test]
fn a_cut_link_between_the_nodes_costs_no_connection() -> Result<()> {
    let lab = proxying("chance link", every("100ms"), "")?;
    let [a, b] = lab.nodes();
    let probes = echoes(&lab, 20)?;
    steady(&probes)?;
    switch(&lab, a)?;
    steady(&probes)?;
    lab.inject(&Fault::PeerBlocked)?;
    wait_until("b to have lost a", LIMIT, || !is_linked(b))?;
    // Longer than what a said holds without being asked.
    let lost = now();
    while now() - lost < LEASE + Duration::from_secs(3) {
        steady(&probes)?;
    }
    assert_eq!(chance(b)["instances"]["web"]["sends"], true);
    end(probes)?;
    lab.finish()
}

#[test]
fn a_dead_node_is_sent_nothing() -> Result<()> {
    let lab = proxying("chance death", every("100ms"), "")?;
    let [a, b] = lab.nodes();
    let mut streams = quiet(&lab)?;
    switch(&lab, a)?;
    streams.iter_mut().for_each(exchange);
    lab.inject(&Fault::power_loss("a"))?;
    wait_until("b to have lost a", LIMIT, || !is_linked(b))?;
    let lost = now();
    wait_until("b to send nothing more to a", LIMIT, || chance(b)["instances"]["web"]["sends"] == false)?;
    assert!(now() - lost < LEASE, "nobody answered for it");
    // So the clients learn that their connections are gone.
    for stream in &mut streams {
        let told = stream.write_all(b"hello").and_then(|()| stream.read(&mut [0; 5]));
        assert_eq!(told.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
    }
    lab.finish()
}

#[test]
fn what_nobody_knows_goes_round_once() -> Result<()> {
    const STRAYS: u16 = 50;
    let lab = proxying("chance strays", every("100ms"), "")?;
    let [a, b] = lab.nodes();
    let mut streams = quiet(&lab)?;
    switch(&lab, a)?;
    streams.iter_mut().for_each(exchange);
    drains(&lab, a, 2)?;
    for (stream, vip) in streams.iter().zip(vips()) {
        let client = stream.local_addr().expect("it is connected");
        let at = SocketAddr::new(vip, ECHO);
        let counts = || [(b, "sent"), (b, "sent_error"), (a, "received"), (a, "sent")];
        let count = || counts().map(|(node, what)| packets(node, what));
        let before = count();
        let nobody = |port| SocketAddr::new(client.ip(), port);
        let mut all: Vec<_> =
            (1000..1000 + STRAYS).map(|port| segments::stray(nobody(port), at, 64)).collect();
        // Its last hop is the one to a.
        all.push(segments::stray(nobody(2000), at, 1));
        // Both fragments go there, but only the first one says where to.
        all.extend(segments::in_fragments(&segments::stray(nobody(2001), at, 64)));
        all.push(segments::too_big(client.ip(), client, at));
        lab.client().namespace().inside(move || segments::send(vip, &all))?.expect("they are sent");
        let strays = u64::from(STRAYS);
        let expected = [strays + 3, 1, strays + 3, 0];
        let differences = || {
            let now = count();
            std::array::from_fn::<u64, 4, _>(|index| now[index] - before[index])
        };
        // Quiet connections have nothing to repeat; an acknowledgement of before may still be on its way.
        wait_until(&format!("the strays to {vip} to have gone round"), LIMIT, || differences() == expected)
            .unwrap_or_else(|error| panic!("{error}: {:?} instead of {expected:?}", differences()));
    }
    streams.iter_mut().for_each(exchange);
    lab.finish()
}

/// So many connections of each family over which a page has been fetched.
fn pages(lab: &Lab, connections: usize) -> Result<Vec<TcpStream>> {
    let connect = |vip| {
        let mut stream = TcpStream::connect(SocketAddr::new(vip, 80)).expect("it is accepted");
        stream.set_read_timeout(Some(LIMIT)).expect("it has a time-out");
        fetch(&mut stream);
        stream
    };
    let all =
        move || vips().into_iter().flat_map(|vip| (0..connections).map(move |_| connect(vip))).collect();
    lab.client().namespace().inside(all)
}

/// Fetches a page over a connection that stays.
fn fetch(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n").expect("it is open");
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    // The page is the target's name and a line end, which no header's line begins with.
    while !answer.windows(4).any(|four| four == b"\r\n\r\n")
        || !answer.ends_with(b"\n")
        || answer.ends_with(b"\r\n")
    {
        let length = stream.read(&mut part).expect("it is answered");
        assert!(length > 0, "closed after {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..length]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn handshakes_by_cookie_end_where_they_began() -> Result<()> {
    let lab = proxying("chance cookies", every("100ms"), "")?;
    let [a, b] = lab.nodes();
    for node in [a, b] {
        // Always, not only when there are too many.
        node.run("sh", &["-c", "echo 2 >/proc/sys/net/ipv4/tcp_syncookies"])?;
    }
    // In the lab both nodes have one kernel and with it one secret. A cookie is made of the difference of both ends' numbers: as long as
    // as much came back as was sent, b would take a's connections for such whose handshake it began. So these fetch pages.
    let mut first = pages(&lab, 20)?;
    switch(&lab, a)?;
    let second = echoes(&lab, 20)?;
    first.iter_mut().for_each(fetch);
    steady(&second)?;
    assert!(packets(b, "cookie") >= 40, "{}", chance(b));
    drains(&lab, a, 40)?;
    switch(&lab, b)?;
    first.iter_mut().for_each(fetch);
    end(second)?;
    lab.finish()
}

/// Services of a proxy at these ports of the virtual IPs, and the kernel's at others.
fn beside(lab: &Lab, ports: &[u16]) -> PairConfig {
    let config = kernel_pair_support::config(lab, vec![every("100ms")], Default::default());
    ports.iter().fold(config, |config, &port| proxied(lab, config, port))
}

/// One of them.
fn proxied(lab: &Lab, config: PairConfig, port: u16) -> PairConfig {
    let targets: Vec<SocketAddr> = lab.targets().iter().map(Target::echo_address).collect();
    let name = format!("proxied-{port}");
    config.service(&name, "tcp", &format!("@web:{port}"), &name, "").target_group(&name, &targets, "")
}

/// Has both nodes do what the file says, which has so many services.
fn reload(lab: &Lab, services: usize) -> Result<()> {
    reload_everywhere(lab)?;
    for node in lab.nodes() {
        wait_until(&format!("{} to have {services} services", node.name()), LIMIT, || {
            let there: Option<Value> =
                node.get("lbd", "/v1/services").ok().and_then(|answer| answer.json().ok());
            there.is_some_and(|there| there.as_array().is_some_and(|all| all.len() == services))
        })?;
    }
    Ok(())
}

#[test]
fn the_kernels_services_at_the_same_addresses_go_on_as_well() -> Result<()> {
    const PROXIED: u16 = 7070;
    let lab = Lab::builder("chance beside").targets(4).build()?;
    for target in &lab.targets()[..DIRECT_TARGETS] {
        for vip in vips() {
            target.accept_vip(vip)?;
        }
    }
    // Its program is at the interfaces before the one that forwards, which is to be asked first all the same.
    lab.write_config(&proxied(&lab, PairConfig::new(vec![every("100ms")]), PROXIED))?;
    for node in lab.nodes() {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    agreed(&lab, lab.a())?;
    sends(lab.b())?;
    lab.write_config(&beside(&lab, &[PROXIED]))?;
    // Of each family six of the kernel's.
    reload(&lab, 13)?;
    settled(&lab, lab.a())?;
    let load = Load::begin(&lab, WITH_ONE_LOST)?;
    let probe = |vip| EchoProbe::start(lab.client(), EchoSettings::new(SocketAddr::new(vip, PROXIED), 32));
    let probes = vips().into_iter().map(probe).collect::<Result<Vec<_>>>()?;
    for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
        switch(&lab, from)?;
        settled(&lab, to)?;
        load.steady_after(STALL_OF_A_MOVE)?;
        steady(&probes)?;
    }
    assert!(packets(lab.b(), "sent") > 0);
    end(probes)?;

    // Then a port that a connection of `nat` has at the virtual IP is one of a proxied service, too. It is not the other node's for that.
    let flows = flows(lab.a(), &service("nat-echo", vips()[0], 0));
    let port = flows.values().find_map(|(_, port)| *port).and_then(|port| u16::try_from(port).ok());
    let port = port.expect("a port of nat");
    lab.write_config(&beside(&lab, &[PROXIED, port]))?;
    reload(&lab, 14)?;
    load.steady()?;
    load.forget_stalls();
    let death = lab.inject(&Fault::power_loss("a"))?;
    lab.b().wait_role("web", "active", LIMIT)?;
    takes_new_ones(lab.b())?;
    load.steady_after(STALL_OF_A_LOSS)?;
    load.end_after_deaths(&[death])?;
    lab.finish()
}
