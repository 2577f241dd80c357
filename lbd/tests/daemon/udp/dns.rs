//! Real programs: dnsmasq answers, dig asks.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::{Answering, config};
use crate::support::{Folder, Lbd, eventually, free, own_ip};

/// A dnsmasq that knows one name, killed when dropped.
struct Dnsmasq(Child, SocketAddr);

impl Dnsmasq {
    fn start(address: SocketAddr, folder: &Folder, knows: &str) -> Self {
        let path =
            ["/usr/sbin/dnsmasq", "dnsmasq"].into_iter().find(|path| std::path::Path::new(path).exists());
        let child = Command::new(path.unwrap_or("dnsmasq"))
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
                "--bind-interfaces",
            ])
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--pid-file={}", folder.path().join(address.port().to_string()).display()))
            .arg(format!("--address=/name.test/{knows}"))
            .arg("--txt-record=long.test,".to_owned() + &vec!["x".repeat(250); 12].join(","))
            .args(["--edns-packet-max=4096", "--user=root"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("dnsmasq is there: scripts/setup test");
        Self(child, address)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn dig(server: SocketAddr, question: &[&str]) -> (bool, String) {
    let output = Command::new("dig")
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "+short", "+tries=1", "+timeout=2", "+notcp", "+ignore"])
        .args(question)
        .output()
        .expect("dig is there: scripts/setup test");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn a_resolver_behind_a_service_answers_and_is_replaced_when_it_dies() {
    let (ip, folder) = (own_ip(), Folder::new());
    // dnsmasq's own ports, and a service between them.
    let placeholder = Answering::echo(ip);
    let addresses = [free(ip), free(ip)];
    let mut servers: Vec<Option<Dnsmasq>> = vec![
        Some(Dnsmasq::start(addresses[0], &folder, "192.0.2.1")),
        Some(Dnsmasq::start(addresses[1], &folder, "192.0.2.2")),
    ];
    let mut config = config(ip, &[&placeholder, &placeholder]);
    for (target, server) in config.targets.iter_mut().zip(&servers) {
        target.1 = server.as_ref().unwrap().1;
    }
    let lbd = Lbd::start(&config);
    for server in servers.iter().flatten() {
        eventually("dnsmasq answers", || dig(server.1, &["name.test"]).0);
    }
    let mut seen = std::collections::HashSet::new();
    for _ in 0..10 {
        let (good, answer) = dig(lbd.address, &["name.test"]);
        assert!(good, "{answer}");
        seen.insert(answer);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    let (good, long) = dig(lbd.address, &["+bufsize=4096", "long.test", "TXT"]);
    assert!(good && long.len() > 3000, "{} bytes", long.len());

    servers[0] = None;
    // Each of these is a session of its own: one that goes to the dead server is lost, and its port is known to be closed
    // from then on only to that session; asked once more, as any resolver does, each is answered.
    for _ in 0..10 {
        eventually("an answer", || dig(lbd.address, &["name.test"]) == (true, "192.0.2.2".to_owned()));
    }
}
