//! What RFC 9568 requires of others: routers, administrators, options that Tandem does not have.

use crate::entry::Level::{Must, MustNot, Should, ShouldNot};
use crate::entry::{Entry, Level, Place};

const NO_ROUTER_ADVERTISEMENTS: &str =
    "Tandem sends no Router Advertisements: its addresses are destinations, not anybody's default route";
const NO_DUAL_MODE: &str =
    "each instance speaks one version, and hears no other; it cannot be configured to speak both";

const fn entry(
    section: &'static str,
    nth: u32,
    level: Level,
    text: &'static str,
    why: &'static str,
) -> Entry {
    Entry { rfc: 9568, section, nth, level, text, place: Place::NotApplicable { why } }
}

pub(crate) const ENTRIES: &[Entry] = &[
    entry(
        "6.1",
        6,
        MustNot,
        "Note: IPv6 Neighbor Solicitations and Neighbor Advertisements MUST NOT be dropped when Accept_Mode is False.",
        "Accept_Mode is always true, and nothing that is addressed to the host is filtered",
    ),
    entry(
        "6.4.2",
        15,
        MustNot,
        "It MUST NOT send ND Router Advertisement messages for the Virtual Router.",
        NO_ROUTER_ADVERTISEMENTS,
    ),
    entry(
        "7.4",
        1,
        MustNot,
        "The Virtual Router MAC MUST NOT be used for the Net_Iface parameter used in the Interface Identifier (IID) derivation algorithms in [RFC7217] and [RFC8981].",
        "interface identifiers are the kernel's matter; the device with the virtual MAC address is given its addresses by Tandem alone",
    ),
    entry(
        "8.1.2",
        5,
        Should,
        "When, for example, Secure Shell (SSH) access to a particular VRRP Router is required, an IPv4 address known to belong to that router SHOULD be used.",
        "advice to administrators",
    ),
    entry(
        "8.1.3",
        1,
        Must,
        "If Proxy ARP is to be used on a VRRP Router, then the VRRP Router MUST advertise the Virtual Router MAC address in the Proxy ARP message.",
        "Tandem uses no proxy ARP",
    ),
    entry(
        "8.2.1",
        1,
        Should,
        "The IPv6 source address of an ICMPv6 redirect SHOULD be the address that the end-host used when making its next-hop routing decision.",
        "Tandem routes nothing, so there is nothing to redirect",
    ),
    entry(
        "8.2.3",
        1,
        Must,
        "The Backup Routers MUST be configured to send the same Router Advertisement options as the address owner.",
        NO_ROUTER_ADVERTISEMENTS,
    ),
    entry(
        "8.2.3",
        2,
        ShouldNot,
        "Router Advertisement options that advertise special services, e.g., Home Agent Information Option, that are present in the address owner SHOULD NOT be sent",
        NO_ROUTER_ADVERTISEMENTS,
    ),
    entry(
        "8.2.4",
        1,
        Should,
        "A VRRP Router acting as either an IPv6 Active Router or Backup Router SHOULD accept Unsolicited Neighbor Advertisements and update the corresponding neighbor cache",
        "the neighbour cache is the kernel's; Tandem relies on no entry in it",
    ),
    entry(
        "8.4.2",
        1,
        Must,
        "When a Virtual Router is configured this way and is the Active Router, it MUST send both types at the configured rate, even if it is sub-second.",
        NO_DUAL_MODE,
    ),
    entry(
        "8.4.2",
        2,
        Must,
        "When a Virtual Router is configured this way and is the Backup Router, it MUST time out based on the rate advertised by the Active Router.",
        NO_DUAL_MODE,
    ),
    entry(
        "8.4.2",
        3,
        Must,
        "In the case of a VRRPv2 Active Router, this means it MUST translate the timeout value it receives (in seconds) into centiseconds.",
        NO_DUAL_MODE,
    ),
    entry(
        "8.4.2",
        4,
        Should,
        "Also, a Backup Router SHOULD ignore VRRPv2 advertisements from the current Active Router if it is also receiving VRRPv3 packets from it.",
        NO_DUAL_MODE,
    ),
    entry(
        "8.4.2",
        5,
        ShouldNot,
        "this support is intended for upgrade scenarios and is NOT RECOMMENDED for permanent deployments",
        NO_DUAL_MODE,
    ),
    entry(
        "8.4.2.1.1",
        1,
        ShouldNot,
        "A VRRPv2 implementation SHOULD NOT be given a higher priority than a VRRPv2 or VRRPv3 implementation with which it is interoperating if the VRRPv2 or VRRPv3 router's advertisement rate is sub-second.",
        NO_DUAL_MODE,
    ),
    entry(
        "9",
        1,
        Should,
        "it is RECOMMENDED that the link-level security guidelines in Section 2.3 of [RFC9099] be followed",
        "advice to administrators of the link; signed advertisements are Tandem's own answer to forged ones",
    ),
];
