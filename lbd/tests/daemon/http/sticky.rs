//! Clients that come back to their target by a cookie.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::config;
use super::peers::{Client, Message, Target, answer, ask, write};
use crate::replication::{Pair, counts};
use crate::support::{Config, Folder, Lbd, eventually, metric, own_ip};

const NAMES: [&str; 4] = ["t0", "t1", "t2", "t3"];

fn targets(ip: Ipv4Addr) -> Vec<Target> {
    NAMES.into_iter().map(|name| Target::named(ip, name)).collect()
}

/// The place of the target that answers with this name.
fn place(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).expect("a target")
}

fn sticky(ip: Ipv4Addr, targets: &[Target], group: &str) -> Config {
    let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    let mut config = config(ip, &addresses);
    config.group = group.to_owned();
    config
}

fn with(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")
}

fn with_cookie(cookie: &str) -> String {
    with(&format!("Cookie: {cookie}\r\n"))
}

/// The pair that an answer's one `Set-Cookie` sets.
fn given(answer: &Message) -> Option<String> {
    answer.field("set-cookie").map(|set| set.split(';').next().unwrap().to_owned())
}

fn rejected(lbd: &Lbd, reason: &str) -> u64 {
    let all = metric(lbd, "tandem_lbd_service_http_sticky_cookies_rejected_total");
    let (_, count) = all.iter().find(|(labels, _)| labels.contains(&format!("\"{reason}\""))).unwrap();
    *count
}

#[test]
fn a_cookie_leads_back_to_the_target() {
    let ip = own_ip();
    let targets = targets(ip);
    let config = sticky(ip, &targets, "sticky = { by = \"cookie\", name = \"LB\", ttl = \"1h\" }");
    let lbd = Lbd::start(&config);
    let mut homes = BTreeSet::new();
    for _ in 0..8 {
        let first = ask(lbd.address, &with_cookie("a=1"));
        let (home, set) = (first.text().to_owned(), first.field("set-cookie").unwrap().to_owned());
        assert!(set.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{set}");
        let cookie = given(&first).unwrap();
        assert!(!cookie.contains(&home) && cookie.starts_with("LB="), "it says nothing to others: {cookie}");
        for _ in 0..6 {
            let again = ask(lbd.address, &with_cookie(&format!("a=1; {cookie}; b=2")));
            assert_eq!((again.text(), again.field("set-cookie")), (home.as_str(), None));
        }
        assert_eq!(targets[place(&home)].last().field("cookie"), Some("a=1; b=2"), "it is nobody else's");
        homes.insert(home);
    }
    assert!(homes.len() > 1, "new clients are spread: {homes:?}");
}

#[test]
fn what_is_no_cookie_of_ours_counts_for_nothing() {
    let ip = own_ip();
    let targets = targets(ip);
    let mut config = sticky(ip, &targets, "sticky = { by = \"cookie\", name = \"LB\", ttl = \"2s\" }");
    let lbd = Lbd::start(&config);
    let first = ask(lbd.address, &with(""));
    let cookie = given(&first).unwrap();
    let mut forged = cookie.clone().into_bytes();
    let last = forged.len() - 3;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let long = format!("LB={}", "A".repeat(8000));
    for (count, bad) in (1..).zip([forged.as_str(), "LB=t0", "LB=", &long, "LB=\"\\\u{e9}\"", "LB=====;;="]) {
        let answer = ask(lbd.address, &with_cookie(bad));
        assert_eq!(answer.status(), 200);
        assert!(given(&answer).is_some_and(|new| new != bad), "{bad}");
        eventually("it is counted", || rejected(&lbd, "forged") == count);
    }
    // A target that is gone: another one, and a new cookie for that.
    let gone = first.text().to_owned();
    config.targets.retain(|target| target.0 != gone);
    assert_eq!(lbd.reload(&config).0, 200);
    let mut moved = ask(lbd.address, &with_cookie(&cookie));
    // The machine may have stood still for as long as the cookie lasts.
    if rejected(&lbd, "stale") == 0 {
        assert_eq!(rejected(&lbd, "gone"), 1);
    }
    assert_ne!(moved.text(), gone);
    eventually("it is too old in the end", || {
        moved = ask(lbd.address, &with_cookie(&cookie));
        assert!(given(&moved).is_some());
        rejected(&lbd, "stale") > 0
    });
}

#[test]
fn a_client_moves_for_good_when_its_target_takes_nobody() {
    let ip = own_ip();
    let named = |name: &'static str| {
        Target::with(ip, move |_, stream| {
            write(
                stream,
                &format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{name}"),
            )?;
            Ok(false)
        })
    };
    let mut targets: Vec<Target> = NAMES.into_iter().map(named).collect();
    let group = "sticky = { by = \"cookie\" }\nretry = { on = [\"connect\"], attempts = 2 }";
    let lbd = Lbd::start(&sticky(ip, &targets, group));
    let set = |target: &str, state: &str| {
        let answer = lbd.command(&["set", &format!("pool/{target}"), "--state", state]);
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    };
    let first = ask(lbd.address, &with(""));
    let (mut home, mut cookie) = (first.text().to_owned(), given(&first).unwrap());
    assert!(cookie.starts_with("tandem-pool="), "{cookie}");
    let mut moves = |why: &str| {
        let moved = ask(lbd.address, &with_cookie(&cookie));
        assert_ne!(moved.text(), home, "{why}");
        let left = std::mem::replace(&mut home, moved.text().to_owned());
        cookie = given(&moved).expect("a new cookie");
        for _ in 0..4 {
            let there = ask(lbd.address, &with_cookie(&cookie));
            assert_eq!((there.text(), there.field("set-cookie")), (home.as_str(), None), "{why}");
        }
        (left, home.clone())
    };
    set(first.text(), "drain");
    let (left, now) = moves("drained");
    set(&left, "ready");
    set(&now, "maint");
    let (left, now) = moves("in maintenance");
    set(&left, "ready");
    assert_eq!(rejected(&lbd, "gone"), 2);
    // Nobody has noticed yet: by a second try.
    let dead = targets.remove(place(&now)).address;
    eventually("it is dead", || TcpStream::connect(dead).is_err());
    moves("dead");
    assert_eq!(rejected(&lbd, "gone"), 2);
}

#[test]
fn a_target_that_is_only_full_keeps_its_clients() {
    let ip = own_ip();
    let (waiting, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let behaviour = (Arc::clone(&waiting), Arc::clone(&go_on));
    let slow = Target::with(ip, move |request, stream| {
        if request.line().contains("/slow") {
            behaviour.0.fetch_add(1, Ordering::SeqCst);
            eventually("it may go on", || behaviour.1.load(Ordering::SeqCst));
        }
        answer(stream, "t0")
    });
    let targets = [slow, Target::named(ip, "t1")];
    let mut config = sticky(ip, &targets, "sticky = { by = \"cookie\" }");
    config.target_keys = vec!["max_connections = 1".to_owned()];
    let lbd = Lbd::start(&config);
    let cookie = (0..8).find_map(|_| {
        let answer = ask(lbd.address, &with(""));
        given(&answer).filter(|_| answer.text() == "t0")
    });
    let cookie = cookie.expect("each of two gets some");
    // A client has its answer before the place it had at the target is free again.
    let kept = || lbd.status()["target_groups"][0]["targets"][0]["requests"]["connections_kept"].clone();
    eventually("its connection waits for another request", || kept() == 1);
    let mut busy = Client::new(lbd.address);
    busy.send(format!("GET /slow HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
    eventually("it is busy", || waiting.load(Ordering::SeqCst) == 1);
    let elsewhere = ask(lbd.address, &with_cookie(&cookie));
    assert_eq!((elsewhere.text(), elsewhere.field("set-cookie")), ("t1", None));
    go_on.store(true, Ordering::SeqCst);
    assert_eq!(busy.answer().text(), "t0");
    eventually("it comes back", || ask(lbd.address, &with_cookie(&cookie)).text() == "t0");
}

#[test]
fn a_cookie_is_renewed_while_it_is_used() {
    let ip = own_ip();
    let targets = targets(ip);
    let lbd = Lbd::start(&sticky(ip, &targets, "sticky = { by = \"cookie\", ttl = \"30s\" }"));
    let first = ask(lbd.address, &with(""));
    let cookie = given(&first).unwrap();
    let mut renewed = None;
    eventually("it is renewed", || {
        let answer = ask(lbd.address, &with_cookie(&cookie));
        assert_eq!(answer.text(), first.text());
        renewed = given(&answer);
        renewed.is_some()
    });
    assert_ne!(renewed.as_ref(), Some(&cookie));
    assert_eq!(ask(lbd.address, &with_cookie(&renewed.unwrap())).text(), first.text());
}

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

/// A node of the pair of this key, before these targets.
fn node(targets: &[Target], key: &str) -> Lbd {
    let mut config = sticky(own_ip(), targets, "sticky = { by = \"cookie\", name = \"LB\" }");
    // The other node's file may well name them in another order.
    if key == KEY {
        config.targets.reverse();
    }
    let folder = Folder::new();
    let file = folder.path().join("pair.key");
    fs::write(&file, key).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    config.head = "[pair]\nkey_file = \"pair.key\"\n".to_owned();
    Lbd::start_in(folder, &config)
}

#[test]
fn the_other_node_reads_it_and_nobody_else() {
    let targets = targets(own_ip());
    let (a, b) = (node(&targets, KEY), node(&targets, KEY));
    let stranger = node(&targets, &KEY.replace("00", "01"));
    for _ in 0..6 {
        let first = ask(a.address, &with(""));
        let cookie = given(&first).unwrap();
        for _ in 0..3 {
            let there = ask(b.address, &with_cookie(&cookie));
            assert_eq!((there.text(), there.field("set-cookie")), (first.text(), None));
        }
        assert!(given(&ask(stranger.address, &with_cookie(&cookie))).is_some());
    }
    assert_eq!((rejected(&b, "forged"), rejected(&stranger, "forged")), (0, 6));
}

#[test]
fn a_client_stays_in_its_group() {
    let ip = own_ip();
    let (old, new) = ([Target::named(ip, "old")], Target::named(ip, "new"));
    let mut config = sticky(ip, &old, "sticky = { by = \"cookie\" }\n");
    let split = |weights: [u8; 2]| {
        format!(
            "[[service.rule]]\nwhen = {{ path_prefix = \"/\" }}\n\
             forward = [{{ group = \"pool\", weight = {} }}, {{ group = \"new\", weight = {} }}]\n",
            weights[0], weights[1]
        )
    };
    config.group += &format!(
        "[[target_group]]\nname = \"new\"\nsticky = {{ by = \"cookie\" }}\ntargets = [{{ address = \"{}\" }}]\n",
        new.address
    );
    config.service = split([0, 1]);
    let lbd = Lbd::start(&config);
    let first = ask(lbd.address, &with(""));
    assert_eq!(first.text(), "new");
    let cookie = given(&first).unwrap();
    // By its address it would be somebody else's from now on, nearly for certain.
    config.service = split([255, 1]);
    assert_eq!(lbd.reload(&config).0, 200);
    let others = (0..4).filter(|_| ask(lbd.address, &with("")).text() == "old").count();
    let stays = ask(lbd.address, &with_cookie(&cookie));
    assert_eq!((stays.text(), stays.field("set-cookie")), ("new", None));
    config.service = split([1, 0]);
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(
        ask(lbd.address, &with_cookie(&cookie)).text(),
        "old",
        "a group that takes nobody keeps nobody"
    );
    assert!(others == 4 || others == 0, "a client's address has one group");
}

#[test]
fn a_client_behind_tls_is_told_so() {
    let ip = own_ip();
    let targets = targets(ip);
    let mut config = sticky(ip, &targets, "sticky = { by = \"cookie\", same_site = \"none\" }");
    config.service = "trust_forwarded = [\"127.0.0.0/8\"]".to_owned();
    let lbd = Lbd::start(&config);
    let set = |fields: &str| ask(lbd.address, &with(fields)).field("set-cookie").unwrap().to_owned();
    assert!(set("X-Forwarded-Proto: https\r\n").ends_with("; HttpOnly; SameSite=None; Secure"));
    assert!(set("X-Forwarded-Proto: http\r\n").ends_with("; HttpOnly"));
    let of_client = "Forwarded: for=203.0.113.5;proto=https, for=127.0.0.9;proto=http\r\n";
    assert!(set(of_client).ends_with("; HttpOnly; SameSite=None; Secure"));
    let forged = "Forwarded: for=192.0.2.1;proto=https, for=203.0.113.5;proto=http\r\n";
    assert!(set(forged).ends_with("; HttpOnly"), "what stands to the left anybody may have written");
    config.service = String::new();
    assert_eq!(lbd.reload(&config).0, 200);
    assert!(set("X-Forwarded-Proto: https\r\n").ends_with("; HttpOnly"), "whoever may say so");
}

/// A target that begins a session with each request that has none.
fn application(ip: Ipv4Addr, name: &'static str) -> Target {
    let sessions = AtomicUsize::new(0);
    Target::with(ip, move |request, stream| {
        let set = match request.field("cookie") {
            None => format!("Set-Cookie: SID={name}-{}; Path=/\r\n", sessions.fetch_add(1, Ordering::SeqCst)),
            Some(_) => String::new(),
        };
        write(stream, &format!("HTTP/1.1 200 OK\r\n{set}Content-Length: {}\r\n\r\n{name}", name.len()))
    })
}

#[test]
fn a_session_of_an_application_leads_back_to_its_target() {
    let ip = own_ip();
    let targets: Vec<Target> = NAMES.into_iter().map(|name| application(ip, name)).collect();
    let mut config =
        sticky(ip, &targets, "sticky = { by = \"app_cookie\", name = \"SID\", max_entries = 100 }");
    let lbd = Lbd::start(&config);
    let mut sessions = Vec::new();
    for _ in 0..8 {
        let first = ask(lbd.address, &with(""));
        sessions.push((given(&first).unwrap(), first.text().to_owned()));
    }
    assert!(sessions.iter().map(|it| &it.1).collect::<BTreeSet<_>>().len() > 1, "{sessions:?}");
    for _ in 0..4 {
        for (cookie, home) in &sessions {
            let again = ask(lbd.address, &with_cookie(&format!("{cookie}; b=2")));
            assert_eq!(again.text(), home, "{cookie}");
        }
    }
    assert!((lbd.metric("tandem_lbd_group_sticky_entries") - 8.0).abs() < 0.1);
    let shown = lbd.ask("GET", "/v1/sticky?group=pool").1;
    assert!(
        !shown.contains("t0-") && !shown.contains("SID"),
        "what proves who somebody is is not shown: {shown}"
    );
    // Of a target that is gone they move, and stay where they have moved to.
    let gone = sessions[0].1.clone();
    config.targets.retain(|target| target.0 != gone);
    assert_eq!(lbd.reload(&config).0, 200);
    let moved = ask(lbd.address, &with_cookie(&sessions[0].0)).text().to_owned();
    assert_ne!(moved, gone);
    for _ in 0..6 {
        assert_eq!(ask(lbd.address, &with_cookie(&sessions[0].0)).text(), moved);
    }
    // Any number of made-up ones makes no one forgotten.
    let mut client = Client::new(lbd.address);
    for number in 0..400 {
        client.send(with_cookie(&format!("SID=made-up-{number}"))).answer();
    }
    // Nor does any number of sessions that one client has begun.
    for _ in 0..400 {
        assert!(given(&client.send(with("")).answer()).is_some());
    }
    assert!(lbd.metric("tandem_lbd_group_sticky_forgotten_total") < 0.1);
    assert!(lbd.metric("tandem_lbd_group_sticky_withheld_total") > 100.0);
    for (cookie, home) in sessions.iter().filter(|it| it.1 != gone) {
        assert_eq!(ask(lbd.address, &with_cookie(cookie)).text(), home);
    }
}

#[test]
fn the_other_node_knows_the_sessions_of_applications() {
    let ip = own_ip();
    let targets: Vec<Target> = NAMES.into_iter().map(|name| application(ip, name)).collect();
    let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    let mut pair = Pair::start(&addresses, |config| {
        config.mode = "http".to_owned();
        config.group = "sticky = { by = \"app_cookie\", name = \"SID\" }".to_owned();
    });
    let sessions: Vec<(String, String)> = (0..8)
        .map(|_| {
            let first = ask(pair.nodes[0].address, &with(""));
            (given(&first).unwrap(), first.text().to_owned())
        })
        .collect();
    counts(&pair.nodes[1], "sticky", 8);
    pair.nodes[0].kill();
    for (cookie, home) in &sessions {
        for _ in 0..4 {
            assert_eq!(ask(pair.nodes[1].address, &with_cookie(cookie)).text(), home, "{cookie}");
        }
    }
}
