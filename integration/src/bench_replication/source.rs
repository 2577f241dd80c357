//! Where flows come from: the program of a node, run on packets as if they came from its link.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{Array, MapData};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::time::{ClockId, clock_gettime};

use super::network::{LIMIT, service};
use crate::bench_l4::measure::{self, ACK, Meter, Packets, SYN, client};
use crate::bench_l4::object::{FORWARD, Kind};
use crate::bench_l4::world::INTERFACE;
use crate::lab::clock::wait_until;
use crate::lab::{Host, Node};

/// Where a node's maps are.
const PINS: &str = "/sys/fs/bpf/tandem";
/// The interface that every network has.
const LOOPBACK: u32 = 1;
/// Flows that are opened and then established together: so many the half-open table holds with next to no losses.
const TOGETHER: u32 = 1024;

pub(super) struct Source {
    meter: Meter,
    program: ProgramFd,
    /// The program's others, which keep its maps.
    _object: Ebpf,
}

impl Source {
    /// Loads another of the programs over the maps of a node, and has it take packets of the interface that they seem to come from.
    /// `idle` is a host whose loopback interface nothing comes to.
    pub(super) fn open(node: &Node, idle: &Host, flows: u32) -> Result<Self> {
        let mac = node.mac();
        let index: u32 = node.run("cat", &["/sys/class/net/eth0/ifindex"])?.trim().parse()?;
        let mut meter = Meter::to(flows, mac, service())?;
        idle.namespace().inside(|| meter.stay_known(LOOPBACK))??;
        let object = node.namespace().inside_machine(|| -> Result<Ebpf> {
            wait_until("the node's maps", LIMIT, || folder().is_some())?;
            let folder = folder().context("the node has no maps")?;
            let mut links: Array<_, [u8; 12]> = map(&folder, "links")?.try_into()?;
            wait_until("the node's link to be known", LIMIT, || {
                links.get(&index, 0).is_ok_and(|link| link != [0; 12])
            })?;
            let link = links.get(&index, 0)?;
            links.set(INTERFACE, link, 0)?;
            let mut loader = EbpfLoader::new();
            let paths = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
            let named = paths.filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)));
            let named: Vec<(String, PathBuf)> = named.collect();
            for (name, path) in &named {
                loader.map_pin_path(name, path);
            }
            let mut object = loader.load_file(FORWARD)?;
            let program = object.program_mut(Kind::Xdp.program()).context("no XDP program")?;
            <&mut Xdp>::try_from(program)?.load()?;
            Ok(object)
        })??;
        let program = object.program(Kind::Xdp.program()).context("no XDP program")?;
        let program = <&Xdp>::try_from(program)?.fd()?.try_clone()?;
        Ok(Self { meter, program, _object: object })
    }

    /// Begins flows, and returns the processor's time that this took.
    pub(super) fn begin(&mut self, first: u32, end: u32) -> Result<Duration> {
        let before = own_time()?;
        for from in (first..end).step_by(TOGETHER as usize) {
            let to = (from + TOGETHER).min(end);
            for flags in [SYN, ACK] {
                self.meter.run(&self.program, Packets::once(from, to, flags))?;
            }
        }
        Ok(own_time()?.saturating_sub(before))
    }

    /// Nanoseconds for a packet of flows that are known.
    pub(super) fn known(&mut self, first: u32, end: u32) -> Result<f64> {
        self.meter.run(&self.program, Packets::once(first, end, ACK))
    }

    /// The key of a flow in the table.
    pub(super) fn key(number: u32) -> [u8; 40] {
        measure::key(client(number), service())
    }
}

fn own_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn map(folder: &Path, name: &str) -> Result<aya::maps::Map> {
    Ok(aya::maps::Map::from_map_data(MapData::from_pin(folder.join(name))?)?)
}

/// The folder of the maps, of which a node has one.
fn folder() -> Option<PathBuf> {
    let folders = std::fs::read_dir(PINS).ok()?.flatten().map(|entry| entry.path());
    folders.into_iter().find(|path| path.join("flows").exists() && path.join("links").exists())
}
