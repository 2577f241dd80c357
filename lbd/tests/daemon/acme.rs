//! Certificates that are ordered (ACME) from a real authority, pebble, which asks the names that it is to sign.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::http::{Target, ask};
use crate::peer;
use crate::real::{Authority, Dns, Pebble};
use crate::support::{Folder, Lbd, eventually, free, metric, own_ip};

/// So long a certificate is good in tests that are over before anything is renewed.
const LONG: u64 = 3600;

const NAMES: [&str; 2] = ["www.shop.test", "shop.test"];

/// What the nodes and the authority have to do with each other.
struct World {
    authority: Authority,
    /// Where pebble listens, or is to.
    directory: SocketAddr,
    /// Where it asks.
    http_port: u16,
    dns: Dns,
}

impl World {
    /// The names lead to this address.
    fn leading_to(ip: Ipv4Addr) -> Self {
        Self {
            authority: Authority::new(),
            directory: free(own_ip()),
            http_port: free(ip).port(),
            dns: Dns::leading_to(own_ip(), ip),
        }
    }

    fn pebble(&self, seconds: u64) -> Pebble {
        Pebble::start(&self.authority, self.directory, self.http_port, self.dns.address, seconds)
    }

    fn node(&self, ip: Ipv4Addr, target: &Target) -> Node {
        Node { ip, tls: free(ip), clear: SocketAddr::from((ip, self.http_port)), target: target.address }
    }

    /// The configuration of a node that keeps what it has in `state`.
    fn text(&self, node: &Node, head: &str, state: &Path) -> String {
        let [www, shop] = NAMES;
        format!(
            "{head}[acme]\ndirectory = \"https://{}/dir\"\naccept_terms = true\nroots = {:?}\nhttp_port = {}\nfolder = {:?}\n\
             [[service]]\nname = \"web\"\nmode = \"http\"\nlisten = [\"{}\"]\nforward = \"pool\"\n\
             tls = {{ acme = [\"{www}\", \"{shop}\"] }}\n\
             [[service]]\nname = \"clear\"\nmode = \"http\"\nlisten = [\"{}\"]\n\
             [[service.rule]]\nwhen = {{ path_prefix = \"/\" }}\nredirect = {{ to = \"https://{{host}}{{path}}\", status = 308 }}\n\
             [[target_group]]\nname = \"pool\"\ntargets = [{{ id = \"t0\", address = \"{}\" }}]\n\
             [api]\nlbd = \"{}:9180\"\n",
            self.directory,
            self.authority.file(),
            self.http_port,
            state,
            node.tls,
            node.clear,
            node.target,
            node.ip,
        )
    }

    fn start(&self, node: &Node, state: &Path) -> Lbd {
        Lbd::start_with(Folder::new(), &self.text(node, "", state), node.tls, |_| ())
    }
}

/// Where a node listens.
struct Node {
    ip: Ipv4Addr,
    tls: SocketAddr,
    clear: SocketAddr,
    target: SocketAddr,
}

/// What curl gets from the service for a name, if it takes the certificate.
fn fetch(root: &Path, name: &str, address: SocketAddr) -> Option<String> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "10", "--noproxy", "*", "--cacert"]).arg(root);
    command.args(["--resolve", &format!("{name}:{}:{}", address.port(), address.ip())]);
    let output = command.arg(format!("https://{name}:{}/", address.port())).output().expect("curl runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_served(root: &Path, lbd: &Lbd) {
    for name in NAMES {
        eventually(&format!("{name} is served"), || {
            fetch(root, name, lbd.address).as_deref() == Some("hello")
        });
    }
}

/// What is shown of the service's TLS.
fn tls(lbd: &Lbd) -> Value {
    lbd.status()["services"][0]["tls"].clone()
}

/// Which certificate clients get.
fn shown(lbd: &Lbd) -> Option<String> {
    tls(lbd)["certificates"][0]["sha256"].as_str().map(str::to_owned)
}

fn count(lbd: &Lbd, name: &str, labels: &str) -> u64 {
    metric(lbd, &format!("tandem_lbd_acme_{name}")).get(labels).copied().unwrap_or(0)
}

/// The bundles in a folder.
fn bundles(state: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|it| it == "pem")).collect()
}

#[test]
fn a_certificate_is_ordered_for_both_names_and_outlives_reloads_and_restarts() {
    let ip = own_ip();
    let (world, state, target) = (World::leading_to(ip), Folder::new(), Target::named(ip, "hello"));
    let node = world.node(ip, &target);
    let pebble = world.pebble(LONG);
    let root = pebble.root();
    let lbd = world.start(&node, state.path());
    is_served(&root, &lbd);
    let first = shown(&lbd).unwrap();
    assert_eq!(count(&lbd, "orders_total", ""), 1);
    assert_eq!(count(&lbd, "certificates_issued_total", ""), 1);
    assert!(count(&lbd, "challenges_answered_total", "") >= 2, "one for each name at the least");
    eventually("it is shown", || tls(&lbd)["ordered"]["state"] == "here");
    let ordered = tls(&lbd)["ordered"].clone();
    assert_eq!((&ordered["ordered_here"], &ordered["failures"]), (&true.into(), &0.into()), "{ordered}");
    assert!(ordered["next_order_unix_ms"].as_u64().is_some(), "{ordered}");
    // Whoever asks for something else meets the rules, as ever.
    for path in ["/.well-known/acme-challenge/unknown", "/.well-known/acme-challenge/", "/"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n");
        assert_eq!(ask(node.clear, &request).status(), 308, "{path}");
    }
    let kept = bundles(state.path());
    let [bundle] = &kept[..] else { panic!("one certificate, not {kept:?}") };
    assert_eq!(fs::metadata(bundle).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(lbd.ask("POST", "/v1/reload").0, 200);
    assert_eq!(
        (fetch(&root, NAMES[0], lbd.address).as_deref(), shown(&lbd)),
        (Some("hello"), Some(first.clone()))
    );
    drop(lbd);
    drop(pebble);
    // A new process has it from the disk, whatever has become of the authority, and orders nothing.
    let lbd = world.start(&node, state.path());
    assert_eq!(fetch(&root, NAMES[1], lbd.address).as_deref(), Some("hello"));
    assert_eq!((shown(&lbd), count(&lbd, "orders_total", "")), (Some(first), 0));
}

#[test]
fn a_directory_that_is_down_delays_no_start_and_is_asked_again() {
    let ip = own_ip();
    let (world, state, target) = (World::leading_to(ip), Folder::new(), Target::named(ip, "hello"));
    let node = world.node(ip, &target);
    let lbd = world.start(&node, state.path());
    eventually("the failure is counted", || count(&lbd, "failures_total", "{reason=\"directory\"}") >= 1);
    lbd.says("no certificate: cannot make an account: cannot connect to");
    assert_eq!(fetch(&world.authority.file(), NAMES[0], lbd.address), None);
    let refused = "{service=\"web\",reason=\"no_certificate\"}";
    eventually("the handshake is counted as what it is", || {
        metric(&lbd, "tandem_lbd_service_tls_handshakes_failed_total")[refused] >= 1
    });
    eventually("it is shown", || tls(&lbd)["ordered"]["last_failure_kind"] == "directory");
    eventually("the status says so", || {
        let status = String::from_utf8(lbd.command(&["status"]).stdout).unwrap();
        status.contains("certificate of web for shop.test www.shop.test: missing; ")
    });
    assert_eq!(count(&lbd, "orders_total", ""), 0, "no authority has counted any");
    let pebble = world.pebble(LONG);
    is_served(&pebble.root(), &lbd);
    assert_eq!(tls(&lbd)["certificates"].as_array().unwrap().len(), 1);
}

#[test]
fn a_name_that_leads_elsewhere_is_told_with_what_the_authority_says() {
    let ip = own_ip();
    // Nobody listens there.
    let (world, state, target) = (World::leading_to(own_ip()), Folder::new(), Target::named(ip, "hello"));
    let node = world.node(ip, &target);
    let _pebble = world.pebble(LONG);
    let lbd = world.start(&node, state.path());
    eventually("the failure is counted", || count(&lbd, "failures_total", "{reason=\"challenge\"}") == 1);
    assert_eq!((count(&lbd, "orders_total", ""), bundles(state.path())), (1, Vec::new()));
    lbd.says("the names were not confirmed");
    // Not before a minute is over.
    eventually("it is shown", || tls(&lbd)["ordered"]["failures"] == 1);
    let ordered = tls(&lbd)["ordered"].clone();
    let [failed, next] =
        ["last_failure_unix_ms", "next_order_unix_ms"].map(|key| ordered[key].as_u64().unwrap());
    assert!(next >= failed + 59_000, "{ordered}");
}

#[test]
fn a_certificate_is_renewed_before_its_end_while_clients_are_served() {
    let ip = own_ip();
    let (world, state, target) = (World::leading_to(ip), Folder::new(), Target::named(ip, "hello"));
    let node = world.node(ip, &target);
    // A third of this is enough to be renewed in.
    let pebble = world.pebble(18);
    let root = pebble.root();
    let lbd = world.start(&node, state.path());
    is_served(&root, &lbd);
    let first = shown(&lbd);
    eventually("it is renewed", || {
        assert_eq!(fetch(&root, NAMES[0], lbd.address).as_deref(), Some("hello"));
        shown(&lbd) != first
    });
    assert_eq!(fetch(&root, NAMES[0], lbd.address).as_deref(), Some("hello"));
    assert_eq!(bundles(state.path()).len(), 1, "in the place of the first one");
}

#[test]
fn the_other_node_answers_for_an_order_and_gets_the_certificate_without_one() {
    let ips = [own_ip(), own_ip()];
    // The names lead to b, so that it is b who is asked about what a has ordered.
    let world = World::leading_to(ips[1]);
    let states = [Folder::new(), Folder::new()];
    let targets = ips.map(|ip| Target::named(ip, "hello"));
    let nodes: Vec<Node> = ips.iter().zip(&targets).map(|(&ip, target)| world.node(ip, target)).collect();
    let head = peer::head(ips);
    let start = |place: usize| {
        let folder = Folder::new();
        peer::write_key(&folder, '7');
        let text = world.text(&nodes[place], &head, states[place].path());
        Lbd::start_with(folder, &text, nodes[place].tls, |command| {
            command.args(["--node", ["a", "b"][place]]);
        })
    };
    let pebble = world.pebble(LONG);
    let root = pebble.root();
    let (a, b) = (start(0), start(1));
    is_served(&root, &a);
    is_served(&root, &b);
    assert_eq!(shown(&a), shown(&b));
    assert_eq!([&a, &b].map(|lbd| count(lbd, "orders_total", "")), [1, 0]);
    assert_eq!(count(&b, "certificates_received_total", "{result=\"taken\"}"), 1);
    assert_eq!(count(&a, "challenges_answered_total", ""), 0);
    assert!(count(&b, "challenges_answered_total", "") >= 2);
    let first = shown(&a);
    drop((a, b));
    drop(pebble);
    // It is on the other node's own disk.
    let b = start(1);
    assert_eq!((fetch(&root, NAMES[0], b.address).as_deref(), shown(&b)), (Some("hello"), first));
}

#[test]
fn what_the_other_node_cannot_keep_is_taken_once_it_can() {
    let ips = [own_ip(), own_ip()];
    let world = World::leading_to(ips[1]);
    let states = [Folder::new(), Folder::new()];
    // A file is where a folder is to be.
    let blocked = states[1].path().join("blocked");
    fs::write(&blocked, "").unwrap();
    let folders = [states[0].path().to_owned(), blocked.join("acme")];
    let targets = ips.map(|ip| Target::named(ip, "hello"));
    let head = peer::head(ips);
    let start = |place: usize| {
        let folder = Folder::new();
        peer::write_key(&folder, '7');
        let node = world.node(ips[place], &targets[place]);
        Lbd::start_with(folder, &world.text(&node, &head, &folders[place]), node.tls, |command| {
            command.args(["--node", ["a", "b"][place]]);
        })
    };
    let pebble = world.pebble(LONG);
    let root = pebble.root();
    let (a, b) = (start(0), start(1));
    is_served(&root, &a);
    eventually("it cannot be kept", || count(&b, "failures_total", "{reason=\"local\"}") >= 1);
    b.says("a certificate of the other node's is not used yet: cannot keep it in");
    assert_eq!((fetch(&root, NAMES[0], b.address), bundles(&folders[1])), (None, Vec::new()));
    fs::remove_file(&blocked).unwrap();
    is_served(&root, &b);
    assert_eq!((shown(&a), bundles(&folders[1]).len()), (shown(&b), 1));
    assert_eq!([&a, &b].map(|lbd| count(lbd, "orders_total", "")), [1, 0]);
    assert_eq!(count(&b, "certificates_received_total", "{result=\"refused\"}"), 0);
}

#[test]
fn another_directory_takes_over_from_the_first_one_when_it_has_signed() {
    let ip = own_ip();
    let (world, state, target) = (World::leading_to(ip), Folder::new(), Target::named(ip, "hello"));
    let other = World { http_port: world.http_port, ..World::leading_to(ip) };
    let node = world.node(ip, &target);
    let pebble = world.pebble(LONG);
    let root = pebble.root();
    let lbd = world.start(&node, state.path());
    is_served(&root, &lbd);
    let first = shown(&lbd);
    let change_to = |world: &World| {
        lbd.write_config(&world.text(&node, "", state.path()));
        assert_eq!(lbd.ask("POST", "/v1/reload").0, 200);
    };
    // Nobody is there yet, and clients get what there is.
    change_to(&other);
    eventually("the other one is asked", || count(&lbd, "failures_total", "{reason=\"directory\"}") >= 1);
    assert_eq!((fetch(&root, NAMES[0], lbd.address).as_deref(), shown(&lbd)), (Some("hello"), first.clone()));
    let (_, metrics) = lbd.ask("GET", "/metrics");
    assert!(metrics.contains("tandem_lbd_acme_certificates{state=\"missing\"} 1"), "what stands in is none");
    let another = other.pebble(LONG);
    is_served(&another.root(), &lbd);
    assert_ne!(shown(&lbd), first);
    assert_eq!((count(&lbd, "orders_total", ""), bundles(state.path()).len()), (2, 2));
    // What the first one has signed is still there.
    change_to(&world);
    is_served(&root, &lbd);
    assert_eq!((shown(&lbd), count(&lbd, "orders_total", "")), (first, 2));
}

#[test]
fn a_directory_that_says_nothing_keeps_a_reload_waiting_no_longer_than_others() {
    let ip = own_ip();
    let (world, state, target) = (World::leading_to(ip), Folder::new(), Target::named(ip, "hello"));
    let node = world.node(ip, &target);
    // It takes connections, and that is all.
    let _mute = TcpListener::bind(world.directory).unwrap();
    let lbd = world.start(&node, state.path());
    eventually("it is asked", || tls(&lbd)["ordered"]["state"] == "under_way");
    let [www, shop] = NAMES;
    let both = format!("acme = [\"{www}\", \"{shop}\"]");
    let text = world.text(&node, "", state.path()).replace(&both, &format!("acme = [\"{shop}\"]"));
    lbd.write_config(&text);
    assert_eq!(lbd.ask("POST", "/v1/reload").0, 200);
    eventually("what is new is seen while it says nothing", || {
        let ordered = tls(&lbd)["ordered"].clone();
        let is_seen = ordered["names"] == serde_json::json!([shop]) && ordered["state"] == "missing";
        is_seen && count(&lbd, "failures_total", "{reason=\"directory\"}") == 0
    });
}
