//! Who answers for a VIP on the LAN, seen from a host that only watches.
//!
//! Every interval it asks for each VIP (broadcast ARP request, multicast neighbour solicitation), as another of its
//! thirty-two addresses each time: an answer is sent to the address that asked, and so tells which question it belongs
//! to however late it comes. The asking addresses are no kernel's; nothing but the packet socket takes part, so that
//! no neighbour table but the nodes' own learns anything.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::frames;
use super::sightings::{Sighting, SightingKind, WatchReport};
use super::ticker::{Ticker, go_first};
use crate::lab::addresses::{ASKING_ADDRESSES, ASKING_FIRST, Mac, mac_text, v4, v6};
use crate::lab::clock::{now, wait_for};
use crate::lab::error::{Context, LabError, Result};
use crate::lab::netns::Worker;
use crate::lab::{Host, Lab};

const STOP_CHECK_MS: u16 = 50;
const FRAME_BYTES_MAX: usize = 2048;

/// How a [`Watcher`] watches.
#[derive(Clone, Debug)]
pub struct WatchSettings {
    /// The VIPs.
    pub vips: Vec<IpAddr>,
    /// The time between questions; zero to ask nothing and only listen.
    pub interval: Duration,
    /// The most questions and the most sightings recorded; later ones are counted only.
    pub records_max: usize,
}

impl WatchSettings {
    /// Asks for these VIPs every 5 ms.
    #[must_use]
    pub fn new(vips: &[IpAddr]) -> Self {
        Self { vips: vips.to_vec(), interval: Duration::from_millis(5), records_max: 1_000_000 }
    }
}

/// A running watcher.
#[derive(Debug)]
pub struct Watcher {
    report: Arc<Mutex<WatchReport>>,
    worker: Worker<()>,
}

impl Watcher {
    /// Starts watching from the lab's watching host.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when the socket or thread cannot be made.
    pub fn start(lab: &Lab, settings: WatchSettings) -> Result<Self> {
        let report = Arc::new(Mutex::new(WatchReport::default()));
        let doing = || "opening the watcher's packet socket".to_owned();
        let namespace = lab.watch().namespace();
        let socket = namespace.inside(packet_socket)?.doing(doing)?;
        let own_mac = lab.watch().mac();
        let mut engine = Engine::new(settings, socket, own_mac, Arc::clone(&report)).doing(doing)?;
        let worker = namespace.worker("watcher", move |stop| engine.run(stop))?;
        Ok(Self { report, worker })
    }

    /// Waits for an announcement of the VIP later than `after`.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when there is none within `limit`.
    pub fn wait_announcement(
        &self,
        vip: impl Into<IpAddr>,
        after: common::time::Instant,
        limit: Duration,
    ) -> Result<Sighting> {
        let vip = vip.into();
        wait_for(&format!("an announcement of {vip}"), limit, || {
            lock(&self.report).announcements(vip).find(|seen| seen.at > after).copied()
        })
    }

    /// Waits until this host, and nobody else, has answered the last `questions` questions for the VIP.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Timeout`] when it has not within `limit`.
    pub fn wait_owner(
        &self,
        vip: impl Into<IpAddr>,
        mac: Mac,
        questions: usize,
        limit: Duration,
    ) -> Result<()> {
        let vip = vip.into();
        wait_for(&format!("{} to be the only one to answer for {vip}", mac_text(mac)), limit, || {
            let answers = lock(&self.report).answers(vip);
            // The last question may still be under way.
            let known = answers.len().checked_sub(1)?;
            let last = &answers[known.checked_sub(questions)?..known];
            last.iter().all(|macs| macs.len() == 1 && macs.contains(&mac)).then_some(())
        })
    }

    /// What has been seen so far.
    #[must_use]
    pub fn snapshot(&self) -> WatchReport {
        lock(&self.report).clone()
    }

    /// Stops and reports.
    ///
    /// # Errors
    /// [`crate::lab::LabError::Io`] when the thread panicked.
    pub fn stop(self) -> Result<WatchReport> {
        self.worker.stop()?;
        Ok(std::mem::take(&mut *lock(&self.report)))
    }
}

struct Engine {
    settings: WatchSettings,
    socket: Socket,
    epoll: Epoll,
    ticker: Option<Ticker>,
    own_mac: Mac,
    /// The questions' frames, by asking address; each has one per VIP.
    frames: Vec<Vec<Vec<u8>>>,
    /// The last question of each asking address.
    last_asked: HashMap<IpAddr, u64>,
    report: Arc<Mutex<WatchReport>>,
}

impl Engine {
    fn new(
        settings: WatchSettings,
        socket: Socket,
        own_mac: Mac,
        report: Arc<Mutex<WatchReport>>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let mut ticker = None;
        if !settings.interval.is_zero() {
            let beat = Ticker::new(settings.interval)?;
            epoll.add(&beat, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
            ticker = Some(beat);
        }
        let hosts = ASKING_FIRST..ASKING_FIRST + ASKING_ADDRESSES;
        let frames =
            hosts.map(|host| settings.vips.iter().map(|vip| question(own_mac, host, *vip)).collect());
        let frames = frames.collect();
        Ok(Self { settings, socket, epoll, ticker, own_mac, frames, last_asked: HashMap::new(), report })
    }

    fn run(&mut self, stop: &AtomicBool) {
        go_first();
        let mut events = [EpollEvent::empty(); 2];
        while !stop.load(Ordering::Acquire) {
            // What may be readable is read whatever woke the thread; an interrupted wait is a wake-up too.
            self.epoll.wait(&mut events, STOP_CHECK_MS).ok();
            self.receive();
            let beats = self.ticker.as_ref().map_or(0, Ticker::beats);
            if beats > 0 {
                lock(&self.report).skipped += beats - 1;
                self.ask();
            }
        }
    }

    fn ask(&mut self) {
        let number = {
            let mut report = lock(&self.report);
            if report.asked.len() >= self.settings.records_max {
                report.unrecorded += 1;
                return;
            }
            report.asked.push(now());
            report.asked.len() as u64 - 1
        };
        // Below the number of asking addresses.
        let index = u8::try_from(number % u64::from(ASKING_ADDRESSES)).unwrap_or(0);
        let host = ASKING_FIRST + index;
        self.last_asked.insert(IpAddr::V4(v4(host)), number);
        self.last_asked.insert(IpAddr::V6(v6(host)), number);
        for frame in &self.frames[usize::from(index)] {
            if self.socket.send(frame).is_err() {
                lock(&self.report).skipped += 1;
            }
        }
    }

    fn receive(&self) {
        let mut frame = [0; FRAME_BYTES_MAX];
        while let Ok(length) = nix::sys::socket::recv(
            self.socket.as_raw_fd(),
            &mut frame,
            nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        ) {
            let at = now();
            // What this host sends passes its own packet socket too.
            if frame.get(6..12) == Some(&self.own_mac[..]) {
                continue;
            }
            let Some(claim) = frames::parse(&frame[..length]) else { continue };
            if !self.settings.vips.contains(&claim.address) {
                continue;
            }
            let question = match claim.kind {
                SightingKind::Answer => claim.told.and_then(|told| self.last_asked.get(&told).copied()),
                SightingKind::Announcement | SightingKind::Question => None,
            };
            let sighting = Sighting { at, vip: claim.address, mac: claim.mac, kind: claim.kind, question };
            let mut report = lock(&self.report);
            if report.sightings.len() < self.settings.records_max {
                report.sightings.push(sighting);
            } else {
                report.unrecorded += 1;
            }
        }
    }
}

/// The frame that asks for a VIP as one of the asking addresses.
fn question(own_mac: Mac, host: u8, vip: IpAddr) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => vrrpd_core::neighbor::arp_request(own_mac, v4(host), vip),
        IpAddr::V6(vip) => vrrpd_core::neighbor::neighbor_solicitation(own_mac, v6(host), vip),
    }
}

/// Sends whole Ethernet frames from a host's `eth0`.
///
/// # Errors
/// [`LabError`] when the host's network cannot be entered or a frame not be sent.
pub fn send_frames(host: &Host, frames: &[Vec<u8>]) -> Result<()> {
    let sent = host.namespace().inside(|| -> io::Result<()> {
        let socket = packet_socket()?;
        for frame in frames {
            socket.send(frame)?;
        }
        Ok(())
    })?;
    let doing = || format!("sending frames from {}", host.name());
    sent.map_err(|source| LabError::Io { doing: doing(), source })
}

/// A packet socket for every frame of `eth0` in the calling thread's network.
#[expect(clippy::cast_possible_truncation, reason = "constants and a size, all of them below 2^16")]
fn packet_socket() -> io::Result<Socket> {
    let every = (libc::ETH_P_ALL as u16).to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(every))))?;
    let index = if_nametoindex("eth0")?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a socket address of the operating system, and fits any storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = every;
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a `sockaddr_ll` whose family says so, and the length is its length.
    let address = unsafe { SockAddr::new(storage, length) };
    socket.bind(&address)?;
    Ok(socket)
}

fn lock(report: &Mutex<WatchReport>) -> MutexGuard<'_, WatchReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}
