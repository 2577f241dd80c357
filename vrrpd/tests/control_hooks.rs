//! Hooks: which one runs when, with what, and what becomes of one that does not end.

mod control_support;

use std::path::Path;
use std::time::{Duration, Instant};

use common::ipc::Role;
use common::time::UnixTime;
use control_support::{Folder, config, config_text, status, wait_for};
use vrrpd::hooks::{HookCounts, Hooks, QUEUE_MAX};
use vrrpd_core::packet::Family;

/// Hooks of `web` that all run the same shell text.
fn hooks(script: &str, timeout: &str) -> Hooks {
    Hooks::start("a", &config(&hook_table(script, timeout))).unwrap()
}

fn hook_table(script: &str, timeout: &str) -> String {
    let program = format!(r#"["/bin/sh", "-c", {script:?}]"#);
    format!(
        "hooks = {{ on_active = {program}, on_backup = {program}, on_fault = {program}, timeout = \"{timeout}\" }}"
    )
}

/// Appends a line with the environment.
fn recorder(folder: &Folder) -> String {
    let file = folder.join("log");
    format!(
        "echo $TANDEM_INSTANCE $TANDEM_PREVIOUS_ROLE $TANDEM_ROLE $TANDEM_NODE $TANDEM_VIPS >> {}",
        file.display()
    )
}

fn lines(folder: &Folder) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn both(hooks: &Hooks, role: Role, at: u64) {
    hooks.role_changed("web", Family::V4, role, UnixTime::from_nanos(at));
    hooks.role_changed("web", Family::V6, role, UnixTime::from_nanos(at));
}

#[test]
fn the_instance_changes_when_its_routers_agree() {
    let folder = Folder::new();
    let hooks = hooks(&recorder(&folder), "10s");
    both(&hooks, Role::Backup, 1);
    both(&hooks, Role::Active, 2);
    hooks.role_changed("web", Family::V6, Role::Fault, UnixTime::from_nanos(3));
    hooks.role_changed("web", Family::V6, Role::Active, UnixTime::from_nanos(4));
    hooks.role_changed("other", Family::V4, Role::Active, UnixTime::from_nanos(5));
    both(&hooks, Role::Init, 6);
    assert!(hooks.finish(Duration::from_secs(20)));
    let vips = "203.0.113.10/24 2001:db8::10/64";
    let expected =
        ["init backup", "backup active", "active fault", "fault active", "active backup", "backup init"];
    let expected: Vec<_> = expected.iter().map(|roles| format!("web {roles} a {vips}")).collect();
    // Going down family by family passes through backup, and the way from there to init has no hook.
    assert_eq!(lines(&folder), expected[..5]);
    assert_eq!(hooks.counts(), HookCounts { succeeded: 5, ..HookCounts::default() });
}

#[test]
fn leaving_active_for_init_lets_go() {
    let folder = Folder::new();
    let text = config_text(9112, &hook_table(&recorder(&folder), "10s")).replace(", \"2001:db8::10/64\"", "");
    let hooks = Hooks::start("a", &common::config::parse(&text, Path::new("pair.toml")).unwrap()).unwrap();
    hooks.role_changed("web", Family::V4, Role::Backup, UnixTime::from_nanos(1));
    // An event that was dropped is made up for.
    hooks.resync(&status(&[("web", Role::Active)]), UnixTime::from_nanos(2));
    hooks.role_changed("web", Family::V4, Role::Init, UnixTime::from_nanos(3));
    assert!(hooks.finish(Duration::from_secs(20)));
    let roles =
        ["init backup", "backup active", "active init"].map(|roles| format!("web {roles} a 203.0.113.10/24"));
    assert_eq!(lines(&folder), roles);
}

#[test]
fn the_fence_grows_even_if_the_clock_steps_back() {
    let folder = Folder::new();
    let hooks = hooks(&format!("echo $TANDEM_FENCE >> {}", folder.join("log").display()), "10s");
    both(&hooks, Role::Active, 1_000);
    both(&hooks, Role::Backup, 500);
    both(&hooks, Role::Active, 400);
    assert!(hooks.finish(Duration::from_secs(20)));
    let fences: Vec<u64> = lines(&folder).iter().map(|line| line.parse().unwrap()).collect();
    assert!(fences.len() >= 3 && fences.is_sorted() && fences[0] >= 1_000, "{fences:?}");
    assert!(fences.windows(2).all(|pair| pair[0] < pair[1]), "{fences:?}");
}

#[test]
fn one_that_hangs_is_killed_with_its_children_and_the_next_runs() {
    let folder = Folder::new();
    let (pid, log) = (folder.join("pid"), folder.join("log"));
    let script = format!(
        "if [ $TANDEM_ROLE = backup ]; then sleep 600 & echo $! > {}; wait; else echo $TANDEM_ROLE >> {}; fi",
        pid.display(),
        log.display()
    );
    let hooks = hooks(&script, "300ms");
    let start = Instant::now();
    both(&hooks, Role::Backup, 1);
    both(&hooks, Role::Fault, 2);
    wait_for("the second hook", || (lines(&folder) == ["fault"]).then_some(()));
    assert!(start.elapsed() >= Duration::from_millis(300));
    wait_for("the counts", || {
        let counts = hooks.counts();
        (counts == HookCounts { succeeded: 1, timed_out: 1, ..HookCounts::default() }).then_some(())
    });
    let child: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    wait_for("the child's end", || {
        // A zombie that nobody has reaped yet is dead too.
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn failures_are_counted_and_a_flood_of_output_is_read() {
    let failing = hooks("head -c 3000000 /dev/zero; exit 3", "10s");
    both(&failing, Role::Fault, 1);
    assert!(failing.finish(Duration::from_secs(20)));
    assert_eq!(failing.counts().failed, 1);
    let missing = r#"hooks = { on_fault = ["/nonexistent/hook"] }"#;
    let missing = Hooks::start("a", &config(missing)).unwrap();
    both(&missing, Role::Fault, 1);
    assert!(missing.finish(Duration::from_secs(20)));
    assert_eq!(missing.counts().failed, 1);
}

#[test]
fn a_storm_keeps_the_newest_change() {
    let folder = Folder::new();
    let (gate, log) = (folder.join("gate"), folder.join("log"));
    let script = format!(
        "while ! [ -e {} ]; do sleep 0.01; done; echo $TANDEM_ROLE >> {}",
        gate.display(),
        log.display()
    );
    let hooks = hooks(&script, "10m");
    for round in 0..500 {
        both(&hooks, if round % 2 == 0 { Role::Active } else { Role::Backup }, round);
    }
    both(&hooks, Role::Fault, 1000);
    std::fs::write(gate, "").unwrap();
    assert!(hooks.finish(Duration::from_secs(60)));
    let seen = lines(&folder);
    assert_eq!(seen.last().map(String::as_str), Some("fault"));
    assert!(seen.len() <= QUEUE_MAX + 1, "{}", seen.len());
    assert!(hooks.counts().superseded > 400);
}

#[test]
fn the_end_does_not_wait_for_ever() {
    let hooks = hooks("sleep 600", "10m");
    both(&hooks, Role::Fault, 1);
    let start = Instant::now();
    assert!(!hooks.finish(Duration::from_millis(200)));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(hooks.counts().timed_out, 1);
}

#[test]
fn a_reload_changes_the_hooks_and_keeps_the_roles() {
    let folder = Folder::new();
    let first = hooks("true", "10s");
    both(&first, Role::Backup, 1);
    let program = format!(r#"["/bin/sh", "-c", {:?}]"#, recorder(&folder));
    first.configure(&config(&format!("hooks = {{ on_active = {program}, on_backup = {program} }}")));
    both(&first, Role::Backup, 2);
    both(&first, Role::Active, 3);
    assert!(first.finish(Duration::from_secs(20)));
    assert_eq!(lines(&folder).len(), 1);
    assert!(lines(&folder)[0].starts_with("web backup active"));
}
