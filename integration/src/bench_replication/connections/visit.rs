//! Clients that ask for one thing, each with a connection of its own.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use crate::bench_tcp::load::crowd::{self, Came, Pace, Scene};
use crate::bench_tcp::load::poller::{Poller, Token};
use crate::bench_tcp::load::{connect_from, cut_off, unless_blocked};

/// The server closes after it, so that no port of the client's is kept for a minute.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
/// How a good answer begins; all of it is one segment.
const ANSWER: &[u8] = b"HTTP/1.1 200 ";

/// A client's connection.
struct Visit {
    stream: TcpStream,
    asked: bool,
    answered: bool,
}

impl crowd::Client for Visit {
    /// The answer and the end of the connection are what it comes for.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.asked {
            if unless_blocked(self.stream.write(REQUEST))?.is_none() {
                return Ok(false);
            }
            self.asked = true;
        }
        while let Some(count) = unless_blocked(self.stream.read(buffer))? {
            if count == 0 {
                return if self.answered { Ok(true) } else { Err(cut_off()) };
            }
            self.answered |= buffer[..count].starts_with(ANSWER);
        }
        Ok(false)
    }
}

/// Has clients come from these addresses in turn, at a pace, and tells what `look` has seen before and after.
pub(super) fn visits<T>(
    address: SocketAddr,
    sources: &[IpAddr],
    pace: Pace,
    look: impl FnMut() -> io::Result<T>,
) -> io::Result<Came<T>> {
    let mut sources = sources.iter().copied().cycle();
    let start = |poller: &Poller, index: u32| {
        let stream = connect_from(poller, Token::Client(index), sources.next(), address)?;
        Ok::<_, io::Error>(Visit { stream, asked: false, answered: false })
    };
    crowd::come_at_a_pace(Scene::new()?, pace, start, look)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// What visits come to where everybody is answered with this.
    fn visited(answer: &'static [u8]) -> io::Result<Came<()>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        // It ends with the program.
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {
                    // What goes wrong shows at the client's end.
                    stream.write_all(answer).ok();
                }
            }
        });
        let (warm, second) = (Duration::ZERO, Duration::from_secs(1));
        let pace = Pace { per_second: 500, at_once: 1, warm, time: second, ends_within: second };
        let sources = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)].map(IpAddr::from);
        visits(address, &sources, pace, || Ok(()))
    }

    #[test]
    fn only_answers_that_are_good_count() {
        assert!(visited(b"HTTP/1.1 200 OK\r\n\r\n").is_ok_and(|came| came.count > 0));
        let refused = visited(b"HTTP/1.1 503 x\r\n\r\n").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof);
    }
}
