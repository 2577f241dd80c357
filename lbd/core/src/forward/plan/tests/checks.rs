//! Which targets are checked through which virtual IP, and what becomes of those that cannot be.

use super::*;

const CHECKED: &str = "health = { tcp = true }";

fn dsr(name: &str, way: &str, listen: &str) -> String {
    service(name, "dsr", listen, &format!("dsr = \"{way}\""))
}

fn check(contents: &Contents, group: &str, id: &str) -> Check {
    let mut found = contents.checks.iter().filter(|(key, _)| key.group == group && key.id == id);
    *found.next().expect("a target with a check").1
}

#[track_caller]
fn through(contents: &Contents, group: &str, id: &str) -> Through {
    match check(contents, group, id) {
        Check::Through(through) => through,
        other => panic!("{group}/{id}: {other:?}"),
    }
}

#[track_caller]
fn says(check: Check, word: &str) {
    let said = check.trouble().unwrap_or_default();
    assert!(said.contains(word), "{check:?} says {said:?}");
}

#[test]
fn a_target_is_asked_as_a_client_of_the_virtual_ip_of_its_family() {
    let services = dsr("s", "gue", "\"@web:80\", \"@db:80\"");
    let contents = plan(&file(&services, &group("s", "10.0.1.1:80 [2001:db8:1::1]:80", CHECKED)));
    assert_eq!(contents.config.flags & CONFIG_HAS_CHECKS, CONFIG_HAS_CHECKS);
    // Of MTU 1500: outer IP and UDP, inner IP and TCP.
    for (id, vip, source, segment) in [
        ("10.0.1.1:80", "192.0.2.10", "10.0.0.1", 1500 - 28 - 40),
        ("[2001:db8:1::1]:80", "2001:db8::10", "2001:db8:1::ff", 1500 - 48 - 60),
    ] {
        let found = through(&contents, "s", id);
        assert_eq!((found.vip.to_string().as_str(), found.source.to_string().as_str()), (vip, source));
        assert_eq!(found.segment, segment);
        let target = contents.targets[&u32::from(found.target)];
        assert_eq!((target.way, target.address.ip().is_ipv4()), (WAY_GUE, found.vip.is_ipv4()));
    }
}

#[test]
fn a_tunnel_of_the_other_family_takes_another_address_of_this_host() {
    let services = dsr("s", "ipip", "\"192.0.2.10:80\"");
    let file = file(&services, &group("s", "[2001:db8:1::1]:80", CHECKED));
    let mut net = Net::of(&file);
    let own = |net: &mut Net, index: u32, ip: &str| net.own.insert((index, ip.parse().unwrap()));
    let of = |net: &Net| check(&net.plan(&file, &mut Indexes::default()), "s", "[2001:db8:1::1]:80");
    says(of(&net), "no address of the virtual IP's family");
    // Virtual IPs are the target's too, and addresses of one link nobody else's.
    for useless in ["192.0.2.10", "192.0.2.20", "169.254.1.1", "127.0.0.1"] {
        own(&mut net, 3, useless);
    }
    assert!(matches!(of(&net), Check::Own(_)), "{:?}", of(&net));
    own(&mut net, 2, "192.0.2.1");
    assert!(matches!(of(&net), Check::Through(Through { source, .. }) if source.to_string() == "192.0.2.1"));
    // One at the interface towards the target comes first.
    own(&mut net, 3, "198.51.100.1");
    assert!(
        matches!(of(&net), Check::Through(Through { source, .. }) if source.to_string() == "198.51.100.1")
    );
}

#[test]
fn a_virtual_ip_is_nobodys_source() {
    let services = dsr("s", "l2", "\"192.0.2.10:80\"");
    let file = file(&services, &group("s", "192.0.2.31:80", CHECKED));
    let mut net = Net::of(&file);
    net.hops.values_mut().for_each(|hop| hop.source = "192.0.2.20".parse().ok());
    net.own.insert((3, "192.0.2.2".parse().unwrap()));
    let contents = net.plan(&file, &mut Indexes::default());
    assert_eq!(through(&contents, "s", "192.0.2.31:80").source.to_string(), "192.0.2.2");
}

#[test]
fn what_is_missing_decides_what_becomes_of_a_check() {
    let services = dsr("s", "l2", "\"192.0.2.10:80\"");
    let file = file(&services, &group("s", "192.0.2.31:80", CHECKED));
    let mut net = Net::of(&file);
    let of = |net: &Net| check(&net.plan(&file, &mut Indexes::default()), "s", "192.0.2.31:80");
    assert!(matches!(of(&net), Check::Through(_)) && of(&net).trouble().is_none());
    says(of(&net).without_program(), "its own address");
    net.absent.insert("192.0.2.10".parse().unwrap());
    says(of(&net), "not checked");
    says(of(&net).without_program(), "not checked");
    net.absent.clear();
    net.hops.clear();
    assert_eq!((of(&net), of(&net).trouble()), (Check::Lost, None));
    // Found meanwhile, with another port than can be kept.
    net.group("s")[0].address.set_port(81);
    says(of(&net), "not forwarded");
}

#[test]
fn groups_of_others_are_checked_as_ever() {
    let services = dsr("s", "l2", "\"192.0.2.10:80\"") + &service("n", "nat", "\"192.0.2.10:81\"", "");
    let groups = group("s", "192.0.2.31:80", "health = { tcp = true, via = \"target\" }")
        + &group("n", "192.0.2.32:80", CHECKED);
    let contents = plan(&file(&services, &groups));
    assert_eq!((contents.checks.len(), contents.config.flags & CONFIG_HAS_CHECKS), (0, 0));
}

#[test]
fn the_first_service_says_the_way() {
    let services = dsr("a", "gre", "\"192.0.2.10:80/udp\"").replace("forward = \"a\"", "forward = \"s\"")
        + &dsr("s", "ipip", "\"192.0.2.20:80\", \"192.0.2.10:80\"");
    let way = |check: &str| {
        let contents = plan(&file(&services, &group("s", "10.0.1.1:80", check)));
        let found = through(&contents, "s", "10.0.1.1:80");
        (contents.targets[&u32::from(found.target)].way, found.vip.to_string())
    };
    assert_eq!(way(CHECKED), (WAY_IPIP, "192.0.2.20".to_owned()), "that of the check's protocol");
    assert_eq!(way("health = { udp = \"?\" }"), (WAY_GRE, "192.0.2.10".to_owned()));
}
