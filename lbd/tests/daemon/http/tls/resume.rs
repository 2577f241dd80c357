//! Sessions that are gone on with: on the same node, after a reload, and on the other node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::super::peers::Target;
use super::peers::{LAST, s_client};
use super::{config, made, shop};
use crate::support::{Config, Folder, Lbd, own_ip};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

/// Whether a client that makes a session with `first` can go on with it at `second`.
fn resumes(first: &Lbd, second: &Lbd, version: &str, name: &str, folder: &Path) -> bool {
    let file = folder.join("session").display().to_string();
    let text = s_client(first.address, &format!("{version} -servername {name} -sess_out {file}"), LAST);
    assert!(text.contains("New, TLSv1") && text.contains("HTTP/1.1 200"), "{text}");
    let text = s_client(second.address, &format!("{version} -servername {name} -sess_in {file}"), LAST);
    assert!(text.contains("HTTP/1.1 200"), "{text}");
    let (reused, new) = (text.contains("Reused, TLSv1"), text.contains("New, TLSv1"));
    assert!(reused != new, "{text}");
    reused
}

/// The same service with a pair's key, as one of its nodes; without the link between them.
fn of_pair(mut config: Config, key: &str) -> (Folder, Config) {
    let folder = Folder::new();
    let file = folder.path().join("pair.key");
    fs::write(&file, key).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    config.head = "[pair]\nkey_file = \"pair.key\"\n".to_owned();
    (folder, config)
}

#[test]
fn a_session_goes_on_and_outlives_a_reload() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let config = config(ip, &[target.address], &[&authority.bundle("shop")]);
    let lbd = Lbd::start(&config);
    let folder = Folder::new();
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(resumes(&lbd, &lbd, version, "shop.example", folder.path()), "{version}");
        let file = folder.path().join("session").display().to_string();
        assert_eq!(lbd.ask("POST", "/v1/reload").0, 200);
        let text =
            s_client(lbd.address, &format!("{version} -servername shop.example -sess_in {file}"), LAST);
        assert!(text.contains("Reused, TLSv1"), "{version}: {text}");
    }
    assert_eq!((made(&lbd, "1.2", "resumed"), made(&lbd, "1.3", "resumed")), (2, 2));
}

#[test]
fn the_other_node_goes_on_with_it_and_nobody_else() {
    let authority = shop();
    let bundle = authority.bundle("shop");
    let folder = Folder::new();
    let start = |key: Option<&str>| {
        let ip = own_ip();
        let target = Target::named(ip, "hello");
        let config = config(ip, &[target.address], &[&bundle]);
        let lbd = match key {
            Some(key) => {
                let (folder, config) = of_pair(config, key);
                Lbd::start_in(folder, &config)
            }
            None => Lbd::start(&config),
        };
        (lbd, target)
    };
    let (a, b) = (start(Some(KEY)), start(Some(KEY)));
    let (stranger, alone) = (start(Some(&KEY.replace("00", "01"))), start(None));
    for version in ["-tls1_2", "-tls1_3"] {
        let goes_on = |first: &(Lbd, Target), second: &(Lbd, Target)| {
            resumes(&first.0, &second.0, version, "shop.example", folder.path())
        };
        assert!(goes_on(&a, &b), "{version}");
        assert!(goes_on(&b, &a), "{version}");
        assert!(!goes_on(&a, &stranger), "{version}");
        assert!(!goes_on(&a, &alone) && !goes_on(&alone, &b), "{version}");
    }
}

/// A ticket is of its service, and of what that one wants of clients.
#[test]
fn a_ticket_opens_no_other_service() {
    let ip = own_ip();
    let (authority, target) = (shop(), Target::named(ip, "hello"));
    let bundle = authority.bundle("shop");
    let (_, one) = of_pair(config(ip, &[target.address], &[&bundle]), KEY);
    let (folder, other) = of_pair(config(own_ip(), &[target.address], &[&bundle]), KEY);
    let text = other.text().replace("name = \"web\"", "name = \"other\"");
    let other = Lbd::start_with(folder, &text, other.listen[0], |_| {});
    let (folder, _) = of_pair(one.clone(), KEY);
    let one = Lbd::start_in(folder, &one);
    let sessions = Folder::new();
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(!resumes(&one, &other, version, "shop.example", sessions.path()), "{version}");
    }
}
