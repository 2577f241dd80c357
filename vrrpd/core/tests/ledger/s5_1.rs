//! §5.1: the IP header.

use crate::entry::Level::{Must, MustNot, Step};
use crate::entry::{Entry, Place, case};
use crate::harness::*;
use crate::wire::{accepted, active_v4, active_v6, discarded, sent};

const SOCKET: &str = "vrrpd/tests/shell_socket.rs";
const LEFT_TO_THE_KERNEL: &str = "link-local multicast: Linux forwards it only where multicast routing is set up, which Tandem does not do";

pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        rfc: 9568,
        section: "5.1.1.1",
        nth: 1,
        level: Step,
        text: "the source address is the primary IPv4 address of the interface the packet is being sent from",
        place: Place::Core {
            positive: case!(ipv4_is_sent_from_the_interfaces_address),
            negative: case!(the_virtual_address_is_never_the_source),
        },
    },
    Entry {
        rfc: 9568,
        section: "5.1.1.2",
        nth: 1,
        level: MustNot,
        text: "Routers MUST NOT forward a datagram with this destination address, regardless of its TTL.",
        place: Place::NotApplicable { why: LEFT_TO_THE_KERNEL },
    },
    Entry {
        rfc: 9568,
        section: "5.1.1.3",
        nth: 1,
        level: Must,
        text: "The TTL MUST be set to 255.",
        place: Place::Elsewhere { tests: &[(SOCKET, "an_advertisement_arrives_with_what_its_header_said")] },
    },
    Entry {
        rfc: 9568,
        section: "5.1.1.3",
        nth: 2,
        level: Must,
        text: "A VRRP Router receiving a packet with the TTL not equal to 255 MUST discard the packet",
        place: Place::Core { positive: case!(ttl_255_is_heard), negative: case!(any_other_ttl_is_discarded) },
    },
    Entry {
        rfc: 9568,
        section: "5.1.2.2",
        nth: 1,
        level: MustNot,
        text: "Routers MUST NOT forward a datagram with this destination address, regardless of its Hop Limit.",
        place: Place::NotApplicable { why: LEFT_TO_THE_KERNEL },
    },
    Entry {
        rfc: 9568,
        section: "5.1.2.3",
        nth: 1,
        level: Must,
        text: "The Hop Limit MUST be set to 255.",
        place: Place::Elsewhere { tests: &[(SOCKET, "an_advertisement_arrives_with_what_its_header_said")] },
    },
    Entry {
        rfc: 9568,
        section: "5.1.2.3",
        nth: 2,
        level: Must,
        text: "A VRRP Router receiving a packet with the Hop Limit not equal to 255 MUST discard the packet",
        place: Place::Core {
            positive: case!(hop_limit_255_is_heard),
            negative: case!(any_other_hop_limit_is_discarded),
        },
    },
];

#[test]
fn ipv4_is_sent_from_the_interfaces_address() {
    let (mut lab, _, _) = active_v4();
    assert_eq!(sent(&mut lab).1.source, ip(OWN));
}

#[test]
fn the_virtual_address_is_never_the_source() {
    let (mut lab, _, _) = active_v6();
    let (_, meta) = sent(&mut lab);
    assert_eq!(meta.source, ip(OWN_V6));
    assert!(!lab.first().advertised().contains(&meta.source));
}

#[test]
fn ttl_255_is_heard() {
    let (lab, bytes, meta) = active_v4();
    accepted(lab, &bytes, meta);
}

#[test]
fn any_other_ttl_is_discarded() {
    for hop_limit in [0, 1, 64, 254] {
        let (lab, bytes, mut meta) = active_v4();
        meta.hop_limit = hop_limit;
        discarded(lab, &bytes, meta, "hop_limit");
    }
}

#[test]
fn hop_limit_255_is_heard() {
    let (lab, bytes, meta) = active_v6();
    accepted(lab, &bytes, meta);
}

#[test]
fn any_other_hop_limit_is_discarded() {
    for hop_limit in [0, 1, 64, 254] {
        let (lab, bytes, mut meta) = active_v6();
        meta.hop_limit = hop_limit;
        discarded(lab, &bytes, meta, "hop_limit");
    }
}
