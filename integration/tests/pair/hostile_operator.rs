//! Mistakes of whoever runs the daemons: one clear sentence, an exit code that says so, and nothing left behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use crate::pair_support::{Footprint, LIMIT, every, prepared, vips};
use integration::lab::{Lab, Node, Result, binary};

/// Runs a daemon that is expected to end by itself, as `prefix` says if it is not empty.
fn run(lab: &Lab, node: &Node, daemon: &str, prefix: &[&str], name: &str) -> Result<Output> {
    let program = binary(daemon)?.to_string_lossy().into_owned();
    let words: Vec<&str> = prefix.iter().copied().chain([program.as_str()]).collect();
    // Whoever does not refuse to start is ended after a while, with another exit code.
    let mut command = node.command("timeout");
    command.arg("10").args(&words).arg("run").arg("--config").arg(lab.dir().join("pair.toml"));
    command.args(["--node", name]).arg("--run-dir").arg(node.run_dir());
    Ok(command.output().expect("it can be run"))
}

/// Fails unless the daemon refused to start with this sentence, and left the node as it was.
fn refuses(lab: &Lab, daemon: &str, prefix: &[&str], name: &str, sentence: &str) -> Result<()> {
    let node = lab.a();
    let before = Footprint::of(node)?;
    let output = run(lab, node, daemon, prefix, name)?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{daemon}: {complaint}");
    assert!(complaint.contains(sentence), "{daemon} says {complaint:?} instead of {sentence:?}");
    let said: Vec<&str> = complaint.lines().filter(|line| !is_log(line)).collect();
    assert_eq!(said.len(), 1, "one sentence, not {said:#?}");
    assert!(!complaint.contains("panicked"), "{complaint}");
    assert_eq!(Footprint::of(node)?, before, "{daemon}, {sentence}");
    Ok(())
}

/// Whether it is a line of the log, which begins with the time.
fn is_log(line: &str) -> bool {
    line.starts_with("20") && line.contains("Z ")
}

/// Both daemons refuse with this sentence.
fn both_refuse(lab: &Lab, name: &str, sentence: &str) -> Result<()> {
    refuses(lab, "vrrpd", &[], name, sentence)?;
    refuses(lab, "lbd", &[], name, sentence)
}

fn mode(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("the mode can be set");
}

#[test]
fn who_lacks_privileges_is_told_which() -> Result<()> {
    let lab = prepared("privileges", every("100ms"))?;
    // Everything else is there for anybody to use.
    for directory in lab.dir().ancestors().take(1).chain([lab.a().run_dir()]) {
        mode(directory, 0o777);
    }
    let key = lab.dir().join("pair.key");
    std::os::unix::fs::chown(&key, Some(65534), Some(65534)).expect("it can be given away");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    refuses(
        &lab,
        "vrrpd",
        &nobody,
        "a",
        "vrrpd lacks CAP_NET_ADMIN and CAP_NET_RAW; run it as root or grant",
    )?;
    std::os::unix::fs::chown(&key, Some(0), Some(0)).expect("it can be taken back");
    let no_raw = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"];
    refuses(&lab, "vrrpd", &no_raw, "a", "vrrpd lacks CAP_NET_RAW; run it as root or grant")?;
    lab.finish()
}

#[test]
fn a_busy_port_or_socket_is_named() -> Result<()> {
    let lab = prepared("busy", every("100ms"))?;
    for (daemon, port, sentence) in
        [("vrrpd", 9112, "the API cannot listen on 127.0.0.1:9112"), ("lbd", 9180, "127.0.0.1:9180")]
    {
        let taken = lab.a().namespace().inside(|| TcpListener::bind(("127.0.0.1", port)))?;
        refuses(&lab, daemon, &[], "a", sentence)?;
        drop(taken);
    }
    let taken = lab.a().namespace().inside(|| TcpListener::bind(("0.0.0.0", 80)))?;
    refuses(&lab, "lbd", &[], "a", "10.77.0.50:80")?;
    drop(taken);
    let taken = lab.a().namespace().inside(|| std::net::UdpSocket::bind(("10.0.255.1", 7112)))?;
    refuses(&lab, "vrrpd", &[], "a", "is vrrpd running already?")?;
    drop(taken);

    let file = lab.a().socket("vrrpd");
    fs::write(&file, "in the way").expect("it can be written");
    refuses(&lab, "vrrpd", &[], "a", "a file that is no socket is in the way")?;
    fs::remove_file(&file).expect("it can be removed");
    lab.finish()
}

#[test]
fn a_second_daemon_leaves_the_first_one_alone() -> Result<()> {
    let lab = crate::pair_support::serving("twice", every("100ms"))?;
    refuses(&lab, "vrrpd", &[], "a", "another vrrpd is running with this run directory")?;
    refuses(&lab, "lbd", &[], "a", "run directory")?;
    assert_eq!(lab.a().role("web").as_deref(), Some("active"));
    assert!(lab.a().get("lbd", "/health/ready")?.status == 200);
    crate::pair_support::settled(&lab, lab.a())?;
    lab.finish()
}

#[test]
fn a_key_that_is_missing_open_to_others_or_none_is_refused() -> Result<()> {
    let lab = prepared("key", every("100ms"))?;
    let key = lab.dir().join("pair.key");
    mode(&key, 0o644);
    refuses(&lab, "vrrpd", &[], "a", "can be used by others than its owner (mode 0644): run `chmod 600")?;
    mode(&key, 0o600);
    fs::write(&key, "secret\n").expect("it can be written");
    refuses(&lab, "vrrpd", &[], "a", "a key is 64 hexadecimal digits on one line")?;
    fs::remove_file(&key).expect("it can be removed");
    refuses(&lab, "vrrpd", &[], "a", "cannot read the pair's key file")?;
    lab.finish()
}

#[test]
fn a_node_that_is_not_in_the_file_is_named_with_those_that_are() -> Result<()> {
    let lab = prepared("unknown", every("100ms"))?;
    refuses(&lab, "vrrpd", &[], "c", "it has a and b; name this node with --node")?;
    refuses(&lab, "lbd", &[], "c", "only \"a\" and \"b\"; give this node's name with --node")?;
    lab.finish()
}

#[test]
fn a_file_with_errors_is_refused_with_the_place_of_each() -> Result<()> {
    let lab = prepared("errors", every("100ms"))?;
    let file = lab.dir().join("pair.toml");
    let good = fs::read_to_string(&file).expect("it is there");
    let bad = good.replace("vrid = 51", "vrid = 510").replace("preempt = true", "preemt = true");
    fs::write(&file, bad).expect("it can be written");
    for daemon in ["vrrpd", "lbd"] {
        let before = Footprint::of(lab.a())?;
        let output = run(&lab, lab.a(), daemon, &[], "a")?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        for part in
            ["pair.toml:16:8: vrrp.vrid", "vrrp.preemt: unknown key", "did you mean `preempt`?", "2 errors"]
        {
            assert!(complaint.contains(part), "{daemon}: {part} is not in {complaint}");
        }
        assert_eq!(Footprint::of(lab.a())?, before);
    }
    fs::remove_file(&file).expect("it can be removed");
    both_refuse(&lab, "a", "pair.toml")?;
    lab.finish()
}

#[test]
fn a_kernel_setting_that_stands_in_the_way_is_named() -> Result<()> {
    let lab = prepared("arp-ignore", every("100ms"))?;
    lab.a().namespace().sysctl(&[("ipv4/conf/all/arp_ignore", "8")])?;
    refuses(&lab, "vrrpd", &[], "a", "net.ipv4.conf.all.arp_ignore is 8")?;
    lab.finish()
}

#[test]
fn what_a_killed_life_left_behind_is_removed_by_the_next_one() -> Result<()> {
    let lab = prepared("leftovers", every("100ms"))?;
    let node = lab.a();
    node.start_vrrpd()?;
    node.wait_role("web", "active", LIMIT)?;
    // Power does not ask the warden either.
    for pid in node.namespace().pids()? {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
    }
    node.wait_end("vrrpd", LIMIT)?;
    let left = Footprint::of(node)?;
    assert!(left.has_vip_routes());
    node.start_vrrpd()?;
    node.wait_role("web", "active", LIMIT)?;
    node.stop("vrrpd")?;
    let after = Footprint::of(node)?;
    assert_eq!(after.sysctls, ["0", "0", "0"], "what was there before the first life");
    assert!(!after.has_vip_routes() && after.files.is_empty(), "{after:?}");
    for vip in vips() {
        assert!(!node.holds(vip)?);
    }
    lab.finish()
}
