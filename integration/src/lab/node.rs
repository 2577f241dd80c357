//! A node of the pair: a host on which the daemons run.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;

use super::clock::wait_until;
use super::error::{Context, LabError, Result};
use super::host::Host;
use super::http::{self, Response};

/// How long an answer of a daemon's interface may take.
const API_LIMIT: Duration = Duration::from_secs(2);
/// How long a daemon may take until it serves its interface.
const START_LIMIT: Duration = Duration::from_secs(10);

/// One node.
#[derive(Debug)]
pub struct Node {
    host: Host,
    run_dir: PathBuf,
    config: PathBuf,
}

impl Node {
    pub(crate) fn new(host: Host, dir: &Path, config: &Path) -> Result<Self> {
        let run_dir = dir.join(format!("run-{}", host.name()));
        fs::create_dir_all(&run_dir).doing(|| format!("making {}", run_dir.display()))?;
        Ok(Self { host, run_dir, config: config.to_owned() })
    }

    /// Its `--run-dir`, where the daemons' sockets are.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The Unix socket of a daemon (`vrrpd` or `lbd`).
    #[must_use]
    pub fn socket(&self, daemon: &str) -> PathBuf {
        self.run_dir.join(format!("{daemon}.sock"))
    }

    /// Its end of the peer link.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        let number = self.host.v4().octets()[3];
        SocketAddr::from(([10, 0, 255, number], 7112))
    }

    /// Starts a daemon of ours (`vrrpd` or `lbd`) with the lab's configuration, without waiting for it.
    ///
    /// # Errors
    /// [`LabError::Unknown`] when it has not been built, [`LabError::Io`] when it cannot be started.
    pub fn spawn_daemon(&self, daemon: &str) -> Result<Pid> {
        self.spawn_build(daemon, &binary(daemon)?)
    }

    /// Starts another build of a daemon of ours, as [`Node::spawn_daemon`] does.
    fn spawn_build(&self, daemon: &str, program: &Path) -> Result<Pid> {
        let mut command = self.host.command(&program.to_string_lossy());
        command.arg("run").arg("--config").arg(&self.config).args(["--node", self.host.name()]);
        command.arg("--run-dir").arg(&self.run_dir);
        command.env("RUST_LOG", env::var("TANDEM_LAB_LOG").unwrap_or_else(|_| "debug".to_owned()));
        self.host.start(daemon, command)
    }

    /// Starts a daemon of ours and waits until it serves its interface.
    ///
    /// # Errors
    /// As [`Node::spawn_daemon`]; [`LabError::Timeout`] when it does not serve within ten seconds.
    pub fn start_daemon(&self, daemon: &str) -> Result<Pid> {
        self.start_build(daemon, &binary(daemon)?)
    }

    /// Starts another build of a daemon of ours and waits until it serves its interface.
    ///
    /// # Errors
    /// As [`Node::start_daemon`].
    pub fn start_build(&self, daemon: &str, program: &Path) -> Result<Pid> {
        let pid = self.spawn_build(daemon, program)?;
        let what = format!("{daemon} on {} to serve its socket", self.host.name());
        wait_until(&what, START_LIMIT, || {
            !self.host.running(daemon)
                || self.get(daemon, "/health/live").is_ok_and(|answer| answer.status == 200)
        })?;
        if self.host.running(daemon) {
            return Ok(pid);
        }
        let log = self.host.log(daemon);
        Err(LabError::Answer { asked: what, answer: format!("it ended: {}", log.trim_end()) })
    }

    /// Starts `vrrpd` and waits until it serves.
    ///
    /// # Errors
    /// As [`Node::start_daemon`].
    pub fn start_vrrpd(&self) -> Result<Pid> {
        self.start_daemon("vrrpd")
    }

    /// Starts `lbd` and waits until it serves.
    ///
    /// # Errors
    /// As [`Node::start_daemon`].
    pub fn start_lbd(&self) -> Result<Pid> {
        self.start_daemon("lbd")
    }

    /// Asks a daemon over its Unix socket.
    ///
    /// # Errors
    /// As [`http::unix`].
    pub fn get(&self, daemon: &str, path: &str) -> Result<Response> {
        http::unix(&self.socket(daemon), "GET", path, "", API_LIMIT)
    }

    /// Sends a daemon something that changes its state.
    ///
    /// # Errors
    /// As [`http::unix`].
    pub fn send(&self, daemon: &str, method: &str, path: &str, body: &str) -> Result<Response> {
        http::unix(&self.socket(daemon), method, path, body, API_LIMIT)
    }

    /// Asks a server from within the node's network, e.g. 127.0.0.1:9112.
    ///
    /// # Errors
    /// As [`http::tcp`].
    pub fn get_tcp(&self, server: SocketAddr, path: &str) -> Result<Response> {
        self.host.namespace().inside(|| http::tcp(server, "GET", path, "", API_LIMIT))?
    }

    /// The sum of a counter of `lbd` over all label sets that have this text.
    ///
    /// # Errors
    /// As [`http::unix`].
    pub fn counted(&self, metric: &str, labels: &str) -> Result<u64> {
        let text = self.get("lbd", "/metrics")?.body;
        let values = text.lines().filter(|line| line.starts_with(metric) && line.contains(labels));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// The role `vrrpd` reports for an instance; `None` when it does not answer or has no such instance.
    #[must_use]
    pub fn role(&self, instance: &str) -> Option<String> {
        let answer = self.get("vrrpd", &format!("/v1/role/{instance}")).ok()?;
        Some(answer.json().ok()?["role"].as_str()?.to_owned())
    }

    /// Waits until `vrrpd` reports this role.
    ///
    /// # Errors
    /// [`LabError::Timeout`] when it does not within `limit`.
    pub fn wait_role(&self, instance: &str, role: &str, limit: Duration) -> Result<()> {
        let what = format!("{} to be {role} for {instance}", self.host.name());
        wait_until(&what, limit, || self.role(instance).as_deref() == Some(role))
    }
}

impl Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// A program of this workspace: in `TANDEM_BIN_DIR` if that is set, else where cargo put this executable (or one
/// directory up, for a test).
///
/// # Errors
/// [`LabError::Unknown`] when it is in none of these.
pub fn binary(name: &str) -> Result<PathBuf> {
    let mut places: Vec<PathBuf> = env::var_os("TANDEM_BIN_DIR").map(PathBuf::from).into_iter().collect();
    if places.is_empty() {
        let own = env::current_exe().doing(|| "finding the directory of this program".to_owned())?;
        places.extend(own.ancestors().skip(1).take(2).map(Path::to_owned));
    }
    let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| LabError::Unknown {
        kind: "built program",
        name: name.to_owned(),
        known: places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" and ")
            + " searched",
    })
}
