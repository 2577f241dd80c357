//! Why a check failed: in words for people, and as one of a few reasons for counting.

use std::fmt;
use std::time::Duration;

/// The longest text of another end's making that a failure repeats, in characters.
const QUOTED_CHARS_MAX: usize = 160;

/// How far a check had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the connection.
    Connect,
    /// Waiting for the end of the TLS handshake.
    Handshake,
    /// Waiting for the first byte of the answer.
    Answer,
    /// Waiting for the rest of the answer.
    Rest,
}

/// Why a check failed, as the API, the status and the log show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection; why.
    Connect(String),
    /// A datagram could not be delivered; why.
    Unreachable(String),
    /// The time-out passed at this stage.
    Timeout(Stage, Duration),
    /// The other end closed the connection at this stage.
    Closed(Stage),
    /// The connection broke after it was made; why.
    Broken(String),
    /// The TLS handshake failed; why.
    Tls(String),
    /// An HTTP status that is not expected.
    Status(u16),
    /// The gRPC health service says something else than `SERVING`: its name or number.
    NotServing(String),
    /// The gRPC call ended with this `grpc-status`.
    GrpcStatus(u32),
    /// The text looked for is not in the body, or not within its first 64 KiB.
    NoMatch(String),
    /// A datagram that does not begin as expected.
    OtherDatagram,
    /// Not the protocol that is spoken here: which one was expected.
    NotProtocol(&'static str),
    /// The protocol, but wrong: what.
    Malformed(&'static str),
    /// More bytes than a check reads: how many it would have taken, of what.
    TooLarge(usize, &'static str),
    /// Not the target's fault: this host could not make the check; why.
    Local(String),
}

common::named! {
    /// What failures are counted by.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Reason {
        /// No connection, or an ICMP error in place of a datagram.
        Connect => "connect",
        /// No answer, or not all of it, in time.
        Timeout => "timeout",
        /// The connection ended before the answer did.
        Closed => "closed",
        /// The TLS handshake failed.
        Tls => "tls",
        /// A well-formed answer that says no.
        Answer => "answer",
        /// An answer that cannot be understood.
        Malformed => "malformed",
        /// An answer larger than what a check reads.
        TooLarge => "too_large",
        /// This host could not make the check. Does not count against the target.
        Local => "local",
    }
}

impl Failure {
    /// What it is counted by.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Connect(_) | Self::Unreachable(_) => Reason::Connect,
            Self::Timeout(..) => Reason::Timeout,
            Self::Closed(_) | Self::Broken(_) => Reason::Closed,
            Self::Tls(_) => Reason::Tls,
            Self::Status(_)
            | Self::NotServing(_)
            | Self::GrpcStatus(_)
            | Self::NoMatch(_)
            | Self::OtherDatagram => Reason::Answer,
            Self::NotProtocol(_) | Self::Malformed(_) => Reason::Malformed,
            Self::TooLarge(..) => Reason::TooLarge,
            Self::Local(_) => Reason::Local,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "cannot connect: {}", Quoted(why)),
            Self::Unreachable(why) => write!(f, "unreachable: {}", Quoted(why)),
            Self::Timeout(Stage::Connect, limit) => write!(f, "no connection within {limit:?}"),
            Self::Timeout(Stage::Handshake, limit) => write!(f, "no TLS handshake within {limit:?}"),
            Self::Timeout(Stage::Answer, limit) => write!(f, "no answer within {limit:?}"),
            Self::Timeout(Stage::Rest, limit) => write!(f, "no complete answer within {limit:?}"),
            Self::Closed(Stage::Connect) => f.write_str("connection closed at once"),
            Self::Closed(Stage::Handshake) => f.write_str("connection closed within the TLS handshake"),
            Self::Closed(Stage::Answer) => f.write_str("connection closed without an answer"),
            Self::Closed(Stage::Rest) => f.write_str("connection closed within the answer"),
            Self::Broken(why) => Quoted(why).fmt(f),
            Self::Tls(why) => write!(f, "TLS: {}", Quoted(why)),
            Self::Status(status) => write!(f, "answered {status}"),
            Self::NotServing(status) => write!(f, "answered {}", Quoted(status)),
            Self::GrpcStatus(code) => match grpc_status_name(*code) {
                Some(name) => write!(f, "answered gRPC status {code} ({name})"),
                None => write!(f, "answered gRPC status {code}"),
            },
            Self::NoMatch(text) => write!(f, "no {:?} in the body", Quoted(text).to_string()),
            Self::OtherDatagram => f.write_str("answered something else than expected"),
            Self::NotProtocol(protocol) => write!(f, "the answer is not {protocol}"),
            Self::Malformed(what) => write!(f, "malformed answer: {what}"),
            Self::TooLarge(bytes, what) => write!(f, "{what} larger than {bytes} bytes"),
            Self::Local(why) => write!(f, "cannot check from this host: {}", Quoted(why)),
        }
    }
}

impl std::error::Error for Failure {}

/// Text that may come from the other end, made short and printable.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for (index, character) in self.0.chars().enumerate() {
            if index == QUOTED_CHARS_MAX {
                return f.write_str("…");
            }
            f.write_char(if character.is_control() { '?' } else { character })?;
        }
        Ok(())
    }
}

/// The names of the status codes that gRPC defines.
const fn grpc_status_name(code: u32) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    if (code as usize) < NAMES.len() { Some(NAMES[code as usize]) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_people() {
        let timeout = |stage| Failure::Timeout(stage, Duration::from_secs(2)).to_string();
        assert_eq!(timeout(Stage::Answer), "no answer within 2s");
        assert_eq!(timeout(Stage::Connect), "no connection within 2s");
        assert_eq!(Failure::Status(503).to_string(), "answered 503");
        assert_eq!(Failure::GrpcStatus(12).to_string(), "answered gRPC status 12 (UNIMPLEMENTED)");
        assert_eq!(Failure::GrpcStatus(17).to_string(), "answered gRPC status 17");
        assert_eq!(Failure::Tls("certificate expired".to_owned()).to_string(), "TLS: certificate expired");
        assert_eq!(Failure::NoMatch("ready".to_owned()).to_string(), "no \"ready\" in the body");
    }

    #[test]
    fn what_the_other_end_says_is_cut_and_made_printable() {
        let text = Failure::Tls(format!("a\u{1b}[31m\n{}", "é".repeat(1000))).to_string();
        assert!(text.starts_with("TLS: a?[31m?é"), "{text}");
        assert_eq!(text.chars().count(), 5 + QUOTED_CHARS_MAX + 1);
    }
}
