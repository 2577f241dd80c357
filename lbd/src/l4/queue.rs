//! Where connections wait while every target of their group has as many as it may have.
//!
//! First come, first served, over all workers: only the one that has waited the longest may take a place that becomes
//! free, and who comes while others wait has to wait as well. It is woken when a place is given back; because places also
//! come about in other ways (a target recovers, a limit is raised), it looks again now and then by itself. One that
//! cannot use what is free, because it has tried just those targets, lets the next one look too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The queue of a target group; all workers share it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// As many as `tickets` has waiters, so that nobody needs the lock to see that there is none.
    waiting: AtomicUsize,
    tickets: Mutex<Tickets>,
}

#[derive(Debug, Default)]
struct Tickets {
    next: u64,
    /// Those who look when it is their turn, by ticket.
    waiting: BTreeMap<u64, Arc<Notify>>,
    /// Those who have let the next one look too, until another place is given back. All of them came before any of `waiting`.
    passed: BTreeMap<u64, Arc<Notify>>,
}

impl Tickets {
    fn len(&self) -> usize {
        self.waiting.len() + self.passed.len()
    }

    /// The first that has not let others go ahead.
    fn first(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(&ticket, _)| ticket)
    }

    fn wake_first(&self) {
        if let Some((_, turn)) = self.waiting.first_key_value() {
            turn.notify_one();
        }
    }
}

/// A place in the queue, which is left when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    ticket: u64,
    turn: Arc<Notify>,
}

impl Queue {
    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a place at the end, unless `max` wait already.
    pub(crate) fn join(self: &Arc<Self>, max: usize) -> Option<Place> {
        let turn = Arc::new(Notify::new());
        let ticket = {
            let mut tickets = self.tickets();
            if tickets.len() >= max {
                return None;
            }
            let ticket = tickets.next;
            tickets.next += 1;
            tickets.waiting.insert(ticket, Arc::clone(&turn));
            self.waiting.store(tickets.len(), Ordering::Relaxed);
            ticket
        };
        // Pairs with the fence in `place_free`: either the one who gives a place back sees this waiter, or the waiter, who
        // looks at the targets after this, sees the free place.
        fence(Ordering::SeqCst);
        Some(Place { queue: Arc::clone(self), ticket, turn })
    }

    /// Says that a target may have room now.
    pub(crate) fn place_free(&self) {
        fence(Ordering::SeqCst);
        if self.waiting() > 0 {
            let mut tickets = self.tickets();
            let tickets = &mut *tickets;
            tickets.waiting.append(&mut tickets.passed);
            tickets.wake_first();
        }
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        // Each change is one insertion or removal.
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether it may look for a place: nobody has waited longer, or those who have cannot use what is free.
    pub(crate) fn may_look(&self) -> bool {
        let tickets = self.queue.tickets();
        tickets.first().is_none_or(|first| self.ticket <= first)
    }

    /// Lets the next one look too.
    pub(crate) fn pass(&self) {
        let mut tickets = self.queue.tickets();
        if let Some(turn) = tickets.waiting.remove(&self.ticket) {
            tickets.passed.insert(self.ticket, turn);
        }
        tickets.wake_first();
    }

    /// Waits until it is worth looking whether it is its turn.
    pub(crate) async fn woken(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut tickets = self.queue.tickets();
        let was_first = tickets.first().is_some_and(|first| self.ticket <= first);
        tickets.waiting.remove(&self.ticket);
        tickets.passed.remove(&self.ticket);
        self.queue.waiting.store(tickets.len(), Ordering::Relaxed);
        if was_first {
            // More than one place may have become free meanwhile.
            tickets.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_come_first_served() {
        let queue = Arc::new(Queue::default());
        queue.place_free();
        let places: Vec<Place> = (0..3).filter_map(|_| queue.join(3)).collect();
        assert_eq!((places.len(), queue.waiting()), (3, 3));
        assert!(queue.join(3).is_none(), "the queue is full");
        let [first, second, third] = places.try_into().unwrap();
        assert!(first.may_look() && !second.may_look() && !third.may_look());
        queue.place_free();
        first.woken().await;
        // The second leaves without having had a turn; the third is woken by the first's going.
        drop(second);
        assert!(!third.may_look());
        drop(first);
        third.woken().await;
        assert!(third.may_look());
        assert!(queue.join(3).is_some());
        drop(third);
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test]
    async fn who_cannot_use_what_is_free_holds_up_nobody() {
        let queue = Arc::new(Queue::default());
        let places: Vec<Place> = (0..3).filter_map(|_| queue.join(3)).collect();
        let [first, second, third] = places.try_into().unwrap();
        first.pass();
        second.woken().await;
        assert!(first.may_look() && second.may_look() && !third.may_look());
        // What is given back next may be just what the first one can use.
        queue.place_free();
        first.woken().await;
        assert!(first.may_look() && !second.may_look());
        first.pass();
        drop(second);
        third.woken().await;
        assert!(first.may_look() && third.may_look());
    }

    /// Two threads that give back and take places: whoever waits is always served in the end.
    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: usize = 20_000;
        let queue = Arc::new(Queue::default());
        let free = Arc::new(AtomicUsize::new(0));
        let (queue_too, free_too) = (Arc::clone(&queue), Arc::clone(&free));
        let giver = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                while free_too.load(Ordering::Relaxed) > 0 {
                    std::hint::spin_loop();
                    std::thread::yield_now();
                }
                free_too.fetch_add(1, Ordering::Relaxed);
                queue_too.place_free();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for round in 0..ROUNDS {
                let place = queue.join(1).unwrap();
                let taken = || free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                while taken().is_err() {
                    let woken = tokio::time::timeout(std::time::Duration::from_secs(10), place.woken());
                    assert!(woken.await.is_ok(), "never woken in round {round}");
                }
            }
        });
        giver.join().unwrap();
    }
}
