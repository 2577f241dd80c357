//! What services know of their clients, and what they ask of them, over HTTP/2 as over HTTP/1.

use std::fs;

use super::config;
use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, Wire, block, frame, head};
use super::real::curl;
use crate::http::Target;
use crate::support::{Folder, Lbd, own_ip};

/// Of "open sesame", by crypt(3).
const ADA: &str = "ada:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

#[test]
fn a_cookie_leads_back_and_stays_here() {
    let ip = own_ip();
    let targets = ["t0", "t1", "t2", "t3"].map(|name| Target::named(ip, name));
    let mut config = config(ip, &targets.each_ref().map(|target| target.address));
    config.group = "sticky = { by = \"cookie\", name = \"LB\" }\n".to_owned();
    let lbd = Lbd::start(&config);
    let url = format!("http://{}/", lbd.address);
    for _ in 0..4 {
        let first = curl(&["-D", "-", &url]);
        let set = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
        assert!(set.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{set}");
        let (cookie, home) = (set.split(';').next().unwrap(), first.lines().last().unwrap());
        for _ in 0..4 {
            // In crumbs.
            let cookies = ["-H", "Cookie: a=1", "-H", &format!("Cookie: {cookie}"), "-H", "Cookie: b=2"];
            let again = curl(&[&["-D", "-"], &cookies[..], &[&url]].concat());
            assert!(again.ends_with(home) && !again.contains("set-cookie"), "{again}");
        }
        let target = targets.iter().find(|target| {
            target
                .seen()
                .last()
                .is_some_and(|request| request.field("cookie").is_some_and(|it| it == "a=1; b=2"))
        });
        assert!(target.is_some(), "it is nobody else's");
    }
}

#[test]
fn what_targets_are_told_in_a_field_no_trailer_says() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let mut config = config(ip, &[target.address]);
    config.service += "request_headers = { set = { \"X-Client\" = \"{client_ip}\" } }\n";
    let lbd = Lbd::start(&config);
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &head("POST", "/", &[]), false);
    wire.send(&frame(DATA, 0, 1, b"ok"));
    let trailers = block(&[("x-client", "eve"), ("x-sum", "1")]);
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &trailers));
    assert_eq!(wire.outcome(1), Outcome::Answer(200, b"x".to_vec()));
    let seen = target.last();
    assert_eq!((seen.text(), seen.trailers.as_str()), ("ok", "x-sum: 1"));
}

#[test]
fn who_is_let_in_is_told_by_nobody_else() {
    let ip = own_ip();
    let target = Target::named(ip, "inside");
    let folder = Folder::new();
    fs::write(folder.path().join("users"), ADA).unwrap();
    fs::write(folder.path().join("401.html"), "<p>who?").unwrap();
    let mut config = config(ip, &[target.address]);
    config.service += "auth = { basic = { users = \"users\", user_header = \"X-User\" } }\n\
        error_pages = { 401 = \"401.html\" }\nlimits = { max_body_bytes = \"10B\" }\n";
    let lbd = Lbd::start_in(folder, &config);
    let url = format!("http://{}/", lbd.address);
    let refused = curl(&["-D", "-", &url]);
    assert!(refused.starts_with("HTTP/2 401") && refused.ends_with("<p>who?"), "{refused}");
    assert!(refused.contains("www-authenticate: Basic realm=\"web\", charset=\"UTF-8\""), "{refused}");
    assert_eq!(curl(&["-u", "ada:Open sesame", "-o", "/dev/null", "-w", "%{http_code}", &url]), "401");
    assert!(target.seen().is_empty());
    // Many at a time wait for one password.
    let ask = || curl(&["-u", "ada:open sesame", "-H", "X-User: eve", &url]);
    let asked = std::thread::scope(|scope| {
        let many: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        many.into_iter().map(|it| it.join().unwrap()).collect::<Vec<String>>()
    });
    assert_eq!(asked, ["inside"; 8]);
    assert_eq!(target.last().field("x-user"), Some("ada"));
    assert_eq!(
        curl(&["-u", "ada:open sesame", "--data-binary", "0123456789", &url]),
        "inside",
        "it is as long as it may be"
    );
    // Nor behind the body, and a body without a length is no longer either.
    let authorization = ("authorization", "Basic YWRhOm9wZW4gc2VzYW1l");
    let mut wire = Wire::open(lbd.address);
    wire.ask(1, &head("POST", "/", &[authorization]), false);
    wire.send(&frame(DATA, 0, 1, b"x"));
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[("x-user", "eve")])));
    assert_eq!(wire.outcome(1), Outcome::Answer(200, b"inside".to_vec()));
    let seen = target.last();
    assert_eq!((seen.text(), seen.field("x-user"), seen.trailers.as_str()), ("x", Some("ada"), ""));
    wire.ask(3, &head("POST", "/", &[authorization]), false);
    wire.send(&frame(DATA, 0, 3, b"01234567"));
    wire.send(&frame(DATA, END_STREAM, 3, b"01234567"));
    assert!(matches!(wire.outcome(3), Outcome::Answer(413, _)));
}
