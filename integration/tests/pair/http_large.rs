//! A gigabyte for clients that take it slowly, begun on the node that has the virtual IPs and whole when it has not had them for long.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http::{begin, switch};
use crate::http_lasting::open;
use crate::pair_support::{LIMIT, every, vips};
use integration::lab::clock::wait_until;
use integration::lab::config::PairConfig;
use integration::lab::netns::Worker;
use integration::lab::{Lab, Result, Target, certificate};

/// Where the target serves it.
const TARGET_PORT: u16 = 9001;
/// What it serves.
const BYTES: u64 = 1 << 30;
const CHUNK_BYTES: usize = 64 << 10;

/// How fast a client takes it until it may hurry. A move takes less than one second, and all buffers together hold less than 64 MiB.
const BYTES_PER_SECOND: u64 = 48 << 20;
/// How much has come before the move, and comes after it before a client may hurry.
const PART_BYTES: u64 = 48 << 20;
/// For all of it, on a machine that has other things to do.
const WHOLE_LIMIT: Duration = Duration::from_secs(120);

/// The bytes at this place, of which no word comes twice: what is left out, doubled or misplaced is seen.
fn fill(chunk: &mut [u8], at: u64) {
    for (index, word) in (at / 8..).zip(chunk.chunks_exact_mut(8)) {
        word.copy_from_slice(&index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
}

/// Answers one request.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n")?;
    let (mut at, mut chunk) = (0, vec![0; CHUNK_BYTES]);
    while at < BYTES {
        fill(&mut chunk, at);
        stream.write_all(&chunk)?;
        at += chunk.len() as u64;
    }
    Ok(())
}

/// Has a target serve it until this is dropped.
fn serve(target: &Target) -> Result<Worker<()>> {
    let address = (Ipv4Addr::UNSPECIFIED, TARGET_PORT);
    let listener = target.namespace().inside(|| TcpListener::bind(address).expect("the port is free"))?;
    listener.set_nonblocking(true).expect("a socket");
    target.namespace().worker("gigabyte", move |stop| {
        while !stop.load(Ordering::Acquire) {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(2));
                continue;
            };
            stream.set_nonblocking(false).expect("a socket");
            // What goes wrong is seen at the client.
            thread::spawn(move || answer(stream).ok());
        }
    })
}

/// curl, and who takes what it prints and looks at each byte.
struct Download {
    curl: Child,
    got: Arc<AtomicU64>,
    hurry: Arc<AtomicBool>,
    reader: Option<JoinHandle<io::Result<()>>>,
}

impl Download {
    fn start(lab: &Lab, protocol: &str, url: &str) -> Self {
        let mut command = lab.client().command("curl");
        command.args(["-sS", "-k", "-N", "--max-time", "240", protocol, url]).stdout(Stdio::piped());
        let mut curl = command.spawn().expect("scripts/setup has installed it");
        let (got, hurry) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let printed = curl.stdout.take().expect("it has one");
        let (count, may_hurry) = (Arc::clone(&got), Arc::clone(&hurry));
        let reader = thread::spawn(move || take(printed, &count, &may_hurry));
        Self { curl, got, hurry, reader: Some(reader) }
    }

    fn is_over(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until so many bytes more have come, or it is over.
    fn wait_more(&self, bytes: u64) -> Result<()> {
        let enough = self.got.load(Ordering::Acquire) + bytes;
        wait_until("bytes of a download", LIMIT, || {
            self.is_over() || self.got.load(Ordering::Acquire) >= enough
        })
    }

    /// Takes the rest as fast as it comes; fails unless all of it is as it was sent.
    fn finish(mut self) -> Result<()> {
        self.hurry.store(true, Ordering::Release);
        wait_until("the end of a download", WHOLE_LIMIT, || self.is_over())?;
        let reader = self.reader.take().expect("it is joined once");
        let outcome = reader.join().expect("it does not panic");
        let got = self.got.load(Ordering::Acquire);
        outcome.unwrap_or_else(|error| panic!("after {got} bytes: {error}"));
        assert!(self.curl.wait().expect("it ends").success());
        Ok(())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // Both fail after it has ended.
        self.curl.kill().ok();
        self.curl.wait().ok();
    }
}

/// Reads all of it, no faster than it should be.
fn take(mut printed: impl Read, count: &AtomicU64, hurry: &AtomicBool) -> io::Result<()> {
    let begun = Instant::now();
    let (mut got, mut expected) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0;
    while at < BYTES {
        printed.read_exact(&mut got)?;
        fill(&mut expected, at);
        if got != expected {
            return Err(io::Error::other(format!("the chunk at {at} is not what was sent")));
        }
        at += got.len() as u64;
        count.store(at, Ordering::Release);
        let due = Duration::from_millis(at.saturating_mul(1000) / BYTES_PER_SECOND);
        if !hurry.load(Ordering::Acquire) {
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    let behind = printed.read(&mut got)?;
    if behind == 0 { Ok(()) } else { Err(io::Error::other("something came behind the end")) }
}

#[test]
fn a_gigabyte_that_is_taken_slowly_survives_a_planned_move() -> Result<()> {
    let lab = Lab::builder("http large").targets(1).build()?;
    let servers = lab.targets().iter().map(serve).collect::<Result<Vec<_>>>()?;
    let large: Vec<SocketAddr> =
        lab.targets().iter().map(|target| SocketAddr::from((target.v4(), TARGET_PORT))).collect();
    let tls = format!("tls = {{ certificates = [{:?}] }}", certificate::create(lab.dir())?);
    let config = PairConfig::new(vec![every("100ms")])
        // By which it is seen that clients are served at all.
        .service("web", "http", "@web:80", "web", "")
        .service("clear", "http", "@web:81", "large", "")
        .service("encrypted", "http", "@web:443", "large", &tls)
        .target_group("large", &large, "");
    begin(&lab, config, "")?;

    let [a, b] = lab.nodes();
    let mut addresses = vips().into_iter();
    let mut next = |port: u16| SocketAddr::new(addresses.next().expect("there are two virtual IPs"), port);
    let downloads = [
        Download::start(&lab, "--http1.1", &format!("http://{}/", next(81))),
        Download::start(&lab, "--http2", &format!("https://{}/", next(443))),
    ];
    downloads.iter().try_for_each(|download| download.wait_more(PART_BYTES))?;
    assert_eq!(open(a), Some(2));
    switch(&lab, a)?;
    downloads.iter().try_for_each(|download| download.wait_more(PART_BYTES))?;
    assert!(!downloads.iter().any(Download::is_over), "they were to last over the move");
    assert_eq!((open(a), open(b)), (Some(2), Some(0)), "they are still a's");
    for download in downloads {
        download.finish()?;
    }
    wait_until("a to have none any more", LIMIT, || open(a) == Some(0))?;
    drop(servers);
    lab.finish()
}
