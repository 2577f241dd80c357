//! The programs that are compared, set up alike and as their manuals say for speed: one thread, no log, splice where there is
//! one, queues as deep as the kernel allows.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::network::{Network, PROXY};
use super::running::Running;
use crate::lab::error::Context;
use crate::lab::{Result, binary};

/// Connections each of them has room for.
const CONNECTIONS_MAX: u32 = 8_000;
/// Where Debian has nginx's module.
pub(crate) const NGINX_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proxy {
    /// `lbd`, with one worker.
    Lbd,
    /// HAProxy in TCP mode, with one thread and automatic splicing.
    Haproxy,
    /// nginx's stream module, with one worker process.
    Nginx,
}

impl Proxy {
    /// All of them, ours first.
    pub const ALL: [Self; 3] = [Self::Lbd, Self::Haproxy, Self::Nginx];

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lbd => "Tandem",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }

    /// Its version; `None` when it, or a part that is needed, is not installed.
    #[must_use]
    pub fn version(self) -> Option<String> {
        let run = |program: &str, argument: &str| {
            let output = Command::new(program).arg(argument).output().ok()?;
            let text = [output.stdout, output.stderr]
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .concat();
            let line = text.lines().next()?;
            let version =
                line.split([' ', '/', '-']).find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
            Some(version.to_owned())
        };
        match self {
            Self::Lbd => run(&binary("lbd").ok()?.to_string_lossy(), "--version"),
            Self::Haproxy => run("haproxy", "-v"),
            Self::Nginx => fs::exists(NGINX_MODULE).ok()?.then(|| run("nginx", "-v"))?,
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Lbd => 8001,
            Self::Haproxy => 8002,
            Self::Nginx => 8003,
        }
    }

    /// Where it listens.
    pub(super) fn address(self) -> SocketAddr {
        (PROXY, self.port()).into()
    }

    fn program(self) -> Result<PathBuf> {
        match self {
            Self::Lbd => binary("lbd"),
            Self::Haproxy => Ok("haproxy".into()),
            Self::Nginx => Ok("nginx".into()),
        }
    }

    fn config(self, dir: &str) -> String {
        let (listen, target) = (self.address(), Network::target_address());
        match self {
            Self::Lbd => format!(
                "[[service]]\nname = \"bench\"\nmode = \"tcp\"\nlisten = [\"{listen}\"]\nforward = \"bench\"\n\
                 limits = {{ max_connections = {CONNECTIONS_MAX} }}\n\
                 [[target_group]]\nname = \"bench\"\ntargets = [{{ id = \"t\", address = \"{target}\" }}]\n"
            ),
            Self::Haproxy => format!(
                "global\n  maxconn {CONNECTIONS_MAX}\n  nbthread 1\n  maxpipes 500\n  tune.pipesize 1048576\n\
                 defaults\n  mode tcp\n  option tcp-smart-accept\n  option tcp-smart-connect\n  \
                 timeout connect 5s\n  timeout client 350s\n  timeout server 350s\n\
                 listen bench\n  bind {listen} backlog 16384\n  option splice-auto\n  server t {target}\n\
                 listen bulk\n  bind {bulk} backlog 16384\n  option splice-request\n  option splice-response\n  \
                 server t {target}\n",
                bulk = self.bulk_address(),
            ),
            Self::Nginx => format!(
                "load_module {NGINX_MODULE};\ndaemon off;\nuser root;\npid {dir}/nginx.pid;\n\
                 error_log stderr crit;\nworker_processes 1;\nworker_rlimit_nofile 20000;\n\
                 events {{ use epoll; worker_connections {}; multi_accept on; }}\n\
                 stream {{\n  access_log off;\n  tcp_nodelay on;\n  proxy_connect_timeout 5s;\n  proxy_timeout 350s;\n  \
                 server {{ listen {listen} backlog=16384; proxy_pass {target}; }}\n  \
                 server {{ listen {bulk} backlog=16384; proxy_pass {target}; proxy_buffer_size 64k; }}\n}}\n",
                2 * CONNECTIONS_MAX,
                bulk = self.bulk_address(),
            ),
        }
    }

    /// Where it listens for bulk transfers. Who knows that bulk comes sets the others up for it: HAProxy to splice always,
    /// because its own judgement (`splice-auto`) finds only part of it, and nginx with larger buffers.
    pub(super) fn bulk_address(self) -> SocketAddr {
        match self {
            Self::Lbd => self.address(),
            Self::Haproxy | Self::Nginx => (PROXY, self.port() + 1000).into(),
        }
    }

    /// Starts it on its host and this processor, and waits until it listens.
    pub(super) fn start(self, network: &Network, processor: usize) -> Result<Running<Self>> {
        self.launch(network, processor, self.address(), |dir| self.config(dir))
    }

    /// The same with another configuration, which is told its folder, and waits until it listens on `address`.
    pub(crate) fn launch(
        self,
        network: &Network,
        processor: usize,
        address: SocketAddr,
        config: impl FnOnce(&str) -> String,
    ) -> Result<Running<Self>> {
        let dir = network.dir().join(self.name());
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        let file = dir.join("config");
        let text = config(&dir.to_string_lossy());
        fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
        let mut command = network.proxy.command("taskset");
        command.args(["-c", &processor.to_string()]).arg(self.program()?);
        match self {
            Self::Lbd => {
                command
                    .arg("run")
                    .arg("--config")
                    .arg(&file)
                    .arg("--run-dir")
                    .arg(&dir)
                    .args(["--workers", "1"]);
                command.env("RUST_LOG", "warn");
            }
            Self::Haproxy => drop(command.arg("-db").arg("-f").arg(&file)),
            Self::Nginx => drop(command.arg("-p").arg(&dir).arg("-c").arg(&file)),
        }
        let listening = || network.client.inside(|| std::net::TcpStream::connect(address).is_ok());
        // nginx listens before it has a process that serves.
        let processes = if self == Self::Nginx { 2 } else { 1 };
        Running::start(self, self.name(), command, &dir.join("log"), |pids| {
            pids.len() == processes && listening().unwrap_or(false)
        })
    }
}

/// All versions in one line.
#[must_use]
pub fn versions() -> String {
    let mut text = String::new();
    for proxy in Proxy::ALL {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        write!(text, "{comma}{} {}", proxy.name(), proxy.version().as_deref().unwrap_or("(not installed)"))
            .ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each leaves out a packet of a short connection: one that HAProxy sends is one that it is charged for.
    #[test]
    fn haproxy_leaves_out_the_acknowledgements_it_can() {
        let config = Proxy::Haproxy.config("");
        let (_, defaults) = config.split_once("defaults\n").unwrap();
        let (defaults, _) = defaults.split_once("listen ").unwrap();
        for option in ["option tcp-smart-accept", "option tcp-smart-connect"] {
            assert!(defaults.lines().any(|line| line.trim() == option), "{option}: {config}");
        }
    }
}
