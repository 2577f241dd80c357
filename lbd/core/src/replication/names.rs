//! Names as numbers: what flows and other entries refer to, without carrying strings.
//!
//! A process numbers the names it meets ([`NameId`]). A session announces a number with its name before the first entry
//! that uses it, and the receiver translates the sender's numbers into its own. Both directions are bounded by
//! [`NAMES_MAX`].

use std::collections::HashMap;
use std::sync::Arc;

/// Names a process knows at once. With [`NAME_LENGTH_MAX`] that is 35 MB at the very most, and 6 MB as names usually are.
pub const NAMES_MAX: usize = 65_536;

/// Bytes of a name, or of each part of a target's.
pub const NAME_LENGTH_MAX: usize = 256;

/// What something is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A service.
    Service(Arc<str>),
    /// A target group.
    Group(Arc<str>),
    /// A target: its group's name and its id, never its place in a list.
    Target {
        /// The group.
        group: Arc<str>,
        /// Unique in the group.
        id: Arc<str>,
    },
    /// A zone that targets are in.
    Zone(Arc<str>),
    /// A ring that targets of flows are chosen from.
    Ring(Arc<str>),
}

/// A name's number within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(u32);

impl NameId {
    /// As a number below [`NAMES_MAX`], an index of whatever the shell keeps for each name.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why a name got no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There are too many.
    #[error(
        "there is no number left for the name of a replicated service or target: {NAMES_MAX} are in use; what refers to it is \
         not replicated until targets that are gone have been forgotten"
    )]
    Full,
    /// It is too long.
    #[error(
        "the name of a replicated service or target is longer than {NAME_LENGTH_MAX} bytes; what refers to it is not replicated: \
         give it a shorter name"
    )]
    Long,
}

/// The names of this process.
#[derive(Debug, Default)]
pub(super) struct Names {
    ids: HashMap<Name, NameId>,
    slots: Vec<Option<Name>>,
    free: Vec<u32>,
}

impl Names {
    /// The number of `name`, a new one if it had none.
    pub(super) fn enter(&mut self, name: Name) -> Result<NameId, NameError> {
        if let Some(&id) = self.ids.get(&name) {
            return Ok(id);
        }
        if name.length() > NAME_LENGTH_MAX {
            return Err(NameError::Long);
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.slots.len() < NAMES_MAX => {
                self.slots.push(None);
                // Below `NAMES_MAX`.
                u32::try_from(self.slots.len() - 1).map_err(|_| NameError::Full)?
            }
            None => return Err(NameError::Full),
        };
        let id = NameId(number);
        self.slots[id.index()] = Some(name.clone());
        self.ids.insert(name, id);
        Ok(id)
    }

    pub(super) fn name(&self, id: NameId) -> Option<&Name> {
        self.slots.get(id.index())?.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// All numbers are below this one.
    pub(super) fn numbers(&self) -> usize {
        self.slots.len()
    }

    /// Forgets the names that `keep` does not want and adds their numbers, which are given out again, to `gone`; answers how many.
    pub(super) fn forget(
        &mut self,
        mut keep: impl FnMut(NameId, &Name) -> bool,
        gone: &mut Vec<NameId>,
    ) -> usize {
        let before = self.ids.len();
        let (slots, free) = (&mut self.slots, &mut self.free);
        self.ids.retain(|name, id| {
            let kept = keep(*id, name);
            if !kept {
                slots[id.index()] = None;
                free.push(id.0);
                gone.push(*id);
            }
            kept
        });
        // A map has no order of its own.
        self.free.sort_unstable_by(|one, other| other.cmp(one));
        before - self.ids.len()
    }
}

/// What became of names that this node does not want any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// So many are forgotten.
    pub names: usize,
    /// So many are not, for nothing but that the peer has announced them since it connected, and may refer to them until it ends.
    pub held: usize,
}

impl Name {
    /// Bytes of its longest part.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Service(name) | Self::Group(name) | Self::Zone(name) | Self::Ring(name) => name.len(),
            Self::Target { group, id } => group.len().max(id.len()),
        }
    }
}

/// Which names this node has announced in a session.
#[derive(Debug, Default)]
pub(super) struct Announced {
    words: Vec<u64>,
}

impl Announced {
    pub(super) fn contains(&self, id: NameId) -> bool {
        self.words.get(id.index() / 64).is_some_and(|word| word >> (id.index() % 64) & 1 == 1)
    }

    pub(super) fn insert(&mut self, id: NameId) {
        let word = id.index() / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (id.index() % 64);
    }

    pub(super) fn remove(&mut self, id: NameId) {
        if let Some(word) = self.words.get_mut(id.index() / 64) {
            *word &= !(1 << (id.index() % 64));
        }
    }
}

/// What the peer's numbers mean here.
#[derive(Debug, Default)]
pub(super) struct Translation {
    ids: Vec<Option<NameId>>,
}

/// The peer used a number that no name may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NumberOutOfRange(pub(super) u32);

impl Translation {
    /// Notes that `number` stands for `id`, or, where there was no room for the name here, for nothing.
    pub(super) fn learn(&mut self, number: u32, id: Option<NameId>) -> Result<(), NumberOutOfRange> {
        let index = number as usize;
        if index >= NAMES_MAX {
            return Err(NumberOutOfRange(number));
        }
        if self.ids.len() <= index {
            self.ids.resize(index + 1, None);
        }
        self.ids[index] = id;
        Ok(())
    }

    pub(super) fn local(&self, number: u32) -> Option<NameId> {
        self.ids.get(number as usize).copied().flatten()
    }

    /// The numbers that the peer's stand for.
    pub(super) fn locals(&self) -> impl Iterator<Item = NameId> {
        self.ids.iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> Name {
        Name::Service(Arc::from(name))
    }

    #[test]
    fn a_name_keeps_its_number_until_it_is_forgotten() {
        let mut names = Names::default();
        let a = names.enter(service("a")).unwrap();
        let b = names.enter(service("b")).unwrap();
        assert_eq!((names.enter(service("a")), a == b), (Ok(a), false));
        assert_eq!(
            names.enter(Name::Group(Arc::from("a"))).map(NameId::number),
            Ok(2),
            "a group is no service"
        );
        assert_eq!(names.forget(|id, _| id == b, &mut Vec::new()), 2);
        assert_eq!((names.name(a), names.name(b), names.len()), (None, Some(&service("b")), 1));
        assert_eq!(names.enter(service("c")), Ok(a), "the lowest free number first");
    }

    #[test]
    fn names_are_bounded() {
        let mut names = Names::default();
        for number in 0..NAMES_MAX {
            names.enter(service(&number.to_string())).unwrap();
        }
        assert_eq!(names.enter(service("one more")), Err(NameError::Full));
        assert!(names.enter(service("7")).is_ok());
        assert_eq!(Names::default().enter(service(&"x".repeat(257))), Err(NameError::Long));
    }

    #[test]
    fn what_was_announced_and_learned() {
        let mut announced = Announced::default();
        announced.insert(NameId(70));
        assert!(announced.contains(NameId(70)) && !announced.contains(NameId(6)));
        announced.remove(NameId(70));
        announced.remove(NameId(700));
        assert!(!announced.contains(NameId(70)));
        let mut translation = Translation::default();
        translation.learn(3, Some(NameId(9))).unwrap();
        assert_eq!(
            (translation.local(3), translation.local(2), translation.local(99)),
            (Some(NameId(9)), None, None)
        );
        assert_eq!(translation.locals().collect::<Vec<_>>(), [NameId(9)]);
        assert!(translation.learn(u32::MAX, None).is_err());
    }
}
