//! Many clients at once, over HTTP/1, HTTP/2 and as WebSockets, who come and go as they like, and whose requests share the connections to the targets:
//! what each of them gets is its own. So it is in clear text, and with TLS and targets that speak HTTP/2.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Bytes;
use common::rng::Rng;
use h2::RecvStream;
use h2::server::SendResponse;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::config;
use super::frames::{
    DATA, END_STREAM, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE, Wire, frame, head, status,
};
use crate::http::tls::peers::client_config;
use crate::http::tls::shop;
use crate::http::{Client, Message, Target, write};
use crate::support::{Config, Lbd, connect, eventually, metric, own_ip, reset};

/// Clients of each kind.
const HTTP1: u64 = 12;
const HTTP2: u64 = 12;
const WEBSOCKETS: u64 = 8;

/// What they draw from.
const SEED: u64 = 0x7a4d_e35e;

/// How clients come.
struct Way {
    address: SocketAddr,
    /// What those of TLS trust; nothing in clear text.
    tls: Option<Arc<ClientConfig>>,
    /// How often each does something, one thing after the other.
    rounds: u64,
}

/// A client's connection.
enum Line {
    Clear(TcpStream),
    Encrypted(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Way {
    /// A connection on which this is spoken.
    fn connect(&self, protocol: &str) -> Line {
        let stream = connect(self.address);
        // Each frame goes out at once.
        stream.set_nodelay(true).unwrap();
        let Some(tls) = &self.tls else { return Line::Clear(stream) };
        let mut tls = ClientConfig::clone(tls);
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from("shop.example").unwrap();
        let connection = ClientConnection::new(tls.into(), name).unwrap();
        Line::Encrypted(Box::new(StreamOwned::new(connection, stream)))
    }

    fn http1(&self) -> Client<Line> {
        Client::over(self.connect("http/1.1"))
    }

    /// A connection that has room for all that is asked for on it.
    fn http2(&self) -> Wire<Line> {
        // SETTINGS_INITIAL_WINDOW_SIZE, and the connection's window.
        let mut wire = Wire::begin(self.connect("h2"), &[(4, 1 << 20)]);
        wire.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
        wire
    }
}

impl Line {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Clear(stream) => stream,
            Self::Encrypted(stream) => &stream.sock,
        }
    }

    /// Says that nothing more is sent.
    fn finish(&mut self) {
        if let Self::Encrypted(stream) = self {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
        self.socket().shutdown(Shutdown::Write).unwrap();
    }

    /// Leaves without a word.
    fn leave(&self) {
        reset(self.socket().try_clone().unwrap());
    }
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(into),
            Self::Encrypted(stream) => stream.read(into),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.write(bytes),
            Self::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.flush(),
            Self::Encrypted(stream) => stream.flush(),
        }
    }
}

/// A generator that belongs to a name, so that either end can draw the same.
fn rng_of(name: &str, purpose: u64) -> Rng {
    Rng::new(name.bytes().fold(SEED + purpose, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())))
}

fn repeated(name: &str, times: u64) -> String {
    format!("{name};").repeat(usize::try_from(times).unwrap())
}

/// What a client sends with the request of this name.
fn said(name: &str) -> String {
    repeated(name, rng_of(name, 1).range(1..400))
}

/// What a target answers to that: mostly less than a buffer holds, sometimes more.
fn answered(name: &str) -> String {
    let mut rng = rng_of(name, 2);
    let times = rng.range(1..400);
    repeated(name, if rng.chance(50) { times * 40 } else { times })
}

fn pause(rng: &mut Rng) {
    if rng.chance(300) {
        std::thread::sleep(Duration::from_millis(rng.range(1..6)));
    }
}

/// Notes a request in which there is something of several clients.
fn note(mixed: &Mutex<Vec<String>>, name: &str, path: &str, body: &[u8]) {
    let body = String::from_utf8_lossy(body);
    if path.strip_prefix('/') != Some(name) || !(body.is_empty() || body == said(name)) {
        mixed.lock().unwrap().push(format!("{path} of {name:?}\n{body}"));
    }
}

/// A target's answer.
fn serve(
    request: &Message,
    stream: &mut BufReader<TcpStream>,
    mixed: &Mutex<Vec<String>>,
) -> io::Result<bool> {
    let name = request.field("x-name").unwrap_or_default().to_owned();
    note(mixed, &name, request.line().split(' ').nth(1).unwrap_or_default(), &request.body);
    if request.field("upgrade").is_some() {
        return talk(&name, stream);
    }
    let mut rng = rng_of(&name, 3);
    pause(&mut rng);
    let text = answered(&name);
    let (first, second) = text.split_at(usize::try_from(rng.range(1..text.len() as u64)).unwrap());
    let begin = format!("HTTP/1.1 200 OK\r\nX-Name: {name}\r\n");
    if rng.chance(500) {
        write(stream, &format!("{begin}Content-Length: {}\r\n\r\n{first}", text.len()))?;
        pause(&mut rng);
        return write(stream, second);
    }
    write(stream, &format!("{begin}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n", first.len()))?;
    pause(&mut rng);
    write(stream, &format!("{:x}\r\n{second}\r\n0\r\n\r\n", second.len()))
}

/// A target that speaks HTTP/2, and answers the same.
fn http2_target(ip: Ipv4Addr, mixed: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let mixed = Arc::clone(&mixed);
            tokio::spawn(async move {
                // Clients come and go, and so do their requests.
                let mut builder = h2::server::Builder::new();
                builder.max_pending_accept_reset_streams(10_000).max_concurrent_reset_streams(10_000);
                let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(serve_stream(request, respond, Arc::clone(&mixed)));
                }
            });
        }
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serving);
    });
    address
}

/// The same of one stream; its client may leave at any time.
async fn serve_stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    mixed: Arc<Mutex<Vec<String>>>,
) {
    let name = request.headers().get("x-name").and_then(|name| name.to_str().ok()).unwrap_or_default();
    let (name, path) = (name.to_owned(), request.uri().path().to_owned());
    let (mut body, mut got) = (request.into_body(), Vec::new());
    while let Some(piece) = body.data().await {
        let Ok(piece) = piece else { return };
        body.flow_control().release_capacity(piece.len()).ok();
        got.extend_from_slice(&piece);
    }
    note(&mixed, &name, &path, &got);
    let (text, mut rng) = (answered(&name), rng_of(&name, 3));
    let (first, second) = text.split_at(usize::try_from(rng.range(1..text.len() as u64)).unwrap());
    let mut answer = Response::builder().header("x-name", &name);
    if rng.chance(500) {
        answer = answer.header("content-length", text.len());
    }
    let Ok(mut stream) = respond.send_response(answer.body(()).unwrap(), false) else { return };
    stream.send_data(Bytes::copy_from_slice(first.as_bytes()), false).ok();
    tokio::time::sleep(Duration::from_millis(rng.below(6))).await;
    stream.send_data(Bytes::copy_from_slice(second.as_bytes()), true).ok();
}

/// Sends back each line with the name that the tunnel was opened by.
fn talk(name: &str, stream: &mut BufReader<TcpStream>) -> io::Result<bool> {
    let fields = format!("Connection: Upgrade\r\nUpgrade: websocket\r\nX-Name: {name}");
    write(stream, &format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n"))?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        write(stream, &format!("{name}|{line}"))?;
        line.clear();
    }
    Ok(false)
}

/// A request of HTTP/1: without a body, or with one of either kind.
fn request(name: &str, rng: &mut Rng) -> String {
    let body = said(name);
    let (method, rest) = match rng.below(3) {
        0 => ("GET", "\r\n".to_owned()),
        1 => ("POST", format!("Content-Length: {}\r\n\r\n{body}", body.len())),
        _ => ("POST", format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
    };
    format!("{method} /{name} HTTP/1.1\r\nHost: shop.example\r\nX-Name: {name}\r\n{rest}")
}

/// Reads the answer to the request of this name.
fn expect(client: &mut Client<Line>, name: &str) {
    let answer = client.answer();
    assert_eq!((answer.status(), answer.field("x-name")), (200, Some(name)), "{}", answer.head);
    assert!(answer.text() == answered(name), "{name}: {}", answer.text());
}

/// Asks on a kept connection, sometimes several things at once, and sometimes leaves within a request or an answer.
fn http1(way: &Way, client: u64) {
    let mut rng = Rng::new(SEED + client);
    let mut connection = way.http1();
    for round in 0..way.rounds {
        let name = format!("one{client}.{round}");
        let whole = request(&name, &mut rng);
        match rng.below(10) {
            0 => {
                let part = usize::try_from(rng.range(1..whole.len() as u64)).unwrap();
                connection.send(&whole[..part]);
                pause(&mut rng);
                std::mem::replace(&mut connection, way.http1()).stream().leave();
            }
            1 => {
                connection.send(&whole);
                pause(&mut rng);
                std::mem::replace(&mut connection, way.http1()).stream().leave();
            }
            2 => {
                connection.send(&whole);
                // Less than any answer's head has.
                connection.read(usize::try_from(rng.range(1..30)).unwrap());
                std::mem::replace(&mut connection, way.http1()).stream().leave();
            }
            3 => {
                let names: Vec<String> = (0..3).map(|index| format!("{name}.{index}")).collect();
                let all: String = names.iter().map(|name| request(name, &mut rng)).collect();
                connection.send(all);
                names.iter().for_each(|name| expect(&mut connection, name));
            }
            _ => {
                connection.send(&whole);
                expect(&mut connection, &name);
            }
        }
    }
}

/// What was asked on a stream.
struct Asked {
    name: String,
    /// Bytes of the answer so far.
    got: usize,
    /// Whether the end is waited for: the stream was not reset.
    awaited: bool,
}

/// Begins a stream, and sometimes resets it: without a body, within it, or behind it.
fn begin(wire: &mut Wire<Line>, stream: u32, name: String, rng: &mut Rng) -> Asked {
    let cancel = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    let (path, body, posts) = (format!("/{name}"), said(&name), rng.chance(500));
    let fields = head(if posts { "POST" } else { "GET" }, &path, &[("x-name", &name)]);
    wire.ask(stream, &fields, !posts);
    let goes = rng.chance(150);
    let (first, second) = body.as_bytes().split_at(body.len() / 2);
    if posts {
        wire.send(&frame(DATA, 0, stream, first));
        pause(rng);
    }
    let early = goes && rng.chance(500);
    if posts && !early {
        wire.send(&frame(DATA, END_STREAM, stream, second));
    }
    if goes {
        pause(rng);
        wire.send(&cancel);
    }
    Asked { name, got: 0, awaited: !goes }
}

/// Reads until all has come that is waited for.
fn collect(wire: &mut Wire<Line>, asked: &mut BTreeMap<u32, Asked>) {
    while asked.values().any(|it| it.awaited) {
        let frame = wire.read().expect("the connection goes on");
        assert_ne!(frame.kind, GOAWAY, "{frame:?}");
        let Some(it) = asked.get_mut(&frame.stream) else {
            assert!(!matches!(frame.kind, HEADERS | DATA), "nobody asked for {frame:?}");
            continue;
        };
        match frame.kind {
            HEADERS => assert_eq!(status(&frame.payload), 200, "{}", it.name),
            DATA => {
                let text = answered(&it.name);
                let rest = text.as_bytes().get(it.got..).unwrap_or_default();
                let got = String::from_utf8_lossy(&frame.payload);
                assert!(rest.starts_with(&frame.payload), "{} got {got}", it.name);
                it.got += frame.payload.len();
            }
            RST_STREAM => assert!(!it.awaited, "{} was reset: {frame:?}", it.name),
            _ => {}
        }
        if frame.ends_stream() && it.awaited {
            assert_eq!(it.got, answered(&it.name).len(), "{}", it.name);
            it.awaited = false;
        }
    }
}

/// Asks several things at once on one connection, and sometimes leaves without an answer.
fn http2(way: &Way, client: u64) {
    let mut rng = Rng::new(SEED + 100 + client);
    let (mut wire, mut stream, mut asked) = (way.http2(), 1, BTreeMap::new());
    for round in 0..way.rounds {
        for index in 0..rng.range(1..6) {
            let name = format!("two{client}.{round}.{index}");
            asked.insert(stream, begin(&mut wire, stream, name, &mut rng));
            stream += 2;
        }
        if rng.chance(100) {
            std::mem::replace(&mut wire, way.http2()).stream.leave();
            (stream, asked) = (1, BTreeMap::new());
        } else {
            collect(&mut wire, &mut asked);
        }
    }
}

/// Talks through a tunnel for a while, and sometimes leaves in the middle.
fn websocket(way: &Way, client: u64) {
    let mut rng = Rng::new(SEED + 200 + client);
    for round in 0..way.rounds / 2 {
        let name = format!("socket{client}.{round}");
        let mut connection = way.http1();
        let fields = format!("X-Name: {name}\r\nConnection: Upgrade\r\nUpgrade: websocket");
        connection.send(format!("GET /{name} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n\r\n"));
        if rng.chance(100) {
            connection.stream().leave();
            continue;
        }
        let answer = connection.answer();
        assert_eq!((answer.status(), answer.field("x-name")), (101, Some(name.as_str())), "{}", answer.head);
        let lines = rng.range(1..20);
        for line in 0..lines {
            connection.send(format!("{name} says {line}\n"));
            let expected = format!("{name}|{name} says {line}\n");
            assert_eq!(String::from_utf8_lossy(&connection.read(expected.len())), expected);
            pause(&mut rng);
        }
        if rng.chance(300) {
            connection.send("half a line");
            connection.stream().leave();
        } else {
            connection.stream().finish();
            assert!(connection.is_at_its_end(), "{name} hears more than it has said");
        }
    }
}

/// Has all of them come to a service, and looks at what it has counted.
fn all_come(config: &Config, tls: Option<Arc<ClientConfig>>, rounds: u64) -> Lbd {
    let lbd = Lbd::start(config);
    let way = &Way { address: lbd.address, tls, rounds };
    std::thread::scope(|scope| {
        for client in 0..HTTP1 {
            scope.spawn(move || http1(way, client));
        }
        for client in 0..HTTP2 {
            scope.spawn(move || http2(way, client));
        }
        for client in 0..WEBSOCKETS {
            scope.spawn(move || websocket(way, client));
        }
    });
    eventually("nobody is left", || lbd.service("connections_open") == 0);
    // They have shared connections to the targets, and have left some in the middle.
    let sum = |name| metric(&lbd, name).values().sum::<u64>();
    assert!(sum("tandem_lbd_target_http_reused_connections_total") > 8 * rounds);
    let cut = metric(&lbd, "tandem_lbd_service_http_requests_cut_total");
    assert!(cut["{service=\"web\",reason=\"client\"}"] > rounds / 3, "{cut:?}");
    assert_eq!(sum("tandem_lbd_service_http2_connections_expelled_total"), 0);
    lbd
}

/// A target of HTTP/1.
fn target(ip: Ipv4Addr, mixed: &Arc<Mutex<Vec<String>>>) -> Target {
    let mixed = Arc::clone(mixed);
    Target::with(ip, move |request, stream| serve(request, stream, &mixed))
}

#[test]
fn what_each_client_gets_is_its_own() {
    let (ip, mixed) = (own_ip(), Arc::default());
    let targets = [target(ip, &mixed), target(ip, &mixed)];
    all_come(&config(ip, &targets.each_ref().map(|target| target.address)), None, 60);
    assert_eq!(*mixed.lock().unwrap(), [""; 0], "requests that are of several clients");
}

#[test]
fn what_each_client_with_tls_gets_of_targets_of_http2_is_its_own() {
    let (ip, mixed, authority) = (own_ip(), Arc::default(), shop());
    let sockets = target(ip, &mixed);
    let targets = [http2_target(ip, Arc::clone(&mixed)), http2_target(ip, Arc::clone(&mixed))];
    let mut config = crate::http::tls::config(ip, &targets, &[&authority.bundle("shop")]);
    config.service += "\n[[service.rule]]\nwhen = { path_regex = \"^/socket\" }\nforward = \"sockets\"\n";
    config.group = format!(
        "protocol = \"http2\"\n[[target_group]]\nname = \"sockets\"\ntargets = [{{ address = \"{}\" }}]\n",
        sockets.address
    );
    let lbd = all_come(&config, Some(client_config(&authority)), 25);
    assert_eq!(*mixed.lock().unwrap(), [""; 0], "requests that are of several clients");
    let handshakes = metric(&lbd, "tandem_lbd_service_tls_handshakes_total");
    assert!(handshakes.values().sum::<u64>() > HTTP1 + HTTP2 + WEBSOCKETS, "{handshakes:?}");
}
