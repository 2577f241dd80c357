//! The map in which the kernel's forwarding program reads until when this node owns an instance.
//!
//! It is a BPF map of `lbd`'s that was handed to this process, mapped into its memory: one word for each instance, the time at which
//! the ownership ends, in nanoseconds of `CLOCK_BOOTTIME`. Only this process writes them, with one store each, so a renewal takes no
//! system call and no capability, and goes on whatever has become of `lbd`. What is not renewed ends by itself.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use common::ipc::{INSTANCES_MAX, InstanceNumber};
use common::time::Instant;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// What the map has to look like, by the names of `/proc/self/fdinfo`: an array that can be mapped (`BPF_F_MMAPABLE`).
const SHAPE: [(&str, u64); 5] = [
    ("map_type", 2),
    ("key_size", 4),
    ("value_size", 8),
    ("max_entries", INSTANCES_MAX as u64),
    ("map_flags", 0x400),
];

/// More of a description is not read.
const DESCRIPTION_MAX: u64 = 4096;

type Words = [AtomicU64; INSTANCES_MAX as usize];

/// Why a map is refused.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// It is something else.
    #[error("its descriptor is not of such a map: {name} is {found} instead of {wanted}")]
    Shape {
        /// What is different.
        name: &'static str,
        /// How it is.
        found: String,
        /// How it should be.
        wanted: u64,
    },
    /// There is no such element.
    #[error("instance {instance:?} has number {number} there, but it has to be from 1 to {}", INSTANCES_MAX - 1)]
    Number {
        /// The instance.
        instance: String,
        /// Its number.
        number: u32,
    },
    /// The system does not let us.
    #[error("{action} failed: {source}")]
    System {
        /// What was being done.
        action: &'static str,
        /// What failed.
        source: io::Error,
    },
}

/// The map, in this process's memory.
#[derive(Debug)]
pub struct Ownership {
    words: NonNull<Words>,
    numbers: BTreeMap<String, usize>,
}

// SAFETY: the mapping consists of atomics only, which any thread may use at any time, and belongs to no thread.
unsafe impl Send for Ownership {}
// SAFETY: as above.
unsafe impl Sync for Ownership {}

impl Ownership {
    /// Maps the map behind this descriptor, which is not needed afterwards. Each instance's number is its element.
    ///
    /// # Errors
    ///
    /// When it is another kind of thing, of another size, cannot be mapped, or a number is not one of its elements.
    pub fn map(descriptor: impl AsFd, instances: &[InstanceNumber]) -> Result<Self, OwnershipError> {
        let numbers = numbers(instances)?;
        check(&describe(&descriptor)?)?;
        let length = const { NonZeroUsize::new(size_of::<Words>()).expect("the map is not empty") };
        let (access, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists; the map has as many elements.
        let address = unsafe { mmap(None, length, access, flags, descriptor, 0) };
        let address =
            address.map_err(|errno| OwnershipError::System { action: "mapping it", source: errno.into() })?;
        Ok(Self { words: address.cast(), numbers })
    }

    /// The instances that are in it.
    pub fn instances(&self) -> impl Iterator<Item = &str> {
        self.numbers.keys().map(String::as_str)
    }

    /// This node owns the instance until then, if it is in the map. At once for whoever reads it, on any processor.
    pub fn own(&self, instance: &str, until: Instant) {
        if let Some(word) = self.word(instance) {
            // What was done before it, such as an address removed, counts before it.
            word.store(until.as_nanos(), Ordering::SeqCst);
        }
    }

    /// This node owns the instance no longer: what it had left of it ends now.
    pub fn give_up(&self, instance: &str, now: Instant) {
        if let Some(word) = self.word(instance)
            && word.load(Ordering::SeqCst) > now.as_nanos()
        {
            word.store(now.as_nanos(), Ordering::SeqCst);
        }
    }

    fn word(&self, instance: &str) -> Option<&AtomicU64> {
        // SAFETY: the mapping lives as long as `self`, is page-aligned and, since a mapping beyond the map's end is refused by the kernel,
        // long enough; every bit pattern is a valid word, and nobody ever makes a reference to it that is not shared.
        let words = unsafe { self.words.as_ref() };
        words.get(*self.numbers.get(instance)?)
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference to it outlives `self`.
        let result = unsafe { munmap(self.words.cast::<c_void>(), size_of::<Words>()) };
        debug_assert!(result.is_ok(), "what was mapped can be unmapped");
    }
}

fn numbers(instances: &[InstanceNumber]) -> Result<BTreeMap<String, usize>, OwnershipError> {
    let number = |it: &InstanceNumber| {
        let fits = (1..INSTANCES_MAX).contains(&it.number);
        let number = usize::try_from(it.number).ok().filter(|_| fits);
        let number = number
            .ok_or_else(|| OwnershipError::Number { instance: it.instance.clone(), number: it.number })?;
        Ok((it.instance.clone(), number))
    };
    instances.iter().map(number).collect()
}

/// What the kernel says of a descriptor. Asking bpf(2) would take a capability.
fn describe(descriptor: &impl AsFd) -> Result<String, OwnershipError> {
    use io::Read;
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd());
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(DESCRIPTION_MAX).read_to_string(&mut text));
    read.map_err(|source| OwnershipError::System { action: "looking at its descriptor", source })?;
    Ok(text)
}

/// Whether a description is that of such a map.
fn check(description: &str) -> Result<(), OwnershipError> {
    for (name, wanted) in SHAPE {
        let line = description.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let found = line.map_or("missing", str::trim);
        let number = match found.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => found.parse().ok(),
        };
        if number != Some(wanted) {
            return Err(OwnershipError::Shape { name, found: found.escape_debug().to_string(), wanted });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: &str = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1057\nmap_type:\t2\nkey_size:\t4\n\
        value_size:\t8\nmax_entries:\t64\nmap_flags:\t0x400\nmap_extra:\t0x0\nmemlock:\t4448\nmap_id:\t7\nfrozen:\t0\n";

    #[test]
    fn only_such_a_map_is_taken() {
        check(DESCRIPTION).unwrap();
        for (from, to) in [
            ("map_type:\t2", "map_type:\t6"),
            ("value_size:\t8", "value_size:\t16"),
            ("max_entries:\t64", "max_entries:\t63"),
            ("map_flags:\t0x400", "map_flags:\t0x0"),
            ("key_size:\t4\n", ""),
            ("key_size:\t4", "key_size:\tfour"),
        ] {
            let error = check(&DESCRIPTION.replace(from, to)).unwrap_err();
            assert!(matches!(error, OwnershipError::Shape { .. }), "{to}: {error}");
        }
        assert!(check("").is_err());
    }

    #[test]
    fn numbers_are_those_of_elements() {
        let named = |number| [InstanceNumber { instance: "web".to_owned(), number }];
        assert_eq!(numbers(&named(63)).unwrap(), BTreeMap::from([("web".to_owned(), 63)]));
        for number in [0, 64, u32::MAX] {
            assert!(matches!(numbers(&named(number)), Err(OwnershipError::Number { .. })), "{number}");
        }
    }

    #[test]
    fn what_is_no_map_is_refused() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let error = Ownership::map(&file, &[]).unwrap_err();
        assert!(error.to_string().contains("map_type is missing"), "{error}");
    }
}
