//! What a [`super::Watcher`] saw, and who answered for a VIP when.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use common::time::Instant;
use serde::{Deserialize, Serialize};

use crate::lab::addresses::Mac;

/// On what occasion an address was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SightingKind {
    /// Told to everyone unasked: gratuitous ARP, unsolicited neighbour advertisement.
    Announcement,
    /// An answer: ARP reply, solicited neighbour advertisement.
    Answer,
    /// Its owner asked for another address over ARP.
    Question,
}

/// One frame that claimed a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// When it was received.
    pub at: Instant,
    /// The VIP.
    pub vip: IpAddr,
    /// Who claimed it.
    pub mac: Mac,
    /// On what occasion.
    pub kind: SightingKind,
    /// Of an answer to the watcher: the number of its question.
    pub question: Option<u64>,
}

/// A stretch of time in which two hosts answered for a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The VIP.
    pub vip: IpAddr,
    /// When the first question that both answered was asked.
    pub from: Instant,
    /// When the last of both answers to the last such question came.
    pub to: Instant,
    /// Who answered.
    pub macs: BTreeSet<Mac>,
    /// How many questions in a row both answered.
    pub questions: u64,
}

impl Overlap {
    /// Its length. It errs by up to one interval at either end.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to - self.from
    }
}

/// What a watcher saw. Questions are numbered from 0, and every VIP is asked for in each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchReport {
    /// When each question was asked.
    pub asked: Vec<Instant>,
    /// Every frame that claimed a VIP, in the order received.
    pub sightings: Vec<Sighting>,
    /// Sightings and questions that were not recorded because the record was full.
    pub unrecorded: u64,
    /// Questions not asked because the thread ran late, or the kernel did not take them.
    pub skipped: u64,
}

impl WatchReport {
    /// The announcements of a VIP.
    pub fn announcements(&self, vip: impl Into<IpAddr>) -> impl Iterator<Item = &Sighting> {
        let vip = vip.into();
        self.sightings.iter().filter(move |seen| seen.vip == vip && seen.kind == SightingKind::Announcement)
    }

    /// Who announced a VIP last: where the network's neighbour tables point.
    #[must_use]
    pub fn last_announcement(&self, vip: impl Into<IpAddr>) -> Option<Sighting> {
        self.announcements(vip).last().copied()
    }

    /// Who answered each question for a VIP.
    #[must_use]
    pub fn answers(&self, vip: impl Into<IpAddr>) -> Vec<BTreeSet<Mac>> {
        let mut answers = vec![BTreeSet::new(); self.asked.len()];
        for (index, seen) in self.answers_of(vip.into()) {
            answers[index].insert(seen.mac);
        }
        answers
    }

    /// Who answered for a VIP, with the time of the first question of each stretch with the same answerers; nobody is
    /// an answerer too.
    #[must_use]
    pub fn owners(&self, vip: impl Into<IpAddr>) -> Vec<(Instant, BTreeSet<Mac>)> {
        let mut owners: Vec<(Instant, BTreeSet<Mac>)> = Vec::new();
        for (asked, macs) in self.asked.iter().zip(self.answers(vip)) {
            if owners.last().is_none_or(|(_, last)| *last != macs) {
                owners.push((*asked, macs));
            }
        }
        owners
    }

    /// Every stretch in which a VIP's questions were answered by more than one host, in order.
    #[must_use]
    pub fn overlaps(&self, vip: impl Into<IpAddr>) -> Vec<Overlap> {
        let vip = vip.into();
        let mut last_answer = vec![Instant::ZERO; self.asked.len()];
        for (index, seen) in self.answers_of(vip) {
            last_answer[index] = last_answer[index].max(seen.at);
        }
        let mut overlaps: Vec<Overlap> = Vec::new();
        let mut running = false;
        for (index, macs) in self.answers(vip).into_iter().enumerate() {
            let both = macs.len() > 1;
            match overlaps.last_mut().filter(|_| running && both) {
                Some(overlap) => {
                    overlap.to = last_answer[index];
                    overlap.macs.extend(macs);
                    overlap.questions += 1;
                }
                None if both => {
                    let (from, to) = (self.asked[index], last_answer[index]);
                    overlaps.push(Overlap { vip, from, to, macs, questions: 1 });
                }
                None => {}
            }
            running = both;
        }
        overlaps
    }

    /// The longest stretch in which two hosts answered for a VIP at the same time; `None` when that never was.
    #[must_use]
    pub fn longest_overlap(&self, vip: impl Into<IpAddr>) -> Option<Overlap> {
        self.overlaps(vip).into_iter().max_by_key(Overlap::length)
    }

    /// The longest time between two neighbouring questions that were answered: how long nobody had a VIP. The first
    /// and last question count as answered.
    #[must_use]
    pub fn longest_silence(&self, vip: impl Into<IpAddr>) -> Duration {
        let answers = self.answers(vip);
        let last = answers.len().saturating_sub(1);
        let answered = self.asked.iter().zip(&answers).enumerate();
        let answered =
            answered.filter(|(index, (_, macs))| *index == 0 || *index == last || !macs.is_empty());
        let times: Vec<Instant> = answered.map(|(_, (asked, _))| *asked).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The answers for a VIP with the index of their question.
    fn answers_of(&self, vip: IpAddr) -> impl Iterator<Item = (usize, &Sighting)> {
        let answers = self.sightings.iter().filter(move |seen| seen.vip == vip);
        answers.filter_map(|seen| {
            let index = usize::try_from(seen.question?).ok()?;
            (index < self.asked.len()).then_some((index, seen))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::addresses::{mac, vip4};

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// A question every 10 ms; `a` answers those before 5, `b` those from 3 to 6 and from 9.
    fn report() -> WatchReport {
        let mut report =
            WatchReport { asked: (0..12).map(|index| at(index * 10)).collect(), ..Default::default() };
        for question in 0..12 {
            let a = (question < 5).then_some(1);
            let b = ((3..=6).contains(&question) || question >= 9).then_some(2);
            for host in [a, b].into_iter().flatten() {
                let kind = SightingKind::Answer;
                let seen = at(question * 10 + u64::from(host));
                let question = Some(question);
                report.sightings.push(Sighting {
                    at: seen,
                    vip: vip4(0).into(),
                    mac: mac(host),
                    kind,
                    question,
                });
            }
        }
        report
    }

    #[test]
    fn overlap_silence_and_owners_follow_from_the_answers() {
        let report = report();
        let overlaps = report.overlaps(vip4(0));
        assert_eq!(overlaps.len(), 1);
        assert_eq!((overlaps[0].from, overlaps[0].to, overlaps[0].questions), (at(30), at(42), 2));
        assert_eq!(overlaps[0].macs, BTreeSet::from([mac(1), mac(2)]));
        assert_eq!(report.longest_silence(vip4(0)), Duration::from_millis(30));
        let owners = report.owners(vip4(0));
        let times: Vec<(Instant, usize)> = owners.iter().map(|(at, macs)| (*at, macs.len())).collect();
        assert_eq!(times, [(at(0), 1), (at(30), 2), (at(50), 1), (at(70), 0), (at(90), 1)]);
        assert_eq!(report.longest_overlap(vip4(1)), None);
    }
}
