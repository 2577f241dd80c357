//! Starting the daemon and talking to it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a condition may take to come true before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A loopback address that no other test uses.
pub(crate) fn own_ip() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let [round, last] = NEXT.fetch_add(1, Ordering::SeqCst).to_be_bytes();
    // One network has not enough of them. Those of a process are far apart: another one has a number near to its own.
    let network = (u16::from(high) + 83 * u16::from(round)) % 250;
    Ipv4Addr::new(127, 1 + u8::try_from(network).unwrap(), low, last)
}

/// A free port of `ip`, which stays free because the address is the test's own.
pub(crate) fn free(ip: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// Waits until `reached` says yes.
pub(crate) fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The configuration of most tests: one service, one group, an API, on the test's own address.
#[derive(Clone)]
pub(crate) struct Config {
    /// Everything is on this address.
    pub(crate) ip: Ipv4Addr,
    /// Where the service listens.
    pub(crate) listen: Vec<SocketAddr>,
    /// How it is handled.
    pub(crate) mode: String,
    /// Further keys of the service.
    pub(crate) service: String,
    /// Id, address and weight.
    pub(crate) targets: Vec<(String, SocketAddr, u16)>,
    /// Further keys of the first targets.
    pub(crate) target_keys: Vec<String>,
    /// Further keys of the group.
    pub(crate) group: String,
    /// The begin of the file.
    pub(crate) head: String,
    /// Which node this is; the host's name otherwise.
    pub(crate) node: Option<String>,
    /// Further keys of the API.
    pub(crate) api: String,
}

impl Config {
    /// One listener, and these targets.
    pub(crate) fn new(ip: Ipv4Addr, targets: &[SocketAddr]) -> Self {
        let targets = targets.iter().enumerate().map(|(i, &address)| (format!("t{i}"), address, 1)).collect();
        Self {
            ip,
            listen: vec![free(ip)],
            mode: "tcp".to_owned(),
            service: String::new(),
            targets,
            target_keys: Vec::new(),
            group: String::new(),
            head: String::new(),
            node: None,
            api: String::new(),
        }
    }

    /// Where the API listens on TCP.
    pub(crate) fn api_address(&self) -> SocketAddr {
        SocketAddr::new(self.ip.into(), 9180)
    }

    /// As text.
    pub(crate) fn text(&self) -> String {
        let listen: Vec<String> = self.listen.iter().map(|address| format!("\"{address}\"")).collect();
        let target = |(index, (id, address, weight)): (usize, &(String, SocketAddr, u16))| {
            let more = self.target_keys.get(index).filter(|keys| !keys.is_empty());
            let more = more.map_or_else(String::new, |keys| format!(", {keys}"));
            format!("{{ id = \"{id}\", address = \"{address}\", weight = {weight}{more} }}")
        };
        let targets: Vec<String> = self.targets.iter().enumerate().map(target).collect();
        format!(
            "{}[[service]]\nname = \"web\"\nmode = \"{}\"\nlisten = [{}]\nforward = \"pool\"\n{}\n\
             [[target_group]]\nname = \"pool\"\ntargets = [{}]\n{}\n[api]\nlbd = \"{}\"\n{}\n",
            self.head,
            self.mode,
            listen.join(", "),
            self.service,
            targets.join(", "),
            self.group,
            self.api_address(),
            self.api,
        )
    }
}

/// A folder of the test's own, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tandem-lbd-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The program with its common options, on a folder that holds `pair.toml` and is the run directory too.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbd"));
    command.args(arguments).arg("--config").arg(folder.join("pair.toml")).arg("--run-dir").arg(folder);
    command
}

/// A running daemon, killed when dropped.
pub(crate) struct Lbd {
    /// Its configuration and run directory.
    pub(crate) folder: Folder,
    /// Where its service listens.
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Lbd {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(config: &Config) -> Self {
        Self::start_in(Folder::new(), config)
    }

    /// The same, in a folder that may have something in it.
    pub(crate) fn start_in(folder: Folder, config: &Config) -> Self {
        let node: Vec<String> =
            config.node.iter().flat_map(|name| ["--node".to_owned(), name.clone()]).collect();
        Self::start_with(folder, &config.text(), config.listen[0], |command| {
            command.args(node);
        })
    }

    /// The same with a configuration of the test's own, which listens on `address`; `prepare` may change how it starts.
    pub(crate) fn start_with(
        folder: Folder,
        text: &str,
        address: SocketAddr,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        fs::write(folder.path().join("pair.toml"), text).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = command(folder.path(), &["run", "--workers", "2"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        prepare(&mut command);
        let mut lbd = Self { folder, address, child: command.spawn().unwrap() };
        eventually("lbd is ready", || {
            assert!(lbd.child.try_wait().unwrap().is_none(), "lbd ended: {}", lbd.log());
            lbd.log().contains("lbd::run: ready")
        });
        lbd
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until this is in its log, which is written by a thread of its own.
    pub(crate) fn says(&self, text: &str) {
        eventually(&format!("the log says {text:?}"), || self.log().contains(text));
    }

    /// Replaces its configuration file.
    pub(crate) fn write_config(&self, text: &str) {
        let fresh = self.folder.path().join("pair.toml.new");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.folder.path().join("pair.toml")).unwrap();
    }

    /// Replaces its configuration file and has it read.
    pub(crate) fn reload(&self, config: &Config) -> (u16, String) {
        self.write_config(&config.text());
        self.ask("POST", "/v1/reload")
    }

    /// Asks the API on the Unix socket.
    pub(crate) fn ask(&self, method: &str, path: &str) -> (u16, String) {
        exchange(UnixStream::connect(self.folder.path().join("lbd.sock")).unwrap(), method, path, "").unwrap()
    }

    /// The same with a JSON body.
    pub(crate) fn send(&self, method: &str, path: &str, body: &serde_json::Value) -> (u16, String) {
        let stream = UnixStream::connect(self.folder.path().join("lbd.sock")).unwrap();
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: lbd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        converse(stream, &request).unwrap()
    }

    /// The status as JSON.
    pub(crate) fn status(&self) -> serde_json::Value {
        let (code, body) = self.ask("GET", "/v1/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A target's health.
    pub(crate) fn health(&self, target: usize) -> String {
        self.status()["target_groups"][0]["targets"][target]["health"].as_str().unwrap().to_owned()
    }

    /// A number of its one service.
    pub(crate) fn service(&self, key: &str) -> u64 {
        self.status()["services"][0][key].as_u64().unwrap()
    }

    /// A connection to its service.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Everything that a new connection to its service answers.
    pub(crate) fn fetch(&self) -> io::Result<String> {
        fetch(self.address)
    }

    /// Runs the program with the daemon's folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        command(self.folder.path(), arguments).output().unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("lbd ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Kills it without notice.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Lbd {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            drop(writeln!(io::stderr(), "--- log of lbd ---\n{}", self.log()));
        }
    }
}

/// Has `clients` make connections one after the other, none of which may fail, while `change` does what it likes; that is handed
/// a wait for ten more of them.
pub(crate) fn under_load(lbd: &Lbd, clients: usize, change: impl FnOnce(&dyn Fn())) {
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(ping(&mut lbd.connect(), "hello").unwrap(), "hello");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let goes_on = || {
            let before = served.load(Ordering::SeqCst);
            eventually("traffic goes on", || served.load(Ordering::SeqCst) > before + 10);
        };
        // Stops the load also if a change fails, or the scope would never end.
        let outcome = catch_unwind(AssertUnwindSafe(|| change(&goes_on)));
        stop.store(true, Ordering::SeqCst);
        outcome.unwrap();
    });
}

/// A connection whose reads and writes don't wait forever.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    patient(&stream);
    stream
}

/// Gives up reads and writes after a while.
pub(crate) fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

/// Everything that a new connection answers.
pub(crate) fn fetch(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    patient(&stream);
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Sends `text` and answers as many bytes.
pub(crate) fn ping(stream: &mut TcpStream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8(answer).unwrap())
}

/// Reads a byte that should not come; answers how the connection ends instead. A read with a time limit is not begun again
/// by itself when a signal interrupts it.
pub(crate) fn end_of(stream: &mut TcpStream) -> io::Result<usize> {
    loop {
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Closes a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Says that there is nothing more to send.
pub(crate) fn finish(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// One HTTP request; answers status and body.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
) -> io::Result<(u16, String)> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: lbd\r\nConnection: close\r\n{headers}\r\n");
    converse(&mut stream, &request)
}

/// Sends a request as it is, and answers status and body.
fn converse(mut stream: impl Read + Write, request: &str) -> io::Result<(u16, String)> {
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((code, body.to_owned()))
}

/// The records of a log, once there are so many.
pub(crate) fn records(path: &Path, count: usize) -> Vec<serde_json::Value> {
    let mut records = Vec::new();
    eventually("the log has its lines", || {
        let text = fs::read_to_string(path).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        records = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        records.len() >= count
    });
    records
}

/// The values of a metric, by their labels as written.
pub(crate) fn metric(lbd: &Lbd, name: &str) -> std::collections::HashMap<String, u64> {
    let (_, text) = lbd.ask("GET", "/metrics");
    let value = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        Some((labels.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(value).collect()
}
