//! What the other node chooses from, and for how long that is of interest.

use super::*;

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

/// Two targets, and what the other node's ring is made of.
fn net(used: &[(&str, u16)], next: Option<&[(&str, u16)]>) -> (File, Net) {
    let file =
        file(&service("s", "nat", "\"192.0.2.10:80\"", ""), &group("s", "10.0.1.1:80 10.0.1.2:80", ""));
    let mut net = Net::of(&file);
    for (target, id) in net.group("s").iter_mut().zip(["t1", "t2"]) {
        target.id = id.to_owned();
    }
    let make = |members: &[(&str, u16)]| {
        let members = members.iter().map(|(id, weight)| ((*id).to_owned(), *weight)).collect();
        Arc::new(Make::new("s nat tcp ipv4", members, &HashKey::new([7; 16])))
    };
    let other = OtherRing { used: Some(make(used)), next: next.map(make) };
    net.other_rings.insert("s nat tcp ipv4".to_owned(), other);
    net.other_until.insert("web".to_owned(), OtherUntil::both(77));
    (file, net)
}

/// Places by the target's id in the other node's ring; none if there is none.
fn other_places(contents: &Contents) -> Option<BTreeMap<String, usize>> {
    let (_, service) = behind(contents, "192.0.2.10", 80, 6);
    assert_whole(&Maps::of(contents));
    assert_eq!(service.other_until != 0, contents.other_rings.contains_key(&u32::from(service.ring)));
    let ring = contents.other_rings.get(&u32::from(service.ring))?;
    let mut places = BTreeMap::new();
    for number in &ring[..RING_SLOTS] {
        let id = contents.target_names.get(number).map_or("", |(_, id)| id).to_owned();
        *places.entry(id).or_default() += 1;
    }
    Some(places)
}

#[test]
fn the_other_nodes_ring_is_there_where_it_differs_and_while_it_is_asked_for() {
    let (file, mut net) = net(&[("t1", 1)], None);
    let all = Some(BTreeMap::from([("t1".to_owned(), RING_SLOTS)]));
    let mut indexes = Indexes::default();
    let contents = net.plan(&file, &mut indexes);
    assert_eq!(other_places(&contents), all);
    assert_eq!(behind(&contents, "192.0.2.10", 80, 6).1.other_until, 77);
    assert_eq!(net.plan(&file, &mut indexes), contents);
    net.other_until.clear();
    assert_eq!(other_places(&net.plan(&file, &mut indexes)), None);
    // The same as this node's.
    let (file, same) = self::net(&[("t1", 1), ("t2", 1)], None);
    assert_eq!(other_places(&same.plan(&file, &mut indexes)), None);
    // Nothing is chosen there.
    let (file, empty) = self::net(&[], None);
    assert_eq!(other_places(&empty.plan(&file, &mut indexes)), None);
}

/// Of virtual IPs that have an owner, whether the rings differ or not.
#[test]
fn a_virtual_ip_says_until_when_its_flows_may_be_the_other_nodes() {
    let (mut file, mut net) = net(&[("t1", 1), ("t2", 1)], None);
    assert_eq!(file.services[0].listen[0].instance.as_deref(), Some("web"));
    let until = |contents: &Contents| {
        let listening = listener(contents, "192.0.2.10", 80, 6);
        contents.vip_addresses[&u32::from(listening.vip)].other_until
    };
    let mut indexes = Indexes::default();
    let contents = net.plan(&file, &mut indexes);
    assert_eq!((until(&contents), behind(&contents, "192.0.2.10", 80, 6).1.other_until), (77, 0));
    net.other_until.clear();
    assert_eq!(until(&net.plan(&file, &mut indexes)), 0);
    net.other_until.insert(String::new(), OtherUntil::both(77));
    file.services[0].listen[0].instance = None;
    assert_eq!(until(&net.plan(&file, &mut indexes)), 0);
}

#[test]
fn what_the_other_node_chooses_from_is_there_before_this_one_chooses_from_something_else() {
    let (file, mut net) = net(&[("t1", 1), ("t2", 1)], None);
    let mut indexes = Indexes::default();
    let before = net.plan(&file, &mut indexes);
    net.group("s")[1].used = Use::Draining;
    let after = net.plan(&file, &mut indexes);
    let (_, service) = behind(&after, "192.0.2.10", 80, 6);
    let ring = u32::from(service.ring);
    assert_ne!(before.rings[&ring], after.rings[&ring]);
    let mut now = before;
    for change in changes(&now, &after) {
        now.apply(change);
        let (_, service) = behind(&now, "192.0.2.10", 80, 6);
        let knows = service.other_until == 77 && now.other_rings.contains_key(&ring);
        assert!(knows || now.rings[&ring] != after.rings[&ring]);
    }
    assert!(
        now.rings == after.rings && now.services == after.services && now.other_rings == after.other_rings
    );
}

#[test]
fn targets_that_this_node_does_not_have_keep_their_places_free() {
    let (file, net) = net(&[("t1", 1), ("new", 1)], None);
    let places = other_places(&net.plan(&file, &mut Indexes::default())).unwrap();
    let near = |count: usize| count.abs_diff(RING_SLOTS / 2) <= 1;
    assert!(near(places["t1"]) && near(places[""]) && places.len() == 2, "{places:?}");
}

#[test]
fn the_next_ring_is_for_flows_whose_target_takes_none_any_more() {
    let (file, mut net) = net(&[("t1", 1), ("t2", 1)], Some(&[("t1", 1)]));
    let mut indexes = Indexes::default();
    assert_eq!(other_places(&net.plan(&file, &mut indexes)), None, "what is in use there is in use here");
    net.group("s")[1].used = Use::Draining;
    let places = other_places(&net.plan(&file, &mut indexes)).unwrap();
    assert!(places["t1"].abs_diff(places["t2"]) <= 1, "{places:?}");
    net.group("s")[1].used = Use::Unhealthy;
    assert_eq!(
        other_places(&net.plan(&file, &mut indexes)),
        Some(BTreeMap::from([("t1".to_owned(), RING_SLOTS)]))
    );
}

#[test]
fn a_ring_by_another_key_is_left_alone() {
    let (file, mut net) = net(&[("t1", 1)], None);
    let make = Make::new("s nat tcp ipv4", vec![("t1".to_owned(), 1)], &HashKey::new([8; 16]));
    net.other_rings.get_mut("s nat tcp ipv4").unwrap().used = Some(Arc::new(make));
    assert_eq!(other_places(&net.plan(&file, &mut Indexes::default())), None);
}

#[test]
fn flows_may_be_the_other_nodes_for_a_while() {
    let mut owners = Owners::default();
    let minute = 60 * Ticks::PER_SECOND;
    let left = |owners: &Owners, heard, now: u64, instance: &str| {
        let tick = 1000 + u32::try_from(now).unwrap() * Ticks::PER_SECOND;
        until(owners, heard, at(now), tick, instance).connections.saturating_sub(tick)
    };
    let about = |left: u32, least: u32| (least..least + MOVES).contains(&left);
    const MOVES: u32 = 16 * Ticks::PER_SECOND;
    assert_eq!(left(&owners, Heard::Never, 0, ""), 0);
    assert!(about(left(&owners, Heard::Now, 0, ""), minute));
    assert!(about(left(&owners, Heard::Last(at(10)), 30, ""), minute * 2 / 3));
    assert_eq!(left(&owners, Heard::Last(at(10)), 70, ""), 0);
    // What it has owned as long as is known, the other one has not begun.
    owners.hear(at(0), [("web", true), ("db", false)]);
    assert_eq!(left(&owners, Heard::Now, 1, "web"), 0);
    assert!(about(left(&owners, Heard::Now, 1, "db"), minute));
    owners.hear(at(100), [("web", false), ("db", true)]);
    owners.hear(at(110), [("web", false), ("db", true)]);
    assert!(about(left(&owners, Heard::Now, 120, "web"), minute));
    assert!(about(left(&owners, Heard::Now, 120, "db"), minute * 2 / 3));
    assert!(about(left(&owners, Heard::Last(at(100)), 120, "web"), minute * 2 / 3));
    assert_eq!(left(&owners, Heard::Now, 160, "db"), 0);
    // One that moves is not written with each look, nor is one that does not.
    let ends = |heard| -> BTreeSet<u32> {
        let end = |step: u64| {
            let now = Instant::from_nanos(120_000_000_000 + step * 100_000_000);
            let tick = 5000 + u32::try_from(step * 16 / 10).unwrap();
            until(&owners, heard, now, tick, "web").connections
        };
        (0..100).map(end).collect()
    };
    assert!(ends(Heard::Now).len() <= 2 && ends(Heard::Last(at(110))).len() <= 2);
}

#[test]
fn datagrams_to_what_both_nodes_own_begin_flows_where_they_come_while_both_live() {
    let mut owners = Owners::default();
    owners.hear(at(0), [("web", true)]);
    owners.hear(at(100), [("web", false)]);
    let until = |heard, instance| until(&owners, heard, at(120), 5000, instance);
    let no_owner = until(Heard::Now, "");
    assert!(no_owner.connections > 5000 && no_owner.datagrams == 0, "{no_owner:?}");
    // What has an owner was the other node's, or is.
    let owned = until(Heard::Now, "web");
    assert!(owned.connections > 5000 && owned == OtherUntil::both(owned.connections), "{owned:?}");
    // It is gone, and what it had is this node's now.
    let left = until(Heard::Last(at(110)), "");
    assert!(left.connections > 5000 && left == OtherUntil::both(left.connections), "{left:?}");
    assert_eq!(until(Heard::Last(at(60)), ""), OtherUntil::default());
    assert_eq!(until(Heard::Never, ""), OtherUntil::default());
}

#[test]
fn services_ask_for_the_other_nodes_ring_by_their_protocol() {
    let listen = "\"198.51.100.9:53\", \"198.51.100.9:53/udp\"";
    let file = parse(&(service("s", "nat", listen, "") + &group("s", "10.0.1.1:53 10.0.1.2:53", "")));
    let mut net = Net::of(&file);
    for name in ["s nat tcp ipv4", "s nat udp ipv4"] {
        let id = file.target_groups[0].targets[0].id.clone();
        let make = Make::new(name, vec![(id, 1)], &HashKey::new([7; 16]));
        let other = OtherRing { used: Some(Arc::new(make)), next: None };
        net.other_rings.insert(name.to_owned(), other);
    }
    net.other_until.insert(String::new(), OtherUntil { connections: 77, datagrams: 0 });
    let contents = net.plan(&file, &mut Indexes::default());
    let [tcp, udp] = [6, 17].map(|protocol| behind(&contents, "198.51.100.9", 53, protocol).1);
    assert_eq!((tcp.other_until, udp.other_until), (77, 0));
    assert!(contents.other_rings.contains_key(&u32::from(tcp.ring)));
    assert!(!contents.other_rings.contains_key(&u32::from(udp.ring)), "nobody would look at it");
}
