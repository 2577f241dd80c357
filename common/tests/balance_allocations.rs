//! A pick allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::balance::{Candidate, Member, Plan, Request};
use common::config::Algorithm;
use common::hash::HashKey;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call is handed on to the system's allocator as it came; counting allocates nothing, since the counter is
// initialised at compile time and needs no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `GlobalAlloc`'s contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; `pointer` came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn picks_do_not_allocate() {
    let ids: Vec<String> = (0..100).map(|index| format!("target-{index}")).collect();
    let members: Vec<Member<'_>> = ids.iter().map(|id| Member { id, weight: 1 }).collect();
    // Half of them out of service, so that hashes have to look further.
    let candidates: Vec<Candidate> =
        (0..100).map(|index| Candidate { share: 256 * (index % 2), load: index / 3 }).collect();
    for algorithm in Algorithm::ALL {
        let mut balancer = Plan::new(algorithm, &members, &HashKey::new([1; 16])).balancer(3);
        // The first pick may set the state up.
        assert!(balancer.pick(&Request::default(), &candidates).is_some());
        let before = ALLOCATIONS.with(Cell::get);
        for hash in 0..2000_u64 {
            let request = Request { source: hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), flow: hash << 40 };
            assert!(balancer.pick(&request, &candidates).is_some());
        }
        assert_eq!(ALLOCATIONS.with(Cell::get), before, "{algorithm:?}");
    }
    assert!(ALLOCATIONS.with(Cell::get) > 0, "the counter counts");
}
