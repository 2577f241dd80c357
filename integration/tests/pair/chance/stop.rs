//! What becomes of an `lbd`'s connections once it is told to stop.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};

use integration::lab::clock::wait_until;
use integration::lab::{Lab, Node, Result};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use super::{drains, echoes, end, fetch, proxy, steady};
use crate::pair_support::{LIMIT, every, owned_by, vips};

/// Text for nft: of what the client sends to this port, only what begins a connection gets anywhere.
const HALF_WAY: &str = "table inet half_way {\nchain out {\ntype filter hook output priority 0\n\
    tcp dport 80 tcp flags & (syn | ack) == ack drop\n}\n}\n";

/// What is fetched of it is less than a node's kernel keeps of what is to be sent, and more than the client takes that does not read.
const FILE_BYTES: usize = 24 << 10;

/// What the client takes then, at most twice of it.
const TAKEN_BYTES: usize = 4 << 10;

/// How many of its connections to this port a node's kernel has in a state.
fn in_state(node: &Node, state: &str) -> usize {
    let shown = node.run("ss", &["-Htn", "state", state, "sport", "=", ":80"]);
    shown.unwrap_or_default().lines().count()
}

/// A connection of each family of which the node has served a file and closed its end, before the client reads it.
fn unread(lab: &Lab, node: &Node) -> Result<Vec<Socket>> {
    let ask = |vip: IpAddr| -> io::Result<Socket> {
        let to = SocketAddr::new(vip, 80);
        let mut socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_recv_buffer_size(TAKEN_BYTES)?;
        socket.connect_timeout(&to.into(), LIMIT)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.write_all(b"GET /files/unread HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        socket.shutdown(Shutdown::Write)?;
        Ok(socket)
    };
    let asked = lab.client().namespace().inside(|| vips().map(ask))?;
    let sockets = asked.into_iter().collect::<io::Result<Vec<_>>>().expect("it is asked for");
    wait_until("the node to be done with what nobody reads", LIMIT, || {
        in_state(node, "last-ack") == vips().len()
    })?;
    Ok(sockets)
}

/// A connection of each family whose handshake the client has ended, of which the node has not heard.
fn half_way(lab: &Lab, node: &Node) -> Result<Vec<TcpStream>> {
    lab.client().namespace().run_with("nft", &["-f", "-"], HALF_WAY)?;
    let connect = |vip| {
        let stream = TcpStream::connect(SocketAddr::new(vip, 80)).expect("it is answered");
        stream.set_read_timeout(Some(LIMIT)).expect("it has a time-out");
        stream
    };
    let streams = lab.client().namespace().inside(|| vips().map(connect))?;
    wait_until("the handshakes to be under way", LIMIT, || in_state(node, "syn-recv") == vips().len())?;
    Ok(streams.into())
}

#[test]
fn a_stopped_lbd_serves_its_connections_to_their_end() -> Result<()> {
    let lab = Lab::builder("chance stop").targets(2).build()?;
    let file = lab.dir().join("unread");
    std::fs::write(&file, vec![b'x'; FILE_BYTES]).expect("the lab's directory can be written to");
    lab.targets().iter().try_for_each(|target| target.publish(&file))?;
    proxy(&lab, every("100ms"), "")?;
    let [a, b] = lab.nodes();
    let probes = echoes(&lab, 20)?;
    steady(&probes)?;
    let (unread, mut begun) = (unread(&lab, a)?, half_way(&lab, a)?);
    a.signal("lbd", Signal::SIGTERM)?;
    b.wait_role("web", "active", LIMIT)?;
    owned_by(&lab, b)?;
    // Those that only the kernel knows of are counted, too.
    drains(&lab, a, 44)?;
    lab.client().namespace().run_with("nft", &["-f", "-"], "delete table inet half_way")?;
    begun.iter_mut().for_each(fetch);
    steady(&probes)?;
    assert!(a.running("lbd"));
    end(probes)?;
    drop(begun);
    wait_until("a to wait until its kernel has delivered all", LIMIT, || {
        a.log("lbd").contains("waiting for what the kernel has yet to deliver")
    })?;
    for mut socket in unread {
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("it is sent to its end");
        assert!(answer.len() > FILE_BYTES && answer.starts_with(b"HTTP/1.1 200 "), "{} bytes", answer.len());
    }
    assert!(a.wait_end("lbd", LIMIT)?.success());
    lab.finish()
}
