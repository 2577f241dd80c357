//! nftables and conntrackd on a node, beside keepalived: the way in which pairs of Linux routers keep connections.
//!
//! - nftables spreads new connections over the targets (DNAT), and has their packets come from the VIP. Masquerading would take the
//!   node's own address, to which the answers then went on going after a failover; with the VIP as the source they come to whoever
//!   has it.
//! - conntrackd synchronises TCP over the peer link in its reliable mode (FTFW), with the buffers of the example that comes with it,
//!   and an external cache. keepalived's notify scripts do what the script does that comes with it: on becoming active the cache is
//!   committed to the kernel, both caches are flushed, and the kernel's table is read and sent; on becoming backup the kernel's table
//!   is flushed after a while, and the other's is asked for.
//! - As its manual asks: nothing is picked up in the middle (`nf_conntrack_tcp_loose`), and what belongs to no connection is dropped
//!   instead of being refused, so that nothing is reset before the cache has been committed.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::lasting::Mode;
use super::pair::Pair;
use super::rival::write;
use super::wait;
use crate::lab::addresses::vip4;
use crate::lab::error::Context;
use crate::lab::{Node, Result, Target};

const START_LIMIT: Duration = Duration::from_secs(10);
/// What its example has, and twice as many cached entries as connections here.
const HASH_BUCKETS: u32 = 32_768;
const ENTRIES_MAX: u32 = 131_072;
const SOCKET_BYTES: u32 = 1_249_280;

/// Sets a node up, and returns what keepalived's instance needs for it.
pub(super) fn start(pair: &Pair, node: &Node) -> Result<String> {
    node.namespace().sysctl(&[
        ("ipv4/ip_forward", "1"),
        // Client and targets are on the same link, and must not be told so.
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/eth0/send_redirects", "0"),
        ("netfilter/nf_conntrack_tcp_loose", "0"),
        ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
    ])?;
    node.namespace().run_with("nft", &["-f", "-"], &rules(pair))?;
    let file = file(node);
    write(&file, &config(pair, node))?;
    // A boot empties /run; the lab's does not.
    for left in [socket(node), lock(node)] {
        if left.exists() {
            fs::remove_file(&left).doing(|| format!("removing {}", left.display()))?;
        }
    }
    let mut command = node.command("conntrackd");
    command.arg("-C").arg(&file);
    node.start("conntrackd", command)?;
    let what = format!("conntrackd on {} to answer", node.name());
    wait(&what, START_LIMIT, || ask(node, "-s").is_ok())?;

    let script = node.run_dir().join("conntrackd-role");
    write(&script, &role_script(node))?;
    let executable = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&script, executable).doing(|| format!("making {} a program", script.display()))?;
    let script = script.display();
    Ok(format!(
        "  notify_master \"{script} active\"\n  notify_backup \"{script} backup\"\n  notify_fault \"{script} fault\"\n"
    ))
}

/// How many connections of the other node it has in its external cache.
///
/// # Errors
/// [`crate::lab::LabError`] when it does not answer as expected.
pub(crate) fn cached(node: &Node) -> Result<u64> {
    let text = ask(node, "-s")?;
    // "cache external:", and in the next line "current active connections:            0".
    let external = text.split("cache external:").nth(1).unwrap_or_default();
    let count = external.lines().find_map(|line| {
        line.trim().strip_prefix("current active connections:").and_then(|count| count.trim().parse().ok())
    });
    count.ok_or(crate::lab::LabError::Answer { asked: "conntrackd -s".to_owned(), answer: text })
}

/// conntrackd's version, as it says it; nothing when it is not installed.
#[must_use]
pub fn version() -> Option<String> {
    let output = Command::new("conntrackd").arg("-v").output().ok()?;
    // "Connection tracking userspace daemon v1.4.7. Licensed under GPLv2."
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = text.split_whitespace().find(|word| word.starts_with('v') && word.contains('.'))?;
    Some(word.trim_start_matches('v').trim_end_matches('.').to_owned())
}

fn ask(node: &Node, what: &str) -> Result<String> {
    node.run("conntrackd", &["-C", &file(node).to_string_lossy(), what])
}

fn file(node: &Node) -> PathBuf {
    node.run_dir().join("conntrackd.conf")
}

fn socket(node: &Node) -> PathBuf {
    node.run_dir().join("conntrackd.ctl")
}

fn lock(node: &Node) -> PathBuf {
    node.run_dir().join("conntrackd.lock")
}

fn rules(pair: &Pair) -> String {
    let vip = vip4(0);
    let mut spread = String::new();
    type Address = fn(&Target) -> SocketAddr;
    let services: [(SocketAddr, Address); 2] = [
        (Mode::Nat.echo_server(), |target| target.echo_address()),
        (Mode::Nat.http_server(), |target| target.http_address()),
    ];
    for (server, address) in services {
        let targets: Vec<SocketAddr> = Mode::Nat.targets(pair.lab()).iter().map(address).collect();
        let numbered: Vec<String> =
            targets.iter().enumerate().map(|(number, to)| format!("{number} : {}", to.ip())).collect();
        let to_port = targets.first().map_or(0, SocketAddr::port);
        // Writing to a string cannot fail.
        writeln!(
            spread,
            "    ip daddr {vip} tcp dport {} dnat to numgen inc mod {} map {{ {} }} : {to_port}",
            server.port(),
            targets.len(),
            numbered.join(", ")
        )
        .ok();
    }
    format!(
        "table ip balance {{
  chain known {{
    type filter hook prerouting priority mangle;
    ip daddr {vip} ct state invalid drop
  }}
  chain before {{
    type nat hook prerouting priority dstnat;
{spread}  }}
  chain after {{
    type nat hook postrouting priority srcnat;
    ct status dnat snat to {vip}
  }}
}}
"
    )
}

fn config(pair: &Pair, node: &Node) -> String {
    let (own, other) = (node.peer_address().ip(), pair.lab().peer_of(node).peer_address().ip());
    let (socket, lock) = (socket(node), lock(node));
    format!(
        "Sync {{
  Mode FTFW {{
  }}
  UDP {{
    IPv4_address {own}
    IPv4_Destination_Address {other}
    Port 3780
    Interface peer0
    SndSocketBuffer {SOCKET_BYTES}
    RcvSocketBuffer {SOCKET_BYTES}
    Checksum on
  }}
}}
General {{
  HashSize {HASH_BUCKETS}
  HashLimit {ENTRIES_MAX}
  LogFile off
  Syslog off
  LockFile {lock}
  UNIX {{
    Path {socket}
  }}
  NetlinkBufferSize 2097152
  NetlinkBufferSizeMaxGrowth 8388608
  Filter From Userspace {{
    Protocol Accept {{
      TCP
    }}
    Address Ignore {{
      IPv4_address 127.0.0.1
      IPv4_address {lan}
      IPv4_address {own}
    }}
  }}
}}
",
        lock = lock.display(),
        socket = socket.display(),
        lan = node.v4(),
    )
}

/// What keepalived runs when the node's role changes.
fn role_script(node: &Node) -> String {
    let file = file(node);
    format!(
        "#!/bin/sh
order() {{
  for what in \"$@\"; do conntrackd -C {file} \"$what\" || echo \"conntrackd $what: $?\" >&2; done
}}
case $1 in
active) order -c -f -R -B ;;
backup) order -t -n ;;
fault) order -t ;;
esac
",
        file = file.display()
    )
}
