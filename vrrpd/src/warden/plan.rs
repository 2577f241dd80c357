//! What the warden is told.

use std::net::IpAddr;

use bincode::{Decode, Encode};
use common::config::{ChecksumReading, VrrpVersion};
use common::key::PairKey;
use common::time::Duration;
use common::wire::{self, WireError};
use ipnet::IpNet;
use vrrpd_core::peer::RouterKey;

/// What to do for one slot when the daemon fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which slot, less than [`super::SLOTS`].
    pub slot: u8,
    /// The index of the interface that advertisements are sent on.
    pub interface: u32,
    /// The index of the interface that holds the addresses: the same, or the macvlan above it.
    pub address_index: u32,
    /// The addresses to remove, and to advertise.
    pub addresses: Vec<IpNet>,
    /// How long after a beat the next one is overdue.
    pub timeout: Duration,
    /// The protocol version.
    pub version: VrrpVersion,
    /// The virtual router's number.
    pub vrid: u8,
    /// The advertisement interval.
    pub interval: Duration,
    /// The checksum sent.
    pub checksum: ChecksumReading,
    /// The address advertisements come from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// The key that signs them, if they are signed.
    pub signing_key: Option<PairKey>,
    /// Whether they come from the virtual router's Ethernet address.
    pub virtual_mac: bool,
    /// The router as the other node knows it.
    pub router: RouterKey,
    /// The peer link, if there is one.
    pub peer: Option<PlanPeer>,
}

/// The peer link in a [`Plan`]. Arm anew when `echo` changes: the other node heeds nothing that is meant for an earlier life
/// of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PlanPeer {
    /// This node's address there.
    pub local: IpAddr,
    /// The other node's.
    pub remote: IpAddr,
    /// The key of its datagrams.
    pub key: [u8; 32],
    /// This node's name.
    pub node: String,
    /// This node's life.
    pub boot: u64,
    /// The other node's life, 0 if unknown: then it is told nothing.
    pub echo: u64,
}

/// A message to the warden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToWarden {
    Arm(Box<Plan>),
    Disarm(u8),
}

impl ToWarden {
    pub(super) fn encode(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Arm(plan) => wire::encode(&Message::Arm(Box::new(plan.as_ref().into()))),
            Self::Disarm(slot) => wire::encode(&Message::Disarm(*slot)),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Ok(match wire::decode(bytes)? {
            Message::Arm(plan) => Self::Arm(Box::new((*plan).into())),
            Message::Disarm(slot) => Self::Disarm(slot),
        })
    }
}

/// The same in types that can be encoded.
#[derive(Encode, Decode)]
enum Message {
    Arm(Box<WirePlan>),
    Disarm(u8),
}

#[derive(Encode, Decode)]
struct WirePlan {
    slot: u8,
    interface: u32,
    address_index: u32,
    addresses: Vec<(IpAddr, u8)>,
    timeout: Duration,
    version_2: bool,
    vrid: u8,
    interval: Duration,
    pseudo_header: bool,
    source: IpAddr,
    destination: IpAddr,
    signing_key: Option<[u8; 32]>,
    virtual_mac: bool,
    router: RouterKey,
    peer: Option<PlanPeer>,
}

impl From<&Plan> for WirePlan {
    fn from(plan: &Plan) -> Self {
        Self {
            slot: plan.slot,
            interface: plan.interface,
            address_index: plan.address_index,
            addresses: plan.addresses.iter().map(|net| (net.addr(), net.prefix_len())).collect(),
            timeout: plan.timeout,
            version_2: plan.version == VrrpVersion::V2,
            vrid: plan.vrid,
            interval: plan.interval,
            pseudo_header: plan.checksum == ChecksumReading::PseudoHeader,
            source: plan.source,
            destination: plan.destination,
            signing_key: plan.signing_key.as_ref().map(|key| *key.bytes()),
            virtual_mac: plan.virtual_mac,
            router: plan.router,
            peer: plan.peer.clone(),
        }
    }
}

impl From<WirePlan> for Plan {
    fn from(plan: WirePlan) -> Self {
        let net = |(ip, prefix)| IpNet::new(ip, prefix).unwrap_or_else(|_| IpNet::from(ip));
        Self {
            slot: plan.slot,
            interface: plan.interface,
            address_index: plan.address_index,
            addresses: plan.addresses.into_iter().map(net).collect(),
            timeout: plan.timeout,
            version: if plan.version_2 { VrrpVersion::V2 } else { VrrpVersion::V3 },
            vrid: plan.vrid,
            interval: plan.interval,
            checksum: if plan.pseudo_header {
                ChecksumReading::PseudoHeader
            } else {
                ChecksumReading::Message
            },
            source: plan.source,
            destination: plan.destination,
            signing_key: plan.signing_key.map(PairKey::new),
            virtual_mac: plan.virtual_mac,
            router: plan.router,
            peer: plan.peer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vrrpd_core::packet::Family;

    fn plan() -> Plan {
        Plan {
            slot: 63,
            interface: 7,
            address_index: 8,
            addresses: vec!["fd00::100/64".parse().unwrap(); 255],
            timeout: Duration::from_millis(25),
            version: VrrpVersion::V3,
            vrid: 51,
            interval: Duration::from_millis(10),
            checksum: ChecksumReading::PseudoHeader,
            source: "fe80::1".parse().unwrap(),
            destination: "ff02::12".parse().unwrap(),
            signing_key: Some(PairKey::new([7; 32])),
            virtual_mac: true,
            router: RouterKey::new("web", Family::V6),
            peer: Some(PlanPeer {
                local: "10.0.255.1".parse().unwrap(),
                remote: "10.0.255.2".parse().unwrap(),
                key: [9; 32],
                node: "a".repeat(255),
                boot: u64::MAX,
                echo: u64::MAX,
            }),
        }
    }

    #[test]
    fn the_largest_plan_arrives_as_it_was_sent() {
        let other = Plan {
            version: VrrpVersion::V2,
            checksum: ChecksumReading::Message,
            signing_key: None,
            peer: None,
            ..plan()
        };
        for message in [ToWarden::Arm(Box::new(plan())), ToWarden::Arm(Box::new(other)), ToWarden::Disarm(5)]
        {
            assert_eq!(ToWarden::decode(&message.encode().unwrap()), Ok(message));
        }
    }
}
