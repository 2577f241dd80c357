//! Something between the nodes that records, stops or cuts.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::support::PATIENCE;

/// A port of the proxy's address.
pub(super) const PROXY_PORT: u16 = 7113;

/// Passes connections on from an address of its own, byte by byte.
#[derive(Default)]
pub(super) struct Proxy {
    /// What those who connect have said, connection by connection.
    pub(super) recorded: Mutex<Vec<Vec<u8>>>,
    /// Connections so far.
    pub(super) connections: AtomicU64,
    /// What comes is swallowed, ends of streams too; for the connections of now.
    mute: Mutex<Arc<AtomicBool>>,
    /// Bytes until new connections are cut, both ways together; 0 for never.
    pub(super) cut_after: AtomicU64,
}

impl Proxy {
    /// Listens on `listen`, and passes on to `to`, from an address `from`. Its threads end with the test's process.
    pub(super) fn start(listen: SocketAddr, from: IpAddr, to: SocketAddr) -> Arc<Self> {
        let proxy = Arc::new(Self::default());
        let shared = Arc::clone(&proxy);
        let listener = TcpListener::bind(listen).unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                if let Ok(server) = connect_from(from, to) {
                    shared.pass(client, server);
                }
            }
        });
        proxy
    }

    /// From now on nothing of the connections of now gets through, and they stay open.
    pub(super) fn mute(&self) {
        let mut mute = self.mute.lock().unwrap();
        mute.store(true, Ordering::SeqCst);
        *mute = Arc::default();
    }

    fn pass(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let mute = Arc::clone(&self.mute.lock().unwrap());
        let cut_after = self.cut_after.load(Ordering::SeqCst);
        let left = Arc::new(AtomicU64::new(if cut_after == 0 { u64::MAX } else { cut_after }));
        let index = {
            let mut recorded = self.recorded.lock().unwrap();
            recorded.push(Vec::new());
            recorded.len() - 1
        };
        let ways = [(client.try_clone(), server.try_clone(), Some(index)), (Ok(server), Ok(client), None)];
        for (from, to, record) in ways {
            let (Ok(from), Ok(to)) = (from, to) else { return };
            let (proxy, mute, left) = (Arc::clone(self), Arc::clone(&mute), Arc::clone(&left));
            std::thread::spawn(move || proxy.copy(from, to, record, &mute, &left));
        }
    }

    fn copy(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        record: Option<usize>,
        mute: &AtomicBool,
        left: &AtomicU64,
    ) {
        let mut buffer = [0; 4096];
        loop {
            let length = from.read(&mut buffer).unwrap_or(0);
            if mute.load(Ordering::SeqCst) {
                // Held open, as a host without power would.
                std::thread::sleep(PATIENCE);
                return;
            }
            let before = left.load(Ordering::SeqCst);
            let passed = usize::try_from(before).unwrap_or(usize::MAX).min(length);
            left.fetch_sub(passed as u64, Ordering::SeqCst);
            if let Some(index) = record {
                self.recorded.lock().unwrap()[index].extend_from_slice(&buffer[..passed]);
            }
            let written = to.write_all(&buffer[..passed]);
            if length == 0 || passed < length || written.is_err() {
                for stream in [&from, &to] {
                    stream.shutdown(Shutdown::Both).ok();
                }
                return;
            }
        }
    }
}

/// A connection from any port of `from`.
pub(super) fn connect_from(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
