//! curl, nghttp2's tools and nginx.

use std::fs;
use std::process::{Command, Output};

use super::config;
use crate::http::Target;
use crate::real::Nginx;
use crate::support::{Lbd, free, metric, own_ip};

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; run scripts/setup test"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub(super) fn curl(arguments: &[&str]) -> String {
    let usual = ["-sS", "--max-time", "20", "--http2-prior-knowledge"];
    let output = run("curl", &[&usual, arguments].concat());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn curl_gets_nginx_s_pages_from_either_kind_of_server() {
    let ip = own_ip();
    let (old, new) = (free(ip), free(ip));
    let say = "location = /say { return 200 \"$server_protocol $request_method $http_x_forwarded_proto $host $request_uri\"; }";
    let servers = format!("server {{ listen {old}; {say} }} server {{ listen {new} http2; {say} }}");
    let nginx = Nginx::start(&servers, &[old, new]);
    let large: Vec<u8> = (0..5_000_000_u32).map(|index| index.to_le_bytes()[0]).collect();
    fs::write(nginx.root().join("large"), &large).unwrap();
    fs::write(nginx.root().join("small"), "small\n").unwrap();
    for (address, keys, protocol) in [(old, "", "1.1"), (new, "protocol = \"http2\"\n", "2.0")] {
        let mut config = config(ip, &[address]);
        config.group = keys.to_owned();
        let lbd = Lbd::start(&config);
        let url = |path: &str| format!("http://{}{path}", lbd.address);
        assert_eq!(curl(&["-w", "%{http_version}", &url("/small")]), "small\n2");
        let said = curl(&[&url("/a/../say?x=1"), "--path-as-is"]);
        assert_eq!(said, format!("HTTP/{protocol} GET http {ip} /say?x=1"));
        assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", &url("/none")]), "404");
        assert!(curl(&["-I", &url("/small")]).contains("content-length: 6\r\n"));
        assert_eq!(curl(&["-r", "1-3", &url("/small")]), "mal");
        let file = lbd.folder.path().join("fetched");
        curl(&["-o", file.to_str().unwrap(), &url("/large")]);
        assert!(fs::read(&file).unwrap() == large);
        // As a client of HTTP/1 gets them.
        let old_client =
            run("curl", &["-sS", "--max-time", "20", "-o", file.to_str().unwrap(), &url("/large")]);
        assert!(old_client.stderr.is_empty() && fs::read(&file).unwrap() == large);
        // One request on each connection: with prior knowledge Debian 12's curl (7.88.1) gives up on the second one ("Error in the HTTP2
        // framing layer"), at nginx as well. With TLS it does not, and many at the same time are asked for there (see `tls`).
        let connections = metric(&lbd, "tandem_lbd_service_http2_connections_total")["{service=\"web\"}"];
        assert_eq!(connections, 6);
    }
}

#[test]
fn curl_sends_what_it_likes() {
    let ip = own_ip();
    let target = Target::named(ip, "taken");
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let url = format!("http://{}/upload", lbd.address);
    let file = lbd.folder.path().join("upload");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|index| index.to_le_bytes()[1]).collect();
    fs::write(&file, &bytes).unwrap();
    let data = format!("@{}", file.display());
    assert_eq!(curl(&["--data-binary", &data, &url]), "taken");
    assert!(target.last().body == bytes);
    assert_eq!(target.last().field("content-length"), Some("3000000"));
    assert_eq!(curl(&["-T", "-", &url, "-H", "Expect: 100-continue"]), "taken");
    assert_eq!(target.last().body, b"");
}

#[test]
fn h2load_has_no_request_fail() {
    let ip = own_ip();
    let (old, new) = (free(ip), free(ip));
    let servers = format!("server {{ listen {old}; }} server {{ listen {new} http2; }}");
    let nginx = Nginx::start(&servers, &[old, new]);
    fs::write(nginx.root().join("small"), "small\n").unwrap();
    for (address, keys) in [(old, ""), (new, "protocol = \"http2\"\n")] {
        let mut config = config(ip, &[address]);
        config.group = keys.to_owned();
        let lbd = Lbd::start(&config);
        let url = format!("http://{}/small", lbd.address);
        // nginx ends a connection after 1,000 requests, by GOAWAY or Connection: close, under those that are on their way.
        let output = run("h2load", &["-n", "10000", "-c", "4", "-m", "100", &url]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("10000 succeeded, 0 failed, 0 errored"), "{said}");
        assert!(said.contains("status codes: 10000 2xx"), "{said}");
        let answers = metric(&lbd, "tandem_lbd_service_http_requests_total");
        assert_eq!(answers["{service=\"web\",class=\"2xx\"}"], 10_000);
    }
}
