//! The program's maps with the types of what is in them.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use lbd_core::forward::abi::{self, Abi};
use lbd_core::forward::plan::Indexes;

use super::KernelError;
use super::bpf::{self, KIND_ARRAY, MAPPABLE, Map, Shape};

/// A map of ours alone, in which a later life finds which numbers services and targets have in the flows.
pub(super) const INDEXES: &str = "indexes";

/// Its one element, in bytes.
pub(super) const INDEXES_BYTES: u32 = 2 * 1024 * 1024;

/// What the pins of the arrays in `slots` are called, before the number in it.
pub(super) const SLOTS_PREFIX: &str = "slots_";

/// A map from `K` to `V`.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    name: &'static str,
    map: Map,
    types: PhantomData<(K, V)>,
}

impl<K: Abi + Copy + Ord, V: Abi> Table<K, V> {
    /// Takes the map of this name. Its sizes are those of the types, or it is refused.
    pub(super) fn of(maps: &mut BTreeMap<String, Map>, name: &'static str) -> Result<Self, KernelError> {
        let map = maps
            .remove(name)
            .ok_or_else(|| KernelError::Load { reason: format!("the object has no map {name}") })?;
        let shape = map.shape();
        if (shape.key_size as usize, shape.value_size as usize) != (K::SIZE, V::SIZE) {
            let reason = format!(
                "the map {name} has keys of {} bytes and values of {}, not {} and {}",
                shape.key_size,
                shape.value_size,
                K::SIZE,
                V::SIZE
            );
            return Err(KernelError::Load { reason });
        }
        Ok(Self { name, map, types: PhantomData })
    }

    /// Opens the map of this name that is pinned in a folder.
    pub(super) fn open(folder: &Path, name: &'static str) -> Result<Self, KernelError> {
        let path = folder.join(name);
        let map = Map::open(&path)
            .map_err(|source| KernelError::Map { action: format!("opening {}", path.display()), source })?;
        Self::of(&mut BTreeMap::from([(name.to_owned(), map)]), name)
    }

    /// The map itself.
    pub(super) fn into_map(self) -> Map {
        self.map
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, KernelError> {
        let bytes = self.map.get(&key.to_bytes()).map_err(|source| self.error("reading", source))?;
        Ok(bytes.and_then(|bytes| V::from_bytes(&bytes)))
    }

    /// The values of a key, one for each possible processor.
    pub(super) fn get_each(&self, key: &K) -> Result<Vec<V>, KernelError> {
        let bytes = self.map.get(&key.to_bytes()).map_err(|source| self.error("reading", source))?;
        let values = bytes.unwrap_or_default();
        let each = values.chunks(V::SIZE.next_multiple_of(8));
        Ok(each.filter_map(|value| V::from_bytes(value.get(..V::SIZE)?)).collect())
    }

    /// Writes a value.
    pub(super) fn put(&self, key: &K, value: &V) -> Result<(), KernelError> {
        self.map.put(&key.to_bytes(), &value.to_bytes()).map_err(|source| self.error("writing", source))
    }

    /// Writes zeros in the place of a value, of every possible processor's where each has one.
    pub(super) fn clear(&self, key: &K) -> Result<(), KernelError> {
        let zeros = vec![0; self.map.value_bytes()];
        self.map.put(&key.to_bytes(), &zeros).map_err(|source| self.error("clearing", source))
    }

    /// Deletes a key, if it is there.
    pub(super) fn delete(&self, key: &K) -> Result<(), KernelError> {
        self.map.delete(&key.to_bytes()).map(drop).map_err(|source| self.error("deleting from", source))
    }

    /// Everything in it.
    pub(super) fn all(&self) -> Result<BTreeMap<K, V>, KernelError> {
        let keys = self.map.keys().map_err(|source| self.error("listing", source))?;
        let mut all = BTreeMap::new();
        for key in keys.iter().filter_map(|bytes| K::from_bytes(bytes)) {
            if let Some(value) = self.get(&key)? {
                all.insert(key, value);
            }
        }
        Ok(all)
    }

    fn error(&self, action: &str, source: io::Error) -> KernelError {
        KernelError::Map { action: format!("{action} the map {}", self.name), source }
    }
}

/// All maps that `lbd` writes or reads.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) config: Table<u32, abi::Config>,
    pub(super) vips: Table<abi::Address, abi::Vip>,
    pub(super) vip_addresses: Table<u32, abi::VipAddress>,
    pub(super) listeners: Table<abi::Listener, abi::Listening>,
    service_ports: Map,
    pub(super) services: Table<u32, abi::Service>,
    pub(super) targets: Table<u32, abi::Target>,
    pub(super) endpoints: Table<abi::EndpointKey, abi::Endpoint>,
    pub(super) acl: Table<abi::AclKey, abi::Acl>,
    pub(super) links: Table<u32, abi::Link>,
    rings: Map,
    other_rings: Map,
    slots: Map,
    indexes: Map,
    folder: PathBuf,
}

impl Maps {
    /// Takes them out of what was loaded.
    pub(super) fn of(maps: &mut BTreeMap<String, Map>, folder: &Path) -> Result<Self, KernelError> {
        let mut raw = |name: &str| {
            maps.remove(name)
                .ok_or_else(|| KernelError::Load { reason: format!("the object has no map {name}") })
        };
        let (rings, other_rings) = (raw("rings")?, raw("other_rings")?);
        let (slots, service_ports, indexes) = (raw("slots")?, raw("service_ports")?, raw(INDEXES)?);
        Ok(Self {
            config: Table::of(maps, "config")?,
            vips: Table::of(maps, "vips")?,
            vip_addresses: Table::of(maps, "vip_addresses")?,
            listeners: Table::of(maps, "listeners")?,
            service_ports,
            services: Table::of(maps, "services")?,
            targets: Table::of(maps, "targets")?,
            endpoints: Table::of(maps, "endpoints")?,
            acl: Table::of(maps, "acl")?,
            links: Table::of(maps, "links")?,
            rings,
            other_rings,
            slots,
            indexes,
            folder: folder.to_owned(),
        })
    }

    /// Puts a whole new ring in the place of the one in use: packets see either, nothing in between.
    pub(super) fn put_ring(&self, index: u32, ring: &[u8]) -> Result<(), KernelError> {
        put_ring(&self.rings, index, ring)
    }

    /// The same of the other node's rings.
    pub(super) fn put_other_ring(&self, index: u32, ring: &[u8]) -> Result<(), KernelError> {
        put_ring(&self.other_rings, index, ring)
    }

    /// Says on which ports anybody listens.
    pub(super) fn put_service_ports(&self, ports: &[u8]) -> Result<(), KernelError> {
        let put = self.service_ports.put(&0_u32.to_ne_bytes(), ports);
        put.map_err(|source| KernelError::Map { action: "writing the map service_ports".to_owned(), source })
    }

    /// On which ports anybody listens.
    pub(super) fn service_ports(&self) -> Result<abi::ServicePorts, KernelError> {
        let bytes = self.service_ports.get(&0_u32.to_ne_bytes());
        let bytes = bytes.map_err(|source| KernelError::Map {
            action: "reading the map service_ports".to_owned(),
            source,
        })?;
        Ok(bytes.and_then(|bytes| abi::ServicePorts::from_bytes(&bytes)).unwrap_or_default())
    }

    /// Takes a ring out.
    pub(super) fn remove_ring(&self, index: u32) -> Result<(), KernelError> {
        remove_ring(&self.rings, index)
    }

    /// The same of the other node's.
    pub(super) fn remove_other_ring(&self, index: u32) -> Result<(), KernelError> {
        remove_ring(&self.other_rings, index)
    }

    /// The rings that there are of these numbers: this node's and the other one's.
    pub(super) fn rings(&self, indexes: &Indexes) -> Result<[Vec<u32>; 2], KernelError> {
        let read = || -> io::Result<[Vec<u32>; 2]> {
            let present = |rings| present(rings, indexes.ring_numbers());
            Ok([present(&self.rings)?, present(&self.other_rings)?])
        };
        read().map_err(|source| KernelError::Map { action: "reading the rings".to_owned(), source })
    }

    /// Makes an array in `slots`, if it is not there yet; 1 MiB. Pinned, so that another layout can take it over.
    pub(super) fn ensure_slots(&self, index: u32) -> Result<(), KernelError> {
        let ensure = || -> io::Result<()> {
            if self.slots.has_map(index)? {
                return Ok(());
            }
            let path = self.folder.join(format!("{SLOTS_PREFIX}{index}"));
            let map = if path.exists() {
                Map::open(&path)?
            } else {
                let map = Map::new_of("slots", slots_shape())?;
                bpf::pin(std::os::fd::AsFd::as_fd(&map), &path)?;
                map
            };
            self.slots.put_map(index, &map)
        };
        ensure()
            .map_err(|source| KernelError::Map { action: "making an endpoint's slots".to_owned(), source })
    }

    /// Takes an array in `slots` away.
    pub(super) fn remove_slots(&self, index: u32) -> Result<(), KernelError> {
        let path = self.folder.join(format!("{SLOTS_PREFIX}{index}"));
        let removed =
            self.slots.delete(&index.to_ne_bytes()).and_then(|_| match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            });
        removed
            .map_err(|source| KernelError::Map { action: "removing an endpoint's slots".to_owned(), source })
    }

    /// Which arrays there are in `slots` of these numbers. Those taken over from another layout are not among them before they
    /// are asked for.
    pub(super) fn slots(&self, indexes: &Indexes) -> Result<Vec<u32>, KernelError> {
        present(&self.slots, indexes.slots_numbers())
            .map_err(|source| KernelError::Map { action: "reading the slots".to_owned(), source })
    }

    /// What a former life left as its numbers of things; empty if there was none.
    pub(super) fn load_indexes(&self) -> Result<Vec<u8>, KernelError> {
        let read = self.indexes.get(&0_u32.to_ne_bytes());
        let bytes = read
            .map_err(|source| KernelError::Map { action: "reading the indexes".to_owned(), source })?
            .unwrap_or_default();
        let (length, rest) = bytes
            .split_first_chunk()
            .map_or((0, &[][..]), |(length, rest)| (u32::from_ne_bytes(*length) as usize, rest));
        Ok(rest.get(..length).unwrap_or_default().to_vec())
    }

    /// Leaves the numbers of things for a later life. Before any flow can have them.
    pub(super) fn save_indexes(&self, bytes: &[u8]) -> Result<(), KernelError> {
        let mut value = vec![0; INDEXES_BYTES as usize];
        let save = || -> io::Result<()> {
            let room = value.get_mut(4..4 + bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
            room.copy_from_slice(bytes);
            let length = u32::try_from(bytes.len()).unwrap_or_default();
            value[..4].copy_from_slice(&length.to_ne_bytes());
            self.indexes.put(&0_u32.to_ne_bytes(), &value)
        };
        let mut save = save;
        save().map_err(|source| KernelError::Map { action: "writing the indexes".to_owned(), source })
    }
}

fn put_ring(rings: &Map, index: u32, ring: &[u8]) -> Result<(), KernelError> {
    let size = u32::try_from(ring.len()).unwrap_or_default();
    let put = || -> io::Result<()> {
        let map = Map::new_array("ring", size, 1)?;
        map.put(&0_u32.to_ne_bytes(), ring)?;
        rings.put_map(index, &map)
    };
    put().map_err(|source| KernelError::Map { action: "swapping a ring".to_owned(), source })
}

fn remove_ring(rings: &Map, index: u32) -> Result<(), KernelError> {
    let removed = rings.delete(&index.to_ne_bytes()).map(drop);
    removed.map_err(|source| KernelError::Map { action: "removing a ring".to_owned(), source })
}

/// Which elements of an array of maps there are, of those asked for. As few as can be: older kernels wait for all processors with
/// each of these looks (Linux 6.1, kernel/bpf/syscall.c, `maybe_wait_bpf_programs`), tens of milliseconds.
fn present(outer: &Map, mut numbers: impl Iterator<Item = u32>) -> io::Result<Vec<u32>> {
    numbers.try_fold(Vec::new(), |mut found, number| {
        if outer.has_map(number)? {
            found.push(number);
        }
        Ok(found)
    })
}

/// The shape of an endpoint's slots, and of its clients' addresses, which are as long.
pub(super) fn slots_shape() -> Shape {
    Shape {
        kind: KIND_ARRAY,
        key_size: 4,
        value_size: u32::try_from(abi::Slot::SIZE).unwrap_or_default(),
        max_entries: abi::NAT_PORTS,
        flags: MAPPABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::bpf::KIND_PERCPU_ARRAY;
    use super::*;

    #[test]
    fn what_is_cleared_is_zero_on_every_processor() {
        let shape = Shape { kind: KIND_PERCPU_ARRAY, key_size: 4, value_size: 8, max_entries: 2, flags: 0 };
        let map = Map::new_of("test", shape).unwrap();
        let ones = vec![1; map.value_bytes()];
        (0..2_u32).for_each(|key| map.put(&key.to_ne_bytes(), &ones).unwrap());
        let table: Table<u32, u64> =
            Table::of(&mut BTreeMap::from([("test".to_owned(), map)]), "test").unwrap();
        table.clear(&1).unwrap();
        let all = |key: u32, wanted: u64| {
            let each = table.get_each(&key).unwrap();
            !each.is_empty() && each.iter().all(|value| *value == wanted)
        };
        assert!(all(0, 0x0101_0101_0101_0101) && all(1, 0));
        table.clear(&2).unwrap_err();
    }
}
