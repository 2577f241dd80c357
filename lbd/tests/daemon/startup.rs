//! Starts that must fail, each with one clear sentence, and those that must not.

use std::fs;
use std::net::TcpListener;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::server::Server;
use crate::support::{Config, Folder, Lbd, command, own_ip, ping};

/// Runs `lbd run`, which must fail, and answers the last line it says.
fn failure(folder: &Folder, arguments: &[&str]) -> String {
    let output = command(folder.path(), &[&["run"], arguments].concat()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text.lines().last().unwrap().to_owned()
}

fn folder(text: &str) -> Folder {
    let folder = Folder::new();
    fs::write(folder.path().join("pair.toml"), text).unwrap();
    folder
}

#[test]
fn a_busy_port_is_named() {
    let ip = own_ip();
    let taken = TcpListener::bind((ip, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = Config::new(ip, &["127.0.0.1:9".parse().unwrap()]);
    config.listen = vec![address];
    let text = failure(&folder(&config.text()), &[]);
    assert!(text.starts_with(&format!("cannot listen on {address}: another program already does")), "{text}");
}

#[test]
fn a_busy_api_port_is_named() {
    let ip = own_ip();
    let config = Config::new(ip, &["127.0.0.1:9".parse().unwrap()]);
    let _taken = TcpListener::bind(config.api_address()).unwrap();
    let text = failure(&folder(&config.text()), &[]);
    assert!(text.starts_with(&format!("cannot serve the API on {}", config.api_address())), "{text}");
}

#[test]
fn an_unknown_node_is_named() {
    let config = Config::new(own_ip(), &["127.0.0.1:9".parse().unwrap()]);
    let nodes = "[[node]]\nname = \"a\"\npeer_address = \"10.0.255.1\"\n\
                 [[node]]\nname = \"b\"\npeer_address = \"10.0.255.2\"\n";
    let folder = folder(&format!("{nodes}{}", config.text()));
    let text = failure(&folder, &["--node", "c"]);
    assert_eq!(
        text,
        "the configuration has no [[node]] named \"c\", only \"a\" and \"b\"; give this node's name with --node"
    );
}

#[test]
fn check_prints_every_error() {
    let config = Config::new(own_ip(), &["127.0.0.1:9".parse().unwrap()]);
    let good = folder(&config.text());
    let output = command(good.path(), &["check"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("pair.toml: ok\n"));
    let bad = folder(&config.text().replace("mode = \"tcp\"", "mode = \"tpc\"\nfoo = 1"));
    let output = command(bad.path(), &["check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("pair.toml:3:") && text.contains("pair.toml:4:1"), "{text}");
    let none = Folder::new();
    let output = command(none.path(), &["check"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.matches("No such file").count(), 1, "the cause is said once: {text}");
}

/// All of it at once, and nothing is made by looking: `lbd run` would end with the first of them.
#[test]
fn check_says_what_the_host_lacks() {
    let mut config = Config::new(own_ip(), &["127.0.0.1:9".parse().unwrap()]);
    config.service = "access_log = { file = \"logs/web.log\" }".to_owned();
    config.group = "health = { tls = true, ca_file = \"ca.pem\" }".to_owned();
    config.api = "token_file = \"api.token\"".to_owned();
    let folder = folder(&config.text());
    let check = || {
        let output = command(folder.path(), &["check"]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = check();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((code, lines.len()), (Some(1), 4), "{text}");
    let head =
        format!("{}: there is no mistake in it, but not all that it names can be used", path("pair.toml"));
    let starts = [
        head,
        format!("cannot read the ca_file {} of a health check: No such file", path("ca.pem")),
        format!("cannot read the API's token file {}: No such file", path("api.token")),
        format!("cannot write the access log {}: ", path("logs/web.log")),
    ];
    for (line, start) in lines.iter().zip(&starts) {
        assert!(line.starts_with(start), "{line:?} is not {start:?}");
    }
    assert!(lines[3].ends_with("make its folder, or change access_log.file"), "{text}");
    fs::create_dir(folder.path().join("logs")).unwrap();
    // Nobody writes into it, and nobody waits for that.
    mkfifo(&folder.path().join("api.token"), Mode::S_IRUSR).unwrap();
    let (_, text) = check();
    assert!(text.contains("it is not a regular file"), "{text}");
    fs::remove_file(folder.path().join("api.token")).unwrap();
    fs::write(folder.path().join("api.token"), "secret\n").unwrap();
    let (code, text) = check();
    assert_eq!((code, text.lines().count()), (Some(1), 2), "{text}");
    assert!(!folder.path().join("logs/web.log").exists(), "checking is not logging");
    fs::write(folder.path().join("pair.toml"), config.text().replace(", ca_file = \"ca.pem\"", "")).unwrap();
    assert_eq!(check(), (Some(0), String::new()));
}

#[test]
fn a_second_daemon_is_refused_and_a_dead_one_replaced() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let config = Config::new(ip, &[server.address]);
    let mut first = Lbd::start(&config);
    let text = String::from_utf8(first.command(&["run"]).stderr).unwrap();
    assert!(text.contains("another lbd is running"), "{text}");
    assert_eq!(ping(&mut first.connect(), "still").unwrap(), "still");
    first.kill();
    assert!(first.folder.path().join("lbd.sock").exists(), "a killed daemon leaves its socket behind");
    let folder = std::mem::replace(&mut first.folder, Folder::new());
    fs::write(first.folder.path().join("log"), "").unwrap();
    let second = Lbd::start_in(folder, &config);
    assert_eq!(second.status()["state"], "running");
}
