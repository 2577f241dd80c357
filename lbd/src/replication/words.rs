//! What administrators have said of targets, as it was when the other node was last told, or told this one.
//!
//! A word is said by a change of the running state ([`crate::change`]), and found by comparing that with this list: so none is ever
//! lost for want of room, and those of a moment in which nobody listened are found later. A target that has never been anything else
//! than ready, of the configured weight, has no word; one of which that is said again has, so that the other node hears of it.
//!
//! The word on a target that is gone from this node stays as it is, for the other node may have the target still. If the target comes
//! back, it is a new one, and ready: that is then the word.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lbd_core::group::{Admin, WEIGHT_MAX};

use crate::snapshot::Snapshot;

/// Words on targets that are gone, at most, with those on targets that are there.
pub(super) const WORDS_MAX: usize = 16_384;

/// What is wanted of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word {
    /// Its state.
    pub(crate) admin: Admin,
    /// Its weight, if that is not the configured one.
    pub(crate) weight: Option<u16>,
}

impl Word {
    /// From what the other node says; none if that is no word.
    pub(super) fn of(state: u8, weight: Option<u16>) -> Option<Self> {
        let admin = *Admin::ALL.get(usize::from(state))?;
        weight.is_none_or(|weight| weight <= WEIGHT_MAX).then_some(Self { admin, weight })
    }

    /// The number of its state between the nodes.
    pub(super) fn state(self) -> u8 {
        let index = Admin::ALL.iter().position(|state| *state == self.admin);
        index.and_then(|index| u8::try_from(index).ok()).unwrap_or_default()
    }
}

/// The words, which outlive the link.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Words>);

impl Memory {
    pub(super) fn words(&self) -> MutexGuard<'_, Words> {
        // Each change of it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By group and target.
#[derive(Debug, Default)]
pub(super) struct Words {
    groups: BTreeMap<String, BTreeMap<String, Word>>,
}

impl Words {
    /// Takes what is wanted of the targets now, and tells what is new.
    pub(super) fn compare(&mut self, snapshot: &Snapshot, mut new: impl FnMut(&str, &str, Word)) {
        for group in &snapshot.groups {
            let name = &group.config.name;
            group.each_said(|id, admin, weight| {
                let word = Word { admin, weight };
                if self.get(name, id).unwrap_or_default() != word {
                    self.set(name, id, word);
                    new(name, id, word);
                }
            });
        }
        if self.len() > WORDS_MAX {
            self.forget_gone(snapshot);
        }
    }

    pub(super) fn get(&self, group: &str, target: &str) -> Option<Word> {
        self.groups.get(group)?.get(target).copied()
    }

    pub(super) fn set(&mut self, group: &str, target: &str, word: Word) {
        match self.groups.get_mut(group).and_then(|targets| targets.get_mut(target)) {
            Some(known) => *known = word,
            None => {
                self.groups.entry(group.to_owned()).or_default().insert(target.to_owned(), word);
            }
        }
    }

    pub(super) fn remove(&mut self, group: &str, target: &str) {
        if let Some(targets) = self.groups.get_mut(group) {
            targets.remove(target);
        }
    }

    /// Up to `max` words that come after that on the target `after`.
    pub(super) fn after<'a>(
        &'a self,
        after: Option<(&'a str, &'a str)>,
        max: usize,
    ) -> impl Iterator<Item = (&'a str, &'a str, Word)> {
        let first = after.map_or(Bound::Unbounded, |(group, _)| Bound::Included(group));
        let groups = self.groups.range::<str, _>((first, Bound::Unbounded));
        let words = groups.flat_map(move |(group, targets)| {
            let same = after.filter(|(last, _)| last == group);
            let first = same.map_or(Bound::Unbounded, |(_, target)| Bound::Excluded(target));
            let targets = targets.range::<str, _>((first, Bound::Unbounded));
            targets.map(move |(target, word)| (group.as_str(), target.as_str(), *word))
        });
        words.take(max)
    }

    fn len(&self) -> usize {
        self.groups.values().map(BTreeMap::len).sum()
    }

    /// Forgets the words on targets that are gone.
    fn forget_gone(&mut self, snapshot: &Snapshot) {
        self.groups.retain(|name, words| {
            let Some(group) = snapshot.group(name) else { return false };
            let here: HashSet<&str> = group.targets.iter().map(|target| target.key.id.as_str()).collect();
            words.retain(|id, _| here.contains(id.as_str()));
            !words.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_word_is_none() {
        let drain = Word { admin: Admin::Drain, weight: Some(256) };
        assert_eq!(Word::of(drain.state(), drain.weight), Some(drain));
        assert_eq!((Word::of(3, None), Word::of(255, None), Word::of(0, Some(257))), (None, None, None));
        for admin in Admin::ALL {
            let word = Word { admin, weight: None };
            assert_eq!(Word::of(word.state(), None), Some(word));
        }
    }

    #[test]
    fn a_walk_in_parts_finds_all() {
        let mut words = Words::default();
        let names = [("a", "2"), ("a", "1"), ("b", "1"), ("", "x"), ("ab", "0")];
        for (group, target) in names {
            words.set(group, target, Word::default());
        }
        words.remove("a", "none");
        for max in 1..7 {
            let mut found: Vec<(String, String)> = Vec::new();
            loop {
                let last = found.last().map(|(group, target)| (group.as_str(), target.as_str()));
                let part: Vec<_> =
                    words.after(last, max).map(|it| (it.0.to_owned(), it.1.to_owned())).collect();
                assert!(part.len() <= max);
                if part.is_empty() {
                    break;
                }
                found.extend(part);
            }
            let found: Vec<_> = found.iter().map(|it| (it.0.as_str(), it.1.as_str())).collect();
            assert_eq!(found, [("", "x"), ("a", "1"), ("a", "2"), ("ab", "0"), ("b", "1")]);
        }
    }
}
