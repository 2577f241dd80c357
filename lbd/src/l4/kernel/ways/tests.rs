//! A host that refuses, is late and interrupts lists, and what is still known of its network.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::*;

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 254));

fn target(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

fn refused(errno: i32) -> NetlinkError {
    NetlinkError::Refused { action: "asking".to_owned(), source: io::Error::from_raw_os_error(errno) }
}

fn late() -> NetlinkError {
    NetlinkError::Refused { action: "asking".to_owned(), source: io::ErrorKind::TimedOut.into() }
}

/// A host whose answers are what a test says.
#[derive(Debug, Default)]
struct Fake {
    neighbours: Vec<Neighbour>,
    changes: VecDeque<Result<Change, i32>>,
    /// Errors of each of the three lists, the next first; 0 for one that is interrupted.
    lists: [VecDeque<i32>; 3],
    /// Errors of routes; 0 for none in time.
    routes: BTreeMap<IpAddr, i32>,
    /// Errors of looking for neighbours.
    probes: BTreeMap<IpAddr, i32>,
    /// What is another route from an address.
    from: BTreeMap<IpAddr, IpAddr>,
    /// This host's addresses.
    own: Vec<IpAddr>,
    asked: Vec<Direction>,
    listed: usize,
    steps: Vec<Step>,
    /// An error of listing routes; 0 for none.
    no_steps: i32,
    /// Routes change while they are listed.
    torn: bool,
    steps_listed: usize,
    probed: Vec<IpAddr>,
}

impl Fake {
    fn with(targets: impl IntoIterator<Item = u8>) -> Self {
        let all = targets.into_iter().map(target).chain([GATEWAY]);
        let neighbours = all.map(|ip| neighbour(ip, 1, libc::NUD_REACHABLE)).collect();
        Self { neighbours, ..Self::default() }
    }

    fn list<T>(&mut self, which: usize, list: Vec<T>) -> Result<Listed<T>, NetlinkError> {
        self.listed += 1;
        match self.lists[which].pop_front() {
            None => Ok(Listed { list, whole: true }),
            // The end of it is what is missing.
            Some(0) => Ok(Listed { list: list.into_iter().take(1).collect(), whole: false }),
            Some(errno) => Err(refused(errno)),
        }
    }
}

fn neighbour(ip: IpAddr, mac: u8, state: u16) -> Neighbour {
    Neighbour { index: 3, ip, mac: Some([mac; 6]), state }
}

impl Host for Fake {
    fn links(&mut self) -> Result<Listed<Link>, NetlinkError> {
        let link = |index: u32, name: &str| Link {
            index,
            name: name.to_owned(),
            mac: Some([9; 6]),
            mtu: 1500,
            up: true,
            below: None,
            kind: String::new(),
            is_open: false,
        };
        self.list(0, vec![link(3, "eth0"), link(4, "eth1")])
    }

    fn addresses(&mut self) -> Result<Listed<(IpAddr, u32)>, NetlinkError> {
        self.list(1, vec![(target(1), 3), (target(2), 4)])
    }

    fn neighbours(&mut self) -> Result<Listed<Neighbour>, NetlinkError> {
        let list = self.neighbours.clone();
        self.list(2, list)
    }

    fn steps(&mut self) -> Result<Listed<Step>, NetlinkError> {
        self.steps_listed += 1;
        match self.no_steps {
            0 => Ok(Listed { list: self.steps.clone(), whole: !self.torn }),
            errno => Err(refused(errno)),
        }
    }

    fn route(&mut self, to: IpAddr, from: Option<IpAddr>) -> Result<Option<Route>, NetlinkError> {
        self.asked.push((to, from));
        match self.routes.get(&to) {
            Some(0) => return Err(late()),
            Some(errno) => return Err(refused(*errno)),
            None => {}
        }
        let local = self.own.contains(&to);
        let gateway = from.and_then(|from| self.from.get(&from).copied());
        Ok(Some(Route { index: 3, gateway, source: None, mtu: None, unicast: !local, local }))
    }

    fn probe(&mut self, _index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        self.probed.push(ip);
        self.probes.get(&ip).map_or(Ok(()), |errno| Err(refused(*errno)))
    }

    fn ask(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        self.probe(index, ip)
    }

    fn change(&mut self) -> Result<Option<Change>, NetlinkError> {
        self.changes.pop_front().transpose().map_err(refused)
    }
}

/// One round for some targets.
fn round(ways: &mut Ways<Fake>, now: Instant, targets: &[u8]) -> Vec<Result<Way, NoWay>> {
    ways.follow(now);
    let before = ways.begin();
    targets.iter().map(|number| ways.way(target(*number), None, &before, now)).collect()
}

#[test]
fn one_target_that_is_refused_concerns_no_other() {
    let now = Instant::now();
    let mut ways = Ways::of(Fake::with([10, 11, 12])).unwrap();
    let first: Vec<Way> = round(&mut ways, now, &[10, 11, 12]).into_iter().map(Result::unwrap).collect();
    assert_eq!(ways.failures(), 0);
    // It is asked for anew, since anything may have changed, and the kernel will not say.
    ways.host.routes.insert(target(11), libc::EOPNOTSUPP);
    ways.host.changes.push_back(Ok(Change::Ways));
    let second = round(&mut ways, now, &[10, 11, 12]);
    assert_eq!((second[0].as_ref(), second[2].as_ref()), (Ok(&first[0]), Ok(&first[2])));
    let Err(NoWay::Unknown { last, why }) = &second[1] else { panic!("{:?}", second[1]) };
    assert!(last.as_deref() == Some(&first[1]) && why.contains("asking failed"), "{why}");
    assert_eq!(ways.failures(), 1);
    // Nor does one that was never known keep the way that it never had; the other keeps it for longer than a round.
    ways.host.routes.insert(target(13), libc::ENOBUFS);
    for _ in 0..3 {
        let third = round(&mut ways, now, &[11, 13]);
        assert!(matches!(&third[0], Err(NoWay::Unknown { last: Some(_), .. })), "{third:?}");
        assert!(matches!(&third[1], Err(NoWay::Unknown { last: None, .. })), "{third:?}");
    }
    ways.host.routes.clear();
    assert_eq!(round(&mut ways, now, &[11])[0].as_ref(), Ok(&first[1]), "asked for until it is answered");
}

#[test]
fn a_neighbour_that_is_not_looked_for_concerns_no_other() {
    let now = Instant::now();
    let mut fake = Fake::with([10]);
    fake.probes.insert(target(20), libc::ENOBUFS);
    let mut ways = Ways::of(fake).unwrap();
    let found = round(&mut ways, now, &[20, 10, 21]);
    assert!(matches!(&found[0], Err(NoWay::Unknown { last: None, .. })), "{found:?}");
    assert!(found[1].is_ok(), "{found:?}");
    assert!(matches!(&found[2], Err(NoWay::NoNeighbour { patient: true, .. })), "{found:?}");
    assert_eq!(ways.failures(), 1);
    // One that is there and cannot be refreshed is still there.
    ways.host.probes.insert(target(10), libc::ENOBUFS);
    ways.host.changes.push_back(Ok(Change::Neighbour(neighbour(target(10), 1, libc::NUD_STALE))));
    let found = round(&mut ways, now + REFRESH, &[10]);
    assert!(matches!(&found[0], Err(NoWay::Unknown { last: Some(_), .. })), "{found:?}");
}

#[test]
fn a_kernel_that_does_not_answer_is_waited_for_once_a_round() {
    let now = Instant::now();
    let mut ways = Ways::of(Fake::with(10..30)).unwrap();
    let targets: Vec<u8> = (10..30).collect();
    assert!(round(&mut ways, now, &targets).iter().all(Result::is_ok));
    ways.host.routes.extend(targets.iter().map(|number| (target(*number), 0)));
    for _ in 0..2 {
        ways.host.changes.push_back(Ok(Change::Ways));
        ways.host.asked.clear();
        let found = round(&mut ways, now, &targets);
        assert_eq!(ways.host.asked.len(), 1);
        let kept = |it: &Result<Way, NoWay>| matches!(it, Err(NoWay::Unknown { last: Some(_), .. }));
        assert!(found.iter().all(kept), "{found:?}");
    }
}

#[test]
fn the_way_from_a_virtual_ip_is_kept_while_the_kernel_does_not_say_whose_that_is() {
    let (now, vip) = (Instant::now(), target(200));
    let mut ways = Ways::of(Fake { own: vec![vip], ..Fake::with([10]) }).unwrap();
    ways.follow(now);
    let before = ways.begin();
    let first = ways.way(target(10), Some(vip), &before, now).unwrap();
    for _ in 0..2 {
        // One that is late makes the round deaf.
        ways.host.routes.insert(vip, 0);
        ways.host.changes.push_back(Ok(Change::Ways));
        ways.follow(now);
        let before = ways.begin();
        let Err(NoWay::Unknown { last, .. }) = ways.way(target(10), Some(vip), &before, now) else {
            panic!("it is not known")
        };
        assert_eq!(last.as_deref(), Some(&first));
    }
}

#[test]
fn what_could_not_be_listed_is_listed_again_and_then_less_often() {
    let mut now = Instant::now();
    let mut ways = Ways::of(Fake::with([10])).unwrap();
    assert!(round(&mut ways, now, &[10])[0].is_ok() && ways.trouble().is_none());
    // The change is told once, and then everything fails for a while.
    ways.host.neighbours = vec![neighbour(target(10), 2, libc::NUD_REACHABLE)];
    ways.host.lists[2].extend([libc::ENOMEM; 12]);
    ways.host.changes.push_back(Ok(Change::Overrun));
    let (mut waits, mut failures) = (Vec::new(), 0);
    loop {
        let found = round(&mut ways, now, &[10]);
        let Some(next) = ways.stale.again else {
            assert_eq!(found[0].as_ref().unwrap().destination_mac, [2; 6], "what had changed");
            break;
        };
        failures += 1;
        assert_eq!(ways.failures(), failures);
        assert_eq!(found[0].as_ref().unwrap().destination_mac, [1; 6], "as before");
        assert!(ways.trouble().is_some_and(|why| why.contains("asking failed")), "{:?}", ways.trouble());
        // Whoever waits for it does so until then, and nothing is asked for in the meantime.
        assert!(ways.next_look(now).is_some_and(|look| look <= next));
        let listed = ways.host.listed;
        round(&mut ways, next - Duration::from_millis(1), &[10]);
        assert_eq!(ways.host.listed, listed);
        waits.push(next - now);
        now = next;
    }
    assert_eq!(waits.len(), 12);
    assert_eq!(waits[..3], [50, 100, 200].map(Duration::from_millis));
    assert_eq!(waits[11], BACKOFF[1]);
    assert!(ways.trouble().is_none() && !ways.follow(now));
    // From then on as at first.
    ways.host.lists[0].push_back(libc::ENOMEM);
    ways.host.changes.push_back(Ok(Change::Ways));
    assert!(ways.follow(now));
    assert_eq!(ways.stale.again, Some(now + BACKOFF[0]));
}

#[test]
fn an_interrupted_list_takes_nothing_away_and_is_asked_for_again() {
    let now = Instant::now();
    let mut ways = Ways::of(Fake::with([10, 11])).unwrap();
    for which in 0..3 {
        ways.host.lists[which].push_back(0);
        ways.host.changes.push_back(Ok(Change::Overrun));
        assert!(round(&mut ways, now, &[10, 11]).iter().all(Result::is_ok), "list {which}");
        assert_eq!((ways.links.len(), ways.addresses.len(), ways.neighbours.len()), (2, 2, 3));
        assert!(ways.trouble().is_some_and(|why| why.contains("faster than it can be listed")));
        // What is gone is known once a whole list has come.
        ways.follow(now + BACKOFF[0]);
        assert_eq!(ways.trouble(), None);
    }
    ways.host.neighbours.pop();
    ways.host.changes.push_back(Ok(Change::Overrun));
    ways.follow(now);
    assert_eq!(ways.neighbours.len(), 2);
}

#[test]
fn changes_that_cannot_be_read_are_looked_for_in_the_lists() {
    let now = Instant::now();
    let mut ways = Ways::of(Fake::with([10])).unwrap();
    round(&mut ways, now, &[10]);
    ways.host.neighbours[0] = neighbour(target(10), 7, libc::NUD_REACHABLE);
    ways.host.changes.push_back(Err(libc::ENOMEM));
    assert!(ways.follow(now));
    assert_eq!((ways.failures(), ways.trouble()), (1, None));
    assert_eq!(round(&mut ways, now, &[10])[0].as_ref().unwrap().destination_mac, [7; 6]);
}

#[test]
fn the_first_lists_have_to_be_had() {
    for which in 0..3 {
        let mut fake = Fake::with([10]);
        fake.lists[which].push_back(libc::ENOMEM);
        assert!(Ways::of(fake).is_err());
        let mut fake = Fake::with([10]);
        fake.lists[which].push_back(0);
        let ways = Ways::of(fake).unwrap();
        assert!(ways.stale.again.is_some(), "what is missing is asked for soon");
    }
}

#[test]
fn a_way_may_depend_on_where_packets_come_from() {
    let now = Instant::now();
    let (vip, away) = (target(100), target(101));
    let mut fake = Fake::with([10]);
    fake.own.push(vip);
    fake.from.extend([(vip, GATEWAY), (away, GATEWAY)]);
    let mut ways = Ways::of(fake).unwrap();
    let before = ways.begin();
    assert_eq!(ways.way(target(10), None, &before, now).unwrap().gateway, None);
    assert_eq!(ways.way(target(10), Some(vip), &before, now).unwrap().gateway, Some(GATEWAY));
    // The kernel does not choose for an address that the host does not have.
    assert_eq!(ways.way(target(10), Some(away), &before, now).unwrap().gateway, None);
    assert!(!ways.host.asked.contains(&(target(10), Some(away))));
}

/// One round that has the routers in use.
fn use_routers(ways: &mut Ways<Fake>, now: Instant) -> Result<(), String> {
    ways.follow(now);
    let before = ways.begin();
    ways.use_routers(&before, now)
}

#[test]
fn routers_are_looked_for_and_not_forgotten() {
    let (mut now, router) = (Instant::now(), target(253));
    let network: IpNet = "10.0.0.0/24".parse().unwrap();
    let steps = vec![
        Step::Router(3, router),
        Step::Network(3, network),
        // Behind no interface of Ethernet.
        Step::Router(9, target(252)),
        Step::Network(9, "10.9.0.0/24".parse().unwrap()),
    ];
    let mut ways = Ways::of(Fake { steps, ..Fake::with([10]) }).unwrap();
    use_routers(&mut ways, now).unwrap();
    assert_eq!(ways.host.probed, [router]);
    assert_eq!(ways.neighbourhood(), Neighbourhood::new([(network, 3)]));
    assert_eq!(ways.next_look(now), Some(now + ASK_AGAIN));
    let state = |ways: &mut Ways<Fake>, state: u16| {
        ways.host.changes.push_back(Ok(Change::Neighbour(neighbour(router, 1, state))));
    };
    // It has answered, and then is silent.
    for (is, times) in [(libc::NUD_REACHABLE, 1), (libc::NUD_STALE, 2)] {
        now += REFRESH;
        state(&mut ways, is);
        assert!(ways.follow(now), "it is in use");
        use_routers(&mut ways, now).unwrap();
        assert_eq!(ways.host.probed.len(), times);
    }
    state(&mut ways, libc::NUD_REACHABLE);
    now += ASK_AGAIN;
    // Somebody has it forgotten.
    ways.host.changes.push_back(Ok(Change::NeighbourGone(neighbour(router, 1, 0))));
    assert!(ways.follow(now));
    use_routers(&mut ways, now).unwrap();
    assert_eq!(ways.host.probed.len(), 3);
    // Once nobody needs it, nobody looks after it.
    ways.begin();
    assert_eq!(ways.next_look(now), None);
}

#[test]
fn routes_that_change_all_the_time_are_listed_once_in_a_while() {
    let mut now = Instant::now();
    let mut ways = Ways::of(Fake { steps: vec![Step::Router(3, GATEWAY)], ..Fake::with([10]) }).unwrap();
    for _ in 0..30 {
        ways.host.changes.push_back(Ok(Change::Ways));
        use_routers(&mut ways, now).unwrap();
        now += ROUTES_AGAIN / 10;
    }
    assert_eq!(ways.host.steps_listed, 3);
    // The last change is not missed.
    assert_eq!(ways.next_look(now), Some(now));
    use_routers(&mut ways, now).unwrap();
    assert_eq!((ways.host.steps_listed, ways.next_look(now)), (4, None));
    // Where the kernel does not say, it is as it was, and asked again.
    ways.host.no_steps = libc::ENOBUFS;
    ways.host.changes.push_back(Ok(Change::Ways));
    now += ROUTES_AGAIN;
    let why = use_routers(&mut ways, now).unwrap_err();
    assert!(why.contains("asking failed") && ways.failures() == 1, "{why}");
    assert!(ways.round.asked.contains_key(&(3, GATEWAY)));
    assert_eq!(ways.next_look(now), Some(now + ROUTES_AGAIN));
}

#[test]
fn what_is_known_of_routes_that_always_change_has_a_bound() {
    const LISTED: u32 = 4096;
    let mut now = Instant::now();
    let mut ways = Ways::of(Fake { torn: true, ..Fake::with([10]) }).unwrap();
    let mut most = 0;
    for first in (0..10).map(|number| number * LISTED) {
        let host = |number: u32| IpNet::new(Ipv4Addr::from_bits(number).into(), 32).unwrap();
        ways.host.steps = (first..first + LISTED).map(|number| Step::Network(3, host(number))).collect();
        use_routers(&mut ways, now).unwrap();
        now += ROUTES_AGAIN;
        most = most.max(ways.reach.steps.len());
        let last = Step::Network(3, host(first + LISTED - 1));
        assert!(ways.reach.steps.contains(&last), "the last list counts");
    }
    assert_eq!(most, STEPS_MAX + LISTED as usize);
}

#[test]
fn a_host_is_kept_where_it_was_not_heard_of() {
    let mut ways = Ways::of(Fake::with([10])).unwrap();
    assert!(!ways.keep(3, target(10)) && ways.keep(3, target(11)));
    ways.host.changes.push_back(Ok(Change::Neighbour(neighbour(target(10), 1, libc::NUD_STALE))));
    ways.follow(Instant::now());
    assert!(ways.keep(3, target(10)));
    assert_eq!(ways.host.probed, [target(11), target(10)]);
    // Whatever is known of it, if it is to be looked for.
    ways.host.changes.push_back(Ok(Change::Neighbour(neighbour(target(10), 1, libc::NUD_REACHABLE))));
    ways.follow(Instant::now());
    assert!(!ways.keep(3, target(10)) && ways.look_for(3, target(10)));
    ways.host.probes.insert(target(12), libc::ENOBUFS);
    assert!(!ways.keep(3, target(12)));
    assert_eq!(ways.failures(), 1);
}
