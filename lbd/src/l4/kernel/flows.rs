//! Reading what the program has noted: flows, counters, drops.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use common::config::Protocol;
use lbd_core::forward::abi::{
    Abi, Affinity, AffinityKey, CheckStats, DropReason, Flow, FlowKey, OtherSource, Service, ServiceStats,
    Source, SourceKey, TargetStats,
};
use lbd_core::forward::copies::Places;
use lbd_core::forward::flows::{Filter, FlowState, View};
use lbd_core::forward::next_hops::{Clients, Neighbourhood};
use lbd_core::forward::plan::Gone;
use serde::{Deserialize, Serialize};

use super::KernelError;
use super::bpf::{Batch, Cursor, Map};
use super::copies::Reports;
use super::instances::Instances;
use super::maps::Table;
use super::next_hops::Counts;

/// Flows read with one call.
const BATCH: usize = 4096;

/// What the numbers in flows stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// Services by number.
    pub(crate) services: BTreeMap<u16, String>,
    /// Targets by number: group and id, and the address behind that where the id is another one's by now.
    pub(crate) targets: BTreeMap<u16, (String, String)>,
}

/// Reads the maps, and clears counters. Its own descriptors: nobody waits for anybody.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) flows: Map,
    pub(super) affinity: Map,
    pub(super) sources: Map,
    pub(super) other_sources: Map,
    pub(super) services: Table<u32, Service>,
    service_stats: Table<u32, ServiceStats>,
    pushed_out: Table<u32, u64>,
    target_stats: Table<u32, TargetStats>,
    drops: Table<u32, u64>,
    check_stats: Table<u32, CheckStats>,
    sent_to_other: Table<u32, u64>,
    short_searches: Table<u32, u64>,
    untold_hops: Table<u32, u64>,
    pub(super) instances: Arc<Instances>,
    pub(super) names: ArcSwap<Names>,
    pub(super) places: ArcSwap<Places>,
    /// Whether all that the maps hold has its place.
    pub(super) placed: AtomicBool,
    pub(super) census: ArcSwap<Census>,
    pub(super) expired: AtomicU64,
    /// Words of routers on ways through tunnels that were refused.
    pub(super) refused_mtus: AtomicU64,
    /// Which clients are neighbours, where the program in the driver sends to them; nobody else.
    pub(super) neighbourhood: ArcSwap<Neighbourhood>,
    /// Those that the last walk through the flows has met, until somebody takes them.
    pub(super) clients: ArcSwapOption<Clients>,
    pub(super) next_hops: Counts,
    /// Whether the maps hold the services: before that nobody can say which flows are over.
    pub(super) written: AtomicBool,
    /// Numbers that have stood for nothing for some time: their flows are deleted with the next walk, which then takes this away. There are no others
    /// before that, only fewer, where some stand for something again.
    pub(super) gone: ArcSwapOption<Gone>,
    /// Who hears of flows in use and of those that are over, while there is replication.
    pub(super) reports: ArcSwapOption<Reports>,
    /// Somebody lists flows: that reads the whole table, and one at a time is enough.
    listing: AtomicBool,
}

/// Flows at the last count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// All.
    pub(crate) all: u64,
    /// By the service's number.
    pub(crate) services: BTreeMap<u16, u64>,
    /// By the target's number.
    pub(crate) targets: BTreeMap<u16, u64>,
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FlowView {
    /// `tcp` or `udp`.
    pub(crate) protocol: String,
    /// Where it comes from.
    pub(crate) client: SocketAddr,
    /// What it asked for.
    pub(crate) vip: SocketAddr,
    /// The service; empty if the configuration no longer has it.
    pub(crate) service: String,
    /// The target, `GROUP/ID`, or `GROUP/ID ADDRESS` of one whose id is another one's by now; empty if it is no longer there.
    pub(crate) target: String,
    /// The source port towards the target, where the source is the VIP.
    pub(crate) nat_port: Option<u16>,
    /// `opening`, `established`, `closing`, `reset` or `datagrams`.
    pub(crate) state: FlowState,
    /// Milliseconds since the last packet that was noted: up to a sixteenth of the time-out, 16 s at most, more than it really is.
    pub(crate) idle_ms: u64,
    /// Milliseconds until it is forgotten, if no packet comes.
    pub(crate) remaining_ms: u64,
}

/// The flows asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Listing {
    /// In no order.
    pub(crate) flows: Vec<FlowView>,
    /// Whether there are more than were asked for.
    pub(crate) more: bool,
}

/// Why flows cannot be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    /// One at a time.
    #[error("the flows are being listed for somebody else; try again")]
    Busy,
    /// The map.
    #[error(transparent)]
    Map(#[from] KernelError),
}

/// Flows listed when the request does not say, and at most.
const SHOWN: usize = 1000;
const SHOWN_MAX: usize = 100_000;

impl Reader {
    /// Of the maps pinned in `folder`.
    pub(super) fn open(folder: &Path, instances: Arc<Instances>) -> Result<Self, KernelError> {
        Ok(Self {
            flows: Table::<FlowKey, Flow>::open(folder, "flows")?.into_map(),
            affinity: Table::<AffinityKey, Affinity>::open(folder, "affinity")?.into_map(),
            sources: Table::<SourceKey, Source>::open(folder, "sources")?.into_map(),
            other_sources: Table::<SourceKey, OtherSource>::open(folder, "other_sources")?.into_map(),
            services: Table::open(folder, "services")?,
            service_stats: Table::open(folder, "service_stats")?,
            pushed_out: Table::open(folder, "pushed_out")?,
            target_stats: Table::open(folder, "target_stats")?,
            drops: Table::open(folder, "drops")?,
            check_stats: Table::open(folder, "check_stats")?,
            sent_to_other: Table::open(folder, "sent_to_other")?,
            short_searches: Table::open(folder, "short_searches")?,
            untold_hops: Table::open(folder, "untold_hops")?,
            instances,
            names: ArcSwap::default(),
            places: ArcSwap::default(),
            placed: AtomicBool::new(false),
            census: ArcSwap::default(),
            expired: AtomicU64::new(0),
            refused_mtus: AtomicU64::new(0),
            neighbourhood: ArcSwap::default(),
            clients: ArcSwapOption::empty(),
            next_hops: Counts::default(),
            written: AtomicBool::new(false),
            gone: ArcSwapOption::empty(),
            reports: ArcSwapOption::empty(),
            listing: AtomicBool::new(false),
        })
    }

    /// Has counters of services and targets that are gone begin anew, for whoever gets their numbers.
    pub(super) fn clear_counters(&self, gone: &Gone) -> Result<(), KernelError> {
        for service in gone.services() {
            self.service_stats.clear(&service)?;
            self.pushed_out.clear(&service)?;
        }
        gone.targets().try_for_each(|target| self.target_stats.clear(&target))
    }

    /// Packets that were not forwarded, by the number of the reason.
    pub(crate) fn drops(&self, reason: u32) -> u64 {
        self.drops.get_each(&reason).unwrap_or_default().iter().sum()
    }

    /// What the numbers stand for.
    pub(crate) fn names(&self) -> Arc<Names> {
        self.names.load_full()
    }

    /// Flows at the last count.
    pub(crate) fn census(&self) -> Arc<Census> {
        self.census.load_full()
    }

    /// Flows deleted because they were over.
    pub(crate) fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Words of routers on ways through tunnels that were refused: no way takes so little.
    pub(crate) fn refused_mtus(&self) -> u64 {
        self.refused_mtus.load(Ordering::Relaxed)
    }

    /// Lists flows, at most `max`. Reads the whole table if need be, about half a second for a million flows: not for the control
    /// runtime.
    pub(crate) fn list(&self, filter: &Filter, max: Option<usize>) -> Result<Listing, ListError> {
        if self.listing.swap(true, Ordering::Acquire) {
            return Err(ListError::Busy);
        }
        let listing = self.list_alone(filter, max.unwrap_or(SHOWN).min(SHOWN_MAX));
        self.listing.store(false, Ordering::Release);
        Ok(listing?)
    }

    fn list_alone(&self, filter: &Filter, max: usize) -> Result<Listing, KernelError> {
        let now = self.instances.ticks().now().map_err(|source| KernelError::Clock { source })?;
        let (names, services) = (self.names(), self.services.all()?);
        let (mut cursor, mut batch) = (Cursor::default(), Batch::default());
        let mut listing = Listing::default();
        while !cursor.done {
            self.flows.walk(&mut cursor, BATCH, &mut batch).map_err(reading)?;
            for (key, flow) in entries(&batch) {
                if !filter.fits_key(&key) {
                    continue;
                }
                let none = Service::default();
                let service = services.get(&u32::from(flow.service)).unwrap_or(&none);
                let name = names.services.get(&flow.service).map(String::as_str).unwrap_or_default();
                let target = names.targets.get(&flow.target);
                let target = target.map(|(group, id)| (group.as_str(), id.as_str())).unwrap_or_default();
                let view = View::of(&key, &flow, service, now);
                if !filter.fits(view.state, name, target) {
                    continue;
                }
                if listing.flows.len() == max {
                    listing.more = true;
                    return Ok(listing);
                }
                listing.flows.push(shown(&view, name, target));
            }
        }
        Ok(listing)
    }

    /// Everything counted since the program was loaded first, for the API and the metrics.
    pub(crate) fn totals(&self) -> Totals {
        let (names, census) = (self.names(), self.census());
        let all = |table: &Table<u32, u64>, index: u32| -> u64 {
            table.get_each(&index).unwrap_or_default().into_iter().sum()
        };
        let mut totals = Totals::default();
        for (&index, name) in &names.services {
            let sum = totals.services.entry(name.clone()).or_default();
            sum.flows += census.services.get(&index).copied().unwrap_or(0);
            // Each processor's.
            for it in self.service_stats.get_each(&u32::from(index)).unwrap_or_default() {
                sum.add([it.packets_in, it.bytes_in, it.packets_out, it.bytes_out, it.new_flows]);
                sum.unstored += it.unstored_flows;
            }
            sum.pushed_out += all(&self.pushed_out, u32::from(index));
        }
        for (&index, name) in &names.targets {
            let sum = totals.targets.entry(name.clone()).or_default();
            sum.flows += census.targets.get(&index).copied().unwrap_or(0);
            for it in self.target_stats.get_each(&u32::from(index)).unwrap_or_default() {
                sum.add([it.packets_in, it.bytes_in, it.packets_out, it.bytes_out, it.new_flows]);
            }
        }
        for it in self.check_stats.get_each(&0).unwrap_or_default() {
            totals.checks[0] += it.sent;
            totals.checks[1] += it.returned;
            totals.checks[2] += it.dropped;
        }
        totals.sent_to_other = all(&self.sent_to_other, 0);
        totals.short_searches = all(&self.short_searches, 0);
        let [looked_for, put_off, left_out] = self.next_hops.get();
        totals.next_hops = [looked_for, put_off, left_out, all(&self.untold_hops, 0)];
        totals.drops =
            (0..).zip(DropReason::ALL).skip(1).map(|(index, it)| (it.name(), self.drops(index))).collect();
        totals
    }
}

/// What the program has counted, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Of services.
    pub(crate) services: BTreeMap<String, Sum>,
    /// Of targets: group and id.
    pub(crate) targets: BTreeMap<(String, String), Sum>,
    /// Packets that were not forwarded, by reason.
    pub(crate) drops: Vec<(&'static str, u64)>,
    /// Packets of health checks through virtual IPs: to targets, back, and dropped for want of a way.
    pub(crate) checks: [u64; 3],
    /// Answers of targets sent to the other node, which had begun their flows.
    pub(crate) sent_to_other: u64,
    /// Searches for ports that ended at the first few, because too many had gone further.
    pub(crate) short_searches: u64,
    /// Next hops on the ways to clients: looked for, put off, left out, and not told of.
    pub(crate) next_hops: [u64; 4],
}

/// Counters of a service or a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    /// Flows at the last count.
    pub(crate) flows: u64,
    /// From clients.
    pub(crate) packets_to_target: u64,
    /// From clients.
    pub(crate) bytes_to_target: u64,
    /// From targets; 0 where they answer directly.
    pub(crate) packets_to_client: u64,
    /// From targets; 0 where they answer directly.
    pub(crate) bytes_to_client: u64,
    /// Flows begun.
    pub(crate) new_flows: u64,
    /// Flows that were not remembered: too many were new, they began with a reset, or there was no room.
    pub(crate) unstored: u64,
    /// Half-open ones that made place for others before their time was over.
    #[serde(default)]
    pub(crate) pushed_out: u64,
}

impl Sum {
    fn add(&mut self, counted: [u64; 5]) {
        self.packets_to_target += counted[0];
        self.bytes_to_target += counted[1];
        self.packets_to_client += counted[2];
        self.bytes_to_client += counted[3];
        self.new_flows += counted[4];
    }
}

pub(super) fn reading(source: std::io::Error) -> KernelError {
    KernelError::Map { action: "reading the flows".to_owned(), source }
}

/// The flows of a batch.
pub(super) fn entries(batch: &Batch) -> impl Iterator<Item = (FlowKey, Flow)> + '_ {
    typed(batch)
}

/// What is in a batch.
pub(super) fn typed<K: Abi, V: Abi>(batch: &Batch) -> impl Iterator<Item = (K, V)> + '_ {
    let keys = batch.keys.chunks_exact(K::SIZE).take(batch.count);
    let values = batch.values.chunks_exact(V::SIZE);
    keys.zip(values).filter_map(|(key, value)| Some((K::from_bytes(key)?, V::from_bytes(value)?)))
}

fn shown(view: &View, service: &str, target: (&str, &str)) -> FlowView {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    FlowView {
        protocol: view.protocol.map_or("other", Protocol::name).to_owned(),
        client: view.client,
        vip: view.vip,
        service: service.to_owned(),
        target: if target.1.is_empty() { String::new() } else { format!("{}/{}", target.0, target.1) },
        nat_port: view.nat_port,
        state: view.state,
        idle_ms: ms(view.idle),
        remaining_ms: ms(view.remaining),
    }
}
