//! keepalived as the other node.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;

use integration::lab::addresses::{LAN_PREFIX_V4, LAN_PREFIX_V6};
use integration::lab::{LabError, Node, Result};

/// How keepalived is set up: one instance of VRID 51 on `eth0` for each family that has VIPs, as it cannot mix them.
#[derive(Clone, Debug)]
pub(crate) struct Keepalived {
    /// 2 or 3.
    pub(crate) version: u8,
    pub(crate) priority: u8,
    /// In the order in which they are advertised.
    pub(crate) vips: Vec<IpAddr>,
    pub(crate) advert_interval_ms: u32,
    /// Its own addresses and the other node's, one of each family, to send to those alone; empty for multicast.
    pub(crate) unicast_from: Vec<IpAddr>,
    pub(crate) unicast_to: Vec<IpAddr>,
    /// Further lines of every instance.
    pub(crate) extra: String,
    /// Further lines of `global_defs`.
    pub(crate) global: String,
}

/// What keepalived calls its processes' files.
const PID_FILES: [&str; 2] = ["keepalived.pid", "keepalived-vrrp.pid"];

impl Keepalived {
    /// Starts it as the program `keepalived`.
    pub(crate) fn start(&self, node: &Node) -> Result<()> {
        start_with(node, &self.config(node.name()))
    }

    fn config(&self, node: &str) -> String {
        // In real time, as vrrpd is, so that a busy machine does not keep it from giving an address up.
        let mut text = format!(
            "global_defs {{\n  router_id {node}\n  vrrp_version {}\n  vrrp_rt_priority 40\n  vrrp_rlimit_rttime 1000000\n{}}}\n",
            self.version, self.global
        );
        for (name, v4) in [("web4", true), ("web6", false)] {
            if self.vips.iter().any(|vip| vip.is_ipv4() == v4) {
                self.instance(&mut text, name, v4);
            }
        }
        text
    }

    fn instance(&self, text: &mut String, name: &str, v4: bool) {
        let (priority, extra) = (self.priority, &self.extra);
        let interval = f64::from(self.advert_interval_ms) / 1000.0;
        let prefix = if v4 { LAN_PREFIX_V4 } else { LAN_PREFIX_V6 };
        let of_family = |ip: &&IpAddr| ip.is_ipv4() == v4;
        let mut addresses = String::new();
        for vip in self.vips.iter().filter(of_family) {
            // Writing to a string cannot fail.
            writeln!(addresses, "    {vip}/{prefix} dev eth0").ok();
        }
        let mut unicast = String::new();
        for from in self.unicast_from.iter().filter(of_family) {
            writeln!(unicast, "  unicast_src_ip {from}").ok();
        }
        for to in self.unicast_to.iter().filter(of_family) {
            // Without being told so it sends IPv6 with the kernel's hop limit, 64, which no VRRP router may accept.
            write!(unicast, "  unicast_ttl 255\n  unicast_peer {{\n    {to}\n  }}\n").ok();
        }
        let block = format!(
            "vrrp_instance {name} {{
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority {priority}
  advert_int {interval}
{unicast}{extra}  virtual_ipaddress {{
{addresses}  }}
}}
"
        );
        text.push_str(&block);
    }
}

/// Starts keepalived with this configuration, as the program `keepalived`.
pub(crate) fn start_with(node: &Node, config: &str) -> Result<()> {
    let dir = node.run_dir();
    // A node that lost its power left them behind, and their numbers may be other processes' by now.
    for name in PID_FILES {
        match fs::remove_file(dir.join(name)) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(LabError::Io { doing: format!("removing {name}"), source });
            }
            _ => {}
        }
    }
    let file = dir.join("keepalived.conf");
    let doing = || format!("writing {}", file.display());
    fs::write(&file, config).map_err(|source| LabError::Io { doing: doing(), source })?;
    let mut command = node.command("keepalived");
    command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"]).arg(&file);
    command.arg("--pid").arg(dir.join(PID_FILES[0])).arg("--vrrp_pid").arg(dir.join(PID_FILES[1]));
    node.start("keepalived", command).map(drop)
}

/// The lines in which keepalived complains of what it received. Its log has one line for each event otherwise.
pub(crate) fn complaints(log: &str) -> Vec<&str> {
    const SIGNS: [&str; 12] = [
        "invalid",
        "Invalid",
        "checksum",
        "mismatch",
        "not present",
        "bogus",
        "Bogus",
        "bad ",
        "too short",
        "does not match",
        "expected",
        "TTL",
    ];
    log.lines().filter(|line| SIGNS.iter().any(|sign| line.contains(sign))).collect()
}
