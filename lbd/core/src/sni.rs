//! Which of a service's rules a server name meets.

use std::collections::HashMap;

/// The rules of a service, looked up in a time that does not depend on how many there are.
#[derive(Clone, Debug, Default)]
pub struct SniRules {
    exact: HashMap<String, usize>,
    /// By what follows the `*.`.
    below: HashMap<String, usize>,
}

impl SniRules {
    /// The rules in their order, each with its names in lower case: `a.example`, or `*.example` for every name that has one
    /// label or more in front of `.example`.
    pub fn new<'a, R>(rules: impl IntoIterator<Item = R>) -> Self
    where
        R: IntoIterator<Item = &'a str>,
    {
        let mut all = Self::default();
        for (index, names) in rules.into_iter().enumerate() {
            for name in names {
                // The first rule that a name meets is the one that counts.
                match name.strip_prefix("*.") {
                    Some(suffix) => all.below.entry(suffix.to_owned()).or_insert(index),
                    None => all.exact.entry(name.to_owned()).or_insert(index),
                };
            }
        }
        all
    }

    /// The first rule that `name`, in lower case, meets.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        let exact = self.exact.get(name).copied();
        // A wildcard takes at least one byte of a label.
        let dots = name.match_indices('.').filter(|&(at, _)| at > 0);
        let below = dots.filter_map(|(at, _)| self.below.get(&name[at + 1..]).copied());
        exact.into_iter().chain(below).min()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(all: &[&[&'static str]]) -> SniRules {
        SniRules::new(all.iter().map(|names| names.iter().copied()))
    }

    #[test]
    fn the_first_rule_wins() {
        let rules = rules(&[&["a.example", "b.example"], &["*.example"], &["*.c.example", "c.example"]]);
        let cases = [
            ("a.example", Some(0)),
            ("b.example", Some(0)),
            ("c.example", Some(1)),
            ("x.y.example", Some(1)),
            ("x.c.example", Some(1)),
            ("example", None),
            (".example", None),
            ("xexample", None),
            ("", None),
        ];
        for (name, rule) in cases {
            assert_eq!(rules.find(name), rule, "{name}");
        }
        assert!(SniRules::default().is_empty() && !rules.is_empty());
    }

    proptest! {
        /// The same as going through the rules one by one.
        #[test]
        fn as_if_in_order(
            names in proptest::collection::vec("(\\*\\.)?[ab](\\.[ab]){0,3}", 0..12), name in "[ab](\\.[ab]){0,4}",
        ) {
            let all = SniRules::new(names.iter().map(|name| [name.as_str()]));
            let meets = |pattern: &String| match pattern.strip_prefix('*') {
                Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
                None => *pattern == name,
            };
            prop_assert_eq!(all.find(&name), names.iter().position(meets));
        }
    }
}
