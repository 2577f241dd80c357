//! The commands as a user runs them.

mod control_support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use control_support::served::Served;
use control_support::{Folder, config_text, wait_for};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vrrpd"));
    command.args(arguments).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

fn vrrpd(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn keygen_writes_a_private_key_once() {
    let folder = Folder::new();
    let key = folder.join("pair.key");
    assert_eq!(code(&vrrpd(&["keygen", "--out", text(&key)])), 0);
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
    let written = std::fs::read_to_string(&key).unwrap();
    common::key::PairKey::parse(&written).unwrap();
    let again = vrrpd(&["keygen", "--out", text(&key)]);
    assert_eq!(code(&again), 1);
    assert!(err(&again).contains("never overwritten"), "{}", err(&again));
    assert_eq!(std::fs::read_to_string(&key).unwrap(), written);
    let nowhere = vrrpd(&["keygen", "--out", text(&folder.join("no/such/folder"))]);
    assert_eq!((code(&nowhere), err(&nowhere).contains("cannot write the key")), (1, true));
}

#[test]
fn keygen_follows_no_link() {
    let folder = Folder::new();
    std::os::unix::fs::symlink(folder.join("target"), folder.join("link")).unwrap();
    assert_eq!(code(&vrrpd(&["keygen", "--out", text(&folder.join("link"))])), 1);
    assert!(!folder.join("target").exists());
}

#[test]
fn keygen_prints_another_key_each_time() {
    let (first, second) = (out(&vrrpd(&["keygen"])), out(&vrrpd(&["keygen"])));
    common::key::PairKey::parse(&first).unwrap();
    assert_ne!(first, second);
}

#[test]
fn check_accepts_a_good_file() {
    let folder = Folder::new();
    let file = folder.write("pair.toml", &config_text(9112, ""));
    let good = vrrpd(&["check", "--config", text(&file)]);
    assert_eq!((code(&good), out(&good)), (0, format!("{}: ok\n", file.display())));
    assert_eq!(code(&vrrpd(&["check", "--config", text(&file), "--node", "b"])), 0);
    let other = vrrpd(&["check", "--config", text(&file), "--node", "c"]);
    assert_eq!(code(&other), 1);
    assert!(err(&other).contains("there is no node c") && err(&other).contains("a and b"), "{}", err(&other));
}

/// It is shown an old number, and a network in which no address tells what this kernel really knows.
#[test]
fn a_kernel_that_is_too_old_is_told_of() {
    let folder = Folder::new();
    let file = folder.write("pair.toml", &config_text(9112, ""));
    let old = |what: &str| {
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "setarch",
            std::env::consts::ARCH,
            "--uname-2.6",
            env!("CARGO_BIN_EXE_vrrpd"),
        ]);
        command.args([what, "--config", text(&file), "--node", "a", "--run-dir"]).arg(folder.join("run"));
        command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).output().unwrap()
    };
    let needs = "vrrpd needs Linux 5.18 or newer, this is 2.6";
    let checked = old("check");
    assert_eq!(code(&checked), 0, "the file may be for another host: {}", err(&checked));
    let said = out(&checked);
    assert!(said.contains(&format!(": ok\nnote: it cannot run on this host: {needs}")), "{said}");
    let run = old("run");
    assert_eq!(code(&run), 1);
    assert!(err(&run).contains(needs), "{}", err(&run));
}

#[test]
fn check_shows_every_error() {
    let folder = Folder::new();
    let bad = config_text(9112, "advert_intervall = \"1s\"\npreempt = 5").replace("vrid = 51", "vrid = 300");
    let file = folder.write("pair.toml", &bad);
    let output = vrrpd(&["check", "--config", text(&file)]);
    assert_eq!(code(&output), 1);
    let shown = err(&output);
    assert!(shown.contains("3 errors") && shown.contains(&format!("{}:", file.display())), "{shown}");
    assert!(shown.contains("did you mean `advert_interval`?"), "{shown}");
    let missing = vrrpd(&["check", "--config", text(&folder.join("none.toml"))]);
    assert_eq!((code(&missing), err(&missing).contains("cannot read the configuration file")), (1, true));
}

#[test]
fn check_reads_the_files_that_the_configuration_names() {
    let folder = Folder::new();
    let with_files =
        format!("[pair]\nkey_file = \"pair.key\"\n{}token_file = \"token\"\n", config_text(9112, ""));
    let file = folder.write("pair.toml", &with_files);
    let check = || vrrpd(&["check", "--config", text(&file)]);
    let shown = err(&check());
    assert!(shown.contains("cannot read the pair's key file") && shown.contains("token file"), "{shown}");
    folder.write("token", "\nsecond line\n");
    let key = folder.write("pair.key", &"00".repeat(32));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let shown = err(&check());
    assert!(shown.contains("chmod 600") && shown.contains("first line is empty"), "{shown}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    folder.write("token", "secret\n");
    assert_eq!(code(&check()), 0, "{}", err(&check()));
}

#[test]
fn without_a_daemon_there_is_one_sentence() {
    let folder = Folder::new();
    let run_dir = text(folder.path());
    for arguments in
        [&["status"][..], &["switchover", "web"], &["maintenance", "on"], &["events"], &["reload"]]
    {
        let output = vrrpd(&[arguments, &["--run-dir", run_dir]].concat());
        assert_eq!(code(&output), 1);
        let expected = format!("vrrpd: vrrpd isn't running with run directory {run_dir}: ");
        assert!(err(&output).starts_with(&expected) && err(&output).lines().count() == 1, "{}", err(&output));
    }
    assert_eq!(code(&vrrpd(&["dance"])), 2);
}

#[test]
fn run_refuses_in_one_sentence_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let run_dir = folder.join("run");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy_port = folder.write("busy.toml", &config_text(busy.local_addr().unwrap().port(), ""));
    let no_key = folder.write("key.toml", &format!("[pair]\nkey_file = \"none\"\n{}", config_text(9112, "")));
    let alone = folder.write(
        "alone.toml",
        "[[service]]\nname = \"s\"\nmode = \"tcp\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\n\
         [[target_group]]\nname = \"g\"\ntargets = [{ address = \"192.0.2.1:80\" }]\n",
    );
    for (file, node, expected) in [
        (&busy_port, "a", "the API cannot listen on 127.0.0.1:"),
        (&busy_port, "c", "there is no node c"),
        (&no_key, "a", "cannot read the pair's key file"),
        (&alone, "a", "there is no node a"),
    ] {
        let output = vrrpd(&["run", "--config", text(file), "--node", node, "--run-dir", text(&run_dir)]);
        assert_eq!(code(&output), 1);
        assert!(err(&output).contains(expected) && err(&output).lines().count() == 1, "{}", err(&output));
        assert!(!run_dir.exists());
    }
}

#[test]
fn commands_talk_to_the_daemon() {
    let served = Served::new(None);
    let run_dir = text(served.folder.path());
    let ask = |arguments: &[&str]| vrrpd(&[arguments, &["--run-dir", run_dir]].concat());
    assert_eq!(out(&ask(&["switchover", "web"])), "instance web is active on node b after 3 ms\n");
    let refused = ask(&["switchover", "shop"]);
    assert_eq!((code(&refused), err(&refused).contains("there is no instance shop")), (1, true));
    assert_eq!(out(&ask(&["maintenance", "on"])), "maintenance is on\n");
    assert_eq!(out(&ask(&["reload"])), "configuration 00000000000000ab is in force\n");
    let json: serde_json::Value = serde_json::from_str(&out(&ask(&["status", "--json"]))).unwrap();
    assert_eq!((&json["node"], &json["maintenance"]), (&"a".into(), &true.into()));
    assert!(out(&ask(&["status"])).contains("web       active"), "{}", out(&ask(&["status"])));
}

#[test]
fn events_are_shown_and_followed() {
    let served = Served::new(None);
    let run_dir = text(served.folder.path());
    for _ in 0..1200 {
        served.happen(false);
    }
    served.happen(true);
    let shown = out(&vrrpd(&["events", "--run-dir", run_dir]));
    assert_eq!(shown.lines().count(), 1201);
    assert_eq!(shown.lines().last().unwrap(), "  1201  1970-01-01T00:00:01.500Z  maintenance is on");
    let json = out(&vrrpd(&["events", "--json", "--after", "1200", "--run-dir", run_dir]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["on"], true);
    let mut following = command(&["events", "--follow", "--after", "1200", "--run-dir", run_dir])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().ends_with("maintenance is on"));
    served.happen(false);
    assert!(lines.next().unwrap().unwrap().ends_with("maintenance is off"));
    drop(served);
    let status = wait_for("the follower's end", || following.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
}
