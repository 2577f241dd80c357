//! The LAN switch and the peer link: two bridges in a namespace of their own, with ports that can be cut.
//!
//! The peer link is a bridge with two ports rather than one cable, so that it can be cut silently without touching a
//! node, and in the same transaction as the LAN port. To the nodes it looks like a cable.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::addresses::{self, mac_text};
use super::clock::{Window, wait_for};
use super::error::Result;
use super::netns::Namespace;

const CARRIER_LIMIT: Duration = Duration::from_secs(5);

/// While a port is blocked, everything that passes from one port to another goes through this chain. Otherwise there is none:
/// a switch costs the hosts nothing, and each look at a frame would be on their processors' account here.
const RULES: &str = "table bridge lab {
  set from { type ifname; }
  set to { type ifname; }
  chain pass {
    type filter hook forward priority 0; policy accept;
    iifname @from drop
    oifname @to drop
  }
}
";

/// Takes them away, whether they are there or not.
const NO_RULES: &str = "table bridge lab
delete table bridge lab
";

/// For the same reason frames are not shown to the hooks of IP either, where the kernel would do that.
const IP_HOOKS: [&str; 3] = ["iptables", "ip6tables", "arptables"];

/// Which frames of a port are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the host sends.
    FromHost,
    /// What is sent to the host.
    ToHost,
    /// Both.
    Both,
}

#[derive(Clone, Debug, Default)]
struct Blocked {
    from: BTreeSet<String>,
    to: BTreeSet<String>,
}

/// The switch.
#[derive(Debug)]
pub struct Switch {
    namespace: Namespace,
    blocked: Mutex<Blocked>,
}

impl Switch {
    pub(crate) fn new(namespace: Namespace) -> Result<Self> {
        let bridge = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
        namespace.ip_batch(&format!(
            "link add lan {bridge}\nlink add peers {bridge}\nlink set lo up\nlink set lan up\nlink set peers up\n"
        ))?;
        for hook in IP_HOOKS.map(|family| format!("bridge/bridge-nf-call-{family}")) {
            if Path::new("/proc/sys/net").join(&hook).exists() {
                namespace.sysctl(&[(&hook, "0")])?;
            }
        }
        Ok(Self { namespace, blocked: Mutex::default() })
    }

    /// Its namespace: `lan` carries the LAN's frames, `peers` the peer link's, and each host's port has its name
    /// (`a`, `client`, …; `a-peer`, `b-peer`… on the peer link).
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Plugs hosts in: name, number and namespace of each.
    pub(crate) fn plug<'a>(&self, hosts: impl Iterator<Item = (&'a str, u8, &'a Namespace)>) -> Result<()> {
        let mut lines = String::new();
        for (name, number, namespace) in hosts {
            cable(&mut lines, name, "eth0", &mac_text(addresses::mac(number)), namespace.name(), "lan");
            if let Some(peer_port) = peer_port(name) {
                let mac = format!("02:7d:00:00:01:{number:02x}");
                cable(&mut lines, &peer_port, "peer0", &mac, namespace.name(), "peers");
            }
        }
        self.namespace.ip_batch(&lines).map(drop)
    }

    /// Waits until every port that is up forwards. The kernel tells a bridge of a port's carrier from a queue that it
    /// works through at most once a second.
    pub(crate) fn wait_forwarding(&self) -> Result<()> {
        wait_for("the switch's ports to forward", CARRIER_LIMIT, || {
            match self.namespace.run("bridge", &["link", "show"]) {
                Ok(ports) => {
                    let mut up = ports.lines().filter(|line| line.contains(",UP"));
                    up.all(|line| line.contains("state forwarding") && line.contains("LOWER_UP"))
                        .then_some(Ok(()))
                }
                Err(error) => Some(Err(error)),
            }
        })?
    }

    /// Pulls a host's cables out of it, both ends.
    pub(crate) fn unplug(&self, name: &str) -> Result<()> {
        let peer = peer_port(name).map_or_else(String::new, |port| format!("link delete dev {port}\n"));
        self.namespace.ip_batch(&format!("link delete dev {name}\n{peer}")).map(drop)
    }

    /// Blocks or opens ports silently, all at once; carrier stays.
    pub(crate) fn block(&self, ports: &[&str], direction: Direction, blocked: bool) -> Result<Window> {
        let mut state = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = state.clone();
        for port in ports {
            for (set, here) in [
                (&mut wanted.from, direction != Direction::ToHost),
                (&mut wanted.to, direction != Direction::FromHost),
            ] {
                match (here, blocked) {
                    (true, true) => drop(set.insert((*port).to_owned())),
                    (true, false) => drop(set.remove(*port)),
                    (false, _) => {}
                }
            }
        }
        let text = wanted.transaction();
        let (window, _) = Window::around(|| self.namespace.run_with("nft", &["-f", "-"], &text))?;
        *state = wanted;
        Ok(window)
    }

    /// Sets the switch's side of ports up or down: the hosts see their carrier come or go.
    pub(crate) fn carrier(&self, ports: &[&str], up: bool) -> Result<Window> {
        let state = if up { "up" } else { "down" };
        let lines: String = ports.iter().map(|port| format!("link set dev {port} {state}\n")).collect();
        Ok(Window::around(|| self.namespace.ip_batch(&lines))?.0)
    }

    /// Opens every port and gives each its carrier back.
    pub(crate) fn restore(&self) -> Result<Window> {
        let mut state = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        let (window, _) = Window::around(|| {
            self.namespace.run_with("nft", &["-f", "-"], &Blocked::default().transaction())?;
            let ports = self.namespace.run("ip", &["-oneline", "link", "show", "type", "veth"])?;
            let names = ports.lines().filter_map(|line| line.split([' ', '@']).nth(1));
            let lines: String = names.map(|port| format!("link set dev {port} up\n")).collect();
            self.namespace.ip_batch(&lines)
        })?;
        *state = Blocked::default();
        Ok(window)
    }
}

impl Blocked {
    /// The text that makes the kernel's rules these, in one transaction.
    fn transaction(&self) -> String {
        let mut text = NO_RULES.to_owned();
        if self.from.is_empty() && self.to.is_empty() {
            return text;
        }
        text.push_str(RULES);
        for (set, ports) in [("from", &self.from), ("to", &self.to)] {
            if !ports.is_empty() {
                let names: Vec<String> = ports.iter().map(|port| format!("\"{port}\"")).collect();
                writeln!(text, "add element bridge lab {set} {{ {} }}", names.join(", ")).ok();
            }
        }
        text
    }
}

/// The peer link's port of a node; other hosts have none.
pub(crate) fn peer_port(host: &str) -> Option<String> {
    ["a", "b", "c", "d"].contains(&host).then(|| format!("{host}-peer"))
}

fn cable(lines: &mut String, port: &str, device: &str, mac: &str, namespace: &str, bridge: &str) {
    let peer = format!("peer name {device} address {mac} netns {namespace}");
    // Writing to a string cannot fail.
    write!(lines, "link add name {port} type veth {peer}\nlink set dev {port} master {bridge} up\n").ok();
}
