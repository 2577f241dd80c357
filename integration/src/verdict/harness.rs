//! The program, loaded with maps of its own and run on one packet at a time.
//!
//! It runs in a network namespace without a name, in which its two interfaces are: the program looks up the way to
//! clients there. Time stands still: the multiplier that makes ticks from jiffies is so small that they hardly move.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::bpf::{Bytes, Table};
use super::fill;
use super::oracle::reason::Reason;
use super::oracle::{Links, Tuple};
use super::world::World;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The MAC address of the next hop towards clients, from which their packets come too.
pub const CLIENTS: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
/// The node's own addresses.
pub const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2)),
];

const TABLES: [&str; 27] = [
    "config",
    "instances",
    "vips",
    "vip_addresses",
    "listeners",
    "service_ports",
    "services",
    "rings",
    "other_rings",
    "targets",
    "flows",
    "pending",
    "half_open",
    "endpoints",
    "slots",
    "fragments",
    "acl",
    "sources",
    "other_sources",
    "affinity",
    "links",
    "drops",
    "check_stats",
    "sent_to_other",
    "short_searches",
    "untold_hops",
    "pushed_out",
];
const STATE: [&str; 4] = ["processors", "routes", "service_stats", "target_stats"];
const CLEARED: [&str; 10] = [
    "vips",
    "listeners",
    "flows",
    "pending",
    "endpoints",
    "fragments",
    "acl",
    "sources",
    "other_sources",
    "affinity",
];
const REASONS: u32 = 20;
/// The clock stands still for so long at least after it was set, in the kernel's jiffies of 1 to 10 ms.
const QUIET_JIFFIES: u64 = 50;
/// A tick, in nanoseconds.
pub(super) const TICK_NS: u64 = 62_500_000;
/// Arrays, and how many of their elements the tests use at most.
const ZEROED: [(&str, u32); 14] = [
    ("half_open", 4096),
    ("routes", 1024),
    ("services", 64),
    ("targets", 64),
    ("vip_addresses", 64),
    ("service_stats", 64),
    ("target_stats", 64),
    ("drops", REASONS),
    ("check_stats", 1),
    ("sent_to_other", 1),
    ("short_searches", 1),
    ("untold_hops", 1),
    ("pushed_out", 64),
    ("processors", 1),
];

/// Which of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `forward_tc`.
    Tc,
    /// `forward_xdp`.
    Xdp,
    /// `check_out`.
    CheckOut,
    /// `check_in`.
    CheckIn,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Tc => "forward_tc",
            Self::Xdp => "forward_xdp",
            Self::CheckOut => "check_out",
            Self::CheckIn => "check_in",
        }
    }
}

/// Those that forward.
pub const PROGRAMS: [Program; 2] = [Program::Tc, Program::Xdp];

/// What the program said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the stack.
    Pass,
    /// Nowhere.
    Drop,
    /// Out of an interface.
    Send,
    /// None: the kernel makes no packet of these bytes (too few for the protocol that they say).
    Impossible,
    /// A number that it must not return.
    Strange(u32),
}

/// What the program did.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its verdict.
    pub verdict: Verdict,
    /// The frame as it left it.
    pub frame: Vec<u8>,
    /// Which counters of drops went up, by how much.
    pub drops: Vec<(u32, u64)>,
}

/// An entry of `flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Tick of the last packet.
    pub seen: u32,
    /// Index of the target.
    pub target: u16,
    /// Index of the service.
    pub service: u16,
    /// Port towards the target.
    pub port: u16,
    /// `STATE_*` bits.
    pub state: u8,
    /// The other node's.
    pub copied: bool,
    /// Counts changes.
    pub generation: u32,
}

impl Entry {
    fn of(value: &[u8]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([value[at], value[at + 1]]);
        Self {
            seen: u32::from_ne_bytes([value[0], value[1], value[2], value[3]]),
            target: word(4),
            service: word(6),
            port: u16::from_be_bytes([value[8], value[9]]),
            state: value[10],
            copied: value[11] != 0,
            generation: u32::from_ne_bytes([value[12], value[13], value[14], value[15]]),
        }
    }
}

/// The loaded program.
pub struct Harness {
    programs: Ebpf,
    tables: HashMap<&'static str, Table>,
    /// Rings, by their array and number.
    pub(super) rings: BTreeMap<(&'static str, u16), Table>,
    /// The arrays in `slots`.
    pub(super) slots: BTreeMap<u16, Table>,
    /// Those of them that may have been used.
    pub(super) slotted: BTreeSet<u16>,
    /// Endpoints whose ports are taken away.
    robbed: BTreeSet<u16>,
    /// The links of the node.
    pub links: Links,
    ifindex: u32,
    pub(super) target_ifindex: u32,
    pub(super) multiplier: u64,
    /// Boot time when the program was last told something.
    pub(super) told_at: u64,
    namespace: File,
}

impl std::fmt::Debug for Harness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Harness").field("links", &self.links).finish_non_exhaustive()
    }
}

/// The program, for this test alone, with empty maps. The calling thread moves to its namespace and to the first processor.
///
/// # Panics
/// If it cannot be loaded: it needs root, and the object in `lbd/bpf`.
pub fn program() -> MutexGuard<'static, Harness> {
    static LOADED: OnceLock<Result<Mutex<Harness>, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        let made = std::thread::spawn(Harness::new)
            .join()
            .map_err(|_| "the thread that loads panicked".to_owned())?;
        made.map(Mutex::new).map_err(|error| format!("{error:#}"))
    });
    let loaded = loaded.as_ref().unwrap_or_else(|error| panic!("loading the program: {error}"));
    // A test that failed leaves nothing behind that `clear` does not clear.
    let mut harness = loaded.lock().unwrap_or_else(PoisonError::into_inner);
    setns(&harness.namespace, CloneFlags::CLONE_NEWNET).expect("entering the namespace of the program");
    pin().expect("staying on one processor");
    harness.clear();
    harness
}

fn pin() -> Result<()> {
    let mut first = CpuSet::new();
    first.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &first).context("staying on one processor")
}

impl Harness {
    fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (needs root)")?;
        interfaces()?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lbd/bpf/forward.bpf.o");
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("flows", 65_536).map_max_entries("listeners", 1024);
        let mut programs =
            loader.load_file(&object).with_context(|| format!("loading {}", object.display()))?;
        for name in [Program::Tc, Program::CheckOut, Program::CheckIn].map(Program::name) {
            let tc: &mut SchedClassifier = programs.program_mut(name).context(name)?.try_into()?;
            tc.load().with_context(|| format!("the verifier, {name}"))?;
        }
        let xdp: &mut Xdp = programs.program_mut("forward_xdp").context("forward_xdp")?.try_into()?;
        xdp.load().context("the verifier, forward_xdp")?;
        let processors = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let mut tables = HashMap::new();
        for name in TABLES.into_iter().chain(STATE) {
            let map = programs.take_map(name).with_context(|| format!("the program has no map {name}"))?;
            tables.insert(name, Table::of(map, processors)?);
        }
        let index = |name: &str| nix::net::if_::if_nametoindex(name);
        Ok(Self {
            programs,
            tables,
            rings: BTreeMap::new(),
            slotted: BTreeSet::new(),
            robbed: BTreeSet::new(),
            slots: BTreeMap::new(),
            links: Links { own: OWN, clients: CLIENTS, clients_mtu: 1500 },
            ifindex: index("front")?,
            target_ifindex: index("back")?,
            multiplier: 0,
            told_at: 0,
            namespace,
        })
    }

    pub(super) fn table(&self, name: &str) -> &Table {
        &self.tables[name]
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for name in CLEARED {
            self.table(name).clear();
        }
        for (name, used) in ZEROED {
            self.table(name).zero(used);
        }
        for endpoint in std::mem::take(&mut self.slotted) {
            self.slots[&endpoint].zero(64_512);
        }
        self.leave_ports_alone();
        self.target_ifindex = nix::net::if_::if_nametoindex("back").unwrap_or(0);
    }

    /// Sends to targets by the interface that packets come from.
    pub fn one_armed(&mut self) {
        self.target_ifindex = self.ifindex;
    }

    /// Tells the program what a node is told. Flows and slots stay. The tick is moved to the next one that can be had.
    ///
    /// # Panics
    /// If the maps refuse.
    pub fn tell(&mut self, world: &mut World) {
        (self.multiplier, world.now) = tick(world.now).expect("reading the kernel's jiffies");
        self.told_at = boot_ns().expect("reading the clock of boot time");
        for name in ["vips", "listeners", "endpoints", "acl"] {
            self.table(name).clear();
        }
        for ifindex in [self.ifindex, nix::net::if_::if_nametoindex("back").unwrap_or(0)] {
            let link = Bytes::default().raw(&OWN).u8(3).u8(0).u32(1500);
            self.table("links").put(&ifindex.to_ne_bytes(), &link.0);
        }
        fill::fill(self, world);
    }

    /// Takes no packets from the interface that they come from, until it is told something again.
    ///
    /// # Panics
    /// If the map refuses.
    pub fn disown(&self) {
        self.table("links").put(&self.ifindex.to_ne_bytes(), &[0; 12]);
    }

    /// Is not at the interface towards targets, until it is told something again.
    ///
    /// # Panics
    /// If the map refuses.
    pub fn disown_targets(&self) {
        self.table("links").put(&self.target_ifindex.to_ne_bytes(), &[0; 12]);
    }

    /// Loses all flows, the half-open ones too; slots stay.
    pub fn forget_flows(&self) {
        self.table("flows").clear();
        self.table("pending").clear();
        self.table("half_open").zero(4096);
    }

    /// Loses those half-open flows that this processor keeps for itself.
    pub fn forget_half_open(&self) {
        self.table("half_open").zero(4096);
    }

    /// Has nobody have a port.
    pub fn forget_slots(&self) {
        self.slotted.iter().for_each(|endpoint| self.slots[endpoint].zero(64_512));
    }

    /// From now on each port towards an endpoint of IPv6 is lost in the moment in which it is filled in, as if another processor took it: what is
    /// written down of the client's address goes over who has the port.
    ///
    /// # Panics
    /// If nothing translates to the endpoint.
    pub fn take_ports_away(&mut self, endpoint: u16) {
        self.put_clients(endpoint, endpoint);
        self.robbed.insert(endpoint);
    }

    /// And no longer.
    pub fn leave_ports_alone(&mut self) {
        for endpoint in std::mem::take(&mut self.robbed) {
            self.put_clients(endpoint, fill::CLIENTS_OF + endpoint);
        }
    }

    /// Has the addresses of an endpoint's clients be in this array.
    fn put_clients(&self, endpoint: u16, array: u16) {
        let place = u32::from(fill::CLIENTS_OF + endpoint).to_ne_bytes();
        self.table("slots").put(&place, &self.slots[&array].fd().to_ne_bytes());
    }

    /// The boot time that this tick stands for, where now is this one.
    pub(super) fn boot_time(&self, now: u32, tick: u32) -> u64 {
        let apart = (i64::from(tick) - i64::from(now)) * TICK_NS.cast_signed();
        self.told_at.saturating_add_signed(apart)
    }

    fn drops(&self) -> Vec<u64> {
        let all = self.table("drops").first(REASONS);
        let each = self.table("drops").value_size;
        all.chunks(each).map(|value| counters(value).iter().sum()).collect()
    }

    /// Runs a program on a frame.
    ///
    /// # Panics
    /// If the kernel refuses to.
    pub fn run(&self, program: Program, frame: &[u8]) -> Done {
        self.run_gso(program, frame, 0)
    }

    /// Runs a program on a frame that is to be cut into segments of this size (TC only; 0: it is none).
    ///
    /// # Panics
    /// If the kernel refuses to.
    pub fn run_gso(&self, program: Program, frame: &[u8], gso_size: u32) -> Done {
        let before = self.drops();
        let (verdict, frame) = self.run_raw(program, frame, gso_size, 0);
        let after = self.drops();
        let drops = (0..).zip(before.iter().zip(&after)).filter(|(_, (b, a))| a != b);
        let drops = drops.map(|(reason, (b, a))| (reason, a - b)).collect();
        Done { verdict, frame, drops }
    }

    /// Runs a program on a frame, and looks at nothing but its verdict.
    ///
    /// # Panics
    /// If the kernel refuses to.
    pub fn run_quietly(&self, program: Program, frame: &[u8]) -> Verdict {
        self.run_raw(program, frame, 0, 0).0
    }

    /// Runs the program that sees what the loopback interface sends, on a frame of a socket with this mark.
    ///
    /// # Panics
    /// If the kernel refuses to.
    pub fn run_marked(&self, frame: &[u8], mark: u32) -> Done {
        let (verdict, frame) = self.run_raw(Program::CheckOut, frame, 0, mark);
        Done { verdict, frame, drops: Vec::new() }
    }

    /// What was counted of health checks: packets sent, answers, and packets dropped.
    #[must_use]
    pub fn check_stats(&self) -> [u64; 3] {
        let value = self.table("check_stats").get(&0_u32.to_ne_bytes()).unwrap_or_default();
        let all = counters(&value);
        std::array::from_fn(|at| all.iter().skip(at).step_by(3).sum())
    }

    /// How many searches for ports were cut short.
    #[must_use]
    pub fn short_searches(&self) -> u64 {
        let value = self.table("short_searches").get(&0_u32.to_ne_bytes()).unwrap_or_default();
        counters(&value).iter().sum()
    }

    /// How many half-open flows of a service were pushed out before their time was over.
    #[must_use]
    pub fn pushed_out(&self, service: u16) -> u64 {
        let value = self.table("pushed_out").get(&u32::from(service).to_ne_bytes()).unwrap_or_default();
        counters(&value).iter().sum()
    }

    fn run_raw(&self, program: Program, frame: &[u8], gso_size: u32, mark: u32) -> (Verdict, Vec<u8>) {
        let mut out = vec![0; 16_384];
        let context = self.context(program, frame.len(), gso_size, mark);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let loaded = self.programs.program(program.name()).expect("it is loaded");
        let result = if program == Program::Xdp {
            let program: &Xdp = loaded.try_into().expect("an XDP program");
            program.test_run(options)
        } else {
            let program: &SchedClassifier = loaded.try_into().expect("a classifier");
            program.test_run(options)
        };
        let Ok(result) = result else { return (Verdict::Impossible, Vec::new()) };
        out.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
        (verdict(program, result.return_value), out)
    }

    /// `struct __sk_buff` or `struct xdp_md`: the interface, and what segments are to be made.
    fn context(&self, program: Program, length: usize, gso_size: u32, mark: u32) -> Vec<u8> {
        let length = u32::try_from(length).unwrap_or(0);
        if program == Program::Xdp {
            return Bytes::default().u32(0).u32(length).u32(0).u32(self.ifindex).u32(0).u32(0).0;
        }
        let mut context = vec![0; 192];
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        let ifindex = if program == Program::CheckOut { 1 } else { self.ifindex };
        context[36..40].copy_from_slice(&ifindex.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        if gso_size > 0 {
            let segments = length.div_ceil(gso_size);
            context[164..168].copy_from_slice(&segments.to_ne_bytes());
            context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
        }
        context
    }

    /// A flow that is not half-open.
    #[must_use]
    pub fn flow(&self, tuple: &Tuple) -> Option<Entry> {
        self.table("flows").get(&fill::key(tuple)).map(|value| Entry::of(&value))
    }

    /// Puts a flow into the table.
    ///
    /// # Panics
    /// If the map refuses.
    pub fn store(&self, tuple: &Tuple, entry: &Entry) {
        let Entry { seen, target, service, port, state, copied, generation } = *entry;
        let value =
            Bytes::default().u32(seen).u16(target).u16(service).be16(port).u8(state).u8(copied.into());
        self.table("flows").put(&fill::key(tuple), &value.u32(generation).0);
    }

    /// What the program has told of its flows since the last call.
    ///
    /// # Panics
    /// If it told of another tuple, or the ring cannot be read.
    pub fn told(&mut self, tuple: &Tuple) -> Vec<Entry> {
        let map = self.programs.map_mut("flow_events").expect("the program's ring");
        let mut ring = aya::maps::RingBuf::try_from(map).expect("a ring");
        let mut told = Vec::new();
        while let Some(event) = ring.next() {
            assert_eq!(event[..40], fill::key(tuple)[..]);
            told.push(Entry::of(&event[40..]));
        }
        told
    }

    /// The next hops that the program has told of since the last call, all of them by the interface that packets come from.
    ///
    /// # Panics
    /// If one is behind another interface, or the ring cannot be read.
    pub fn unknown_next_hops(&mut self) -> Vec<IpAddr> {
        let map = self.programs.map_mut("next_hops").expect("the program's ring");
        let mut ring = aya::maps::RingBuf::try_from(map).expect("a ring");
        let mut told = Vec::new();
        while let Some(hop) = ring.next() {
            let address = <[u8; 16]>::try_from(&hop[..16]).expect("16 bytes");
            assert_eq!(hop[16..], [self.ifindex.to_ne_bytes(), [0; 4]].concat()[..]);
            told.push(Ipv6Addr::from(address).to_canonical());
        }
        told
    }

    /// How many more there were.
    #[must_use]
    pub fn untold_next_hops(&self) -> u64 {
        let value = self.table("untold_hops").get(&0_u32.to_ne_bytes()).unwrap_or_default();
        counters(&value).iter().sum()
    }

    /// How many flows are stored.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.table("flows").keys().len()
    }

    /// A slot: the tick of its last packet, its state, and its client.
    #[must_use]
    pub fn slot(&self, endpoint: u16, port: u16) -> Option<(u32, u8, SocketAddr)> {
        let place = u32::from(port - 1024).to_ne_bytes();
        let value = self.slots.get(&endpoint)?.get(&place)?;
        let control = u64::from_ne_bytes(value[..8].try_into().ok()?);
        let client: [u8; 4] = value[8..12].try_into().ok()?;
        let clients = fill::CLIENTS_OF + endpoint;
        let ip = if self.slotted.contains(&clients) {
            IpAddr::from(<[u8; 16]>::try_from(self.slots.get(&clients)?.get(&place)?).ok()?)
        } else {
            IpAddr::from(client)
        };
        let client = SocketAddr::new(ip, u16::from_be_bytes([value[12], value[13]]));
        let state = u8::try_from(control >> 52 & 0xff).ok()?;
        Some((u32::try_from(control & 0xffff_ffff).ok()?, state, client))
    }

    /// Gives a port towards an endpoint to somebody.
    ///
    /// # Panics
    /// If nothing translates to the endpoint.
    pub fn occupy(&self, endpoint: u16, port: u16, last: (u32, u16, u8), owner: (SocketAddr, u16, u16)) {
        let (client, vip_port, vip) = owner;
        let (seen, service, state) = last;
        let control =
            u64::from(seen) | u64::from(service) << 32 | u64::from(vip) << 42 | u64::from(state) << 52;
        let place = u32::from(port - 1024).to_ne_bytes();
        let address = Bytes::default().address(client.ip()).0;
        let value = Bytes::default().u64(control).raw(&address[12..]).be16(client.port()).be16(vip_port);
        self.slots[&endpoint].put(&place, &value.0);
        if client.is_ipv6() {
            self.slots[&(fill::CLIENTS_OF + endpoint)].put(&place, &address);
        }
    }

    /// The counters of a service, summed over all processors: packets and bytes in and out, new flows, unstored ones.
    #[must_use]
    pub fn service_stats(&self, service: u16) -> [u64; 6] {
        let value = self.table("service_stats").get(&u32::from(service).to_ne_bytes()).unwrap_or_default();
        let all = counters(&value);
        std::array::from_fn(|at| all.iter().skip(at).step_by(6).sum())
    }
}

impl Done {
    /// Whether this is what was counted, once, and nothing else.
    #[must_use]
    pub fn counted(&self, reason: Option<Reason>) -> bool {
        let expected: Vec<(u32, u64)> = reason.into_iter().map(|reason| (reason as u32, 1)).collect();
        self.drops == expected
    }
}

fn counters(value: &[u8]) -> Vec<u64> {
    value.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}

fn verdict(program: Program, value: u32) -> Verdict {
    match (program, value) {
        (Program::Xdp, 2) => Verdict::Pass,
        (Program::Xdp, 1) => Verdict::Drop,
        (Program::Xdp, 3 | 4) => Verdict::Send,
        (Program::Xdp, _) => Verdict::Strange(value),
        (_, 0 | u32::MAX) => Verdict::Pass,
        (_, 2) => Verdict::Drop,
        (_, 7) => Verdict::Send,
        _ => Verdict::Strange(value),
    }
}

fn boot_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(u64::try_from(time.num_nanoseconds())?)
}

/// A multiplier with which the clock stands at this tick, or at the next one that it can.
fn tick(wanted: u32) -> Result<(u64, u32)> {
    loop {
        let list = fs::read_to_string("/proc/timer_list")?;
        let line = list.lines().find_map(|line| line.trim().strip_prefix("jiffies: "));
        let jiffies: u64 = line.context("no jiffies in /proc/timer_list")?.trim().parse()?;
        let multiplier = (u64::from(wanted) << 32).div_ceil(jiffies);
        let product = multiplier * jiffies;
        // Else it is about to go on to the next tick, and is waited for.
        if (1 << 32) - (product & 0xffff_ffff) > multiplier * QUIET_JIFFIES {
            return Ok((multiplier, u32::try_from(product >> 32)?));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Two interfaces, and the way to all clients by one of them; with [`ADDRESSES`]. Nobody knows the router before 198.18.0.0/15 and
/// 2001:db8:dead::/48, nor any other host of its own networks than the one before all else. To 198.51.102.0/24 and 2001:db8:beef::/48 it goes by the
/// interface towards targets.
fn interfaces() -> Result<()> {
    for command in [
        "link set lo up",
        "link add front address 02:00:00:00:00:01 type veth peer name front-peer",
        "link add back address 02:00:00:00:00:01 type veth peer name back-peer",
        "link set front up",
        "link set front-peer up",
        "link set back up",
        "link set back-peer up",
        "address add 198.51.100.2/24 dev front",
        "address add 2001:db8:ffff::2/64 dev front nodad",
        "neighbour add 198.51.100.1 lladdr 02:00:00:00:00:aa dev front nud permanent",
        "neighbour add 2001:db8:ffff::1 lladdr 02:00:00:00:00:aa dev front nud permanent",
        "route add default via 198.51.100.1",
        "-6 route add default via 2001:db8:ffff::1",
        "route add 198.18.0.0/15 via 198.51.100.9",
        "-6 route add 2001:db8:dead::/48 via 2001:db8:ffff::9",
        "neighbour add 192.0.0.8 lladdr 02:00:00:00:00:aa dev back nud permanent",
        "neighbour add fe80::8 lladdr 02:00:00:00:00:aa dev back nud permanent",
        "route add 198.51.102.0/24 via 192.0.0.8 dev back onlink",
        "-6 route add 2001:db8:beef::/48 via fe80::8 dev back",
    ] {
        let output = Command::new("ip").args(command.split(' ')).output().context("running ip")?;
        ensure!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    Ok(())
}
