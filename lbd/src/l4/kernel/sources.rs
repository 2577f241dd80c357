//! The kernel's counts of new flows by source, for replication: what the program has counted is read, and what the other node has counted is written
//! where the program looks for it.

use std::path::Path;

use lbd_core::forward::abi::{Abi, OtherSource, Source, SourceKey};

use super::KernelError;
use super::bpf::{Batch, Map};
use super::copies::Position;
use super::flows::typed;
use super::maps::Table;

/// The maps with descriptors of their own.
pub(crate) struct SourceTables {
    sources: Map,
    others: Map,
    /// Scratch space.
    batch: Batch,
}

impl SourceTables {
    /// Of the maps pinned in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, KernelError> {
        Ok(Self {
            sources: Table::<SourceKey, Source>::open(folder, "sources")?.into_map(),
            others: Table::<SourceKey, OtherSource>::open(folder, "other_sources")?.into_map(),
            batch: Batch::default(),
        })
    }

    /// The next sources of a walk through all, about `count`.
    pub(crate) fn scan(
        &mut self,
        position: &mut Position,
        count: usize,
        mut each: impl FnMut(SourceKey, Source),
    ) -> Result<(), KernelError> {
        let walked = self.sources.walk(&mut position.0, count, &mut self.batch);
        walked.map_err(|source| failed("reading the sources of new flows", source))?;
        typed::<SourceKey, Source>(&self.batch).for_each(|(key, source)| each(key, source));
        Ok(())
    }

    /// Writes what the other node has counted; `refused` hears the places of what there was no room for. (What is not used for the longest makes
    /// room.)
    pub(crate) fn put(
        &mut self,
        told: &[(SourceKey, OtherSource)],
        refused: impl FnMut(usize),
    ) -> Result<(), KernelError> {
        self.batch.clear();
        for (key, source) in told {
            key.put(&mut self.batch.keys);
            source.put(&mut self.batch.values);
        }
        self.batch.count = told.len();
        let put = self.others.put_all(&self.batch, refused);
        put.map_err(|source| failed("writing the other node's sources of new flows", source))
    }
}

fn failed(action: &str, source: std::io::Error) -> KernelError {
    KernelError::Map { action: action.to_owned(), source }
}
