//! Services that the kernel forwards, as far as a host without a network of its own shows: what is loaded, what stays, what is
//! removed. That packets get through is in the lab's tests.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Config, Folder, Lbd, command, eventually, own_ip};

/// What is pinned for a run directory.
fn pins(folder: &Path) -> Vec<PathBuf> {
    let name = folder.file_name().unwrap().to_string_lossy().replace('-', "_");
    // The kernel's part takes the first 32 characters, and a hash of the whole.
    let entries = std::fs::read_dir("/sys/fs/bpf/tandem").into_iter().flatten().flatten();
    let prefix = format!("{}_", &name[..name.len().min(32)]);
    let ours = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&prefix);
    entries.map(|entry| entry.path()).filter(ours).collect()
}

/// Addresses that no network has: the daemon is in one of its own without an interface but loopback.
fn config() -> Config {
    let mut config = Config::new(own_ip(), &[SocketAddr::from(([192, 0, 2, 20], 80))]);
    config.listen = vec![SocketAddr::from(([192, 0, 2, 10], 80))];
    config.mode = "nat".to_owned();
    config.head = "[kernel]\nmax_flows = 1000\n".to_owned();
    config
}

/// Starts it in a network of its own, so that it touches no interface of this host's.
fn start(folder: Folder, config: &Config) -> Lbd {
    Lbd::start_with(folder, &config.text(), config.listen[0], |command| {
        let enter = || Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?);
        // SAFETY: one system call between fork and exec, no allocation and no lock.
        unsafe {
            command.pre_exec(enter);
        }
    })
}

/// Kills it; its folder stays.
fn killed(mut lbd: Lbd) -> Folder {
    lbd.kill();
    std::mem::replace(&mut lbd.folder, Folder::new())
}

/// What the status says of the kernel, once it says something.
fn kernel(lbd: &Lbd) -> serde_json::Value {
    eventually("the kernel's part of the status", || lbd.status()["kernel"].is_object());
    lbd.status()["kernel"].clone()
}

#[test]
fn the_program_stays_over_a_kill_and_goes_with_the_last_service() {
    let mut config = config();
    let lbd = start(Folder::new(), &config);
    let kernel_before = kernel(&lbd);
    assert_eq!(kernel_before["flows_max"], 1000, "{kernel_before}");
    // There is no network to a target.
    let troubles = kernel_before["troubles"].as_array().unwrap();
    let unreachable = |it: &serde_json::Value| it["why"].as_str().is_some_and(|why| why.contains("no route"));
    assert!(troubles.iter().any(unreachable), "{kernel_before}");
    assert!(lbd.ask("GET", "/v1/flows").1.contains("\"flows\":[]"));
    assert!(lbd.ask("GET", "/metrics").1.contains("tandem_lbd_kernel_drops_total{reason=\"no_port\"} 0"));
    assert_eq!(pins(lbd.folder.path()).len(), 2);
    let folder = killed(lbd);
    assert_eq!(pins(folder.path()).len(), 2, "they outlive the daemon");
    let lbd = start(folder, &config);
    assert_eq!(kernel(&lbd)["folder"], kernel_before["folder"]);
    config.mode = "tcp".to_owned();
    config.head = String::new();
    config.listen = vec![SocketAddr::from(([0, 0, 0, 0], 80))];
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(pins(lbd.folder.path()), Vec::<PathBuf>::new());
    assert!(lbd.status()["kernel"].is_null());
}

#[test]
fn the_check_tells_of_ports_that_the_host_gives_away_too() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("pair.toml"), config().text()).unwrap();
    // In a network of its own, whose settings are Linux's own first.
    let check = |before: &str| {
        let lbd = command(folder.path(), &["check"]);
        let arguments = lbd.get_args().map(|it| it.to_string_lossy().into_owned());
        let words: Vec<String> =
            [lbd.get_program().to_string_lossy().into_owned()].into_iter().chain(arguments).collect();
        let script = format!("{before}exec {}", words.join(" "));
        let output = Command::new("unshare").args(["--net", "sh", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check("");
    assert!(said.contains("note: nat sends from 192.0.2.10 with ports 1024-33279"), "{said}");
    assert!(said.contains("net.ipv4.ip_local_reserved_ports=1024-33279"), "{said}");
    let said = check("echo 1024-33279 > /proc/sys/net/ipv4/ip_local_reserved_ports; ");
    assert!(!said.contains("nat sends from"), "{said}");
}

/// `check` and `run` with this before them on the command line: the first succeeds all the same, for the file may be another host's, and
/// the second does not.
fn told(before: &[&str], prepare: fn(&mut Command), expected: &str) {
    let folder = Folder::new();
    std::fs::write(folder.path().join("pair.toml"), config().text()).unwrap();
    for what in ["check", "run"] {
        let lbd = command(folder.path(), &[what]);
        let words = before.iter().map(OsStr::new).chain([lbd.get_program()]).chain(lbd.get_args());
        let words: Vec<&OsStr> = words.collect();
        let mut command = Command::new(words[0]);
        prepare(command.args(&words[1..]));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.success(), what == "check", "{what}: {said}");
        assert!(said.contains(expected), "{what}: {said}");
        assert!(what == "run" || said.contains("note: it cannot run on this host: "), "{said}");
    }
}

#[test]
fn each_capability_that_is_missing_is_named_and_nothing_runs() {
    for (name, word) in [("CAP_BPF", "bpf"), ("CAP_PERFMON", "perfmon"), ("CAP_NET_ADMIN", "net_admin")] {
        // The one that stands for others goes, too.
        let set = format!("-{word},-sys_admin");
        let [bounding, inherited] = ["bounding-set", "inh-caps"].map(|what| format!("--{what}={set}"));
        let expected = format!(
            "kernel forwarding needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and this process lacks {name};"
        );
        told(&["setpriv", &bounding, &inherited], |_| {}, &expected);
    }
}

#[test]
fn a_kernel_that_is_too_old_is_told_of() {
    let before = ["setarch", std::env::consts::ARCH, "--uname-2.6"];
    told(&before, |_| {}, "kernel forwarding needs Linux 5.15 or newer, this is 2.6;");
}

/// Has a program's calls of bpf(2) fail, as the filters of containers do.
fn without_bpf(command: &mut Command) {
    // The number of the call; if it is bpf's, EPERM, else it is let through.
    let number = u32::try_from(libc::SYS_bpf).unwrap();
    let [load, compare, answer] = [0x20, 0x15, 0x06];
    let step = |code, skipped, k| libc::sock_filter { code, jt: 0, jf: skipped, k };
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
    let steps = [
        step(load, 0, 0),
        step(compare, 1, number),
        step(answer, 0, refused),
        step(answer, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    let filter = move || {
        let mut steps = steps;
        let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
        // SAFETY: the program is of as many steps as it says, and lives during the call.
        let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: one system call between fork and exec, no allocation and no lock.
    unsafe {
        command.pre_exec(filter);
    }
}

#[test]
fn a_host_that_refuses_bpf_is_told_of() {
    let expected = "this host refuses bpf(2), which kernel forwarding goes by: Operation not permitted";
    told(&[], without_bpf, expected);
}

#[test]
fn the_doctor_removes_what_a_dead_daemon_left() {
    let lbd = start(Folder::new(), &config());
    kernel(&lbd);
    let refused = lbd.command(&["doctor", "--remove"]);
    assert!(!refused.status.success(), "lbd is running");
    let folder = killed(lbd);
    let removed = command(folder.path(), &["doctor", "--remove"]).output().unwrap();
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(pins(folder.path()), Vec::<PathBuf>::new());
}
