//! UDP services: sessions, addresses, moves, bounds.

mod bounds;
mod datagrams;
mod dns;
mod moves;
mod reload;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::{Config, Lbd, PATIENCE, eventually};

/// Datagrams that are answered.
pub(crate) struct Answering {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    seen: Arc<AtomicUsize>,
    /// Where datagrams have come from: one address for each session.
    sources: Arc<Mutex<HashSet<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    /// Answers each datagram with what `answer` makes of it, unless that is nothing.
    pub(crate) fn start(
        address: SocketAddr,
        answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
        let (seen, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let sources = Arc::new(Mutex::new(HashSet::new()));
        let (count, stopped, known) = (Arc::clone(&seen), Arc::clone(&stop), Arc::clone(&sources));
        let thread = std::thread::spawn(move || {
            let mut bytes = vec![0; 70_000];
            while !stopped.load(Ordering::SeqCst) {
                let Ok((length, source)) = socket.recv_from(&mut bytes) else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                known.lock().unwrap().insert(source);
                if let Some(answer) = answer(&bytes[..length]) {
                    // Whoever asked may have gone.
                    drop(socket.send_to(&answer, source));
                }
            }
        });
        Self { address, seen, sources, stop, thread: Some(thread) }
    }

    /// Sends back what it gets.
    pub(crate) fn echo(ip: impl Into<IpAddr>) -> Self {
        Self::start((ip.into(), 0).into(), |bytes| Some(bytes.to_vec()))
    }

    /// Answers with `name`.
    pub(crate) fn named(ip: impl Into<IpAddr>, name: &'static str) -> Self {
        Self::start((ip.into(), 0).into(), move |_| Some(name.as_bytes().to_vec()))
    }

    /// How many datagrams have come.
    pub(crate) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// From how many addresses.
    pub(crate) fn sessions(&self) -> usize {
        self.sources.lock().unwrap().len()
    }

    /// From how many hosts.
    pub(crate) fn hosts(&self) -> HashSet<IpAddr> {
        self.sources.lock().unwrap().iter().map(SocketAddr::ip).collect()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The usual configuration, for datagrams.
pub(crate) fn config(ip: std::net::Ipv4Addr, targets: &[&Answering]) -> Config {
    let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    let mut config = Config::new(ip, &addresses);
    config.mode = "udp".to_owned();
    config
}

/// A client that hears only the address it talks to.
pub(crate) fn client(from: impl Into<IpAddr>, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((from.into(), 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends `bytes` and waits for an answer.
pub(crate) fn ask(client: &UdpSocket, bytes: &[u8]) -> io::Result<Vec<u8>> {
    client.send(bytes)?;
    hear(client)
}

/// Waits for an answer.
pub(crate) fn hear(client: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; 70_000];
    let length = client.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// Asks again and again, as programs do whose datagrams may be lost; answers what is heard first.
pub(crate) fn insist(client: &UdpSocket, bytes: &[u8]) -> Vec<u8> {
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = Vec::new();
    eventually("an answer", || {
        let heard = ask(client, bytes);
        let good = heard.is_ok();
        answer = heard.unwrap_or_default();
        good
    });
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    answer
}

/// A number of the metrics: the sum over the lines that begin with `name` and contain `label`.
pub(crate) fn metric(lbd: &Lbd, name: &str, label: &str) -> u64 {
    let (_, text) = lbd.ask("GET", "/metrics");
    let name = format!("tandem_lbd_{name}{{");
    let lines = text.lines().filter(|line| line.starts_with(&name) && line.contains(label));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Datagrams dropped for a reason.
pub(crate) fn dropped(lbd: &Lbd, reason: &str) -> u64 {
    metric(lbd, "service_datagrams_dropped_total", &format!("reason=\"{reason}\""))
}
