//! Real links on loopback addresses, and what may stand between them.

mod faults;
mod hostile;
mod proxy;
mod refusals;
mod sessions;
mod support;
