//! What keepalived and FRR were recorded sending is accepted field by field, and what is sent here for the same state is the same
//! bytes. See `testdata/README.md`.

mod pcap;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::config::{ChecksumReading, VrrpVersion};
use common::key::PairKey;
use common::time::{Duration, UnixTime};
use vrrpd_core::auth::{AuthError, Signer, TRAILER_LEN, Verifier, emit_signed};
use vrrpd_core::neighbor::{self, Sighting, SightingKind};
use vrrpd_core::packet::{Advert, AuthV2, Family, Meta, PacketError};

use VrrpVersion::{V2, V3};

const VRID: u8 = 51;
const KEEPALIVED_LINK_LOCAL: &str = "fe80::bc60:42ff:fe79:4234";

/// One router's advertisements in one file, and what they are known to say.
struct Recording {
    file: &'static str,
    version: VrrpVersion,
    source: &'static str,
    destination: &'static str,
    interval: Duration,
    addresses: &'static [&'static str],
    reading: Option<ChecksumReading>,
    auth_v2: Option<AuthV2>,
    signed: bool,
    /// With priority 200; one with priority 0 follows.
    adverts: usize,
}

const V3_IPV4: Recording = Recording {
    file: "v3-ipv4-pseudoheader",
    version: V3,
    source: "10.77.0.1",
    destination: "224.0.0.18",
    interval: Duration::from_millis(500),
    addresses: &["10.77.0.100"],
    reading: Some(ChecksumReading::PseudoHeader),
    auth_v2: None,
    signed: false,
    adverts: 7,
};

const V3_IPV6: Recording = Recording {
    file: "v3-ipv6",
    source: KEEPALIVED_LINK_LOCAL,
    destination: "ff02::12",
    addresses: &["fe80::100", "fd77::100"],
    reading: None,
    ..V3_IPV4
};

const V2_IPV4: Recording = Recording {
    file: "v2-ipv4",
    version: V2,
    interval: Duration::from_secs(1),
    addresses: &["10.77.0.100", "10.77.0.101"],
    reading: None,
    auth_v2: Some(AuthV2::None),
    adverts: 4,
    ..V3_IPV4
};

const RECORDINGS: [Recording; 12] = [
    V3_IPV4,
    Recording { file: "v3-ipv4-rfc9568-checksum", reading: Some(ChecksumReading::Message), ..V3_IPV4 },
    Recording { file: "v3-ipv4-unicast", destination: "10.77.0.2", ..V3_IPV4 },
    Recording { file: "v3-ipv4-vmac", ..V3_IPV4 },
    Recording { file: "v3-ipv4-hmac", signed: true, ..V3_IPV4 },
    V3_IPV6,
    Recording { file: "v3-ipv6-hmac", signed: true, ..V3_IPV6 },
    V2_IPV4,
    Recording {
        file: "v2-ipv4-pass",
        addresses: &["10.77.0.100"],
        auth_v2: Some(AuthV2::Password(*b"s3cret\0\0")),
        ..V2_IPV4
    },
    Recording { file: "frr-v2", addresses: &["10.77.0.100"], ..V2_IPV4 },
    Recording { file: "frr-v3", adverts: 11, ..V3_IPV4 },
    Recording {
        file: "frr-v3",
        source: "fe80::200:5eff:fe00:233",
        addresses: &["fd77::100"],
        adverts: 10,
        ..V3_IPV6
    },
];

/// One advertisement of a recording.
struct Recorded {
    at: UnixTime,
    source_mac: [u8; 6],
    meta: Meta,
    payload: Vec<u8>,
}

impl Recording {
    fn family(&self) -> Family {
        Family::of(self.source.parse().unwrap())
    }

    /// The advertisements of this router in order.
    fn read(&self) -> Vec<Recorded> {
        let mut all = Vec::new();
        for frame in pcap::read(self.file) {
            let Some(packet) = frame.vrrp() else { continue };
            if Family::of(packet.meta.source) == self.family() {
                let payload = packet.payload.to_vec();
                all.push(Recorded {
                    at: frame.at,
                    source_mac: frame.source_mac(),
                    meta: packet.meta,
                    payload,
                });
            }
        }
        assert_eq!(all.len(), self.adverts + 1, "{}", self.file);
        all
    }

    /// What the advertisement at `index` says.
    fn expected(&self, index: usize) -> Advert {
        Advert {
            version: self.version,
            vrid: VRID,
            priority: if index == self.adverts { 0 } else { 200 },
            interval: self.interval,
            addresses: self.addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }
}

/// The key that the signed recordings were made with.
fn key() -> PairKey {
    PairKey::new(std::array::from_fn(|index| u8::try_from(index).unwrap()))
}

#[test]
fn every_recorded_advert_is_accepted_field_by_field() {
    for recording in &RECORDINGS {
        for (index, recorded) in recording.read().iter().enumerate() {
            let context = format!("{} {index}", recording.file);
            let meta = Meta {
                source: recording.source.parse().unwrap(),
                destination: recording.destination.parse().unwrap(),
                hop_limit: 255,
            };
            assert_eq!(recorded.meta, meta, "{context}");
            let parsed = Advert::parse(&recorded.payload, &recorded.meta, recording.version)
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(parsed.advert, recording.expected(index), "{context}");
            assert_eq!(parsed.checksum_reading, recording.reading, "{context}");
            assert_eq!(parsed.auth_v2, recording.auth_v2, "{context}");
            let trailer_len = if recording.signed { TRAILER_LEN } else { 0 };
            assert_eq!(parsed.trailer.len(), trailer_len, "{context}");
            assert_eq!(
                parsed.message,
                &recorded.payload[..recorded.payload.len() - trailer_len],
                "{context}"
            );
        }
    }
}

/// Every file has its place in the table above, so none is left untested.
#[test]
fn every_file_is_known() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = RECORDINGS.iter().any(|recording| name == format!("{}.pcap", recording.file));
        assert!(known || name == "README.md", "{name}");
    }
}

#[test]
fn only_frr_puts_no_link_local_address_first() {
    for recording in &RECORDINGS {
        let expected = if recording.addresses[0] == "fd77::100" {
            Err(PacketError::FirstAddressNotLinkLocal)
        } else {
            Ok(())
        };
        for recorded in recording.read() {
            let parsed = Advert::parse(&recorded.payload, &recorded.meta, recording.version).unwrap();
            assert_eq!(parsed.check_first_address(), expected, "{}", recording.file);
        }
    }
}

#[test]
fn the_other_version_is_refused() {
    for recording in &RECORDINGS {
        let (other, error) = match recording.version {
            V2 => (V3, PacketError::Version(2)),
            V3 => (V2, PacketError::Version(3)),
        };
        for recorded in recording.read() {
            let refused = Advert::parse(&recorded.payload, &recorded.meta, other).unwrap_err();
            assert_eq!(refused, error, "{}", recording.file);
        }
    }
}

#[test]
fn every_flipped_bit_of_an_unsigned_advert_is_noticed() {
    for recording in RECORDINGS.iter().filter(|recording| !recording.signed) {
        let recorded = recording.read().swap_remove(0);
        for bit in 0..recorded.payload.len() * 8 {
            let mut payload = recorded.payload.clone();
            payload[bit / 8] ^= 1 << (bit % 8);
            let refused = Advert::parse(&payload, &recorded.meta, recording.version);
            assert!(refused.is_err(), "{} bit {bit}: {refused:?}", recording.file);
        }
    }
}

#[test]
fn what_is_sent_for_the_same_state_is_the_same() {
    for recording in RECORDINGS.iter().filter(|recording| !recording.signed) {
        for (index, recorded) in recording.read().iter().enumerate() {
            let reading = recording.reading.unwrap_or_default();
            let mut sent =
                recording.expected(index).emit(recorded.meta.source, recorded.meta.destination, reading);
            if let Some(AuthV2::Password(_)) = recording.auth_v2 {
                // The password is the sender's choice and not made here: type, checksum and data differ, nothing else.
                let end = recorded.payload.len() - 8;
                sent[4] = recorded.payload[4];
                sent[6..8].copy_from_slice(&recorded.payload[6..8]);
                sent[end..].copy_from_slice(&recorded.payload[end..]);
            }
            assert_eq!(sent, recorded.payload, "{} {index}", recording.file);
        }
    }
}

/// The wall clock that gives the stamp in a trailer: the first nanosecond of its fraction.
fn clock_of(trailer: &[u8]) -> UnixTime {
    let seconds = u64::from(u32::from_be_bytes(trailer[4..8].try_into().unwrap()));
    let fraction = u64::from(u16::from_be_bytes(trailer[8..10].try_into().unwrap()));
    assert_eq!(trailer[10..12], [0, 0], "the counter was never needed");
    UnixTime::from_nanos(seconds * 1_000_000_000 + (fraction * 1_000_000_000).div_ceil(65_536))
}

#[test]
fn signing_at_the_recorded_moment_gives_the_recorded_bytes() {
    for recording in RECORDINGS.iter().filter(|recording| recording.signed) {
        let mut signer = Signer::new(&key());
        for (index, recorded) in recording.read().iter().enumerate() {
            let context = format!("{} {index}", recording.file);
            let now = clock_of(&recorded.payload[recorded.payload.len() - TRAILER_LEN..]);
            assert!(
                now.distance(recorded.at) < Duration::from_millis(10),
                "{context}: {now} and {}",
                recorded.at
            );
            let sent = emit_signed(
                &recording.expected(index),
                recorded.meta.source,
                recorded.meta.destination,
                recording.reading.unwrap_or_default(),
                &mut signer,
                now,
            );
            assert_eq!(sent, recorded.payload, "{context}");
        }
    }
}

#[test]
fn recorded_signatures_are_accepted_once() {
    for recording in RECORDINGS.iter().filter(|recording| recording.signed) {
        let mut verifier = Verifier::new(&key());
        let mut stranger = Verifier::new(&PairKey::new([0; 32]));
        let adverts = recording.read();
        let verify = |verifier: &mut Verifier, recorded: &Recorded| {
            let parsed = Advert::parse(&recorded.payload, &recorded.meta, recording.version).unwrap();
            verifier.verify(&parsed, recording.family(), &recorded.meta, recorded.at)
        };
        for recorded in &adverts {
            assert_eq!(verify(&mut stranger, recorded), Err(AuthError::Mac), "{}", recording.file);
            assert_eq!(verify(&mut verifier, recorded), Ok(()), "{}", recording.file);
        }
        for recorded in &adverts {
            assert_eq!(verify(&mut verifier, recorded), Err(AuthError::Replayed), "{}", recording.file);
        }
    }
}

#[test]
fn every_flipped_bit_of_a_signed_advert_is_noticed() {
    for recording in RECORDINGS.iter().filter(|recording| recording.signed) {
        let recorded = recording.read().swap_remove(0);
        let mut verifier = Verifier::new(&key());
        for bit in 0..recorded.payload.len() * 8 {
            let mut payload = recorded.payload.clone();
            payload[bit / 8] ^= 1 << (bit % 8);
            let accepted = Advert::parse(&payload, &recorded.meta, recording.version).is_ok_and(|parsed| {
                verifier.verify(&parsed, recording.family(), &recorded.meta, recorded.at).is_ok()
            });
            assert!(!accepted, "{} bit {bit}", recording.file);
        }
        let parsed = Advert::parse(&recorded.payload, &recorded.meta, recording.version).unwrap();
        assert_eq!(verifier.verify(&parsed, recording.family(), &recorded.meta, recorded.at), Ok(()));
    }
}

#[test]
fn unsigned_recordings_lack_a_signature() {
    for recording in RECORDINGS.iter().filter(|recording| !recording.signed) {
        let recorded = recording.read().swap_remove(0);
        let parsed = Advert::parse(&recorded.payload, &recorded.meta, recording.version).unwrap();
        let refused = Verifier::new(&key()).verify(&parsed, recording.family(), &recorded.meta, recorded.at);
        assert_eq!(refused, Err(AuthError::Missing), "{}", recording.file);
    }
}

#[test]
fn virtual_addresses_are_those_recorded() {
    for recording in
        RECORDINGS.iter().filter(|recording| ["v3-ipv4-vmac", "frr-v2", "frr-v3"].contains(&recording.file))
    {
        for recorded in recording.read() {
            assert_eq!(recorded.source_mac, neighbor::virtual_mac(recording.family(), VRID));
            if recording.family() == Family::V6 {
                assert_eq!(recorded.meta.source, IpAddr::V6(neighbor::virtual_link_local(VRID)));
            }
        }
    }
}

/// Every recorded ARP and neighbour advertisement frame is reproduced from what it says, and read back to the same.
#[test]
fn recorded_announcements_are_reproduced() {
    let router = Ipv4Addr::new(10, 77, 0, 1);
    let peer = Ipv4Addr::new(10, 77, 0, 2);
    let mut counts = [0; 4];
    let mut files: Vec<_> = RECORDINGS.iter().map(|recording| recording.file).collect();
    files.dedup();
    for file in files {
        for frame in pcap::read(file).iter().filter(|frame| frame.vrrp().is_none()) {
            let mac = frame.source_mac();
            let sighting =
                neighbor::parse_frame(&frame.bytes).unwrap_or_else(|| panic!("{file}: {:02x?}", frame.bytes));
            let (index, expected) = match sighting.ip {
                IpAddr::V4(ip) if sighting.kind == SightingKind::Announcement => {
                    assert!([Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 101)].contains(&ip));
                    (0, neighbor::gratuitous_arp(mac, ip))
                }
                // The kernel's own exchange before the first unicast packet.
                IpAddr::V4(ip) if sighting.kind == SightingKind::Request => {
                    assert_eq!(ip, router);
                    (1, neighbor::arp_request(mac, router, peer))
                }
                IpAddr::V4(ip) => {
                    assert_eq!((ip, sighting.kind), (peer, SightingKind::Reply));
                    (2, frame.bytes.clone())
                }
                IpAddr::V6(ip) => {
                    assert!(
                        ["fe80::100", "fd77::100"].map(|ip| ip.parse::<Ipv6Addr>().unwrap()).contains(&ip)
                    );
                    (3, neighbor::unsolicited_na(mac, ip, file.starts_with("frr")))
                }
            };
            counts[index] += 1;
            assert_eq!(expected, frame.bytes, "{file}");
            assert_eq!(sighting, Sighting { mac, ..sighting }, "{file}");
        }
    }
    assert_eq!(counts, [42, 1, 1, 21], "gratuitous ARP, ARP requests, ARP replies, neighbour advertisements");
}
