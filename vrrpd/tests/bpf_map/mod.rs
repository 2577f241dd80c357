//! Maps as `lbd` makes them, by bpf(2) (needs root).
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `BPF_F_MMAPABLE`.
pub(crate) const MAPPABLE: u32 = 0x400;

#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// An array.
pub(crate) fn array(value_size: u32, max_entries: u32, flags: u32) -> OwnedFd {
    let attribute = Create { kind: 2, key_size: 4, value_size, max_entries, flags };
    // SAFETY: the beginning of the call's attributes, as long as is said, without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, 0, &raw const attribute, size_of::<Create>()) };
    assert!(fd >= 0, "making a BPF map (needs root): {}", io::Error::last_os_error());
    // SAFETY: a new descriptor of the kernel's that nobody else has.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

/// The map that this is all about.
pub(crate) fn instances() -> OwnedFd {
    array(8, 64, MAPPABLE)
}

/// A word, as the kernel has it.
pub(crate) fn word(map: &OwnedFd, number: u32) -> u64 {
    let mut value = 0_u64;
    access(map, 1, number, &raw mut value);
    value
}

/// Sets a word.
pub(crate) fn set(map: &OwnedFd, number: u32, mut value: u64) {
    access(map, 2, number, &raw mut value);
}

fn access(map: &OwnedFd, command: i32, number: u32, value: *mut u64) {
    let map = map.as_raw_fd().cast_unsigned();
    let key = (&raw const number) as u64;
    let attribute = Element { map, _pad: 0, key, value: value as u64, flags: 0 };
    // SAFETY: key and value are as long as the map's, and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attribute, size_of::<Element>()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
