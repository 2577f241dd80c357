//! The example files are right, and say what the documentation says they do.

use std::path::PathBuf;
use std::time::Duration;

use common::config::{self, Algorithm, Auth, Config, HealthCheck, Mode, Transport, VrrpVersion};

fn example(name: &str) -> Config {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
    config::load(&path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn minimal_has_the_defaults() {
    let config = example("minimal.toml");
    let vrrp = &config.vrrp[0];
    assert_eq!(vrrp.interface["a"], "eth0");
    assert_eq!(vrrp.interface["b"], "eth0");
    assert_eq!((vrrp.priority["a"].get(), vrrp.priority["b"].get()), (200, 100));
    assert_eq!(vrrp.advert_interval, Duration::from_secs(1));
    assert_eq!((vrrp.preempt, vrrp.preempt_delay), (true, Duration::ZERO));
    assert_eq!(
        (vrrp.transport, vrrp.auth, vrrp.version),
        (Transport::Multicast, Auth::None, VrrpVersion::V3)
    );
    assert!(!vrrp.track.lbd, "there is no service");
    assert_eq!((vrrp.announce.repeat, vrrp.announce.refresh), (5, Duration::from_secs(60)));
    assert_eq!(config.api.vrrpd.to_string(), "127.0.0.1:9112");
    assert_eq!(config.api.lbd.to_string(), "127.0.0.1:9180");
    assert!(config.services.is_empty() && config.target_groups.is_empty());
}

#[test]
fn active_passive_listens_on_every_vip() {
    let config = example("active-passive.toml");
    assert!(config.pair.key_file.as_ref().is_some_and(|path| path.ends_with("configs/pair.key")));
    assert_eq!(config.vrrp[0].auth, Auth::Hmac);
    assert!(config.vrrp[0].track.lbd);
    let service = &config.services[0];
    let listen: Vec<String> = service.listen.iter().map(|listen| listen.address.to_string()).collect();
    assert_eq!(listen, ["192.0.2.10:80", "[2001:db8::10]:80"]);
    assert!(service.listen.iter().all(|listen| listen.instance.as_deref() == Some("web")));
    assert_eq!(service.timeout.connect, Duration::from_secs(5));
    assert_eq!(service.limits.max_connections, 100_000);
    let health = config.target_groups[0].health.as_ref().unwrap();
    let expected = HealthCheck::Http { path: "/health".to_owned(), host: None, expect: vec![(200, 299)] };
    assert_eq!(health.check, expected);
    assert_eq!((health.interval, health.timeout), (Duration::from_secs(5), Duration::from_secs(2)));
}

#[test]
fn active_active_has_opposite_priorities() {
    let config = example("active-active.toml");
    let leader =
        |index: usize| config.vrrp[index].priority.iter().max_by_key(|(_, p)| **p).unwrap().0.clone();
    assert_eq!((leader(0), leader(1)), ("a".to_owned(), "b".to_owned()));
}

#[test]
fn full_reads_every_key() {
    let config = example("full.toml");
    let vrrp = &config.vrrp[0];
    assert_eq!((vrrp.interface["a"].as_str(), vrrp.interface["b"].as_str()), ("eth0", "ens3"));
    assert_eq!(vrrp.addresses["b"][1].to_string(), "2001:db8::3");
    assert_eq!(vrrp.hooks.on_backup, ["/usr/local/bin/notify", "backup"]);
    assert_eq!(vrrp.track.gateway.unwrap().to_string(), "192.0.2.1");
    assert_eq!(config.services[0].mode, Mode::Tcp);
    assert_eq!(config.services[0].listen.len(), 4);
    let group = &config.target_groups[0];
    assert_eq!(group.algorithm, Algorithm::RoundRobin);
    assert_eq!(group.targets[2].id, "10.0.1.13:8080");
    assert_eq!((group.targets[0].weight, group.targets[1].weight), (2, 1));
    assert!(config.api.token_file.as_ref().is_some_and(|path| path.ends_with("configs/api.token")));
    let HealthCheck::Http { expect, .. } = &group.health.as_ref().unwrap().check else { panic!("not http") };
    assert_eq!(expect, &[(200, 299), (304, 304)]);
}
