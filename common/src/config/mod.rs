//! The pair's one configuration file: parsed, checked as a whole, every error reported at once.
//!
//! ```text
//! text ── toml ──► tree with spans ── raw ──► values, each checked by itself ── resolve ──► Config
//!                                      └────────── problems ─────────┴──► Diagnostics
//! ```
//!
//! The tree is walked by a small reader of our own instead of `serde`, which stops at the first unknown key or wrong
//! type: a person who writes this file wants all mistakes at once. A part of the schema whose feature does not exist
//! yet is checked for its form and then refused as "not available yet", never ignored.

mod diag;
mod load;
mod problem;
mod raw;
mod resolve;
mod types;

use std::path::Path;

pub use diag::{Diagnostic, Diagnostics};
pub use load::{
    ConfigError, KeyFileError, TokenFileError, load, load_and_inspect, load_key, load_targets, load_token,
    read_bytes, read_text,
};
pub use problem::DIAGNOSTIC_CODES;
pub use types::*;

/// Checks the text of a configuration file. `file` is for messages, and its folder is where relative paths start.
///
/// # Errors
///
/// Every error of the text, in its order.
pub fn parse(text: &str, file: &Path) -> Result<Config, Diagnostics> {
    let mut problems = diag::Problems::default();
    let config =
        raw::read(text, &mut problems).and_then(|raw| resolve::resolve(&raw, text, file, &mut problems));
    problems.finish(file, text, config)
}

/// Checks the text of a file of targets: `targets = [...]`, written as in a target group, possibly empty, and nothing else.
///
/// # Errors
///
/// Every error of the text, in its order.
pub fn parse_targets(text: &str, file: &Path) -> Result<Vec<Target>, Diagnostics> {
    let mut problems = diag::Problems::default();
    let targets =
        raw::read_targets(text, &mut problems).and_then(|raw| resolve::resolve_targets(&raw, &mut problems));
    problems.finish(file, text, targets)
}

/// Whether the text can be a target's `id`: at most 64 visible ASCII characters without those that URLs and shells treat
/// specially.
#[must_use]
pub fn is_target_id(text: &str) -> bool {
    !text.is_empty() && raw::is_target_id(text)
}

/// Whether the text can be the name of a zone.
#[must_use]
pub fn is_zone(text: &str) -> bool {
    !text.is_empty() && raw::is_name(text)
}
