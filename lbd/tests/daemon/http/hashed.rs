//! Requests that find their target by a hash of what they say.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::config;
use super::peers::{Target, ask};
use crate::support::{Config, Lbd, own_ip};

const NAMES: [&str; 4] = ["t0", "t1", "t2", "t3"];

fn start(hash: &str) -> (Lbd, Config, Vec<Target>) {
    let ip = own_ip();
    let targets: Vec<Target> = NAMES.into_iter().map(|name| Target::named(ip, name)).collect();
    let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    let mut config = config(ip, &addresses);
    config.group = format!("algorithm = \"consistent_hash\"\nhash = {hash}");
    (Lbd::start(&config), config, targets)
}

/// Who answers a request of this path with these fields.
fn home(lbd: &Lbd, path: &str, fields: &str) -> String {
    ask(lbd.address, &format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")).text().to_owned()
}

/// Requests of 40 kinds, each of which keeps its target; when that of the first one leaves, the others stay where they are.
fn each_kind_keeps_its_target(hash: &str, home: impl Fn(&Lbd, usize) -> String) {
    let (lbd, mut config, _targets) = start(hash);
    let homes = |lbd: &Lbd| (0..40).map(|kind| home(lbd, kind)).collect::<Vec<_>>();
    let before = homes(&lbd);
    assert_eq!(homes(&lbd), before, "{hash}");
    let spread: BTreeSet<&String> = before.iter().collect();
    assert_eq!(spread.len(), NAMES.len(), "{hash}: {before:?}");
    let leaver = before[0].clone();
    let set = |state| lbd.command(&["set", &format!("pool/{leaver}"), "--state", state]).status.success();
    assert!(set("maint"));
    for (before, after) in before.iter().zip(homes(&lbd)) {
        assert_eq!(*before != after, *before == leaver, "{hash}: {before} {after}");
    }
    assert!(set("ready"));
    // A reload changes nothing about it, and to go by the address again brings all requests together.
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(homes(&lbd), before, "{hash}");
    config.group = "algorithm = \"consistent_hash\"".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(homes(&lbd).into_iter().collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn by_a_header() {
    each_kind_keeps_its_target("{ by = \"header\", name = \"X-User\" }", |lbd, kind| {
        home(
            lbd,
            &format!("/{kind}{}", kind % 3),
            &format!("x-user: user-{kind}\r\nX-Other: {}\r\n", kind % 3),
        )
    });
}

#[test]
fn by_a_cookie() {
    each_kind_keeps_its_target("{ by = \"cookie\", name = \"SESSION\" }", |lbd, kind| {
        home(lbd, "/", &format!("Cookie: a=1; SESSION=s{kind}; b=2\r\n"))
    });
}

#[test]
fn by_the_path() {
    each_kind_keeps_its_target("{ by = \"path\" }", |lbd, kind| home(lbd, &format!("/files/{kind}"), ""));
    let (lbd, _, _targets) = start("{ by = \"path\" }");
    for kind in 0..8 {
        let plain = home(&lbd, &format!("/files/{kind}"), "");
        assert_eq!(home(&lbd, &format!("/a/%2e%2e/files/{kind}?v={kind}"), "X-User: a\r\n"), plain);
    }
}

#[test]
fn a_request_without_it_goes_by_its_client() {
    let by_address = {
        let (lbd, _, _targets) = start("{ by = \"header\", name = \"X-User\" }");
        (0..20).map(|kind| home(&lbd, &format!("/{kind}"), "")).collect::<BTreeSet<_>>()
    };
    assert_eq!(by_address.len(), 1, "{by_address:?}");
    let (lbd, _, _targets) = start("{ by = \"cookie\", name = \"SESSION\" }");
    let homes: BTreeSet<_> = ["", "Cookie: SESSION=\r\n", "Cookie: session=other\r\n", "X-User: a\r\n"]
        .into_iter()
        .map(|fields| home(&lbd, "/", fields))
        .collect();
    assert_eq!(homes.len(), 1, "{homes:?}");
}
