//! Clients that connect, ask for one thing, and wait for the end, encrypted or not.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use super::tls;
use crate::bench_http::target::{SMALL, SMALL_PATH};
use crate::bench_tcp::load::crowd::{self, Scene};
use crate::bench_tcp::load::poller::{Poller, Token};
use crate::bench_tcp::load::{Meter, Stretch, connect, cut_off, unless_blocked};
use crate::lab::certificate::NAME;

/// What kind of connection a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench_http) enum Kind {
    /// One without TLS.
    Clear,
    /// One with a TLS session of its own.
    NewSession,
    /// One that goes on with the TLS session of another.
    ResumedSession,
}

/// A client's connection.
struct Visit<'a> {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    asked: bool,
    got: Vec<u8>,
    /// How many went on with a session.
    resumed: &'a Cell<u64>,
}

impl crowd::Client for Visit<'_> {
    /// The answer and the end of the connection are what it comes for.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let ended = if self.tls.is_some() { self.encrypted(buffer)? } else { self.clear(buffer)? };
        if !ended {
            return Ok(false);
        }
        if self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed)) {
            self.resumed.set(self.resumed.get() + 1);
        }
        if is_whole(&self.got) { Ok(true) } else { Err(cut_off()) }
    }
}

impl Visit<'_> {
    /// Goes on; answers whether the connection has ended.
    fn clear(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.asked {
            if unless_blocked(self.stream.write(request().as_bytes()))?.is_none() {
                return Ok(false);
            }
            self.asked = true;
        }
        while let Some(count) = unless_blocked(self.stream.read(buffer))? {
            if count == 0 {
                return Ok(true);
            }
            self.got.extend_from_slice(&buffer[..count]);
        }
        Ok(false)
    }

    /// The same, encrypted.
    fn encrypted(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        if !self.asked {
            // Kept until the handshake is over.
            tls.writer().write_all(request().as_bytes())?;
            self.asked = true;
        }
        loop {
            while tls.wants_write() {
                if unless_blocked(tls.write_tls(&mut self.stream))?.is_none() {
                    return Ok(false);
                }
            }
            let Some(count) = unless_blocked(tls.read_tls(&mut self.stream))? else { return Ok(false) };
            tls.process_new_packets().map_err(io::Error::other)?;
            loop {
                match tls.reader().read(buffer) {
                    // By the end that TLS has said.
                    Ok(0) => break,
                    Ok(count) => self.got.extend_from_slice(&buffer[..count]),
                    // By the end of TCP alone: whether anything is missing is seen by what has come.
                    Err(error)
                        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::UnexpectedEof) =>
                    {
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            if count == 0 {
                return Ok(true);
            }
        }
    }
}

fn request() -> &'static str {
    static REQUEST: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        format!("GET {SMALL_PATH} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n")
    });
    &REQUEST
}

/// Whether an answer is the target's, all of it.
fn is_whole(got: &[u8]) -> bool {
    got.starts_with(b"HTTP/1.1 200 ") && got.ends_with(&SMALL) && got.len() > SMALL.len()
}

/// Has `count` clients make a request each, `at_once` at a time, after as many tenths as a warm-up. Proxies close first.
pub(in crate::bench_http) fn visits(
    address: SocketAddr,
    count: u64,
    at_once: u32,
    kind: Kind,
    meter: Meter<'_>,
) -> io::Result<Stretch> {
    let config: Option<Arc<ClientConfig>> = match kind {
        Kind::Clear => None,
        Kind::NewSession => Some(tls::config(false)?),
        Kind::ResumedSession => Some(tls::config(true)?),
    };
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let resumed = Cell::new(0);
    let start = |poller: &Poller, index| {
        let tls = config.as_ref().map(|config| ClientConnection::new(Arc::clone(config), name.clone()));
        let tls = tls.transpose().map_err(io::Error::other)?.map(Box::new);
        let stream = connect(poller, Token::Client(index), address)?;
        Ok::<Visit, io::Error>(Visit { stream, tls, asked: false, got: Vec::new(), resumed: &resumed })
    };
    let stretch = crowd::come_and_go(Scene::new()?, count, at_once, meter, start)?;
    let expected = match kind {
        Kind::Clear | Kind::NewSession => resumed.get() == 0,
        // The first ones of the warm-up had nothing to go on with.
        Kind::ResumedSession => resumed.get() >= count,
    };
    if !expected {
        let made = resumed.get();
        return Err(io::Error::other(format!(
            "{made} connections for {count} requests went on with a session"
        )));
    }
    Ok(stretch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_breaks_off_is_not_whole() {
        let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n"[..], &SMALL].concat();
        assert!(is_whole(&answer));
        assert!(!is_whole(&answer[..answer.len() - 128]) && !is_whole(&SMALL) && !is_whole(b""));
        assert!(!is_whole(&[&b"HTTP/1.1 502 Bad Gateway\r\n\r\n"[..], &SMALL].concat()));
    }
}
