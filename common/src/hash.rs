//! The keyed hash behind every choice that depends on who the client is.
//!
//! SipHash-2-4 (Aumasson and Bernstein, 2012), because clients choose what is hashed: without the key nobody can make
//! addresses or ports that all fall on one target. What goes in has a fixed layout that any other implementation can
//! repeat, the kernel's side included: addresses are 16 bytes, IPv4 as `::ffff:a.b.c.d`; numbers are big-endian.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};

use hkdf::Hkdf;
use sha2::Sha256;
use siphasher::sip::SipHasher24;

use crate::key::{KeyUse, PairKey};

/// The key of the hash: 16 secret bytes. The nodes of a pair need the same, else a client changes its target when the
/// pair switches over. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey([u8; 16]);

impl HashKey {
    /// Wraps 16 bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The key that a pair's secret gives.
    #[must_use]
    pub fn of_pair(key: &PairKey) -> Self {
        let derived = key.derive(KeyUse::TargetHash);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&derived[..16]);
        Self(bytes)
    }

    /// A secret for another use, which whoever has this key can make, too. By HKDF-SHA-256 (RFC 5869) with the use's name as `info`.
    #[must_use]
    pub fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        // Expanding to 32 bytes cannot fail: the limit is 255 times the hash length.
        if Hkdf::<Sha256>::new(None, &self.0).expand(purpose, &mut out).is_err() {
            debug_assert!(false, "32 bytes are within HKDF's limit");
        }
        out
    }

    /// The key as the two little-endian words that SipHash makes of it, for an implementation elsewhere.
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        let number = u128::from_le_bytes(self.0);
        #[expect(clippy::cast_possible_truncation, reason = "each word is a half")]
        [number as u64, (number >> 64) as u64]
    }

    /// The hash of some bytes.
    #[must_use]
    pub fn bytes(&self, bytes: &[u8]) -> u64 {
        SipHasher24::new_with_key(&self.0).hash(bytes)
    }

    /// The hash of a client's address: 16 bytes. An IPv4 address and its IPv4-mapped IPv6 form are the same client.
    #[must_use]
    pub fn source(&self, address: IpAddr) -> u64 {
        self.bytes(&octets(address))
    }

    /// The hash of a connection: source and destination address, source and destination port, protocol, three zeros; 40
    /// bytes. `protocol` is IP's number (6 TCP, 17 UDP).
    #[must_use]
    pub fn flow(&self, protocol: u8, source: SocketAddr, destination: SocketAddr) -> u64 {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&octets(source.ip()));
        bytes[16..32].copy_from_slice(&octets(destination.ip()));
        bytes[32..34].copy_from_slice(&source.port().to_be_bytes());
        bytes[34..36].copy_from_slice(&destination.port().to_be_bytes());
        bytes[36] = protocol;
        self.bytes(&bytes)
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// An address as IPv6 writes it.
const fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Another number from a hash, as unrelated to it as a second hash would be: SplitMix64's finishing step. It adds no
/// secrecy, so what goes in has to be keyed already.
#[must_use]
pub const fn mix(hash: u64) -> u64 {
    let mut mixed = hash;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A table whose keys nobody outside chooses, such as what a configuration names: they need no secret, and are looked up quickly.
pub type PlainMap<K, V> = HashMap<K, V, BuildHasherDefault<PlainHasher>>;

/// The hasher of a [`PlainMap`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainHasher(u64);

impl PlainHasher {
    const fn add(&mut self, word: u64) {
        // The golden ratio, as good as any other odd number whose bits have no order.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for PlainHasher {
    fn finish(&self) -> u64 {
        mix(self.0)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        if !rest.is_empty() {
            self.add(u64::from_le_bytes(last));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.add(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.add(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.add(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By HMAC-SHA-256 as Python's `hmac` computes it, after RFC 5869.
    #[test]
    fn other_uses_get_secrets_of_their_own() {
        let derived = HashKey::new([7; 16]).derive(b"tandem sticky cookie v1");
        let text: String = derived.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "ca9ee17b03ac4aea2e317079ce0a11e4c2bec598749fbe28fa75786d3c43bd3a");
        assert_ne!(derived, HashKey::new([7; 16]).derive(b"tandem sticky cookie v2"));
    }

    #[test]
    fn plain_keys_that_differ_a_little_have_hashes_that_differ_a_lot() {
        use std::hash::Hash;
        let hash = |key: &dyn Fn(&mut PlainHasher)| {
            let mut hasher = PlainHasher::default();
            key(&mut hasher);
            hasher.finish()
        };
        let mut hashes = Vec::new();
        for number in 0..1000_u16 {
            hashes.push(hash(&|hasher| number.hash(hasher)));
            hashes.push(hash(&|hasher| ([7_u8; 16], number, 6_u8).hash(hasher)));
            hashes.push(hash(&|hasher| format!("target-{number}").hash(hasher)));
        }
        // Tables of 4,096 places, by the lowest bits or the highest.
        for shift in [0, 52] {
            let places: std::collections::HashSet<u64> =
                hashes.iter().map(|hash| hash >> shift & 4095).collect();
            // Of 3000 that fall by chance, 2127 places are hit.
            assert!(places.len() > 2000, "{}", places.len());
        }
    }

    fn counting(length: u8) -> Vec<u8> {
        (0..length).collect()
    }

    /// The key 00 01 … 0f and the inputs 00 01 … of the SipHash paper (its appendix A has the one of 15 bytes) and of
    /// the reference implementation's table.
    #[test]
    fn equals_the_published_vectors() {
        let key = HashKey::new(std::array::from_fn(|index| u8::try_from(index).unwrap()));
        assert_eq!(key.bytes(&counting(15)), 0xa129_ca61_49be_45e5);
        let listed = [
            [0x31, 0x0e, 0x0e, 0xdd, 0x47, 0xdb, 0x6f, 0x72],
            [0xfd, 0x67, 0xdc, 0x93, 0xc5, 0x39, 0xf8, 0x74],
            [0x5a, 0x4f, 0xa9, 0xd9, 0x09, 0x80, 0x6c, 0x0d],
            [0x2d, 0x7e, 0xfb, 0xd7, 0x96, 0x66, 0x67, 0x85],
        ];
        for (length, bytes) in (0..).zip(listed) {
            assert_eq!(key.bytes(&counting(length)), u64::from_le_bytes(bytes));
        }
    }

    /// The paper's appendix: k0 = 0706050403020100, k1 = 0f0e0d0c0b0a0908.
    #[test]
    fn words_are_those_of_the_paper() {
        let key = HashKey::new(std::array::from_fn(|index| u8::try_from(index).unwrap()));
        assert_eq!(key.words(), [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
    }

    #[test]
    fn layouts_are_as_described() {
        let key = HashKey::new([7; 16]);
        let mut source = [0; 16];
        source[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        assert_eq!(key.source("192.0.2.1".parse().unwrap()), key.bytes(&source));
        assert_eq!(key.source("::ffff:192.0.2.1".parse().unwrap()), key.bytes(&source));

        let mut flow = Vec::new();
        flow.extend_from_slice(&source);
        flow.extend_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        flow.extend_from_slice(&[0x12, 0x34, 0, 80, 6, 0, 0, 0]);
        let (from, to) = ("192.0.2.1:4660".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap());
        assert_eq!(key.flow(6, from, to), key.bytes(&flow));
        assert_ne!(key.flow(17, from, to), key.flow(6, from, to));
    }

    #[test]
    fn a_pair_s_key_is_derived_and_hidden() {
        let pair = PairKey::new([9; 32]);
        let key = HashKey::of_pair(&pair);
        assert_eq!(key, HashKey::of_pair(&pair));
        assert_ne!(key.0, pair.bytes()[..16]);
        assert_eq!(format!("{key:?}"), "HashKey(…)");
    }
}
