//! What plans hold, and that nothing refers to nothing on the way from one to the next.

mod access;
mod checks;
mod copies;
mod model;
mod others;
mod partial;
mod twins;

use std::path::Path;

use common::config;
use common::time::{Duration, Instant};

use super::indexes::Kind;
use super::ring::weights;
use super::*;
use crate::forward::abi::*;
use model::{Maps, assert_whole};

const KERNEL: &str = include_str!("../../../../../configs/kernel.toml");

const PAIR_RATE: &str = "rate = { key = \"source_ip\", requests = 9, per = \"1s\", scope = \"pair\" }";

/// The network of a test: every address has a way.
#[derive(Default)]
struct Net {
    former: Former,
    groups: BTreeMap<String, Vec<TargetInput>>,
    hops: BTreeMap<IpAddr, Hop>,
    paths: BTreeMap<IpAddr, u32>,
    own: BTreeSet<(u32, IpAddr)>,
    absent: BTreeSet<IpAddr>,
    others: BTreeMap<String, OtherNode>,
    other_rings: BTreeMap<String, OtherRing>,
    other_until: BTreeMap<String, OtherUntil>,
}

impl Net {
    fn of(file: &File) -> Self {
        let mut net = Self::default();
        for group in &file.target_groups {
            let up = |target: &config::Target| TargetInput {
                id: target.id.clone(),
                address: target.address,
                used: Use::Up(u32::from(target.weight) * 256),
            };
            net.groups.insert(group.name.clone(), group.targets.iter().map(up).collect());
        }
        for target in net.groups.values().flatten() {
            net.hops.insert(target.address.ip(), hop(target.address.ip()));
        }
        net
    }

    fn plan(&self, file: &File, indexes: &mut Indexes) -> Contents {
        self.plan_with(file, indexes, &self.hops_for(file))
    }

    /// The same way, whichever the source is.
    fn hops_for(&self, file: &File) -> Hops {
        let sources: BTreeSet<Option<IpAddr>> =
            origins(file, &self.former).iter().map(Origin::source).collect();
        let all = self.hops.iter().flat_map(|(ip, hop)| sources.iter().map(|it| ((*ip, *it), hop.clone())));
        all.collect()
    }

    fn plan_with(&self, file: &File, indexes: &mut Indexes, hops: &Hops) -> Contents {
        let key = HashKey::new([7; 16]);
        let clock = KernelClock::of(4_000_000, 1000, 5_000_000_000);
        let Self { former, groups, paths, own, absent, others, other_rings, other_until, .. } = self;
        let node = 1;
        let input = Input {
            file,
            node,
            key,
            clock,
            former,
            groups,
            hops,
            paths,
            own,
            absent,
            others,
            other_rings,
            other_until,
        };
        contents(&input, indexes)
    }

    fn group(&mut self, name: &str) -> &mut Vec<TargetInput> {
        self.groups.get_mut(name).unwrap()
    }
}

fn hop(ip: IpAddr) -> Hop {
    let source = if ip.is_ipv4() { "10.0.0.1" } else { "2001:db8:1::ff" };
    Hop {
        ifindex: 3,
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        source: source.parse().ok(),
        direct: true,
    }
}

fn parse(text: &str) -> File {
    config::parse(text, Path::new("kernel.toml")).unwrap_or_else(|errors| panic!("{errors}"))
}

pub(super) fn file(services: &str, groups: &str) -> File {
    let vrrp = "[[node]]\nname = \"a\"\n[[node]]\nname = \"b\"\n\
        [[vrrp]]\nname = \"web\"\ninterface = \"eth0\"\nvrid = 1\npriority = { a = 2, b = 3 }\n\
        vips = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\n\
        [[vrrp]]\nname = \"db\"\ninterface = \"eth0\"\nvrid = 2\npriority = { a = 3, b = 2 }\n\
        vips = [\"192.0.2.20/24\"]\n";
    parse(&format!("{vrrp}{services}{groups}"))
}

fn plan(file: &File) -> Contents {
    let contents = Net::of(file).plan(file, &mut Indexes::default());
    assert_whole(&Maps::of(&contents));
    contents
}

pub(super) fn service(name: &str, mode: &str, listen: &str, keys: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nmode = \"{mode}\"\nlisten = [{listen}]\nforward = \"{name}\"\n{keys}\n"
    )
}

pub(super) fn group(name: &str, targets: &str, keys: &str) -> String {
    let targets: String = targets.split(' ').map(|target| format!("{{ address = \"{target}\" }},")).collect();
    format!("[[target_group]]\nname = \"{name}\"\ntargets = [{targets}]\n{keys}\n")
}

fn vip(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn listener(contents: &Contents, address: &str, port: u16, protocol: u8) -> Listening {
    let key = Listener { address: vip(address), port: Be16(port), protocol, spare: 0 };
    *contents.listeners.get(&key).unwrap_or_else(|| panic!("no listener on {address}:{port}"))
}

/// The service behind a listener, with its number.
fn behind(contents: &Contents, address: &str, port: u16, protocol: u8) -> (u16, Service) {
    let number = listener(contents, address, port, protocol).service;
    (number, contents.services[&u32::from(number)])
}

/// The numbers of the targets in a service's ring, with how many places each has.
fn places(contents: &Contents, service: &Service) -> BTreeMap<u16, usize> {
    let mut places = BTreeMap::new();
    let ring = &contents.rings[&u32::from(service.ring)];
    ring[..RING_SLOTS].iter().for_each(|target| *places.entry(*target).or_default() += 1);
    places
}

#[test]
fn the_example_is_planned_whole() {
    let contents = plan(&parse(KERNEL));
    assert!(contents.services.len() >= 4 && contents.left_out.is_empty(), "{:?}", contents.left_out);
    assert_eq!(contents.config.flags & CONFIG_HAS_NAT, CONFIG_HAS_NAT);
}

#[test]
fn a_service_is_one_for_each_protocol_family_and_instance() {
    let services =
        service("s", "nat", "\"@web:443\", \"@web:443/udp\", \"@db:443\"", "timeout = { closing = \"10s\" }");
    let contents = plan(&file(&services, &group("s", "10.0.1.1:80 [2001:db8:1::1]:80", "")));
    let numbers =
        [("192.0.2.10", 6), ("192.0.2.10", 17), ("2001:db8::10", 6), ("2001:db8::10", 17), ("192.0.2.20", 6)]
            .map(|(address, protocol)| behind(&contents, address, 443, protocol).0);
    assert_eq!(numbers.into_iter().collect::<BTreeSet<_>>().len(), 5);
    assert!(numbers.iter().all(|number| contents.service_names[number] == "s"));
    let counted: BTreeSet<u16> =
        numbers.iter().map(|number| contents.services[&u32::from(*number)].counts_as).collect();
    assert!(
        counted.len() == 1 && counted.is_subset(&numbers.into_iter().collect()),
        "one rate for each client"
    );
    let (_, web) = behind(&contents, "192.0.2.10", 443, 6);
    let (_, db) = behind(&contents, "192.0.2.20", 443, 6);
    assert_eq!(
        (u32::from(web.instance), u32::from(db.instance)),
        (contents.instances["web"], contents.instances["db"])
    );
    assert_ne!(web.instance, db.instance);
    assert_eq!(web.ring, db.ring, "the same targets");
    assert_eq!((web.established_ticks, web.udp_ticks, web.half_open_ticks), (5600, 1920, 480));
    assert_eq!((web.closing_ticks, web.reset_ticks, web.mode), (160, 160, MODE_NAT));
    // Two targets for each protocol, and a ring has only those of its family. The addresses of IPv6 clients are in arrays of their own.
    assert_eq!((contents.targets.len(), contents.rings.len(), contents.slots.len()), (4, 4, 6));
    let (_, six) = behind(&contents, "2001:db8::10", 443, 17);
    for number in places(&contents, &six).into_keys() {
        let target = contents.targets[&u32::from(number)];
        assert_eq!((target.address, target.port, target.state), (vip("2001:db8:1::1"), Be16(80), TARGET_UP));
        let key = EndpointKey { address: target.address, port: Be16(80), protocol: 17, spare: 0 };
        assert_eq!(contents.endpoints[&key].index, target.endpoint);
    }
    assert!(contents.service_ports.contains(443) && !contents.service_ports.contains(80));
}

#[test]
fn keys_of_services_become_flags() {
    let keys = "preserve_client_ip = true\non_unhealthy = \"move\"\nrate = { key = \"source_ip\", requests = 9, per = \"1s\" }";
    let services =
        service("s", "nat", "\"192.0.2.10:80\"", keys) + &service("t", "nat", "\"192.0.2.10:81\"", "");
    let groups = group(
        "s",
        "10.0.1.1:80",
        "algorithm = \"consistent_hash\"\nsticky = { by = \"source_ip\", ttl = \"10s\" }",
    ) + &group("t", "10.0.1.2:80", "");
    let contents = plan(&file(&services, &groups));
    let (number, s) = behind(&contents, "192.0.2.10", 80, 6);
    assert_eq!(
        s.flags,
        SERVICE_PRESERVE_CLIENT | SERVICE_HASH_SOURCE | SERVICE_AFFINITY | SERVICE_SOURCE_RATE
    );
    assert_eq!((s.source_rate, s.source_rate_ticks, s.affinity_ticks), (9, 16, 160));
    assert_eq!(behind(&contents, "192.0.2.10", 81, 6).1.flags, SERVICE_RESET_UNHEALTHY);
    let pairs = service("s", "nat", "\"192.0.2.10:80\"", PAIR_RATE);
    let (_, s) = behind(&plan(&file(&pairs, &group("s", "10.0.1.1:80", ""))), "192.0.2.10", 80, 6);
    let both = SERVICE_SOURCE_RATE | SERVICE_SOURCE_RATE_PAIR;
    assert_eq!((s.flags & both, s.source_rate, s.source_rate_ticks), (both, 9, 16));
    let key = |address| EndpointKey { address: vip(address), port: Be16(80), protocol: 6, spare: 0 };
    let preserved = contents.endpoints[&key("10.0.1.1")];
    let candidate = Candidate { vip: vip("192.0.2.10"), port: Be16(80), service: number };
    assert_eq!((preserved.index, preserved.candidates_count, preserved.candidates[0]), (0, 1, candidate));
    let other = contents.endpoints[&key("10.0.1.2")];
    assert_eq!((other.index > 0, other.candidates_count), (true, 0));
    assert_eq!(contents.slots.len(), 1);
}

#[test]
fn an_endpoint_names_its_target_where_that_is_one_alone() {
    let services = service("s", "nat", "\"192.0.2.10:80\", \"192.0.2.20:80\"", "")
        + &service("t", "nat", "\"192.0.2.10:81\"", "");
    let groups = group("s", "10.0.1.1:80 10.0.1.2:80", "") + &group("t", "10.0.1.2:80 10.0.1.3:80", "");
    let contents = plan(&file(&services, &groups));
    let named = |address: &str| {
        let key = EndpointKey { address: vip(address), port: Be16(80), protocol: 6, spare: 0 };
        contents.target_names.get(&contents.endpoints[&key].target).map(|(group, _)| group.as_str())
    };
    assert_eq!(["10.0.1.1", "10.0.1.2", "10.0.1.3"].map(named), [Some("s"), None, Some("t")]);
}

#[test]
fn ranges_are_looked_through_from_the_narrowest() {
    let listen =
        "\"192.0.2.10:*\", \"192.0.2.10:8000-8100\", \"192.0.2.10:8010-8020/udp\", \"192.0.2.10:8050\"";
    let services = service("s", "nat", listen, "preserve_client_ip = true");
    let contents = plan(&file(&services, &group("s", "10.0.1.1", "")));
    let vip_of = contents.vips[&vip("192.0.2.10")];
    let ranges: Vec<_> = vip_of.ranges[..usize::from(vip_of.ranges_count)]
        .iter()
        .map(|range| (range.first, range.last, range.protocol))
        .collect();
    assert_eq!(ranges, [(8010, 8020, 17), (8000, 8100, 6), (0, 65535, 6)]);
    assert_eq!(listener(&contents, "192.0.2.10", 8050, 6).vip, vip_of.index);
    assert!([0, 1, 65535].into_iter().all(|port| contents.service_ports.contains(port)));
    // A target without a port: one candidate for all of them.
    let key = EndpointKey { address: vip("10.0.1.1"), port: Be16(0), protocol: 6, spare: 0 };
    let endpoint = contents.endpoints[&key];
    assert_eq!((endpoint.candidates_count, endpoint.candidates[0].port), (1, Be16(0)));
    assert_eq!(contents.config.flags, CONFIG_HAS_NAT | CONFIG_HAS_ANY_PORT);
}

#[test]
fn tunnels_have_two_ends_and_leave_less_room() {
    for (dsr, four, six) in [("ipip", 20, 40), ("gre", 24, 44), ("gue", 28, 48)] {
        let services = service("s", "dsr", "\"@web:443\"", &format!("dsr = \"{dsr}\""));
        let contents = plan(&file(&services, &group("s", "10.0.1.1:443 2001:db8:1::1", "")));
        // Either family goes through either.
        assert_eq!(
            (contents.targets.len(), contents.rings.len(), contents.endpoints.len()),
            (2, 1, 0),
            "{dsr}"
        );
        let target =
            |address| *contents.targets.values().find(|target| target.address == vip(address)).unwrap();
        let (first, second) = (target("10.0.1.1"), target("2001:db8:1::1"));
        assert_eq!((first.mtu, second.mtu), (1500 - four, 1500 - six), "{dsr}");
        assert_eq!((first.source, second.source), (vip("10.0.0.1"), vip("2001:db8:1::ff")));
        assert_eq!((first.port, first.endpoint, first.ifindex), (Be16(0), 0, 3));
        assert_eq!(first.gue_port, Be16(if dsr == "gue" { 6080 } else { 0 }));
        for address in ["192.0.2.10", "2001:db8::10"] {
            assert_eq!(behind(&contents, address, 443, 6).1.mss_max, 0, "the target's answer is not seen");
        }
    }
    let plain =
        plan(&file(&service("s", "dsr", "\"@web:443\"", "dsr = \"l2\""), &group("s", "10.0.1.1:443", "")));
    assert_eq!(behind(&plain, "192.0.2.10", 443, 6).1.mss_max, 0);
    assert_eq!(plain.targets.values().next().map(|target| (target.mtu, target.way)), Some((1500, WAY_PLAIN)));
}

#[test]
fn both_ends_of_nat_hear_which_segments_fit_on_every_way() {
    let targets = "10.0.1.1:80 10.0.1.2:80 [2001:db8:1::1]:80";
    let file = file(&service("s", "nat", "\"@web:80\", \"@web:80/udp\"", ""), &group("s", targets, ""));
    let mut net = Net::of(&file);
    net.hops.get_mut(&"10.0.1.2".parse::<IpAddr>().unwrap()).unwrap().mtu = 1400;
    let contents = net.plan(&file, &mut Indexes::default());
    let most = |address, protocol| behind(&contents, address, 80, protocol).1.mss_max;
    assert_eq!((most("192.0.2.10", 6), most("2001:db8::10", 6)), (1360, 1440));
    assert_eq!((most("192.0.2.10", 17), most("2001:db8::10", 17)), (0, 0));
}

#[test]
fn access_lists_have_an_end() {
    let access = "access = { allow = [\"10.0.0.0/8\", \"2001:db8:5::/48\"], deny = [\"10.66.0.1\"] }";
    let services = service("s", "nat", "\"192.0.2.10:80\"", access)
        + &service("t", "nat", "\"192.0.2.10:81\"", "access = { deny = [\"10.0.0.0/8\"] }")
        + &service("u", "nat", "\"192.0.2.10:82\"", "");
    let groups = ["s", "t", "u"].map(|name| group(name, "10.0.1.1:80", "")).concat();
    let contents = plan(&file(&services, &groups));
    let of = |port| {
        let number = behind(&contents, "192.0.2.10", port, 6).0;
        let entries = contents.acl.iter().filter(|(key, _)| key.service.0 == number);
        entries.map(|(key, value)| (key.prefix_length, key.address.ip(), value.allowed)).collect::<Vec<_>>()
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(of(80), [(16, ip("::"), 0), (120, ip("10.0.0.0"), 1), (144, ip("10.66.0.1"), 0)]);
    assert_eq!(of(81), [(16, ip("::"), 1), (120, ip("10.0.0.0"), 0)]);
    assert_eq!(of(82), []);
    assert_eq!(behind(&contents, "192.0.2.10", 82, 6).1.flags & SERVICE_ACL, 0);
    assert_eq!(behind(&contents, "192.0.2.10", 80, 6).1.flags & SERVICE_ACL, SERVICE_ACL);
}

#[test]
fn rings_have_who_is_in_use_by_its_share() {
    let file = file(
        &service("s", "nat", "\"192.0.2.10:80\"", ""),
        &group("s", "10.0.1.1:80 10.0.1.2:80 10.0.1.3:80 10.0.1.4:80", ""),
    );
    let (mut net, mut indexes) = (Net::of(&file), Indexes::default());
    let uses = [Use::Up(512), Use::Up(256), Use::Draining, Use::Unhealthy];
    net.group("s").iter_mut().zip(uses).for_each(|(target, used)| target.used = used);
    let contents = net.plan(&file, &mut indexes);
    let (_, s) = behind(&contents, "192.0.2.10", 80, 6);
    let number = |address: &str| {
        let found = contents.targets.iter().find(|(_, target)| target.address == vip(address));
        u16::try_from(*found.unwrap().0).unwrap()
    };
    let of: Vec<(u16, usize)> = places(&contents, &s).into_iter().collect();
    assert_eq!(of.len(), 2);
    let heavy = places(&contents, &s)[&number("10.0.1.1")];
    assert!(heavy.abs_diff(RING_SLOTS * 2 / 3) <= 1, "{heavy}");
    let states: Vec<u8> = contents.targets.values().map(|target| target.state).collect();
    assert_eq!(states, [TARGET_UP, TARGET_UP, TARGET_DRAINING, TARGET_UNHEALTHY]);

    // One whose way is not known gets nothing, unless nobody's is.
    net.hops.remove(&"10.0.1.1".parse::<IpAddr>().unwrap());
    let lost = net.plan(&file, &mut indexes);
    assert_eq!(places(&lost, &s).into_keys().collect::<Vec<_>>(), [number("10.0.1.2")]);
    assert_eq!(lost.targets[&u32::from(number("10.0.1.1"))].ifindex, 0);
    net.hops.clear();
    assert_eq!(places(&net.plan(&file, &mut indexes), &s).len(), 2);

    // Nobody at all.
    net.group("s").iter_mut().for_each(|target| target.used = Use::Gone);
    let none = net.plan(&file, &mut indexes);
    assert_eq!(places(&none, &s).into_iter().collect::<Vec<_>>(), [(0, RING_SLOTS)]);
    assert!(none.targets.values().all(|target| target.state == TARGET_ABSENT));
}

#[test]
fn a_ring_is_made_again_only_if_it_changes() {
    let file =
        file(&service("s", "nat", "\"192.0.2.10:80\"", ""), &group("s", "10.0.1.1:80 10.0.1.2:80", ""));
    let (mut net, mut indexes) = (Net::of(&file), Indexes::default());
    let ring = |contents: &Contents| Arc::clone(contents.rings.values().next().unwrap());
    let first = ring(&net.plan(&file, &mut indexes));
    net.hops.values_mut().for_each(|hop| hop.destination_mac = [9; 6]);
    assert!(Arc::ptr_eq(&first, &ring(&net.plan(&file, &mut indexes))));
    net.group("s")[0].used = Use::Up(128);
    assert_ne!(first, ring(&net.plan(&file, &mut indexes)));
}

#[test]
fn a_link_within_a_tunnel_that_takes_less_makes_packets_smaller() {
    let services = service("n", "nat", "\"192.0.2.10:80\"", "")
        + &service("i", "dsr", "\"192.0.2.10:81\"", "dsr = \"ipip\"")
        + &service("l", "dsr", "\"192.0.2.10:82\"", "dsr = \"l2\"")
        + &service("g", "dsr", "\"192.0.2.10:83\"", "dsr = \"gue\"");
    let groups = group("n", "10.0.1.1:80", "")
        + &group("i", "10.0.1.1:81 10.0.1.2:81", "")
        + &group("l", "10.0.1.1:82", "")
        + &group("g", "10.0.1.1:83", "");
    let file = file(&services, &groups);
    let mut net = Net::of(&file);
    for (path, expected) in [(1400, [1500, 1380, 1480, 1500, 1372]), (9000, [1500, 1480, 1480, 1500, 1472])] {
        net.paths.insert("10.0.1.1".parse().unwrap(), path);
        let contents = net.plan(&file, &mut Indexes::default());
        let mtu = |group: &str, address: &str| {
            let found = contents.targets.iter().find(|(number, target)| {
                let number = u16::try_from(**number).unwrap();
                contents.target_names[&number].0 == group && target.address == vip(address)
            });
            found.unwrap().1.mtu
        };
        let found =
            [("n", "10.0.1.1"), ("i", "10.0.1.1"), ("i", "10.0.1.2"), ("l", "10.0.1.1"), ("g", "10.0.1.1")];
        assert_eq!(found.map(|(group, address)| mtu(group, address)), expected, "{path}");
    }
}

/// Clients of IPv6 send nothing smaller than every link of IPv6 takes. Those of IPv4 do, where no IPv6 goes to the same target.
#[test]
fn no_way_through_a_tunnel_takes_less_than_ipv6_guarantees() {
    let services = service("i", "dsr", "\"192.0.2.10:81\"", "dsr = \"ipip\"")
        + &service("g", "dsr", "\"192.0.2.10:83\", \"[2001:db8::10]:83\"", "dsr = \"gre\"");
    let groups = group("i", "10.0.1.1:81", "") + &group("g", "10.0.1.1:83 [2001:db8:1::1]:83", "");
    let file = file(&services, &groups);
    let mut net = Net::of(&file);
    for far in ["10.0.1.1", "2001:db8:1::1"] {
        net.paths.insert(far.parse().unwrap(), 700);
    }
    let contents = net.plan(&file, &mut Indexes::default());
    let mut found: Vec<(&str, bool, u16, u32)> = Vec::new();
    for (number, target) in &contents.targets {
        let (group, _) = &contents.target_names[&u16::try_from(*number).unwrap()];
        found.push((group.as_str(), target.address.is_ipv4(), target.mtu, contents.least_paths[number]));
    }
    found.sort_unstable();
    assert_eq!(found, [("g", false, 1280, 1324), ("g", true, 1280, 1304), ("i", true, 680, 68)]);
}

#[test]
fn what_does_not_fit_is_left_out_and_said() {
    let services = service("s", "nat", "\"192.0.2.10:80\"", "")
        + &service("t", "dsr", "\"192.0.2.10:81\"", "dsr = \"l2\"");
    let file = file(&services, &(group("s", "10.0.1.1:80", "") + &group("t", "10.0.1.2:81", "")));
    let mut net = Net::of(&file);
    let found = |id: &str, address: &str| TargetInput {
        id: id.to_owned(),
        address: address.parse().unwrap(),
        used: Use::Up(256),
    };
    net.group("s").push(found("six", "[2001:db8:1::1]:80"));
    net.group("t").push(found("elsewhere", "10.0.1.3:82"));
    let contents = net.plan(&file, &mut Indexes::default());
    let left_out: Vec<&str> = contents.left_out.iter().map(|it| it.what.as_str()).collect();
    assert_eq!((left_out, contents.targets.len()), (vec!["s/six", "t/elsewhere"], 2));
    // More than the table has: those that are there stay.
    let many =
        |number: u32| found(&format!("m{number}"), &format!("10.1.{}.{}:80", number / 250, number % 250 + 1));
    net.group("s").extend((0..5000).map(many));
    let full = net.plan(&file, &mut Indexes::default());
    assert_eq!(full.slots.len(), 4095);
    assert!(full.left_out.len() >= 900, "{}", full.left_out.len());
    assert_whole(&Maps::of(&full));
}

#[test]
fn weights_keep_proportions() {
    assert_eq!(weights(&[256, 512, 0]), [1, 2, 0]);
    assert_eq!(weights(&[256, 256 * 256]), [1, 256]);
    assert_eq!(weights(&[65_536, 1]), [256, 1]);
    assert_eq!(weights(&[3, 1000]), [1, 256]);
    assert_eq!(weights(&[777, 777]), [1, 1]);
    assert_eq!(weights(&[0, 0]), [0, 0]);
    assert_eq!(weights(&[]), [0_u16; 0]);
}

#[test]
fn numbers_are_kept_until_nothing_names_them() {
    let both = service("s", "nat", "\"192.0.2.10:80\"", "") + &service("t", "nat", "\"192.0.2.10:81\"", "");
    let groups = group("s", "10.0.1.1:80", "") + &group("t", "10.0.1.2:80", "");
    let (two, one) = (file(&both, &groups), file(&service("t", "nat", "\"192.0.2.10:81\"", ""), &groups));
    let (net, mut indexes) = (Net::of(&two), Indexes::default());
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    let before = net.plan(&two, &mut indexes);
    let (s, t) = (behind(&before, "192.0.2.10", 80, 6).0, behind(&before, "192.0.2.10", 81, 6).0);
    let target =
        u16::try_from(*before.targets.iter().find(|(_, it)| it.address == vip("10.0.1.1")).unwrap().0)
            .unwrap();
    let flow = |service, target| Flow { service, target, ..Flow::default() };

    assert!(indexes.gone(at(0)).is_empty());
    let after = net.plan(&one, &mut indexes);
    assert_eq!(behind(&after, "192.0.2.10", 81, 6).0, t);
    assert!(!after.services.contains_key(&u32::from(s)));
    assert!(
        indexes.gone(at(100)).is_empty() && indexes.gone(at(724)).is_empty(),
        "flows may still name them"
    );
    let gone = indexes.gone(at(725));
    assert!(gone.is_in(&flow(s, 0)) && gone.is_in(&flow(t, target)) && !gone.is_in(&flow(t, 0)));
    assert_eq!(gone.services().collect::<Vec<_>>(), [u32::from(s)]);
    assert_eq!(gone.targets().collect::<Vec<_>>(), [u32::from(target)]);
    let key = AffinityKey { ring: before.services[&u32::from(s)].ring, ..AffinityKey::default() };
    assert!(gone.is_in_affinity(&key, &Affinity::default()));
    assert!(!gone.is_in_affinity(&AffinityKey::default(), &Affinity::default()));

    // It came back while its flows were looked for: its number stays its own.
    let again = net.plan(&two, &mut indexes);
    indexes.release(&gone);
    assert_eq!(behind(&again, "192.0.2.10", 80, 6).0, s);
    assert_eq!(behind(&net.plan(&two, &mut indexes), "192.0.2.10", 80, 6).0, s);

    // And its flows are no longer deleted, as those of its target are not.
    let left = indexes.still_gone(&gone);
    assert!(left.is_empty() && left != gone, "{left:?}");

    // It did not: another one can have it.
    net.plan(&one, &mut indexes);
    assert!(indexes.gone(at(1000)).is_empty(), "counted from the second time");
    let gone = indexes.gone(at(1625));
    assert_eq!(indexes.still_gone(&gone), gone);
    indexes.release(&gone);
    assert!(indexes.gone(at(9000)).is_empty());
    let u = file(&service("u", "nat", "\"192.0.2.10:80\"", ""), &group("u", "10.0.1.3:80", ""));
    let new = Net::of(&u).plan(&u, &mut indexes);
    assert_eq!(behind(&new, "192.0.2.10", 80, 6).0, s);
}

#[test]
fn numbers_live_on_over_a_restart() {
    let file = parse(KERNEL);
    let (net, mut indexes) = (Net::of(&file), Indexes::default());
    let first = net.plan(&file, &mut indexes);
    let bytes = indexes.to_bytes();
    let mut restored = Indexes::from_bytes(&bytes);
    assert_eq!(restored.to_bytes(), bytes);
    // What the kernel may hold is found by these, before anything is asked for again.
    assert!(!first.rings.is_empty() && !first.slots.is_empty());
    let rings: BTreeSet<_> = restored.ring_numbers().collect();
    assert!(first.rings.keys().all(|number| rings.contains(number)));
    let slots: BTreeSet<_> = restored.slots_numbers().collect();
    assert!(first.slots.is_subset(&slots));
    assert_eq!(net.plan(&file, &mut restored), first);
    let bad: &[&[u8]] =
        &[b"service 1 a\nservice 1 b\nservice 0 c\nservice 1024 d\nthing 1 e\nservice x f\nservice\n\xff\n"];
    for bytes in bad {
        assert_eq!(Indexes::from_bytes(bytes).to_bytes(), b"service 1 a\n");
    }
}

#[test]
fn there_is_an_end_to_numbers() {
    let mut indexes = Indexes::default();
    for number in 1..64 {
        assert_eq!(indexes.get(Kind::Instance, &number.to_string()), Some(number));
    }
    assert_eq!((indexes.get(Kind::Instance, "one more"), indexes.get(Kind::Instance, "7")), (None, Some(7)));
}
