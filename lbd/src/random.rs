//! Numbers that differ from life to life of the process, from what the standard library seeds its hash tables with.

use std::hash::{BuildHasher as _, RandomState};

use common::hash::HashKey;
use common::key::PairKey;

/// A number.
pub(crate) fn number() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// A secret that nobody outside of the process knows, of the quality that cryptography needs.
///
/// # Errors
/// When the host has no random numbers to give.
pub(crate) fn secret() -> std::io::Result<PairKey> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| std::io::Error::other("the host has no random numbers to give"))?;
    Ok(PairKey::new(bytes))
}

/// A key that nobody outside of the process knows.
pub(crate) fn hash_key() -> HashKey {
    let random = RandomState::new();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.hash_one(0_u8).to_ne_bytes());
    bytes[8..].copy_from_slice(&random.hash_one(1_u8).to_ne_bytes());
    HashKey::new(bytes)
}
