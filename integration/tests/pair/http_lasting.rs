//! What lasts longer than a request: WebSockets, downloads and kept connections, begun on the node that has the virtual IPs and still there when
//! it has not.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::http::{begin, switch};
use crate::pair_support::{LIMIT, every, vips};
use integration::lab::clock::wait_until;
use integration::lab::config::PairConfig;
use integration::lab::netns::Worker;
use integration::lab::probe::{DownloadProbe, DownloadSettings, sha256};
use integration::lab::{Lab, Node, Result, Target};
use integration::scenario::lasting::noise;
use serde_json::Value;

/// Where the targets' WebSockets are.
const TARGET_PORT: u16 = 9001;
/// Where those of the pair are.
const PORT: u16 = 81;
/// Where proxies in front connect.
const PROXIED_PORT: u16 = 82;

/// What a client says when it opens a WebSocket, and the answer to that: RFC 6455, section 1.3 has both.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// With what clients mask. RFC 6455, section 5.3: "unpredictable", because of what scripts in browsers could do; there are none here.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// A download's length: far more than all buffers on its way have room for, so that most of it is asked of the target after the move.
const LARGE_BYTES: usize = 32 << 20;
/// How fast it is taken until it may hurry: it lasts for half a minute, and a move takes less than one second.
const BYTES_PER_SECOND: u64 = 1 << 20;

/// A frame of RFC 6455, section 5.2, that is a whole message of up to 125 bytes.
fn frame(kind: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).expect("it is short");
    let mut bytes = vec![0x80 | kind, length | if mask.is_some() { 0x80 } else { 0 }];
    bytes.extend(mask.iter().flatten());
    let mask = mask.unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Reads such a frame, of a client (masked) or of a server.
fn read_frame(stream: &mut impl Read, masked: bool) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let (kind, length) = (head[0] & 0x0f, head[1] & 0x7f);
    let right = head[0] & 0xf0 == 0x80 && length < 126 && masked == (head[1] & 0x80 != 0);
    let mut mask = [0; 4];
    if masked {
        stream.read_exact(&mut mask)?;
    }
    let mut payload = vec![0; usize::from(length)];
    stream.read_exact(&mut payload)?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    if right {
        Ok((kind, payload))
    } else {
        Err(io::Error::other(format!("a frame that begins with {head:?}")))
    }
}

/// Reads up to the empty line behind a head.
fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Sends back each message of a WebSocket until its client closes it.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let head = read_head(&mut stream)?;
    if !head.contains(KEY) {
        return Err(io::Error::other(head));
    }
    let fields = format!("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}");
    write!(stream, "HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n")?;
    loop {
        let (kind, payload) = read_frame(&mut stream, true)?;
        stream.write_all(&frame(kind, None, &payload))?;
        if kind == CLOSE {
            return Ok(());
        }
    }
}

/// Has a target serve WebSockets until this is dropped.
fn serve(target: &Target) -> Result<Worker<()>> {
    let address = (Ipv4Addr::UNSPECIFIED, TARGET_PORT);
    let listener = target.namespace().inside(|| TcpListener::bind(address).expect("the port is free"))?;
    listener.set_nonblocking(true).expect("a socket");
    target.namespace().worker("websockets", move |stop| {
        while !stop.load(Ordering::Acquire) {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            stream.set_nonblocking(false).expect("a socket");
            // What goes wrong is seen at the client.
            std::thread::spawn(move || echo(stream).ok());
        }
    })
}

/// A client's WebSocket with one message after the other, until it is closed.
struct Talk {
    messages: Arc<AtomicU64>,
    worker: Worker<io::Result<u64>>,
}

impl Talk {
    fn start(lab: &Lab, vip: IpAddr) -> Result<Self> {
        let messages = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&messages);
        let namespace = lab.client().namespace();
        let worker =
            namespace.worker("websocket", move |stop| talk(SocketAddr::new(vip, PORT), &count, stop))?;
        Ok(Self { messages, worker })
    }

    /// Waits until so many messages more have come back.
    fn wait_more(&self, more: u64) -> Result<()> {
        let before = self.messages.load(Ordering::Acquire);
        wait_until("messages of a WebSocket to come back", LIMIT, || {
            self.messages.load(Ordering::Acquire) >= before + more
        })
    }

    /// Closes it; answers how many messages came back.
    fn stop(self) -> Result<io::Result<u64>> {
        self.worker.stop()
    }
}

fn talk(server: SocketAddr, messages: &AtomicU64, stop: &AtomicBool) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    write!(
        stream,
        "GET /talk HTTP/1.1\r\nHost: lab\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )?;
    let head = read_head(&mut stream)?;
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains(ACCEPT) {
        return Err(io::Error::other(head));
    }
    let mut exchange = |kind, payload: &[u8]| {
        stream.write_all(&frame(kind, Some(MASK), payload))?;
        let got = read_frame(&mut stream, false)?;
        let sent = (kind, payload.to_vec());
        if got == sent { Ok(()) } else { Err(io::Error::other(format!("{sent:?} came back as {got:?}"))) }
    };
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        exchange(TEXT, format!("message {number}").as_bytes())?;
        number += 1;
        messages.store(number, Ordering::Release);
        std::thread::sleep(Duration::from_millis(2));
    }
    // RFC 6455, section 5.5.1: the other end closes, too. 1000 is a normal end.
    exchange(CLOSE, &1000_u16.to_be_bytes())?;
    let rest = stream.read(&mut [0])?;
    if rest == 0 { Ok(number) } else { Err(io::Error::other("something came behind the end")) }
}

/// A connection that a proxy in front keeps. Its client came to the proxy's own address.
struct Kept(TcpStream);

impl Kept {
    fn open(vip: IpAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(vip, PROXIED_PORT), LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"PROXY TCP4 198.51.100.7 203.0.113.10 51234 443\r\n")?;
        Ok(Self(stream))
    }

    /// Asks once more; answers whether that was the last time.
    fn is_told_to_close(&mut self) -> io::Result<bool> {
        write!(self.0, "HEAD /health HTTP/1.1\r\nHost: lab\r\n\r\n")?;
        let head = read_head(&mut self.0)?;
        if head.starts_with("HTTP/1.1 200 ") {
            Ok(head.to_ascii_lowercase().contains("\r\nconnection: close\r\n"))
        } else {
            Err(io::Error::other(head))
        }
    }
}

/// Clients' connections that a node's `lbd` has.
pub(crate) fn open(node: &Node) -> Option<u64> {
    let status: Option<Value> = node.get("lbd", "/v1/status").ok().and_then(|answer| answer.json().ok());
    status.and_then(|status| status["connections_open"].as_u64())
}

#[test]
fn frames_are_those_of_the_rfc() {
    // RFC 6455, section 5.7.
    let (plain, masked) =
        (b"\x81\x05Hello".to_vec(), b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec());
    assert_eq!(
        (frame(TEXT, None, b"Hello"), frame(TEXT, Some(MASK), b"Hello")),
        (plain.clone(), masked.clone())
    );
    for (bytes, is_masked) in [(plain, false), (masked, true)] {
        assert_eq!(read_frame(&mut &bytes[..], is_masked).expect("a frame"), (TEXT, b"Hello".to_vec()));
        assert!(read_frame(&mut &bytes[..], !is_masked).is_err());
    }
}

#[test]
fn websockets_and_downloads_go_on_where_they_began_and_kept_connections_are_to_end() -> Result<()> {
    let lab = Lab::builder("http lasting").targets(2).build()?;
    let servers = lab.targets().iter().map(serve).collect::<Result<Vec<_>>>()?;
    let (file, bytes) = (lab.dir().join("large"), noise(LARGE_BYTES));
    std::fs::write(&file, &bytes).expect("the lab's directory can be written to");
    lab.targets().iter().try_for_each(|target| target.publish(&file))?;
    let talks: Vec<SocketAddr> =
        lab.targets().iter().map(|target| SocketAddr::from((target.v4(), TARGET_PORT))).collect();
    let proxies = "accept_proxy = [\"10.77.0.0/24\", \"fd77::/64\"]";
    let config = PairConfig::new(vec![every("100ms")])
        .service("web", "http", "@web:80", "web", "")
        .service("talk", "http", &format!("@web:{PORT}"), "talk", "")
        .service("proxied", "http", &format!("@web:{PROXIED_PORT}"), "web", proxies)
        .target_group("talk", &talks, "");
    begin(&lab, config, "")?;

    let [a, b] = lab.nodes();
    let talks = vips().into_iter().map(|vip| Talk::start(&lab, vip)).collect::<Result<Vec<_>>>()?;
    let download = |vip: IpAddr| {
        let mut settings = DownloadSettings::new(SocketAddr::new(vip, 80), "/files/large");
        settings.bytes_per_second = BYTES_PER_SECOND;
        DownloadProbe::start(lab.client(), settings)
    };
    let downloads = vips().into_iter().map(download).collect::<Result<Vec<_>>>()?;
    let under_way = || {
        talks.iter().try_for_each(|talk| talk.wait_more(50))?;
        downloads.iter().try_for_each(|download| download.wait_bytes(512 << 10, LIMIT))
    };
    under_way()?;
    let open_all = || vips().into_iter().map(Kept::open).collect::<io::Result<Vec<Kept>>>();
    let mut kept = lab.client().namespace().inside(open_all)?.expect("the virtual IPs are there");
    for connection in &mut kept {
        assert!(!connection.is_told_to_close().expect("it is answered"));
    }
    wait_until("all six to be a's", LIMIT, || open(a) == Some(6))?;
    switch(&lab, a)?;
    under_way()?;
    assert!(!downloads.iter().any(DownloadProbe::is_over), "they were to last over the move");
    assert_eq!((open(a), open(b)), (Some(6), Some(0)), "they are still a's");
    for mut connection in kept {
        wait_until("a kept connection to be asked to end", LIMIT, || {
            connection.is_told_to_close().expect("it is answered")
        })?;
    }

    for download in downloads {
        let report = download.finish(LIMIT)?;
        assert!(report.is_whole(&sha256(&bytes)), "{} bytes, {:?}", report.bytes, report.broken);
    }
    for talk in talks {
        assert!(talk.stop()?.expect("each message came back") >= 100);
    }
    wait_until("a to have none any more", LIMIT, || open(a) == Some(0))?;
    drop(servers);
    lab.finish()
}
