//! Which certificate a client gets.

use std::collections::HashMap;

/// What a certificate's key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// ECDSA: what nearly every client takes, and what costs a server least.
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa,
}

/// Two certificates of the same kind for one name, of which the second would never be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twice {
    /// The place of the one that is used.
    pub first: usize,
    /// The place of the other.
    pub second: usize,
    /// The name.
    pub name: String,
}

/// The certificates of a listener, looked up in a time that does not depend on how many there are. They are known by their places in the
/// list that it was made from.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// For each name the certificates, the cheapest to sign with first.
    exact: HashMap<String, Vec<usize>>,
    /// The same by what follows the `*.`.
    below: HashMap<String, Vec<usize>>,
    /// For whoever asks for nothing that there is.
    default: Vec<usize>,
}

impl Choice {
    /// Makes it of the names (in lower case) and the kinds of all certificates. The first one is the default, together with those of
    /// other kinds that have a name in common with it.
    #[must_use]
    pub fn new<'a>(certificates: impl IntoIterator<Item = (&'a [String], KeyKind)>) -> (Self, Vec<Twice>) {
        let mut choice = Self::default();
        let mut twice = Vec::new();
        let mut kinds = Vec::new();
        for (index, (names, kind)) in certificates.into_iter().enumerate() {
            kinds.push(kind);
            let mut shares_default = index == 0;
            let mut told = false;
            for name in names {
                let places = match name.strip_prefix("*.") {
                    Some(parent) => choice.below.entry(parent.to_owned()).or_default(),
                    None => choice.exact.entry(name.clone()).or_default(),
                };
                if places.last() == Some(&index) {
                    continue;
                }
                shares_default |= places.contains(&0);
                match places.iter().find(|place| kinds[**place] == kind) {
                    Some(&first) if !told => {
                        told = true;
                        twice.push(Twice { first, second: index, name: name.clone() });
                    }
                    Some(_) => {}
                    None => places.push(index),
                }
            }
            if shares_default && !choice.default.iter().any(|place| kinds[*place] == kind) {
                choice.default.push(index);
            }
        }
        let lists = choice.exact.values_mut().chain(choice.below.values_mut());
        for places in lists.chain([&mut choice.default]) {
            places.sort_by_key(|place| (kinds[*place], *place));
        }
        (choice, twice)
    }

    /// The place of the certificate for a client that asks for this name, in lower case, and takes what `fits` says. A certificate for
    /// the very name comes before one for all names in its place. If the client takes none of those that there are for it, it gets one
    /// all the same, and the handshake says what is wrong. None only without certificates.
    #[must_use]
    pub fn choose(&self, name: Option<&str>, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name));
        let exact = name.and_then(|name| self.exact.get(name));
        // RFC 9525, section 6.3: a wildcard stands for one label.
        let parent = || Some(name?.split_once('.').filter(|(label, _)| !label.is_empty())?.1);
        let below = || parent().and_then(|parent| self.below.get(parent));
        let of_name = [exact, below()];
        let of_name = || of_name.into_iter().flatten().flatten().copied();
        let default = || self.default.iter().copied();
        // For a name that is known a certificate for another one is no help.
        of_name()
            .find(|place| fits(*place))
            .or_else(|| of_name().next())
            .or_else(|| default().find(|place| fits(*place)))
            .or_else(|| default().next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choice(all: &[(&[&str], KeyKind)]) -> (Choice, Vec<Twice>) {
        let names: Vec<Vec<String>> =
            all.iter().map(|(names, _)| names.iter().map(|&name| name.to_owned()).collect()).collect();
        Choice::new(names.iter().map(Vec::as_slice).zip(all.iter().map(|(_, kind)| *kind)))
    }

    #[test]
    fn the_very_name_comes_before_the_wildcard_and_the_default_last() {
        use KeyKind::{Ecdsa, Rsa};
        let (choice, twice) = choice(&[
            (&["default.example"], Rsa),
            (&["*.example"], Ecdsa),
            (&["shop.example", "*.shop.example"], Rsa),
            (&["shop.example"], Ecdsa),
        ]);
        assert_eq!(twice, []);
        let any = |name| choice.choose(name, |_| true);
        assert_eq!(any(Some("shop.example")), Some(3), "ECDSA first");
        assert_eq!(any(Some("shop.example.")), Some(3));
        assert_eq!(any(Some("other.example")), Some(1));
        assert_eq!(any(Some("a.shop.example")), Some(2));
        assert_eq!([any(Some("a.b.shop.example")), any(Some("example")), any(None)], [Some(0); 3]);
        assert_eq!(any(Some(".example")), Some(0));
        let rsa = |name| choice.choose(name, |place| place % 2 == 0);
        assert_eq!(rsa(Some("shop.example")), Some(2), "what the client takes");
        assert_eq!(rsa(Some("other.example")), Some(1), "it takes none that there is");
        assert_eq!(Choice::default().choose(None, |_| true), None);
    }

    #[test]
    fn the_default_has_its_siblings() {
        use KeyKind::{Ecdsa, Rsa};
        let (choice, twice) =
            choice(&[(&["a.example"], Rsa), (&["b.example"], Ecdsa), (&["a.example"], Ecdsa)]);
        assert_eq!(twice, []);
        assert_eq!(choice.choose(None, |_| true), Some(2));
        assert_eq!(choice.choose(None, |place| place == 0), Some(0));
        assert_eq!(choice.choose(Some("nothing.example"), |place| place == 1), Some(2), "not another site's");
    }

    #[test]
    fn a_name_twice_is_told_once_for_each_pair() {
        use KeyKind::{Ecdsa, Rsa};
        let (choice, twice) = choice(&[
            (&["a.example", "b.example"], Rsa),
            (&["a.example", "b.example"], Rsa),
            (&["a.example", "a.example"], Ecdsa),
        ]);
        assert_eq!(twice, [Twice { first: 0, second: 1, name: "a.example".to_owned() }]);
        assert_eq!(choice.choose(Some("a.example"), |place| place != 2), Some(0));
    }

    fn kind() -> impl Strategy<Value = KeyKind> {
        prop::sample::select(vec![KeyKind::Ecdsa, KeyKind::Ed25519, KeyKind::Rsa])
    }

    proptest! {
        /// As if all certificates were looked at one after the other.
        #[test]
        fn as_if_each_was_tried(
            all in proptest::collection::vec((proptest::collection::vec("(\\*\\.)?[ab](\\.[ab]){0,2}", 1..4), kind()), 1..8),
            name in "[ab](\\.[ab]){0,3}", fits in any::<u8>(),
        ) {
            let (choice, _) = Choice::new(all.iter().map(|(names, kind)| (names.as_slice(), *kind)));
            let fits = |place: usize| fits & (1 << (place % 8)) != 0;
            let chosen = choice.choose(Some(&name), fits).unwrap();
            let has = |place: usize, wanted: &str| all[place].0.iter().any(|it| it == wanted);
            let wildcard = name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
            // Of each kind the first that has the name; the cheapest of those that fit.
            let best = |wanted: &str| {
                let mut firsts: Vec<usize> = Vec::new();
                for place in (0..all.len()).filter(|place| has(*place, wanted)) {
                    if !firsts.iter().any(|it| all[*it].1 == all[place].1) {
                        firsts.push(place);
                    }
                }
                firsts.sort_by_key(|place| all[*place].1);
                firsts
            };
            let mut candidates = best(&name);
            candidates.extend(wildcard.iter().flat_map(|wanted| best(wanted)));
            let expected = candidates.iter().copied().find(|place| fits(*place)).or(candidates.first().copied());
            if let Some(expected) = expected {
                prop_assert_eq!(chosen, expected);
            } else {
                let siblings = |place: usize| place == 0 || all[place].0.iter().any(|it| has(0, it));
                prop_assert!(siblings(chosen));
            }
        }
    }
}
