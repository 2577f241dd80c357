//! keepalived with HAProxy, or with nftables and conntrackd, as the pair's software, set up the way their manuals and most
//! operators do.
//!
//! - VRRP version 3, the same VRID, priorities and interval; both nodes start as BACKUP.
//! - HAProxy in TCP mode, round robin to the same targets, without checks, as our side has none either.
//! - Where HAProxy's death is the event, keepalived connects to its port every second (the example of keepalived's own
//!   manual), and one failed check puts the node into FAULT, which hands over with priority 0: the quickest
//!   reaction that its configuration allows at that rate.
//! - The planned move lowers the active node's priority below the other's by a tracked file, which needs no restart and
//!   keeps the old node forwarding until the new one has taken over: gentler than stopping keepalived.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lasting::Mode;
use super::pair::{Pair, System};
use super::{INSTANCE, PORT, conntrackd, wait};
use crate::lab::addresses::{LAN_PREFIX_V4, LAN_PREFIX_V6};
use crate::lab::clock::Window;
use crate::lab::reference::{Haproxy, HaproxyService};
use crate::lab::{LabError, Node, Result};

/// How much a node in maintenance loses: `a` with its 200 is then below `b` with its 100.
const MAINTENANCE_COST: u8 = 150;
/// The process ids of keepalived's parent process and of the one that speaks VRRP.
const PID_FILES: [&str; 2] = ["keepalived.pid", "keepalived-vrrp.pid"];
const START_LIMIT: Duration = Duration::from_secs(10);

/// Starts what forwards on a node, and then keepalived.
pub(super) fn start(pair: &Pair, node: &Node) -> Result<()> {
    let dir = node.run_dir();
    let notify = match pair.settings().system {
        System::Conntrackd => conntrackd::start(pair, node)?,
        System::Tandem | System::Rival => {
            start_haproxy(pair, node)?;
            String::new()
        }
    };
    write(&maintenance_file(node), "0\n")?;
    // A boot empties /run, where keepalived has its process ids: it takes a number that is in use again for itself.
    for file in PID_FILES {
        let path = dir.join(file);
        if path.exists() {
            let doing = |source| LabError::Io { doing: format!("removing {}", path.display()), source };
            fs::remove_file(&path).map_err(doing)?;
        }
    }
    let file = dir.join("keepalived.conf");
    write(&file, &config(pair, node, &notify))?;
    let mut command = node.command("keepalived");
    command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"]).arg(&file);
    command.arg("--pid").arg(dir.join(PID_FILES[0]));
    command.arg("--vrrp_pid").arg(dir.join(PID_FILES[1]));
    node.start("keepalived", command).map(drop)
}

fn start_haproxy(pair: &Pair, node: &Node) -> Result<()> {
    let service = |port, targets| HaproxyService { mode: "tcp".to_owned(), port, targets };
    let mut services = vec![service(PORT, pair.target_addresses())];
    if pair.settings().lasting {
        let targets = Mode::Tcp.targets(pair.lab()).iter().map(|target| target.echo_address());
        services.push(service(Mode::Tcp.echo_server().port(), targets.collect()));
    }
    Haproxy { services }.start(node)?;
    let own = SocketAddr::from(([127, 0, 0, 1], PORT));
    wait(&format!("haproxy on {} to listen", node.name()), START_LIMIT, || {
        let connected = node.namespace().inside(|| TcpStream::connect(own).is_ok());
        connected.unwrap_or(false)
    })
}

/// `notify`: further lines of the instance.
fn config(pair: &Pair, node: &Node, notify: &str) -> String {
    let settings = pair.settings();
    let priority = if node.name() == "a" { 200 } else { 100 };
    let interval = settings.advert_interval.as_secs_f64();
    let mut addresses = String::new();
    for vip in &settings.vips {
        // Writing to a string cannot fail.
        match vip.is_ipv4() {
            true => writeln!(addresses, "    {vip}/{LAN_PREFIX_V4} dev eth0").ok(),
            false => writeln!(addresses, "    {vip}/{LAN_PREFIX_V6} dev eth0 nodad").ok(),
        };
    }
    let nopreempt = if settings.preempt { "" } else { "  nopreempt\n" };
    let (script, track) = if settings.rival_tracks {
        let script = format!(
            "vrrp_script balancer {{
  script \"/bin/bash -c '</dev/tcp/127.0.0.1/{PORT}'\"
  interval 1
  fall 1
  rise 1
}}
"
        );
        (script, "  track_script {\n    balancer\n  }\n")
    } else {
        (String::new(), "")
    };
    let file = maintenance_file(node);
    format!(
        "global_defs {{
  router_id {node_name}
  vrrp_version 3
  script_user root
}}
track_file maintenance {{
  file {file}
}}
{script}vrrp_instance {INSTANCE} {{
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority {priority}
  advert_int {interval}
{nopreempt}{track}{notify}  track_file {{
    maintenance weight -1
  }}
  virtual_ipaddress {{
{addresses}  }}
}}
",
        node_name = node.name(),
        file = file.display(),
    )
}

/// Gives a node that was retired its priority back: with `preempt` it takes over again when it has the higher one.
pub(super) fn employ(node: &Node) -> Result<Window> {
    let file = maintenance_file(node);
    Ok(Window::around(|| write(&file, "0\n"))?.0)
}

/// Lowers a node's priority below the other's, which the other then answers by taking over.
pub(super) fn retire(node: &Node) -> Result<Window> {
    let file = maintenance_file(node);
    Ok(Window::around(|| write(&file, &format!("{MAINTENANCE_COST}\n")))?.0)
}

/// Signals both of keepalived's processes at once, the one that speaks VRRP and its parent.
///
/// SIGKILL comes after SIGSTOP and to the child first: a parent that runs starts the child anew, and the end of a parent
/// tells the child to stop cleanly (and makes a stopped one go on).
pub(super) fn signal_all(node: &Node, signal: Signal) -> Result<Window> {
    let (parent, child) = (pid_in(node, PID_FILES[0])?, pid_in(node, PID_FILES[1])?);
    let doing = |source: Errno| LabError::Io {
        doing: format!("sending {signal} to keepalived on {}", node.name()),
        source: source.into(),
    };
    let send = || {
        if signal == Signal::SIGKILL {
            kill(parent, Signal::SIGSTOP)?;
            kill(child, Signal::SIGKILL)?;
        } else {
            kill(child, signal)?;
        }
        kill(parent, signal)
    };
    Ok(Window::around(|| send().map_err(doing))?.0)
}

fn pid_in(node: &Node, file: &str) -> Result<Pid> {
    let path = node.run_dir().join(file);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let pid = text.trim().parse().ok().filter(|pid| *pid > 1);
    let unknown =
        || LabError::Answer { asked: format!("the process id in {}", path.display()), answer: text };
    pid.map(Pid::from_raw).ok_or_else(unknown)
}

fn maintenance_file(node: &Node) -> PathBuf {
    node.run_dir().join("maintenance")
}

pub(super) fn write(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text)
        .map_err(|source| LabError::Io { doing: format!("writing {}", path.display()), source })
}

/// keepalived's version, as it says it; nothing when it is not installed.
#[must_use]
pub fn vrrp_version() -> Option<String> {
    let output = Command::new("keepalived").arg("--version").output().ok()?;
    // "Keepalived v2.2.7 (01/16,2022)", on standard error.
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(text.split_whitespace().nth(1)?.trim_start_matches('v').to_owned())
}

/// HAProxy's version, as it says it; nothing when it is not installed.
#[must_use]
pub fn balancer_version() -> Option<String> {
    let output = Command::new("haproxy").arg("-v").output().ok()?;
    // "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.split_whitespace().nth(2)?.to_owned())
}
