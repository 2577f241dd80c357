//! A lab leaves nothing behind, whatever becomes of it, and several do not disturb each other.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use integration::lab::clock::wait_until;
use integration::lab::fault::Fault;
use integration::lab::probe::{ConnectProbe, ConnectSettings};
use integration::lab::registry::{labs, sweep};
use integration::lab::{Lab, Result, binary};

const LIMIT: Duration = Duration::from_secs(10);

fn namespaces_of(prefix: &str) -> Vec<String> {
    let start = format!("{prefix}-");
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&start))
        .collect()
}

fn lives(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended; who is to wait for it is not the lab's matter once the lab's process is gone.
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn assert_nothing_left(prefix: &str, pids: &BTreeSet<i32>) {
    assert_eq!(namespaces_of(prefix), Vec::<String>::new());
    assert!(!Path::new("/tmp/tandem-lab").join(prefix).exists(), "its directory is gone");
    assert!(!Path::new("/run/tandem-lab").join(prefix).exists(), "its entry is gone");
    let left: Vec<i32> = pids.iter().copied().filter(|pid| lives(*pid)).collect();
    assert_eq!(left, Vec::<i32>::new(), "its processes are gone");
}

#[test]
fn two_labs_side_by_side_do_not_meet_and_leave_nothing() -> Result<()> {
    let interfaces = || fs::read_dir("/sys/class/net").map(Iterator::count).unwrap_or_default();
    let before = interfaces();
    let first = Lab::builder("first").targets(1).build()?;
    let second = Lab::builder("second").targets(1).build()?;
    assert_ne!(first.prefix(), second.prefix());
    assert_eq!(interfaces(), before, "nothing is made in the host's network");
    let server = SocketAddr::from((first.targets()[0].v4(), 80));
    let probes =
        [&first, &second].map(|lab| ConnectProbe::start(lab.client(), ConnectSettings::http(server)));
    let [in_first, in_second] = probes;
    let (in_first, in_second) = (in_first?, in_second?);
    in_first.wait_successes(50, LIMIT)?;
    in_second.wait_successes(50, LIMIT)?;
    first.inject(&Fault::blocked("t1"))?;
    in_second.wait_successes(300, LIMIT)?;
    let (in_first, in_second) = (in_first.stop()?, in_second.stop()?);
    assert!(in_first.failed() > 0, "{}", in_first.summary());
    assert_eq!(in_second.failed(), 0, "{}", in_second.summary());

    let mut pids = BTreeSet::new();
    let mut command = first.a().command("sh");
    command.args(["-c", "trap '' TERM; setsid sleep 1000 & sleep 1000 & wait"]);
    first.a().start("stubborn", command)?;
    wait_until("the stubborn ones", LIMIT, || {
        first.a().namespace().pids().is_ok_and(|pids| pids.len() == 3)
    })?;
    for host in first.hosts() {
        pids.extend(host.namespace().pids()?);
    }
    assert!(pids.len() >= 5, "nginx and the stubborn ones: {pids:?}");
    let prefix = first.prefix().to_owned();
    first.finish()?;
    assert_nothing_left(&prefix, &pids);

    // Dropped without `finish`, as a failing test does.
    let prefix = second.prefix().to_owned();
    drop(second);
    assert_nothing_left(&prefix, &BTreeSet::new());
    Ok(())
}

#[test]
fn a_killed_owner_takes_its_programs_along_and_the_next_lab_sweeps_the_rest() -> Result<()> {
    let mut owner = Command::new(binary("tandem-lab")?);
    owner.args(["up", "--targets", "1"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut owner = owner.spawn().expect("the lab's command starts");
    wait_ready(&mut owner);
    let pid = owner.id();
    let entry = labs()?.into_iter().find(|entry| entry.pid == pid).expect("it is registered");
    assert!(entry.owner_lives());
    let names = entry.namespaces();
    assert!(names.len() >= 6, "{names:?}");
    let mut pids = BTreeSet::new();
    for name in &names {
        let output = Command::new("ip").args(["netns", "pids", name]).output().expect("ip runs");
        pids.extend(
            String::from_utf8_lossy(&output.stdout).lines().filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    assert!(pids.len() >= 3, "two machines and nginx: {pids:?}");
    sweep()?;
    assert_eq!(entry.namespaces(), names, "a lab in use is not swept");

    owner.kill().expect("it can be killed");
    owner.wait().expect("it ends");
    assert!(!entry.owner_lives());
    let lab = Lab::builder("next").targets(1).target_servers(false).build()?;
    assert_nothing_left(&entry.prefix, &pids);
    lab.finish()
}

fn wait_ready(owner: &mut Child) {
    let out = BufReader::new(owner.stdout.take().expect("its output is a pipe"));
    let ready = out.lines().map_while(std::result::Result::ok).any(|line| line == "ready");
    assert!(ready, "the lab's command says when it is ready");
}
