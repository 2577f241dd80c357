//! Targets that are found: in a file, by a real dnsmasq, in a real etcd, and in Consul's recorded answers.

mod consul;
mod dns;
mod etcd;
mod file;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Config, Lbd, eventually, own_ip};

/// What the whole daemon may take, in KiB, whatever the source says.
const MEMORY_KIB_MAX: u64 = 128 * 1024;

/// A configuration without written targets that finds some.
fn config(discover: &str) -> Config {
    let mut config = Config::new(own_ip(), &[]);
    config.group = format!("discover = {{ {discover} }}");
    config
}

/// The API's word on the group's discovery.
fn discovery(lbd: &Lbd) -> Value {
    lbd.status()["target_groups"][0]["discovery"].clone()
}

/// The addresses of the group's targets, without those whose last connections go on.
fn addresses(lbd: &Lbd) -> BTreeSet<String> {
    let status = lbd.status();
    let targets = status["target_groups"][0]["targets"].as_array().unwrap();
    let present = targets.iter().filter(|target| target["health"] != "removed");
    present.map(|target| target["address"].as_str().unwrap().to_owned()).collect()
}

/// Waits until the group has exactly these targets.
fn await_addresses<A: ToString>(lbd: &Lbd, expected: &[A]) {
    let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
    eventually(&format!("the targets are {expected:?}"), || addresses(lbd) == expected);
}

/// Has the source asked; answers status and body.
fn refresh(lbd: &Lbd) -> (u16, String) {
    lbd.ask("POST", "/v1/target-groups/pool/refresh")
}

/// A line of the metrics.
fn metric(lbd: &Lbd, name_and_labels: &str) -> f64 {
    let (_, text) = lbd.ask("GET", "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name_and_labels} in {text}")).parse().unwrap()
}
