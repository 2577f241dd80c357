//! The object into the kernel: its maps pinned in a folder whose name says what they look like, its programs.
//!
//! ```text
//! /sys/fs/bpf/tandem/NAME          of a node, named for its run directory: what is attached (see [`super::attach`])
//! /sys/fs/bpf/tandem/NAME-LAYOUT   its maps, of one layout
//! ```
//!
//! Maps that are there already are used as they are, with all flows in them. Another layout (after an upgrade, or with another
//! `max_flows`) begins a folder of its own, while the old programs go on with the old one (see [`super::layouts`]).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use lbd_core::forward::formats::FORMATS;

use super::bpf::{self, Map, Shape};
use super::features::{BPFFS, mount_bpffs};
use super::object::{self, OBJECT, Sizes};
use super::settings::Settings;
use super::{KernelError, attach, layouts};

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
    /// Ports that flows have there could not be taken over.
    pub(super) ports_lost: bool,
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
    let mut ports = layouts::PortArrays::default();
    for other in &old {
        let of_other = layouts::take_over(other, &folder, &wanted);
        ports.taken += of_other.taken;
        ports.left += of_other.left;
    }
    check_pins(&folder, &wanted)?;
    let ebpf = load_object(&folder, sizes, &wanted)?;
    let mut maps = BTreeMap::new();
    for name in wanted.keys() {
        maps.insert(name.clone(), open(&folder, name)?);
    }
    layouts::name_formats(&folder, &maps)?;
    for other in &old {
        layouts::copy_config(other, &maps);
    }
    let ports_lost = !old.is_empty() && (ports.taken == 0 || ports.left > 0);
    Ok(Loaded { ebpf, maps, folder, node_folder, old, copied: false, ports_lost })
}

impl Loaded {
    /// Whether another layout is still there, whose programs may forward.
    pub(super) fn has_old(&self) -> bool {
        !self.old.is_empty()
    }

    /// Copies what is only in tables of other layouts, the first time: nobody deletes there what is over. Whether this was the first time.
    pub(super) fn copy_old(&mut self) -> bool {
        let is_first = !std::mem::replace(&mut self.copied, true);
        if is_first {
            self.old.iter().for_each(|other| layouts::copy_tables(other, &self.folder, &FORMATS));
        }
        is_first && self.has_old()
    }

    /// Removes the folders of other layouts, and before it copies the flows that came after the last time. Whether there were any.
    pub(super) fn forget_old(&mut self) -> bool {
        let old = std::mem::take(&mut self.old);
        for other in &old {
            layouts::copy_tables(other, &self.folder, &FORMATS);
            remove_folder(other);
            tracing::info!(folder = %other.display(), "maps of another layout removed");
        }
        !old.is_empty()
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

/// Where what is attached for the second chance is pinned: beside a node's own folder.
pub(super) fn chance_folder(node: &Path) -> PathBuf {
    let name = node.file_name().unwrap_or_default().to_string_lossy();
    node.with_file_name(format!("{name}_chance"))
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
