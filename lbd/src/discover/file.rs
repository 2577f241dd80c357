//! Targets from a file of their own.

use std::path::PathBuf;

use common::config::{ConfigError, Target, load_targets};
use lbd_core::discover::{Answer, Failure};
use tokio::task::JoinHandle;

use super::{Asking, Source};

/// A TOML file with `targets`.
pub(super) struct TargetsFile {
    path: PathBuf,
    max_targets: u32,
    /// Kept when nobody waits any longer, so that a file system that hangs holds one thread and not one more each time.
    reading: Option<JoinHandle<Result<Vec<Target>, ConfigError>>>,
}

impl TargetsFile {
    pub(super) fn new(path: PathBuf, max_targets: u32) -> Self {
        Self { path, max_targets, reading: None }
    }

    async fn read(&mut self) -> Result<Answer, Failure> {
        let path = self.path.clone();
        let reading =
            self.reading.get_or_insert_with(|| tokio::task::spawn_blocking(move || load_targets(&path)));
        let read = reading.await;
        self.reading = None;
        let targets = match read {
            Ok(Ok(targets)) => targets,
            Ok(Err(error @ ConfigError::Invalid(_))) => return Err(Failure::invalid(error.to_string())),
            Ok(Err(error)) => return Err(Failure::unreachable(error.to_string())),
            Err(_) => return Err(Failure::unreachable("reading the file was cancelled")),
        };
        let file = self.path.display();
        if targets.is_empty() {
            return Err(Failure::empty(format!("{file} has no targets")));
        }
        // Whoever writes the file can correct it: taking a part of it would hide the mistake.
        if u32::try_from(targets.len()).is_ok_and(|count| count <= self.max_targets) {
            return Ok(Answer { targets, ..Answer::default() });
        }
        let (count, max) = (targets.len(), self.max_targets);
        Err(Failure::invalid(format!(
            "{file} has {count} targets, more than the {max} of `max_targets` under `discover`"
        )))
    }
}

impl Source for TargetsFile {
    fn ask(&mut self) -> Asking<'_> {
        Box::pin(self.read())
    }
}
