//! The gRPC check: one call of `grpc.health.v1.Health/Check`, whose two messages are small enough to write and read by hand.
//!
//! ```text
//! message HealthCheckRequest  { string service = 1; }
//! message HealthCheckResponse { ServingStatus status = 1; }   // UNKNOWN 0, SERVING 1, NOT_SERVING 2, SERVICE_UNKNOWN 3
//! ```

use super::{Failure, Stage, Verdict};

/// The method's path.
pub const PATH: &str = "/grpc.health.v1.Health/Check";

/// The largest answer that is read, in bytes: a real one has 2.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// What comes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

const NOT_GRPC: Failure = Failure::NotProtocol("gRPC");

/// The request's body: the message with its prefix.
#[must_use]
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 2 * PREFIX_BYTES);
    // A field with its default value is left out.
    if !service.is_empty() {
        message.push(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&message);
    frame
}

/// The parts of a header section that count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    /// `content-type`.
    pub content_type: Option<&'a [u8]>,
    /// `grpc-status`.
    pub grpc_status: Option<&'a [u8]>,
}

/// An answer as it comes in.
#[derive(Debug, Default)]
pub struct Answer {
    /// The prefixed message, at most [`MESSAGE_BYTES_MAX`] bytes.
    body: Vec<u8>,
}

impl Answer {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the HTTP status and the first header section. The verdict if that is all there is to say.
    pub fn head(&mut self, status: u16, fields: &Fields<'_>) -> Option<Verdict> {
        if status != 200 {
            return Some(Err(Failure::Status(status)));
        }
        if !fields.content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
            return Some(Err(NOT_GRPC));
        }
        // An answer without a message has its status here; 0 would still need one.
        fields
            .grpc_status
            .map(|status| Err(status_failure(status).unwrap_or(Failure::Malformed("no message"))))
    }

    /// Takes the next bytes of the body. The verdict if they cannot be right.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Verdict> {
        if self.body.len() + bytes.len() > MESSAGE_BYTES_MAX {
            return Some(Err(Failure::TooLarge(MESSAGE_BYTES_MAX, "answer")));
        }
        self.body.extend_from_slice(bytes);
        None
    }

    /// The verdict at the end, with the trailers if there were any.
    ///
    /// # Errors
    /// Whatever is not `SERVING` in a whole message and a `grpc-status` of 0.
    pub fn end(&self, trailers: Option<&Fields<'_>>) -> Verdict {
        let Some(status) = trailers.and_then(|fields| fields.grpc_status) else {
            return Err(Failure::Closed(Stage::Rest));
        };
        if let Some(failure) = status_failure(status) {
            return Err(failure);
        }
        let Some((prefix, message)) = self.body.split_first_chunk::<PREFIX_BYTES>() else {
            return Err(Failure::Malformed("no message"));
        };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Failure::Malformed("compressed message"));
        }
        if usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
            return Err(Failure::Malformed("message length"));
        }
        match serving_status(message).ok_or(Failure::Malformed("message"))? {
            1 => Ok(()),
            0 => Err(Failure::NotServing("UNKNOWN".to_owned())),
            2 => Err(Failure::NotServing("NOT_SERVING".to_owned())),
            3 => Err(Failure::NotServing("SERVICE_UNKNOWN".to_owned())),
            other => Err(Failure::NotServing(format!("serving status {other}"))),
        }
    }
}

/// What a `grpc-status` means; none for 0.
fn status_failure(value: &[u8]) -> Option<Failure> {
    match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
        Some(0) => None,
        Some(code) => Some(Failure::GrpcStatus(code)),
        None => Some(Failure::Malformed("grpc-status")),
    }
}

/// `status` of a `HealthCheckResponse`; fields that are not known are passed over, as Protocol Buffers ask for.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    const VARINT: u64 = 0;
    const FIXED64: u64 = 1;
    const BYTES: u64 = 2;
    const FIXED32: u64 = 5;
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let skip = match tag & 7 {
            VARINT => {
                let value = take_varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
                0
            }
            FIXED64 => 8,
            BYTES => take_varint(&mut message)?,
            FIXED32 => 4,
            _ => return None,
        };
        message = message.get(usize::try_from(skip).ok()?..)?;
    }
    Some(status)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRPC: Fields<'_> = Fields { content_type: Some(b"application/grpc"), grpc_status: None };
    const ENDED: Fields<'_> = Fields { content_type: None, grpc_status: Some(b"0") };

    /// The verdict on a whole answer of one message.
    fn judge(frame: &[u8]) -> Verdict {
        let mut answer = Answer::new();
        assert_eq!(answer.head(200, &GRPC), None);
        answer.push(frame).unwrap_or_else(|| answer.end(Some(&ENDED)))
    }

    fn not_serving(status: &str) -> Verdict {
        Err(Failure::NotServing(status.to_owned()))
    }

    /// Bytes as `protoc --encode=grpc.health.v1.HealthCheckRequest` writes them, behind the prefix.
    #[test]
    fn requests() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("shop"), [0, 0, 0, 0, 6, 0x0a, 4, b's', b'h', b'o', b'p']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 0x01, 0x2f, 0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 5 + 3 + 300);
    }

    #[test]
    fn serving_statuses() {
        assert_eq!(judge(&[0, 0, 0, 0, 2, 0x08, 1]), Ok(()));
        assert_eq!(judge(&[0, 0, 0, 0, 2, 0x08, 2]), not_serving("NOT_SERVING"));
        assert_eq!(judge(&[0, 0, 0, 0, 2, 0x08, 3]), not_serving("SERVICE_UNKNOWN"));
        assert_eq!(judge(&[0, 0, 0, 0, 0]), not_serving("UNKNOWN"), "0 is not written");
        assert_eq!(judge(&[0, 0, 0, 0, 3, 0x08, 0xac, 0x02]), not_serving("serving status 300"));
        let with_unknown = [0, 0, 0, 0, 11, 0x12, 1, b'x', 0x1d, 1, 2, 3, 4, 0x08, 1, 0x20];
        assert_eq!(judge(&with_unknown[..15]), Err(Failure::Malformed("message length")));
        assert_eq!(
            judge(&[0, 0, 0, 0, 10, 0x12, 1, b'x', 0x1d, 1, 2, 3, 4, 0x08, 1]),
            Ok(()),
            "unknown fields"
        );
    }

    #[test]
    fn messages_that_are_none() {
        let bad = |what| Err(Failure::Malformed(what));
        assert_eq!(judge(&[]), bad("no message"));
        assert_eq!(judge(&[0, 0, 0, 0]), bad("no message"));
        assert_eq!(judge(&[1, 0, 0, 0, 2, 0x08, 1]), bad("compressed message"));
        assert_eq!(judge(&[0, 0, 0, 0, 3, 0x08, 1]), bad("message length"));
        assert_eq!(judge(&[0, 0, 0, 0, 2, 0x08, 1, 0]), bad("message length"));
        assert_eq!(judge(&[0, 0, 0, 0, 2, 0x08, 0x80]), bad("message"));
        assert_eq!(judge(&[0, 0, 0, 0, 2, 0x0b, 1]), bad("message"), "a wire type that is no more");
        assert_eq!(judge(&[0, 0, 0, 0, 2, 0x12, 9]), bad("message"), "longer than what is there");
        assert_eq!(judge(&[0; MESSAGE_BYTES_MAX + 1]), Err(Failure::TooLarge(MESSAGE_BYTES_MAX, "answer")));
    }

    #[test]
    fn heads_and_trailers() {
        let head = |status, fields: Fields<'_>| Answer::new().head(status, &fields);
        assert_eq!(head(404, GRPC), Some(Err(Failure::Status(404))));
        assert_eq!(head(200, Fields::default()), Some(Err(NOT_GRPC)));
        let html = Fields { content_type: Some(b"text/html"), ..Fields::default() };
        assert_eq!(head(200, html), Some(Err(NOT_GRPC)));
        let proto = Fields { content_type: Some(b"application/grpc+proto"), ..Fields::default() };
        assert_eq!(head(200, proto), None);
        let refused = Fields { grpc_status: Some(b"12"), ..GRPC };
        assert_eq!(head(200, refused), Some(Err(Failure::GrpcStatus(12))));
        let empty = Fields { grpc_status: Some(b"0"), ..GRPC };
        assert_eq!(head(200, empty), Some(Err(Failure::Malformed("no message"))));
        let mut answer = Answer::new();
        assert_eq!(answer.push(&[0, 0, 0, 0, 2, 0x08, 1]), None);
        assert_eq!(answer.end(None), Err(Failure::Closed(Stage::Rest)));
        assert_eq!(answer.end(Some(&Fields::default())), Err(Failure::Closed(Stage::Rest)));
        let trailers = |status| Fields { grpc_status: Some(status), ..Fields::default() };
        assert_eq!(answer.end(Some(&trailers(b"5"))), Err(Failure::GrpcStatus(5)));
        assert_eq!(answer.end(Some(&trailers(b"five"))), Err(Failure::Malformed("grpc-status")));
        assert_eq!(answer.end(Some(&trailers(b"0"))), Ok(()));
    }

    proptest! {
        #[test]
        fn varints_come_back(value in any::<u64>()) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take_varint(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), prefixed in any::<bool>()) {
            let mut frame = bytes;
            if prefixed {
                let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
                frame.splice(0..0, [0, length[0], length[1], length[2], length[3]]);
            }
            let _verdict = judge(&frame);
        }
    }
}
