//! What a new configuration changes.

use std::collections::BTreeSet;

/// What becomes of a set of things when another set replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference<T> {
    /// Only in the new set, in order.
    pub added: Vec<T>,
    /// Only in the old set, in order.
    pub removed: Vec<T>,
}

impl<T: Ord + Clone> Difference<T> {
    /// Compares the two sets; what occurs several times in one of them counts once.
    pub fn between(old: impl IntoIterator<Item = T>, new: impl IntoIterator<Item = T>) -> Self {
        let old: BTreeSet<T> = old.into_iter().collect();
        let new: BTreeSet<T> = new.into_iter().collect();
        Self {
            added: new.difference(&old).cloned().collect(),
            removed: old.difference(&new).cloned().collect(),
        }
    }
}

/// A target that was removed, as far as it matters how long it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Whether connections or sessions through this process go on there.
    pub is_open: bool,
    /// Whether flows through the kernel may.
    pub is_in_kernel: bool,
    /// Until when, in milliseconds of the process's clock.
    pub close_at_ms: u64,
}

/// Which removed targets are remembered if there are more than `max`: those where something goes on or may go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// For each whether it is.
    pub kept: Vec<bool>,
    /// How many are forgotten although flows through the kernel may go on there.
    pub ended: usize,
}

impl Remembered {
    /// Of these. Connections and sessions of this process have bounds of their own; of targets with flows through the kernel alone those go first whose
    /// time is over first.
    #[must_use]
    pub fn of(removed: &[Removed], max: usize) -> Self {
        if removed.len() <= max {
            return Self { kept: vec![true; removed.len()], ended: 0 };
        }
        let mut kept: Vec<bool> = removed.iter().map(|it| it.is_open || it.is_in_kernel).collect();
        let ended = kept.iter().filter(|is_kept| **is_kept).count().saturating_sub(max);
        let all = removed.iter().enumerate();
        let mut kernel: Vec<usize> =
            all.filter(|(_, it)| it.is_in_kernel && !it.is_open).map(|(place, _)| place).collect();
        kernel.sort_by_key(|place| removed[*place].close_at_ms);
        kernel.truncate(ended);
        kernel.iter().for_each(|place| kept[*place] = false);
        Self { kept, ended: kernel.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flows_through_the_kernel_keep_targets_that_are_removed() {
        let target = |is_open, is_in_kernel, close_at_ms| Removed { is_open, is_in_kernel, close_at_ms };
        let removed = [
            target(false, true, 30),
            target(false, false, 90),
            target(true, false, 10),
            target(false, true, 20),
            target(true, true, 10),
            target(false, true, 40),
        ];
        let of = |max: usize| {
            let Remembered { kept, ended } = Remembered::of(&removed, max);
            (kept.iter().map(|is_kept| if *is_kept { 'k' } else { '-' }).collect::<String>(), ended)
        };
        let expected =
            [(6, "kkkkkk", 0), (5, "k-kkkk", 0), (4, "k-k-kk", 1), (3, "--k-kk", 2), (0, "--k-k-", 3)];
        for (max, kept, ended) in expected {
            assert_eq!(of(max), (kept.to_owned(), ended), "{max}");
        }
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_new_set(
            old in proptest::collection::btree_set(0_u8..20, 0..20),
            new in proptest::collection::btree_set(0_u8..20, 0..20),
        ) {
            let difference = Difference::between(old.clone(), new.clone());
            let mut now = old.clone();
            for item in &difference.removed {
                prop_assert!(now.remove(item));
            }
            for &item in &difference.added {
                prop_assert!(!old.contains(&item) && now.insert(item));
            }
            prop_assert_eq!(now, new);
        }
    }
}
