//! Clients behind proxies whose word is taken: whatever is decided about a request is about whom they name.

use std::io::Read;
use std::net::{IpAddr, TcpStream};

use super::config;
use super::peers::{Client, Target, ask};
use super::real::curl;
use crate::support::{Config, Folder, Lbd, PATIENCE, eventually, metric, own_ip, patient, records};

/// The proxies are on the addresses that tests connect from.
const TRUST: &str = "trust_forwarded = [\"127.0.0.0/8\"]\n";

/// A request with these fields.
fn with(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")
}

/// The fields of a proxy that has this list.
fn list(value: &str) -> String {
    format!("X-Forwarded-For: {value}\r\n")
}

fn serving(target: &Target, service: &str) -> Config {
    let IpAddr::V4(ip) = target.address.ip() else { panic!("{}", target.address) };
    let mut config = config(ip, &[target.address]);
    config.service = format!("{TRUST}{service}");
    config
}

#[test]
fn a_rate_is_each_client_s_that_a_proxy_names() {
    let target = Target::named(own_ip(), "x");
    let rate = "http2 = true\nrate = { key = \"source_ip\", requests = 2, per = \"1h\" }";
    let mut config = serving(&target, rate);
    let lbd = Lbd::start(&config);
    let asked = |fields: &str| ask(lbd.address, &with("/", fields)).status();
    let of = |value: &str| asked(&list(value));
    assert_eq!([of("203.0.113.5"), of("203.0.113.5"), of("203.0.113.5")], [200, 200, 429]);
    assert_eq!(of("203.0.113.6, 203.0.113.5"), 429, "what he says himself is to the left of that");
    assert_eq!(of("203.0.113.6, 127.0.0.9"), 200, "the proxy behind it is one, too");
    assert_eq!(asked(&(list("203.0.113.7") + &list("203.0.113.5"))), 429);
    // HTTP/2 is no way around it, nor is another field.
    let url = format!("http://{}/", lbd.address);
    let by_http2 = ["--http2-prior-knowledge", "-H", "X-Forwarded-For: 203.0.113.5", "-w", "%{http_code}"];
    assert!(curl(&[&by_http2[..], &[url.as_str()]].concat()).ends_with("429"));
    assert_eq!(asked(&(list("203.0.113.5") + "Forwarded: for=203.0.113.8\r\n")), 429);
    let six = "Forwarded: for=192.0.2.1, for=\"[2001:db8::5]:4711\";proto=https\r\n";
    assert_eq!([asked(six), asked(six), asked(six)], [200, 200, 429]);
    // Whom it does not name is the proxy itself.
    assert_eq!([of("unknown"), of("203.0.113.9, _x"), of(""), asked("")], [200, 200, 429, 429]);
    drop(lbd);
    config.service = config.service.replace("127.0.0.0/8", "192.0.2.0/24");
    let lbd = Lbd::start(&config);
    let of = |value: &str| ask(lbd.address, &with("/", &list(value))).status();
    assert_eq!([of("203.0.113.5"), of("203.0.113.6"), of("203.0.113.7")], [200, 200, 429], "no proxy");
}

#[test]
fn lists_and_rules_are_about_the_client() {
    let target = Target::named(own_ip(), "there");
    let lbd = Lbd::start(&serving(
        &target,
        "access = { allow = [\"203.0.113.0/24\"] }\n\
         [[service.rule]]\nwhen = { source = [\"203.0.113.64/26\"] }\nrespond = { status = 200, body = \"office\" }\n\
         [[service.rule]]\nwhen = { path = \"/private\" }\nforward = \"pool\"\naccess = { allow = [\"203.0.113.7\"] }",
    ));
    // One connection, for it is the proxy's.
    let mut proxy = Client::new(lbd.address);
    let mut asked = |path: &str, fields: &str| {
        let answer = proxy.send(with(path, fields)).answer();
        (answer.status(), answer.text().to_owned())
    };
    let there = (200, "there".to_owned());
    assert_eq!(asked("/", &list("203.0.113.5")), there);
    assert_eq!(asked("/", &list("203.0.113.70")), (200, "office".to_owned()));
    assert_eq!(asked("/private", &list("203.0.113.7")), there);
    assert_eq!(asked("/private", &list("203.0.113.5")).0, 403);
    assert_eq!(asked("/", &list("203.0.113.5, 198.51.100.1")).0, 403);
    assert_eq!(asked("/", "").0, 403, "its own requests are those of its own address");
    assert_eq!(asked("/", &list("203.0.113.5")), there, "the connection goes on");
    assert_eq!(target.seen().len(), 3);
    eventually("it is counted", || {
        let denied = metric(&lbd, "tandem_lbd_service_http_requests_denied_total");
        denied["{service=\"web\",reason=\"access\"}"] == 3
    });
}

#[test]
fn whom_the_list_denies_is_no_proxy() {
    let target = Target::named(own_ip(), "there");
    let mut config = serving(&target, "access = { deny = [\"127.255.0.66\"] }");
    let lbd = Lbd::start(&config);
    let mut proxy = Client::new(lbd.address);
    let mut asked = |value: &str| proxy.send(with("/", &list(value))).answer().status();
    assert_eq!(asked("203.0.113.5, 127.255.0.65"), 200);
    assert_eq!(asked("203.0.113.5, 127.255.0.66"), 403, "who names him is the one that is denied");
    config.service = config.service.replace("127.255.0.66", "127.0.0.0/8");
    assert_eq!(lbd.reload(&config).0, 200);
    // It may hear of that before it knows that it is connected.
    let heard = TcpStream::connect_timeout(&lbd.address, PATIENCE).and_then(|mut another| {
        patient(&another);
        another.read(&mut [0])
    });
    assert!(!matches!(heard, Ok(1)), "it does not even connect");
    assert_eq!(asked("203.0.113.5"), 403, "nor does it ask any more");
    assert_eq!(target.seen().len(), 1);
}

#[test]
fn a_client_behind_a_proxy_comes_back_to_its_target() {
    let ip = own_ip();
    let targets = [Target::named(ip, "a"), Target::named(ip, "b")];
    let mut config = config(ip, &targets.each_ref().map(|target| target.address));
    config.service = TRUST.to_owned();
    config.group = "sticky = { by = \"source_ip\" }".to_owned();
    let lbd = Lbd::start(&config);
    let asked =
        |client: u8| ask(lbd.address, &with("/", &list(&format!("203.0.113.{client}")))).text().to_owned();
    let first: Vec<String> = (1..=20).map(asked).collect();
    let again: Vec<String> = (1..=20).map(asked).collect();
    assert_eq!(first, again);
    assert!(targets.iter().all(|target| !target.seen().is_empty()), "{first:?}");
}

#[test]
fn the_log_has_the_client_and_the_proxy_that_names_it() {
    let target = Target::named(own_ip(), "x");
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let log = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}\n\
         access = {{ allow = [{{ network = \"203.0.113.0/24\", tag = \"known\" }}, \"127.0.0.0/8\"] }}",
        path.display()
    );
    let lbd = Lbd::start_in(folder, &serving(&target, &log));
    let mut proxy = Client::new(lbd.address);
    let from = proxy.stream().local_addr().unwrap().to_string();
    for fields in [list("198.51.100.1, 203.0.113.5"), list("203.0.113.5:4711"), String::new()] {
        assert_eq!(proxy.send(with("/", &fields)).answer().status(), 200);
    }
    let all = records(&path, 3);
    let about = |record: &serde_json::Value| {
        ["client", "proxy", "tag"].map(|key| record[key].as_str().unwrap_or("-").to_owned())
    };
    let all: Vec<[String; 3]> = all.iter().map(about).collect();
    let from = from.as_str();
    let expected = [["203.0.113.5:0", from, "known"], ["203.0.113.5:4711", from, "known"], [from, "-", "-"]];
    assert_eq!(all, expected.map(|row| row.map(str::to_owned)));
}

#[test]
fn the_log_has_the_proxy_that_names_a_connection_s_client() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = config(ip, &[target.address]);
    config.service = format!(
        "accept_proxy = [\"127.0.0.0/8\"]\ntrust_forwarded = [\"203.0.113.9\"]\n\
         access_log = {{ format = \"json\", file = \"{}\" }}",
        path.display()
    );
    let lbd = Lbd::start_in(folder, &config);
    let mut expected = Vec::new();
    // Whom the header names may be a proxy that names somebody in its turn, or not.
    for (named, client) in [("203.0.113.9", "192.0.2.5:0"), ("203.0.113.10", "203.0.113.10:5000")] {
        let mut proxy = Client::new(lbd.address);
        expected.push((client.to_owned(), proxy.stream().local_addr().unwrap().to_string()));
        proxy.send(format!("PROXY TCP4 {named} 198.51.100.1 5000 80\r\n{}", with("/", &list("192.0.2.5"))));
        assert_eq!(proxy.answer().status(), 200);
        records(&path, expected.len());
    }
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let logged: Vec<(String, String)> =
        records(&path, 2).iter().map(|record| (text(&record["client"]), text(&record["proxy"]))).collect();
    assert_eq!(logged, expected);
    let lists: Vec<String> =
        target.seen().iter().map(|seen| seen.field("x-forwarded-for").unwrap().to_owned()).collect();
    assert_eq!(lists, ["192.0.2.5, 203.0.113.9", "203.0.113.10"]);
}

#[test]
fn whoever_passes_on_a_connection_has_not_written_its_requests() {
    let target = Target::named(own_ip(), "x");
    let lbd = Lbd::start(&serving(&target, "accept_proxy = [\"127.0.0.0/8\"]"));
    let forged = list("192.0.2.5")
        + "X-Forwarded-Proto: https\r\nForwarded: for=192.0.2.5\r\nX-Real-IP: 192.0.2.5\r\n\
           X-Request-ID: mine\r\nX-Client-Cert-Verify: SUCCESS\r\n";
    let told = |named: &str| {
        let mut proxy = Client::new(lbd.address);
        proxy.send(format!("PROXY TCP4 {named} 198.51.100.1 5000 80\r\n{}", with("/", &forged)));
        assert_eq!(proxy.answer().status(), 200);
        target.last()
    };
    let seen = told("203.0.113.9");
    assert_eq!(seen.all("x-forwarded-for"), ["203.0.113.9"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    for name in ["forwarded", "x-real-ip", "x-client-cert-verify"] {
        assert_eq!(seen.field(name), None, "{name}");
    }
    assert_ne!(seen.field("x-request-id"), Some("mine"));
    // Whom the header names may be such a proxy itself.
    let seen = told("127.0.0.9");
    assert_eq!(seen.all("x-forwarded-for"), ["192.0.2.5, 127.0.0.9"]);
    assert_eq!((seen.field("x-real-ip"), seen.field("x-request-id")), (Some("192.0.2.5"), Some("mine")));
}

#[test]
fn targets_are_told_in_forwarded_where_that_is_wanted() {
    let target = Target::named(own_ip(), "x");
    let mut config = serving(&target, "");
    config.service = "forwarded = \"both\"\n".to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    let from = client.stream().local_addr().unwrap().ip().to_string();
    let own = format!("for={from};host=shop.example;proto=http;by={}", lbd.address.ip());
    let fields = list("203.0.113.6") + "Forwarded: for=203.0.113.5\r\n";
    assert_eq!(client.send(with("/", &fields)).answer().status(), 200);
    let seen = target.last();
    assert_eq!(
        (seen.field("forwarded"), seen.field("x-forwarded-for")),
        (Some(own.as_str()), Some(from.as_str()))
    );
    // A proxy that speaks it alone passes on what its clients make up in the other.
    config.service = format!(
        "{TRUST}forwarded = \"rfc7239\"\nrate = {{ key = \"source_ip\", requests = 1, per = \"1h\" }}"
    );
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(ask(lbd.address, &with("/", &fields)).status(), 200);
    let seen = target.last();
    assert_eq!(seen.all("forwarded"), ["for=203.0.113.5", own.as_str()]);
    assert_eq!((seen.field("x-forwarded-for"), seen.field("x-forwarded-proto")), (None, None));
    let other = list("203.0.113.7") + "Forwarded: for=203.0.113.5\r\n";
    assert_eq!(ask(lbd.address, &with("/", &other)).status(), 429);
}

#[test]
fn a_target_is_told_of_the_client_by_the_proxy_protocol_too() {
    let target = Target::named(own_ip(), "x");
    let mut config = serving(&target, "");
    config.group = "send_proxy = \"v1\"".to_owned();
    let lbd = Lbd::start(&config);
    assert_eq!(ask(lbd.address, &with("/", &list("203.0.113.5"))).status(), 200);
    let line = target.last().line().to_owned();
    assert!(
        line.starts_with("PROXY TCP4 203.0.113.5 ") && line.ends_with(&format!(" 0 {}", lbd.address.port())),
        "{line}"
    );
}
