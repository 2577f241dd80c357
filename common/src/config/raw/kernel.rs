//! `[kernel]` as written.

use super::reader::{At, Cursor};
use super::vrrp::{RawPerNode, interface_name, per_node};
use crate::config::diag::Problems;
use crate::config::types::{Attach, Kernel};
use crate::time::Duration;

/// `[kernel]`.
#[derive(Default)]
pub(crate) struct RawKernel {
    /// Everything but the interfaces.
    pub(crate) kernel: Kernel,
    pub(crate) interfaces: Option<RawInterfaces>,
}

/// `interfaces`: one list, or one per node.
pub(crate) enum RawInterfaces {
    Same(Vec<At<String>>),
    PerNode(RawPerNode<Vec<At<String>>>),
}

const ATTACH: &[(&str, Attach)] =
    &[("auto", Attach::Auto), ("tc", Attach::Tc), ("clsact", Attach::Clsact), ("xdp", Attach::Xdp)];

pub(super) fn read(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawKernel> {
    let mut table = cursor.table(out)?;
    let mut kernel = Kernel::default();
    let mut number = |key, min, max, into: &mut u32, out: &mut Problems| {
        if let Some(value) = table.get(key).and_then(|c| c.integer(min, max, out)) {
            *into = value;
        }
    };
    number("max_flows", 1_000, 16_000_000, &mut kernel.max_flows, out);
    number("new_flows_per_second", 1_000, 10_000_000, &mut kernel.new_flows_per_second, out);
    number("trace_every", 0, 1_000_000_000, &mut kernel.trace_every, out);
    if let Some(attach) = table.get("attach").and_then(|c| c.word(ATTACH, out)) {
        kernel.attach = attach.into_inner();
    }
    if let Some(port) = table.get("gue_port").and_then(|c| c.integer(1_u16, u16::MAX, out)) {
        kernel.gue_port = port;
    }
    let longest = Duration::from_secs(300);
    if let Some(time) = table.get("drain_timeout").and_then(|c| c.duration(Duration::ZERO, longest, out)) {
        kernel.drain_timeout = time.into_inner();
    }
    let interfaces = table.get("interfaces").and_then(|c| interfaces(&c, out));
    table.finish(out);
    Some(RawKernel { kernel, interfaces })
}

fn interfaces(cursor: &Cursor<'_>, out: &mut Problems) -> Option<RawInterfaces> {
    if cursor.is_array() {
        return names(cursor, out).map(RawInterfaces::Same);
    }
    let expected =
        "a list of names, or a table with one per node, such as { a = [\"eth1\"], b = [\"ens4\"] }";
    per_node(cursor, expected, out, names).map(RawInterfaces::PerNode)
}

fn names(cursor: &Cursor<'_>, out: &mut Problems) -> Option<Vec<At<String>>> {
    let entries = cursor.list("a list of interface names", out)?;
    Some(entries.iter().filter_map(|entry| interface_name(entry, out)).collect())
}
