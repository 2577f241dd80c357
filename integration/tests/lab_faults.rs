//! Faults break what they say and nothing else, and mending them mends it.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use integration::lab::addresses::{mac_text, vip4};
use integration::lab::capture::{Capture, fields};
use integration::lab::clock::{wait_for, wait_until};
use integration::lab::fault::Fault;
use integration::lab::probe::{RoleWatcher, Seen, WatchSettings, Watcher};
use integration::lab::{Direction, Host, Lab, Result};

const LIMIT: Duration = Duration::from_secs(10);

/// Whether a packet from a host to an address comes back: the refusal of a connection to a port where nobody listens.
fn reaches_address(from: &Host, to: IpAddr) -> bool {
    let nobody = SocketAddr::new(to, 9);
    let connect = || TcpStream::connect_timeout(&nobody, Duration::from_millis(300));
    let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
    from.namespace().inside(connect).is_ok_and(|outcome| outcome.err().is_some_and(refused))
}

fn reaches(from: &Host, to: &Host) -> bool {
    reaches_address(from, to.v4().into())
}

#[test]
fn a_block_of_one_direction_leaves_the_other_open() -> Result<()> {
    let lab = Lab::builder("one-way").targets(1).target_servers(false).build()?;
    let (a, client) = (&**lab.a(), lab.client());
    // Neighbour tables filled for good: what is blocked below is then the packets alone.
    a.ip(&format!(
        "neighbour replace {} lladdr {} dev eth0 nud permanent",
        client.v4(),
        mac_text(client.mac())
    ))?;
    client.ip(&format!(
        "neighbour replace {} lladdr {} dev eth0 nud permanent",
        a.v4(),
        mac_text(a.mac())
    ))?;
    assert!(reaches(client, a));

    for (direction, sender, receiver) in [(Direction::FromHost, client, a), (Direction::ToHost, a, client)] {
        let fault = Fault::Blocked("a".to_owned(), direction);
        lab.inject(&fault)?;
        assert_eq!(a.run("cat", &["/sys/class/net/eth0/carrier"])?.trim(), "1", "the carrier stays");
        let capture = Capture::on_host(&lab, receiver.name(), "eth0", "tcp")?;
        assert!(!reaches(sender, receiver), "{direction:?}: the answer is lost");
        let file = capture.stop()?;
        let sender_address = sender.v4().to_string();
        let filter = format!("tcp.flags.syn == 1 && ip.src == {sender_address}");
        let requests = fields(&file, &filter, &["ip.src"])?;
        assert_eq!(requests, [[sender_address]], "{direction:?}: the request arrives");
        assert!(!reaches(receiver, sender), "{direction:?}: the other way the request is lost");
        assert!(reaches(lab.b(), client), "others are not concerned");
        lab.heal(&fault)?;
        assert!(reaches(sender, receiver));
    }
    lab.finish()
}

#[test]
fn every_link_fault_cuts_its_link_and_heals() -> Result<()> {
    let lab = Lab::builder("links").targets(1).target_servers(false).build()?;
    let (a, b, client) = (lab.a(), lab.b(), lab.client());
    let peer = || reaches_address(a, b.peer_address().ip());
    let lan = || reaches(a, client);
    for (fault, lan_open, peer_open) in [
        (Fault::link_down("a"), false, true),
        (Fault::InterfaceDown("a".to_owned()), false, true),
        (Fault::blocked("a"), false, true),
        (Fault::PeerBlocked, true, false),
        (Fault::PeerDown, true, false),
        (Fault::isolated("a"), false, false),
        (Fault::Unplugged("a".to_owned()), false, false),
    ] {
        wait_until("both links to work", LIMIT, || lan() && peer())?;
        let window = lab.inject(&fault)?;
        assert!(window.width() < Duration::from_millis(500), "{fault:?} took {:?}", window.width());
        assert_eq!((lan(), peer()), (lan_open, peer_open), "{fault:?}");
        lab.heal(&fault)?;
    }
    wait_until("both links to work", LIMIT, || lan() && peer())?;
    assert!(a.holds(a.v6())?, "the node's own IPv6 address is back");
    lab.inject(&Fault::isolated("a"))?;
    lab.inject(&Fault::link_down("b"))?;
    lab.heal_switch()?;
    wait_until("both links to work", LIMIT, || lan() && peer() && reaches(b, client))?;

    a.add_address(vip4(0))?;
    let removed = Fault::AddressRemoved("a".to_owned(), vip4(0).into());
    lab.inject(&removed)?;
    assert!(!a.holds(vip4(0))?);
    lab.heal(&removed)?;
    assert!(a.holds(vip4(0))?);
    lab.finish()
}

#[test]
fn killing_a_node_takes_its_processes_and_nothing_else() -> Result<()> {
    let lab = Lab::builder("killed").targets(1).target_servers(false).build()?;
    let (a, client) = (lab.a(), lab.client());
    a.add_address(vip4(0))?;
    // Whoever outlives a child for a moment leaves a trace of it.
    let trace = lab.dir().join("trace");
    let mut command = a.command("sh");
    command.arg("-c").arg(format!("(trap '' TERM; sleep 1000); touch {}", trace.display()));
    a.start("mourner", command)?;
    wait_until("the child to be there", LIMIT, || a.namespace().pids().is_ok_and(|pids| pids.len() > 1))?;
    a.run("mkdir", &["/sys/fs/bpf/pinned"])?;

    lab.inject(&Fault::Killed("a".to_owned()))?;
    assert_eq!(a.namespace().pids()?.len(), 0);
    assert!(!a.running("mourner") && !trace.exists(), "one acted on the death of another");
    assert!(reaches(client, a) && a.holds(vip4(0))?, "the kernel lives on with what it holds");
    a.run("test", &["-d", "/sys/fs/bpf/pinned"])?;
    lab.finish()
}

#[test]
fn power_loss_takes_everything_and_power_brings_a_fresh_machine() -> Result<()> {
    let lab = Lab::builder("power").targets(1).target_servers(false).build()?;
    let (a, client) = (lab.a(), lab.client());
    a.add_address(vip4(0))?;
    let mut command = a.command("sh");
    command.args(["-c", "sleep 1000 & setsid sleep 1000 & wait"]);
    a.start("family", command)?;
    wait_until("the family to be there", LIMIT, || a.namespace().pids().is_ok_and(|pids| pids.len() == 3))?;
    assert_eq!(a.run("stat", &["--file-system", "--format", "%T", "/sys/fs/bpf"])?.trim(), "bpf_fs");
    a.run("mkdir", &["/sys/fs/bpf/pinned"])?;
    a.run("test", &["-d", "/sys/fs/bpf/pinned"])?;
    assert!(lab.b().run("test", &["-d", "/sys/fs/bpf/pinned"]).is_err(), "a machine's pins are its own");

    lab.inject(&Fault::power_loss("a"))?;
    assert_eq!(a.namespace().pids()?.len(), 0, "children and those that left the session are gone too");
    assert!(!a.running("family"));
    assert!(!reaches(client, a));

    lab.heal(&Fault::power_loss("a"))?;
    // The client asks for a's hardware address once a second while nobody answers.
    wait_until("the client to reach a again", LIMIT, || reaches(client, a))?;
    assert!(!a.holds(vip4(0))?, "a booted machine has its own addresses only");
    assert!(a.run("test", &["-d", "/sys/fs/bpf/pinned"]).is_err(), "and nothing is pinned");
    assert!(reaches_address(a, lab.b().peer_address().ip()));
    lab.finish()
}

#[test]
fn a_target_takes_packets_to_a_vip_and_answers_from_it_without_claiming_it() -> Result<()> {
    let lab = Lab::builder("dsr").targets(1).build()?;
    let target = &lab.targets()[0];
    target.accept_vip(vip4(0))?;
    let watcher = Watcher::start(&lab, WatchSettings::new(&[vip4(0).into()]))?;
    let client = lab.client();
    let entry =
        format!("neighbour replace {} lladdr {} dev eth0 nud permanent", vip4(0), mac_text(target.mac()));
    client.ip(&entry)?;
    let answer = client.namespace().inside(|| -> std::io::Result<_> {
        let socket = UdpSocket::bind(SocketAddr::from((client.v4(), 0)))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.send_to(b"hello", SocketAddr::from((vip4(0), 7)))?;
        let mut buffer = [0; 16];
        let (length, from) = socket.recv_from(&mut buffer)?;
        Ok((buffer[..length].to_vec(), from))
    })?;
    let answer = answer.expect("the target echoes");
    assert_eq!(answer, (b"hello".to_vec(), SocketAddr::from((vip4(0), 7))));
    wait_until("some questions", LIMIT, || watcher.snapshot().asked.len() > 20)?;
    let seen = watcher.stop()?;
    assert!(
        seen.answers(vip4(0)).iter().all(|macs| macs.is_empty()),
        "nobody answers for it: {:?}",
        seen.owners(vip4(0))
    );
    lab.finish()
}

/// What the stand-in for `vrrpd` does with a question.
const ANSWER_ACTIVE: u8 = 0;
const ANSWER_BACKUP: u8 = 1;
const ANSWER_NOTHING: u8 = 2;
const END: u8 = 3;

#[test]
fn roles_are_seen_changing_hanging_and_gone() -> Result<()> {
    let lab = Lab::builder("roles").targets(1).target_servers(false).build()?;
    let watcher = RoleWatcher::start(&lab, &["web"], Duration::from_millis(5))?;
    wait_for("nobody to be there", LIMIT, || {
        (watcher.snapshot().current("a", "web") == Some(&Seen::None)).then_some(())
    })?;
    let behaviour = Arc::new(AtomicU8::new(ANSWER_BACKUP));
    let seen = Arc::clone(&behaviour);
    let listener = UnixListener::bind(lab.a().socket("vrrpd")).expect("the run directory is there");
    let server = thread::spawn(move || serve_roles(&listener, &seen));
    watcher.wait("a", "web", "backup", LIMIT)?;
    assert_eq!(lab.a().role("other"), None);
    behaviour.store(ANSWER_ACTIVE, Ordering::Release);
    watcher.wait("a", "web", "active", LIMIT)?;
    behaviour.store(ANSWER_NOTHING, Ordering::Release);
    let silent = || watcher.snapshot().current("a", "web") == Some(&Seen::Silent);
    wait_until("a to be silent", LIMIT, silent)?;
    behaviour.store(END, Ordering::Release);
    let gone = || watcher.snapshot().current("a", "web") == Some(&Seen::None);
    wait_until("a to be gone", LIMIT, gone)?;
    server.join().expect("the stand-in ends");
    let report = watcher.stop()?;
    let a: Vec<&Seen> = report.of("a", "web").map(|change| &change.seen).collect();
    let role = |name: &str| Seen::Role(name.to_owned());
    assert_eq!(a, [&Seen::None, &role("backup"), &role("active"), &Seen::Silent, &Seen::None]);
    assert!(report.of("a", "web").all(|change| change.before <= change.at));
    assert_eq!(report.longest_both_active("web"), Duration::ZERO);
    lab.finish()
}

/// Answers `GET /v1/role` as told, until told to end; held-back connections stay open until then.
fn serve_roles(listener: &UnixListener, behaviour: &AtomicU8) {
    let mut held = Vec::new();
    for stream in listener.incoming() {
        let mut stream = stream.expect("the listener accepts");
        let role = match behaviour.load(Ordering::Acquire) {
            ANSWER_ACTIVE => "active",
            ANSWER_BACKUP => "backup",
            ANSWER_NOTHING => {
                held.push(stream);
                continue;
            }
            _ => return,
        };
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a question comes");
        let body = if line.starts_with("GET /v1/role ") {
            format!("{{\"web\":\"{role}\"}}")
        } else {
            "{}".to_owned()
        };
        // The watcher may have given up on a slow machine.
        write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}").ok();
    }
}
