//! The commands' way to the running daemon: HTTP over its Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::control::SOCKET_NAME;

/// The longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("vrrpd isn't running with run directory {}: start it, or name its directory with --run-dir", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not ours to use.
    #[error("cannot reach vrrpd on {}: {source}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The daemon says no.
    #[error("{0}")]
    Refused(String),
    /// The daemon did not answer.
    #[error("vrrpd did not answer within {} s", ANSWER_MAX.as_secs())]
    TimedOut,
    /// The connection broke.
    #[error("the connection to vrrpd failed: {0}")]
    Broken(String),
}

/// Asks and waits for the whole answer.
///
/// # Errors
///
/// When there is no answer, or it is an error.
pub async fn ask(
    run_dir: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, ClientError> {
    let asked = async {
        let response = send(run_dir, method, path, body, "application/json").await?;
        let status = response.status();
        let value = read(response).await?;
        if status == StatusCode::OK { Ok(value) } else { Err(refusal(status, &value)) }
    };
    tokio::time::timeout(ANSWER_MAX, asked).await.unwrap_or(Err(ClientError::TimedOut))
}

/// Follows the events after a number; `each` gets the data of one after the other and says whether to go on.
///
/// # Errors
///
/// When the stream cannot be had, or ends.
pub async fn follow(
    run_dir: &Path,
    after: u64,
    mut each: impl FnMut(&Value) -> std::io::Result<()>,
) -> Result<(), ClientError> {
    let path = format!("/v1/events?after={after}");
    let asked = send(run_dir, Method::GET, &path, None, "text/event-stream");
    let mut response = tokio::time::timeout(ANSWER_MAX, asked).await.unwrap_or(Err(ClientError::TimedOut))?;
    if response.status() != StatusCode::OK {
        let status = response.status();
        return Err(refusal(status, &read(response).await?));
    }
    let mut pending = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        let frame = frame.map_err(|error| ClientError::Broken(error.to_string()))?;
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = pending.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            let value =
                serde_json::from_slice(data).map_err(|error| ClientError::Broken(error.to_string()))?;
            if each(&value).is_err() {
                // Nobody reads our output any more, for instance `head`.
                return Ok(());
            }
        }
        if pending.len() > ANSWER_BYTES_MAX {
            return Err(ClientError::Broken("a line of the stream is too long".to_owned()));
        }
    }
    Err(ClientError::Broken("vrrpd closed it".to_owned()))
}

async fn send(
    run_dir: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
    accept: &str,
) -> Result<Response<Incoming>, ClientError> {
    let socket = run_dir.join(SOCKET_NAME);
    let stream = UnixStream::connect(&socket).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(run_dir.to_owned())
        }
        _ => ClientError::Unreachable { socket, source },
    })?;
    let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let body = Full::new(body.map_or_else(Bytes::new, |value| value.to_string().into()));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "vrrpd")
        .header(ACCEPT, accept)
        .body(body)
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    sender.send_request(request).await.map_err(broken)
}

async fn read(response: Response<Incoming>) -> Result<Value, ClientError> {
    let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let bytes = collected.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes)
        .map_err(|error| ClientError::Broken(format!("its answer is no JSON: {error}")))
}

fn refusal(status: StatusCode, value: &Value) -> ClientError {
    let sentence = value.get("error").and_then(Value::as_str);
    ClientError::Refused(sentence.map_or_else(|| format!("vrrpd answered {status}"), str::to_owned))
}
