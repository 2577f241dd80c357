//! Targets from Consul and etcd: one request over HTTP/1.1 each time, with bounds on time and size.

use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use lbd_core::discover::{Failure, consul, etcd};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Asking, Source};

/// For the connection, with finding the server's address.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// For all of it.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);

/// The largest answer, in bytes: room for 4,096 targets with a kilobyte about each.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Of an answer that is an error, so much is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// Consul's health API.
pub(super) struct Consul {
    url: String,
    service: String,
    path: String,
    max_targets: u32,
}

impl Consul {
    pub(super) fn new(url: String, service: String, tag: Option<&str>, max_targets: u32) -> Self {
        let path = consul::path(&service, tag);
        Self { url, service, path, max_targets }
    }
}

impl Source for Consul {
    fn ask(&mut self) -> Asking<'_> {
        Box::pin(async {
            let body = exchange("Consul", &self.url, Method::GET, &self.path, String::new()).await?;
            consul::parse(&body, &self.service, self.max_targets)
        })
    }
}

/// etcd's JSON gateway.
pub(super) struct Etcd {
    url: String,
    prefix: String,
    max_targets: u32,
}

impl Etcd {
    pub(super) fn new(url: String, prefix: String, max_targets: u32) -> Self {
        Self { url, prefix, max_targets }
    }
}

impl Source for Etcd {
    fn ask(&mut self) -> Asking<'_> {
        Box::pin(async {
            let question = etcd::request(&self.prefix, self.max_targets);
            let body = exchange("etcd", &self.url, Method::POST, etcd::PATH, question).await?;
            etcd::parse(&body, &self.prefix, self.max_targets)
        })
    }
}

/// Sends one request, and answers the body of the 200 that comes back.
async fn exchange(who: &str, url: &str, method: Method, path: &str, body: String) -> Result<Bytes, Failure> {
    let work = async {
        // The configuration takes nothing else.
        let authority = url.strip_prefix("http://").unwrap_or(url);
        let stream = timeout(CONNECT_MAX, TcpStream::connect(authority))
            .await
            .map_err(|_| format!("cannot connect within {} s", CONNECT_MAX.as_secs()))
            .and_then(|stream| stream.map_err(|error| format!("cannot connect: {error}")))
            .map_err(Failure::unreachable)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::invalid(format!("cannot be asked for {path}: {error}")))?;
        let broken = |error: hyper::Error| Failure::unreachable(format!("no answer: {error}"));
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Ends with this exchange, however that ends.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => Failure::invalid(format!("the answer is larger than {BODY_BYTES_MAX} bytes")),
                None => Failure::unreachable(format!("the answer was cut off: {error}")),
            })?
            .to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body);
        let shown: String = text.trim().chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
        Err(Failure::unreachable(format!("answered {status}: {shown}")))
    };
    let late = |_| Err(Failure::unreachable(format!("no whole answer within {} s", EXCHANGE_MAX.as_secs())));
    timeout(EXCHANGE_MAX, work).await.unwrap_or_else(late).map_err(|failure| {
        let message = format!("{who} at {url}: {}", failure.message);
        Failure { message, ..failure }
    })
}
