//! What the tests of a pair that forwards in the kernel share: the pair with services of both modes, what its nodes say of
//! themselves, and a client that keeps them busy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use integration::lab::clock::{Window, now, wait_until};
use integration::lab::config::{Instance, PairConfig};
use integration::lab::fault::Fault;
use integration::lab::probe::{
    Attempt, ConnectProbe, ConnectSettings, DatagramProbe, DatagramSettings, EchoProbe, EchoSettings,
    Failure, exchange_datagram, talker,
};
use integration::lab::{Lab, Node, Result, Target, http};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::pair_support::{LIMIT, agreed, caught_up, owned_by, vips};

/// `dsr`: HTTP and the echo server of the targets, on the ports that they have there.
pub(crate) const DSR_HTTP: u16 = 80;
pub(crate) const DSR_ECHO: u16 = 7;
/// `nat`: the same.
pub(crate) const NAT_HTTP: u16 = 8080;
pub(crate) const NAT_ECHO: u16 = 7007;

/// So many targets have the VIPs, for `dsr`. The others have not: of their own addresses they would take no packets from outside.
pub(crate) const DIRECT_TARGETS: usize = 2;

/// How long a client waits for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// So long a new connection may take that loses no packet: a SYN is repeated after a second.
pub(crate) const WITHOUT_LOSS: Duration = Duration::from_millis(950);
/// And one whose first packet came to a node that was no longer, or not yet, to forward.
pub(crate) const WITH_ONE_LOST: Duration = Duration::from_millis(2500);

/// So long may stand still what lasts where the role moves as planned, or not at all: TCP repeats itself after 0.2 and 0.6 seconds, and then
/// after 1.4.
pub(crate) const STALL_OF_A_MOVE: Duration = Duration::from_millis(950);
/// And where a node is lost: the next time is after 3 seconds, and the other node is there by the third.
pub(crate) const STALL_OF_A_LOSS: Duration = Duration::from_millis(2900);

/// So long a connection may have begun before its node's death without the other node knowing of it, on a machine that is busy.
const UNTOLD: Duration = Duration::from_millis(50);
/// After so long a probe of [`Load`] begins its next connection.
const NEW_INTERVAL: Duration = Duration::from_millis(4);
/// Of one probe's connections so many may be lost with a node: two begin within the 5 ms that its `lbd` gathers news for before it tells
/// them, and the answer of one may be under way.
const UNTOLD_MAX: usize = 3;
/// So long a kernel goes on beginning connections when its daemons were killed: until the lease is over, 2.5 intervals of 100 ms after the
/// last advertisement. (Clients leave it sooner, when the other node is announced.)
const LEASE: Duration = Duration::from_millis(250);

/// The tables that targets are chosen from: of each service, in each family.
pub(crate) const RINGS: u64 = 12;

/// How many long-lived connections each family has to each service.
pub(crate) const CONNECTIONS: usize = 32;

/// Clients that send datagrams to each service of each virtual IP, and how often each does.
const TALKERS: usize = 2;
const TALK_INTERVAL: Duration = Duration::from_millis(20);

/// What the services have besides what all of them have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    /// Those of `dsr`.
    pub(crate) direct: &'static str,
    /// Those of `nat`.
    pub(crate) translated: &'static str,
    /// At the end of the file: whole tables.
    pub(crate) tables: &'static str,
}

impl Default for Keys {
    fn default() -> Self {
        Self { direct: "dsr = \"l2\"", translated: "", tables: "" }
    }
}

/// Services of both modes on the VIPs of these instances, in both families. Those of the first are called as [`service`] says.
pub(crate) fn config(lab: &Lab, instances: Vec<Instance>, keys: Keys) -> PairConfig {
    let places = instances.iter().enumerate();
    let places =
        places.flat_map(|(place, instance)| instance.vips.clone().into_iter().map(move |vip| (place, vip)));
    let places: Vec<_> = places.collect();
    let mut config = PairConfig::new(instances);
    let (direct, translated) = lab.targets().split_at(DIRECT_TARGETS);
    for (place, vip) in places {
        let address = |target: &Target| -> IpAddr {
            if vip.is_ipv4() { target.v4().into() } else { target.v6().into() }
        };
        for (name, mode, port, suffix, target_port) in [
            ("dsr-http", "dsr", DSR_HTTP, "", 80),
            ("dsr-echo", "dsr", DSR_ECHO, "", 7),
            ("nat-http", "nat", NAT_HTTP, "", 8080),
            ("nat-echo", "nat", NAT_ECHO, "", 7),
            ("nat-datagrams", "nat", NAT_ECHO, "/udp", 7),
            ("dsr-datagrams", "dsr", DSR_ECHO, "/udp", 7),
        ] {
            let name = service(name, vip, place);
            let listen = format!("{}{suffix}", SocketAddr::new(vip, port));
            let (targets, extra) =
                if mode == "dsr" { (direct, keys.direct) } else { (translated, keys.translated) };
            let targets: Vec<SocketAddr> =
                targets.iter().map(|target| SocketAddr::new(address(target), target_port)).collect();
            config = config.service(&name, mode, &listen, &name, extra).target_group(&name, &targets, "");
        }
    }
    config.raw(keys.tables)
}

/// What a service is called, e.g. `dsr-http4`; on the VIPs of an instance that is not the first one `dsr-http4-1`.
pub(crate) fn service(what: &str, vip: IpAddr, place: usize) -> String {
    let family = if vip.is_ipv4() { "4" } else { "6" };
    let place = if place == 0 { String::new() } else { format!("-{place}") };
    format!("{what}{family}{place}")
}

/// A pair that forwards: `a` is active, `b` stands by with the same tables.
pub(crate) fn forwarding(label: &str, instance: Instance) -> Result<Lab> {
    let lab = started(label, vec![instance])?;
    settled(&lab, lab.a())?;
    Ok(lab)
}

/// A pair that has just been started, with targets that take the VIPs of these instances.
pub(crate) fn started(label: &str, instances: Vec<Instance>) -> Result<Lab> {
    started_with(label, instances, Keys::default(), |_| Ok(()))
}

/// The same with these keys, after something was done to the lab.
pub(crate) fn started_with(
    label: &str,
    instances: Vec<Instance>,
    keys: Keys,
    prepare: impl FnOnce(&Lab) -> Result<()>,
) -> Result<Lab> {
    let lab = Lab::builder(label).targets(4).build()?;
    prepare(&lab)?;
    for target in &lab.targets()[..DIRECT_TARGETS] {
        for vip in instances.iter().flat_map(|instance| &instance.vips) {
            target.accept_vip(*vip)?;
        }
    }
    lab.write_config(&config(&lab, instances, keys))?;
    for node in lab.nodes() {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    Ok(lab)
}

/// Waits until this node is active and forwards, and both have ways to all targets.
pub(crate) fn settled(lab: &Lab, active: &Node) -> Result<()> {
    agreed(lab, active)?;
    owned_by(lab, active)?;
    for node in lab.nodes() {
        ready(node)?;
        synced(node)?;
    }
    caught_up(lab)?;
    served(lab, &vips())
}

/// Waits until a node has all flows of the other one.
pub(crate) fn synced(node: &Node) -> Result<()> {
    wait_until(&format!("{} to be synced", node.name()), LIMIT, || {
        let replication = node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok());
        let replication: Value = replication.unwrap_or_default();
        replication["state"]["state"] == "synced" && replication["state"]["peer_synced"] == true
    })
}

/// Waits until a node's maps have all that they are to have.
pub(crate) fn ready(node: &Node) -> Result<()> {
    wait_until(&format!("{} to be ready to forward", node.name()), LIMIT, || {
        let kernel = kernel(node);
        let none = |what: &str| kernel[what].as_array().is_some_and(Vec::is_empty);
        kernel["interfaces"][0]["name"] == "eth0" && none("troubles")
    })
}

/// What a node's `lbd` says of its kernel.
pub(crate) fn kernel(node: &Node) -> Value {
    let status: Option<Value> = node.get("lbd", "/v1/status").ok().and_then(|answer| answer.json().ok());
    status.unwrap_or_default()["kernel"].clone()
}

/// Waits until the client is answered by every service.
pub(crate) fn served(lab: &Lab, vips: &[IpAddr]) -> Result<()> {
    for &vip in vips {
        for port in [DSR_HTTP, NAT_HTTP] {
            let server = SocketAddr::new(vip, port);
            let ask = || http::tcp(server, "GET", "/", "", PATIENCE);
            wait_until(&format!("a page from {server}"), LIMIT, || {
                lab.client().namespace().inside(ask).is_ok_and(|it| it.is_ok_and(|page| page.status == 200))
            })?;
        }
        let server = SocketAddr::new(vip, NAT_ECHO);
        wait_until(&format!("an echo from {server}"), LIMIT, || {
            lab.client().namespace().inside(|| echo(server)).is_ok_and(|echo| echo.is_ok())
        })?;
    }
    Ok(())
}

/// Sends a datagram from a port of its own, and waits for it to come back.
pub(crate) fn echo(server: SocketAddr) -> std::io::Result<()> {
    exchange_datagram(server, PATIENCE)
}

/// How long those of [`talkers`] wait for an answer.
const MOMENT: Duration = Duration::from_millis(200);

/// So many sockets on the client that send to a server, and wait a moment for each answer.
pub(crate) fn talkers(lab: &Lab, server: SocketAddr, count: usize) -> Result<Vec<UdpSocket>> {
    let sockets = || (0..count).map(|_| talker(server, MOMENT)).collect::<std::io::Result<Vec<_>>>();
    Ok(lab.client().namespace().inside(sockets)?.expect("sockets of the client"))
}

/// Sends on each until it is answered.
pub(crate) fn exchange(sockets: &[UdpSocket]) -> Result<()> {
    for (number, socket) in sockets.iter().enumerate() {
        wait_until(&format!("an answer to client {number}"), LIMIT, || {
            let mut answer = [0; 16];
            socket.send(b"hello").is_ok()
                && socket.recv(&mut answer).is_ok_and(|length| &answer[..length] == b"hello")
        })?;
    }
    Ok(())
}

/// Targets and ports of flows, by client.
pub(crate) type Places = BTreeMap<String, (String, Option<u64>)>;

/// Those of a service's flows on a node.
pub(crate) fn flows(node: &Node, service: &str) -> Places {
    let listing = node.get("lbd", &format!("/v1/flows?service={service}&max=100000"));
    let listing: Value = listing.ok().and_then(|answer| answer.json().ok()).unwrap_or_default();
    let flows = listing["flows"].as_array().cloned().unwrap_or_default();
    let entry = |flow: &Value| {
        let client = flow["client"].as_str().unwrap_or_default().to_owned();
        (client, (flow["target"].as_str().unwrap_or_default().to_owned(), flow["nat_port"].as_u64()))
    };
    flows.iter().map(entry).collect()
}

/// Targets of a service's flows on a node, by client.
pub(crate) fn targets(node: &Node, service: &str) -> BTreeMap<String, String> {
    flows(node, service).into_iter().map(|(client, (target, _))| (client, target)).collect()
}

/// A counter of a node's kernel, all label sets that have this text together.
pub(crate) fn counted(node: &Node, metric: &str, labels: &str) -> u64 {
    node.counted(metric, labels).unwrap_or_default()
}

/// Packets of the VIPs' services that a node has forwarded.
pub(crate) fn forwarded(node: &Node) -> u64 {
    counted(node, "tandem_lbd_kernel_service_packets_total", "direction=")
}

pub(crate) fn not_active(node: &Node) -> u64 {
    counted(node, "tandem_lbd_kernel_drops_total", "reason=\"not_active\"")
}

/// What the client does all the while.
pub(crate) struct Load {
    pub(crate) dsr_new: Vec<ConnectProbe>,
    pub(crate) nat_new: Vec<ConnectProbe>,
    pub(crate) dsr_known: Vec<EchoProbe>,
    pub(crate) nat_known: Vec<EchoProbe>,
    datagrams: DatagramProbe,
}

impl Load {
    /// Begins: a new connection each millisecond, alternating between the services, long-lived ones, and datagrams. A new one may take so
    /// long.
    pub(crate) fn begin(lab: &Lab, patience: Duration) -> Result<Self> {
        Self::begin_at(lab, &vips(), patience)
    }

    /// The same at these VIPs.
    pub(crate) fn begin_at(lab: &Lab, vips: &[IpAddr], patience: Duration) -> Result<Self> {
        let new = |port| {
            let probe = |vip: &IpAddr| {
                let mut settings = ConnectSettings::http(SocketAddr::new(*vip, port));
                // Four probes together make it one each millisecond.
                settings.interval = NEW_INTERVAL;
                settings.deadline = patience;
                ConnectProbe::start(lab.client(), settings)
            };
            vips.iter().map(probe).collect::<Result<Vec<_>>>()
        };
        let known = |port| {
            let probe = |vip: &IpAddr| {
                EchoProbe::start(lab.client(), EchoSettings::new(SocketAddr::new(*vip, port), CONNECTIONS))
            };
            vips.iter().map(probe).collect::<Result<Vec<_>>>()
        };
        let servers =
            vips.iter().flat_map(|vip| [DSR_ECHO, NAT_ECHO].map(|port| SocketAddr::new(*vip, port)));
        let servers: Vec<SocketAddr> = servers.collect();
        // How many are lost is not looked at, so that there is nothing to wait for at the end.
        let talk = DatagramSettings {
            interval: TALK_INTERVAL,
            linger: Duration::ZERO,
            ..DatagramSettings::new(&servers, TALKERS)
        };
        let load = Self {
            dsr_known: known(DSR_ECHO)?,
            nat_known: known(NAT_ECHO)?,
            dsr_new: new(DSR_HTTP)?,
            nat_new: new(NAT_HTTP)?,
            datagrams: DatagramProbe::start(lab.client(), talk)?,
        };
        load.steady()?;
        load.forget_stalls();
        Ok(load)
    }

    /// Waits until new connections are served steadily, and the long-lived ones and datagrams go on.
    pub(crate) fn steady(&self) -> Result<()> {
        for probe in self.dsr_new.iter().chain(&self.nat_new) {
            probe.wait_steady(50, LIMIT)?;
        }
        self.dsr_known.iter().chain(&self.nat_known).try_for_each(|probe| probe.wait_exchanges(5, LIMIT))?;
        self.datagrams.wait_answers(2, LIMIT)
    }

    /// Waits for the same after something was done, and fails if a long-lived connection or a client with datagrams has stood still for longer
    /// than this since that was asked last.
    pub(crate) fn steady_after(&self, stall_max: Duration) -> Result<()> {
        self.steady()?;
        self.stood_still_at_most(stall_max);
        self.forget_stalls();
        Ok(())
    }

    /// What has stood still until now does not count.
    pub(crate) fn forget_stalls(&self) {
        for probe in self.dsr_known.iter().chain(&self.nat_known) {
            probe.forget_stalls();
        }
        self.datagrams.forget_silence();
    }

    fn stood_still_at_most(&self, max: Duration) {
        for (what, probes) in [("dsr", &self.dsr_known), ("nat", &self.nat_known)] {
            for probe in probes {
                let report = probe.snapshot();
                let stall = report.worst_stall();
                assert!(stall < max + report.pause, "{what}, at most {max:?}: {}", report.summary());
            }
        }
        let report = self.datagrams.snapshot();
        let (silence, pause) = (report.silence(), report.pause);
        assert!(
            silence < max + pause,
            "datagrams: {silence:?} without an answer ({pause:?} late), at most {max:?}"
        );
    }

    /// Ends, and fails if a connection broke or was not served, or something has stood still for longer than over a planned move since that
    /// was asked last.
    pub(crate) fn end(self) -> Result<()> {
        self.end_after_deaths(&[])
    }

    /// The same after active nodes died, each as [`killed`], [`all_killed`] or [`Lab::inject`] has said: a window ends when the node begins nothing more, not
    /// when the other one has taken over. What came to it last the other one had not heard of: where the client of such a connection
    /// through `nat` has said all it wants to say, nothing tells the other node whose answer it is that the target sends, and the client
    /// waits in vain. Those are few ([`UNTOLD_MAX`]), and began then or a moment before. No others may fail, and nobody is told no.
    pub(crate) fn end_after_deaths(self, deaths: &[Window]) -> Result<()> {
        self.stood_still_at_most(if deaths.is_empty() { STALL_OF_A_MOVE } else { STALL_OF_A_LOSS });
        let strange = self.datagrams.stop()?.strange;
        assert_eq!(strange, 0, "answers to somebody else");
        let known = [("dsr", self.dsr_known), ("nat", self.nat_known)];
        for (what, probes) in known {
            for probe in probes {
                let report = probe.stop()?;
                assert!(report.broken() == 0, "{what}: {}", report.summary());
            }
        }
        for (what, probes) in [("dsr", self.dsr_new), ("nat", self.nat_new)] {
            for probe in probes {
                let report = probe.stop()?;
                let is_untold = |attempt: &Attempt, death: &Window| {
                    what == "nat"
                        && attempt.failure == Some(Failure::Timeout)
                        && death.before <= attempt.start + UNTOLD
                        && attempt.start <= death.after
                };
                for death in deaths {
                    let count = report.attempts.iter().filter(|one| is_untold(one, death)).count();
                    assert!(count <= UNTOLD_MAX, "{count} untold at {death:?}: {}", report.summary());
                }
                let excused = |attempt: &&Attempt| deaths.iter().any(|death| is_untold(attempt, death));
                let untold = report.attempts.iter().filter(excused).count();
                assert!(report.failed() == untold, "{what}, {untold} untold: {}", report.summary());
            }
        }
        Ok(())
    }
}

/// Kills a node's daemons, and says when its kernel has begun connections for the last time that nobody was told of.
pub(crate) fn killed(node: &Node) -> Result<Window> {
    let before = now();
    for daemon in ["vrrpd", "lbd"] {
        node.signal(daemon, Signal::SIGKILL)?;
    }
    let after = now() + LEASE;
    for daemon in ["vrrpd", "lbd"] {
        node.wait_end(daemon, LIMIT)?;
    }
    Ok(Window { before, after })
}

/// Kills everything on a node in one moment, what would take the VIPs off it, too: its kernel goes on with them, as far as it may, and the other
/// node takes them when it has heard nothing for long enough. Says what [`killed`] says.
pub(crate) fn all_killed(lab: &Lab, node: &Node) -> Result<Window> {
    let Window { before, after } = lab.inject(&Fault::Killed(node.name().to_owned()))?;
    Ok(Window { before, after: after + LEASE })
}

/// Waits until a node has begun new flows of each service for TCP on the VIPs of the first instance.
pub(crate) fn takes_new_ones(node: &Node) -> Result<()> {
    takes_new_ones_of(node, 0)
}

/// The same for another instance.
pub(crate) fn takes_new_ones_of(node: &Node, place: usize) -> Result<()> {
    let services =
        vips().into_iter().flat_map(|vip| ["dsr-http", "nat-http"].map(|what| service(what, vip, place)));
    for service in services {
        let new = || {
            let labels = format!("service=\"{service}\"");
            counted(node, "tandem_lbd_kernel_service_new_flows_total", &labels)
        };
        let before = new();
        wait_until(&format!("new flows of {service} on {}", node.name()), LIMIT, || new() >= before + 10)?;
    }
    Ok(())
}

/// Waits until a node forwards nothing while another one does.
pub(crate) fn drained(node: &Node, other: &Node) -> Result<()> {
    wait_until(&format!("{} to forward nothing", node.name()), LIMIT, || {
        let before = forwarded(node);
        takes_new_ones(other).is_ok() && forwarded(node) == before
    })
}
