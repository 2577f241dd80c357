//! Where a change fails, what depends on it waits, and nothing else does.

use std::net::SocketAddr;

use super::*;

/// As far to a plan as it goes where such changes fail. Answers whether nothing is missing.
fn go_to(now: &mut Contents, wanted: &Contents, is_partial: bool, fails: impl Fn(&Change) -> bool) -> bool {
    let mut way = Transition::new(now, wanted, is_partial);
    while let Some(change) = way.step(now) {
        if fails(&change) {
            way.failed(change);
        } else {
            assert!(now.apply(change));
        }
    }
    way.is_whole()
}

/// Two services with a group of two targets each.
fn two() -> File {
    let services =
        service("s", "nat", "\"192.0.2.10:80\"", "") + &service("t", "nat", "\"192.0.2.10:81\"", "");
    let groups = group("s", "10.0.1.1:80 10.0.1.2:80", "") + &group("t", "10.0.1.3:80 10.0.1.4:80", "");
    file(&services, &groups)
}

/// The maps of a plan that nothing has failed of.
fn written(plan: &Contents) -> Contents {
    let mut now = Contents::default();
    assert!(go_to(&mut now, plan, false, |_| false));
    now
}

/// Both plans' rings of the services at these ports.
fn rings(of: &Contents, plan: &Contents) -> [Arc<[u16]>; 2] {
    [80, 81].map(|port| Arc::clone(&of.rings[&u32::from(behind(plan, "192.0.2.10", port, 6).1.ring)]))
}

fn target(contents: &Contents, address: &str) -> Target {
    *contents.targets.values().find(|target| target.address == vip(address)).unwrap()
}

/// What has failed is done, and with it what has waited.
fn assert_ends(mut now: Contents, plan: &Contents) {
    assert!(!changes(&now, plan).is_empty());
    assert!(go_to(&mut now, plan, true, |_| false));
    assert!(changes(&now, plan).is_empty());
}

#[test]
fn a_ring_that_cannot_be_written_holds_back_its_targets_marks_alone() {
    let file = two();
    let (mut net, mut indexes) = (Net::of(&file), Indexes::default());
    let before = net.plan(&file, &mut indexes);
    let mut now = written(&before);
    for group in ["s", "t"] {
        net.group(group)[0].used = Use::Draining;
    }
    let after = net.plan(&file, &mut indexes);
    let failing = u32::from(behind(&after, "192.0.2.10", 80, 6).1.ring);
    let fails = |change: &Change| matches!(change, Change::Ring(index, _) if *index == failing);
    assert!(!go_to(&mut now, &after, false, fails));
    let ([old, _], [_, new]) = (rings(&before, &after), rings(&after, &after));
    assert_eq!(rings(&now, &after), [old, new]);
    assert_eq!(target(&now, "10.0.1.1").state, TARGET_UP, "its ring has it still");
    assert_eq!(target(&now, "10.0.1.3").state, TARGET_DRAINING);
    assert_ends(now, &after);
}

#[test]
fn a_target_without_room_for_its_ports_is_waited_for_by_its_ring_alone() {
    let file = two();
    let (mut net, mut indexes) = (Net::of(&file), Indexes::default());
    let before = net.plan(&file, &mut indexes);
    let mut now = written(&before);
    for (group, address) in [("s", "10.0.1.5:80"), ("t", "10.0.1.6:80")] {
        let address: SocketAddr = address.parse().unwrap();
        net.hops.insert(address.ip(), hop(address.ip()));
        net.group(group).push(TargetInput { id: "new".to_owned(), address, used: Use::Up(256) });
    }
    // And one of the same group moves, and another one is not well.
    net.hops.get_mut(&"10.0.1.1".parse::<IpAddr>().unwrap()).unwrap().destination_mac = [9; 6];
    net.group("s")[1].used = Use::Unhealthy;
    let after = net.plan(&file, &mut indexes);
    let failing = u32::from(target(&after, "10.0.1.5").endpoint);
    let fails = |change: &Change| matches!(change, Change::Slots(index) if *index == failing);
    assert!(!go_to(&mut now, &after, false, fails));
    let ([old, _], [_, new]) = (rings(&before, &after), rings(&after, &after));
    assert_eq!(rings(&now, &after), [old, new]);
    assert_eq!(target(&now, "10.0.1.1").destination_mac, [9; 6]);
    assert_eq!(target(&now, "10.0.1.2").state, TARGET_UNHEALTHY);
    assert_eq!(target(&now, "10.0.1.6"), target(&after, "10.0.1.6"));
    assert!(now.targets.values().all(|target| target.address != vip("10.0.1.5")));
    assert_ends(now, &after);
}

#[test]
fn a_service_goes_on_as_it_was_while_there_is_no_room_for_ports() {
    let of = |keys: &str| {
        file(&service("s", "nat", "\"192.0.2.10:80\"", keys), &group("s", "10.0.1.1:80 10.0.1.2:80", ""))
    };
    let (preserved, translated) = (of("preserve_client_ip = true"), of(""));
    let (mut net, mut indexes) = (Net::of(&preserved), Indexes::default());
    let before = net.plan(&preserved, &mut indexes);
    let mut now = written(&before);
    net.hops.get_mut(&"10.0.1.1".parse::<IpAddr>().unwrap()).unwrap().destination_mac = [9; 6];
    let after = net.plan(&translated, &mut indexes);
    let failing = u32::from(target(&after, "10.0.1.1").endpoint);
    assert_ne!(failing, 0);
    let fails = |change: &Change| matches!(change, Change::Slots(index) if *index == failing);
    assert!(!go_to(&mut now, &after, false, fails));
    let listening = |contents: &Contents| listener(contents, "192.0.2.10", 80, 6);
    assert_ne!(listening(&after), listening(&before));
    assert_eq!(listening(&now), listening(&before));
    for (key, endpoint) in &now.endpoints {
        assert_eq!(endpoint.candidates, before.endpoints[key].candidates, "whose its answers are");
    }
    assert_eq!(target(&now, "10.0.1.1").destination_mac, [9; 6], "the way to it waits for nothing");
    assert_ends(now, &after);
}

#[test]
fn a_failure_is_told_by_names() {
    let file = two();
    let plan = Net::of(&file).plan(&file, &mut Indexes::default());
    let ring = u32::from(behind(&plan, "192.0.2.10", 80, 6).1.ring);
    let subject = plan.subject(&Change::Ring(ring, Arc::clone(&plan.rings[&ring])));
    assert_eq!(subject, "targets of s nat tcp ipv4");
    let slots = u32::from(target(&plan, "10.0.1.3").endpoint);
    assert_eq!(plan.subject(&Change::Slots(slots)), "ports towards 10.0.1.3:80");
}
