//! Next hops on the ways to clients, for the program in the driver (XDP): it sends by the kernel's table of neighbours and never through the
//! stack, so that nobody else has a neighbour looked for that is not in the table, or hears again of one that would be forgotten there.
//!
//! What the program finds missing it tells, and the kernel is asked to look for it, not too often and not for too many at a time ([`Turns`]): who
//! sends with made-up addresses of a network here has as many broadcasts made. Clients on networks of this host's own ([`Neighbourhood`]) that
//! have flows are kept in the table ([`Clients`]): on the node that forwards, and on the other one, which may take over with the next packet.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use common::time::{Duration, Instant};
use ipnet::IpNet;

use super::abi::Ticks;
use crate::recent::Recent;

/// A neighbour: the interface's index, and its address.
pub type Neighbour = (u32, IpAddr);

/// Missing neighbours that the kernel is asked to look for within [`WINDOW`], at most. It keeps about 1,024 by default
/// (`net.ipv4.neigh.default.gc_thresh3`).
pub const LOOKS_MAX: u32 = 256;

/// The time in which these are counted.
pub const WINDOW: Duration = Duration::from_secs(1);

/// One is asked for again after this time: several processors tell of it, and of a gateway the packets of each client behind it.
pub const AGAIN: Duration = Duration::from_millis(100);

/// So many are known to have been asked for; of more, those asked for first may be asked for again sooner.
const KNOWN_MAX: usize = 1024;

/// Clients that are kept in the kernel's table, at most: as many as that has room for by default.
pub const CLIENTS_MAX: usize = 1024;

/// A client whose flows were silent for longer than this, in ticks, is not kept: it may not be there any more, and then has the kernel ask in
/// vain. The other node tells of its flows in use within half of that.
pub const IN_USE_TICKS: u32 = 90 * Ticks::PER_SECOND;

/// Networks whose hosts are taken for neighbours, the smallest first. Each flow is looked for in all of them.
pub const NETWORKS_MAX: usize = 32;

/// Whether the kernel is to be asked for a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now.
    Now,
    /// It was only just asked.
    Asked,
    /// Others have been too many: when the program tells of it again.
    Later,
}

/// What the kernel was asked for.
#[derive(Debug)]
pub struct Turns {
    asked: Recent<Neighbour, Instant>,
    begun: Instant,
    /// Since then.
    looks: u32,
}

impl Turns {
    /// Nothing so far.
    #[must_use]
    pub fn new() -> Self {
        Self { asked: Recent::new(KNOWN_MAX), begun: Instant::ZERO, looks: 0 }
    }

    /// The turn of a neighbour that is missing.
    pub fn of(&mut self, neighbour: Neighbour, now: Instant) -> Turn {
        if self.asked.get(&neighbour).is_some_and(|at| now.since(*at) < AGAIN) {
            return Turn::Asked;
        }
        if now.since(self.begun) >= WINDOW {
            (self.begun, self.looks) = (now, 0);
        }
        if self.looks == LOOKS_MAX {
            return Turn::Later;
        }
        self.looks += 1;
        match self.asked.use_value(&neighbour) {
            Some(at) => *at = now,
            None => {
                self.asked.insert(neighbour, now);
            }
        }
        Turn::Now
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

/// The networks whose hosts are neighbours, each with the interface that it is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbourhood {
    /// The longest prefix first.
    networks: Vec<(IpNet, u32)>,
}

impl Neighbourhood {
    /// Of these networks; of more than [`NETWORKS_MAX`] the smallest.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = (IpNet, u32)>) -> Self {
        let sorted: BTreeSet<(Reverse<u8>, IpNet, u32)> = networks
            .into_iter()
            .map(|(network, index)| (Reverse(network.prefix_len()), network.trunc(), index))
            .collect();
        let networks = sorted.into_iter().take(NETWORKS_MAX);
        Self { networks: networks.map(|(_, network, index)| (network, index)).collect() }
    }

    /// Whether nobody is a neighbour.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// The neighbour that a host is, by the smallest network that it is in; none if it is behind routers.
    #[must_use]
    pub fn neighbour(&self, ip: IpAddr) -> Option<Neighbour> {
        let found = self.networks.iter().find(|(network, _)| network.contains(&ip));
        found.map(|(_, index)| (*index, ip))
    }
}

/// The clients on the networks here that a walk through all flows has met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// Each once, [`CLIENTS_MAX`] at most.
    pub met: BTreeSet<Neighbour>,
    /// Flows of others, for which there was no room.
    pub left_out: u64,
}

impl Clients {
    /// Takes the client of a flow that was silent for so many ticks.
    pub fn meet(&mut self, neighbourhood: &Neighbourhood, client: IpAddr, silent: u32) {
        if silent > IN_USE_TICKS {
            return;
        }
        let Some(neighbour) = neighbourhood.neighbour(client) else { return };
        if self.met.len() < CLIENTS_MAX {
            self.met.insert(neighbour);
        } else if !self.met.contains(&neighbour) {
            self.left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> Neighbour {
        (3, IpAddr::from((0x0a00_0000 + number).to_be_bytes()))
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(100_000 + ms)
    }

    #[test]
    fn one_neighbour_is_asked_for_now_and_then() {
        let mut turns = Turns::new();
        assert_eq!(turns.of(client(1), at(0)), Turn::Now);
        assert_eq!(turns.of(client(1), at(99)), Turn::Asked);
        // The same address behind another interface is another host.
        assert_eq!(turns.of((4, client(1).1), at(99)), Turn::Now);
        assert_eq!(turns.of(client(1), at(100)), Turn::Now);
        assert_eq!(turns.of(client(1), at(199)), Turn::Asked);
    }

    #[test]
    fn of_many_those_beyond_the_bound_have_their_turn_later() {
        let mut turns = Turns::new();
        for number in 0..LOOKS_MAX {
            assert_eq!(turns.of(client(number), at(0)), Turn::Now);
        }
        assert_eq!(turns.of(client(LOOKS_MAX), at(0)), Turn::Later);
        assert_eq!(turns.of(client(0), at(0)), Turn::Asked);
        assert_eq!(turns.of(client(LOOKS_MAX), at(999)), Turn::Later);
        assert_eq!(turns.of(client(LOOKS_MAX), at(1000)), Turn::Now);
        // However many there are, no more is remembered than that.
        for number in 0..10_000 {
            turns.of(client(number), at(2000 + u64::from(number) * 10));
        }
        assert_eq!(turns.asked.len(), KNOWN_MAX);
    }

    #[test]
    fn the_smallest_network_says_behind_which_interface_a_host_is() {
        let of = |text: &str, index: u32| (text.parse::<IpNet>().unwrap(), index);
        let neighbourhood = Neighbourhood::new([
            of("10.0.0.0/8", 3),
            of("10.77.0.1/24", 4),
            of("10.77.0.9/32", 5),
            of("fd77::1/64", 4),
        ]);
        let behind = |text: &str| neighbourhood.neighbour(text.parse().unwrap()).map(|(index, _)| index);
        assert_eq!(behind("10.1.2.3"), Some(3));
        assert_eq!(behind("10.77.0.8"), Some(4));
        assert_eq!(behind("10.77.0.9"), Some(5));
        assert_eq!(behind("fd77::8"), Some(4));
        assert_eq!(behind("fd78::8"), None);
        assert_eq!(behind("192.0.2.1"), None);
        assert!(!neighbourhood.is_empty() && Neighbourhood::default().is_empty());
        // The largest are left out, whatever order they come in.
        let many = (0..200).map(|number| of(&format!("192.0.2.{number}/32"), 6));
        let neighbourhood = Neighbourhood::new(std::iter::once(of("0.0.0.0/0", 7)).chain(many));
        assert_eq!(neighbourhood.networks.len(), NETWORKS_MAX);
        assert_eq!(neighbourhood.neighbour("198.51.100.1".parse().unwrap()), None);
    }

    #[test]
    fn clients_on_the_link_are_met_once_and_no_more_than_there_is_room_for() {
        let neighbourhood = Neighbourhood::new([("10.0.0.0/16".parse().unwrap(), 3)]);
        let mut clients = Clients::default();
        for _ in 0..2 {
            clients.meet(&neighbourhood, client(7).1, IN_USE_TICKS);
            clients.meet(&neighbourhood, client(8).1, IN_USE_TICKS + 1);
            clients.meet(&neighbourhood, "192.0.2.1".parse().unwrap(), 0);
        }
        assert_eq!((clients.met.len(), clients.left_out), (1, 0));
        let beyond = u32::try_from(CLIENTS_MAX).unwrap() + 10;
        for _ in 0..2 {
            (0..beyond).for_each(|number| clients.meet(&neighbourhood, client(number).1, 0));
        }
        assert_eq!((clients.met.len(), clients.left_out), (CLIENTS_MAX, 20));
        assert!(clients.met.contains(&client(7)));
    }
}
