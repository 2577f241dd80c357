//! Nanoseconds for a packet: a shim restores the packet and calls what is measured; what it takes itself is subtracted.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, PerCpuArray, ProgramArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::time::{ClockId, clock_gettime};

use super::object::{Kind, MINIMAL, XDP_TX};
use super::world::{MAC, World};

/// TCP's flags
pub const SYN: u32 = 2;
/// TCP's flags
pub const ACK: u32 = 16;

/// Bytes that the shim restores, and of a packet.
const FRAME_LENGTH: usize = 64;
/// The length of packets: as short as Ethernet has them, and what the shim restores fits.
const PACKET_LENGTH: u32 = 64;
/// What all packets are for.
pub const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 80);

/// The shim with its frames.
pub struct Meter {
    object: Ebpf,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minimal {
    /// Returns at once.
    Nothing,
    /// One look-up, one MAC rewrite.
    Known,
    /// The same, where a miss becomes a flow.
    New,
}

impl Minimal {
    const fn program(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Known => "minimal",
            Self::New => "minimal_new",
        }
    }
}

/// Which packets, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Packets {
    /// The first flow.
    pub first: u32,
    /// Before which flow the next round begins.
    pub end: u32,
    /// Flags of all.
    pub flags: u32,
    /// How many packets.
    pub repeat: u32,
}

impl Packets {
    /// Each of some flows once.
    #[must_use]
    pub const fn once(first: u32, end: u32, flags: u32) -> Self {
        Self { first, end, flags, repeat: end - first }
    }
}

/// Whom a packet of a flow comes from. Flows are in no order that a table or a cache could make use of.
#[must_use]
pub const fn client(number: u32) -> SocketAddrV4 {
    let mixed = number.wrapping_mul(0x9e37_79b1) ^ 0x5bd1_e995;
    // Clients of 10.0.0.0/12, each with some ports.
    let [first, second, third, fourth] = (0x0a00_0000 | mixed >> 12).to_be_bytes();
    let [_, _, high, low] = (0x8000 | mixed & 0xfff).to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(first, second, third, fourth), u16::from_be_bytes([high, low]))
}

/// The largest segment that clients say they take.
pub const MSS: u16 = 1460;

/// A TCP packet of a flow to a service, by way of a host, with a largest segment as a SYN has one: in others nothing looks for it.
fn frame(number: u32, host: [u8; 6], service: SocketAddrV4) -> [u8; FRAME_LENGTH] {
    let client = client(number);
    let mut bytes = [0; FRAME_LENGTH];
    bytes[..6].copy_from_slice(&host);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
    bytes[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 6]);
    bytes[26..30].copy_from_slice(&client.ip().octets());
    bytes[30..34].copy_from_slice(&service.ip().octets());
    bytes[34..36].copy_from_slice(&client.port().to_be_bytes());
    bytes[36..38].copy_from_slice(&service.port().to_be_bytes());
    bytes[46] = 0x60;
    bytes[54..56].copy_from_slice(&[2, 4]);
    bytes[56..58].copy_from_slice(&MSS.to_be_bytes());
    bytes
}

/// What comes back to the host from where a frame has gone.
fn answered(sent: &[u8; FRAME_LENGTH]) -> [u8; FRAME_LENGTH] {
    let mut bytes = *sent;
    bytes[..6].copy_from_slice(&MAC);
    bytes[6..12].copy_from_slice(&sent[..6]);
    bytes[22] = 64;
    for (to, from) in [(26..30, 30..34), (30..34, 26..30), (34..36, 36..38), (36..38, 34..36)] {
        bytes[to].copy_from_slice(&sent[from]);
    }
    bytes
}

impl Meter {
    /// With frames of so many flows.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(flows: u32) -> Result<Self> {
        Self::to(flows, MAC, VIP)
    }

    /// With frames of so many flows to another service, by way of a host.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn to(flows: u32, host: [u8; 6], service: SocketAddrV4) -> Result<Self> {
        let mut object = EbpfLoader::new().map_max_entries("known", flows.max(1 << 20)).load_file(MINIMAL)?;
        for name in ["shim", "nothing", "minimal", "minimal_new"] {
            let program = object.program_mut(name).with_context(|| format!("no program {name}"))?;
            <&mut Xdp>::try_from(program)?.load()?;
        }
        let map = object.map_mut("frames").context("no map frames")?;
        let mut frames: Array<_, [u8; FRAME_LENGTH]> = map.try_into()?;
        for number in 0..flows {
            frames.set(number, frame(number, host, service), 0)?;
        }
        Ok(Self { object })
    }

    /// Has the frame of a flow to [`VIP`] be its target's answer from now on. The flow is known.
    ///
    /// # Errors
    /// What the kernel said, or that the flow's packets are not forwarded.
    pub fn answer(&mut self, world: &World, number: u32) -> Result<()> {
        let outcome = Kind::Xdp.run(&world.object, &frame(number, MAC, VIP))?;
        ensure!(outcome.verdict == XDP_TX, "the verdict on a flow's packet is {}", outcome.verdict);
        let sent =
            <&[u8; FRAME_LENGTH]>::try_from(outcome.packet.as_slice()).context("it has another length")?;
        let map = self.object.map_mut("frames").context("no map frames")?;
        let mut frames: Array<_, [u8; FRAME_LENGTH]> = map.try_into()?;
        Ok(frames.set(number, answered(sent), 0)?)
    }

    /// Has the shim at an interface of the calling thread's network, which nothing comes to. The kernel knows it then as a program that
    /// runs; else each run would wait until every processor has taken notice of it, and once more of its end.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn stay_known(&mut self, interface: u32) -> Result<()> {
        let shim = self.object.program_mut("shim").context("no program shim")?;
        <&mut Xdp>::try_from(shim)?.attach_to_if_index(interface, XdpMode::Skb)?;
        Ok(())
    }

    /// Runs a program on packets: nanoseconds of the thread for each, with the shim's own.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn run(&mut self, program: &ProgramFd, packets: Packets) -> Result<f64> {
        let map = self.object.map_mut("measured").context("no map measured")?;
        ProgramArray::try_from(map)?.set(0, program, 0)?;
        let map = self.object.map_mut("runs").context("no map runs")?;
        let mut runs: Array<_, [u32; 5]> = map.try_into()?;
        runs.set(0, [packets.first, packets.end, packets.first, PACKET_LENGTH, packets.flags], 0)?;
        let shim = self.object.program("shim").context("no program shim")?;
        let mut options = TestRunOptions::new();
        let data = [0; PACKET_LENGTH as usize];
        options.data_in = Some(&data);
        options.repeat = packets.repeat;
        let before = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        <&Xdp>::try_from(shim)?.test_run(options)?;
        let after = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let nanoseconds = std::time::Duration::from(after) - std::time::Duration::from(before);
        Ok(nanoseconds.as_secs_f64() * 1e9 / f64::from(packets.repeat))
    }

    /// Measures one of the minimal programs; nothing is subtracted.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn minimal(&mut self, which: Minimal, packets: Packets) -> Result<f64> {
        let program = self.object.program(which.program()).context("no minimal program")?;
        let program = <&Xdp>::try_from(program)?.fd()?.try_clone()?;
        self.run(&program, packets)
    }

    /// Measures the forwarding program; nothing is subtracted. Every packet has to be forwarded.
    ///
    /// # Errors
    /// What the kernel said, or that packets were not forwarded.
    pub fn forwarding(&mut self, world: &World, packets: Packets) -> Result<f64> {
        let program = world.object.program(Kind::Xdp.program()).context("no forwarding program")?;
        let program = <&Xdp>::try_from(program)?.fd()?.try_clone()?;
        let before = forwarded(world)?;
        let nanoseconds = self.run(&program, packets)?;
        let done = forwarded(world)? - before;
        let asked = u64::from(packets.repeat);
        ensure!(done == asked, "{done} of {asked} packets were forwarded; dropped: {:?}", world.all_drops()?);
        Ok(nanoseconds)
    }
}

/// Packets that service 1 has had, either way.
fn forwarded(world: &World) -> Result<u64> {
    let map = world.object.map("service_stats").context("no map service_stats")?;
    let stats: PerCpuArray<_, [u64; 6]> = map.try_into()?;
    Ok(stats.get(&1, 0)?.iter().map(|of_processor| of_processor[0] + of_processor[2]).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_a_largest_segment_and_answers_their_ends_the_other_way_round() {
        let sent = frame(7, MAC, VIP);
        // 14 of Ethernet, 20 of IP, and six words of TCP, of which the last is the option.
        assert_eq!((sent[46] >> 4, &sent[54..58]), (6, &[2, 4, 0x05, 0xb4][..]));
        let back = answered(&sent);
        let ends = |bytes: &[u8]| (bytes[26..30].to_vec(), bytes[34..36].to_vec());
        let others = |bytes: &[u8]| (bytes[30..34].to_vec(), bytes[36..38].to_vec());
        assert_eq!((ends(&back), others(&back)), (others(&sent), ends(&sent)));
        assert_eq!((&back[..6], &back[6..12]), (&MAC[..], &sent[..6]));
    }
}
