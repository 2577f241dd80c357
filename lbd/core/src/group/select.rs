//! Which targets of a group share the new connections: the choice between zones, backups and, when too few are left, all.

use serde::Serialize;

common::named! {
    /// From where a group takes its targets now.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Mode {
        /// Usable primary targets.
        Normal => "normal",
        /// No target is usable, but the first checks of some have not ended: those are used.
        Starting => "starting",
        /// No primary target is usable, or too few are: backups are used.
        Backup => "backup",
        /// Too few targets are usable, or none: all are used, whatever their checks say.
        Panic => "panic",
        /// No target may be used: there is none, or each is drained, in maintenance or of weight 0.
        None => "none",
    }
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Candidate {
    /// `ready`, and of a weight above 0.
    pub(super) eligible: bool,
    /// Eligible, healthy and not ejected.
    pub(super) usable: bool,
    /// Its first check has not ended.
    pub(super) undecided: bool,
    pub(super) backup: bool,
    /// In another zone than the node, where that matters.
    pub(super) elsewhere: bool,
}

impl Candidate {
    /// Lower ones are used up before higher ones: a primary target in another zone comes before any backup.
    const fn tier(self) -> usize {
        (self.backup as usize) * 2 + self.elsewhere as usize
    }
}

/// Tiers there are.
const TIERS: usize = 4;

/// The mode, and for each candidate whether it gets a share.
///
/// The usable ones of the best tier do. While they are too small a part of their tier, those of the next one join them; if all
/// of them together are too small a part as well, it is a panic. A tier of which none is usable does not count.
pub(super) fn select(candidates: &[Candidate], panic_percent: u8) -> (Mode, Vec<bool>) {
    let all = |chosen: &dyn Fn(&Candidate) -> bool| candidates.iter().map(chosen).collect();
    let mut counts = [(0, 0); TIERS];
    for it in candidates.iter().filter(|it| it.eligible) {
        let (usable, known) = &mut counts[it.tier()];
        *usable += usize::from(it.usable);
        // One that has not been checked yet speaks neither way: a start is not a panic.
        *known += usize::from(it.usable || !it.undecided);
    }
    let mut used = [false; TIERS];
    let (mut usable, mut known) = (0, 0);
    for (tier, counts) in counts.iter().enumerate().filter(|(_, counts)| counts.0 > 0) {
        used[tier] = true;
        (usable, known) = (usable + counts.0, known + counts.1);
        if usable * 100 >= known * usize::from(panic_percent) {
            let mode = if tier < 2 { Mode::Normal } else { Mode::Backup };
            return (mode, all(&|it| it.usable && used[it.tier()]));
        }
    }
    if usable > 0 {
        return (Mode::Panic, all(&|it| it.eligible && used[it.tier()]));
    }
    let unchecked = |it: &Candidate| it.eligible && it.undecided;
    if candidates.iter().any(unchecked) {
        return (Mode::Starting, all(&unchecked));
    }
    let any = candidates.iter().any(|it| it.eligible);
    (if any { Mode::Panic } else { Mode::None }, all(&|it| it.eligible))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: Candidate =
        Candidate { eligible: true, usable: true, undecided: false, backup: false, elsewhere: false };
    const BAD: Candidate = Candidate { usable: false, ..GOOD };
    const NEW: Candidate = Candidate { undecided: true, ..BAD };
    const OUT: Candidate = Candidate { eligible: false, ..BAD };
    const SPARE: Candidate = Candidate { backup: true, ..GOOD };
    const FAR: Candidate = Candidate { elsewhere: true, ..GOOD };

    #[test]
    fn backups_wait_until_no_primary_is_usable() {
        assert_eq!(select(&[GOOD, BAD, SPARE], 0), (Mode::Normal, vec![true, false, false]));
        assert_eq!(select(&[BAD, OUT, SPARE, SPARE], 0), (Mode::Backup, vec![false, false, true, true]));
        assert_eq!(select(&[BAD, Candidate { usable: false, ..SPARE }], 0), (Mode::Panic, vec![true, true]));
    }

    #[test]
    fn other_zones_wait_until_none_here_is_usable_and_come_before_backups() {
        assert_eq!(select(&[GOOD, FAR], 0), (Mode::Normal, vec![true, false]));
        assert_eq!(select(&[BAD, FAR, SPARE], 0), (Mode::Normal, vec![false, true, false]));
        let far_spare = Candidate { backup: true, ..FAR };
        assert_eq!(select(&[BAD, far_spare, SPARE], 0), (Mode::Backup, vec![false, false, true]));
        assert_eq!(select(&[BAD, far_spare], 0), (Mode::Backup, vec![false, true]));
    }

    #[test]
    fn panic_begins_below_the_share_and_not_at_it() {
        assert_eq!(select(&[GOOD, BAD], 50), (Mode::Normal, vec![true, false]));
        assert_eq!(select(&[GOOD, BAD], 51), (Mode::Panic, vec![true, true]));
        assert_eq!(select(&[GOOD, BAD, BAD, OUT], 51), (Mode::Panic, vec![true, true, true, false]));
        assert_eq!(select(&[GOOD, NEW, NEW], 100), (Mode::Normal, vec![true, false, false]));
        assert_eq!(select(&[BAD, BAD], 0), (Mode::Panic, vec![true, true]));
    }

    #[test]
    fn before_a_panic_others_help_out() {
        assert_eq!(select(&[GOOD, BAD, OUT, SPARE], 51), (Mode::Backup, vec![true, false, false, true]));
        assert_eq!(
            select(&[GOOD, BAD, BAD, FAR, FAR], 50),
            (Mode::Normal, vec![true, false, false, true, true])
        );
        assert_eq!(
            select(&[GOOD, BAD, BAD, FAR, SPARE], 50),
            (Mode::Normal, vec![true, false, false, true, false])
        );
        let far_bad = Candidate { elsewhere: true, ..BAD };
        assert_eq!(select(&[GOOD, BAD, BAD, FAR, far_bad], 50), (Mode::Panic, vec![true; 5]));
        // One of which none is usable is as if it were not there.
        assert_eq!(select(&[BAD, BAD, BAD, SPARE], 50), (Mode::Backup, vec![false, false, false, true]));
    }

    #[test]
    fn a_start_is_no_panic() {
        assert_eq!(select(&[NEW, BAD, OUT], 50), (Mode::Starting, vec![true, false, false]));
        assert_eq!(select(&[], 50), (Mode::None, vec![]));
        assert_eq!(select(&[OUT], 50), (Mode::None, vec![false]));
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        (any::<bool>(), 0..3, any::<bool>(), any::<bool>()).prop_map(
            |(eligible, state, backup, elsewhere)| Candidate {
                eligible,
                usable: eligible && state == 0,
                undecided: state == 1,
                backup,
                elsewhere,
            },
        )
    }

    proptest! {
        #[test]
        fn the_rules_hold(
            candidates in proptest::collection::vec(candidate(), 0..10), panic_percent in 0_u8..=100,
        ) {
            let (mode, chosen) = select(&candidates, panic_percent);
            prop_assert_eq!(chosen.len(), candidates.len());
            let picked: Vec<&Candidate> =
                candidates.iter().zip(&chosen).filter(|&(_, &chosen)| chosen).map(|(it, _)| it).collect();
            prop_assert!(picked.iter().all(|it| it.eligible));
            // Somebody serves whenever somebody may.
            prop_assert_eq!(picked.is_empty(), !candidates.iter().any(|it| it.eligible));
            let usable = |wanted: &dyn Fn(&Candidate) -> bool| candidates.iter().any(|it| it.usable && wanted(it));
            // Whoever is used although somebody better is there helps out: the better ones are all used too.
            let worst = picked.iter().map(|it| it.tier()).max().unwrap_or_default();
            if picked.iter().any(|it| it.usable) {
                prop_assert!(!candidates.iter().zip(&chosen).any(|(it, &chosen)| it.usable && it.tier() < worst && !chosen));
            }
            match mode {
                Mode::Normal => prop_assert!(picked.iter().all(|it| it.usable && !it.backup)),
                Mode::Backup => prop_assert!(
                    picked.iter().all(|it| it.usable) && picked.iter().any(|it| it.backup)
                ),
                Mode::Starting => prop_assert!(!usable(&|_| true) && picked.iter().all(|it| it.undecided)),
                Mode::None => prop_assert!(picked.is_empty()),
                Mode::Panic => {
                    let known = picked.iter().filter(|it| it.usable || !it.undecided).count();
                    let good = picked.iter().filter(|it| it.usable).count();
                    prop_assert!(good * 100 < known * usize::from(panic_percent) || good == 0);
                    // Nobody well stands by while others are used who are not.
                    prop_assert!(!usable(&|it| !picked.contains(&it)));
                }
            }
        }
    }
}
