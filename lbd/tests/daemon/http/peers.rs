//! Both ends of an exchange: a client that sends what it is told, and a target that remembers what it was sent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::{connect, eventually, patient};

/// A message as it was read: the head without its empty line, the body, and what stood behind that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
}

impl Message {
    /// The first line.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The status of an answer.
    pub(crate) fn status(&self) -> u16 {
        self.line().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    /// The value of a field that is there once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [only] => Some(only),
            [] => None,
            _ => panic!("{name} comes more than once in {}", self.head),
        }
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads up to the empty line; nothing at the end of the connection.
fn read_head(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if stream.read_until(b'\n', &mut head)? == 0 {
            return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        if &head[before..] == b"\r\n" {
            head.truncate(before.saturating_sub(2));
            return Ok(Some(lossy(head)));
        }
    }
}

fn read_exactly(stream: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The body, and the trailers.
fn read_chunks(stream: &mut impl BufRead) -> io::Result<(Vec<u8>, String)> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if size == 0 {
            // Up to the empty line behind the trailers, if there are any.
            return Ok((body, read_head(stream)?.unwrap_or_default()));
        }
        body.extend(read_exactly(stream, size)?);
        read_exactly(stream, 2)?;
    }
}

/// Reads a message whole. `bodiless` is for answers that have no body, whatever their head says.
pub(super) fn read_message(stream: &mut impl BufRead, bodiless: bool) -> io::Result<Option<Message>> {
    let Some(head) = read_head(stream)? else { return Ok(None) };
    let mut message = Message { head, body: Vec::new(), trailers: String::new() };
    let answer = message.head.starts_with("HTTP/");
    let status = if answer { message.status() } else { 0 };
    let none = bodiless || (answer && (status < 200 || status == 204 || status == 304));
    if none {
        return Ok(Some(message));
    }
    let length = message.field("content-length").map(|length| length.parse::<usize>().unwrap());
    let coding = message.field("transfer-encoding").map(str::to_owned);
    message.body = match (length, coding.as_deref()) {
        (Some(length), None) => read_exactly(stream, length)?,
        (None, Some("chunked")) => {
            let (body, trailers) = read_chunks(stream)?;
            message.trailers = trailers;
            body
        }
        (None, None) if answer => {
            let mut body = Vec::new();
            stream.read_to_end(&mut body)?;
            body
        }
        (None, None) => Vec::new(),
        other => panic!("a message with {other:?}: {}", message.head),
    };
    Ok(Some(message))
}

/// A client's connection, in clear text unless it is said otherwise.
pub(crate) struct Client<S = TcpStream> {
    stream: BufReader<S>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { stream: BufReader::new(connect(address)) }
    }

    /// On a connection that is there already.
    pub(crate) fn of(stream: TcpStream) -> Self {
        patient(&stream);
        Self { stream: BufReader::new(stream) }
    }

    /// Says that nothing more is sent.
    pub(crate) fn finish(&mut self) {
        self.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> Client<S> {
    /// On what carries it.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // What is refused may be answered, and the connection be closed, before all of it is taken.
        self.stream.get_mut().write_all(bytes.as_ref()).ok();
        self
    }

    /// Reads an answer; fails at the end of the connection.
    pub(crate) fn answer(&mut self) -> Message {
        self.try_answer(false).unwrap().expect("an answer")
    }

    /// Reads the answer to a HEAD.
    pub(crate) fn answer_to_head(&mut self) -> Message {
        self.try_answer(true).unwrap().expect("an answer")
    }

    /// Reads an answer, or nothing at the end.
    pub(crate) fn try_answer(&mut self, to_head: bool) -> io::Result<Option<Message>> {
        read_message(&mut self.stream, to_head)
    }

    /// Whether nothing more comes and the connection ends, however it does.
    pub(crate) fn is_at_its_end(&mut self) -> bool {
        !matches!(self.stream.read(&mut [0]), Ok(1))
    }

    /// The connection, without what has been read ahead of it.
    pub(crate) fn stream(&mut self) -> &mut S {
        self.stream.get_mut()
    }

    /// Reads so many bytes.
    pub(crate) fn read(&mut self, length: usize) -> Vec<u8> {
        read_exactly(&mut self.stream, length).unwrap()
    }
}

/// Sends a request on a connection of its own and reads the answer.
pub(crate) fn ask(address: SocketAddr, request: &str) -> Message {
    Client::new(address).send(request).answer()
}

/// A request without a body.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n")
}

/// What a target does with a request: answers, and says whether the connection goes on.
type Behaviour = dyn Fn(&Message, &mut BufReader<TcpStream>) -> io::Result<bool> + Send + Sync;

/// A target that remembers each request that has come to it whole.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<Message>>,
    connections: AtomicUsize,
    ended: AtomicUsize,
    broken: AtomicUsize,
    stopped: AtomicBool,
    behaviour: Box<Behaviour>,
}

impl Target {
    /// Answers each request with 200 and its name.
    pub(crate) fn named(ip: Ipv4Addr, name: &'static str) -> Self {
        Self::with(ip, move |_, stream| answer(stream, name))
    }

    /// Does with each request what `behaviour` does.
    pub(crate) fn with(
        ip: Ipv4Addr,
        behaviour: impl Fn(&Message, &mut BufReader<TcpStream>) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            broken: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            behaviour: Box::new(behaviour),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&accepting)) else { return };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    shared.serve(stream);
                    shared.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Message> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The last request.
    pub(crate) fn last(&self) -> Message {
        self.seen().pop().expect("a request")
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that it has closed.
    pub(crate) fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Whether the kernel holds no connection to it for open (`ESTABLISHED`, include/net/tcp_states.h) at the other end any more. An end
    /// comes there only when a processor has time for it.
    pub(crate) fn is_left(&self) -> bool {
        !states_towards(self.address).iter().any(|state| state == "01")
    }

    /// Requests that broke off.
    pub(crate) fn broken(&self) -> usize {
        self.shared.broken.load(Ordering::SeqCst)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        patient(&stream);
        let mut stream = BufReader::new(stream);
        loop {
            match read_message(&mut stream, false) {
                Ok(Some(request)) => {
                    self.seen.lock().unwrap().push(request.clone());
                    if !(self.behaviour)(&request, &mut stream).unwrap_or(false) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    self.broken.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
        }
    }
}

/// The states (include/net/tcp_states.h) of all that the kernel knows of whose other end is a target.
fn states_towards(target: SocketAddr) -> Vec<String> {
    let SocketAddr::V4(address) = target else { panic!("{target} is in another table") };
    // As the kernel prints it: the address in memory as a number of this machine's.
    let number = u32::from_ne_bytes(address.ip().octets());
    let remote = format!("{number:08X}:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let state = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().take(4).collect();
        (fields[2] == remote).then(|| fields[3].to_owned())
    };
    table.lines().filter_map(state).collect()
}

/// Waits until the last connection to a target has ended, and sees to it that it was not the daemon that closed any of them properly first: each
/// of those would keep a port for a minute (`TIME_WAIT`).
pub(crate) fn leave_no_port_behind(target: SocketAddr) {
    eventually("none is open", || states_towards(target).iter().all(|state| state == "06"));
    assert_eq!(states_towards(target), [""; 0]);
}

/// Answers with 200 and a text.
pub(crate) fn answer(stream: &mut BufReader<TcpStream>, text: &str) -> io::Result<bool> {
    write(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()))
}

/// Writes bytes as they are; the connection goes on.
pub(crate) fn write(stream: &mut BufReader<TcpStream>, bytes: &str) -> io::Result<bool> {
    stream.get_mut().write_all(bytes.as_bytes())?;
    Ok(true)
}
