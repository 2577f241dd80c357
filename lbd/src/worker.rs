//! The worker threads: one for each core, each with an [`Executor`] of its own and nothing shared on the way of a request.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use common::config::Mode;
use common::hash::PlainMap;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::executor::Executor;
use crate::l4::{
    BufferPool, Closing, Complaints, Connections, Departure, End, Pool, Socket, accept_loop, udp,
};
use crate::l7::{Budget, Kept, Multiplexed, Presses, Site, Watches};
use crate::shared::{Shared, WorkerShared};
use crate::snapshot::{Group, Service, Snapshot};

/// How often a worker says that it runs, takes the time and looks at a slice of its connections.
const TICK: Duration = Duration::from_millis(20);

/// Commands that may wait; the control runtime sends a few with each reload and waits for room.
const COMMANDS_MAX: usize = 64;

/// How long the control runtime waits for room among a worker's commands. A worker that hangs longer is counted as dead
/// anyway.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// What the control runtime asks of a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept on this socket.
    Listen(SocketAddr, TcpListener),
    /// Accept what is queued at this address, and close its socket.
    Unlisten(SocketAddr),
    /// Take datagrams from this socket.
    ListenUdp(SocketAddr, UdpSocket),
    /// Pass on what is queued at this address for datagrams, and close its socket.
    UnlistenUdp(SocketAddr),
    /// Both for all addresses, but for connections at these.
    UnlistenAllBut(Arc<HashSet<SocketAddr>>),
    /// Close connections.
    Close(Closing),
    /// End the thread.
    Exit,
}

/// The control runtime's end of the workers.
#[derive(Debug)]
pub(crate) struct Workers {
    handles: Vec<Handle>,
}

#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts a thread for each entry of `shared.workers`, and waits until all of them run.
    pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let mut handles = Vec::with_capacity(shared.workers.len());
        for index in 0..shared.workers.len() {
            let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
            let (started, wait) = std::sync::mpsc::sync_channel(1);
            let shared = Arc::clone(shared);
            let thread = std::thread::Builder::new()
                .name(format!("lbd-worker-{index}"))
                .spawn(move || run(index, shared, receiver, &started))?;
            wait.recv().map_err(|_| io::Error::other("a worker thread ended while it started"))??;
            handles.push(Handle { commands, thread });
        }
        Ok(Self { handles })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.handles.len()
    }

    /// Sends a command to one worker.
    pub(crate) async fn send(&self, index: usize, command: Command) {
        let sent = self.handles[index].commands.send_timeout(command, COMMAND_TIMEOUT).await;
        if let Err(error) = sent {
            tracing::error!(worker = index, %error, "a worker does not take commands");
        }
    }

    /// Sends a command to each worker.
    pub(crate) async fn send_all(&self, command: impl Fn() -> Command) {
        for index in 0..self.count() {
            self.send(index, command()).await;
        }
    }

    /// Ends the threads and waits for them. One that hangs is left behind: the process ends anyway.
    pub(crate) async fn exit(self) {
        self.send_all(|| Command::Exit).await;
        for _ in 0..50 {
            if self.handles.iter().all(|handle| handle.thread.is_finished()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tracing::warn!("a worker thread did not end in time");
    }
}

/// A worker, as seen from its connections.
pub(crate) struct Worker {
    /// Its number, which is that of its shard of all counters.
    pub(crate) index: usize,
    /// Its connections.
    pub(crate) connections: Rc<Connections>,
    /// Its tasks, sockets and timers.
    pub(crate) executor: Rc<Executor>,
    /// Its buffers.
    pub(crate) buffers: Rc<BufferPool>,
    /// Its clients' HTTP connections.
    pub(crate) watches: Rc<Watches>,
    /// Its connections to HTTP targets that wait for the next request.
    pub(crate) kept: Kept,
    /// Its connections of HTTP/2 to targets.
    pub(crate) multiplexed: Multiplexed,
    /// What compresses answers.
    pub(crate) presses: Rc<Presses>,
    all: Arc<Shared>,
    routes: RefCell<Routes>,
}

/// Where connections to an address go.
pub(crate) struct Route {
    /// The service.
    pub(crate) service: Arc<Service>,
    /// The group that serves it when no rule says otherwise.
    pub(crate) default: Rc<Pool>,
    /// The groups of its rules, in the file's order.
    pub(crate) rules: Vec<Rc<Pool>>,
    /// What only `http` has.
    pub(crate) http: Option<Site>,
    /// What clients did wrong.
    pub(crate) complaints: Complaints,
    /// What this host could not do for them.
    pub(crate) troubles: Complaints,
}

/// The snapshot as this worker uses it.
struct Routes {
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    generation: u64,
    by_address: PlainMap<(Mode, SocketAddr), Rc<Route>>,
    departures: PlainMap<IpAddr, Rc<Departure>>,
    pools: PlainMap<String, Rc<Pool>>,
    /// By service; they stay over reloads.
    budgets: HashMap<String, Budget>,
}

impl Worker {
    /// What this worker shows of itself.
    pub(crate) fn shared(&self) -> &WorkerShared {
        &self.all.workers[self.index]
    }

    /// Whether the daemon is on its way out.
    pub(crate) fn is_stopping(&self) -> bool {
        self.all.is_stopping()
    }

    /// The process's clock.
    pub(crate) fn clock(&self) -> Clock {
        self.all.clock
    }

    /// What is to be answered to a request if it is one of the authority's that certificates are ordered from.
    pub(crate) fn challenge(&self, method: &str, host: &str, path: &str) -> Option<String> {
        self.all.acme.answer(method, host, path, self.all.clock)
    }

    /// How often all its sockets were looked at.
    pub(crate) fn round(&self) -> u64 {
        self.executor.reactor().rounds()
    }

    /// Which configuration is in use: while it is the same one, so is what [`Self::route`] says.
    pub(crate) fn generation(&self) -> u64 {
        let mut routes = self.routes.borrow_mut();
        routes.refresh(self);
        routes.generation
    }

    /// Where connections or datagrams to `address` go now.
    pub(crate) fn route(&self, mode: Mode, address: SocketAddr) -> Option<Rc<Route>> {
        let mut routes = self.routes.borrow_mut();
        routes.refresh(self);
        routes.by_address.get(&(mode, address)).map(Rc::clone)
    }

    /// When a virtual IP left, now and later; none of another address.
    pub(crate) fn departure(&self, ip: IpAddr) -> Option<Rc<Departure>> {
        let mut routes = self.routes.borrow_mut();
        routes.refresh(self);
        routes.departures.get(&ip).map(Rc::clone)
    }

    /// Whether what lives here may go on although its virtual IP has left: the other node sends on what comes for it.
    pub(crate) fn knows_the_other_node(&self) -> bool {
        self.all.chance.knows_the_other_node()
    }

    /// The target group of this name as it is now.
    pub(crate) fn pool(&self, group: &str) -> Option<Rc<Pool>> {
        let mut routes = self.routes.borrow_mut();
        routes.refresh(self);
        routes.pools.get(group).map(Rc::clone)
    }
}

impl Routes {
    /// Takes the snapshot in use, if it is another one by now.
    fn refresh(&mut self, worker: &Worker) {
        let snapshot = self.snapshot.load();
        if snapshot.generation == self.generation {
            return;
        }
        self.generation = snapshot.generation;
        // A group that stays goes on where its turn is. One that has changed begins somewhere else each time: with the same
        // target first, those at the end of a list that changes often would get less than their share. So does each process, on either
        // node: where few connections last long, the same first draws after each start would be all there are.
        let life = worker.all.life.process;
        let seed = life.wrapping_add(worker.index as u64).wrapping_add(snapshot.generation);
        let pool = |group: &Arc<Group>| match self.pools.get(&group.config.name) {
            Some(pool) if Arc::ptr_eq(&pool.group, group) => Rc::clone(pool),
            _ => Rc::new(Pool::new(group, snapshot.hash_key, seed)),
        };
        let pools: PlainMap<String, Rc<Pool>> =
            snapshot.groups.iter().map(|group| (group.config.name.clone(), pool(group))).collect();
        // Every service's groups are among the snapshot's.
        let find = |group: &Arc<Group>| pools.get(&group.config.name).map(Rc::clone);
        let mut budgets = std::mem::take(&mut self.budgets);
        let names: HashSet<&str> = snapshot.services.iter().map(|it| it.config.name.as_str()).collect();
        budgets.retain(|name, _| names.contains(name.as_str()));
        let mut site = |service: &Service| {
            let budget = Rc::clone(budgets.entry(service.config.name.clone()).or_default());
            Site::new(service, |name| pools.get(name).map(Rc::clone), snapshot.hash_key, budget)
        };
        let mut route = |service: &Arc<Service>| {
            Some(Rc::new(Route {
                service: Arc::clone(service),
                http: site(service),
                default: find(&service.group).unwrap_or_else(|| pool(&service.group)),
                rules: service.rules.iter().map(|(_, group)| find(group)).collect::<Option<_>>()?,
                complaints: Complaints::default(),
                troubles: Complaints::default(),
            }))
        };
        self.by_address = PlainMap::default();
        for service in &snapshot.services {
            let Some(route) = route(service) else { continue };
            let mode = service.config.mode.listening();
            let keys = service.config.listen.iter().map(|listen| (mode, listen.address));
            self.by_address.extend(keys.map(|key| (key, Rc::clone(&route))));
        }
        self.budgets = budgets;
        self.pools = pools;
        let departures = snapshot.config.vrrp.iter().flat_map(|vrrp| {
            let departure = Rc::new(worker.all.departures.of(&vrrp.name));
            vrrp.vips.iter().map(move |vip| (vip.addr(), Rc::clone(&departure)))
        });
        self.departures = departures.collect();
    }
}

/// Says that the worker has ended, also when it panics.
struct Alive<'a>(&'a WorkerShared);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.beat(0);
    }
}

fn run(
    index: usize,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    started: &std::sync::mpsc::SyncSender<io::Result<()>>,
) {
    let executor = match Executor::new() {
        Ok(executor) => Rc::new(executor),
        Err(error) => {
            // The receiver waits for exactly this one message.
            drop(started.send(Err(error)));
            return;
        }
    };
    let all = Arc::clone(&shared);
    let _alive = Alive(&all.workers[index]);
    all.workers[index].beat(all.clock.now_ms());
    drop(started.send(Ok(())));
    let snapshot = Cache::new(Arc::clone(&shared.snapshot));
    let routes = Routes {
        snapshot,
        generation: 0,
        by_address: PlainMap::default(),
        departures: PlainMap::default(),
        pools: PlainMap::default(),
        budgets: HashMap::new(),
    };
    let worker = Rc::new(Worker {
        index,
        connections: Rc::default(),
        executor: Rc::clone(&executor),
        buffers: Rc::default(),
        watches: Rc::default(),
        kept: Kept::default(),
        multiplexed: Multiplexed::default(),
        presses: Rc::default(),
        all: shared,
        routes: RefCell::new(routes),
    });
    if let Err(error) = executor.run(serve(worker, commands)) {
        // Never seen: the kernel would have to refuse to say which of its sockets are ready.
        tracing::error!(worker = index, %error, "cannot watch the worker's sockets any more");
    }
}

/// Ticks for as long as the worker runs.
async fn tick_forever(worker: Rc<Worker>) {
    loop {
        let now_ms = worker.all.clock.now_ms();
        worker.shared().beat(now_ms);
        worker.connections.tick(now_ms);
        worker.watches.tick(now_ms, worker.is_stopping());
        worker.kept.tick(now_ms);
        worker.multiplexed.tick(now_ms);
        worker.executor.sleep(TICK).await;
    }
}

async fn serve(worker: Rc<Worker>, mut commands: mpsc::Receiver<Command>) {
    let mut listening: HashMap<SocketAddr, oneshot::Sender<()>> = HashMap::new();
    let mut datagrams = udp::Listeners::default();
    worker.executor.spawn(tick_forever(Rc::clone(&worker)));
    loop {
        match commands.recv().await {
            Some(Command::Listen(address, socket)) => {
                match Socket::new(worker.executor.reactor(), socket.into()) {
                    Ok(listener) => {
                        let (stop, stopped) = oneshot::channel();
                        listening.insert(address, stop);
                        worker.shared().counters.listening.add(1);
                        worker.executor.spawn(accept_loop(Rc::clone(&worker), listener, address, stopped));
                    }
                    Err(error) => tracing::error!(%address, %error, "cannot use a listening socket"),
                }
            }
            // Dropping the sender stops the loop.
            Some(Command::Unlisten(address)) => drop(listening.remove(&address)),
            Some(Command::ListenUdp(address, socket)) => datagrams.listen(&worker, address, socket),
            Some(Command::UnlistenUdp(address)) => datagrams.close(address),
            Some(Command::UnlistenAllBut(kept)) => {
                listening.retain(|address, _| kept.contains(address));
                datagrams.linger_all();
            }
            Some(Command::Close(closing)) => {
                worker.connections.close(closing, End::Stopped);
                worker.watches.close(closing);
                datagrams.stop(closing);
                if closing == Closing::All {
                    worker.kept.close_all();
                    worker.multiplexed.close_all();
                }
            }
            Some(Command::Exit) | None => return,
        }
    }
}
