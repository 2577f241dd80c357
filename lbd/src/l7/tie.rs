//! What ties a request to a target: the cookie that Tandem has given the client, one that an application has, or what is hashed.

use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use common::config::{Action, HashBy, Http};
use common::hash::HashKey;
use common::time::Instant;
use lbd_core::http::affinity::Reading;
use lbd_core::http::cookie;
use lbd_core::http::framing::Field;
use lbd_core::http::origin::Origin;
use lbd_core::http::pass_on::Passing;
use lbd_core::http::route::{Asked, Routed};

use super::site::Site;
use crate::clock::unix_now;
use crate::counters::HttpCounters;
use crate::l4::{Occupied, Pool, Tie};
use crate::snapshot::KnownBy;

common::named! {
    /// Why a cookie of Tandem's did not count.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Rejected {
        /// It is none of ours, or of another key.
        Forged => "forged",
        /// It is older than `ttl`.
        Stale => "stale",
        /// Its target is gone, or takes nobody.
        Gone => "gone",
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
    /// The client that what its target gives to it is counted for; nobody for a proxy in front that names none, for it stands for many.
    client: Option<IpAddr>,
}

/// The name of the cookie that Tandem itself gives the clients of a group.
pub(super) fn own_cookie(pool: &Pool) -> Option<&str> {
    match &pool.group.sticky.as_ref()?.by {
        KnownBy::Source | KnownBy::AppCookie(_) => None,
        KnownBy::Cookie(seal) => Some(seal.name()),
    }
}

/// Of several groups with weights the one where the client is at home already; that with the newest cookie, if it is in several.
pub(super) fn home_group<'h>(
    http: &'h Http,
    routed: &Routed<'h>,
    site: &Site,
    asked: &Asked<'_>,
    now: Instant,
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
        let sticky = pool.group.sticky.as_ref()?;
        match &sticky.by {
            KnownBy::Source => None,
            KnownBy::Cookie(seal) => Some(seal.read(asked.fields, unix_now()).claim?.issued),
            KnownBy::AppCookie(name) => {
                let session = session(site.hash_key, asked.fields, name)?;
                sticky.table.find(&session, now).map(|_| u64::MAX)
            }
        }
    };
    let shares = split.shares.iter().filter(|share| share.weight > 0);
    let homes = shares.filter_map(|share| Some((since(&share.group)?, share.group.as_str())));
    homes.max_by_key(|(since, _)| *since).map(|(_, group)| group)
}

impl Tied {
    /// What a request of this origin says to the targets of a group.
    pub(super) fn of(pool: &Pool, asked: &Asked<'_>, passing: &Passing<'_>, origin: &Origin<'_>) -> Self {
        let tied = Self::by_cookies(pool, asked, passing, origin);
        let http2 = Some(pool.group.config.http2);
        Self { tie: Tie { hash: hashed(pool, asked), http2, ..tied.tie }, ..tied }
    }

    /// What its cookies say of a target that it had before.
    fn by_cookies(pool: &Pool, asked: &Asked<'_>, passing: &Passing<'_>, origin: &Origin<'_>) -> Self {
        let group = &pool.group;
        match group.sticky.as_ref().map(|sticky| &sticky.by) {
            None | Some(KnownBy::Source) => Self::default(),
            Some(KnownBy::AppCookie(name)) => {
                let session = session(pool.hash_key(), asked.fields, name);
                // A proxy that names nobody is many.
                let client = (!origin.is_proxy).then_some(asked.client);
                Self { tie: Tie { session, ..Tie::default() }, client, ..Self::default() }
            }
            Some(KnownBy::Cookie(seal)) => {
                let Reading { claim, forged, stale } = seal.read(asked.fields, unix_now());
                let serves = |index: usize| group.targets[index].serving();
                let gone = claim.is_some_and(|claim| !seal.index(claim.mark).is_some_and(serves));
                let tie = Tie { claim, ..Tie::default() };
                // To Tandem, or as a proxy in front says whose word is taken.
                let secure =
                    passing.arrival.scheme == "https" || origin.says_https(asked.fields, passing.forwarded);
                Self { tie, secure, rejected: [forged, stale, gone], client: None }
            }
        }
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

/// The hash of what the group goes by in the place of the client's address; nothing if the request does not have that.
fn hashed(pool: &Pool, asked: &Asked<'_>) -> Option<u64> {
    let value = match &pool.group.config.hash_by {
        HashBy::SourceIp => return None,
        HashBy::Header(name) => asked.fields.iter().find(|field| field.is(name))?.value,
        HashBy::Cookie(name) => cookie::values(asked.fields, name).find(|value| !value.is_empty())?,
        HashBy::Path => asked.path.as_bytes(),
    };
    Some(pool.hash_key().bytes(value))
}

/// What stands for the first cookie of this name in tables whose keys are addresses: a keyed hash, so that what proves who somebody is lies
/// nowhere about, and goes to the other node as an address does.
fn session(hash_key: HashKey, fields: &[Field<'_>], name: &str) -> Option<IpAddr> {
    let value = cookie::values(fields, name).find(|value| !value.is_empty())?;
    Some(key_of(hash_key, name, value))
}

/// What stands for a text of this kind in the place of an address.
pub(super) fn key_of(hash_key: HashKey, kind: &str, value: &[u8]) -> IpAddr {
    let half = |which: u8| {
        // No kind has a zero in it, so that no two pairs of kind and text are hashed alike.
        let bytes = [&[which], kind.as_bytes(), &[0], value].concat();
        u128::from(hash_key.bytes(&bytes))
    };
    IpAddr::V6(Ipv6Addr::from_bits(half(0) << 64 | half(1)))
}

/// What the target that a client has got is to tell it about coming back, and what is learned from its answer.
pub(super) struct Bond {
    pool: Rc<Pool>,
    index: usize,
    /// As in [`Tied`].
    client: Option<IpAddr>,
    added: Vec<(&'static str, String)>,
}

impl Bond {
    /// Of the target of this place, the `tries`th one tried for a request. Nothing if the client knows already, or has no cookies to know by.
    pub(super) fn new(occupied: &Occupied, tied: &Tied, tries: u32) -> Option<Self> {
        let (pool, index) = (&occupied.pool, occupied.index);
        let group = &pool.group;
        let bond = |added| Some(Self { pool: Rc::clone(pool), index, client: tied.client, added });
        let seal = match &group.sticky.as_ref()?.by {
            KnownBy::Source => return None,
            KnownBy::AppCookie(_) => return bond(Vec::new()),
            KnownBy::Cookie(seal) => seal,
        };
        let claim = tied.tie.claim;
        let stays = match claim.and_then(|claim| seal.index(claim.mark)) {
            Some(home) if home == index => claim.is_some_and(|claim| !claim.is_old),
            // It was only full.
            Some(home) => tries <= 1 && group.targets[home].serving(),
            None => false,
        };
        if stays {
            return None;
        }
        bond(vec![("Set-Cookie", seal.set_cookie(index, tied.secure, unix_now()))])
    }

    /// The target has answered with these `Set-Cookie` fields: remembers that a session that one of them begins is at this target.
    pub(super) fn learn<'f>(&self, set_cookies: impl Iterator<Item = &'f [u8]>, now: Instant) {
        let Some(sticky) = &self.pool.group.sticky else { return };
        let KnownBy::AppCookie(name) = &sticky.by else { return };
        let values = set_cookies.filter_map(cookie::set).filter(|(its, _)| *its == name.as_bytes());
        for (_, value) in values.filter(|(_, value)| !value.is_empty()) {
            let key = key_of(self.pool.hash_key(), name, value);
            sticky.table.learn(&key, sticky.id(self.index), self.client, now);
        }
    }

    /// The fields that are added to the target's answer.
    pub(super) fn added(&self) -> &[(&'static str, String)] {
        &self.added
    }
}
