//! What the API and `lbd status` show of the link. Fields are only ever added.

use std::collections::BTreeMap;
use std::time::Instant;

use common::time::UnixTime;
use serde::{Deserialize, Serialize};

use super::session::QUEUE_BYTES_MAX;
use super::stats::{Event, State, Stats};
use super::{PeerLink, Settings};
use crate::replication::StateView;

/// `GET /v1/replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplicationView {
    /// The link to the other node; null without one.
    pub(crate) link: Option<LinkView>,
    /// Why there is none.
    pub(crate) off_because: Option<String>,
    /// What went over it; null without one.
    pub(crate) state: Option<StateView>,
}

/// The link to the other node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkView {
    /// The other node's name.
    pub(crate) peer: String,
    /// Where this node listens.
    pub(crate) own_address: String,
    /// Where the other node does.
    pub(crate) peer_address: String,
    /// `connected` or `connecting`.
    pub(crate) state: String,
    /// Since when there is a session, in Unix time; null without one.
    pub(crate) connected_since_unix_ms: Option<u64>,
    /// Which node made the session's connection; null without one.
    pub(crate) connected_by: Option<String>,
    /// Whether this node can be connected to.
    pub(crate) listening: bool,
    /// Why it cannot; null if it can.
    pub(crate) listen_error: Option<String>,
    /// Messages that wait to be sent.
    pub(crate) queued_messages: usize,
    /// Their bytes.
    pub(crate) queued_bytes: usize,
    /// The most bytes that may wait.
    pub(crate) queued_bytes_max: usize,
    /// How long the first of them has waited.
    pub(crate) queued_for_ms: u64,
    /// Since the start: connections to the other node begun.
    pub(crate) attempts: u64,
    /// Of these, those that did not become a session, by reason.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Connections to this node that did not become a session, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Sessions begun.
    pub(crate) sessions: u64,
    /// Sessions ended, by how.
    pub(crate) ended: BTreeMap<String, u64>,
    /// Messages received.
    pub(crate) messages_in: u64,
    /// Messages sent.
    pub(crate) messages_out: u64,
    /// Bytes received, within TLS.
    pub(crate) bytes_in: u64,
    /// Bytes sent, within TLS.
    pub(crate) bytes_out: u64,
    /// The last connection to the other node that did not become a session; null if none.
    pub(crate) last_failure: Option<EventView>,
    /// The last connection to this node that did not; null if none.
    pub(crate) last_refusal: Option<EventView>,
    /// How the last session ended; null if none has.
    pub(crate) last_end: Option<EventView>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventView {
    /// When, in Unix time.
    pub(crate) unix_ms: u64,
    /// What.
    pub(crate) message: String,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self { unix_ms: unix_ms(event.at), message: event.what }
    }
}

impl PeerLink {
    /// What is to be shown.
    pub(crate) fn view(&self) -> ReplicationView {
        let state = self.shown().map(|state| (*state).clone());
        match self.settings() {
            Ok(settings) => {
                ReplicationView { link: Some(view(&settings, self.stats())), off_because: None, state }
            }
            Err(why) => ReplicationView { link: None, off_because: Some(why), state: None },
        }
    }
}

fn view(settings: &Settings, stats: &Stats) -> LinkView {
    let State { session, listen_error, last_failure, last_refusal, last_end } = stats.state();
    let level = session.as_ref().map(|session| session.pipes.waiting()).unwrap_or_default();
    let by = |dialled| if dialled { &settings.node } else { &settings.peer }.clone();
    let named = |counts: &mut dyn Iterator<Item = (&'static str, u64)>| {
        counts.map(|(name, count)| (name.to_owned(), count)).collect()
    };
    LinkView {
        peer: settings.peer.clone(),
        own_address: settings.own_address.to_string(),
        peer_address: settings.peer_address.to_string(),
        state: if session.is_some() { "connected" } else { "connecting" }.to_owned(),
        connected_since_unix_ms: session.as_ref().map(|session| unix_ms(session.since)),
        connected_by: session.map(|session| by(session.dialled)),
        listening: stats.is_listening(),
        listen_error,
        queued_messages: level.messages,
        queued_bytes: level.bytes,
        queued_bytes_max: QUEUE_BYTES_MAX,
        queued_for_ms: level.oldest.map(age_ms).unwrap_or_default(),
        attempts: stats.attempts.get(),
        failed: named(&mut stats.failed.each()),
        refused: named(&mut stats.refused.each()),
        sessions: stats.sessions.get(),
        ended: named(&mut stats.ended.each()),
        messages_in: stats.messages_in.get(),
        messages_out: stats.messages_out.get(),
        bytes_in: stats.bytes_in.get(),
        bytes_out: stats.bytes_out.get(),
        last_failure: last_failure.map(EventView::from),
        last_refusal: last_refusal.map(EventView::from),
        last_end: last_end.map(EventView::from),
    }
}

fn unix_ms(at: UnixTime) -> u64 {
    at.as_millis()
}

fn age_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
