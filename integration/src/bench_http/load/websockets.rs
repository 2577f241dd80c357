//! WebSockets that carry one message each way and are then silent.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::bench_http::target::{WEBSOCKET_KEY, WEBSOCKET_PATH};
use crate::bench_tcp::load::crowd::{self, Scene};
use crate::bench_tcp::load::poller::Token;
use crate::bench_tcp::load::{connect, cut_off, unless_blocked};

/// A text of a client, "Hello": RFC 6455, section 5.7. The target sends back what it gets as it is; proxies do not look at it.
const FRAME: [u8; 11] = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];

/// How far a WebSocket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has been asked for, or is about to be.
    Opening { asked: bool },
    /// The message is on its way.
    Open,
    /// The message has come back.
    Silent,
}

/// A client's connection.
#[derive(Debug)]
struct WebSocket {
    stream: TcpStream,
    state: State,
    got: Vec<u8>,
}

impl crowd::Client for WebSocket {
    /// Its message, which comes back, is what it comes for.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if self.state == (State::Opening { asked: false }) {
            let request = format!(
                "GET {WEBSOCKET_PATH} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            );
            if unless_blocked(self.stream.write(request.as_bytes()))?.is_none() {
                return Ok(false);
            }
            self.state = State::Opening { asked: true };
        }
        let before = self.state;
        while let Some(count) = unless_blocked(self.stream.read(buffer))? {
            if count == 0 {
                return Err(cut_off());
            }
            self.got.extend_from_slice(&buffer[..count]);
            self.look()?;
        }
        Ok(before != State::Silent && self.state == State::Silent)
    }
}

impl WebSocket {
    /// Makes what there is of what has come.
    fn look(&mut self) -> io::Result<()> {
        if matches!(self.state, State::Opening { .. })
            && let Some(end) = self.got.windows(4).position(|end| end == b"\r\n\r\n")
        {
            if !self.got.starts_with(b"HTTP/1.1 101 ") {
                return Err(io::Error::other(String::from_utf8_lossy(&self.got).into_owned()));
            }
            self.got.drain(..end + 4);
            // The socket's buffer is empty: it fits.
            self.stream.write_all(&FRAME)?;
            self.state = State::Open;
        }
        if self.state == State::Open && self.got == FRAME {
            self.state = State::Silent;
        }
        Ok(())
    }
}

/// Opens so many, and answers what `look` says while all are open.
pub(in crate::bench_http) fn websockets<T>(
    address: SocketAddr,
    count: usize,
    look: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    crowd::come_and_stay(
        Scene::new()?,
        count,
        |poller, index| {
            let stream = connect(poller, Token::Client(index), address)?;
            Ok(WebSocket { stream, state: State::Opening { asked: false }, got: Vec::new() })
        },
        look,
    )
}
