//! Which labs exist on this machine, so that the leftovers of one whose owner crashed can be told from one in use.
//!
//! Each lab has a file `/run/tandem-lab/PREFIX` that names its owner's process id and start time (an id alone may have
//! been given to another process since). It is written before anything else is made and removed last.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::error::{Context, Result};
use super::netns;

const REGISTRY: &str = "/run/tandem-lab";
const NAMESPACES: &str = "/run/netns";

/// One lab's entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What the names of its namespaces begin with, before the hyphen.
    pub prefix: String,
    /// What it was called when built, for people.
    pub label: String,
    /// The process that owns it.
    pub pid: u32,
    /// When that process started, in clock ticks since boot.
    pub started_ticks: u64,
    /// Its directory for configuration, logs and captures.
    pub dir: PathBuf,
}

impl Entry {
    /// Registers a new lab of this process, after sweeping the leftovers of others.
    pub(crate) fn create(label: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let _lock = lock()?;
        sweep_locked()?;
        let pid = std::process::id();
        let prefix = format!("tdm{pid:x}x{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join("tandem-lab").join(&prefix);
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        let entry =
            Self { started_ticks: start_of(pid).unwrap_or(0), prefix, label: label.to_owned(), pid, dir };
        let text = serde_json::to_string(&entry).map_err(std::io::Error::from);
        let text = text.doing(|| "writing a lab's entry as JSON".to_owned())?;
        fs::write(entry.path(), text).doing(|| format!("writing {}", entry.path().display()))?;
        Ok(entry)
    }

    fn path(&self) -> PathBuf {
        Path::new(REGISTRY).join(&self.prefix)
    }

    /// Whether the process that made it still runs.
    #[must_use]
    pub fn owner_lives(&self) -> bool {
        start_of(self.pid) == Some(self.started_ticks)
    }

    /// The namespaces it has, by full name.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let start = format!("{}-", self.prefix);
        let Ok(entries) = fs::read_dir(NAMESPACES) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(&start)).collect();
        names.sort();
        names
    }

    /// Removes what is left of it: processes, namespaces, files (`keep_files` leaves its directory), its entry.
    pub(crate) fn remove(&self, keep_files: bool) -> Result<()> {
        for name in self.namespaces() {
            netns::kill_and_delete(&name)?;
        }
        if !keep_files && self.dir.exists() {
            fs::remove_dir_all(&self.dir).doing(|| format!("removing {}", self.dir.display()))?;
        }
        fs::remove_file(self.path()).doing(|| format!("removing {}", self.path().display()))
    }
}

/// Every lab there is on this machine, in use or left behind.
///
/// # Errors
/// [`super::LabError::Io`] when the registry cannot be read.
pub fn labs() -> Result<Vec<Entry>> {
    let Ok(files) = fs::read_dir(REGISTRY) else { return Ok(Vec::new()) };
    let mut entries = Vec::new();
    for file in files.flatten().filter(|file| file.file_name() != LOCK) {
        // A file that vanished was a lab that ended; one that is no entry was cut off by a crash before anything
        // was made.
        let Ok(text) = fs::read_to_string(file.path()) else { continue };
        match serde_json::from_str(&text) {
            Ok(entry) => entries.push(entry),
            Err(_) => fs::remove_file(file.path()).doing(|| format!("removing {}", file.path().display()))?,
        }
    }
    Ok(entries)
}

/// Removes every lab whose owner is gone and returns their prefixes.
///
/// # Errors
/// [`super::LabError`] when something cannot be removed.
pub fn sweep() -> Result<Vec<String>> {
    let _lock = lock()?;
    sweep_locked()
}

fn sweep_locked() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for entry in labs()?.into_iter().filter(|entry| !entry.owner_lives()) {
        entry.remove(false)?;
        removed.push(entry.prefix);
    }
    Ok(removed)
}

const LOCK: &str = ".lock";

/// Keeps two processes from sweeping and registering at once; released when dropped.
fn lock() -> Result<File> {
    let path = Path::new(REGISTRY).join(LOCK);
    let doing = || format!("locking {}", path.display());
    fs::create_dir_all(REGISTRY).doing(doing)?;
    let file = File::create(&path).doing(doing)?;
    file.lock().doing(doing)?;
    Ok(file)
}

/// When a process started, in clock ticks since boot (field 22 of its `stat`); `None` when there is no such process.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything; the third follows the last ')'.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}
