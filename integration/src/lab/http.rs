//! A client for the daemons' HTTP interfaces: one request, one answer, over a Unix socket or TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::error::{Context, LabError, Result};

/// More than any answer of the daemons; what is longer is cut off.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The lines before the body, the status line first.
    pub head: String,
    /// The body, as text.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    ///
    /// # Errors
    /// [`LabError::Answer`] when it is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).map_err(|_| LabError::Answer {
            asked: "a request for JSON".to_owned(),
            answer: self.body.clone(),
        })
    }
}

/// Asks over a Unix socket; each read and write may take `limit`.
///
/// # Errors
/// [`LabError::Io`] when nobody answers, [`LabError::Answer`] when the answer is not HTTP.
pub fn unix(socket: &Path, method: &str, path: &str, body: &str, limit: Duration) -> Result<Response> {
    let doing = || format!("asking {} for {method} {path}", socket.display());
    let stream = UnixStream::connect(socket).doing(doing)?;
    stream.set_read_timeout(Some(limit)).doing(doing)?;
    stream.set_write_timeout(Some(limit)).doing(doing)?;
    exchange(stream, method, path, body, &doing())
}

/// Asks over TCP from the network the calling thread is in; connecting and each read and write may take `limit`.
///
/// # Errors
/// [`LabError::Io`] when nobody answers, [`LabError::Answer`] when the answer is not HTTP.
pub fn tcp(server: SocketAddr, method: &str, path: &str, body: &str, limit: Duration) -> Result<Response> {
    let doing = || format!("asking {server} for {method} {path}");
    let stream = TcpStream::connect_timeout(&server, limit).doing(doing)?;
    stream.set_read_timeout(Some(limit)).doing(doing)?;
    stream.set_write_timeout(Some(limit)).doing(doing)?;
    exchange(stream, method, path, body, &doing())
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    body: &str,
    asked: &str,
) -> Result<Response> {
    // HTTP/1.0: the answer comes whole, without chunks, and ends with the connection.
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).doing(|| asked.to_owned())?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).doing(|| asked.to_owned())?;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| LabError::Answer { asked: asked.to_owned(), answer: shortened(&bytes) })
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.get(..3)?.parse().ok()?;
    Some(Response { status, head: head.to_owned(), body: body.to_owned() })
}

fn shortened(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_and_other_text_is_refused() {
        let answer = parse("HTTP/1.0 404 Not Found\r\nA: b\r\n\r\n{\"x\":1}").unwrap();
        assert_eq!(answer.status, 404);
        assert_eq!(answer.json().unwrap()["x"], 1);
        assert_eq!(parse("SSH-2.0-x\r\n\r\n"), None);
        assert_eq!(parse("HTTP/1.0"), None);
    }
}
