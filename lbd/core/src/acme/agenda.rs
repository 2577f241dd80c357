//! When which certificate is ordered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use common::rng::Rng;
use common::time::{Duration, Instant, Now, UnixTime};

use super::names::Names;

/// In this time orders are counted.
pub const ORDERS_WITHIN: Duration = Duration::from_secs(3600);

/// So many are placed in it at most: an authority such as Let's Encrypt takes five times as many.
pub const ORDERS_MAX: usize = 60;

/// So many of them for one certificate: five failures of a name in an hour have the same authority refuse it.
pub const ORDERS_OF_ONE_MAX: usize = 4;

/// Why a certificate was not had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The directory could not be reached, or something else than one answered.
    Directory,
    /// The account could not be made or used.
    Account,
    /// The authority wants to be asked less often.
    RateLimited,
    /// The authority did not take the order.
    Refused,
    /// The authority did not find the answer at the names.
    Challenge,
    /// It took too long.
    Timeout,
    /// What came is no certificate for the names and the key.
    Certificate,
    /// This host could not do its part.
    Local,
}

impl FailureKind {
    /// How many there are.
    pub const COUNT: usize = 8;

    /// All of them, in the order of [`Self::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::Directory,
        Self::Account,
        Self::RateLimited,
        Self::Refused,
        Self::Challenge,
        Self::Timeout,
        Self::Certificate,
        Self::Local,
    ];

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in the metrics and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Account => "account",
            Self::RateLimited => "rate_limited",
            Self::Refused => "refused",
            Self::Challenge => "challenge",
            Self::Timeout => "timeout",
            Self::Certificate => "certificate",
            Self::Local => "local",
        }
    }

    /// The first pause after it, and the longest. Where nothing was ordered nobody has counted, and the next try costs nothing.
    const fn pauses(self, was_placed: bool) -> (Duration, Duration) {
        match (self, was_placed) {
            (Self::RateLimited, _) => (Duration::from_secs(3600), Duration::from_secs(6 * 3600)),
            (_, true) => (Duration::from_secs(60), Duration::from_secs(6 * 3600)),
            (_, false) => (Duration::from_secs(2), Duration::from_secs(900)),
        }
    }
}

/// From when to when a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its begin.
    pub not_before: i64,
    /// Its end.
    pub not_after: i64,
}

impl Validity {
    /// When it is to be renewed: so long before its end, or when a third of its life is left; not before half of it is over.
    #[must_use]
    pub fn renew_at(self, before: Option<Duration>) -> i64 {
        let life = self.not_after.saturating_sub(self.not_before).max(0);
        let before = before.map_or(life / 3, |before| i64::try_from(before.as_secs()).unwrap_or(i64::MAX));
        self.not_after.saturating_sub(before.min(life / 2))
    }
}

/// The last failure of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFailure {
    /// When.
    pub at: UnixTime,
    /// Of what kind.
    pub kind: FailureKind,
    /// What went wrong, for people.
    pub message: String,
}

/// How far a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is none yet.
    Missing,
    /// It is ordered in this moment, the first time or again.
    UnderWay,
    /// There is one.
    Here,
}

/// What there is to see of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// How far it is.
    pub progress: Progress,
    /// Whether this node orders it, or the other one.
    pub orders: bool,
    /// Of the one that is there.
    pub validity: Option<Validity>,
    /// Failures since the last success.
    pub failures: u32,
    /// The last of these; none after a success.
    pub last_failure: Option<LastFailure>,
    /// How long it is until this node orders it; none if it does not, or does so in this moment.
    pub next: Option<Duration>,
}

/// What is ordered, and when.
#[derive(Debug)]
pub struct Agenda {
    renew_before: Option<Duration>,
    items: BTreeMap<Names, Item>,
    /// When orders were placed, of any certificate.
    placed: VecDeque<Instant>,
    under_way: Option<Names>,
    jitter: Rng,
}

#[derive(Debug, Default)]
struct Item {
    validity: Option<Validity>,
    orders: bool,
    failures: u32,
    last_failure: Option<LastFailure>,
    /// No order before that: a pause.
    not_before: Instant,
    placed: VecDeque<Instant>,
    /// The configuration wants it no longer; it is kept for as long as orders of it count.
    unwanted: bool,
}

/// A failure's message is cut after so many characters.
const MESSAGE_CHARS_MAX: usize = 1000;

impl Agenda {
    /// Nothing to do. `seed` is for the pauses' jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            renew_before: None,
            items: BTreeMap::new(),
            placed: VecDeque::new(),
            under_way: None,
            jitter: Rng::new(seed),
        }
    }

    /// Which certificates are wanted, and how long before its end one is renewed. What is known of one that was wanted before stays, and so
    /// do pauses: a reload orders nothing sooner.
    pub fn configure(&mut self, now: Now, renew_before: Option<Duration>, wanted: &BTreeSet<Names>) {
        self.renew_before = renew_before;
        let under_way = self.under_way.clone();
        self.items.retain(|names, item| {
            forget_old(&mut item.placed, now.at);
            item.unwanted = !wanted.contains(names);
            !item.unwanted || !item.placed.is_empty() || under_way.as_ref() == Some(names)
        });
        for names in wanted {
            self.items.entry(names.clone()).or_default();
        }
    }

    /// All that are wanted.
    pub fn wanted(&self) -> impl Iterator<Item = &Names> {
        self.items.iter().filter(|(_, item)| !item.unwanted).map(|(names, _)| names)
    }

    /// Whether this one is wanted.
    #[must_use]
    pub fn wants(&self, names: &Names) -> bool {
        self.items.get(names).is_some_and(|item| !item.unwanted)
    }

    /// There is a certificate of this validity: from the disk, from the other node, or from an order.
    pub fn has(&mut self, names: &Names, validity: Validity) {
        if let Some(item) = self.items.get_mut(names) {
            item.validity = Some(validity);
        }
    }

    /// Whether a certificate of this validity would be better than the one there is.
    #[must_use]
    pub fn is_better(&self, names: &Names, validity: Validity) -> bool {
        let known = self.items.get(names).and_then(|item| item.validity);
        known.is_none_or(|known| validity.not_after > known.not_after)
    }

    /// Whether this node orders it, as [`super::may_order`] says.
    pub fn may_order(&mut self, names: &Names, orders: bool) {
        if let Some(item) = self.items.get_mut(names) {
            item.orders = orders;
        }
    }

    /// The certificate to be ordered now, if one is; it is under way until [`Self::succeeded`] or [`Self::failed`], and no other one is meanwhile.
    pub fn next(&mut self, now: Now) -> Option<Names> {
        if self.under_way.is_some() {
            return None;
        }
        forget_old(&mut self.placed, now.at);
        for item in self.items.values_mut() {
            forget_old(&mut item.placed, now.at);
        }
        // Those that have failed least first, and of these those that are missing or end first: one that fails again and again keeps
        // no other one waiting.
        let due = self.items.iter().filter(|(_, item)| self.due(item, now).is_some_and(|at| at <= now.at));
        let first = due.min_by_key(|(_, item)| (item.failures, item.validity.map(|it| it.not_after)));
        let names = first?.0.clone();
        self.under_way = Some(names.clone());
        Some(names)
    }

    /// The order that is under way is about to be placed: from now on it counts.
    pub fn placing(&mut self, now: Now) {
        self.placed.push_back(now.at);
        if let Some(item) = self.under_way.as_ref().and_then(|names| self.items.get_mut(names)) {
            item.placed.push_back(now.at);
        }
    }

    /// The order that was under way has brought a certificate.
    pub fn succeeded(&mut self, validity: Validity) {
        let Some(names) = self.under_way.take() else { return };
        if let Some(item) = self.items.get_mut(&names) {
            item.validity = Some(validity);
            (item.failures, item.last_failure) = (0, None);
        }
    }

    /// The order that was under way has brought nothing. `was_placed`: the authority had counted it.
    pub fn failed(&mut self, now: Now, kind: FailureKind, message: &str, was_placed: bool) {
        let Some(names) = self.under_way.take() else { return };
        let Self { items, jitter, .. } = self;
        let Some(item) = items.get_mut(&names) else { return };
        item.failures = item.failures.saturating_add(1);
        item.last_failure = Some(LastFailure { at: now.unix, kind, message: readable(message) });
        let (first, longest) = kind.pauses(was_placed);
        let doubled = first.saturating_mul(1 << (item.failures - 1).min(16));
        let pause = doubled.min(longest);
        // Up to a quarter later, so that many nodes that failed together do not come back together.
        item.not_before = now.at + pause + jitter.span(Duration::ZERO, pause / 4);
    }

    /// When [`Self::next`] is to be asked, if nothing else happens before. It follows the wall clock: asked again every minute or so, a clock that
    /// was set is found.
    #[must_use]
    pub fn deadline(&self, now: Now) -> Option<Instant> {
        if self.under_way.is_some() {
            return None;
        }
        self.items.values().filter_map(|item| self.due(item, now)).min()
    }

    /// What there is to see of a certificate.
    #[must_use]
    pub fn view(&self, now: Now, names: &Names) -> Option<View> {
        let item = self.items.get(names)?;
        let under_way = self.under_way.as_ref() == Some(names);
        let progress = match item.validity {
            _ if under_way => Progress::UnderWay,
            Some(_) => Progress::Here,
            None => Progress::Missing,
        };
        Some(View {
            progress,
            orders: item.orders,
            validity: item.validity,
            failures: item.failures,
            last_failure: item.last_failure.clone(),
            next: self.due(item, now).filter(|_| !under_way).map(|at| at - now.at),
        })
    }

    /// When this node orders it, now or later; none if it does not.
    fn due(&self, item: &Item, now: Now) -> Option<Instant> {
        if item.unwanted || !item.orders {
            return None;
        }
        let seconds = i64::try_from(now.unix.as_millis() / 1000).unwrap_or(i64::MAX);
        let left =
            item.validity.map_or(0, |validity| validity.renew_at(self.renew_before).saturating_sub(seconds));
        let wanted = now.at + Duration::from_secs(u64::try_from(left).unwrap_or(0));
        let allowed = free_at(&self.placed, ORDERS_MAX).max(free_at(&item.placed, ORDERS_OF_ONE_MAX));
        Some(wanted.max(item.not_before).max(allowed))
    }
}

/// A message as terminals and logs may have it: cut, and without control characters. Authorities choose parts of it.
#[must_use]
pub fn readable(message: &str) -> String {
    let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    message.chars().take(MESSAGE_CHARS_MAX).map(plain).collect()
}

/// When another order fits in, of at most `max`.
fn free_at(placed: &VecDeque<Instant>, max: usize) -> Instant {
    let first = placed.len().checked_sub(max).and_then(|index| placed.get(index));
    first.map_or(Instant::ZERO, |at| *at + ORDERS_WITHIN)
}

fn forget_old(placed: &mut VecDeque<Instant>, now: Instant) {
    while placed.front().is_some_and(|at| *at + ORDERS_WITHIN <= now) {
        placed.pop_front();
    }
}

#[cfg(test)]
mod tests;
