//! Services that the kernel forwards, as far as a host without a network of its own shows: what is loaded, what stays, what is
//! removed. That packets get through is in the lab's tests.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

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
        let output =
            std::process::Command::new("unshare").args(["--net", "sh", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check("");
    assert!(said.contains("note: nat sends from 192.0.2.10 with ports 1024-33279"), "{said}");
    assert!(said.contains("net.ipv4.ip_local_reserved_ports=1024-33279"), "{said}");
    let said = check("echo 1024-33279 > /proc/sys/net/ipv4/ip_local_reserved_ports; ");
    assert!(!said.contains("nat sends from"), "{said}");
}

#[test]
fn without_the_capabilities_for_it_a_check_says_so_and_nothing_runs() {
    let folder = Folder::new();
    std::fs::write(folder.path().join("pair.toml"), config().text()).unwrap();
    for what in ["check", "run"] {
        let lbd = command(folder.path(), &[what]);
        let mut command = std::process::Command::new("setpriv");
        command.args(["--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"]);
        let output = command.arg(lbd.get_program()).args(lbd.get_args()).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // The file may be for another host.
        assert_eq!(output.status.success(), what == "check", "{what}: {said}");
        assert!(
            said.contains("kernel forwarding needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"),
            "{what}: {said}"
        );
    }
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
