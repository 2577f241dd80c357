//! The pair's one configuration file: parsed, checked as a whole, every error reported at once.

mod types;

pub use types::*;
