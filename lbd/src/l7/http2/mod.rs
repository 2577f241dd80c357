//! HTTP/2 (RFC 9113), on both sides: frames, streams and windows are the crate `h2`'s; what a request is and where it goes is decided as
//! for HTTP/1.

mod body;
mod client;
mod fields;
mod request;
mod targets;
mod wire;

pub(super) use body::Incoming;
pub(super) use client::serve;
pub(super) use fields::{Map, fields, size};
pub(super) use request::Asker;
pub(crate) use targets::Multiplexed;
pub(super) use targets::{TargetStream, exclusive, lease};

/// How much of a body a stream may have sent that nobody has taken, in bytes: as much as a connection of HTTP/1 has in its buffer.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// The same of all streams of a client's connection together: of the streams to a target each has its own, see `targets`.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// How much of what a stream is to send may wait for the socket.
const SEND_BUFFER_BYTES: usize = 32 * 1024;
