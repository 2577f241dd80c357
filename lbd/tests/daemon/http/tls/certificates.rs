//! Which certificate a client gets, and what it may ask for with it.

use super::super::peers::{Target, get};
use super::peers::{Client, LAST, curl, s_client};
use super::{config, failed, shop};
use crate::real::{Authority, RSA_KEY};
use crate::support::{Lbd, end_of, own_ip};

/// Four certificates, of which two are for one name.
fn authority() -> Authority {
    let authority = Authority::new();
    authority.sign("default", "DNS:default.example", 2);
    authority.sign("wild", "DNS:*.wild.example", 2);
    authority.sign_with(RSA_KEY, "rsa", "DNS:shop.example", 2);
    authority.sign("ecdsa", "DNS:shop.example", 2);
    authority
}

#[test]
fn the_name_and_the_signatures_that_a_client_takes_decide() {
    let (ip, authority) = (own_ip(), authority());
    let target = Target::named(ip, "hello");
    let bundles = ["default", "wild", "rsa", "ecdsa"].map(|name| authority.bundle(name));
    let bundles: Vec<_> = bundles.iter().map(std::path::PathBuf::as_path).collect();
    let lbd = Lbd::start(&config(ip, &[target.address], &bundles));
    for (arguments, subject) in [
        ("-servername shop.example", "ecdsa"),
        ("-servername SHOP.example", "ecdsa"),
        ("-servername shop.example -sigalgs RSA-PSS+SHA256:RSA+SHA256", "rsa"),
        ("-servername shop.example -tls1_2", "ecdsa"),
        ("-servername shop.example -tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", "rsa"),
        ("-servername shop.example -tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "ecdsa"),
        ("-servername a.wild.example", "wild"),
        ("-servername a.b.wild.example", "default"),
        ("-servername wild.example", "default"),
        ("-servername other.example", "default"),
        ("-noservername", "default"),
    ] {
        let text = s_client(lbd.address, arguments, &LAST.replace("Host: shop.example", "Host:"));
        assert!(text.contains(&format!("subject=CN = {subject}\n")), "{arguments}: {text}");
    }
    // What only takes RSA gets no certificate that it could not take, but the handshake says so.
    let none = s_client(lbd.address, "-servername a.wild.example -sigalgs RSA-PSS+SHA256", LAST);
    assert!(none.contains("alert"), "{none}");
    assert_eq!(failed(&lbd, "nothing_in_common"), 1);
    let names = lbd.status()["services"][0]["tls"]["certificates"].clone();
    let keys: Vec<&str> = names.as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["ecdsa", "ecdsa", "rsa", "ecdsa"]);
}

#[test]
fn a_host_that_the_certificate_is_not_for_is_asked_for_elsewhere() {
    let ip = own_ip();
    let authority = shop();
    authority.sign("other", "DNS:other.example", 2);
    let target = Target::named(ip, "hello");
    let bundles = [authority.bundle("shop"), authority.bundle("other")];
    let lbd = Lbd::start(&config(ip, &[target.address], &[&bundles[0], &bundles[1]]));
    let status = |host: &str| {
        let host = format!("Host: {host}");
        curl(
            &authority,
            lbd.address,
            &["-o", "/dev/null", "-w", "%{http_code}", "-H", &host, "https://shop.example/"],
        )
        .1
    };
    for host in ["shop.example", "Shop.example:8443", "a.shop.example"] {
        assert_eq!(status(host), "200", "{host}");
    }
    for host in ["other.example", "a.b.shop.example", "192.0.2.1", "shop.example.org"] {
        assert_eq!(status(host), "421", "{host}");
    }
    // Who has asked for no name may have had no choice.
    let nameless = s_client(lbd.address, "-noservername", &LAST.replace("shop.example", "other.example"));
    assert!(nameless.contains("HTTP/1.1 200"), "{nameless}");
    let (_, metrics) = lbd.ask("GET", "/metrics");
    assert!(
        metrics.contains("requests_malformed_total{service=\"web\",reason=\"misdirected\"} 4"),
        "{metrics}"
    );
}

#[test]
fn what_is_spoken_is_agreed_on() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let both = s_client(lbd.address, "-alpn http/1.1,h2", LAST);
    assert!(both.contains("ALPN protocol: h2"), "the service's preference: {both}");
    let one = s_client(lbd.address, "-alpn http/1.1", LAST);
    assert!(one.contains("ALPN protocol: http/1.1") && one.contains("HTTP/1.1 200"), "{one}");
    let none = s_client(lbd.address, "-alpn unheard-of/1", LAST);
    assert!(none.contains("alert number 120"), "no_application_protocol (RFC 7301): {none}");
    assert_eq!(failed(&lbd, "protocol"), 1);
    assert!(s_client(lbd.address, "", LAST).contains("HTTP/1.1 200"));
}

#[test]
fn of_the_cipher_suites_that_a_client_takes_the_service_chooses() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let ordered = [
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
    ];
    // In the client's order. The last one is for those that would rather have it than any other.
    let offers: [(&[usize], usize); 7] = [
        (&[1, 2, 0], 0),
        (&[1, 0, 2], 0),
        (&[0, 2], 0),
        (&[1, 2], 1),
        (&[2, 1, 0], 2),
        (&[2, 0], 2),
        (&[2], 2),
    ];
    for (places, chosen) in offers {
        let (tls13, tls12) = ordered[chosen];
        let offered = || places.iter().map(|place| ordered[*place]);
        let suites = offered().map(|(name, _)| format!("TLS_{name}")).collect::<Vec<_>>().join(":");
        let text = s_client(lbd.address, &format!("-tls1_3 -ciphersuites {suites}"), LAST);
        assert!(text.contains(&format!("TLSv1.3, Cipher is TLS_{tls13}")), "{suites}: {text}");
        let suites = offered().map(|(_, name)| format!("ECDHE-ECDSA-{name}")).collect::<Vec<_>>().join(":");
        let text = s_client(lbd.address, &format!("-tls1_2 -cipher {suites}"), LAST);
        assert!(text.contains(&format!("TLSv1.2, Cipher is ECDHE-ECDSA-{tls12}")), "{suites}: {text}");
    }
}

#[test]
fn an_old_version_is_refused_where_it_is() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let mut config = config(ip, &[target.address], &[&authority.bundle("shop")]);
    config.service = config.service.replace(" }", ", min_version = \"1.3\" }");
    let lbd = Lbd::start(&config);
    let old = s_client(lbd.address, "-tls1_2", LAST);
    assert!(old.contains("alert protocol version") || old.contains("alert number 70"), "{old}");
    assert_eq!(failed(&lbd, "version"), 1);
    assert!(s_client(lbd.address, "-tls1_3", LAST).contains("HTTP/1.1 200"));
}

/// `rate`, limits and the PROXY protocol come before TLS.
#[test]
fn a_proxy_s_header_comes_before_the_handshake() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let mut config = config(ip, &[target.address], &[&authority.bundle("shop")]);
    config.service.push_str(&format!("\naccept_proxy = [\"{ip}\", \"127.0.0.0/8\"]"));
    let lbd = Lbd::start(&config);
    let arguments = ["--haproxy-protocol", "https://shop.example/"];
    let (good, text) = curl(&authority, lbd.address, &arguments);
    assert!(good && text == "hello", "{text}");
    let (good, _) = curl(&authority, lbd.address, &["https://shop.example/"]);
    assert!(!good, "without the header it is refused");
}

#[test]
fn more_connections_than_may_be_are_reset_before_a_handshake() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let mut config = config(ip, &[target.address], &[&authority.bundle("shop")]);
    config.service.push_str("\nlimits = { max_connections = 1 }");
    let lbd = Lbd::start(&config);
    let mut first = Client::new(&authority, lbd.address, "shop.example");
    assert_eq!(first.send(get("/")).answer().status(), 200);
    // The reset may come before the client has seen that it is connected.
    let second = std::net::TcpStream::connect(lbd.address).and_then(|mut second| end_of(&mut second));
    assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(lbd.service("refused_over_limit"), 1);
    assert_eq!(first.send(get("/")).answer().status(), 200);
}
