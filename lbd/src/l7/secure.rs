//! A TLS connection on a worker's socket.
//!
//! rustls keeps no buffers for it here: what comes is read into one of the worker's and decrypted from there, and what goes out is
//! encrypted into another, from where it is written. A connection that waits holds neither, and of a record that has come in part just
//! that part.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, Error};

use super::stream::Inbound;
use crate::executor::Ready;
use crate::l4::{BUFFER_BYTES, Buffer, BufferPool, Socket};

/// The most plain text in a record. RFC 8446, section 5.1: "The length MUST NOT exceed 2^14 bytes."
const RECORD_BYTES_MAX: usize = 1 << 14;

/// What encryption adds to a record at most.
const OVERHEAD_BYTES_MAX: usize = 64;

/// What an end may have said of which nothing could be made, before its handshake is over: a longer hello, or a longer chain of
/// certificates, nobody has.
const HANDSHAKE_BYTES_MAX: usize = 24 * 1024;

/// So many records are sent of a connection that has failed: those of a handshake that were ready, and the alert.
const LAST_WORDS_MAX: usize = 16;

/// Why a handshake failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// The other end does not do as TLS wants, or refuses what it got.
    Tls(Error),
    /// It began with something that is no record, but may be HTTP.
    PlainHttp,
    /// It said too much.
    TooLong,
    /// It ended the connection, or that broke.
    Closed,
}

/// A connection.
pub(super) struct Secure {
    pub(super) socket: Socket,
    session: RefCell<Session>,
    /// Bytes written to the socket so far.
    sent: Cell<u64>,
}

/// Either end of TLS.
enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

struct Session {
    connection: Connection,
    /// What has come and was not decrypted.
    incoming: Inbound,
    /// Of that something can be made, as far as is known.
    unprocessed: bool,
    /// What was decrypted and not taken, from `taken` on; at most what fits into `incoming`.
    plain: Vec<u8>,
    taken: usize,
    outgoing: Outgoing,
    /// The other end has said that nothing more comes.
    ended: bool,
    /// This one has.
    closed: bool,
    /// Why nothing more can be done, once that is so: rustls must not be asked again.
    failed: Option<Error>,
}

/// What is encrypted and not written, in a buffer of the worker's if there is something.
struct Outgoing {
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
    buffers: Rc<BufferPool>,
}

/// What is wanted of the connection once it can carry data.
#[derive(Clone, Copy)]
enum Job<'j> {
    /// Nothing but what has come.
    Read,
    /// Encrypt these, one behind the other.
    Write(&'j [&'j [u8]]),
    /// Say that nothing more follows.
    Close,
}

/// What became of a step.
enum Step {
    /// There may be a further one.
    On,
    /// Nothing more can be done now.
    Waits,
    /// So many bytes were encrypted, and nothing more can be done now.
    Wrote(usize),
    /// The other end has said that it is the end.
    Ended,
}

impl Secure {
    /// The end of a client's connection, of which something may have been read already.
    pub(super) fn server(
        socket: Socket,
        connection: UnbufferedServerConnection,
        incoming: Inbound,
        buffers: &Rc<BufferPool>,
    ) -> Self {
        Self::new(socket, Connection::Server(connection), incoming, buffers)
    }

    /// The end of a connection to a target.
    pub(super) fn client(
        socket: Socket,
        connection: UnbufferedClientConnection,
        buffers: &Rc<BufferPool>,
    ) -> Self {
        Self::new(socket, Connection::Client(connection), Inbound::new(Vec::new(), buffers), buffers)
    }

    fn new(socket: Socket, connection: Connection, incoming: Inbound, buffers: &Rc<BufferPool>) -> Self {
        let session = Session {
            connection,
            unprocessed: !incoming.is_empty(),
            incoming,
            plain: Vec::new(),
            taken: 0,
            outgoing: Outgoing { buffer: None, start: 0, end: 0, buffers: Rc::clone(buffers) },
            ended: false,
            closed: false,
            failed: None,
        };
        Self { socket, session: RefCell::new(session), sent: Cell::new(0) }
    }

    /// What is known of the connection.
    pub(super) fn with<T>(&self, look: impl FnOnce(&CommonState) -> T) -> T {
        match &self.session.borrow().connection {
            Connection::Server(connection) => look(connection),
            Connection::Client(connection) => look(connection),
        }
    }

    /// Goes on with the handshake until it is over. `step` is called behind each step.
    pub(super) fn poll_handshake(
        &self,
        context: &Context<'_>,
        mut step: impl FnMut(),
    ) -> Poll<Result<(), Broken>> {
        let session = &mut *self.session.borrow_mut();
        loop {
            if session.incoming.bytes().first().is_some_and(u8::is_ascii_uppercase) && session.is_new() {
                return Poll::Ready(Err(Broken::PlainHttp));
            }
            let advanced = session.advance(&mut [], Job::Read);
            step();
            if let Err(error) = advanced {
                // It may not be taken any more.
                drop(session.flush(&self.socket, &self.sent));
                return Poll::Ready(Err(Broken::Tls(error)));
            }
            match session.flush(&self.socket, &self.sent) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.socket.poll(context, Ready::WRITABLE).is_pending() {
                        session.incoming.settle();
                        return Poll::Pending;
                    }
                    continue;
                }
                Err(_) => return Poll::Ready(Err(Broken::Closed)),
            }
            if !session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if session.incoming.bytes().len() > HANDSHAKE_BYTES_MAX {
                return Poll::Ready(Err(Broken::TooLong));
            }
            if session.ended {
                return Poll::Ready(Err(Broken::Closed));
            }
            loop {
                if self.socket.poll(context, Ready::READABLE).is_pending() {
                    session.incoming.settle();
                    return Poll::Pending;
                }
                match session.incoming.fill(|room| self.socket.try_read(room)) {
                    Ok(0) => return Poll::Ready(Err(Broken::Closed)),
                    Ok(_) => break,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Err(Broken::Closed)),
                }
            }
        }
    }

    /// Waits until there may be something to read.
    pub(super) fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        let mut session = self.session.borrow_mut();
        if session.has_plain() || session.ended || session.unprocessed {
            return Poll::Ready(());
        }
        let polled = self.socket.poll(context, Ready::READABLE);
        if polled.is_pending() {
            session.incoming.settle();
        }
        polled
    }

    /// Reads what has come; 0 is the end that the other end has said.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has, or why the connection is broken. An end of TCP that TLS has not said is one: RFC 8446, section 6.1,
    /// on `close_notify`: without it "the receiver cannot tell" a truncation.
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let session = &mut *self.session.borrow_mut();
        loop {
            if session.has_plain() {
                return Ok(session.take(into));
            }
            if session.ended {
                return Ok(0);
            }
            if session.unprocessed {
                let advanced = session.advance(into, Job::Read);
                // Tickets, new keys, an alert: what does not go now goes with what is written next.
                match session.flush(&self.socket, &self.sent) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
                match advanced.map_err(broken)? {
                    0 => continue,
                    count => return Ok(count),
                }
            }
            match session.incoming.fill(|room| self.socket.try_read(room))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => session.unprocessed = true,
            }
        }
    }

    /// Encrypts as much of `pieces`, one behind the other, as there is room for, and writes it as far as it is taken; the rest of it goes
    /// out with what is written next, or by [`Self::poll_flush`].
    ///
    /// # Errors
    /// `WouldBlock` while what was encrypted before is not taken, or why the connection is broken.
    pub(super) fn try_write(&self, pieces: &[&[u8]]) -> io::Result<usize> {
        let session = &mut *self.session.borrow_mut();
        session.flush(&self.socket, &self.sent)?;
        let count = session.advance(&mut [], Job::Write(pieces)).map_err(broken)?;
        match session.flush(&self.socket, &self.sent) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    /// Waits until all that was encrypted is written.
    pub(super) fn poll_flush(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut session = self.session.borrow_mut();
        while !session.outgoing.is_empty() {
            if self.socket.poll(context, Ready::WRITABLE).is_pending() {
                return Poll::Pending;
            }
            match session.flush(&self.socket, &self.sent) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                flushed => return Poll::Ready(flushed),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more follows, as far as that is taken now.
    pub(super) fn close(&self) {
        let session = &mut *self.session.borrow_mut();
        if !std::mem::replace(&mut session.closed, true)
            && !session.is_handshaking()
            && session.advance(&mut [], Job::Close).is_ok()
        {
            drop(session.flush(&self.socket, &self.sent));
        }
    }

    /// Bytes written to the socket so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Whether something that was encrypted is not yet written.
    pub(super) fn has_unsent(&self) -> bool {
        !self.session.borrow().outgoing.is_empty()
    }

    /// Whether nothing has come that nobody has asked for, and nothing is left to be written.
    pub(super) fn is_idle(&self) -> bool {
        let session = self.session.borrow();
        !session.has_plain() && session.incoming.is_empty() && !session.ended && session.outgoing.is_empty()
    }
}

/// What an error of TLS is to those who read and write.
fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Session {
    fn is_handshaking(&self) -> bool {
        match &self.connection {
            Connection::Server(connection) => connection.is_handshaking(),
            Connection::Client(connection) => connection.is_handshaking(),
        }
    }

    /// Whether a client's hello has yet to come.
    fn is_new(&self) -> bool {
        match &self.connection {
            Connection::Server(connection) => connection.protocol_version().is_none(),
            Connection::Client(_) => false,
        }
    }

    const fn has_plain(&self) -> bool {
        self.taken < self.plain.len()
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let left = &self.plain[self.taken..];
        let count = left.len().min(into.len());
        into[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        if self.taken == self.plain.len() {
            // A connection that waits holds nothing.
            (self.plain, self.taken) = (Vec::new(), 0);
        }
        count
    }

    /// Makes of what has come what can be made of it, and then does the job. Answers how many bytes came of either: of data, into
    /// `into` while there is room for a record, or of `pieces`.
    ///
    /// What came before something bad is still told; the error is, with the next call.
    fn advance(&mut self, into: &mut [u8], job: Job<'_>) -> Result<usize, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut count = 0;
        loop {
            let Self { connection, incoming, plain, outgoing, .. } = self;
            let mut hands = Hands { into: &mut into[count..], taken: 0, plain, outgoing, job };
            let bytes = incoming.bytes_mut();
            let (discard, step) = match connection {
                Connection::Server(connection) => hands.perform(connection.process_tls_records(bytes)),
                Connection::Client(connection) => hands.perform(connection.process_tls_records(bytes)),
            };
            count += hands.taken;
            incoming.consume(discard);
            let step = match step {
                Ok(step) => step,
                Err(error) => {
                    self.say_why();
                    self.failed = Some(error.clone());
                    let told = matches!(job, Job::Read) && (count > 0 || self.has_plain());
                    self.unprocessed = true;
                    return if told { Ok(count) } else { Err(error) };
                }
            };
            match step {
                Step::On => {}
                Step::Ended => self.ended = true,
                Step::Waits => {
                    self.unprocessed = false;
                    return Ok(count);
                }
                Step::Wrote(bytes) => return Ok(bytes),
            }
            let full = count > 0 && into.len() - count < RECORD_BYTES_MAX;
            if matches!(job, Job::Read) && (self.has_plain() || full) {
                self.unprocessed = true;
                return Ok(count);
            }
        }
    }

    /// Takes what a connection that has failed has to say: an alert, and what was still to be said before it. It is asked for that
    /// alone, for it would meet again what it has failed at.
    fn say_why(&mut self) {
        let Self { connection, plain, outgoing, .. } = self;
        let mut hands = Hands { into: &mut [], taken: 0, plain, outgoing, job: Job::Read };
        for _ in 0..LAST_WORDS_MAX {
            let said = match connection {
                Connection::Server(connection) if connection.wants_write() => {
                    hands.perform(connection.process_tls_records(&mut []))
                }
                Connection::Client(connection) if connection.wants_write() => {
                    hands.perform(connection.process_tls_records(&mut []))
                }
                _ => return,
            };
            if said.1.is_err() {
                return;
            }
        }
    }

    /// Writes what is encrypted.
    fn flush(&mut self, socket: &Socket, sent: &Cell<u64>) -> io::Result<()> {
        let outgoing = &mut self.outgoing;
        while let Some(buffer) = &outgoing.buffer {
            let count = socket.try_write(&buffer.bytes()[outgoing.start..outgoing.end], false)?;
            sent.set(sent.get() + count as u64);
            outgoing.start += count;
            if outgoing.start == outgoing.end {
                outgoing.let_go();
            } else if !socket.is(Ready::WRITABLE) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(())
    }
}

impl Outgoing {
    const fn is_empty(&self) -> bool {
        self.buffer.is_none()
    }

    fn let_go(&mut self) {
        (self.buffer, self.start, self.end) = (None, 0, 0);
    }

    /// Has something written behind what there is.
    fn add<E>(&mut self, write: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        let buffer = self.buffer.get_or_insert_with(|| self.buffers.take());
        let written = write(&mut buffer.bytes_mut()[self.end..]);
        self.end += written.as_ref().map_or(0, |count| *count);
        if self.end == self.start {
            self.let_go();
        }
        written
    }

    const fn room(&self) -> usize {
        BUFFER_BYTES - self.end
    }
}

/// Where what comes of a step goes.
struct Hands<'h> {
    into: &'h mut [u8],
    taken: usize,
    plain: &'h mut Vec<u8>,
    outgoing: &'h mut Outgoing,
    job: Job<'h>,
}

impl Hands<'_> {
    /// Does what a step asks for. Answers how much of what has come is done with.
    fn perform<Data>(&mut self, status: UnbufferedStatus<'_, '_, Data>) -> (usize, Result<Step, Error>) {
        let UnbufferedStatus { mut discard, state, .. } = status;
        let step = match state {
            Err(error) => Err(error),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    None => break Ok(Step::On),
                    Some(Err(error)) => break Err(error),
                    Some(Ok(record)) => {
                        discard += record.discard;
                        self.receive(record.payload);
                    }
                }
            },
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let encoded = self.outgoing.add(|room| data.encode(room));
                encoded.map(|_| Step::On).map_err(|error| match error {
                    EncodeError::InsufficientSize(_) | EncodeError::AlreadyEncoded => {
                        Error::General("there is no room for what has to be said".to_owned())
                    }
                })
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It stays in `outgoing` until it is written, and whatever follows comes behind it.
                data.done();
                Ok(Step::On)
            }
            Ok(ConnectionState::PeerClosed) => Ok(Step::Ended),
            Ok(ConnectionState::WriteTraffic(mut traffic)) => match self.job {
                Job::Read => Ok(Step::Waits),
                Job::Write(pieces) => encrypt(&mut traffic, pieces, self.outgoing).map(Step::Wrote),
                Job::Close => {
                    let said = self.outgoing.add(|room| traffic.queue_close_notify(room));
                    said.map(Step::Wrote).map_err(exhausted)
                }
            },
            Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => match self.job {
                Job::Read | Job::Close => Ok(Step::Waits),
                Job::Write(_) => Err(Error::HandshakeNotComplete),
            },
            // None is accepted, and there are no other states.
            Ok(_) => Err(Error::General("early data".to_owned())),
        };
        (discard, step)
    }

    fn receive(&mut self, payload: &[u8]) {
        let room = &mut self.into[self.taken..];
        let count = if self.plain.is_empty() { payload.len().min(room.len()) } else { 0 };
        room[..count].copy_from_slice(&payload[..count]);
        self.taken += count;
        self.plain.extend_from_slice(&payload[count..]);
    }
}

fn exhausted(error: EncryptError) -> Error {
    Error::General(error.to_string())
}

thread_local! {
    /// What of several pieces goes into one record.
    static RECORD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Encrypts as much of `pieces` as there is room for. Small ones go into a record together: each one costs some time and 22 bytes.
fn encrypt<Data>(
    traffic: &mut WriteTraffic<'_, Data>,
    pieces: &[&[u8]],
    outgoing: &mut Outgoing,
) -> Result<usize, Error> {
    let mut rest = Pieces { pieces, at: 0 };
    let mut count = 0;
    while outgoing.room() >= RECORD_BYTES_MAX + OVERHEAD_BYTES_MAX {
        let mut seal = |bytes: &[u8]| outgoing.add(|room| traffic.encrypt(bytes, room)).map_err(exhausted);
        let taken = match rest.in_one() {
            Some([]) => break,
            Some(bytes) => {
                seal(bytes)?;
                bytes.len()
            }
            None => RECORD.with_borrow_mut(|record| {
                record.clear();
                rest.gather(record);
                seal(record)?;
                Ok::<usize, Error>(record.len())
            })?,
        };
        rest.advance(taken);
        count += taken;
    }
    Ok(count)
}

/// What is left of several pieces.
struct Pieces<'p> {
    pieces: &'p [&'p [u8]],
    at: usize,
}

impl<'p> Pieces<'p> {
    /// The next record's bytes if they need not be gathered; empty at the end.
    fn in_one(&self) -> Option<&'p [u8]> {
        let Some((first, more)) = self.pieces.split_first() else { return Some(&[]) };
        let here = &first[self.at..];
        if here.len() >= RECORD_BYTES_MAX {
            return Some(&here[..RECORD_BYTES_MAX]);
        }
        let last = more.iter().all(|piece| piece.is_empty());
        last.then_some(here)
    }

    fn gather(&self, into: &mut Vec<u8>) {
        let mut at = self.at;
        for piece in self.pieces {
            let here = &piece[at..];
            let room = RECORD_BYTES_MAX - into.len();
            into.extend_from_slice(&here[..here.len().min(room)]);
            at = 0;
        }
    }

    fn advance(&mut self, mut count: usize) {
        while let Some((first, more)) = self.pieces.split_first() {
            let left = first.len() - self.at;
            if count < left {
                self.at += count;
                return;
            }
            count -= left;
            (self.pieces, self.at) = (more, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_records_without_loss() {
        let (head, data, tail) = (vec![1; 300], vec![2; 3 * RECORD_BYTES_MAX + 5], vec![3; 2]);
        for pieces in [
            &[&head[..], &data, &tail][..],
            &[&head[..], &[], &tail],
            &[&[], &data[..], &[]],
            &[&head[..]],
            &[&[][..], &[]],
            &[],
        ] {
            let mut rest = Pieces { pieces, at: 0 };
            let mut all = Vec::new();
            loop {
                let mut record = Vec::new();
                match rest.in_one() {
                    Some([]) => break,
                    Some(bytes) => record.extend_from_slice(bytes),
                    None => rest.gather(&mut record),
                }
                assert!(!record.is_empty() && record.len() <= RECORD_BYTES_MAX);
                rest.advance(record.len());
                all.extend(record);
            }
            assert!(all == pieces.concat());
        }
    }
}
