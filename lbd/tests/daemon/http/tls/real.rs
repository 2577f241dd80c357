//! curl and nginx.

use std::fs;

use super::peers::curl;
use super::{config, failed, made, shop};
use crate::real::Nginx;
use crate::support::{Lbd, free, own_ip};

#[test]
fn curl_gets_nginx_s_pages_over_both_versions() {
    let ip = own_ip();
    let (authority, address) = (shop(), free(ip));
    let servers = format!(
        "server {{ listen {address}; location / {{ }} location = /say {{ return 200 \"$request_method $http_x_forwarded_proto $host $request_uri\"; }} }}"
    );
    let nginx = Nginx::start(&servers, &[address]);
    let large: Vec<u8> = (0..5_000_000_u32).map(|index| (index >> 8).to_le_bytes()[0]).collect();
    fs::write(nginx.root().join("large"), &large).unwrap();
    fs::write(nginx.root().join("small"), "small\n").unwrap();
    let lbd = Lbd::start(&config(ip, &[address], &[&authority.bundle("shop")]));
    let get = |arguments: &[&str]| {
        let (good, text) = curl(&authority, lbd.address, arguments);
        assert!(good, "{arguments:?}: {text}");
        text
    };
    let url = |path: &str| format!("https://shop.example{path}");
    for version in ["1.2", "1.3"] {
        let tls = ["--tls-max", version];
        let with = |arguments: &[&str]| get(&[&tls[..], arguments].concat());
        assert_eq!(with(&[&url("/small"), &url("/small")]), "small\nsmall\n", "on one connection");
        assert_eq!(with(&[&url("/a/../say?x=1"), "--path-as-is"]), "GET https shop.example /say?x=1");
        assert_eq!(with(&["--http1.0", &url("/small")]), "small\n");
        assert!(with(&["-I", &url("/small")]).contains("Content-Length: 6\r\n"));
        assert_eq!(with(&["-o", "/dev/null", "-w", "%{http_code}", &url("/none")]), "404");
        let file = lbd.folder.path().join("fetched");
        with(&["-o", file.to_str().unwrap(), &url("/large")]);
        assert!(fs::read(&file).unwrap() == large);
    }
    let many: Vec<String> = (0..50).map(|_| url("/small")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let parallel = ["--no-progress-meter", "--parallel", "--parallel-max", "20"];
    assert_eq!(get(&[&parallel[..], &many[..]].concat()), "small\n".repeat(50));
    assert!(made(&lbd, "1.2", "full") >= 6 && made(&lbd, "1.3", "full") >= 6);
    assert_eq!(failed(&lbd, "misbehaved"), 0);
}

#[test]
fn curl_sends_what_it_likes() {
    let ip = own_ip();
    let authority = shop();
    let target = super::super::peers::Target::named(ip, "taken");
    let lbd = Lbd::start(&config(ip, &[target.address], &[&authority.bundle("shop")]));
    let file = lbd.folder.path().join("upload");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|index| index.to_le_bytes()[1]).collect();
    fs::write(&file, &bytes).unwrap();
    let data = format!("@{}", file.display());
    let url = "https://shop.example/upload";
    assert_eq!(curl(&authority, lbd.address, &["--data-binary", &data, url]), (true, "taken".to_owned()));
    assert!(target.last().body == bytes);
    let chunked = ["-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", &data, url];
    assert_eq!(curl(&authority, lbd.address, &chunked), (true, "taken".to_owned()));
    assert!(target.last().body == bytes);
    assert_eq!(target.last().field("x-forwarded-proto"), Some("https"));
}
