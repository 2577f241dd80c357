//! A node at work, input by input.

#[path = "../harness/mod.rs"]
mod harness;

mod addresses;
mod boot;
mod handover;
mod health;
mod lan;
mod link;
mod ownership;
mod random;
mod reload;
mod silence;
mod stopping;
mod switchover;
