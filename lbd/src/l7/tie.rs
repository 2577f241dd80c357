//! What ties a request to a target: the cookie that Tandem has given the client.

use common::config::{Action, Http};
use lbd_core::http::affinity::Reading;
use lbd_core::http::framing::Field;
use lbd_core::http::pass_on::Passing;
use lbd_core::http::route::{Asked, Routed};

use super::site::Site;
use crate::clock::unix_now;
use crate::counters::HttpCounters;
use crate::l4::{Occupied, Pool, Tie};
use crate::snapshot::KnownBy;

/// Why a cookie of Tandem's did not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// It is none of ours, or of another key.
    Forged,
    /// It is older than `ttl`.
    Stale,
    /// Its target is gone, or takes nobody.
    Gone,
}

impl Rejected {
    /// How many there are.
    pub(crate) const COUNT: usize = 3;

    /// All of them, in the order of their counters.
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Forged, Self::Stale, Self::Gone];

    /// Its name in the metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Stale => "stale",
            Self::Gone => "gone",
        }
    }
}

/// What a request says about its target.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tied {
    /// For the choice.
    pub(super) tie: Tie,
    /// Whether the client has come by TLS.
    secure: bool,
    /// Whether there was a cookie for each reason of [`Rejected::ALL`].
    rejected: [bool; Rejected::COUNT],
}

/// The name of the cookie that Tandem itself gives the clients of a group.
pub(super) fn own_cookie(pool: &Pool) -> Option<&str> {
    match &pool.group.sticky.as_ref()?.by {
        KnownBy::Source => None,
        KnownBy::Cookie(seal) => Some(seal.name()),
    }
}

/// Of several groups with weights the one where the client is at home already; that with the newest cookie, if it is in several.
pub(super) fn home_group<'h>(
    http: &'h Http,
    routed: &Routed<'h>,
    site: &Site,
    asked: &Asked<'_>,
) -> Option<&'h str> {
    let split = match routed.rule.map(|(_, rule)| &rule.action) {
        Some(Action::Forward(split)) => split,
        _ => http.forward.as_ref()?,
    };
    if split.shares.len() < 2 {
        return None;
    }
    let since = |group: &str| {
        let pool = site.pool(group)?;
        match &pool.group.sticky.as_ref()?.by {
            KnownBy::Source => None,
            KnownBy::Cookie(seal) => Some(seal.read(asked.fields, unix_now()).claim?.issued),
        }
    };
    let shares = split.shares.iter().filter(|share| share.weight > 0);
    let homes = shares.filter_map(|share| Some((since(&share.group)?, share.group.as_str())));
    homes.max_by_key(|(since, _)| *since).map(|(_, group)| group)
}

impl Tied {
    /// What a request says to the targets of a group.
    pub(super) fn of(pool: &Pool, asked: &Asked<'_>, passing: &Passing<'_>) -> Self {
        let group = &pool.group;
        let Some(KnownBy::Cookie(seal)) = group.sticky.as_ref().map(|sticky| &sticky.by) else {
            return Self::default();
        };
        let Reading { claim, forged, stale } = seal.read(asked.fields, unix_now());
        let serves = |index: usize| group.targets[index].serving();
        let gone = claim.is_some_and(|claim| !seal.index(claim.mark).is_some_and(serves));
        Self { tie: Tie { claim }, secure: is_secure(asked, passing), rejected: [forged, stale, gone] }
    }

    /// Counts the cookies that do not count.
    pub(super) fn count(&self, counters: &HttpCounters) {
        for (counter, rejected) in counters.cookies.iter().zip(self.rejected) {
            if rejected {
                counter.add(1);
            }
        }
    }
}

/// Whether the client has come by TLS: to Tandem, or as a proxy in front says whose word is taken.
fn is_secure(asked: &Asked<'_>, passing: &Passing<'_>) -> bool {
    let says =
        |field: &Field<'_>| field.is("x-forwarded-proto") && field.value.eq_ignore_ascii_case(b"https");
    passing.arrival.scheme == "https" || (passing.trusted && asked.fields.iter().any(says))
}

/// What the target that a client has got is to tell it about coming back.
pub(super) struct Bond {
    added: Vec<(&'static str, String)>,
}

impl Bond {
    /// Of the target of this place, the `tries`th one tried for a request. Nothing if the client knows already, or has no cookies to know by.
    pub(super) fn new(occupied: &Occupied, tied: &Tied, tries: u32) -> Option<Self> {
        let (group, index) = (&occupied.pool.group, occupied.index);
        let seal = match &group.sticky.as_ref()?.by {
            KnownBy::Source => return None,
            KnownBy::Cookie(seal) => seal,
        };
        let claim = tied.tie.claim;
        let stays = match claim.and_then(|claim| seal.index(claim.mark)) {
            Some(home) if home == index => claim.is_some_and(|claim| !claim.is_old),
            // It was only full.
            Some(home) => tries <= 1 && group.targets[home].serving(),
            None => false,
        };
        let cookie = || ("Set-Cookie", seal.set_cookie(index, tied.secure, unix_now()));
        (!stays).then(|| Self { added: vec![cookie()] })
    }

    /// The fields that are added to the target's answer.
    pub(super) fn added(&self) -> &[(&'static str, String)] {
        &self.added
    }
}
