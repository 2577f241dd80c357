//! What clients say of themselves, mangled in seeded ways, and built of what is right and wrong: cookies, passwords, tokens. Nothing may panic,
//! nothing that was changed may count, and nothing may be read in two ways.
//!
//! `TANDEM_FUZZ_ROUNDS` sets the number of inputs, `TANDEM_FUZZ_SEED` where they start; a failure names the input's seed.

use std::time::Duration;

use common::config::{FileAt, JwtAuth, Place, SameSite, StickyCookie};
use common::hash::HashKey;
use common::rng::Rng;
use common::time::UnixTime;
use lbd_core::http::affinity::Seal;
use lbd_core::http::auth::basic::{Users, login};
use lbd_core::http::auth::jwt::{Algorithm, KeyInfo, Unverified, parse_set};
use lbd_core::http::cookie;
use lbd_core::http::framing::Field;
use serde_json::Value;

const ROUNDS_DEFAULT: u64 = 200_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Whether a few inputs are only tried again, among which need not be some of each kind.
fn is_replay() -> bool {
    number("TANDEM_FUZZ_ROUNDS", ROUNDS_DEFAULT) < 10_000
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
    assert!(is_replay() || (counted > 0 && refused > 0 && hidden > 0), "{counted} {refused} {hidden}");
}

/// Tokens for the shop of these issuers, of which one claim is told.
fn wanted(issuers: &[&str], told: &str) -> JwtAuth {
    JwtAuth {
        keys: FileAt { path: "keys".into(), key: "", place: Place::default() },
        realm: String::new(),
        issuers: issuers.iter().map(|&issuer| issuer.to_owned()).collect(),
        audiences: vec!["shop".to_owned()],
        leeway: Duration::ZERO,
        claims: vec![(told.to_owned(), "X-Told".to_owned())],
    }
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
    let wanted = wanted(&[], "aud");
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
    assert!(
        is_replay() || (logins > 0 && tokens > 0 && let_in > 0 && read > 0),
        "{logins} {tokens} {let_in} {read}"
    );
}

/// Some of these, in any order.
fn some<'p>(rng: &mut Rng, pool: &'p [&'p str], most: u64) -> Vec<&'p str> {
    (0..rng.below(most + 1)).map(|_| *rng.pick(pool)).collect()
}

const COOKIES: &[&str] = &["LB", "LB", "lb", "LBX", "L B", "SID", "tandem-shop", ""];
const COOKIE_VALUES: &[&str] = &["1", "2", "", "a=b", "\"q\"", "\"LB=1", " ", "LB", "\u{fc}", "%3B"];
const SEPARATORS: &[&str] = &["; ", "; ", ";", ";;", " ;\t", ";  ", ", "];

/// What is taken out of a field is that cookie, each one of its name, and nothing else.
#[test]
fn a_cookie_that_is_hidden_is_all_that_is_hidden() {
    let hidden = ["LB".to_owned()];
    let (mut changed, mut left_alone) = (0, 0);
    rounds(|seed, rng| {
        let mut text = String::new();
        for _ in 0..rng.below(6) {
            let (name, value) = (rng.pick(COOKIES), rng.pick(COOKIE_VALUES));
            let equals = if rng.chance(900) { "=" } else { "" };
            text += &[*name, equals, *value, *rng.pick(SEPARATORS)].concat();
        }
        let said = [Field { name: b"Cookie", value: text.as_bytes() }];
        let Some(rest) = cookie::without(text.as_bytes(), &hidden) else {
            left_alone += 1;
            assert_eq!(cookie::values(&said, "LB").count(), 0, "seed {seed}: {text}");
            return;
        };
        changed += 1;
        let what = format!("seed {seed}: {text} became {}", rest.escape_ascii());
        assert_eq!(cookie::without(&rest, &hidden), None, "{what}");
        let left = [Field { name: b"Cookie", value: &rest }];
        for name in COOKIES.iter().filter(|name| **name != "LB") {
            assert!(cookie::values(&said, name).eq(cookie::values(&left, name)), "{what}: {name}");
        }
    });
    assert!(is_replay() || (changed > 0 && left_alone > 0), "{changed} {left_alone}");
}

/// RFC 4648, section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let mut three = [0; 4];
        three[1..=part.len()].copy_from_slice(part);
        let bits = u32::from_be_bytes(three);
        // A letter more than there are bytes.
        for letter in 0..=part.len() {
            text.push(char::from(LETTERS[((bits >> (18 - 6 * letter)) & 63) as usize]));
        }
    }
    text
}

const HEADERS: &[&str] = &[
    r#""alg":"HS256""#,
    r#""alg":"HS256""#,
    r#""alg":"HS256""#,
    r#""alg":"RS256""#,
    r#""alg":"none""#,
    r#""alg":"hs256""#,
    r#""alg":null"#,
    r#""alg":["HS256"]"#,
    r#""kid":"a""#,
    r#""kid":"b""#,
    r#""kid":7"#,
    r#""crit":[]"#,
    r#""typ":"JWT""#,
];
const CLAIMS: &[&str] = &[
    r#""exp":9999999999"#,
    r#""exp":9999999999"#,
    r#""exp":9999999999.5"#,
    r#""exp":1800000000"#,
    r#""exp":1800000000.001"#,
    r#""exp":"9999999999""#,
    r#""exp":-1"#,
    r#""exp":null"#,
    r#""nbf":1800000000"#,
    r#""nbf":1800000001"#,
    r#""nbf":"0""#,
    r#""iss":"https://a""#,
    r#""iss":"https://a""#,
    r#""iss":"https://b""#,
    r#""iss":["https://a"]"#,
    r#""aud":"shop""#,
    r#""aud":"shop""#,
    r#""aud":["x","shop",7]"#,
    r#""aud":["shops"]"#,
    r#""aud":{"shop":1}"#,
    r#""sub":"ada""#,
    r#""sub":"a,b""#,
    r#""sub":["a","b"]"#,
    r#""sub":["a,b"]"#,
    r#""sub":["a",""]"#,
    r#""sub":[]"#,
    r#""sub":{}"#,
    r#""sub":" ada""#,
    r#""sub":"ada\r\nX-Admin: 1""#,
    r#""sub":1.5"#,
    r#""sub":true"#,
];

/// Whether a token with these claims is for here and now, by a second look at the RFC: 7519, section 4.1.
fn is_good(claims: &Value, now: f64) -> bool {
    let is = |value: &Value, text: &str| value.as_str() == Some(text);
    let begun = claims.get("nbf").is_none_or(|begin| begin.as_f64().is_some_and(|begin| begin <= now));
    let lasts = claims["exp"].as_f64().is_some_and(|end| now < end);
    let for_us = match &claims["aud"] {
        Value::Array(all) => all.iter().any(|one| is(one, "shop")),
        one => is(one, "shop"),
    };
    begun && lasts && for_us && is(&claims["iss"], "https://a")
}

/// What a target is told of a claim says the same as the claim.
fn tells(told: &str, claim: &Value) -> bool {
    let elements = |all: &[Value]| told.split(',').eq(all.iter().map(|one| one.as_str().unwrap_or_default()));
    match claim {
        Value::String(text) => told == text,
        Value::Array(all) => elements(all),
        Value::Number(number) => told.parse::<f64>().ok() == number.as_f64(),
        Value::Bool(yes) => told.parse::<bool>().ok() == Some(*yes),
        Value::Null | Value::Object(_) => false,
    }
}

/// A token counts for what it says, and can be written in no other way: whoever changes a letter has another one.
#[test]
fn a_token_means_one_thing() {
    let wanted = wanted(&["https://a"], "sub");
    let now = UnixTime::from_nanos(1_800_000_000_000_000_000);
    let key = |id: Option<&str>, algorithm| KeyInfo { id: id.map(str::to_owned), algorithm };
    let keys = [
        key(Some("a"), Algorithm::Hs256),
        key(None, Algorithm::Hs256),
        key(Some("a"), Algorithm::Rs256),
        key(Some("b"), Algorithm::Es256),
    ];
    let (mut read, mut refused, mut let_in, mut told_of) = (0, 0, 0, 0);
    rounds(|seed, rng| {
        let header = format!("{{{}}}", some(rng, HEADERS, 3).join(","));
        let claims = format!("{{{}}}", some(rng, CLAIMS, 7).join(","));
        let whole = [header.as_bytes(), claims.as_bytes(), &[7; 32]].map(base64url).join(".");
        let token = if rng.chance(300) {
            mangle(rng, whole.clone().into_bytes())
        } else {
            whole.clone().into_bytes()
        };
        let what = format!("seed {seed}: {header} {claims} as {}", token.escape_ascii());
        let Ok(unverified) = Unverified::parse(&token) else {
            refused += 1;
            return;
        };
        read += 1;
        let written = [unverified.signed, b".", base64url(&unverified.signature).as_bytes()].concat();
        assert!(written == token, "{what}");
        for place in unverified.candidates(&keys).unwrap_or_default() {
            let its = &keys[place];
            assert_eq!(its.algorithm, unverified.algorithm, "{what}");
            assert!(its.id.is_none() || unverified.key_id.is_none() || its.id == unverified.key_id, "{what}");
        }
        if token != whole.as_bytes() {
            return;
        }
        let header: Value = serde_json::from_str(&header).unwrap();
        assert_eq!(header["alg"], unverified.algorithm.name(), "{what}");
        assert_eq!(header.get("kid").and_then(Value::as_str), unverified.key_id.as_deref(), "{what}");
        assert_eq!(header.get("crit"), None, "{what}");
        let said: Value = serde_json::from_str(&claims).unwrap();
        let claims = unverified.claims().unwrap();
        assert_eq!(claims.check(&wanted, now).is_ok(), is_good(&said, 1_800_000_000.0), "{what}");
        let_in += u32::from(claims.check(&wanted, now).is_ok());
        for (_, text) in claims.told(&wanted.claims).into_iter().flatten() {
            told_of += 1;
            assert!(tells(&text, &said["sub"]), "{what}: {text}");
            assert!(!text.contains(char::is_control) && text.trim() == text && !text.is_empty(), "{what}");
        }
    });
    assert!(
        is_replay() || (read > 0 && refused > 0 && let_in > 0 && told_of > 0),
        "{read} {refused} {let_in} {told_of}"
    );
}
