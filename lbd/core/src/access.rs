//! Which client addresses a service takes connections from.
//!
//! The networks, which may lie within each other, are cut into ranges that don't: a look-up is then one binary search,
//! however many networks and prefix lengths there are.

use std::net::IpAddr;

use ipnet::IpNet;

/// A network of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessEntry {
    /// The addresses.
    pub network: IpNet,
    /// Whether they may connect.
    pub allowed: bool,
    /// What the log calls them.
    pub tag: Option<String>,
}

/// The lists of a service. The longest prefix that holds an address decides; of two equal ones the denying one. What no
/// list holds may connect if there is no list of allowed ones.
#[derive(Clone, Debug)]
pub struct AccessList {
    entries: Vec<AccessEntry>,
    four: Ranges,
    six: Ranges,
    otherwise: bool,
}

/// What becomes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// Whether it may connect.
    pub allowed: bool,
    /// Whether that is so because of a network that holds it.
    pub listed: bool,
    /// The tag of the network that decided.
    pub tag: Option<&'a str>,
}

impl AccessList {
    /// The list of these entries.
    #[must_use]
    pub fn new(entries: Vec<AccessEntry>) -> Self {
        let otherwise = !entries.iter().any(|entry| entry.allowed);
        let four = Ranges::new(&entries, true);
        let six = Ranges::new(&entries, false);
        Self { entries, four, six, otherwise }
    }

    /// What becomes of `address`. One that is mapped into IPv6 counts as the IPv4 address it is.
    #[must_use]
    pub fn check(&self, address: IpAddr) -> Verdict<'_> {
        let entry = match address.to_canonical() {
            IpAddr::V4(address) => self.four.find(u128::from(address.to_bits())),
            IpAddr::V6(address) => self.six.find(address.to_bits()),
        };
        entry.map_or(Verdict { allowed: self.otherwise, listed: false, tag: None }, |index| {
            let entry = &self.entries[index];
            Verdict { allowed: entry.allowed, listed: true, tag: entry.tag.as_deref() }
        })
    }
}

/// The addresses of one family, cut where what decides changes.
#[derive(Clone, Debug, Default)]
struct Ranges {
    /// In ascending order; each range goes up to the next one's start.
    starts: Vec<u128>,
    /// The entry that decides in the range, if any.
    deciding: Vec<Option<usize>>,
}

impl Ranges {
    fn new(entries: &[AccessEntry], four: bool) -> Self {
        let of_family = |entry: &AccessEntry| matches!(entry.network, IpNet::V4(_)) == four;
        let mut order: Vec<usize> = (0..entries.len()).filter(|&index| of_family(&entries[index])).collect();
        // Wider networks first, and of equal ones the denying one last, so that the one that decides comes last.
        order.sort_by_key(|&index| {
            let entry = &entries[index];
            (first(&entry.network), entry.network.prefix_len(), !entry.allowed)
        });
        let mut ranges = Self::default();
        // The networks around the place reached, the narrowest last. Two networks lie within each other or apart.
        let mut around: Vec<usize> = Vec::new();
        for index in order {
            let start = first(&entries[index].network);
            ranges.leave(&mut around, entries, Some(start));
            around.push(index);
            ranges.cut(start, Some(index));
        }
        ranges.leave(&mut around, entries, None);
        ranges
    }

    /// Leaves the networks that end before `place`; all without one.
    fn leave(&mut self, around: &mut Vec<usize>, entries: &[AccessEntry], place: Option<u128>) {
        while let Some(&narrowest) = around.last() {
            let last = last(&entries[narrowest].network);
            if place.is_some_and(|place| place <= last) {
                return;
            }
            around.pop();
            // Behind the family's last address there is no range to begin.
            if let Some(next) = last.checked_add(1) {
                self.cut(next, around.last().copied());
            }
        }
    }

    fn cut(&mut self, start: u128, deciding: Option<usize>) {
        if self.starts.last() == Some(&start) {
            // A network of the same start that is narrower, or an equal one.
            self.starts.pop();
            self.deciding.pop();
        }
        self.starts.push(start);
        self.deciding.push(deciding);
    }

    fn find(&self, address: u128) -> Option<usize> {
        let range = self.starts.partition_point(|&start| start <= address).checked_sub(1)?;
        self.deciding[range]
    }
}

fn first(network: &IpNet) -> u128 {
    number(network.network())
}

fn last(network: &IpNet) -> u128 {
    number(network.broadcast())
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn list(allow: &[(&str, &str)], deny: &[(&str, &str)]) -> AccessList {
        let entry = |allowed| {
            move |&(network, tag): &(&str, &str)| AccessEntry {
                network: network.parse().unwrap(),
                allowed,
                tag: (!tag.is_empty()).then(|| tag.to_owned()),
            }
        };
        AccessList::new(allow.iter().map(entry(true)).chain(deny.iter().map(entry(false))).collect())
    }

    fn check<'a>(list: &'a AccessList, address: &str) -> (bool, Option<&'a str>) {
        let verdict = list.check(address.parse().unwrap());
        (verdict.allowed, verdict.tag)
    }

    #[test]
    fn the_longest_prefix_decides() {
        let list = list(
            &[("10.0.0.0/8", "inside"), ("10.1.2.3/32", "boss"), ("2001:db8::/32", "")],
            &[("10.1.0.0/16", "guests"), ("2001:db8:1::/48", "lab")],
        );
        assert_eq!(check(&list, "10.0.0.0"), (true, Some("inside")));
        assert_eq!(check(&list, "10.1.2.2"), (false, Some("guests")));
        assert_eq!(check(&list, "10.1.2.3"), (true, Some("boss")));
        assert_eq!(check(&list, "10.1.2.4"), (false, Some("guests")));
        assert_eq!(check(&list, "10.2.0.0"), (true, Some("inside")));
        assert_eq!(check(&list, "11.0.0.0"), (false, None), "with a list of allowed ones no other is");
        assert_eq!(check(&list, "9.255.255.255"), (false, None));
        assert_eq!(check(&list, "::ffff:10.1.2.3"), (true, Some("boss")));
        assert_eq!(check(&list, "2001:db8::1"), (true, None));
        assert_eq!(check(&list, "2001:db8:1::1"), (false, Some("lab")));
        assert_eq!(check(&list, "2001:db9::"), (false, None));
    }

    #[test]
    fn without_a_list_of_allowed_ones_all_others_are() {
        let denying = list(&[], &[("0.0.0.0/1", ""), ("255.255.255.255/32", "end"), ("::/0", "six")]);
        assert_eq!(check(&denying, "127.255.255.255"), (false, None));
        assert_eq!(check(&denying, "128.0.0.0"), (true, None));
        assert_eq!(check(&denying, "255.255.255.255"), (false, Some("end")));
        assert_eq!(check(&denying, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), (false, Some("six")));
        assert_eq!(check(&list(&[], &[]), "::1"), (true, None));
        let both = list(&[("10.0.0.0/8", "yes")], &[("10.0.0.0/8", "no")]);
        assert_eq!(check(&both, "10.0.0.1"), (false, Some("no")));
    }

    #[test]
    fn what_a_network_holds_is_told_from_what_none_does() {
        let list = list(&[("10.0.0.0/8", "")], &[("10.0.9.66/32", "")]);
        let check = |address: &str| {
            let verdict = list.check(address.parse().unwrap());
            (verdict.allowed, verdict.listed)
        };
        assert_eq!(check("10.0.9.65"), (true, true));
        assert_eq!(check("10.0.9.66"), (false, true));
        assert_eq!(check("::ffff:10.0.9.66"), (false, true));
        assert_eq!([check("11.0.0.1"), check("2001:db8::1")], [(false, false); 2]);
    }

    proptest! {
        /// The same as looking at every network.
        #[test]
        fn as_if_one_by_one(
            networks in proptest::collection::vec((any::<u8>(), 0_u8..=8, any::<bool>(), any::<bool>()), 0..30),
        ) {
            // Networks among addresses whose first byte counts, so that they often meet.
            let entries: Vec<AccessEntry> = networks.iter().map(|&(high, length, allowed, four)| {
                let network = if four {
                    IpNet::new(Ipv4Addr::new(high, 0, 0, 0).into(), length).unwrap()
                } else {
                    IpNet::new(Ipv6Addr::from([u16::from(high) << 8, 0, 0, 0, 0, 0, 0, 0]).into(), length).unwrap()
                };
                AccessEntry { network: network.trunc(), allowed, tag: None }
            }).collect();
            let list = AccessList::new(entries.clone());
            for high in 0..=255_u8 {
                for address in [
                    IpAddr::from([high, 0, 0, 0]), IpAddr::from([high, 255, 255, 255]),
                    IpAddr::from([u16::from(high) << 8, 0, 0, 0, 0, 0, 0, 1]),
                ] {
                    let holding = entries.iter().filter(|entry| entry.network.contains(&address));
                    let deciding = holding.max_by_key(|entry| (entry.network.prefix_len(), !entry.allowed));
                    let otherwise = !entries.iter().any(|entry| entry.allowed);
                    let expected = deciding.map_or(otherwise, |entry| entry.allowed);
                    prop_assert_eq!(list.check(address).allowed, expected, "{}", address);
                }
            }
        }
    }
}
