//! How a connection through HTTP becomes a tunnel in the lab: by an `Upgrade` as WebSocket's (RFC 9110, section 7.8), after which whatever
//! is sent comes back.

use std::io::{self, ErrorKind, Read, Write};

/// The protocol that the tunnel is for.
const PROTOCOL: &str = "echo";
/// More than any head here has, with what proxies add.
const HEAD_BYTES_MAX: usize = 4096;
/// What ends a head.
const END: &[u8] = b"\r\n\r\n";

/// Asks for a tunnel, and waits for the answer. What comes behind that stays in the stream.
///
/// # Errors
/// What the stream says, and what came when it was no answer that makes a tunnel.
pub(super) fn ask(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let request =
        format!("GET /echo HTTP/1.1\r\nHost: lab\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(END) && head.len() < HEAD_BYTES_MAX {
        // One after the other: what is behind the head is the tunnel's.
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 101 ") && upgrades(&head) {
        Ok(())
    } else {
        let got = String::from_utf8_lossy(&head);
        Err(io::Error::other(format!("no tunnel was opened, but this came: {got:?}")))
    }
}

/// What the other end answers.
pub(super) fn answer() -> Vec<u8> {
    format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n")
        .into_bytes()
}

/// Where the request for a tunnel ends in what has come of it; none while there is more to come.
///
/// # Errors
/// When something else is asked for, or it is longer than any.
pub(super) fn request_end(bytes: &[u8]) -> io::Result<Option<usize>> {
    match bytes.windows(END.len()).position(|end| end == END) {
        Some(at) if bytes.starts_with(b"GET ") && upgrades(&bytes[..at]) => Ok(Some(at + END.len())),
        None if bytes.len() < HEAD_BYTES_MAX => Ok(None),
        Some(_) | None => Err(ErrorKind::InvalidData.into()),
    }
}

/// Whether both fields are there that make a tunnel for the protocol.
fn upgrades(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    let has = |wanted: &str, value: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.any(|(name, is)| name.eq_ignore_ascii_case(wanted) && is.trim().eq_ignore_ascii_case(value))
    };
    has("connection", "upgrade") && has("upgrade", PROTOCOL)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An end that has said something already, and hears what it is told.
    struct Peer {
        says: io::Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Peer {
        fn new(says: &[u8]) -> Self {
            Self { says: io::Cursor::new(says.to_vec()), heard: Vec::new() }
        }
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_asked_is_understood_and_nothing_behind_it_is_taken() {
        let mut peer = Peer::new(&[&answer()[..], b"first"].concat());
        ask(&mut peer).unwrap();
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"first");
        let asked = peer.heard;
        assert_eq!(request_end(&[&asked[..], b"second"].concat()).unwrap(), Some(asked.len()));
        assert_eq!(request_end(&asked[..asked.len() - 1]).unwrap(), None);
        assert_eq!(request_end(b"").unwrap(), None);
    }

    #[test]
    fn what_proxies_make_of_it_is_understood_and_something_else_is_refused() {
        let passed_on =
            b"GET /echo HTTP/1.1\r\nhost: lab\r\nVia: 1.1 a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        assert_eq!(request_end(passed_on).unwrap(), Some(passed_on.len()));
        for other in [
            "GET /echo HTTP/1.1\r\nHost: lab\r\n\r\n",
            "GET /echo HTTP/1.1\r\nHost: lab\r\nUpgrade: echo\r\n\r\n",
            "GET /echo HTTP/1.1\r\nHost: lab\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "POST /echo HTTP/1.1\r\nHost: lab\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        ] {
            assert!(request_end(other.as_bytes()).is_err(), "{other}");
        }
        assert!(request_end(&[b'x'; HEAD_BYTES_MAX]).is_err());
        for other in [
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n",
        ] {
            assert!(ask(&mut Peer::new(other.as_bytes())).is_err(), "{other}");
        }
    }
}
