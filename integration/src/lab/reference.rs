//! Other software in the daemons' place: to check the lab itself with, and to compare with.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::Node;
use super::addresses::LAN_PREFIX_V4;
use super::error::{Context, Result};

/// How `keepalived` is set up on a node: one instance of VRRP version 3, VRID 51.
#[derive(Clone, Debug)]
pub struct Keepalived {
    /// Its priority.
    pub priority: u8,
    /// Its VIPs; the first IPv4 one is the one it advertises, those of IPv6 go with it.
    pub vips: Vec<IpAddr>,
    /// The advert interval in milliseconds.
    pub advert_interval_ms: u32,
    /// Further lines of the instance's block.
    pub extra: String,
}

impl Keepalived {
    /// Starts it on a node, as the program `keepalived`.
    ///
    /// # Errors
    /// [`super::LabError::Io`] when it cannot be started.
    pub fn start(&self, node: &Node) -> Result<()> {
        let dir = node.run_dir();
        let file = dir.join("keepalived.conf");
        fs::write(&file, self.config(node.name())).doing(|| format!("writing {}", file.display()))?;
        let mut command = node.command("keepalived");
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"]).arg(&file);
        command.arg("--pid").arg(dir.join("keepalived.pid"));
        command.arg("--vrrp_pid").arg(dir.join("keepalived-vrrp.pid"));
        node.start("keepalived", command).map(drop)
    }

    fn config(&self, node: &str) -> String {
        let mut first = String::new();
        let mut rest = String::new();
        for vip in &self.vips {
            // Writing to a string cannot fail.
            match vip {
                IpAddr::V4(vip) => writeln!(first, "    {vip}/{LAN_PREFIX_V4} dev eth0").ok(),
                IpAddr::V6(vip) => writeln!(rest, "    {vip}/64 dev eth0 nodad").ok(),
            };
        }
        let (priority, interval, extra) =
            (self.priority, f64::from(self.advert_interval_ms) / 1000.0, &self.extra);
        let excluded = if rest.is_empty() {
            String::new()
        } else {
            format!("  virtual_ipaddress_excluded {{\n{rest}  }}\n")
        };
        format!(
            "global_defs {{
  router_id {node}
  vrrp_version 3
}}
vrrp_instance web {{
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority {priority}
  advert_int {interval}
{extra}
  virtual_ipaddress {{
{first}  }}
{excluded}}}
"
        )
    }
}

/// How `haproxy` is set up on a node.
#[derive(Clone, Debug, Default)]
pub struct Haproxy {
    /// The frontends.
    pub services: Vec<HaproxyService>,
}

/// One frontend with its backend.
#[derive(Clone, Debug)]
pub struct HaproxyService {
    /// `http` or `tcp`.
    pub mode: String,
    /// The port it listens on, on every address.
    pub port: u16,
    /// Where it forwards to, in turn.
    pub targets: Vec<SocketAddr>,
}

impl Haproxy {
    /// Starts it on a node, as the program `haproxy`.
    ///
    /// # Errors
    /// [`super::LabError::Io`] when it cannot be started.
    pub fn start(&self, node: &Node) -> Result<()> {
        let file = node.run_dir().join("haproxy.cfg");
        fs::write(&file, self.config()).doing(|| format!("writing {}", file.display()))?;
        let mut command = node.command("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        node.start("haproxy", command).map(drop)
    }

    fn config(&self) -> String {
        let mut text = "global
  maxconn 8000
  log stderr local0 notice
defaults
  log global
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  timeout http-request 5s
"
        .to_owned();
        for (index, HaproxyService { mode, port, targets }) in self.services.iter().enumerate() {
            // Writing to a string cannot fail.
            write!(text, "listen s{index}\n  mode {mode}\n  bind :::{port} v4v6\n  balance roundrobin\n")
                .ok();
            for (number, target) in targets.iter().enumerate() {
                writeln!(text, "  server t{} {target}", number + 1).ok();
            }
        }
        text
    }
}
