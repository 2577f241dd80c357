//! The objects that are measured and tested, and running their programs on packets.

use std::io;

use aya::programs::{Program, ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

/// The forwarding programs, as they are committed.
pub const FORWARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lbd/bpf/forward.bpf.o");

/// The programs of the second chance, as they are committed.
pub const CHANCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lbd/bpf/chance.bpf.o");

/// The minimal program and the shim for measuring.
pub const MINIMAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench_l4/minimal.bpf.o");

/// How often a program is loaded when a signal interrupts that.
const TRIES: u32 = 10;

/// Which program of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `forward_tc`
    Tc,
    /// `forward_xdp`
    Xdp,
}

/// What a program returned for a packet, and what it left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `TC_ACT_*` or `XDP_*`.
    pub verdict: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
}

/// `XDP_PASS`
pub const XDP_PASS: u32 = 2;
/// `XDP_TX`
pub const XDP_TX: u32 = 3;
/// `XDP_REDIRECT`
pub const XDP_REDIRECT: u32 = 4;
/// `TC_ACT_UNSPEC`
pub const TC_PASS: u32 = u32::MAX;
/// `TC_ACT_SHOT`
pub const TC_DROP: u32 = 2;
/// `TC_ACT_REDIRECT`
pub const TC_REDIRECT: u32 = 7;

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tc, Self::Xdp];

    /// The program's name in the object.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Tc => "forward_tc",
            Self::Xdp => "forward_xdp",
        }
    }

    /// The verdict that sends a packet out of the interface it came from.
    #[must_use]
    pub const fn sent(self) -> u32 {
        match self {
            Self::Tc => TC_REDIRECT,
            Self::Xdp => XDP_TX,
        }
    }

    /// The verdict that leaves a packet to the stack.
    #[must_use]
    pub const fn passed(self) -> u32 {
        match self {
            Self::Tc => TC_PASS,
            Self::Xdp => XDP_PASS,
        }
    }

    /// Runs the program once on a packet.
    ///
    /// # Errors
    /// What the kernel said.
    ///
    /// # Panics
    /// When the object does not have the program.
    pub fn run(self, object: &Ebpf, packet: &[u8]) -> Result<Outcome, ProgramError> {
        let mut room = vec![0; packet.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut room);
        let program = object.program(self.program()).expect("the object has both programs");
        let result = match self {
            Self::Tc => <&SchedClassifier>::try_from(program)?.test_run(options)?,
            Self::Xdp => <&Xdp>::try_from(program)?.test_run(options)?,
        };
        room.truncate(result.data_size_out as usize);
        Ok(Outcome { verdict: result.return_value, packet: room })
    }
}

/// Loads some of the forwarding programs, with room for a number of flows.
///
/// # Errors
/// What aya or the kernel said; the verifier's log with it.
///
/// # Panics
/// When the object does not have a program.
pub fn load(flows: u32, kinds: &[Kind]) -> anyhow::Result<Ebpf> {
    let mut object = EbpfLoader::new().map_max_entries("flows", flows).load_file(FORWARD)?;
    for kind in kinds {
        verify(object.program_mut(kind.program()).expect("the object has both programs"))?;
    }
    Ok(object)
}

/// Has the kernel take a program of ours.
///
/// # Errors
/// What aya or the kernel said; the verifier's log with it.
pub fn verify(program: &mut Program) -> Result<(), ProgramError> {
    let mut tries = 1;
    loop {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        match loaded {
            // A signal came while the kernel was at it, as of a child that ended.
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock && tries < TRIES =>
            {
                tries += 1;
            }
            loaded => return loaded,
        }
    }
}
