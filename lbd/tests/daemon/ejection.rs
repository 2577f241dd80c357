//! Passive ejection: targets whose connections fail are out for a while.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::server::{Hanging, Server};
use crate::support::{Config, Lbd, eventually, free, metric, own_ip, reset};

const EJECT: &str = "eject = { consecutive_failures = 3, base = \"500ms\", max = \"1500ms\" }";

fn target(lbd: &Lbd, index: usize) -> Value {
    lbd.status()["target_groups"][0]["targets"][index].clone()
}

fn reason(lbd: &Lbd, index: usize) -> String {
    target(lbd, index)["reason"].as_str().unwrap().to_owned()
}

/// Accepts, and resets without a word.
fn resetting(ip: std::net::Ipv4Addr) -> Server {
    Server::start((ip, 0).into(), |stream| {
        // Late enough that its connection has been accepted at the other end.
        std::thread::sleep(Duration::from_millis(5));
        reset(stream);
    })
}

#[test]
fn a_target_that_refuses_is_ejected_and_comes_back() {
    let ip = own_ip();
    let good = Server::named((ip, 0).into(), "good");
    let dead = free(ip);
    let mut config = Config::new(ip, &[good.address, dead]);
    config.group = EJECT.to_owned();
    let lbd = Lbd::start(&config);
    eventually("it is ejected", || {
        assert_eq!(lbd.fetch().unwrap(), "good");
        reason(&lbd, 1) == "ejected"
    });
    let shown = target(&lbd, 1);
    assert!(shown["ejected_for_ms"].as_u64().is_some_and(|ms| ms <= 500), "{shown}");
    assert_eq!(
        (&shown["health"], &shown["share"], &shown["ejections"]),
        (&"unchecked".into(), &0.into(), &1.into())
    );
    let retries = lbd.service("connect_retries");
    for _ in 0..5 {
        assert_eq!(lbd.fetch().unwrap(), "good");
    }
    assert!(lbd.service("connect_retries") == retries || target(&lbd, 1)["ejected_for_ms"].is_null());
    eventually("it is tried again", || reason(&lbd, 1) == "in_use");
    // It still refuses, so that the second time is longer than the first.
    let mut longest = 0;
    eventually("it is ejected for longer", || {
        assert_eq!(lbd.fetch().unwrap(), "good");
        longest = longest.max(target(&lbd, 1)["ejected_for_ms"].as_u64().unwrap_or(0));
        longest > 500
    });
    eventually("it is tried again", || reason(&lbd, 1) == "in_use");
    let _back = Server::named(dead, "back");
    eventually("it serves", || lbd.fetch().unwrap() == "back");
    lbd.says("target is ejected");
    lbd.says("target is back after its ejection");
}

/// Each in a row lasts `base` longer than the one before; the API, `lbd status` and the log say how long and the
/// how-many-th it is.
#[test]
fn each_ejection_in_a_row_is_longer() {
    const BASE_MS: u64 = 1000;
    let ip = own_ip();
    let good = Server::named((ip, 0).into(), "good");
    let mut config = Config::new(ip, &[good.address, free(ip)]);
    config.group = "eject = { consecutive_failures = 2, base = \"1s\", max = \"3s\" }".to_owned();
    let lbd = Lbd::start(&config);
    // As soon as it is back it is tried again, long before it could be forgiven.
    for times in 1..=3_u64 {
        let mut shown = Value::Null;
        eventually("it is ejected", || {
            assert_eq!(lbd.fetch().unwrap(), "good");
            shown = target(&lbd, 1);
            shown["ejections"] == times
        });
        let rest = shown["ejected_for_ms"].as_u64().unwrap();
        assert!(rest <= times * BASE_MS && rest > (times - 1) * BASE_MS, "number {times}: {shown}");
        assert_eq!(shown["ejections_in_a_row"], times, "{shown}");
        let until = shown["ejected_until_unix_ms"].as_u64().unwrap();
        let table = String::from_utf8(lbd.command(&["status"]).stdout).unwrap();
        let row = table.lines().find(|line| line.contains(" t1 ")).unwrap();
        assert!(row.contains("ejected until 2") && row.contains(&format!("({times} in a row)")), "{row}");
        eventually("it is back", || reason(&lbd, 1) == "in_use");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        assert!(now + 50 >= u128::from(until), "not before {until}: {now}");
    }
    for times in 1..=3 {
        lbd.says(&format!("time={times}s in_a_row={times}"));
    }
}

#[test]
fn a_target_that_resets_is_ejected_and_never_too_many() {
    let ip = own_ip();
    let servers = [resetting(ip), resetting(ip), resetting(ip)];
    let good = Server::named((ip, 0).into(), "good");
    let mut config =
        Config::new(ip, &[servers[0].address, servers[1].address, servers[2].address, good.address]);
    config.group =
        "eject = { consecutive_failures = 3, base = \"1h\", max = \"1h\", max_percent = 50 }".to_owned();
    let lbd = Lbd::start(&config);
    let out = || (0..4).filter(|&index| reason(&lbd, index) == "ejected").count();
    eventually("half of them are out", || {
        drop(lbd.fetch());
        out() == 2
    });
    let refused = || -> u64 {
        metric(&lbd, "tandem_lbd_target_ejections_total")
            .iter()
            .filter_map(|(labels, count)| labels.contains("refused").then_some(count))
            .sum()
    };
    eventually("the third one is asked for in vain", || {
        drop(lbd.fetch());
        refused() > 0
    });
    assert_eq!((out(), reason(&lbd, 3).as_str()), (2, "in_use"));
    // With a larger share allowed it goes as well, and a reload does not let the others back in.
    config.group = config.group.replace("50", "75");
    assert_eq!(lbd.reload(&config).0, 200);
    eventually("only the good one is left", || {
        drop(lbd.fetch());
        out() == 3
    });
    for _ in 0..10 {
        assert_eq!(lbd.fetch().unwrap(), "good");
    }
    config.group = String::new();
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(out(), 0, "without `eject` none is out");
}

#[test]
fn a_target_whose_connects_time_out_is_ejected() {
    let ip = own_ip();
    let (good, hanging) = (Server::named((ip, 0).into(), "good"), Hanging::new(ip));
    let mut config = Config::new(ip, &[good.address, hanging.address]);
    config.service = "timeout = { connect = \"50ms\" }".to_owned();
    config.group = EJECT.replace("500ms", "1h").replace("1500ms", "1h");
    let lbd = Lbd::start(&config);
    eventually("it is ejected", || {
        assert_eq!(lbd.fetch().unwrap(), "good");
        reason(&lbd, 1) == "ejected"
    });
    let shown = target(&lbd, 1);
    let timeouts = shown["connect_timeouts"].as_u64().unwrap();
    assert!(timeouts >= 3 && shown["connect_failures"] == timeouts, "{shown}");
    lbd.says("failure=\"timeout\"");
}

#[test]
fn one_answer_in_between_keeps_a_target_in() {
    let ip = own_ip();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let flaky = Server::start((ip, 0).into(), move |mut stream| {
        if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst).is_multiple_of(2) {
            // The client may have gone.
            drop(std::io::Write::write_all(&mut stream, b"fine"));
        } else {
            std::thread::sleep(Duration::from_millis(5));
            reset(stream);
        }
    });
    let other = Server::named((ip, 0).into(), "other");
    let mut config = Config::new(ip, &[flaky.address, other.address]);
    config.group = EJECT.replace('3', "2");
    let lbd = Lbd::start(&config);
    for _ in 0..40 {
        drop(lbd.fetch());
    }
    assert_eq!((reason(&lbd, 0).as_str(), target(&lbd, 0)["ejections"].as_u64()), ("in_use", Some(0)));
}
