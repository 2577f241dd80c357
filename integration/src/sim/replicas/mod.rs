//! The pair with what its `lbd`s tell each other: beside each `vrrpd` of the [world](super::World) runs the core of replication with a
//! shell and tables as simple as they can be. Roles are what the VRRP cores make them, whoever is active writes entries, and each `lbd` says
//! whether it is behind, as the daemons do.
//!
//! ```text
//! story     a seed's run: what is written, what breaks, quiet times
//! pair      both halves in step, the word from `lbd` to `vrrpd`
//!   ├ lbd     a node's replica, shell and tables
//!   └ stream  the connection between them: cut at any byte, silent, refilled with noise, replaced while one end still has it
//! rings     what targets of flows are chosen from
//! check     what has to be where, and the bounds of memory
//! ```
//!
//! Beside what the checkers of the world watch: an entry that was acknowledged is not lost while a node that has it lives; after quiescence
//! both have the same (what was deleted without a tombstone for it after another session), and a change that is made then wins; memory stays
//! within its bounds at any rate; replication's faults change no role; no node chooses targets from another ring before the other node is ready
//! for it, but after a wait or without one in step; nobody who is behind takes the role from a healthy node, be it that its own port on the LAN passes
//! nothing.
//!
//! `TANDEM_SIM_PAIR_SEED=1234 cargo test -p integration --test sim pair_replay -- --nocapture` prints the account of a run.

mod check;
mod lbd;
mod pair;
mod rings;
mod story;
mod stream;

pub use lbd::Flaw;
pub use pair::{NO_TOMBSTONE, Pair};
pub use story::{Draw, run_pair_seed};
