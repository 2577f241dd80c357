//! One host of the lab: a namespace with its cable into the switch, and what runs on it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::addresses::{self, LAN_PREFIX_V4, LAN_PREFIX_V6, Mac};
use super::clock::Window;
use super::error::{LabError, Result};
use super::netns::Namespace;
use super::process::{Daemon, tail};

/// How much of each log a failing test prints.
const TAIL_BYTES: u64 = 4096;

/// A host: a node, the client, a target, the watcher or the gateway.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    namespace: Mutex<Arc<Namespace>>,
    daemons: Mutex<BTreeMap<String, Daemon>>,
    logs: PathBuf,
}

/// What has passed an interface in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// With the frames' headers.
    pub bytes: u64,
    /// What the kernel handles as one packet is one, however many it is cut into later.
    pub packets: u64,
}

impl Host {
    pub(crate) fn new(name: &str, number: u8, namespace: Namespace, logs: &Path) -> Self {
        Self {
            name: name.to_owned(),
            number,
            namespace: Mutex::new(Arc::new(namespace)),
            daemons: Mutex::new(BTreeMap::new()),
            logs: logs.to_owned(),
        }
    }

    /// Its name: `a`, `b`, `client`, `t1`…, `watch`, `gw`. Its port on the switch is called the same.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address on the LAN.
    #[must_use]
    pub const fn v4(&self) -> Ipv4Addr {
        addresses::v4(self.number)
    }

    /// Its IPv6 address on the LAN.
    #[must_use]
    pub const fn v6(&self) -> Ipv6Addr {
        addresses::v6(self.number)
    }

    /// The MAC address of its `eth0`.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        addresses::mac(self.number)
    }

    /// Its namespace; another one after a power loss has been healed.
    #[must_use]
    pub fn namespace(&self) -> Arc<Namespace> {
        Arc::clone(&lock(&self.namespace))
    }

    /// Puts another namespace in the place of the one it had, which goes away with its last user.
    pub(crate) fn replace_namespace(&self, namespace: Namespace) {
        *lock(&self.namespace) = Arc::new(namespace);
    }

    /// A command that will run on this host, to be given arguments and passed to [`Host::start`].
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.namespace().command(program)
    }

    /// Runs a program to its end and returns what it printed.
    ///
    /// # Errors
    /// [`LabError::Command`] when it does not exit with 0.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.namespace().run(program, arguments)
    }

    /// Runs one `ip` command, written as one string.
    ///
    /// # Errors
    /// [`LabError::Command`] when it does not exit with 0.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.namespace().ip(arguments)
    }

    /// Starts a program in the background under a name of its own; its output goes to a log in the lab's directory,
    /// appended when it was started before. One of the same name that still runs is stopped first.
    ///
    /// # Errors
    /// [`LabError::Io`] when it cannot be started.
    pub fn start(&self, name: &str, command: Command) -> Result<Pid> {
        if self.running(name) {
            self.stop(name)?;
        }
        let daemon = Daemon::start(name, command, &self.log_path(name))?;
        let pid = daemon.pid();
        lock(&self.daemons).insert(name.to_owned(), daemon);
        Ok(pid)
    }

    /// Whether the program started under this name runs (a stopped one, by SIGSTOP, does).
    #[must_use]
    pub fn running(&self, name: &str) -> bool {
        lock(&self.daemons).get_mut(name).is_some_and(|daemon| daemon.ended().is_none())
    }

    /// Sends a signal to a program started here.
    ///
    /// # Errors
    /// [`LabError::Unknown`] when there is none of that name, [`LabError::Io`] when it has ended.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<Window> {
        self.with_daemon(name, |daemon| daemon.signal(signal))?
    }

    /// Waits for the end of a program started here.
    ///
    /// # Errors
    /// [`LabError::Unknown`] when there is none of that name, [`LabError::Timeout`] when it still runs.
    pub fn wait_end(&self, name: &str, limit: Duration) -> Result<ExitStatus> {
        self.with_daemon(name, |daemon| daemon.wait(limit))?
    }

    /// Ends a program started here: SIGTERM, after five seconds SIGKILL, and SIGKILL for what it leaves behind.
    ///
    /// # Errors
    /// [`LabError::Unknown`] when there is none of that name.
    pub fn stop(&self, name: &str) -> Result<ExitStatus> {
        let daemon = lock(&self.daemons).remove(name);
        daemon.ok_or_else(|| self.unknown_daemon(name))?.stop()
    }

    /// What a program started here has written so far.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        tail(&self.log_path(name), u64::MAX)
    }

    /// Where the output of a program started here goes.
    #[must_use]
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{}-{name}.log", self.name))
    }

    /// The addresses on `eth0` now, with their prefix lengths; link-local ones left out.
    ///
    /// # Errors
    /// [`LabError`] when `ip` fails or prints something unexpected.
    pub fn addresses(&self) -> Result<Vec<(IpAddr, u8)>> {
        let text = self.namespace().run("ip", &["-json", "address", "show", "dev", "eth0"])?;
        let unexpected = || LabError::Answer { asked: "ip -json address".to_owned(), answer: text.clone() };
        let links: serde_json::Value = serde_json::from_str(&text).map_err(|_| unexpected())?;
        let infos = links[0]["addr_info"].as_array().ok_or_else(unexpected)?;
        let mut found = Vec::new();
        for info in infos.iter().filter(|info| info["scope"] != "link") {
            let address = info["local"].as_str().and_then(|text| text.parse().ok()).ok_or_else(unexpected)?;
            let prefix = info["prefixlen"].as_u64().and_then(|bits| u8::try_from(bits).ok());
            found.push((address, prefix.ok_or_else(unexpected)?));
        }
        Ok(found)
    }

    /// Whether `eth0` has this address.
    ///
    /// # Errors
    /// [`LabError`] when `ip` fails.
    pub fn holds(&self, address: impl Into<IpAddr>) -> Result<bool> {
        let address = address.into();
        Ok(self.addresses()?.iter().any(|(held, _)| *held == address))
    }

    /// What `eth0` has received and sent so far.
    ///
    /// # Errors
    /// [`LabError`] when `ip` fails or prints something unexpected.
    pub fn passed(&self) -> Result<[Passed; 2]> {
        let text = self.run("ip", &["-json", "-stats", "link", "show", "dev", "eth0"])?;
        let unexpected =
            || LabError::Answer { asked: "ip -json -stats link".to_owned(), answer: text.clone() };
        let links: serde_json::Value = serde_json::from_str(&text).map_err(|_| unexpected())?;
        let of = |direction: &str| -> Result<Passed> {
            let count = |what: &str| links[0]["stats64"][direction][what].as_u64().ok_or_else(unexpected);
            Ok(Passed { bytes: count("bytes")?, packets: count("packets")? })
        };
        Ok([of("rx")?, of("tx")?])
    }

    /// Adds an address to `eth0` with the LAN's prefix length.
    ///
    /// # Errors
    /// [`LabError::Command`] when it is there already.
    pub fn add_address(&self, address: impl Into<IpAddr>) -> Result<Window> {
        let (prefix, flags) = match address.into() {
            address @ IpAddr::V4(_) => (format!("{address}/{LAN_PREFIX_V4}"), ""),
            address @ IpAddr::V6(_) => (format!("{address}/{LAN_PREFIX_V6}"), "nodad"),
        };
        Ok(Window::around(|| self.ip(&format!("address add {prefix} dev eth0 {flags}")))?.0)
    }

    /// Removes an address from `eth0`, whatever its prefix length is.
    ///
    /// # Errors
    /// [`LabError::Unknown`] when it is not there.
    pub fn remove_address(&self, address: impl Into<IpAddr>) -> Result<Window> {
        let address = address.into();
        let held = self.addresses()?;
        let Some((_, prefix)) = held.iter().find(|(held, _)| *held == address) else {
            let known = held.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(" ");
            return Err(LabError::Unknown { kind: "address", name: address.to_string(), known });
        };
        Ok(Window::around(|| self.ip(&format!("address delete {address}/{prefix} dev eth0")))?.0)
    }

    /// Forgets every program without waiting, after all have been killed from outside.
    pub(crate) fn forget_daemons(&self) {
        lock(&self.daemons).clear();
    }

    /// The ends of the logs, for a failing test's output.
    pub(crate) fn log_tails(&self) -> String {
        let mut text = String::new();
        for (name, daemon) in lock(&self.daemons).iter_mut() {
            let state = daemon.ended().map_or_else(|| "running".to_owned(), |status| status.to_string());
            let end = tail(daemon.log(), TAIL_BYTES);
            text.push_str(&format!("---- {} {name} ({state})\n{}\n", self.name, end.trim_end()));
        }
        text
    }

    fn with_daemon<T>(&self, name: &str, act: impl FnOnce(&mut Daemon) -> T) -> Result<T> {
        let mut daemons = lock(&self.daemons);
        match daemons.get_mut(name) {
            Some(daemon) => Ok(act(daemon)),
            None => {
                drop(daemons);
                Err(self.unknown_daemon(name))
            }
        }
    }

    fn unknown_daemon(&self, name: &str) -> LabError {
        let known = lock(&self.daemons).keys().cloned().collect::<Vec<_>>().join(" ");
        LabError::Unknown { kind: "program", name: name.to_owned(), known }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
