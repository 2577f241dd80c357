//! How many requests may be sent again: where most fail, asking everything twice makes it worse.

use common::time::Instant;

/// For each request so many thousandths of a second try are earned: a fifth.
const EARNED: u64 = 200;

/// What a second try costs.
const COST: u64 = 1000;

/// So many second tries can be saved up.
const SAVED_MAX: u64 = 1000 * COST;

/// And so many are given each second, for services with few requests.
const GIVEN_PER_SECOND: u64 = 10 * COST;

/// At the begin, and again after a long time without requests, so many are there.
const RESERVE: u64 = 100 * COST;

/// The second tries that a worker may make for a service.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    saved: u64,
    /// Up to when the given ones have been given.
    given: Option<Instant>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { saved: RESERVE, given: None }
    }
}

impl RetryBudget {
    /// A request has come.
    pub fn earn(&mut self) {
        self.saved = (self.saved + EARNED).min(SAVED_MAX);
    }

    /// Whether a second try is left, as far as that is known without a look at the clock.
    #[must_use]
    pub const fn has_one(&self) -> bool {
        self.saved >= COST
    }

    /// Takes a second try out, if there is one.
    #[must_use]
    pub fn spend(&mut self, now: Instant) -> bool {
        let passed = now - *self.given.get_or_insert(now);
        let earned = passed.as_millis().saturating_mul(u128::from(GIVEN_PER_SECOND)) / 1000;
        if earned > 0 {
            self.given = Some(now);
            let earned = u64::try_from(earned).unwrap_or(u64::MAX).min(RESERVE.saturating_sub(self.saved));
            self.saved += earned;
        }
        match self.saved.checked_sub(COST) {
            Some(rest) => {
                self.saved = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::time::Duration;

    fn spent(budget: &mut RetryBudget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.spend(now)).count()
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_sent_again() {
        let (mut budget, now) = (RetryBudget::default(), Instant::ZERO);
        assert_eq!(spent(&mut budget, now), 100);
        assert!(!budget.spend(now));
        for _ in 0..500 {
            budget.earn();
        }
        assert_eq!(spent(&mut budget, now), 100);
        for _ in 0..1_000_000 {
            budget.earn();
        }
        assert_eq!(spent(&mut budget, now), 1000, "no more is saved up");
    }

    #[test]
    fn some_are_given_with_time_up_to_the_reserve() {
        let (mut budget, mut now) = (RetryBudget::default(), Instant::ZERO);
        assert_eq!(spent(&mut budget, now), 100);
        now = now + Duration::from_secs(1);
        assert_eq!(spent(&mut budget, now), 10);
        now = now + Duration::from_millis(250);
        assert_eq!(spent(&mut budget, now), 2);
        now = now + Duration::from_secs(3600);
        assert_eq!(spent(&mut budget, now), 100);
    }
}
