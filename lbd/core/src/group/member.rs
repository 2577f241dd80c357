//! One target of a group: what is wanted of it and what is known about it.

use std::net::SocketAddr;

use common::time::{Duration, Instant, Now, UnixTime};
use serde::{Deserialize, Serialize};

use super::Settings;
use super::ejection::Ejection;
use super::select::Candidate;
use crate::health::{HealthState, HealthTracker};

/// What a target of weight 1 gets of the connections, in the unit of shares.
pub const SHARE_OF_WEIGHT_ONE: u32 = 256;

/// A slow start begins with this part of the full share.
const SLOW_START_PARTS: u32 = 32;

common::named! {
    /// What the administrator wants of a target. The place of each stays what it is: it is the state's number between the nodes of a pair.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Admin {
        /// New connections.
        #[default]
        Ready => "ready",
        /// No new connections; those it has may go on for `drain_timeout` and are closed then.
        Drain => "drain",
        /// Nothing: no new connections, and those it has are closed at once.
        Maint => "maint",
    }
}

/// The largest weight.
pub const WEIGHT_MAX: u16 = 256;

/// What the configuration, the discovery or the API says about a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name, unique in the group.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share, 0 to 256.
    pub weight: u16,
    /// Used only when no other target is usable.
    pub backup: bool,
    /// Where it is; a target without a zone counts as being in each.
    pub zone: Option<String>,
}

/// Why a target gets no new connections, or why it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It gets its share.
    InUse,
    /// It gets its share although it is not usable, because too few are.
    Panic,
    /// It gets its share although nothing is known about it, because nothing is about any.
    Starting,
    /// `drain`.
    Drain,
    /// `maint`.
    Maint,
    /// Its weight is 0.
    WeightZero,
    /// Its first check has not ended.
    Undecided,
    /// Its checks fail.
    Unhealthy,
    /// Too many of its connections failed.
    Ejected,
    /// A backup while a primary target is usable.
    StandsBy,
    /// In another zone while a target of this node's zone is usable.
    OtherZone,
}

impl Standing {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Panic => "panic",
            Self::Starting => "starting",
            Self::Drain => "drain",
            Self::Maint => "maint",
            Self::WeightZero => "weight_zero",
            Self::Undecided => "undecided",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::StandsBy => "stands_by",
            Self::OtherZone => "other_zone",
        }
    }
}

/// One target.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) spec: Spec,
    pub(super) admin: Admin,
    /// When `admin` was set.
    pub(super) admin_since: Instant,
    /// That the drain has ended has been told.
    pub(super) drained: bool,
    /// The administrator's weight, in the place of the configured one.
    pub(super) weight: Option<u16>,
    pub(super) health: HealthTracker,
    /// When the health changed.
    pub(super) since: UnixTime,
    pub(super) ejection: Ejection,
    /// It was there from the group's start and has not failed yet: its first use is no recovery.
    pub(super) first: bool,
    /// It was usable when last looked at.
    pub(super) usable: bool,
    /// When the slow start under way began.
    pub(super) slow_from: Option<Instant>,
    pub(super) share: u32,
    /// When the share was computed.
    pub(super) share_at: Instant,
    pub(super) standing: Standing,
}

impl Member {
    pub(super) fn new(now: Now, spec: Spec, settings: &Settings, first: bool) -> Self {
        Self {
            spec,
            admin: Admin::Ready,
            admin_since: now.at,
            drained: false,
            weight: None,
            health: HealthTracker::new(settings.thresholds),
            since: now.unix,
            ejection: Ejection::default(),
            first,
            usable: false,
            slow_from: None,
            share: 0,
            share_at: now.at,
            standing: Standing::Undecided,
        }
    }

    /// Takes over what the administrator said about another target of this name.
    pub(super) fn heed(&mut self, other: &Self) {
        (self.admin, self.admin_since, self.drained) = (other.admin, other.admin_since, other.drained);
        self.weight = other.weight;
    }

    /// The weight in force.
    pub(super) fn effective_weight(&self) -> u16 {
        self.weight.unwrap_or(self.spec.weight)
    }

    /// Whether it could be used if it were healthy.
    pub(super) fn eligible(&self) -> bool {
        self.admin == Admin::Ready && self.effective_weight() > 0
    }

    /// Whether it counts towards the share of ejected targets.
    pub(super) fn counts_as_ejected(&self) -> bool {
        self.eligible() && self.ejection.until().is_some()
    }

    pub(super) fn candidate(&self, settings: &Settings) -> Candidate {
        let eligible = self.eligible();
        let other = |(own, its): (&String, &String)| own != its;
        Candidate {
            eligible,
            usable: eligible && self.health.state().serves() && self.ejection.until().is_none(),
            undecided: self.health.state() == HealthState::Undecided,
            backup: self.spec.backup,
            elsewhere: settings.zone.as_ref().zip(self.spec.zone.as_ref()).is_some_and(other),
        }
    }

    /// Notes whether it is usable; that it has become so is the begin of a slow start.
    pub(super) fn note_usable(&mut self, now: Instant, usable: bool, window: Duration) {
        let recovered = usable && !self.usable;
        if recovered && !self.first && !window.is_zero() {
            self.slow_from = Some(now);
        }
        let over = self.slow_from.is_some_and(|from| now.since(from) >= window);
        if !usable || over {
            self.slow_from = None;
        }
        // What happened before the first check's end is still the start.
        self.first &= !usable && self.health.state() == HealthState::Undecided;
        self.usable = usable;
    }

    /// The share of a target that is in use, at least 1.
    pub(super) fn share_in_use(&self, now: Instant, window: Duration) -> u32 {
        let full = u32::from(self.effective_weight()) * SHARE_OF_WEIGHT_ONE;
        let Some(from) = self.slow_from else { return full };
        let (elapsed, window) = (now.since(from).as_nanos(), window.as_nanos().max(1));
        let risen = u128::from(full) * elapsed.min(window) / window;
        // Not above `full`, which is a u32.
        u32::try_from(risen).unwrap_or(full).max(full / SLOW_START_PARTS).max(1)
    }

    /// Why it gets a share, or none.
    pub(super) fn stand(&self, candidate: Candidate, chosen: bool) -> Standing {
        let troubled = if self.ejection.until().is_some() { Standing::Ejected } else { Standing::Unhealthy };
        match (chosen, self.admin) {
            (true, _) if candidate.usable => Standing::InUse,
            (true, _) if candidate.undecided => Standing::Starting,
            (true, _) => Standing::Panic,
            (false, Admin::Drain) => Standing::Drain,
            (false, Admin::Maint) => Standing::Maint,
            (false, Admin::Ready) if !candidate.eligible => Standing::WeightZero,
            (false, Admin::Ready) if candidate.undecided => Standing::Undecided,
            (false, Admin::Ready) if !candidate.usable => troubled,
            (false, Admin::Ready) if candidate.backup => Standing::StandsBy,
            (false, Admin::Ready) => Standing::OtherZone,
        }
    }

    /// When its connections are closed.
    pub(super) fn close_at(&self, drain_timeout: Duration) -> Option<Instant> {
        match self.admin {
            Admin::Ready => None,
            Admin::Drain => Some(self.admin_since + drain_timeout),
            Admin::Maint => Some(self.admin_since),
        }
    }
}
