//! The structs of the header.

use std::net::SocketAddr;

use common::hash::HashKey;

use super::bytes::twins;
use super::{Abi, Address, Be16, CANDIDATES_MAX, HALF_OPEN_WAYS, RANGES_MAX, SlotControl};

twins! {
    /// `config[0]`.
    "config" Config {
        /// The key of SipHash-2-4, as two little-endian words; see [`Config::set_hash_key`].
        hash_key: [u64; 2],
        /// From the kernel's jiffies to ticks, times 2³²; see [`ticks_multiplier`].
        ticks_multiplier: u64,
        /// Length of a jiffy.
        jiffy_ns: u64,
        /// What the clock of boot time is ahead of all jiffies together; wraps.
        boot_offset_ns: u64,
        /// So long a former owner forwards the flows that it knows.
        drain_ns: u64,
        /// `CONFIG_*`.
        flags: u32,
        /// New flows that a processor stores in a tick.
        new_flows_per_tick: u32,
        /// Every so many packets one goes to `events`; 0 for none.
        trace_every: u32,
        /// 0 or 1.
        node: u8,
        /// Zeros.
        spare: [u8; 3],
    }

    /// `instances[index]`.
    "instance" Instance {
        /// Until when this node owns its VIPs, in nanoseconds of `CLOCK_BOOTTIME`; 0 if it never did, or [`OWNED_ALWAYS`].
        ///
        /// [`OWNED_ALWAYS`]: super::OWNED_ALWAYS
        until: u64,
    }

    /// Ports of a VIP that belong to a service.
    "range" Range {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
        /// Index of the service.
        service: u16,
        /// IP's number.
        protocol: u8,
        /// Zero.
        spare: u8,
    }

    /// `vips`, by address.
    "vip" Vip {
        /// Its number for slots.
        index: u16,
        /// Index of its instance.
        instance: u8,
        /// How many of `ranges` count.
        ranges_count: u8,
        /// Zero.
        spare: u32,
        /// The first that fits decides.
        ranges: [Range; RANGES_MAX],
    }

    /// `vip_addresses[index]`.
    "vip_address" VipAddress {
        /// The VIP.
        address: Address,
        /// Index of its instance.
        instance: u8,
        /// Zeros.
        spare: [u8; 3],
        /// The interface by which the other node is reached in the VIP's network; 0 where it is not known.
        other_ifindex: u32,
        /// The other node's address there.
        other_mac: [u8; 6],
        /// This node's.
        own_mac: [u8; 6],
        /// Until this tick the other node may have begun flows of this VIP that are not known here; 0 for never.
        other_until: u32,
    }

    /// Value of `listeners`.
    "listening" Listening {
        /// Index of the service.
        service: u16,
        /// Number of the VIP.
        vip: u16,
    }

    /// Key of `listeners`.
    "listener" Listener {
        /// The VIP.
        address: Address,
        /// The port.
        port: Be16,
        /// IP's number.
        protocol: u8,
        /// Zero.
        spare: u8,
    }

    /// `services[index]`.
    "service" Service {
        /// `MODE_*`; 0 for a service that is not there.
        mode: u8,
        /// Index of its instance.
        instance: u8,
        /// Index of its ring.
        ring: u16,
        /// `SERVICE_*`.
        flags: u32,
        /// Time-out of established flows.
        established_ticks: u32,
        /// Of flows of datagrams that went on after the first one.
        udp_ticks: u32,
        /// Of flows that the client has not confirmed.
        half_open_ticks: u32,
        /// Of flows that are being closed.
        closing_ticks: u32,
        /// Of flows that were reset.
        reset_ticks: u32,
        /// How long a client's target is remembered.
        affinity_ticks: u32,
        /// New flows of an address in a window.
        source_rate: u32,
        /// The window.
        source_rate_ticks: u32,
        /// Until then flows that are not known here may be the other node's, which chooses from `other_rings[ring]`; 0 for never.
        other_until: u32,
        /// The largest MSS of SYNs, which pass both ways with nat; 0 for any.
        mss_max: u16,
        /// The number in the keys of `sources`: one for all numbers of a service.
        counts_as: u16,
    }

    /// `targets[index]`.
    "target" Target {
        /// `TARGET_*`.
        state: u8,
        /// `WAY_*`.
        way: u8,
        /// 0 for the one that the client asked for.
        port: Be16,
        /// Index of its endpoint.
        endpoint: u16,
        /// The largest IP packet on the way there, without the tunnel's headers.
        mtu: u16,
        /// The interface; 0 while the next hop is unknown.
        ifindex: u32,
        /// The next hop's.
        destination_mac: [u8; 6],
        /// The interface's.
        source_mac: [u8; 6],
        /// The target's, or the tunnel's far end.
        address: Address,
        /// The tunnel's near end.
        source: Address,
        /// Destination port of generic UDP encapsulation.
        gue_port: Be16,
        /// Zero.
        spare: u16,
    }

    /// Key of `flows`: the client's packet as it arrives. Hashed by [`HashKey::flow`].
    "flow_key" FlowKey {
        /// The client's.
        source: Address,
        /// The VIP.
        destination: Address,
        /// The client's.
        source_port: Be16,
        /// The service's.
        destination_port: Be16,
        /// IP's number.
        protocol: u8,
        /// Zeros.
        spare: [u8; 3],
    }

    /// Value of `flows`.
    "flow" Flow {
        /// Tick of the last packet.
        seen: u32,
        /// Index of its target.
        target: u16,
        /// Index of its service.
        service: u16,
        /// Source port towards the target, if that is not the client's.
        port: Be16,
        /// `STATE_*` bits.
        state: u8,
        /// 1: as the other node has told, and not used here since.
        copied: u8,
        /// Counts changes.
        generation: u32,
    }

    /// What the ring `flow_events` holds.
    "flow_event" FlowEvent {
        /// Whose it is.
        key: FlowKey,
        /// What it has become.
        flow: Flow,
    }

    /// A flow that the client has not confirmed.
    "half_open_way" HalfOpenWay {
        /// Whose it is.
        key: FlowKey,
        /// What it is.
        flow: Flow,
    }

    /// `half_open[set]`.
    "half_open_set" HalfOpenSet {
        /// The oldest makes room.
        ways: [HalfOpenWay; HALF_OPEN_WAYS],
    }

    /// Key of `endpoints`.
    "endpoint_key" EndpointKey {
        /// The target's.
        address: Address,
        /// 0 for targets without a port of their own.
        port: Be16,
        /// IP's number.
        protocol: u8,
        /// Zero.
        spare: u8,
    }

    /// A VIP and port that clients of an endpoint may have used.
    "candidate" Candidate {
        /// The VIP.
        vip: Address,
        /// 0 for the same as the target's.
        port: Be16,
        /// Index of the service.
        service: u16,
    }

    /// Value of `endpoints`.
    "endpoint" Endpoint {
        /// Of its slots; 0 for none.
        index: u16,
        /// How many of `candidates` count.
        candidates_count: u16,
        /// Index of the target that answers from here; 0 if there are several.
        target: u16,
        /// Zero.
        spare: u16,
        /// For services that leave the client's address.
        candidates: [Candidate; CANDIDATES_MAX],
    }

    /// `slots[endpoint][port - NAT_PORT_FIRST]`. An IPv6 client's whole address is in `slots[ENDPOINTS_MAX + endpoint]`, in the same place.
    "slot" Slot {
        /// See [`SlotControl`].
        control: u64,
        /// The last four bytes of the client's address: of IPv4 all of it.
        client: [u8; 4],
        /// The client's port.
        client_port: Be16,
        /// The port that the client asked for.
        vip_port: Be16,
    }

    /// Key of `fragments`.
    "fragment_key" FragmentKey {
        /// Of the datagram.
        source: Address,
        /// Of the datagram.
        destination: Address,
        /// Of the datagram.
        identification: u32,
        /// IP's number.
        protocol: u8,
        /// Zeros.
        spare: [u8; 3],
    }

    /// Value of `fragments`.
    "fragment" Fragment {
        /// Of the first fragment.
        source_port: Be16,
        /// Of the first fragment.
        destination_port: Be16,
        /// Its tick.
        seen: u32,
    }

    /// Key of `acl`.
    "acl_key" AclKey {
        /// 16 bits of the service and those of the network.
        prefix_length: u32,
        /// Index of the service.
        service: Be16,
        /// The network.
        address: Address,
        /// Zeros, which the C compiler adds and no look-up sees.
        spare: [u8; 2],
    }

    /// Value of `acl`.
    "acl" Acl {
        /// 1 for yes, 0 for no.
        allowed: u32,
    }

    /// Key of `sources`.
    "source_key" SourceKey {
        /// The client's.
        address: Address,
        /// Index of the service.
        service: u16,
        /// Zero.
        spare: u16,
    }

    /// Value of `sources`.
    "source" Source {
        /// Which window it counts.
        window: u32,
        /// New flows in it.
        count: u32,
    }

    /// Value of `other_sources`.
    "other_source" OtherSource {
        /// The tick at which the other node's window ends.
        until: u32,
        /// New flows in it.
        count: u32,
    }

    /// Key of `affinity`.
    "affinity_key" AffinityKey {
        /// The client's.
        address: Address,
        /// Index of the ring.
        ring: u16,
        /// Zero.
        spare: u16,
    }

    /// Value of `affinity`.
    "affinity" Affinity {
        /// The tick at which it is forgotten.
        expires: u32,
        /// Index of the target.
        target: u16,
        /// Zero.
        spare: u16,
    }

    /// `links[ifindex]`.
    "link" Link {
        /// The interface's.
        mac: [u8; 6],
        /// `LINK_*`.
        flags: u8,
        /// Zero.
        spare: u8,
        /// The largest IP packet there.
        mtu: u32,
    }

    /// What the ring `next_hops` carries: the next hop on the way to a client, where it is not known.
    "next_hop" NextHop {
        /// Whose Ethernet address it is: a gateway's, or the client's own.
        address: Address,
        /// The interface.
        ifindex: u32,
        /// Zero.
        spare: u32,
    }

    /// `service_stats[index]`, one for each processor.
    "service_stats" ServiceStats {
        /// From clients.
        packets_in: u64,
        /// From clients.
        bytes_in: u64,
        /// From targets.
        packets_out: u64,
        /// From targets.
        bytes_out: u64,
        /// Flows begun.
        new_flows: u64,
        /// Those that were not stored.
        unstored_flows: u64,
    }

    /// `target_stats[index]`, one for each processor.
    "target_stats" TargetStats {
        /// From clients.
        packets_in: u64,
        /// From clients.
        bytes_in: u64,
        /// From the target.
        packets_out: u64,
        /// From the target.
        bytes_out: u64,
        /// Flows begun.
        new_flows: u64,
    }

    /// `check_stats[0]`, one for each processor.
    "check_stats" CheckStats {
        /// Packets of health checks to targets.
        sent: u64,
        /// Answers to them.
        returned: u64,
        /// Packets of health checks that could not be sent.
        dropped: u64,
    }

    /// What `events` carries: a packet of which a sample is taken.
    "event" Event {
        /// Of the monotonic clock.
        time_ns: u64,
        /// Of the packet.
        key: FlowKey,
        /// Where it arrived.
        ifindex: u32,
        /// Bytes.
        length: u32,
        /// Index of the service.
        service: u16,
        /// Index of the target.
        target: u16,
        /// See [`DropReason`].
        reason: u8,
        /// See [`Verdict`].
        verdict: u8,
        /// As in the packet.
        tcp_flags: u8,
        /// Zero.
        spare: u8,
    }
}

impl Slot {
    /// Whether both are of one client, asking for the same; of IPv6 clients as far as a slot has their addresses.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        let asked =
            |slot: &Self| (slot.client, slot.client_port, SlotControl::of(slot.control).vip, slot.vip_port);
        asked(self) == asked(other)
    }

    /// Its bytes as words, the first of which is the control word.
    #[must_use]
    pub const fn to_words(self) -> [u64; 2] {
        let [a, b, c, d] = self.client;
        let ([e, f], [g, h]) = (self.client_port.0.to_be_bytes(), self.vip_port.0.to_be_bytes());
        [self.control, u64::from_ne_bytes([a, b, c, d, e, f, g, h])]
    }

    /// The slot of these words.
    #[must_use]
    pub const fn of_words([control, whose]: [u64; 2]) -> Self {
        let [a, b, c, d, e, f, g, h] = whose.to_ne_bytes();
        Self {
            control,
            client: [a, b, c, d],
            client_port: Be16(u16::from_be_bytes([e, f])),
            vip_port: Be16(u16::from_be_bytes([g, h])),
        }
    }
}

impl Config {
    /// Takes over the key of [`HashKey`].
    pub fn set_hash_key(&mut self, key: &HashKey) {
        self.hash_key = key.words();
    }

    /// What is to be written again where this was written and another one is found now; none if it is there still. How often samples
    /// are taken stays as it was found: whoever looks at packets sets that for a while.
    #[must_use]
    pub fn instead_of(&self, found: &Self) -> Option<Self> {
        let wanted = Self { trace_every: found.trace_every, ..*self };
        (wanted != *found).then_some(wanted)
    }
}

impl FlowKey {
    /// The key of a client's flow.
    #[must_use]
    pub fn new(protocol: u8, client: SocketAddr, service: SocketAddr) -> Self {
        Self {
            source: client.ip().into(),
            destination: service.ip().into(),
            source_port: Be16(client.port()),
            destination_port: Be16(service.port()),
            protocol,
            spare: [0; 3],
        }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        SocketAddr::new(self.source.ip(), self.source_port.0)
    }

    /// What the client asked for.
    #[must_use]
    pub fn service(&self) -> SocketAddr {
        SocketAddr::new(self.destination.ip(), self.destination_port.0)
    }
}
