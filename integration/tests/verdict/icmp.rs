//! ICMP: errors go to whom they concern, echo is the stack's.

use std::net::{IpAddr, SocketAddr};

use integration::verdict::compare::Pair;
use integration::verdict::harness::CLIENTS;
use integration::verdict::oracle::reason::Reason;
use integration::verdict::oracle::{Expected, Outcome};
use integration::verdict::packet::{ACK, Packet, Piece, SYN, Transport, ethernet, icmp};
use integration::verdict::parse::View;
use integration::verdict::sample::{OWN, Path, nats, paths};

use crate::each;

/// Kind and code of errors, and the second word.
const ERRORS4: [((u8, u8), u32); 8] = [
    ((3, 0), 0),
    ((3, 1), 0),
    ((3, 3), 0),
    ((3, 4), 1280),
    ((3, 13), 0),
    ((11, 0), 0),
    ((11, 1), 0),
    ((12, 0), 5 << 24),
];
const ERRORS6: [((u8, u8), u32); 6] =
    [((1, 0), 0), ((1, 4), 0), ((2, 0), 1280), ((3, 0), 0), ((3, 1), 0), ((4, 1), 6)];

fn errors(path: &Path) -> Vec<((u8, u8), u32)> {
    if path.vip.is_ipv4() { ERRORS4.to_vec() } else { ERRORS6.to_vec() }
}

fn router(path: &Path) -> IpAddr {
    if path.vip.is_ipv4() { "198.51.100.77".parse().unwrap() } else { "2001:db8:77::1".parse().unwrap() }
}

fn frame(ip: &[u8]) -> Vec<u8> {
    let ethertype = if ip[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    ethernet((OWN, CLIENTS), &[], ethertype, ip)
}

/// The lengths of a quote to try: the least that is allowed, up to the checksum, odd ones, and all.
fn quotes(whole: &[u8]) -> Vec<Vec<u8>> {
    let header = match (whole[0] >> 4, whole[6]) {
        (4, _) => 20,
        // Behind that of a fragment.
        (_, 44) => 48,
        _ => 40,
    };
    let lengths = [header + 8, header + 12, header + 17, header + 18, header + 20, header + 25, whole.len()];
    lengths
        .into_iter()
        .filter(|length| *length <= whole.len())
        .map(|length| whole[..length].to_vec())
        .collect()
}

/// Flows of TCP and UDP, and the IP packets that went to the target and would go to the client: whole ones, and a datagram's first piece.
fn flows(path: &Path, pair: &mut Pair<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    pair.sends(&path.tcp(40_000, SYN).frame());
    pair.sends(&path.tcp(40_000, ACK).frame());
    let data = pair.sends(&path.tcp(40_000, ACK).carrying(40).frame());
    let udp = pair.sends(&path.udp(40_000).carrying(40).frame());
    pair.sends(&path.udp(40_000).frame());
    let bare = Packet { transport: Transport::Udp { checksum: false }, ..path.udp(40_000) };
    let piece = Some(Piece { identification: 91, offset: 0, more: true });
    let first = Packet { piece, ..path.udp(40_000) };
    let sent = pair.sends(&first.clone().carrying(40).frame());
    let to = |service: SocketAddr, packet: &Packet| {
        Packet { source: service, destination: path.client(40_000), ..packet.clone() }.carrying(40).ip()
    };
    vec![
        (data[14..].to_vec(), to(path.web(), &path.tcp(40_000, ACK))),
        (udp[14..].to_vec(), to(path.dns(), &path.udp(40_000))),
        (udp[14..].to_vec(), to(path.dns(), &bare)),
        (sent[14..].to_vec(), to(path.dns(), &first)),
    ]
}

#[test]
fn errors_from_clients_and_on_the_way_to_them_go_to_the_target() {
    each(paths(), |path, pair| {
        for (_, answered) in flows(path, pair) {
            for (kind, word) in errors(path) {
                for quote in quotes(&answered) {
                    for from in [path.client, router(path)] {
                        pair.sends(&frame(&icmp(from, path.vip, kind, word, &quote)));
                    }
                }
            }
        }
    });
}

#[test]
fn errors_from_targets_and_on_the_way_to_them_go_to_the_client() {
    each(nats(), |path, pair| {
        for (sent, _) in flows(path, pair) {
            let to = if path.preserve { path.client } else { path.vip };
            let target = View::of(&frame(&sent)).unwrap().destination;
            for (kind, word) in errors(path) {
                for quote in quotes(&sent) {
                    for from in [target, router(path)] {
                        pair.sends(&frame(&icmp(from, to, kind, word, &quote)));
                    }
                }
            }
        }
    });
}

#[test]
fn a_datagram_without_a_checksum_is_quoted_without_one() {
    each(nats(), |path, pair| {
        let bare = Packet { transport: Transport::Udp { checksum: false }, ..path.udp(41_000) };
        let sent = pair.sends(&bare.frame());
        pair.sends(&bare.frame());
        let to = if path.preserve { path.client } else { path.vip };
        let kind = errors(path)[1];
        pair.sends(&frame(&icmp(router(path), to, kind.0, kind.1, &sent[14..])));
    });
}

#[test]
fn echo_is_answered_by_the_stack() {
    each(paths(), |path, pair| {
        for kind in if path.vip.is_ipv4() { [8, 0] } else { [128, 129] } {
            let ping = icmp(path.client, path.vip, (kind, 0), 0x1234_0001, b"are you there");
            pair.does(&frame(&ping), &Expected::pass());
        }
    });
}

#[test]
fn neighbours_are_discovered_by_the_stack() {
    each(paths(), |path, pair| {
        if !path.vip.is_ipv4() {
            for kind in 133..=137 {
                let message = icmp(path.client, path.vip, (kind, 0), 0, &[0; 16]);
                pair.does(&frame(&message), &Expected::pass());
            }
        }
    });
}

#[test]
fn forged_errors_go_nowhere() {
    each(paths(), |path, pair| {
        flows(path, pair);
        let lost = Expected::counted(Outcome::Pass, Reason::IcmpInner);
        let ((kind, word), client) = (errors(path)[0], path.client(40_000));
        let packet = |source, destination| Packet::tcp(source, destination, ACK).carrying(20);
        let other = SocketAddr::new(router(path), 40_000);
        let forged = [
            // Of a connection that does not exist.
            packet(path.web(), path.client(40_001)),
            packet(path.web(), other),
            // Of another VIP's.
            packet(SocketAddr::new(router(path), 80), client),
            // The other way round.
            packet(client, path.web()),
            // To the target from a port that nobody has.
            packet(SocketAddr::new(path.vip, 1), SocketAddr::new(pair.oracle.world.at(1).address, 8080)),
        ];
        for packet in forged {
            let frame = frame(&icmp(router(path), path.vip, kind, word, &packet.ip()));
            if path.nat {
                pair.does(&frame, &lost);
            } else {
                // What belongs to no flow goes where the hash says, if it can be the VIP's at all.
                pair.step(&frame);
            }
        }
        // Inner packets that are none.
        let real = packet(path.web(), client).ip();
        for length in [0, 1, 8, 19, 20, 21, 23, 27, 39, 40, 43, 47] {
            if length < real.len() {
                pair.step(&frame(&icmp(router(path), path.vip, kind, word, &real[..length])));
            }
        }
    });
}

/// Behind a later piece's header there are no ports, whatever is there looks like. And of IPv6's headers only that of a piece is looked behind.
#[test]
fn errors_about_what_shows_no_ports_go_nowhere() {
    each(paths(), |path, pair| {
        flows(path, pair);
        let lost = Expected::counted(Outcome::Pass, Reason::IcmpInner);
        let (kind, word) = errors(path)[0];
        let answer = Packet { source: path.dns(), destination: path.client(40_000), ..path.udp(40_000) };
        let piece = |offset, more| Some(Piece { identification: 91, offset, more });
        // With what the first piece begins with: its payload is the whole segment.
        let segment = answer.clone().carrying(40).segment();
        let later =
            |offset, more| Packet { piece: piece(offset, more), payload: segment.clone(), ..answer.clone() };
        let mut quotes = vec![later(8, true), later(48, false), later(0x7ff8, true)];
        if !path.vip.is_ipv4() {
            let options = (60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
            let with = |extensions, piece| Packet { extensions, piece, ..answer.clone() };
            quotes.push(with(vec![options.clone()], None));
            quotes.push(with(vec![options], piece(0, true)));
            // A fragment's header twice.
            quotes.push(with(vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 91])], piece(0, true)));
        }
        for quote in quotes {
            pair.does(&frame(&icmp(router(path), path.vip, kind, word, &quote.ip())), &lost);
        }
        // One that says so of a packet that is whole is a first piece, too (RFC 6946).
        if !path.vip.is_ipv4() {
            let whole = Packet { piece: piece(0, false), ..answer };
            pair.sends(&frame(&icmp(router(path), path.vip, kind, word, &whole.ip())));
        }
    });
}

#[test]
fn an_error_about_an_error_goes_nowhere() {
    each(paths(), |path, pair| {
        let (kind, word) = errors(path)[0];
        let inner = icmp(path.vip, path.client, kind, word, &[0x45; 28]);
        let lost = Expected::counted(Outcome::Pass, Reason::IcmpInner);
        pair.does(&frame(&icmp(router(path), path.vip, kind, word, &inner)), &lost);
    });
}

#[test]
fn errors_about_answers_do_not_pass_through_a_backup() {
    each(nats(), |path, pair| {
        let (_, answered) = flows(path, pair).remove(0);
        pair.tell(|world| world.roles[1] = integration::verdict::world::Role::Backup);
        let (kind, word) = errors(path)[0];
        pair.step(&frame(&icmp(router(path), path.vip, kind, word, &answered)));
    });
}
