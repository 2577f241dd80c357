//! ICMP errors: they belong to the flow of the packet that they quote.

use std::net::{IpAddr, SocketAddr};

use super::oracle::reason::Reason;
use super::oracle::{Expected, Flow, Oracle, Outcome, Tuple};
use super::packet::{TCP, UDP};
use super::parse::View;
use super::rewrite;
use super::sums;
use super::world::Way;

/// What becomes of an ICMP message.
pub(super) fn step(oracle: &Oracle, frame: &[u8], view: &View) -> Expected {
    let kind = frame.get(view.transport).copied().filter(|_| view.transport + 8 <= view.end);
    let is_error =
        if view.is_ipv4() { matches!(kind, Some(3 | 11 | 12)) } else { matches!(kind, Some(1..=4)) };
    let served = oracle.world.vips.iter().any(|vip| vip.0 == view.destination);
    if !is_error {
        return Expected::pass();
    }
    let lost = if served { Expected::counted(Outcome::Pass, Reason::IcmpInner) } else { Expected::pass() };
    let quote = View {
        end: view.end,
        ..match quoted(&frame[..view.end], view) {
            Some(quote) => quote,
            None => return lost,
        }
    };
    // RFC 792 and RFC 4443: at least 8 bytes behind the header.
    let segment = frame.get(quote.transport..view.end).filter(|segment| segment.len() >= 8);
    let Some((from, to)) = segment.and_then(|segment| quote.ports_of(segment)) else { return lost };
    // The quoted packet went from the VIP to the client ...
    let answer = Tuple { protocol: quote.protocol, client: to, service: from };
    if let Some(flow) = oracle.flow(&answer).filter(|_| view.destination == from.ip()) {
        return to_target(oracle, frame, view, &quote, &answer, &flow);
    }
    if let Some(flow) = hashed(oracle, &answer).filter(|_| view.destination == from.ip()) {
        return to_target(oracle, frame, view, &quote, &answer, &flow);
    }
    // ... or from this node to the target.
    let request = Tuple { protocol: quote.protocol, client: to, service: from };
    match oracle.returning(&request).filter(|_| view.destination == from.ip()) {
        Some(owner) => to_client(oracle, frame, view, &quote, &owner),
        None => lost,
    }
}

fn quoted(frame: &[u8], view: &View) -> Option<View> {
    let at = view.transport + 8;
    let quote = if view.is_ipv4() { View::ipv4(frame, at, true) } else { View::ipv6(frame, at, true) };
    let begins = |quote: &View| quote.piece.is_none_or(|piece| piece.first);
    // Of IPv6's other headers those of fragments alone are looked behind: they are what packets have that are too big for somebody.
    let header = match frame.get(at + 6) {
        _ if view.is_ipv4() => 20,
        Some(44) => 48,
        _ => 40,
    };
    let plain = |quote: &View| quote.transport == at + header;
    let carries = |quote: &View| quote.protocol == TCP || quote.protocol == UDP;
    quote.filter(|quote| carries(quote) && begins(quote) && plain(quote))
}

/// Where the target gets the packets as they are, the hash knows which one it is; of a flow of the other node, that node's.
fn hashed(oracle: &Oracle, tuple: &Tuple) -> Option<Flow> {
    let service = oracle.world.listener(tuple.service, tuple.protocol)?;
    let target = oracle.by_other(tuple, service, 0).or_else(|| oracle.by_hash(tuple, service, 0));
    let target = target.filter(|_| !oracle.world.of(service).nat)?;
    let seen = oracle.world.now;
    Some(Flow { seen, target, service, port: 0, confirmed: true, fins: (false, false), reset: false })
}

fn to_target(
    oracle: &Oracle,
    frame: &[u8],
    view: &View,
    quote: &View,
    tuple: &Tuple,
    flow: &Flow,
) -> Expected {
    if !oracle.may_forward(flow.service, true) {
        return Expected::counted(Outcome::Drop, Reason::NotActive);
    }
    if view.ttl <= 1 {
        return Expected::counted(Outcome::Drop, Reason::Ttl);
    }
    let target = oracle.world.at(flow.target);
    let macs = (target.mac, oracle.links.own);
    if target.way != Way::Plain {
        return Expected::forward(rewrite::tunnelled(frame, view, target, macs));
    }
    let mut out = frame.to_vec();
    rewrite::hop(&mut out, view, macs);
    if !oracle.world.of(flow.service).nat {
        return Expected::forward(vec![out]);
    }
    let near = if flow.port == 0 { tuple.client } else { SocketAddr::new(tuple.service.ip(), flow.port) };
    let far = oracle.towards(tuple, flow.target);
    let mut frames = Vec::new();
    for outer_source in [view.source, near.ip()] {
        let mut out = out.clone();
        translate(&mut out, view, quote, (outer_source, far.ip()), (far, near));
        frames.push(out);
    }
    Expected::forward(frames)
}

fn to_client(oracle: &Oracle, frame: &[u8], view: &View, quote: &View, owner: &Tuple) -> Expected {
    let Some(flow) = oracle.flow(owner) else { return Expected::pass() };
    if !oracle.may_forward(flow.service, true) {
        return Expected::counted(Outcome::Drop, Reason::NotActive);
    }
    if view.ttl <= 1 {
        return Expected::counted(Outcome::Drop, Reason::Ttl);
    }
    let mut out = frame.to_vec();
    rewrite::hop(&mut out, view, (oracle.links.clients, oracle.links.own));
    let outer = (owner.service.ip(), owner.client.ip());
    translate(&mut out, view, quote, outer, (owner.client, owner.service));
    Expected::forward(vec![out])
}

/// Translates the outer addresses and the quoted packet, and all checksums after them.
fn translate(
    frame: &mut [u8],
    view: &View,
    quote: &View,
    outer: (IpAddr, IpAddr),
    inner: (SocketAddr, SocketAddr),
) {
    let before = frame.to_vec();
    rewrite::put_addresses(frame, quote, inner.0.ip(), inner.1.ip());
    rewrite::put_ports(frame, quote.transport, inner.0.port(), inner.1.port());
    if quote.is_ipv4() {
        let header = quote.ip..quote.ip + 20;
        rewrite::carry(frame, &before, quote.ip + 10, &|bytes| sums::sum(&[&bytes[header.clone()]]));
    }
    let field = quote.transport + if quote.protocol == TCP { 16 } else { 6 };
    if field + 2 <= view.end && !(quote.protocol == UDP && before[field..field + 2] == [0, 0]) {
        let (at, length) = if quote.is_ipv4() { (quote.ip + 12, 8) } else { (quote.ip + 8, 32) };
        let whole = |bytes: &[u8]| sums::sum(&[&bytes[at..at + length], &bytes[quote.transport..view.end]]);
        rewrite::carry(frame, &before, field, &whole);
        if quote.protocol == UDP && frame[field..field + 2] == [0, 0] {
            frame[field..field + 2].copy_from_slice(&[0xff, 0xff]);
        }
    }
    rewrite::put_addresses(frame, view, outer.0, outer.1);
    if view.is_ipv4() {
        let header = view.ip..view.ip + 20;
        rewrite::carry(frame, &before, view.ip + 10, &|bytes| sums::sum(&[&bytes[header.clone()]]));
    }
    let whole = |bytes: &[u8]| {
        let addresses = if view.is_ipv4() { 0..0 } else { view.ip + 8..view.ip + 40 };
        sums::sum(&[&bytes[addresses], &bytes[view.transport..view.end]])
    };
    rewrite::carry(frame, &before, view.transport + 2, &whole);
}
