//! The table of malformed and ambiguous requests, sent through HAProxy and nginx as well: what others make of the same bytes is written to
//! `http-ambiguous.txt` in cargo's folder for what tests leave (`target/tmp`). Only of Tandem is anything required.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::ambiguous::table::{CASES, Verdict};
use super::config;
use crate::real::{Nginx, Process};
use crate::support::{Folder, Lbd, connect, free, own_ip};

/// How long a target waits for more of a request.
const MORE: Duration = Duration::from_millis(200);
/// How long a client waits for more of an answer.
const ANSWER: Duration = Duration::from_secs(2);

/// What came of the bytes of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// The statuses that the client was answered with.
    statuses: Vec<u16>,
    /// The first lines of the requests that came to the target whole.
    seen: Vec<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let statuses: Vec<String> = self.statuses.iter().map(u16::to_string).collect();
        let statuses = if statuses.is_empty() { "no answer".to_owned() } else { statuses.join(" ") };
        write!(f, "{statuses}; {} seen", self.seen.len())?;
        if self.seen.is_empty() { Ok(()) } else { write!(f, ": {}", self.seen.join(", ")) }
    }
}

/// A target that takes whatever it gets, one request on each connection.
struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    fn start(ip: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::default();
        let recorder = Self { address, seen: Arc::clone(&seen) };
        // Until the end of the process; nobody comes after the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || record(stream, &seen));
            }
        });
        recorder
    }
}

/// Takes a request and answers it, if it is whole.
fn record(mut stream: TcpStream, seen: &Mutex<Vec<String>>) {
    stream.set_read_timeout(Some(MORE)).unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while missing(&bytes) != Some(0) {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    seen.lock().unwrap().push(String::from_utf8_lossy(line).trim_end().escape_debug().to_string());
    // The client tells if this does not arrive.
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").ok();
}

/// How much of a request is missing, as a server would say that takes it as it comes; nothing as long as that cannot be told.
fn missing(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let (head, body) = bytes.split_at(end);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if head.contains("\r\ntransfer-encoding:") {
        return body.ends_with(b"\r\n\r\n").then_some(0);
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    Some(length.saturating_sub(body.len()))
}

/// Sends each case's bytes and nothing more, and waits for the end.
fn outcomes(proxy: SocketAddr, target: &Recorder) -> Vec<Outcome> {
    let outcome = |bytes: &str| {
        let mut client = connect(proxy);
        client.set_read_timeout(Some(ANSWER)).unwrap();
        // Who refuses may have closed before all of it is sent.
        client.write_all(bytes.as_bytes()).ok();
        client.shutdown(Shutdown::Write).ok();
        let (mut answers, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count) = client.read(&mut buffer)
            && count > 0
        {
            answers.extend_from_slice(&buffer[..count]);
        }
        Outcome { statuses: statuses(&answers), seen: std::mem::take(&mut *target.seen.lock().unwrap()) }
    };
    CASES.iter().map(|(_, bytes, _)| outcome(bytes)).collect()
}

/// The statuses of all answers in what a client got.
fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    let status = |part: &str| part.get(2..5)?.parse().ok();
    text.split("HTTP/1.").skip(1).filter_map(status).collect()
}

/// What becomes of the cases in front of HAProxy.
fn haproxy(folder: &Path) -> Vec<Outcome> {
    let ip = own_ip();
    let (target, front) = (Recorder::start(ip), free(ip));
    let text = format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 2s\n timeout server 5s\n\
         listen front\n bind {front}\n server target {}\n",
        target.address
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let mut haproxy = Process::start_silent(&mut command);
    haproxy.until_listening(&[front], None);
    outcomes(front, &target)
}

/// What becomes of the cases in front of nginx.
fn nginx() -> Vec<Outcome> {
    let ip = own_ip();
    let (target, front) = (Recorder::start(ip), free(ip));
    // A client that has said all that it will say has not gone.
    let server = format!(
        "server {{ listen {front}; location / {{ proxy_pass http://{}; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_ignore_client_abort on; }} }}",
        target.address
    );
    let _nginx = Nginx::start(&server, &[front]);
    outcomes(front, &target)
}

fn tandem() -> Vec<Outcome> {
    let ip = own_ip();
    let target = Recorder::start(ip);
    let lbd = Lbd::start(&config(ip, &[target.address]));
    outcomes(lbd.address, &target)
}

#[test]
fn the_same_bytes_through_others() {
    let folder = Folder::new();
    let [ours, haproxy, nginx] = std::thread::scope(|scope| {
        let others = [scope.spawn(|| haproxy(folder.path())), scope.spawn(nginx)];
        let ours = tandem();
        let [haproxy, nginx] = others.map(|thread| thread.join().unwrap());
        [ours, haproxy, nginx]
    });
    let mut text = "What becomes of malformed and ambiguous requests: what the client is answered, and what a target sees.\n".to_owned();
    for (index, (name, bytes, verdict)) in CASES.iter().enumerate() {
        let ours = &ours[index];
        writeln!(text, "\n{name}: {}", bytes.escape_debug()).unwrap();
        for (proxy, outcome) in [("Tandem", ours), ("HAProxy", &haproxy[index]), ("nginx", &nginx[index])] {
            writeln!(text, "  {proxy:<8}{outcome}").unwrap();
        }
        match verdict {
            Verdict::Refused(status) => {
                assert_eq!((ours.statuses.as_slice(), ours.seen.len()), (&[*status][..], 0), "{name}");
            }
            Verdict::Passed(count, line, _) => {
                assert_eq!((ours.statuses.clone(), ours.seen.len()), (vec![200; *count], *count), "{name}");
                assert_eq!(ours.seen[0], line.escape_debug().to_string(), "{name}");
            }
            Verdict::Cut => assert!(ours.seen.is_empty(), "{name}: {ours}"),
        }
    }
    let reached = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| outcome.seen.len()).sum::<usize>();
    let counts = [&ours, &haproxy, &nginx].map(|outcomes| reached(outcomes));
    let [ours, haproxy, nginx] = counts;
    writeln!(
        text,
        "\nOf {} cases a target saw {ours} requests through Tandem, {haproxy} through HAProxy and {nginx} through nginx.",
        CASES.len()
    )
    .unwrap();
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("http-ambiguous.txt"), text).unwrap();
}

#[test]
fn what_is_recorded_is_what_came() {
    assert_eq!(missing(b"GET / HTTP/1.1\r\n"), None);
    assert_eq!(missing(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Some(0));
    assert_eq!(missing(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel"), Some(2));
    assert_eq!(missing(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), None);
    assert_eq!(missing(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), Some(0));
    let two = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.0 400 Bad request\r\n\r\n<html>";
    assert_eq!(statuses(two), [200, 400]);
    assert!(statuses(b"\0\0\x12\x04").is_empty());
}
