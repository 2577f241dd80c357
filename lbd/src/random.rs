//! Numbers that differ from life to life of the process, from what the standard library seeds its hash tables with.

use std::hash::{BuildHasher as _, RandomState};

use common::hash::HashKey;

/// A number.
pub(crate) fn number() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// A key that nobody outside of the process knows.
pub(crate) fn hash_key() -> HashKey {
    let random = RandomState::new();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.hash_one(0_u8).to_ne_bytes());
    bytes[8..].copy_from_slice(&random.hash_one(1_u8).to_ne_bytes());
    HashKey::new(bytes)
}
