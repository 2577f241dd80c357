//! testssl.sh, which knows what is weak in TLS and looks for it.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::http::Target;
use crate::real::{Authority, KEY};
use crate::support::{Folder, Lbd, own_ip};

/// How it rates what should not be; what it cannot look at it calls `WARN`, and all else is `OK` or `INFO`.
const COMPLAINTS: [&str; 5] = ["LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL"];

/// Some of what it has to say that it is well, if it has looked at all.
const WELL: [&str; 15] = [
    "SSLv3",
    "TLS1_2",
    "TLS1_3",
    "cipher_order",
    "protocol_negotiated",
    "cipher_negotiated",
    "cert_trust",
    "cert_chain_of_trust",
    "cert_expirationStatus",
    "OCSP_stapling",
    "HSTS_time",
    "heartbleed",
    "CCS",
    "ROBOT",
    "SWEET32",
];

/// Where one could ask for the state of the certificate, if there were somebody: it wants a place to be named.
const RESPONDER: &str = "authorityInfoAccess=OCSP;URI:http://ocsp.example/\n";

/// What it looks at by default: protocols, kinds of cipher suites, forward secrecy, the server's preferences and defaults with its certificate,
/// headers, and known vulnerabilities. Two parts of that are left out, for they take longest and rate nothing: the list of all cipher suites, of which
/// the kinds are rated, and what clients of old would agree on.
const PARTS: [&str; 7] = ["-p", "-s", "-f", "-P", "-S", "-h", "-U"];

/// Of a service with `tls`, a certificate as public authorities sign it, with its OCSP response, and the two headers for answers that it wants of any
/// site. Whom to trust is told; DNS is not asked, so it does not look who may sign for the name (CAA).
#[test]
fn testssl_has_no_complaint() {
    let ip = own_ip();
    let (authority, target) = (Authority::new(), Target::named(ip, "ok"));
    authority.sign_extended(KEY, "shop", "DNS:shop.example", 90, RESPONDER);
    let [chain, key, response] =
        [authority.chain("shop"), authority.path("shop.key"), authority.vouch("shop", true, 3)]
            .map(|path| path.display().to_string());
    let mut config = super::super::config(ip, &[target.address]);
    config.service = format!(
        "tls = {{ certificates = [{{ certificate = \"{chain}\", key = \"{key}\", ocsp_file = \"{response}\" }}] }}\n\
         response_headers = {{ set = {{ Strict-Transport-Security = \"max-age=31536000\", X-Content-Type-Options = \"nosniff\" }} }}"
    );
    let lbd = Lbd::start(&config);
    let trusted = Folder::new();
    fs::copy(authority.file(), trusted.path().join("lab.pem")).unwrap();
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
    command.args(PARTS).args(["--ip", &ip.to_string(), "--jsonfile"]).arg(&report);
    command.arg(format!("shop.example:{}", lbd.address.port()));
    command.env("TERM", "dumb").env("CA_BUNDLES_PATH", trusted.path()).stdin(Stdio::null());
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
        // Where it has found several certificates, it says behind that which one.
        let is_it = |finding: &Value| {
            let rest = finding["id"].as_str().and_then(|its| its.strip_prefix(id));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" <"))
        };
        let well = findings.iter().any(|finding| is_it(finding) && rated(finding, &["OK"]));
        assert!(well, "nothing good is said of {id}: {said}");
    }
}
