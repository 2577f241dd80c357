//! An endpoint's ports in this process's memory: looked at and taken without a call of the kernel, which would cost as much as
//! everything else that is done for a flow of the other node. They are taken as the program takes them, by an exchange of the control
//! word: nobody else can have the same port, and who looks meanwhile finds it locked.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use lbd_core::forward::abi::{Abi, NAT_PORTS, Slot, SlotControl};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A slot: its control word, and what it is of.
const WORDS: usize = Slot::SIZE / size_of::<u64>();

type Words = [[AtomicU64; WORDS]; NAT_PORTS as usize];

/// The processors' changes of a port that may come between looking at it and taking it.
const TRIES: usize = 4;

/// The mapping.
#[derive(Debug)]
pub(super) struct Ports {
    words: NonNull<Words>,
}

// SAFETY: the mapping consists of atomics only, which any thread may use at any time, and belongs to no thread.
unsafe impl Send for Ports {}

impl Ports {
    /// Maps an array of slots, which has one for each port. The array's descriptor is not needed afterwards.
    pub(super) fn map(array: impl AsFd) -> Result<Self, Errno> {
        let length = const { NonZeroUsize::new(size_of::<Words>()).expect("there are ports") };
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, array, 0)? };
        Ok(Self { words: address.cast() })
    }

    /// Gives the port of this place to whom `slot` says, unless `is_taken` says of what is there that it is somebody else's; whether
    /// it has. What there was of the same flow is replaced. `now` is the program's clock.
    pub(super) fn take(&self, place: u32, slot: &Slot, now: u32, is_taken: impl Fn(&Slot) -> bool) -> bool {
        let Some(words) = self.words().get(place as usize) else { return false };
        let [wanted, whose @ ..] = slot.to_words();
        // Who locks a port says since when: after a second the program takes it for one that nobody has.
        let locked = SlotControl { seen: now, lock: 1, ..SlotControl::of(wanted) }.word();
        for _ in 0..TRIES {
            let control = words[0].load(Ordering::SeqCst);
            let present = [
                words[1].load(Ordering::Relaxed),
                words[2].load(Ordering::Relaxed),
                words[3].load(Ordering::Relaxed),
            ];
            let is_locked = SlotControl::of(control).lock != 0;
            let there = Slot::of_words([control, present[0], present[1], present[2]]);
            let is_ours = !is_locked && there.is_of(slot);
            if !is_ours && is_taken(&there) {
                return false;
            }
            // One that stays the same flow's is never locked: a packet would find that the flow has no port.
            let next = if is_ours && present == whose { wanted } else { locked };
            if words[0].compare_exchange(control, next, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                continue;
            }
            if next == wanted {
                return true;
            }
            // What is written now is seen after the lock.
            fence(Ordering::SeqCst);
            for (word, whose) in words.iter().skip(1).zip(whose) {
                word.store(whose, Ordering::Relaxed);
            }
            // Whoever sees it without the lock sees what is in it. If this thread stood still for too long, it is somebody else's by now.
            return words[0].compare_exchange(locked, wanted, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        }
        // It is in use here.
        false
    }

    fn words(&self) -> &Words {
        // SAFETY: the mapping lives as long as `self`, is page-aligned and, since a mapping beyond the array's end is refused by the kernel,
        // long enough; every bit pattern is a valid word, and nobody ever makes a reference to it that is not shared.
        unsafe { self.words.as_ref() }
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference to it outlives `self`.
        let result = unsafe { munmap(self.words.cast::<c_void>(), size_of::<Words>()) };
        debug_assert!(result.is_ok(), "what was mapped can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use lbd_core::forward::abi::Be16;

    use super::super::bpf::Map;
    use super::super::maps::slots_shape;
    use super::*;

    const NOW: u32 = 9;

    fn slot(client_port: u16, state: u8) -> Slot {
        let control = SlotControl { seen: 7, service: 3, state, lock: 0 }.word();
        Slot { control, client_port: Be16(client_port), vip_port: Be16(80), vip: 2, ..Slot::default() }
    }

    #[test]
    fn a_port_is_taken_unless_it_is_somebody_elses() {
        let map = Map::new_of("test", slots_shape()).unwrap();
        let ports = Ports::map(&map).unwrap();
        let at = |place: u32| Slot::from_bytes(&map.get(&place.to_ne_bytes()).unwrap().unwrap()).unwrap();
        let busy = |present: &Slot| present.control != 0;
        assert!(ports.take(9, &slot(1, 1), NOW, busy));
        assert_eq!((at(9), at(8)), (slot(1, 1), Slot::default()));
        assert!(!ports.take(9, &slot(2, 1), NOW, busy), "another client has it");
        assert!(ports.take(9, &slot(1, 3), NOW, busy), "the same one has it");
        assert_eq!(at(9), slot(1, 3));
        assert!(ports.take(9, &slot(2, 1), NOW, |_| false), "it is over");
        assert_eq!(at(9), slot(2, 1));
        // The last one, and one that there is not.
        assert!(ports.take(NAT_PORTS - 1, &slot(3, 1), NOW, busy));
        assert_eq!(at(NAT_PORTS - 1), slot(3, 1));
        assert!(!ports.take(NAT_PORTS, &slot(3, 1), NOW, busy));
    }

    #[test]
    fn a_locked_port_is_looked_at_whoever_had_it() {
        let map = Map::new_of("test", slots_shape()).unwrap();
        let ports = Ports::map(&map).unwrap();
        let locked = SlotControl { lock: 1, ..SlotControl::of(slot(1, 1).control) }.word();
        map.put(&0_u32.to_ne_bytes(), &Slot { control: locked, ..slot(1, 1) }.to_bytes()).unwrap();
        assert!(!ports.take(0, &slot(1, 1), NOW, |present| SlotControl::of(present.control).lock != 0));
    }

    #[test]
    fn two_who_want_a_port_do_not_both_get_it() {
        let map = Map::new_of("test", slots_shape()).unwrap();
        let free = |present: &Slot| present.control != 0;
        let taken = |first: u16| {
            let ports = Ports::map(&map).unwrap();
            move || (0..NAT_PORTS).filter(|place| ports.take(*place, &slot(first, 1), NOW, free)).count()
        };
        let (one, other) = (std::thread::spawn(taken(1)), std::thread::spawn(taken(2)));
        let counts = [one.join().unwrap(), other.join().unwrap()];
        assert_eq!(counts.iter().sum::<usize>(), NAT_PORTS as usize, "{counts:?}");
    }
}
