//! What administrators have said of targets: states and weights, and who belongs to a group. It is kept as it was when the other node was
//! last told, or told this one, with the generation that it has between the nodes: whatever becomes of the link and of who speaks over it, the
//! later word stays the later one.
//!
//! A word on a state or weight is said by a change of the running state ([`crate::change`]), and found by comparing that with this list: so none is
//! ever lost for want of room, and those of a moment in which nobody listened are found later. A target that has never been anything else
//! than ready, of the configured weight, has no word; one of which that is said again has, so that the other node hears of it.
//!
//! The word on a target that is gone from this node stays as it is, for the other node may have the target still. If the target comes
//! back, it is a new one, and ready: that is then the word.
//!
//! Who belongs to a group cannot be found by comparing, for an added target that the file has by now is no longer an added one without anybody
//! having said so. That is written down when it is said.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lbd_core::group::{Admin, Said, WEIGHT_MAX};
use lbd_core::replication::Counters;

use super::tables::Refused;
use crate::l4::kernel::Written;
use crate::snapshot::Snapshot;

/// Words on targets that are gone, at most, with those on targets that are there; and of those on who belongs to a group. One of these beyond
/// it is not told, which is counted.
pub(super) const WORDS_MAX: usize = 16_384;

/// A word of the other node's that is so far ahead of this node's clock, in microseconds, says nothing of when it was said: a clock was wrong once, and
/// generations never go back. A minute: the clocks of two nodes differ by less where anybody sets them.
const LEAD_MAX: u64 = 60_000_000;

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
        u8::try_from(self.admin.index()).unwrap_or_default()
    }
}

/// The words, which outlive the link.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Remembered>);

impl Memory {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Each change of it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was counted since the process began by drivers, replicas and tables of flows that have ended since.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// By replicas.
    pub(super) counters: Counters,
    /// By the tables.
    pub(super) refused: Refused,
    /// What became of the other node's flows.
    pub(super) written: Written,
    /// Reports of the walk through all flows that found no room.
    pub(super) reports_lost: u64,
    /// News that the kernel's program found no room for.
    pub(super) untold: u64,
}

/// When something was said here that has not been told yet, in microseconds since 1970, by group and target.
type SaidAt = HashMap<(String, String), u64>;

/// All of them, and whose they are.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// On states and weights.
    pub(super) words: Known<Word>,
    /// On who belongs to a group.
    pub(super) members: Known<Said>,
    words_said: SaidAt,
    members_said: SaidAt,
    /// The other node's process whose counts and sockets are known of.
    pub(super) peer_process: Option<u64>,
    /// What was counted by what has ended since.
    pub(super) past: Past,
    /// Words on who belongs to a group that found no room.
    lost: u64,
}

impl Remembered {
    /// Somebody has just changed state or weight of a target, and had asked for that at this time.
    pub(crate) fn said_word(&mut self, group: &str, target: &str, at: u64) {
        // Without it, a word of the other node that was said before may go over this one if it comes in this moment.
        if self.words_said.len() < WORDS_MAX {
            self.words_said.insert((group.to_owned(), target.to_owned()), at);
        }
    }

    /// The same of a target's place in its group.
    pub(crate) fn said_member(&mut self, group: &str, target: &str, said: Said, at: u64) {
        let known = self.members.get(group, target).map(|(_, generation)| generation);
        if known.is_none() && self.members.len() >= WORDS_MAX {
            // What means nothing to a node that begins anew goes first.
            let members_said = &self.members_said;
            let told = |group: &str, id: &str| !members_said.contains_key(&(group.to_owned(), id.to_owned()));
            self.members.retain(|group, id, said| *said != Said::Given || !told(group, id));
        }
        if known.is_none() && self.members.len() >= WORDS_MAX {
            self.lost += 1;
            return;
        }
        self.members.set(group, target, said, known.unwrap_or_default());
        self.members_said.insert((group.to_owned(), target.to_owned()), at);
    }

    /// Whether something was said here of the target's state or weight, and not told yet, that is later than a word of the other node's, which is
    /// heard `now`, in microseconds since 1970.
    pub(crate) fn has_later_word(&self, group: &str, target: &str, generation: u64, now: u64) -> bool {
        is_later(&self.words_said, group, target, generation, now)
    }

    /// The same of its place in its group.
    pub(crate) fn has_later_member(&self, group: &str, target: &str, generation: u64, now: u64) -> bool {
        is_later(&self.members_said, group, target, generation, now)
    }

    /// A word of the other node's on state and weight is now this node's.
    pub(crate) fn heeded_word(&mut self, group: &str, target: &str, word: Word, generation: u64) {
        self.words.set(group, target, word, generation);
    }

    /// There is no word on state and weight of a target any more.
    pub(crate) fn forget_word(&mut self, group: &str, target: &str) {
        self.words.remove(group, target);
    }

    /// A word of the other node's on a target's place in its group is now this node's. The bound of its table is that of these, too.
    pub(crate) fn heeded_member(&mut self, group: &str, target: &str, said: Said, generation: u64) {
        self.members_said.remove(&(group.to_owned(), target.to_owned()));
        self.members.set(group, target, said, generation);
    }

    /// Takes what is wanted of the targets now, and tells what is new, which answers with its generation.
    pub(super) fn compare(
        &mut self,
        snapshot: &Snapshot,
        mut new: impl FnMut(&str, &str, Word) -> Option<u64>,
    ) {
        for group in &snapshot.groups {
            let name = &group.config.name;
            group.each_said(|id, admin, weight| {
                let word = Word { admin, weight };
                if self.words.get(name, id).map(|(word, _)| *word).unwrap_or_default() != word {
                    let generation = new(name, id, word).unwrap_or_default();
                    self.words.set(name, id, word, generation);
                }
            });
        }
        self.words_said.clear();
        if self.words.len() > WORDS_MAX {
            self.words.forget_gone(snapshot);
        }
    }

    /// Tells what was said of who belongs to groups, and what no longer means anything because file or discovery have made it pointless
    /// here, which is then forgotten.
    pub(super) fn compare_members(
        &mut self,
        snapshot: &Snapshot,
        mut new: impl FnMut(&str, &str, &Said) -> Option<u64>,
        mut over: impl FnMut(&str, &str),
    ) {
        for (group, id) in std::mem::take(&mut self.members_said).into_keys() {
            if let Some((said, known)) = self.members.get_mut(&group, &id) {
                match new(&group, &id, said) {
                    Some(generation) => *known = generation,
                    None => self.lost += 1,
                }
            }
        }
        self.members.retain(|group, id, said| {
            let pointless = *said != Said::Given
                && snapshot.group(group).is_some_and(|group| group.shared.roster().said(id) == Said::Given);
            if pointless {
                over(group, id);
            }
            !pointless
        });
    }

    /// Whether there is a word on a target.
    pub(super) fn is_about(&self, group: &str, target: &str) -> bool {
        self.words.get(group, target).is_some() || self.members.get(group, target).is_some()
    }

    /// Words that found no room, or could not be told.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }
}

fn is_later(said: &SaidAt, group: &str, target: &str, generation: u64, now: u64) -> bool {
    // What is said here and not told yet is told as later than all that was heard before.
    let wins = |&at: &u64| at > generation || generation > now.saturating_add(LEAD_MAX);
    !said.is_empty() && said.get(&(group.to_owned(), target.to_owned())).is_some_and(wins)
}

/// Words of one kind with their generations, by group and target.
#[derive(Debug)]
pub(super) struct Known<W> {
    groups: BTreeMap<String, BTreeMap<String, (W, u64)>>,
}

impl<W> Default for Known<W> {
    fn default() -> Self {
        Self { groups: BTreeMap::new() }
    }
}

impl<W> Known<W> {
    pub(super) fn get(&self, group: &str, target: &str) -> Option<(&W, u64)> {
        self.groups.get(group)?.get(target).map(|(word, generation)| (word, *generation))
    }

    fn get_mut(&mut self, group: &str, target: &str) -> Option<&mut (W, u64)> {
        self.groups.get_mut(group)?.get_mut(target)
    }

    fn set(&mut self, group: &str, target: &str, word: W, generation: u64) {
        match self.get_mut(group, target) {
            Some(known) => *known = (word, generation),
            None => {
                let targets = self.groups.entry(group.to_owned()).or_default();
                targets.insert(target.to_owned(), (word, generation));
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
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a W)> {
        let first = after.map_or(Bound::Unbounded, |(group, _)| Bound::Included(group));
        let groups = self.groups.range::<str, _>((first, Bound::Unbounded));
        let words = groups.flat_map(move |(group, targets)| {
            let same = after.filter(|(last, _)| last == group);
            let first = same.map_or(Bound::Unbounded, |(_, target)| Bound::Excluded(target));
            let targets = targets.range::<str, _>((first, Bound::Unbounded));
            targets.map(move |(target, (word, _))| (group.as_str(), target.as_str(), word))
        });
        words.take(max)
    }

    /// All of them with their generations.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str, &W, u64)> {
        self.groups.iter().flat_map(|(group, targets)| {
            let each = targets.iter();
            each.map(|(target, (word, generation))| (group.as_str(), target.as_str(), word, *generation))
        })
    }

    fn len(&self) -> usize {
        self.groups.values().map(BTreeMap::len).sum()
    }

    fn retain(&mut self, mut keep: impl FnMut(&str, &str, &W) -> bool) {
        self.groups.retain(|group, words| {
            words.retain(|target, (word, _)| keep(group, target, word));
            !words.is_empty()
        });
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
        let mut words = Known::default();
        let names = [("a", "2"), ("a", "1"), ("b", "1"), ("", "x"), ("ab", "0")];
        for (group, target) in names {
            words.set(group, target, Word::default(), 7);
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

    #[test]
    fn the_other_node_s_word_goes_over_one_that_was_said_before_it_only() {
        const NOW: u64 = 110;
        let mut memory = Remembered::default();
        assert!(!memory.has_later_word("pool", "t0", 50, NOW));
        memory.said_word("pool", "t0", 100);
        let later = |memory: &Remembered, generation| memory.has_later_word("pool", "t0", generation, NOW);
        assert!(later(&memory, 99) && !later(&memory, 100) && !later(&memory, 101));
        assert!(
            !memory.has_later_word("pool", "t1", 50, NOW) && !memory.has_later_member("pool", "t0", 50, NOW)
        );
        // The other node's clock is ahead of this one's, or was wrong once.
        assert!(!later(&memory, NOW + LEAD_MAX) && later(&memory, NOW + LEAD_MAX + 1));
        memory.said_member("pool", "t9", Said::Deleted, 100);
        assert!(memory.has_later_member("pool", "t9", 99, NOW));
        memory.heeded_member("pool", "t9", Said::Given, 200);
        assert!(!memory.has_later_member("pool", "t9", 99, NOW));
        assert!(!memory.has_later_member("pool", "t9", u64::MAX, NOW), "nothing waits to be told");
        assert_eq!(memory.members.get("pool", "t9"), Some((&Said::Given, 200)));
    }

    #[test]
    fn words_on_who_belongs_to_groups_are_bounded_and_what_means_nothing_goes_first() {
        let mut memory = Remembered::default();
        for number in 0..WORDS_MAX {
            memory.heeded_member("pool", &number.to_string(), Said::Deleted, 1);
        }
        memory.said_member("pool", "more", Said::Deleted, 5);
        assert_eq!((memory.lost(), memory.members.len()), (1, WORDS_MAX));
        memory.heeded_member("pool", "7", Said::Given, 2);
        memory.said_member("pool", "more", Said::Deleted, 5);
        assert_eq!((memory.lost(), memory.members.len()), (1, WORDS_MAX));
        assert_eq!(memory.members.get("pool", "7"), None);
        memory.said_member("pool", "8", Said::Given, 6);
        assert_eq!(
            memory.members.get("pool", "8"),
            Some((&Said::Given, 1)),
            "there is room for what is known"
        );
    }
}
