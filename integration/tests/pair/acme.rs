//! Certificates that are ordered for names that lead to a virtual IP: who has it orders, and the other node serves with what was got.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::pair_support::{LIMIT, agreed, every, owned_by, start_all, vips, vrrpd};
use integration::lab::addresses::client_addresses;
use integration::lab::clock::wait_until;
use integration::lab::config::PairConfig;
use integration::lab::{Lab, Node, Result, Target};

const NAME: &str = "shop.test";

/// Of what is signed a third is left when it is renewed: long enough for a switchover before that.
const SECONDS: u64 = 24;

/// The client's address, where the authority and the DNS server are.
fn client() -> IpAddr {
    client_addresses(vips()[0])[0]
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl is there");
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts pebble and dnsmasq at the client.
fn start_authority(lab: &Lab) -> Result<()> {
    let (folder, ip, key) = (lab.dir(), client(), "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes");
    openssl(folder, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=lab -days 2"));
    openssl(folder, &format!("req {key} -keyout pebble.key -out pebble.csr -subj /CN=pebble"));
    let extensions = format!("subjectAltName=IP:{ip}\nbasicConstraints=critical,CA:FALSE\n");
    fs::write(folder.join("pebble.ext"), extensions).expect("the lab's folder can be written to");
    openssl(
        folder,
        "x509 -req -in pebble.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile pebble.ext -out pebble.pem",
    );
    let config = serde_json::json!({ "pebble": {
        "listenAddress": format!("{ip}:14000"),
        "managementListenAddress": format!("{ip}:15000"),
        "certificate": folder.join("pebble.pem"),
        "privateKey": folder.join("pebble.key"),
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": false,
        "certificateValidityPeriod": SECONDS,
    }});
    fs::write(folder.join("pebble.json"), config.to_string()).expect("the lab's folder can be written to");
    let mut dnsmasq = lab.client().command("dnsmasq");
    dnsmasq.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
    ]);
    dnsmasq.args(["--bind-interfaces", "--pid-file=", "--listen-address=127.0.0.1", "--port=5353"]);
    dnsmasq.arg(format!("--address=/{NAME}/{}", vips()[0]));
    lab.client().start("dnsmasq", dnsmasq)?;
    let mut pebble = lab.client().command("pebble");
    pebble.arg("-config").arg(folder.join("pebble.json")).args(["-dnsserver", "127.0.0.1:5353"]);
    pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
    lab.client().start("pebble", pebble)?;
    let root = folder.join("root.pem").display().to_string();
    let url = format!("https://{ip}:15000/roots/0");
    let ca = folder.join("ca.pem").display().to_string();
    wait_until("pebble to tell its root", LIMIT, || {
        lab.client().run("curl", &["-sS", "--fail", "--cacert", &ca, "-o", &root, &url]).is_ok()
    })
}

/// A pair with a certificate to be ordered: `a` is active.
fn serving(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    start_authority(&lab)?;
    let targets: Vec<SocketAddr> = lab.targets().iter().map(Target::http_address).collect();
    let acme = format!(
        "\n[acme]\ndirectory = \"https://{}:14000/dir\"\naccept_terms = true\nroots = {:?}\nfolder = \"acme\"\n",
        client(),
        lab.dir().join("ca.pem")
    );
    let config = PairConfig::new(vec![every("100ms")])
        .service("web", "http", "@web:443", "web", &format!("tls = {{ acme = [{NAME:?}] }}"))
        .service("clear", "http", "@web:80", "web", "")
        .target_group("web", &targets, "")
        .raw(&acme);
    lab.write_config(&config)?;
    start_all(&lab)?;
    Ok(lab)
}

/// The certificate that a node shows, if it has one.
fn shown(node: &Node) -> Option<String> {
    let services = node.get("lbd", "/v1/services").ok()?.json().ok()?;
    services[0]["tls"]["certificates"][0]["sha256"].as_str().map(str::to_owned)
}

fn orders(node: &Node) -> u64 {
    node.counted("tandem_lbd_acme_orders_total", "").unwrap_or_default()
}

/// Whether the client takes the certificate that it gets at the virtual IP.
fn is_taken(lab: &Lab) -> bool {
    let root = lab.dir().join("root.pem").display().to_string();
    let resolve = format!("{NAME}:443:{}", vips()[0]);
    let url = format!("https://{NAME}/");
    lab.client().run("curl", &["-sS", "--fail", "--cacert", &root, "--resolve", &resolve, &url]).is_ok()
}

#[test]
fn who_has_the_virtual_ip_orders_and_both_serve_with_it() -> Result<()> {
    let lab = serving("acme")?;
    let [a, b] = lab.nodes();
    wait_until("both nodes to have the certificate", LIMIT, || shown(a).is_some() && shown(a) == shown(b))?;
    assert_eq!((orders(a), orders(b)), (1, 0));
    assert!(is_taken(&lab));
    let first = shown(a);
    let (good, _, complaint) = vrrpd(a, &["switchover", "web"]);
    assert!(good, "{complaint}");
    agreed(&lab, b)?;
    owned_by(&lab, b)?;
    // Nothing was ordered for that; and it is the other one that renews.
    assert!(is_taken(&lab));
    wait_until("the other node to renew it", LIMIT, || orders(b) == 1 && shown(b) != first)?;
    wait_until("both nodes to have the new one", LIMIT, || shown(a) == shown(b))?;
    assert_eq!(orders(a), 1);
    assert!(is_taken(&lab));
    lab.finish()
}
