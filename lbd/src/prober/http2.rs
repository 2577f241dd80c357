//! What checks over HTTP/2 have in common, be it with TLS or with prior knowledge.
//!
//! `h2` itself and not `hyper`, whose connection would be a task of its own: here it is part of the check's future, and ends
//! with it at the time-out, whatever state it is in.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::Uri;
use http::uri::Authority;
use lbd_core::check::http::HEAD_BYTES_MAX;
use lbd_core::check::{Failure, Stage, Verdict};
use tokio::io::{AsyncRead, AsyncWrite};

use super::UnusableCheck;
use super::stream;

/// How much of an answer's body comes without being taken, in bytes: HTTP/2's own default.
pub(super) const WINDOW_BYTES: u32 = 65_535;

/// Begins with HTTP/2 on a new connection.
pub(super) async fn begin<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    stage: Stage,
) -> Result<(SendRequest<Bytes>, Connection<S, Bytes>), Failure> {
    let handshake = Builder::new()
        .enable_push(false)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_window_size(WINDOW_BYTES)
        .handshake(stream)
        .await;
    handshake.map_err(|error| failure(&error, stage))
}

/// Moves what the connection has to move until the call on it has come to its verdict.
pub(super) async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    connection: Connection<S, Bytes>,
    call: impl Future<Output = Verdict>,
) -> Verdict {
    let mut connection = pin!(connection);
    let mut call = pin!(call);
    tokio::select! {
        biased;
        verdict = &mut call => verdict,
        // All that the connection had to give is with the call now, which ends by it.
        _ended = &mut connection => call.await,
    }
}

/// What is asked of a `host`.
pub(super) fn uri(host: &str, tls: bool, path: &str) -> Result<Uri, UnusableCheck> {
    let bad = |_| UnusableCheck::Host { host: host.to_owned(), what: "an :authority of HTTP/2" };
    let authority = Authority::try_from(host).map_err(bad)?;
    let scheme = if tls { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    uri.map_err(|_| UnusableCheck::Path { path: path.to_owned() })
}

/// What an error of the connection means.
pub(super) fn failure(error: &h2::Error, stage: Stage) -> Failure {
    if let Some(error) = error.get_io() {
        // What h2 makes of the stream's end.
        let ended = error.kind() == io::ErrorKind::BrokenPipe && error.raw_os_error().is_none();
        return if ended { Failure::Closed(stage) } else { stream::failure(error, stage) };
    }
    match error.reason() {
        // What is not HTTP/2 at all looks like an impossible frame.
        Some(h2::Reason::FRAME_SIZE_ERROR | h2::Reason::PROTOCOL_ERROR) if error.is_library() => {
            Failure::NotProtocol("HTTP/2")
        }
        _ => Failure::Broken(format!("HTTP/2: {error}")),
    }
}
