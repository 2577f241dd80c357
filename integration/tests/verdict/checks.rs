//! Health checks on the way of clients' packets: to the target of the socket's mark whatever the hash says, and back to a socket
//! that waits for it, and to no other.

use std::net::{IpAddr, SocketAddr};

use integration::verdict::checks::{MARK, answered, sent};
use integration::verdict::compare::{Pair, agree};
use integration::verdict::harness::{Harness, PROGRAMS, Program, Verdict, program};
use integration::verdict::oracle::Outcome;
use integration::verdict::packet::{ACK, PSH, Packet, RST, SYN, TCP, UDP, ethernet, icmp};
use integration::verdict::sample::{OWN, Path, from_target, paths};
use integration::verdict::world::{Health, Role};
use socket2::{Domain, Socket, Type};

fn dsr() -> Vec<Path> {
    paths().into_iter().filter(|path| !path.nat).collect()
}

/// What a check sends, as it comes to the loopback interface: without MAC addresses, and with one hop.
fn check(packet: Packet) -> Packet {
    Packet { macs: ([0; 6], [0; 6]), ttl: 1, ..packet }
}

/// Gives both a check's packet.
#[track_caller]
fn sends(pair: &Pair<'_>, packet: &Packet, mark: u32) -> Outcome {
    let (frame, expected) = (packet.frame(), sent(&pair.oracle, packet, mark));
    let done = pair.harness.run_marked(&frame, mark);
    agree(&expected, &done, &frame).unwrap_or_else(|difference| panic!("{mark:#x}: {difference}"));
    expected.outcome
}

#[test]
fn a_check_goes_to_the_target_of_its_mark_as_a_clients_packet_would() {
    let mut harness = program();
    for path in dsr() {
        let pair = Pair::new(&mut harness, Program::Tc, path.world.clone());
        let mut frames = 0;
        // Both targets of both protocols: it is the way that counts, not the service.
        for target in 1..=4 {
            for packet in [
                path.tcp(50_000, SYN),
                path.tcp(50_000, ACK | PSH).carrying(333),
                path.tcp(50_000, RST),
                path.udp(50_000).carrying(17),
            ] {
                let outcome = sends(&pair, &check(packet), MARK | target);
                assert!(matches!(outcome, Outcome::Forward(_)), "{}: {outcome:?}", path.name);
                frames += 1;
            }
        }
        assert_eq!(pair.harness.check_stats(), [frames, 0, 0]);
        assert_eq!(pair.harness.service_stats(1), [0; 6], "checks are nobody's traffic");
        assert_eq!(pair.harness.flows(), 0);
    }
}

#[test]
fn only_checks_are_taken_and_none_is_let_into_the_hosts_own_stack() {
    let mut harness = program();
    for path in dsr() {
        let mut pair = Pair::new(&mut harness, Program::Tc, path.world.clone());
        let packet = check(path.tcp(50_100, SYN));
        for mark in [0, 1, 0x7a6d_0001, 0x7b6c_0001, 0xffff_0001] {
            assert_eq!(sends(&pair, &packet, mark), Outcome::Pass, "{mark:#x}");
        }
        // Somebody else's with the same mark.
        let elsewhere = SocketAddr::new(path.client(0).ip(), 80);
        let foreign = check(Packet { destination: elsewhere, ..packet.clone() });
        assert_eq!(sends(&pair, &foreign, MARK | 1), Outcome::Pass);
        for nobody in [0, 60, 4095, 4096, 0xffff] {
            assert_eq!(sends(&pair, &packet, MARK | nobody), Outcome::Drop, "{nobody}");
        }
        pair.tell(|world| world.change(1).reachable = false);
        assert_eq!(sends(&pair, &packet, MARK | 1), Outcome::Drop);
        pair.tell(|world| world.change(1).reachable = true);
        pair.tell(|world| world.change(1).mtu = 100);
        assert_eq!(sends(&pair, &check(path.tcp(50_100, ACK)).carrying(500), MARK | 1), Outcome::Drop);
        assert!(matches!(sends(&pair, &packet, MARK | 1), Outcome::Forward(_)));
    }
}

#[test]
fn neither_role_nor_health_keep_a_check_from_its_target() {
    let mut harness = program();
    for path in dsr() {
        let mut pair = Pair::new(&mut harness, Program::Tc, path.world.clone());
        for (role, health) in [
            (Role::Backup, Health::Up),
            (Role::Until(1), Health::Unhealthy),
            (Role::Active, Health::Draining),
        ] {
            pair.tell(|world| {
                world.roles[1] = role;
                world.change(2).health = health;
            });
            let outcome = sends(&pair, &check(path.tcp(50_200, SYN)), MARK | 2);
            assert!(matches!(outcome, Outcome::Forward(_)), "{}: {role:?}, {health:?}", path.name);
        }
    }
}

/// A socket as a check has it: bound to an address of the node, on its way to the VIP.
struct Waiting {
    _socket: Socket,
    here: SocketAddr,
}

fn waiting(service: SocketAddr, protocol: u8, mark: u32) -> Waiting {
    let own: IpAddr =
        if service.is_ipv4() { "198.51.100.2".parse().unwrap() } else { "2001:db8:ffff::2".parse().unwrap() };
    let kind = if protocol == TCP { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(service), kind, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_mark(mark).unwrap();
    socket.bind(&SocketAddr::new(own, 0).into()).unwrap();
    // In the test's network nobody is there: TCP goes on trying.
    let connected = socket.connect(&service.into());
    assert!(connected.is_ok() || protocol == TCP, "{connected:?}");
    let here = socket.local_addr().unwrap().as_socket().unwrap();
    Waiting { _socket: socket, here }
}

/// The answers of a target, to a socket and to nobody.
fn answers(path: &Path, protocol: u8, to: SocketAddr) -> Packet {
    from_target(if protocol == TCP {
        Packet::tcp(path.web(), to, SYN | ACK)
    } else {
        Packet::udp(path.dns(), to).carrying(60)
    })
}

fn service(path: &Path, protocol: u8) -> SocketAddr {
    if protocol == TCP { path.web() } else { path.dns() }
}

/// Whether the program takes a frame for an answer to a check: then it is as the loopback interface is to have it.
#[track_caller]
fn is_taken(harness: &Harness, program: Program, frame: &[u8]) -> bool {
    let done = harness.run(program, frame);
    assert_eq!(done.drops, []);
    match done.verdict {
        Verdict::Send => {
            assert_eq!(done.frame, answered(frame));
            true
        }
        Verdict::Pass => {
            assert_eq!(done.frame, frame);
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_is_taken_for_a_socket_of_a_check_and_for_no_other() {
    let mut harness = program();
    for path in dsr() {
        let mut pair = Pair::new(&mut harness, Program::Tc, path.world.clone());
        pair.tell(|world| world.checks = true);
        for protocol in [TCP, UDP] {
            let service = service(&path, protocol);
            let check = waiting(service, protocol, MARK | 2);
            let frame = answers(&path, protocol, check.here).frame();
            for program in [Program::Tc, Program::CheckIn] {
                assert!(is_taken(pair.harness, program, &frame), "{}", path.name);
                let tagged =
                    Packet { vlans: vec![(0x8100, 5)], ..answers(&path, protocol, check.here) }.frame();
                assert!(!is_taken(pair.harness, program, &tagged));
                // Another port, another address of the node, another source.
                let nobody = SocketAddr::new(check.here.ip(), check.here.port() ^ 1);
                assert!(!is_taken(pair.harness, program, &answers(&path, protocol, nobody).frame()));
                let source = SocketAddr::new(path.client, service.port());
                let stranger = Packet { source, ..answers(&path, protocol, check.here) };
                assert!(!is_taken(pair.harness, program, &stranger.frame()));
                let source = SocketAddr::new(service.ip(), service.port() + 1);
                let other = Packet { source, ..answers(&path, protocol, check.here) };
                assert!(!is_taken(pair.harness, program, &other.frame()));
                for mark in [0, 2, 0x7a6d_0002] {
                    let unmarked = waiting(service, protocol, mark);
                    let frame = answers(&path, protocol, unmarked.here).frame();
                    assert!(!is_taken(pair.harness, program, &frame), "{mark:#x}");
                }
            }
            assert!(!is_taken(pair.harness, Program::Xdp, &frame), "that is left to the program in TC");
            drop(check);
            PROGRAMS.iter().for_each(|program| assert!(!is_taken(pair.harness, *program, &frame)));
        }
        assert_eq!(pair.harness.check_stats(), [0, 4, 0]);
        pair.tell(|world| world.checks = false);
        let check = waiting(path.web(), TCP, MARK | 2);
        let frame = answers(&path, TCP, check.here).frame();
        assert!(!is_taken(pair.harness, Program::Tc, &frame), "where nobody checks, nobody is asked");
    }
}

#[test]
fn an_error_about_a_check_reaches_it() {
    let mut harness = program();
    for path in dsr() {
        let mut pair = Pair::new(&mut harness, Program::Tc, path.world.clone());
        pair.tell(|world| world.checks = true);
        let kind = if path.vip.is_ipv4() { (3, 3) } else { (1, 4) };
        let check = waiting(path.dns(), UDP, MARK | 3);
        let error = |to: SocketAddr| {
            let quoted = Packet::udp(to, path.dns()).carrying(20).ip();
            let ethertype = if path.vip.is_ipv4() { 0x0800 } else { 0x86dd };
            let from = (OWN, [2, 0, 0, 0, 1, 1]);
            ethernet(from, &[], ethertype, &icmp(path.vip, to.ip(), kind, 0, &quoted))
        };
        for program in [Program::Tc, Program::CheckIn] {
            assert!(is_taken(pair.harness, program, &error(check.here)), "{}", path.name);
            let done = pair.harness.run(program, &error(SocketAddr::new(check.here.ip(), 9)));
            assert_eq!(done.verdict, Verdict::Pass);
        }
    }
}
