//! What the tests of the control side share: folders, configurations, a loop that is none, and plain HTTP.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod served;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::config::Config;
use common::ipc::Role;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vrrpd::command::{
    Command, CommandError, CommandReceiver, LbdState, LoopHandle, MaintenanceOutcome, ReloadOutcome,
    StatusCell, SwitchoverOutcome,
};
use vrrpd_core::event::HandoverFailure;
use vrrpd_core::packet::Family;
use vrrpd_core::status::{Count, InstanceStatus, NodeStatus, RouterStatus};

/// The longest wait for anything.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// A folder of its own for one test, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tandem-control-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Tries until there is something.
pub(crate) fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < WAIT_MAX, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A configuration of two nodes with the instance `web` of both families, and what `more` adds to it.
pub(crate) fn config_text(api_port: u16, more: &str) -> String {
    format!(
        r#"
[[node]]
name = "a"
[[node]]
name = "b"
[[vrrp]]
name = "web"
interface = "eth0"
vrid = 51
priority = {{ a = 200, b = 100 }}
vips = ["203.0.113.10/24", "2001:db8::10/64"]
{more}
[api]
vrrpd = "127.0.0.1:{api_port}"
"#
    )
}

pub(crate) fn config(more: &str) -> Config {
    common::config::parse(&config_text(9112, more), Path::new("pair.toml"))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// A TCP port on 127.0.0.1 that is free now.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A node's state with these instances.
pub(crate) fn status(instances: &[(&str, Role)]) -> NodeStatus {
    NodeStatus {
        node: "a".to_owned(),
        peer: "b".to_owned(),
        config_hash: "00000000000000aa".to_owned(),
        lbd: "healthy",
        instances: instances.iter().map(|(name, role)| instance(name, *role)).collect(),
        unmatched_drops: vec![Count { reason: "vrid", count: 4 }],
        ..NodeStatus::default()
    }
}

fn instance(name: &str, role: Role) -> InstanceStatus {
    InstanceStatus {
        name: name.to_owned(),
        role,
        since_unix_ms: 1_000_000,
        interface: "eth0".to_owned(),
        vrid: 51,
        priority: 200,
        effective_priority: 150,
        reasons: vec!["lbd_down".to_owned()],
        vips: vec!["203.0.113.10/24".to_owned()],
        routers: vec![RouterStatus {
            family: Family::V4,
            role,
            from_silence: false,
            provisional: false,
            source: Some("203.0.113.1".parse().unwrap()),
            advert_interval_ms: 100,
            active_interval_ms: 100,
            last_advert_from: Some("203.0.113.2".parse().unwrap()),
            last_advert_priority: Some(100),
            last_advert_ms_ago: Some(12),
            peer_role: Some(Role::Backup),
            transitions: 3,
            adverts_sent: 10,
            adverts_received: 20,
            announcements: 5,
            conflicts: 0,
            drops: vec![Count { reason: "checksum", count: 7 }],
            adverts_late: 0,
            lateness_us: 50,
            lateness_max_us: 1500,
        }],
    }
}

/// A thread in the loop's place. It is active for `web`, hands it over to `b`, and tells what it was told of `lbd`.
pub(crate) fn fake_loop(
    commands: CommandReceiver,
    status_cell: Arc<StatusCell>,
    lbd: std::sync::mpsc::Sender<(Instant, LbdState)>,
) -> LoopHandle {
    status_cell.publish(status(&[("web", Role::Active), ("dns", Role::Backup)]));
    LoopHandle::spawn(move || -> Result<(), std::io::Error> {
        loop {
            let mut fds = [PollFd::new(commands.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE).unwrap();
            commands.clear();
            while let Some(command) = commands.try_recv() {
                match command {
                    Command::Switchover { instance, reply } => {
                        reply.send(switchover(&instance)).ok();
                    }
                    Command::Maintenance { on, reply } => {
                        let latest = status_cell.latest();
                        status_cell.publish(NodeStatus { maintenance: on, ..latest.status.clone() });
                        reply.send(Ok(MaintenanceOutcome { on })).ok();
                    }
                    Command::Reload { config, reply, .. } => {
                        reply.send(Ok(ReloadOutcome { config_hash: config.hash })).ok();
                    }
                    Command::Lbd(state) => {
                        lbd.send((Instant::now(), state)).ok();
                    }
                    Command::Behind(behind) => {
                        let latest = status_cell.latest();
                        status_cell.publish(NodeStatus { behind, ..latest.status.clone() });
                    }
                    // What the tests look for in the map.
                    Command::Ownership(map) => map.iter().for_each(|map| {
                        map.instances().for_each(|instance| map.own(instance, OWNED));
                    }),
                    Command::Shutdown | Command::ShutdownNow => return Ok(()),
                }
            }
        }
    })
    .unwrap()
}

fn switchover(instance: &str) -> Result<SwitchoverOutcome, CommandError> {
    let name = instance.to_owned();
    match instance {
        "web" => Ok(SwitchoverOutcome { active: "b".to_owned(), took: Duration::from_millis(3) }),
        "dns" => {
            let active = Some("b".to_owned());
            Err(CommandError::NotActive { instance: name, role: Role::Backup, active })
        }
        "stuck" => Err(CommandError::HandoverFailed { instance: name, reason: HandoverFailure::Refused }),
        _ => Err(CommandError::UnknownInstance { name, known: vec!["web".to_owned(), "dns".to_owned()] }),
    }
}

/// What the fake loop writes for each instance of a map.
pub(crate) const OWNED: common::time::Instant = common::time::Instant::from_nanos(77);

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no sentence in {self:?}")).to_owned()
    }
}

/// One request on a connection that is closed after it.
pub(crate) fn request(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n");
    // The server may answer and close before it has read everything.
    stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).ok();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}
