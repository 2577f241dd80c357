//! Clients that show who they are.

use super::super::peers::{self, Message, Target, get};
use super::peers::{Client, LAST, curl, s_client};
use super::{config, failed, shop};
use crate::real::Authority;
use crate::support::{Folder, Lbd, eventually, metric, own_ip};

fn start(authority: &Authority, clients: &Authority, more: &str) -> (Lbd, Target) {
    let ip = own_ip();
    let target = Target::named(ip, "hello");
    let mut config = config(ip, &[target.address], &[&authority.bundle("shop")]);
    let ca = format!(", client_ca_file = \"{}\"{more} }}", clients.file().display());
    let shown = "{tls_version} {tls_sni} {client_cert_subject} {client_cert_sha256}";
    let told = format!("\nrequest_headers = {{ set = {{ \"X-Shown\" = \"{shown}\" }} }}");
    config.service = config.service.replace(" }", &ca) + &told;
    (Lbd::start(&config), target)
}

/// curl's words for a client that shows a certificate.
fn shows(authority: &Authority, name: &str) -> [String; 4] {
    let path = |suffix: &str| authority.path(&format!("{name}.{suffix}")).display().to_string();
    ["--cert".to_owned(), path("pem"), "--key".to_owned(), path("key")]
}

#[test]
fn a_client_without_a_good_certificate_is_refused_and_targets_are_told_of_the_others() {
    let (authority, clients, strangers) = (shop(), Authority::new(), Authority::new());
    clients.sign("alice", "email:alice@example.com", 2);
    clients.sign("late", "email:late@example.com", -1);
    strangers.sign("mallory", "email:mallory@example.com", 2);
    let (lbd, target) = start(&authority, &clients, "");
    let ask = |who: &[String], more: &[&str]| {
        let who: Vec<&str> = who.iter().map(String::as_str).collect();
        curl(&authority, lbd.address, &[&who[..], more, &["https://shop.example/"]].concat())
    };
    for version in ["1.2", "1.3"] {
        let tls = ["--tls-max", version, "-H", "X-Client-Cert-Subject: CN=root", "-H", "Client-Cert: :AA==:"];
        let (good, text) = ask(&shows(&clients, "alice"), &tls);
        assert!(good && text == "hello", "{version}: {text}");
        let seen = target.last();
        assert_eq!(seen.field("x-client-cert-verify"), Some("SUCCESS"));
        assert_eq!(seen.field("x-client-cert-subject"), Some("CN=alice"));
        assert_eq!(seen.field("client-cert"), None);
        let path = clients.path("alice.pem");
        let openssl = std::process::Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(path)
            .output()
            .unwrap();
        let expected = String::from_utf8(openssl.stdout).unwrap();
        let expected = expected.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
        assert_eq!(seen.field("x-client-cert-sha256"), Some(expected.as_str()));
        let shown = format!("{version} shop.example CN=alice {expected}");
        assert_eq!(seen.field("x-shown"), Some(shown.as_str()));
        for who in [vec![], shows(&strangers, "mallory").to_vec(), shows(&clients, "late").to_vec()] {
            assert!(!ask(&who, &tls[..2]).0, "{version}: {who:?}");
        }
    }
    assert_eq!(target.seen().len(), 2);
    assert_eq!(failed(&lbd, "client_certificate"), 6);
}

#[test]
fn where_it_is_optional_targets_are_told_that_there_was_none() {
    let (authority, clients, strangers) = (shop(), Authority::new(), Authority::new());
    clients.sign("bob", "email:bob@example.com", 2);
    strangers.sign("mallory", "email:mallory@example.com", 2);
    let (lbd, target) = start(&authority, &clients, ", client_certificate = \"optional\"");
    let forged = ["-H", "X-Client-Cert-Verify: SUCCESS", "https://shop.example/"];
    assert!(curl(&authority, lbd.address, &forged).0);
    assert_eq!(target.last().field("x-client-cert-verify"), Some("NONE"));
    assert_eq!(target.last().field("x-client-cert-subject"), None);
    let bob = shows(&clients, "bob");
    let bob: Vec<&str> = bob.iter().map(String::as_str).collect();
    assert!(curl(&authority, lbd.address, &[&bob[..], &forged].concat()).0);
    assert_eq!(target.last().field("x-client-cert-subject"), Some("CN=bob"));
    let mallory = shows(&strangers, "mallory");
    let mallory: Vec<&str> = mallory.iter().map(String::as_str).collect();
    assert!(
        !curl(&authority, lbd.address, &[&mallory[..], &forged].concat()).0,
        "a bad one is worse than none"
    );
}

/// A session that is gone on with is the same client's.
#[test]
fn a_session_remembers_who_it_is_of() {
    let (authority, clients) = (shop(), Authority::new());
    clients.sign("alice", "email:alice@example.com", 2);
    let (lbd, target) = start(&authority, &clients, "");
    let folder = Folder::new();
    let session = folder.path().join("session").display().to_string();
    let path = |file: &str| clients.path(file).display().to_string();
    let show = format!("-cert {} -key {}", path("alice.pem"), path("alice.key"));
    for version in ["-tls1_2", "-tls1_3"] {
        let first = s_client(
            lbd.address,
            &format!("{version} -servername shop.example {show} -sess_out {session}"),
            LAST,
        );
        assert!(first.contains("HTTP/1.1 200"), "{first}");
        let second =
            s_client(lbd.address, &format!("{version} -servername shop.example -sess_in {session}"), LAST);
        assert!(second.contains("Reused") && second.contains("HTTP/1.1 200"), "{second}");
        assert_eq!(target.last().field("x-client-cert-subject"), Some("CN=alice"));
    }
}

/// A ticket does not make a certificate good for longer, however often it is renewed.
#[test]
fn a_session_ends_with_the_certificate_that_it_was_made_with() {
    let (authority, clients) = (shop(), Authority::new());
    let (lbd, target) = start(&authority, &clients, "");
    clients.sign_for_seconds("brief", 12);
    let folder = Folder::new();
    let session = folder.path().join("session").display().to_string();
    let path = |file: &str| clients.path(file).display().to_string();
    let show = format!("-servername shop.example -cert {} -key {}", path("brief.pem"), path("brief.key"));
    let first = s_client(lbd.address, &format!("{show} -sess_out {session}"), LAST);
    assert!(first.contains("HTTP/1.1 200"), "{first}");
    let renewed = format!("-servername shop.example -sess_in {session} -sess_out {session}");
    let again = s_client(lbd.address, &renewed, LAST);
    assert!(again.contains("Reused") && again.contains("HTTP/1.1 200"), "{again}");
    eventually("the certificate's end", || {
        let answered = s_client(lbd.address, &renewed, LAST).contains("HTTP/1.1 200");
        std::thread::sleep(std::time::Duration::from_millis(200));
        !answered
    });
    assert!(failed(&lbd, "client_certificate") >= 1);
    let before = target.seen().len();
    assert!(
        !s_client(lbd.address, &format!("-servername shop.example -sess_in {session}"), LAST)
            .contains("HTTP/1.1 200")
    );
    assert_eq!(target.seen().len(), before);
}

/// Whoever came when less was wanted of clients is not let in for longer than others.
#[test]
fn a_reload_asks_more_of_clients_on_open_connections() {
    let ip = own_ip();
    let (authority, clients, others) = (shop(), Authority::new(), Authority::new());
    clients.sign("alice", "email:alice@example.com", 2);
    let target = Target::named(ip, "hello");
    let mut encrypted = config(ip, &[target.address], &[&authority.bundle("shop")]);
    let clear = crate::support::Config { service: String::new(), ..encrypted.clone() };
    let lbd = Lbd::start(&clear);
    let denied = |answer: &Message| (answer.status(), answer.field("connection")) == (403, Some("close"));
    let mut plain = peers::Client::new(lbd.address);
    assert_eq!(plain.send(get("/")).answer().text(), "hello");
    assert_eq!(lbd.reload(&encrypted).0, 200);
    assert!(denied(&plain.send(get("/")).answer()), "it is in clear text");
    assert!(plain.is_at_its_end());
    // A certificate that is renewed asks nothing of anybody.
    let mut nobody = Client::new(&authority, lbd.address, "shop.example");
    assert_eq!(nobody.send(get("/")).answer().text(), "hello");
    authority.sign("shop", "DNS:shop.example,DNS:*.shop.example", 60);
    authority.bundle("shop");
    assert_eq!(lbd.reload(&encrypted).0, 200);
    assert_eq!(nobody.send(get("/")).answer().text(), "hello");
    // Paths that are made of what a client has shown have no hole.
    let file = authority.path("clients.pem");
    let rule = "\n[[service.rule]]\nwhen = { path_prefix = \"/\" }\nforward = \"pool\"\nrewrite = \"/u/{client_cert_sha256}\"";
    let wanted = format!(", client_ca_file = \"{}\" }}{rule}", file.display());
    encrypted.service = encrypted.service.replace(" }", &wanted);
    let reload = |authorities: &[&Authority]| {
        let read = |authority: &&Authority| std::fs::read(authority.file()).unwrap();
        std::fs::write(&file, authorities.iter().map(read).collect::<Vec<_>>().concat()).unwrap();
        assert_eq!(lbd.reload(&encrypted).0, 200);
    };
    reload(&[&clients]);
    let before = target.seen().len();
    assert!(denied(&nobody.send(get("/")).answer()), "it has shown none");
    assert!(nobody.rest().is_ok_and(|rest| rest.is_empty()));
    assert_eq!(target.seen().len(), before);
    let mut alice = Client::showing(&clients.bundle("alice"), &authority, lbd.address, "shop.example");
    assert_eq!(alice.send(get("/")).answer().text(), "hello");
    let line = target.last().line().to_owned();
    assert!(line.starts_with("GET /u/") && line.len() > 64, "{line}");
    // One more authority takes nothing from those of the others.
    reload(&[&clients, &others]);
    assert_eq!(alice.send(get("/")).answer().text(), "hello");
    reload(&[&others]);
    assert!(denied(&alice.send(get("/")).answer()), "who has signed it is not believed any more");
    assert!(alice.rest().is_ok_and(|rest| rest.is_empty()));
    let all = metric(&lbd, "tandem_lbd_service_http_requests_denied_total");
    assert_eq!(all["{service=\"web\",reason=\"access\"}"], 3);
}
