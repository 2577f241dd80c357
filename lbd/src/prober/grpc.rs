//! The gRPC check: one call over HTTP/2, with TLS or with prior knowledge.

use bytes::Bytes;
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use http::{Request, Uri};
use lbd_core::check::grpc::{Answer, Fields, MESSAGE_BYTES_MAX, PATH, request};
use lbd_core::check::{Failure, Stage, Verdict};
use tokio::io::{AsyncRead, AsyncWrite};

use super::UnusableCheck;
use super::http2::{self, WINDOW_BYTES, failure};
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
        Self { uri: http2::uri(host, tls.is_some(), PATH), frame: request(service).into(), tls }
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
        let (sender, connection) = http2::begin(stream, *stage).await?;
        http2::drive(connection, self.call(uri, sender, stage)).await
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
        const { assert!(MESSAGE_BYTES_MAX < WINDOW_BYTES as usize) };
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

fn fields(headers: &HeaderMap) -> Fields<'_> {
    let get = |name: &str| headers.get(name).map(http::HeaderValue::as_bytes);
    Fields { content_type: get("content-type"), grpc_status: get("grpc-status") }
}
