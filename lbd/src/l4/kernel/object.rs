//! The compiled program, and what its maps look like.

use std::collections::{BTreeMap, BTreeSet};

use aya::include_bytes_aligned;
use common::config::Config;
use lbd_core::forward::formats::FORMATS;

use super::KernelError;
use super::bpf::{KIND_ARRAY, Shape};

/// The object: as the build compiled it, or the committed one where there is no clang.
pub(super) const OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forward.bpf.o"));

/// What the maps' contents mean.
const TYPES: &str = include_str!("../../../bpf/types.h");

/// Flags of maps that the kernel adds by itself, or that do not matter for what is in them.
const FLAGS_IGNORED: u32 = 0;

/// How large the maps are whose size the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Flows.
    pub(super) flows: u32,
    /// Clients whose target is remembered, of all groups together: one table is theirs.
    pub(super) affinity: u32,
}

impl Sizes {
    /// As `config` wants them.
    pub(super) fn of(config: &Config) -> Self {
        let in_kernel = config.services.iter().filter(|service| service.mode.in_kernel());
        let groups: BTreeSet<&str> = in_kernel.map(|service| service.forward.as_str()).collect();
        let sticky = groups.into_iter().filter_map(|name| config.target_group(name)?.sticky.as_ref());
        let affinity = sticky.fold(0_u32, |sum, sticky| sum.saturating_add(sticky.max_entries));
        // So that the first few clients need no restart.
        Self { flows: config.kernel.max_flows, affinity: affinity.clamp(AFFINITY_MIN, AFFINITY_MAX) }
    }

    fn of_map(self, name: &str) -> Option<u32> {
        match name {
            "flows" => Some(self.flows),
            "affinity" => Some(self.affinity),
            _ => None,
        }
    }
}

/// Clients remembered at least and at most.
const AFFINITY_MIN: u32 = 1 << 16;
const AFFINITY_MAX: u32 = 10_000_000;

/// The shapes of all maps that are pinned, by name.
pub(super) fn shapes(sizes: Sizes) -> Result<BTreeMap<String, Shape>, KernelError> {
    let object = aya_obj::Object::parse(OBJECT)
        .map_err(|error| KernelError::Load { reason: format!("the object does not parse: {error}") })?;
    let maps = object.maps.iter().filter(|(name, _)| !name.starts_with('.'));
    let mut shapes: BTreeMap<String, Shape> = maps
        .map(|(name, map)| {
            let max_entries = sizes.of_map(name).unwrap_or(map.max_entries());
            let shape = Shape {
                kind: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries,
                flags: map.map_flags(),
            };
            (name.clone(), shape)
        })
        .collect();
    shapes.insert(
        super::maps::INDEXES.to_owned(),
        Shape {
            kind: KIND_ARRAY,
            key_size: 4,
            value_size: super::maps::INDEXES_BYTES,
            max_entries: 1,
            flags: 0,
        },
    );
    Ok(shapes)
}

/// Whether a map may be used in the place of another.
pub(super) fn same_shape(a: Shape, b: Shape) -> bool {
    let plain = |shape: Shape| Shape { flags: shape.flags & !FLAGS_IGNORED, ..shape };
    plain(a) == plain(b)
}

/// A number that another layout has another of.
pub(super) fn layout(sizes: Sizes) -> u64 {
    let shapes = format!("{:?}", shapes(sizes).unwrap_or_default());
    // No map of the object's own.
    let slots = format!("{:?}", super::maps::slots_shape());
    // The same structs may mean something else by now.
    let formats = format!("{:?}", FORMATS.map(|format| (format.table, format.version)));
    fnv(&[shapes.as_bytes(), slots.as_bytes(), formats.as_bytes(), without_comments(TYPES).as_bytes()])
}

/// FNV-1a: the same in every build.
pub(super) fn fnv(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// C without its comments and with single spaces: rewording a comment is no other layout.
fn without_comments(text: &str) -> String {
    let mut parts = text.split("/*");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once("*/").map_or("", |(_, rest)| rest));
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_no_layout() {
        assert_eq!(without_comments("a /* b */ c\n\n d/* e\nf */g"), "a c dg");
        assert!(without_comments(TYPES).contains("struct flow_key { struct address source, destination;"));
    }

    #[test]
    fn another_size_is_another_layout() {
        let sizes = Sizes { flows: 1 << 20, affinity: AFFINITY_MIN };
        assert_ne!(layout(sizes), layout(Sizes { flows: 1 << 16, ..sizes }));
        assert_ne!(layout(sizes), layout(Sizes { affinity: 100_000, ..sizes }));
        assert_eq!(layout(sizes), layout(sizes));
    }

    #[test]
    fn access_lists_fit_in_beside_those_that_take_their_place() {
        let shapes = shapes(Sizes { flows: 1 << 20, affinity: AFFINITY_MIN }).unwrap();
        let room = usize::try_from(shapes["acl"].max_entries).unwrap();
        assert!(room >= 2 * common::config::ACCESS_ENTRIES_IN_KERNEL_MAX, "{room}");
    }

    #[test]
    fn there_is_room_for_as_many_sources_as_the_nodes_tell_each_other_of() {
        let shapes = shapes(Sizes { flows: 1 << 20, affinity: AFFINITY_MIN }).unwrap();
        for name in ["sources", "other_sources"] {
            assert_eq!(usize::try_from(shapes[name].max_entries), Ok(lbd_core::forward::counts::SOURCES_MAX));
        }
    }

    #[test]
    fn groups_of_the_kernel_share_one_table_of_clients() {
        let group = |name: &str, clients: u32| {
            format!(
                "[[target_group]]\nname = \"{name}\"\ntargets = [{{ address = \"192.0.2.20:80\" }}]\n\
                 sticky = {{ by = \"source_ip\", max_entries = {clients} }}\n"
            )
        };
        let service = |name: &str, mode: &str, port: u16, group: &str| {
            format!(
                "[[service]]\nname = \"{name}\"\nmode = \"{mode}\"\nlisten = [\"192.0.2.10:{port}\"]\nforward = \"{group}\"\n"
            )
        };
        let affinity = |text: String| {
            let config = common::config::parse(&text, std::path::Path::new("sizes.toml"));
            Sizes::of(&config.unwrap_or_else(|errors| panic!("{errors}"))).affinity
        };
        let one = service("a", "nat", 80, "g") + &service("b", "nat", 81, "g") + &group("g", 100_000);
        assert_eq!(affinity(one.clone()), 100_000);
        assert_eq!(affinity(one.clone() + &service("c", "nat", 82, "h") + &group("h", 7_000)), 107_000);
        assert_eq!(affinity(one + &service("c", "tcp", 82, "h") + &group("h", 7_000)), 100_000);
        assert_eq!(affinity(service("a", "nat", 80, "g") + &group("g", 10)), AFFINITY_MIN);
    }
}
