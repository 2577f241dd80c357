//! The access log's timers and termination states, and its sample.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;

use super::config;
use super::peers::{Client, Target, answer, ask, get, write};
use crate::server::Hanging;
use crate::support::{Config, Folder, Lbd, eventually, free, metric, own_ip, records, reset};

/// The daemon with a log in JSON, which is the second of the two.
fn logging(mut config: Config, service: &str) -> (Lbd, PathBuf) {
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    config.service =
        format!("access_log = {{ format = \"json\", file = \"{}\" }}\n{service}", path.display());
    (Lbd::start_in(folder, &config), path)
}

/// The five timers of a record.
fn times(record: &Value) -> Vec<i64> {
    record["times"].as_str().unwrap().split('/').map(|span| span.parse().unwrap()).collect()
}

#[test]
fn requests_have_haproxy_s_timers_and_termination_states() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| match request.line() {
        "GET /hang HTTP/1.1" => Ok(false),
        "GET /half HTTP/1.1" => {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
            Ok(false)
        }
        "GET /bad HTTP/1.1" => write(stream, "nonsense\r\n\r\n"),
        // Until the connection is given up.
        "GET /late HTTP/1.1" => stream.read(&mut [0]).map(|_| false),
        _ => answer(stream, "ok"),
    });
    let service = "timeout = { response = \"500ms\" }\n\
                   [[service.rule]]\nwhen = { path = \"/own\" }\nrespond = { status = 204 }\n\
                   [[service.rule]]\nwhen = { path = \"/denied\" }\nforward = \"pool\"\naccess = { allow = [\"192.0.2.0/24\"] }\n";
    let mut config = config(ip, &[target.address]);
    config.group = "retry = { on = [] }".to_owned();
    let (lbd, path) = logging(config, service);
    let expected = [
        ("/", 200, "--"),
        ("/own", 204, "LR"),
        ("/denied", 403, "PR"),
        ("/hang", 502, "SH"),
        ("/bad", 502, "PH"),
        ("/late", 504, "sH"),
    ];
    for (asked, status, _) in expected {
        assert_eq!(ask(lbd.address, &get(asked)).status(), status, "{asked}");
    }
    assert_eq!(ask(lbd.address, "GET /\r\n\r\n").status(), 400);
    let mut half = Client::new(lbd.address);
    assert!(half.send(get("/half")).try_answer(false).is_err(), "it is cut off");
    let all = records(&path, expected.len() + 2);
    let of = |asked: &str| all.iter().find(|record| record["path"] == asked).unwrap();
    for (asked, _, termination) in expected {
        let record = of(asked);
        assert_eq!(record["termination"], termination, "{record}");
        let [request, wait, connect, response, active] = times(record)[..] else { panic!("{record}") };
        assert!(request >= 0 && active >= request, "{record}");
        match termination {
            "LR" | "PR" => assert_eq!((wait, connect, response), (-1, -1, -1), "{record}"),
            "--" => assert!(wait == 0 && connect >= 0 && response >= 0, "{record}"),
            _ => assert!(wait == 0 && connect >= 0 && response == -1, "{record}"),
        }
    }
    // The workers' clock may be some milliseconds behind when a time-out begins.
    assert!(times(of("/late"))[4] >= 450, "{}", of("/late"));
    let refused = of("-");
    assert_eq!((&refused["termination"], times(refused)[0]), (&"PR".into(), -1), "{refused}");
    assert_eq!(of("/half")["termination"], "SD");
}

#[test]
fn requests_that_got_no_target_say_why_in_two_letters() {
    let ip = own_ip();
    let hanging = Hanging::new(own_ip());
    let (closed, slow) = (config(ip, &[free(ip)]), config(own_ip(), &[hanging.address]));
    for (config, end, termination) in [(closed, "connect_failed", "SC"), (slow, "connect_timeout", "sC")] {
        let (lbd, path) = logging(config, "timeout = { connect = \"200ms\" }\n");
        assert_eq!(ask(lbd.address, &get("/")).status(), 503);
        let record = &records(&path, 1)[0];
        assert_eq!((&record["end"], &record["termination"]), (&end.into(), &termination.into()), "{record}");
        assert_eq!((&record["group"], times(record)[2]), (&"pool".into(), -1), "{record}");
    }
}

#[test]
fn a_client_that_leaves_is_the_one_that_has_ended_it() {
    let ip = own_ip();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let target = Target::with(ip, move |_, stream| {
        wait.lock().unwrap().recv().ok();
        answer(stream, "late")
    });
    let mut config = config(ip, &[target.address]);
    config.target_keys = vec!["max_connections = 1".to_owned()];
    config.group = "queue = { timeout = \"300ms\" }".to_owned();
    let (lbd, path) = logging(config, "");
    let mut first = Client::new(lbd.address);
    first.send(get("/first"));
    eventually("it is at the target", || target.seen().len() == 1);
    // The only place is taken.
    assert_eq!(ask(lbd.address, &get("/second")).status(), 503);
    reset(first.stream().try_clone().unwrap());
    drop(first);
    let all = records(&path, 2);
    let of = |asked: &str| all.iter().find(|record| record["path"] == asked).unwrap();
    assert_eq!((&of("/second")["termination"], times(of("/second"))[2]), (&"sQ".into(), -1));
    assert!(times(of("/second"))[1] >= 300, "{}", of("/second"));
    assert_eq!((&of("/first")["end"], &of("/first")["termination"]), (&"client".into(), &"CH".into()));
    go.send(()).ok();
}

#[test]
fn a_tunnel_is_told_of_when_it_has_ended() {
    let ip = own_ip();
    // Sends back each byte until the client has ended, or sent the one that it is to reset the connection for.
    let target = Target::with(ip, |request, stream| {
        if request.field("upgrade").is_none() {
            return answer(stream, "ok");
        }
        write(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            if byte == *b"!" {
                reset(stream.get_ref().try_clone()?);
                break;
            }
            stream.get_mut().write_all(&byte)?;
        }
        Ok(false)
    });
    let (lbd, path) = logging(config(ip, &[target.address]), "");
    let open = |asked: &str| {
        let mut client = Client::new(lbd.address);
        client.send(format!("GET {asked} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"));
        assert_eq!(client.answer().status(), 101, "{asked}");
        assert_eq!(client.send("?").read(1), b"?", "{asked}");
        client
    };
    let [mut done, mut left, mut broken] = ["/done", "/left", "/broken"].map(open);
    let open_since = Instant::now();
    assert_eq!(ask(lbd.address, &get("/")).text(), "ok");
    let durations = |lbd: &Lbd| lbd.status()["services"][0]["duration"].clone();
    eventually("only the connection without a tunnel has ended", || durations(&lbd)["count"] == 1);
    let before = records(&path, 1);
    assert_eq!((before.len(), &before[0]["path"]), (1, &"/".into()), "{before:?}");
    let open_for = open_since.elapsed();
    done.finish();
    assert!(done.is_at_its_end());
    reset(left.stream().try_clone().unwrap());
    drop(left);
    assert!(broken.send("!").is_at_its_end());
    let all = records(&path, 4);
    for (asked, end, termination, sent) in
        [("/done", "done", "--", 1), ("/left", "client_reset", "CD", 1), ("/broken", "target_reset", "SD", 2)]
    {
        let record = all.iter().find(|record| record["path"] == asked).unwrap();
        assert_eq!((&record["end"], &record["termination"]), (&end.into(), &termination.into()), "{record}");
        assert_eq!((&record["status"], &record["target"]), (&101.into(), &"t0".into()), "{record}");
        assert!(u128::try_from(times(record)[4]).unwrap() >= open_for.as_millis(), "{open_for:?}: {record}");
        // All that has gone through it, behind the request.
        let seen = target.seen();
        let request = seen.iter().find(|request| request.line().contains(asked)).unwrap();
        assert_eq!(record["bytes_to_target"], request.head.len() + 4 + sent, "{record}");
    }
    // They are counted with all the time that they were open.
    let least = u64::try_from(3 * open_for.as_micros()).unwrap();
    eventually("all connections have ended", || {
        let all = durations(&lbd);
        all["count"] == 4 && all["sum_us"].as_u64() >= Some(least)
    });
}

#[test]
fn the_line_for_people_has_the_same() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = config(ip, &[target.address]);
    config.service = format!("access_log = {{ file = \"{}\" }}\n", path.display());
    let lbd = Lbd::start_in(folder, &config);
    assert_eq!(ask(lbd.address, &get("/a?b=\"c")).text(), "ok");
    eventually("a line", || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let times = text.split_once(" times=").and_then(|(_, rest)| rest.split_once(' '));
        times.is_some_and(|(times, rest)| {
            times.split('/').count() == 5
                && rest == "termination=-- status=200 reused=0 \"GET shop.example/a?b=\\x22c\"\n"
        })
    });
}

#[test]
fn of_a_sample_every_request_is_written_or_counted() {
    const REQUESTS: u64 = 400;
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = config(ip, &[target.address]);
    config.service = format!("access_log = {{ file = \"{}\", sample = 0.5 }}\n", path.display());
    let lbd = Lbd::start_in(folder, &config);
    let mut client = Client::new(lbd.address);
    for _ in 0..REQUESTS {
        assert_eq!(client.send(get("/")).answer().text(), "ok");
    }
    let written = || fs::read_to_string(&path).unwrap_or_default().lines().count() as u64;
    eventually("each is one or the other", || lbd.service("access_log_left_out") + written() == REQUESTS);
    assert!((REQUESTS / 4..=REQUESTS * 3 / 4).contains(&written()), "{}", written());
    let left_out = metric(&lbd, "tandem_lbd_service_access_log_left_out_total");
    assert_eq!(left_out["{service=\"web\"}"], REQUESTS - written());
    // A reload begins no new count.
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(lbd.service("access_log_left_out"), REQUESTS - written());
}
