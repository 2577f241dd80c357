//! `vrrpd run`: puts the daemon together and takes it down again.
//!
//! ```text
//! configuration ─► key ─► sockets bound ─► loop started ─► event, hook and lbd threads ─► API and signals (this thread)
//! ```
//!
//! The order matters. Everything that an operator may have got wrong is found before the loop touches the network, and
//! the other threads start after it, because starting it drops the privileges of the thread it is called on and they
//! inherit what is left.

mod reload;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use common::config::{Config, ConfigError, KeyFileError, TokenFileError, load_key, load_token};
use common::key::PairKey;
use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::api::server::{ListenError, UnixSocket, listen_tcp, listen_unix, serve_tcp, serve_unix};
use crate::api::{Api, ApiCounters, RELOADS_MAX, ReloadRequest, Settings, follow};
use crate::command::{
    Command, CommandError, CommandSender, LoopError, LoopHandle, Setup, StatusCell, commands, events,
};
use crate::events::{EventLog, now, pump};
use crate::hooks::Hooks;
use crate::lbd_link::LbdLink;

/// The API's socket in the run directory.
pub const SOCKET_NAME: &str = "vrrpd.sock";

/// The longest wait for the loop after it was told to end.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// The longest wait for hooks after the loop's end; then they are killed.
pub const HOOKS_MAX: Duration = Duration::from_secs(10);

/// Which files and which node.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// This node's name.
    pub node: String,
    /// The run directory.
    pub run_dir: PathBuf,
}

/// Why the daemon did not start, or how it ended.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The configuration is not readable or not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration is for others.
    #[error("there is no node {node} in {}, it has {known}; name this node with --node", file.display())]
    UnknownNode {
        /// The name.
        node: String,
        /// The configuration file.
        file: PathBuf,
        /// The names in it.
        known: String,
    },
    /// Nothing to do.
    #[error("{} has no [[vrrp]], so vrrpd has nothing to do", .0.display())]
    NoInstances(PathBuf),
    /// The key is not readable.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The token is not readable, or empty.
    #[error(transparent)]
    Token(#[from] TokenFileError),
    /// The run directory cannot be made.
    #[error("cannot create the run directory {}: {source}", path.display())]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A socket of ours cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The loop did not start, or ended by itself.
    #[error("{0}")]
    Loop(LoopError),
    /// The loop did not end when told to.
    #[error("the real-time loop did not end within {} s", SHUTDOWN_MAX.as_secs())]
    Hung,
    /// The system lacks something basic.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Everything that is read from files.
#[derive(Debug)]
pub struct Inputs {
    /// The configuration.
    pub config: Config,
    /// The pair's key.
    pub key: Option<PairKey>,
    /// The API's token.
    pub token: Option<String>,
}

/// Reads and checks the files that `run` needs.
///
/// # Errors
///
/// When one of them is not readable or not valid, or does not have this node.
pub fn read(options: &Options) -> Result<Inputs, ControlError> {
    let config = common::config::load(&options.config)?;
    require_node(&config, &options.node, &options.config)?;
    if config.vrrp.is_empty() {
        return Err(ControlError::NoInstances(options.config.clone()));
    }
    let key = load_key(&config.pair)?;
    let token = load_token(&config.api)?;
    Ok(Inputs { config, key, token })
}

/// Whether the configuration has the node.
///
/// # Errors
///
/// When it has not.
pub fn require_node(config: &Config, node: &str, file: &Path) -> Result<(), ControlError> {
    if config.node(node).is_some() {
        return Ok(());
    }
    let names: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(" and ") };
    Err(ControlError::UnknownNode { node: node.to_owned(), file: file.to_owned(), known })
}

/// Runs the daemon until it is told to end. `start` starts the real-time loop ([`crate::run::start`]).
///
/// # Errors
///
/// When something keeps it from starting (then nothing is left behind), or the loop ended by itself.
pub fn run<E: Into<LoopError>>(
    options: &Options,
    start: impl FnOnce(Setup) -> Result<LoopHandle, E>,
) -> Result<(), ControlError> {
    let started = (now(), Instant::now());
    let inputs = read(options)?;
    let sockets = Sockets::bind(options, &inputs.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // From here on a signal no longer ends the process by itself.
    let signals = Signals::new(&runtime)?;
    let (commands, command_receiver) = commands()?;
    let (event_sender, event_receiver) = events();
    let status = Arc::new(StatusCell::new()?);
    let Inputs { config, key, token } = inputs;
    let setup = Setup {
        config: config.clone(),
        node: options.node.clone(),
        key,
        run_dir: options.run_dir.clone(),
        commands: command_receiver,
        events: event_sender,
        status: Arc::clone(&status),
    };
    let handle = start(setup).map_err(|error| ControlError::Loop(error.into()))?;

    let hooks = Arc::new(Hooks::start(&options.node, &config)?);
    let log = Arc::new(EventLog::new(event_receiver.dropped()));
    let pump = {
        let (log, hooks, status) = (Arc::clone(&log), Arc::clone(&hooks), Arc::clone(&status));
        let pumping = move || pump(&event_receiver, &log, &hooks, &status);
        std::thread::Builder::new().name("events".to_owned()).spawn(pumping)?
    };
    let Sockets { unix, ipc, tcp, guards } = sockets;
    let link = LbdLink::start(ipc, &options.node, commands.clone(), Arc::clone(&status))?;
    let (reload_sender, reloads) = mpsc::channel(RELOADS_MAX);
    let api = Arc::new(Api {
        node: options.node.clone(),
        started,
        status,
        commands: commands.clone(),
        log,
        hooks: Arc::clone(&hooks),
        lbd: link.counters(),
        settings: ArcSwap::from_pointee(Settings::new(&config, token)),
        reloads: reload_sender,
        followers: Arc::new(Semaphore::new(follow::FOLLOWERS_MAX)),
        counters: ApiCounters::default(),
    });
    let ended = runtime.block_on(async {
        serve_unix(Arc::clone(&api), unix)?;
        let tcp = (config.api.vrrpd, serve_tcp(Arc::clone(&api), tcp)?);
        Control { options: options.clone(), config, api, commands, handle, signals, reloads, tcp }
            .serve()
            .await
    });
    // The loop is gone or given up; nothing new can come in.
    drop(link);
    if matches!(ended, Err(ControlError::Hung)) {
        return ended;
    }
    if pump.join().is_err() {
        tracing::error!("the thread that logs events panicked");
    }
    if !hooks.finish(HOOKS_MAX) {
        tracing::error!("hooks were still running after {} s and were killed", HOOKS_MAX.as_secs());
    }
    drop(guards);
    ended
}

/// The sockets of the control side, bound before anything else happens.
struct Sockets {
    unix: UnixListener,
    ipc: UnixListener,
    tcp: std::net::TcpListener,
    /// Removes the Unix sockets, then the run directory if we made it.
    guards: (UnixSocket, UnixSocket, RunDir),
}

impl Sockets {
    fn bind(options: &Options, config: &Config) -> Result<Self, ControlError> {
        let directory = RunDir::make(&options.run_dir)?;
        let (unix, unix_guard) = listen_unix(&options.run_dir.join(SOCKET_NAME))?;
        let (ipc, ipc_guard) = listen_unix(&options.run_dir.join(common::ipc::SOCKET_NAME))?;
        let tcp = listen_tcp(config.api.vrrpd)?;
        Ok(Self { unix, ipc, tcp, guards: (unix_guard, ipc_guard, directory) })
    }
}

/// The run directory, removed at the end if we made it and it is empty.
struct RunDir {
    path: PathBuf,
    made: bool,
}

impl RunDir {
    fn make(path: &Path) -> Result<Self, ControlError> {
        let made = !path.is_dir();
        let make = || std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
        make().map_err(|source| ControlError::RunDir { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), made })
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.made {
            // Fails when lbd has its sockets there too: then it stays.
            std::fs::remove_dir(&self.path).ok();
        }
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new(runtime: &Runtime) -> io::Result<Self> {
        let _inside = runtime.enter();
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// The control thread's work while the daemon runs.
struct Control {
    options: Options,
    config: Config,
    api: Arc<Api>,
    commands: CommandSender,
    handle: LoopHandle,
    signals: Signals,
    reloads: mpsc::Receiver<ReloadRequest>,
    tcp: (std::net::SocketAddr, JoinHandle<()>),
}

impl Control {
    async fn serve(mut self) -> Result<(), ControlError> {
        notify(&[NotifyState::Ready]);
        tracing::info!(
            "vrrpd {} runs as node {} with configuration {:016x}",
            env!("CARGO_PKG_VERSION"),
            self.options.node,
            self.config.hash
        );
        loop {
            tokio::select! {
                ended = self.handle.finished() => {
                    let error = ended.err().unwrap_or_else(|| "the real-time loop ended without being told to".into());
                    return Err(ControlError::Loop(error));
                }
                _ = self.signals.hangup.recv() => self.reload(None).await,
                Some(request) = self.reloads.recv() => self.reload(Some(request)).await,
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
            }
        }
        notify(&[NotifyState::Stopping]);
        tracing::info!("stopping: handing over first; a second signal skips that");
        self.stop().await
    }

    /// Tells the loop to end and waits for it.
    async fn stop(mut self) -> Result<(), ControlError> {
        let deadline = tokio::time::Instant::now() + SHUTDOWN_MAX;
        let mut waiting = Some(Command::Shutdown);
        loop {
            waiting = waiting.and_then(|command| try_stop(&self.commands, command));
            let retry = if waiting.is_some() { Duration::from_millis(5) } else { SHUTDOWN_MAX };
            tokio::select! {
                ended = self.handle.finished() => return ended.map_err(ControlError::Loop),
                () = tokio::time::sleep_until(deadline) => return Err(ControlError::Hung),
                _ = self.signals.terminate.recv() => waiting = Some(Command::ShutdownNow),
                _ = self.signals.interrupt.recv() => waiting = Some(Command::ShutdownNow),
                () = tokio::time::sleep(retry) => {}
            }
        }
    }
}

/// Sends a command to end; returns it if the queue is full.
fn try_stop(commands: &CommandSender, command: Command) -> Option<Command> {
    let again = if matches!(command, Command::Shutdown) { Command::Shutdown } else { Command::ShutdownNow };
    (commands.send(command) == Err(CommandError::Busy)).then_some(again)
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}
