//! The handshake of WebSocket, where the client has HTTP/1's and its target HTTP/2's.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;

/// RFC 6455, section 1.3: "the Globally Unique Identifier".
const IDENTIFIER: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What proves to a client that its handshake with this key was understood. That is no secret, and no more is asked of the hash.
pub(super) fn accept(key: &[u8]) -> String {
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, IDENTIFIER].concat()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn a_key_is_answered() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
