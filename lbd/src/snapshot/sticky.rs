//! Stickiness of a target group: the table that reloads keep, and the targets' ids as it names them.

use std::collections::HashMap;
use std::sync::Arc;

use common::config;
use lbd_core::bell::Bell;
use lbd_core::sticky::StickyTable;

/// How clients of a group come back to their target.
#[derive(Debug)]
pub(crate) struct Stickiness {
    /// Which client was sent where; lives on over reloads.
    pub(crate) table: Arc<StickyTable>,
    settings: config::Sticky,
    ids: Vec<Arc<str>>,
    by_id: HashMap<Arc<str>, usize>,
}

impl Stickiness {
    /// For a group's targets, in their order.
    pub(super) fn new(
        settings: config::Sticky,
        targets: &[config::Target],
        before: Option<&Self>,
        bell: &Arc<Bell>,
    ) -> Self {
        let entries_max = settings.max_entries as usize;
        let table = before.map_or_else(
            || Arc::new(StickyTable::new(entries_max, settings.ttl, bell)),
            |before| Arc::clone(&before.table),
        );
        let ids: Vec<Arc<str>> = targets.iter().map(|target| Arc::from(target.id.as_str())).collect();
        let by_id = ids.iter().enumerate().map(|(index, id)| (Arc::clone(id), index)).collect();
        Self { table, settings, ids, by_id }
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
