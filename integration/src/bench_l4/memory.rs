//! What flows take of the maps' memory: each map's as the kernel counts it, and what that comes to for a flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, bail};
use aya::maps::{ArrayOfMaps, Map, MapData};
use serde::Serialize;

use super::object::load;
use super::world::{ENDPOINTS_MAX, NAT_PORTS, World};
use super::{FLOWS, TARGETS};
use crate::report::table::{Align, Table};

/// The most bytes that the maps may take for a flow, both directions.
pub const PER_FLOW_MAX: u32 = 160;

/// Bytes of the maps.
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// Of a flow's entry in the table, where that is full.
    entry: f64,
    /// Of a port of `nat`, used or not.
    slot: f64,
    /// Of an IPv6 client's address: there is room for one with each port of a target of that family.
    client: f64,
}

/// What a flow takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Of which flows.
    pub what: String,
    /// Bytes of maps for one, both directions.
    pub bytes: f64,
    /// What they are for, and what there is more of than flows.
    pub bound: String,
}

impl Row {
    /// Whether that is no more than it may be.
    #[must_use]
    pub fn met(&self) -> bool {
        self.bytes <= f64::from(PER_FLOW_MAX)
    }
}

/// Measures it.
///
/// # Errors
/// What the kernel said.
pub fn measure() -> Result<Vec<Row>> {
    // The programs are not needed.
    let mut world = World::new(load(FLOWS, &[])?, 0)?;
    let targets: [(u16, IpAddr); 2] =
        [(1, Ipv4Addr::new(10, 99, 0, 1).into()), (2, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into())];
    for (index, address) in targets {
        world.endpoint(index, address, 80, 6)?;
    }
    let Some(Map::HashMap(flows)) = world.object.map("flows") else { bail!("flows is no hash map") };
    let slots: ArrayOfMaps<_, MapData> = world.object.map("slots").context("no map slots")?.try_into()?;
    let of_port =
        |array: u32| -> Result<f64> { Ok(memory_of(&slots.get(&array, 0)?)? / f64::from(NAT_PORTS)) };
    let memory = Memory {
        entry: memory_of(flows)? / f64::from(FLOWS),
        slot: of_port(1)?,
        client: of_port(ENDPOINTS_MAX + 2)?,
    };
    Ok(memory.rows())
}

/// Bytes of memory that a map takes, from its `fdinfo`.
fn memory_of(map: &MapData) -> Result<f64> {
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
    Ok(line.trim().parse::<f64>()?)
}

impl Memory {
    /// A million flows fill the table. Ports there are for each target, those of both nodes, whether anybody has them or not: where one node has
    /// given all of its own and the other one none, there are two for each flow.
    fn rows(self) -> Vec<Row> {
        let ports = f64::from(TARGETS) * f64::from(NAT_PORTS);
        let used = 100.0 * f64::from(FLOWS) / ports;
        let row = |what: &str, bytes: f64, bound: String| Row { what: what.to_owned(), bytes, bound };
        vec![
            row("dsr", self.entry, format!("an entry of {:.0}", self.entry)),
            row(
                "nat, IPv4, the ports of one node in use",
                self.entry + 2.0 * self.slot,
                format!("and two ports of {:.0}: its own, and one that the other node may give", self.slot),
            ),
            row(
                "nat, IPv6, the ports of one node in use",
                self.entry + 2.0 * (self.slot + self.client),
                format!("and with each of these {:.0} for a client's address", self.client),
            ),
            row(
                "nat, IPv4, as it is measured here",
                self.entry + ports * self.slot / f64::from(FLOWS),
                format!("and all ports of {TARGETS} targets, of which {used:.0} % are in use"),
            ),
        ]
    }
}

/// The table.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        ("bytes of maps for a flow, both directions", Align::Left),
        ("", Align::Right),
        ("at most", Align::Right),
        ("", Align::Left),
        ("", Align::Left),
    ]);
    for row in rows {
        table.row(vec![
            row.what.clone(),
            format!("{:.0}", row.bytes),
            PER_FLOW_MAX.to_string(),
            if row.met() { "" } else { "missed" }.to_owned(),
            row.bound.clone(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_judged_with_all_ports_that_there_are() {
        let rows = Memory { entry: 121.0, slot: 16.0, client: 16.0 }.rows();
        let shown: Vec<(String, bool)> =
            rows.iter().map(|row| (format!("{:.0}", row.bytes), row.met())).collect();
        let expected = [("121", true), ("153", true), ("185", false), ("253", false)];
        assert_eq!(shown, expected.map(|(bytes, met)| (bytes.to_owned(), met)));
        let text = render(&rows);
        assert_eq!(text.matches("missed").count(), 2, "{text}");
        assert!(text.contains("128 targets, of which 12 % are in use"), "{text}");
    }
}
