use proptest::prelude::*;

use super::*;
use crate::packet::{MULTICAST_V4, MULTICAST_V6, TTL};

const START: u64 = 1_800_000_000;

fn key() -> PairKey {
    PairKey::new([0x5a; 32])
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_nanos(seconds * 1_000_000_000)
}

fn meta(last: u8) -> Meta {
    Meta { source: IpAddr::from([192, 0, 2, last]), destination: IpAddr::V4(MULTICAST_V4), hop_limit: TTL }
}

fn meta_v6() -> Meta {
    Meta { source: "fe80::1".parse().unwrap(), destination: IpAddr::V6(MULTICAST_V6), hop_limit: TTL }
}

fn advert(meta: &Meta) -> Advert {
    let address = match Family::of(meta.source) {
        Family::V4 => "192.0.2.100",
        Family::V6 => "fe80::100",
    };
    Advert {
        version: VrrpVersion::V3,
        vrid: 51,
        priority: 200,
        interval: Duration::from_millis(100),
        addresses: vec![address.parse().unwrap()],
    }
}

fn signed(meta: &Meta, signer: &mut Signer, now: UnixTime) -> Vec<u8> {
    emit_signed(&advert(meta), meta.source, meta.destination, ChecksumReading::Message, signer, now)
}

/// What becomes of a received packet: the error's metric label, or "accepted".
fn receive(verifier: &mut Verifier, bytes: &[u8], meta: &Meta, now: UnixTime) -> &'static str {
    match Advert::parse(bytes, meta, VrrpVersion::V3) {
        Err(error) => error.name(),
        Ok(parsed) => match verifier.verify(&parsed, Family::of(meta.source), meta, now) {
            Err(error) => error.name(),
            Ok(()) => "accepted",
        },
    }
}

#[test]
fn a_signed_packet_is_accepted_once() {
    for meta in [meta(1), meta_v6()] {
        let (mut signer, mut verifier) = (Signer::new(&key()), Verifier::new(&key()));
        let first = signed(&meta, &mut signer, at(START));
        let second = signed(&meta, &mut signer, at(START));
        assert_eq!(
            first.len() - TRAILER_LEN,
            advert(&meta).emit(meta.source, meta.destination, ChecksumReading::Message).len()
        );
        assert_eq!(receive(&mut verifier, &first, &meta, at(START)), "accepted");
        assert_eq!(receive(&mut verifier, &first, &meta, at(START)), "auth_replayed");
        assert_eq!(receive(&mut verifier, &second, &meta, at(START)), "accepted");
        assert_eq!(receive(&mut verifier, &first, &meta, at(START)), "auth_replayed");
        assert_eq!(receive(&mut verifier, &second, &meta, at(START)), "auth_replayed");
    }
}

#[test]
fn both_checksum_readings_can_be_signed() {
    let meta = meta(1);
    for reading in [ChecksumReading::Message, ChecksumReading::PseudoHeader] {
        let mut signer = Signer::new(&key());
        let bytes =
            emit_signed(&advert(&meta), meta.source, meta.destination, reading, &mut signer, at(START));
        let parsed = Advert::parse(&bytes, &meta, VrrpVersion::V3).unwrap();
        assert_eq!(parsed.checksum_reading, Some(reading));
        assert_eq!(Verifier::new(&key()).verify(&parsed, Family::V4, &meta, at(START)), Ok(()));
    }
}

#[test]
fn every_flipped_bit_is_noticed_and_changes_nothing() {
    for meta in [meta(1), meta_v6()] {
        let mut verifier = Verifier::new(&key());
        let bytes = signed(&meta, &mut Signer::new(&key()), at(START));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(receive(&mut verifier, &changed, &meta, at(START)), "accepted", "bit {bit}");
        }
        assert!(verifier.last.is_empty());
        assert_eq!(receive(&mut verifier, &bytes, &meta, at(START)), "accepted");
    }
}

#[test]
fn each_error_has_its_cause() {
    let meta = meta(1);
    let good = signed(&meta, &mut Signer::new(&key()), at(START));
    let trailer = good.len() - TRAILER_LEN;
    let after = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        receive(&mut Verifier::new(&key()), &bytes, &meta, at(START))
    };
    assert_eq!(after(&|_| {}), "accepted");
    assert_eq!(after(&|bytes| bytes.truncate(trailer)), "auth_missing");
    assert_eq!(after(&|bytes| bytes.truncate(bytes.len() - 1)), "auth_missing");
    assert_eq!(after(&|bytes| bytes.push(0)), "auth_missing");
    assert_eq!(after(&|bytes| bytes[trailer] = 2), "auth_type");
    assert_eq!(after(&|bytes| bytes[trailer + 1] = 2), "auth_key_id");
    assert_eq!(after(&|bytes| bytes[trailer + 2] = 1), "auth_mac");
    assert_eq!(after(&|bytes| bytes[trailer + 7] ^= 1), "auth_mac");
    assert_eq!(receive(&mut Verifier::new(&PairKey::new([0; 32])), &good, &meta, at(START)), "auth_mac");
    // The message-only checksum does not notice another source, the signature does.
    assert_eq!(receive(&mut Verifier::new(&key()), &good, &self::meta(2), at(START)), "auth_mac");
    let names = std::collections::BTreeSet::from(AuthError::NAMES);
    assert_eq!(names.len(), AuthError::NAMES.len());
}

#[test]
fn family_version_and_vrid_are_signed() {
    let source = meta(1).source;
    let sign = |family, version, vrid| {
        let mut message = vec![0; 12];
        Signer::new(&key()).sign(family, version, vrid, source, &mut message, at(START));
        message
    };
    let all = [
        sign(Family::V4, VrrpVersion::V3, 51),
        sign(Family::V6, VrrpVersion::V3, 51),
        sign(Family::V4, VrrpVersion::V2, 51),
        sign(Family::V4, VrrpVersion::V3, 52),
    ];
    for (index, one) in all.iter().enumerate() {
        assert!(all[index + 1..].iter().all(|other| other != one), "{index}");
    }
}

#[test]
fn a_message_shorter_than_its_header_is_signed_without_a_fuss() {
    for len in 0..8 {
        let mut message = vec![1; len];
        Signer::new(&key()).sign(Family::V4, VrrpVersion::V3, 1, meta(1).source, &mut message, at(START));
        assert_eq!(message.len(), len + TRAILER_LEN);
    }
}

#[test]
fn a_sender_whose_clock_is_set_back_is_still_heard() {
    let (mut signer, mut verifier) = (Signer::new(&key()), Verifier::new(&key()));
    let meta = meta(1);
    let mut now = START;
    for step in [0_i64, 1, -5, 1, -250, 0, 300, 1] {
        now = now.checked_add_signed(step).unwrap();
        let bytes = signed(&meta, &mut signer, at(now));
        assert_eq!(receive(&mut verifier, &bytes, &meta, at(START)), "accepted", "step {step}");
    }
}

#[test]
fn the_counter_carries_over() {
    let last = Stamp { seconds: 7, fraction: u16::MAX, counter: u16::MAX };
    assert_eq!(last.next(), Stamp { seconds: 8, fraction: 0, counter: 0 });
    let end = Stamp { seconds: u32::MAX, ..last };
    assert_eq!(end.next(), end);
    assert_eq!(Stamp::at(UnixTime::from_nanos(u64::MAX)).seconds, u32::MAX);
}

#[test]
fn an_unknown_sender_must_agree_about_the_time() {
    let meta = meta(1);
    for (offset, expected) in
        [(-301, "auth_clock_skew"), (-300, "accepted"), (300, "accepted"), (301, "auth_clock_skew")]
    {
        let sent = START.checked_add_signed(offset).unwrap();
        let bytes = signed(&meta, &mut Signer::new(&key()), at(sent));
        let outcome = receive(&mut Verifier::new(&key()), &bytes, &meta, at(START));
        assert_eq!(outcome, expected, "{offset} s");
    }
}

#[test]
fn a_known_sender_may_lag_but_not_leap() {
    let (mut signer, mut verifier) = (Signer::new(&key()), Verifier::new(&key()));
    let meta = meta(1);
    let first = signed(&meta, &mut signer, at(START));
    assert_eq!(receive(&mut verifier, &first, &meta, at(START)), "accepted");
    // The receiver's clock jumps an hour ahead, then an hour back.
    let second = signed(&meta, &mut signer, at(START + 1));
    assert_eq!(receive(&mut verifier, &second, &meta, at(START + 3600)), "accepted");
    let third = signed(&meta, &mut signer, at(START + 2));
    assert_eq!(receive(&mut verifier, &third, &meta, at(START - 3600)), "accepted");
    // The sender's clock jumps an hour ahead. When it is right again and the sender restarted, it is heard at once.
    let leap = signed(&meta, &mut signer, at(START + 3600));
    assert_eq!(receive(&mut verifier, &leap, &meta, at(START + 3)), "auth_clock_skew");
    let restarted = signed(&meta, &mut Signer::new(&key()), at(START + 4));
    assert_eq!(receive(&mut verifier, &restarted, &meta, at(START + 4)), "accepted");
}

#[test]
fn virtual_routers_of_one_sender_do_not_disturb_each_other() {
    let meta = meta(1);
    let mut verifier = Verifier::new(&key());
    for (vrid, seconds) in [(51, START + 1), (52, START)] {
        let advert = Advert { vrid, ..advert(&meta) };
        let bytes = emit_signed(
            &advert,
            meta.source,
            meta.destination,
            ChecksumReading::Message,
            &mut Signer::new(&key()),
            at(seconds),
        );
        assert_eq!(receive(&mut verifier, &bytes, &meta, at(START)), "accepted");
    }
}

#[test]
fn senders_are_bounded_and_the_silent_ones_make_room() {
    let mut verifier = Verifier::new(&key());
    let hear = |verifier: &mut Verifier, last: u8, sent: u64, now: u64| {
        let bytes = signed(&meta(last), &mut Signer::new(&key()), at(sent));
        receive(verifier, &bytes, &meta(last), at(now))
    };
    for last in 1..=16 {
        assert_eq!(hear(&mut verifier, last, START, START), "accepted");
    }
    assert_eq!(hear(&mut verifier, 17, START, START), "auth_senders_full");
    assert_eq!(verifier.last.len(), SENDERS_MAX);
    // With the local clock set back, their packets would be fresh again once it is right.
    assert_eq!(hear(&mut verifier, 17, START - 400, START - 400), "auth_senders_full");
    assert_eq!(hear(&mut verifier, 1, START + 1, START + 1), "accepted");
    // All but sender 1 have been silent for more than 300 s now; what they sent is too old to be replayed.
    assert_eq!(hear(&mut verifier, 17, START + 301, START + 301), "accepted");
    assert_eq!(verifier.last.len(), 2);
    assert_eq!(hear(&mut verifier, 2, START, START + 301), "auth_clock_skew");
    assert_eq!(hear(&mut verifier, 1, START + 1, START + 301), "auth_replayed");
}

proptest! {
    #[test]
    fn stamps_always_grow(times in proptest::collection::vec(START..START + 100, 2..50)) {
        let meta = meta(1);
        let (mut signer, mut verifier) = (Signer::new(&key()), Verifier::new(&key()));
        for time in times {
            let bytes = signed(&meta, &mut signer, at(time));
            prop_assert_eq!(receive(&mut verifier, &bytes, &meta, at(START)), "accepted");
        }
    }

    #[test]
    fn stamps_are_as_exact_as_they_can_be(nanos in 0..u64::from(u32::MAX) * 1_000_000_000) {
        let time = UnixTime::from_nanos(nanos);
        prop_assert!(Stamp::at(time).time().distance(time) <= Duration::from_nanos(15_260));
    }

    #[test]
    fn any_trailer_but_the_signers_is_refused(trailer: [u8; TRAILER_LEN], head_right: bool) {
        let meta = meta(1);
        let mut bytes = advert(&meta).emit(meta.source, meta.destination, ChecksumReading::Message);
        bytes.extend(trailer);
        if head_right {
            let head = bytes.len() - TRAILER_LEN;
            bytes[head..head + 8].copy_from_slice(&[1, 1, 0, 0, 0x6b, 0x49, 0xd2, 0]);
        }
        prop_assert_ne!(receive(&mut Verifier::new(&key()), &bytes, &meta, at(START)), "accepted");
    }
}
