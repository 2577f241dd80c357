//! `lbd doctor --trace`: a sample of packets and what became of them, as the program writes them into its ring.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::maps::{Map as AyaMap, MapData, RingBuf};
use lbd_core::forward::abi::{Abi, Config, DropReason, Event, Verdict};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::load;
use super::maps::Table;

/// How often the ring is looked into, in milliseconds.
const LOOK_MS: u8 = 20;

/// Lines printed, at most.
const LINES_MAX: usize = 10_000;

/// Takes a sample of every so many packets for some time, or for as long as somebody reads, and writes each to `out` as a line.
pub(super) fn trace(
    run_dir: &Path,
    every: u32,
    time: Duration,
    out: &mut (impl Write + AsFd),
) -> anyhow::Result<()> {
    let folder =
        load::current_folder(run_dir).context("nothing is forwarded in the kernel with this --run-dir")?;
    let config: Table<u32, Config> = Table::open(&folder, "config")?;
    let before = config.get(&0)?.context("the program has no configuration yet")?;
    // Whoever has seen enough must not leave a program behind that takes samples of everything.
    let stop = stopping().context("cannot listen for signals")?;
    let map = AyaMap::from_map_data(MapData::from_pin(folder.join("events"))?)?;
    let mut ring = RingBuf::try_from(map)?;
    config.put(&0, &Config { trace_every: every, ..before })?;
    let traced = follow(&mut ring, time, &stop, out);
    // As the configuration has it, which may have changed meanwhile in everything else.
    let now = config.get(&0)?.unwrap_or(before);
    config.put(&0, &Config { trace_every: before.trace_every, ..now })?;
    let rest = take(&mut ring, out);
    match traced.and(rest.map(drop)) {
        // Whoever read has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        traced => traced.context("tracing packets"),
    }
}

/// Writes what is in the ring. Answers how much that was. Also where it cannot be written, nothing of this sample is left for the next one.
fn take(ring: &mut RingBuf<MapData>, out: &mut impl Write) -> io::Result<usize> {
    let (mut lines, mut written) = (0, Ok(()));
    while let Some(item) = ring.next() {
        if let Some(event) = Event::from_bytes(&item)
            && written.is_ok()
        {
            written = writeln!(out, "{}", line(&event));
            lines += 1;
        }
    }
    written.map(|()| lines)
}

/// Ready to read once this process is told to stop, by Ctrl-C for one.
fn stopping() -> nix::Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn follow(
    ring: &mut RingBuf<MapData>,
    time: Duration,
    stop: &SignalFd,
    out: &mut (impl Write + AsFd),
) -> io::Result<()> {
    let (end, mut lines) = (Instant::now() + time, 0);
    while Instant::now() < end && lines < LINES_MAX {
        lines += take(ring, out)?;
        // Of what is written to, that nobody reads any more: without a packet no line would say so.
        let mut ends =
            [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(out.as_fd(), PollFlags::empty())];
        match poll(&mut ends, PollTimeout::from(LOOK_MS)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// An event for people.
fn line(event: &Event) -> String {
    let verdict = Verdict::of(event.verdict).map_or("?", Verdict::name);
    let protocol = match event.key.protocol {
        6 => "tcp",
        17 => "udp",
        _ => "ip",
    };
    let mut text = format!(
        "{}.{:06} {protocol} {} > {} {verdict}, {} bytes, service {}, target {}, interface {}",
        event.time_ns / 1_000_000_000,
        event.time_ns / 1000 % 1_000_000,
        event.key.client(),
        event.key.service(),
        event.length,
        event.service,
        event.target,
        event.ifindex,
    );
    let reason = DropReason::of(event.reason).filter(|_| event.reason != 0);
    if let Some(reason) = reason {
        // Writing into a String cannot fail.
        write!(text, ", {}", reason.name()).ok();
    }
    text
}
