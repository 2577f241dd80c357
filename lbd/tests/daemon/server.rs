//! Targets for the daemon under test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// A server with a thread for each connection; it stops listening when dropped.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves each connection with `handle`.
    pub(crate) fn start(address: SocketAddr, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = bind(address);
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, stopped, handle) = (Arc::clone(&accepted), Arc::clone(&stop), Arc::new(handle));
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let handle = Arc::clone(&handle);
                std::thread::spawn(move || handle(stream));
            }
        });
        Self { address, accepted, stop, thread: Some(thread) }
    }

    /// Answers each connection with `name`, then closes it.
    pub(crate) fn named(address: SocketAddr, name: &'static str) -> Self {
        Self::start(address, move |mut stream| {
            // The client may have gone.
            drop(stream.write_all(name.as_bytes()));
        })
    }

    /// Sends back what it gets.
    pub(crate) fn echo(address: SocketAddr) -> Self {
        Self::start(address, |mut stream| {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
        })
    }

    /// How many connections it has accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A listener whose queue is full: attempts to connect to it are dropped silently for as long as this lives.
pub(crate) struct Hanging {
    /// Where it would listen.
    pub(crate) address: SocketAddr,
    _full: socket2::Socket,
    _queued: TcpStream,
}

impl Hanging {
    pub(crate) fn new(ip: std::net::Ipv4Addr) -> Self {
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let queued = TcpStream::connect(address).unwrap();
        Self { address, _full: full, _queued: queued }
    }
}

/// A listener that can be bound again right after another one was closed.
pub(crate) fn bind(address: SocketAddr) -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1024).unwrap();
    socket.into()
}
