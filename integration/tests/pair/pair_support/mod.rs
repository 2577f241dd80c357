//! What the tests of a whole pair share: a lab in which both nodes run both daemons, what is watched there meanwhile, and
//! what a node looks like before and after.
//!
//! The machine may be busy, so nothing here measures: a test says which roles, owners and events there are, in which
//! order, and that what must not be seen is not seen for longer than the probes themselves paused.

pub(crate) mod flood;
pub(crate) mod impostor;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use integration::lab::addresses::{Mac, vip4, vip6};
use integration::lab::clock::{wait_for, wait_until};
use integration::lab::config::{Instance, PairConfig};
use integration::lab::probe::{
    ConnectProbe, ConnectReport, ConnectSettings, RoleReport, RoleWatcher, WatchReport, WatchSettings,
    Watcher,
};
use integration::lab::{Lab, Node, Result};
use serde_json::Value;

/// How long what must happen may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// How long nothing must happen where nothing may.
pub(crate) const CALM: Duration = Duration::from_millis(700);

/// What an `lbd` may grow by while some thousands of connections begin, whatever else happens to it.
pub(crate) const LBD_GROWTH_MAX_KIB: u64 = 32 * 1024;

/// The VIPs of the instance `web`, one of each family.
pub(crate) fn vips() -> [IpAddr; 2] {
    [vip4(0).into(), vip6(0).into()]
}

/// The instance `web` with another advert interval.
pub(crate) fn every(advert_interval: &str) -> Instance {
    Instance { advert_interval: advert_interval.to_owned(), ..Instance::default() }
}

/// A configuration with this instance, and port 80 of its VIPs forwarded to the targets.
pub(crate) fn config(lab: &Lab, instance: Instance) -> PairConfig {
    let targets: Vec<SocketAddr> = lab.targets().iter().map(integration::lab::Target::http_address).collect();
    PairConfig::new(vec![instance])
        .service("web", "tcp", "@web:80", "web", "")
        .target_group("web", &targets, "")
}

/// A lab with the pair's configuration, nothing started.
pub(crate) fn prepared(label: &str, instance: Instance) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    lab.write_config(&config(&lab, instance))?;
    Ok(lab)
}

/// A pair that serves: `a` is active, `b` stands by.
pub(crate) fn serving(label: &str, instance: Instance) -> Result<Lab> {
    let lab = prepared(label, instance)?;
    start_all(&lab)?;
    Ok(lab)
}

/// Starts all four daemons and waits until `a` serves and `b` may be asked to.
pub(crate) fn start_all(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    settled(lab, lab.a())?;
    caught_up(lab)
}

/// Waits until neither node lacks connections of the other's, nor takes the other one for lacking some: it is then handed the role.
pub(crate) fn caught_up(lab: &Lab) -> Result<()> {
    let knows = |status: Value| status["behind"] == false && status["peer_link"]["behind"] == false;
    wait_until("the nodes to know each other's connections", LIMIT, || {
        lab.nodes().iter().all(|node| status(node).is_some_and(knows))
    })
}

/// Waits until this node is active with the VIPs, the other one stands by without them, they know of each other, and the
/// client is served.
pub(crate) fn settled(lab: &Lab, active: &Node) -> Result<()> {
    agreed(lab, active)?;
    owned_by(lab, active)?;
    served(lab, &vips())
}

/// Waits until this node is active, the other one stands by, and they know of each other.
pub(crate) fn agreed(lab: &Lab, active: &Node) -> Result<()> {
    active.wait_role("web", "active", LIMIT)?;
    lab.peer_of(active).wait_role("web", "backup", LIMIT)?;
    wait_until("the nodes to hear each other", LIMIT, || {
        lab.nodes().iter().all(|node| status(node).is_some_and(|status| status["peer_link"]["alive"] == true))
    })
}

/// Waits until the client is served at all of these.
pub(crate) fn served(lab: &Lab, vips: &[IpAddr]) -> Result<()> {
    vips.iter().try_for_each(|vip| {
        wait_until(&format!("the client to be served at {vip}"), LIMIT, || serves(lab, *vip))
    })
}

/// Waits until this node has the VIPs on its interface and the other one has none.
pub(crate) fn owned_by(lab: &Lab, active: &Node) -> Result<()> {
    let other = lab.peer_of(active);
    for vip in vips() {
        wait_until(&format!("{} to hold {vip} alone", active.name()), LIMIT, || {
            active.holds(vip).unwrap_or(false) && !other.holds(vip).unwrap_or(true)
        })?;
    }
    Ok(())
}

/// Whether the client gets a page from port 80 of this address.
pub(crate) fn serves(lab: &Lab, vip: IpAddr) -> bool {
    let ask =
        || integration::lab::http::tcp(SocketAddr::new(vip, 80), "GET", "/", "", Duration::from_secs(1));
    let answer = lab.client().namespace().inside(ask);
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
}

/// `GET /v1/status`; none while nobody answers.
pub(crate) fn status(node: &Node) -> Option<Value> {
    node.get("vrrpd", "/v1/status").ok()?.json().ok()
}

/// A virtual router in the status, by `ipv4` or `ipv6`.
pub(crate) fn router(node: &Node, family: &str) -> Value {
    let status = status(node).unwrap_or_default();
    let routers = status["instances"][0]["routers"].as_array().cloned().unwrap_or_default();
    routers.into_iter().find(|router| router["family"] == family).unwrap_or_default()
}

/// A counter of drops of a virtual router.
pub(crate) fn drops(node: &Node, family: &str, reason: &str) -> u64 {
    let router = router(node, family);
    let drops = router["drops"].as_array().cloned().unwrap_or_default();
    drops.iter().find(|drop| drop["reason"] == reason).and_then(|drop| drop["count"].as_u64()).unwrap_or(0)
}

/// All events of a node's `vrrpd`, in order.
pub(crate) fn events(node: &Node) -> Result<Vec<Value>> {
    let mut all: Vec<Value> = Vec::new();
    let mut after = 0;
    loop {
        let page = node.get("vrrpd", &format!("/v1/events?after={after}"))?.json()?;
        let Some(events) = page["events"].as_array().filter(|events| !events.is_empty()) else {
            return Ok(all);
        };
        all.extend(events.iter().cloned());
        after = page["next"].as_u64().unwrap_or(u64::MAX);
    }
}

/// Whether an event has all that `expected` has.
pub(crate) fn is(event: &Value, expected: &Value) -> bool {
    let Some(expected) = expected.as_object() else { return false };
    expected.iter().all(|(key, value)| event[key] == *value)
}

/// Waits until there is such an event with a number above `after`, and returns it.
pub(crate) fn wait_event(node: &Node, after: u64, expected: &Value) -> Result<Value> {
    wait_for(&format!("the event {expected} on {}", node.name()), LIMIT, || {
        let events = events(node).ok()?;
        events.into_iter().find(|event| event["id"].as_u64() > Some(after) && is(event, expected))
    })
}

/// The number of the last event.
pub(crate) fn last_event(node: &Node) -> Result<u64> {
    Ok(events(node)?.last().and_then(|event| event["id"].as_u64()).unwrap_or(0))
}

/// Fails unless the events contain these, in this order (others may be between them).
pub(crate) fn assert_order(events: &[Value], expected: &[Value]) {
    let mut rest = events.iter();
    for wanted in expected {
        let found = rest.any(|event| is(event, wanted));
        let sentences: Vec<&str> = events.iter().filter_map(|event| event["message"].as_str()).collect();
        assert!(found, "{wanted} is missing, or not in this place, in {sentences:#?}");
    }
}

/// What the kernel says in such a line of `/proc/PID/status` of a node's processes of this program, together, in KiB: `VmRSS`, the memory that
/// they have, or `VmHWM`, the most that they have had.
pub(crate) fn memory_kib(node: &Node, program: &str, line: &str) -> u64 {
    let pids = node.namespace().pids().expect("the processes can be listed");
    let text =
        |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let all = pids.into_iter().filter(|pid| text(*pid, "comm").trim() == program);
    let memory = all.map(|pid| {
        let status = text(pid, "status");
        let found = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':'));
        found.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    });
    memory.sum()
}

/// How often a virtual router of this node has changed its role.
pub(crate) fn transitions(node: &Node) -> u64 {
    ["ipv4", "ipv6"].iter().filter_map(|family| router(node, family)["transitions"].as_u64()).sum()
}

/// Runs a command of `vrrpd` on a node: whether it succeeded, what it printed and what it complained of.
pub(crate) fn vrrpd(node: &Node, arguments: &[&str]) -> (bool, String, String) {
    run(node, "vrrpd", arguments)
}

/// The same of `lbd`.
pub(crate) fn lbd(node: &Node, arguments: &[&str]) -> (bool, String, String) {
    run(node, "lbd", arguments)
}

fn run(node: &Node, daemon: &str, arguments: &[&str]) -> (bool, String, String) {
    let program = integration::lab::binary(daemon).expect("it has been built");
    let mut command = node.command(&program.to_string_lossy());
    let output =
        command.args(arguments).arg("--run-dir").arg(node.run_dir()).output().expect("it can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// Watches a pair: its roles, who answers for its VIPs, and whether new connections to them are served.
pub(crate) struct Watch {
    pub(crate) roles: RoleWatcher,
    pub(crate) owners: Watcher,
    pub(crate) probes: [ConnectProbe; 2],
}

/// What was seen.
pub(crate) struct Seen {
    pub(crate) roles: RoleReport,
    pub(crate) owners: WatchReport,
    pub(crate) probes: [ConnectReport; 2],
}

impl Watch {
    /// Begins, and waits until both families are served steadily.
    pub(crate) fn begin(lab: &Lab) -> Result<Self> {
        let probe = |vip| {
            let mut settings = ConnectSettings::http(SocketAddr::new(vip, 80));
            // Gentle to a busy machine, and patient: only a packet that is lost or refused makes an attempt fail.
            settings.interval = Duration::from_millis(5);
            settings.deadline = Duration::from_millis(950);
            ConnectProbe::start(lab.client(), settings)
        };
        let [v4, v6] = vips();
        let watch = Self {
            roles: RoleWatcher::start(lab, &["web"], Duration::from_millis(5))?,
            owners: Watcher::start(lab, WatchSettings::new(&vips()))?,
            probes: [probe(v4)?, probe(v6)?],
        };
        watch.steady()?;
        Ok(watch)
    }

    /// Waits until both families are served steadily.
    pub(crate) fn steady(&self) -> Result<()> {
        self.probes.iter().try_for_each(|probe| probe.wait_steady(20, LIMIT))
    }

    /// Waits until this host alone answers for the VIPs.
    pub(crate) fn wait_owner(&self, mac: Mac) -> Result<()> {
        vips().into_iter().try_for_each(|vip| self.owners.wait_owner(vip, mac, 20, LIMIT))
    }

    /// Ends.
    pub(crate) fn end(self) -> Result<Seen> {
        let [v4, v6] = self.probes;
        Ok(Seen { roles: self.roles.stop()?, owners: self.owners.stop()?, probes: [v4.stop()?, v6.stop()?] })
    }
}

impl Seen {
    /// Fails if a new connection failed. One that was under way while the VIPs moved goes on where it began: the node that has the VIPs
    /// now sends what it does not know to the other one.
    pub(crate) fn assert_all_served(&self) {
        for report in &self.probes {
            assert_eq!(report.failed(), 0, "{}", report.summary());
        }
    }

    /// How long the machine did not run what watches: what is seen for no longer may be its doing.
    pub(crate) fn pause(&self) -> Duration {
        let asked = self.owners.asked.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        let probes = self.probes.iter().map(ConnectReport::longest_pause).max().unwrap_or_default();
        asked.max(probes)
    }

    /// Fails if two hosts answered for a VIP for longer than `limit` and the pauses of whoever watched.
    pub(crate) fn assert_one_owner(&self, limit: Duration) {
        for vip in vips() {
            let Some(overlap) = self.owners.longest_overlap(vip) else { continue };
            let allowed = limit + self.pause();
            assert!(overlap.length() <= allowed, "{vip}: {overlap:?} is longer than {allowed:?}");
        }
    }

    /// Fails if someone else than this host announced a VIP last.
    pub(crate) fn assert_announced_last_by(&self, mac: Mac) {
        for vip in vips() {
            let last = self.owners.last_announcement(vip).map(|last| last.mac);
            assert_eq!(last, Some(mac), "the last announcement of {vip}");
        }
    }

    /// Fails if anyone else than this host announced a VIP at all. The host itself may have done so long before.
    pub(crate) fn assert_announced_by_nobody_but(&self, mac: Mac) {
        for vip in vips() {
            let others = self.owners.announcements(vip).filter(|seen| seen.mac != mac).count();
            assert_eq!(others, 0, "announcements of {vip} by others than {mac:?}");
        }
    }

    /// The roles a node had, in order.
    pub(crate) fn roles_of(&self, node: &str) -> Vec<String> {
        let name = |change: &integration::lab::probe::RoleChange| match &change.seen {
            integration::lab::probe::Seen::Role(role) => role.clone(),
            integration::lab::probe::Seen::None => "none".to_owned(),
            integration::lab::probe::Seen::Silent => "silent".to_owned(),
        };
        self.roles.of(node, "web").map(name).collect()
    }
}

/// What a daemon must leave as it found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) addresses: BTreeSet<String>,
    pub(crate) local_routes: BTreeSet<String>,
    links: BTreeSet<String>,
    /// `arp_ignore`, `arp_announce` and `rp_filter` of `eth0`.
    pub(crate) sysctls: Vec<String>,
    pub(crate) files: BTreeSet<PathBuf>,
    pids: BTreeSet<i32>,
}

impl Footprint {
    /// What a node looks like now.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        let lines = |text: String| text.lines().map(|line| line.trim().to_owned()).collect();
        let routes = ["-4", "-6"].map(|family| node.run("ip", &[family, "route", "show", "table", "local"]));
        let [v4, v6] = routes;
        let links = node.run("ip", &["-oneline", "link", "show"])?;
        let links = links.lines().filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect();
        let sysctls = node.namespace().inside(|| {
            let read = |name| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/eth0/{name}"));
            ["arp_ignore", "arp_announce", "rp_filter"]
                .map(|name| read(name).unwrap_or_default().trim().to_owned())
        })?;
        // A lock file that its last user removed could be locked by two at once; it stays.
        let files = std::fs::read_dir(node.run_dir()).into_iter().flatten().flatten();
        let files = files.filter(|file| file.file_name() != "lbd.lock");
        Ok(Self {
            addresses: node.addresses()?.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect(),
            local_routes: lines(v4? + &v6?),
            links,
            sysctls: sysctls.to_vec(),
            files: files.map(|file| file.path()).collect(),
            pids: node.namespace().pids()?,
        })
    }

    /// Whether there are local routes of all the VIPs.
    pub(crate) fn has_vip_routes(&self) -> bool {
        self.local_routes.iter().filter(|line| is_vip_route(line)).count() == vips().len()
    }
}

/// Such as `local 10.77.0.50 dev lo`, the route that outlives the address.
fn is_vip_route(line: &str) -> bool {
    vips().iter().any(|vip| line.starts_with(&format!("local {vip} dev lo")))
}
