//! What clients say of themselves, mangled in seeded ways: cookies, passwords, tokens. Nothing may panic, and nothing that was changed may count.
//!
//! `TANDEM_FUZZ_ROUNDS` sets the number of inputs, `TANDEM_FUZZ_SEED` where they start; a failure names the input's seed.

use std::time::Duration;

use common::config::{FileAt, JwtAuth, Place, SameSite, StickyCookie};
use common::hash::HashKey;
use common::rng::Rng;
use common::time::UnixTime;
use lbd_core::http::affinity::Seal;
use lbd_core::http::auth::basic::{Users, login};
use lbd_core::http::auth::jwt::{Unverified, parse_set};
use lbd_core::http::cookie;
use lbd_core::http::framing::Field;

const ROUNDS_DEFAULT: u64 = 200_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn below(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound.max(1) as u64)).unwrap()
}

/// Flips, cuts, doubles, replaces: a few of them, or none.
fn mangle(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.below(4) {
        let at = below(rng, bytes.len());
        match rng.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
            1 if !bytes.is_empty() => bytes[at] = *rng.pick(b";=,. \t\"AZaz09-_+/:\xff"),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, *rng.pick(b";=. \"A_\x80")),
            4 => bytes.extend_from_within(at..),
            _ if !bytes.is_empty() => drop(bytes.remove(at)),
            _ => {}
        }
    }
    bytes
}

/// Runs `round` with the seeds of this run.
fn rounds(mut round: impl FnMut(u64, &mut Rng)) {
    let start = number("TANDEM_FUZZ_SEED", 1);
    for seed in start..start + number("TANDEM_FUZZ_ROUNDS", ROUNDS_DEFAULT) {
        round(seed, &mut Rng::new(seed));
    }
}

#[test]
fn a_mangled_cookie_counts_for_nothing() {
    let cookie = StickyCookie { name: "LB".to_owned(), same_site: SameSite::Lax };
    let hour = Duration::from_secs(3600);
    let seal = Seal::new(&HashKey::new([7; 16]), "shop", &cookie, hour, ["a", "b"].into_iter());
    let now = UnixTime::from_nanos(1_800_000_000_000_000_000);
    let set = seal.set_cookie(1, false, now);
    let pair = set.split(';').next().unwrap();
    let valid = format!("a=1; {pair}; b=\"2\"");
    let (mut counted, mut refused, mut hidden) = (0, 0, 0);
    rounds(|seed, rng| {
        let value = mangle(rng, valid.clone().into_bytes());
        let field = [Field { name: b"Cookie", value: &value }];
        let reading = seal.read(&field, now);
        let whole = cookie::values(&field, "LB").any(|value| value == &pair.as_bytes()[3..]);
        assert!(reading.claim.is_none() || whole, "seed {seed}: {}", value.escape_ascii());
        if let Some(claim) = reading.claim {
            assert_eq!(seal.index(claim.mark), Some(1));
        }
        counted += u32::from(reading.claim.is_some());
        refused += u32::from(reading.forged);
        let rest = cookie::without(&value, &["LB".to_owned()]);
        hidden += u32::from(rest.is_some());
        let left = rest.unwrap_or(value);
        let left = [Field { name: b"Cookie", value: &left }];
        assert_eq!(cookie::values(&left, "LB").count(), 0, "seed {seed}");
        assert!(cookie::set(left[0].value).is_none_or(|(name, _)| !name.is_empty()));
    });
    assert!(counted > 0 && refused > 0 && hidden > 0, "{counted} {refused} {hidden}");
}

#[test]
fn mangled_passwords_and_tokens_are_refused_or_read() {
    let password = b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_vec();
    let token =
        b"Bearer eyJhbGciOiJIUzI1NiIsImtpZCI6ImEifQ.eyJleHAiOjk5OTk5OTk5OTksImF1ZCI6WyJzaG9wIl19.AAAA"
            .to_vec();
    let users = b"# people\nada:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n".to_vec();
    let keys =
        br#"{"keys":[{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","kid":"a"}]}"#.to_vec();
    let wanted = JwtAuth {
        keys: FileAt { path: "keys".into(), key: "", place: Place::default() },
        realm: String::new(),
        issuers: Vec::new(),
        audiences: vec!["shop".to_owned()],
        leeway: Duration::ZERO,
        claims: vec![("aud".to_owned(), "X-Aud".to_owned())],
    };
    let (mut logins, mut tokens, mut let_in, mut read) = (0, 0, 0, 0);
    rounds(|_, rng| {
        let (password, token) = (mangle(rng, password.clone()), mangle(rng, token.clone()));
        logins += u32::from(login(&[Field { name: b"Authorization", value: &password }]).is_ok());
        let field = [Field { name: b"authorization", value: &token }];
        if let Ok(token) = Unverified::of(&field) {
            tokens += 1;
            if let Ok(claims) = token.claims() {
                let_in += u32::from(claims.check(&wanted, UnixTime::from_nanos(0)).is_ok());
                for (_, value) in claims.told(&wanted.claims).into_iter().flatten() {
                    assert!(!value.contains(char::is_control));
                }
            }
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        read += u32::from(Users::parse(&text(mangle(rng, users.clone()))).is_ok());
        read += u32::from(parse_set(&text(mangle(rng, keys.clone()))).is_ok());
    });
    assert!(logins > 0 && tokens > 0 && let_in > 0 && read > 0, "{logins} {tokens} {let_in} {read}");
}
