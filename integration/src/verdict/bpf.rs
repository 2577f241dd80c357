//! Maps by raw keys and values, through bpf(2): the layouts are those of the header, written out byte by byte.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData};

const CREATE: libc::c_long = 0;
const LOOKUP: libc::c_long = 1;
const UPDATE: libc::c_long = 2;
const DELETE: libc::c_long = 3;
const NEXT_KEY: libc::c_long = 4;
const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;

/// What bpf(2) takes for elements of a map.
#[repr(C)]
struct Element {
    map: u32,
    spare: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What it takes for many elements at once.
#[repr(C)]
struct Batch {
    before: u64,
    after: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

fn call<T>(command: libc::c_long, argument: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `argument` is a prefix of `union bpf_attr` of the size given, and the pointers in it lead to buffers that
    // live until the call returns and are as large as the map's keys and values.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(argument), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A map. Values of a per-CPU map are those of all processors in a row, each padded to 8 bytes.
#[derive(Debug)]
pub(super) struct Table {
    holder: Holder,
    key_size: usize,
    /// Bytes of a value, all processors' together.
    pub(super) value_size: usize,
}

#[derive(Debug)]
enum Holder {
    Aya(MapData),
    Own(OwnedFd),
}

impl Table {
    /// One of the program's.
    ///
    /// # Errors
    /// If it is of a kind that has no elements, or does not tell its sizes.
    pub(super) fn of(map: Map, processors: usize) -> Result<Self> {
        let per_cpu = matches!(map, Map::PerCpuArray(_));
        let (Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::LpmTrie(data)
        | Map::ArrayOfMaps(data)) = map
        else {
            anyhow::bail!("a map of a kind that the tests know nothing of");
        };
        let info = data.info().context("asking for a map's sizes")?;
        let one = usize::try_from(info.value_size())?;
        let value_size = if per_cpu { one.next_multiple_of(8) * processors } else { one };
        let key_size = usize::try_from(info.key_size())?;
        Ok(Self { holder: Holder::Aya(data), key_size, value_size })
    }

    /// An array for an array of maps.
    ///
    /// # Errors
    /// If the kernel has no room for it.
    pub(super) fn array(value_size: usize, entries: u32, flags: u32) -> Result<Self> {
        let mut create = Create {
            kind: 2,
            key_size: 4,
            value_size: u32::try_from(value_size)?,
            max_entries: entries,
            flags,
        };
        let fd = RawFd::try_from(call(CREATE, &mut create).context("making an array map")?)?;
        // SAFETY: the kernel has just given us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { holder: Holder::Own(fd), key_size: 4, value_size })
    }

    /// Its descriptor.
    #[must_use]
    pub(super) fn fd(&self) -> RawFd {
        match &self.holder {
            Holder::Aya(data) => {
                use std::os::fd::AsFd as _;
                data.fd().as_fd().as_raw_fd()
            }
            Holder::Own(fd) => fd.as_raw_fd(),
        }
    }

    fn element(&self, key: Option<&[u8]>, value: *const u8) -> Element {
        if let Some(key) = key {
            assert_eq!(key.len(), self.key_size, "the map's key size");
        }
        Element {
            map: u32::try_from(self.fd()).unwrap_or(u32::MAX),
            spare: 0,
            key: key.map_or(0, |key| key.as_ptr().addr() as u64),
            value: value.addr() as u64,
            flags: 0,
        }
    }

    /// Writes an element; a value that is too short is followed by zeros.
    ///
    /// # Panics
    /// If the kernel refuses, or the value is longer than the map's.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) {
        assert!(value.len() <= self.value_size, "{} bytes for a value of {}", value.len(), self.value_size);
        let mut whole = value.to_vec();
        whole.resize(self.value_size, 0);
        let mut element = self.element(Some(key), whole.as_ptr());
        call(UPDATE, &mut element).unwrap_or_else(|error| panic!("writing {key:?}: {error}"));
    }

    /// Reads an element.
    #[must_use]
    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut value = vec![0; self.value_size];
        let mut element = self.element(Some(key), value.as_mut_ptr());
        call(LOOKUP, &mut element).ok().map(|_| value)
    }

    /// The values of the first elements of an array, one after the other.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub(super) fn first(&self, count: u32) -> Vec<u8> {
        let entries = usize::try_from(count).unwrap_or(0);
        let (mut keys, mut values) = (vec![0_u32; entries], vec![0_u8; entries * self.value_size]);
        let mut after = 0_u32;
        let mut batch = self.batch(count, keys.as_mut_ptr(), values.as_mut_ptr());
        batch.after = std::ptr::from_mut(&mut after).addr() as u64;
        call(LOOKUP_BATCH, &mut batch).unwrap_or_else(|error| panic!("reading {count} elements: {error}"));
        values
    }

    /// Fills the first elements of an array with zeros.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub(super) fn zero(&self, count: u32) {
        let mut keys: Vec<u32> = (0..count).collect();
        let mut values = vec![0_u8; keys.len() * self.value_size];
        let mut batch = self.batch(count, keys.as_mut_ptr(), values.as_mut_ptr());
        call(UPDATE_BATCH, &mut batch).unwrap_or_else(|error| panic!("clearing {count} elements: {error}"));
    }

    fn batch(&self, count: u32, keys: *mut u32, values: *mut u8) -> Batch {
        Batch {
            before: 0,
            after: 0,
            keys: keys.addr() as u64,
            values: values.addr() as u64,
            count,
            map: u32::try_from(self.fd()).unwrap_or(u32::MAX),
            element_flags: 0,
            flags: 0,
        }
    }

    /// All keys.
    #[must_use]
    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key_size];
            let mut element = self.element(keys.last().map(Vec::as_slice), next.as_mut_ptr());
            if call(NEXT_KEY, &mut element).is_err() {
                return keys;
            }
            keys.push(next);
        }
    }

    /// Empties a map whose elements can be deleted.
    pub(super) fn clear(&self) {
        for key in self.keys() {
            let mut element = self.element(Some(&key), std::ptr::null());
            // One that the kernel evicted meanwhile is gone as well.
            drop(call(DELETE, &mut element));
        }
    }
}

/// Bytes in the order they are added.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    /// Bytes as they are.
    #[must_use]
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A byte.
    #[must_use]
    pub(super) fn u8(self, value: u8) -> Self {
        self.raw(&[value])
    }

    /// A number of the host's order.
    #[must_use]
    pub(super) fn u16(self, value: u16) -> Self {
        self.raw(&value.to_ne_bytes())
    }

    /// A number of the network's order.
    #[must_use]
    pub(super) fn be16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// A number of the host's order.
    #[must_use]
    pub(super) fn u32(self, value: u32) -> Self {
        self.raw(&value.to_ne_bytes())
    }

    /// A number of the host's order.
    #[must_use]
    pub(super) fn u64(self, value: u64) -> Self {
        self.raw(&value.to_ne_bytes())
    }

    /// An address as 16 bytes.
    #[must_use]
    pub(super) fn address(self, address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(address) => self.raw(&address.to_ipv6_mapped().octets()),
            std::net::IpAddr::V6(address) => self.raw(&address.octets()),
        }
    }
}
