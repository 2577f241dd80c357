//! The gRPC check: one call over HTTP/2, with TLS or with prior knowledge.
//!
//! `h2` itself and not `hyper`, whose connection would be a task of its own: here it is part of the check's future, and ends
//! with it at the time-out, whatever state it is in.

use std::io;
use std::pin::pin;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use http::{Request, Uri};
use lbd_core::check::grpc::{Answer, Fields, MESSAGE_BYTES_MAX, PATH, request};
use lbd_core::check::http::HEAD_BYTES_MAX;
use lbd_core::check::{Failure, Stage, Verdict};
use tokio::io::{AsyncRead, AsyncWrite};

use super::UnusableCheck;
use super::stream::{self, Destination};
use super::tls::Client;

/// What is asked.
#[derive(Debug)]
pub(super) struct Grpc {
    /// Or why there can be none.
    uri: Result<Uri, UnusableCheck>,
    frame: Bytes,
    tls: Option<Client>,
}

impl Grpc {
    pub(super) fn new(service: &str, host: &str, tls: Option<Client>) -> Self {
        Self { uri: uri(host, tls.is_some()), frame: request(service).into(), tls }
    }

    pub(super) async fn run(&self, to: Destination, stage: &mut Stage) -> Verdict {
        let uri = self.uri.as_ref().map_err(|why| Failure::Local(why.to_string()))?;
        let stream = stream::connect(to).await?;
        match &self.tls {
            None => self.ask(uri, stream, stage).await,
            Some(client) => {
                let stream = client.handshake(stream, stage).await?;
                self.ask(uri, stream, stage).await
            }
        }
    }

    async fn ask(
        &self,
        uri: &Uri,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        stage: &mut Stage,
    ) -> Verdict {
        *stage = Stage::Answer;
        let handshake = Builder::new()
            .enable_push(false)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .initial_window_size(65_535)
            .handshake(stream)
            .await;
        let (sender, connection) = handshake.map_err(|error| failure(&error, *stage))?;
        let mut connection = pin!(connection);
        let mut call = pin!(self.call(uri, sender, stage));
        tokio::select! {
            biased;
            verdict = &mut call => verdict,
            // All that the connection had to give is with the call now, which ends by it.
            _ended = &mut connection => call.await,
        }
    }

    async fn call(&self, uri: &Uri, sender: SendRequest<Bytes>, stage: &mut Stage) -> Verdict {
        let mut sender = sender.ready().await.map_err(|error| failure(&error, *stage))?;
        let request = Request::post(uri)
            .header(TE, "trailers")
            .header(CONTENT_TYPE, "application/grpc")
            .header(USER_AGENT, "tandem-lbd")
            .body(())
            .map_err(|error| Failure::Local(error.to_string()))?;
        let sent = sender.send_request(request, false);
        let (response, mut body) = sent.map_err(|error| failure(&error, *stage))?;
        body.send_data(self.frame.clone(), true).map_err(|error| failure(&error, *stage))?;
        let response = response.await.map_err(|error| failure(&error, *stage))?;
        *stage = Stage::Rest;
        let mut answer = Answer::new();
        if let Some(verdict) = answer.head(response.status().as_u16(), &fields(response.headers())) {
            return verdict;
        }
        let mut body = response.into_body();
        // Its window stays as it is: what does not fit is not waited for, because the answer is refused long before.
        const { assert!(MESSAGE_BYTES_MAX < 65_535) };
        while let Some(bytes) = body.data().await {
            let bytes = bytes.map_err(|error| failure(&error, *stage))?;
            if let Some(verdict) = answer.push(&bytes) {
                return verdict;
            }
        }
        let trailers = body.trailers().await.map_err(|error| failure(&error, *stage))?;
        answer.end(trailers.as_ref().map(fields).as_ref())
    }
}

/// What is asked of a `host`.
pub(super) fn uri(host: &str, tls: bool) -> Result<Uri, UnusableCheck> {
    let scheme = if tls { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(PATH).build();
    uri.map_err(|_| UnusableCheck::Host { host: host.to_owned(), what: "an :authority of HTTP/2" })
}

fn fields(headers: &HeaderMap) -> Fields<'_> {
    let get = |name: &str| headers.get(name).map(http::HeaderValue::as_bytes);
    Fields { content_type: get("content-type"), grpc_status: get("grpc-status") }
}

/// What an error of the connection means.
fn failure(error: &h2::Error, stage: Stage) -> Failure {
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
