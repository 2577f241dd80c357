//! Network namespaces for tests. They have no name and live as long as something uses them, so that nothing is left behind
//! however a test ends.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
pub(crate) struct Net {
    file: File,
}

impl Net {
    /// A new one, with `lo` up.
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("these tests need root: a network namespace of their own");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let net = Self { file: made.join().unwrap() };
        net.sh("ip link set lo up");
        net
    }

    /// Two, joined by a veth pair named `eth0` on both sides, with the Ethernet addresses 02:…:01 and 02:…:02 and the
    /// addresses 10.0.0.1 and 10.0.0.2, fe80::1 and fe80::2, fd00::1 and fd00::2.
    pub(crate) fn pair() -> (Self, Self) {
        let (a, b) = (Self::new(), Self::new());
        a.join(&b, "eth0");
        for (net, number) in [(&a, 1), (&b, 2)] {
            net.sh(&format!(
                "ip link set eth0 addrgenmode none
                 ip link set eth0 address 02:00:00:00:00:0{number} up
                 ip addr add 10.0.0.{number}/24 dev eth0
                 ip addr add fe80::{number}/64 dev eth0 nodad
                 ip addr add fd00::{number}/64 dev eth0 nodad"
            ));
        }
        a.wait_running("eth0");
        b.wait_running("eth0");
        (a, b)
    }

    /// Adds a veth pair to another namespace, with the same name there.
    pub(crate) fn join(&self, other: &Self, name: &str) {
        self.sh(&format!("ip link add {name} type veth peer name {name} netns {}", other.path()));
    }

    /// A path to it, good while it lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `work` inside.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs shell commands inside, each of which must succeed, and gives what they printed.
    pub(crate) fn sh(&self, commands: &str) -> String {
        let output = self.within(|| Command::new("sh").args(["-ec", commands]).output().unwrap());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{commands}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn wait_running(&self, name: &str) {
        wait_for(&format!("{name} to run"), || {
            self.sh(&format!("ip link show {name}")).contains("LOWER_UP").then_some(())
        });
    }
}

/// Tries until there is a value; fails after 10 s.
pub(crate) fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
