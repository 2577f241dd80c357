//! Session tickets (RFC 5077, RFC 8446) that need nothing remembered: their keys follow from a secret and the time.
//!
//! A ticket is its epoch, a nonce, and what is in it, encrypted and authenticated with AES-256-GCM. Of a pair both nodes have the secret, so
//! a client that comes to the other node goes on with its session there.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use common::key::PairKey;
use common::time::UnixTime;
use lbd_core::tls::{EPOCH, TICKET_BYTES_MAX, accepted, epoch};
use rustls::server::ProducesTickets;

use crate::clock::unix_now;

/// The epoch's bytes before the nonce.
const EPOCH_BYTES: usize = 8;

/// The tickets of a service.
pub(super) struct Tickets {
    secret: PairKey,
    service: String,
    /// What the service wants of clients.
    policy: [u8; 32],
    keys: ArcSwap<Keys>,
}

/// The keys of three epochs, the middle one of which is the present.
struct Keys {
    present: u64,
    of: [LessSafeKey; 3],
}

impl Tickets {
    /// Of a service with this policy.
    pub(super) fn new(secret: PairKey, service: String, policy: [u8; 32]) -> Result<Self, Unspecified> {
        let keys = ArcSwap::from_pointee(Keys::derive(&secret, &service, &policy, epoch(unix_now()))?);
        Ok(Self { secret, service, policy, keys })
    }

    fn keys(&self, now: UnixTime) -> Option<Arc<Keys>> {
        let keys = self.keys.load_full();
        let present = epoch(now);
        if keys.present == present {
            return Some(keys);
        }
        let keys = Arc::new(Keys::derive(&self.secret, &self.service, &self.policy, present).ok()?);
        self.keys.store(Arc::clone(&keys));
        Some(keys)
    }

    fn seal(&self, plain: &[u8], now: UnixTime) -> Option<Vec<u8>> {
        let keys = self.keys(now)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let head = keys.present.to_be_bytes();
        let mut sealed = plain.to_vec();
        let key = keys.of(keys.present)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(head), &mut sealed)
            .ok()?;
        let ticket = [&head[..], &nonce, &sealed].concat();
        (ticket.len() <= TICKET_BYTES_MAX).then_some(ticket)
    }

    fn open(&self, ticket: &[u8], now: UnixTime) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (head, rest) = ticket.split_first_chunk::<EPOCH_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let of = u64::from_be_bytes(*head);
        if !accepted(of, now) {
            return None;
        }
        let keys = self.keys(now)?;
        let mut plain = sealed.to_vec();
        let key = keys.of(of)?;
        let length =
            key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*head), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl Keys {
    fn derive(secret: &PairKey, service: &str, policy: &[u8; 32], present: u64) -> Result<Self, Unspecified> {
        let key = |epoch: u64| {
            let bytes = secret.derive_for_tickets(service, policy, epoch);
            Ok::<LessSafeKey, Unspecified>(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes)?))
        };
        let of = [key(present.wrapping_sub(1))?, key(present)?, key(present.wrapping_add(1))?];
        Ok(Self { present, of })
    }

    fn of(&self, epoch: u64) -> Option<&LessSafeKey> {
        let index = (epoch.wrapping_add(1)).wrapping_sub(self.present);
        usize::try_from(index).ok().and_then(|index| self.of.get(index))
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(EPOCH.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, unix_now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, unix_now())
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("service", &self.service).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(secret: u8, service: &str, policy: u8) -> Tickets {
        Tickets::new(PairKey::new([secret; 32]), service.to_owned(), [policy; 32]).unwrap()
    }

    fn at(epochs: u64) -> UnixTime {
        UnixTime::from_nanos(epochs * EPOCH.as_secs() * 1_000_000_000 + 7)
    }

    #[test]
    fn the_other_node_opens_a_ticket_for_an_epoch() {
        let (one, other) = (tickets(1, "web", 2), tickets(1, "web", 2));
        let ticket = one.seal(b"session", at(100)).unwrap();
        for (epochs, opens) in [(99, true), (100, true), (101, true), (102, false), (98, false)] {
            let plain = other.open(&ticket, at(epochs));
            assert_eq!(plain.as_deref(), opens.then_some(&b"session"[..]), "{epochs}");
        }
        assert_ne!(one.seal(b"session", at(100)).unwrap(), ticket, "no two are alike");
    }

    #[test]
    fn nobody_else_does() {
        let ticket = tickets(1, "web", 2).seal(b"session", at(100)).unwrap();
        for stranger in [tickets(2, "web", 2), tickets(1, "shop", 2), tickets(1, "web", 3)] {
            assert_eq!(stranger.open(&ticket, at(100)), None);
        }
        let own = tickets(1, "web", 2);
        for at_byte in 0..ticket.len() {
            let mut damaged = ticket.clone();
            damaged[at_byte] ^= 1;
            assert_eq!(own.open(&damaged, at(100)), None, "byte {at_byte}");
            assert_eq!(own.open(&ticket[..at_byte], at(100)), None, "cut at {at_byte}");
        }
        assert_eq!(own.open(&vec![0; TICKET_BYTES_MAX + 1], at(0)), None);
        assert_eq!(own.seal(&vec![0; TICKET_BYTES_MAX], at(0)), None);
    }
}
