//! What is replicated: tables, keys and entries, as the shell and the core name them to each other.

use common::hash::HashKey;
use common::time::Duration;

use super::names::NameId;

common::named! {
    /// A table that both nodes have.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Table {
        /// Flows of the kernel's forwarding.
        Flows => "flows",
        /// Which target a source address comes back to.
        Sticky => "sticky",
        /// Which target a session of the UDP proxy has.
        UdpSessions => "udp_sessions",
        /// How much each node has admitted; the pair's figure is the sum.
        Rates => "rates",
        /// Administrative states and weights of targets.
        Targets => "targets",
        /// What each node's health checks say; for comparison.
        Health => "health",
        /// Who belongs to a target group, as far as people have said.
        Members => "members",
    }
}

impl Table {
    /// The order of a snapshot: what the rest refers to first, then what is small and matters for new connections, the million flows last.
    pub const SNAPSHOT_ORDER: [Self; Self::COUNT] = [
        Self::Members,
        Self::Targets,
        Self::Health,
        Self::Rates,
        Self::Sticky,
        Self::UdpSessions,
        Self::Flows,
    ];

    /// Its number on the wire, never that of another table, whatever the version.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8 + 1
    }

    /// The table of a number; `None` for one that this version does not know.
    #[must_use]
    pub const fn of_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Flows,
            2 => Self::Sticky,
            3 => Self::UdpSessions,
            4 => Self::Rates,
            5 => Self::Targets,
            6 => Self::Health,
            7 => Self::Members,
            _ => return None,
        })
    }

    /// The minor protocol version that brought it; it is not spoken of with a peer of an earlier one.
    #[must_use]
    pub const fn since_minor(self) -> u16 {
        match self {
            Self::Health => 1,
            Self::Members => 3,
            _ => 0,
        }
    }

    /// Whether people make the entries, seldom and by word of mouth: of two nodes that did not hear of each other, the later
    /// change is to count, so generations follow the clock here, at the price of some bytes for each.
    pub(super) const fn has_words(self) -> bool {
        matches!(self, Self::Targets | Self::Members)
    }

    /// Whether each node has values of its own here, which stand beside the other's and never replace them.
    #[must_use]
    pub const fn is_per_node(self) -> bool {
        matches!(self, Self::Rates | Self::Health)
    }
}

/// A client's 5-tuple as the kernel's flow table has it: the 40 bytes of [`crate::forward::abi::FlowKey`], which are the same on
/// every machine, because addresses and ports are in network order.
pub type Tuple = [u8; 40];

/// An address in 16 bytes, IPv4 as `::ffff:a.b.c.d`.
pub type Address = [u8; 16];

/// What names an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Of [`Table::Flows`].
    Flow(Tuple),
    /// Of [`Table::Sticky`].
    Sticky {
        /// The target group.
        group: NameId,
        /// The client.
        source: Address,
    },
    /// Of [`Table::UdpSessions`].
    UdpSession(Tuple),
    /// Of [`Table::Rates`].
    Rate {
        /// Whose limit it is.
        service: NameId,
        /// The client; zeros for a limit that all clients share.
        source: Address,
    },
    /// Of [`Table::Targets`].
    Target(NameId),
    /// Of [`Table::Health`].
    Health(NameId),
    /// Of [`Table::Members`].
    Member(NameId),
}

impl Key {
    /// Whose entry it names.
    #[must_use]
    pub const fn table(&self) -> Table {
        match self {
            Self::Flow(_) => Table::Flows,
            Self::Sticky { .. } => Table::Sticky,
            Self::UdpSession(_) => Table::UdpSessions,
            Self::Rate { .. } => Table::Rates,
            Self::Target(_) => Table::Targets,
            Self::Health(_) => Table::Health,
            Self::Member(_) => Table::Members,
        }
    }

    /// A keyed hash that stands for the key within this process. Clients choose most of what is hashed, hence the key; among a
    /// million entries two share one with a probability of 3·10⁻⁸.
    pub(super) fn fingerprint(&self, hash: &HashKey) -> Fingerprint {
        let table = self.table().number();
        let name_and_address = |name: &NameId, address: &Address| {
            let mut bytes = [0; 21];
            bytes[0] = table;
            bytes[1..5].copy_from_slice(&name.number().to_le_bytes());
            bytes[5..].copy_from_slice(address);
            hash.bytes(&bytes)
        };
        Fingerprint(match self {
            Self::Flow(tuple) | Self::UdpSession(tuple) => {
                let mut bytes = *tuple;
                // One of the bytes that are always zero tells the tables apart.
                bytes[39] ^= table;
                hash.bytes(&bytes)
            }
            Self::Sticky { group: name, source } | Self::Rate { service: name, source } => {
                name_and_address(name, source)
            }
            Self::Target(target) | Self::Health(target) | Self::Member(target) => {
                name_and_address(target, &[0; 16])
            }
        })
    }
}

/// See [`Key::fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Fingerprint(pub(super) u64);

/// A key with what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A flow of the kernel's forwarding.
    Flow(Flow),
    /// A client that comes back.
    Sticky {
        /// The target group.
        group: NameId,
        /// The client.
        source: Address,
        /// Where it is sent.
        target: NameId,
    },
    /// A session of the UDP proxy.
    UdpSession {
        /// The client and what it asked for.
        tuple: Tuple,
        /// The service.
        service: NameId,
        /// Where it is sent.
        target: NameId,
        /// Whether the node that says so has it in a socket. An earlier version than 3 does not say.
        here: bool,
    },
    /// How much a node has admitted.
    Rate {
        /// Whose limit it is.
        service: NameId,
        /// The client; zeros for a limit that all clients share.
        source: Address,
        /// Requests admitted since the node's process began; it only grows. Of a service of the kernel: flows begun in the window that runs, and what
        /// that has left is the entry's lifetime.
        total: u64,
    },
    /// What an operator, or discovery, wants of a target.
    Target {
        /// The target.
        target: NameId,
        /// The shell's code of the administrative state.
        state: u8,
        /// Another weight than the configured one.
        weight: Option<u16>,
    },
    /// What a node's health checks say.
    Health {
        /// The target.
        target: NameId,
        /// The shell's code of the health state.
        state: u8,
    },
    /// What people have said of a target's place in its group.
    Member {
        /// The target.
        target: NameId,
        /// What they have said last.
        said: Membership,
    },
}

/// Whether a target is one of its group's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Membership {
    /// As configuration and discovery say, whatever was said before.
    Given,
    /// No, whatever those say.
    Deleted,
    /// Yes.
    Added(Member),
}

/// A target that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Where it listens.
    pub address: Address,
    /// And at which port.
    pub port: u16,
    /// Its weight.
    pub weight: u16,
    /// Whether it is only used while no other target is usable.
    pub backup: bool,
    /// The zone it is in.
    pub zone: Option<NameId>,
    /// Connections at the same time.
    pub max_connections: Option<u32>,
    /// Whether it is there in the place of one of its name that configuration or discovery have.
    pub instead: bool,
}

/// A flow of the kernel's forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The client and what it asked for.
    pub tuple: Tuple,
    /// The service.
    pub service: NameId,
    /// Where it goes.
    pub target: NameId,
    /// The source port towards the target, 0 where the source is the client.
    pub port: u16,
    /// The state bits of the kernel's flow table.
    pub state: u8,
}

impl Entry {
    /// What names it.
    #[must_use]
    pub const fn key(&self) -> Key {
        match *self {
            Self::Flow(flow) => Key::Flow(flow.tuple),
            Self::Sticky { group, source, .. } => Key::Sticky { group, source },
            Self::UdpSession { tuple, .. } => Key::UdpSession(tuple),
            Self::Rate { service, source, .. } => Key::Rate { service, source },
            Self::Target { target, .. } => Key::Target(target),
            Self::Health { target, .. } => Key::Health(target),
            Self::Member { target, .. } => Key::Member(target),
        }
    }

    /// The names that it refers to; the last is repeated where there is only one.
    pub(super) const fn names(&self) -> [NameId; 2] {
        match *self {
            Self::Flow(Flow { service, target, .. }) | Self::UdpSession { service, target, .. } => {
                [service, target]
            }
            Self::Sticky { group, target, .. } => [group, target],
            Self::Rate { service, .. } => [service; 2],
            Self::Member { target, said: Membership::Added(Member { zone: Some(zone), .. }) } => {
                [target, zone]
            }
            Self::Target { target, .. } | Self::Health { target, .. } | Self::Member { target, .. } => {
                [target; 2]
            }
        }
    }
}

impl Key {
    /// The name that it refers to, if it does.
    pub(super) const fn name(&self) -> Option<NameId> {
        match *self {
            Self::Flow(_) | Self::UdpSession(_) => None,
            Self::Sticky { group: name, .. } | Self::Rate { service: name, .. } => Some(name),
            Self::Target(name) | Self::Health(name) | Self::Member(name) => Some(name),
        }
    }
}

/// An entry and how long it lasts from now on if nothing uses it; `None` for one that does not end by itself.
///
/// Lifetimes travel as what remains, because the clocks of the nodes differ and run at different rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The entry.
    pub entry: Entry,
    /// In whole milliseconds on the wire, 49 days at most.
    pub remaining: Option<Duration>,
}

/// Why an entry is gone from a live table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Its lifetime ran out, or it made room for another one. The peer loses its copy only if this node was the last to change
    /// the entry: the copy of a backup runs out while the active node goes on using the original.
    Expired,
    /// It is over: a connection was closed, an operator took it out. The peer loses its copy whoever changed it before.
    Ended,
}

/// A place in a table from which a scan goes on; empty at the start. Only the shell knows what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);
