//! Names and passwords (RFC 7617), and the file of those who are let in.
//!
//! The file is what `htpasswd -B` of Apache writes: a line `NAME:HASH` for each, with hashes of bcrypt.

use std::collections::HashMap;
use std::fmt;

use common::time::{Duration, Instant};
use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{Denied, credentials};
use crate::http::framing::Field;
use crate::recent::Recent;

/// Name and password together, in base64: more nobody types.
const CREDENTIALS_BYTES_MAX: usize = 1024;

/// A hash of this cost takes about a second: more would only help whoever wants to keep the processor busy.
const COST_MAX: u8 = 14;
const COST_MIN: u8 = 4;

/// The length of such a hash: `$2y$`, two digits, `$`, and 53 characters of salt and hash.
const HASH_CHARACTERS: usize = 60;

/// What a client says who it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads what a request says.
///
/// # Errors
///
/// That it says nothing, or what cannot be understood.
pub fn login(fields: &[Field<'_>]) -> Result<Login, Denied> {
    let text = credentials(fields, "basic")?;
    if text.len() > CREDENTIALS_BYTES_MAX {
        return Err(Denied::Malformed);
    }
    let bytes = BASE64.decode(text).map_err(|_| Denied::Malformed)?;
    let text = String::from_utf8(bytes).map_err(|_| Denied::Malformed)?;
    // RFC 7617, section 2: "The user-id and password MUST NOT contain any control characters", and a colon ends the name.
    if text.chars().any(char::is_control) {
        return Err(Denied::Malformed);
    }
    let (name, password) = text.split_once(':').ok_or(Denied::Malformed)?;
    Ok(Login { name: name.to_owned(), password: password.to_owned() })
}

/// Those who are let in.
#[derive(Clone, PartialEq, Eq)]
pub struct Users {
    hashes: HashMap<String, String>,
    /// One of the hashes that take the longest.
    any: String,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("count", &self.hashes.len()).finish_non_exhaustive()
    }
}

/// What is wrong with a file of users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsersError {
    /// A line of another form.
    #[error("line {line} is no NAME:HASH")]
    Line {
        /// The line, counted from 1.
        line: usize,
    },
    /// A hash of another kind.
    #[error("the hash in line {line} is none of bcrypt (\"$2y$…\"): write it with `htpasswd -B`")]
    Kind {
        /// The line.
        line: usize,
    },
    /// A hash that takes too long.
    #[error(
        "the hash in line {line} has the cost {cost}, it must be {COST_MIN} to {COST_MAX}: write it with `htpasswd -B -C 10`"
    )]
    Cost {
        /// The line.
        line: usize,
        /// Its cost.
        cost: u8,
    },
    /// A name that is there before.
    #[error("the name in line {line} is in an earlier one, too")]
    Twice {
        /// The line.
        line: usize,
    },
    /// Nobody at all.
    #[error("there is nobody in it: add somebody with `htpasswd -B`")]
    Empty,
}

impl Users {
    /// Reads a file's text. Empty lines, and those that begin with `#`, say nothing.
    ///
    /// # Errors
    ///
    /// The first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        let mut hashes = HashMap::new();
        let mut any: Option<(u8, String)> = None;
        for (index, written) in text.lines().enumerate() {
            let line = index + 1;
            let written = written.trim_end();
            if written.is_empty() || written.starts_with('#') {
                continue;
            }
            let (name, hash) = written.split_once(':').ok_or(UsersError::Line { line })?;
            if name.is_empty() {
                return Err(UsersError::Line { line });
            }
            let cost = cost(hash).ok_or(UsersError::Kind { line })?;
            if !(COST_MIN..=COST_MAX).contains(&cost) {
                return Err(UsersError::Cost { line, cost });
            }
            if hashes.insert(name.to_owned(), hash.to_owned()).is_some() {
                return Err(UsersError::Twice { line });
            }
            if any.as_ref().is_none_or(|(costs, _)| *costs < cost) {
                any = Some((cost, hash.to_owned()));
            }
        }
        let (_, any) = any.ok_or(UsersError::Empty)?;
        Ok(Self { hashes, any })
    }

    /// What a password is to be compared with, and whether somebody has it. A name that nobody has takes as long as another one: how long
    /// an answer takes is not to tell who is there.
    #[must_use]
    pub fn hash_of(&self, name: &str) -> (&str, bool) {
        self.hashes.get(name).map_or((self.any.as_str(), false), |hash| (hash.as_str(), true))
    }
}

/// The cost of a hash of bcrypt.
fn cost(hash: &str) -> Option<u8> {
    let rest = ["$2y$", "$2b$", "$2a$"].iter().find_map(|kind| hash.strip_prefix(kind))?;
    let (cost, rest) = rest.split_once('$')?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    let whole = hash.len() == HASH_CHARACTERS && rest.bytes().all(fits);
    let digits = cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
    cost.parse().ok().filter(|_| whole && digits)
}

/// The outcomes of the last comparisons, so that a client that says the same again costs none: those that succeeded, and for a short while
/// those that failed, for a program that knows a wrong password asks again and again. Each kind has room of its own: whoever guesses has
/// nobody's password forgotten.
pub struct Outcomes {
    signer: Hmac<Sha256>,
    /// Until when each counts.
    right: Recent<[u8; 32], Instant>,
    wrong: Recent<[u8; 32], Instant>,
}

/// Outcomes of either kind remembered; the one unused for the longest makes room.
const OUTCOMES_MAX: usize = 4096;

/// How long they count.
const SUCCESS_COUNTS: Duration = Duration::from_secs(600);
const FAILURE_COUNTS: Duration = Duration::from_secs(5);

impl Outcomes {
    /// None yet. Passwords are not kept: only what this secret `key` makes of them.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        let mut block = [0; 64];
        block[..32].copy_from_slice(&key);
        Self {
            signer: <Hmac<Sha256> as KeyInit>::new(&block.into()),
            right: Recent::new(OUTCOMES_MAX),
            wrong: Recent::new(OUTCOMES_MAX),
        }
    }

    /// What stands for a comparison: with another hash in the file it is another one.
    #[must_use]
    pub fn key_of(&self, login: &Login, hash: &str) -> [u8; 32] {
        let mut signer = self.signer.clone();
        for part in [login.name.as_str(), login.password.as_str(), hash] {
            signer.update(&(part.len() as u64).to_be_bytes());
            signer.update(part.as_bytes());
        }
        signer.finalize().into_bytes().into()
    }

    /// How this comparison ended, if it was made not long ago.
    pub fn find(&mut self, key: &[u8; 32], now: Instant) -> Option<bool> {
        self.known(key, now).map(|(outcome, _)| outcome)
    }

    /// The same as others know it, who have the same key; from now on it is known here, too, and counts for no longer than there.
    pub fn take_over(&mut self, key: [u8; 32], others: &mut Self, now: Instant) -> Option<bool> {
        let (outcome, until) = others.known(&key, now)?;
        self.note(key, outcome, until);
        Some(outcome)
    }

    /// A comparison has ended.
    pub fn enter(&mut self, key: [u8; 32], outcome: bool, now: Instant) {
        self.note(key, outcome, now + if outcome { SUCCESS_COUNTS } else { FAILURE_COUNTS });
    }

    /// How it ended, and until when that counts.
    fn known(&mut self, key: &[u8; 32], now: Instant) -> Option<(bool, Instant)> {
        let counts = |until: &&mut Instant| now < **until;
        let right = self.right.use_value(key).filter(counts).map(|until| (true, *until));
        right.or_else(|| self.wrong.use_value(key).filter(counts).map(|until| (false, *until)))
    }

    fn note(&mut self, key: [u8; 32], outcome: bool, until: Instant) {
        let table = if outcome { &mut self.right } else { &mut self.wrong };
        match table.use_value(&key) {
            Some(known) => *known = until,
            None => {
                table.insert(key, until);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(value: &str) -> Result<Login, Denied> {
        login(&[Field { name: b"Authorization", value: value.as_bytes() }])
    }

    fn said(text: &str) -> Result<(String, String), Denied> {
        of(&format!("Basic {}", BASE64.encode(text.as_bytes()))).map(|login| (login.name, login.password))
    }

    #[test]
    fn name_and_password_are_read() {
        let pair = |name: &str, password: &str| Ok((name.to_owned(), password.to_owned()));
        // The example of RFC 7617, section 2.
        assert_eq!(of("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap().password, "open sesame");
        assert_eq!(said("test:123\u{a3}"), pair("test", "123\u{a3}"));
        assert_eq!(said("a:b:c"), pair("a", "b:c"));
        assert_eq!(said(":"), pair("", ""));
        for bad in ["a", "a:b\n", "a\0:b"] {
            assert_eq!(said(bad), Err(Denied::Malformed), "{bad:?}");
        }
        for bad in ["Basic", "Basic a", "Basic QWxh ZGRp", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ", "Basic /w=="] {
            assert_eq!(of(bad), Err(Denied::Malformed), "{bad:?}");
        }
        assert_eq!(said(&"a:".repeat(1000)), Err(Denied::Malformed));
        assert_eq!(
            format!("{:?}", of("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap()),
            "Login { name: \"Aladdin\", .. }"
        );
    }

    /// Of "open sesame", by crypt(3).
    const HASH: &str = "$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW";

    #[test]
    fn the_file_is_read_and_its_mistakes_are_named() {
        let users =
            Users::parse(&format!("# people\n\nada:{HASH}\r\nbob:{}\n", HASH.replace("2y", "2b"))).unwrap();
        assert_eq!(users.hash_of("ada"), (HASH, true));
        assert_eq!(users.hash_of("eve"), (HASH, false));
        assert_eq!(format!("{users:?}"), "Users { count: 2, .. }");
        let error = |text: &str| Users::parse(text).unwrap_err();
        assert_eq!(error("# nobody\n"), UsersError::Empty);
        assert_eq!(error("ada\n"), UsersError::Line { line: 1 });
        assert_eq!(error(&format!(":{HASH}")), UsersError::Line { line: 1 });
        assert_eq!(error("\nada:$apr1$x$y"), UsersError::Kind { line: 2 });
        assert_eq!(error(&format!("ada:{HASH}x")), UsersError::Kind { line: 1 });
        assert_eq!(error(&format!("ada:{HASH}\nada:{HASH}")), UsersError::Twice { line: 2 });
        assert_eq!(
            error(&format!("ada:{}", HASH.replace("$05$", "$15$"))),
            UsersError::Cost { line: 1, cost: 15 }
        );
    }

    #[test]
    fn outcomes_count_for_a_while() {
        let mut outcomes = Outcomes::new([7; 32]);
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let login =
            |name: &str, password: &str| Login { name: name.to_owned(), password: password.to_owned() };
        let key = outcomes.key_of(&login("ada", "x"), HASH);
        for other in [login("ada", "y"), login("adax", ""), login("ad", "ax")] {
            assert_ne!(outcomes.key_of(&other, HASH), key);
        }
        assert_ne!(outcomes.key_of(&login("ada", "x"), "other"), key, "another hash, another password");
        assert_eq!(outcomes.find(&key, at(1)), None);
        outcomes.enter(key, false, at(1));
        assert_eq!((outcomes.find(&key, at(5)), outcomes.find(&key, at(6))), (Some(false), None));
        outcomes.enter(key, true, at(7));
        assert_eq!((outcomes.find(&key, at(606)), outcomes.find(&key, at(607))), (Some(true), None));
        let flood = |outcomes: &mut Outcomes, outcome: bool| {
            for number in 0..OUTCOMES_MAX {
                let key = outcomes.key_of(&login("eve", &number.to_string()), HASH);
                outcomes.enter(key, outcome, at(8));
            }
        };
        flood(&mut outcomes, false);
        assert_eq!(outcomes.find(&key, at(8)), Some(true), "whoever guesses takes no room from it");
        flood(&mut outcomes, true);
        assert_eq!(outcomes.find(&key, at(8)), None, "it has made room");
    }

    #[test]
    fn an_outcome_taken_over_counts_no_longer() {
        let (mut one, mut other) = (Outcomes::new([7; 32]), Outcomes::new([7; 32]));
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let login = Login { name: "ada".to_owned(), password: "x".to_owned() };
        let key = one.key_of(&login, HASH);
        assert_eq!(key, other.key_of(&login, HASH));
        assert_eq!(one.take_over(key, &mut other, at(0)), None);
        other.enter(key, true, at(0));
        assert_eq!(one.find(&key, at(1)), None);
        assert_eq!(one.take_over(key, &mut other, at(599)), Some(true));
        assert_eq!((one.find(&key, at(599)), one.find(&key, at(600))), (Some(true), None));
        assert_eq!(one.take_over(key, &mut other, at(600)), None);
    }

    proptest! {
        /// Whatever comes is read or refused.
        #[test]
        fn nothing_panics(value in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            of(&value).ok();
            of(&format!("Basic {}", BASE64.encode(&bytes))).ok();
            Users::parse(&value).ok();
            let name = String::from_utf8_lossy(&bytes).into_owned();
            Users::parse(&format!("{name}:{HASH}")).ok();
        }
    }
}
