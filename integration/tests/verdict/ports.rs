//! The source ports that flows of `nat` get towards targets: whose they are, for how long, and what becomes of them where there are none.

use std::net::SocketAddr;

use integration::verdict::compare::Pair;
use integration::verdict::harness::{PROGRAMS, Verdict, program};
use integration::verdict::oracle::reason::Reason;
use integration::verdict::oracle::{Outcome, Tuple};
use integration::verdict::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP};
use integration::verdict::sample::{Path, answer, from_client, nats, path};
use integration::verdict::world::*;

use crate::each;

#[test]
fn a_port_used_again_is_kept_as_long_as_its_new_connection() {
    each(nats(), |path, pair| {
        for end in [FIN | ACK, RST] {
            let sent = pair.sends(&path.tcp(750, SYN).frame());
            pair.sends(&path.tcp(750, ACK).frame());
            pair.sends(&path.tcp(750, end).frame());
            if end != RST {
                pair.sends(&answer(&sent, FIN | ACK).frame());
            }
            let sent = pair.sends(&path.tcp(750, SYN).frame());
            pair.sends(&path.tcp(750, ACK).frame());
            // The old connection's port would have been free by now.
            pair.wait(CLOSING_TICKS + 600);
            pair.sends(&answer(&sent, ACK).carrying(5).frame());
            pair.wait(ESTABLISHED_TICKS + 600);
        }
    });
}

/// Whose the port is that a connection has just begun with: the tick of its last packet, and its state.
fn port_of(pair: &Pair<'_>, tuple: &Tuple) -> (u32, u8) {
    let flow = pair.oracle.flows[tuple];
    let (seen, state, client) = pair.harness.slot(flow.target, flow.port).expect("it has a port");
    assert_eq!(client, tuple.client);
    (seen, state)
}

/// Nothing is left of what the port was before: its state is that of a connection that nobody has answered yet, from now on.
#[test]
fn a_port_used_again_is_half_open() {
    each(nats(), |path, pair| {
        if path.preserve {
            return;
        }
        let tuple = Tuple { protocol: TCP, client: path.client(751), service: path.web() };
        for end in [FIN | ACK, RST, RST | ACK] {
            let sent = pair.sends(&path.tcp(751, SYN).frame());
            pair.sends(&path.tcp(751, ACK).frame());
            pair.sends(&path.tcp(751, end).frame());
            if end == FIN | ACK {
                pair.sends(&answer(&sent, FIN | ACK).frame());
            }
            let before = port_of(pair, &tuple);
            assert_eq!(before.1 & 1, 1, "it was established");
            pair.wait(20);
            assert_eq!(pair.sends(&path.tcp(751, SYN).frame()), sent, "from the same port");
            let (seen, state) = port_of(pair, &tuple);
            let now = pair.oracle.world.now;
            assert!(state == 0 && (now..=now + 1).contains(&seen), "{state:#x}, {seen} of {now}");
            pair.sends(&answer(&sent, SYN | ACK).frame());
            pair.sends(&path.tcp(751, ACK).frame());
            assert_eq!(port_of(pair, &tuple).1, 1);
        }
    });
}

/// A target that has refused a connection, and takes the next one of the same client port before anything else came by.
#[test]
fn a_connection_that_was_refused_at_first_keeps_its_port() {
    each(nats(), |path, pair| {
        let sent = pair.sends(&path.tcp(752, SYN).frame());
        pair.sends(&answer(&sent, RST | ACK).frame());
        let sent = pair.sends(&path.tcp(752, SYN).frame());
        pair.sends(&answer(&sent, SYN | ACK).frame());
        pair.sends(&path.tcp(752, ACK).frame());
        // The port of the one that was refused would have been free by now.
        pair.wait(RESET_TICKS + 600);
        pair.sends(&answer(&sent, ACK).carrying(5).frame());
        pair.sends(&path.tcp(752, ACK).frame());
    });
}

/// A segment that is of no connection any more may be of one that goes on: until that is known, its port is what it is itself.
#[test]
fn a_port_is_in_the_state_of_a_flow_that_begins_with_its_end() {
    each(nats(), |path, pair| {
        if path.preserve {
            return;
        }
        for (port, end) in [(753, ACK), (754, FIN | ACK), (755, RST)] {
            pair.sends(&path.tcp(port, SYN).frame());
            pair.sends(&path.tcp(port, ACK).frame());
            pair.wait(ESTABLISHED_TICKS + 600);
            let done = pair.harness.run(pair.program, &path.tcp(port, end).frame());
            assert_eq!((done.verdict, done.drops), (Verdict::Send, Vec::new()));
            let tuple = Tuple { protocol: TCP, client: path.client(port), service: path.web() };
            let flow = pair.harness.flow(&tuple).expect("it was in the table before");
            let slot = pair.harness.slot(flow.target, flow.port).expect("it has a port");
            assert_eq!((slot.1, slot.2), (flow.state, tuple.client), "{end:#x}");
        }
    });
}

/// The port that a client's last connection had is its own for a while, and the target may still have something to say there.
#[test]
fn an_answer_to_the_port_that_a_flow_had_before_says_nothing_of_the_flow() {
    each(nats(), |path, pair| {
        if path.preserve {
            return;
        }
        pair.tell(|world| world.node = 1);
        let before = pair.sends(&path.tcp(756, SYN).frame());
        pair.sends(&path.tcp(756, ACK).frame());
        pair.sends(&path.tcp(756, FIN | ACK).frame());
        pair.sends(&answer(&before, FIN | ACK).frame());
        pair.tell(|world| world.node = 0);
        assert_ne!(pair.sends(&path.tcp(756, SYN).frame()), before, "from a port of this node's half");
        pair.sends(&path.tcp(756, ACK).frame());
        let tuple = Tuple { protocol: TCP, client: path.client(756), service: path.web() };
        let flow = pair.harness.flow(&tuple);
        assert_eq!(flow.map(|flow| flow.state), Some(1));
        pair.harness.run_quietly(pair.program, &answer(&before, RST | ACK).frame());
        assert_eq!(pair.harness.flow(&tuple), flow);
    });
}

/// Whoever stands still for so long while he fills in a port that his lock counts no more finds somebody else's: what comes to it is not his.
#[test]
fn a_port_that_is_lost_while_it_is_filled_in_is_not_used() {
    let paths = nats().into_iter().filter(|path| !path.preserve && !path.vip.is_ipv4());
    each(paths.collect(), |path, pair| {
        let (segment, datagram) = (path.tcp(757, SYN).frame(), path.udp(757).frame());
        // Each target has the endpoint of its number.
        (1..=4).for_each(|endpoint| pair.harness.take_ports_away(endpoint));
        for (frame, verdict) in [(&segment, Verdict::Send), (&datagram, Verdict::Drop)] {
            let done = pair.harness.run(pair.program, frame);
            assert!(done.verdict == verdict && done.counted(Some(Reason::NoPort)), "{done:?}");
        }
        pair.harness.leave_ports_alone();
        pair.harness.forget_slots();
        pair.sends(&segment);
        pair.sends(&datagram);
    });
}

#[test]
fn each_node_has_its_own_half_of_the_ports() {
    each(nats(), |path, pair| {
        for node in [0, 1] {
            pair.tell(|world| world.node = node);
            for port in 600..620 {
                let port = port + u16::from(node) * 100;
                pair.sends(&path.tcp(port, SYN).frame());
                let tuple = Tuple { protocol: TCP, client: path.client(port), service: path.web() };
                let own = pair.oracle.flows[&tuple].port;
                assert!(path.preserve || (own >= 33_280) == (node == 1), "{own}");
            }
        }
    });
}

/// After a move the other node knows nothing: it finds the connection's slot in the former owner's half, if that was synchronised,
/// and else takes one of its own.
#[test]
fn a_connection_of_the_other_node_s_half_is_found_again() {
    each(nats(), |path, pair| {
        if path.preserve {
            return;
        }
        pair.sends(&path.tcp(650, SYN).frame());
        pair.sends(&path.tcp(650, ACK).frame());
        let tuple = Tuple { protocol: TCP, client: path.client(650), service: path.web() };
        let before = pair.harness.flow(&tuple).unwrap();
        pair.harness.forget_flows();
        pair.tell(|world| world.node = 1);
        // The model forgets nothing; what comes out has to be the same.
        pair.sends(&path.tcp(650, ACK).carrying(9).frame());
        assert_eq!(pair.harness.flow(&tuple), None, "one segment is no flow yet");
        pair.sends(&path.tcp(650, ACK).carrying(9).frame());
        assert_eq!(pair.harness.flow(&tuple).map(|flow| flow.port), Some(before.port));
    });
}

/// The tuples of a client's connection and its question, with the indices of their services.
fn tuples(path: &Path, port: u16) -> [(Tuple, u16); 2] {
    let client = path.client(port);
    [
        (Tuple { protocol: TCP, client, service: path.web() }, 1),
        (Tuple { protocol: UDP, client, service: path.dns() }, 2),
    ]
}

/// What somebody else's flow has come to, and how long it is silent.
#[derive(Clone, Copy)]
struct Left {
    confirmed: bool,
    fins: (bool, bool),
    reset: bool,
    silent: u32,
}

impl Left {
    const BUSY: Self = Self { confirmed: true, fins: (false, false), reset: false, silent: 0 };

    /// Gives `port`, towards the target that a flow would get, to another client.
    fn has(self, pair: &mut Pair<'_>, (tuple, index): (Tuple, u16), port: u16) {
        let target = pair.oracle.by_hash(&tuple, index, 0).unwrap();
        let to = pair.oracle.world.at(target);
        let endpoint = SocketAddr::new(to.address, to.port);
        let seen = pair.oracle.world.now - self.silent;
        let udp = u8::from(tuple.protocol == UDP) << 7;
        let fins = u8::from(self.fins.0) << 1 | u8::from(self.fins.1) << 2;
        let state = u8::from(self.confirmed) | fins | u8::from(self.reset) << 3 | udp;
        // Each port has a client of its own.
        let client = SocketAddr::new(tuple.client.ip(), port);
        pair.harness.occupy(target, port, (seen, index, state), (client, tuple.service.port(), 1));
        let holder = Tuple { client, ..tuple };
        pair.oracle.slots.insert((endpoint, tuple.protocol, port), holder);
        let Self { confirmed, fins, reset, .. } = self;
        let flow =
            integration::verdict::oracle::Flow { seen, target, service: index, port, confirmed, fins, reset };
        pair.oracle.flows.insert(holder, flow);
    }
}

#[test]
fn taken_ports_are_passed_over_and_all_taken_is_told() {
    each(nats(), |path, pair| {
        if path.preserve {
            return;
        }
        for (tuple, index) in tuples(path, 700) {
            let ports: Vec<u16> = pair.oracle.candidates(&tuple, 0).collect();
            let frame =
                if tuple.protocol == TCP { path.tcp(700, SYN).frame() } else { path.udp(700).frame() };
            let (last, others) = ports.split_last().expect("there are candidates");
            others.iter().for_each(|&port| Left::BUSY.has(pair, (tuple, index), port));
            let full = pair.oracle.clone();
            pair.sends(&frame);
            assert_eq!(pair.oracle.flows[&tuple].port, *last);
            // The same client once more, with its own port taken too.
            pair.harness.forget_flows();
            pair.oracle = full;
            Left::BUSY.has(pair, (tuple, index), *last);
            let (expected, _) = pair.step(&frame);
            assert_eq!(expected.reason, Some(Reason::NoPort));
        }
    });
}

#[test]
fn where_all_ports_are_taken_the_one_left_for_the_longest_is_taken_over() {
    let half_open = Left { confirmed: false, silent: 40, ..Left::BUSY };
    let closed = Left { fins: (true, true), silent: 40, ..Left::BUSY };
    let reset = Left { reset: true, silent: 40, ..Left::BUSY };
    let silent = Left { silent: 40, ..Left::BUSY };
    let just_begun = Left { silent: HALF_OPEN_KEPT_TICKS - 1, ..half_open };
    let hardly_begun = Left { silent: HALF_OPEN_KEPT_TICKS + 1, ..half_open };
    let closing = Left { fins: (true, false), silent: 40, ..Left::BUSY };
    let just_closed = Left { silent: TAKE_OVER_TICKS / 2, ..closed };
    // Longer than a port of a connection is kept: the answer to a datagram may come late.
    let asked = Left { silent: DATAGRAM_KEPT_TICKS - 10, ..half_open };
    let asked_long_ago = Left { silent: DATAGRAM_KEPT_TICKS + 1, ..half_open };
    each(nats(), |path, pair| {
        if path.preserve {
            return;
        }
        let [tcp, udp] = tuples(path, 720);
        let none = [
            (tcp, silent),
            (tcp, closing),
            (tcp, just_closed),
            (tcp, just_begun),
            (udp, silent),
            (udp, just_begun),
            (udp, hardly_begun),
            (udp, asked),
        ];
        let some =
            [(tcp, half_open), (tcp, hardly_begun), (tcp, closed), (tcp, reset), (udp, asked_long_ago)];
        let cases = none.map(|case| (case, false)).into_iter().chain(some.map(|case| (case, true)));
        for (((tuple, index), left), taken) in cases {
            pair.harness.forget_flows();
            pair.oracle.flows.clear();
            let ports: Vec<u16> = pair.oracle.candidates(&tuple, 0).collect();
            ports.iter().for_each(|&port| Left::BUSY.has(pair, (tuple, index), port));
            left.has(pair, (tuple, index), ports[4]);
            Left { silent: left.silent + 1, ..left }.has(pair, (tuple, index), ports[9]);
            let frame =
                if tuple.protocol == TCP { path.tcp(720, SYN).frame() } else { path.udp(720).frame() };
            if taken {
                pair.sends(&frame);
                assert_eq!(pair.oracle.flows[&tuple].port, ports[9]);
            } else {
                assert_eq!(pair.step(&frame).0.reason, Some(Reason::NoPort));
            }
        }
    });
}

/// What belongs to no known flow and finds no free port is looked at whole so often; then at the first few ports only, where those are that
/// belong to somebody.
#[test]
fn ports_are_searched_for_at_length_so_often_in_a_tick() {
    each(nats(), |path, pair| {
        if path.preserve {
            return;
        }
        pair.sends(&path.tcp(732, SYN).frame());
        // Another processor, as it were.
        pair.harness.forget_half_open();
        for (flooding, late) in tuples(path, 730).into_iter().zip(tuples(path, 731)) {
            let is_tcp = flooding.0.protocol == TCP;
            let frame = |port| if is_tcp { path.tcp(port, ACK).frame() } else { path.udp(port).frame() };
            for half in [0, 1] {
                // For the one nothing is free, for the other one everything behind the first few.
                for (client, taken) in [(flooding, 32), (late, SHORT_SEARCH)] {
                    let ports: Vec<u16> = pair.oracle.candidates(&client.0, half).take(taken).collect();
                    ports.iter().for_each(|&port| Left::BUSY.has(pair, client, port));
                }
            }
            pair.wait(1);
            let before = pair.harness.short_searches();
            // A segment may be of a connection of the other node's, so both halves are searched.
            let searches = 1 + u32::from(is_tcp);
            for _ in 0..SEARCHES_PER_TICK / searches {
                assert!(!matches!(pair.step(&frame(730)).0.outcome, Outcome::Forward(_)));
            }
            assert_eq!(pair.harness.short_searches(), before);
            assert!(!matches!(pair.step(&frame(731)).0.outcome, Outcome::Forward(_)), "it is not looked for");
            assert_eq!(pair.harness.short_searches(), pair.oracle.short_searches);
            assert!(pair.harness.short_searches() > before);
            pair.sends(&path.tcp(732, ACK).frame());
            pair.wait(1);
            pair.sends(&frame(731));
        }
    });
}

#[test]
fn a_datagram_of_no_known_flow_gets_a_port_of_this_node() {
    each(nats(), |path, pair| {
        if path.preserve {
            return;
        }
        let [_, (tuple, _)] = tuples(path, 653);
        for _ in 0..2 {
            pair.sends(&path.udp(653).frame());
        }
        assert!(pair.oracle.flows[&tuple].port < 33_280);
        pair.harness.forget_flows();
        pair.oracle.flows.clear();
        pair.tell(|world| world.node = 1);
        pair.sends(&path.udp(653).frame());
        assert!(pair.oracle.flows[&tuple].port >= 33_280);
    });
}

/// A flood takes all ports that there are and keeps none of them: who is established has his, and who comes new and answers gets one.
#[test]
fn a_flood_of_syns_keeps_no_port_from_those_who_answer() {
    const PORTS: u32 = 32_256;
    const ROUNDS: u32 = 10;
    let mut harness = program();
    // Also where there is no room for them among the half-open flows, and where they are silent for as long as the flood lasts.
    for (program, stored) in PROGRAMS.into_iter().flat_map(|program| [(program, true), (program, false)]) {
        let mut path = path(true, "nat", Way::Plain, true);
        path.world.services[0].members = vec![(1, 1)];
        if !stored {
            path.world.new_flows_per_tick = 5;
        }
        let mut pair = Pair::new(&mut harness, program, path.world.clone());
        let forwarded = |pair: &Pair<'_>, port: u16, flags: u8| {
            let done = pair.harness.run(program, &path.tcp(port, flags).frame());
            assert_eq!((done.verdict, done.drops), (Verdict::Send, Vec::new()), "{port}");
            done.frame
        };
        let mut known: Vec<(u16, Vec<u8>)> = Vec::new();
        for round in 0..ROUNDS {
            // Twice as many as there are ports, some 55,000 in a second.
            for number in 0..2 * PORTS / ROUNDS {
                let [_, _, high, low] = (round << 13 | number).to_be_bytes();
                let port = 7 + u16::from(round > 7);
                let client: SocketAddr = (std::net::Ipv4Addr::new(198, 18, high, low), port).into();
                let frame = from_client(Packet::tcp(client, path.web(), SYN)).frame();
                pair.harness.run_quietly(program, &frame);
            }
            let port = 900 + u16::try_from(round).unwrap();
            forwarded(&pair, port, SYN);
            known.push((port, forwarded(&pair, port, ACK)));
            if stored || round == ROUNDS - 1 {
                for (port, frame) in &known {
                    assert_eq!(forwarded(&pair, *port, ACK), *frame, "from the same port as ever");
                }
            }
            pair.wait(2);
        }
    }
}
