//! Clients that talk by datagrams, each from one port all the time, and a target that remembers from where it hears each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use integration::lab::netns::Worker;
use integration::lab::probe::{DatagramProbe, DatagramSettings};
use integration::lab::{Lab, Result, Target};

use crate::pair_support::{LIMIT, vips};

/// The service's port, and the targets'.
pub(crate) const PORT: u16 = 7070;

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

/// Some clients, as many of each virtual IP.
pub(crate) struct Clients {
    numbers: Range<u32>,
    probe: DatagramProbe,
}

impl Clients {
    /// So many of each family from number `first` on, which send datagrams of so many bytes.
    pub(crate) fn start(lab: &Lab, first: u32, each: u32, every: Duration, size: usize) -> Result<Self> {
        Self::start_at(lab, &vips(), first, each, (every, size))
    }

    /// The same at these virtual IPs.
    pub(crate) fn start_at(
        lab: &Lab,
        vips: &[IpAddr],
        first: u32,
        each: u32,
        (interval, size): (Duration, usize),
    ) -> Result<Self> {
        let destinations: Vec<SocketAddr> = vips.iter().map(|vip| SocketAddr::new(*vip, PORT)).collect();
        let count = each * u32::try_from(vips.len()).expect("there are few");
        let all = DatagramSettings::new(&destinations, each as usize);
        let settings = DatagramSettings { first, interval, size, ..all };
        let probe = DatagramProbe::start(lab.client(), settings)?;
        Ok(Self { numbers: first..first + count, probe })
    }

    /// Waits until each has been answered some more.
    pub(crate) fn steady(&self) -> Result<()> {
        self.probe.wait_answers(3, LIMIT)
    }

    /// Where one of each family talks from, of IPv4 first.
    pub(crate) fn one_of_each(&self) -> [SocketAddr; 2] {
        [true, false].map(|is_v4| {
            let mut all = self.probe.addresses().iter().copied();
            all.find(|it| it.is_ipv4() == is_v4).expect("there are clients of both")
        })
    }

    /// Ends them. Answers how many datagrams were not answered, and the longest time that one waited for an answer.
    pub(crate) fn end(self) -> Result<(u64, Duration)> {
        let report = self.probe.stop()?;
        assert_eq!(report.strange, 0, "an answer to somebody else");
        Ok((report.unanswered(), report.silence()))
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
