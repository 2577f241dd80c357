//! What the kernel's program has counted.

use std::fmt;

use super::{Labels, Out};
use crate::l4::kernel::{Kernel, Sum};

/// Encodes it, where anything is forwarded by the kernel.
pub(super) fn encode(out: &mut Out<'_>, kernel: &Kernel) -> fmt::Result {
    let (Some(view), Some(reader)) = (kernel.show(), kernel.reader()) else { return Ok(()) };
    let interfaces = view.interfaces.iter();
    let attached =
        interfaces.map(|it| (vec![("interface", it.name.as_str()), ("how", it.attached.as_str())], 1.0));
    out.gauges("kernel_attached", "Interfaces that the forwarding program is on", attached)?;
    out.gauge("kernel_troubles", "Targets without a way, and the like", view.troubles.len() as f64)?;
    out.counter("kernel_failures", "Updates of the kernel's maps that failed", view.failures)?;
    let what = "Questions about the network that the kernel has not answered";
    out.counter("kernel_network_failures", what, view.network_failures)?;
    let what = "Times that the program was put where somebody else had taken it off";
    out.counter("kernel_attached_again", what, view.attached_again)?;
    out.gauge("kernel_flows", "Flows at the last count", view.flows as f64)?;
    out.gauge("kernel_flows_max", "Flows that can be remembered", f64::from(view.flows_max))?;
    out.counter("kernel_flows_expired", "Flows deleted because they were over", reader.expired())?;
    let what = "What routers have said of ways through tunnels and was not believed";
    out.counter("kernel_path_mtu_refused", what, reader.refused_mtus())?;
    let totals = reader.totals();
    let hops = ["looked_for", "put_off", "left_out", "untold"].into_iter().zip(totals.next_hops);
    let hops = hops.map(|(what, count)| (vec![("what", what)], count));
    out.counters("kernel_next_hops", "Next hops on the ways to clients, for the driver's program", hops)?;
    let drops = totals.drops.iter().map(|(reason, count)| (vec![("reason", *reason)], *count));
    out.counters("kernel_drops", "Packets for a service that were not forwarded, or not remembered", drops)?;
    let checks = ["sent", "returned", "dropped"].into_iter().zip(totals.checks);
    let checks = checks.map(|(what, count)| (vec![("what", what)], count));
    out.counters("kernel_check_packets", "Packets of health checks through virtual IPs", checks)?;
    let sent = totals.sent_to_other;
    out.counter(
        "kernel_sent_to_other",
        "Answers of targets sent on to the node that has begun their flows",
        sent,
    )?;
    let short = totals.short_searches;
    out.counter("kernel_short_port_searches", "Searches for ports that ended at the first few", short)?;
    let services: Vec<(Labels<'_>, Sum)> =
        totals.services.iter().map(|(name, sum)| (vec![("service", name.as_str())], *sum)).collect();
    encode_sums(out, "kernel_service", &services)?;
    let unstored = services.iter().map(|(labels, sum)| (labels.clone(), sum.unstored));
    out.counters("kernel_service_unstored_flows", "Flows that were not remembered", unstored)?;
    let pushed_out = services.iter().map(|(labels, sum)| (labels.clone(), sum.pushed_out));
    let what = "Half-open flows that made place for others before their time was over";
    out.counters("kernel_service_pushed_out_flows", what, pushed_out)?;
    let targets: Vec<(Labels<'_>, Sum)> = totals
        .targets
        .iter()
        .map(|((group, id), sum)| (vec![("group", group.as_str()), ("target", id.as_str())], *sum))
        .collect();
    encode_sums(out, "kernel_target", &targets)
}

fn encode_sums<'l>(out: &mut Out<'_>, prefix: &str, sums: &[(Labels<'l>, Sum)]) -> fmt::Result {
    let both = |pick: fn(&Sum) -> [u64; 2]| {
        let mut all: Vec<(Labels<'l>, u64)> = Vec::with_capacity(2 * sums.len());
        for (labels, sum) in sums {
            for (direction, count) in ["to_target", "to_client"].into_iter().zip(pick(sum)) {
                let mut labels = labels.clone();
                labels.push(("direction", direction));
                all.push((labels, count));
            }
        }
        all
    };
    let flows = sums.iter().map(|(labels, sum)| (labels.clone(), sum.flows as f64));
    out.gauges(&format!("{prefix}_flows"), "Flows at the last count", flows)?;
    let new = sums.iter().map(|(labels, sum)| (labels.clone(), sum.new_flows));
    out.counters(&format!("{prefix}_new_flows"), "Flows begun", new)?;
    let packets = both(|sum| [sum.packets_to_target, sum.packets_to_client]);
    out.counters(&format!("{prefix}_packets"), "Packets forwarded", packets)?;
    let bytes = both(|sum| [sum.bytes_to_target, sum.bytes_to_client]);
    out.counters(&format!("{prefix}_bytes"), "Bytes forwarded", bytes)
}
