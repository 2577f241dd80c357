//! The warden, as the real program, beside a process that plays the daemon and is killed, stopped and resumed.

mod netns;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::config::{ChecksumReading, VrrpVersion};
use common::key::{KeyUse, PairKey};
use common::time::UnixTime;
use netns::{Net, wait_for};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vrrpd::clock;
use vrrpd::netlink::Netlink;
use vrrpd::socket::{AdvertSocket, PeerSocket};
use vrrpd::warden::{Plan, PlanPeer, WardenHandle};
use vrrpd_core::auth::Verifier;
use vrrpd_core::packet::{Advert, Family};
use vrrpd_core::peer::{Body, Opener, RouterKey};

/// Far more than the pauses of a busy test machine.
const TIMEOUT: Duration = Duration::from_millis(400);
const OUR_BOOT: u64 = 11;
const PEER_BOOT: u64 = 22;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vrrpd"))
}

fn key() -> PairKey {
    PairKey::new([7; 32])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn plan(slot: u8, index: u32, family: Family, signed: bool) -> Plan {
    let (vips, source) = match family {
        Family::V4 => (["10.0.0.100/24", "10.0.0.101/24"], "10.0.0.1"),
        Family::V6 => (["fe80::100/64", "fd00::100/64"], "fe80::1"),
    };
    Plan {
        slot,
        interface: index,
        address_index: index,
        addresses: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
        timeout: TIMEOUT,
        version: VrrpVersion::V3,
        vrid: 51,
        interval: Duration::from_millis(100),
        checksum: ChecksumReading::Message,
        source: ip(source),
        destination: family.multicast(),
        signing_key: signed.then(key),
        virtual_mac: family == Family::V6,
        router: RouterKey::new("web", family),
        peer: Some(PlanPeer {
            local: ip("10.0.0.1"),
            remote: ip("10.0.0.2"),
            key: key().derive(KeyUse::PeerLink),
            node: "a".to_owned(),
            boot: OUR_BOOT,
            echo: PEER_BOOT,
        }),
    }
}

fn index_of_eth0() -> u32 {
    Netlink::open().unwrap().link("eth0").unwrap().unwrap().index
}

/// How many addresses marked as ours there are.
fn held(net: &Net) -> usize {
    net.within(|| Netlink::open().unwrap().our_addresses().unwrap().len())
}

fn runs(pid: u32) -> bool {
    // A zombie has ended.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

fn both() -> [Plan; 2] {
    let index = index_of_eth0();
    [plan(0, index, Family::V4, true), plan(63, index, Family::V6, false)]
}

fn arm_and_add(warden: &mut WardenHandle, plans: &[Plan]) {
    let mut netlink = Netlink::open().unwrap();
    for plan in plans {
        warden.arm(plan);
        for address in &plan.addresses {
            netlink.add_address(plan.address_index, *address).unwrap();
        }
    }
}

/// Not a test of its own: what [`Daemon`] runs. It holds addresses, beats, and ends properly when its input ends.
#[test]
#[expect(clippy::print_stdout, reason = "its output goes to the test that started it")]
fn the_daemon_of_the_other_tests() {
    if std::env::var_os("TANDEM_TEST_DAEMON").is_none() {
        return;
    }
    // The warden has to manage with what the daemon keeps.
    vrrpd::privilege::reduce().unwrap();
    let mut warden = WardenHandle::spawn_program(program()).unwrap();
    let mut plans = both();
    if std::env::var("TANDEM_TEST_DAEMON").unwrap() == "idle" {
        plans.iter_mut().for_each(|plan| plan.addresses.clear());
    } else {
        arm_and_add(&mut warden, &plans);
    }
    let (sender, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        sender.send(()).unwrap();
    });
    println!("\nwarden {}", warden.pid());
    let mut fired = false;
    while ended.try_recv().is_err() {
        let mut well = true;
        for plan in &plans {
            well &= warden.beat(plan.slot, clock::now().unix.as_nanos());
        }
        if !well && !fired {
            println!("\nfired {} {}", warden.fired(0), warden.fired(63));
            fired = true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    plans.iter().for_each(|plan| warden.disarm(plan.slot));
}

/// A process that plays the daemon.
struct Daemon {
    child: Child,
    output: BufReader<ChildStdout>,
    warden: u32,
}

impl Daemon {
    fn start(net: &Net, role: &str) -> Self {
        let mut child = net.within(|| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "the_daemon_of_the_other_tests", "--nocapture"])
                .env("TANDEM_TEST_DAEMON", role)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut daemon = Self { child, output, warden: 0 };
        daemon.warden = daemon.line("warden ").parse().unwrap();
        daemon
    }

    /// What follows `start` in the next line that begins with it.
    fn line(&mut self, start: &str) -> String {
        for line in self.output.by_ref().lines() {
            if let Some(rest) = line.unwrap().strip_prefix(start) {
                return rest.to_owned();
            }
        }
        panic!("the daemon ended before it said {start:?}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn stop_properly(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the other node hears.
struct Ear {
    adverts: [AdvertSocket; 2],
    peer: PeerSocket,
    opener: Opener,
}

impl Ear {
    fn new(net: &Net) -> Self {
        net.within(|| {
            let index = index_of_eth0();
            Self {
                adverts: [Family::V4, Family::V6].map(|family| AdvertSocket::open(index, family).unwrap()),
                peer: PeerSocket::open(ip("10.0.0.2"), ip("10.0.0.1")).unwrap(),
                opener: Opener::new(key().derive(KeyUse::PeerLink), "a", PEER_BOOT),
            }
        })
    }

    /// The two advertisements of priority 0 and both releases have come, and nothing else.
    fn hears_the_release(&mut self) {
        let mut buffer = [0; 2048];
        for (socket, family) in self.adverts.iter().zip([Family::V4, Family::V6]) {
            let (bytes, meta) = wait_for("priority 0", || {
                socket.recv(&mut buffer).unwrap().map(|(bytes, meta)| (bytes.to_vec(), meta))
            });
            let parsed = Advert::parse(&bytes, &meta, VrrpVersion::V3).unwrap();
            let plan = plan(0, 0, family, family == Family::V4);
            assert_eq!((parsed.advert.vrid, parsed.advert.priority), (51, 0));
            assert_eq!(
                parsed.advert.addresses,
                plan.addresses.iter().map(ipnet::IpNet::addr).collect::<Vec<_>>()
            );
            assert_eq!((meta.source, meta.destination), (plan.source, plan.destination));
            if plan.signing_key.is_some() {
                let now: UnixTime = clock::now().unix;
                Verifier::new(&key()).verify(&parsed, family, &meta, now).unwrap();
            }
            assert!(socket.recv(&mut buffer).unwrap().is_none());
        }
        // Each release is sent twice. A daemon that is stopped between the beats of its slots makes them overdue, and
        // so released, one after the other.
        let mut left: Vec<_> = [Family::V4, Family::V6].map(|family| RouterKey::new("web", family)).repeat(2);
        while !left.is_empty() {
            let bytes = wait_for("the release", || self.peer.recv(&mut buffer).unwrap().map(<[u8]>::to_vec));
            let Ok(Body::Release { routers }) = self.opener.open(&bytes) else {
                panic!("no release: {bytes:?}")
            };
            assert!(!routers.is_empty());
            for router in routers {
                let place = left.iter().position(|expected| *expected == router);
                left.swap_remove(place.unwrap_or_else(|| panic!("released too often: {router:?}")));
            }
        }
        self.hears_nothing();
    }

    fn hears_nothing(&self) {
        let mut buffer = [0; 2048];
        assert!(self.adverts.iter().all(|socket| socket.recv(&mut buffer).unwrap().is_none()));
        assert!(self.peer.recv(&mut buffer).unwrap().is_none());
    }
}

#[test]
fn a_killed_daemon_is_released_at_once() {
    let (a, b) = Net::pair();
    let mut ear = Ear::new(&b);
    let daemon = Daemon::start(&a, "active");
    assert_eq!(held(&a), 4);
    let start = Instant::now();
    daemon.signal(Signal::SIGKILL);
    wait_for("the addresses to go", || (held(&a) == 0).then_some(()));
    let took = start.elapsed();
    assert!(took < TIMEOUT / 2, "the end of the pipe is noticed, not the missing beat: {took:?}");
    ear.hears_the_release();
    wait_for("the warden to end", || (!runs(daemon.warden)).then_some(()));
}

#[test]
fn a_stopped_daemon_is_released_and_knows_it_when_it_wakes_up() {
    let (a, b) = Net::pair();
    let mut ear = Ear::new(&b);
    let mut daemon = Daemon::start(&a, "active");
    let start = Instant::now();
    daemon.signal(Signal::SIGSTOP);
    wait_for("the addresses to go", || (held(&a) == 0).then_some(()));
    assert!(start.elapsed() >= TIMEOUT - Duration::from_millis(50), "{:?}", start.elapsed());
    ear.hears_the_release();
    assert!(runs(daemon.warden));
    daemon.signal(Signal::SIGCONT);
    assert_eq!(daemon.line("fired "), "true true");
    daemon.stop_properly();
    wait_for("the warden to end", || (!runs(daemon.warden)).then_some(()));
    ear.hears_nothing();
}

#[test]
fn a_daemon_that_ends_properly_leaves_nothing_to_do() {
    let (a, b) = Net::pair();
    let ear = Ear::new(&b);
    let mut daemon = Daemon::start(&a, "active");
    daemon.stop_properly();
    wait_for("the warden to end", || (!runs(daemon.warden)).then_some(()));
    assert_eq!(held(&a), 4);
    ear.hears_nothing();
}

#[test]
fn the_warden_of_a_daemon_that_was_never_active_ends_with_it() {
    let (a, b) = Net::pair();
    let ear = Ear::new(&b);
    let daemon = Daemon::start(&a, "idle");
    daemon.signal(Signal::SIGKILL);
    wait_for("the warden to end", || (!runs(daemon.warden)).then_some(()));
    ear.hears_nothing();
}

#[test]
fn while_beats_come_nothing_happens_whatever_the_signals() {
    let (a, b) = Net::pair();
    let mut ear = Ear::new(&b);
    a.within(|| {
        let mut warden = WardenHandle::spawn_program(program()).unwrap();
        let plans = both();
        arm_and_add(&mut warden, &plans);
        // Only those signals that would end the daemon with its process group.
        let pid = Pid::from_raw(i32::try_from(warden.pid()).unwrap());
        wait_for("a session of its own", || (nix::unistd::getsid(Some(pid)) == Ok(pid)).then_some(()));
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP] {
            kill(pid, signal).unwrap();
        }
        let start = Instant::now();
        while start.elapsed() < TIMEOUT * 3 {
            for plan in &plans {
                assert!(warden.beat(plan.slot, clock::now().unix.as_nanos()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        assert!(warden.is_alive());
        assert!(!warden.fired(0) && !warden.fired(63));
        ear.hears_nothing();

        // One of the two is missing: that one is released, the other stays.
        wait_for("the release", || {
            warden.beat(63, 0);
            warden.fired(0).then_some(())
        });
        assert!(!warden.beat(0, 0) && warden.beat(63, 0));
        wait_for("the addresses to go", || {
            warden.beat(63, 0);
            let ours = Netlink::open().unwrap().our_addresses().unwrap();
            (ours.len() == 2 && ours.iter().all(|address| address.ip.is_ipv6())).then_some(())
        });

        // A released slot is watched again when it is armed anew, with what it is told then.
        warden.disarm(0);
        assert!(!warden.fired(0));
        arm_and_add(&mut warden, &plans[..1]);
        wait_for("the slot to be watched", || {
            warden.beat(63, 0);
            (warden.beat(0, 0) && !warden.fired(0)).then_some(())
        });
        wait_for("the release of both", || (warden.fired(0) && warden.fired(63)).then_some(()));
        wait_for("the addresses to go", || {
            Netlink::open().unwrap().our_addresses().unwrap().is_empty().then_some(())
        });
        assert!(warden.is_alive());
    });
    let mut buffer = [0; 2048];
    let first = wait_for("the first release", || ear.peer.recv(&mut buffer).unwrap().map(<[u8]>::to_vec));
    let only = vec![RouterKey::new("web", Family::V4)];
    assert_eq!(ear.opener.open(&first), Ok(Body::Release { routers: only }));
}

#[test]
fn the_wardens_stamps_go_above_the_floor() {
    let (a, b) = Net::pair();
    let mut ear = Ear::new(&b);
    // The daemon's clock was set back after it had sent this.
    let floor = clock::now().unix.as_nanos() + 60_000_000_000;
    a.within(|| {
        let mut warden = WardenHandle::spawn_program(program()).unwrap();
        arm_and_add(&mut warden, &both());
        warden.beat(0, floor);
        warden.beat(63, 0);
    });
    let mut buffer = [0; 2048];
    let bytes = wait_for("the release", || ear.peer.recv(&mut buffer).unwrap().map(<[u8]>::to_vec));
    // Like a datagram of the daemon's with that very stamp, so that only a greater one is new.
    let mut sealer = vrrpd_core::peer::Sealer::new(key().derive(KeyUse::PeerLink), "a", OUR_BOOT);
    let last =
        sealer.seal(PEER_BOOT, UnixTime::from_nanos(floor), Body::Release { routers: Vec::new() }).unwrap();
    ear.opener.open(&last).unwrap();
    ear.opener.open(&bytes).unwrap();
    let (bytes, meta) = wait_for("priority 0", || {
        ear.adverts[0].recv(&mut buffer).unwrap().map(|(bytes, meta)| (bytes.to_vec(), meta))
    });
    let parsed = Advert::parse(&bytes, &meta, VrrpVersion::V3).unwrap();
    let at = |nanos| Verifier::new(&key()).verify(&parsed, Family::V4, &meta, UnixTime::from_nanos(nanos));
    assert_eq!(at(floor), Ok(()));
}

#[test]
fn a_dead_warden_is_noticed_and_replaced() {
    let (a, _b) = Net::pair();
    a.within(|| {
        let mut warden = WardenHandle::spawn_program(program()).unwrap();
        let plans = both();
        arm_and_add(&mut warden, &plans);
        assert!(!readable(&warden));
        let first = warden.pid();
        kill(Pid::from_raw(i32::try_from(first).unwrap()), Signal::SIGKILL).unwrap();
        wait_for("the death to show", || readable(&warden).then_some(()));
        wait_for("the death to be known", || (!warden.is_alive()).then_some(()));
        assert!(!readable(&warden), "or the loop would spin until there is a new one");
        wait_for("a new warden", || warden.revive().unwrap().then_some(()));
        assert!(warden.is_alive() && warden.pid() != first);
        for plan in &plans {
            warden.arm(plan);
            assert!(warden.beat(plan.slot, 0));
        }
        wait_for("the addresses to go", || {
            Netlink::open().unwrap().our_addresses().unwrap().is_empty().then_some(())
        });
        assert!(!warden.revive().unwrap());
    });
}

fn readable(warden: &WardenHandle) -> bool {
    let mut fds = [PollFd::new(warden.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
}

#[test]
fn a_warden_that_is_stopped_holds_nobody_up() {
    let (a, _b) = Net::pair();
    a.within(|| {
        let mut warden = WardenHandle::spawn_program(program()).unwrap();
        let pid = Pid::from_raw(i32::try_from(warden.pid()).unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        let plans = both();
        // Many more than the pipe holds.
        for _ in 0..2_000 {
            for plan in &plans {
                warden.arm(plan);
                assert!(warden.beat(plan.slot, 0));
            }
        }
        arm_and_add(&mut warden, &plans);
        kill(pid, Signal::SIGCONT).unwrap();
        let last = Instant::now();
        while last.elapsed() < TIMEOUT {
            plans.iter().for_each(|plan| assert!(warden.beat(plan.slot, 0)));
            thread::sleep(Duration::from_millis(5));
        }
        wait_for("the addresses to go", || {
            Netlink::open().unwrap().our_addresses().unwrap().is_empty().then_some(())
        });
    });
}

#[test]
fn many_addresses_are_released_together() {
    let (a, _b) = Net::pair();
    a.within(|| {
        let mut warden = WardenHandle::spawn_program(program()).unwrap();
        let index = index_of_eth0();
        let mut plan = plan(5, index, Family::V4, true);
        plan.addresses = (0..255).map(|number| format!("10.0.9.{number}/16").parse().unwrap()).collect();
        arm_and_add(&mut warden, &[plan.clone()]);
        assert!(warden.beat(5, 0));
        wait_for("the release", || warden.fired(5).then_some(()));
        let start = Instant::now();
        wait_for("the addresses to go", || {
            Netlink::open().unwrap().our_addresses().unwrap().is_empty().then_some(())
        });
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        assert!(wait_for("its end", || Some(warden.fired(5))));
    });
}

#[test]
fn run_by_hand_it_says_what_it_is() {
    let output = Command::new(program()).arg("warden").stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("is started by `vrrpd run`"), "{text}");
    std::io::stdout().flush().unwrap();
}
