//! What some services read of a connection before they choose a target: the PROXY header of a trusted proxy, and the TLS
//! client's hello when there are rules for server names.
//!
//! A client that sends nothing costs its task, a timer and no buffer; one that sends a part costs that part, at most
//! [`BYTES_MAX`]. All of it has to come within `timeout.header`.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;

use lbd_core::client_hello::{HELLO_BYTES_MAX, HelloReader};
use lbd_core::proxy_protocol::{self, Origin, Parsed, V2_BYTES_MAX};
use socket2::SockRef;

use super::admission::Seat;
use super::buffers::BufferPool;
use super::choose::{Ends, Pool};
use super::journal::Journal;
use super::refusal::Refusal;
use super::reset_on_close;
use super::socket::Socket;

/// The most that is ever read ahead, in bytes. Neither a header nor a hello asks for more than its own maximum.
const BYTES_MAX: usize = V2_BYTES_MAX + HELLO_BYTES_MAX;

/// What may come with every connection is logged at most once in this time for each service and worker; the others are
/// counted.
const COMPLAINT_INTERVAL_MS: u64 = 1000;

/// What was read.
pub(super) struct Preamble {
    /// The group that serves the connection.
    pub(super) pool: Rc<Pool>,
    /// The server name that decided.
    pub(super) server_name: Option<String>,
    /// What belongs to the target: all that followed a PROXY header.
    pub(super) bytes: Vec<u8>,
}

/// When a service complained last, and what it has kept to itself since.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    last_ms: Cell<Option<u64>>,
    unsaid: Cell<u64>,
}

impl Complaints {
    /// Whether it is time to say something, and then how often nothing has been said since the last time.
    pub(crate) fn due(&self, now_ms: u64) -> Option<u64> {
        if self.last_ms.get().is_some_and(|last_ms| now_ms < last_ms + COMPLAINT_INTERVAL_MS) {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.last_ms.set(Some(now_ms));
        Some(self.unsaid.take())
    }
}

/// Reads the header of a connection of a service that routes requests, and answers what followed it. Whoever is refused is reset, of which the
/// access log is told here: there is no request yet.
pub(crate) async fn read_proxy_header(seat: &mut Seat, client: &Socket, ends: &mut Ends) -> Option<Vec<u8>> {
    let mut journal = Journal::begin(&seat.route, ends.client, ends.local);
    match read(seat, client, ends, true).await {
        Ok(preamble) => Some(preamble.bytes),
        Err(refusal) => {
            reset_on_close(SockRef::from(client));
            // Whoever is refused has a name by then, or not.
            journal.heard(ends);
            journal.refused(&seat.route, &seat.worker, refusal);
            None
        }
    }
}

/// Reads what the service asks for. A header corrects `ends`, and the client it names is let in or refused.
pub(super) async fn read(
    seat: &mut Seat,
    client: &Socket,
    ends: &mut Ends,
    proxied: bool,
) -> Result<Preamble, Refusal> {
    let limit = seat.route.service.config.timeout.header;
    let executor = Rc::clone(&seat.worker.executor);
    let read = executor.timeout(limit, read_all(seat, client, ends, proxied)).await;
    read.unwrap_or_else(|| Err(seat.route.refuse(&seat.worker, Refusal::HeaderTimeout)))
}

async fn read_all(
    seat: &mut Seat,
    client: &Socket,
    ends: &mut Ends,
    proxied: bool,
) -> Result<Preamble, Refusal> {
    let mut bytes = Vec::new();
    if proxied {
        read_header(seat, client, ends, &mut bytes).await?;
        seat.identify(ends.client.ip())?;
    }
    let mut preamble = Preamble { pool: Rc::clone(&seat.route.default), server_name: None, bytes };
    if !seat.route.service.guard.sni.is_empty() {
        preamble.server_name = read_hello(seat, client, ends, &mut preamble.bytes).await?;
        let name = preamble.server_name.as_deref();
        if let Some(rule) = name.and_then(|name| seat.route.service.guard.sni.find(name)) {
            preamble.pool = Rc::clone(&seat.route.rules[rule]);
        }
    }
    // The client may have taken its time.
    preamble.pool = seat.current(&preamble.pool);
    Ok(preamble)
}

async fn read_header(
    seat: &Seat,
    client: &Socket,
    ends: &mut Ends,
    bytes: &mut Vec<u8>,
) -> Result<(), Refusal> {
    loop {
        match proxy_protocol::parse(bytes) {
            Ok(Parsed::Complete { origin, length }) => {
                bytes.drain(..length);
                if let Origin::Proxied { source, destination } = origin {
                    (ends.client, ends.local) = (source, destination);
                }
                return Ok(());
            }
            Ok(Parsed::Incomplete) => read_more(seat, client, bytes).await?,
            Err(error) => return Err(complain(seat, ends, Refusal::ProxyHeader, &error)),
        }
    }
}

async fn read_hello(
    seat: &Seat,
    client: &Socket,
    ends: &Ends,
    bytes: &mut Vec<u8>,
) -> Result<Option<String>, Refusal> {
    let mut reader = HelloReader::default();
    loop {
        match reader.read(bytes) {
            Ok(Some(hello)) => return Ok(hello.server_name),
            Ok(None) => read_more(seat, client, bytes).await?,
            Err(error) => return Err(complain(seat, ends, Refusal::ClientHello, &error)),
        }
    }
}

/// Waits until there is something to read, and only then takes a buffer for it.
async fn read_more(seat: &Seat, client: &Socket, bytes: &mut Vec<u8>) -> Result<(), Refusal> {
    let gone = |_: io::Error| seat.route.refuse(&seat.worker, Refusal::ClientGone);
    loop {
        client.readable().await;
        match read_once(client, &seat.worker.buffers, bytes) {
            Ok(0) => return Err(gone(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(gone(error)),
        }
    }
}

fn read_once(client: &Socket, buffers: &Rc<BufferPool>, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = buffers.take();
    // Below the maximum, or the parser would have had enough.
    let room = BYTES_MAX.saturating_sub(bytes.len());
    let count = client.try_read(&mut buffer.bytes_mut()[..room])?;
    bytes.extend_from_slice(&buffer.bytes()[..count]);
    Ok(count)
}

/// Refuses a client for what it has sent, and says so in the log unless it was said just now.
fn complain(seat: &Seat, ends: &Ends, refusal: Refusal, error: &dyn fmt::Display) -> Refusal {
    if let Some(unsaid) = seat.route.complaints.due(seat.worker.clock().now_ms()) {
        let (service, client) = (&seat.route.service.config.name, ends.client);
        tracing::warn!(service, %client, unsaid, "connection refused: {error}");
    }
    seat.route.refuse(&seat.worker, refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_said_once_in_a_while_and_the_rest_is_counted() {
        let complaints = Complaints::default();
        let due = |ms| complaints.due(ms);
        assert_eq!([due(5), due(6), due(1004), due(1005), due(1006)], [Some(0), None, None, Some(2), None]);
        assert_eq!(due(9000), Some(1));
    }
}
