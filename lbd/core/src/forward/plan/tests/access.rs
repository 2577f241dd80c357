//! Access lists that change while packets are looked up in them.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

/// What the program would do with a client of a service: the longest prefix that holds its address decides.
fn is_allowed(maps: &Contents, service: u16, client: Ipv4Addr) -> bool {
    if maps.services.get(&u32::from(service)).is_none_or(|it| it.flags & SERVICE_ACL == 0) {
        return true;
    }
    let bits = |address: Address| address.0.iter().fold(0_u128, |all, byte| all << 8 | u128::from(*byte));
    let client = bits(IpAddr::V4(client).into());
    let holds = |key: &&AclKey| {
        let length = key.prefix_length - 16;
        key.service.0 == service && (length == 0 || (bits(key.address) ^ client) >> (128 - length) == 0)
    };
    let longest = maps.acl.keys().filter(holds).max_by_key(|key| key.prefix_length);
    longest.is_some_and(|key| maps.acl[key].allowed != 0)
}

/// A list within 10.0.0.0/28, so that most networks are within others: each network with its prefix length and whether it is let in.
type List = BTreeMap<(u8, u8), bool>;

fn list() -> impl Strategy<Value = List> {
    let entry = (24..=32_u8, 0..16_u8).prop_map(|(length, host)| {
        let mask = if length == 32 { u8::MAX } else { !(u8::MAX >> (length - 24)) };
        (length, host & mask)
    });
    prop::collection::btree_map(entry, any::<bool>(), 0..12)
}

fn text(list: &List) -> String {
    let of = |allowed: bool| {
        let entries = list.iter().filter(|(_, it)| **it == allowed);
        let networks: Vec<String> =
            entries.map(|((length, host), _)| format!("\"10.0.0.{host}/{length}\"")).collect();
        networks.join(", ")
    };
    let keys: Vec<String> = [("allow", of(true)), ("deny", of(false))]
        .into_iter()
        .filter(|(_, networks)| !networks.is_empty())
        .map(|(key, networks)| format!("{key} = [{networks}]"))
        .collect();
    if keys.is_empty() { String::new() } else { format!("access = {{ {} }}", keys.join(", ")) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_sees_half_a_list(lists in prop::collection::vec(list(), 2..4)) {
        let mut indexes = Indexes::default();
        let plan = |list: &List, indexes: &mut Indexes| {
            let services = service("s", "nat", "\"192.0.2.10:80\"", &text(list));
            let file = file(&services, &group("s", "10.0.1.1:80", ""));
            Net::of(&file).plan(&file, indexes)
        };
        let mut now = plan(&lists[0], &mut indexes);
        let number = behind(&now, "192.0.2.10", 80, 6).0;
        let clients = || (0..=16).map(|host| Ipv4Addr::new(10, 0, 0, host)).chain([Ipv4Addr::new(11, 0, 0, 1)]);
        for list in &lists[1..] {
            let (old, new) = (now.clone(), plan(list, &mut indexes));
            // Each address has had the old verdict so far; from when on it has the new one, it keeps it.
            let mut changed: BTreeSet<Ipv4Addr> = BTreeSet::new();
            for change in changes(&old, &new) {
                now.apply(change.clone());
                for client in clients() {
                    let allowed = is_allowed(&now, number, client);
                    let [before, after] = [&old, &new].map(|it| is_allowed(it, number, client));
                    if allowed != before {
                        changed.insert(client);
                    }
                    let expected = if changed.contains(&client) { after } else { before };
                    prop_assert_eq!(allowed, expected, "{} after {:?}", client, change);
                }
            }
            prop_assert_eq!(&now.acl, &new.acl);
        }
    }
}

#[test]
fn a_change_from_denying_to_allowing_lets_nobody_in_that_neither_does() {
    // What was written first: the end of the list, which is what becomes of everybody else.
    let mut indexes = Indexes::default();
    let mut plan = |access: &str| {
        let file = file(&service("s", "nat", "\"192.0.2.10:80\"", access), &group("s", "10.0.1.1:80", ""));
        Net::of(&file).plan(&file, &mut indexes)
    };
    let old = plan("access = { allow = [\"10.0.0.0/8\"] }");
    let new = plan("access = { deny = [\"10.1.0.0/16\", \"192.168.0.0/16\"] }");
    let number = behind(&old, "192.0.2.10", 80, 6).0;
    for (from, to) in [(&old, &new), (&new, &old)] {
        let mut now = from.clone();
        for change in changes(from, to) {
            now.apply(change.clone());
            let client = Ipv4Addr::new(192, 168, 0, 1);
            assert!(!is_allowed(&now, number, client), "{client} is let in after {change:?}");
            let client = Ipv4Addr::new(10, 0, 0, 1);
            assert!(is_allowed(&now, number, client), "{client} is kept out after {change:?}");
        }
    }
}

#[test]
fn the_plan_has_as_many_entries_as_the_check_has_counted() {
    let access =
        "access = { allow = [\"10.0.0.0/8\", \"2001:db8:5::/48\", \"10.0.0.1\"], deny = [\"10.66.0.1\"] }";
    let services = service("s", "nat", "\"@web:443\", \"@web:443/udp\", \"@db:443\"", access)
        + &service("t", "dsr", "\"@web:444\"", "dsr = \"ipip\"\naccess = { deny = [\"2001:db8::/32\"] }")
        + &service("u", "nat", "\"@web:445\"", "");
    let targets = "10.0.1.1:443 [2001:db8:1::1]:443";
    let groups = group("s", targets, "") + &group("t", "10.0.1.1", "") + &group("u", targets, "");
    let file = file(&services, &groups);
    let counted: usize = file.services.iter().map(|it| it.access_entries_in_kernel()).sum();
    assert_eq!(plan(&file).acl.len(), counted);
    assert_eq!(counted, 3 * 4 + 2 * 2 + 1 + 2);
}
