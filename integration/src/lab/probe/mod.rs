//! Observing a lab from outside its nodes, with threads of the test's own process.

mod connect;
mod report;
mod ticker;

pub use connect::{ConnectMode, ConnectProbe, ConnectSettings};
pub use report::{Attempt, ConnectReport, Failure, Gap};
