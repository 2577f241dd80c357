//! A file of targets.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use nix::sys::signal::Signal;

use super::{addresses, await_addresses, config, discovery, metric, refresh};
use crate::server::Server;
use crate::support::{Folder, Lbd, eventually, own_ip, ping, under_load};

fn list(targets: &[SocketAddr]) -> String {
    let targets: Vec<String> =
        targets.iter().map(|address| format!("    {{ address = \"{address}\" }},\n")).collect();
    format!("targets = [\n{}]\n", targets.concat())
}

fn write(folder: &Path, text: &str) {
    let fresh = folder.join("targets.toml.new");
    fs::write(&fresh, text).unwrap();
    fs::rename(fresh, folder.join("targets.toml")).unwrap();
}

fn start(keys: &str, text: Option<&str>) -> Lbd {
    let folder = Folder::new();
    if let Some(text) = text {
        write(folder.path(), text);
    }
    Lbd::start_in(folder, &config(&format!("file = \"targets.toml\"{keys}")))
}

#[test]
fn a_file_is_read_again_when_asked_to() {
    let ip = own_ip();
    let (a, b) = (Server::echo((ip, 0).into()), Server::echo((ip, 0).into()));
    let lbd = start("", Some(&list(&[a.address])));
    // Ready means that the first answer is in use.
    let mut long_lived = lbd.connect();
    assert_eq!(ping(&mut long_lived, "before").unwrap(), "before");
    assert_eq!(a.accepted(), 1);

    write(lbd.folder.path(), &list(&[b.address]));
    let (code, body) = refresh(&lbd);
    assert_eq!(code, 200, "{body}");
    assert!(body.contains("\"targets\":1") && body.contains("\"stale\":false"), "{body}");
    assert!(addresses(&lbd).contains(&b.address.to_string()));
    assert_eq!(ping(&mut lbd.connect(), "hello").unwrap(), "hello");
    assert_eq!((a.accepted(), b.accepted()), (1, 1));
    assert_eq!(
        ping(&mut long_lived, "after").unwrap(),
        "after",
        "connections to the target that is gone go on"
    );

    write(lbd.folder.path(), &list(&[a.address, b.address]));
    lbd.signal(Signal::SIGHUP);
    await_addresses(&lbd, &[a.address, b.address]);
    write(lbd.folder.path(), &list(&[a.address]));
    let output = lbd.command(&["reload"]);
    assert!(output.status.success());
    await_addresses(&lbd, &[a.address]);
}

#[test]
fn changes_under_load_fail_no_connection() {
    let ip = own_ip();
    let servers = [Server::echo((ip, 0).into()), Server::echo((ip, 0).into()), Server::echo((ip, 0).into())];
    let [a, b, c] = servers.each_ref().map(|server| server.address);
    let lbd = start("", Some(&list(&[a, b])));
    under_load(&lbd, 2, |goes_on| {
        for round in 0..30 {
            let targets = [[a, b], [b, c], [c, a]][round % 3];
            write(lbd.folder.path(), &list(&targets));
            let (code, body) = refresh(&lbd);
            assert_eq!(code, 200, "{body}");
            goes_on();
        }
    });
    assert!(servers.iter().all(|server| server.accepted() > 10));
}

#[test]
fn a_file_that_is_cut_off_changes_nothing() {
    let ip = own_ip();
    let (a, b) = (Server::named((ip, 0).into(), "a"), Server::named((ip, 0).into(), "b"));
    let whole = list(&[a.address, b.address]);
    let lbd = start("", Some(&whole));
    for (end, kind) in [(whole.len() / 2, "invalid"), (whole.len() - 2, "invalid"), (0, "invalid")] {
        let before =
            metric(&lbd, &format!("tandem_lbd_discovery_answers_total{{group=\"pool\",result=\"{kind}\"}}"));
        write(lbd.folder.path(), &whole[..end]);
        let (code, body) = refresh(&lbd);
        assert!(code == 422 && body.contains("targets.toml:"), "{code} {body}");
        assert!(body.contains("stay in use"), "{body}");
        let after =
            metric(&lbd, &format!("tandem_lbd_discovery_answers_total{{group=\"pool\",result=\"{kind}\"}}"));
        assert!(after > before);
    }
    write(lbd.folder.path(), "targets = []\n");
    assert_eq!(refresh(&lbd).0, 422, "an empty list is no answer");
    fs::remove_file(lbd.folder.path().join("targets.toml")).unwrap();
    let (code, body) = refresh(&lbd);
    assert!(code == 502 && body.contains("targets.toml"), "{code} {body}");
    assert_eq!(addresses(&lbd).len(), 2);
    let seen = discovery(&lbd);
    assert_eq!((seen["stale"].as_bool(), seen["targets"].as_u64()), (Some(true), Some(2)));
    assert!(seen["last_failure"]["message"].as_str().unwrap().contains("targets.toml"));
    lbd.says("no targets discovered, those found before stay in use");
    assert!(["a", "b"].contains(&lbd.fetch().unwrap().as_str()));
    assert!((metric(&lbd, "tandem_lbd_discovery_stale{group=\"pool\"}") - 1.0).abs() < 0.1);

    write(lbd.folder.path(), &list(&[b.address]));
    assert_eq!(refresh(&lbd).0, 200);
    assert_eq!(discovery(&lbd)["stale"], false);
    assert_eq!(lbd.fetch().unwrap(), "b");
}

#[test]
fn a_file_is_watched_if_wanted_and_may_come_later() {
    let server = Server::named((own_ip(), 0).into(), "here");
    let lbd = start(", refresh = \"1s\"", None);
    assert_eq!(discovery(&lbd)["stale"], true);
    assert!(addresses(&lbd).is_empty());
    write(lbd.folder.path(), &list(&[server.address]));
    await_addresses(&lbd, &[server.address]);
    assert_eq!(lbd.fetch().unwrap(), "here");
}

#[test]
fn more_targets_than_allowed_are_refused() {
    let many: Vec<SocketAddr> = (1..=3).map(|host| ([10, 0, 0, host], 80).into()).collect();
    let lbd = start(", max_targets = 3", Some(&list(&many)));
    assert_eq!(addresses(&lbd).len(), 3);
    let more: Vec<SocketAddr> = (1..=4).map(|host| ([10, 0, 0, host], 80).into()).collect();
    write(lbd.folder.path(), &list(&more));
    let (code, body) = refresh(&lbd);
    assert!(code == 422 && body.contains("max_targets"), "{code} {body}");
    assert_eq!(addresses(&lbd).len(), 3);
}

#[test]
fn written_targets_win_and_outlive_the_discovery() {
    let ip = own_ip();
    let (a, b) = (Server::named((ip, 0).into(), "a"), Server::named((ip, 0).into(), "b"));
    let folder = Folder::new();
    write(folder.path(), &list(&[a.address, b.address]));
    let mut both = config("file = \"targets.toml\"");
    both.targets = vec![("written".to_owned(), a.address, 1)];
    let lbd = Lbd::start_in(folder, &both);
    let status = lbd.status();
    let targets = status["target_groups"][0]["targets"].as_array().unwrap();
    let seen: Vec<(&str, &str)> = targets
        .iter()
        .map(|target| (target["id"].as_str().unwrap(), target["source"].as_str().unwrap()))
        .collect();
    assert_eq!(seen, [("written", "file"), (b.address.to_string().as_str(), "discovered")]);
    assert_eq!(discovery(&lbd)["shadowed"], 1);

    let mut alone = both.clone();
    alone.group = String::new();
    let (code, body) = lbd.reload(&alone);
    assert_eq!(code, 200, "{body}");
    await_addresses(&lbd, &[a.address]);
    assert_eq!(discovery(&lbd), serde_json::Value::Null);
    assert_eq!(refresh(&lbd).0, 404);

    // Another source that has no answer yet does not take the targets of the former one away.
    assert_eq!(lbd.reload(&both).0, 200);
    await_addresses(&lbd, &[a.address, b.address]);
    let mut other = both.clone();
    other.group = "discover = { file = \"other.toml\" }".to_owned();
    assert_eq!(lbd.reload(&other).0, 200);
    eventually("the other file is missed", || discovery(&lbd)["stale"] == true);
    assert_eq!(addresses(&lbd).len(), 2);
    let shown = String::from_utf8(lbd.command(&["status"]).stdout).unwrap();
    assert!(shown.contains("other.toml") && shown.contains("stale: "), "{shown}");
}
