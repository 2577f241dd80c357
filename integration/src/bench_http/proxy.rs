//! The programs that are compared, set up alike and as their manuals say for speed: one thread, no log, connections to the target
//! that are kept and used for whoever comes next, TLS 1.2 and 1.3 with tickets and no memory of sessions, and the fields that tell a
//! target who asks. Of these Tandem adds more than the others are told to (`X-Request-ID`, `Via`).

use std::net::SocketAddr;
use std::path::Path;

use super::Load;
use crate::bench_tcp::Proxy;
use crate::bench_tcp::network::{Network, PROXY};
use crate::bench_tcp::running::Running;
use crate::lab::Result;

/// Connections each of them has room for.
const CONNECTIONS_MAX: u32 = 8_000;
/// Idle connections to the target that each of them keeps; Tandem does so for each worker and target.
const KEPT_MAX: u32 = 256;
/// How many requests nginx takes on a connection before it closes it: as many as it can be told.
const REQUESTS_MAX: u32 = 1_000_000_000;

/// Where a proxy listens.
struct Ports {
    clear: SocketAddr,
    tls: SocketAddr,
    /// For large answers. Who knows that they come sets HAProxy up to splice them.
    large: SocketAddr,
}

impl Ports {
    fn of(proxy: Proxy) -> Self {
        let (first, splices) = match proxy {
            Proxy::Lbd => (8101, false),
            Proxy::Haproxy => (8201, true),
            Proxy::Nginx => (8301, false),
        };
        let address = |offset: u16| SocketAddr::from((PROXY, first + offset));
        Self { clear: address(0), tls: address(1), large: address(if splices { 2 } else { 0 }) }
    }
}

/// Where a proxy is asked.
pub(super) fn address(proxy: Proxy, load: Load) -> SocketAddr {
    let ports = Ports::of(proxy);
    match load {
        Load::Small | Load::Fresh | Load::Websockets => ports.clear,
        Load::Large => ports.large,
        Load::Handshakes | Load::Resumed | Load::Http2 => ports.tls,
    }
}

/// Starts a proxy on its host and this processor, with a certificate and its key in one file, and waits until it listens.
pub(super) fn start(
    proxy: Proxy,
    network: &Network,
    processor: usize,
    certificate: &Path,
) -> Result<Running<Proxy>> {
    proxy.launch(network, processor, Ports::of(proxy).tls, |dir| {
        config(proxy, dir, &certificate.to_string_lossy(), Network::target_address())
    })
}

fn config(proxy: Proxy, dir: &str, certificate: &str, target: SocketAddr) -> String {
    let ports = Ports::of(proxy);
    match proxy {
        Proxy::Lbd => lbd(&ports, certificate, target),
        Proxy::Haproxy => haproxy(&ports, certificate, target),
        Proxy::Nginx => nginx(&ports, dir, certificate, target),
    }
}

fn lbd(ports: &Ports, certificate: &str, target: SocketAddr) -> String {
    let service = |name: &str, listen: SocketAddr, more: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nmode = \"http\"\nlisten = [\"{listen}\"]\nforward = \"bench\"\n\
             limits = {{ max_connections = {CONNECTIONS_MAX} }}\n{more}\n"
        )
    };
    let tls = format!("tls = {{ certificates = [\"{certificate}\"] }}");
    service("clear", ports.clear, "")
        + &service("tls", ports.tls, &tls)
        + &format!(
            "[[target_group]]\nname = \"bench\"\ntargets = [{{ id = \"t\", address = \"{target}\" }}]\n"
        )
}

fn haproxy(ports: &Ports, certificate: &str, target: SocketAddr) -> String {
    let front = |name: &str, bind: &str, scheme: &str, backend: &str| {
        format!(
            "frontend {name}\n  bind {bind} backlog 16384\n  http-request set-header X-Forwarded-Proto {scheme}\n  \
             default_backend {backend}\n"
        )
    };
    let tls = format!("{} ssl crt {certificate} alpn h2,http/1.1 ssl-min-ver TLSv1.2", ports.tls);
    format!(
        "global\n  maxconn {CONNECTIONS_MAX}\n  nbthread 1\n  maxpipes 500\n  tune.pipesize 1048576\n  \
         tune.ssl.cachesize 0\n\
         defaults\n  mode http\n  option forwardfor\n  http-reuse always\n  timeout connect 5s\n  \
         timeout client 350s\n  timeout server 350s\n  timeout tunnel 350s\n\
         {}{}{}\
         backend small\n  server t {target} pool-max-conn {KEPT_MAX}\n\
         backend large\n  option splice-response\n  server t {target} pool-max-conn {KEPT_MAX}\n",
        front("clear", &ports.clear.to_string(), "http", "small"),
        front("encrypted", &tls, "https", "small"),
        front("bulk", &ports.large.to_string(), "http", "large"),
    )
}

fn nginx(ports: &Ports, dir: &str, certificate: &str, target: SocketAddr) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {dir}/{name};\n"))
        .concat();
    let told = "proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; \
                proxy_set_header X-Forwarded-Proto $scheme;";
    let (large, websocket) = (super::target::LARGE_PATH, super::target::WEBSOCKET_PATH);
    format!(
        "daemon off;\nuser root;\npid {dir}/nginx.pid;\nerror_log stderr crit;\nworker_processes 1;\n\
         worker_rlimit_nofile 20000;\nevents {{ use epoll; worker_connections {connections}; multi_accept on; }}\n\
         http {{\n  access_log off;\n{temporary}  \
         keepalive_timeout 350s;\n  keepalive_requests {REQUESTS_MAX};\n  \
         upstream bench {{\n    server {target};\n    keepalive {KEPT_MAX};\n    keepalive_requests {REQUESTS_MAX};\n    \
         keepalive_timeout 350s;\n  }}\n  \
         proxy_http_version 1.1;\n  proxy_read_timeout 350s;\n  {told} proxy_set_header Connection \"\";\n  \
         server {{\n    listen {clear} backlog=16384;\n    listen {tls} ssl http2 backlog=16384;\n    \
         ssl_certificate {certificate};\n    ssl_certificate_key {certificate};\n    \
         ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_session_tickets on;\n    \
         location / {{ proxy_pass http://bench; }}\n    \
         location = {large} {{\n      proxy_pass http://bench;\n      proxy_buffer_size 32k;\n      \
         proxy_buffers 8 32k;\n      proxy_busy_buffers_size 64k;\n      proxy_max_temp_file_size 0;\n    }}\n    \
         location = {websocket} {{\n      proxy_pass http://bench;\n      {told}\n      \
         proxy_set_header Upgrade $http_upgrade;\n      proxy_set_header Connection upgrade;\n    }}\n  }}\n}}\n",
        connections = 2 * CONNECTIONS_MAX,
        clear = ports.clear,
        tls = ports.tls,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn our_configuration_passes_check_and_nobody_shares_a_port() {
        let target = SocketAddr::from(([10, 78, 1, 1], 9000));
        let text = config(Proxy::Lbd, "/d", "/d/shop.pem", target);
        if let Err(errors) = common::config::parse(&text, Path::new("bench.toml")) {
            panic!("{errors}");
        }
        let ports = |proxy| Load::ALL.map(|load| address(proxy, load)).into_iter().collect::<BTreeSet<_>>();
        let all: Vec<SocketAddr> = Proxy::ALL.into_iter().flat_map(ports).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        for (proxy, unlogged) in [(Proxy::Nginx, "access_log off;"), (Proxy::Haproxy, "mode http")] {
            let text = config(proxy, "/d", "/d/shop.pem", target);
            assert!(text.contains(unlogged) && text.contains("10.78.1.1:9000"), "{text}");
            assert_eq!(text.matches('{').count(), text.matches('}').count(), "{text}");
        }
    }
}
