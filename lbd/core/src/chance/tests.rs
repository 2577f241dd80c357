use std::collections::{BTreeMap, BTreeSet};

use common::time::{Duration, Instant};

use super::abi::{ALL_CONSTANTS, CHANCES, HEADER, TWINS};
use super::*;
use crate::forward::abi;

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn counts(counts: &[(&str, u32)]) -> BTreeMap<String, u32> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn the_twins_are_the_headers() {
    let theirs = abi::tests::Header::read(abi::HEADER);
    let both = abi::tests::Header::read(&format!("{}{HEADER}", abi::HEADER));
    let missing = both.compare(TWINS);
    assert!(
        missing.iter().all(|name| !["proxied_key", "proxied", "peer", "session", "tunnel"].contains(name)),
        "{missing:?}"
    );
    let mut defines = both.defines;
    defines.retain(|name, _| !theirs.defines.contains_key(name));
    let ours: BTreeMap<String, u64> =
        ALL_CONSTANTS.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    assert_eq!(ours, defines);
    let expected: Vec<String> = CHANCES.map(|name| format!("CHANCE_{}", name.to_uppercase())).into();
    assert_eq!(both.enums["chance"], [expected, vec!["CHANCES".to_owned()]].concat());
}

fn interface(local: bool) -> Interface {
    let addresses = (1..=5).map(|last| [192, 0, 2, last].into()).collect();
    Interface { mac: Some([2; 6]), addresses, local }
}

/// A node with the instance `web`.
fn node() -> Own {
    let mut own = Own::default();
    own.configured(&BTreeMap::from([("web".to_owned(), interface(true))]));
    own
}

#[test]
fn a_backup_has_nothing_and_an_owner_may_have_anything() {
    let mut own = node();
    let standing = |may_have, draining| {
        let instance = "web".to_owned();
        // The first of its addresses.
        let addresses = (1..=4).map(|last| [192, 0, 2, last].into()).collect();
        Word { instances: vec![Standing { instance, mac: Some([2; 6]), addresses, may_have, draining }] }
    };
    assert_eq!(own.word(), standing(false, 0));
    own.owns(at(0), &names(&["web", "of another configuration"]), &names(&[]));
    assert_eq!(own.word(), standing(true, 0));
    assert_eq!(own.to_count().count(), 0, "the other node need not know how many");

    own.owns(at(1000), &names(&[]), &names(&[]));
    assert_eq!(own.to_count().collect::<Vec<_>>(), ["web"]);
    own.counted(at(1001), &counts(&[("web", 0)]));
    assert_eq!(own.word(), standing(true, 0), "a handshake may be under way");
    own.counted(at(2000), &counts(&[("web", 7)]));
    assert_eq!(own.word(), standing(true, 7));
    own.counted(at(60_000), &counts(&[("web", 1)]));
    assert_eq!((own.word(), own.left("web")), (standing(true, 1), Some(at(1000))));
    own.counted(at(61_000), &counts(&[]));
    assert_eq!((own.word(), own.left("web")), (standing(false, 0), None));
    assert_eq!(own.to_count().count(), 0);
}

#[test]
fn connections_without_a_route_to_them_are_none() {
    let mut own = node();
    own.owns(at(0), &names(&["web"]), &names(&[]));
    own.owns(at(1000), &names(&[]), &names(&[]));
    own.counted(at(2000), &counts(&[("web", 7)]));
    own.configured(&BTreeMap::from([("web".to_owned(), interface(false))]));
    assert!(!own.word().instances[0].may_have);
    own.configured(&BTreeMap::from([("web".to_owned(), interface(true))]));
    assert!(own.word().instances[0].may_have);
}

#[test]
fn who_gets_the_virtual_ips_back_drains_nothing() {
    let mut own = node();
    own.owns(at(0), &names(&["web"]), &names(&[]));
    own.owns(at(1000), &names(&[]), &names(&[]));
    own.counted(at(2000), &counts(&[("web", 7)]));
    own.owns(at(3000), &names(&["web"]), &names(&[]));
    assert_eq!((own.word().instances[0].draining, own.left("web")), (0, None));
    own.owns(at(9000), &names(&[]), &names(&[]));
    assert_eq!(own.left("web"), Some(at(9000)), "the last time counts");
    own.configured(&BTreeMap::new());
    assert_eq!(own.word(), Word::default());
}

#[test]
fn who_has_the_virtual_ips_has_them_while_nobody_says_so_for_a_while() {
    let (web, nobody) = (names(&["web"]), names(&[]));
    let mut own = node();
    own.owns(at(0), &nobody, &web);
    assert!(!own.is_owner("web"), "nobody has ever said so");
    own.owns(at(1000), &web, &nobody);
    // The connection to vrrpd is gone, and comes back.
    own.owns(at(2000), &nobody, &web);
    own.owns(at(31_000), &nobody, &web);
    assert_eq!((own.is_owner("web"), own.left("web")), (true, None));
    own.owns(at(31_500), &web, &nobody);
    own.owns(at(40_000), &nobody, &web);
    assert!(own.is_owner("web"));
    // The addresses are gone, or vrrpd says that they are elsewhere.
    own.owns(at(41_000), &nobody, &nobody);
    assert_eq!((own.is_owner("web"), own.left("web")), (false, Some(at(41_000))));
    own.owns(at(42_000), &nobody, &web);
    assert!(!own.is_owner("web"), "what is here again is nobody's");
    // It does not come back.
    own.owns(at(50_000), &web, &nobody);
    own.owns(at(51_000), &nobody, &web);
    let end = at(51_000) + UNSAID_MAX;
    own.owns(end.before(Duration::from_millis(1)), &nobody, &web);
    assert!(own.is_owner("web"));
    own.owns(end, &nobody, &web);
    assert_eq!((own.is_owner("web"), own.left("web")), (false, Some(end)));
}

#[test]
fn what_the_other_node_said_holds_while_it_is_there() {
    let mut other = Other::default();
    assert_eq!(other.until("web"), None);
    let word = |may_have, draining| {
        let instance = "web".to_owned();
        let addresses = vec![[192, 0, 2, 1].into()];
        Word { instances: vec![Standing { instance, mac: Some([3; 6]), addresses, may_have, draining }] }
    };
    other.heard(at(0), Some(&word(true, 7)));
    assert_eq!((other.until("web"), other.until("mail")), (Some(at(0) + LEASE), None));
    assert_eq!((other.mac("web"), other.draining("web")), (Some([3; 6]), 7));
    other.renew(at(4000), |_| Some(false));
    assert_eq!(other.until("web"), Some(at(4000) + LEASE));

    other.heard(at(5000), None);
    assert_eq!((other.until("web"), other.draining("web")), (Some(at(4000) + LEASE), 0));
    other.renew(at(13_999), |_| None);
    assert!(other.until("web").is_some() && other.mac("web").is_some());
    other.renew(at(14_000), |_| None);
    assert_eq!(other.until("web"), None, "it is gone");

    other.heard(at(15_000), Some(&word(true, 1)));
    assert_eq!(other.to_look_for().count(), 0, "it says itself that it is there");
    other.heard(at(16_000), None);
    assert_eq!(other.to_look_for().collect::<Vec<_>>(), [("web", &[[192, 0, 2, 1].into()][..])]);
    for second in 17..19 {
        other.renew(at(second * 1000), |_| Some(true));
        assert_eq!(other.until("web"), Some(at(second * 1000) + LEASE), "only the link is cut");
    }
    let mut long = other.clone();
    for second in 19..7200 {
        long.renew(at(second * 1000), |_| Some(true));
        // The last time that it is asked for, and the lease from then.
        let over = at(second * 1000) >= at(14_000) + ALONE_MAX + LEASE;
        assert_eq!(long.until("web").is_none(), over, "{second} s");
    }
    other.renew(at(19_000), |_| Some(false));
    assert_eq!((other.until("web"), other.to_look_for().count()), (None, 0), "the host is gone");

    other.heard(at(20_000), Some(&word(true, 1)));
    other.heard(at(21_000), Some(&word(false, 0)));
    assert_eq!(other.until("web"), Some(at(20_000) + LEASE), "what is closing still needs its last packets");
    other.renew(at(30_000), |_| None);
    assert_eq!(other.until("web"), None);
}

#[test]
fn a_node_that_has_ended_in_order_is_sent_on_what_it_has_yet_to_deliver() {
    let standing = Standing {
        instance: "web".to_owned(),
        mac: Some([3; 6]),
        addresses: vec![[192, 0, 2, 1].into()],
        may_have: true,
        draining: 7,
    };
    let word = Word { instances: vec![standing.clone()] };
    let last = word.clone().last();
    assert_eq!(last.instances, [Standing { may_have: false, draining: 0, ..standing }]);
    assert_eq!(Word::default().last(), Word::default());
    let mut other = Other::default();
    other.heard(at(0), Some(&word));
    other.heard(at(1000), Some(&last));
    assert_eq!((other.until("web"), other.mac("web")), (Some(at(0) + LEASE), Some([3; 6])));
    assert_eq!(other.sessions_until("web"), None, "nobody has sessions there any more");
    // The link has ended, and its host lives on, which says nothing.
    other.heard(at(1050), None);
    other.renew(at(9999), |_| Some(true));
    assert_eq!((other.until("web"), other.mac("web")), (Some(at(0) + LEASE), Some([3; 6])));
    other.renew(at(10_000), |_| Some(true));
    assert_eq!(other.until("web"), None);
}

#[test]
fn what_a_former_life_has_attached_goes_on_until_all_is_known() {
    assert!(!Hold::default().is_on());
    let mut hold = Hold::begin(at(1000));
    for (heard, in_step) in [(false, false), (true, false), (false, true)] {
        hold.look(at(1001), heard, in_step);
        assert!(hold.is_on(), "heard {heard}, in step {in_step}");
    }
    let mut alone = hold;
    hold.look(at(1002), true, true);
    assert!(!hold.is_on());
    alone.look(at(10_999), true, false);
    assert!(alone.is_on());
    alone.look(at(11_000), true, false);
    assert!(!alone.is_on(), "what was said to that life is over");
}

#[test]
fn sessions_are_sent_on_while_the_other_process_may_live() {
    let said = || {
        let mut other = Other::default();
        let standing = Standing { instance: "web".to_owned(), may_have: true, ..Standing::default() };
        other.heard(at(0), Some(&Word { instances: vec![standing] }));
        other.renew(at(4000), |_| None);
        assert_eq!(other.sessions_until("web"), Some(at(4000) + LEASE));
        other.heard(at(5000), None);
        other
    };
    let mut cut = said();
    cut.renew(at(13_999), |_| Some(true));
    assert_eq!(
        cut.sessions_until("web"),
        Some(at(4000) + LEASE),
        "its host is there, which says nothing of its lbd"
    );
    cut.renew(at(14_000), |_| Some(true));
    assert!(cut.sessions_until("web").is_none() && cut.until("web").is_some());

    let mut ended = said();
    ended.ended();
    assert!(ended.sessions_until("web").is_none() && ended.until("web").is_some());

    let mut gone = said();
    gone.renew(at(6000), |_| Some(false));
    assert!(gone.sessions_until("web").is_none() && gone.until("web").is_none());
}

#[test]
fn a_word_has_bounds() {
    let many = |count: usize, length: usize| Word {
        instances: (0..count)
            .map(|_| Standing { instance: "x".repeat(length), ..Standing::default() })
            .collect(),
    };
    assert!(many(INSTANCES_MAX, 256).is_within_bounds());
    assert!(!many(INSTANCES_MAX + 1, 1).is_within_bounds() && !many(1, 257).is_within_bounds());
    let mut addresses = many(1, 1);
    addresses.instances[0].addresses = vec![[192, 0, 2, 1].into(); ADDRESSES_MAX + 1];
    assert!(!addresses.is_within_bounds());
}

mod places {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::path::Path;

    use common::config::Config;

    use super::super::abi::Proxied;
    use super::super::plan::{places, proxied};

    const PAIR: &str = "[[node]]\nname = \"a\"\n[[node]]\nname = \"b\"\n\
        [[vrrp]]\nname = \"mail\"\ninterface = \"eth1\"\nvrid = 2\npriority = { a = 100, b = 200 }\nvips = [\"192.0.2.20/24\"]\n\
        [[vrrp]]\nname = \"web\"\ninterface = { a = \"eth0\", b = \"ens3\" }\nvrid = 1\npriority = { a = 200, b = 100 }\n\
        vips = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\n";

    fn service(name: &str, mode: &str, listen: &str) -> String {
        format!("[[service]]\nname = \"{name}\"\nmode = \"{mode}\"\nlisten = [{listen}]\nforward = \"g\"\n")
    }

    fn config(services: &[String]) -> Config {
        let group = "[[target_group]]\nname = \"g\"\ntargets = [{ address = \"192.0.2.99:80\" }]\n";
        let text = format!("{PAIR}{}{group}", services.concat());
        common::config::parse(&text, Path::new("pair.toml")).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn virtual_ips_of_connections_have_a_place() {
        let services = [
            service("shop", "tcp", "\"@web:443\", \"192.0.2.10:80\""),
            service("names", "udp", "\"@web:53\""),
            service("mail", "nat", "\"@mail:25\""),
        ];
        let config = config(&services);
        let places = places(&config, "b");
        assert_eq!(places.keys().collect::<Vec<_>>(), ["mail", "web"]);
        assert!(places["mail"].addresses.is_empty(), "mail is the kernel's");
        let web = &places["web"];
        assert_eq!((web.index, web.interface.as_str()), (2, "ens3"));
        let expected = ["192.0.2.10:80", "192.0.2.10:443", "[2001:db8::10]:443"];
        let text = |addresses: &BTreeSet<SocketAddr>| -> Vec<String> {
            addresses.iter().map(ToString::to_string).collect()
        };
        assert_eq!(text(&web.addresses), expected);
        assert_eq!(text(&web.datagrams), ["192.0.2.10:53", "[2001:db8::10]:53"]);
        assert_eq!(web.vrid, 1);
        let (proxied, beyond) = proxied(&places);
        assert_eq!((proxied.len(), beyond), (5, 0));
        assert!(proxied.values().all(|it| *it == Proxied { peer: 2 }));
        assert_eq!(proxied.keys().filter(|key| (key.protocol, key.port.0) == (17, 53)).count(), 2);
    }
}
