//! Many clients at once, over HTTP/1, HTTP/2 and as WebSockets, who come and go as they like, and whose requests share the connections to the targets:
//! what each of them gets is its own.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::rng::Rng;

use super::config;
use super::frames::{
    DATA, END_STREAM, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE, Wire, frame, head, status,
};
use crate::http::{Client, Message, Target, write};
use crate::support::{Lbd, eventually, metric, own_ip, reset};

/// Clients of each kind.
const HTTP1: u64 = 12;
const HTTP2: u64 = 12;
const WEBSOCKETS: u64 = 8;

/// What each does, one after the other.
const ROUNDS: u64 = 60;

/// What they draw from.
const SEED: u64 = 0x7a4d_e35e;

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

/// A target's answer. What comes of several clients in one request is noted.
fn serve(
    request: &Message,
    stream: &mut BufReader<TcpStream>,
    mixed: &Mutex<Vec<String>>,
) -> io::Result<bool> {
    let name = request.field("x-name").unwrap_or_default().to_owned();
    let asked = request.line().split(' ').nth(1).unwrap_or_default();
    let body = String::from_utf8_lossy(&request.body);
    if asked.strip_prefix('/') != Some(name.as_str()) || !(body.is_empty() || body == said(&name)) {
        mixed.lock().unwrap().push(format!("{}\n{body}", request.head));
    }
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
fn expect(client: &mut Client, name: &str) {
    let answer = client.answer();
    assert_eq!((answer.status(), answer.field("x-name")), (200, Some(name)), "{}", answer.head);
    assert!(answer.text() == answered(name), "{name}: {}", answer.text());
}

/// Leaves without a word.
fn leave(mut client: Client) {
    reset(client.stream().try_clone().unwrap());
}

/// Asks on a kept connection, sometimes several things at once, and sometimes leaves within a request or an answer.
fn http1(address: SocketAddr, client: u64) {
    let mut rng = Rng::new(SEED + client);
    let mut connection = Client::new(address);
    for round in 0..ROUNDS {
        let name = format!("one{client}.{round}");
        let whole = request(&name, &mut rng);
        match rng.below(10) {
            0 => {
                let part = usize::try_from(rng.range(1..whole.len() as u64)).unwrap();
                connection.send(&whole[..part]);
                pause(&mut rng);
                leave(std::mem::replace(&mut connection, Client::new(address)));
            }
            1 => {
                connection.send(&whole);
                pause(&mut rng);
                leave(std::mem::replace(&mut connection, Client::new(address)));
            }
            2 => {
                connection.send(&whole);
                // Less than any answer's head has.
                connection.read(usize::try_from(rng.range(1..30)).unwrap());
                leave(std::mem::replace(&mut connection, Client::new(address)));
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

/// A connection that has room for all that is asked for on it.
fn open(address: SocketAddr) -> Wire {
    // SETTINGS_INITIAL_WINDOW_SIZE, and the connection's window.
    let mut wire = Wire::open_with(address, &[(4, 1 << 20)]);
    wire.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
    wire
}

/// Begins a stream, and sometimes resets it: without a body, within it, or behind it.
fn begin(wire: &mut Wire, stream: u32, name: String, rng: &mut Rng) -> Asked {
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
fn collect(wire: &mut Wire, asked: &mut BTreeMap<u32, Asked>) {
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
fn http2(address: SocketAddr, client: u64) {
    let mut rng = Rng::new(SEED + 100 + client);
    let (mut wire, mut stream, mut asked) = (open(address), 1, BTreeMap::new());
    for round in 0..ROUNDS {
        for index in 0..rng.range(1..6) {
            let name = format!("two{client}.{round}.{index}");
            asked.insert(stream, begin(&mut wire, stream, name, &mut rng));
            stream += 2;
        }
        if rng.chance(100) {
            reset(std::mem::replace(&mut wire, open(address)).stream);
            (stream, asked) = (1, BTreeMap::new());
        } else {
            collect(&mut wire, &mut asked);
        }
    }
}

/// Talks through a tunnel for a while, and sometimes leaves in the middle.
fn websocket(address: SocketAddr, client: u64) {
    let mut rng = Rng::new(SEED + 200 + client);
    for round in 0..ROUNDS / 2 {
        let name = format!("socket{client}.{round}");
        let mut connection = Client::new(address);
        let fields = format!("X-Name: {name}\r\nConnection: Upgrade\r\nUpgrade: websocket");
        connection.send(format!("GET /{name} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n\r\n"));
        if rng.chance(100) {
            leave(connection);
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
            leave(connection);
        } else {
            connection.finish();
            assert!(connection.is_at_its_end(), "{name} hears more than it has said");
        }
    }
}

#[test]
fn what_each_client_gets_is_its_own() {
    let ip = own_ip();
    let mixed: Arc<Mutex<Vec<String>>> = Arc::default();
    let target = || {
        let mixed = Arc::clone(&mixed);
        Target::with(ip, move |request, stream| serve(request, stream, &mixed))
    };
    let targets = [target(), target()];
    let lbd = Lbd::start(&config(ip, &targets.each_ref().map(|target| target.address)));
    let address = lbd.address;
    std::thread::scope(|scope| {
        for client in 0..HTTP1 {
            scope.spawn(move || http1(address, client));
        }
        for client in 0..HTTP2 {
            scope.spawn(move || http2(address, client));
        }
        for client in 0..WEBSOCKETS {
            scope.spawn(move || websocket(address, client));
        }
    });
    assert_eq!(*mixed.lock().unwrap(), [""; 0], "requests that are of several clients");
    eventually("nobody is left", || lbd.service("connections_open") == 0);
    // They have shared connections to the targets, and have left some in the middle.
    let sum = |name| metric(&lbd, name).values().sum::<u64>();
    assert!(sum("tandem_lbd_target_http_reused_connections_total") > 500);
    let cut = metric(&lbd, "tandem_lbd_service_http_requests_cut_total");
    assert!(cut["{service=\"web\",reason=\"client\"}"] > 20, "{cut:?}");
    assert_eq!(sum("tandem_lbd_service_http2_connections_expelled_total"), 0);
}
