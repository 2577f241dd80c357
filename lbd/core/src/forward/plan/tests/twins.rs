//! One address as a target with a port of its own and without, and ways that depend on the virtual IP.

use super::*;

/// What is left out where a target without a port joins one with port 8080, each with these services.
fn left_out(listen: &str, other_listen: &str, keys: &str) -> Vec<String> {
    let services = service("s", "nat", listen, keys) + &service("t", "nat", other_listen, keys);
    let file = file(&services, &(group("s", "10.0.1.1:8080", "") + &group("t", "10.0.1.2", "")));
    let mut net = Net::of(&file);
    net.group("t").push(TargetInput {
        id: "found".to_owned(),
        address: "10.0.1.1:0".parse().unwrap(),
        used: Use::Up(256),
    });
    let contents = net.plan(&file, &mut Indexes::default());
    assert_whole(&Maps::of(&contents));
    let number = |id: &str| contents.target_names.values().any(|(_, it)| it == id);
    assert_eq!(number("found"), contents.left_out.is_empty());
    contents.left_out.iter().map(|it| it.what.clone()).collect()
}

#[test]
fn one_address_with_a_port_and_without_shares_no_source_port() {
    let of = |listen, other| left_out(listen, other, "");
    assert_eq!(of("\"192.0.2.10:80\"", "\"192.0.2.10:8080\""), ["t/found"]);
    assert_eq!(of("\"192.0.2.10:80\"", "\"192.0.2.10:8000-8100\""), ["t/found"]);
    // It is asked for other ports only; as another source; for datagrams.
    assert_eq!(of("\"192.0.2.10:80\"", "\"192.0.2.10:8081\""), [""; 0]);
    assert_eq!(of("\"192.0.2.10:80\"", "\"192.0.2.20:8080\""), [""; 0]);
    assert_eq!(of("\"192.0.2.10:80\"", "\"192.0.2.10:8080/udp\""), [""; 0]);
    // A client may ask both virtual IPs from one port.
    let preserve = "preserve_client_ip = true";
    assert_eq!(left_out("\"192.0.2.10:80\"", "\"192.0.2.20:8080\"", preserve), ["t/found"]);
    assert_eq!(left_out("\"192.0.2.10:80\"", "\"192.0.2.20:8081\"", preserve), [""; 0]);
}

#[test]
fn who_serves_already_goes_on_with_its_flows_and_who_drains_is_in_nobody_s_way() {
    let services =
        service("s", "nat", "\"192.0.2.10:80\"", "") + &service("t", "nat", "\"192.0.2.10:8080\"", "");
    let file = file(&services, &(group("s", "10.0.1.2:8080", "") + &group("t", "10.0.1.1", "")));
    let mut net = Net::of(&file);
    let mut indexes = Indexes::default();
    let state = |contents: &Contents| {
        let number = contents.target_names.iter().find(|(_, name)| name.0 == "t").unwrap().0;
        contents.targets[&u32::from(*number)].state
    };
    assert_eq!(state(&net.plan(&file, &mut indexes)), TARGET_UP);
    let address = "10.0.1.1:8080".parse().unwrap();
    net.group("s").push(TargetInput { id: "found".to_owned(), address, used: Use::Up(256) });
    let contents = net.plan(&file, &mut indexes);
    assert_eq!((state(&contents), contents.left_out.len()), (TARGET_DRAINING, 1));
    net.group("s").last_mut().unwrap().used = Use::Draining;
    let contents = net.plan(&file, &mut indexes);
    assert_eq!((state(&contents), contents.left_out.len()), (TARGET_UP, 0));
}

#[test]
fn a_target_left_out_in_one_ring_is_told_of_although_it_is_in_another() {
    let services = service("s", "nat", "\"192.0.2.10:80\"", "")
        + &service("t", "nat", "\"192.0.2.10:8080\", \"192.0.2.10:8080/udp\"", "");
    let file = file(&services, &(group("s", "10.0.1.2:80", "") + &group("t", "10.0.1.1", "")));
    let mut net = Net::of(&file);
    net.group("s").push(TargetInput {
        id: "found".to_owned(),
        address: "10.0.1.1:8080".parse().unwrap(),
        used: Use::Up(256),
    });
    let contents = net.plan(&file, &mut Indexes::default());
    let left_out: Vec<&str> = contents.left_out.iter().map(|it| it.what.as_str()).collect();
    let of_group = contents.target_names.values().filter(|(group, _)| group == "t").count();
    assert_eq!((left_out.len(), of_group), (1, 1), "{:?}", contents.left_out);
}

#[test]
fn the_way_of_nat_is_that_of_its_virtual_ip() {
    let services = service("s", "nat", "\"192.0.2.20:80\", \"192.0.2.10:80\"", "")
        + &service("p", "nat", "\"192.0.2.10:81\"", "preserve_client_ip = true")
        + &service("d", "dsr", "\"192.0.2.10:82\"", "dsr = \"ipip\"");
    let groups = group("s", "10.0.1.1:80", "") + &group("p", "10.0.1.1:81", "") + &group("d", "10.0.1.1", "");
    let file = file(&services, &groups);
    let (target, vip): (IpAddr, IpAddr) = ("10.0.1.1".parse().unwrap(), "192.0.2.10".parse().unwrap());
    let origins = origins(&file, &Former::default());
    let source = |group: &str| origins.iter().find(|it| it.group == group).unwrap().source();
    assert_eq!(["s", "p", "d"].map(source), [Some(vip), None, None]);
    assert!(
        origins.iter().all(|it| it.is_for(target) && it.is_for("::1".parse().unwrap()) == (it.group == "d"))
    );
    let net = Net::of(&file);
    let mut hops = net.hops_for(&file);
    hops.get_mut(&(target, Some(vip))).unwrap().destination_mac = [7; 6];
    let contents = net.plan_with(&file, &mut Indexes::default(), &hops);
    let mac = |group: &str| {
        let number = contents.target_names.iter().find(|(_, name)| name.0 == group).unwrap().0;
        contents.targets[&u32::from(*number)].destination_mac
    };
    assert_eq!(["s", "p", "d"].map(mac), [[7; 6], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 2]]);
}
