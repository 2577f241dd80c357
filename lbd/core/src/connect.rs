//! What is tried again on another target.

/// What is tried again, from `retry` of the target group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Whether a failed connect is tried on another target.
    pub connect: bool,
    /// Tries in all, the first included; at least 1.
    pub attempts: u32,
}

impl RetryPolicy {
    /// On how many targets a connection is tried at most, each once.
    #[must_use]
    pub fn tries(self) -> u32 {
        if self.connect { self.attempts.max(1) } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_one_try() {
        let tries = |connect, attempts| RetryPolicy { connect, attempts }.tries();
        assert_eq!([tries(true, 3), tries(true, 0), tries(false, 3)], [3, 1, 1]);
    }
}
