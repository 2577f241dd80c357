//! UDP: datagrams from clients to targets and back, in sessions.
//!
//! - A listening socket for each address and worker; the kernel keeps a client with one of them ([`bind`]).
//! - A session is a client's address and port and the address of ours that it sends to; it has a socket of its own that is
//!   connected to its target ([`session`]), and is found in the listening socket's table
//!   ([`lbd_core::udp_sessions`]).
//! - Datagrams are received and sent up to 32 at a time ([`batch`]) by one task for each listening socket
//!   ([`listener`], [`hub`]), and never wait: what cannot be sent at once is dropped and counted.

mod address;
mod batch;
mod bind;
mod drops;
mod hub;
mod listener;
mod readable;
mod session;

pub(crate) use bind::{Sockets, bind_all};
pub(crate) use listener::Listeners;
