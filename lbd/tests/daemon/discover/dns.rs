//! DNS, served by a real dnsmasq.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{addresses, await_addresses, config, discovery, metric, refresh};
use crate::server::Server;
use crate::support::{Folder, Lbd, eventually, free, own_ip};

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
    assert!(lbd.log().contains("targets discovered"));
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
    assert!(lbd.log().contains("not all that was discovered can be used"));
}
