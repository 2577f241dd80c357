//! A queue of messages that is bounded in bytes, between the link's thread and whoever drives the session.
//!
//! Messages are large (batches), so that a lock for each costs nothing to speak of, and either end may be on any thread and any
//! executor. There is one producer and one consumer.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::frame;

/// What a message counts beside its bytes, so that many small ones are bounded too.
const OVERHEAD_BYTES: usize = 64;

/// Why a message was not taken; it is handed back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no room.
    Full(Vec<u8>),
    /// The queue is closed.
    Closed(Vec<u8>),
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Level {
    /// Messages waiting.
    pub(super) messages: usize,
    /// What they count, in bytes.
    pub(super) bytes: usize,
    /// When the first of them was queued.
    pub(super) oldest: Option<Instant>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    bytes_max: usize,
    filled: Notify,
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// An empty one that holds `bytes_max`, and any one message.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), bytes_max, filled: Notify::new(), drained: Notify::new() }
    }

    /// Appends a message.
    pub(super) fn push(&self, message: Vec<u8>) -> Result<(), Refused> {
        let mut state = self.state();
        if state.closed {
            return Err(Refused::Closed(message));
        }
        let bytes = state.bytes + message.len() + OVERHEAD_BYTES;
        if bytes > self.bytes_max && !state.messages.is_empty() {
            return Err(Refused::Full(message));
        }
        state.bytes = bytes;
        state.messages.push_back((Instant::now(), message));
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// The first message, once there is one; none when the queue is closed and empty. May be cancelled.
    pub(super) async fn next(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.state();
                let message = self.pop(&mut state);
                if message.is_some() || state.closed {
                    return message;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Moves messages into `out` as frames until that has `enough` bytes, once there is one; answers how many, none if the queue is
    /// closed. May be cancelled.
    pub(super) async fn fill(&self, out: &mut Vec<u8>, enough: usize) -> Option<usize> {
        loop {
            {
                let (mut state, mut count) = (self.state(), 0);
                while out.len() < enough
                    && let Some(message) = self.pop(&mut state)
                {
                    frame::append(out, &message);
                    count += 1;
                }
                if count > 0 {
                    return Some(count);
                }
                if state.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Waits until the queue is at most half full, or closed. May be cancelled.
    pub(super) async fn room(&self) {
        loop {
            {
                let state = self.state();
                if state.closed || state.bytes <= self.bytes_max / 2 {
                    return;
                }
            }
            self.drained.notified().await;
        }
    }

    /// Takes nothing more. What is queued can still be taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
        self.drained.notify_one();
    }

    /// Drops what is queued.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        state.messages = VecDeque::new();
        state.bytes = 0;
    }

    /// How full it is.
    pub(super) fn level(&self) -> Level {
        let state = self.state();
        Level {
            messages: state.messages.len(),
            bytes: state.bytes,
            oldest: state.messages.front().map(|&(since, _)| since),
        }
    }

    fn pop(&self, state: &mut State) -> Option<Vec<u8>> {
        let (_, message) = state.messages.pop_front()?;
        let before = state.bytes;
        state.bytes = before.saturating_sub(message.len() + OVERHEAD_BYTES);
        // Told once, when it becomes half empty, not for each message.
        if before > self.bytes_max / 2 && state.bytes <= self.bytes_max / 2 {
            self.drained.notify_one();
        }
        Some(message)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_in_bytes_and_takes_any_one_message() {
        let queue = Queue::new(1000);
        assert_eq!(queue.push(vec![1; 5000]), Ok(()));
        assert_eq!(queue.push(vec![2]), Err(Refused::Full(vec![2])));
        let taken = queue.pop(&mut queue.state());
        assert_eq!(taken.map(|message| message.len()), Some(5000));
        let taken = (0..100).take_while(|_| queue.push(vec![0]).is_ok()).count();
        assert_eq!(taken, 1000 / (1 + OVERHEAD_BYTES));
        assert_eq!(queue.level().messages, taken);
        queue.clear();
        assert_eq!(queue.level(), Level::default());
    }

    #[test]
    fn whoever_waits_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let queue = Queue::new(1000);
            queue.push(vec![1; 900]).unwrap();
            let room = async {
                queue.room().await;
                queue.push(vec![2; 900]).unwrap();
            };
            let take = async {
                assert_eq!(queue.next().await, Some(vec![1; 900]));
                assert_eq!(queue.next().await, Some(vec![2; 900]));
                let mut out = Vec::new();
                assert_eq!(tokio::join!(queue.fill(&mut out, 100), async { queue.close() }).0, None);
                assert_eq!(queue.next().await, None);
            };
            tokio::join!(room, take);
            assert_eq!(queue.push(vec![3]), Err(Refused::Closed(vec![3])));
        });
    }

    #[test]
    fn small_messages_go_out_together() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let queue = Queue::new(10_000);
            (0..9).for_each(|byte| queue.push(vec![byte]).unwrap());
            let mut out = Vec::new();
            assert_eq!(queue.fill(&mut out, 12).await, Some(3));
            assert_eq!(out, [1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 2]);
            out.clear();
            assert_eq!(queue.fill(&mut out, 1000).await, Some(6));
        });
    }
}
