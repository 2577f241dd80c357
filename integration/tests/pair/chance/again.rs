//! Clients that come back from a port whose last connection the node closed first. The kernel remembers that one for a minute (TIME_WAIT). If
//! the other node has the virtual IPs meanwhile, the connection is that one's, also when they are back before the minute is over.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};

use integration::lab::addresses::client_addresses;
use integration::lab::clock::wait_until;
use integration::lab::{Lab, Node, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::fetch;
use crate::pair_support::{LIMIT, vips};

/// Below those that a connection gets by itself.
const PORT: u16 = 600;

/// A service whose target ends a connection if it is asked to.
const WEB: u16 = 80;

fn connect(vip: IpAddr) -> io::Result<TcpStream> {
    let (from, to) = (SocketAddr::new(client_addresses(vip)[0], PORT), SocketAddr::new(vip, WEB));
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), LIMIT)?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket.into())
}

/// How many of these connections a node's kernel remembers.
fn remembered(node: &Node) -> usize {
    let filter = format!("-Htn state time-wait sport = :{WEB} and dport = :{PORT}");
    let shown = node.run("ss", &filter.split(' ').collect::<Vec<_>>());
    shown.unwrap_or_default().lines().count()
}

/// Has a connection of each family that the target ends, and the client after it, through the node that has the virtual IPs.
pub(super) fn leave(lab: &Lab, node: &Node) -> Result<()> {
    let ended = |vip| -> io::Result<String> {
        let (mut stream, mut answer) = (connect(vip)?, String::new());
        stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    for answer in lab.client().namespace().inside(|| vips().map(ended))? {
        let answer = answer.expect("it is answered, and the connection ended");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    wait_until(&format!("{} to remember them", node.name()), LIMIT, || remembered(node) == vips().len())
}

/// Those that come back from the same ports, each with a page that it has fetched. Not within a second or two: the numbers of a new connection
/// between the same ports begin where the clock has come to (RFC 6528), and here both nodes have one kernel with one secret, so that both
/// numbers would be near those of before, as between two hosts one may be.
pub(super) fn come_back(lab: &Lab) -> Result<Vec<TcpStream>> {
    let connect = |vip| {
        let mut stream = connect(vip).expect("it is accepted");
        fetch(&mut stream);
        stream
    };
    lab.client().namespace().inside(|| vips().map(connect).into())
}

/// They go on, and end in order, although this node remembers those of before.
pub(super) fn go_on_and_end(streams: Vec<TcpStream>, node: &Node) {
    assert_eq!(remembered(node), streams.len());
    for mut stream in streams {
        fetch(&mut stream);
        stream.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(stream.read(&mut [0]).expect("it is ended, not reset"), 0);
    }
}
