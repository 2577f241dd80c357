//! Packets as the cases need them.

use common::ipc::Role;
use vrrpd_core::packet::{Advert, Family, Meta};

use crate::harness::{Lab, advert_of, meta_from, reseal, router, settings, settings_of};

/// An active IPv4 router, and a packet that would end that: the peer's, of priority 255.
pub(crate) fn active_v4() -> (Lab, Vec<u8>, Meta) {
    let lab = Lab::active(settings());
    let (bytes, meta) = better(&lab, "192.0.2.2");
    (lab, bytes, meta)
}

/// The same with IPv6.
pub(crate) fn active_v6() -> (Lab, Vec<u8>, Meta) {
    let lab = Lab::active(settings_of(vec![router(Family::V6)]));
    let (bytes, meta) = better(&lab, "fe80::2");
    (lab, bytes, meta)
}

fn better(lab: &Lab, source: &str) -> (Vec<u8>, Meta) {
    let router = lab.first();
    let meta = meta_from(source);
    (advert_of(&router, 255).emit(meta.source, meta.destination, router.checksum), meta)
}

/// The packet is heard: the router stepped down for it.
pub(crate) fn accepted(mut lab: Lab, bytes: &[u8], meta: Meta) {
    lab.hear_bytes(bytes, meta);
    assert_eq!(lab.role(), Role::Backup);
}

/// The packet has no effect, and is counted under `reason`.
pub(crate) fn discarded(mut lab: Lab, bytes: &[u8], meta: Meta, reason: &str) {
    assert!(lab.hear_bytes(bytes, meta).is_empty());
    assert_eq!((lab.role(), lab.dropped(reason)), (Role::Active, 1));
}

/// An IPv4 message changed at one byte, with a right checksum.
pub(crate) fn changed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    reseal(&mut bytes);
    bytes
}

/// The first advertisement that the active router sends, as bytes.
pub(crate) fn sent(lab: &mut Lab) -> (Vec<u8>, Meta) {
    let find = |(_, action)| match action {
        vrrpd_core::node::Action::SendAdvert { bytes, source, destination, .. } => {
            Some((bytes, Meta { source, destination, hop_limit: 255 }))
        }
        _ => None,
    };
    let interval = lab.first().interval;
    lab.run_for(interval).into_iter().find_map(find).unwrap()
}

/// What it says.
pub(crate) fn sent_advert(lab: &mut Lab) -> Advert {
    let version = lab.first().version;
    let (bytes, meta) = sent(lab);
    Advert::parse(&bytes, &meta, version).unwrap().advert
}
