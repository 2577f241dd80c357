//! Which password is compared next: that takes long on purpose, so comparisons wait for each other.
//!
//! Clients take turns, so that one who guesses delays another by one comparison and not by all of his. Equal comparisons are made once, for
//! everybody who waits for one of them: a browser asks for many things at the same time, with one password.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::sources::network_of;

/// Comparisons that wait, of all clients together.
const WAITING_MAX: usize = 64;

/// Comparisons of one client, with those under way.
const PER_CLIENT_MAX: usize = 4;

/// Requests that wait for one comparison.
const JOINED_MAX: usize = 512;

/// What stands for a comparison: see [`super::basic::Outcomes::key_of`].
pub type Key = [u8; 32];

/// The comparisons that wait or are under way: of each what is to be compared (`J`), and who waits for it (`W`).
///
/// Who is dropped instead of being handed out by [`Self::ended`] gets no answer, for want of room.
pub struct Turns<J, W> {
    all: HashMap<Key, Comparison<J, W>>,
    clients: HashMap<IpAddr, Client>,
    /// The clients of whom something waits, each once; the next one first.
    order: VecDeque<IpAddr>,
    /// Comparisons that wait.
    waiting: usize,
    has_left: fn(&W) -> bool,
}

struct Comparison<J, W> {
    /// Who asked for it first.
    client: IpAddr,
    /// What is to be compared; nothing once it is under way.
    job: Option<J>,
    waiters: Vec<W>,
}

#[derive(Default)]
struct Client {
    /// In the order in which they came.
    waiting: VecDeque<Key>,
    under_way: usize,
}

impl Client {
    fn count(&self) -> usize {
        self.waiting.len() + self.under_way
    }
}

/// What became of somebody who wants to know how a comparison ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// It waits for its turn.
    First,
    /// It waited, or was under way, already.
    Joined,
    /// There is no room.
    Full,
}

impl<J, W> Turns<J, W> {
    /// None yet; `has_left` says who does not wait any more.
    #[must_use]
    pub fn new(has_left: fn(&W) -> bool) -> Self {
        Self { all: HashMap::new(), clients: HashMap::new(), order: VecDeque::new(), waiting: 0, has_left }
    }

    /// Somebody at this address wants to know how a comparison ends. Where there is no room, one of the client who has the most waiting makes
    /// some, if that is more than the newcomer would have.
    pub fn enter(&mut self, key: Key, address: IpAddr, job: J, waiter: W) -> Entered {
        if let Some(comparison) = self.all.get_mut(&key) {
            if comparison.waiters.len() >= JOINED_MAX {
                comparison.waiters.retain(|waiter| !(self.has_left)(waiter));
            }
            if comparison.waiters.len() >= JOINED_MAX {
                return Entered::Full;
            }
            comparison.waiters.push(waiter);
            return Entered::Joined;
        }
        let address = network_of(address);
        if self.count(address) >= PER_CLIENT_MAX || self.waiting >= WAITING_MAX {
            self.forget_who_has_left();
        }
        if self.count(address) >= PER_CLIENT_MAX || (self.waiting >= WAITING_MAX && !self.make_room(address))
        {
            return Entered::Full;
        }
        let client = self.clients.entry(address).or_default();
        if client.waiting.is_empty() {
            self.order.push_back(address);
        }
        client.waiting.push_back(key);
        self.waiting += 1;
        self.all.insert(key, Comparison { client: address, job: Some(job), waiters: vec![waiter] });
        Entered::First
    }

    /// The comparison whose turn it is, which is under way from now on. Those that nobody waits for any more are never begun.
    pub fn begin(&mut self) -> Option<(Key, J)> {
        while let Some(address) = self.order.pop_front() {
            let Some(client) = self.clients.get_mut(&address) else { continue };
            while let Some(key) = client.waiting.pop_front() {
                self.waiting -= 1;
                let Some(comparison) = self.all.get_mut(&key) else { continue };
                if comparison.waiters.iter().all(self.has_left) {
                    self.all.remove(&key);
                    continue;
                }
                let Some(job) = comparison.job.take() else { continue };
                client.under_way += 1;
                if !client.waiting.is_empty() {
                    self.order.push_back(address);
                }
                return Some((key, job));
            }
            if client.under_way == 0 {
                self.clients.remove(&address);
            }
        }
        None
    }

    /// A comparison that was under way has ended. Answers who waits for that.
    pub fn ended(&mut self, key: &Key) -> Vec<W> {
        let Some(comparison) = self.all.remove(key) else { return Vec::new() };
        if let Some(client) = self.clients.get_mut(&comparison.client) {
            client.under_way = client.under_way.saturating_sub(1);
            if client.count() == 0 {
                self.clients.remove(&comparison.client);
            }
        }
        comparison.waiters
    }

    fn count(&self, address: IpAddr) -> usize {
        self.clients.get(&address).map_or(0, Client::count)
    }

    fn waiting_of(&self, address: IpAddr) -> usize {
        self.clients.get(&address).map_or(0, |client| client.waiting.len())
    }

    fn forget_who_has_left(&mut self) {
        let has_left = self.has_left;
        let idle = |it: &Comparison<J, W>| it.job.is_some() && it.waiters.iter().all(has_left);
        let left: Vec<Key> = self.all.iter().filter(|(_, it)| idle(it)).map(|(key, _)| *key).collect();
        left.iter().for_each(|key| self.drop_waiting(key));
    }

    /// Has the last comparison of whoever has the most waiting go; not if that is no more than the one at `address` would have.
    fn make_room(&mut self, address: IpAddr) -> bool {
        let most = self.order.iter().copied().max_by_key(|its| self.waiting_of(*its));
        let Some(most) = most.filter(|its| self.waiting_of(*its) > self.waiting_of(address) + 1) else {
            return false;
        };
        let last = self.clients.get(&most).and_then(|client| client.waiting.back().copied());
        last.inspect(|key| self.drop_waiting(key)).is_some()
    }

    /// Takes out a comparison that waits.
    fn drop_waiting(&mut self, key: &Key) {
        let Some(Comparison { client: address, .. }) = self.all.remove(key) else { return };
        let Some(client) = self.clients.get_mut(&address) else { return };
        client.waiting.retain(|its| its != key);
        self.waiting -= 1;
        if client.waiting.is_empty() {
            if client.under_way == 0 {
                self.clients.remove(&address);
            }
            self.order.retain(|its| *its != address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;

    /// Whoever has left says so.
    type Waiter = Rc<Cell<bool>>;

    fn nobody() -> Turns<u8, Waiter> {
        Turns::new(|waiter| waiter.get())
    }

    fn key(number: u8) -> Key {
        [number; 32]
    }

    fn client(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    /// Comparison `number` for a client.
    fn enter(turns: &mut Turns<u8, Waiter>, number: u8, of: u8) -> Entered {
        turns.enter(key(number), client(of), number, Waiter::default())
    }

    fn begun(turns: &mut Turns<u8, Waiter>) -> Option<u8> {
        turns.begin().map(|(_, job)| job)
    }

    #[test]
    fn equal_comparisons_are_made_once_for_all_who_wait() {
        let mut turns = nobody();
        assert_eq!(enter(&mut turns, 1, 1), Entered::First);
        for _ in 0..20 {
            assert_eq!(enter(&mut turns, 1, 1), Entered::Joined, "more than a client may have waiting");
        }
        assert_eq!(enter(&mut turns, 1, 2), Entered::Joined);
        assert_eq!(begun(&mut turns), Some(1));
        assert_eq!(enter(&mut turns, 1, 1), Entered::Joined, "also while it is under way");
        assert_eq!(begun(&mut turns), None);
        assert_eq!(turns.ended(&key(1)).len(), 23);
        assert_eq!(enter(&mut turns, 1, 1), Entered::First, "and then anew");
        for _ in 1..JOINED_MAX {
            assert_eq!(enter(&mut turns, 1, 3), Entered::Joined);
        }
        assert_eq!(enter(&mut turns, 1, 3), Entered::Full);
        assert_eq!(begun(&mut turns), Some(1));
        assert_eq!(turns.ended(&key(1)).len(), JOINED_MAX);
        assert!(turns.all.is_empty() && turns.clients.is_empty() && turns.order.is_empty());
    }

    #[test]
    fn clients_take_turns() {
        let mut turns = nobody();
        for number in 0..4 {
            assert_eq!(enter(&mut turns, number, 1), Entered::First);
        }
        assert_eq!(enter(&mut turns, 4, 1), Entered::Full, "of one client");
        assert_eq!([enter(&mut turns, 10, 2), enter(&mut turns, 11, 2)], [Entered::First; 2]);
        assert_eq!(enter(&mut turns, 20, 3), Entered::First);
        let order: Vec<u8> = std::iter::from_fn(|| begun(&mut turns)).collect();
        assert_eq!(order, [0, 10, 20, 1, 11, 2, 3]);
        assert_eq!(enter(&mut turns, 4, 1), Entered::Full, "those under way count, too");
        assert_eq!(turns.ended(&key(2)).len(), 1);
        assert_eq!(enter(&mut turns, 4, 1), Entered::First);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let mut turns = nobody();
        let enter = |turns: &mut Turns<u8, Waiter>, number: u8, address: &str| {
            turns.enter(key(number), address.parse().unwrap(), number, Waiter::default())
        };
        for number in 0..4 {
            let address = format!("2001:db8::{number}:1");
            assert_eq!(enter(&mut turns, number, &address), Entered::First);
        }
        assert_eq!(enter(&mut turns, 4, "2001:db8::ffff:0:0:9"), Entered::Full);
        assert_eq!(enter(&mut turns, 4, "2001:db8:0:1::9"), Entered::First);
        for number in 5..9 {
            assert_eq!(enter(&mut turns, number, "192.0.2.1"), Entered::First);
        }
        assert_eq!(enter(&mut turns, 9, "::ffff:192.0.2.1"), Entered::Full, "however it is written");
        assert_eq!(enter(&mut turns, 9, "192.0.2.2"), Entered::First);
    }

    #[test]
    fn who_has_little_waiting_gets_a_place_of_who_has_much() {
        let mut turns = nobody();
        for number in 0..64 {
            assert_eq!(enter(&mut turns, number, number / 4), Entered::First);
        }
        let guess = Waiter::default();
        assert_eq!(enter(&mut turns, 100, 100), Entered::First);
        assert_eq!(turns.waiting, WAITING_MAX);
        assert!(!turns.all.contains_key(&key(63)), "the last one of whoever has the most and is the last");
        assert_eq!(enter(&mut turns, 101, 100), Entered::First);
        assert_eq!(enter(&mut turns, 102, 100), Entered::First);
        assert_eq!(enter(&mut turns, 103, 100), Entered::Full, "it would have as many as the others");
        let order: Vec<u8> = std::iter::from_fn(|| begun(&mut turns)).take(17).collect();
        assert_eq!(order[16], 100, "each of the others comes once before");
        // Of one each there is nothing to take.
        let mut turns = nobody();
        for number in 0..64 {
            turns.enter(key(number), client(number), number, Rc::clone(&guess));
        }
        assert_eq!(enter(&mut turns, 64, 64), Entered::Full);
        guess.set(true);
        assert_eq!(enter(&mut turns, 64, 64), Entered::First, "but who has left has no place");
        assert_eq!((begun(&mut turns), begun(&mut turns)), (Some(64), None));
    }

    #[test]
    fn nothing_is_compared_for_who_has_left() {
        let mut turns = nobody();
        let (gone, there) = (Waiter::default(), Waiter::default());
        turns.enter(key(1), client(1), 1, Rc::clone(&gone));
        turns.enter(key(2), client(1), 2, Rc::clone(&gone));
        turns.enter(key(2), client(2), 2, Rc::clone(&there));
        turns.enter(key(3), client(1), 3, Rc::clone(&gone));
        turns.enter(key(4), client(1), 4, Rc::clone(&gone));
        gone.set(true);
        assert_eq!(begun(&mut turns), Some(2), "somebody else waits for it");
        assert_eq!(turns.ended(&key(2)).len(), 2);
        assert_eq!(begun(&mut turns), None);
        assert!(turns.all.is_empty() && turns.clients.is_empty() && turns.waiting == 0);
        for number in 0..4 {
            turns.enter(key(number), client(1), number, Rc::clone(&gone));
        }
        assert_eq!(enter(&mut turns, 5, 1), Entered::First, "nor does he keep a client from its place");
    }

    proptest! {
        /// Whatever comes, the bounds hold, and whoever waits is handed out once or dropped.
        #[test]
        fn bounds_hold(steps in proptest::collection::vec((0_u8..5, any::<u8>(), 0_u8..40), 0..400)) {
            let mut turns = nobody();
            let mut under_way = Vec::new();
            let mut all: Vec<Waiter> = Vec::new();
            for (kind, number, of) in steps {
                match kind {
                    0..3 => {
                        let waiter = Waiter::default();
                        if turns.enter(key(number), client(of), number, Rc::clone(&waiter)) != Entered::Full {
                            all.push(waiter);
                        }
                    }
                    3 => under_way.extend(turns.begin().map(|(key, _)| key)),
                    _ => match under_way.pop() {
                        Some(key) => drop(turns.ended(&key)),
                        None => if let Some(waiter) = all.get(usize::from(number)) { waiter.set(true) },
                    },
                }
                let waiting: usize = turns.clients.values().map(|client| client.waiting.len()).sum();
                prop_assert_eq!(turns.waiting, waiting);
                prop_assert_eq!(turns.all.len(), waiting + under_way.len());
                prop_assert!(waiting <= WAITING_MAX);
                prop_assert!(turns.clients.values().all(|client| (1..=PER_CLIENT_MAX).contains(&client.count())));
                let mut order: Vec<_> = turns.order.iter().collect();
                order.sort_unstable();
                order.dedup();
                prop_assert_eq!(order.len(), turns.order.len());
                prop_assert!(turns.order.iter().all(|address| turns.waiting_of(*address) > 0));
            }
            while let Some((key, _)) = turns.begin() {
                turns.ended(&key);
            }
            under_way.iter().for_each(|key| drop(turns.ended(key)));
            prop_assert!(all.iter().all(|waiter| Rc::strong_count(waiter) == 1));
        }
    }
}
