//! The programs that are compared: one thread, no log.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::bench_tcp;
use crate::bench_tcp::network::{Network, PROXY};
use crate::bench_tcp::proxy::NGINX_MODULE;
use crate::bench_tcp::running::Running;
use crate::lab::error::Context;
use crate::lab::{Result, binary};

/// Sessions each of them has room for.
const SESSIONS_MAX: u32 = 18_000;

/// How soon a silent session ends, so that those of the load of sessions make room for the next ones.
const IDLE: &str = "1s";

/// A program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// `lbd`, with one worker.
    Lbd,
    /// nginx's stream module, with one worker process.
    Nginx,
}

impl Proxy {
    /// Both, ours first.
    pub const ALL: [Self; 2] = [Self::Lbd, Self::Nginx];

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.as_tcp().name()
    }

    const fn as_tcp(self) -> bench_tcp::Proxy {
        match self {
            Self::Lbd => bench_tcp::Proxy::Lbd,
            Self::Nginx => bench_tcp::Proxy::Nginx,
        }
    }

    /// Its version; `None` when it, or a part that is needed, is not installed.
    #[must_use]
    pub fn version(self) -> Option<String> {
        self.as_tcp().version()
    }

    /// Where it listens.
    pub(super) fn address(self) -> SocketAddr {
        match self {
            Self::Lbd => (PROXY, 8001).into(),
            Self::Nginx => (PROXY, 8003).into(),
        }
    }

    fn config(self, dir: &str) -> String {
        let (listen, target) = (self.address(), Network::target_address());
        match self {
            // One answer is all that a question gets here, but neither is told so.
            Self::Lbd => format!(
                "[[service]]\nname = \"bench\"\nmode = \"udp\"\nlisten = [\"{listen}\"]\nforward = \"bench\"\n\
                 limits = {{ max_connections = {SESSIONS_MAX} }}\ntimeout = {{ idle = \"{IDLE}\" }}\n\
                 [[target_group]]\nname = \"bench\"\ntargets = [{{ id = \"t\", address = \"{target}\" }}]\n"
            ),
            Self::Nginx => format!(
                "load_module {NGINX_MODULE};\ndaemon off;\nuser root;\npid {dir}/nginx.pid;\n\
                 error_log stderr crit;\nworker_processes 1;\nworker_rlimit_nofile 20000;\n\
                 events {{ use epoll; worker_connections {}; multi_accept on; }}\n\
                 stream {{\n  access_log off;\n  proxy_timeout {IDLE};\n  \
                 server {{ listen {listen} udp; proxy_pass {target}; }}\n}}\n",
                SESSIONS_MAX + 1_000,
            ),
        }
    }

    /// Starts it on its host and this processor, and waits until it answers.
    pub(super) fn start(self, network: &Network, processor: usize) -> Result<Running<Self>> {
        let dir = network.dir().join(format!("{}-udp", self.name()));
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        let file = dir.join("config");
        fs::write(&file, self.config(&dir.to_string_lossy()))
            .doing(|| format!("writing {}", file.display()))?;
        let program = match self {
            Self::Lbd => binary("lbd")?,
            Self::Nginx => PathBuf::from("nginx"),
        };
        let mut command = network.proxy.command("taskset");
        command.args(["-c", &processor.to_string()]).arg(program);
        match self {
            Self::Lbd => {
                command.args(["run", "--workers", "1", "--config"]).arg(&file).arg("--run-dir").arg(&dir);
                command.env("RUST_LOG", "warn");
            }
            Self::Nginx => drop(command.arg("-p").arg(&dir).arg("-c").arg(&file)),
        }
        Running::start(self, self.name(), command, &dir.join("log"), |_| {
            network.client.inside(|| answers(self.address())).unwrap_or(false)
        })
    }
}

fn answers(server: SocketAddr) -> bool {
    let ask = || -> std::io::Result<usize> {
        let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.send(b"?")?;
        socket.recv(&mut [0; 8])
    };
    ask().is_ok()
}

/// Both versions in one line.
#[must_use]
pub fn versions() -> String {
    let version = |proxy: Proxy| {
        format!("{} {}", proxy.name(), proxy.version().as_deref().unwrap_or("(not installed)"))
    };
    Proxy::ALL.map(version).join(", ")
}
