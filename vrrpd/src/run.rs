//! The real-time loop: one thread that drives [`Node`] and carries out what it decides.
//!
//! Nothing here waits for anybody: sockets do not block, commands and events go through bounded queues, and what the API
//! reads is a pointer swapped now and then. One pass of the loop takes what has arrived (a bounded number of packets from each
//! socket, so that a flood cannot starve the timers), then serves the timers, then publishes the status.

mod perform;
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::config::Config;
use common::ipc::Role;
use common::key::PairKey;
use common::time::{Duration, Instant, Now, UnixTime};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use nix::sys::time::TimeSpec;
use vrrpd_core::event::Event;
use vrrpd_core::node::{Input, Node, Slot, SwitchoverError};
use vrrpd_core::settings::{RouterSettings, Settings};

use crate::clock;
use crate::command::{
    Command, CommandError, CommandReceiver, EventSender, LoopError, LoopHandle, MaintenanceOutcome,
    ReloadOutcome, Reply, Setup, StatusCell, SwitchoverOutcome,
};
use crate::netlink::{Monitor, Netlink, NetlinkError};
use crate::ownership::Ownership;
use crate::privilege;
use crate::socket::{PeerSocket, SocketError};
use crate::sysctl::Sysctls;
use crate::warden::WardenHandle;

use ports::{PortChange, PortError, Ports};

/// Packets taken from one socket in one pass.
const PACKETS_MAX: usize = 128;

/// Netlink changes taken in one pass.
const CHANGES_MAX: usize = 256;

/// The longest VRRP message with trailer: 255 IPv6 addresses take 4 KiB.
const PACKET_SIZE_MAX: usize = 8 * 1024;

/// The least time between two publications of an unchanged set of roles.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// The longest sleep.
const IDLE_MAX: Duration = Duration::from_millis(250);

/// How often the carrier of interfaces with active routers is looked at. The kernel tells of a lost one by itself, but at
/// most once a second for all interfaces together (`net/core/link_watch.c`).
const CARRIER_INTERVAL: Duration = Duration::from_millis(20);

/// How long local routes outlive a handover at the end: what was being served when the addresses left is answered from them.
const LINGER: Duration = Duration::from_secs(1);

/// Why the loop could not be started, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration has no such node, or no peer for it.
    #[error("node {0} is not one of the pair's two nodes")]
    Node(String),
    /// The operating system does not let us.
    #[error(transparent)]
    Privilege(#[from] privilege::PrivilegeError),
    /// Links, addresses or routes.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Sockets.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Kernel settings.
    #[error(transparent)]
    Sysctl(#[from] crate::sysctl::SysctlError),
    /// The warden.
    #[error("starting the warden failed: {0}")]
    Warden(#[source] io::Error),
    /// The thread.
    #[error("starting the real-time thread failed: {0}")]
    Thread(#[source] io::Error),
    /// Waiting for input.
    #[error("waiting for packets failed: {0}")]
    Poll(#[source] io::Error),
}

impl From<PortError> for RunError {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Netlink(error) => Self::Netlink(error),
            PortError::Socket(error) => Self::Socket(error),
            PortError::Sysctl(error) => Self::Sysctl(error),
        }
    }
}

/// Opens everything, removes what a former life left, and starts the loop. When it fails nothing is left behind.
///
/// # Errors
///
/// A sentence for the operator about what could not be had.
pub fn start(setup: Setup) -> Result<LoopHandle, RunError> {
    privilege::require()?;
    privilege::reduce()?;
    let mut shell = Loop::open(setup)?;
    if let Err(error) = shell.begin() {
        shell.clean_up();
        return Err(error);
    }
    LoopHandle::spawn(move || shell.run().map_err(LoopError::from)).map_err(RunError::Thread)
}

/// The loop's state.
struct Loop {
    node: Node,
    ports: Ports,
    monitor: Monitor,
    peer: Option<PeerSocket>,
    warden: WardenHandle,
    /// Where the kernel's forwarding program reads what this node owns, while there is one.
    ownership: Option<Ownership>,
    commands: CommandReceiver,
    events: EventSender,
    status: Arc<StatusCell>,
    key: Option<PairKey>,
    node_name: String,
    /// The virtual routers as of the last [`vrrpd_core::node::Action::Routers`]: what an action before the next one means.
    routers: BTreeMap<Slot, RouterSettings>,
    /// Slots that are active: the warden watches them.
    guarded: BTreeSet<Slot>,
    /// The peer's life that the warden was told; a new one makes its release worthless until it is told anew.
    guarded_echo: u64,
    switchovers: BTreeMap<u64, (String, Reply<SwitchoverOutcome>)>,
    next_token: u64,
    handed_over: bool,
    carriers_seen: Instant,
    published: Instant,
    publish_now: bool,
    /// System call failures are reported once per kind until one succeeds again.
    send_failed: BTreeSet<Slot>,
    buffer: Vec<u8>,
    finished: bool,
}

impl Loop {
    fn open(setup: Setup) -> Result<Self, RunError> {
        let Setup { config, node: node_name, key, run_dir, commands, events, status } = setup;
        let settings = settings(&config, &node_name, key.clone())?;
        let netlink = Netlink::open()?;
        let monitor = Monitor::open()?;
        let peer = match settings.peer_link {
            Some(link) => Some(PeerSocket::open(link.local, link.remote)?),
            None => None,
        };
        let sysctls = Sysctls::open(&run_dir)?;
        let warden = WardenHandle::spawn().map_err(RunError::Warden)?;
        let now = clock::now();
        // A life's name has to differ from all earlier ones; the wall clock in nanoseconds mixed with uptime does.
        let boot = (now.unix.as_nanos() ^ now.at.as_nanos().rotate_left(32)).max(1);
        Ok(Self {
            node: Node::new(settings, boot, now),
            ports: Ports::new(netlink, sysctls),
            monitor,
            peer,
            warden,
            ownership: None,
            commands,
            events,
            status,
            key,
            node_name,
            routers: BTreeMap::new(),
            guarded: BTreeSet::new(),
            guarded_echo: 0,
            switchovers: BTreeMap::new(),
            next_token: 1,
            handed_over: false,
            carriers_seen: Instant::ZERO,
            published: Instant::ZERO,
            publish_now: true,
            send_failed: BTreeSet::new(),
            buffer: vec![0; PACKET_SIZE_MAX],
            finished: false,
        })
    }

    /// Removes leftovers, then looks at the interfaces: with that the virtual routers start.
    fn begin(&mut self) -> Result<(), RunError> {
        let wanted: BTreeSet<IpAddr> =
            self.node.settings().routers().flat_map(|router| router.advertised()).collect();
        let removed = self.ports.reconcile(&wanted)?;
        if removed > 0 {
            tracing::info!(removed, "removed virtual addresses and routes that an earlier run left behind");
        }
        self.sync_ports()?;
        for name in self.ports.names() {
            let state = self.ports.refresh(&name)?;
            self.feed(clock::now(), Input::Interface { name: &name, state });
        }
        Ok(())
    }

    fn run(mut self) -> Result<(), RunError> {
        // Signals are for the control side; here they would only interrupt.
        if let Err(error) = SigSet::all().thread_block() {
            tracing::warn!(%error, "blocking signals");
        }
        let scheduling = privilege::enter_real_time();
        if scheduling.is_complete() {
            tracing::info!("real-time loop: {scheduling}");
        } else {
            tracing::warn!("the real-time loop may be late under load: {scheduling}");
        }
        let result = loop {
            if let Err(error) = self.wait() {
                break Err(error);
            }
            self.pass();
            if self.finished {
                break Ok(());
            }
        };
        if result.is_err() {
            self.feed(clock::now(), Input::ShutdownNow);
        }
        if self.handed_over {
            std::thread::sleep(LINGER);
        }
        self.clean_up();
        result
    }

    /// Sleeps until something arrives or a timer is due; never so long that the warden would take us for dead, or a reader
    /// of the status for hung.
    fn wait(&mut self) -> Result<(), RunError> {
        let now = clock::now().at;
        let due = self.node.next_deadline().map_or(Duration::MAX, |deadline| deadline.since(now));
        let limits =
            self.guarded.iter().filter_map(|&slot| self.node.stall_limit(slot)).map(|limit| limit / 2);
        let idle = if self.guarded.is_empty() { IDLE_MAX } else { CARRIER_INTERVAL };
        let timeout = limits.fold(due.min(idle), Duration::min);
        let mut fds =
            vec![poll_in(self.commands.as_fd()), poll_in(self.monitor.as_fd()), poll_in(self.warden.as_fd())];
        fds.extend(self.peer.iter().map(|socket| poll_in(socket.as_fd())));
        for (_, port) in self.ports.iter() {
            fds.extend(port.adverts.iter().flatten().map(|socket| poll_in(socket.as_fd())));
            fds.extend(port.frames.iter().flatten().map(|socket| poll_in(socket.as_fd())));
        }
        match ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(RunError::Poll(error.into())),
        }
    }

    /// Takes what has arrived, then serves the timers.
    fn pass(&mut self) {
        self.hear_warden();
        self.hear_monitor();
        self.look_at_carriers();
        self.hear_ports();
        self.hear_peer();
        self.hear_commands();
        let now = clock::now();
        if self.node.next_deadline().is_some_and(|deadline| deadline <= now.at) {
            self.feed(now, Input::Timeout);
        }
        // A router that resigned is silent but still holds its addresses: the warden is to know that we are well.
        self.beat();
        if self.guarded_echo != self.node.peer_boot() {
            self.guarded_echo = self.node.peer_boot();
            self.guard_all();
        }
        self.publish_if_due();
    }

    /// What the warden did while we did not run comes before everything else.
    fn hear_warden(&mut self) {
        let fired: Vec<Slot> = self.guarded.iter().copied().filter(|&slot| self.warden.fired(slot)).collect();
        for slot in fired {
            self.feed(clock::now(), Input::WardenFired { slot });
        }
        match self.warden.revive() {
            Ok(true) => {
                self.status.counters.warden_restarts.fetch_add(1, Ordering::Relaxed);
                self.guard_all();
            }
            Ok(false) => {}
            Err(error) => self.system_error("starting the warden again", &error),
        }
    }

    fn beat(&mut self) {
        let floor = self.node.peer_stamp().max(clock::now().unix.as_nanos());
        for &slot in &self.guarded {
            // That it fired already is found out at the start of the next pass.
            self.warden.beat(slot, floor);
        }
    }

    fn guard_all(&mut self) {
        for slot in self.guarded.clone() {
            self.guard(slot);
        }
    }

    fn hear_monitor(&mut self) {
        for _ in 0..CHANGES_MAX {
            let change = match self.monitor.next() {
                Ok(Some(change)) => change,
                Ok(None) => return,
                Err(error) => return self.system_error("watching the network configuration", &error),
            };
            match self.ports.changed(change) {
                None => {}
                Some(PortChange::State(name)) => self.refresh(&name),
                Some(PortChange::All) => self.refresh_all(),
                Some(PortChange::Vip { interface, ip, ours }) => self.look_for_vip(&interface, ip, ours),
            }
        }
    }

    fn look_at_carriers(&mut self) {
        let now = clock::now().at;
        if self.guarded.is_empty() || now.since(self.carriers_seen) < CARRIER_INTERVAL {
            return;
        }
        self.carriers_seen = now;
        let names: BTreeSet<String> = self
            .guarded
            .iter()
            .filter_map(|slot| self.routers.get(slot))
            .map(|router| router.interface.clone())
            .collect();
        for name in names {
            match self.ports.is_outdated(&name) {
                Ok(true) => self.refresh(&name),
                Ok(false) => {}
                Err(error) => self.system_error("looking at an interface", &error),
            }
        }
    }

    /// Tells the node whether a virtual IP is there. What a change said may be over by now: only what is so now counts.
    fn look_for_vip(&mut self, interface: &str, ip: IpAddr, ours: bool) {
        match self.ports.holds(interface, ip) {
            Ok(true) => self.feed(clock::now(), Input::AddressAdded { interface, ip, ours }),
            Ok(false) => self.feed(clock::now(), Input::AddressRemoved { interface, ip }),
            Err(error) => self.system_error("listing addresses", &error),
        }
    }

    fn refresh_all(&mut self) {
        for name in self.ports.names() {
            self.refresh(&name);
            for ip in self.node_addresses(&name) {
                self.look_for_vip(&name, ip, false);
            }
        }
    }

    fn node_addresses(&self, interface: &str) -> Vec<IpAddr> {
        let here = self.node.slots().filter(|(_, router)| router.interface == interface);
        here.flat_map(|(_, router)| router.advertised()).collect()
    }

    fn refresh(&mut self, name: &str) {
        match self.ports.refresh(name) {
            Ok(state) => self.feed(clock::now(), Input::Interface { name, state }),
            Err(error) => {
                self.system_error("looking at an interface", &error);
                self.feed(clock::now(), Input::Interface { name, state: None });
            }
        }
    }

    fn hear_ports(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for name in self.ports.names() {
            for at in 0..ports::FAMILIES.len() {
                self.hear_adverts(&name, at, &mut buffer);
                self.hear_frames(&name, at, &mut buffer);
            }
        }
        self.buffer = buffer;
    }

    fn hear_adverts(&mut self, name: &str, at: usize, buffer: &mut [u8]) {
        for _ in 0..PACKETS_MAX {
            let socket = self.ports.get(name).and_then(|port| port.adverts[at].as_ref());
            match socket.map(|socket| socket.recv(buffer)) {
                Some(Ok(Some((bytes, meta)))) => {
                    self.feed(clock::now(), Input::Advert { interface: name, meta, bytes });
                }
                Some(Err(error)) => return self.receive_error(&error),
                Some(Ok(None)) | None => return,
            }
        }
    }

    fn hear_frames(&mut self, name: &str, at: usize, buffer: &mut [u8]) {
        for _ in 0..PACKETS_MAX {
            let socket = self.ports.get(name).and_then(|port| port.frames[at].as_ref());
            match socket.map(|socket| socket.recv(buffer)) {
                Some(Ok(Some(bytes))) => self.feed(clock::now(), Input::Frame { interface: name, bytes }),
                Some(Err(error)) => return self.receive_error(&error),
                Some(Ok(None)) | None => return,
            }
        }
    }

    fn hear_peer(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..PACKETS_MAX {
            match self.peer.as_ref().map(|socket| socket.recv(&mut buffer)) {
                Some(Ok(Some(bytes))) => self.feed(clock::now(), Input::Peer(bytes)),
                Some(Err(error)) => {
                    self.receive_error(&error);
                    break;
                }
                Some(Ok(None)) | None => break,
            }
        }
        self.buffer = buffer;
    }

    /// "Network is down" is what a socket says once after its interface went down; the monitor tells the same.
    fn receive_error(&self, error: &io::Error) {
        if error.raw_os_error() != Some(Errno::ENETDOWN as i32) {
            self.system_error("receiving", error);
        }
    }

    fn system_error(&self, doing: &'static str, error: &dyn std::error::Error) {
        let count = self.status.counters.system_errors.fetch_add(1, Ordering::Relaxed) + 1;
        // An error that repeats is logged ever more rarely; the counter has them all.
        if count.is_power_of_two() {
            tracing::warn!(%error, count, "{doing} failed");
        }
    }

    fn hear_commands(&mut self) {
        self.commands.clear();
        while let Some(command) = self.commands.try_recv() {
            let now = clock::now();
            match command {
                Command::Switchover { instance, reply } => {
                    let token = self.next_token;
                    self.next_token += 1;
                    self.switchovers.insert(token, (instance.clone(), reply));
                    self.feed(now, Input::Switchover { instance: &instance, token });
                }
                Command::Maintenance { on, reply } => {
                    self.feed(now, Input::Maintenance(on));
                    answer(reply, Ok(MaintenanceOutcome { on }));
                }
                Command::Reload { config, key, reply } => {
                    let outcome = self.reload(&config, key);
                    answer(reply, outcome);
                }
                Command::Lbd(state) => {
                    self.feed(now, Input::Lbd(state));
                }
                Command::Behind(behind) => self.feed(now, Input::Behind(behind)),
                Command::Ownership(ownership) => {
                    self.ownership = ownership;
                    self.own_all();
                }
                Command::Shutdown => self.feed(now, Input::Shutdown),
                Command::ShutdownNow => self.feed(now, Input::ShutdownNow),
            }
        }
    }

    fn reload(&mut self, config: &Config, key: Option<PairKey>) -> Result<ReloadOutcome, CommandError> {
        let failed = |reason: String| CommandError::ReloadFailed { reason };
        let settings =
            settings(config, &self.node_name, key.clone()).map_err(|error| failed(error.to_string()))?;
        if settings.peer_link != self.node.settings().peer_link {
            let open = settings.peer_link.map(|link| PeerSocket::open(link.local, link.remote)).transpose();
            self.peer = open.map_err(|error| failed(error.to_string()))?;
        }
        self.key = key;
        self.feed(clock::now(), Input::Reconfigure(Box::new(settings)));
        Ok(ReloadOutcome { config_hash: config.hash })
    }

    /// Gives the node an input and carries out what follows.
    fn feed(&mut self, now: Now, input: Input<'_>) {
        self.node.handle(now, input);
        while let Some(action) = self.node.poll_action() {
            self.perform(action);
        }
    }

    fn switchover_done(&mut self, token: u64, result: Result<Duration, SwitchoverError>) {
        let Some((instance, reply)) = self.switchovers.remove(&token) else { return };
        let settings = self.node.settings();
        let outcome = match result {
            Ok(took) => Ok(SwitchoverOutcome { active: settings.peer.clone(), took }),
            Err(SwitchoverError::UnknownInstance) => Err(CommandError::UnknownInstance {
                known: settings.instances.iter().map(|known| known.name.clone()).collect(),
                name: instance,
            }),
            Err(SwitchoverError::NotActive(role)) => {
                let peer_is = role == Role::Backup;
                Err(CommandError::NotActive {
                    instance,
                    role,
                    active: peer_is.then(|| settings.peer.clone()),
                })
            }
            Err(SwitchoverError::Failed(reason)) => Err(CommandError::HandoverFailed { instance, reason }),
            Err(SwitchoverError::Busy) => Err(CommandError::Busy),
            Err(SwitchoverError::Stopping) => Err(CommandError::Stopping),
        };
        answer(reply, outcome);
    }

    fn event(&mut self, at: UnixTime, event: Event) {
        if let Event::Role { .. } = event {
            self.publish_now = true;
        }
        self.events.send(at, event);
    }

    /// At the end of a pass, and so after the addresses of a router that has left are removed.
    fn publish_if_due(&mut self) {
        if self.publish_now || clock::now().at.since(self.published) >= PUBLISH_INTERVAL {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.publish_now = false;
        self.published = clock::now().at;
        self.status.publish(self.node.status());
    }

    /// Takes away what was set up. Errors are logged: there is nobody left to act on them.
    fn clean_up(&mut self) {
        for slot in std::mem::take(&mut self.guarded) {
            self.warden.disarm(slot);
        }
        if let Err(error) = self.ports.clear() {
            tracing::warn!(%error, "cleaning up");
        }
        self.own_all();
    }
}

fn settings(config: &Config, node: &str, key: Option<PairKey>) -> Result<Settings, RunError> {
    Settings::new(config, node, key, env!("CARGO_PKG_VERSION")).ok_or_else(|| RunError::Node(node.to_owned()))
}

fn poll_in(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

/// Answers a command; whoever asked may have given up.
fn answer<T>(reply: Reply<T>, outcome: Result<T, CommandError>) {
    drop(reply.send(outcome));
}
