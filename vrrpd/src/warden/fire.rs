//! The warden's own side: releasing.

use common::time::UnixTime;
use std::net::IpAddr;

use vrrpd_core::auth::{Signer, emit_signed};
use vrrpd_core::neighbor::virtual_mac;
use vrrpd_core::packet::{Advert, Family};
use vrrpd_core::peer::{Body, RouterKey, Sealer};

use super::page::{Page, Watch};
use super::plan::{Plan, PlanPeer};
use crate::clock;
use crate::netlink::Netlink;
use crate::socket::{AdvertSocket, FrameSocket, PeerSocket, SocketError, advert_frame};

/// Stamps of signed advertisements have a resolution of 15.3 µs: so far above the floor another one begins.
const STAMP_STEP_NS: u64 = 20_000;

/// A plan with everything opened that can be opened in advance.
#[derive(Debug)]
pub(super) struct Armed {
    plan: Plan,
    adverts: Result<AdvertSocket, SocketError>,
    frames: Option<Result<FrameSocket, SocketError>>,
    peer: Option<Result<PeerSocket, SocketError>>,
}

impl Armed {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            adverts: AdvertSocket::open_sender(plan.interface, Family::of(plan.source)),
            frames: plan.virtual_mac.then(|| FrameSocket::open_sender(plan.interface)),
            peer: plan.peer.as_ref().map(|peer| PeerSocket::open_sender(peer.local, peer.remote)),
            plan,
        }
    }

    /// When the next beat is overdue, in nanoseconds of `CLOCK_BOOTTIME`; never if the slot is not watched.
    pub(super) fn deadline(&self, watch: Watch) -> Option<u64> {
        let Watch::Beaten(beat) = watch else { return None };
        Some(beat.saturating_add(u64::try_from(self.plan.timeout.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// "I stop being active": the advertisement of priority 0.
    fn farewell(&self, floor: u64) -> Vec<u8> {
        let plan = &self.plan;
        let advert = Advert {
            version: plan.version,
            vrid: plan.vrid,
            priority: 0,
            interval: plan.interval,
            addresses: plan.addresses.iter().map(ipnet::IpNet::addr).collect::<Vec<IpAddr>>(),
        };
        let Some(key) = &plan.signing_key else {
            return advert.emit(plan.source, plan.destination, plan.checksum);
        };
        let now = UnixTime::from_nanos(clock::now().unix.as_nanos().max(floor.saturating_add(STAMP_STEP_NS)));
        emit_signed(&advert, plan.source, plan.destination, plan.checksum, &mut Signer::new(key), now)
    }

    fn send_farewell(&self, floor: u64) -> Result<(), String> {
        let plan = &self.plan;
        let bytes = self.farewell(floor);
        let mac = virtual_mac(Family::of(plan.source), plan.vrid);
        let frame = advert_frame(mac, plan.source, plan.destination, &bytes);
        let sent = match (&self.frames, frame) {
            (Some(Ok(socket)), Some(frame)) => socket.send(&frame),
            (Some(Err(error)), Some(_)) => return Err(error.to_string()),
            // Unicast to the neighbour's Ethernet address, which the kernel knows.
            _ => match &self.adverts {
                Ok(socket) => socket.send(plan.source, plan.destination, &bytes),
                Err(error) => return Err(error.to_string()),
            },
        };
        sent.map_err(|error| format!("sending priority 0 failed: {error}"))
    }
}

/// Everything that one datagram to the other node says: it goes over one link, from one life to another.
struct Release<'a> {
    link: &'a PlanPeer,
    socket: &'a PeerSocket,
    routers: Vec<RouterKey>,
    sealer: Sealer,
}

impl Release<'_> {
    fn send(&mut self) -> Result<(), String> {
        let body = Body::Release { routers: self.routers.clone() };
        let bytes = self
            .sealer
            .seal(self.link.echo, clock::now().unix, body)
            .map_err(|error| format!("telling the other node failed: {error}"))?;
        self.socket.send(&bytes).map_err(|error| format!("telling the other node failed: {error}"))
    }
}

/// Tells the other node, then the link, and removes the addresses; gives what failed. The slots are marked already.
pub(super) fn release(due: &mut [Armed], page: &Page, netlink: &mut Netlink) -> Vec<String> {
    let mut failures = Vec::new();
    let mut releases = releases(due, page, &mut failures);
    // Twice, before and after the rest: a datagram may get lost, and the other node takes the same word twice.
    for release in &mut releases {
        failures.extend(release.send().err());
    }
    for armed in due.iter() {
        failures.extend(armed.send_farewell(page.floor(armed.plan.slot)).err());
    }
    let addresses = due
        .iter()
        .flat_map(|armed| armed.plan.addresses.iter().map(|address| (armed.plan.address_index, *address)));
    failures.extend(netlink.remove_addresses(addresses).err().map(|error| error.to_string()));
    for release in &mut releases {
        drop(release.send());
    }
    failures
}

fn releases<'a>(due: &'a [Armed], page: &Page, failures: &mut Vec<String>) -> Vec<Release<'a>> {
    let mut releases: Vec<Release<'a>> = Vec::new();
    for armed in due {
        let Some(link) = armed.plan.peer.as_ref().filter(|link| link.echo != 0) else { continue };
        let socket = match &armed.peer {
            Some(Ok(socket)) => socket,
            Some(Err(error)) => {
                failures.push(error.to_string());
                continue;
            }
            None => continue,
        };
        let floor = page.floor(armed.plan.slot);
        if let Some(known) = releases.iter_mut().find(|known| known.link == link) {
            known.routers.push(armed.plan.router);
            known.sealer.raise_stamp(floor);
            continue;
        }
        let mut sealer = Sealer::new(link.key, &link.node, link.boot);
        sealer.raise_stamp(floor);
        releases.push(Release { link, socket, routers: vec![armed.plan.router], sealer });
    }
    releases
}
