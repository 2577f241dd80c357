//! Medians and extremes.

use std::time::Duration;

/// The median and the largest of some values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread<T> {
    /// The middle one; of an even number the upper of the two in the middle, so that it is never flattering.
    pub median: T,
    /// The largest.
    pub max: T,
}

impl<T: Ord + Copy> Spread<T> {
    /// Of some values; `None` when there are none.
    pub fn of(values: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut values: Vec<T> = values.into_iter().collect();
        values.sort_unstable();
        Some(Self { median: *values.get(values.len() / 2)?, max: *values.last()? })
    }
}

/// Milliseconds as people read them: three digits or so.
#[must_use]
pub fn ms(duration: Duration) -> String {
    let value = duration.as_secs_f64() * 1000.0;
    if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_the_upper_one() {
        assert_eq!(Spread::of([3, 1, 2]), Some(Spread { median: 2, max: 3 }));
        assert_eq!(Spread::of([4, 1, 2, 3]), Some(Spread { median: 3, max: 4 }));
        assert_eq!(Spread::<u8>::of([]), None);
    }

    #[test]
    fn milliseconds_have_three_digits() {
        assert_eq!(ms(Duration::from_micros(1234)), "1.2");
        assert_eq!(ms(Duration::from_micros(99_960)), "100");
        assert_eq!(ms(Duration::from_millis(3600)), "3600");
    }
}
