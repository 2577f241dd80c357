//! `lbd check` says which file is wrong, why, and where it is named.

use std::fs;

use super::super::peers::Target;
use super::{config, listed, shop};
use crate::real::RSA_KEY;
use crate::support::{Folder, Lbd, command, own_ip};

/// What `lbd check` prints of a configuration with these entries for `certificates`.
pub(super) fn check(entries: &str) -> (bool, String) {
    let ip = own_ip();
    let folder = Folder::new();
    let mut config = super::super::config(ip, &["192.0.2.1:80".parse().unwrap()]);
    config.service = format!("tls = {{ certificates = [{entries}] }}");
    fs::write(folder.path().join("pair.toml"), config.text()).unwrap();
    let output = command(folder.path(), &["check"]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn each_mistake_is_told_with_its_place() {
    let authority = shop();
    authority.sign("expired", "DNS:expired.example", -1);
    authority.sign_with("-newkey rsa:1024 -nodes", "weak", "DNS:weak.example", 2);
    authority.sign("other", "DNS:other.example", 2);
    let path = |file: &str| authority.path(file).display().to_string();
    let shop_bundle = authority.bundle("shop").display().to_string();
    fs::write(authority.path("garbage"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    fs::write(authority.path("broken"), "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
    authority.openssl("pkey -in shop.key -aes256 -passout pass:secret -out locked.key");
    let pair =
        |certificate: &str, key: &str| format!("{{ certificate = \"{certificate}\", key = \"{key}\" }}");
    for (entries, why) in [
        ("\"missing.pem\"".to_owned(), "cannot read it: No such file or directory"),
        (format!("\"{}\"", path("shop.pem")), "there is no private key in it"),
        (format!("\"{}\"", path("shop.key")), "there is no certificate in it"),
        (format!("\"{}\"", authority.bundle("expired").display()), "its certificate has expired at 20"),
        (format!("\"{}\"", authority.bundle("weak").display()), "its RSA key has 1024 bits"),
        (format!("\"{}\"", path("broken")), "certificate 1 in it cannot be read"),
        (format!("\"{}\"", path("garbage")), "its certificate cannot be used"),
        ("\".\"".to_owned(), "it is not a regular file"),
        (pair(&path("shop.pem"), &path("other.key")), "they do not belong together"),
        (pair(&path("shop.pem"), "missing.key"), "cannot read it: No such file"),
        (pair(&path("shop.pem"), &path("locked.key")), "its private key has a passphrase"),
        (
            format!("\"{shop_bundle}\", {}", pair(&path("shop.pem"), &path("shop.key"))),
            "it is for shop.example, and so is",
        ),
    ] {
        let (good, text) = check(&entries);
        assert!(!good, "{entries}: {text}");
        assert!(text.contains(why), "{entries}: {text}");
        // The line of `tls`, and the caret.
        assert!(
            text.contains("pair.toml:6:") && text.contains("service.tls.certificates") && text.contains('^'),
            "{text}"
        );
        assert!(text.contains("1 error"), "{text}");
    }
    let (good, text) = check(&format!("\"{shop_bundle}\""));
    assert!(good && text.contains("note: the certificate") && text.contains("expires in"), "{text}");
    assert!(check(&pair(&path("shop.pem"), &path("shop.key"))).0);
}

#[test]
fn a_daemon_starts_with_one_that_has_expired_and_not_with_one_that_is_missing() {
    let ip = own_ip();
    let authority = shop();
    authority.sign_with(RSA_KEY, "expired", "DNS:expired.example", -1);
    let target = Target::named(ip, "hello");
    let bundles = [authority.bundle("expired"), authority.bundle("shop")];
    let lbd = Lbd::start(&config(ip, &[target.address], &[&bundles[0], &bundles[1]]));
    lbd.says("its certificate has expired");
    lbd.says("this certificate expires soon");
    let mut missing = config(ip, &[target.address], &[&bundles[1]]);
    missing.listen = vec![lbd.address];
    missing.service = format!("tls = {{ certificates = [{}, \"missing.pem\"] }}", listed(&[&bundles[1]]));
    let (code, answer) = lbd.reload(&missing);
    assert!(code == 422 || code == 400 || code == 409, "{code}: {answer}");
    assert!(answer.contains("missing.pem: cannot read it"), "{answer}");
    let certificates = lbd.status()["services"][0]["tls"]["certificates"].clone();
    assert_eq!(certificates.as_array().unwrap().len(), 2, "the old configuration stays");
    let (_, status) = (0, String::from_utf8(lbd.command(&["status"]).stdout).unwrap());
    assert!(status.contains("(renew it)") && status.contains("shop.example"), "{status}");
    let (_, metrics) = lbd.ask("GET", "/metrics");
    assert!(
        metrics.contains("tandem_lbd_service_tls_certificate_expiry_time_seconds{service=\"web\""),
        "{metrics}"
    );
}
