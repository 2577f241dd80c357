//! Flows from one node's plan to the other's.

use super::*;
use crate::forward::copies::{Misfit, Places, Told};

const NOW: u32 = 5_000;

/// Two nodes of one file whose numbers differ: the second one has had other things before.
fn nodes(file: &File) -> [Places; 2] {
    let mut used = Indexes::default();
    Net::of(&parse(KERNEL)).plan(&parse(KERNEL), &mut used);
    let contents = [Net::of(file).plan(file, &mut Indexes::default()), Net::of(file).plan(file, &mut used)];
    assert_ne!(contents[0].service_names, contents[1].service_names, "numbers differ");
    contents.map(|contents| Places::of(&contents))
}

fn key(protocol: u8, client: &str, service: &str) -> FlowKey {
    FlowKey::new(protocol, client.parse().unwrap(), service.parse().unwrap())
}

fn told<'a>(target: &'a str, port: u16) -> Told<'a> {
    Told { group: "n", target, port, state: STATE_ESTABLISHED, remaining: 1900 }
}

fn example() -> File {
    let services = service("n", "nat", "\"@web:80\", \"@web:8000-8100\", \"@web:53/udp\"", "")
        + &service("k", "nat", "\"@db:81\"", "preserve_client_ip = true")
        + &service("d", "dsr", "\"@db:82\"", "dsr = \"l2\"");
    let groups = group("n", "10.0.1.1:8080 10.0.1.2:8080 [2001:db8:1::1]:8080", "")
        + &group("k", "10.0.1.1:81", "")
        + &group("d", "10.0.1.3:82", "");
    file(&services, &groups)
}

#[test]
fn a_flow_has_its_place_on_the_other_node() {
    let nodes = nodes(&example());
    let cases = [
        (6, "198.51.100.7:5000", "192.0.2.10:80", "n", "10.0.1.2:8080", 2000),
        (6, "198.51.100.7:5000", "192.0.2.10:8099", "n", "10.0.1.1:8080", 1024),
        (17, "198.51.100.7:5000", "192.0.2.10:53", "n", "10.0.1.1:8080", 65_535),
        (6, "[2001:db8::7]:5000", "[2001:db8::10]:80", "n", "[2001:db8:1::1]:8080", 40_000),
        (6, "198.51.100.7:5000", "192.0.2.20:81", "k", "10.0.1.1:81", 0),
        (6, "198.51.100.7:5000", "192.0.2.20:82", "d", "10.0.1.3:82", 0),
    ];
    for (protocol, client, service, group, target, port) in cases {
        let (key, told) = (key(protocol, client, service), Told { group, ..told(target, port) });
        // From one node to the other and back.
        let there = nodes[1].place(&key, &told, NOW).unwrap();
        assert_eq!(there.flow.copied, 1);
        assert_eq!(nodes[1].tell(&there.flow, NOW), Some(told), "{service}");
        let back = nodes[0].place(&key, &nodes[1].tell(&there.flow, NOW + 2).unwrap(), 90).unwrap();
        assert_eq!(nodes[0].tell(&back.flow, 90).unwrap(), Told { remaining: 1898, ..told }, "{service}");
        assert_eq!(there.slot.is_some(), port != 0);
        // What a node's own table says of it is the same.
        assert_eq!(nodes[1].slot(&key, &there.flow), there.slot);
        for gone in [Flow { service: 99, ..there.flow }, Flow { target: 99, ..there.flow }] {
            assert_eq!(nodes[1].slot(&key, &gone), None);
        }
        let Some((endpoint, place, slot)) = there.slot else { continue };
        assert!(endpoint != 0 && place == u32::from(port) - 1024);
        let control = SlotControl::of(slot.control);
        assert_eq!((control.seen, control.service), (there.flow.seen, there.flow.service));
        assert!(key.source.0.ends_with(&slot.client));
        assert_eq!((slot.client_port, slot.vip_port), (key.source_port, key.destination_port));
    }
}

#[test]
fn a_flow_whose_address_or_port_was_taken_from_its_service_is_heard_by_nobody() {
    let of = |listen: &str| {
        let file = file(&service("n", "nat", listen, ""), &group("n", "10.0.1.1:8080", ""));
        Places::of(&Net::of(&file).plan(&file, &mut Indexes::default()))
    };
    let [address, port, range] =
        ["192.0.2.20:80", "192.0.2.10:81", "192.0.2.10:8050"].map(|to| key(6, "198.51.100.7:5000", to));
    let all = of("\"192.0.2.10:80\", \"192.0.2.20:80\", \"192.0.2.10:81\", \"192.0.2.10:8000-8100\"");
    let few = of("\"192.0.2.10:80\"");
    for key in [&address, &port, &range] {
        assert!(!all.is_unheard(key) && few.is_unheard(key), "{key:?}");
    }
    assert!(few.is_unheard(&key(17, "198.51.100.7:5000", "192.0.2.10:80")));
    assert!(!few.is_unheard(&key(6, "198.51.100.7:5000", "192.0.2.10:80")));
    assert!(!Places::default().is_unheard(&address), "nothing is known yet");
}

#[test]
fn a_client_of_a_flow_comes_back_to_its_target_where_clients_do() {
    let services = service("n", "nat", "\"@web:80\"", "") + &service("k", "nat", "\"@db:81\"", "");
    let groups = group(
        "n",
        "10.0.1.1:8080 10.0.1.2:8080 [2001:db8:1::1]:8080",
        "sticky = { by = \"source_ip\", ttl = \"10s\" }",
    ) + &group("k", "10.0.1.1:81", "");
    let nodes = nodes(&file(&services, &groups));
    let sticky = key(6, "198.51.100.7:5000", "192.0.2.10:80");
    let place = nodes[1].place(&sticky, &told("10.0.1.2:8080", 2000), NOW).unwrap();
    let (client, remembered) = place.client.unwrap();
    assert_eq!((client.address, remembered.target), (sticky.source, place.flow.target));
    assert_eq!(remembered.expires, NOW + ticks_of(Duration::from_secs(10)));
    let elsewhere = key(6, "198.51.100.7:5000", "192.0.2.20:81");
    let told = Told { group: "k", ..told("10.0.1.1:81", 2000) };
    assert_eq!(nodes[1].place(&elsewhere, &told, NOW).unwrap().client, None);
}

#[test]
fn what_has_no_place_is_told_apart() {
    let nodes = nodes(&example());
    let place =
        |service: &str, told: &Told<'_>| nodes[1].place(&key(6, "198.51.100.7:5000", service), told, NOW);
    let nat = told("10.0.1.1:8080", 2000);
    assert_eq!(place("192.0.2.10:79", &nat), Err(Misfit::NoService));
    assert_eq!(place("192.0.2.10:8101", &nat), Err(Misfit::NoService));
    assert_eq!(place("192.0.2.99:80", &nat), Err(Misfit::NoService));
    assert_eq!(place("192.0.2.10:53", &nat), Err(Misfit::NoService), "that is for datagrams");
    assert_eq!(place("192.0.2.10:80", &told("10.0.1.9:8080", 2000)), Err(Misfit::NoTarget));
    assert_eq!(place("192.0.2.10:80", &told("[2001:db8:1::1]:8080", 2000)), Err(Misfit::NoTarget));
    for port in [0, 1, 1023] {
        assert_eq!(place("192.0.2.10:80", &told("10.0.1.1:8080", port)), Err(Misfit::OtherWay), "{port}");
    }
    for port in [1, 2000] {
        let kept = Told { group: "k", ..told("10.0.1.1:81", port) };
        assert_eq!(place("192.0.2.20:81", &kept), Err(Misfit::OtherWay), "{port}");
        let direct = Told { group: "d", ..told("10.0.1.3:82", port) };
        assert_eq!(place("192.0.2.20:82", &direct), Err(Misfit::OtherWay), "{port}");
        assert_eq!(place("192.0.2.20:82", &Told { group: "k", ..direct }), Err(Misfit::NoTarget));
    }
    assert_eq!(place("192.0.2.10:80", &Told { state: 64, ..nat }), Err(Misfit::OtherWay));
    // A lifetime longer than the service gives is none.
    let long = nodes[1].place(
        &key(6, "198.51.100.7:5000", "192.0.2.10:80"),
        &Told { remaining: u32::MAX, ..nat },
        NOW,
    );
    assert_eq!(long.unwrap().flow.seen, NOW);
}

#[test]
fn what_a_target_is_like_and_the_way_to_it_move_no_place() {
    let file = example();
    let before = Net::of(&file).plan(&file, &mut Indexes::default());
    let mut after = before.clone();
    for target in after.targets.values_mut() {
        (target.state, target.ifindex, target.mtu) = (TARGET_UNHEALTHY, 7, 1400);
        (target.source_mac, target.destination_mac) = ([1; 6], [2; 6]);
    }
    after.services.values_mut().for_each(|service| service.mss_max = 1300);
    assert_eq!(Places::of(&after), Places::of(&before));
}

#[test]
fn only_what_was_missing_gives_more_flows_a_place() {
    let groups = |targets: &str| group("n", targets, "");
    let services = |listen: &str| service("n", "nat", listen, "");
    let mut used = Indexes::default();
    let mut places = |file: &File| Places::of(&Net::of(file).plan(file, &mut used));
    let one = places(&file(&services("\"@db:80\""), &groups("10.0.1.1:8080")));
    let target = places(&file(&services("\"@db:80\""), &groups("10.0.1.1:8080 10.0.1.2:8080")));
    let port = places(&file(&services("\"@db:80\", \"@db:81\""), &groups("10.0.1.1:8080")));
    for more in [&target, &port] {
        assert!(more.has_more_than(&one) && !one.has_more_than(more), "{more:?}");
    }
    assert!(one.has_more_than(&Places::default()) && !one.has_more_than(&one));
}

#[test]
fn a_rate_of_the_pair_is_found_by_name_and_number() {
    let services = service("n", "nat", "\"@web:80\", \"@web:53/udp\", \"@db:80\"", PAIR_RATE)
        + &service("k", "nat", "\"@db:81\"", &PAIR_RATE.replace("pair", "node"))
        + &service("d", "dsr", "\"@db:82\"", &format!("dsr = \"l2\"\n{PAIR_RATE}"));
    let groups = group("n", "10.0.1.1:8080 [2001:db8:1::1]:8080", "")
        + &group("k", "10.0.1.1:81", "")
        + &group("d", "10.0.1.3:82", "");
    for places in nodes(&file(&services, &groups)) {
        assert!(places.has_pair_rates());
        let numbers: Vec<u16> = (0..u16::MAX).filter(|number| places.pair_rate(*number).is_some()).collect();
        let [first, second] = numbers[..] else { panic!("one of each service: {numbers:?}") };
        let mut names = [first, second].map(|number| &**places.service(number).unwrap());
        for (number, name) in [first, second].into_iter().zip(names) {
            assert_eq!(places.pair_rate_of(name).unwrap().counts_as, number, "{name}");
        }
        names.sort_unstable();
        assert_eq!(names, ["d", "n"]);
        assert!(places.pair_rate_of("k").is_none() && places.pair_rate_of("x").is_none());
    }
    assert!(!nodes(&example())[0].has_pair_rates());
}

#[test]
fn flows_stay_with_a_target_whose_id_is_another_ones_by_now() {
    let file =
        file(&service("n", "nat", "\"192.0.2.10:80\"", ""), &group("n", "10.0.1.1:8080 10.0.1.2:8080", ""));
    let (mut net, mut indexes) = (Net::of(&file), Indexes::default());
    let mut plan_of = |targets: &[(&str, Use)]| {
        let target = |&(address, used): &(&str, Use)| TargetInput {
            id: "a".to_owned(),
            address: address.parse().unwrap(),
            used,
        };
        *net.group("n") = targets.iter().map(target).collect();
        net.plan(&file, &mut indexes)
    };
    let up = Use::Up(256);
    let before = plan_of(&[("10.0.1.1:8080", up)]);
    let both = plan_of(&[("10.0.1.2:8080", up), ("10.0.1.1:8080", Use::Draining)]);
    let after = plan_of(&[("10.0.1.2:8080", up)]);
    assert_whole(&Maps::of(&both));
    let number = |contents: &Contents, address: &str| {
        let found = contents.targets.iter().find(|(_, target)| target.address == vip(address));
        u16::try_from(*found.unwrap().0).unwrap()
    };
    let [old, new] = ["10.0.1.1", "10.0.1.2"].map(|address| number(&both, address));
    assert_eq!((old, both.targets[&u32::from(old)].state), (number(&before, "10.0.1.1"), TARGET_DRAINING));
    let (_, serving) = behind(&both, "192.0.2.10", 80, 6);
    assert_eq!(
        places(&both, &serving).into_keys().collect::<Vec<_>>(),
        [new],
        "new flows are not the old one's"
    );

    // To the other node it is not the one that has the id now, before and after that has heard of the change.
    let [before, both, after] = [&before, &both, &after].map(Places::of);
    let key = key(6, "198.51.100.7:5000", "192.0.2.10:80");
    let target = |node: &Places, told: &Told<'_>| node.place(&key, told, NOW).map(|place| place.flow.target);
    let flow = before.place(&key, &told("a", 2000), NOW).unwrap().flow;
    let of_old = both.tell(&flow, NOW).unwrap();
    assert_eq!((flow.target, of_old), (old, told("a 10.0.1.1:8080", 2000)));
    assert_eq!(target(&both, &of_old), Ok(old));
    assert_eq!([&before, &after].map(|node| target(node, &of_old)), [Err(Misfit::NoTarget); 2]);
    assert_eq!([&both, &after].map(|node| target(node, &told("a", 2000))), [Ok(new); 2]);
}
