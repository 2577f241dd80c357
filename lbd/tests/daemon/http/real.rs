//! Real programs at both ends.

use std::fs;
use std::process::Command;

use super::config;
use crate::real::Nginx;
use crate::support::{Lbd, free, own_ip};

/// What curl prints.
pub(super) fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).output();
    let output = output.expect("curl runs");
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn curl_gets_nginx_s_pages() {
    let ip = own_ip();
    let address = free(ip);
    let servers = format!(
        "server {{ listen {address}; location / {{ }} location = /say {{ return 200 \"$request_method $http_x_forwarded_proto $host $request_uri\"; }} \
         location = /moved {{ return 301 /elsewhere; }} }}"
    );
    let nginx = Nginx::start(&servers, &[address]);
    let large: Vec<u8> = (0..5_000_000_u32).map(|index| index.to_le_bytes()[0]).collect();
    fs::write(nginx.root().join("large"), &large).unwrap();
    fs::write(nginx.root().join("small"), "small\n").unwrap();
    let lbd = Lbd::start(&config(ip, &[address]));
    let url = |path: &str| format!("http://{}{path}", lbd.address);
    assert_eq!(curl(&[&url("/small"), &url("/small")]), "small\nsmall\n", "on one connection");
    let said = curl(&[&url("/a/../say?x=1"), "--path-as-is"]);
    assert_eq!(said, format!("GET http {} /say?x=1", ip));
    assert_eq!(curl(&["--http1.0", &url("/small")]), "small\n");
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", &url("/none")]), "404");
    assert!(curl(&["-I", &url("/small")]).contains("Content-Length: 6\r\n"));
    assert_eq!(curl(&["-r", "1-3", &url("/small")]), "mal");
    let file = lbd.folder.path().join("fetched");
    curl(&["-o", file.to_str().unwrap(), &url("/large")]);
    assert!(fs::read(&file).unwrap() == large);
    let many: Vec<String> = (0..50).map(|_| url("/small")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        curl(&[&["--parallel", "--parallel-max", "20"][..], &many[..]].concat()),
        "small\n".repeat(50)
    );
}

#[test]
fn curl_sends_what_it_likes() {
    let ip = own_ip();
    let target = super::peers::Target::named(ip, "taken");
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let url = format!("http://{}/upload", lbd.address);
    let file = lbd.folder.path().join("upload");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|index| index.to_le_bytes()[1]).collect();
    fs::write(&file, &bytes).unwrap();
    let data = format!("@{}", file.display());
    assert_eq!(curl(&["--data-binary", &data, &url]), "taken");
    assert!(target.last().body == bytes);
    assert_eq!(
        curl(&["-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", &data, &url]),
        "taken"
    );
    assert!(target.last().body == bytes);
    assert_eq!(target.last().field("transfer-encoding"), Some("chunked"));
}
