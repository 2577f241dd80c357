//! A network in which there is nothing but the way to clients.

use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

/// Clients are neighbours, or behind one of them: then the kernel has an answer when the program asks for the way.
const COMMANDS: &str = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    ip link set lo up
    ip link add v0 type veth peer name v1
    ip link set v0 up
    ip link set v1 up
    ip address add 198.51.100.1/24 dev v0
    ip -6 address add 2001:db8:5::1/64 dev v0 nodad
    ip neighbour add 198.51.100.7 lladdr 02:00:00:00:05:07 dev v0 nud permanent
    ip neighbour add 2001:db8:5::7 lladdr 02:00:00:00:05:07 dev v0 nud permanent
    ip route add 10.0.0.0/12 via 198.51.100.7";

/// Does something in such a network of its own. Needs root.
///
/// # Errors
/// If the network cannot be made.
///
/// # Panics
/// When what is done does.
pub fn with_clients<T: Send>(inside: impl FnOnce() -> T + Send) -> Result<T> {
    let outcome = thread::scope(|scope| {
        let made = move || -> Result<T> {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network of its own (needs root)")?;
            for line in COMMANDS.lines() {
                let (program, arguments) =
                    line.trim().split_once(' ').context("a command without arguments")?;
                let status = Command::new(program).args(arguments.split(' ')).status();
                let status = status.with_context(|| format!("running {program}"))?;
                ensure!(status.success(), "{} failed", line.trim());
            }
            Ok(inside())
        };
        scope.spawn(made).join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
