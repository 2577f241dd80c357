//! A service that turns to another group: connections go on with the targets of the one before, as long as that group's time lasts.

use std::io::{Error, ErrorKind, Read, Result as IoResult, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use integration::lab::clock::{now, wait_for, wait_until};
use integration::lab::{Lab, Result};

use crate::kernel_support::{LIMIT, PATIENCE, address, flows, reload_text, start, vips};

/// So long the connections of a group go on that the service has turned away from.
const DRAIN: Duration = Duration::from_secs(6);

/// So long those of the other one would, which nothing here waits for.
const LONG_DRAIN: Duration = Duration::from_secs(60);

/// A service for echo that forwards to one of two groups, each with one target, which is called `t` in both.
fn text(lab: &Lab, forward: &str, targets: [usize; 2]) -> String {
    let vip = vips()[0];
    let listen = SocketAddr::new(vip, 7);
    let mut text = format!(
        "[[service]]\nname = \"echo\"\nmode = \"nat\"\nlisten = [\"{listen}\"]\nforward = \"{forward}\"\n"
    );
    for ((group, drain), target) in [("blue", DRAIN), ("green", LONG_DRAIN)].into_iter().zip(targets) {
        let (drain, address) = (drain.as_secs(), SocketAddr::new(address(&lab.targets()[target], vip), 7));
        text.push_str(&format!(
            "[[target_group]]\nname = \"{group}\"\ndrain_timeout = \"{drain}s\"\ntargets = [{{ id = \"t\", address = \"{address}\" }}]\n"
        ));
    }
    text
}

/// Whether what is sent comes back.
fn exchanged(connection: &mut TcpStream) -> IoResult<()> {
    connection.write_all(b"hello")?;
    connection.read_exact(&mut [0; 5])
}

/// A new connection that is served.
fn connected(lab: &Lab) -> Option<TcpStream> {
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(vips()[0], 7), PATIENCE);
    let mut connection = lab.client().namespace().inside(connect).ok()?.ok()?;
    connection.set_read_timeout(Some(PATIENCE)).ok()?;
    exchanged(&mut connection).ok().map(|()| connection)
}

/// The target of a connection, as `GROUP/ID`.
fn target_of(lab: &Lab, connection: &TcpStream) -> Option<String> {
    let client = connection.local_addr().ok()?.to_string();
    let listed = flows(lab, "echo").ok()?;
    let flow = listed.into_iter().find(|flow| flow["client"] == client)?;
    flow["target"].as_str().map(str::to_owned)
}

#[test]
fn connections_of_a_former_group_end_when_its_time_is_over() -> Result<()> {
    let lab = Lab::builder("kernel-former").targets(2).build()?;
    start(&lab, &text(&lab, "blue", [0, 1]))?;
    let mut known = wait_for("a connection", LIMIT, || connected(&lab))?;
    let begun = now();
    reload_text(&lab, &text(&lab, "green", [0, 1]))?;
    let is_of = |group: &str, connection: &TcpStream| {
        target_of(&lab, connection).is_some_and(|target| target.starts_with(group))
    };
    let mut new = wait_for("a connection to the other group", LIMIT, || {
        connected(&lab).filter(|connection| is_of("green/", connection))
    })?;
    assert!(exchanged(&mut known).is_ok() && is_of("blue/", &known), "the one of before goes on");
    let is_reset = |error: Error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    wait_until("its end", LIMIT, || exchanged(&mut known).is_err_and(is_reset))?;
    assert!(now() - begun >= DRAIN, "not before its time");
    assert!(exchanged(&mut new).is_ok(), "of the other group none ends");
    // A target that keeps its id and gets another address is another one to new connections alone.
    reload_text(&lab, &text(&lab, "green", [0, 0]))?;
    wait_until("a former target", LIMIT, || is_of("green/t ", &new))?;
    assert!(exchanged(&mut new).is_ok(), "what it has goes on");
    let is_at = |connection: &TcpStream| target_of(&lab, connection).as_deref() == Some("green/t");
    wait_until("a new one at the other", LIMIT, || connected(&lab).is_some_and(|it| is_at(&it)))?;
    lab.finish()
}
