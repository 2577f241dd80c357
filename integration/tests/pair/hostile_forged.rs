//! Packets that are well made, but not by whom or when they claim: recorded ones, ones from outside the link, and claims
//! of the virtual IPs by a stranger.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use crate::pair_support::flood::{Packet, captured, send_once};
use crate::pair_support::{
    LIMIT, Watch, drops, every, last_event, router, served, serving, status, transitions, vips, wait_event,
};
use integration::lab::Result;
use integration::lab::addresses::mac_text;
use integration::lab::capture::Capture;
use integration::lab::clock::{now, wait_until};
use integration::lab::probe::send_frames;
use serde_json::json;
use vrrpd_core::neighbor::{gratuitous_arp, unsolicited_na};

const IPV4_HEAD: usize = 20;
const UDP_HEAD: usize = 8;

#[test]
fn a_strangers_claim_of_a_virtual_ip_is_reported_and_answered() -> Result<()> {
    let lab = serving("claims", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    let stranger = lab.watch();
    let before = lab.nodes().map(transitions);
    let seen = last_event(lab.a())?;
    let frames = vips().map(|vip| match vip {
        IpAddr::V4(vip) => gratuitous_arp(stranger.mac(), vip),
        IpAddr::V6(vip) => unsolicited_na(stranger.mac(), vip, false),
    });
    let announced = |family| router(lab.a(), family)["announcements"].as_u64().unwrap_or(0);
    let announced_before = ["ipv4", "ipv6"].map(announced);
    send_frames(stranger, &frames)?;
    for ((family, vip), count) in ["ipv4", "ipv6"].into_iter().zip(vips()).zip(announced_before) {
        let conflict = json!({
            "event": "conflict", "instance": "web", "family": family, "address": vip, "mac": mac_text(stranger.mac())
        });
        wait_event(lab.a(), seen, &conflict)?;
        wait_until(&format!("{family} to be announced again"), LIMIT, || announced(family) > count)?;
    }
    served(&lab, &vips())?;
    assert_eq!(lab.nodes().map(transitions), before, "whoever claims an address does not get it");
    // The stranger's claim is on the wire too; what counts is who had the last word.
    watch.end()?.assert_announced_last_by(lab.a().mac());
    lab.finish()
}

#[test]
fn advertisements_that_crossed_a_router_are_dropped() -> Result<()> {
    const IPV4_TTL: usize = 8;
    const IPV6_HOP_LIMIT: usize = 7;
    let lab = serving("hop-limit", every("100ms"))?;
    let before = lab.nodes().map(transitions);
    let capture = Capture::on_switch(&lab, "lan", "proto 112 or ip6 proto 112")?;
    let sent = |family| router(lab.a(), family)["adverts_sent"].as_u64().unwrap_or(0);
    let start = ["ipv4", "ipv6"].map(sent);
    wait_until("a few advertisements", LIMIT, || {
        ["ipv4", "ipv6"].into_iter().zip(start).all(|(family, start)| sent(family) > start + 2)
    })?;
    let far: Vec<Packet> = captured(&capture.stop()?)
        .into_iter()
        .map(|mut packet| {
            // The kernel makes a new checksum for the header.
            let at = if packet.to.is_ipv4() { IPV4_TTL } else { IPV6_HOP_LIMIT };
            assert_eq!(packet.bytes[at], 255, "as it was sent");
            packet.bytes[at] = 64;
            packet
        })
        .collect();
    assert!(far.iter().any(|packet| packet.to.is_ipv4()) && far.iter().any(|packet| packet.to.is_ipv6()));
    send_once(lab.client(), &far)?;
    for family in ["ipv4", "ipv6"] {
        wait_until(family, LIMIT, || drops(lab.b(), family, "hop_limit") > 0)?;
    }
    assert_eq!(lab.nodes().map(transitions), before);
    lab.finish()
}

#[test]
fn recorded_datagrams_of_the_peer_link_are_dropped() -> Result<()> {
    let lab = serving("peer-replay", every("100ms"))?;
    let before = lab.nodes().map(transitions);
    let capture = Capture::on_switch(&lab, "peers", "udp dst port 7112")?;
    let start = now();
    wait_until("a few heartbeats", LIMIT, || now() - start > Duration::from_millis(500))?;
    let recorded = captured(&capture.stop()?);
    let to_a: Vec<&Packet> =
        recorded.iter().filter(|packet| packet.to == lab.a().peer_address().ip()).collect();
    assert!(to_a.len() > 2, "{} datagrams", to_a.len());
    lab.b().namespace().inside(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a port is free");
        for packet in &to_a {
            let datagram = &packet.bytes[IPV4_HEAD + UDP_HEAD..];
            socket.send_to(datagram, lab.a().peer_address()).expect("it can be sent");
        }
    })?;
    let replayed = || {
        let status = status(lab.a()).unwrap_or_default();
        let drops = status["peer_drops"].as_array().cloned().unwrap_or_default();
        drops.iter().any(|drop| drop["reason"] == "replayed" && drop["count"].as_u64() >= Some(2))
    };
    wait_until("the replays to be counted", LIMIT, replayed)?;
    assert_eq!(lab.nodes().map(transitions), before);
    lab.finish()
}
