//! A target: nginx and an echo server.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::clock::wait_until;
use super::echo;
use super::error::{Context, Result};
use super::host::Host;
use super::http;
use super::netns::Worker;
use super::node::binary;

/// The ports nginx answers on.
pub(super) const HTTP_PORTS: [u16; 2] = [80, 8080];
/// The port of the echo server, TCP and UDP.
pub(super) const ECHO_PORT: u16 = 7;
/// The port on which it echoes in tunnels, which a request has opened.
const TUNNEL_PORT: u16 = 7101;

/// How long another program may take to start: it is not what is tested, and the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(30);

/// One target. nginx answers every request with 200, the header `X-Target: NAME` and the name and a line end as its
/// body (`/health` with `ok`, `/large` with 1 MiB, `/files/…` with what was published); the echo server sends back what it is sent.
/// On a port of their own that are connections which HTTP's `Upgrade` has made tunnels, as WebSockets are.
#[derive(Debug)]
pub struct Target {
    host: Host,
    dir: PathBuf,
    echo: Mutex<Option<Worker<()>>>,
}

impl Target {
    pub(crate) fn new(host: Host, dir: &Path) -> Self {
        let dir = dir.join(format!("nginx-{}", host.name()));
        Self { host, dir, echo: Mutex::new(None) }
    }

    /// Its HTTP server, for a target group.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        SocketAddr::from((self.host.v4(), 8080))
    }

    /// Its echo server, for a target group.
    #[must_use]
    pub fn echo_address(&self) -> SocketAddr {
        SocketAddr::from((self.host.v4(), ECHO_PORT))
    }

    /// Its echo server in tunnels, for a target group of a service of HTTP.
    #[must_use]
    pub fn tunnel_address(&self) -> SocketAddr {
        SocketAddr::from((self.host.v4(), TUNNEL_PORT))
    }

    /// Starts nginx and the echo server.
    ///
    /// # Errors
    /// [`super::LabError`] when one cannot be started.
    pub fn start_servers(&self) -> Result<()> {
        self.start_http()?;
        self.start_echo()
    }

    /// Starts nginx, with [`Host::stop`] of `nginx` as its end.
    ///
    /// # Errors
    /// [`super::LabError::Io`] when it cannot be started.
    pub fn start_http(&self) -> Result<()> {
        let doing = || format!("preparing nginx in {}", self.dir.display());
        let pages = self.dir.join("pages");
        fs::create_dir_all(&pages).doing(doing)?;
        fs::write(pages.join("large"), vec![b'x'; 1 << 20]).doing(doing)?;
        let file = self.dir.join("nginx.conf");
        fs::write(&file, nginx_conf(self.host.name(), &self.dir)).doing(doing)?;
        let mut command = self.host.command("nginx");
        command.arg("-p").arg(&self.dir).arg("-c").arg(&file).arg("-e").arg("stderr");
        self.host.start("nginx", command).map(drop)
    }

    /// Lets nginx, which has been started, serve a file of the lab's directory as `/files/NAME`, with the name it has there.
    ///
    /// # Errors
    /// [`super::LabError::Io`] when there is no such file.
    pub fn publish(&self, file: &Path) -> Result<()> {
        let files = self.dir.join("pages").join("files");
        let link = files.join(file.file_name().unwrap_or_default());
        // Without another copy of what may be large.
        let linked = fs::create_dir_all(&files).and_then(|()| fs::hard_link(file, &link));
        linked.doing(|| format!("publishing {} as {}", file.display(), link.display()))
    }

    /// Starts the echo server.
    ///
    /// # Errors
    /// [`super::LabError::Io`] when its ports are taken.
    pub fn start_echo(&self) -> Result<()> {
        let server = echo::Server::new(&self.host.namespace(), ECHO_PORT, TUNNEL_PORT)?;
        let name = format!("echo {}", self.host.name());
        let worker = self.host.namespace().worker(&name, move |stop| server.run(stop))?;
        *self.echo.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
        Ok(())
    }

    /// Ends the echo server, which has been started, and starts it again as a process of its own: the other ends of thousands of
    /// connections then take no descriptors of this process.
    ///
    /// # Errors
    /// [`super::LabError::Unknown`] when the lab's own program has not been built, [`super::LabError::Timeout`] when it does not
    /// listen.
    pub fn move_echo_out(&self) -> Result<()> {
        self.stop_echo();
        let mut command = self.host.command(&binary("tandem-lab")?.to_string_lossy());
        command.args(["echo", &ECHO_PORT.to_string(), &TUNNEL_PORT.to_string()]);
        self.host.start("echo", command)?;
        let own = SocketAddr::from(([127, 0, 0, 1], ECHO_PORT));
        self.host.namespace().inside(|| {
            wait_until(&format!("echo on {} to listen", self.host.name()), START_LIMIT, || {
                TcpStream::connect(own).is_ok()
            })
        })?
    }

    /// Ends the echo server: its connections are closed.
    pub fn stop_echo(&self) {
        // Dropping the worker stops and joins it.
        self.echo.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Waits until nginx answers.
    ///
    /// # Errors
    /// [`super::LabError::Timeout`] when it does not.
    pub fn wait_ready(&self) -> Result<()> {
        let what = format!("nginx on {} to answer", self.host.name());
        let server = SocketAddr::from(([127, 0, 0, 1], HTTP_PORTS[0]));
        self.host.namespace().inside(|| {
            wait_until(&what, START_LIMIT, || {
                http::tcp(server, "GET", "/", "", START_LIMIT).is_ok_and(|answer| answer.status == 200)
            })
        })?
    }

    /// Makes it accept packets to a VIP without answering for it on the LAN: what direct server return needs.
    ///
    /// # Errors
    /// [`super::LabError`] when the address cannot be set.
    pub fn accept_vip(&self, vip: impl Into<IpAddr>) -> Result<()> {
        self.host
            .namespace()
            .sysctl(&[("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")])?;
        match vip.into() {
            IpAddr::V4(vip) => self.host.ip(&format!("address add {vip}/32 dev lo"))?,
            // An address of the loopback interface is not defended by neighbour discovery on another.
            IpAddr::V6(vip) => self.host.ip(&format!("address add {vip}/128 dev lo nodad"))?,
        };
        Ok(())
    }
}

impl Deref for Target {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

fn nginx_conf(name: &str, dir: &Path) -> String {
    let mut listen = String::new();
    for port in HTTP_PORTS {
        // Writing to a string cannot fail.
        writeln!(listen, "    listen {port} backlog=4096;\n    listen [::]:{port} ipv6only=on backlog=4096;")
            .ok();
    }
    let dir = dir.display();
    format!(
        "user root;
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_timeout 3600s;
  keepalive_requests 100000000;
  server {{
{listen}    add_header X-Target {name} always;
    location = /health {{ return 200 \"ok\\n\"; }}
    location = /large {{ root {dir}/pages; }}
    location /files/ {{ root {dir}/pages; }}
    location / {{ return 200 \"{name}\\n\"; }}
  }}
}}
"
    )
}
