//! What the forwarding program does to a packet, beside what it should do.
//!
//! [`packet`] builds packets, [`world`] describes a node (its services, targets and roles), [`oracle`] says what becomes of a packet
//! there, [`harness`] runs the program on the same packet with `BPF_PROG_RUN`, and [`compare`] tells whether the two
//! agree. Neither the oracle nor the checks share code with the program: checksums are always summed up from scratch.

mod bpf;
pub mod checks;
pub mod compare;
mod fill;
pub mod harness;
pub mod icmp;
pub mod oracle;
pub mod packet;
pub mod parse;
pub mod rewrite;
pub mod sample;
pub mod solicitation;
pub mod sums;
pub mod world;
