//! Each kind of health check, against real servers.

use std::fs;
use std::net::{SocketAddr, UdpSocket};

use crate::real::{Authority, Dns, Grpc, Nginx};
use crate::server::Server;
use crate::support::{Config, Folder, Lbd, command, eventually, free, own_ip};

/// Quick enough for a test, and time enough for a handshake on a busy machine.
const QUICK: &str = "interval = \"600ms\", unhealthy_interval = \"100ms\", timeout = \"500ms\"";

/// What the last check of a target said.
pub(crate) fn result(lbd: &Lbd, target: usize) -> String {
    let check = lbd.status()["target_groups"][0]["targets"][target]["last_check"].clone();
    check["result"].as_str().unwrap_or("none yet").to_owned()
}

/// Waits until the checks of all targets say this.
pub(crate) fn expect(lbd: &Lbd, results: &[&str]) {
    let now = || (0..results.len()).map(|target| result(lbd, target)).collect::<Vec<_>>();
    let end = std::time::Instant::now() + crate::support::PATIENCE;
    while now() != results {
        assert!(std::time::Instant::now() < end, "{:?} is not {results:?}", now());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for (target, result) in results.iter().enumerate() {
        let health = if *result == "ok" { "healthy" } else { "unhealthy" };
        eventually("the state follows", || lbd.health(target) == health);
    }
}

/// A daemon that makes this check of these targets.
pub(crate) fn checking(check: &str, targets: &[SocketAddr]) -> (Lbd, Config) {
    let mut config = Config::new(own_ip(), targets);
    config.group = format!("health = {{ {check}, {QUICK} }}");
    (Lbd::start(&config), config)
}

/// The server blocks of an nginx with TLS: one for each certificate and what goes with it.
fn tls_servers(certificates: &[String]) -> (String, Vec<SocketAddr>) {
    let ip = own_ip();
    let listen: Vec<SocketAddr> = certificates.iter().map(|_| free(ip)).collect();
    let server = |(address, certificate): (&SocketAddr, &String)| {
        format!("server {{ listen {address} ssl; {certificate} location / {{ return 200 \"fine\"; }} }}\n")
    };
    (listen.iter().zip(certificates).map(server).collect(), listen)
}

#[test]
fn certificates_are_verified_if_asked_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = authority.sign("good", "DNS:*.shop.example", 2);
    let certificates = [
        good.clone(),
        format!("{good} ssl_protocols TLSv1.2;"),
        authority.sign("expired", "DNS:www.shop.example", -1),
        authority.sign("elsewhere", "DNS:shop.example", 2),
        other.sign("other", "DNS:www.shop.example", 2),
        format!("{good} ssl_protocols TLSv1.2; ssl_ciphers AES128-SHA;"),
    ];
    let (mut servers, mut listen) = tls_servers(&certificates);
    let plain = free(own_ip());
    servers += &format!("server {{ listen {plain}; }}\n");
    listen.push(plain);
    let _nginx = Nginx::start(&servers, &listen);

    let ca = authority.file().display().to_string();
    let (lbd, mut config) =
        checking(&format!("https = \"/\", host = \"www.shop.example:443\", ca_file = \"{ca}\""), &listen);
    let refused = "TLS: refused by the target: HandshakeFailure";
    expect(
        &lbd,
        &[
            "ok",
            "ok",
            "TLS: certificate expired",
            "TLS: certificate not for www.shop.example",
            "TLS: certificate not signed by any of the ca_file",
            refused,
            "TLS: the answer is not TLS",
        ],
    );
    let target = &lbd.status()["target_groups"][0]["targets"][0];
    assert!(target["last_check"]["latency_us"].as_u64().unwrap() > 0, "{target}");

    // Without a ca_file it is enough that the handshake is a whole one.
    for check in ["https = \"/\"", "tls = true", "tls = true, host = \"shop.example\""] {
        config.group = format!("health = {{ {check}, {QUICK} }}");
        assert_eq!(lbd.reload(&config).0, 200);
        expect(&lbd, &["ok", "ok", "ok", "ok", "ok", refused, "TLS: the answer is not TLS"]);
    }
}

#[test]
fn without_a_host_the_certificate_is_for_the_address() {
    let authority = Authority::new();
    let ip = own_ip();
    let listen = [free(ip), free(ip), free(ip)];
    let ca = authority.file();
    let certificates = [
        authority.sign("address", &format!("IP:{ip}"), 2),
        authority.sign("name", "DNS:shop.example", 2),
        // What serves with the authority's certificate itself.
        format!(
            "ssl_certificate {}; ssl_certificate_key {};",
            ca.display(),
            ca.with_extension("key").display()
        ),
    ];
    let server = |(listen, certificate)| format!("server {{ listen {listen} ssl; {certificate} }}\n");
    let _nginx = Nginx::start(&listen.iter().zip(&certificates).map(server).collect::<String>(), &listen);
    let (lbd, _) = checking(&format!("tls = true, ca_file = \"{}\"", ca.display()), &listen);
    let own = "TLS: the certificate is that of an authority itself: have it sign one for the target";
    expect(&lbd, &["ok", &format!("TLS: certificate not for {ip}"), own]);
}

#[test]
fn a_ca_file_must_be_usable_and_may_change() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (servers, listen) = tls_servers(&[authority.sign("good", "DNS:shop.example", 2)]);
    let _nginx = Nginx::start(&servers, &listen);
    let folder = Folder::new();
    // A relative path is relative to the configuration file.
    let ca = folder.path().join("ca.pem");
    fs::copy(other.file(), &ca).unwrap();
    let mut config = Config::new(own_ip(), &listen);
    config.group =
        format!("health = {{ tls = true, host = \"shop.example\", ca_file = \"ca.pem\", {QUICK} }}");
    let lbd = Lbd::start_in(folder, &config);
    expect(&lbd, &["TLS: certificate not signed by any of the ca_file"]);
    fs::copy(authority.file(), &ca).unwrap();
    assert_eq!(lbd.reload(&config).0, 200);
    expect(&lbd, &["ok"]);
    for (content, complaint) in [
        (Some("nothing"), "has no certificate in it"),
        (
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "certificate 1 of the ca_file",
        ),
        (None, "cannot read the ca_file"),
    ] {
        match content {
            Some(content) => fs::write(&ca, content).unwrap(),
            None => fs::remove_file(&ca).unwrap(),
        }
        let (code, body) = lbd.reload(&config);
        assert_eq!((code, body.contains(complaint)), (422, true), "{body}");
        let check = command(lbd.folder.path(), &["check"]).output().unwrap();
        assert!(
            !check.status.success() && String::from_utf8_lossy(&check.stderr).contains(complaint),
            "{check:?}"
        );
    }
    expect(&lbd, &["ok"]);
}

#[test]
fn a_host_must_be_one_that_can_be_asked_for() {
    let ip = own_ip();
    let mut config = Config::new(ip, &[free(ip)]);
    let lbd = Lbd::start(&config);
    for check in ["https = \"/\", host = \"-x-\"", "grpc = \"\", host = \"a/b\""] {
        config.group = format!("health = {{ {check}, {QUICK} }}");
        let (code, body) = lbd.reload(&config);
        assert_eq!((code, body.contains("of a health check cannot be")), (422, true), "{check}: {body}");
    }
}

#[test]
fn ipv6_targets_are_checked() {
    let tcp = std::net::TcpListener::bind("[::1]:0").unwrap();
    let udp = UdpSocket::bind("[::1]:0").unwrap();
    let (open, closed) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    let (lbd, mut config) = checking("tcp = true", &[open, closed]);
    expect(&lbd, &["ok", "cannot connect: connection refused"]);
    let answering = std::thread::spawn(move || {
        let (_, from) = udp.recv_from(&mut [0; 16]).unwrap();
        udp.send_to(b"pong", from).unwrap();
    });
    config.group = "health = { udp = \"ping\", interval = \"1h\" }".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    eventually("the answer", || result(&lbd, 1) == "ok");
    answering.join().unwrap();
}

#[test]
fn bodies_are_searched() {
    let ip = own_ip();
    let listen: Vec<SocketAddr> = (0..5).map(|_| free(ip)).collect();
    let [short, chunked, far, other, missing] = [0, 1, 2, 3, 4].map(|index| listen[index]);
    let servers = format!(
        "server {{ listen {short}; }} server {{ listen {chunked}; ssi on; ssi_types *; }}\n\
         server {{ listen {far}; location / {{ try_files /far =404; }} }}\n\
         server {{ listen {other}; location / {{ return 200 \"starting\"; }} }}\n\
         server {{ listen {missing}; location / {{ return 503 \"ready\"; }} }}\n"
    );
    let nginx = Nginx::start(&servers, &listen);
    fs::write(nginx.root().join("health"), "status: rea<!--# echo var=\"none\" default=\"d\" -->y").unwrap();
    fs::write(nginx.root().join("far"), format!("{}ready", "x".repeat(64 * 1024 - 4))).unwrap();
    // Only through the server-side include, which also makes the answer a chunked one, is it "ready" at all.
    let (lbd, _) = checking("http = \"/health\", body = \"ready\"", &listen);
    let no = "no \"ready\" in the body";
    expect(&lbd, &[no, "ok", no, no, "answered 503"]);
    fs::write(nginx.root().join("far"), format!("{}ready", "x".repeat(64 * 1024 - 5))).unwrap();
    fs::write(nginx.root().join("health"), "ready").unwrap();
    expect(&lbd, &["ok", "ok", "ok", no, "answered 503"]);
}

#[test]
fn targets_that_speak_http2_are_asked_in_it() {
    let ip = own_ip();
    let listen: Vec<SocketAddr> = (0..4).map(|_| free(ip)).collect();
    let [file, old, busy, starting] = [0, 1, 2, 3].map(|index| listen[index]);
    // In clear text a server block of nginx speaks the one or the other.
    let servers = format!(
        "server {{ listen {file} http2; }}\n\
         server {{ listen {old}; location / {{ return 200 \"ready\"; }} }}\n\
         server {{ listen {busy} http2; location / {{ return 503 \"ready\"; }} }}\n\
         server {{ listen {starting} http2; location / {{ return 200 \"starting\"; }} }}\n"
    );
    let nginx = Nginx::start(&servers, &listen);
    // Up to its last byte that is looked at, which is more than a window of HTTP/2.
    fs::write(nginx.root().join("health"), format!("{}ready", "x".repeat(64 * 1024 - 5))).unwrap();
    let mut config = Config::new(own_ip(), &listen);
    config.mode = "http".to_owned();
    let check = |more: &str| format!("protocol = \"http2\"\nhealth = {{ {more}, {QUICK} }}");
    config.group = check("http = \"/health\", body = \"ready\"");
    let lbd = Lbd::start(&config);
    let (no, not) = ("no \"ready\" in the body", "the answer is not HTTP/2");
    expect(&lbd, &["ok", not, "answered 503", no]);
    fs::write(nginx.root().join("health"), format!("{}ready", "x".repeat(64 * 1024 - 4))).unwrap();
    expect(&lbd, &[no, not, "answered 503", no]);
    // Another port is that of another program.
    config.group = check(&format!("http = \"/health\", port = {}", old.port()));
    assert_eq!(lbd.reload(&config).0, 200);
    expect(&lbd, &["ok"; 4]);
    config.group = check("http = \"/health\", host = \"a/b\"");
    let (code, body) = lbd.reload(&config);
    assert_eq!((code, body.contains("cannot be an :authority of HTTP/2")), (422, true), "{body}");
}

#[test]
fn targets_that_speak_http2_are_asked_in_it_over_tls() {
    let ip = own_ip();
    let authority = Authority::new();
    let good = authority.sign("good", "DNS:shop.example", 2);
    let listen = [free(ip), free(ip)];
    let server = |(address, more): (&SocketAddr, &str)| {
        format!(
            "server {{ listen {address} ssl {more}; {good} location / {{ return 200 \"$server_protocol\"; }} }}\n"
        )
    };
    let _nginx = Nginx::start(&listen.iter().zip(["http2", ""]).map(server).collect::<String>(), &listen);
    let mut config = Config::new(own_ip(), &listen);
    config.mode = "http".to_owned();
    config.group = format!(
        "protocol = \"http2\"\nhealth = {{ https = \"/\", body = \"HTTP/2.0\", host = \"shop.example\", ca_file = \"{}\", {QUICK} }}",
        authority.file().display()
    );
    let lbd = Lbd::start(&config);
    expect(&lbd, &["ok", "TLS: refused by the target: NoApplicationProtocol"]);
}

#[test]
fn grpc_health_is_asked_for() {
    let ip = own_ip();
    let mut grpc = Grpc::start(ip);
    let web = free(ip);
    let _nginx = Nginx::start(&format!("server {{ listen {web}; }}"), &[web]);
    let targets = [grpc.address, web, free(ip)];
    let others = ["the answer is not HTTP/2", "cannot connect: connection refused"];
    let (lbd, mut config) = checking("grpc = \"\"", &targets);
    expect(&lbd, &["ok", others[0], others[1]]);
    config.group = format!("health = {{ grpc = \"shop\", host = \"shop.example\", {QUICK} }}");
    assert_eq!(lbd.reload(&config).0, 200);
    expect(&lbd, &["answered gRPC status 5 (NOT_FOUND)", others[0], others[1]]);
    for (state, result) in [(2, "answered NOT_SERVING"), (0, "answered UNKNOWN"), (1, "ok")] {
        grpc.set("shop", state);
        expect(&lbd, &[result, others[0], others[1]]);
    }
}

#[test]
fn grpc_health_is_asked_for_over_tls() {
    let ip = own_ip();
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign("good", "DNS:shop.example", 2);
    let elsewhere = authority.sign("elsewhere", "DNS:other.example", 2);
    other.sign("other", "DNS:shop.example", 2);
    let (plain, web) = (Grpc::start(ip), free(ip));
    let _nginx = Nginx::start(&format!("server {{ listen {web} ssl; {elsewhere} }}"), &[web]);
    let mut good = Grpc::start_tls(ip, &authority, "good");
    let strange = Grpc::start_tls(ip, &other, "other");
    let targets = [good.address, strange.address, plain.address, web];
    // An HTTP/1.1 server's TLS has no protocol in common with the check.
    let (no_tls, no_h2) = ("TLS: the answer is not TLS", "TLS: refused by the target: NoApplicationProtocol");
    let (lbd, mut config) = checking("grpc = \"\", tls = true", &targets);
    expect(&lbd, &["ok", "ok", no_tls, no_h2]);
    let ca_file = authority.file();
    config.group = format!(
        "health = {{ grpc = \"shop\", tls = true, host = \"shop.example:443\", ca_file = \"{}\", {QUICK} }}",
        ca_file.display()
    );
    assert_eq!(lbd.reload(&config).0, 200);
    let unknown = "TLS: certificate not signed by any of the ca_file";
    expect(&lbd, &["answered gRPC status 5 (NOT_FOUND)", unknown, no_tls, no_h2]);
    for (state, result) in [(2, "answered NOT_SERVING"), (1, "ok")] {
        good.set("shop", state);
        expect(&lbd, &[result, unknown, no_tls, no_h2]);
    }
    config.group = config.group.replace("shop.example:443", "www.example");
    assert_eq!(lbd.reload(&config).0, 200);
    expect(&lbd, &["TLS: certificate not for www.example", unknown, no_tls, no_h2]);
}

#[test]
fn datagrams_are_answered_as_expected() {
    let ip = own_ip();
    let answering = |answer: &'static [u8]| {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((count, from)) = socket.recv_from(&mut bytes) {
                assert_eq!(&bytes[..count], b"ping\xff");
                socket.send_to(answer, from).unwrap();
            }
        });
        address
    };
    let silent = UdpSocket::bind((ip, 0)).unwrap();
    let closed = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
    let targets =
        [answering(b"pong 1"), answering(b"no"), answering(b""), silent.local_addr().unwrap(), closed];
    let ping = "udp = \"ping\\u00ff\"";
    let (lbd, mut config) = checking(&format!("{ping}, expect = \"pong\""), &targets);
    let other = "answered something else than expected";
    let (quiet, nobody) = ("no answer within 500ms", "unreachable: connection refused");
    expect(&lbd, &["ok", other, other, quiet, nobody]);
    config.group = format!("health = {{ {ping}, {QUICK} }}");
    assert_eq!(lbd.reload(&config).0, 200);
    expect(&lbd, &["ok", "ok", "ok", quiet, nobody]);
}

#[test]
fn a_dns_server_is_checked_by_a_query() {
    let dns = Dns::start(own_ip());
    // A query for the A record of shop.test with the identifier 0x1234, and the beginning of an answer to it without an error.
    let query = "udp = \"\\u00124\\u0001\\u0000\\u0000\\u0001\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\
                 \\u0004shop\\u0004test\\u0000\\u0000\\u0001\\u0000\\u0001\"";
    let (lbd, mut config) =
        checking(&format!("{query}, expect = \"\\u00124\\u0085\\u0080\""), &[dns.address]);
    expect(&lbd, &["ok"]);
    let unknown = query.replace("test", "none");
    config.group = format!("health = {{ {unknown}, expect = \"\\u00124\\u0085\\u0080\", {QUICK} }}");
    assert_eq!(lbd.reload(&config).0, 200);
    expect(&lbd, &["answered something else than expected"]);
}

#[test]
fn another_port_can_be_checked() {
    let ip = own_ip();
    let (serves, checked) =
        (Server::named((ip, 0).into(), "serves"), Server::named((ip, 0).into(), "checked"));
    let (port, address) = (checked.address.port(), checked.address);
    let (lbd, _) = checking(&format!("tcp = true, port = {port}"), &[serves.address]);
    expect(&lbd, &["ok"]);
    drop(checked);
    expect(&lbd, &["cannot connect: connection refused"]);
    let _back = Server::named(address, "checked");
    expect(&lbd, &["ok"]);
}

#[test]
fn checks_are_made_more_often_while_unhealthy() {
    let ip = own_ip();
    let address = free(ip);
    let mut config = Config::new(ip, &[address]);
    let rhythm = "interval = \"1h\", unhealthy_interval = \"20ms\", timeout = \"2s\", healthy_threshold = 3";
    config.group = format!("health = {{ tcp = true, {rhythm} }}");
    let lbd = Lbd::start(&config);
    eventually("it is unhealthy", || lbd.health(0) == "unhealthy");
    let server = Server::named(address, "back");
    // Three checks at the long interval would take three hours.
    eventually("it is healthy", || lbd.health(0) == "healthy");
    let checks = server.accepted();
    assert!(checks >= 3, "{checks}");
    // And at the short one there would be more of them within a second than this.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(server.accepted() <= checks + 1, "{} after {checks}", server.accepted());
}
