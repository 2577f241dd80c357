//! What the program tells of its flows for the other node, and what it makes of the other node's.

use std::net::{IpAddr, SocketAddr};

use integration::verdict::compare::Pair;
use integration::verdict::harness::{ADDRESSES, Entry, Verdict};
use integration::verdict::oracle::reason::Reason;
use integration::verdict::oracle::{Expected, Outcome, Tuple};
use integration::verdict::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP};
use integration::verdict::sample::{OWN, PORTS, Path, answer, from_target, nats, paths};
use integration::verdict::world::*;

use crate::each;

const ESTABLISHED: u8 = 1;
const CLIENT_FIN: u8 = 2;
const TARGET_FIN: u8 = 4;
const RESET: u8 = 8;
const DATAGRAMS: u8 = 128;

fn connection(path: &Path, port: u16) -> Tuple {
    Tuple { protocol: TCP, client: path.client(port), service: path.web() }
}

/// The states that the program has told of a flow since the last call; what it told last is what is in the table.
fn states(pair: &mut Pair<'_>, tuple: &Tuple) -> Vec<u8> {
    let told = pair.harness.told(tuple);
    if let Some(last) = told.last() {
        assert_eq!(pair.harness.flow(tuple).as_ref(), Some(last));
        assert!(!last.copied);
    }
    assert!(told.is_sorted_by(|one, next| one.generation < next.generation), "{told:?}");
    told.iter().map(|entry| entry.state).collect()
}

#[test]
fn a_flow_is_told_when_it_is_real_and_when_it_changes() {
    each(paths(), |path, pair| {
        let tuple = connection(path, 900);
        let segment = |flags| path.tcp(900, flags).frame();
        for replicated in [false, true] {
            pair.tell(|world| world.replicated = replicated);
            pair.sends(&segment(SYN));
            assert_eq!(states(pair, &tuple), [0; 0], "anybody can send a SYN");
            pair.sends(&segment(ACK));
            pair.sends(&segment(ACK));
            pair.sends(&segment(FIN | ACK));
            pair.sends(&segment(FIN | ACK));
            pair.sends(&segment(RST));
            // It goes on all the same.
            pair.sends(&segment(ACK));
            let closing = ESTABLISHED | CLIENT_FIN;
            let all = [ESTABLISHED, closing, closing | RESET, closing];
            assert_eq!(states(pair, &tuple), if replicated { &all[..] } else { &[] });
            assert_eq!(pair.harness.flow(&tuple).map(|flow| flow.state), all.last().copied());
            pair.harness.forget_flows();
            pair.oracle.flows.clear();
        }
    });
}

#[test]
fn what_the_target_says_is_told_too() {
    each(nats(), |path, pair| {
        pair.tell(|world| world.replicated = true);
        let tuple = connection(path, 901);
        let sent = pair.sends(&path.tcp(901, SYN).frame());
        pair.sends(&answer(&sent, SYN | ACK).frame());
        assert_eq!(states(pair, &tuple), [0; 0]);
        pair.sends(&path.tcp(901, ACK).frame());
        pair.sends(&answer(&sent, ACK).frame());
        assert_eq!(states(pair, &tuple), [ESTABLISHED]);
        pair.sends(&answer(&sent, FIN | ACK).frame());
        pair.sends(&answer(&sent, FIN | ACK).frame());
        assert_eq!(states(pair, &tuple), [ESTABLISHED | TARGET_FIN]);
        pair.sends(&answer(&sent, RST | ACK).frame());
        pair.sends(&answer(&sent, ACK).frame());
        assert_eq!(states(pair, &tuple), [ESTABLISHED | TARGET_FIN | RESET, ESTABLISHED | TARGET_FIN]);
        let tuple = Tuple { protocol: UDP, client: path.client(901), service: path.dns() };
        pair.sends(&path.udp(901).frame());
        assert_eq!(states(pair, &tuple), [0; 0], "one datagram is no flow");
        pair.sends(&path.udp(901).frame());
        pair.sends(&path.udp(901).frame());
        assert_eq!(states(pair, &tuple), [ESTABLISHED | DATAGRAMS]);
    });
}

/// Targets without a port answer from the port that the client asked for, and from no other.
#[test]
fn a_target_that_is_a_client_here_is_not_taken_for_one_that_answers() {
    each(nats(), |path, pair| {
        pair.tell(|world| {
            world.replicated = true;
            world.targets.iter_mut().for_each(|target| target.port = 0);
        });
        let target = pair.oracle.world.targets[0].address;
        let from = |port: u16, flags| {
            let ends = (SocketAddr::new(target, port), SocketAddr::new(path.vip, 40_000));
            from_target(Packet::tcp(ends.0, ends.1, flags)).frame()
        };
        pair.does(&from(50_123, ACK), &Expected::pass());
        if !path.preserve {
            let lost = Expected::counted(Outcome::Drop, Reason::UnknownFlow);
            pair.does(&from(PORTS.0, SYN | ACK), &lost);
        }
    });
}

#[test]
fn an_answer_for_a_flow_that_the_other_node_has_not_told_of_is_not_reset() {
    each(nats(), |path, pair| {
        pair.tell(|world| {
            world.replicated = true;
            world.node = 1;
        });
        let (connection, datagram) = (path.tcp(904, SYN).frame(), path.udp(904).frame());
        let sent = [pair.sends(&connection), pair.sends(&datagram)];
        // The same packets come to a node that knows of nothing.
        pair.harness.forget_flows();
        pair.harness.forget_slots();
        pair.oracle.flows.clear();
        pair.oracle.slots.clear();
        for (node, flags) in [(0, SYN | ACK), (0, ACK), (0, FIN | ACK), (1, SYN | ACK), (1, ACK)] {
            pair.tell(|world| world.node = node);
            for sent in &sent {
                // Of its own flows a node knows all: what is for none is the stack's, which resets it.
                let expected = if node == 0 && !path.preserve {
                    Expected::counted(Outcome::Drop, Reason::UnknownFlow)
                } else {
                    Expected::pass()
                };
                pair.does(&answer(sent, flags).frame(), &expected);
            }
        }
        if !path.preserve {
            // Where the other node is known, it has the answer: but not once more what it has sent here.
            let other = [2, 0, 0, 0, 0, 0xbb];
            pair.tell(|world| {
                world.node = 0;
                world.other = Some((1, other));
            });
            for sent in &sent {
                let frame = answer(sent, SYN | ACK).frame();
                let done = pair.harness.run(pair.program, &frame);
                assert_eq!((done.verdict, done.drops.as_slice()), (Verdict::Send, &[][..]));
                assert_eq!(done.frame[..12], [other, OWN].concat());
                assert_eq!(done.frame[12..], frame[12..], "all but the frame's addresses is as it came");
                let back = [&frame[..6], &other, &frame[12..]].concat();
                pair.does(&back, &Expected::counted(Outcome::Drop, Reason::UnknownFlow));
            }
        }
        pair.tell(|world| {
            world.node = 0;
            world.replicated = false;
        });
        pair.does(&answer(&sent[0], ACK).frame(), &Expected::pass());
    });
}

/// Between two layouts of the maps a flow may have come over, or not even that, while its port is not written down yet.
#[test]
fn an_answer_for_a_port_that_is_not_written_down_yet_is_not_reset() {
    each(nats(), |path, pair| {
        let sent = [pair.sends(&path.tcp(907, SYN).frame()), pair.sends(&path.udp(907).frame())];
        pair.harness.forget_flows();
        pair.harness.forget_slots();
        pair.oracle.flows.clear();
        pair.oracle.slots.clear();
        for (missing, node) in [(true, 0), (true, 1), (false, 0), (true, 0)] {
            pair.tell(|world| (world.ports_missing, world.node) = (missing, node));
            for (sent, flags) in sent.iter().flat_map(|sent| [SYN | ACK, ACK, FIN | ACK].map(|it| (sent, it)))
            {
                let expected = if missing && !path.preserve {
                    Expected::counted(Outcome::Drop, Reason::UnknownFlow)
                } else {
                    Expected::pass()
                };
                pair.does(&answer(sent, flags).frame(), &expected);
            }
        }
        // What begins meanwhile has its port at once; and to whom else the target speaks is none of this.
        let sent = pair.sends(&path.tcp(908, SYN).frame());
        pair.sends(&answer(&sent, SYN | ACK).frame());
        let target = pair.oracle.world.at(1);
        let from = SocketAddr::new(target.address, target.port);
        pair.does(&from_target(Packet::tcp(from, path.client(40_000), ACK)).frame(), &Expected::pass());
    });
}

/// An answer to a client's own address looks like any packet of the target's: the node that knows the flow is to say what it is.
#[test]
fn an_answer_to_a_client_s_own_address_leaves_by_the_node_that_has_begun_its_flow() {
    let preserving = nats().into_iter().filter(|path| path.preserve).collect();
    each(preserving, |path, pair| {
        pair.tell(|world| {
            world.replicated = true;
            world.others_until = world.now + 100;
        });
        // One of a service's ports, too: nobody asks for a service at a client's address.
        let mut sent = vec![pair.sends(&path.tcp(905, SYN).frame()), pair.sends(&path.udp(905).frame())];
        sent.push(pair.sends(&path.tcp(PORTS.0, SYN).frame()));
        // The answers come to a node that knows of nothing.
        pair.harness.forget_flows();
        pair.oracle.flows.clear();
        let lost = Expected::counted(Outcome::Drop, Reason::UnknownFlow);
        for sent in &sent {
            for flags in [SYN | ACK, ACK, FIN | ACK, RST] {
                pair.does(&answer(sent, flags).frame(), &lost);
            }
        }
        let other = [2, 0, 0, 0, 0, 0xbb];
        pair.tell(|world| world.other = Some((1, other)));
        for sent in &sent {
            let frame = answer(sent, SYN | ACK).frame();
            let handed = pair.sends(&frame);
            assert_eq!(handed[..14], [&other[..], &OWN, &frame[12..14]].concat(), "by the other node");
            let with = Packet { ttl: answer(sent, SYN | ACK).ttl - 1, ..answer(sent, SYN | ACK) };
            assert_eq!(handed[14..], with.frame()[14..], "a hop further, or it might go round for ever");
            pair.does(
                &Packet { ttl: 1, ..answer(sent, SYN | ACK) }.frame(),
                &Expected::counted(Outcome::Drop, Reason::Ttl),
            );
            // That node knows of no flow either: somebody speaks to the target itself.
            let back = [&frame[..6], &other, &frame[12..]].concat();
            pair.does(&back, &Expected::pass());
        }
        // What is the target's own affair: answers to this host's checks, what it begins itself, and other ports.
        let target = pair.oracle.world.at(1);
        let (from, another) =
            (SocketAddr::new(target.address, target.port), SocketAddr::new(target.address, 22));
        let own: Vec<IpAddr> =
            ADDRESSES.into_iter().filter(|it| it.is_ipv4() == path.vip.is_ipv4()).collect();
        for (from, to, flags) in [
            (from, SocketAddr::new(own[0], 40_000), SYN | ACK),
            (from, path.client(905), SYN),
            (another, path.client(905), ACK),
        ] {
            pair.does(&from_target(Packet::tcp(from, to, flags)).frame(), &Expected::pass());
        }
        // Nor is anything else the other node's once that has told of all that it had.
        pair.wait(200);
        for sent in &sent {
            pair.does(&answer(sent, SYN | ACK).frame(), &Expected::pass());
        }
    });
}

/// The nodes may choose different VIPs for such an answer, at different interfaces. Whatever the other node has sent here stays here.
#[test]
fn what_comes_from_the_other_node_by_the_network_of_any_virtual_ip_does_not_go_back() {
    let preserving = nats().into_iter().filter(|path| path.preserve).collect();
    each(preserving, |path, pair| {
        let [one, two, stranger] = [0xbb, 0xcc, 0xdd].map(|last| [2, 0, 0, 0, 0, last]);
        let second = if path.vip.is_ipv4() { "192.0.2.11" } else { "2001:db8::11" };
        for any_port in [false, true] {
            pair.tell(|world| {
                world.replicated = true;
                world.others_until = world.now + 100;
                world.other = Some((1, one));
                world.others_of.insert(second.parse().unwrap(), (1, two));
                if any_port {
                    world.targets.iter_mut().for_each(|target| target.port = 0);
                } else {
                    world.listen(second, (PORTS.0, PORTS.0), TCP, 1);
                }
            });
            let sent = pair.sends(&path.tcp(906, SYN).frame());
            // The answer comes to a node that knows of nothing.
            pair.harness.forget_flows();
            pair.oracle.flows.clear();
            let frame = answer(&sent, SYN | ACK).frame();
            let from = |mac: [u8; 6]| [&frame[..6], &mac, &frame[12..]].concat();
            let handed = pair.sends(&frame);
            assert!([one, two].iter().any(|other| handed[..6] == *other), "{:?}", &handed[..6]);
            for other in [one, two] {
                pair.does(&from(other), &Expected::pass());
            }
            pair.sends(&from(stranger));
        }
    });
}

/// Has a flow of the other node here: what it was there, with a port of the other node's half for `nat`.
fn copy(path: &Path, pair: &mut Pair<'_>, tuple: &Tuple) -> (Vec<u8>, Entry) {
    pair.tell(|world| {
        world.replicated = true;
        world.node = 1;
    });
    pair.sends(&path.tcp(tuple.client.port(), SYN).frame());
    let there = pair.sends(&path.tcp(tuple.client.port(), ACK).frame());
    assert_eq!(states(pair, tuple), [ESTABLISHED]);
    pair.tell(|world| world.node = 0);
    let copied = Entry { copied: true, ..pair.harness.flow(tuple).expect("it was just used") };
    pair.harness.store(tuple, &copied);
    (there, copied)
}

#[test]
fn a_flow_of_the_other_node_goes_on_here_and_becomes_this_one_s() {
    each(paths(), |path, pair| {
        let tuple = connection(path, 902);
        let (there, copied) = copy(path, pair, &tuple);
        let frame = path.tcp(902, ACK).frame();
        assert_eq!(pair.sends(&frame), there, "to the same target, from the same port");
        // Nobody is told of a packet that is not noted.
        assert_eq!(states(pair, &tuple), [0; 0]);
        assert_eq!(pair.harness.flow(&tuple), Some(copied));
        pair.wait(ESTABLISHED_TICKS / 16);
        assert_eq!(pair.sends(&frame), there);
        assert_eq!(states(pair, &tuple), [ESTABLISHED]);
        pair.wait(ESTABLISHED_TICKS / 16);
        pair.sends(&frame);
        assert_eq!(states(pair, &tuple), [0; 0], "it is known by now");
    });
}

#[test]
fn the_end_of_a_flow_of_the_other_node_is_told_at_once() {
    for (flags, state) in [(FIN | ACK, CLIENT_FIN), (RST, RESET)] {
        each(paths(), |path, pair| {
            let tuple = connection(path, 903);
            copy(path, pair, &tuple);
            pair.sends(&path.tcp(903, flags).frame());
            assert_eq!(states(pair, &tuple), [ESTABLISHED | state]);
        });
    }
}
