//! Clients that show who they are.

use super::super::peers::Target;
use super::peers::{LAST, curl, s_client};
use super::{config, failed, shop};
use crate::real::Authority;
use crate::support::{Folder, Lbd, eventually, own_ip};

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
