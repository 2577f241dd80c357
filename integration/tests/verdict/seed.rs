//! What random packets are drawn by: a seed that is always the same, and one that is another in each run.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use common::rng::Rng;

/// What was found once is found again.
const FIXED: u64 = 0x7461_6e64_656d;

/// The variable that says the other one.
const NAME: &str = "TANDEM_VERDICT_SEED";

/// One for all tests of this run.
static DRAWN: LazyLock<u64> = LazyLock::new(|| match std::env::var(NAME) {
    Ok(text) => text.parse().unwrap_or_else(|_| panic!("{NAME}={text}: a seed is a number of 64 bits")),
    Err(_) => RandomState::new().hash_one(FIXED),
});

/// Has all tests draw the same again, for those that failed to say.
pub(super) fn replay() -> String {
    format!("{NAME}={}", *DRAWN)
}

/// What is drawn in a test.
pub(super) struct Draws([Rng; 2]);

impl Draws {
    pub(super) fn new() -> Self {
        Self([FIXED, *DRAWN].map(Rng::new))
    }

    /// For a round of a test: each third is by the seed of this run.
    pub(super) fn round(&mut self, number: usize) -> &mut Rng {
        &mut self.0[usize::from(number % 3 == 2)]
    }
}
