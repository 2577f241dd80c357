//! An endpoint's ports in this process's memory: looked at and taken without a call of the kernel, which would cost as much as
//! everything else that is done for a flow of the other node. They are taken as the program takes them, by an exchange of the control
//! word: nobody else can have the same port, and who looks meanwhile finds it locked.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use lbd_core::forward::abi::{Abi, Address, NAT_PORTS, Slot, SlotControl};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A slot: its control word, and what it is of. An IPv6 client's address is as long.
const WORDS: usize = Slot::SIZE / size_of::<u64>();

type Words = [[AtomicU64; WORDS]; NAT_PORTS as usize];

/// The processors' changes of a port that may come between looking at it and taking it.
const TRIES: usize = 4;

/// The mappings of an endpoint's slots and, if it is one of IPv6, of its clients' addresses.
#[derive(Debug)]
pub(super) struct Ports {
    slots: Mapping,
    clients: Option<Mapping>,
}

impl Ports {
    /// Maps an array of slots, which has one for each port, and that of the IPv6 clients' addresses. The arrays' descriptors are not needed
    /// afterwards.
    pub(super) fn map(slots: impl AsFd, clients: Option<impl AsFd>) -> Result<Self, Errno> {
        Ok(Self { slots: Mapping::of(slots)?, clients: clients.map(Mapping::of).transpose()? })
    }

    /// Gives the port of this place to whom `slot` and `client`, whose whole address it is, say, unless `is_taken` says of what is there that
    /// it is somebody else's; whether it has. What there was of the same flow is replaced. `now` is the program's clock.
    pub(super) fn take(
        &self,
        place: u32,
        slot: &Slot,
        client: Address,
        now: u32,
        is_taken: impl Fn(&Slot) -> bool,
    ) -> bool {
        let Some(port) = self.port(place as usize) else { return false };
        let [wanted, whose] = slot.to_words();
        let (halves, _) = client.0.as_chunks();
        let whose = [whose, u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1])];
        // Who locks a port says since when: after a second the program takes it for one that nobody has.
        let locked = SlotControl { seen: now, lock: 1, ..SlotControl::of(wanted) }.word();
        for _ in 0..TRIES {
            let control = port.control.load(Ordering::SeqCst);
            let present = port.whose();
            let there = Slot::of_words([control, present[0]]);
            let same_client = port.client.is_none() || present[1..] == whose[1..];
            let is_ours = SlotControl::of(control).lock == 0 && same_client && there.is_of(slot);
            if !is_ours && is_taken(&there) {
                return false;
            }
            // One that stays the same flow's is never locked: a packet would find that the flow has no port.
            let next = if is_ours { wanted } else { locked };
            if port.control.compare_exchange(control, next, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                continue;
            }
            return is_ours || port.fill([locked, wanted], present, whose);
        }
        // It is in use here.
        false
    }

    fn port(&self, place: usize) -> Option<Port<'_>> {
        let [control, slot] = self.slots.words().get(place)?;
        let client = self.clients.as_ref().and_then(|clients| clients.words().get(place));
        Some(Port { control, slot, client })
    }
}

/// A port's words. Beside the control word they say whose it is, and change only while it is locked.
struct Port<'a> {
    control: &'a AtomicU64,
    /// The rest of the slot.
    slot: &'a AtomicU64,
    /// The whole address of an IPv6 client.
    client: Option<&'a [AtomicU64; WORDS]>,
}

impl Port<'_> {
    /// The words that say whose it is; zeros for those that there are not.
    fn whose(&self) -> [u64; 1 + WORDS] {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let [first, second] = self.client.map_or([0; WORDS], |words| words.each_ref().map(load));
        [load(self.slot), first, second]
    }

    /// Writes whose it is, where `present` was written before it was locked, and unlocks it: its control word is the first of two, and is to be
    /// the second. Whether it is his now.
    ///
    /// A thread that stood still for more than a second since it locked the port has lost it, and it may be somebody else's by now. So before each
    /// word it looks whether it still has it; and a word takes the place of the one that was there before, and of nothing else, should that second
    /// pass after the look. What is left: it passes there, and the new owner has the same word, or has yet to write his. Then his port says that it
    /// is another's, and his answers get lost. This flow knows that it has no port.
    fn fill(
        &self,
        [locked, unlocked]: [u64; 2],
        present: [u64; 1 + WORDS],
        wanted: [u64; 1 + WORDS],
    ) -> bool {
        // What is written now is seen after the lock.
        fence(Ordering::SeqCst);
        let words = std::iter::once(self.slot).chain(self.client.into_iter().flatten());
        let mut changes = words.zip(present.into_iter().zip(wanted));
        let all_written = changes.all(|(word, (present, wanted))| {
            self.control.load(Ordering::SeqCst) == locked
                && word.compare_exchange(present, wanted, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        // Whoever sees it without the lock sees what is in it. What stays locked is free after a second.
        all_written
            && self.control.compare_exchange(locked, unlocked, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// An array in this process's memory.
#[derive(Debug)]
struct Mapping {
    words: NonNull<Words>,
}

// SAFETY: the mapping consists of atomics only, which any thread may use at any time, and belongs to no thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn of(array: impl AsFd) -> Result<Self, Errno> {
        let length = const { NonZeroUsize::new(size_of::<Words>()).expect("there are ports") };
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, array, 0)? };
        Ok(Self { words: address.cast() })
    }

    fn words(&self) -> &Words {
        // SAFETY: the mapping lives as long as `self`, is page-aligned and, since a mapping beyond the array's end is refused by the kernel,
        // long enough; every bit pattern is a valid word, and nobody ever makes a reference to it that is not shared.
        unsafe { self.words.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference to it outlives `self`.
        let result = unsafe { munmap(self.words.cast::<c_void>(), size_of::<Words>()) };
        debug_assert!(result.is_ok(), "what was mapped can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lbd_core::forward::abi::Be16;

    use super::super::bpf::Map;
    use super::super::maps::slots_shape;
    use super::*;

    const NOW: u32 = 9;

    fn slot(client_port: u16, state: u8) -> Slot {
        let control = SlotControl { seen: 7, service: 3, vip: 2, state, lock: 0 }.word();
        let [.., a, b, c, d] = client().0;
        Slot { control, client: [a, b, c, d], client_port: Be16(client_port), vip_port: Be16(80) }
    }

    fn client() -> Address {
        IpAddr::from([192, 0, 2, 1]).into()
    }

    fn map(array: &Map) -> Ports {
        Ports::map(array, None::<&Map>).unwrap()
    }

    #[test]
    fn a_port_is_taken_unless_it_is_somebody_elses() {
        let array = Map::new_of("test", slots_shape()).unwrap();
        let ports = map(&array);
        let at = |place: u32| Slot::from_bytes(&array.get(&place.to_ne_bytes()).unwrap().unwrap()).unwrap();
        let busy = |present: &Slot| present.control != 0;
        let take = |place: u32, slot: &Slot, busy: &dyn Fn(&Slot) -> bool| {
            ports.take(place, slot, client(), NOW, busy)
        };
        assert!(take(9, &slot(1, 1), &busy));
        assert_eq!((at(9), at(8)), (slot(1, 1), Slot::default()));
        assert!(!take(9, &slot(2, 1), &busy), "another client has it");
        assert!(take(9, &slot(1, 3), &busy), "the same one has it");
        assert_eq!(at(9), slot(1, 3));
        let of_another_vip = Slot {
            control: SlotControl { vip: 4, ..SlotControl::of(slot(1, 1).control) }.word(),
            ..slot(1, 1)
        };
        assert!(!take(9, &of_another_vip, &busy), "it has asked for something else");
        assert!(take(9, &slot(2, 1), &|_| false), "it is over");
        assert_eq!(at(9), slot(2, 1));
        // The last one, and one that there is not.
        assert!(take(NAT_PORTS - 1, &slot(3, 1), &busy));
        assert_eq!(at(NAT_PORTS - 1), slot(3, 1));
        assert!(!take(NAT_PORTS, &slot(3, 1), &busy));
    }

    #[test]
    fn clients_of_ipv6_are_told_apart_by_all_of_their_addresses() {
        let [slots, clients] = [0; 2].map(|_| Map::new_of("test", slots_shape()).unwrap());
        let ports = Ports::map(&slots, Some(&clients)).unwrap();
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let [one, other] = ["2001:db8::c000:201", "2001:db8:1::c000:201"].map(address);
        let busy = |present: &Slot| present.control != 0;
        assert!(ports.take(9, &slot(1, 1), one, NOW, busy));
        assert!(!ports.take(9, &slot(1, 1), other, NOW, busy), "their last words are the same");
        assert!(ports.take(9, &slot(1, 3), one, NOW, busy));
        assert_eq!(clients.get(&9_u32.to_ne_bytes()).unwrap().unwrap(), one.0);
        assert!(ports.take(9, &slot(1, 1), other, NOW, |_| false), "it is over");
        assert_eq!(clients.get(&9_u32.to_ne_bytes()).unwrap().unwrap(), other.0);
    }

    #[test]
    fn a_locked_port_is_looked_at_whoever_had_it() {
        let array = Map::new_of("test", slots_shape()).unwrap();
        let ports = map(&array);
        let locked = SlotControl { lock: 1, ..SlotControl::of(slot(1, 1).control) }.word();
        array.put(&0_u32.to_ne_bytes(), &Slot { control: locked, ..slot(1, 1) }.to_bytes()).unwrap();
        let is_locked = |present: &Slot| SlotControl::of(present.control).lock != 0;
        assert!(!ports.take(0, &slot(1, 1), client(), NOW, is_locked));
    }

    #[test]
    fn whoever_stood_still_leaves_a_port_to_its_new_owner() {
        let [array, clients] = [0; 2].map(|_| Map::new_of("test", slots_shape()).unwrap());
        let ports = Ports::map(&array, Some(&clients)).unwrap();
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let [before, ours, others] = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(address);
        let key = 9_u32.to_ne_bytes();
        let words = |slot: &Slot, client: Address| {
            let (halves, _) = client.0.as_chunks();
            [slot.to_words()[1], u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1])]
        };
        let [wanted, locked] = [0, 1].map(|lock| SlotControl { lock, ..SlotControl::of(slot(2, 1).control) });
        let fill = || {
            let both = [locked.word(), wanted.word()];
            ports.port(9).unwrap().fill(both, words(&slot(1, 1), before), words(&slot(2, 1), ours))
        };
        let begin = |control: u64, whose: &Slot, client: Address| {
            array.put(&key, &Slot { control, ..*whose }.to_bytes()).unwrap();
            clients.put(&key, &client.0).unwrap();
        };
        let now = || (array.get(&key).unwrap().unwrap(), clients.get(&key).unwrap().unwrap());
        begin(locked.word(), &slot(1, 1), before);
        assert!(fill());
        assert_eq!(now(), (slot(2, 1).to_bytes(), ours.0.to_vec()));
        // A second has passed: somebody has the port, and the former owner has it again.
        for (whose, client) in [(slot(3, 1), others), (slot(1, 1), before)] {
            begin(whose.control + 20, &whose, client);
            let theirs = now();
            assert!(!fill());
            assert_eq!(now(), theirs);
        }
        // It passes right after a look at the lock; or somebody who had it longer ago writes only now.
        begin(locked.word(), &slot(3, 1), others);
        let theirs = now();
        assert!(!fill());
        assert_eq!(now(), theirs);
    }

    #[test]
    fn two_who_want_a_port_do_not_both_get_it() {
        let array = Map::new_of("test", slots_shape()).unwrap();
        let free = |present: &Slot| present.control != 0;
        let taken = |first: u16| {
            let ports = map(&array);
            move || {
                (0..NAT_PORTS)
                    .filter(|place| ports.take(*place, &slot(first, 1), client(), NOW, free))
                    .count()
            }
        };
        let (one, other) = (std::thread::spawn(taken(1)), std::thread::spawn(taken(2)));
        let counts = [one.join().unwrap(), other.join().unwrap()];
        assert_eq!(counts.iter().sum::<usize>(), NAT_PORTS as usize, "{counts:?}");
    }
}
