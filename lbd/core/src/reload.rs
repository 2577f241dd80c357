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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
