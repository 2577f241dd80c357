//! The link to `vrrpd`, played by the test.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use common::ipc::{CATCH_UP_MAX, HEALTH_TIMEOUT, InstanceRole, LbdHealth, Role, SOCKET_NAME, ToLbd, ToVrrpd};
use common::wire::{FrameReader, frame};
use nix::sys::signal::Signal;

use crate::peer;
use crate::server::Server;
use crate::support::{Config, Lbd, PATIENCE, eventually, own_ip, ping};

/// The other end of the link.
struct Vrrpd {
    listener: UnixListener,
}

struct Link {
    stream: UnixStream,
    frames: FrameReader,
}

impl Vrrpd {
    fn new(lbd: &Lbd) -> Self {
        let path = lbd.folder.path().join(SOCKET_NAME);
        drop(std::fs::remove_file(&path));
        Self { listener: UnixListener::bind(path).unwrap() }
    }

    fn accept(&self) -> Link {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Link { stream, frames: FrameReader::default() }
    }
}

impl Link {
    fn next(&mut self) -> ToVrrpd {
        loop {
            if let Some(message) = self.frames.next_message().unwrap() {
                return message;
            }
            let mut bytes = [0; 1024];
            let count = self.stream.read(&mut bytes).unwrap();
            assert_ne!(count, 0, "lbd closed the link");
            self.frames.push(&bytes[..count]);
        }
    }

    fn next_health(&mut self) -> LbdHealth {
        loop {
            match self.next() {
                ToVrrpd::Health(health) => return health,
                // It replicates nothing, so it is not behind.
                ToVrrpd::Replication { behind: false } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn health_until(&mut self, reached: impl Fn(&LbdHealth) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !reached(&self.next_health()) {
            assert!(Instant::now() < end);
        }
    }

    fn say(&mut self, role: Role) {
        let roles = vec![InstanceRole { instance: "web".to_owned(), role, from_silence: false }];
        self.stream.write_all(&frame(&ToLbd::Roles(roles)).unwrap()).unwrap();
    }
}

fn lbd(server: &Server, ip: std::net::Ipv4Addr) -> Lbd {
    let mut config = Config::new(ip, &[server.address]);
    config.group = "health = { tcp = true, interval = \"50ms\", timeout = \"40ms\" }".to_owned();
    Lbd::start(&config)
}

#[test]
fn health_is_reported_and_roles_are_shown() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let lbd = lbd(&server, ip);
    let vrrpd = Vrrpd::new(&lbd);
    let mut link = vrrpd.accept();
    let ToVrrpd::Hello { config_hash, .. } = link.next() else { panic!("no greeting") };
    assert_eq!(lbd.status()["config_hash"], format!("{config_hash:016x}"));
    let good = LbdHealth { workers_alive: 2, workers_expected: 2, services_without_targets: vec![] };
    assert_eq!(link.next_health(), good);
    let begin = Instant::now();
    for _ in 0..5 {
        link.next_health();
    }
    assert!(begin.elapsed() < HEALTH_TIMEOUT, "no silence for as long as lbd counts as dead after");
    link.say(Role::Active);
    eventually("the role is shown", || lbd.status()["roles"]["web"] == "active");
    drop(server);
    link.health_until(|health| health.services_without_targets == ["web"]);
    drop(link);
    let mut link = vrrpd.accept();
    assert!(matches!(link.next(), ToVrrpd::Hello { .. }), "it comes back by itself");
    assert_eq!(lbd.status()["roles"], serde_json::json!({}), "old roles are forgotten");
}

#[test]
fn a_reload_is_no_reason_to_be_demoted() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.group = "health = { tcp = true }".to_owned();
    let lbd = Lbd::start(&config);
    let vrrpd = Vrrpd::new(&lbd);
    let mut link = vrrpd.accept();
    assert!(matches!(link.next(), ToVrrpd::Hello { .. }));
    // A new target takes the old one's place; its first check has yet to end when the new configuration is in use.
    let other = Server::echo((ip, 0).into());
    config.targets[0] = ("new".to_owned(), other.address, 1);
    assert_eq!(lbd.reload(&config).0, 200);
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        assert_eq!(link.next_health().services_without_targets, Vec::<String>::new());
    }
}

#[test]
fn stopping_waits_until_the_other_node_has_taken_over() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut lbd = lbd(&server, ip);
    let vrrpd = Vrrpd::new(&lbd);
    let mut link = vrrpd.accept();
    assert!(matches!(link.next(), ToVrrpd::Hello { .. }));
    link.say(Role::Active);
    eventually("the role is shown", || lbd.status()["roles"]["web"] == "active");
    lbd.signal(Signal::SIGTERM);
    link.health_until(|health| health.workers_alive == 0);
    for _ in 0..20 {
        assert_eq!(ping(&mut lbd.connect(), "hello").unwrap(), "hello", "still served while active");
    }
    link.say(Role::Backup);
    assert!(lbd.wait().success());
}

/// A `vrrpd` that stops as well keeps the role for 4 s, for the other node to learn what it lacks.
#[test]
fn stopping_goes_on_serving_for_as_long_as_vrrpd_waits_for_a_node_that_lacks_something() {
    let ips = [own_ip(), own_ip()];
    let server = Server::echo((ips[0], 0).into());
    let mut config = Config::new(ips[0], &[server.address]);
    // The other node is not there.
    config.head = peer::head(ips);
    config.node = Some("a".to_owned());
    let mut lbd = peer::start(&config, '7');
    let vrrpd = Vrrpd::new(&lbd);
    let mut link = vrrpd.accept();
    assert!(matches!(link.next(), ToVrrpd::Hello { .. }));
    link.say(Role::Active);
    eventually("the role is shown", || lbd.status()["roles"]["web"] == "active");
    eventually("the other node is known to lack everything", || {
        let state = crate::replication::state(&lbd);
        state["peer_synced"] == false
    });
    lbd.signal(Signal::SIGTERM);
    link.health_until(|health| health.workers_alive == 0);
    let begin = Instant::now();
    while begin.elapsed() < CATCH_UP_MAX {
        assert_eq!(ping(&mut lbd.connect(), "hello").unwrap(), "hello", "still served while active");
        std::thread::sleep(Duration::from_millis(20));
    }
    link.say(Role::Backup);
    assert!(lbd.wait().success());
}

#[test]
fn nonsense_from_vrrpd_does_no_harm() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let lbd = lbd(&server, ip);
    let vrrpd = Vrrpd::new(&lbd);
    let mut link = vrrpd.accept();
    assert!(matches!(link.next(), ToVrrpd::Hello { .. }));
    link.stream.write_all(&[0xff; 64]).unwrap();
    eventually("the link is given up", || lbd.status()["vrrpd_connected"] == false);
    assert_eq!(ping(&mut lbd.connect(), "hello").unwrap(), "hello");
}

/// Its end may be found out by reading or by writing, and before the second one has said that it counts.
#[test]
fn the_end_of_the_first_connection_is_not_the_second_one_s() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    let lbd = Lbd::start(&config);
    let vrrpd = Vrrpd::new(&lbd);
    let mut connection = vrrpd.accept();
    connection.next();
    for weight in 2..6 {
        config.targets[0].2 = weight;
        assert_eq!(lbd.reload(&config).0, 200);
        let mut second = vrrpd.accept();
        let ToVrrpd::Hello { .. } = second.next() else { panic!("no greeting") };
        // What it has not read is lost, which is an error at the other end.
        drop(connection);
        for _ in 0..3 {
            second.next_health();
        }
        connection = second;
    }
    assert_eq!(lbd.status()["vrrpd_connected"], true);
}

#[test]
fn a_new_configuration_is_told_without_a_gap() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    let lbd = Lbd::start(&config);
    let vrrpd = Vrrpd::new(&lbd);
    let mut first = vrrpd.accept();
    let ToVrrpd::Hello { config_hash: before, .. } = first.next() else { panic!("no greeting") };
    first.say(Role::Active);
    eventually("the role is shown", || lbd.status()["roles"]["web"] == "active");
    config.targets[0].2 = 2;
    assert_eq!(lbd.reload(&config).0, 200);
    let mut second = vrrpd.accept();
    let ToVrrpd::Hello { config_hash: after, .. } = second.next() else { panic!("no greeting") };
    assert_ne!(after, before);
    assert_eq!(lbd.status()["config_hash"], format!("{after:016x}"));
    second.next_health();
    for _ in 0..5 {
        first.next_health();
    }
    assert_eq!(lbd.status()["roles"]["web"], "active", "the roles are known all the time");
    second.say(Role::Backup);
    eventually("the second one counts", || lbd.status()["roles"]["web"] == "backup");
    second.next_health();
    second.next_health();
    assert_eq!(lbd.reload(&config).0, 200);
    drop(first);
    second.say(Role::Active);
    eventually("the same file needs no other", || lbd.status()["roles"]["web"] == "active");
    assert_eq!(lbd.status()["vrrpd_connected"], true);
}
