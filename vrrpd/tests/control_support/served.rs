//! An API over a loop that is none.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use common::time::UnixTime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use vrrpd::api::server::{listen_tcp, listen_unix, serve_tcp, serve_unix};
use vrrpd::api::{Api, ApiCounters, ReloadRequest, Settings, follow};
use vrrpd::command::{CommandError, LoopHandle, ReloadOutcome, Stamped, StatusCell, commands};
use vrrpd::events::EventLog;
use vrrpd::hooks::Hooks;
use vrrpd_core::event::Event;

use super::{Answer, Folder, config, fake_loop, request};

/// An API over a fake loop, on both sockets.
pub(crate) struct Served {
    pub(crate) api: Arc<Api>,
    pub(crate) socket: PathBuf,
    pub(crate) tcp: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    _loop: LoopHandle,
    pub(crate) folder: Folder,
}

impl Served {
    pub(crate) fn new(token: Option<&str>) -> Self {
        let folder = Folder::new();
        let (commands, receiver) = commands().unwrap();
        let cell = Arc::new(StatusCell::new().unwrap());
        let fake = fake_loop(receiver, Arc::clone(&cell), channel().0);
        let config = config("");
        // The fake loop publishes only what a test makes it.
        let settings = Settings { token: token.map(str::to_owned), silence_max: Duration::from_secs(3600) };
        let (reload_sender, reloads) = mpsc::channel(4);
        let api = Arc::new(Api {
            node: "a".to_owned(),
            started: (UnixTime::from_nanos(5_000_000_000), Instant::now()),
            status: cell,
            commands,
            log: Arc::new(EventLog::new(Arc::default())),
            hooks: Arc::new(Hooks::start("a", &config).unwrap()),
            lbd: Arc::default(),
            settings: ArcSwap::from_pointee(settings),
            reloads: reload_sender,
            followers: Arc::new(Semaphore::new(follow::FOLLOWERS_MAX)),
            counters: ApiCounters::default(),
        });
        let socket = folder.join("vrrpd.sock");
        let (unix, guard) = listen_unix(&socket).unwrap();
        let tcp = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = tcp.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = Arc::clone(&api);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                serve_unix(Arc::clone(&served), unix).unwrap();
                serve_tcp(served, tcp).unwrap();
                tokio::spawn(answer_reloads(reloads));
                stopped.await.ok();
            });
            drop(guard);
        });
        Self { api, socket, tcp: address, stop: Some(stop), _loop: fake, folder }
    }

    pub(crate) fn unix(&self, method: &str, path: &str, body: &str) -> Answer {
        request(UnixStream::connect(&self.socket).unwrap(), method, path, "", body)
    }

    pub(crate) fn tcp(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        request(TcpStream::connect(self.tcp).unwrap(), method, path, headers, body)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.tcp("GET", path, "", "")
    }

    pub(crate) fn happen(&self, on: bool) {
        let stamped = Stamped { at: UnixTime::from_nanos(1_500_000_000), event: Event::Maintenance { on } };
        self.api.log.append(stamped, 0);
    }

    /// Follows the events; the lines of the stream after its head.
    pub(crate) fn follow(&self, path: &str, headers: &str) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        BufReader::new(stream)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.take();
    }
}

/// The first reload succeeds, the others do not.
async fn answer_reloads(mut reloads: mpsc::Receiver<ReloadRequest>) {
    let mut first = true;
    while let Some(reply) = reloads.recv().await {
        let failed = CommandError::ReloadFailed { reason: "2 errors".to_owned() };
        reply.send(if first { Ok(ReloadOutcome { config_hash: 0xab }) } else { Err(failed) }).ok();
        first = false;
    }
}
