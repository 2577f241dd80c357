//! Who has which address in a lab. Every lab has the same plan: labs do not see each other.
//!
//! | host | IPv4 | IPv6 | MAC |
//! |---|---|---|---|
//! | nodes `a`, `b` | 10.77.0.1, .2 | fd77::1, ::2 | 02:7d:00:00:00:01, :02 |
//! | `c`, `d` (optional) | 10.77.0.3, .4 | fd77::3, ::4 | 02:7d:00:00:00:03, :04 |
//! | targets `t1`… | 10.77.0.11… | fd77::11… | 02:7d:00:00:00:0b… |
//! | VIPs | 10.77.0.50… | fd77::50… | |
//! | client | 10.77.0.100 to .107 | fd77::100 to ::107 | 02:7d:00:00:00:64 |
//! | what the watcher asks as | 10.77.0.192 to .223 | fd77::192 to ::223 | |
//! | watcher | 10.77.0.250 | fd77::250 | 02:7d:00:00:00:fa |
//! | gateway (optional) | 10.77.0.254 | fd77::254 | 02:7d:00:00:00:fe |
//! | peer link of `a`, `b`… | 10.0.255.1, .2… /24 | | |
//!
//! The last group of an IPv6 address shows the decimal digits of the IPv4 one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The prefix length of the LAN's IPv4 network.
pub const LAN_PREFIX_V4: u8 = 24;
/// The prefix length of the LAN's IPv6 network.
pub const LAN_PREFIX_V6: u8 = 64;
/// How many addresses of each family the client has.
pub const CLIENT_ADDRESSES: u8 = 8;
/// The most targets a lab has.
pub const TARGETS_MAX: u8 = 30;
/// How many addresses the watcher asks as, in turn.
pub const ASKING_ADDRESSES: u8 = 32;

/// The nodes have the numbers from 1 to this one.
pub(crate) const NODES_MAX: u8 = 4;
pub(crate) const TARGET_FIRST: u8 = 11;
pub(crate) const VIP_FIRST: u8 = 50;
pub(crate) const CLIENT_FIRST: u8 = 100;
/// The number of the first address the watcher asks as.
pub const ASKING_FIRST: u8 = 192;
pub(crate) const WATCHER: u8 = 250;
pub(crate) const GATEWAY: u8 = 254;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The IPv4 address of the host with this number on the LAN.
#[must_use]
pub const fn v4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

/// The IPv6 address of the host with this number on the LAN.
#[must_use]
pub const fn v6(host: u8) -> Ipv6Addr {
    let (hundreds, tens, ones) = (host / 100, host / 10 % 10, host % 10);
    let digits = (hundreds as u16) << 8 | (tens as u16) << 4 | ones as u16;
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits)
}

/// The `index`th virtual address of IPv4, from 0.
#[must_use]
pub const fn vip4(index: u8) -> Ipv4Addr {
    v4(VIP_FIRST + index)
}

/// The `index`th virtual address of IPv6, from 0.
#[must_use]
pub const fn vip6(index: u8) -> Ipv6Addr {
    v6(VIP_FIRST + index)
}

/// The MAC address of the host with this number on the LAN.
#[must_use]
pub const fn mac(host: u8) -> Mac {
    [0x02, 0x7d, 0, 0, 0, host]
}

/// A MAC address as people write it.
#[must_use]
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The client's addresses of the family `like` has.
#[must_use]
pub fn client_addresses(like: IpAddr) -> Vec<IpAddr> {
    let hosts = CLIENT_FIRST..CLIENT_FIRST + CLIENT_ADDRESSES;
    match like {
        IpAddr::V4(_) => hosts.map(|host| IpAddr::V4(v4(host))).collect(),
        IpAddr::V6(_) => hosts.map(|host| IpAddr::V6(v6(host))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_show_the_same_digits() {
        assert_eq!(v4(250).to_string(), "10.77.0.250");
        assert_eq!(v6(250).to_string(), "fd77::250");
        assert_eq!(v6(11).to_string(), "fd77::11");
        assert_eq!(mac_text(mac(11)), "02:7d:00:00:00:0b");
    }
}
