//! How many connections each source has at the same time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sharded::Parts;

/// Counts for a table that is expected to get large: the number of parts follows from it.
const SOURCES_EXPECTED: usize = 65_536;

/// What stands for a client where one is not to take everything: its address, or the network of 64 bits that an address of IPv6 is in, for
/// whoever has one of them has all.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

/// The network that a client is one of many in, for whoever has one of them may well have the others: 24 bits of IPv4, 48 of IPv6.
#[must_use]
pub fn neighbourhood_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() >> 8 << 8)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 80 << 80)),
    }
}

/// The open connections of each source, counted over all workers. Only sources with a connection are in it, so that it has
/// at most as many entries as the service may have connections.
#[derive(Debug)]
pub struct SourceCounts(Parts<HashMap<IpAddr, u32>>);

impl Default for SourceCounts {
    fn default() -> Self {
        Self(Parts::new(SOURCES_EXPECTED, |_| HashMap::new()))
    }
}

impl SourceCounts {
    /// Counts one more connection of `source` if fewer than `max` are open; answers whether it was admitted.
    pub fn admit(&self, source: IpAddr, max: u32) -> bool {
        let mut part = self.0.of(&source);
        let open = part.get(&source).copied().unwrap_or(0);
        if open >= max {
            return false;
        }
        part.insert(source, open + 1);
        true
    }

    /// Takes back one admitted connection.
    pub fn release(&self, source: IpAddr) {
        let mut part = self.0.of(&source);
        match part.get_mut(&source) {
            Some(open) if *open > 1 => *open -= 1,
            Some(_) => {
                part.remove(&source);
                // What an attack made large is given back once it is over.
                if part.capacity() > 1024 && part.len() < part.capacity() / 8 {
                    part.shrink_to_fit();
                }
            }
            None => debug_assert!(false, "a connection was released that was not admitted"),
        }
    }

    /// Connections of `source` now.
    #[must_use]
    pub fn open(&self, source: IpAddr) -> u32 {
        self.0.of(&source).get(&source).copied().unwrap_or(0)
    }

    /// Sources with a connection now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }

    /// Whether no source has a connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_source_has_its_own_limit(steps in proptest::collection::vec((any::<bool>(), 0_u8..4), 0..300), max in 1_u32..4) {
            let counts = SourceCounts::default();
            let mut open = [0_u32; 4];
            for (arrives, number) in steps {
                let (source, count) = (IpAddr::from([10, 0, 0, number]), &mut open[usize::from(number)]);
                if arrives {
                    prop_assert_eq!(counts.admit(source, max), *count < max);
                    *count = max.min(*count + 1);
                } else if *count > 0 {
                    counts.release(source);
                    *count -= 1;
                }
                prop_assert_eq!(counts.open(source), *count);
            }
            prop_assert_eq!(counts.len(), open.iter().filter(|&&count| count > 0).count());
            prop_assert_eq!(counts.is_empty(), open == [0; 4]);
        }
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_ipv6() {
        let of = |address: &str| network_of(address.parse().unwrap()).to_string();
        assert_eq!([of("192.0.2.1"), of("::ffff:192.0.2.1")], ["192.0.2.1"; 2]);
        assert_eq!([of("2001:db8:1:2::"), of("2001:db8:1:2:ffff::1")], ["2001:db8:1:2::"; 2]);
        assert_eq!(of("2001:db8:1:3::1"), "2001:db8:1:3::");
        let near = |address: &str| neighbourhood_of(address.parse().unwrap()).to_string();
        assert_eq!([near("192.0.2.1"), near("::ffff:192.0.2.255")], ["192.0.2.0"; 2]);
        assert_eq!([near("2001:db8:1:2::"), near("2001:db8:1:ffff::1")], ["2001:db8:1::"; 2]);
        assert_eq!(near("2001:db8:2::1"), "2001:db8:2::");
    }

    #[test]
    fn memory_is_given_back() {
        let counts = SourceCounts::default();
        let source = |number: u32| IpAddr::from(number.to_be_bytes());
        (0..400_000).for_each(|number| assert!(counts.admit(source(number), 1)));
        (0..400_000).for_each(|number| counts.release(source(number)));
        assert!(counts.is_empty());
        assert!(counts.0.iter().all(|part| part.capacity() <= 1024));
    }
}
