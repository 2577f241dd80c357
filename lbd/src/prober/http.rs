//! The HTTP check, over HTTP/1.1 or HTTP/2, with or without TLS.

use std::io;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Uri;
use http::header::{ACCEPT, USER_AGENT};
use lbd_core::check::http::{Answer, Http2Answer, request};
use lbd_core::check::{Failure, Pattern, Stage, Verdict};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::UnusableCheck;
use super::http2::{self, failure};
use super::stream::{self, Destination};
use super::tls::Client;
use crate::tls::{NO_HTTP2, Protocol};

/// How much is read at once.
const READ_BYTES: usize = 4096;

/// What is asked.
#[derive(Debug)]
pub(super) enum Request {
    /// As it is sent.
    Http1(Vec<u8>),
    /// Or why there can be none.
    Http2(Result<Uri, UnusableCheck>),
}

impl Request {
    pub(super) fn new(http2: bool, path: &str, host: &str, tls: bool) -> Self {
        if http2 { Self::Http2(http2::uri(host, tls, path)) } else { Self::Http1(request(path, host)) }
    }
}

/// What is asked, and what is expected.
#[derive(Debug)]
pub(super) struct Http {
    request: Request,
    expect: Vec<(u16, u16)>,
    pattern: Option<Pattern>,
    tls: Option<Client>,
}

impl Http {
    pub(super) fn new(
        request: Request,
        expect: &[(u16, u16)],
        body: Option<&str>,
        tls: Option<Client>,
    ) -> Self {
        Self { request, expect: expect.to_vec(), pattern: body.map(Pattern::new), tls }
    }

    pub(super) async fn run(&self, to: Destination, stage: &mut Stage) -> Verdict {
        let stream = stream::connect(to).await?;
        let Some(client) = &self.tls else { return self.ask(stream, stage).await };
        let stream = client.handshake(stream, stage).await?;
        // As with requests: who does not agree on it may take what follows for something else (RFC 9113, section 3.2).
        let agreed = Protocol::agreed(stream.get_ref().1.alpn_protocol());
        if matches!(self.request, Request::Http2(_)) && agreed != Protocol::Http2 {
            return Err(Failure::Tls(NO_HTTP2.to_owned()));
        }
        self.ask(stream, stage).await
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin, stage: &mut Stage) -> Verdict {
        *stage = Stage::Answer;
        match &self.request {
            Request::Http1(request) => self.ask_http1(request, stream, stage).await,
            Request::Http2(uri) => {
                let uri = uri.as_ref().map_err(|why| Failure::Local(why.to_string()))?;
                let (sender, connection) = http2::begin(stream, *stage).await?;
                http2::drive(connection, self.call(uri, sender, stage)).await
            }
        }
    }

    async fn ask_http1(
        &self,
        request: &[u8],
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        stage: &mut Stage,
    ) -> Verdict {
        // One that refuses early may have answered before it closed: what it said counts, not that it did not listen.
        let sent = send(&mut stream, request).await;
        let mut answer = Answer::new(&self.expect, self.pattern.as_ref());
        let mut bytes = vec![0; READ_BYTES];
        loop {
            match stream.read(&mut bytes).await {
                Ok(0) => {
                    return match sent {
                        Err(error) if *stage == Stage::Answer => Err(stream::failure(&error, *stage)),
                        _ => answer.end(),
                    };
                }
                Ok(count) => {
                    *stage = Stage::Rest;
                    if let Some(verdict) = answer.push(&bytes[..count]) {
                        return verdict;
                    }
                }
                // TLS whose end is not announced, as is common.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return answer.end(),
                Err(error) => return Err(stream::failure(&error, *stage)),
            }
        }
    }

    async fn call(&self, uri: &Uri, sender: SendRequest<Bytes>, stage: &mut Stage) -> Verdict {
        let mut sender = sender.ready().await.map_err(|error| failure(&error, *stage))?;
        let request = http::Request::get(uri)
            .header(USER_AGENT, "tandem-lbd")
            .header(ACCEPT, "*/*")
            .body(())
            .map_err(|error| Failure::Local(error.to_string()))?;
        let sent = sender.send_request(request, true);
        let (response, _) = sent.map_err(|error| failure(&error, *stage))?;
        let response = response.await.map_err(|error| failure(&error, *stage))?;
        *stage = Stage::Rest;
        let mut answer = Http2Answer::new(&self.expect, self.pattern.as_ref());
        if let Some(verdict) = answer.head(response.status().as_u16()) {
            return verdict;
        }
        let mut body = response.into_body();
        while let Some(bytes) = body.data().await {
            let bytes = bytes.map_err(|error| failure(&error, *stage))?;
            if let Some(verdict) = answer.push(&bytes) {
                return verdict;
            }
            // What is looked at is more than a window.
            let taken = body.flow_control().release_capacity(bytes.len());
            taken.map_err(|error| failure(&error, *stage))?;
        }
        answer.end()
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), request: &[u8]) -> io::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await
}
