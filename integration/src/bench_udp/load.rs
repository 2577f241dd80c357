//! Clients that ask, and the target that answers.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Load;
use crate::bench_tcp::usage::processor_time;

/// How long a load lasts.
const LASTS: Duration = Duration::from_millis(1500);

/// What has not come back for so long is lost.
const LOST_AFTER: Duration = Duration::from_millis(200);

/// What a load came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) wall: Duration,
    pub(super) processor: Duration,
}

#[expect(clippy::cast_precision_loss, reason = "there are far less than 2^52 datagrams")]
impl Stretch {
    /// Processor time of a datagram and its answer.
    pub(super) fn processor_us(&self) -> f64 {
        self.processor.as_secs_f64() * 1e6 / self.answered.max(1) as f64
    }

    pub(super) fn per_second(&self) -> f64 {
        self.answered as f64 / self.wall.as_secs_f64()
    }

    /// The part that was lost.
    pub(super) fn lost(&self) -> f64 {
        self.sent.saturating_sub(self.answered) as f64 / self.sent.max(1) as f64
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, us, lost) = (self.per_second(), self.processor_us(), self.lost() * 100.0);
        write!(f, "{rate:.0}/s, {us:.2} µs of processor time each, {lost:.2} % lost")
    }
}

struct Client {
    socket: UdpSocket,
    under_way: u32,
    last: Instant,
}

impl Client {
    fn new(server: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, under_way: 0, last: Instant::now() })
    }
}

/// Asks through the proxy at `server`, whose processes these are.
pub(super) fn run(load: Load, server: SocketAddr, pids: &[i32]) -> io::Result<Stretch> {
    let (count, window, size) = load.shape();
    let mut clients = (0..count).map(|_| Client::new(server)).collect::<io::Result<Vec<Client>>>()?;
    let (question, mut answer) = (vec![7; size], vec![0; 2048]);
    let (mut sent, mut answered) = (0, 0);
    let before = processor_time(pids)?;
    let begin = Instant::now();
    loop {
        let now = Instant::now();
        // What is under way at the end may come back.
        let asks = now - begin < LASTS;
        for client in &mut clients {
            let mut came = false;
            while client.socket.recv(&mut answer).is_ok() {
                answered += 1;
                client.under_way = client.under_way.saturating_sub(1);
                (client.last, came) = (now, true);
            }
            if came && load == Load::Sessions && asks {
                *client = Client::new(server)?;
            }
            if now - client.last > LOST_AFTER {
                client.under_way = 0;
            }
            while asks && client.under_way < window && client.socket.send(&question).is_ok() {
                sent += 1;
                client.under_way += 1;
                client.last = now;
            }
        }
        if !asks && clients.iter().all(|client| client.under_way == 0) {
            break;
        }
        // The target is on the same processor.
        std::thread::yield_now();
    }
    Ok(Stretch { sent, answered, wall: begin.elapsed(), processor: processor_time(pids)? - before })
}

/// The target: it sends back what it gets, until dropped.
pub(super) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub(super) fn start(socket: UdpSocket) -> io::Result<Self> {
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("echo".to_owned()).spawn(move || {
            let mut bytes = vec![0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    // A lost answer is what UDP allows, and counted.
                    socket.send_to(&bytes[..length], from).ok();
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
