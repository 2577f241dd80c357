//! TCP sockets of a worker, which its [`Reactor`] watches.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, acceptfrom_with, recv, send, sendmsg,
};
use socket2::SockRef;

use crate::executor::{Interest, Reactor, Ready, Registration};

/// A socket that one task waits for. Nothing here ever blocks.
#[derive(Debug)]
pub(crate) struct Socket {
    registration: Registration,
    fd: OwnedFd,
}

impl Socket {
    /// Takes a socket that does not block.
    ///
    /// # Errors
    /// When the kernel cannot watch it.
    pub(crate) fn new(reactor: &Rc<Reactor>, fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { registration: reactor.enter(fd.as_fd(), Interest::Connection)?, fd })
    }

    /// Connects a new socket that does not block.
    ///
    /// # Errors
    /// Why it could not be connected.
    pub(crate) async fn connect(
        reactor: &Rc<Reactor>,
        socket: socket2::Socket,
        address: SocketAddr,
    ) -> io::Result<Self> {
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let socket = Self::new(reactor, socket.into())?;
        socket.writable().await;
        if socket.is(Ready::FAILED) {
            let error = SockRef::from(&socket).take_error()?;
            return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()));
        }
        Ok(socket)
    }

    /// Waits for the next connection to a listening socket.
    ///
    /// # Errors
    /// Why it cannot be accepted.
    pub(crate) async fn accept(&self, reactor: &Rc<Reactor>) -> io::Result<(Self, SocketAddr)> {
        loop {
            self.readable().await;
            match self.try_accept(reactor) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Accepts a connection that waits.
    ///
    /// # Errors
    /// `WouldBlock` when none does, or why it cannot be accepted.
    pub(crate) fn try_accept(&self, reactor: &Rc<Reactor>) -> io::Result<(Self, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, peer) = self.attempt(Ready::READABLE, |fd| Ok(acceptfrom_with(fd, flags)?))?;
        // TCP's peers have an address and a port.
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        Ok((Self::new(reactor, fd)?, peer.ok_or(io::ErrorKind::ConnectionAborted)?))
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = SockRef::from(self).local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Waits until there may be something to read.
    pub(crate) async fn readable(&self) {
        poll_fn(|context| self.poll(context, Ready::READABLE)).await;
    }

    /// Waits until there may be room to write.
    pub(crate) async fn writable(&self) {
        poll_fn(|context| self.poll(context, Ready::WRITABLE)).await;
    }

    /// Waits until anything of `what` is known.
    pub(crate) fn poll(&self, context: &Context<'_>, what: Ready) -> Poll<()> {
        self.registration.poll(context, what)
    }

    /// Has the task woken by whatever becomes known next.
    pub(crate) fn watch(&self, context: &Context<'_>) {
        self.registration.watch(context);
    }

    /// Whether anything of `what` is known.
    pub(crate) fn is(&self, what: Ready) -> bool {
        self.registration.ready().has(what)
    }

    /// Makes a call that needs `what`, and forgets it if the call says so.
    ///
    /// # Errors
    /// `WouldBlock`, or what else the call says.
    pub(crate) fn attempt<T>(
        &self,
        what: Ready,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let result = call(self.fd.as_fd());
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.registration.forget(what);
        }
        result
    }

    /// Reads what has come; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has, or why the connection is broken.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len();
        let (_, count) = self.attempt(Ready::READABLE, |fd| Ok(recv(fd, buffer, RecvFlags::empty())?))?;
        // That was all, and the kernel tells when there is more: unless there is already, the end or what follows urgent data.
        if (1..room).contains(&count) && !self.is(Ready::ENDED.and(Ready::URGENT)) {
            self.registration.forget(Ready::READABLE);
        }
        Ok(count)
    }

    /// Writes as much as there is room for. `more` says that something follows at once, if only the end: the kernel then sends
    /// both together.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, or why the connection is broken.
    pub(crate) fn try_write(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        let count = self.attempt(Ready::WRITABLE, |fd| Ok(send(fd, bytes, flags)?))?;
        if count < bytes.len() {
            self.registration.forget(Ready::WRITABLE);
        }
        Ok(count)
    }

    /// Writes as much of several pieces, one behind the other, as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, or why the connection is broken.
    pub(crate) fn try_write_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL;
        let write = |fd: BorrowedFd<'_>| Ok(sendmsg(fd, pieces, &mut SendAncillaryBuffer::default(), flags)?);
        let count = self.attempt(Ready::WRITABLE, write)?;
        if count < pieces.iter().map(|piece| piece.len()).sum() {
            self.registration.forget(Ready::WRITABLE);
        }
        Ok(count)
    }

    /// Whether nothing has come and the other end has not finished, as far as was told; `ask` asks the kernel once more.
    pub(crate) fn is_quiet(&self, ask: bool) -> bool {
        if self.is(Ready::ENDED.and(Ready::FAILED)) {
            return false;
        }
        if !ask && !self.is(Ready::READABLE) {
            return true;
        }
        let mut byte = [0];
        let peeked = self.attempt(Ready::READABLE, |fd| Ok(recv(fd, &mut byte, RecvFlags::PEEK)?));
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Why the connection is broken.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.writable().await;
            match self.try_write(bytes, false) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::{Domain, Type};

    use super::*;
    use crate::executor::Executor;

    /// Runs a test as a worker would; it fails rather than hang.
    fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Reactor>) -> F) {
        let executor = Rc::new(Executor::new().unwrap());
        let test = test(Rc::clone(executor.reactor()));
        let (within, passed) = (Rc::clone(&executor), Rc::new(Cell::new(false)));
        let pass = Rc::clone(&passed);
        let main = async move { pass.set(within.timeout(Duration::from_secs(20), test).await.is_some()) };
        executor.run(main).unwrap();
        assert!(passed.get());
    }

    fn new_socket() -> socket2::Socket {
        socket2::Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap()
    }

    /// A socket of ours and the other end.
    async fn pair(reactor: &Rc<Reactor>) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = Socket::connect(reactor, new_socket(), listener.local_addr().unwrap()).await.unwrap();
        (ours, listener.accept().unwrap().0)
    }

    #[test]
    fn connections_are_accepted_with_their_peer() {
        run(async |reactor| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let listener = Socket::new(&reactor, listener.into()).unwrap();
            let error = listener.try_accept(&reactor).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            for _ in 0..3 {
                let client = TcpStream::connect(address).unwrap();
                let (accepted, peer) = listener.accept(&reactor).await.unwrap();
                assert_eq!((peer, accepted.local_addr().unwrap()), (client.local_addr().unwrap(), address));
            }
        });
    }

    #[test]
    fn a_refused_connect_says_so() {
        run(async |reactor| {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let error = Socket::connect(&reactor, new_socket(), address).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn what_comes_is_read_and_then_the_end() {
        run(async |reactor| {
            let (ours, mut theirs) = pair(&reactor).await;
            let mut buffer = [0; 8];
            assert_eq!(ours.try_read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            for text in [&b"one"[..], b"eight by", b"tes and the end"] {
                theirs.write_all(text).unwrap();
            }
            drop(theirs);
            let mut got = Vec::new();
            loop {
                ours.readable().await;
                match ours.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => got.extend_from_slice(&buffer[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(got, b"oneeight bytes and the end");
            assert!(ours.is(Ready::ENDED) && !ours.is(Ready::FAILED));
        });
    }

    #[test]
    fn what_follows_urgent_data_is_not_forgotten() {
        run(async |reactor| {
            let (ours, mut theirs) = pair(&reactor).await;
            theirs.write_all(b"before").unwrap();
            SockRef::from(&theirs).send_out_of_band(b"!").unwrap();
            theirs.write_all(b"after").unwrap();
            // On loopback all of it is there before the first read, which stops at the urgent byte.
            let (mut got, mut buffer) = (Vec::new(), [0; 64]);
            while got.len() < 11 {
                ours.readable().await;
                if let Ok(count) = ours.try_read(&mut buffer) {
                    got.extend_from_slice(&buffer[..count]);
                }
            }
            assert_eq!(got, b"beforeafter");
        });
    }

    #[test]
    fn writing_waits_for_room() {
        run(async |reactor| {
            let (ours, mut theirs) = pair(&reactor).await;
            let bytes = vec![7; 32 << 20];
            let reader = std::thread::spawn(move || {
                let mut got = Vec::new();
                theirs.read_to_end(&mut got).unwrap();
                got
            });
            ours.write_all(&bytes).await.unwrap();
            drop(ours);
            assert!(reader.join().unwrap() == bytes);
        });
    }

    #[test]
    fn pieces_are_written_one_behind_the_other_and_quiet_is_known() {
        run(async |reactor| {
            let (ours, mut theirs) = pair(&reactor).await;
            let pieces = [&b"one "[..], b"", b"two"].map(IoSlice::new);
            assert_eq!(ours.try_write_pieces(&pieces).unwrap(), 7);
            let mut got = [0; 7];
            theirs.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"one two");
            assert!(ours.is_quiet(true) && ours.is_quiet(false));
            theirs.write_all(b"x").unwrap();
            assert!(!ours.is_quiet(true), "asked, the kernel knows at once");
            ours.readable().await;
            assert!(!ours.is_quiet(false));
            assert_eq!(ours.try_read(&mut [0; 8]).unwrap(), 1);
            assert!(ours.is_quiet(false));
            drop(theirs);
            assert!(!ours.is_quiet(true));
        });
    }

    #[test]
    fn a_reset_is_told_though_nobody_reads() {
        run(async |reactor| {
            let (ours, theirs) = pair(&reactor).await;
            SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
            drop(theirs);
            poll_fn(|context| ours.poll(context, Ready::FAILED)).await;
            assert!(ours.try_read(&mut [0]).is_err());
        });
    }

    #[test]
    fn a_place_is_used_again_and_its_former_socket_forgotten() {
        run(async |reactor| {
            let (first, mut theirs) = pair(&reactor).await;
            theirs.write_all(b"for the first").unwrap();
            first.readable().await;
            drop(first);
            let (second, _other) = pair(&reactor).await;
            second.writable().await;
            assert!(!second.is(Ready::READABLE.and(Ready::ENDED)));
        });
    }
}
