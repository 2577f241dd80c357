//! Stickiness of a target group: the table that reloads keep, and the targets' ids as it names them.

use std::collections::HashMap;
use std::sync::Arc;

use common::config::{self, StickyBy};
use common::hash::HashKey;
use lbd_core::bell::Bell;
use lbd_core::http::affinity::Seal;
use lbd_core::sticky::StickyTable;

/// How clients of a group come back to their target.
#[derive(Debug)]
pub(crate) struct Stickiness {
    /// Which client was sent where; lives on over reloads. Nobody is in it who has a cookie that says so.
    pub(crate) table: Arc<StickyTable>,
    /// What clients are known by.
    pub(crate) by: KnownBy,
    settings: config::Sticky,
    ids: Vec<Arc<str>>,
    by_id: HashMap<Arc<str>, usize>,
}

/// What clients are known by.
#[derive(Debug)]
pub(crate) enum KnownBy {
    /// Their address.
    Source,
    /// A cookie that says what their target is.
    Cookie(Box<Seal>),
    /// The cookie of this name that their target has given them.
    AppCookie(String),
}

impl Stickiness {
    /// For the targets of the group of this name, in their order.
    pub(super) fn new(
        settings: config::Sticky,
        (group, key): (&str, &HashKey),
        targets: &[config::Target],
        before: Option<&Self>,
        bell: &Arc<Bell>,
    ) -> Self {
        let entries_max = settings.max_entries as usize;
        // Of what clients were known by before nothing is of use.
        let table = before.filter(|before| before.settings.by == settings.by).map_or_else(
            || Arc::new(StickyTable::new(entries_max, settings.ttl, bell)),
            |before| Arc::clone(&before.table),
        );
        let ids: Vec<Arc<str>> = targets.iter().map(|target| Arc::from(target.id.as_str())).collect();
        let by_id = ids.iter().enumerate().map(|(index, id)| (Arc::clone(id), index)).collect();
        let by = match &settings.by {
            StickyBy::SourceIp => KnownBy::Source,
            StickyBy::Cookie(cookie) => {
                let ids = ids.iter().map(|id| &**id);
                KnownBy::Cookie(Box::new(Seal::new(key, group, cookie, settings.ttl, ids)))
            }
            StickyBy::AppCookie(name) => KnownBy::AppCookie(name.clone()),
        };
        Self { table, by, settings, ids, by_id }
    }

    /// Applies the settings to the table, which was another configuration's until now.
    pub(super) fn adopt(&self) {
        self.table.reconfigure(self.settings.max_entries as usize, self.settings.ttl);
    }

    /// The place of the target of this id.
    pub(crate) fn index(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The id of the target at this place.
    pub(crate) fn id(&self, index: usize) -> &Arc<str> {
        &self.ids[index]
    }
}
