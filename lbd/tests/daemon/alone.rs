//! `lbd` without a pair: in front of others on its own addresses, and beside one application.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::server::Server;
use crate::support::{Folder, Lbd, PATIENCE, command, connect, eventually, exchange, free, own_ip, patient};

/// The user that owns nothing, on every Linux.
const NOBODY: u32 = 65_534;

const CHECKED: &str = "health = { tcp = true, interval = \"50ms\", timeout = \"40ms\", healthy_threshold = 1, unhealthy_threshold = 1 }";

/// Waits for the client's first bytes, answers its name, and goes on until the client has finished.
fn serve(ip: Ipv4Addr, name: &'static str) -> Server {
    serve_at((ip, 0).into(), name)
}

fn serve_at(address: SocketAddr, name: &'static str) -> Server {
    Server::start(address, move |mut stream| {
        let mut bytes = [0; 4096];
        if !matches!(stream.read(&mut bytes), Ok(1..)) || stream.write_all(name.as_bytes()).is_err() {
            return;
        }
        while matches!(stream.read(&mut bytes), Ok(1..)) {}
    })
}

/// Sends something and answers who is there.
fn say(stream: &mut TcpStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).unwrap();
    let mut answer = [0; 16];
    let count = stream.read(&mut answer).unwrap();
    String::from_utf8(answer[..count].to_vec()).unwrap()
}

/// A TLS greeting that asks for a server by name.
fn client_hello(name: &str) -> Vec<u8> {
    let with_length = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    // server_name: a list with one entry, whose type is host_name.
    let entry = [&[0][..], &with_length(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &with_length(&with_length(&entry))].concat();
    // Version, random, no session, one cipher suite, no compression.
    let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    let body = [fixed, with_length(&extension)].concat();
    let handshake = [&[1, 0][..], &with_length(&body)].concat();
    [&[0x16, 3, 1][..], &with_length(&handshake)].concat()
}

/// Sends datagrams back until it is dropped.
struct UdpEcho {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    fn start(ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 2048];
            while !stopped.load(Ordering::SeqCst) {
                if let Ok((count, from)) = socket.recv_from(&mut bytes) {
                    drop(socket.send_to(&bytes[..count], from));
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A port that is free on every address, for streams and for datagrams.
fn free_everywhere() -> u16 {
    loop {
        let streams = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = streams.local_addr().unwrap().port();
        if UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

#[test]
fn an_edge_proxy_serves_streams_and_datagrams_on_all_addresses() {
    let (ip, port) = (own_ip(), free_everywhere());
    let (web, api, echo) = (serve(ip, "web"), serve(ip, "api"), UdpEcho::start(ip));
    let text = format!(
        "[[service]]\nname = \"web\"\nmode = \"tcp\"\nlisten = [\"0.0.0.0:{port}\", \"[::]:{port}\"]\nforward = \"web\"\n\
         [[service.rule]]\nwhen = {{ sni = [\"*.api.example.com\"] }}\nforward = \"api\"\n\
         [[service]]\nname = \"echo\"\nmode = \"udp\"\nlisten = [\"0.0.0.0:{port}\", \"[::]:{port}\"]\nforward = \"echo\"\n\
         [[target_group]]\nname = \"web\"\ntargets = [{{ address = \"{}\" }}]\n{CHECKED}\n\
         [[target_group]]\nname = \"api\"\ntargets = [{{ address = \"{}\" }}]\n{CHECKED}\n\
         [[target_group]]\nname = \"echo\"\ntargets = [{{ address = \"{}\" }}]\n\
         [api]\nlbd = \"{ip}:9180\"\n",
        web.address, api.address, echo.address
    );
    let mut lbd = Lbd::start_with(Folder::new(), &text, (ip, port).into(), |_| ());
    let api_address = SocketAddr::from((ip, 9180));
    eventually("it is ready", || {
        exchange(connect(api_address), "GET", "/health/ready", "").is_ok_and(|(code, _)| code == 200)
    });
    let status = lbd.status();
    assert_eq!((&status["vrrpd_connected"], &status["roles"]), (&false.into(), &serde_json::json!({})));
    for address in [SocketAddr::from((ip, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        assert_eq!(say(&mut connect(address), &client_hello("www.example.com")), "web");
        assert_eq!(say(&mut connect(address), &client_hello("v2.api.example.com")), "api");
        let socket = UdpSocket::bind(SocketAddr::new(address.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(address).unwrap();
        socket.send(b"datagram").unwrap();
        let mut answer = [0; 16];
        assert_eq!(socket.recv(&mut answer).unwrap(), 8, "and from the address that was asked");
    }
    // A pair that grows out of this is a matter of configuration: nothing waits for vrrpd until there is a [[vrrp]].
    let (code, body) = lbd.ask("POST", "/v1/reload");
    assert_eq!(code, 200, "{body}");
    assert!(!lbd.log().contains("vrrpd"), "{}", lbd.log());
    lbd.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(lbd.wait().success());
}

/// As whoever owns nothing, if the test may become that, and else as whoever runs it.
fn unprivileged(folder: &Folder) -> impl FnOnce(&mut Command) + use<> {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if root {
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    move |command| {
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
    }
}

#[test]
fn a_sidecar_needs_no_privileges_and_finds_the_standby() {
    let ip = own_ip();
    let (primary, standby) = (serve(ip, "primary"), serve(ip, "standby"));
    let (address, primary_address) = (free(ip), primary.address);
    let text = format!(
        "[[service]]\nname = \"database\"\nmode = \"tcp\"\nlisten = [\"{address}\"]\nforward = \"database\"\n\
         [[target_group]]\nname = \"database\"\nqueue = {{ max = 10, timeout = \"1m\" }}\n{CHECKED}\n\
         targets = [{{ id = \"primary\", address = \"{primary_address}\", max_connections = 1 }},\n\
         {{ id = \"standby\", address = \"{}\", backup = true }}]\n\
         [api]\nlbd = \"{ip}:9180\"\n",
        standby.address
    );
    let folder = Folder::new();
    let user = unprivileged(&folder);
    let lbd = Lbd::start_with(folder, &text, address, user);
    let owner = fs::metadata(format!("/proc/{}", lbd.pid())).unwrap().uid();
    assert_ne!(owner, 0, "it runs without any right");
    eventually("both are healthy", || lbd.health(0) == "healthy" && lbd.health(1) == "healthy");

    // The server takes one connection at a time; the next one waits here instead of being refused there.
    let mut first = connect(address);
    assert_eq!(say(&mut first, b"hello"), "primary");
    let accepted = primary.accepted();
    let mut second = connect(address);
    second.write_all(b"hello").unwrap();
    eventually("the second one waits", || lbd.service("connections_open") == 2);
    assert!(primary.accepted() >= accepted, "checks connect too");
    assert_eq!(standby_answers(&lbd), 0, "a server that is busy is no reason for the standby");
    drop(first);
    assert_eq!(say(&mut second, b""), "primary");
    drop(second);

    drop(primary);
    eventually("the standby serves", || say_once(address).as_deref() == Some("standby"));
    let _primary = serve_at(primary_address, "primary");
    eventually("the primary serves again", || say_once(address).as_deref() == Some("primary"));
}

/// Connections that the standby has had.
fn standby_answers(lbd: &Lbd) -> u64 {
    lbd.status()["target_groups"][0]["targets"][1]["connections_total"].as_u64().unwrap()
}

/// What a new connection answers, if anything.
fn say_once(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    patient(&stream);
    stream.write_all(b"hello").ok()?;
    let mut answer = [0; 16];
    let count = stream.read(&mut answer).ok().filter(|count| *count > 0)?;
    String::from_utf8(answer[..count].to_vec()).ok()
}

#[test]
fn the_examples_for_it_pass_check() {
    for name in ["edge.toml", "sidecar.toml"] {
        let folder = Folder::new();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
        // The folder that they log to is one that has to be made.
        let logs = folder.path().display().to_string();
        let text = fs::read_to_string(path).unwrap().replace("/var/log/tandem", &logs);
        fs::write(folder.path().join("pair.toml"), text).unwrap();
        let output = command(folder.path(), &["check"]).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
