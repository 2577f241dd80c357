//! Which password is compared next: that takes long on purpose, so comparisons wait for each other.
//!
//! Clients take turns, so that one who guesses delays another by one comparison and not by all of his; and so do the networks that they are
//! in, for whoever guesses may have many addresses. He may have more of them than there are places: so those who have had a password lately
//! have places of their own, and every other turn. Equal comparisons are made once, for everybody who waits for one of them: a browser asks
//! for many things at the same time, with one password.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use common::time::{Duration, Instant};

use crate::recent::Recent;
use crate::sources::{neighbourhood_of, network_of};

/// Comparisons that wait of clients who have had a password lately, of all of them together; and as many of all others.
const WAITING_MAX: usize = 64;

/// Comparisons of one client, with those under way.
const PER_CLIENT_MAX: usize = 4;

/// Requests that wait for one comparison.
const JOINED_MAX: usize = 512;

/// For so long a client is one who has had a password lately: over a night, and a weekend.
const KNOWN_FOR: Duration = Duration::from_secs(72 * 3600);

/// So many clients are known; the one who has asked for nothing for the longest makes room.
const KNOWN_MAX: usize = 16_384;

/// What stands for a comparison: see [`super::basic::Outcomes::key_of`].
pub type Key = [u8; 32];

/// The comparisons that wait or are under way: of each what is to be compared (`J`), and who waits for it (`W`).
///
/// Who is dropped instead of being handed out by [`Self::ended`] gets no answer, for want of room.
pub struct Turns<J, W> {
    all: HashMap<Key, Comparison<J, W>>,
    /// Those of strangers, and those of clients who are known.
    lanes: [Lane; 2],
    /// Which of the two has the next turn.
    next: usize,
    /// Until when each client is known.
    known: Recent<IpAddr, Instant>,
    has_left: fn(&W) -> bool,
}

struct Comparison<J, W> {
    /// Where it waits, or has waited.
    lane: usize,
    /// Who asked for it first.
    client: IpAddr,
    /// What is to be compared; nothing once it is under way.
    job: Option<J>,
    waiters: Vec<W>,
}

/// The places of one kind of clients.
#[derive(Default)]
struct Lane {
    clients: HashMap<IpAddr, Client>,
    /// The networks with clients of whom something waits, and these clients, each once; the next one first.
    order: VecDeque<(IpAddr, VecDeque<IpAddr>)>,
    /// Comparisons that wait.
    waiting: usize,
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
        Self {
            all: HashMap::new(),
            lanes: Default::default(),
            next: 0,
            known: Recent::new(KNOWN_MAX),
            has_left,
        }
    }

    /// Somebody at this address wants to know how a comparison ends. Where there is no room, one of the network that has the most waiting
    /// makes some, if that is more than the newcomer's would have, or one of the newcomer's own network by the same rule for its clients.
    pub fn enter(&mut self, key: Key, address: IpAddr, job: J, waiter: W, now: Instant) -> Entered {
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
        let client = network_of(address);
        let lane = usize::from(self.known.use_value(&client).is_some_and(|until| now < *until));
        if self.count(client) >= PER_CLIENT_MAX || self.lanes[lane].waiting >= WAITING_MAX {
            self.forget_who_has_left();
        }
        if self.count(client) >= PER_CLIENT_MAX
            || (self.lanes[lane].waiting >= WAITING_MAX && !self.make_room(lane, client))
        {
            return Entered::Full;
        }
        self.lanes[lane].enter(client, key);
        self.all.insert(key, Comparison { lane, client, job: Some(job), waiters: vec![waiter] });
        Entered::First
    }

    /// The client at this address has had a password.
    pub fn succeeded(&mut self, address: IpAddr, now: Instant) {
        let (client, until) = (network_of(address), now + KNOWN_FOR);
        match self.known.use_value(&client) {
            Some(known) => *known = until,
            None => {
                self.known.insert(client, until);
            }
        }
    }

    /// The comparison whose turn it is, which is under way from now on. Those that nobody waits for any more are never begun.
    pub fn begin(&mut self) -> Option<(Key, J)> {
        self.forget_who_has_left();
        for lane in [self.next, 1 - self.next] {
            if let Some(key) = self.lanes[lane].begin()
                && let Some(job) = self.all.get_mut(&key).and_then(|comparison| comparison.job.take())
            {
                self.next = 1 - lane;
                return Some((key, job));
            }
        }
        None
    }

    /// A comparison that was under way has ended. Answers who waits for that.
    pub fn ended(&mut self, key: &Key) -> Vec<W> {
        let Some(comparison) = self.all.remove(key) else { return Vec::new() };
        self.lanes[comparison.lane].ended(comparison.client);
        comparison.waiters
    }

    /// Comparisons of a client, as a stranger and as one who is known.
    fn count(&self, client: IpAddr) -> usize {
        let of_lane = |lane: &Lane| lane.clients.get(&client).map_or(0, Client::count);
        self.lanes.iter().map(of_lane).sum()
    }

    fn forget_who_has_left(&mut self) {
        let has_left = self.has_left;
        let idle = |it: &Comparison<J, W>| it.job.is_some() && it.waiters.iter().all(has_left);
        let left: Vec<Key> = self.all.iter().filter(|(_, it)| idle(it)).map(|(key, _)| *key).collect();
        left.iter().for_each(|key| self.drop_waiting(key));
    }

    /// Has one that waits go for a newcomer, if there is one to go.
    fn make_room(&mut self, lane: usize, newcomer: IpAddr) -> bool {
        self.lanes[lane].to_go(newcomer).inspect(|key| self.drop_waiting(key)).is_some()
    }

    /// Takes out a comparison that waits.
    fn drop_waiting(&mut self, key: &Key) {
        if let Some(comparison) = self.all.remove(key) {
            self.lanes[comparison.lane].leave(comparison.client, key);
        }
    }
}

impl Lane {
    /// A client has one more waiting.
    fn enter(&mut self, address: IpAddr, key: Key) {
        let client = self.clients.entry(address).or_default();
        if client.waiting.is_empty() {
            let network = neighbourhood_of(address);
            match self.order.iter_mut().find(|(its, _)| *its == network) {
                Some((_, clients)) => clients.push_back(address),
                None => self.order.push_back((network, VecDeque::from([address]))),
            }
        }
        client.waiting.push_back(key);
        self.waiting += 1;
    }

    /// The comparison whose turn it is, which waits no longer.
    fn begin(&mut self) -> Option<Key> {
        let (network, mut clients) = self.order.pop_front()?;
        let address = clients.pop_front()?;
        let client = self.clients.get_mut(&address)?;
        let key = client.waiting.pop_front()?;
        self.waiting -= 1;
        client.under_way += 1;
        if !client.waiting.is_empty() {
            clients.push_back(address);
        }
        if !clients.is_empty() {
            self.order.push_back((network, clients));
        }
        Some(key)
    }

    /// One of a client's that was under way has ended.
    fn ended(&mut self, address: IpAddr) {
        if let Some(client) = self.clients.get_mut(&address) {
            client.under_way = client.under_way.saturating_sub(1);
            if client.count() == 0 {
                self.clients.remove(&address);
            }
        }
    }

    /// One of a client's waits no longer.
    fn leave(&mut self, address: IpAddr, key: &Key) {
        let Some(client) = self.clients.get_mut(&address) else { return };
        client.waiting.retain(|its| its != key);
        self.waiting -= 1;
        if client.waiting.is_empty() {
            if client.under_way == 0 {
                self.clients.remove(&address);
            }
            self.order.iter_mut().for_each(|(_, clients)| clients.retain(|its| *its != address));
            self.order.retain(|(_, clients)| !clients.is_empty());
        }
    }

    fn waiting_of(&self, address: IpAddr) -> usize {
        self.clients.get(&address).map_or(0, |client| client.waiting.len())
    }

    /// The last comparison of whoever has the most waiting in the network that has the most; if that is no more than the newcomer's would
    /// have, in his own network, and of nobody who has no more than he would.
    fn to_go(&self, newcomer: IpAddr) -> Option<Key> {
        let of_all =
            |clients: &VecDeque<IpAddr>| clients.iter().map(|its| self.waiting_of(*its)).sum::<usize>();
        let network = neighbourhood_of(newcomer);
        let own = self.order.iter().find(|(its, _)| *its == network);
        let (_, crowd) = self.order.iter().max_by_key(|(_, clients)| of_all(clients))?;
        let crowds_out = of_all(crowd) > own.map_or(0, |(_, clients)| of_all(clients)) + 1;
        let clients = if crowds_out { crowd } else { &own?.1 };
        let most = clients.iter().copied().max_by_key(|its| self.waiting_of(*its))?;
        if !crowds_out && self.waiting_of(most) <= self.waiting_of(newcomer) + 1 {
            return None;
        }
        self.clients.get(&most)?.waiting.back().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;
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

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    /// Comparison `number` for a client.
    fn enter(turns: &mut Turns<u8, Waiter>, number: u8, of: u8) -> Entered {
        enter_at(turns, number, client(of))
    }

    fn enter_at(turns: &mut Turns<u8, Waiter>, number: u8, address: IpAddr) -> Entered {
        turns.enter(key(number), address, number, Waiter::default(), NOW)
    }

    fn is_empty(turns: &Turns<u8, Waiter>) -> bool {
        let empty = |lane: &Lane| lane.clients.is_empty() && lane.order.is_empty() && lane.waiting == 0;
        turns.all.is_empty() && turns.lanes.iter().all(empty)
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
        assert!(is_empty(&turns));
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
            enter_at(turns, number, address.parse().unwrap())
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
        assert_eq!(turns.lanes[0].waiting, WAITING_MAX);
        assert!(!turns.all.contains_key(&key(63)), "the last one of whoever has the most and is the last");
        assert_eq!(enter(&mut turns, 101, 100), Entered::First);
        assert_eq!(enter(&mut turns, 102, 100), Entered::First);
        assert_eq!(enter(&mut turns, 103, 100), Entered::Full, "it would have as many as the others");
        let order: Vec<u8> = std::iter::from_fn(|| begun(&mut turns)).take(17).collect();
        assert_eq!(order[16], 100, "each of the others comes once before");
        // Of one each there is nothing to take.
        let mut turns = nobody();
        for number in 0..64 {
            turns.enter(key(number), client(number), number, Rc::clone(&guess), NOW);
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
        turns.enter(key(1), client(1), 1, Rc::clone(&gone), NOW);
        turns.enter(key(2), client(1), 2, Rc::clone(&gone), NOW);
        turns.enter(key(2), client(2), 2, Rc::clone(&there), NOW);
        turns.enter(key(3), client(1), 3, Rc::clone(&gone), NOW);
        turns.enter(key(4), client(1), 4, Rc::clone(&gone), NOW);
        gone.set(true);
        assert_eq!(begun(&mut turns), Some(2), "somebody else waits for it");
        assert_eq!(turns.ended(&key(2)).len(), 2);
        assert_eq!(begun(&mut turns), None);
        assert!(is_empty(&turns));
        for number in 0..4 {
            turns.enter(key(number), client(1), number, Rc::clone(&gone), NOW);
        }
        assert_eq!(enter(&mut turns, 5, 1), Entered::First, "nor does he keep a client from its place");
    }

    /// A guess each from more addresses than there are places.
    #[test]
    fn whoever_had_a_password_lately_has_a_place_and_every_other_turn() {
        let mut turns = nobody();
        turns.succeeded("192.0.2.1".parse().unwrap(), NOW);
        for number in 0..64 {
            // Each in a network of its own.
            assert_eq!(enter_at(&mut turns, number, IpAddr::from([10, 0, number, 1])), Entered::First);
        }
        assert_eq!(enter_at(&mut turns, 64, "10.0.64.1".parse().unwrap()), Entered::Full);
        let known: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!([64, 65].map(|number| enter_at(&mut turns, number, known)), [Entered::First; 2]);
        let order: Vec<u8> = std::iter::from_fn(|| begun(&mut turns)).take(5).collect();
        assert_eq!(order, [0, 64, 1, 65, 2]);
        assert_eq!(enter_at(&mut turns, 66, known), Entered::First);
        assert_eq!(begun(&mut turns), Some(66));
        assert_eq!(enter_at(&mut turns, 67, known), Entered::First);
        assert_eq!(enter_at(&mut turns, 68, known), Entered::Full, "no more than anybody else at a time");
        // It is forgotten by and by.
        let mut turns = nobody();
        turns.succeeded(known, NOW);
        let later = |seconds: u64| NOW + KNOWN_FOR + Duration::from_secs(seconds);
        for number in 0..64 {
            assert_eq!(enter(&mut turns, number, number), Entered::First);
        }
        let mut at =
            |number: u8, now: Instant| turns.enter(key(number), known, number, Waiter::default(), now);
        assert_eq!(at(64, later(0)), Entered::First, "a place of the network that has them all");
        assert_eq!(turns.lanes.each_ref().map(|lane| lane.waiting), [64, 0]);
    }

    #[test]
    fn a_network_with_many_addresses_makes_room_and_takes_turns() {
        let mut turns = nobody();
        for number in 0..64 {
            assert_eq!(enter(&mut turns, number, number), Entered::First);
        }
        assert_eq!(enter(&mut turns, 64, 64), Entered::Full, "one more of that network");
        let beside = |number: u8| IpAddr::from([192, 0, 2, number]);
        assert_eq!([70, 71].map(|number| enter_at(&mut turns, number, beside(number))), [Entered::First; 2]);
        assert_eq!(turns.lanes[0].waiting, WAITING_MAX);
        assert!(!turns.all.contains_key(&key(62)) && !turns.all.contains_key(&key(63)), "the last ones");
        let order: Vec<u8> = std::iter::from_fn(|| begun(&mut turns)).take(6).collect();
        assert_eq!(order, [0, 70, 1, 71, 2, 3]);
        // The same with networks of IPv6.
        let mut turns = nobody();
        let of = |site: u16, network: u16| IpAddr::from([0x2001, 0xdb8, site, network, 0, 0, 0, 1]);
        for number in 0..64 {
            assert_eq!(enter_at(&mut turns, number, of(1, u16::from(number))), Entered::First);
        }
        assert_eq!(enter_at(&mut turns, 64, of(1, 64)), Entered::Full);
        assert_eq!(enter_at(&mut turns, 64, of(2, 1)), Entered::First);
    }

    #[test]
    fn not_any_number_of_clients_is_known() {
        let mut turns = nobody();
        for number in 0..=u32::try_from(KNOWN_MAX).unwrap() {
            turns.succeeded(IpAddr::from(number.to_be_bytes()), NOW);
        }
        assert_eq!(turns.known.len(), KNOWN_MAX);
    }

    proptest! {
        /// Whatever comes, the bounds hold, and whoever waits is handed out once or dropped.
        #[test]
        fn bounds_hold(steps in proptest::collection::vec((0_u8..6, any::<u8>(), 0_u8..40), 0..400)) {
            let mut turns = nobody();
            let mut under_way = Vec::new();
            let mut all: Vec<Waiter> = Vec::new();
            for (kind, number, of) in steps {
                let address = IpAddr::from([10, 0, of % 3, of]);
                match kind {
                    0..3 => {
                        let waiter = Waiter::default();
                        let entered = turns.enter(key(number), address, number, Rc::clone(&waiter), NOW);
                        if entered != Entered::Full {
                            all.push(waiter);
                        }
                    }
                    3 => under_way.extend(turns.begin().map(|(key, _)| key)),
                    4 => turns.succeeded(address, NOW),
                    _ => match under_way.pop() {
                        Some(key) => drop(turns.ended(&key)),
                        None => if let Some(waiter) = all.get(usize::from(number)) { waiter.set(true) },
                    },
                }
                let mut waiting = 0;
                for lane in &turns.lanes {
                    let of_lane: usize = lane.clients.values().map(|client| client.waiting.len()).sum();
                    prop_assert_eq!(lane.waiting, of_lane);
                    prop_assert!(of_lane <= WAITING_MAX);
                    waiting += of_lane;
                    prop_assert!(lane.clients.values().all(|client| client.count() > 0));
                    let networks: BTreeSet<_> = lane.order.iter().map(|(network, _)| *network).collect();
                    prop_assert_eq!(networks.len(), lane.order.len());
                    let mut ordered = Vec::new();
                    for (network, clients) in &lane.order {
                        prop_assert!(!clients.is_empty());
                        prop_assert!(clients.iter().all(|client| neighbourhood_of(*client) == *network));
                        prop_assert!(clients.iter().all(|client| lane.waiting_of(*client) > 0));
                        ordered.extend(clients.iter().copied());
                    }
                    let unique: BTreeSet<_> = ordered.iter().copied().collect();
                    let waits = lane.clients.values().filter(|client| !client.waiting.is_empty()).count();
                    prop_assert_eq!((unique.len(), waits), (ordered.len(), ordered.len()));
                }
                prop_assert_eq!(turns.all.len(), waiting + under_way.len());
                for of in 0..40_u8 {
                    prop_assert!(turns.count(IpAddr::from([10, 0, of % 3, of])) <= PER_CLIENT_MAX);
                }
            }
            while let Some((key, _)) = turns.begin() {
                turns.ended(&key);
            }
            under_way.iter().for_each(|key| drop(turns.ended(key)));
            prop_assert!(all.iter().all(|waiter| Rc::strong_count(waiter) == 1));
            prop_assert!(is_empty(&turns));
        }
    }
}
