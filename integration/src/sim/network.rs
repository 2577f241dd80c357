//! The two networks between the nodes: the LAN and the peer link. Each direction has its delay, and loses, repeats,
//! reorders and damages what it carries as it is told to.

use common::rng::Rng;
use common::time::Duration;
use vrrpd_core::packet::Meta;

use super::clock::Moment;

/// Something on its way.
#[derive(Clone, Debug)]
pub enum Packet {
    /// A VRRP advertisement.
    Advert {
        /// What its IP header says.
        meta: Meta,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// An ARP or neighbour discovery frame.
    Frame(Vec<u8>),
    /// A datagram of the peer link.
    Peer(Vec<u8>),
}

/// How well a network carries, in permille of its packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Lost.
    pub loss: u64,
    /// Delivered twice.
    pub duplicates: u64,
    /// Delayed by up to `reorder_span` and overtaken meanwhile.
    pub reordered: u64,
    /// The longest such delay.
    pub reorder_span: Duration,
    /// Damaged: one byte changed, or the end cut off.
    pub damaged: u64,
}

impl Quality {
    /// Nothing is ever lost or damaged.
    pub const CLEAN: Self =
        Self { loss: 0, duplicates: 0, reordered: 0, reorder_span: Duration::ZERO, damaged: 0 };
}

/// One network of two ports.
#[derive(Clone, Debug)]
pub struct Network {
    /// The shortest delay.
    pub delay: Duration,
    /// What is added to it at most.
    pub jitter: Duration,
    /// Its condition.
    pub quality: Quality,
    /// Whether each node's port lets packets out to the network.
    pub out_open: [bool; 2],
    /// Whether each node's port lets packets in to the node.
    pub in_open: [bool; 2],
    last_arrival: [Moment; 2],
}

impl Network {
    /// A network that works.
    #[must_use]
    pub const fn new(delay: Duration, jitter: Duration) -> Self {
        Self {
            delay,
            jitter,
            quality: Quality::CLEAN,
            out_open: [true; 2],
            in_open: [true; 2],
            last_arrival: [Moment::ZERO; 2],
        }
    }

    /// Whether everything arrives, undamaged and in order.
    #[must_use]
    pub fn works(&self) -> bool {
        self.out_open == [true; 2] && self.in_open == [true; 2] && self.quality == Quality::CLEAN
    }

    /// When what node `from` sends now arrives at the other node, and in which state; empty when it is lost on the way.
    /// Whether the receiver's port lets it in shows when it arrives.
    pub fn carry(
        &mut self,
        from: usize,
        now: Moment,
        packet: Packet,
        rng: &mut Rng,
    ) -> Vec<(Moment, Packet)> {
        let quality = self.quality;
        if !self.out_open[from] || rng.chance(quality.loss) {
            return Vec::new();
        }
        let packet = if rng.chance(quality.damaged) { damage(packet, rng) } else { Some(packet) };
        let Some(packet) = packet else { return Vec::new() };
        let copies = if rng.chance(quality.duplicates) { 2 } else { 1 };
        (0..copies).map(|_| (self.arrival(from, now, rng), packet.clone())).collect()
    }

    fn arrival(&mut self, from: usize, now: Moment, rng: &mut Rng) -> Moment {
        let at = now + self.delay + rng.span(Duration::ZERO, self.jitter);
        if rng.chance(self.quality.reordered) {
            return at + rng.span(Duration::ZERO, self.quality.reorder_span);
        }
        let at = at.max(self.last_arrival[from] + Duration::from_nanos(1));
        self.last_arrival[from] = at;
        at
    }
}

/// One byte changed or the end cut off. Ethernet's own checksum catches damaged ARP frames.
fn damage(packet: Packet, rng: &mut Rng) -> Option<Packet> {
    let mut spoil = |mut bytes: Vec<u8>| {
        let length = u64::try_from(bytes.len()).unwrap_or_default();
        let at = usize::try_from(rng.below(length)).unwrap_or_default();
        if rng.chance(300) {
            bytes.truncate(at);
        } else if let Some(byte) = bytes.get_mut(at) {
            // 1 to 255, so that it does change.
            *byte ^= u8::try_from(rng.range(1..256)).unwrap_or(1);
        }
        bytes
    };
    match packet {
        Packet::Advert { meta, bytes } => Some(Packet::Advert { meta, bytes: spoil(bytes) }),
        Packet::Peer(bytes) => Some(Packet::Peer(spoil(bytes))),
        Packet::Frame(_) => None,
    }
}
