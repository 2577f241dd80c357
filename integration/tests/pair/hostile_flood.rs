//! Floods of packets, connections and requests that mean harm: the pair goes on as if there were none.
//!
//! Advertisements every 10 ms must not be late by more than a tenth of that. The nodes share the machine with the flood,
//! and the machine may share its processors with others: real-time threads that only wake up tell how often it alone made
//! somebody late. What is asserted is the median, and that no more than 1 % were late unless the machine itself was.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::pair_support::flood::{Flood, Packet, bad_adverts, captured, destinations, send_once, tempting};
use crate::pair_support::{
    LIMIT, Watch, drops, events, every, router, serving, settled, status, transitions,
};
use common::rng::Rng;
use integration::lab::capture::Capture;
use integration::lab::clock::{now, wait_until};
use integration::lab::probe::{WatchSettings, Watcher};
use integration::lab::{Lab, Node, Result, http};
use vrrpd_core::packet::Family;

/// A tenth of the interval of 10 ms.
const LATENESS_MAX_US: u64 = 1000;

/// How often the real-time threads wake up.
const WAKE_INTERVAL: Duration = Duration::from_millis(5);

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_millis(1500);

/// How many packets make a flood, also on a machine that has other things to do; it is several times as many on an idle
/// one.
const FLOOD_PACKETS_MIN: u64 = 3000;

/// What a daemon may grow by: its buffers are bounded, and connections cost some while they are open.
const GROWTH_MAX_KIB: u64 = 8 * 1024;

/// How late a node's advertisements were during some time: the median and the worst of what was seen, in microseconds,
/// and of all that were sent those more than a tenth of the interval late.
#[derive(Clone, Copy)]
struct Lateness {
    median: u64,
    worst: u64,
    sent: u64,
    late: u64,
}

impl std::fmt::Display for Lateness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { median, worst, sent, late } = self;
        write!(f, "{median} µs, at most {worst} µs, {late} of {sent} late")
    }
}

impl Lateness {
    fn late_share(&self) -> f64 {
        self.late as f64 / self.sent.max(1) as f64
    }
}

/// Advertisements sent, and those sent late, of both families.
fn sent_and_late(node: &Node) -> [u64; 2] {
    ["adverts_sent", "adverts_late"].map(|key| {
        let count = |family| router(node, family)[key].as_u64().unwrap_or(0);
        count("ipv4") + count("ipv6")
    })
}

fn lateness(node: &Node, during: Duration) -> Result<Lateness> {
    let mut seen = Vec::new();
    let start = now();
    let before = sent_and_late(node);
    wait_until("the time to pass", LIMIT, || {
        for family in ["ipv4", "ipv6"] {
            seen.extend(router(node, family)["lateness_us"].as_u64());
        }
        now() - start > during
    })?;
    seen.sort_unstable();
    let at = |index: usize| seen.get(index).copied().expect("some were seen");
    let [sent, late] = sent_and_late(node);
    Ok(Lateness {
        median: at(seen.len() / 2),
        worst: at(seen.len() - 1),
        sent: sent - before[0],
        late: late - before[1],
    })
}

/// The resident memory of a node's `vrrpd`, in KiB.
fn memory_kib(node: &Node) -> u64 {
    crate::pair_support::memory_kib(node, "vrrpd", "VmRSS")
}

/// A pair with advertisements every 10 ms, and how it is when nobody harms it.
struct Victim {
    lab: Lab,
    transitions: [u64; 2],
    memory_kib: [u64; 2],
    calm: Lateness,
    /// Real-time threads that do nothing but wake up every 5 ms: when they are late, so is everything.
    machine: [Watcher; 2],
}

impl Victim {
    fn new(label: &str, advert_interval: &str) -> Result<Self> {
        let lab = serving(label, every(advert_interval))?;
        let watcher = || Watcher::start(&lab, WatchSettings::new(&[]));
        let machine = [watcher()?, watcher()?];
        let calm = lateness(lab.a(), Duration::from_millis(700))?;
        let transitions = lab.nodes().map(transitions);
        Ok(Self { transitions, memory_kib: lab.nodes().map(memory_kib), calm, machine, lab })
    }

    /// How late it is while it is flooded; fails if that is too much.
    #[expect(
        clippy::print_stderr,
        reason = "the measured values, shown by a test that is asked to show its output"
    )]
    fn endures(&self) -> Result<()> {
        let begin = now();
        let flooded = lateness(self.lab.a(), FLOOD)?;
        let machine = self.late_wakes(begin);
        let ever = ["ipv4", "ipv6"].map(|family| router(self.lab.a(), family)["lateness_max_us"].clone());
        let calm = self.calm;
        eprintln!("lateness: in calm {calm}, under flood {flooded}, in both ever {ever:?} µs");
        eprintln!("wakes of idle real-time threads that were as late: {:.1} %", machine * 100.0);
        let allowed = LATENESS_MAX_US.max(2 * self.calm.median);
        assert!(flooded.median <= allowed, "in calm {calm}, under flood {flooded}");
        let excused = 3.0 * machine.max(calm.late_share());
        // One pause of the machine meets an advertisement of each family.
        let allowed = excused.max(0.01) + 2.0 / flooded.sent.max(1) as f64;
        assert!(flooded.late_share() <= allowed, "in calm {calm}, under flood {flooded}, machine {machine}");
        Ok(())
    }

    /// Of the wakes of idle real-time threads since then, the share that came more than a tenth of the interval late.
    fn late_wakes(&self, since: common::time::Instant) -> f64 {
        let late = Duration::from_micros(LATENESS_MAX_US);
        let (mut wakes, mut late_ones) = (0_u32, 0_u32);
        for watcher in &self.machine {
            let asked = watcher.snapshot().asked;
            for pair in asked.windows(2).filter(|pair| pair[0] >= since) {
                wakes += 1;
                late_ones += u32::from(pair[1] - pair[0] > WAKE_INTERVAL + late);
            }
        }
        f64::from(late_ones) / f64::from(wakes.max(1))
    }

    #[expect(clippy::print_stderr, reason = "why roles changed, shown when they did each time")]
    fn tell_events(&self) -> Result<()> {
        for node in self.lab.nodes() {
            for event in events(node)? {
                let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
                eprintln!("{} {} {}", node.name(), text("at"), text("message"));
            }
        }
        Ok(())
    }

    /// How long the machine paused.
    fn pause(&self) -> Duration {
        let pauses = self.machine.iter().flat_map(|watcher| {
            let asked = watcher.snapshot().asked;
            asked.windows(2).map(|pair| pair[1] - pair[0]).max()
        });
        pauses.max().unwrap_or_default()
    }

    /// Fails if a daemon grew or does not serve; says whether the roles stayed as they were.
    fn is_unharmed(&self) -> Result<bool> {
        for (node, before) in self.lab.nodes().into_iter().zip(self.memory_kib) {
            let after = memory_kib(node);
            assert!(after <= before + GROWTH_MAX_KIB, "{} grew from {before} to {after} KiB", node.name());
        }
        let stayed = self.lab.nodes().map(transitions) == self.transitions;
        if !stayed {
            self.tell_events()?;
        }
        settled(&self.lab, self.lab.a())?;
        Ok(stayed)
    }
}

/// How often a pair is flooded until its roles stay as they are.
const ATTEMPTS_MAX: usize = 3;

/// A pause of the machine from which on roles may move: 2.5 intervals without an advertisement are too many, and one of
/// them passes anyway.
const PAUSE_MIN: Duration = Duration::from_millis(15);

/// Floods a pair with advertisements every 10 ms, and fails if it is harmed. A machine that others use too may itself pause
/// for longer than such advertisements can be late; then it is tried again, and if it always does, with advertisements every
/// 100 ms, whose roles such pauses do not move.
#[expect(clippy::print_stderr, reason = "which of the two was shown has to be seen")]
fn endured(label: &str, flood: impl Fn(&Victim) -> Result<()>) -> Result<()> {
    let mut pauses = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        let victim = Victim::new(label, "10ms")?;
        flood(&victim)?;
        let stayed = victim.is_unharmed()?;
        pauses.push(victim.pause());
        let Victim { lab, machine, .. } = victim;
        drop(machine);
        lab.finish()?;
        if stayed {
            return Ok(());
        }
    }
    let paused = pauses.iter().all(|pause| *pause >= PAUSE_MIN);
    assert!(
        paused,
        "roles changed in each of {ATTEMPTS_MAX} attempts, while the machine paused for {pauses:?}"
    );
    eprintln!("{label}: the machine is too busy for advertisements every 10 ms, it paused for {pauses:?}");
    let victim = Victim::new(label, "100ms")?;
    flood(&victim)?;
    assert!(victim.is_unharmed()?, "roles changed with advertisements every 100 ms");
    victim.lab.finish()
}

fn peer_drops(node: &Node, reason: &str) -> u64 {
    let status = status(node).unwrap_or_default();
    let drops = status["peer_drops"].as_array().cloned().unwrap_or_default();
    drops.iter().find(|drop| drop["reason"] == reason).and_then(|drop| drop["count"].as_u64()).unwrap_or(0)
}

#[test]
fn bad_advertisements_are_dropped_under_their_reasons() -> Result<()> {
    let lab = serving("bad-adverts", every("100ms"))?;
    let watch = Watch::begin(&lab)?;
    let before = lab.nodes().map(transitions);
    let capture = Capture::on_switch(&lab, "lan", "proto 112 or ip6 proto 112")?;
    for to in destinations() {
        send_once(lab.client(), &bad_adverts(to, &mut Rng::new(1)))?;
    }
    let start = now();
    wait_until("some good ones", LIMIT, || now() - start > Duration::from_millis(500))?;
    let recorded: Vec<Packet> = captured(&capture.stop()?);
    for node in lab.nodes() {
        for family in ["ipv4", "ipv6"] {
            for reason in ["truncated", "checksum", "auth_missing", "auth_mac"] {
                let what = format!("{reason} of {family} on {}", node.name());
                wait_until(&what, LIMIT, || drops(node, family, reason) > 0)?;
            }
        }
        let unmatched = status(node).expect("it answers")["unmatched_drops"].to_string();
        assert!(unmatched.contains("unknown_vrid") && unmatched.contains("truncated"), "{unmatched}");
    }

    // Good ones of a moment ago, as they were.
    let is_good = |packet: &&Packet| packet.to.is_multicast() && !recorded.is_empty();
    let good: Vec<Packet> = recorded.iter().filter(is_good).cloned().collect();
    send_once(lab.client(), &good)?;
    for family in ["ipv4", "ipv6"] {
        let what = format!("replays of {family} on b");
        wait_until(&what, LIMIT, || drops(lab.b(), family, "auth_replayed") > 0)?;
    }
    assert_eq!(lab.nodes().map(transitions), before);
    let seen = watch.end()?;
    seen.assert_all_served();
    lab.finish()
}

#[test]
fn a_flood_of_bad_advertisements_is_endured() -> Result<()> {
    endured("advert-flood", |victim| {
        let lab = &victim.lab;
        let flood = |host, multicast: bool| {
            let to = destinations().into_iter().filter(|to| to.is_multicast() == multicast);
            let mut rng = Rng::new(2);
            Flood::adverts(host, to.flat_map(|to| bad_adverts(to, &mut rng)).collect())
        };
        let floods = [flood(lab.client(), true)?, flood(lab.watch(), false)?];
        victim.endures()?;
        for flood in floods {
            assert!(flood.stop()? > FLOOD_PACKETS_MIN);
        }
        for node in lab.nodes() {
            for family in ["ipv4", "ipv6"] {
                assert!(drops(node, family, "auth_mac") > 100, "{family} on {}", node.name());
            }
        }
        Ok(())
    })
}

#[test]
fn a_flood_on_the_peer_link_is_endured() -> Result<()> {
    endured("peer-flood", |victim| {
        let lab = &victim.lab;
        let mut rng = Rng::new(3);
        let mut datagrams: Vec<Vec<u8>> = vec![vec![], vec![0; 31], vec![0; 32], vec![0; 1400]];
        for _ in 0..50 {
            let length = usize::try_from(rng.below(600)).expect("below 600");
            datagrams.push((0..length).map(|_| rng.next_u64().to_le_bytes()[0]).collect());
        }
        let mut stranger = vrrpd_core::peer::Sealer::new([9; 32], "b", 77);
        let body = vrrpd_core::peer::Body::Release { routers: vec![] };
        let sealed = stranger.seal(0, common::time::UnixTime::from_nanos(1), body).expect("it fits");
        datagrams.push(sealed[..sealed.len() - 1].to_vec());
        datagrams.push(sealed);
        let floods = [
            Flood::datagrams(lab.b(), lab.a().peer_address(), datagrams.clone())?,
            Flood::datagrams(lab.a(), lab.b().peer_address(), datagrams)?,
        ];
        victim.endures()?;
        for flood in floods {
            assert!(flood.stop()? > FLOOD_PACKETS_MIN);
        }
        for node in lab.nodes() {
            for reason in ["truncated", "tag"] {
                assert!(peer_drops(node, reason) > 100, "{reason} on {}", node.name());
            }
        }
        Ok(())
    })
}

#[test]
fn strangers_on_the_socket_for_lbd_do_not_disturb_lbd() -> Result<()> {
    endured("ipc-flood", |victim| {
        let lab = &victim.lab;
        let socket = lab.a().run_dir().join("vrrpd-ipc.sock");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for seed in 0..2 {
                let (socket, stop) = (&socket, &stop);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed);
                    let mut held = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        // Refused while the backlog is full.
                        let Ok(mut stream) = UnixStream::connect(socket) else { continue };
                        let length = usize::try_from(rng.below(5000)).expect("below 5000");
                        let noise: Vec<u8> = (0..length).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
                        // It may be closed while it is written to.
                        stream.write_all(&noise).ok();
                        held.push(stream);
                        if held.len() > 100 {
                            held.clear();
                        }
                    }
                });
            }
            let endured = victim.endures();
            stop.store(true, Ordering::Relaxed);
            endured
        })?;
        let metrics = lab.a().get("vrrpd", "/metrics")?.body;
        assert!(metrics.contains("tandem_vrrp_lbd_connected{} 1.0"), "{metrics}");
        let refused =
            metrics.lines().find(|line| line.contains("lbd_connections_total{result=\"malformed\"}"));
        assert!(refused.is_some_and(|line| !line.ends_with(" 0")), "{refused:?}");
        Ok(())
    })
}

#[test]
fn a_hammered_api_disturbs_nobody_but_its_users() -> Result<()> {
    endured("api-flood", |victim| {
        let lab = &victim.lab;
        let api = SocketAddr::from(([127, 0, 0, 1], 9112));
        // Half a request each, held open; more than the daemon accepts.
        let slow = lab.a().namespace().inside(|| {
            let open = || {
                let mut stream = TcpStream::connect(api)?;
                stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Slow: ")?;
                std::io::Result::Ok(stream)
            };
            (0..150).map_while(|_| open().ok()).collect::<Vec<_>>()
        })?;
        assert!(slow.len() > 64, "{} connections", slow.len());
        let hammer = |seed: u64| {
            lab.a().namespace().worker("hammer", move |stop| {
                let mut rng = Rng::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    if rng.chance(500) {
                        // Answered or refused: both are an end.
                        http::tcp(api, "GET", "/metrics", "", Duration::from_millis(200)).ok();
                    } else if let Ok(mut stream) = TcpStream::connect(api) {
                        let noise: Vec<u8> = (0..500).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
                        stream.set_read_timeout(Some(Duration::from_millis(50))).ok();
                        stream.write_all(&noise).ok();
                        stream.read_to_end(&mut Vec::new()).ok();
                    }
                }
            })
        };
        let hammers = [hammer(1)?, hammer(2)?];
        let socket = lab.a().socket("vrrpd");
        let unix = lab.a().namespace().worker("hammer", move |stop| {
            while !stop.load(Ordering::Relaxed) {
                http::unix(&socket, "GET", "/v1/events?after=0", "", Duration::from_secs(1)).ok();
            }
        })?;
        victim.endures()?;
        for hammer in hammers.into_iter().chain([unix]) {
            hammer.stop()?;
        }
        let metrics = lab.a().get("vrrpd", "/metrics")?.body;
        let refused = metrics.lines().find(|line| line.contains("refused_total{listener=\"tcp\"}"));
        assert!(refused.is_some_and(|line| !line.ends_with(" 0")), "{refused:?}");
        // Whoever holds connections open loses them, and the next one is served.
        wait_until("the API over TCP", LIMIT, || {
            lab.a().get_tcp(api, "/health/live").is_ok_and(|answer| answer.status == 200)
        })?;
        drop(slow);
        Ok(())
    })
}

#[test]
fn the_flood_would_be_believed_if_it_were_signed() {
    // What the floods are made of is otherwise good: the same packet is parsed without complaint.
    for family in [Family::V4, Family::V6] {
        let (source, to) = (crate::pair_support::flood::source(family), family.multicast());
        let advert = tempting(family);
        let bytes = advert.emit(source, to, common::config::ChecksumReading::Message);
        let meta = vrrpd_core::packet::Meta { source, destination: to, hop_limit: 255 };
        let parsed = vrrpd_core::packet::Advert::parse(&bytes, &meta, common::config::VrrpVersion::V3)
            .expect("it is good");
        assert_eq!(parsed.advert, advert);
    }
}
