//! The loop with all that it works on but a link, whose bytes the tests carry, and a control loop, which they are.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use common::hash::HashKey;
use lbd_core::group::Admin;
use lbd_core::replication::Live;
use tokio::sync::mpsc;

use super::*;
use crate::reload::Request;
use crate::replication::{Heed, Wanted, Word as Said};
use crate::shared::testing;

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the other node says of the target.
const SAID: Said = Said { admin: Admin::Drain, weight: Some(7) };

const CONFIG: &str = r#"
    [[service]]
    name = "web"
    mode = "tcp"
    listen = ["192.0.2.10:80"]
    forward = "pool"
    [[target_group]]
    name = "pool"
    sticky = { by = "source_ip", max_entries = 1 }
    targets = [{ id = "s1", address = "192.0.2.20:80" }]
"#;

/// A node that waits for the other one, and what its control loop is asked for.
fn node() -> (Driver, mpsc::Receiver<Request>) {
    let (requests, asked) = mpsc::channel(1);
    let outlets = Outlets {
        shown: Shown::default(),
        behind: watch::Sender::new(true),
        waits: Arc::new(true.into()),
        health: Arc::default(),
        requests,
        memory: Arc::default(),
        news: Arc::default(),
    };
    (Driver::new(testing::daemon(CONFIG), outlets), asked)
}

/// The other node, with what was said to it.
struct Other {
    replica: Replica,
    said: Vec<Live>,
}

impl Other {
    fn new() -> Self {
        let settings = Settings::new("b", 2, 7, HashKey::new([2; 16]), 1);
        Self { replica: Replica::new(settings, Instant::ZERO), said: Vec::new() }
    }

    /// It is told this of the target.
    fn say(&mut self, said: Said, now: Instant) {
        let target = Name::Target { group: "pool".into(), id: "s1".into() };
        let target = self.replica.name(target).expect("there is room for it");
        let entry = Entry::Target { target, state: said.state(), weight: said.weight };
        self.said = vec![Live { entry, remaining: None }];
        self.replica.changed(now, &self.said[0]);
    }

    /// There is a connection, in place of one that there was.
    fn connect(&mut self, driver: &mut Driver) {
        let now = driver.now();
        driver.replica.connected(now);
        self.replica.connected(now);
    }

    /// Both tell each other what they have until `done`.
    fn talk(&mut self, driver: &mut Driver, what: &str, done: impl Fn(&Driver) -> bool) {
        let end = driver.now() + PATIENCE;
        while !done(driver) {
            assert!(driver.now() < end, "never: {what}");
            self.exchange(driver);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn exchange(&mut self, driver: &mut Driver) {
        let now = driver.now();
        let mut bytes = Vec::new();
        // What is not read stays here.
        if driver.replica.wants_bytes() {
            while self.replica.poll_transmit(now, &mut bytes) {}
            driver.received(&bytes);
        }
        driver.work();
        bytes.clear();
        while driver.replica.poll_transmit(now, &mut bytes) {}
        self.replica.received(now, &bytes);
        while let Some(action) = self.replica.poll() {
            match action {
                Action::Apply(apply) => self.replica.applied(now, apply.id, &[]),
                Action::Scan(scan) if scan.table == Table::Targets => {
                    self.replica.scanned(now, scan.id, &self.said, None);
                }
                Action::Scan(scan) => self.replica.scanned(now, scan.id, &[], None),
                Action::SwitchRing { .. } | Action::PeerRing(_) | Action::Note(_) => {}
                Action::Disconnect(reason) => panic!("{reason}"),
            }
        }
    }
}

/// Asks the control loop, if there is something to ask; its answer, once that is there.
fn answer(driver: &mut Driver) -> Poll<Vec<bool>> {
    pin!(heeded(driver.heeding.as_mut())).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn what_the_control_loop_does_not_heed_in_time_is_told_once_more() {
    let (mut driver, mut asked) = node();
    let mut other = Other::new();
    other.connect(&mut driver);
    other.talk(&mut driver, "both are in step", Driver::is_synced);
    assert!(!*driver.outlets.behind.borrow());
    other.say(SAID, driver.now());
    let is_heeding = |driver: &Driver| driver.heeding.is_some();
    other.talk(&mut driver, "it hears of it", is_heeding);
    assert!(answer(&mut driver).is_pending());
    let Ok(Request::Heed(first, held)) = asked.try_recv() else { panic!("the control loop was not asked") };
    let wanted: Vec<_> =
        first.iter().map(|Heed { group, target, wanted, .. }| (&**group, &**target, wanted)).collect();
    assert_eq!(wanted, [("pool", "s1", &Wanted::Word(SAID))]);
    // It may take its time, in which nothing more is read.
    driver.work();
    assert!(driver.heeding.is_some() || driver.now() >= driver.heed_by);
    assert!(!driver.replica.wants_bytes());
    // As if that time were over.
    driver.heed_by = driver.heed_by.before(HEED_MAX);
    driver.work();
    assert!(driver.heeding.is_none() && held.is_closed(), "it is waited for without end");
    assert_eq!((driver.replica.state(), *driver.outlets.behind.borrow()), (State::Stale, true));
    // Nobody knows whether it will be heeded yet, so the next session brings it again.
    other.connect(&mut driver);
    other.talk(&mut driver, "it hears of it again", is_heeding);
    assert!(answer(&mut driver).is_pending() && !driver.is_synced());
    let Ok(Request::Heed(again, reply)) = asked.try_recv() else { panic!("it was not asked again") };
    assert_eq!(again, first);
    reply.send(vec![true]).expect("it is waited for");
    let Poll::Ready(known) = answer(&mut driver) else { panic!("the answer was not heard") };
    driver.heeded(&known);
    other.talk(&mut driver, "both are in step again", Driver::is_synced);
}

#[test]
fn what_is_lost_again_and_again_is_made_good_for_now_and_then() {
    let (mut driver, _asked) = node();
    let mut other = Other::new();
    other.connect(&mut driver);
    let in_step = |driver: &Driver| driver.is_synced() && driver.replica.peer_is_synced();
    let resyncs = |driver: &Driver| driver.replica.counters().resyncs;
    // More clients than there is room for news of.
    let lose = |driver: &mut Driver| {
        let (snapshot, now) = (driver.shared.snapshot.load_full(), driver.now());
        let table =
            &snapshot.group("pool").and_then(|group| group.sticky.as_ref()).expect("it is sticky").table;
        for last in 0..10 {
            drop(table.enter(&[198, 51, 100, last].into(), &"s1".into(), None, now));
        }
        driver.take_news_now(now);
        driver.work();
    };
    other.talk(&mut driver, "both are in step", in_step);
    lose(&mut driver);
    assert_eq!(resyncs(&driver), 1);
    let pause = driver.now() + ANEW_PAUSE;
    other.talk(&mut driver, "all is told once more", in_step);
    lose(&mut driver);
    let again = driver.tables.owed_at(&driver.replica);
    // Unless the pause is over by now.
    let is_late = driver.now() + SHOW_EVERY >= pause;
    assert!(is_late || (resyncs(&driver) == 1 && again.is_some()), "{again:?}");
    assert!(again <= Some(pause), "{again:?}");
    driver.tables.make_good(&mut driver.replica, pause);
    assert_eq!((resyncs(&driver), driver.tables.owed_at(&driver.replica)), (2, None));
}

#[test]
fn what_waits_for_room_waits_for_no_time() {
    let (mut driver, _asked) = node();
    let mut other = Other::new();
    other.connect(&mut driver);
    other.talk(&mut driver, "both are in step", Driver::is_synced);
    let target = Name::Target { group: "pool".into(), id: "s1".into() };
    let target = driver.replica.name(target).expect("there is room for it");
    let entry = Entry::Target { target, state: SAID.state(), weight: SAID.weight };
    let told = driver.now();
    driver.replica.changed(told, &Live { entry, remaining: None });
    // By then it is due.
    let later = told + SHOW_EVERY;
    (driver.show_at, driver.news_at, driver.scanning) = (later, None, false);
    let due = |driver: &Driver| driver.deadline().is_some_and(|deadline| deadline <= later);
    assert!(due(&driver));
    driver.waiting = Some(vec![0]);
    assert!(!due(&driver), "the thread looks for room again and again");
    driver.waiting = None;
    assert!(due(&driver));
}

#[test]
fn replication_that_fails_leaves_a_node_behind_and_shows_nothing() {
    for waits in [true, false] {
        let (shown, behind) = (Shown::default(), watch::Sender::new(false));
        let life =
            || Life { shown: Arc::clone(&shown), behind: behind.clone(), waits: Arc::new(waits.into()) };
        let view = || shown.store(Some(Arc::default()));
        view();
        drop(life());
        assert!(shown.load().is_none() && !*behind.borrow(), "an end as planned");
        view();
        let life = life();
        let failed = std::thread::spawn(move || {
            let _life = life;
            panic!("as a test");
        });
        assert!(failed.join().is_err());
        assert!(shown.load().is_none());
        assert_eq!(*behind.borrow(), waits);
    }
}

#[test]
fn who_has_no_place_for_flows_is_behind_although_in_step() {
    assert!(is_behind(true, State::Synced, true));
    assert!(!is_behind(true, State::Synced, false));
    for state in [State::Cold, State::Syncing, State::Stale] {
        assert!(is_behind(true, state, false), "{state:?}");
        assert!(
            !is_behind(false, state, true),
            "{state:?}: the other node says nothing that could be lacked"
        );
    }
}
