//! The link to `lbd` over a real socket.

mod bpf_map;
mod control_support;

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::ipc::{HEALTH_TIMEOUT, InstanceNumber, InstanceRole, LbdHealth, Role, ToLbd, ToVrrpd};
use common::wire::{FrameReader, frame};
use control_support::{Folder, OWNED, fake_loop, status, wait_for};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use proptest::prelude::*;
use vrrpd::api::server::{UnixSocket, listen_unix};
use vrrpd::command::{LbdState, LoopHandle, StatusCell, commands};
use vrrpd::lbd_link::{LbdLink, LbdLinkCounters, PENDING_MAX};

struct Linked {
    link: LbdLink,
    told: Receiver<(Instant, LbdState)>,
    cell: Arc<StatusCell>,
    path: PathBuf,
    _socket: UnixSocket,
    _loop: LoopHandle,
    _folder: Folder,
}

impl Linked {
    fn new() -> Self {
        let folder = Folder::new();
        let path = folder.join("ipc.sock");
        let (listener, socket) = listen_unix(&path).unwrap();
        let (commands, receiver) = commands().unwrap();
        let cell = Arc::new(StatusCell::new().unwrap());
        let (tell, told) = channel();
        let fake = fake_loop(receiver, Arc::clone(&cell), tell);
        wait_for("the first state", || (cell.latest().number > 0).then_some(()));
        let link = LbdLink::start(listener, "a", commands, Arc::clone(&cell)).unwrap();
        Self { link, told, cell, path, _socket: socket, _loop: fake, _folder: folder }
    }

    fn connect(&self) -> Lbd {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Lbd { stream, reader: FrameReader::default() }
    }

    fn greeted(&self) -> Lbd {
        let mut lbd = self.connect();
        lbd.send(&hello("a"));
        lbd.roles();
        lbd
    }

    fn next_told(&self) -> (Instant, LbdState) {
        self.told.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    fn counters(&self) -> Arc<LbdLinkCounters> {
        self.link.counters()
    }
}

struct Lbd {
    stream: UnixStream,
    reader: FrameReader,
}

impl Lbd {
    fn send(&mut self, message: &ToVrrpd) {
        self.stream.write_all(&frame(message).unwrap()).unwrap();
    }

    /// Sends bytes with descriptors.
    fn give(&mut self, bytes: &[u8], descriptors: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let sent =
            sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None);
        assert_eq!(sent, Ok(bytes.len()));
    }

    fn roles(&mut self) -> Vec<InstanceRole> {
        let mut buffer = [0; 1024];
        loop {
            if let Some(ToLbd::Roles(roles)) = self.reader.next_message().unwrap() {
                return roles;
            }
            let count = self.stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the connection was closed");
            self.reader.push(&buffer[..count]);
        }
    }

    /// Whether the other end has closed the connection, once whatever it sent before is read.
    fn ends(mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn hello(node: &str) -> ToVrrpd {
    ToVrrpd::Hello { node: node.to_owned(), version: "1".to_owned(), config_hash: 1 }
}

fn health(workers_alive: u32) -> LbdHealth {
    LbdHealth { workers_alive, workers_expected: 2, services_without_targets: vec![] }
}

#[test]
fn health_is_passed_on_when_it_changes() {
    let linked = Linked::new();
    let mut lbd = linked.greeted();
    for workers in [2, 2, 2, 1, 1, 2] {
        lbd.send(&ToVrrpd::Health(health(workers)));
        // One at a time, so that none is overtaken by the next.
        std::thread::sleep(Duration::from_millis(5));
    }
    for workers in [2, 1, 2] {
        assert_eq!(linked.next_told().1, LbdState::Alive(health(workers)));
    }
    assert!(linked.told.try_recv().is_err());
}

#[test]
fn death_is_told_at_once() {
    let linked = Linked::new();
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let mut lbd = linked.greeted();
        lbd.send(&ToVrrpd::Health(health(2)));
        assert_eq!(linked.next_told().1, LbdState::Alive(health(2)));
        let died = Instant::now();
        drop(lbd);
        let (told, state) = linked.next_told();
        assert_eq!(state, LbdState::Absent);
        fastest = fastest.min(told.duration_since(died));
    }
    // The fastest of ten, because other tests share the processors.
    assert!(fastest < Duration::from_millis(1), "{fastest:?}");
    wait_for("the flag", || (!linked.counters().connected.load(Ordering::Relaxed)).then_some(()));
}

#[test]
fn the_last_message_before_the_end_counts() {
    let linked = Linked::new();
    let mut lbd = linked.connect();
    let bytes = [hello("a"), ToVrrpd::Health(health(1))].map(|message| frame(&message).unwrap()).concat();
    lbd.stream.write_all(&bytes).unwrap();
    assert_eq!(linked.next_told().1, LbdState::Alive(health(1)));
    drop(lbd);
    assert_eq!(linked.next_told().1, LbdState::Absent);
}

#[test]
fn silence_is_death_too() {
    let linked = Linked::new();
    let mut lbd = linked.greeted();
    lbd.send(&ToVrrpd::Health(health(2)));
    let (alive, _) = linked.next_told();
    let (told, state) = linked.next_told();
    assert_eq!(state, LbdState::Absent);
    let silent = told.duration_since(alive);
    assert!(
        silent >= HEALTH_TIMEOUT - Duration::from_millis(20) && silent < HEALTH_TIMEOUT * 2,
        "{silent:?}"
    );
    wait_for("the count", || (linked.counters().silent.load(Ordering::Relaxed) == 1).then_some(()));
    assert!(lbd.ends());
}

#[test]
fn roles_are_sent_after_hello_and_when_they_change() {
    let linked = Linked::new();
    let mut lbd = linked.connect();
    lbd.send(&hello("a"));
    let role =
        |instance: &str, role| InstanceRole { instance: instance.to_owned(), role, from_silence: false };
    assert_eq!(lbd.roles(), [role("web", Role::Active), role("dns", Role::Backup)]);
    linked.cell.publish(status(&[("web", Role::Backup)]));
    assert_eq!(lbd.roles(), [role("web", Role::Backup)]);
}

#[test]
fn another_node_is_refused() {
    let linked = Linked::new();
    let mut lbd = linked.connect();
    lbd.send(&hello("b"));
    assert!(lbd.ends());
    wait_for("the count", || (linked.counters().refused.load(Ordering::Relaxed) == 1).then_some(()));
    assert!(linked.told.try_recv().is_err());
}

#[test]
fn a_new_connection_replaces_the_former() {
    let linked = Linked::new();
    let mut former = linked.greeted();
    former.send(&ToVrrpd::Health(health(2)));
    assert_eq!(linked.next_told().1, LbdState::Alive(health(2)));
    let mut new = linked.greeted();
    assert!(former.ends());
    new.send(&ToVrrpd::Health(health(1)));
    // The end of the former one was not told as a death.
    assert_eq!(linked.next_told().1, LbdState::Alive(health(1)));
}

#[test]
fn idle_connections_do_not_shut_lbd_out() {
    let linked = Linked::new();
    let idle: Vec<_> = (0..PENDING_MAX * 3).map(|_| linked.connect()).collect();
    let mut lbd = linked.greeted();
    lbd.send(&ToVrrpd::Health(health(2)));
    assert_eq!(linked.next_told().1, LbdState::Alive(health(2)));
    assert!(linked.counters().refused.load(Ordering::Relaxed) >= u64::try_from(PENDING_MAX).unwrap());
    drop(idle);
}

#[test]
fn messages_out_of_turn_close_the_connection() {
    let linked = Linked::new();
    let mut early = linked.connect();
    early.send(&ToVrrpd::Health(health(2)));
    assert!(early.ends());
    let mut twice = linked.greeted();
    twice.send(&hello("a"));
    assert!(twice.ends());
    let services_without_targets = vec![String::new(); common::ipc::ENTRIES_MAX + 1];
    let mut long = linked.greeted();
    long.send(&ToVrrpd::Health(LbdHealth { services_without_targets, ..health(2) }));
    assert!(long.ends());
    wait_for("the count", || (linked.counters().malformed.load(Ordering::Relaxed) == 3).then_some(()));
}

#[test]
fn the_loop_hears_whether_this_node_is_behind() {
    let linked = Linked::new();
    let behind = |expected| {
        let heard = || (linked.cell.latest().status.behind == expected).then_some(());
        wait_for("the loop to hear of it", heard);
    };
    let mut lbd = linked.greeted();
    for told in [true, false, true] {
        lbd.send(&ToVrrpd::Replication { behind: told });
        behind(told);
    }
    lbd.send(&ToVrrpd::Health(health(1)));
    assert_eq!(linked.next_told().1, LbdState::Alive(health(1)));
    // It dies: what it lacked, nobody has got since.
    drop(lbd);
    assert_eq!(linked.next_told().1, LbdState::Absent);
    assert!(linked.cell.latest().status.behind);
    // The next one says nothing of it until it is well: it replicates nothing.
    let mut next = linked.greeted();
    next.send(&ToVrrpd::Health(health(2)));
    assert_eq!(linked.next_told().1, LbdState::Alive(health(2)));
    behind(false);
}

/// "web" is at this number.
fn instances(number: u32) -> Vec<u8> {
    let instance = "web".to_owned();
    frame(&ToVrrpd::Instances(vec![InstanceNumber { instance, number }])).unwrap()
}

#[test]
fn the_map_is_written_from_when_its_descriptor_has_come() {
    let linked = Linked::new();
    let map = bpf_map::instances();
    let written = |number| (bpf_map::word(&map, number) == OWNED.as_nanos()).then_some(());
    let mut lbd = linked.greeted();
    lbd.give(&instances(3), &[map.as_raw_fd()]);
    wait_for("the map to be written", || written(3));
    // In pieces, behind other messages, and again with another number.
    let bytes = [frame(&ToVrrpd::Health(health(2))).unwrap(), instances(4)].concat();
    lbd.give(&bytes[..20], &[map.as_raw_fd()]);
    lbd.stream.write_all(&bytes[20..]).unwrap();
    wait_for("the map to be written again", || written(4));
    // There is none any more; and the link goes on.
    lbd.send(&ToVrrpd::Instances(vec![]));
    lbd.send(&ToVrrpd::Health(health(1)));
    assert_eq!(linked.next_told().1, LbdState::Alive(health(2)));
    assert_eq!(linked.next_told().1, LbdState::Alive(health(1)));
    // With the first words of a new connection.
    let mut next = linked.connect();
    next.send(&hello("a"));
    next.give(&instances(5), &[map.as_raw_fd()]);
    wait_for("the map to be written for another lbd", || written(5));
    assert_eq!(linked.counters().maps_refused.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_no_such_map_is_refused_and_counted() {
    let linked = Linked::new();
    let mut lbd = linked.greeted();
    let file = File::open("/dev/null").unwrap();
    lbd.give(&instances(1), &[file.as_raw_fd()]);
    lbd.give(&instances(1), &[bpf_map::array(8, 1, bpf_map::MAPPABLE).as_raw_fd()]);
    lbd.give(&instances(64), &[bpf_map::instances().as_raw_fd()]);
    wait_for("the count", || (linked.counters().maps_refused.load(Ordering::Relaxed) == 3).then_some(()));
    // Its health counts all the same.
    lbd.send(&ToVrrpd::Health(health(2)));
    assert_eq!(linked.next_told().1, LbdState::Alive(health(2)));
}

#[test]
fn descriptors_that_nobody_asked_for_close_the_connection() {
    let linked = Linked::new();
    let map = bpf_map::instances();
    let raw = map.as_raw_fd();
    let health = frame(&ToVrrpd::Health(health(2))).unwrap();
    let mut none = linked.greeted();
    none.stream.write_all(&instances(1)).unwrap();
    assert!(none.ends());
    let mut many = linked.greeted();
    many.give(&instances(1), &[raw, raw, raw]);
    assert!(many.ends());
    let mut both = linked.greeted();
    both.give(&instances(1), &[raw, raw]);
    assert!(both.ends());
    // One for a message that takes none is kept for one that does, but not a second one.
    let mut kept = linked.greeted();
    kept.give(&health, &[raw]);
    kept.give(&health, &[raw]);
    assert!(kept.ends());
    let mut empty = linked.greeted();
    empty.give(&frame(&ToVrrpd::Instances(vec![])).unwrap(), &[raw]);
    assert!(empty.ends());
    wait_for("the count", || (linked.counters().malformed.load(Ordering::Relaxed) == 5).then_some(()));
    assert_eq!(bpf_map::word(&map, 1), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_does_not_stop_the_link(
        greet in any::<bool>(),
        noise in proptest::collection::vec(any::<u8>(), 1..600),
        length in proptest::option::of(0_u32..64),
    ) {
        thread_local!(static LINKED: Linked = Linked::new());
        LINKED.with(|linked| {
            let mut lbd = if greet { linked.greeted() } else { linked.connect() };
            if let Some(length) = length {
                lbd.stream.write_all(&length.to_le_bytes()).ok();
            }
            lbd.stream.write_all(&noise).ok();
            lbd.stream.shutdown(std::net::Shutdown::Write).ok();
            assert!(lbd.ends());
            let mut good = linked.greeted();
            good.send(&ToVrrpd::Health(health(2)));
            wait_for("the health", || (linked.told.try_recv().ok()?.1 == LbdState::Alive(health(2))).then_some(()));
            drop(good);
            wait_for("the end", || (linked.told.try_recv().ok()?.1 == LbdState::Absent).then_some(()));
        });
    }
}
