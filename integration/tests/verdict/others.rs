//! Packets of flows that the other node has begun and had no time to tell of: they go where its ring has them, and nothing else does.

use integration::verdict::compare::Pair;
use integration::verdict::harness::Entry;
use integration::verdict::oracle::Tuple;
use integration::verdict::packet::{ACK, FIN, RST, SYN, TCP, UDP};
use integration::verdict::sample::{Path, answer, nats, paths};
use integration::verdict::world::*;

use crate::each;

/// The other node's targets are the second ones; for so long.
fn others(world: &mut World, until: u32) {
    world.services[0].other = Some((vec![(2, 1)], until));
    world.services[1].other = Some((vec![(4, 1)], until));
}

/// Ports of clients that this node would give the first target, of either protocol.
fn of_first(pair: &Pair<'_>, path: &Path, count: usize) -> Vec<u16> {
    let tuple = |protocol, port| {
        let service = if protocol == TCP { path.web() } else { path.dns() };
        Tuple { protocol, client: path.client(port), service }
    };
    let is_first = |port: &u16| {
        pair.oracle.by_hash(&tuple(TCP, *port), 1, 0) == Some(1)
            && pair.oracle.by_hash(&tuple(UDP, *port), 2, 0) == Some(3)
    };
    (2000..).filter(is_first).take(count).collect()
}

fn connection(path: &Path, port: u16) -> Tuple {
    Tuple { protocol: TCP, client: path.client(port), service: path.web() }
}

fn target(pair: &Pair<'_>, tuple: &Tuple) -> Option<u16> {
    pair.oracle.flows.get(tuple).map(|flow| flow.target)
}

#[test]
fn what_opens_no_connection_goes_where_the_other_node_has_it() {
    each(paths(), |path, pair| {
        for (until, of_other) in [(u32::MAX / 4, true), (1, false)] {
            pair.tell(|world| others(world, until));
            for flags in [ACK, ACK | FIN, RST] {
                for port in of_first(pair, path, 8) {
                    let tuple = connection(path, port);
                    pair.sends(&path.tcp(port, flags).carrying(5).frame());
                    assert_eq!(target(pair, &tuple), Some(if of_other { 2 } else { 1 }));
                    let datagrams = Tuple { protocol: UDP, service: path.dns(), ..tuple };
                    pair.sends(&path.udp(port).frame());
                    assert_eq!(target(pair, &datagrams), Some(if of_other { 4 } else { 3 }));
                }
                pair.harness.forget_flows();
                pair.harness.forget_slots();
                pair.oracle = Pair::new(pair.harness, pair.program, pair.oracle.world.clone()).oracle;
            }
        }
    });
}

#[test]
fn a_connection_that_goes_on_has_the_other_nodes_port_and_is_a_flow_of_this_one() {
    each(nats(), |path, pair| {
        pair.tell(|world| others(world, u32::MAX / 4));
        for port in of_first(pair, path, 8) {
            let tuple = connection(path, port);
            let sent = pair.sends(&path.tcp(port, ACK).carrying(5).frame());
            let first = pair.oracle.candidates(&tuple, 1).next();
            let flow = pair.oracle.flows[&tuple];
            assert_eq!(flow.port, if path.preserve { 0 } else { first.unwrap_or_default() });
            pair.sends(&answer(&sent, ACK).frame());
            pair.sends(&path.tcp(port, ACK).carrying(5).frame());
            assert_eq!(pair.harness.flow(&tuple).map(|flow| (flow.target, flow.port)), Some((2, flow.port)));
            // And stays one when nothing is the other node's any more.
            pair.tell(|world| others(world, 1));
            pair.sends(&path.tcp(port, ACK).carrying(5).frame());
            assert_eq!(target(pair, &tuple), Some(2));
            pair.tell(|world| others(world, u32::MAX / 4));
        }
    });
}

#[test]
fn a_connection_that_begins_here_is_this_nodes() {
    each(paths(), |path, pair| {
        pair.tell(|world| others(world, u32::MAX / 4));
        for port in of_first(pair, path, 8) {
            let tuple = connection(path, port);
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.tcp(port, SYN).frame());
            // Another processor, as it were: all that is known of half-open flows there is what all of them share.
            pair.harness.forget_half_open();
            pair.sends(&path.tcp(port, ACK).frame());
            pair.sends(&path.tcp(port, ACK).carrying(5).frame());
            let known = pair.harness.flow(&tuple).map(|flow| flow.target);
            // The port that it has says whose it is; that it is a flow, the second packet that this processor sees.
            assert_eq!(known, Some(1), "{port}");
            assert_eq!(target(pair, &tuple), Some(1));
        }
    });
}

#[test]
fn a_target_that_takes_none_gets_none() {
    for (health, connections, datagrams) in
        [(Health::Draining, 2, 3), (Health::Unhealthy, 1, 3), (Health::Absent, 1, 3)]
    {
        each(paths(), |path, pair| {
            let ports = of_first(pair, path, 8);
            pair.tell(|world| {
                others(world, u32::MAX / 4);
                world.change(2).health = health;
                world.change(4).health = health;
                world.services[0].members = vec![(1, 1)];
                world.services[1].members = vec![(3, 1)];
            });
            for port in ports {
                let tuple = connection(path, port);
                pair.sends(&path.tcp(port, ACK).carrying(5).frame());
                assert_eq!(target(pair, &tuple), Some(connections), "{health:?}");
                let tuple = Tuple { protocol: UDP, service: path.dns(), ..tuple };
                pair.sends(&path.udp(port).frame());
                assert_eq!(target(pair, &tuple), Some(datagrams), "{health:?}");
            }
        });
    }
}

/// A flow that is known, and is over or has lost its target, is not looked for at the other node.
#[test]
fn a_flow_that_moves_moves_by_this_nodes_ring() {
    each(paths(), |path, pair| {
        let ports = of_first(pair, path, 4);
        for &port in &ports {
            let tuple = connection(path, port);
            let now = pair.oracle.world.now;
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.tcp(port, ACK).frame());
            let Entry { target, seen, .. } = pair.harness.flow(&tuple).expect("it is a flow");
            assert_eq!((target, seen), (1, now));
        }
        // A third one, to which they move; the other node would have them at the second.
        let third = |world: &mut World| {
            let first = *world.at(1);
            let address = match first.address {
                std::net::IpAddr::V4(_) => "10.0.1.9".parse(),
                std::net::IpAddr::V6(_) => "2001:db8:1::9".parse(),
            };
            world.targets.push(Target {
                address: address.expect("an address"),
                mac: [2, 0, 0, 0, 1, 9],
                ..first
            });
        };
        pair.tell(|world| {
            third(world);
            others(world, u32::MAX / 4);
            world.change(1).health = Health::Unhealthy;
            world.services[0].members = vec![(5, 1)];
        });
        for port in ports {
            pair.sends(&path.tcp(port, ACK).carrying(5).frame());
            assert_eq!(target(pair, &connection(path, port)), Some(5));
        }
    });
}
