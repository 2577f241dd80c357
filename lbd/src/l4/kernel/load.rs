//! The object into the kernel: its maps pinned in a folder whose name says what they look like, its programs.
//!
//! ```text
//! /sys/fs/bpf/tandem/NAME          of a node, named for its run directory: what is attached (see [`super::attach`])
//! /sys/fs/bpf/tandem/NAME-LAYOUT   its maps, of one layout
//! ```
//!
//! Maps that are there already are used as they are, with all flows in them. Another layout (after an upgrade, or with another
//! `max_flows`) begins a folder of its own, while the old programs go on with the old one. Maps in which the programs remember
//! something, and the roles, are both layouts' if they look the same in both; flows and remembered clients are copied into tables
//! of another size, right before the new programs are attached and, for those that came meanwhile, after it. Then the old folder goes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use super::bpf::{self, Batch, Cursor, Map, Shape};
use super::features::{BPFFS, mount_bpffs};
use super::object::{self, OBJECT, Sizes};
use super::settings::Settings;
use super::{KernelError, attach};

/// Elements read with one call, to be copied.
const COPY_BATCH: usize = 4096;

/// Maps that a new layout shares with the old one if they look the same there: what the programs remember, the roles (without
/// them the new programs would forward nothing until `vrrpd` is heard), and the numbers that all of it refers to.
const TAKEN_OVER: [&str; 14] = [
    "flows",
    "pending",
    "half_open",
    "affinity",
    "sources",
    "fragments",
    "instances",
    "service_stats",
    "target_stats",
    "check_stats",
    "sent_to_other",
    "short_searches",
    "drops",
    super::maps::INDEXES,
];

/// Those of them whose content is copied if they have another size.
const COPIED: [&str; 2] = ["flows", "affinity"];

/// What is loaded.
pub(super) struct Loaded {
    /// The programs; dropping it takes none off an interface that is attached by a pin.
    pub(super) ebpf: Ebpf,
    /// The maps by name.
    pub(super) maps: BTreeMap<String, Map>,
    /// Where the maps are pinned.
    pub(super) folder: PathBuf,
    /// Where what is attached is pinned.
    pub(super) node_folder: PathBuf,
    /// Folders of other layouts, to be removed once everything is attached.
    pub(super) old: Vec<PathBuf>,
    /// Their tables have been copied once.
    copied: bool,
}

/// Loads the object with maps of these sizes.
pub(super) fn load(run_dir: &Path, sizes: Sizes) -> Result<Loaded, KernelError> {
    if mount_bpffs()? {
        tracing::warn!(
            "nothing was mounted on {BPFFS}; a BPF file system is now, until the host is started again"
        );
    }
    let node_folder = node_folder(run_dir);
    let folder = layout_folder(&node_folder, sizes);
    for path in [&node_folder, &folder] {
        fs::create_dir_all(path).map_err(|source| KernelError::Folder { path: path.clone(), source })?;
    }
    let old = other_layouts(&node_folder, &folder);
    let wanted = object::shapes(sizes)?;
    for other in &old {
        take_over(other, &folder, &wanted);
    }
    check_pins(&folder, &wanted)?;
    let ebpf = load_object(&folder, sizes, &wanted)?;
    let mut maps = BTreeMap::new();
    for name in wanted.keys() {
        maps.insert(name.clone(), open(&folder, name)?);
    }
    for other in &old {
        copy_config(other, &maps);
    }
    Ok(Loaded { ebpf, maps, folder, node_folder, old, copied: false })
}

impl Loaded {
    /// Whether another layout is still there, whose programs may forward.
    pub(super) fn has_old(&self) -> bool {
        !self.old.is_empty()
    }

    /// Copies what is only in tables of other layouts, the first time: nobody deletes there what is over.
    pub(super) fn copy_old(&mut self) {
        if !std::mem::replace(&mut self.copied, true) {
            self.old.iter().for_each(|other| copy_tables(other, &self.folder));
        }
    }

    /// Removes the folders of other layouts, and before it copies the flows that came after the last time.
    pub(super) fn forget_old(&mut self) {
        for other in std::mem::take(&mut self.old) {
            copy_tables(&other, &self.folder);
            remove_folder(&other);
            tracing::info!(folder = %other.display(), "maps of another layout removed");
        }
    }
}

/// Removes everything of a node: what is attached, and all maps; settings are as they were before. Answers what was removed; or the first
/// failure, and everything else is removed all the same.
pub(super) fn remove_all(run_dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let node = node_folder(run_dir);
    let mut removed = Vec::new();
    let mut result = Ok(());
    for pin in attach::pins(&node) {
        match pin.detach() {
            Ok(()) => removed.push(pin.path),
            Err(error) => result = result.and(Err(error)),
        }
    }
    // Where a pin is left, so is what says whose it is.
    let own = result.is_ok().then_some(node);
    for folder in other_layouts(&node_folder(run_dir), Path::new("")).into_iter().chain(own) {
        if folder.is_dir() {
            remove_folder(&folder);
            removed.push(folder);
        }
    }
    if let Err(why) = Settings::open(run_dir).put_back_others() {
        tracing::warn!("kernel settings are not as they were: {why}");
    }
    result.map(|()| removed)
}

/// The folder of a node's maps that are in use; none if nothing is loaded.
pub(super) fn current_folder(run_dir: &Path) -> Option<PathBuf> {
    // An older one is removed as soon as everything is attached.
    other_layouts(&node_folder(run_dir), Path::new("")).into_iter().next()
}

/// The folder for what a node has attached.
pub(super) fn node_folder(run_dir: &Path) -> PathBuf {
    let whole = fs::canonicalize(run_dir).unwrap_or_else(|_| run_dir.to_owned());
    let last = whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // bpffs takes no dots; the hash keeps run directories of the same last name apart.
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let name: String = last.chars().take(32).map(plain).collect();
    let hash = object::fnv(&[whole.to_string_lossy().as_bytes()]);
    Path::new(BPFFS).join("tandem").join(format!("{name}_{:08x}", hash >> 32))
}

fn layout_folder(node_folder: &Path, sizes: Sizes) -> PathBuf {
    let name = node_folder.file_name().unwrap_or_default().to_string_lossy();
    node_folder.with_file_name(format!("{name}-{:016x}", object::layout(sizes)))
}

/// The folders of a node's maps but this one, the newest first.
fn other_layouts(node_folder: &Path, this: &Path) -> Vec<PathBuf> {
    let prefix = format!("{}-", node_folder.file_name().unwrap_or_default().to_string_lossy());
    let parent = node_folder.parent().unwrap_or(node_folder);
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = |path: &PathBuf| {
        path != this && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
    };
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(ours).collect();
    folders.sort_by_key(|path| Reverse(fs::metadata(path).and_then(|it| it.modified()).ok()));
    folders
}

/// Pins maps of another layout here too, where they look the same and none is here yet.
fn take_over(other: &Path, folder: &Path, wanted: &BTreeMap<String, Shape>) {
    let slots = fs::read_dir(other).into_iter().flatten().flatten();
    let slots = slots.filter_map(|entry| entry.file_name().into_string().ok());
    let slots = slots.filter(|name| name.starts_with(super::maps::SLOTS_PREFIX));
    for name in TAKEN_OVER.into_iter().map(str::to_owned).chain(slots) {
        let (from, to) = (other.join(&name), folder.join(&name));
        if to.exists() {
            continue;
        }
        let Ok(map) = Map::open(&from) else { continue };
        let shape = wanted.get(&name).copied().unwrap_or_else(super::maps::slots_shape);
        if !object::same_shape(map.shape(), shape) {
            continue;
        }
        match bpf::pin(std::os::fd::AsFd::as_fd(&map), &to) {
            Ok(()) => tracing::info!(map = name, "taken over from another layout"),
            Err(error) => tracing::warn!(map = name, %error, "cannot be taken over from another layout"),
        }
    }
}

/// Goes on with the configuration of another layout, until this one's is written: flows that are not in a table keep their
/// targets by the key in it.
fn copy_config(other: &Path, maps: &BTreeMap<String, Map>) {
    let (Some(to), Ok(from)) = (maps.get("config"), Map::open(&other.join("config"))) else { return };
    let key = 0_u32.to_ne_bytes();
    let empty = |config: &[u8]| config.iter().all(|byte| *byte == 0);
    let is_fresh = to.get(&key).is_ok_and(|config| config.is_some_and(|config| empty(&config)));
    if let (true, true, Ok(Some(config))) = (is_fresh, from.shape() == to.shape(), from.get(&key))
        && let Err(error) = to.put(&key, &config)
    {
        tracing::warn!(%error, "the key of another layout cannot be taken over");
    }
}

/// Copies flows and remembered clients of another layout into tables of another size; those that are there stay.
fn copy_tables(other: &Path, folder: &Path) {
    for name in COPIED {
        if let (Ok(from), Ok(to)) = (Map::open(&other.join(name)), Map::open(&folder.join(name))) {
            copy_table(name, &from, &to);
        }
    }
}

fn copy_table(name: &str, from: &Map, to: &Map) {
    let (old, new) = (from.shape(), to.shape());
    if old == new {
        return;
    }
    if (old.key_size, old.value_size) != (new.key_size, new.value_size) {
        tracing::warn!(
            map = name,
            "entries of another layout have another format and are left behind: connections go on by the hash, as far as it leads to the same targets"
        );
        return;
    }
    let (mut cursor, mut batch, mut copied) = (Cursor::default(), Batch::default(), 0);
    while !cursor.done {
        let walked = from.walk(&mut cursor, COPY_BATCH, &mut batch);
        match walked.and_then(|()| to.add_all(&batch)) {
            Ok(count) => copied += count,
            Err(error) => {
                tracing::warn!(map = name, %error, "cannot copy all entries of another layout");
                break;
            }
        }
    }
    tracing::info!(map = name, copied, "entries copied from another layout");
}

/// What is pinned must be what the program expects.
fn check_pins(folder: &Path, wanted: &BTreeMap<String, Shape>) -> Result<(), KernelError> {
    for (name, wanted) in wanted {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let found = open(folder, name)?.shape();
        if !object::same_shape(found, *wanted) {
            return Err(KernelError::MapDiffers { path, found, wanted: *wanted });
        }
    }
    Ok(())
}

fn load_object(folder: &Path, sizes: Sizes, wanted: &BTreeMap<String, Shape>) -> Result<Ebpf, KernelError> {
    let failed = |error: &dyn Fn() -> String| KernelError::Load { reason: error() };
    let indexes = folder.join(super::maps::INDEXES);
    if !indexes.exists() {
        // The program knows nothing of this one.
        let shape = wanted[super::maps::INDEXES];
        let map = Map::new_array(super::maps::INDEXES, shape.value_size, shape.max_entries);
        let pinned = map.and_then(|map| bpf::pin(std::os::fd::AsFd::as_fd(&map), &indexes));
        pinned
            .map_err(|source| KernelError::Map { action: "making the map of indexes".to_owned(), source })?;
    }
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::DISABLE).map_max_entries("flows", sizes.flows);
    loader.map_max_entries("affinity", sizes.affinity);
    for name in wanted.keys().filter(|name| *name != super::maps::INDEXES) {
        loader.map_pin_path(name.as_str(), folder.join(name));
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| failed(&|| attach::text(&error)))?;
    let program = attach::program::<SchedClassifier>(&mut ebpf, attach::TC_PROGRAM)?;
    program.load().map_err(|error| failed(&|| attach::text(&error)))?;
    Ok(ebpf)
}

fn open(folder: &Path, name: &str) -> Result<Map, KernelError> {
    let path = folder.join(name);
    Map::open(&path)
        .map_err(|source| KernelError::Map { action: format!("opening {}", path.display()), source })
}

/// Removes a folder and the pins in it; what cannot be removed is said.
fn remove_folder(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        say(&entry.path(), fs::remove_file(entry.path()));
    }
    say(folder, fs::remove_dir(folder));
}

fn say(path: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error, "cannot remove");
    }
}
