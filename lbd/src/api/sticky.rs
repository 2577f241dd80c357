//! `GET /v1/sticky`: which clients have a target to come back to.

use std::net::IpAddr;

use axum::extract::{Query, State};
use axum::response::Json;
use lbd_core::sticky::StickyView;
use serde::{Deserialize, Serialize};

use super::handlers::Context;

/// Clients shown of each group when the request does not say, and at most.
const SHOWN: usize = 1000;
const SHOWN_MAX: usize = 100_000;

/// What may be asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// Only this group.
    group: Option<String>,
    /// At most so many clients of each group.
    max: Option<usize>,
}

/// A group with stickiness.
#[derive(Debug, Serialize)]
pub(super) struct GroupView {
    /// Its name.
    group: String,
    /// Clients in its table; some may have expired since.
    entries: usize,
    /// Clients forgotten before their time for want of room.
    forgotten: u64,
    /// The clients, or as many as were asked for.
    clients: Vec<ClientView>,
}

#[derive(Debug, Serialize)]
struct ClientView {
    /// Its address.
    source: IpAddr,
    /// The id of its target.
    target: String,
    /// How long that is remembered if the client does not come back.
    remaining_ms: u64,
}

impl From<StickyView> for ClientView {
    fn from(view: StickyView) -> Self {
        Self {
            source: view.source,
            target: view.target.to_string(),
            remaining_ms: u64::try_from(view.remaining.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Shows the tables.
pub(super) async fn show(
    State(context): State<Context>,
    Query(wanted): Query<Wanted>,
) -> Json<Vec<GroupView>> {
    let now = context.shared.clock.at();
    let max = wanted.max.unwrap_or(SHOWN).min(SHOWN_MAX);
    let snapshot = context.shared.snapshot.load();
    let groups = snapshot.groups.iter();
    let groups = groups.filter(|group| wanted.group.as_ref().is_none_or(|name| group.config.name == *name));
    let view = |(name, table): (&String, &lbd_core::sticky::StickyTable)| GroupView {
        group: name.clone(),
        entries: table.len(),
        forgotten: table.forgotten(),
        clients: table.entries(max, now).into_iter().map(ClientView::from).collect(),
    };
    let tables = groups.filter_map(|group| Some((&group.config.name, &*group.sticky.as_ref()?.table)));
    Json(tables.map(view).collect())
}
