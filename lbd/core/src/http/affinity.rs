//! The balancer's own cookie: which target a client comes back to, signed so that nobody but the pair can say so.
//!
//! Its value is 30 bytes in base64url (RFC 4648, section 5), without padding:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the layout's version, 1 |
//! | 5 | when it was issued, Unix time in seconds, big-endian |
//! | 8 | the target's mark: a keyed hash of group and id, so that the cookie says nothing about addresses |
//! | 16 | HMAC-SHA-256 over the group and what stands before, cut to 128 bits |

use std::collections::HashMap;
use std::fmt;

use common::config::{SameSite, StickyCookie};
use common::hash::HashKey;
use common::time::{Duration, UnixTime};
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::cookie;
use super::framing::Field;

const VERSION: u8 = 1;
const BODY_BYTES: usize = 14;
const MAC_BYTES: usize = 16;
const VALUE_CHARACTERS: usize = (BODY_BYTES + MAC_BYTES) * 4 / 3;

/// A request may have several cookies of a name, of several paths. No more than so many are looked at, for each costs a signature.
const LOOKED_AT_MAX: usize = 4;

/// After this part of `ttl` a client gets a new cookie, so that one that comes all the time is not forgotten.
const RENEWED_PART: u64 = 8;

/// What makes and reads the cookies of a target group.
pub struct Seal {
    cookie: StickyCookie,
    ttl_seconds: u64,
    /// Has the group's name in it already.
    signer: Hmac<Sha256>,
    /// Of each target, in the group's order.
    marks: Vec<u64>,
    by_mark: HashMap<u64, usize>,
}

/// What a client's cookie says, which is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The target, which need not be there any more; see [`Seal::index`].
    pub mark: u64,
    /// When it was issued, Unix time in seconds.
    pub issued: u64,
    /// Whether it is time for a new one.
    pub is_old: bool,
}

/// What was found in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The newest cookie that counts.
    pub claim: Option<Claim>,
    /// Whether there was one that is none of ours, or of another key.
    pub forged: bool,
    /// Whether there was one that is older than `ttl`.
    pub stale: bool,
}

impl Seal {
    /// For the targets of a group by their ids, in its order.
    pub fn new<'t>(
        key: &HashKey,
        group: &str,
        cookie: &StickyCookie,
        ttl: Duration,
        targets: impl Iterator<Item = &'t str>,
    ) -> Self {
        let keyed = |purpose: &[u8]| {
            // Names have no zeros in them, so that no two pairs of group and target are signed alike.
            let mut mac = <Hmac<Sha256> as KeyInit>::new(&block(key.derive(purpose)).into());
            mac.update(group.as_bytes());
            mac.update(&[0]);
            mac
        };
        let marker = keyed(b"tandem sticky target v1");
        let marks: Vec<u64> = targets.map(|id| mark(marker.clone(), id)).collect();
        let by_mark = marks.iter().enumerate().map(|(index, mark)| (*mark, index)).collect();
        Self {
            cookie: cookie.clone(),
            ttl_seconds: ttl.as_secs(),
            signer: keyed(b"tandem sticky cookie v1"),
            marks,
            by_mark,
        }
    }

    /// The cookie's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.cookie.name
    }

    /// The place of a target, if it is there.
    #[must_use]
    pub fn index(&self, mark: u64) -> Option<usize> {
        self.by_mark.get(&mark).copied()
    }

    /// Looks for the cookie in a request.
    #[must_use]
    pub fn read(&self, fields: &[Field<'_>], now: UnixTime) -> Reading {
        let mut reading = Reading::default();
        for value in cookie::values(fields, &self.cookie.name).take(LOOKED_AT_MAX) {
            let Some((issued, mark)) = self.open(value) else {
                reading.forged = true;
                continue;
            };
            // The other node's clock may be ahead of this one's.
            let age = seconds(now).saturating_sub(issued);
            if age > self.ttl_seconds {
                reading.stale = true;
            } else if reading.claim.is_none_or(|claim| claim.issued < issued) {
                let is_old = age >= (self.ttl_seconds / RENEWED_PART).max(1);
                reading.claim = Some(Claim { mark, issued, is_old });
            }
        }
        reading
    }

    /// What a value says: when it was issued, and for which target.
    fn open(&self, value: &[u8]) -> Option<(u64, u64)> {
        if value.len() != VALUE_CHARACTERS {
            return None;
        }
        let mut bytes = [0; BODY_BYTES + MAC_BYTES];
        let decoded = BASE64URL_NOPAD.decode_mut(value, &mut bytes).ok()?;
        let (body, mac) = bytes.split_first_chunk::<BODY_BYTES>()?;
        let mut signer = self.signer.clone();
        signer.update(body);
        // In constant time.
        signer.verify_truncated_left(mac).ok()?;
        debug_assert_eq!(decoded, bytes.len());
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        (body[0] == VERSION).then(|| (number(&body[1..6]), number(&body[6..])))
    }

    /// The `Set-Cookie` that sends a client to the target of this place. `secure` says that the client came by TLS.
    #[must_use]
    pub fn set_cookie(&self, index: usize, secure: bool, now: UnixTime) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + MAC_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&seconds(now).to_be_bytes()[3..]);
        bytes.extend_from_slice(&self.marks.get(index).copied().unwrap_or_default().to_be_bytes());
        let mut signer = self.signer.clone();
        signer.update(&bytes);
        bytes.extend_from_slice(&signer.finalize().into_bytes()[..MAC_BYTES]);
        let same_site = match self.cookie.same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            // Browsers refuse this one without `Secure`.
            SameSite::None if secure => "; SameSite=None",
            SameSite::None => "",
        };
        let (name, value) = (&self.cookie.name, BASE64URL_NOPAD.encode(&bytes));
        let secure = if secure { "; Secure" } else { "" };
        format!("{name}={value}; Path=/; Max-Age={}; HttpOnly{same_site}{secure}", self.ttl_seconds)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

/// A key as HMAC takes it: filled up to a block of the hash.
fn block(key: [u8; 32]) -> [u8; 64] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(&key);
    block
}

fn mark(mut marker: Hmac<Sha256>, id: &str) -> u64 {
    marker.update(id.as_bytes());
    let mac: [u8; 32] = marker.finalize().into_bytes().into();
    mac[..8].iter().fold(0_u64, |mark, byte| mark << 8 | u64::from(*byte))
}

const fn seconds(now: UnixTime) -> u64 {
    now.as_millis() / 1000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: HashKey = HashKey::new([7; 16]);

    fn seal(group: &str, targets: &[&str]) -> Seal {
        let cookie = StickyCookie { name: "lb".to_owned(), same_site: SameSite::Lax };
        Seal::new(&KEY, group, &cookie, Duration::from_secs(3600), targets.iter().copied())
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_nanos(seconds * 1_000_000_000)
    }

    fn read(seal: &Seal, cookie: &str, now: u64) -> Reading {
        seal.read(&[Field { name: b"Cookie", value: cookie.as_bytes() }], at(now))
    }

    fn pair(set_cookie: &str) -> &str {
        set_cookie.split(';').next().unwrap()
    }

    #[test]
    fn a_cookie_names_its_target_whatever_the_order() {
        let here = seal("shop", &["a", "b"]);
        let there = seal("shop", &["c", "b", "a"]);
        let set = here.set_cookie(1, false, at(1_800_000_000));
        let (value, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
        let reading = read(&there, value, 1_800_000_000);
        assert_eq!((reading.forged, reading.stale), (false, false));
        let claim = reading.claim.unwrap();
        assert_eq!((there.index(claim.mark), claim.issued, claim.is_old), (Some(1), 1_800_000_000, false));
        assert_eq!(seal("shop", &["a"]).index(claim.mark), None, "it is gone");
    }

    #[test]
    fn a_cookie_grows_old() {
        let seal = seal("shop", &["a"]);
        let set = seal.set_cookie(0, false, at(10_000));
        let claim = |now| read(&seal, pair(&set), now).claim;
        assert_eq!(claim(10_449).map(|claim| claim.is_old), Some(false));
        assert_eq!(claim(10_450).map(|claim| claim.is_old), Some(true));
        assert!(claim(13_600).is_some());
        assert_eq!(read(&seal, pair(&set), 13_601), Reading { stale: true, ..Reading::default() });
        assert_eq!(claim(9_000).map(|claim| claim.is_old), Some(false), "of a node whose clock is ahead");
    }

    #[test]
    fn what_others_have_written_is_forged() {
        let here = seal("shop", &["a", "b"]);
        let set = here.set_cookie(0, false, at(10_000));
        let forged = Reading { forged: true, ..Reading::default() };
        assert_eq!(read(&seal("other", &["a", "b"]), pair(&set), 10_000), forged, "of another group");
        let cookie = StickyCookie { name: "lb".to_owned(), same_site: SameSite::Lax };
        let hour = Duration::from_secs(3600);
        let other = Seal::new(&HashKey::new([8; 16]), "shop", &cookie, hour, ["a"].into_iter());
        assert_eq!(read(&other, pair(&set), 10_000), forged, "of another key");
        for bad in ["lb=", "lb=a", "lb=t0", &format!("{}A", pair(&set)), &pair(&set).to_lowercase()] {
            assert_eq!(read(&here, bad, 10_000), forged, "{bad}");
        }
        let both = format!("lb=x; {}", pair(&set));
        let reading = read(&here, &both, 10_000);
        assert!(reading.forged && reading.claim.is_some(), "the true one beside it counts");
        let many = format!("lb=x; lb=x; lb=x; lb=x; {}", pair(&set));
        assert!(read(&here, &many, 10_000).claim.is_none(), "not any number of them");
        assert_eq!(read(&here, "other=1", 10_000), Reading::default());
    }

    #[test]
    fn the_newest_counts() {
        let seal = seal("shop", &["a", "b"]);
        let (old, new) = (seal.set_cookie(0, false, at(10_000)), seal.set_cookie(1, false, at(10_001)));
        for text in [format!("{}; {}", pair(&old), pair(&new)), format!("{}; {}", pair(&new), pair(&old))] {
            assert_eq!(seal.index(read(&seal, &text, 10_001).claim.unwrap().mark), Some(1));
        }
    }

    #[test]
    fn secure_is_said_to_those_who_are() {
        let cookie = StickyCookie { name: "lb".to_owned(), same_site: SameSite::None };
        let seal = Seal::new(&KEY, "shop", &cookie, Duration::from_secs(60), ["a"].into_iter());
        assert!(seal.set_cookie(0, true, at(1)).ends_with("; HttpOnly; SameSite=None; Secure"));
        assert!(seal.set_cookie(0, false, at(1)).ends_with("; HttpOnly"));
    }

    /// By HMAC-SHA-256 as Python's `hmac` computes it: the other node, and another release, read the same.
    #[test]
    fn the_value_is_always_written_alike() {
        let set = seal("shop", &["t1"]).set_cookie(0, false, at(1_800_000_000));
        assert_eq!(pair(&set), GOLDEN);
    }

    const GOLDEN: &str = "lb=AQBrSdIAVk1kKXZowpJPM892Mlk-NG8JS-yjb-gs";

    proptest! {
        /// Whatever is changed in a cookie, it does not count any more; and nothing panics.
        #[test]
        fn no_change_goes_unnoticed(index in 0_usize..40, byte in 0x21_u8..0x7f, random in ".{0,80}") {
            let seal = seal("shop", &["a", "b"]);
            let set = seal.set_cookie(0, false, at(10_000));
            let mut changed = pair(&set).as_bytes().to_vec();
            prop_assume!(changed[3 + index] != byte && byte != b';');
            changed[3 + index] = byte;
            let field = [Field { name: b"cookie", value: &changed }];
            prop_assert_eq!(seal.read(&field, at(10_000)).claim, None);
            let noise = format!("lb={random}");
            prop_assert_eq!(read(&seal, &noise, 10_000).claim, None);
        }
    }
}
