//! The lab: a whole pair with a client, targets, a watcher and a switch, each in a network namespace of its own, on
//! one machine. Nothing is made in the host's own network, labs do not see each other, and everything goes away when
//! the [`Lab`] is dropped; what a crashed owner leaves behind is swept by the next lab (or `scripts/lab clean`).
//!
//! ```text
//!  client  watch  t1 … tn  (gw)
//!     │      │     │  │     │
//!  ───┴──────┴─────┴──┴─────┴───  lan 10.77.0.0/24, fd77::/64 (a bridge in its own namespace)
//!       │ eth0          │ eth0
//!      [a]─── peer0 ───[b]        10.0.255.0/24
//! ```
//!
//! [`addresses`] has the plan, [`fault`] what can be broken, [`probe`] how it is observed.

pub mod addresses;
pub mod anybody;
pub mod capture;
pub mod certificate;
pub mod clock;
pub mod config;
mod echo;
pub(crate) mod error;
pub mod fault;
mod host;
pub mod http;
pub mod load;
pub mod netns;
mod node;
pub mod probe;
pub(crate) mod process;
pub mod reference;
pub mod registry;
mod switch;
mod target;
pub mod timeline;
pub mod tunnel;
mod upgrade;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use echo::echo_forever;
pub use error::{LabError, Result};
pub use host::{Host, Passed};
pub use node::{Node, binary};
pub use process::Daemon;
pub use switch::{Direction, Switch};
pub use target::Target;

use addresses::{
    CLIENT_ADDRESSES, CLIENT_FIRST, GATEWAY, LAN_PREFIX_V4, LAN_PREFIX_V6, NODES_MAX, TARGET_FIRST,
    TARGETS_MAX, WATCHER, client_addresses,
};
use error::Context;
use netns::Namespace;
use registry::Entry;

/// What a pair's configuration is called in the lab's directory.
const CONFIG: &str = "pair.toml";
/// The second pair's.
const SECOND_CONFIG: &str = "pair-2.toml";

/// A program that takes all packets.
const PASS: &str =
    "__attribute__((section(\"xdp\"), used)) int pass(void *context) { return 2; /* XDP_PASS */ }
char terms[] __attribute__((section(\"license\"), used)) = \"Dual MIT/GPL\";
";

/// What to build.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    label: String,
    targets: u8,
    target_servers: bool,
    gateway: bool,
    second_pair: bool,
}

impl LabBuilder {
    /// How many targets; at most [`TARGETS_MAX`], which larger numbers are cut to. Two when not said.
    #[must_use]
    pub fn targets(mut self, count: u8) -> Self {
        self.targets = count.min(TARGETS_MAX);
        self
    }

    /// Whether the targets run nginx and the echo server from the start. They do when not said.
    #[must_use]
    pub const fn target_servers(mut self, run: bool) -> Self {
        self.target_servers = run;
        self
    }

    /// Adds the gateway host, 10.77.0.254.
    #[must_use]
    pub const fn gateway(mut self) -> Self {
        self.gateway = true;
        self
    }

    /// Adds the nodes of another pair on the same network, `c` and `d`.
    #[must_use]
    pub const fn second_pair(mut self) -> Self {
        self.second_pair = true;
        self
    }

    /// Builds it. Takes a quarter of a second or so.
    ///
    /// # Errors
    /// [`LabError`] when a namespace, link or server cannot be made (root is needed); what was made is removed.
    pub fn build(self) -> Result<Lab> {
        process::raise_descriptor_limit()?;
        let entry = Entry::create(&self.label)?;
        let unfinished = Unfinished(Some(entry.clone()));
        let lab = self.build_in(entry)?;
        unfinished.done();
        Ok(lab)
    }

    fn build_in(self, entry: Entry) -> Result<Lab> {
        let logs = entry.dir.join("logs");
        fs::create_dir_all(&logs).doing(|| format!("making {}", logs.display()))?;
        let mut plan = vec![("a".to_owned(), 1), ("b".to_owned(), 2)];
        if self.second_pair {
            plan.extend([("c".to_owned(), 3), ("d".to_owned(), NODES_MAX)]);
        }
        plan.extend([("client".to_owned(), CLIENT_FIRST), ("watch".to_owned(), WATCHER)]);
        plan.extend((0..self.targets).map(|index| (format!("t{}", index + 1), TARGET_FIRST + index)));
        if self.gateway {
            plan.push(("gw".to_owned(), GATEWAY));
        }

        let mut names = vec![format!("{}-sw", entry.prefix)];
        names.extend(plan.iter().map(|(name, _)| format!("{}-{name}", entry.prefix)));
        let mut namespaces = Namespace::create_all(&names)?.into_iter();
        let switch = namespaces.next().ok_or_else(|| missing("sw"))?;
        let switch = Switch::new(switch)?;
        let mut hosts = Vec::new();
        for ((name, number), mut namespace) in plan.into_iter().zip(namespaces) {
            if number <= NODES_MAX {
                boot(&mut namespace, &name, &entry.dir)?;
            }
            hosts.push((name, number, namespace));
        }
        switch.plug(hosts.iter().map(|(name, number, namespace)| (name.as_str(), *number, namespace)))?;
        for (name, number, namespace) in &hosts {
            configure(name, *number, namespace)?;
        }
        switch.wait_forwarding()?;

        let mut hosts =
            hosts.into_iter().map(|(name, number, namespace)| Host::new(&name, number, namespace, &logs));
        let mut next = |name: &str| hosts.next().ok_or_else(|| missing(name));
        let config = entry.dir.join(CONFIG);
        let a = Node::new(next("a")?, &entry.dir, &config)?;
        let b = Node::new(next("b")?, &entry.dir, &config)?;
        let mut second_pair = Vec::new();
        if self.second_pair {
            let config = entry.dir.join(SECOND_CONFIG);
            for name in ["c", "d"] {
                second_pair.push(Node::new(next(name)?, &entry.dir, &config)?);
            }
        }
        let client = next("client")?;
        let watch = next("watch")?;
        let mut targets = Vec::new();
        for _ in 0..self.targets {
            targets.push(Target::new(next("target")?, &entry.dir));
        }
        let gateway = if self.gateway { Some(next("gw")?) } else { None };
        if self.target_servers {
            for target in &targets {
                target.start_servers()?;
            }
            for target in &targets {
                target.wait_ready()?;
            }
        }
        Ok(Lab { a, b, second_pair, client, watch, targets, gateway, switch, entry, finished: false })
    }
}

/// A running lab. Dropping it removes everything. A test ends with [`Lab::finish`]; one that fails before, by a panic or
/// by returning an error, gets the ends of all logs on standard error.
///
/// With `TANDEM_LAB_KEEP` set in the environment the directory with logs and captures stays.
#[derive(Debug)]
pub struct Lab {
    a: Node,
    b: Node,
    second_pair: Vec<Node>,
    client: Host,
    watch: Host,
    targets: Vec<Target>,
    gateway: Option<Host>,
    switch: Switch,
    entry: Entry,
    finished: bool,
}

impl Lab {
    /// Starts describing a lab; `label` is for people who list labs.
    #[must_use]
    pub fn builder(label: &str) -> LabBuilder {
        LabBuilder {
            label: label.to_owned(),
            targets: 2,
            target_servers: true,
            gateway: false,
            second_pair: false,
        }
    }

    /// Node `a`.
    #[must_use]
    pub const fn a(&self) -> &Node {
        &self.a
    }

    /// Node `b`.
    #[must_use]
    pub const fn b(&self) -> &Node {
        &self.b
    }

    /// Nodes `c` and `d`, if they were asked for.
    #[must_use]
    pub fn second_pair(&self) -> &[Node] {
        &self.second_pair
    }

    /// Both nodes of the pair, or of the first one.
    #[must_use]
    pub const fn nodes(&self) -> [&Node; 2] {
        [&self.a, &self.b]
    }

    /// The node that is not this one.
    #[must_use]
    pub fn peer_of(&self, node: &Node) -> &Node {
        if node.name() == self.a.name() { &self.b } else { &self.a }
    }

    /// The client.
    #[must_use]
    pub const fn client(&self) -> &Host {
        &self.client
    }

    /// The host that watches who answers for a VIP.
    #[must_use]
    pub const fn watch(&self) -> &Host {
        &self.watch
    }

    /// The targets, `t1` first.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The gateway, if it was asked for.
    #[must_use]
    pub const fn gateway(&self) -> Option<&Host> {
        self.gateway.as_ref()
    }

    /// The switch.
    #[must_use]
    pub const fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Any host by name.
    ///
    /// # Errors
    /// [`LabError::Unknown`] when there is none.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let known = || self.hosts().map(Host::name).collect::<Vec<_>>().join(" ");
        let found = self.hosts().find(|host| host.name() == name);
        found.ok_or_else(|| LabError::Unknown { kind: "host", name: name.to_owned(), known: known() })
    }

    /// Every host.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        let fixed: [&Host; 4] = [&self.a, &self.b, &self.client, &self.watch];
        let second = self.second_pair.iter().map(|node| &**node);
        fixed
            .into_iter()
            .chain(second)
            .chain(self.targets.iter().map(|target| &**target))
            .chain(&self.gateway)
    }

    /// Makes the program in the driver (XDP) possible on the nodes, whose interfaces are ends of veths.
    ///
    /// # Errors
    /// [`LabError::Command`] when `ethtool` is not there or refuses.
    pub fn prepare_for_xdp(&self) -> Result<()> {
        // Checksums that somebody else was to fill in are lost on the way through XDP: everybody makes his own.
        for host in self.hosts() {
            host.run("ethtool", &["-K", "eth0", "tx", "off"])?;
        }
        // What a program sends back lies in the other end's ring until somebody has that read. Sending does so only where the other
        // end has a program, too (`veth_xdp_flush`, drivers/net/veth.c).
        let (source, object) = (self.dir().join("pass.c"), self.dir().join("pass.o"));
        fs::write(&source, PASS).doing(|| format!("writing {}", source.display()))?;
        let [source, object] = [source, object].map(|path| path.display().to_string());
        self.switch.namespace().run("clang", &["-O2", "-target", "bpf", "-c", &source, "-o", &object])?;
        for node in self.nodes() {
            let words = ["link", "set", "dev", node.name(), "xdpdrv", "object", &object, "section", "xdp"];
            self.switch.namespace().run("ip", &words)?;
        }
        Ok(())
    }

    /// Has the nodes know each of the client's addresses, as hosts do that have talked to each other. In the driver a packet is lost where that
    /// is not so.
    ///
    /// # Errors
    /// [`LabError::Command`] when a node does not answer.
    pub fn introduce_client(&self) -> Result<()> {
        for node in self.nodes() {
            for to in [IpAddr::from(node.v4()), node.v6().into()] {
                for from in client_addresses(to) {
                    let (to, from) = (to.to_string(), from.to_string());
                    self.client.run("ping", &["-n", "-q", "-c", "1", "-W", "2", "-I", &from, &to])?;
                }
            }
        }
        Ok(())
    }

    /// Where its configuration, logs and captures are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.entry.dir
    }

    /// What the names of its namespaces begin with, before the hyphen.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.entry.prefix
    }

    /// Writes the pair's configuration and key into the lab's directory, where the daemons are told to find it.
    ///
    /// # Errors
    /// [`LabError::Io`] when it cannot be written.
    pub fn write_config(&self, config: &config::PairConfig) -> Result<PathBuf> {
        self.write_config_text(&config.render())
    }

    /// Like [`Lab::write_config_text`], for the second pair.
    ///
    /// # Errors
    /// [`LabError::Io`] when it cannot be written.
    pub fn write_second_config_text(&self, text: &str) -> Result<PathBuf> {
        self.write_config_as(SECOND_CONFIG, text)
    }

    /// Like [`Lab::write_config`], with the file's text.
    ///
    /// # Errors
    /// [`LabError::Io`] when it cannot be written.
    pub fn write_config_text(&self, text: &str) -> Result<PathBuf> {
        self.write_config_as(CONFIG, text)
    }

    fn write_config_as(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir().join(name);
        let key = self.dir().join("pair.key");
        fs::write(&key, config::KEY).doing(|| format!("writing {}", key.display()))?;
        // A daemon may refuse a key that others can read.
        let private = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        fs::set_permissions(&key, private).doing(|| format!("making {} private", key.display()))?;
        fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Removes it after success, without showing the logs.
    ///
    /// # Errors
    /// [`LabError`] when something cannot be removed.
    pub fn finish(mut self) -> Result<()> {
        self.finished = true;
        self.remove()
    }

    /// Removes everything it can, and tells the first thing that could not be removed.
    fn remove(&self) -> Result<()> {
        let mut outcome = Ok(());
        for host in self.hosts() {
            host.forget_daemons();
            outcome = outcome.and(host.namespace().destroy());
        }
        outcome = outcome.and(self.switch.namespace().destroy());
        outcome.and(self.entry.remove(std::env::var_os("TANDEM_LAB_KEEP").is_some()))
    }

    /// The ends of all logs.
    #[must_use]
    pub fn log_tails(&self) -> String {
        self.hosts().map(Host::log_tails).collect()
    }

    /// Gives a node that lost power a new machine on the same cables.
    pub(crate) fn rebuild(&self, node: &Node) -> Result<()> {
        self.switch.unplug(node.name())?;
        let old = node.namespace();
        old.destroy()?;
        let mut fresh = Namespace::create_all(&[old.name().to_owned()])?;
        let mut namespace = fresh.pop().ok_or_else(|| missing(node.name()))?;
        boot(&mut namespace, node.name(), self.dir())?;
        let number = node.v4().octets()[3];
        self.switch.plug(std::iter::once((node.name(), number, &namespace)))?;
        configure(node.name(), number, &namespace)?;
        node.replace_namespace(namespace);
        self.switch.wait_forwarding()?;
        Ok(())
    }
}

impl Drop for Lab {
    #[expect(
        clippy::print_stderr,
        reason = "a failing test shows what the harness captured of standard error"
    )]
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        eprintln!("lab {} in {}\n{}", self.prefix(), self.dir().display(), self.log_tails());
        if let Err(error) = self.remove() {
            eprintln!("lab {}: {error}", self.prefix());
        }
    }
}

/// Removes what a build that failed had made.
struct Unfinished(Option<Entry>);

impl Unfinished {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(entry) = &self.0 {
            // Best effort: the error that stopped the build is the one to report, and the next lab sweeps.
            entry.remove(false).ok();
        }
    }
}

/// Makes a namespace a machine, and notes the process that holds it for [`machine_of`].
fn boot(namespace: &mut Namespace, name: &str, dir: &Path) -> Result<()> {
    let holder = namespace.become_machine()?;
    let file = dir.join(format!("{name}.pid"));
    fs::write(&file, holder.to_string()).doing(|| format!("writing {}", file.display()))
}

/// The process whose namespaces (network and mounts) are a node's, to be entered with `nsenter`; `None` for other
/// hosts, whose mounts are those of the machine the lab is on.
#[must_use]
pub fn machine_of(lab: &Entry, host: &str) -> Option<i32> {
    fs::read_to_string(lab.dir.join(format!("{host}.pid"))).ok()?.parse().ok()
}

/// Brings a host's links up and gives them their addresses.
fn configure(name: &str, number: u8, namespace: &Namespace) -> Result<()> {
    let mut lines = "link set lo up\nlink set eth0 up\n".to_owned();
    for host in own_numbers(name, number) {
        lines.push_str(&lan_address_lines(host));
    }
    if switch::peer_port(name).is_some() {
        lines.push_str(&format!("link set peer0 up\naddress add 10.0.255.{number}/24 dev peer0\n"));
    }
    namespace.ip_batch(&lines)?;
    match name {
        // Thousands of connections a second leave the client's ports in TIME_WAIT.
        "client" => namespace.sysctl(&[("ipv4/ip_local_port_range", "1024 65535")]),
        // `lbd` hands packets to the other end of a veth without a queue at once, unlike to a network card: here one node has it like that.
        "b" => namespace.run("tc", &["qdisc", "add", "dev", "eth0", "root", "pfifo"]).map(drop),
        "gw" => namespace.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]),
        _ => Ok(()),
    }
}

fn own_numbers(name: &str, number: u8) -> std::ops::Range<u8> {
    let count = if name == "client" { CLIENT_ADDRESSES } else { 1 };
    number..number + count
}

fn lan_address_lines(host: u8) -> String {
    let (v4, v6) = (IpAddr::V4(addresses::v4(host)), IpAddr::V6(addresses::v6(host)));
    format!("address add {v4}/{LAN_PREFIX_V4} dev eth0\naddress add {v6}/{LAN_PREFIX_V6} dev eth0 nodad\n")
}

fn missing(name: &str) -> LabError {
    LabError::Unknown { kind: "namespace", name: name.to_owned(), known: "those just made".to_owned() }
}
