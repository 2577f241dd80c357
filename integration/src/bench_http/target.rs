//! The target: one thread that answers requests without looking at more than their paths, so that it costs less than any proxy.

use std::io;
use std::sync::LazyLock;

use crate::bench_tcp::load::crowd::Scene;
use crate::bench_tcp::load::server::{Behaviour, Reply};
use crate::bench_tcp::network::Network;
use crate::lab::Result;
use crate::lab::netns::Worker;

/// What small answers have.
pub(super) const SMALL_BYTES: usize = 128;
/// And large ones.
pub(super) const LARGE_BYTES: usize = 64 << 10;
/// Where large ones are; any other path but that of WebSockets has small ones.
pub(super) const LARGE_PATH: &str = "/large";
/// Where small ones are asked for.
pub(super) const SMALL_PATH: &str = "/small";
/// Where WebSockets are opened.
pub(super) const WEBSOCKET_PATH: &str = "/ws";
/// What a client says when it opens a WebSocket, and the answer to that: RFC 6455, section 1.3 has both.
pub(super) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What a small answer's body is.
pub(super) const SMALL: [u8; SMALL_BYTES] = [b's'; SMALL_BYTES];

static SMALL_ANSWER: LazyLock<Vec<u8>> = LazyLock::new(|| page(&SMALL));
static LARGE_ANSWER: LazyLock<Vec<u8>> = LazyLock::new(|| page(&[b'l'; LARGE_BYTES]));
static UPGRADED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let fields =
        format!("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {WEBSOCKET_ACCEPT}");
    format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n").into_bytes()
});

fn page(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Starts it on the processor of the calling thread.
pub(super) fn start(network: &Network) -> Result<Worker<io::Result<()>>> {
    let listener = network.listen()?;
    network
        .target
        .worker("target", move |stop| Scene::with_target(&listener, Behaviour::Requests(reply))?.serve(stop))
}

/// The answer to a request without a body, once all of its head is there.
fn reply(asked: &[u8]) -> Option<Reply> {
    if !asked.ends_with(b"\r\n\r\n") {
        return None;
    }
    let path = asked.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let answer = if path == LARGE_PATH.as_bytes() {
        &*LARGE_ANSWER
    } else if path == WEBSOCKET_PATH.as_bytes() {
        &*UPGRADED
    } else {
        &*SMALL_ANSWER
    };
    Some(Reply { bytes: answer, then_echo: path == WEBSOCKET_PATH.as_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_by_its_path_once_it_is_whole() {
        let asked = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nX: /large \r\n\r\n").into_bytes();
        let answer = |path: &str| reply(&asked(path)).unwrap();
        assert!(reply(&asked("/small")[..20]).is_none() && reply(b"").is_none());
        assert!(answer("/small").bytes.ends_with(&SMALL) && !answer("/small").then_echo);
        assert!(answer("/large").bytes.len() > LARGE_BYTES && !answer("/large").then_echo);
        assert!(answer("/ws").bytes.starts_with(b"HTTP/1.1 101 ") && answer("/ws").then_echo);
    }
}
