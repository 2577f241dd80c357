//! Why a message is refused.

common::named! {
    /// What is wrong with a message. From a client it is answered with [`Self::status`], and the connection is closed, because
    /// nobody knows where the next request would begin; from a target it is a bad answer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
    pub enum Fault {
        /// A LF without a CR before it.
        #[error("a line does not end with CR and LF")]
        LineEnd => "line_end",
        /// Not `METHOD TARGET VERSION` or `VERSION STATUS REASON` with one space between them.
        #[error("the first line has another form")]
        FirstLine => "first_line",
        /// A method with other characters than tokens have.
        #[error("the method is no token")]
        Method => "method",
        /// A target of a form that its method does not have, or with a user's name in it.
        #[error("the target has a form that cannot be used")]
        Target => "target",
        /// A path without a normal form.
        #[error("the path cannot be told apart from others")]
        Path => "path",
        /// A path that is one of another rule for servers that merge slashes, resolve escaped ones, or cut segments at `;`.
        #[error("some servers read the path as one that meets another rule")]
        OtherRule => "other_rule",
        /// Another version than 1.0 and 1.1.
        #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
        Version => "version",
        /// The first line is longer than a head may be.
        #[error("the request line is too long")]
        LineTooLong => "line_too_long",
        /// The head is longer than it may be, or has too many fields.
        #[error("the head is too long")]
        HeadTooLong => "head_too_long",
        /// A field's name that is no token, or not followed by a colon at once.
        #[error("a field's name is no token before a colon")]
        FieldName => "field_name",
        /// A control character in a field's value.
        #[error("a field's value has a control character")]
        FieldValue => "field_value",
        /// A line that goes on in the next one.
        #[error("a field's line is folded")]
        Folded => "folded",
        /// A name that servers which replace `-`, and what else is neither letter nor digit, by `_` take for one that says where a message ends or
        /// whom it is from.
        #[error("a field's name has '_', '.' or the like where a known one has '-'")]
        Underscore => "underscore",
        /// No `Host` in HTTP/1.1, more than one, or one that is no host.
        #[error("there is not exactly one usable Host")]
        Host => "host",
        /// A `Content-Length` that is no number, or more than one.
        #[error("there is more than one Content-Length, or it is no plain number")]
        Length => "length",
        /// A transfer coding beside a length.
        #[error("there are both Content-Length and Transfer-Encoding")]
        LengthAndCoding => "length_and_coding",
        /// Another coding than `chunked`, more than one, or one in HTTP/1.0.
        #[error("the transfer coding is another than chunked")]
        Coding => "coding",
        /// `Connection` that is no list of tokens, or names a field that is not only for the next hop.
        #[error("Connection names what must be passed on, or is no list")]
        Connection => "connection",
        /// `CONNECT`.
        #[error("CONNECT is not served")]
        Connect => "connect_method",
        /// An expectation other than `100-continue`.
        #[error("nothing but 100-continue can be expected")]
        Expect => "expect",
        /// A chunk's size that is no hexadecimal number, or too large, or has too long extensions.
        #[error("a chunk has no plain size, or too long extensions")]
        ChunkSize => "chunk_size",
        /// A chunk's data not followed by CR and LF.
        #[error("a chunk does not end where it should")]
        ChunkEnd => "chunk_end",
        /// Trailers that are too long, or no fields.
        #[error("the trailers are too long or no fields")]
        Trailer => "trailer",
        /// The end of the connection within a message.
        #[error("the connection ended within the message")]
        Truncated => "truncated",
        /// A body that is longer than the service takes.
        #[error("the body is longer than it may be")]
        BodyTooLong => "body_too_long",
        /// The request has come through here before.
        #[error("the request has come through here before, see its Via")]
        Loop => "loop",
        /// Asked for on a connection whose certificate is not for it, and which was made for another host.
        #[error("the host is not one that the connection's certificate is for")]
        Misdirected => "misdirected",
        /// More than one of the field that `rate` counts by.
        #[error("there is more than one of the field that requests are counted by")]
        RateField => "rate_field",
        /// More than one `Max-Forwards`, or one that is no number, with a method for which it counts.
        #[error("there is more than one Max-Forwards, or it is no plain number")]
        MaxForwards => "max_forwards",
    }
}

impl Fault {
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
    fn each_is_answered_with_an_error() {
        for fault in Fault::ALL {
            assert!((400..600).contains(&fault.status()));
        }
    }
}
