//! Who is forwarded, where to, and who is not.

use std::net::SocketAddr;

use integration::verdict::compare::Pair;
use integration::verdict::harness::{PROGRAMS, Verdict, program};
use integration::verdict::oracle::reason::Reason;
use integration::verdict::oracle::{Expected, Outcome, Tuple};
use integration::verdict::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP};
use integration::verdict::sample::{PORTS, answer, from_client, nats, path, paths};
use integration::verdict::world::*;

use crate::each;

fn lost(reason: Reason) -> Expected {
    Expected::counted(Outcome::Drop, reason)
}

#[test]
fn flows_of_an_unhealthy_target_move() {
    for health in [Health::Unhealthy, Health::Absent] {
        each(paths(), |path, pair| {
            for port in 300..308 {
                pair.sends(&path.tcp(port, SYN).frame());
                pair.sends(&path.tcp(port, ACK).frame());
                pair.sends(&path.udp(port).frame());
                pair.sends(&path.udp(port).frame());
            }
            pair.tell(|world| {
                world.change(1).health = health;
                world.change(3).health = health;
                world.services[0].members[0].1 = 0;
                world.services[1].members[0].1 = 0;
            });
            for port in 300..308 {
                pair.sends(&path.tcp(port, ACK).carrying(3).frame());
                pair.sends(&path.udp(port).frame());
                let tuple = Tuple { protocol: UDP, client: path.client(port), service: path.dns() };
                assert_eq!(pair.harness.flow(&tuple).map(|flow| flow.target), Some(4));
            }
        });
    }
}

#[test]
fn connections_of_an_unhealthy_target_are_reset_where_asked_for() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.services[0].reset_unhealthy = true);
        for port in 320..328 {
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.tcp(port, ACK).frame());
        }
        pair.tell(|world| {
            world.change(1).health = Health::Unhealthy;
            world.services[0].members[0].1 = 0;
        });
        for port in 320..328 {
            pair.step(&path.tcp(port, ACK).carrying(3).frame());
        }
        assert!(pair.oracle.flows.values().any(|flow| flow.target == 1), "some had this target");
    });
}

#[test]
fn a_connection_that_moves_while_it_opens_is_not_reset() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.services[0].reset_unhealthy = true);
        for port in 700..740 {
            pair.sends(&path.tcp(port, SYN).frame());
        }
        assert!(pair.oracle.flows.values().any(|flow| flow.target == 1), "some had this target");
        pair.tell(|world| {
            world.change(1).health = Health::Unhealthy;
            world.services[0].members[0].1 = 0;
        });
        for port in 700..740 {
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.tcp(port, ACK).frame());
        }
    });
}

/// A ring is written after the targets: for a moment it has one that is known not to be well.
#[test]
fn new_connections_pass_by_an_unhealthy_target_that_the_ring_has_still() {
    each(paths(), |path, pair| {
        pair.tell(|world| {
            world.services[0].reset_unhealthy = true;
            world.change(1).health = Health::Unhealthy;
        });
        for port in 740..756 {
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.tcp(port, ACK).frame());
        }
        assert!(pair.oracle.flows.values().all(|flow| flow.target != 1), "all are at the other target");
    });
}

#[test]
fn a_target_of_one_port_and_of_any_has_the_answers_of_both() {
    each(nats(), |path, pair| {
        let port = pair.oracle.world.targets[0].port;
        let listening = SocketAddr::new(path.vip, port);
        pair.tell(|world| {
            let any = world.target(&SocketAddr::new(world.targets[0].address, 0).to_string(), TCP);
            world.services.push(Service { members: vec![(any, 1)], ..world.services[0].clone() });
            let service = u16::try_from(world.services.len()).expect("few services");
            world.listens.push(Listen { vip: path.vip, ports: (port, port), protocol: TCP, service });
        });
        for port in 760..770 {
            let one = pair.sends(&path.tcp(port, SYN).frame());
            let any = pair.sends(&from_client(Packet::tcp(path.client(port + 10), listening, SYN)).frame());
            for sent in [one, any] {
                pair.sends(&answer(&sent, SYN | ACK).frame());
            }
        }
    });
}

#[test]
fn a_draining_target_keeps_its_flows() {
    each(paths(), |path, pair| {
        for port in 340..348 {
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.tcp(port, ACK).frame());
        }
        pair.tell(|world| {
            world.change(1).health = Health::Draining;
            world.services[0].members[0].1 = 0;
        });
        for port in 340..348 {
            pair.sends(&path.tcp(port, ACK).frame());
            pair.sends(&path.tcp(port + 20, SYN).frame());
        }
    });
}

#[test]
fn without_targets_or_next_hops_nothing_is_sent() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.services[0].members.clear());
        pair.does(&path.tcp(360, SYN).frame(), &lost(Reason::NoTarget));
        pair.tell(|world| {
            world.services[0].members = vec![(1, 1)];
            world.change(1).reachable = false;
        });
        pair.does(&path.tcp(361, SYN).frame(), &lost(Reason::NoNextHop));
    });
}

#[test]
fn a_closed_or_reset_connection_s_ports_are_used_again() {
    each(paths(), |path, pair| {
        for end in [FIN | ACK, RST] {
            let sent = pair.sends(&path.tcp(400, SYN).frame());
            pair.sends(&path.tcp(400, ACK).frame());
            pair.sends(&path.tcp(400, end).frame());
            if path.nat && end != RST {
                pair.sends(&answer(&sent, FIN | ACK).frame());
            }
            // Another target would be the ring's choice now.
            pair.tell(|world| world.services[0].members[0].1 ^= 3);
            pair.sends(&path.tcp(400, SYN).frame());
            pair.sends(&path.tcp(400, ACK).frame());
            pair.tell(|world| world.services[0].members[0].1 ^= 3);
        }
    });
}

#[test]
fn flows_end_by_their_time_outs() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.services.iter_mut().for_each(|service| service.members[0].1 = 0));
        pair.sends(&path.tcp(410, SYN).frame());
        pair.sends(&path.tcp(410, ACK).frame());
        pair.sends(&path.udp(410).frame());
        pair.sends(&path.udp(410).frame());
        // New ones go elsewhere now; these stay as long as they are used.
        pair.tell(|world| world.services.iter_mut().for_each(|s| s.members = vec![(s.members[0].0, 1)]));
        for _ in 0..3 {
            pair.wait(UDP_TICKS - 200);
            pair.sends(&path.udp(410).frame());
        }
        pair.sends(&path.tcp(410, ACK).frame());
        pair.wait(UDP_TICKS + 200);
        pair.sends(&path.udp(410).frame());
        pair.sends(&path.tcp(410, ACK).frame());
        pair.wait(ESTABLISHED_TICKS + 300);
        pair.sends(&path.tcp(410, ACK).frame());
    });
}

#[test]
fn access_lists_decide_by_the_longest_prefix() {
    each(paths(), |path, pair| {
        let client = path.client(0).ip();
        let (wide, narrow, zero) = if client.is_ipv4() { (16, 32, "0.0.0.0") } else { (48, 128, "::") };
        let zero = zero.parse().unwrap();
        let rules = [
            (vec![(zero, 0, true)], true),
            (vec![(zero, 0, false)], false),
            (vec![(zero, 0, false), (client, wide, true)], true),
            (vec![(zero, 0, true), (client, wide, false)], false),
            (vec![(zero, 0, true), (client, wide, false), (client, narrow, true)], true),
            (vec![(zero, 0, true), (client, wide, true), (client, narrow, false)], false),
        ];
        for (port, (access, allowed)) in (420..).zip(rules) {
            pair.tell(|world| world.services[0].access = access);
            let frame = path.tcp(port, SYN).frame();
            if allowed {
                pair.sends(&frame);
            } else {
                pair.does(&frame, &lost(Reason::Denied));
            }
            pair.sends(&path.udp(port).frame());
        }
    });
}

#[test]
fn an_address_gets_so_many_new_flows_in_a_window() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.services[0].source_rate = Some((3, 32)));
        for round in 0..2_u16 {
            for port in 0..3 {
                pair.sends(&path.tcp(430 + round * 10 + port, SYN).frame());
                pair.sends(&path.tcp(430 + round * 10 + port, ACK).frame());
            }
            pair.does(&path.tcp(436 + round * 10, SYN).frame(), &lost(Reason::SourceRate));
            pair.sends(&path.tcp(430 + round * 10, ACK).frame());
            pair.sends(&path.udp(430).frame());
            pair.wait(80);
        }
    });
}

/// What begins no connection may be of one that is not known here: it is forwarded whatever the rate, and remembered within it.
#[test]
fn an_address_gets_no_more_flows_remembered_by_segments_that_open_none() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.services[0].source_rate = Some((3, 32)));
        for round in 1..3 {
            for flags in [ACK, ACK | FIN, ACK] {
                for port in 440..450 {
                    pair.sends(&path.tcp(port, flags).carrying(5).frame());
                }
            }
            assert_eq!(pair.harness.flows(), 3 * round, "those of the other ports are not in the table");
            // These are the client's new ones of this time.
            pair.does(&path.tcp(439, SYN).frame(), &lost(Reason::SourceRate));
            pair.wait(80);
        }
        // What is over the rate leaves room for others.
        for port in 430..433 {
            pair.sends(&path.tcp(port, SYN).frame());
        }
        pair.sends(&path.tcp(449, ACK).frame());
        for port in 430..433 {
            pair.sends(&path.tcp(port, ACK).frame());
        }
        assert_eq!(pair.harness.flows(), 9);
    });
}

#[test]
fn what_the_other_node_has_begun_counts_until_its_window_ends() {
    // Windows so long that no tick which cannot be had is across the end of one.
    const WINDOW: u32 = 40_000;
    each(paths(), |path, pair| {
        let client = path.client(0).ip();
        let others = |pair: &mut Pair<'_>, count: u32| {
            pair.tell(|world| {
                world.others_begun.insert((client, 1), (count, world.now + 1_000));
            });
        };
        pair.tell(|world| world.services[0].source_rate = Some((3, WINDOW)));
        others(pair, 2);
        for port in 800..803 {
            pair.sends(&path.tcp(port, SYN).frame());
        }
        pair.does(&path.tcp(803, SYN).frame(), &lost(Reason::SourceRate));
        pair.wait(WINDOW * 3 / 2);
        pair.tell(|world| world.services[0].pair_rate = true);
        others(pair, 2);
        pair.sends(&path.tcp(804, SYN).frame());
        for port in 805..809 {
            pair.does(&path.tcp(port, SYN).frame(), &lost(Reason::SourceRate));
        }
        // A segment that opens nothing passes, and what it is of is not remembered.
        let before = pair.harness.flows();
        for _ in 0..3 {
            pair.sends(&path.tcp(809, ACK).carrying(5).frame());
        }
        assert_eq!(pair.harness.flows(), before);
        // The other node's window has ended. In this one's are those that were not refused.
        pair.wait(2_000);
        for port in 810..812 {
            pair.sends(&path.tcp(port, SYN).frame());
        }
        pair.does(&path.tcp(812, SYN).frame(), &lost(Reason::SourceRate));
        // More than the rate leaves nothing; and it is of this service alone.
        pair.wait(WINDOW * 3 / 2);
        others(pair, 9);
        pair.does(&path.tcp(813, SYN).frame(), &lost(Reason::SourceRate));
        pair.sends(&path.udp(813).frame());
    });
}

#[test]
fn a_client_has_one_rate_for_all_numbers_of_a_service() {
    each(paths(), |path, pair| {
        pair.tell(|world| {
            for service in &mut world.services {
                (service.source_rate, service.counts_as) = (Some((3, 32)), Some(1));
            }
        });
        pair.sends(&path.tcp(820, SYN).frame());
        pair.sends(&path.udp(820).frame());
        pair.sends(&path.tcp(821, SYN).frame());
        pair.does(&path.udp(822).frame(), &lost(Reason::SourceRate));
        pair.does(&path.tcp(823, SYN).frame(), &lost(Reason::SourceRate));
    });
}

#[test]
fn clients_come_back_to_their_target() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.services[0].affinity = Some(1000));
        for port in 450..460 {
            pair.sends(&path.tcp(port, SYN).frame());
        }
        let targets: Vec<u16> = pair.oracle.flows.values().map(|flow| flow.target).collect();
        assert!(targets.windows(2).all(|two| two[0] == two[1]));
        pair.wait(1200);
        pair.sends(&path.tcp(470, SYN).frame());
    });
}

#[test]
fn by_source_all_ports_of_a_client_go_to_one_target() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.services.iter_mut().for_each(|service| service.by_source = true));
        for port in 480..490 {
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.udp(port).frame());
        }
    });
}

#[test]
fn ranges_and_any_port() {
    each(paths(), |path, pair| {
        let vip = path.vip.to_string();
        pair.tell(|world| {
            let members = vec![(1, 1)];
            let service = Service { members, ..world.services[0].clone() };
            world.change(1).port = 0;
            world.service(&vip, (8000, 8100), TCP, service.clone());
            world.service(&vip, (0, 65_535), TCP, Service { members: vec![(1, 1)], ..service });
        });
        let to = |port: u16, flags| {
            from_client(Packet::tcp(path.client(500), SocketAddr::new(path.vip, port), flags)).frame()
        };
        for port in [0, 1, 79, 80, 81, 7999, 8000, 8050, 8100, 8101, 65_535] {
            let sent = pair.sends(&to(port, SYN));
            if path.nat {
                pair.sends(&answer(&sent, SYN | ACK).frame());
            }
            pair.sends(&to(port, ACK));
        }
        // UDP has no such ranges.
        let datagram = from_client(Packet::udp(path.client(500), SocketAddr::new(path.vip, 8050)));
        pair.does(&datagram.frame(), &Expected::pass());
    });
}

#[test]
fn what_is_not_for_a_service_is_left_alone() {
    each(paths(), |path, pair| {
        let other = if path.vip.is_ipv4() { "192.0.2.99:80" } else { "[2001:db8::99]:80" };
        let pass = Expected::pass();
        pair.does(&from_client(Packet::tcp(path.client(1), other.parse().unwrap(), SYN)).frame(), &pass);
        let unused = SocketAddr::new(path.vip, 81);
        pair.does(&from_client(Packet::tcp(path.client(1), unused, SYN)).frame(), &pass);
        pair.does(&from_client(Packet::udp(path.client(1), path.web())).frame(), &pass);
        // An answer of a target to nobody.
        let target = pair.oracle.world.at(1).address;
        let stray = Packet::tcp(SocketAddr::new(target, 8080), SocketAddr::new(path.vip, 2000), ACK);
        if target.is_ipv4() == path.vip.is_ipv4() {
            pair.does(&from_client(stray).frame(), &pass);
        }
    });
}

#[test]
fn two_vips_with_the_client_s_address_do_not_cross() {
    let paths = nats().into_iter().filter(|path| path.preserve).collect();
    each(paths, |path, pair| {
        let second = if path.vip.is_ipv4() { "192.0.2.11" } else { "2001:db8::11" };
        pair.tell(|world| {
            let service = world.services[0].clone();
            world.service(second, (PORTS.0, PORTS.0), TCP, service);
        });
        let to = |vip: &str, flags| {
            let service = SocketAddr::new(vip.parse().unwrap(), PORTS.0);
            from_client(Packet::tcp(path.client(800), service, flags)).frame()
        };
        let vips = [path.vip.to_string(), second.to_owned()];
        let sent = vips.clone().map(|vip| pair.sends(&to(&vip, SYN)));
        assert_ne!(sent[0][..6], sent[1][..6], "the second one goes to the other target");
        for sent in &sent {
            pair.sends(&answer(sent, SYN | ACK).frame());
        }
        for vip in &vips {
            pair.sends(&to(vip, ACK));
        }
        for sent in &sent {
            pair.sends(&answer(sent, ACK).carrying(3).frame());
        }
        // A third one has nowhere to go.
        let third = if path.vip.is_ipv4() { "192.0.2.12" } else { "2001:db8::12" };
        pair.tell(|world| {
            let service = world.services[0].clone();
            world.service(third, (PORTS.0, PORTS.0), TCP, service);
        });
        pair.does(&to(third, SYN), &lost(Reason::Clash));
    });
}

/// Half-open flows have a place of their own: whatever a flood does there, those that are established stay, and the client that
/// does answer is a flow.
#[test]
fn a_flood_of_syns_evicts_nothing_that_is_established() {
    let mut harness = program();
    for kind in ["nat", "preserve", "l2"] {
        let path = path(true, kind, Way::Plain, true);
        for program in PROGRAMS {
            let mut pair = Pair::new(&mut harness, program, path.world.clone());
            for port in 900..910 {
                pair.sends(&path.tcp(port, SYN).frame());
                pair.sends(&path.tcp(port, ACK).frame());
            }
            let before = pair.harness.flows();
            for number in 0..40_000_u32 {
                let [_, _, high, low] = number.to_be_bytes();
                let client: SocketAddr = (std::net::Ipv4Addr::new(198, 18, high, low), 7).into();
                let done = pair
                    .harness
                    .run_quietly(program, &from_client(Packet::tcp(client, path.web(), SYN)).frame());
                assert_eq!(done, Verdict::Send);
            }
            assert_eq!(pair.harness.flows(), before, "{kind}: the flood made flows");
            for port in 900..910 {
                pair.sends(&path.tcp(port, ACK).carrying(4).frame());
            }
            // The flood may have the port that the oracle would give.
            for flags in [SYN, ACK] {
                let done = pair.harness.run_quietly(program, &path.tcp(950, flags).frame());
                assert_eq!(done, Verdict::Send);
            }
            assert_eq!(pair.harness.flows(), before + 1);
        }
    }
}

#[test]
fn above_the_rate_nothing_is_stored_and_all_is_forwarded() {
    each(paths(), |path, pair| {
        pair.tell(|world| world.new_flows_per_tick = 5);
        for port in 1000..1020 {
            pair.sends(&path.tcp(port, ACK).frame());
        }
        assert!(pair.harness.flows() <= 5, "{} flows", pair.harness.flows());
        for port in 1000..1020 {
            pair.sends(&path.tcp(port, ACK).carrying(2).frame());
        }
        let [_, _, _, _, new, unstored] = pair.harness.service_stats(1);
        // The client's own address: without an entry nobody would know whose the answer is.
        let least = if path.preserve { 0 } else { 15 };
        assert!(unstored >= least && (unstored == 0) == path.preserve, "{new} stored, {unstored} not");
    });
}

#[test]
fn what_is_forwarded_is_counted() {
    each(paths(), |path, pair| {
        let frames: Vec<Vec<u8>> = vec![
            path.tcp(1100, SYN).frame(),
            path.tcp(1100, ACK).frame(),
            path.tcp(1100, ACK).carrying(100).frame(),
        ];
        let mut sent = Vec::new();
        for frame in &frames {
            sent = pair.sends(frame);
        }
        if path.nat {
            pair.sends(&answer(&sent, ACK).carrying(50).frame());
        }
        let [packets_in, bytes_in, packets_out, bytes_out, new, _] = pair.harness.service_stats(1);
        assert_eq!((packets_in, packets_out, new), (3, u64::from(path.nat), 1));
        let ip: usize = frames.iter().map(|frame| frame.len() - 14).sum();
        assert!(bytes_in == ip as u64 || bytes_in == (ip + 3 * 14) as u64, "{bytes_in} bytes of {ip}");
        assert_eq!(bytes_out > 0, path.nat);
    });
}

/// The program's hash is that of `common::hash`: the ring's slot (all 64 bits, modulo a prime) and the port (the upper half) of
/// many tuples agree, which no other hash would.
#[test]
fn the_hash_is_the_same_for_many_tuples() {
    let mut harness = program();
    for ipv4 in [true, false] {
        let mut path = path(ipv4, "nat", Way::Plain, ipv4);
        for host in 3..40 {
            let address =
                if ipv4 { format!("10.0.1.{host}:8080") } else { format!("[2001:db8:1::{host}]:8080") };
            let target = path.world.target(&address, TCP);
            path.world.services[0].members.push((target, 1 + host % 5));
        }
        for key in [[0; 16], *b"another long key", [0xff; 16]] {
            path.world.key = key;
            let mut pair = Pair::new(&mut harness, PROGRAMS[usize::from(ipv4)], path.world.clone());
            for number in 0..300_u16 {
                pair.sends(&path.tcp(number.wrapping_mul(217), SYN).frame());
            }
        }
    }
}
