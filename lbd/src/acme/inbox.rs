//! Bundles that the other node has told of, until the thread has looked at them.

use std::collections::{BTreeMap, BTreeSet};

use common::config::Acme;
use lbd_core::acme::Names;

/// Bundles by what their notes are called: [`Names::file_stem`], which is another one for another directory. What this node does not want yet
/// it may want after the next reload.
#[derive(Default)]
pub(super) struct Inbox {
    bundles: BTreeMap<String, Bundle>,
    /// What is wanted, by the same.
    wanted: BTreeMap<String, Names>,
    /// Counts up with each bundle.
    arrivals: u64,
}

struct Bundle {
    text: String,
    /// Of which arrival it is.
    arrival: u64,
}

impl Inbox {
    /// From now on these are wanted, and no others.
    pub(super) fn want(&mut self, wanted: &BTreeSet<Names>) {
        self.wanted = wanted.iter().map(|names| (names.file_stem(), names.clone())).collect();
    }

    /// Takes in a bundle, in the place of one that is called the same. Where it is full, the one that has been there for longest and that nobody wants
    /// makes room. Answers whether nothing was lost.
    pub(super) fn put(&mut self, stem: &str, text: String) -> bool {
        let is_full = self.bundles.len() >= Acme::CERTIFICATES_MAX && !self.bundles.contains_key(stem);
        if is_full {
            let unwanted = self.bundles.iter().filter(|(stem, _)| !self.wanted.contains_key(*stem));
            let oldest = unwanted.min_by_key(|(_, bundle)| bundle.arrival).map(|(stem, _)| stem.clone());
            let Some(oldest) = oldest else { return false };
            self.bundles.remove(&oldest);
        }
        self.arrivals += 1;
        self.bundles.insert(stem.to_owned(), Bundle { text, arrival: self.arrivals });
        !is_full
    }

    /// Puts one back that was taken, if no later one is there.
    pub(super) fn put_back(&mut self, names: &Names, text: String) {
        let stem = names.file_stem();
        if !self.bundles.contains_key(&stem) {
            self.put(&stem, text);
        }
    }

    /// Takes out what is wanted.
    pub(super) fn taken(&mut self) -> Vec<(Names, String)> {
        let Self { bundles, wanted, .. } = self;
        let here = bundles.extract_if(.., |stem, _| wanted.contains_key(stem));
        here.filter_map(|(stem, bundle)| Some((wanted.get(&stem)?.clone(), bundle.text))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &str, of: &str) -> Names {
        Names::new(directory, [of.to_owned()]).unwrap()
    }

    #[test]
    fn what_is_wanted_finds_room_and_what_is_new_takes_that_of_what_is_old() {
        let mut inbox = Inbox::default();
        let stem = |number: usize| names("d", &format!("{number:03}.example")).file_stem();
        let wanted = names("d", "000.example");
        inbox.want(&BTreeSet::from([wanted.clone()]));
        for number in 0..Acme::CERTIFICATES_MAX {
            assert!(inbox.put(&stem(number), "old".to_owned()));
        }
        assert!(inbox.put(&stem(1), "new".to_owned()), "in the place of its own");
        assert!(!inbox.put(&stem(999), "new".to_owned()));
        assert_eq!(inbox.bundles.len(), Acme::CERTIFICATES_MAX);
        assert!(!inbox.bundles.contains_key(&stem(2)), "it was there for longest");
        assert!(inbox.bundles.contains_key(&stem(1)) && inbox.bundles.contains_key(&stem(999)));
        assert_eq!(inbox.taken(), [(wanted, "old".to_owned())]);
        // Where all are wanted, one that is not is left out.
        let all: BTreeSet<Names> =
            (0..Acme::CERTIFICATES_MAX).map(|number| names("d", &format!("{number:03}.example"))).collect();
        let mut inbox = Inbox::default();
        inbox.want(&all);
        for names in &all {
            assert!(inbox.put(&names.file_stem(), "bundle".to_owned()));
        }
        assert!(!inbox.put(&stem(999), "bundle".to_owned()));
        assert_eq!(inbox.taken().len(), Acme::CERTIFICATES_MAX);
    }

    #[test]
    fn what_another_directory_has_signed_waits_until_that_is_the_one() {
        let mut inbox = Inbox::default();
        let (here, other) = (names("here", "a.example"), names("other", "a.example"));
        inbox.want(&BTreeSet::from([here]));
        assert!(inbox.put(&other.file_stem(), "bundle".to_owned()));
        assert!(inbox.taken().is_empty());
        inbox.want(&BTreeSet::from([other.clone()]));
        assert_eq!(inbox.taken(), [(other, "bundle".to_owned())]);
    }

    #[test]
    fn what_is_put_back_is_taken_again_unless_a_later_one_has_come() {
        let mut inbox = Inbox::default();
        let names = names("d", "a.example");
        inbox.want(&BTreeSet::from([names.clone()]));
        inbox.put_back(&names, "one".to_owned());
        assert_eq!(inbox.taken(), [(names.clone(), "one".to_owned())]);
        assert!(inbox.put(&names.file_stem(), "two".to_owned()));
        inbox.put_back(&names, "one".to_owned());
        assert_eq!(inbox.taken(), [(names, "two".to_owned())]);
    }
}
