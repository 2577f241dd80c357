//! `lbd doctor --trace`: a sample of packets and what became of them, as the program writes them into its ring.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::maps::{Map as AyaMap, MapData, RingBuf};
use lbd_core::forward::abi::{Abi, Config, DropReason, Event, Verdict};

use super::load;
use super::maps::Table;

/// How often the ring is looked into.
const LOOK: Duration = Duration::from_millis(20);

/// Lines printed, at most.
const LINES_MAX: usize = 10_000;

/// Takes a sample of every so many packets for some time, and hands each to `print` as a line.
pub(super) fn trace(
    run_dir: &Path,
    every: u32,
    time: Duration,
    mut print: impl FnMut(&str),
) -> anyhow::Result<()> {
    let folder =
        load::current_folder(run_dir).context("nothing is forwarded in the kernel with this --run-dir")?;
    let config: Table<u32, Config> = Table::open(&folder, "config")?;
    let before = config.get(&0)?.context("the program has no configuration yet")?;
    config.put(&0, &Config { trace_every: every, ..before })?;
    let traced = follow(&folder, time, &mut print);
    // As the configuration has it, which may have changed meanwhile in everything else.
    let now = config.get(&0)?.unwrap_or(before);
    config.put(&0, &Config { trace_every: before.trace_every, ..now })?;
    traced
}

fn follow(folder: &Path, time: Duration, print: &mut impl FnMut(&str)) -> anyhow::Result<()> {
    let map = AyaMap::from_map_data(MapData::from_pin(folder.join("events"))?)?;
    let mut ring = RingBuf::try_from(map)?;
    let (end, mut lines) = (Instant::now() + time, 0);
    while Instant::now() < end && lines < LINES_MAX {
        while let Some(item) = ring.next() {
            if let Some(event) = Event::from_bytes(&item) {
                print(&line(&event));
                lines += 1;
            }
        }
        std::thread::sleep(LOOK);
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
