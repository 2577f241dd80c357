//! `lbd doctor --trace`: a sample of packets and what became of them, as the program writes them into its ring.
//!
//! One at a time: what one has read of the ring is gone for all others, and there is one setting for how often samples are taken.

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aya::maps::{Map as AyaMap, MapData, RingBuf};
use lbd_core::forward::abi::{Abi, Config, DropReason, Event, Verdict};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::bpf::Map;
use super::load;
use super::maps::Table;

/// The name of the ring's map.
const RING: &str = "events";

/// What the kernel writes before each sample, in bytes; both together take a multiple of eight.
const HEADER_SIZE: usize = 8;

/// How often the ring is looked into, in milliseconds.
const LOOK_MS: u8 = 20;

/// Lines printed, at most.
const LINES_MAX: usize = 10_000;

/// The file in the run directory that a trace locks, and in which it says how often samples were taken before it and are now.
const LOCK_NAME: &str = "lbd-trace.lock";

/// Two numbers are no longer than this, in bytes.
const NOTE_MAX: u64 = 64;

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
    let mut only = Only::take(run_dir)?;
    // Whoever has seen enough must not leave a program behind that takes samples of everything.
    let stop = stopping().context("cannot listen for signals")?;
    let mut samples = Samples::open(&folder)?;
    let passed_over = samples.pass_over();
    let present = config.get(&0)?.context("the program has no configuration yet")?;
    let before = only.begin(present.trace_every, every).context("noting what samples are taken")?;
    // Read again just before it is written, because `lbd` may write another one at any time. What it writes in between nevertheless is undone
    // by this, until it looks again.
    let present = config.get(&0)?.unwrap_or(present);
    config.put(&0, &Config { trace_every: every, ..present })?;
    let traced = out
        .write_all(samples.of_before(passed_over).as_bytes())
        .and_then(|()| follow(&mut samples, time, &stop, out));
    // As the configuration has it, which may have changed meanwhile; where it has in this, that counts.
    let now = config.get(&0)?.unwrap_or(present);
    if now.trace_every == every {
        config.put(&0, &Config { trace_every: before, ..now })?;
    }
    only.end().context("noting that no samples are taken any more")?;
    let rest = samples.take(usize::MAX, out);
    let told = traced.and(rest.map(drop)).and_then(|()| out.write_all(samples.not_shown().as_bytes()));
    match told {
        // Whoever read has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        told => told.context("tracing packets"),
    }
}

/// The ring into which the program writes its samples, and which has no room for more while nobody takes them out.
struct Samples {
    ring: RingBuf<MapData>,
    /// How many it has room for.
    room: usize,
    /// How often it was looked into, and how often there was no room for more.
    looks: u64,
    full: u64,
}

impl Samples {
    /// That of the program whose maps are pinned in `folder`.
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(RING);
        let opening = || format!("cannot open {}", path.display());
        let size = Map::open(&path).with_context(opening)?.shape().max_entries;
        let map = AyaMap::from_map_data(MapData::from_pin(&path).with_context(opening)?)?;
        let ring = RingBuf::try_from(map).with_context(opening)?;
        Ok(Self { ring, room: room(size), looks: 0, full: 0 })
    }

    /// Passes over what is there, which is of before this. How much that was.
    fn pass_over(&mut self) -> usize {
        // No more than there was at first, if the program goes on as fast.
        std::iter::from_fn(|| self.ring.next().map(drop)).take(self.room).count()
    }

    /// What is to be said of samples that were passed over.
    fn of_before(&self, passed_over: usize) -> String {
        match passed_over {
            0 => String::new(),
            count if count < self.room => format!("{count} samples from before this trace are passed over\n"),
            count => format!(
                "{count} samples from before this trace are passed over, and there was no room for those that came after them\n"
            ),
        }
    }

    /// Writes what is there, at most so much. Answers how much that was, and whether there was no room for more. Also where it cannot be written,
    /// nothing of this sample is left for the next one.
    fn take(&mut self, max: usize, out: &mut impl Write) -> io::Result<(usize, bool)> {
        let (mut lines, mut taken, mut written) = (0, 0, Ok(()));
        while taken < self.room
            && lines < max
            && let Some(item) = self.ring.next()
        {
            taken += 1;
            if let Some(event) = Event::from_bytes(&item)
                && written.is_ok()
            {
                written = writeln!(out, "{}", line(&event));
                lines += 1;
            }
        }
        // Or the program is as fast as this.
        let is_full = taken == self.room;
        self.looks += 1;
        self.full += u64::from(is_full);
        written.map(|()| (lines, is_full))
    }

    /// What is to be said of samples that there was no room for. The program does not count them.
    fn not_shown(&self) -> String {
        if self.full == 0 {
            return String::new();
        }
        format!(
            "{} of the {} times that samples were taken out there was no room for more of them, and some may be missing here: \
             show one of more packets (--trace EVERY)\n",
            self.full, self.looks
        )
    }
}

/// How many samples a ring of so many bytes has room for, all of which but one the kernel fills.
const fn room(size: u32) -> usize {
    (size as usize).saturating_sub(1) / (HEADER_SIZE + Event::SIZE).next_multiple_of(8)
}

/// The lock, which the kernel frees at the process's end, however it ends.
struct Only(File);

impl Only {
    /// Fails where another trace is under way.
    fn take(run_dir: &Path) -> anyhow::Result<Self> {
        let path = run_dir.join(LOCK_NAME);
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = opened.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => bail!(
                "another `lbd doctor --trace` is under way with the run directory {}, and packets are shown to one at a time; \
                 stop it, or wait until it has ended",
                run_dir.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Notes what is to be put back, should this trace be killed. Answers it: a trace that was has left its own samples on.
    fn begin(&mut self, present: u32, every: u32) -> io::Result<u32> {
        let mut note = Vec::new();
        (&self.0).take(NOTE_MAX).read_to_end(&mut note)?;
        let before = before_traces(&String::from_utf8_lossy(&note), present);
        self.end()?;
        self.0.rewind()?;
        write!(self.0, "{before} {every}")?;
        Ok(before)
    }

    /// Nothing is to be put back.
    fn end(&mut self) -> io::Result<()> {
        self.0.set_len(0)
    }
}

/// How often samples were taken before there were traces: as often as they are now, unless that is what a trace has set that did not come to
/// its end, by the note that it left.
fn before_traces(note: &str, present: u32) -> u32 {
    let mut numbers = note.split_whitespace().map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(before)), Some(Ok(every))) if every == present => before,
        _ => present,
    }
}

/// Ready to read once this process is told to stop, by Ctrl-C for one.
fn stopping() -> nix::Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn follow(
    samples: &mut Samples,
    time: Duration,
    stop: &SignalFd,
    out: &mut (impl Write + AsFd),
) -> io::Result<()> {
    let (end, mut lines) = (Instant::now() + time, 0);
    while Instant::now() < end && lines < LINES_MAX {
        let (shown, is_full) = samples.take(LINES_MAX - lines, out)?;
        lines += shown;
        // Of what is written to, that nobody reads any more: without a packet no line would say so.
        let mut ends =
            [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(out.as_fd(), PollFlags::empty())];
        match poll(&mut ends, PollTimeout::from(if is_full { 0 } else { LOOK_MS })) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_was_killed_is_put_back_by_the_next_one() {
        assert_eq!(before_traces("0 1", 1), 0);
        assert_eq!(before_traces("500 7", 7), 500);
        // lbd has written its configuration since.
        assert_eq!(before_traces("0 1", 500), 500);
        assert_eq!(before_traces("0 1", 0), 0);
        for note in ["", "0", "0 ", "x y", "-1 1", "0 4294967297"] {
            assert_eq!(before_traces(note, 1), 1, "{note:?}");
        }
    }

    #[test]
    fn a_ring_has_room_for_what_fits_beside_the_kernels_headers() {
        // Of 72 bytes each. A full ring and an empty one would look the same, so its last byte is never used.
        assert_eq!([room(262_144), room(72), room(73), room(0)], [3640, 0, 1, 0]);
    }

    #[test]
    fn there_is_one_at_a_time_and_what_it_noted_survives_it() {
        let run_dir = std::env::temp_dir().join(format!("lbd-trace-{}", std::process::id()));
        std::fs::create_dir_all(&run_dir).unwrap();
        let mut first = Only::take(&run_dir).unwrap();
        assert_eq!(first.begin(500, 1).unwrap(), 500);
        let refused = Only::take(&run_dir).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.starts_with("another `lbd doctor --trace` is under way"), "{refused}");
        // Killed: nothing is put back.
        drop(first);
        let mut second = Only::take(&run_dir).unwrap();
        assert_eq!(second.begin(1, 20).unwrap(), 500);
        second.end().unwrap();
        drop(second);
        assert_eq!(Only::take(&run_dir).unwrap().begin(20, 1).unwrap(), 20, "whoever ended left no note");
        std::fs::remove_dir_all(&run_dir).unwrap();
    }
}
