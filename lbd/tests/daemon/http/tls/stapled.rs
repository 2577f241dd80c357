//! OCSP responses that are shown with a certificate: made by openssl, read by it, and verified by curl.

use std::fs;
use std::path::Path;

use super::super::peers::Target;
use super::check::check;
use super::peers::{LAST, curl, s_client};
use super::shop;
use crate::real::{Authority, seconds_from_now};
use crate::support::{Config, Lbd, eventually, own_ip};

/// The entry of `shop`'s certificate with a response. The authority's own is in the chain, because curl looks for the issuer there.
fn entry(authority: &Authority, response: &Path) -> String {
    let (chain, key) = (authority.chain("shop"), authority.path("shop.key"));
    let [chain, key, response] =
        [chain.as_path(), key.as_path(), response].map(|path| path.display().to_string());
    format!("{{ certificate = \"{chain}\", key = \"{key}\", ocsp_file = \"{response}\" }}")
}

/// A service that shows it, and what serves behind it.
fn start(authority: &Authority, response: &Path) -> (Lbd, Target) {
    let ip = own_ip();
    let target = Target::named(ip, "hello");
    let mut config: Config = super::super::config(ip, &[target.address]);
    config.service = format!("tls = {{ certificates = [{}] }}", entry(authority, response));
    (Lbd::start(&config), target)
}

/// The line with which openssl says until when a response is good.
fn until(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.trim().strip_prefix("Next Update: ")).map(str::to_owned)
}

/// Until when the response is good that a client is shown, if it is shown one.
fn shown(lbd: &Lbd, version: &str) -> Option<String> {
    let text = s_client(lbd.address, &format!("{version} -status -servername shop.example"), LAST);
    assert!(text.contains("HTTP/1.1 200"), "{text}");
    let until = until(&text);
    assert_eq!(until.is_some(), text.contains("Cert Status: good"), "{text}");
    assert_eq!(until.is_none(), text.contains("OCSP response: no response sent"), "{text}");
    until
}

/// The same response with another end, written as in `20260102030405Z`. Its signature is wrong then, which is for clients to look at.
fn ending_at(response: &[u8], end: &str) -> Vec<u8> {
    // The last time in it with a year of four digits (GeneralizedTime, 15 bytes) is `nextUpdate`: those of certificates have two.
    let at = response.windows(4).rposition(|bytes| bytes == [0x18, 15, b'2', b'0']).unwrap() + 2;
    let mut changed = response.to_vec();
    changed[at..at + 15].copy_from_slice(end.as_bytes());
    changed
}

#[test]
fn a_response_is_shown_and_read_anew_with_each_reload() {
    let authority = shop();
    let response = authority.vouch("shop", true, 3);
    let (lbd, _target) = start(&authority, &response);
    let of_file = || until(&authority.said("ocsp -respin shop.ocsp -noverify -text")).expect("it has an end");
    let until_ms =
        || lbd.status()["services"][0]["tls"]["certificates"][0]["ocsp_until_unix_ms"].as_u64().unwrap();
    let (first, first_ms) = (of_file(), until_ms());
    for version in ["-tls1_2", "-tls1_3"] {
        assert_eq!(shown(&lbd, version).as_ref(), Some(&first), "{version}");
    }
    let verified = || curl(&authority, lbd.address, &["--cert-status", "https://shop.example/"]);
    assert_eq!(verified(), (true, "hello".to_owned()));
    // Another one in its place, as those who fetch them put it there.
    assert_eq!(authority.vouch("shop", true, 5), response);
    let second = of_file();
    assert_ne!(first, second);
    assert_eq!(shown(&lbd, "-tls1_3"), Some(first), "the file alone changes nothing");
    assert_eq!(lbd.ask("POST", "/v1/reload").0, 200);
    for version in ["-tls1_2", "-tls1_3"] {
        eventually("the new one is shown", || shown(&lbd, version).as_ref() == Some(&second));
    }
    assert_eq!(verified(), (true, "hello".to_owned()));
    assert!(until_ms() > first_ms);
    let (good, text) = check(&entry(&authority, &response));
    assert!(good && !text.contains("OCSP"), "{text}");
}

#[test]
fn one_of_no_use_is_told_of_and_not_shown() {
    let authority = shop();
    authority.sign("other", "DNS:other.example", 2);
    let read = |path: &Path| fs::read(path).unwrap();
    let of_other = read(&authority.vouch("other", true, 3));
    let revoked = read(&authority.vouch("shop", false, 3));
    let path = authority.vouch("shop", true, 3);
    let good = read(&path);
    let (lbd, _target) = start(&authority, &path);
    let cases: [(&[u8], &str); 6] = [
        (&of_other, "it is an OCSP response about other certificates"),
        (&revoked, "its OCSP response says that the certificate is not good"),
        (
            &ending_at(&good, "20200102030405Z"),
            "to 2020-01-02T03:04:05Z; the certificate is shown without it",
        ),
        (b"no DER", "it is no OCSP response in DER of any use"),
        // RFC 6960, section 2.3: `unauthorized`.
        (&[0x30, 3, 0x0a, 1, 6], "the responder has refused to answer"),
        (&[0; 9000], "it is larger than 8192 bytes"),
    ];
    let reload = || assert_eq!(lbd.ask("POST", "/v1/reload").0, 200);
    let is_told = |why: &str| {
        let (fine, text) = check(&entry(&authority, &path));
        assert!(!fine && text.contains("1 error"), "{text}");
        assert!(text.contains("service.tls.certificates.ocsp_file") && text.contains(why), "{text}");
        assert!(text.contains("the certificate is shown without it"), "{text}");
        reload();
        lbd.says(why);
        eventually("none is shown any more", || shown(&lbd, "-tls1_3").is_none());
        assert_eq!(shown(&lbd, "-tls1_2"), None, "{why}");
    };
    for (bytes, why) in cases {
        fs::write(&path, &good).unwrap();
        reload();
        eventually("a good one is shown", || shown(&lbd, "-tls1_3").is_some());
        fs::write(&path, bytes).unwrap();
        is_told(why);
    }
    fs::write(&path, &good).unwrap();
    reload();
    eventually("a good one is shown", || shown(&lbd, "-tls1_3").is_some());
    fs::remove_file(&path).unwrap();
    is_told("cannot read it: No such file or directory");
    // Whoever insists on one hears that there is none.
    assert!(!curl(&authority, lbd.address, &["--cert-status", "https://shop.example/"]).0);
    assert!(curl(&authority, lbd.address, &["https://shop.example/"]).0);
}

/// No reload is needed for that: clients refuse one that is over, and some a whole site with it.
#[test]
fn one_is_shown_until_its_end() {
    let authority = shop();
    let path = authority.vouch("shop", true, 3);
    let changed = ending_at(&fs::read(&path).unwrap(), &seconds_from_now(12, "%Y%m%d%H%M%SZ"));
    fs::write(&path, changed).unwrap();
    let (lbd, _target) = start(&authority, &path);
    assert!(shown(&lbd, "-tls1_3").is_some());
    eventually("it is over", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        shown(&lbd, "-tls1_3").is_none()
    });
    assert_eq!(shown(&lbd, "-tls1_2"), None);
}
