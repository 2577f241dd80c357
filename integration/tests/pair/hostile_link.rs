//! Harm that is meant for the link between the `lbd`s (TCP 7112): by strangers, by somebody who has the pair's key, and by one who reads
//! nothing. The node that serves goes on doing so in its role, keeps hardly anything of what they send, counts them by what they have done, and has
//! the other node back once they let it in.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::kernel_pair_support::*;
use crate::pair_support::impostor::{HARM_BYTES, Impostor, answer_to, client_hello, connect, key};
use crate::pair_support::{LBD_GROWTH_MAX_KIB, LIMIT, every, lbd, memory_kib, transitions};
use common::key::PairKey;
use integration::lab::clock::{now, wait_until};
use integration::lab::{Lab, Node, Result};
use lbd_core::replication::FRAME_SIZE_MAX;
use nix::sys::signal::Signal;
use serde_json::Value;

/// Sessions by how they ended, as the link sees it.
const LINK: &str = "tandem_lbd_peer_sessions_ended_total";

/// The same by what was said in them.
const REPLICATION: &str = "tandem_lbd_replication_ended_total";

/// So often one who has the key tries the same: the other node may have the session back before he has said what he had to say.
const ATTEMPTS: usize = 5;

/// What is to happen at once.
const SOON: Duration = Duration::from_secs(1);

/// Connections that are held in the middle of their handshake, and how many of these `lbd` has at once.
const SLOW: usize = 20;
const HANDSHAKES_MAX: usize = 8;

/// Connections from a host that is none of the pair.
const KNOCKS: usize = 20;

/// What the kernel of one who reads nothing takes for him, in bytes.
const ROOM: usize = 4096;

/// How often he says that he lives: more often than the five seconds after which he would be taken for dead.
const LIVES_EVERY: Duration = Duration::from_millis(500);

/// What may be on its way without an acknowledgement, in bytes, but for one frame.
const WINDOW: usize = 1 << 20;

/// Connections to `a` that did not become a session, for this reason.
fn refused(a: &Node, reason: &str) -> u64 {
    counted(a, "tandem_lbd_peer_connections_refused_total", &format!("reason=\"{reason}\""))
}

/// Waits until so many more were refused for this reason than `before`.
fn counts(a: &Node, reason: &str, before: u64, more: usize) -> Result<()> {
    wait_until(&format!("{more} more refused for {reason}"), LIMIT, || {
        refused(a, reason) >= before + more as u64
    })
}

/// Who has no key: from another host, and from that of the other node.
fn strangers(lab: &Lab) -> Result<()> {
    let [a, b] = lab.nodes();
    let hello = client_hello();
    let way = format!("route add {}/32 via {} dev eth0", a.peer_address().ip(), a.v4());
    lab.watch().ip(&way)?;
    let before = refused(a, "address");
    for _ in 0..KNOCKS {
        let answer = answer_to(connect(lab, lab.watch(), None)?, &hello);
        assert!(answer.is_empty(), "a stranger was answered {answer:?}");
    }
    counts(a, "address", before, KNOCKS)?;

    // A record that says that it is longer than any may be, and goes on.
    let mut large = vec![0; HARM_BYTES];
    large[..5].copy_from_slice(&[22, 3, 1, 0xff, 0xff]);
    let cases: [(&str, &[u8]); 5] = [
        ("not_tls", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("not_tls", &[0xff; 300]),
        ("not_tls", &large),
        ("closed", &hello[..hello.len() / 2]),
        ("closed", &[]),
    ];
    for (reason, bytes) in cases {
        let before = refused(a, reason);
        answer_to(connect(lab, b, None)?, bytes);
        counts(a, reason, before, 1)?;
    }
    let before = refused(a, "key");
    let joined = Impostor::join(connect(lab, b, None)?, &PairKey::new([9; 32]));
    assert!(joined.is_err(), "another pair's key is good here");
    counts(a, "key", before, 1)
}

/// Connections from `b`'s host that have begun their handshakes and go no further.
fn slow_handshakes(lab: &Lab) -> Result<Vec<TcpStream>> {
    let hello = client_hello();
    let begin = |length: usize| -> Result<TcpStream> {
        let mut stream = connect(lab, lab.b(), None)?;
        // It may have had to give way already.
        stream.write_all(&hello[..length]).ok();
        Ok(stream)
    };
    (1..=SLOW).map(begin).collect()
}

/// Something to be done with a session.
type Harm = fn(&mut Impostor) -> io::Result<()>;

/// What is not to be said, with what it counts as. Frames are a length of four bytes and a message; in a message is another such frame, of
/// version 1 and of a kind.
fn harms() -> [(&'static str, &'static str, Harm); 12] {
    [
        (LINK, "end=\"oversized\"", |it| {
            it.write(&[0xff; 4])?;
            it.pour()
        }),
        (LINK, "end=\"empty\"", |it| it.write(&[0; 4])),
        (LINK, "end=\"truncated\"", |it| {
            it.write(&[5, 0, 0, 0, 1, 2])?;
            it.fall_silent()
        }),
        // A record of TLS, encrypted with another key.
        (LINK, "end=\"damaged\"", |it| it.write_below(&[&[23_u8, 3, 3, 0, 40][..], &[0x5a; 40]].concat())),
        // Of another version; too long; a sign of life before a name; of another major version.
        (REPLICATION, "reason=\"malformed\"", |it| it.say(&[2, 0, 0, 0, 9, 9])),
        (REPLICATION, "reason=\"oversized\"", |it| it.say(&[0xff, 0xff, 0xff, 0xff, 1])),
        (REPLICATION, "reason=\"out_of_order\"", Impostor::live),
        (REPLICATION, "reason=\"other_major_version\"", |it| it.say(&[7, 0, 0, 0, 1, 0, 2, 3, 2, 9, 8])),
        // Behind a greeting that is as good as any: the first again; the end of a snapshot that has not begun; entries that end too soon;
        // half a frame, and then nothing more.
        (REPLICATION, "reason=\"malformed\"", |it| {
            it.greet()?;
            it.say(&[2, 0, 0, 0, 9, 9])
        }),
        (REPLICATION, "reason=\"out_of_order\"", |it| {
            it.greet()?;
            it.say(&[3, 0, 0, 0, 1, 5, 200])
        }),
        (REPLICATION, "reason=\"malformed\"", |it| {
            it.greet()?;
            // Data, the first frame, generations from 0, no names, one batch: of flows, none deleted, 9 of them, in one byte.
            it.say(&[11, 0, 0, 0, 1, 3, 1, 0, 0, 1, 1, 0, 9, 1, 7])
        }),
        (LINK, "end=\"cut\"", |it| {
            it.greet()?;
            it.say(&[200, 0, 0, 0, 1, 3])?;
            it.fall_silent()
        }),
    ]
}

/// Who has the key and does not keep to the protocol.
fn who_has_the_key(lab: &Lab) -> Result<()> {
    let a = lab.a();
    for (metric, label, harm) in harms() {
        let before = counted(a, metric, label);
        let mut is_counted = false;
        for _ in 0..ATTEMPTS {
            let socket = connect(lab, lab.b(), None)?;
            // Whether he could say all of it shows by what is counted.
            if let Ok(mut impostor) = Impostor::join(socket, &key()) {
                harm(&mut impostor).ok();
                impostor.wait_end();
            }
            is_counted = wait_until(label, SOON, || counted(a, metric, label) > before).is_ok();
            if is_counted {
                break;
            }
        }
        assert!(is_counted, "{metric} {label} was not counted: {}", shown(a));
    }
    Ok(())
}

/// What a node says of the link, and of what goes over it.
fn shown(node: &Node) -> Value {
    node.get("lbd", "/v1/replication").ok().and_then(|answer| answer.json().ok()).unwrap_or_default()
}

/// Who has the key, says all the time that he lives, and reads nothing of what he is told; while others take their time with their
/// handshakes.
fn who_reads_nothing(lab: &Lab) -> Result<()> {
    let [a, b] = lab.nodes();
    let given_up = || counted(a, LINK, "end=\"silent\"") + counted(a, LINK, "end=\"stalled\"");
    let (before, late, many) = (given_up(), refused(a, "timeout"), refused(a, "too_many"));
    // Else it would have its session back within a second.
    b.signal("lbd", Signal::SIGSTOP)?;
    let mut reader = Impostor::join(connect(lab, b, Some(ROOM))?, &key()).expect("he has the key");
    reader.greet().expect("a listens");
    let slow = slow_handshakes(lab)?;
    let (mut said, mut waited_ms) = (now(), 0);
    wait_until("a to give up who reads nothing", LIMIT, || {
        if now() - said > LIVES_EVERY {
            said = now();
            // Nobody may listen any more.
            reader.live().ok();
        }
        let shown = shown(a);
        let number = |part: &str, what: &str| shown[part][what].as_u64().unwrap_or_default();
        let (queued, most) = (number("link", "queued_bytes"), number("link", "queued_bytes_max"));
        assert!(queued <= most, "{queued} bytes are queued");
        let on_the_way = number("state", "unacknowledged_bytes");
        assert!(on_the_way <= (WINDOW + FRAME_SIZE_MAX + 4) as u64, "{on_the_way} bytes are on their way");
        waited_ms = waited_ms.max(number("link", "queued_for_ms"));
        given_up() > before
    })?;
    assert!(waited_ms > 1000, "what waits to be sent shows: {waited_ms} ms");
    // Those beyond the bound gave way to others; and these took too long.
    counts(a, "too_many", many, SLOW - HANDSHAKES_MAX)?;
    counts(a, "timeout", late, 1)?;
    drop(slow);
    b.signal("lbd", Signal::SIGCONT).map(drop)
}

#[test]
fn harm_to_the_link_moves_no_role_loses_no_packet_and_is_counted() -> Result<()> {
    let lab = forwarding("hostile link", every("100ms"))?;
    let [a, b] = lab.nodes();
    let load = Load::begin(&lab, WITHOUT_LOSS)?;
    let roles = lab.nodes().map(transitions);
    let memory = memory_kib(a, "lbd", "VmHWM");
    strangers(&lab)?;
    load.steady()?;
    for harm in [who_has_the_key, who_reads_nothing] {
        harm(&lab)?;
        load.steady()?;
        // The true one is back, and both know everything.
        lab.nodes().into_iter().try_for_each(synced)?;
    }
    let (_, table, _) = lbd(a, &["status"]);
    let sentences = ["sessions that ended for what was said or not said: ", "sessions that broke: "];
    let reasons =
        [" malformed", " out_of_order", " other_major_version", " oversized", " truncated", " damaged"];
    for part in sentences.into_iter().chain(reasons).chain(["connections refused, the last at "]) {
        assert!(table.contains(part), "{part:?} is not in {table}");
    }
    let most = memory_kib(a, "lbd", "VmHWM");
    assert!(most <= memory + LBD_GROWTH_MAX_KIB, "a's lbd grew from {memory} to {most} KiB");
    assert_eq!(lab.nodes().map(transitions), roles);
    assert_eq!((not_active(a), forwarded(b)), (0, 0), "the role has not moved");
    load.end()?;
    lab.finish()
}
