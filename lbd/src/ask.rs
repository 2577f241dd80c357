//! One request over HTTP/1.1 to a server that the configuration names, with bounds on time and size.

use std::error::Error;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// For the connection, with finding the server's address.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// For all of it.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);

/// The largest answer, in bytes: room for 4,096 targets with a kilobyte about each.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Connecting took too long.
    #[error("cannot connect within {} s", CONNECT_MAX.as_secs())]
    NotConnectedInTime,
    /// There is no connection.
    #[error("cannot connect: {0}")]
    NotConnected(io::Error),
    /// What was to be asked for is no request.
    #[error("cannot be asked for {path}: {source}")]
    NoRequest {
        /// The path.
        path: String,
        /// What is wrong.
        source: http::Error,
    },
    /// The connection ended, or what came is no answer.
    #[error("no answer: {0}")]
    NoAnswer(hyper::Error),
    /// The body is larger than anybody has use for.
    #[error("the answer is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// The body did not come to its end.
    #[error("the answer was cut off: {0}")]
    CutOff(Box<dyn Error + Send + Sync>),
    /// All of it took too long.
    #[error("no whole answer within {} s", EXCHANGE_MAX.as_secs())]
    NotAnsweredInTime,
}

/// Sends a request with a JSON body, which may be empty, to `authority`; answers status and body.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn ask(
    authority: &str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Unanswered> {
    let exchange = exchange(authority, method, path, body);
    timeout(EXCHANGE_MAX, exchange).await.unwrap_or(Err(Unanswered::NotAnsweredInTime))
}

async fn exchange(
    authority: &str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Unanswered> {
    let stream = timeout(CONNECT_MAX, TcpStream::connect(authority))
        .await
        .map_err(|_| Unanswered::NotConnectedInTime)?
        .map_err(Unanswered::NotConnected)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|source| Unanswered::NoRequest { path: path.to_owned(), source })?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Unanswered::NoAnswer)?;
    // Ends with this exchange, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(Unanswered::NoAnswer)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await.map_err(|error| {
        match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Unanswered::TooLarge,
            None => Unanswered::CutOff(error),
        }
    })?;
    Ok((status, body.to_bytes()))
}
