//! Maps as plain maps, and what has to hold for them at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use common::time::{Duration, Instant};
use proptest::prelude::*;

use super::*;

/// What the program would see.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Maps(Contents);

impl Maps {
    pub(super) fn of(contents: &Contents) -> Self {
        let mut maps = Self::default();
        changes(&Contents::default(), contents).into_iter().for_each(|change| maps.apply(change));
        maps
    }

    fn apply(&mut self, change: Change) {
        assert!(self.0.apply(change.clone()), "{change:?} changes nothing");
    }

    /// As far to a plan as it goes where the changes of these places fail.
    fn go_to(&mut self, wanted: &Contents, is_partial: &mut bool, failing: &BTreeSet<usize>) {
        let mut way = Transition::new(&self.0, wanted, *is_partial);
        let mut place = 0;
        while let Some(change) = way.step(&self.0) {
            if failing.contains(&place) {
                way.failed(change);
            } else {
                self.apply(change);
                assert_whole(self);
            }
            place += 1;
        }
        *is_partial = !way.is_whole();
    }

    /// The same maps as the plan's.
    fn assert_is(&self, contents: &Contents) {
        let (mut ours, mut theirs) = (self.0.clone(), contents.clone());
        for it in [&mut ours, &mut theirs] {
            // These are in no map.
            it.instances.clear();
            it.service_names.clear();
            it.target_names.clear();
            it.ring_targets.clear();
            it.former_targets.clear();
            it.ring_makes.clear();
            it.least_paths.clear();
            it.checks.clear();
            it.left_out.clear();
        }
        assert_eq!(ours, theirs);
    }
}

/// Everything that is referred to is there.
pub(super) fn assert_whole(maps: &Maps) {
    let maps = &maps.0;
    let has_service = |number: u16| maps.services.contains_key(&u32::from(number));
    for (key, listening) in &maps.listeners {
        assert!(has_service(listening.service), "{key:?}");
        assert_eq!(maps.vip_addresses[&u32::from(listening.vip)].address, key.address);
        assert!(maps.service_ports.contains(key.port.0));
    }
    for (address, vip) in &maps.vips {
        assert_eq!(maps.vip_addresses[&u32::from(vip.index)].address, *address);
        for range in &vip.ranges[..usize::from(vip.ranges_count)] {
            assert!(has_service(range.service), "{range:?}");
            assert!(maps.service_ports.contains(range.first) && maps.service_ports.contains(range.last));
        }
    }
    for service in maps.services.values() {
        assert!(maps.rings.contains_key(&u32::from(service.ring)) && service.mode != 0);
        assert!(service.other_until == 0 || maps.other_rings.contains_key(&u32::from(service.ring)));
        assert!(service.flags & SERVICE_ACL == 0 || maps.config.flags & CONFIG_HAS_ACL != 0);
    }
    for key in maps.acl.keys() {
        let default = AclKey { prefix_length: 16, address: Address::default(), ..*key };
        let looked_at =
            maps.services.get(&u32::from(key.service.0)).is_some_and(|it| it.flags & SERVICE_ACL != 0);
        assert!(maps.acl.contains_key(&default) || !looked_at);
    }
    for ring in maps.rings.values().chain(maps.other_rings.values()) {
        assert_eq!(ring.len(), RING_SLOTS + 3);
        let mut last = 0;
        for &target in ring.iter().filter(|target| **target != 0) {
            // Mostly the same few: looked up only when they change.
            assert!(target == last || maps.targets.contains_key(&u32::from(target)), "target {target}");
            last = target;
        }
    }
    for target in maps.rings.values().flat_map(|ring| ring.iter()).collect::<BTreeSet<_>>() {
        let state = maps.targets.get(&u32::from(*target)).map(|target| target.state);
        assert_ne!(state, Some(TARGET_DRAINING), "{target} has places, and takes no new flows");
    }
    for (service, ring) in
        maps.services.values().filter_map(|it| Some((it, maps.rings.get(&u32::from(it.ring))?)))
    {
        let members = ring.iter().copied().collect::<BTreeSet<_>>();
        let targets = members.iter().filter_map(|target| maps.targets.get(&u32::from(*target)));
        for target in targets.filter(|_| service.mode == MODE_NAT) {
            let answers = maps
                .endpoints
                .iter()
                .filter(|(key, _)| (key.address, key.port) == (target.address, target.port));
            assert!(answers.count() > 0, "{target:?} gets packets, and its answers are nobody's");
        }
    }
    for target in maps.targets.values() {
        assert!(target.endpoint == 0 || maps.slots.contains(&u32::from(target.endpoint)));
    }
    for (key, endpoint) in &maps.endpoints {
        let index = u32::from(endpoint.index);
        assert!(index == 0 || maps.slots.contains(&index));
        assert!(endpoint.target == 0 || maps.targets.contains_key(&u32::from(endpoint.target)));
        assert!(index == 0 || key.address.is_ipv4() || maps.slots.contains(&(ENDPOINTS_MAX + index)));
    }
}

/// One state of the world.
#[derive(Clone, Debug)]
struct World {
    /// Of four services, which there are, and how.
    services: [Option<bool>; 4],
    /// What each of the group's targets is used for, if it is there; and whether its way is known.
    targets: Vec<Option<(Use, bool)>>,
    /// The weights of the other node's ring, the next one, and whether flows of its may be unknown.
    other: ([Vec<u16>; 2], bool),
    /// Seconds since the world before.
    passed: u64,
    /// Which of the changes fail that lead to it.
    failing: BTreeSet<usize>,
}

fn world() -> impl Strategy<Value = World> {
    let used = prop_oneof![
        3 => (1..2000_u32).prop_map(Use::Up),
        1 => Just(Use::Up(256)),
        1 => Just(Use::Draining),
        1 => Just(Use::Unhealthy),
        1 => Just(Use::Gone),
    ];
    let target = prop::option::weighted(0.8, (used, prop::bool::weighted(0.9)));
    let services = prop::array::uniform4(prop::option::weighted(0.7, any::<bool>()));
    let weights = prop::array::uniform2(prop::collection::vec(0..3_u16, 0..10));
    let other = (weights, any::<bool>());
    // None in half of them, of about a hundred.
    let failing = prop_oneof![Just(BTreeSet::new()), prop::collection::btree_set(0..100_usize, 1..4)];
    (services, prop::collection::vec(target, 8), other, 0..1000_u64, failing).prop_map(
        |(services, targets, other, passed, failing)| World { services, targets, other, passed, failing },
    )
}

impl World {
    fn file(&self) -> File {
        let kinds: [[(&str, &str, &str); 2]; 4] = [
            [
                ("nat", "\"@web:80\"", ""),
                ("nat", "\"@web:80\", \"@web:80/udp\"", "preserve_client_ip = true"),
            ],
            [
                ("nat", "\"192.0.2.20:1-9\"", "access = { deny = [\"10.0.0.0/8\"] }"),
                ("nat", "\"192.0.2.20:*/udp\"", ""),
            ],
            [("dsr", "\"@web:90\"", "dsr = \"gue\""), ("dsr", "\"@web:90/udp\"", "dsr = \"l2\"")],
            [("nat", "\"@db:91\"", ""), ("nat", "\"@db:91\", \"@web:91\"", "on_unhealthy = \"move\"")],
        ];
        let mut text = String::new();
        for (number, (kind, choice)) in kinds.iter().zip(self.services).enumerate() {
            let Some(second) = choice else { continue };
            let (mode, listen, keys) = kind[usize::from(second)];
            text += &service(&format!("s{number}"), mode, listen, keys)
                .replace(&format!("forward = \"s{number}\""), "forward = \"g\"");
        }
        // At least one, or there would be nothing to do.
        text +=
            "[[service]]\nname = \"tcp\"\nmode = \"tcp\"\nlisten = [\"@web:1000\"]\nforward = \"other\"\n";
        let discover = "discover = { file = \"targets.toml\" }";
        file(
            &text,
            &format!("[[target_group]]\nname = \"g\"\n{discover}\n{}", group("other", "10.0.1.1:80", "")),
        )
    }

    fn net(&self) -> Net {
        let mut net = Net::default();
        let mut targets = Vec::new();
        for (number, state) in self.targets.iter().enumerate() {
            let Some((used, known)) = *state else { continue };
            let port = [0, 90, 8080][number % 3];
            let address: SocketAddr = match number % 2 {
                0 => format!("10.0.1.{}:{port}", number / 2).parse().unwrap(),
                _ => format!("[2001:db8:1::{number}]:{port}").parse().unwrap(),
            };
            if known {
                net.hops.insert(address.ip(), hop(address.ip()));
            }
            targets.push(TargetInput { id: format!("t{number}"), address, used });
        }
        net.groups.insert("g".to_owned(), targets);
        let (weights, young) = &self.other;
        for name in ["g nat tcp ipv4", "g gue udp", "g gue tcp"] {
            let make = |weights: &Vec<u16>| {
                let ids = (0..).map(|number: usize| format!("t{number}"));
                let members = ids.zip(weights.iter().copied()).filter(|(_, weight)| *weight > 0).collect();
                Some(Arc::new(Make::new(name, members, &HashKey::new([7; 16]))))
            };
            let [used, next] = weights;
            let other = OtherRing { used: make(used), next: make(next).filter(|make| make.hash % 2 == 0) };
            net.other_rings.insert(name.to_owned(), other);
        }
        if *young {
            let until = OtherUntil::both(1);
            net.other_until.extend(["", "web", "db"].map(|instance| (instance.to_owned(), until)));
        }
        net
    }
}

/// The names behind the numbers that a flow can have.
type Names = (BTreeMap<u16, String>, BTreeMap<u16, (String, String)>);

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_are_whole_at_every_step(worlds in prop::collection::vec(world(), 1..8)) {
        let (mut indexes, mut now) = (Indexes::default(), Instant::ZERO);
        let (mut last, mut maps, mut is_partial) = (Contents::default(), Maps::default(), false);
        // What flows that were begun at any time may name.
        let mut named: Names = (BTreeMap::new(), BTreeMap::new());
        for world in worlds {
            now = now + Duration::from_secs(world.passed);
            let gone = indexes.gone(now);
            let after = world.net().plan(&world.file(), &mut indexes);
            maps.go_to(&after, &mut is_partial, &world.failing);
            if !is_partial {
                maps.assert_is(&after);
            }
            assert!(changes(&after, &after).is_empty());

            // Flows whose numbers are gone are deleted; the numbers of all others say the same as they ever did.
            let flow = |service, target| Flow { service, target, ..Flow::default() };
            named.0.retain(|number, _| !gone.is_in(&flow(*number, 0)));
            named.1.retain(|number, _| !gone.is_in(&flow(0, *number)));
            indexes.release(&gone);
            for (number, name) in &after.service_names {
                assert_eq!(named.0.entry(*number).or_insert_with(|| name.clone()), name);
            }
            for (number, name) in &after.target_names {
                assert_eq!(named.1.entry(*number).or_insert_with(|| name.clone()), name);
            }
            last = after;
        }
        // Nothing waits for ever.
        maps.go_to(&last, &mut is_partial, &BTreeSet::new());
        assert!(!is_partial);
        maps.assert_is(&last);
    }

    #[test]
    fn rings_follow_shares(shares in prop::collection::vec(1..65_536_u32, 1..12)) {
        let file = file(&service("s", "nat", "\"192.0.2.10:80\"", ""), &group("s", "10.0.1.1:80", ""));
        let mut net = Net::of(&file);
        let target = |(number, share): (usize, &u32)| TargetInput {
            id: format!("t{number}"),
            address: SocketAddr::new(std::net::Ipv4Addr::new(10, 0, 1, u8::try_from(number).unwrap()).into(), 80),
            used: Use::Up(*share),
        };
        *net.group("s") = shares.iter().enumerate().map(target).collect();
        net.hops.clear();
        let contents = net.plan(&file, &mut Indexes::default());
        let places = places(&contents, &behind(&contents, "192.0.2.10", 80, 6).1);
        let (sum, largest) = (shares.iter().sum::<u32>(), *shares.iter().max().unwrap());
        for (number, target) in &contents.targets {
            let Some((_, id)) = contents.target_names.get(&u16::try_from(*number).unwrap()) else { continue };
            let share = shares[id[1..].parse::<usize>().unwrap()];
            let expected = f64::from(share) / f64::from(sum);
            let got = places.get(&u16::try_from(*number).unwrap()).copied().unwrap_or_default() as f64 / RING_SLOTS as f64;
            // Weights are exact to one part in 256 of the largest.
            let step = f64::from(largest) / 256.0 / f64::from(sum);
            prop_assert!((got - expected).abs() <= step * 1.1 + 0.001, "{target:?}: {got} instead of {expected}");
        }
    }
}
