//! The oracle itself, against packets made by hand.

use super::*;
use crate::verdict::compare::hex;
use crate::verdict::packet::Packet;
use crate::verdict::sample;

const LINKS: Links = Links { own: [2, 0, 0, 0, 0, 1], clients: [2, 0, 0, 0, 0, 0xaa], clients_mtu: 1500 };

fn one_target(kind: &str, way: Way) -> (sample::Path, Oracle) {
    let mut path = sample::path(true, kind, way, true);
    path.world.services[0].members = vec![(1, 1)];
    let oracle = Oracle::new(path.world.clone(), LINKS);
    (path, oracle)
}

fn forwarded(expected: &Expected) -> &[u8] {
    let Outcome::Forward(frames) = &expected.outcome else { panic!("{expected:?}") };
    frames.last().unwrap()
}

/// 203.0.113.5:10 to 192.0.2.10:80: what leaves has one hop less, and the target's address and port.
#[test]
fn preserving_translation_by_hand() {
    let (path, mut oracle) = one_target("preserve", Way::Plain);
    let frame = path.tcp(10, SYN).frame();
    // 4500+0028+1234+4000+4006+cb00+7105+c000+020a = 2d571; 2+d571 = d573; inverted 2a8c.
    assert_eq!(&hex(&frame)[28..68], "450000281234400040062a8ccb007105c000020a");
    let out = oracle.step(&frame);
    // 4500+0028+1234+4000+3f06+cb00+7105+0a00+0101 = 21d68; 2+1d68 = 1d6a; inverted e295.
    assert_eq!(&hex(forwarded(&out))[28..68], "45000028123440003f06e295cb0071050a000101");
    assert_eq!(&hex(forwarded(&out))[..28], "0200000001010200000000010800");
    assert_eq!(&hex(forwarded(&out))[68..76], "000a1f90");
}

/// Outer: from 10.0.1.254 to 10.0.1.1, protocol 4, 60 bytes.
#[test]
fn a_tunnel_by_hand() {
    let (path, mut oracle) = one_target("ipip", Way::Ipip);
    let frame = path.tcp(10, ACK).frame();
    let out = oracle.step(&frame);
    // 4500+003c+0000+4000+4004+0a00+01fe+0a00+0101 = dc3f less nothing carried: dc3f; inverted 23c0.
    assert_eq!(&hex(forwarded(&out))[28..68], "4500003c00004000400423c00a0001fe0a000101");
    // Inside, one hop less: 4500+0028+1234+4000+3f06+cb00+7105+c000+020a = 2d471; 2+d471 = d473; inverted 2b8c.
    assert_eq!(&hex(forwarded(&out))[68..108], "45000028123440003f062b8ccb007105c000020a");
    assert_eq!(forwarded(&out)[54..], frame[34..]);
}

#[test]
fn answers_find_the_way_back() {
    let (path, mut oracle) = one_target("nat", Way::Plain);
    let out = oracle.step(&path.tcp(10, SYN).frame());
    let back = sample::answer(forwarded(&out), SYN | ACK).frame();
    let returned = oracle.step(&back);
    let view = View::of(forwarded(&returned)).unwrap();
    assert_eq!(view.ports(forwarded(&returned)), Some((path.web(), path.client(10))));
    assert_eq!(crate::verdict::compare::right(forwarded(&returned), &view), Ok(()));
    let stranger =
        Packet { source: "10.0.1.9:8080".parse().unwrap(), ..sample::answer(forwarded(&out), ACK) };
    assert_eq!(oracle.step(&stranger.frame()), Expected::pass());
}
