//! What the authority asks while an order is under way (HTTP-01).

use bincode::{Decode, Encode};
use common::time::{Duration, Instant};

/// Where it asks. RFC 8555, section 8.3: the path is "/.well-known/acme-challenge/" and the token.
pub const PATH: &str = "/.well-known/acme-challenge/";

/// The longest token, in bytes. Section 8.3 wants "at least 128 bits of entropy"; authorities have some 43 characters. All that may be asked at
/// a time fits into one note.
pub const TOKEN_BYTES_MAX: usize = 128;

/// The longest answer, in bytes: a token, a dot, and a hash of the account's key.
pub const ANSWER_BYTES_MAX: usize = TOKEN_BYTES_MAX + 64;

/// What may be asked at a time of one node's orders: a question for each name of a certificate, of which one is ordered at a time.
pub const CHALLENGES_MAX: usize = 100;

/// So long what is asked of the other node's orders is answered after that has told of it: longer than an order takes. A node that says nothing
/// more may be gone for good.
pub const OTHERS_FOR: Duration = Duration::from_secs(600);

/// A question, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Challenge {
    /// The host that is asked, in lower case.
    pub host: String,
    /// What it is asked for.
    pub token: String,
    /// What it is to answer.
    pub answer: String,
}

impl Challenge {
    /// Whether it can be told and asked for. RFC 8555, section 8.3: a token "MUST NOT contain any characters outside the base64url
    /// alphabet".
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        (1..=253).contains(&self.host.len())
            && (1..=TOKEN_BYTES_MAX).contains(&self.token.len())
            && self.answer.len() <= ANSWER_BYTES_MAX
            && plain(&self.token)
            && plain(&self.answer)
            && !self.token.contains('.')
    }
}

/// All that may be asked of this node: by its own orders, and by the other node's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenges {
    own: Vec<Challenge>,
    others: Vec<Challenge>,
    /// Until then those are answered.
    others_until: Instant,
}

impl Challenges {
    /// These of this node's orders, in the place of those before. What is not valid, or too much, is left out.
    #[must_use]
    pub fn with_own(&self, own: Vec<Challenge>) -> Self {
        Self { own: kept(own), ..self.clone() }
    }

    /// The same of the other node's, which has told of them now; they are forgotten after [`OTHERS_FOR`].
    #[must_use]
    pub fn with_others(&self, others: Vec<Challenge>, now: Instant) -> Self {
        Self { own: self.own.clone(), others: kept(others), others_until: now + OTHERS_FOR }
    }

    /// This node's.
    #[must_use]
    pub fn own(&self) -> &[Challenge] {
        &self.own
    }

    /// What is to be answered to a request for this host (in lower case) and path, if it is one of the authority's; else it is anybody's.
    #[must_use]
    pub fn answer(&self, host: &str, path: &str, now: Instant) -> Option<&str> {
        let token = path.strip_prefix(PATH)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        let asked = |it: &&Challenge| it.token == token && it.host == host;
        let others: &[Challenge] = if now < self.others_until { &self.others } else { &[] };
        self.own.iter().chain(others).find(asked).map(|it| it.answer.as_str())
    }
}

fn kept(mut challenges: Vec<Challenge>) -> Vec<Challenge> {
    challenges.retain(Challenge::is_valid);
    challenges.truncate(CHALLENGES_MAX);
    challenges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(host: &str, token: &str) -> Challenge {
        Challenge { host: host.to_owned(), token: token.to_owned(), answer: format!("{token}.hash") }
    }

    #[test]
    fn only_what_is_pending_for_the_host_is_answered() {
        let own = vec![challenge("a.example", "one"), challenge("b.example", "two")];
        let (told, end) = (Instant::from_nanos(7), Instant::from_nanos(7) + OTHERS_FOR);
        let others = vec![challenge("a.example", "three")];
        let all = Challenges::default().with_own(own).with_others(others, told);
        let path = |token: &str| format!("{PATH}{token}");
        assert_eq!(all.answer("a.example", &path("one"), told), Some("one.hash"));
        assert_eq!(all.answer("a.example.", &path("one"), told), Some("one.hash"));
        assert_eq!(all.answer("a.example", &path("three"), told), Some("three.hash"), "the other node's");
        for (host, path) in [
            ("a.example", path("two")),
            ("b.example", path("one")),
            ("a.example", path("")),
            ("a.example", path("one/")),
            ("a.example", path("one/../one")),
            ("a.example", "/one".to_owned()),
            ("", path("one")),
        ] {
            assert_eq!(all.answer(host, &path, told), None, "{host} {path}");
        }
        let over = all.with_own(Vec::new());
        assert_eq!((over.answer("a.example", &path("one"), told), over.own().len()), (None, 0));
        assert!(over.answer("a.example", &path("three"), told).is_some());
        // The other node may be gone, and what it had asked for with it.
        assert_eq!(all.answer("a.example", &path("three"), end), None);
        assert_eq!(all.answer("a.example", &path("one"), end), Some("one.hash"));
        let again = all.with_others(vec![challenge("a.example", "three")], end);
        assert_eq!(again.answer("a.example", &path("three"), end), Some("three.hash"));
    }

    #[test]
    fn what_is_no_token_is_never_asked_for() {
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        for token in ["", "a b", "a/b", "a.b", "é", "a\r\n", long.as_str()] {
            assert!(!challenge("a.example", token).is_valid(), "{token:?}");
        }
        assert!(!challenge("", "one").is_valid());
        assert!(challenge("a.example", "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA").is_valid());
        let many = vec![challenge("a.example", "one"); CHALLENGES_MAX + 1];
        assert_eq!(Challenges::default().with_own(many).own().len(), CHALLENGES_MAX);
    }
}
