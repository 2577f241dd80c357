//! DNS, served by a real dnsmasq.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{MEMORY_KIB_MAX, addresses, await_addresses, config, discovery, metric, refresh};
use crate::server::Server;
use crate::support::{Folder, Lbd, PATIENCE, eventually, free, own_ip};

/// A DNS server, killed when dropped.
struct Dnsmasq {
    folder: Folder,
    address: SocketAddr,
    options: Vec<String>,
    child: Child,
}

impl Dnsmasq {
    /// Serves these hosts, as `/etc/hosts` would have them.
    fn start(hosts: &str, options: &[&str]) -> Self {
        let folder = Folder::new();
        fs::write(folder.path().join("hosts"), hosts).unwrap();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let address = free(own_ip());
        let child = Self::run(&folder.path().join("hosts"), address, &options);
        Self { folder, address, options, child }
    }

    fn run(hosts: &Path, address: SocketAddr, options: &[String]) -> Child {
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("dnsmasq")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
            ])
            .args(["--bind-interfaces", "--local=/test/", "--pid-file=", "--log-facility=-"])
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--addn-hosts={}", hosts.display()))
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq is installed by scripts/setup test");
        eventually("dnsmasq serves", || std::net::TcpStream::connect(address).is_ok());
        child
    }

    /// Serves other hosts from now on.
    fn change(&self, hosts: &str) {
        fs::write(self.folder.path().join("hosts"), hosts).unwrap();
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGHUP).unwrap();
    }

    fn stop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn restart(&mut self) {
        self.child = Self::run(&self.folder.path().join("hosts"), self.address, &self.options);
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A target on an address of its own, on a port that others may use on other addresses.
fn target(port: u16, name: &'static str) -> Server {
    Server::named(SocketAddr::from((own_ip(), port)), name)
}

fn hosts(name: &str, addresses: &[SocketAddr]) -> String {
    addresses.iter().fold(String::new(), |mut text, address| {
        writeln!(text, "{} {name}", address.ip()).unwrap();
        text
    })
}

#[test]
fn addresses_follow_dns_by_its_ttl() {
    let port = free(Ipv4Addr::LOCALHOST).port();
    let (a, b) = (target(port, "a"), target(port, "b"));
    let dns = Dnsmasq::start(&hosts("shop.test", &[a.address]), &["--local-ttl=1"]);
    let lbd = Lbd::start(&config(&format!("dns = \"shop.test:{port}\", server = \"{}\"", dns.address)));
    assert_eq!(lbd.fetch().unwrap(), "a");
    dns.change(&hosts("shop.test", &[a.address, b.address]));
    await_addresses(&lbd, &[a.address, b.address]);
    dns.change(&format!("{}2001:db8::7 shop.test\n", hosts("shop.test", &[b.address])));
    await_addresses(&lbd, &[b.address.to_string(), format!("[2001:db8::7]:{port}")]);
    dns.change(&hosts("shop.test", &[b.address]));
    await_addresses(&lbd, &[b.address]);
    assert_eq!(lbd.fetch().unwrap(), "b");
    lbd.says("targets discovered");
}

#[test]
fn the_last_good_answer_stays_when_dns_fails() {
    let port = free(Ipv4Addr::LOCALHOST).port();
    let (a, b) = (target(port, "a"), target(port, "b"));
    let mut dns = Dnsmasq::start(&hosts("shop.test", &[a.address]), &["--local-ttl=1"]);
    let discover = format!("dns = \"shop.test:{port}\", server = \"{}\", refresh = \"1s\"", dns.address);
    let lbd = Lbd::start(&config(&discover));
    // The name is gone.
    dns.change("");
    eventually("the missing name is noticed", || discovery(&lbd)["stale"] == true);
    let message = discovery(&lbd)["last_failure"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "DNS has no address for shop.test");
    assert_eq!(lbd.fetch().unwrap(), "a");
    // The server is gone.
    dns.stop();
    let (code, body) = refresh(&lbd);
    assert!(code == 502 && body.contains("asking DNS for"), "{code} {body}");
    assert_eq!(lbd.fetch().unwrap(), "a");
    let unreachable = "tandem_lbd_discovery_answers_total{group=\"pool\",result=\"unreachable\"}";
    assert!(metric(&lbd, unreachable) >= 1.0);
    assert!(discovery(&lbd)["stale_since_unix_ms"].is_u64());
    // Both are back.
    fs::write(dns.folder.path().join("hosts"), hosts("shop.test", &[b.address])).unwrap();
    dns.restart();
    await_addresses(&lbd, &[b.address]);
    assert_eq!(discovery(&lbd)["stale"], false);
    assert_eq!(lbd.fetch().unwrap(), "b");
}

/// Says of every name that it does not exist, and in a SOA record that this is so for `ttl_s` seconds; a query for an address
/// of IPv4 is reported when it comes.
fn denying(ttl_s: u32) -> (SocketAddr, mpsc::Receiver<Instant>) {
    let socket = UdpSocket::bind((own_ip(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let (sender, queries) = mpsc::channel();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut query) {
            // The name of the question ends with an empty label; type and class follow.
            let name_end = 12 + query[12..].iter().position(|&byte| byte == 0).unwrap() + 1;
            if query[name_end..name_end + 2] == [0, 1] && sender.send(Instant::now()).is_err() {
                return;
            }
            // An authoritative NXDOMAIN with one record of the authority's.
            let head = [&query[..2], &[0x85, 3, 0, 1, 0, 0, 0, 1, 0, 0]].concat();
            let ttl = ttl_s.to_be_bytes();
            // Of the root, type SOA: names, serial number, three intervals and the least time to live.
            let soa = [&[0, 0, 6, 0, 1][..], &ttl, &[0, 22, 0, 0], &[0; 16], &ttl].concat();
            socket.send_to(&[&head, &query[12..name_end + 4], &soa].concat(), from).unwrap();
        }
    });
    (address, queries)
}

#[test]
fn a_missing_name_is_asked_for_again_when_its_soa_record_says() {
    let (server, queries) = denying(3);
    let lbd = Lbd::start(&config(&format!("dns = \"shop.test:80\", server = \"{server}\"")));
    let [first, second, third] = [(); 3].map(|()| queries.recv_timeout(PATIENCE).unwrap());
    // A server that fails is asked again after one second and after two.
    for pause in [second - first, third - second] {
        assert!(pause >= Duration::from_millis(2900), "{pause:?}");
    }
    assert_eq!(discovery(&lbd)["last_failure"]["message"], "DNS has no address for shop.test");
}

#[test]
fn a_dead_dns_server_does_not_hold_up_the_start() {
    let nobody = free(own_ip());
    let written = Server::named((own_ip(), 0).into(), "written");
    let mut config = config(&format!("dns = \"shop.test:80\", server = \"{nobody}\""));
    config.targets = vec![("written".to_owned(), written.address, 1)];
    let lbd = Lbd::start(&config);
    assert_eq!(lbd.fetch().unwrap(), "written");
    eventually("the dead server is noticed", || discovery(&lbd)["stale"] == true);
    assert_eq!(addresses(&lbd).len(), 1);
}

#[test]
fn srv_records_give_ports_weights_and_backups() {
    let (a, b, c) = (target(0, "a"), target(0, "b"), target(0, "c"));
    let text = format!(
        "{}{}{}",
        hosts("a.test", &[a.address]),
        hosts("b.test", &[b.address]),
        hosts("c.test", &[c.address])
    );
    let srv = |host: &str, server: &Server, priority: u16, weight: u16| {
        format!("--srv-host=_web._tcp.shop.test,{host}.test,{},{priority},{weight}", server.address.port())
    };
    let options =
        [srv("a", &a, 10, 60), srv("b", &b, 10, 30), srv("c", &c, 20, 500), "--local-ttl=1".to_owned()];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut dns = Dnsmasq::start(&text, &options);
    let lbd = Lbd::start(&config(&format!("srv = \"_web._tcp.shop.test\", server = \"{}\"", dns.address)));
    await_addresses(&lbd, &[a.address, b.address, c.address]);
    let status = lbd.status();
    let targets = status["target_groups"][0]["targets"].as_array().unwrap();
    let mut seen: Vec<(u64, bool)> = targets
        .iter()
        .map(|target| (target["weight"].as_u64().unwrap(), target["backup"].as_bool().unwrap()))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [(30, false), (60, false), (256, true)]);
    for _ in 0..6 {
        assert!(["a", "b"].contains(&lbd.fetch().unwrap().as_str()), "the backup is not needed");
    }
    dns.stop();
    let (code, body) = refresh(&lbd);
    assert!(code == 502 && body.contains("SRV"), "{code} {body}");
    assert_eq!(addresses(&lbd).len(), 3);
}

/// Says that hosts up to `h50` have the service, at port 80, and only of the last one where it is.
fn drowsy() -> SocketAddr {
    let socket = UdpSocket::bind((own_ip(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut query) {
            let name_end = 12 + query[12..].iter().position(|&byte| byte == 0).unwrap() + 1;
            // Each answer begins with the question's name, and ends with a time to live of a second and what there is to say.
            let answer = |kind: u8, content: &[u8]| {
                let length = u8::try_from(content.len()).unwrap();
                [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 1, 0, length][..], content].concat()
            };
            let service = |host: u8| {
                let [tens, ones] = [host / 10, host % 10].map(|digit| b'0' + digit);
                answer(33, &[0, 1, 0, 1, 0, 80, 3, b'h', tens, ones, 0])
            };
            let answers = match (query[name_end + 1], &query[13..16]) {
                (33, _) => (0..=50).map(service).collect(),
                (1, b"h50") => vec![answer(1, &[10, 1, 2, 3])],
                (_, b"h50") => Vec::new(),
                _ => continue,
            };
            let count = u8::try_from(answers.len()).unwrap();
            let head = [&query[..2], &[0x85, 0x80, 0, 1, 0, count, 0, 0, 0, 0]].concat();
            socket.send_to(&[&head, &query[12..name_end + 4], &answers.concat()].concat(), from).unwrap();
        }
    });
    address
}

#[test]
fn hosts_that_never_answer_do_not_keep_the_others_from_their_turn() {
    let server = drowsy();
    let lbd = Lbd::start(&config(&format!("srv = \"_web._tcp.shop.test\", server = \"{server}\"")));
    eventually("the first round has had no time for the last host", || {
        discovery(&lbd)["last_failure"]["message"]
            .as_str()
            .is_some_and(|message| message.contains("for all addresses"))
    });
    await_addresses(&lbd, &["10.1.2.3:80"]);
}

#[test]
fn thousands_of_records_are_cut_to_the_limit() {
    let many: Vec<SocketAddr> =
        (0..3000_u16).map(|host| ([10, 1, (host >> 8) as u8, (host & 255) as u8], 80).into()).collect();
    let dns = Dnsmasq::start(&hosts("shop.test", &many), &["--local-ttl=60"]);
    let discover = format!("dns = \"shop.test:80\", server = \"{}\", max_targets = 500", dns.address);
    let lbd = Lbd::start(&config(&discover));
    eventually("the answer has come", || discovery(&lbd)["targets"] == 500);
    assert_eq!(discovery(&lbd)["over_limit"], 2500);
    assert_eq!(addresses(&lbd).len(), 500);
    assert!(addresses(&lbd).contains("10.1.0.0:80"), "the same ones each time");
    let left_out = "tandem_lbd_discovery_entries_left_out_total{group=\"pool\",reason=\"over_limit\"}";
    assert!((metric(&lbd, left_out) - 2500.0).abs() < 0.1);
    lbd.says("not all that was discovered can be used");
    let status = String::from_utf8(lbd.command(&["status"]).stdout).unwrap();
    assert!(status.contains("ok, 2500 more than max_targets left out"), "{status}");
    assert!(lbd.peak_kib() < MEMORY_KIB_MAX, "memory stays bounded: {} KiB", lbd.peak_kib());
}

#[test]
fn hosts_with_thousands_of_addresses_are_cut_to_the_limit() {
    let many = |net: u8| -> Vec<SocketAddr> {
        (0..3000_u16).map(|host| ([10, net, (host >> 8) as u8, (host & 255) as u8], 80).into()).collect()
    };
    let text = format!("{}{}", hosts("a.test", &many(1)), hosts("b.test", &many(2)));
    let srv = ["a", "b"].map(|host| format!("--srv-host=_web._tcp.shop.test,{host}.test,80,10,1"));
    let dns = Dnsmasq::start(&text, &[&srv[0], &srv[1], "--local-ttl=60"]);
    let discover = format!("srv = \"_web._tcp.shop.test\", server = \"{}\", max_targets = 500", dns.address);
    let lbd = Lbd::start(&config(&discover));
    eventually("the answer has come", || discovery(&lbd)["targets"] == 500);
    assert_eq!(discovery(&lbd)["over_limit"], 5500, "2500 of each host, and 500 of both");
    assert!(addresses(&lbd).contains("10.1.0.0:80"), "the same ones each time");
    assert!(addresses(&lbd).iter().all(|address| address.starts_with("10.1.")), "the first ones");
    let left_out = "tandem_lbd_discovery_entries_left_out_total{group=\"pool\",reason=\"over_limit\"}";
    assert!((metric(&lbd, left_out) - 5500.0).abs() < 0.1);
    lbd.says("not all that was discovered can be used");
    assert!(lbd.peak_kib() < MEMORY_KIB_MAX, "memory stays bounded: {} KiB", lbd.peak_kib());
}
