//! How long `lbd` takes to delete a million flows that are over: the daemon itself, with its maps in the kernel. It takes its time on
//! purpose, so what its thread takes of a processor is measured too.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use nix::sys::signal::Signal;
use serde::Serialize;

use super::median;
use crate::lab::addresses::vip4;
use crate::lab::clock::wait_until;
use crate::lab::{Lab, Node};

/// Flows that are over.
const FLOWS: u32 = 1_000_000;

const LIMIT: Duration = Duration::from_secs(300);

/// The thread that deletes them.
const THREAD: &str = "lbd-expiry";

/// Medians of the runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Expiry {
    /// How many runs.
    pub runs: u32,
    /// From the first moment to the last flow's end.
    pub seconds: f64,
    /// Of a processor, by the thread.
    pub processor_seconds: f64,
}

impl Expiry {
    /// A line for people.
    #[must_use]
    pub fn render(&self) -> String {
        format!(
            "lbd deletes {FLOWS} flows that are over in {:.1} s, {:.2} s of a processor (medians of {})",
            self.seconds, self.processor_seconds, self.runs
        )
    }
}

/// Measures it so many times. Needs root.
///
/// # Errors
/// What the lab or the kernel said.
pub fn run(runs: u32) -> Result<Expiry> {
    let measured: Result<Vec<(f64, f64)>> = (0..runs).map(|_| once()).collect();
    let (seconds, processor_seconds) = measured?.into_iter().unzip();
    Ok(Expiry { runs, seconds: median(seconds), processor_seconds: median(processor_seconds) })
}

fn once() -> Result<(f64, f64)> {
    let lab = Lab::builder("bench expiry").targets(1).target_servers(false).build()?;
    let (a, vip) = (lab.a(), vip4(0));
    a.add_address(vip)?;
    let target = lab.targets()[0].v4();
    lab.write_config_text(&format!(
        "[[service]]\nname = \"s\"\nmode = \"nat\"\nlisten = [\"{vip}:80\"]\nforward = \"g\"\n\
         [[target_group]]\nname = \"g\"\ntargets = [{{ address = \"{target}:80\" }}]\n"
    ))?;
    let pid = a.start_lbd()?.as_raw();
    wait_until("lbd to have its threads", LIMIT, || thread_of(pid).is_ok())?;
    let thread = thread_of(pid)?;
    // While it stands still, so that none of it is done before all is there.
    a.signal("lbd", Signal::SIGSTOP)?;
    let mut flows: HashMap<_, [u8; 40], [u8; 16]> = Map::HashMap(flows_of(pid)?).try_into()?;
    for number in 0..FLOWS {
        flows.insert(key(number), flow(), 0)?;
    }
    let (begin, before) = (Instant::now(), processor_time(pid, thread)?);
    a.signal("lbd", Signal::SIGCONT)?;
    wait_until("the end of all flows", LIMIT, || expired(a) >= u64::from(FLOWS))?;
    let taken = (begin.elapsed().as_secs_f64(), (processor_time(pid, thread)? - before).as_secs_f64());
    lab.finish()?;
    Ok(taken)
}

/// A client's tuple.
fn key(number: u32) -> [u8; 40] {
    let mut key = [0; 40];
    key[10..12].fill(0xff);
    key[12..16].copy_from_slice(&(0x0a00_0000 | number >> 8).to_be_bytes());
    key[26..28].fill(0xff);
    key[28..32].copy_from_slice(&vip4(0).octets());
    key[32..34].copy_from_slice(&(0x4000 | number & 0xff).to_be_bytes()[2..]);
    key[34..36].copy_from_slice(&80_u16.to_be_bytes());
    key[36] = 6;
    key
}

/// An established flow of service 1 and target 1 that was last seen when the host started, or before that.
fn flow() -> [u8; 16] {
    let mut flow = [0; 16];
    (flow[4], flow[6], flow[10]) = (1, 1, 1);
    flow
}

/// The table of flows that a process has open.
pub(crate) fn flows_of(pid: i32) -> Result<MapData> {
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let Some(id) = text.lines().find_map(|line| line.strip_prefix("map_id:")) else { continue };
        let map = MapData::from_id(id.trim().parse()?)?;
        if map.info()?.name_as_str() == Some("flows") {
            return Ok(map);
        }
    }
    anyhow::bail!("lbd has no map of flows open")
}

fn thread_of(pid: i32) -> Result<i32> {
    let name = |id: &str| fs::read_to_string(format!("/proc/{pid}/task/{id}/comm")).unwrap_or_default();
    let ids = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    let mut ids = ids.filter_map(|entry| entry.file_name().into_string().ok());
    let id =
        ids.find(|id| name(id).trim() == THREAD).with_context(|| format!("lbd has no thread {THREAD}"))?;
    Ok(id.parse()?)
}

/// What a thread has had of a processor.
fn processor_time(pid: i32, thread: i32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat"))?;
    let nanoseconds = text.split(' ').next().context("an empty schedstat")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

/// Flows that `lbd` says it has deleted.
fn expired(node: &Node) -> u64 {
    let text = node.get("lbd", "/metrics").map(|answer| answer.body).unwrap_or_default();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix("tandem_lbd_kernel_flows_expired_total "));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
