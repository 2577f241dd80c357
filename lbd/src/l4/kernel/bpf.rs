//! Maps by bpf(2): single elements and batches, maps in maps, and what a pinned map looks like.
//!
//! Keys and values are bytes here; [`super::maps`] gives them their types. aya, which loads the program, has no batches, and
//! reuses a pinned map unseen.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const MAP_NEXT_KEY: libc::c_int = 4;
const PROGRAM_LOAD: libc::c_int = 5;
const OBJECT_PIN: libc::c_int = 6;
const OBJECT_GET: libc::c_int = 7;
const PROGRAM_RUN: libc::c_int = 10;
const OBJECT_INFO: libc::c_int = 15;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const MAP_DELETE_BATCH: libc::c_int = 27;

/// An update that takes the place of nothing.
const NO_EXIST: u64 = 1;

/// A map that can be mapped into memory.
pub(super) const MAPPABLE: u32 = 1 << 10;

/// Kinds of maps.
pub(super) const KIND_ARRAY: u32 = 2;
pub(super) const KIND_PERCPU_HASH: u32 = 5;
pub(super) const KIND_PERCPU_ARRAY: u32 = 6;
pub(super) const KIND_LRU_PERCPU_HASH: u32 = 10;

/// What a map looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// `KIND_*`, or another of the kernel's numbers.
    pub(crate) kind: u32,
    /// In bytes.
    pub(crate) key_size: u32,
    /// In bytes; of one processor where there is a value for each.
    pub(crate) value_size: u32,
    /// Its elements, at most.
    pub(crate) max_entries: u32,
    /// As the kernel keeps them.
    pub(crate) flags: u32,
}

/// A map.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    shape: Shape,
    /// What a look-up writes, in bytes.
    value_bytes: usize,
}

/// Elements that one batch call has answered.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Their keys, one after the other.
    pub(super) keys: Vec<u8>,
    /// Their values, likewise.
    pub(super) values: Vec<u8>,
    /// How many.
    pub(super) count: usize,
}

impl Batch {
    /// Takes everything out.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.count = 0;
    }
}

/// Where a walk through a hash in batches is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// The kernel's; none at the start.
    pub(super) position: Option<u32>,
    /// Nothing is left.
    pub(super) done: bool,
}

/// A batch look-up that finds more in one bucket than it has room for gets twice as much, up to so many elements.
const BATCH_MAX: usize = 1 << 16;

impl Map {
    /// Opens a pinned map.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::from_fd(open_pinned(path)?)
    }

    /// The map behind a descriptor.
    pub(super) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let shape = shape(fd.as_fd())?;
        let value = shape.value_size as usize;
        let per_processor = matches!(shape.kind, KIND_PERCPU_ARRAY | KIND_PERCPU_HASH | KIND_LRU_PERCPU_HASH);
        let value_bytes =
            if per_processor { value.next_multiple_of(8) * possible_processors()? } else { value };
        Ok(Self { fd, shape, value_bytes })
    }

    /// Makes an array to be put into an array of maps.
    pub(super) fn new_array(name: &str, value_size: u32, max_entries: u32) -> io::Result<Self> {
        Self::create(name, KIND_ARRAY, [4, value_size], max_entries, 0)
    }

    /// Makes one of a given shape.
    pub(super) fn new_of(name: &str, shape: Shape) -> io::Result<Self> {
        let Shape { kind, key_size, value_size, max_entries, flags } = shape;
        Self::create(name, kind, [key_size, value_size], max_entries, flags)
    }

    /// Makes a hash table like the program's.
    #[cfg(test)]
    pub(super) fn new_hash(name: &str, sizes: [u32; 2], max_entries: u32) -> io::Result<Self> {
        const KIND_HASH: u32 = 1;
        Self::create(name, KIND_HASH, sizes, max_entries, 0)
    }

    /// Sizes are those of key and value.
    fn create(
        name: &str,
        kind: u32,
        [key_size, value_size]: [u32; 2],
        max_entries: u32,
        flags: u32,
    ) -> io::Result<Self> {
        let mut attribute = Create {
            kind,
            key_size,
            value_size,
            max_entries,
            flags,
            inner_map: 0,
            numa_node: 0,
            name: name_bytes(name),
        };
        // SAFETY: a new descriptor of the kernel's that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(bpf(MAP_CREATE, &mut attribute)?) };
        Self::from_fd(fd)
    }

    /// What it looks like.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes of a value: of those of all possible processors, where each has one.
    pub(super) fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_bytes];
        Ok(self.get_into(key, &mut value)?.then_some(value))
    }

    /// Reads the value of a key into `value`; false if there is none.
    pub(super) fn get_into(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check(key, value.len())?;
        let mut element = self.element(key, value.as_mut_ptr() as u64, 0);
        absent_is_false(bpf(MAP_LOOKUP, &mut element))
    }

    /// Writes the value of a key. Of arrays of maps it is a map's descriptor.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, value.len())?;
        let mut element = self.element(key, value.as_ptr() as u64, 0);
        bpf(MAP_UPDATE, &mut element).map(drop)
    }

    /// Puts a map into an array of maps.
    pub(super) fn put_map(&self, index: u32, inner: &Self) -> io::Result<()> {
        self.put(&index.to_ne_bytes(), &inner.fd.as_raw_fd().to_ne_bytes())
    }

    /// Whether there is a map in an array of maps.
    pub(super) fn has_map(&self, index: u32) -> io::Result<bool> {
        let mut id = [0; 4];
        self.get_into(&index.to_ne_bytes(), &mut id)
    }

    /// Deletes a key; false if there was none.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.check(key, self.value_bytes)?;
        let mut element = self.element(key, 0, 0);
        absent_is_false(bpf(MAP_DELETE, &mut element))
    }

    /// All keys. For maps that only `lbd` writes: what others change meanwhile may be missing or twice.
    pub(super) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let size = self.shape.key_size as usize;
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() <= self.shape.max_entries as usize {
            let mut next = vec![0; size];
            let before = keys.last().map_or(0, |key| key.as_ptr() as u64);
            let mut element =
                Element { map: self.raw(), _pad: 0, key: before, value: next.as_mut_ptr() as u64, flags: 0 };
            if !absent_is_false(bpf(MAP_NEXT_KEY, &mut element))? {
                break;
            }
            keys.push(next);
        }
        Ok(keys)
    }

    /// The next elements of a hash, about `count` of them, into `batch`. Elements that come or go meanwhile may be missed;
    /// none is there twice that was there all the time.
    pub(super) fn walk(&self, cursor: &mut Cursor, count: usize, batch: &mut Batch) -> io::Result<()> {
        let (key, value) = (self.shape.key_size as usize, self.value_bytes);
        let mut room = count.clamp(1, BATCH_MAX);
        batch.count = 0;
        while !cursor.done {
            batch.keys.resize(room * key, 0);
            batch.values.resize(room * value, 0);
            let (from, mut to) = (cursor.position.unwrap_or_default(), 0_u32);
            let mut attribute = Batched {
                from: cursor.position.map_or(0, |_| (&raw const from) as u64),
                to: (&raw mut to) as u64,
                keys: batch.keys.as_mut_ptr() as u64,
                values: batch.values.as_mut_ptr() as u64,
                count: u32::try_from(room).unwrap_or(u32::MAX),
                map: self.raw(),
                element_flags: 0,
                flags: 0,
            };
            let result = bpf(MAP_LOOKUP_BATCH, &mut attribute);
            match result {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => cursor.done = true,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < BATCH_MAX => {
                    room *= 2;
                    continue;
                }
                Err(error) => return Err(error),
            }
            cursor.position = Some(to);
            batch.count = (attribute.count as usize).min(room);
            break;
        }
        Ok(())
    }

    /// Deletes `keys`, one after the other without a gap; answers how many were there.
    pub(super) fn delete_all(&self, keys: &[u8]) -> io::Result<usize> {
        let size = (self.shape.key_size as usize).max(1);
        let (mut at, mut deleted) = (0, 0);
        while at < keys.len() {
            let rest = &keys[at..];
            let mut attribute = self.batched(rest, 0, rest.len() / size);
            let result = bpf(MAP_DELETE_BATCH, &mut attribute);
            let done = (attribute.count as usize).min(rest.len() / size);
            deleted += done;
            match result {
                Ok(_) => break,
                // One that is gone already ends the call.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => at += (done + 1) * size,
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }

    /// Writes all elements of a batch, over what is there; `refused` hears the places of those that there was no room for, which keep
    /// no others out.
    pub(super) fn put_all(&self, batch: &Batch, mut refused: impl FnMut(usize)) -> io::Result<()> {
        let (key, value) = (self.shape.key_size as usize, self.value_bytes);
        if batch.keys.len() != batch.count * key || batch.values.len() != batch.count * value {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut at = 0;
        while at < batch.count {
            let (keys, values) = (&batch.keys[at * key..], &batch.values[at * value..]);
            let mut attribute = self.batched(keys, values.as_ptr() as u64, batch.count - at);
            let result = bpf(MAP_UPDATE_BATCH, &mut attribute);
            let done = (attribute.count as usize).min(batch.count - at);
            match result {
                Ok(_) => break,
                // The one that has no room ends the call.
                Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM)) => {
                    refused(at + done);
                    at += done + 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adds what is not there yet; answers how much. (The kernel's call for many at a time knows no such condition.)
    pub(super) fn add_all(&self, batch: &Batch) -> io::Result<usize> {
        let (key, value) = (self.shape.key_size as usize, self.value_bytes);
        let elements = batch.keys.chunks_exact(key.max(1)).zip(batch.values.chunks_exact(value.max(1)));
        let mut added = 0;
        for (key, value) in elements.take(batch.count) {
            self.check(key, value.len())?;
            let mut element = self.element(key, value.as_ptr() as u64, NO_EXIST);
            match bpf(MAP_UPDATE, &mut element) {
                Ok(_) => added += 1,
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(added)
    }

    fn batched(&self, keys: &[u8], values: u64, count: usize) -> Batched {
        Batched {
            from: 0,
            to: 0,
            keys: keys.as_ptr() as u64,
            values,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            map: self.raw(),
            element_flags: 0,
            flags: 0,
        }
    }

    fn element(&self, key: &[u8], value: u64, flags: u64) -> Element {
        Element { map: self.raw(), _pad: 0, key: key.as_ptr() as u64, value, flags }
    }

    /// The kernel reads and writes as many bytes as the map's sizes say.
    fn check(&self, key: &[u8], value_bytes: usize) -> io::Result<()> {
        if key.len() != self.shape.key_size as usize || value_bytes != self.value_bytes {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Ok(())
    }

    fn raw(&self) -> u32 {
        self.fd.as_raw_fd().cast_unsigned()
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens what is pinned at a path.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attribute = Pinned { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: a new descriptor of the kernel's that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(bpf(OBJECT_GET, &mut attribute)?) })
}

/// Pins an object.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = object.as_raw_fd().cast_unsigned();
    let mut attribute = Pinned { path: path.as_ptr() as u64, fd, flags: 0 };
    bpf(OBJECT_PIN, &mut attribute).map(drop)
}

/// Loads a classifier of a few instructions.
pub(super) fn load_classifier(name: &str, code: &[u64]) -> io::Result<OwnedFd> {
    const CLASSIFIER: u32 = 3;
    let licence = c"Dual MIT/GPL";
    let mut attribute = LoadProgram {
        kind: CLASSIFIER,
        instructions: u32::try_from(code.len()).unwrap_or_default(),
        code: code.as_ptr() as u64,
        licence: licence.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: name_bytes(name),
    };
    // SAFETY: a new descriptor of the kernel's that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(bpf(PROGRAM_LOAD, &mut attribute)?) })
}

/// Runs a program once on an empty Ethernet frame; its answer.
pub(super) fn run(program: BorrowedFd<'_>) -> io::Result<u32> {
    let packet = [0_u8; 64];
    let mut attribute = RunProgram {
        program: program.as_raw_fd().cast_unsigned(),
        answer: 0,
        packet_in: u32::try_from(packet.len()).unwrap_or_default(),
        packet_out: 0,
        packet: packet.as_ptr() as u64,
        out: 0,
        repeat: 1,
        duration: 0,
    };
    bpf(PROGRAM_RUN, &mut attribute)?;
    Ok(attribute.answer)
}

/// A name as the kernel takes it; what is too long is cut.
fn name_bytes(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(bytes.len() - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

fn shape(fd: BorrowedFd<'_>) -> io::Result<Shape> {
    let mut info = Info::default();
    let mut attribute = InfoRequest {
        fd: fd.as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of::<Info>()).unwrap_or_default(),
        info: (&raw mut info) as u64,
    };
    bpf(OBJECT_INFO, &mut attribute)?;
    Ok(Shape {
        kind: info.kind,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.flags,
    })
}

/// Where the link with a pin is, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    /// The number of its program.
    pub(super) program: u32,
    /// The interface; 0 once it was taken off.
    pub(super) interface: u32,
}

/// The state of a pinned link of tcx or XDP.
pub(super) fn link_state(path: &Path) -> io::Result<LinkState> {
    let fd = open_pinned(path)?;
    let mut info = LinkInfo::default();
    let mut attribute = InfoRequest {
        fd: fd.as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of::<LinkInfo>()).unwrap_or_default(),
        info: (&raw mut info) as u64,
    };
    bpf(OBJECT_INFO, &mut attribute)?;
    Ok(LinkState { program: info.program, interface: info.interface })
}

/// Processors that there may ever be: so many values has an element of a map with one for each.
pub(super) fn possible_processors() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let count = |part: &str| -> Option<usize> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.checked_sub(first)? + 1)
    };
    let counts: Option<Vec<usize>> = text.trim().split(',').map(count).collect();
    counts
        .map(|counts| counts.iter().sum())
        .filter(|sum| *sum > 0)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/sys/devices/system/cpu/possible"))
}

/// The attributes of bpf(2), each the beginning of the kernel's union. What is not given is zero to the kernel.
#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Batched {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
struct Pinned {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct LoadProgram {
    kind: u32,
    instructions: u32,
    code: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct RunProgram {
    program: u32,
    answer: u32,
    packet_in: u32,
    packet_out: u32,
    packet: u64,
    out: u64,
    repeat: u32,
    duration: u32,
}

#[repr(C)]
struct InfoRequest {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// The beginning of `struct bpf_link_info`; `interface` is that of tcx and XDP.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    _pad: u32,
    interface: u32,
    side: u32,
}

fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<RawFd> {
    // SAFETY: `T` is the beginning of the command's attributes, as long as is said; the pointers in it, made by the callers above,
    // are to memory of the sizes that the kernel knows of the map, checked before.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(RawFd::try_from(result).unwrap_or_default()) }
}

fn absent_is_false(result: io::Result<RawFd>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_keeps_what_is_put_in() {
        let map = Map::new_array("test", 8, 16).unwrap();
        assert_eq!((map.shape().kind, map.shape().max_entries), (KIND_ARRAY, 16));
        map.put(&3_u32.to_ne_bytes(), &7_u64.to_ne_bytes()).unwrap();
        assert_eq!(map.get(&3_u32.to_ne_bytes()).unwrap().unwrap(), 7_u64.to_ne_bytes());
        assert_eq!(map.get(&16_u32.to_ne_bytes()).unwrap(), None, "beyond its end");
        assert_eq!(map.put(&[0; 3], &[0; 8]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(map.put(&[0; 4], &[0; 9]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn many_are_written_with_one_call() {
        let map = Map::new_array("test", 8, 4).unwrap();
        let keys = [0_u32, 3, 1].iter().flat_map(|key| key.to_ne_bytes()).collect();
        let values = [5_u64, 6, 7].iter().flat_map(|value| value.to_ne_bytes()).collect();
        let mut batch = Batch { keys, values, count: 3 };
        let put = |batch: &Batch| {
            let mut refused = Vec::new();
            map.put_all(batch, |place| refused.push(place)).map(|()| refused)
        };
        assert_eq!(put(&batch).unwrap(), [0; 0]);
        let at = |key: u32| map.get(&key.to_ne_bytes()).unwrap().unwrap();
        assert_eq!([at(0), at(1), at(2), at(3)], [5_u64, 7, 0, 6].map(u64::to_ne_bytes));
        batch.keys.pop();
        assert_eq!(put(&batch).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        // The second one is beyond the end.
        batch.keys = [2_u32, 4, 3].iter().flat_map(|key| key.to_ne_bytes()).collect();
        assert_eq!(put(&batch).unwrap(), [1]);
        assert_eq!([at(2), at(3)], [5_u64, 7].map(u64::to_ne_bytes));
        batch.clear();
        assert_eq!(put(&batch).unwrap(), [0; 0]);
    }

    #[test]
    fn adding_leaves_what_is_there() {
        let map = Map::new_array("test", 8, 2).unwrap();
        let batch = |count| Batch { keys: vec![0; 4 * count], values: vec![1; 8 * count], count };
        assert_eq!(map.add_all(&batch(1)).unwrap(), 0, "elements of an array are always there");
        assert_eq!(map.get(&[0; 4]).unwrap().unwrap(), [0; 8]);
        assert_eq!(map.add_all(&batch(0)).unwrap(), 0);
    }
}
