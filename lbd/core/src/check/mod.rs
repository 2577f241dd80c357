//! Active health checks: what is sent, how an answer is judged, why a check failed, and when the next one is due.
//!
//! The shell connects, times out and moves bytes; what it reads is pushed in here as it comes, cut anywhere. Nothing here
//! holds more than [`http::HEAD_BYTES_MAX`] bytes of what a target sends.

pub mod datagram;
pub mod failure;
pub mod grpc;
pub mod http;
pub mod schedule;

mod chunked;
mod find;

pub use failure::{Failure, Reason, Stage};
pub use find::Pattern;
pub use schedule::Schedule;

/// How a check went.
pub type Verdict = Result<(), Failure>;
