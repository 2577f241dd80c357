//! Why a message is refused.

/// What is wrong with a message. From a client it is answered with [`Self::status`], and the connection is closed, because
/// nobody knows where the next request would begin; from a target it is a bad answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// A LF without a CR before it.
    #[error("a line does not end with CR and LF")]
    LineEnd,
    /// Not `METHOD TARGET VERSION` or `VERSION STATUS REASON` with one space between them.
    #[error("the first line has another form")]
    FirstLine,
    /// A method with other characters than tokens have.
    #[error("the method is no token")]
    Method,
    /// A target of a form that its method does not have, or with a user's name in it.
    #[error("the target has a form that cannot be used")]
    Target,
    /// A path without a normal form.
    #[error("the path cannot be told apart from others")]
    Path,
    /// A path that is one of another rule for servers that merge slashes, resolve escaped ones, or cut segments at `;`.
    #[error("some servers read the path as one that meets another rule")]
    OtherRule,
    /// Another version than 1.0 and 1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// The first line is longer than a head may be.
    #[error("the request line is too long")]
    LineTooLong,
    /// The head is longer than it may be, or has too many fields.
    #[error("the head is too long")]
    HeadTooLong,
    /// A field's name that is no token, or not followed by a colon at once.
    #[error("a field's name is no token before a colon")]
    FieldName,
    /// A control character in a field's value.
    #[error("a field's value has a control character")]
    FieldValue,
    /// A line that goes on in the next one.
    #[error("a field's line is folded")]
    Folded,
    /// A name that servers which replace `-`, and what else is neither letter nor digit, by `_` take for one that says where a message ends or
    /// whom it is from.
    #[error("a field's name has '_', '.' or the like where a known one has '-'")]
    Underscore,
    /// No `Host` in HTTP/1.1, more than one, or one that is no host.
    #[error("there is not exactly one usable Host")]
    Host,
    /// A `Content-Length` that is no number, or more than one.
    #[error("there is more than one Content-Length, or it is no plain number")]
    Length,
    /// A transfer coding beside a length.
    #[error("there are both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// Another coding than `chunked`, more than one, or one in HTTP/1.0.
    #[error("the transfer coding is another than chunked")]
    Coding,
    /// `Connection` that is no list of tokens, or names a field that is not only for the next hop.
    #[error("Connection names what must be passed on, or is no list")]
    Connection,
    /// `CONNECT`.
    #[error("CONNECT is not served")]
    Connect,
    /// An expectation other than `100-continue`.
    #[error("nothing but 100-continue can be expected")]
    Expect,
    /// A chunk's size that is no hexadecimal number, or too large, or has too long extensions.
    #[error("a chunk has no plain size, or too long extensions")]
    ChunkSize,
    /// A chunk's data not followed by CR and LF.
    #[error("a chunk does not end where it should")]
    ChunkEnd,
    /// Trailers that are too long, or no fields.
    #[error("the trailers are too long or no fields")]
    Trailer,
    /// The end of the connection within a message.
    #[error("the connection ended within the message")]
    Truncated,
    /// A body that is longer than the service takes.
    #[error("the body is longer than it may be")]
    BodyTooLong,
    /// The request has come through here before.
    #[error("the request has come through here before, see its Via")]
    Loop,
    /// Asked for on a connection whose certificate is not for it, and which was made for another host.
    #[error("the host is not one that the connection's certificate is for")]
    Misdirected,
    /// More than one of the field that `rate` counts by.
    #[error("there is more than one of the field that requests are counted by")]
    RateField,
    /// More than one `Max-Forwards`, or one that is no number, with a method for which it counts.
    #[error("there is more than one Max-Forwards, or it is no plain number")]
    MaxForwards,
}

impl Fault {
    /// How many there are.
    pub const COUNT: usize = 29;

    /// All of them, in the order of [`Self::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::LineEnd,
        Self::FirstLine,
        Self::Method,
        Self::Target,
        Self::Path,
        Self::OtherRule,
        Self::Version,
        Self::LineTooLong,
        Self::HeadTooLong,
        Self::FieldName,
        Self::FieldValue,
        Self::Folded,
        Self::Underscore,
        Self::Host,
        Self::Length,
        Self::LengthAndCoding,
        Self::Coding,
        Self::Connection,
        Self::Connect,
        Self::Expect,
        Self::ChunkSize,
        Self::ChunkEnd,
        Self::Trailer,
        Self::Truncated,
        Self::BodyTooLong,
        Self::Loop,
        Self::Misdirected,
        Self::RateField,
        Self::MaxForwards,
    ];

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in the metrics and in the access log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LineEnd => "line_end",
            Self::FirstLine => "first_line",
            Self::Method => "method",
            Self::Target => "target",
            Self::Path => "path",
            Self::OtherRule => "other_rule",
            Self::Version => "version",
            Self::LineTooLong => "line_too_long",
            Self::HeadTooLong => "head_too_long",
            Self::FieldName => "field_name",
            Self::FieldValue => "field_value",
            Self::Folded => "folded",
            Self::Underscore => "underscore",
            Self::Host => "host",
            Self::Length => "length",
            Self::LengthAndCoding => "length_and_coding",
            Self::Coding => "coding",
            Self::Connection => "connection",
            Self::Connect => "connect_method",
            Self::Expect => "expect",
            Self::ChunkSize => "chunk_size",
            Self::ChunkEnd => "chunk_end",
            Self::Trailer => "trailer",
            Self::Truncated => "truncated",
            Self::BodyTooLong => "body_too_long",
            Self::Loop => "loop",
            Self::Misdirected => "misdirected",
            Self::RateField => "rate_field",
            Self::MaxForwards => "max_forwards",
        }
    }

    /// What a client is answered.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BodyTooLong => 413,
            Self::LineTooLong => 414,
            Self::Expect => 417,
            Self::Misdirected => 421,
            Self::HeadTooLong => 431,
            Self::Connect => 501,
            Self::Version => 505,
            Self::Loop => 508,
            _ => 400,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place_and_its_name() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault.index(), index);
            assert_eq!(Fault::ALL.iter().filter(|other| other.name() == fault.name()).count(), 1);
            assert!((400..600).contains(&fault.status()));
        }
    }
}
