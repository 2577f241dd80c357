//! Clients that talk by datagrams, each from one port all the time, and a target that remembers from where it hears each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use integration::lab::clock::wait_until;
use integration::lab::netns::Worker;
use integration::lab::{Lab, Result, Target};

use crate::pair_support::{LIMIT, vips};

/// The service's port, and the targets'.
pub(crate) const PORT: u16 = 7070;

/// A datagram begins with its client's number and its own.
const HEAD: usize = 12;

/// After its end a client waits for so long for what is still on its way.
const LINGER: Duration = Duration::from_secs(1);

/// From where, and by which target, each client was heard.
type Heard = BTreeMap<u32, BTreeSet<(SocketAddr, String)>>;

/// The servers on all targets of a lab.
pub(crate) struct Targets {
    heard: Arc<Mutex<Heard>>,
    _workers: Vec<Worker<()>>,
}

impl Targets {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let heard = Arc::<Mutex<Heard>>::default();
        let start = |target: &Target| {
            let (heard, name) = (Arc::clone(&heard), target.name().to_owned());
            target.namespace().worker("talk", move |stop| serve(stop, &name, &heard).expect("it can serve"))
        };
        let workers = lab.targets().iter().map(start).collect::<Result<_>>()?;
        Ok(Self { heard, _workers: workers })
    }

    /// From where each of these clients was heard, and by whom.
    pub(crate) fn heard(&self, clients: &Clients) -> Vec<BTreeSet<(SocketAddr, String)>> {
        let heard = lock(&self.heard);
        clients.numbers.clone().map(|client| heard.get(&client).cloned().unwrap_or_default()).collect()
    }

    /// Fails unless each client was heard from one address and port alone, which `node`'s.
    pub(crate) fn heard_once(&self, clients: &Clients, node: IpAddr) {
        for sources in self.heard(clients) {
            assert!(
                sources.len() == 1 && sources.iter().all(|it| it.0.ip() == node),
                "{sources:?}, not {node}"
            );
        }
    }
}

/// Sends back what comes.
fn serve(stop: &AtomicBool, name: &str, heard: &Mutex<Heard>) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut datagram = vec![0; 65_536];
    while !stop.load(Ordering::Acquire) {
        let Ok((length, source)) = socket.recv_from(&mut datagram) else { continue };
        let Some(client) = datagram[..length].first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else {
            continue;
        };
        lock(heard).entry(client).or_default().insert((source, name.to_owned()));
        // A node may be gone meanwhile.
        drop(socket.send_to(&datagram[..length], source));
    }
    Ok(())
}

/// What became of one client's datagrams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Talked {
    sent: u64,
    answered: BTreeSet<u64>,
    /// The longest time without an answer.
    gap: Duration,
}

/// Some clients, half of them of each family.
pub(crate) struct Clients {
    numbers: std::ops::Range<u32>,
    talked: Arc<Mutex<Vec<Talked>>>,
    worker: Worker<()>,
}

impl Clients {
    /// So many of each family from number `first` on, which send datagrams of so many bytes.
    pub(crate) fn start(lab: &Lab, first: u32, each: u32, every: Duration, size: usize) -> Result<Self> {
        let numbers = first..first + 2 * each;
        let talked = Arc::new(Mutex::new(vec![Talked::default(); 2 * each as usize]));
        let (all, shared) = (numbers.clone(), Arc::clone(&talked));
        let worker = lab.client().namespace().worker("talking", move |stop| {
            let sockets = vips().into_iter().flat_map(|vip| std::iter::repeat_n(vip, each as usize));
            let sockets = sockets.map(connect).collect::<io::Result<Vec<_>>>().expect("ports are free");
            talk(stop, all, &sockets, (every, size.max(HEAD)), &shared);
        })?;
        Ok(Self { numbers, talked, worker })
    }

    /// Waits until each has been answered some more.
    pub(crate) fn steady(&self) -> Result<()> {
        let counts = || lock(&self.talked).iter().map(|it| it.answered.len()).collect::<Vec<_>>();
        let before = counts();
        wait_until("answers to each client", LIMIT, || {
            counts().into_iter().zip(&before).all(|(now, before)| now >= before + 3)
        })
    }

    /// Ends them. Answers how many datagrams were not answered, and the longest time that one waited for an answer.
    pub(crate) fn end(self) -> Result<(u64, Duration)> {
        self.worker.stop()?;
        let talked = lock(&self.talked);
        let lost = talked.iter().map(|it| it.sent - it.answered.len() as u64).sum();
        Ok((lost, talked.iter().map(|it| it.gap).max().unwrap_or_default()))
    }
}

fn connect(vip: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // Answers from anywhere else are not heard.
    socket.connect((vip, PORT))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Has each say something now and then, until the end.
fn talk(
    stop: &AtomicBool,
    numbers: std::ops::Range<u32>,
    sockets: &[UdpSocket],
    (every, size): (Duration, usize),
    shared: &Mutex<Vec<Talked>>,
) {
    let mut last = vec![Instant::now(); sockets.len()];
    let (mut next, mut end) = (Instant::now(), None);
    while end.is_none_or(|end| Instant::now() < end) {
        if stop.load(Ordering::Acquire) && end.is_none() {
            end = Some(Instant::now() + LINGER);
        }
        let speaks = end.is_none() && Instant::now() >= next;
        for ((socket, client), last) in sockets.iter().zip(numbers.clone()).zip(&mut last) {
            let mut all = lock(shared);
            let talked = &mut all[(client - numbers.start) as usize];
            if speaks {
                let mut datagram = vec![0; size];
                datagram[..4].copy_from_slice(&client.to_be_bytes());
                datagram[4..HEAD].copy_from_slice(&talked.sent.to_be_bytes());
                talked.sent += 1;
                // An error is that of an earlier one, to which nobody answered.
                if socket.send(&datagram).is_err() {
                    drop(socket.send(&datagram));
                }
            }
            let mut answer = vec![0; size + 1];
            while let Ok(length) = socket.recv(&mut answer) {
                let number = answer[4..HEAD].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                assert!(length == size && answer[..4] == client.to_be_bytes(), "an answer to somebody else");
                talked.answered.extend(number);
                talked.gap = talked.gap.max(last.elapsed());
                *last = Instant::now();
            }
        }
        if speaks {
            next += every;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
