//! One host: its power, its clocks, its `vrrpd` with the shell around the core, and the warden beside it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::ipc::{LbdHealth, Role};
use common::time::{Duration, Instant};
use vrrpd_core::node::{Action, InterfaceState, Node, Slot};
use vrrpd_core::packet::Family;
use vrrpd_core::track::LbdState;

use super::clock::{Clock, Moment};
use super::fault::Lbd;
use super::network::Packet;
use super::variant::{INTERFACE, Variant};

/// Packets that wait in each socket at most; more are lost.
pub(super) const SOCKET_MAX: usize = 256;

/// Whether the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    Off,
    On,
    Paused,
}

/// Whether `vrrpd` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Gone,
    Running,
    Stopped,
}

/// Something the shell has to tell the core, besides packets and timeouts.
#[derive(Clone, Debug)]
pub(super) enum Notice {
    Interface,
    Lbd,
    Behind(bool),
    Added(IpAddr),
    Removed(IpAddr),
    Switchover(String),
    Maintenance(bool),
    Reload(Box<Variant>),
    Shutdown,
}

/// What the warden watches, as of the last beat.
#[derive(Clone, Debug)]
pub(super) struct Guarded {
    pub(super) last_beat: Instant,
    pub(super) limit: Duration,
    /// Names the look at it that is to come.
    pub(super) look: u64,
    pub(super) peer_boot: u64,
    pub(super) peer_stamp: u64,
}

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) index: usize,
    pub(super) clock: Clock,
    pub(super) machine: Machine,
    pub(super) process: Process,
    pub(super) node: Option<Node>,
    /// Whether `vrrpd` was told to end and has not yet.
    pub(super) ending: bool,
    /// Whether it is to be started again after that.
    pub(super) start_again: bool,
    pub(super) variant: Variant,
    /// Counts the lives of `vrrpd`; what was scheduled for an earlier one is void.
    pub(super) life: u64,
    /// Counts wake-ups; only the latest counts.
    pub(super) wake: u64,
    /// The action in hand: the others wait in the core.
    pub(super) todo: Option<Action>,
    /// Whether it is being carried out.
    pub(super) acting: bool,
    /// The roles before the inputs whose actions are under way.
    pub(super) roles_before: BTreeMap<Slot, Role>,
    /// Actions since the last input.
    pub(super) actions: usize,
    /// Whether the checkers have seen the host since it last did something.
    pub(super) rest_checked: bool,
    /// Adverts, frames, peer datagrams.
    pub(super) sockets: [VecDeque<Packet>; 3],
    pub(super) notices: VecDeque<Notice>,
    pub(super) fired: BTreeSet<Slot>,
    pub(super) guarded: BTreeMap<Slot, Guarded>,
    pub(super) held: BTreeSet<IpAddr>,
    pub(super) carrier: bool,
    pub(super) gateway: bool,
    pub(super) acquire_fails: bool,
    pub(super) lbd: Lbd,
    /// What `lbd` said last of whether it lacks something, if it says that at all.
    pub(super) behind: Option<bool>,
    /// When its `vrrpd` last counted it as one that lacks something, if ever.
    pub(super) behind_at: Option<Moment>,
    pub(super) maintenance: bool,
}

impl Host {
    pub(super) fn new(index: usize, clock: Clock, variant: Variant) -> Self {
        Self {
            index,
            clock,
            machine: Machine::Off,
            process: Process::Gone,
            node: None,
            ending: false,
            start_again: false,
            variant,
            life: 0,
            wake: 0,
            todo: None,
            acting: false,
            roles_before: BTreeMap::new(),
            actions: 0,
            rest_checked: true,
            sockets: Default::default(),
            notices: VecDeque::new(),
            fired: BTreeSet::new(),
            guarded: BTreeMap::new(),
            held: BTreeSet::new(),
            carrier: true,
            gateway: true,
            acquire_fails: false,
            lbd: Lbd::Healthy,
            behind: None,
            behind_at: None,
            maintenance: false,
        }
    }

    /// Whether `vrrpd` gets to do anything.
    pub(super) fn runs(&self) -> bool {
        self.machine == Machine::On && self.process == Process::Running
    }

    /// Whether the kernel answers on the LAN.
    pub(super) fn answers(&self) -> bool {
        self.machine == Machine::On && self.carrier
    }

    pub(super) const fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, if self.index == 0 { 0xa } else { 0xb }]
    }

    pub(super) fn interface_state(&self) -> InterfaceState {
        let number = if self.index == 0 { 2 } else { 3 };
        InterfaceState {
            mac: self.mac(),
            up: self.carrier,
            ipv4: Some(Ipv4Addr::new(192, 0, 2, number)),
            link_local: Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number))),
            forwarding: false,
        }
    }

    pub(super) fn lbd_state(&self) -> LbdState {
        let alive = |workers_alive, services: &[&str]| {
            LbdState::Alive(LbdHealth {
                workers_alive,
                workers_expected: 2,
                services_without_targets: services.iter().map(ToString::to_string).collect(),
            })
        };
        match self.lbd {
            Lbd::Absent => LbdState::Absent,
            Lbd::Degraded => alive(1, &[]),
            Lbd::NoTargets => alive(2, &["shop"]),
            Lbd::Healthy => alive(2, &[]),
        }
    }

    /// How unhealthy the host truly is, by the weights of [`vrrpd_core::track::Ailments`].
    pub(super) fn severity(&self) -> u8 {
        let lbd = match self.lbd {
            _ if !self.variant.track_lbd => 0,
            Lbd::Absent => 16,
            Lbd::Degraded => 2,
            Lbd::NoTargets => 1,
            Lbd::Healthy => 0,
        };
        let gateway = if self.variant.track_gateway && !self.gateway { 8 } else { 0 };
        let maintenance = if self.maintenance { 32 } else { 0 };
        lbd + gateway + maintenance
    }

    /// A packet reached a socket; false when it did not fit.
    pub(super) fn enqueue(&mut self, packet: Packet) -> bool {
        let socket = match packet {
            Packet::Advert { .. } => &mut self.sockets[0],
            Packet::Frame(_) => &mut self.sockets[1],
            Packet::Peer(_) => &mut self.sockets[2],
        };
        let fits = socket.len() < SOCKET_MAX;
        if fits {
            socket.push_back(packet);
        }
        fits
    }

    /// The addresses of a virtual router as configured here.
    pub(super) fn addresses(&self, instance: &str, family: Family) -> Vec<IpAddr> {
        let Some(node) = &self.node else { return Vec::new() };
        let found = node.slots().find(|(_, router)| router.instance == instance && router.family == family);
        found.map_or_else(Vec::new, |(_, router)| router.advertised())
    }

    /// Notes the roles before an input; while actions of an earlier one are under way, that a role was active at one of them.
    pub(super) fn note_roles(&mut self) {
        let Some(node) = &self.node else { return };
        for (slot, _) in node.slots() {
            let role = node.role(slot).unwrap_or_default();
            let noted = self.roles_before.entry(slot).or_insert(role);
            if role == Role::Active {
                *noted = role;
            }
        }
    }

    /// `vrrpd` is gone: what it had in its hands is lost.
    pub(super) fn forget_process(&mut self) {
        self.process = Process::Gone;
        self.node = None;
        self.ending = false;
        self.start_again = false;
        self.life += 1;
        self.todo = None;
        self.roles_before.clear();
        self.acting = false;
        self.sockets = Default::default();
        self.notices.clear();
        self.fired.clear();
    }

    /// What a starting shell tells its core first.
    pub(super) fn first_notices(&mut self) {
        self.notices.push_back(Notice::Interface);
        if self.lbd != Lbd::Absent {
            // It says this first.
            self.notices.extend(self.behind.map(Notice::Behind));
        }
        self.notices.push_back(Notice::Lbd);
    }

    /// The name of the interface with the virtual addresses.
    pub(super) const fn interface() -> &'static str {
        INTERFACE
    }
}
