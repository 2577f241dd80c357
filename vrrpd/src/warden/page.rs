//! The page of memory that the daemon and its warden share.
//!
//! One cell per slot holds the time of its last beat, and both sides change it by compare-and-swap only: so either the beat
//! comes first and the warden sees that the slot is not overdue, or the warden comes first and the beat fails. A beat costs no
//! system call, can never find a queue full, and does not even wake the warden.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::ftruncate;

use super::SLOTS;

/// The slot is not watched.
const IDLE: u64 = 0;
/// The warden is releasing the slot's addresses.
const FIRING: u64 = u64::MAX;
/// The warden has released the slot's addresses.
const FIRED: u64 = u64::MAX - 1;

/// One slot.
#[derive(Debug)]
#[repr(C)]
struct Cell {
    /// When it was last beaten, in nanoseconds of `CLOCK_BOOTTIME`; or one of the constants above.
    beat: AtomicU64,
    /// Nanoseconds since 1970 that the stamps of packets must be above.
    floor: AtomicU64,
}

#[derive(Debug)]
#[repr(C)]
struct Cells([Cell; SLOTS]);

/// How a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// Not watched.
    Idle,
    /// Watched, with the time of the last beat.
    Beaten(u64),
    /// Being released right now.
    Firing,
    /// Released.
    Fired,
}

/// The page, mapped.
#[derive(Debug)]
pub(super) struct Page {
    cells: NonNull<Cells>,
}

// SAFETY: the page consists of atomics only, which any thread may use at any time, and the mapping belongs to no thread.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// A new page, all slots idle, and the file to hand to the other side.
    pub(super) fn create() -> io::Result<(Self, OwnedFd)> {
        let file = memfd_create(c"vrrpd-warden", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&file, i64::try_from(size_of::<Cells>()).map_err(io::Error::other)?)?;
        Ok((Self::map(&file)?, file))
    }

    /// Maps the page that the other side created.
    pub(super) fn map(file: impl AsFd) -> io::Result<Self> {
        let length = const { NonZeroUsize::new(size_of::<Cells>()).expect("the page is not empty") };
        let size = nix::sys::stat::fstat(&file)?.st_size;
        if usize::try_from(size).ok() != Some(length.get()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "this is not the page shared with vrrpd",
            ));
        }
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists; the file is as long as it.
        let address = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, 0)? };
        Ok(Self { cells: address.cast() })
    }

    fn cell(&self, slot: u8) -> Option<&Cell> {
        // SAFETY: the mapping lives as long as `self`, is page-aligned and long enough, and every bit pattern is a valid
        // `Cells`; nobody ever makes a reference to it that is not shared.
        let cells = unsafe { self.cells.as_ref() };
        cells.0.get(usize::from(slot))
    }

    /// How a slot stands.
    pub(super) fn watch(&self, slot: u8) -> Watch {
        match self.cell(slot).map_or(IDLE, |cell| cell.beat.load(Ordering::SeqCst)) {
            IDLE => Watch::Idle,
            FIRING => Watch::Firing,
            FIRED => Watch::Fired,
            beat => Watch::Beaten(beat),
        }
    }

    /// Begins to watch an idle or released slot; false while the warden is releasing it.
    pub(super) fn arm(&self, slot: u8, now: u64) -> bool {
        self.change(slot, |beat| match beat {
            FIRING => None,
            IDLE | FIRED => Some(now),
            watched => Some(watched),
        })
    }

    /// Stops watching a slot, whatever happened to it.
    pub(super) fn disarm(&self, slot: u8) {
        self.change(slot, |beat| (beat != FIRING).then_some(IDLE));
    }

    /// Says that a watched slot is well; false if the warden came first.
    pub(super) fn beat(&self, slot: u8, now: u64, floor: u64) -> bool {
        if let Some(cell) = self.cell(slot) {
            cell.floor.fetch_max(floor, Ordering::SeqCst);
        }
        self.change(slot, |beat| match beat {
            FIRING | FIRED => None,
            IDLE => Some(IDLE),
            _ => Some(now),
        })
    }

    /// Takes a slot for release, if its last beat is still the given one.
    pub(super) fn fire(&self, slot: u8, last_beat: u64) -> bool {
        self.change(slot, |beat| (beat == last_beat).then_some(FIRING))
    }

    /// Ends the release of a slot.
    pub(super) fn fired(&self, slot: u8) {
        self.change(slot, |beat| (beat == FIRING).then_some(FIRED));
    }

    /// What the stamps of packets must be above.
    pub(super) fn floor(&self, slot: u8) -> u64 {
        self.cell(slot).map_or(0, |cell| cell.floor.load(Ordering::SeqCst))
    }

    fn change(&self, slot: u8, next: impl FnMut(u64) -> Option<u64>) -> bool {
        let cell = self.cell(slot);
        cell.is_some_and(|cell| cell.beat.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference to it outlives `self`.
        let result = unsafe { munmap(self.cells.cast::<c_void>(), size_of::<Cells>()) };
        debug_assert!(result.is_ok(), "what was mapped can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_the_beat_comes_first_or_the_warden() {
        let (page, file) = Page::create().unwrap();
        let warden = Page::map(&file).unwrap();
        assert_eq!(warden.watch(3), Watch::Idle);
        assert!(page.beat(3, 5, 0), "a slot that is not watched cannot have been released");
        assert_eq!(warden.watch(3), Watch::Idle);
        assert!(page.arm(3, 10));
        assert!(page.beat(3, 20, 7));
        assert!(!warden.fire(3, 10), "a beat came in between");
        assert!(warden.fire(3, 20));
        assert!(!page.beat(3, 30, 9), "the warden came in between");
        assert_eq!((page.watch(3), warden.floor(3)), (Watch::Firing, 9));
        assert!(!page.arm(3, 40), "not while the addresses are being removed");
        page.disarm(3);
        warden.fired(3);
        assert_eq!(page.watch(3), Watch::Fired);
        assert!(page.arm(3, 50));
        assert_eq!(warden.watch(3), Watch::Beaten(50));
        assert!(page.arm(3, 60), "arming anew with another plan");
        assert_eq!(warden.watch(3), Watch::Beaten(50));
        page.disarm(3);
        assert_eq!(warden.watch(3), Watch::Idle);
    }

    #[test]
    fn slots_beyond_the_last_do_not_exist() {
        let (page, _file) = Page::create().unwrap();
        let last = u8::try_from(SLOTS - 1).unwrap();
        assert!(page.arm(last, 10));
        assert!(!page.arm(last + 1, 10));
        assert_eq!(page.watch(last + 1), Watch::Idle);
    }

    #[test]
    fn another_file_is_refused() {
        let file = memfd_create(c"short", MFdFlags::MFD_CLOEXEC).unwrap();
        assert!(Page::map(&file).is_err());
    }
}
