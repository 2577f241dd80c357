//! Clients with addresses of their own, and servers that tell what they got.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};

use nix::libc;

use crate::server::Server;
use crate::support::{Lbd, PATIENCE, patient};

/// A connection that comes from `source`. One that is refused may be reset while it is still being made.
pub(crate) fn connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let stream = socket.into();
    patient(&stream);
    Ok(stream)
}

/// All that the service answers to a client from `source`; what went wrong otherwise.
pub(crate) fn fetch_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<String> {
    let mut text = String::new();
    connect_from(source, address)?.read_to_string(&mut text)?;
    Ok(text)
}

/// The address beside `ip`, another one for each `number`.
pub(crate) fn beside(ip: Ipv4Addr, number: u8) -> Ipv4Addr {
    let [_, high, low, last] = ip.octets();
    Ipv4Addr::new(127, 255 - number, low ^ high, last)
}

/// Hands each connection that it accepts to the test.
pub(crate) fn handed_over(ip: impl Into<IpAddr>) -> (Server, mpsc::Receiver<TcpStream>) {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    let server = Server::start(SocketAddr::new(ip.into(), 0), move |stream| {
        patient(&stream);
        // The test may be over.
        drop(sender.lock().unwrap().send(stream));
    });
    (server, receiver)
}

/// The next connection.
pub(crate) fn next(connections: &mpsc::Receiver<TcpStream>) -> TcpStream {
    connections.recv_timeout(PATIENCE).unwrap()
}

impl Lbd {
    /// How many connections its service refused for this reason.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        self.status()["services"][0]["refused"][reason].as_u64().unwrap()
    }

    /// Connections that wait for a target of its group.
    pub(crate) fn waiting(&self) -> u64 {
        self.status()["target_groups"][0]["queue_waiting"].as_u64().unwrap()
    }

    /// The sum of a metric over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, metrics) = self.ask("GET", "/metrics");
        let lines = metrics
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Sets the limit of its open files.
    pub(crate) fn limit_files(&self, soft: u64) {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: 4096 };
        let pid = self.pid().as_raw();
        // SAFETY: the pointer is to a whole rlimit that outlives the call, and the old one is not asked for.
        let done = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
        assert_eq!(done, 0);
    }

    /// Its memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// The most memory that it has ever had, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}
