//! testssl.sh, which knows what is weak in TLS and looks for it.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{config, shop};
use crate::http::Target;
use crate::support::{Lbd, own_ip};

/// How it rates what should not be; what it cannot look at it calls `WARN`, and all else is `OK` or `INFO`.
const COMPLAINTS: [&str; 5] = ["LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL"];

/// Some of what it has to say that it is well, if it has looked at all.
const WELL: [&str; 7] = ["SSLv3", "TLS1_2", "TLS1_3", "heartbleed", "CCS", "ROBOT", "SWEET32"];

/// Protocols, kinds of cipher suites, forward secrecy and known vulnerabilities of a service with `tls` and nothing more. Not the order of cipher suites,
/// which is the client's on purpose: all of them are good, and it knows which ones it computes fast.
#[test]
fn testssl_has_no_complaint() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "ok"));
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let report = lbd.folder.path().join("testssl.json");
    let mut command = Command::new("testssl");
    command.args([
        "--quiet",
        "--color",
        "0",
        "--warnings",
        "off",
        "--nodns",
        "none",
        "--openssl-timeout",
        "10",
    ]);
    command.args(["-p", "-s", "-f", "-U", "--ip", &ip.to_string(), "--jsonfile"]).arg(&report);
    command.arg(format!("shop.example:{}", lbd.address.port())).env("TERM", "dumb").stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("testssl: {error}; run scripts/setup test"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let findings = fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {said}"));
    let findings: Vec<Value> =
        serde_json::from_str(&findings).unwrap_or_else(|error| panic!("{error}: {said}"));
    let rated =
        |finding: &Value, ratings: &[&str]| ratings.iter().any(|rating| finding["severity"] == *rating);
    let complaints: Vec<&Value> = findings.iter().filter(|finding| rated(finding, &COMPLAINTS)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}\n{said}");
    for id in WELL {
        let well = findings.iter().any(|finding| finding["id"] == id && rated(finding, &["OK"]));
        assert!(well, "nothing good is said of {id}: {said}");
    }
}
