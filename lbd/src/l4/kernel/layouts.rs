//! From one layout of the maps to another: after an upgrade, or with another `max_flows`.
//!
//! Maps in which the programs remember something, and the roles, are both layouts' if they look the same in both. Flows and remembered clients are
//! copied into tables of another size or format, right before the new programs are attached and, for those that came meanwhile, after it. Which
//! format a table has is said by another name that it is pinned by ([`Format::name`]). What has a format that nobody knows is left behind,
//! and the log says so.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use lbd_core::forward::formats::{Entries, FORMATS, Format};

use super::KernelError;
use super::bpf::{self, Batch, Cursor, Map, Shape};
use super::maps::{INDEXES, SLOTS_PREFIX, slots_shape};
use super::object;

/// Elements read with one call, to be copied.
const COPY_BATCH: usize = 4096;

/// Maps that a new layout shares with the old one if they look the same there: what the programs remember, the roles (without
/// them the new programs would forward nothing until `vrrpd` is heard), and the numbers that all of it refers to.
const TAKEN_OVER: [&str; 17] = [
    "flows",
    "pending",
    "half_open",
    "affinity",
    "sources",
    "other_sources",
    "fragments",
    "instances",
    "service_stats",
    "target_stats",
    "pushed_out",
    "check_stats",
    "sent_to_other",
    "short_searches",
    "untold_hops",
    "drops",
    INDEXES,
];

/// What is pinned in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The number of the format that a table has in a folder.
fn version(folder: &Path, format: &Format) -> u32 {
    format.version_of(names(folder).iter().map(String::as_str))
}

/// Arrays of ports of another layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PortArrays {
    /// Those that are now here.
    pub(super) taken: usize,
    /// Those that could not be taken over.
    pub(super) left: usize,
}

/// Pins maps of another layout here too, where they look the same and none is here yet. Answers what became of arrays of ports.
pub(super) fn take_over(other: &Path, folder: &Path, wanted: &BTreeMap<String, Shape>) -> PortArrays {
    let differs = |format: &&Format| version(other, format) != format.version;
    let others: Vec<&str> = FORMATS.iter().filter(differs).map(|format| format.table).collect();
    let slots = names(other).into_iter().filter(|name| name.starts_with(SLOTS_PREFIX));
    let mut ports = PortArrays::default();
    for name in TAKEN_OVER.into_iter().map(str::to_owned).chain(slots) {
        let (from, to) = (other.join(&name), folder.join(&name));
        if to.exists() || others.contains(&name.as_str()) {
            continue;
        }
        let of_ports = usize::from(name.starts_with(SLOTS_PREFIX));
        let shape = wanted.get(&name).copied().unwrap_or_else(slots_shape);
        let looks_the_same = |map: &Map| object::same_shape(map.shape(), shape);
        let Some(map) = Map::open(&from).ok().filter(looks_the_same) else {
            ports.left += of_ports;
            continue;
        };
        match bpf::pin(map.as_fd(), &to) {
            Ok(()) => {
                ports.taken += of_ports;
                tracing::info!(map = name, "taken over from another layout");
            }
            Err(error) => {
                ports.left += of_ports;
                tracing::warn!(map = name, %error, "cannot be taken over from another layout");
            }
        }
    }
    ports
}

/// Says for a later version which formats tables have here.
pub(super) fn name_formats(folder: &Path, maps: &BTreeMap<String, Map>) -> Result<(), KernelError> {
    for format in FORMATS {
        let path = folder.join(format.name(format.version));
        if let Some(map) = maps.get(format.table).filter(|_| !path.exists()) {
            bpf::pin(map.as_fd(), &path).map_err(|source| KernelError::Map {
                action: format!("saying which format the map {} has", format.table),
                source,
            })?;
        }
    }
    Ok(())
}

/// Goes on with the configuration of another layout, until this one's is written: flows that are not in a table keep their
/// targets by the key in it.
pub(super) fn copy_config(other: &Path, maps: &BTreeMap<String, Map>) {
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

/// Copies flows and remembered clients of another layout into tables of another size or format; those that are there stay.
pub(super) fn copy_tables(other: &Path, folder: &Path, formats: &[Format]) {
    for format in formats {
        let open = |folder: &Path| Map::open(&folder.join(format.table));
        if let (Ok(from), Ok(to)) = (open(other), open(folder)) {
            copy_table(format, version(other, format), &from, &to);
        }
    }
}

fn copy_table(format: &Format, version: u32, from: &Map, to: &Map) {
    let (old, new) = (from.shape(), to.shape());
    let sizes = |shape: Shape| [shape.key_size, shape.value_size];
    let convert = match format.entries(version, sizes(old), sizes(new)) {
        // It is the same table.
        Some(Entries::Same) if old == new => return,
        Some(Entries::Same) => None,
        Some(Entries::Converted(convert)) => Some(convert),
        None => {
            tracing::warn!(
                map = format.table,
                format = version,
                known = format.version,
                "entries of another layout have a format that this version does not know, and are left behind: connections go on by the hash, \
                 as far as it leads to the same targets"
            );
            return;
        }
    };
    let (mut cursor, mut batch, mut copied) = (Cursor::default(), Batch::default(), 0);
    while !cursor.done {
        let walked = from.walk(&mut cursor, COPY_BATCH, &mut batch);
        let added = walked.and_then(|()| match convert {
            None => to.add_all(&batch),
            Some(convert) => {
                let (key, value) = (old.key_size.max(1) as usize, old.value_size.max(1) as usize);
                let entries = batch.keys.chunks_exact(key).zip(batch.values.chunks_exact(value));
                let mut converted = Batch::default();
                for (key, value) in entries.take(batch.count).filter_map(|(key, value)| convert(key, value)) {
                    converted.keys.extend(key);
                    converted.values.extend(value);
                    converted.count += 1;
                }
                to.add_all(&converted)
            }
        });
        match added {
            Ok(count) => copied += count,
            Err(error) => {
                tracing::warn!(map = format.table, %error, "cannot copy all entries of another layout");
                break;
            }
        }
    }
    tracing::info!(map = format.table, format = version, copied, "entries copied from another layout");
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use lbd_core::forward::abi::{Abi, Be16, Flow, FlowKey};
    use lbd_core::forward::formats::Former;

    use super::super::features::{BPFFS, mount_bpffs};
    use super::*;

    /// Maps that each layout makes for itself: what `lbd` writes into them, what it reads out of them at once, and what a processor is at.
    const MADE_ANEW: [&str; 18] = [
        "config",
        "vips",
        "vip_addresses",
        "listeners",
        "service_ports",
        "services",
        "targets",
        "endpoints",
        "acl",
        "links",
        "rings",
        "other_rings",
        // Its arrays are taken over by themselves.
        "slots",
        "processors",
        "routes",
        "events",
        "flow_events",
        "next_hops",
    ];

    /// A table of flows as it never was: without the count of changes, and in an order of its own.
    const FORMER: [Former; 1] = [Former { version: 1, sizes: [40, 12], convert: from_v1 }];

    fn from_v1(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (port, rest) = value.split_first_chunk::<2>()?;
        // Half of it says nothing that is still used.
        let flow = Flow::from_bytes(&[&rest[..8], port, &rest[8..], &[0; 4]].concat())?;
        (flow.state != 0).then(|| (key.to_vec(), flow.to_bytes()))
    }

    fn of_v1(flow: &Flow) -> Vec<u8> {
        let bytes = flow.to_bytes();
        [&bytes[8..10], &bytes[..8], &bytes[10..12]].concat()
    }

    fn key(port: u16) -> FlowKey {
        FlowKey::new(6, ([192, 0, 2, 1], port).into(), ([192, 0, 2, 10], 80).into())
    }

    fn flow(port: u16, state: u8) -> Flow {
        Flow { seen: u32::from(port), target: 3, service: 4, port: Be16(port), state, ..Flow::default() }
    }

    /// Two folders of pins, which go with it.
    struct Folders([PathBuf; 2]);

    impl Folders {
        fn new(name: &str) -> Self {
            mount_bpffs().unwrap();
            let folder = |which: &str| {
                let folder =
                    Path::new(BPFFS).join(format!("tandem_test_{name}_{which}_{}", std::process::id()));
                fs::create_dir_all(&folder).unwrap();
                folder
            };
            Self(["old", "new"].map(folder))
        }
    }

    impl Drop for Folders {
        fn drop(&mut self) {
            for folder in &self.0 {
                names(folder).iter().for_each(|name| drop(fs::remove_file(folder.join(name))));
                drop(fs::remove_dir(folder));
            }
        }
    }

    /// A table with these sizes in a folder, and the name of its format.
    fn table(folder: &Path, value_size: u32, format: Option<u32>) -> Map {
        let map = Map::new_hash("flows", [40, value_size], 100).unwrap();
        bpf::pin(map.as_fd(), &folder.join("flows")).unwrap();
        if let Some(version) = format {
            bpf::pin(map.as_fd(), &folder.join(FORMATS[0].name(version))).unwrap();
        }
        map
    }

    #[test]
    fn of_each_map_it_is_known_whether_it_is_taken_over() {
        let shapes = object::shapes(object::Sizes { flows: 1000, affinity: 1000 }).unwrap();
        let mut known = [&TAKEN_OVER[..], &MADE_ANEW].concat();
        known.sort_unstable();
        assert_eq!(shapes.keys().map(String::as_str).collect::<Vec<_>>(), known);
    }

    #[test]
    fn flows_of_a_former_format_move_over() {
        let second = [Format { version: 2, former: &FORMER, ..FORMATS[0] }];
        // Before formats had names, and since.
        for named in [None, Some(1)] {
            let folders = Folders::new("move");
            let [old, new] = &folders.0;
            let (from, to) = (table(old, 12, named), table(new, 16, Some(2)));
            for port in 1000..1060 {
                from.put(&key(port).to_bytes(), &of_v1(&flow(port, 1))).unwrap();
            }
            from.put(&key(2000).to_bytes(), &of_v1(&flow(2000, 0))).unwrap();
            // One that the new program knows better by now.
            let newer = Flow { seen: 9, generation: 7, ..flow(1000, 1) };
            to.put(&key(1000).to_bytes(), &newer.to_bytes()).unwrap();
            copy_tables(old, new, &second);
            let found = |port: u16| Flow::from_bytes(&to.get(&key(port).to_bytes()).unwrap()?);
            assert_eq!(found(1000), Some(newer));
            for port in 1001..1060 {
                assert_eq!(found(port), Some(flow(port, 1)), "{named:?}");
            }
            assert_eq!(found(2000), None, "what is nothing any more is left");
        }
    }

    #[test]
    fn what_nobody_knows_is_left_behind() {
        let second = [Format { version: 2, former: &FORMER, ..FORMATS[0] }];
        // Of a later version, of another size than that version had, and of the same size but another meaning.
        for (value_size, version) in [(12, 3), (16, 1), (16, 3)] {
            let folders = Folders::new("left");
            let [old, new] = &folders.0;
            let (from, to) = (table(old, value_size, Some(version)), table(new, 16, Some(2)));
            from.put(&key(1).to_bytes(), &vec![1; value_size as usize]).unwrap();
            copy_tables(old, new, &second);
            assert_eq!(to.get(&key(1).to_bytes()).unwrap(), None, "{value_size} {version}");
        }
    }

    #[test]
    fn ports_that_are_written_down_in_another_way_are_counted() {
        let folders = Folders::new("ports");
        let [old, new] = &folders.0;
        for (index, max_entries) in [(1, slots_shape().max_entries), (2, 16)] {
            let map = Map::new_of("test", Shape { max_entries, ..slots_shape() }).unwrap();
            bpf::pin(map.as_fd(), &old.join(format!("{SLOTS_PREFIX}{index}"))).unwrap();
        }
        assert_eq!(take_over(old, new, &BTreeMap::new()), PortArrays { taken: 1, left: 1 });
        // What a former life has taken over is here.
        assert_eq!(take_over(old, new, &BTreeMap::new()), PortArrays { taken: 0, left: 1 });
    }

    #[test]
    fn only_tables_of_the_same_format_are_shared() {
        for (version, is_shared) in [(None, true), (Some(FORMATS[0].version), true), (Some(99), false)] {
            let folders = Folders::new("share");
            let [old, new] = &folders.0;
            let from = table(old, 16, version);
            take_over(old, new, &BTreeMap::from([("flows".to_owned(), from.shape())]));
            assert_eq!(new.join("flows").exists(), is_shared, "{version:?}");
        }
    }
}
