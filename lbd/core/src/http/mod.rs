//! HTTP without IO: what a message is, where a request goes, and what is passed on of it.
//!
//! ```text
//! bytes ── framing ──► a head, and where its body ends ── route ──► what becomes of it ── pass_on ──► bytes
//! ```
//!
//! What is ambiguous is refused before anything of it is passed on, and what is passed on is written anew.

pub mod affinity;
pub mod answer;
pub mod auth;
pub mod bounds;
pub mod budget;
pub mod compress;
pub mod conduct;
pub mod cookie;
pub mod fields;
pub mod framing;
pub mod hops;
pub mod origin;
pub mod pace;
pub mod pass_on;
pub mod route;
pub mod short;
pub mod trace;

pub use common::path;
