//! A bounded fuzz run: valid packets of every kind, mangled in seeded ways, into everything that reads what others send.
//!
//! Nothing may panic, and the node must go on: it keeps its deadlines, stays active, and takes a valid advertisement afterwards.
//! `TANDEM_FUZZ_ROUNDS` sets the number of inputs, `TANDEM_FUZZ_SEED` where they start; a failure names the input's seed.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use common::ipc::{InstanceNumber, LbdHealth, ToLbd, ToVrrpd};
use common::key::{KeyUse, PairKey};
use common::rng::Rng;
use common::time::{Duration, Instant, Now, UnixTime};
use common::wire::{FrameReader, frame};
use vrrpd_core::node::{Action, Input, InterfaceState, Node};
use vrrpd_core::packet::{Family, Meta};
use vrrpd_core::peer::{Body, Heartbeat, RouterKey, Sealer};
use vrrpd_core::settings::Settings;

const ROUNDS_DEFAULT: u64 = 400_000;

/// Inputs given to one node before a new one takes its place.
const ROUNDS_PER_NODE: u64 = 500;

/// Actions that one input may cause at most.
const ACTIONS_MAX: usize = 200;

const CONFIG: &str = r#"
[pair]
key_file = "pair.key"
[[node]]
name = "a"
peer_address = "10.0.255.1"
[[node]]
name = "b"
peer_address = "10.0.255.2"
[[vrrp]]
name = "web"
interface = "eth0"
vrid = 51
priority = { a = 200, b = 100 }
vips = ["10.77.0.100/24", "fd77::100/64"]
advert_interval = "100ms"
auth = "AUTH"
track = { gateway = "10.77.0.254" }
"#;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Whether a few inputs are only tried again, among which need not be some of each kind.
fn is_replay() -> bool {
    number("TANDEM_FUZZ_ROUNDS", ROUNDS_DEFAULT) < 10_000
}

/// The payloads behind the Ethernet headers of the recorded packets.
fn recorded_frames() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vrrpd/core/testdata");
    let mut frames = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "pcap") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let mut rest = &bytes[24..];
        while rest.len() > 16 {
            let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
            frames.push(rest[16..16 + length].to_vec());
            rest = &rest[16 + length..];
        }
    }
    assert!(frames.len() > 50, "{} recorded frames", frames.len());
    frames
}

/// What a node is fed with: seeds for mangling.
struct Corpus {
    frames: Vec<Vec<u8>>,
    /// VRRP messages with their family.
    adverts: Vec<(Family, Vec<u8>)>,
}

impl Corpus {
    fn new() -> Self {
        let frames = recorded_frames();
        let adverts = frames
            .iter()
            .filter_map(|frame| match (frame.get(12..14)?, frame) {
                ([0x08, 0x00], frame) if frame[23] == 112 => Some((Family::V4, frame[34..].to_vec())),
                ([0x86, 0xdd], frame) if frame[20] == 112 => Some((Family::V6, frame[54..].to_vec())),
                _ => None,
            })
            .collect();
        Self { frames, adverts }
    }
}

/// Flips, cuts, doubles, replaces: a few of them, or none.
fn mangle(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.below(4) {
        let at = usize::try_from(rng.below(bytes.len().max(1) as u64)).unwrap();
        match rng.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
            1 if !bytes.is_empty() => bytes[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            2 => bytes.truncate(at),
            3 => bytes.extend((0..rng.below(64)).map(|_| u8::try_from(rng.below(256)).unwrap())),
            4 => bytes.extend_from_within(at..),
            _ if !bytes.is_empty() => {
                bytes.remove(at);
            }
            _ => {}
        }
    }
    bytes
}

fn node(rng: &mut Rng) -> Node {
    let auth = *rng.pick(&["none", "permissive", "hmac"]);
    let config = common::config::parse(&CONFIG.replace("AUTH", auth), Path::new("fuzz.toml")).unwrap();
    let settings = Settings::new(&config, "a", Some(PairKey::new([7; 32])), "1").unwrap();
    let now =
        Now { at: Instant::from_nanos(1_000_000_000), unix: UnixTime::from_nanos(1_800_000_000_000_000_000) };
    let mut node = Node::new(settings, 99, now);
    let state = InterfaceState {
        mac: [2, 0, 0, 0, 0, 1],
        up: true,
        ipv4: Some(Ipv4Addr::new(10, 77, 0, 1)),
        link_local: Some("fe80::1".parse().unwrap()),
        forwarding: false,
    };
    node.handle(now, Input::Interface { name: "eth0", state: Some(state) });
    node
}

fn meta(rng: &mut Rng, family: Family) -> Meta {
    let (source, destination): (IpAddr, IpAddr) = match family {
        Family::V4 => (Ipv4Addr::new(10, 77, 0, 2).into(), family.multicast()),
        Family::V6 => (Ipv6Addr::from_bits(0xfe80 << 112 | 2).into(), family.multicast()),
    };
    Meta { source, destination, hop_limit: if rng.chance(900) { 255 } else { 64 } }
}

fn peer_body(rng: &mut Rng) -> Body {
    let router = RouterKey {
        instance: if rng.chance(500) { 1 } else { vrrpd_core::peer::name_hash("web") },
        ipv6: rng.chance(500),
    };
    let id = rng.below(4);
    match rng.below(5) {
        0 => Body::Offer { router, id },
        1 => Body::Taken { router, id },
        2 => Body::Refused { router, id },
        3 => Body::Release { routers: vec![router; usize::try_from(rng.below(100)).unwrap()] },
        _ => Body::Heartbeat(Heartbeat {
            version: "x".repeat(usize::try_from(rng.below(200)).unwrap()),
            interval_ms: u32::try_from(rng.next_u64() >> 32).unwrap(),
            ..Heartbeat::default()
        }),
    }
}

/// One node under fire; returns how often it was active at the end of an input.
fn bombard(corpus: &Corpus, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut node = node(&mut rng);
    let mut sealer = Sealer::new(PairKey::new([7; 32]).derive(KeyUse::PeerLink), "b", 5);
    let mut now =
        Now { at: Instant::from_nanos(1_000_000_000), unix: UnixTime::from_nanos(1_800_000_000_000_000_000) };
    let mut active = 0;
    for _ in 0..ROUNDS_PER_NODE {
        let pause = Duration::from_micros(rng.below(20_000));
        now = Now {
            at: now.at + pause,
            unix: UnixTime::from_nanos(now.unix.as_nanos() + u64::try_from(pause.as_nanos()).unwrap()),
        };
        match rng.below(4) {
            0 => {
                let (family, bytes) = rng.pick(&corpus.adverts).clone();
                let (meta, bytes) = (meta(&mut rng, family), mangle(&mut rng, bytes));
                node.handle(now, Input::Advert { interface: "eth0", meta, bytes: &bytes });
            }
            1 => {
                let frame = rng.pick(&corpus.frames).clone();
                let bytes = mangle(&mut rng, frame);
                node.handle(now, Input::Frame { interface: "eth0", bytes: &bytes });
            }
            2 => {
                let body = peer_body(&mut rng);
                let echo = if rng.chance(500) { 99 } else { 0 };
                if let Ok(bytes) = sealer.seal(echo, now.unix, body) {
                    let bytes = if rng.chance(500) { mangle(&mut rng, bytes) } else { bytes };
                    node.handle(now, Input::Peer(&bytes));
                }
            }
            _ => {}
        }
        let actions = settle(&mut node, now);
        assert!(actions <= ACTIONS_MAX, "{actions} actions from one input");
        active += u64::from(node.role(0) == Some(common::ipc::Role::Active));
    }
    active
}

/// Serves the timers until nothing is due; the number of actions.
fn settle(node: &mut Node, now: Now) -> usize {
    let mut actions = 0;
    for _ in 0..100 {
        while let Some(action) = node.poll_action() {
            actions += usize::from(!matches!(action, Action::Event(_)));
        }
        if node.next_deadline().is_none_or(|deadline| deadline > now.at) {
            return actions;
        }
        node.handle(now, Input::Timeout);
    }
    panic!("timers that are due for ever");
}

#[test]
fn mangled_packets_do_not_stop_a_node() {
    let corpus = Corpus::new();
    assert!(corpus.adverts.len() > 20);
    let start = number("TANDEM_FUZZ_SEED", 1);
    let mut active = 0;
    for seed in start..start + number("TANDEM_FUZZ_ROUNDS", ROUNDS_DEFAULT) / ROUNDS_PER_NODE {
        match catch_unwind(AssertUnwindSafe(|| bombard(&corpus, seed))) {
            Ok(rounds) => active += rounds,
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or(panic.downcast_ref::<&str>().copied());
                panic!(
                    "{}; replay: TANDEM_FUZZ_SEED={seed} TANDEM_FUZZ_ROUNDS={ROUNDS_PER_NODE} cargo test -p integration --test fuzz mangled_packets",
                    text.unwrap_or("a panic")
                );
            }
        }
    }
    assert!(is_replay() || active > 0, "a node under fire was active at times");
}

#[test]
fn mangled_streams_do_not_stop_the_socket_between_the_daemons() {
    let hello = ToVrrpd::Hello { node: "a".to_owned(), version: "1".to_owned(), config_hash: 7 };
    let instances = ToVrrpd::Instances(vec![InstanceNumber { instance: "web".to_owned(), number: 1 }]);
    let health = ToVrrpd::Health(LbdHealth {
        workers_alive: 1,
        workers_expected: 2,
        services_without_targets: vec!["web".to_owned(); 10],
    });
    let valid = [hello, health, instances].map(|message| frame(&message).unwrap()).concat();
    let (mut read, mut refused) = (0, 0);
    let start = number("TANDEM_FUZZ_SEED", 0);
    for seed in start..start + number("TANDEM_FUZZ_ROUNDS", ROUNDS_DEFAULT) {
        let mut rng = Rng::new(seed);
        let bytes = mangle(&mut rng, valid.clone());
        let mut reader = FrameReader::default();
        for part in bytes.chunks(usize::try_from(1 + rng.below(40)).unwrap()) {
            reader.push(part);
            let message = reader.next_message::<ToVrrpd>();
            read += u32::from(matches!(message, Ok(Some(_))));
            refused += u32::from(message.is_err());
        }
        reader.next_message::<ToLbd>().ok();
    }
    assert!(is_replay() || (read > 0 && refused > 0), "{read} read, {refused} refused");
}

#[test]
fn mangled_configurations_are_answered() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let full = fs::read(root.join("configs/full.toml")).unwrap();
    let mut refused = 0;
    let start = number("TANDEM_FUZZ_SEED", 0);
    for seed in start..start + number("TANDEM_FUZZ_ROUNDS", ROUNDS_DEFAULT) / 1000 {
        let bytes = mangle(&mut Rng::new(seed), full.clone());
        let text = String::from_utf8_lossy(&bytes);
        if let Err(errors) = common::config::parse(&text, Path::new("fuzz.toml")) {
            refused += 1;
            assert!(errors.to_string().contains("fuzz.toml:"), "seed {seed}: {errors}");
        }
    }
    assert!(is_replay() || refused > 0);
}
