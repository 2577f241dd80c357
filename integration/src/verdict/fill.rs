//! A node's description as the contents of the program's maps.

use std::net::IpAddr;

use super::bpf::{Bytes, Table};
use super::harness::{Harness, TICK_NS};
use super::oracle::Tuple;
use super::sample::OWN;
use super::world::*;

/// How far behind an endpoint's slots the addresses of its IPv6 clients are.
pub(super) const CLIENTS_OF: u16 = 4096;

/// Writes all of it.
pub(super) fn fill(harness: &mut Harness, world: &World) {
    config(harness, world);
    for (index, role) in (0_u32..).zip(&world.roles) {
        let until = match *role {
            Role::Backup => 0,
            Role::Active => 1 << 62,
            Role::Until(tick) => harness.boot_time(world.now, tick),
        };
        harness.table("instances").put(&index.to_ne_bytes(), &Bytes::default().u64(until).0);
    }
    listeners(harness, world);
    services(harness, world);
    targets(harness, world);
    endpoints(harness, world);
    access(harness, world);
    others_begun(harness, world);
}

fn config(harness: &Harness, world: &World) {
    let (low, high) = world.key.split_at(8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8]));
    let any_nat = world.services.iter().any(|service| service.nat);
    let any_access = world.services.iter().any(|service| !service.access.is_empty());
    let any_port = world.targets.iter().any(|target| target.port == 0);
    let flags = u32::from(any_nat)
        | u32::from(any_access) << 1
        | u32::from(any_nat && any_port) << 2
        | u32::from(world.checks) << 3
        | u32::from(world.replicated) << 4
        | u32::from(world.ports_missing) << 5;
    let bytes = Bytes::default()
        .u64(word(low))
        .u64(word(high))
        .u64(harness.multiplier)
        // Boot time stands still too, but for what reads the clock itself.
        .u64(0)
        .u64(harness.told_at)
        .u64(u64::from(DRAIN_TICKS) * TICK_NS)
        .u32(flags)
        .u32(world.new_flows_per_tick)
        .u32(0)
        .u8(world.node);
    harness.table("config").put(&0_u32.to_ne_bytes(), &bytes.0);
}

fn listeners(harness: &Harness, world: &World) {
    let mut ports = vec![0_u8; 8192];
    for (address, instance) in &world.vips {
        let index = world.vip_index(*address);
        let ranges: Vec<&Listen> =
            world.listens.iter().filter(|l| l.vip == *address && l.ports.0 != l.ports.1).collect();
        let count = u8::try_from(ranges.len()).unwrap_or(0);
        let mut value = Bytes::default().u16(index).u8(*instance).u8(count).u32(0);
        for range in ranges {
            value = value.u16(range.ports.0).u16(range.ports.1).u16(range.service).u8(range.protocol).u8(0);
        }
        harness.table("vips").put(&Bytes::default().address(*address).0, &value.0);
        let (ifindex, mac) = world.other_of(*address).unwrap_or_default();
        let back = Bytes::default().address(*address).u8(*instance).u8(0).u16(0).u32(ifindex);
        let back = back.raw(&mac).raw(&OWN).u32(world.others_until);
        harness.table("vip_addresses").put(&u32::from(index).to_ne_bytes(), &back.0);
    }
    for listen in &world.listens {
        for port in listen.ports.0..=listen.ports.1 {
            ports[usize::from(port) / 8] |= 1 << (port % 8);
        }
        if listen.ports.0 == listen.ports.1 {
            let key = Bytes::default().address(listen.vip).be16(listen.ports.0).u8(listen.protocol).u8(0);
            let value = Bytes::default().u16(listen.service).u16(world.vip_index(listen.vip));
            harness.table("listeners").put(&key.0, &value.0);
        }
    }
    harness.table("service_ports").put(&0_u32.to_ne_bytes(), &ports);
}

fn services(harness: &mut Harness, world: &World) {
    for (index, service) in (1_u16..).zip(&world.services) {
        let flags = u32::from(service.preserve)
            | u32::from(service.by_source) << 1
            | u32::from(service.affinity.is_some()) << 2
            | u32::from(service.source_rate.is_some()) << 3
            | u32::from(!service.access.is_empty()) << 4
            | u32::from(service.reset_unhealthy) << 5
            | u32::from(service.pair_rate) << 6;
        let (rate, window) = service.source_rate.unwrap_or((0, 0));
        let value = Bytes::default()
            .u8(if service.nat { 1 } else { 2 })
            .u8(service.instance)
            .u16(index)
            .u32(flags)
            .u32(ESTABLISHED_TICKS)
            .u32(UDP_TICKS)
            .u32(HALF_OPEN_TICKS)
            .u32(CLOSING_TICKS)
            .u32(RESET_TICKS)
            .u32(service.affinity.unwrap_or(0))
            .u32(rate)
            .u32(window)
            .u32(service.other.as_ref().map_or(0, |other| other.1))
            .u16(service.mss_max)
            .u16(world.counted_as(index));
        harness.table("services").put(&u32::from(index).to_ne_bytes(), &value.0);
        for (table, ring) in [("rings", world.ring(index)), ("other_rings", world.other_ring(index))] {
            fill_ring(harness, table, index, &ring);
        }
    }
}

fn fill_ring(harness: &mut Harness, table: &'static str, index: u16, ring: &[u16]) {
    let mut slots: Vec<u8> = ring.iter().flat_map(|target| target.to_ne_bytes()).collect();
    slots.resize(131_080, 0);
    // Kept from one node to the next: the kernel waits for all processors when an array of maps changes.
    if !harness.rings.contains_key(&(table, index)) {
        let ring = Table::array(131_080, 1, 0).expect("a ring's array");
        harness.table(table).put(&u32::from(index).to_ne_bytes(), &ring.fd().to_ne_bytes());
        harness.rings.insert((table, index), ring);
    }
    harness.rings[&(table, index)].put(&0_u32.to_ne_bytes(), &slots);
}

fn targets(harness: &Harness, world: &World) {
    for (index, target) in (1_u32..).zip(&world.targets) {
        let (state, way) = (target.health as u8, target.way as u8);
        let value = Bytes::default()
            .u8(state)
            .u8(way)
            .be16(target.port)
            .u16(endpoint_index(index))
            .u16(target.mtu)
            .u32(if target.reachable { harness.target_ifindex } else { 0 })
            .raw(&target.mac)
            .raw(&harness.links.own)
            .address(target.address)
            .address(target.outer_source)
            .be16(target.gue_port);
        harness.table("targets").put(&index.to_ne_bytes(), &value.0);
    }
}

/// Each target has an endpoint of its own number.
fn endpoint_index(target: u32) -> u16 {
    u16::try_from(target).unwrap_or(0)
}

fn endpoints(harness: &mut Harness, world: &World) {
    for (index, target) in (1_u32..).zip(&world.targets) {
        let number = endpoint_index(index);
        let using =
            |service: &&Service| service.nat && service.members.iter().any(|member| member.0 == number);
        let slotted = world.services.iter().filter(using).any(|service| !service.preserve);
        let candidates: Vec<(IpAddr, u16, u16)> = world
            .listens
            .iter()
            .filter(|listen| Some(world.of(listen.service)).filter(using).is_some_and(|s| s.preserve))
            .map(|l| (l.vip, if target.port == 0 { 0 } else { l.ports.0 }, l.service))
            .take(4)
            .collect();
        if !slotted && candidates.is_empty() {
            continue;
        }
        let count = u16::try_from(candidates.len()).unwrap_or(0);
        let mut value = Bytes::default().u16(if slotted { number } else { 0 }).u16(count).u16(number).u16(0);
        for (vip, port, service) in candidates {
            value = value.address(vip).be16(port).u16(service);
        }
        let key = Bytes::default().address(target.address).be16(target.port).u8(target.protocol).u8(0);
        harness.table("endpoints").put(&key.0, &value.0);
        // Behind those of all endpoints are the addresses of clients of IPv6.
        let arrays = [Some(number), target.address.is_ipv6().then_some(CLIENTS_OF + number)];
        for array in arrays.into_iter().flatten().filter(|_| slotted) {
            if !harness.slots.contains_key(&array) {
                // It can be mapped into memory, as the program's type of it says.
                let table = Table::array(16, 64_512, 1 << 10).expect("an endpoint's slots");
                harness.table("slots").put(&u32::from(array).to_ne_bytes(), &table.fd().to_ne_bytes());
                harness.slots.insert(array, table);
            }
            harness.slotted.insert(array);
        }
    }
}

fn access(harness: &Harness, world: &World) {
    for (index, service) in (1_u16..).zip(&world.services) {
        for (address, length, let_in) in &service.access {
            let bits = u32::from(*length) + if address.is_ipv4() && *length > 0 { 96 } else { 0 };
            let key = Bytes::default().u32(16 + bits).be16(index).address(*address).u16(0);
            harness.table("acl").put(&key.0, &Bytes::default().u32(u32::from(*let_in)).0);
        }
    }
}

fn others_begun(harness: &Harness, world: &World) {
    for ((client, service), (count, until)) in &world.others_begun {
        let key = Bytes::default().address(*client).u16(*service).u16(0);
        harness.table("other_sources").put(&key.0, &Bytes::default().u32(*until).u32(*count).0);
    }
}

/// A flow's key.
pub(super) fn key(tuple: &Tuple) -> Vec<u8> {
    let addresses = Bytes::default().address(tuple.client.ip()).address(tuple.service.ip());
    let ports = addresses.be16(tuple.client.port()).be16(tuple.service.port());
    ports.u8(tuple.protocol).raw(&[0; 3]).0
}
