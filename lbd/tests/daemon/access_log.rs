//! One line for each connection, and the histograms.

use std::fs;
use std::io::{Read, Write};

use nix::sys::signal::Signal;

use crate::clients::{handed_over, next};
use crate::server::Server;
use crate::support::{Config, Folder, Lbd, eventually, finish, free, own_ip, ping, records, reset};

#[test]
fn a_connection_is_logged_with_its_phases_and_why_it_ended() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = Config::new(ip, &[server.address]);
    config.service = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}\nlimits = {{ max_connections = 1 }}\n\
         access = {{ allow = [{{ network = \"127.0.0.0/8\", tag = \"here\" }}] }}",
        path.display()
    );
    let lbd = Lbd::start_in(folder, &config);
    let mut client = lbd.connect();
    let from = client.local_addr().unwrap();
    assert_eq!(ping(&mut client, "hello").unwrap(), "hello");
    // One too many, while the first is open.
    // Without a time limit, which is kept by waiting, and a reset that has come meanwhile would be the result.
    let refused = std::net::TcpStream::connect(lbd.address).unwrap();
    let refused_from = refused.local_addr().unwrap();
    eventually("it was refused", || lbd.service("refused_over_limit") == 1);
    finish(&client);
    assert_eq!(crate::support::end_of(&mut client).unwrap(), 0);
    let logged = records(&path, 2);

    assert_eq!(logged[0]["client"], refused_from.to_string());
    assert_eq!(logged[0]["end"], "max_connections");
    assert_eq!((&logged[0]["tries"], &logged[0]["tag"]), (&0.into(), &"here".into()));
    assert!(logged[0].get("target").is_none(), "{}", logged[0]);

    let done = &logged[1];
    assert_eq!(done["client"], from.to_string());
    assert_eq!(
        (&done["service"], &done["group"], &done["target"]),
        (&"web".into(), &"pool".into(), &"t0".into())
    );
    assert_eq!(done["listen"], lbd.address.to_string());
    assert_eq!(done["target_address"], server.address.to_string());
    assert_eq!((&done["end"], &done["tries"]), (&"done".into(), &1.into()));
    assert_eq!((&done["bytes_to_target"], &done["bytes_to_client"]), (&5.into(), &5.into()));
    let micros = |key: &str| done[key].as_u64().unwrap_or_else(|| panic!("{key} of {done}"));
    assert!(micros("connect_us") + micros("first_byte_us") <= micros("total_us") + 2, "{done}");

    // The same connection in the histograms.
    let (_, metrics) = lbd.ask("GET", "/metrics");
    for line in [
        "tandem_lbd_service_connection_duration_seconds_count{service=\"web\"} 1".to_owned(),
        "tandem_lbd_service_connection_duration_seconds_bucket{le=\"+Inf\",service=\"web\"} 1".to_owned(),
        format!(
            "tandem_lbd_target_first_byte_seconds_count{{group=\"pool\",target=\"t0\",address=\"{}\"}} 1",
            server.address
        ),
    ] {
        assert!(metrics.lines().any(|have| have == line), "{line} in {metrics}");
    }
    let status = lbd.status();
    assert!(status["services"][0]["duration"]["p99_us"].as_u64() >= Some(micros("total_us")), "{status}");
    assert_eq!(status["services"][0]["access_log_lost"], 0);
    let target = &status["target_groups"][0]["targets"][0];
    assert!(target["connect_time"]["p50_us"].is_u64(), "{status}");
    // The API has the whole histograms, too.
    for (name, shown) in [
        ("service_connection_duration", &status["services"][0]["duration"]),
        ("target_connect", &target["connect_time"]),
        ("target_first_byte", &target["first_byte_time"]),
    ] {
        assert_eq!(buckets_shown(shown), buckets_in(&metrics, name), "{name}");
        assert_eq!(shown["count"], 1, "{name}");
    }
    assert_eq!(status["services"][0]["duration"]["sum_us"], micros("total_us"));
}

/// The buckets of a histogram in the metrics: bounds, as seconds in words, and how many took no longer.
fn buckets_in(metrics: &str, name: &str) -> Vec<(String, u64)> {
    let prefix = format!("tandem_lbd_{name}_seconds_bucket{{");
    let bucket = |row: &str| {
        let bound = row.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let count = row.rsplit(' ').next().unwrap().parse().unwrap();
        let seconds = bound.parse::<f64>().unwrap();
        (if seconds.is_finite() { format!("{seconds:.6}") } else { "none".to_owned() }, count)
    };
    metrics.lines().filter(|line| line.starts_with(&prefix)).map(bucket).collect()
}

/// The same of a histogram in the API.
fn buckets_shown(shown: &serde_json::Value) -> Vec<(String, u64)> {
    let bucket = |bucket: &serde_json::Value| {
        let seconds = bucket["up_to_us"].as_f64().map(|micros| micros / 1e6);
        let bound = seconds.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds:.6}"));
        (bound, bucket["count"].as_u64().unwrap())
    };
    shown["buckets"].as_array().unwrap().iter().map(bucket).collect()
}

#[test]
fn who_is_refused_behind_a_proxy_is_logged_by_name_with_what_was_waited_for() {
    for mode in ["tcp", "http"] {
        expect_refusals(mode);
    }
}

fn expect_refusals(mode: &str) {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = Config::new(ip, &[server.address]);
    config.mode = mode.to_owned();
    config.service = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}\naccept_proxy = [\"127.0.0.0/8\"]\n\
         access = {{ deny = [{{ network = \"198.51.100.0/24\", tag = \"scraper\" }}] }}\n\
         timeout = {{ header = \"1s\" }}",
        path.display()
    );
    let lbd = Lbd::start_in(folder, &config);
    let mut denied = lbd.connect();
    let proxy = denied.local_addr().unwrap();
    denied.write_all(b"PROXY TCP4 198.51.100.7 203.0.113.10 51234 443\r\n").unwrap();
    let logged = &records(&path, 1)[0];
    assert_eq!((&logged["end"], &logged["tag"]), (&"access".into(), &"scraper".into()), "{logged}");
    assert_eq!(logged["client"], "198.51.100.7:51234");
    assert_eq!(logged["listen"], "203.0.113.10:443");
    assert_eq!(logged["proxy"], proxy.to_string());
    assert!(logged["header_us"].as_u64() <= logged["total_us"].as_u64(), "{logged}");
    assert!(logged.get("status").is_none(), "there is no request: {logged}");
    // And who says nothing is only known as what it came from, after all the time that it had.
    let silent = lbd.connect();
    let logged = &records(&path, 2)[1];
    assert_eq!(logged["end"], "header_timeout");
    assert_eq!(logged["client"], silent.local_addr().unwrap().to_string());
    assert!(logged.get("proxy").is_none(), "{logged}");
    assert!(logged["header_us"].as_u64() >= Some(1_000_000), "{logged}");
    // So is who speaks without a header.
    let mut strange = lbd.connect();
    strange.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let logged = &records(&path, 3)[2];
    assert_eq!(logged["end"], "proxy_header");
    assert_eq!(logged["client"], strange.local_addr().unwrap().to_string());
    assert!(logged.get("proxy").is_none(), "{logged}");
}

#[test]
fn waiting_in_the_queue_is_no_part_of_connecting() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = Config::new(ip, &[server.address]);
    config.service = format!("access_log = {{ format = \"json\", file = \"{}\" }}", path.display());
    config.target_keys = vec!["max_connections = 1".to_owned()];
    config.group = "queue = { timeout = \"300ms\" }".to_owned();
    let lbd = Lbd::start_in(folder, &config);
    let mut first = lbd.connect();
    assert_eq!(ping(&mut first, "hello").unwrap(), "hello");
    let _second = std::net::TcpStream::connect(lbd.address).unwrap();
    let logged = &records(&path, 1)[0];
    assert_eq!((&logged["end"], &logged["tries"]), (&"queue_timeout".into(), &0.into()), "{logged}");
    assert!(logged["queue_us"].as_u64() >= Some(300_000), "{logged}");
    assert!(logged.get("connect_us").is_none(), "{logged}");
    // One that gets a place in time.
    let mut third = lbd.connect();
    eventually("it waits", || lbd.waiting() == 1);
    finish(&first);
    assert_eq!(crate::support::end_of(&mut first).unwrap(), 0);
    assert_eq!(ping(&mut third, "here").unwrap(), "here");
    finish(&third);
    let all = records(&path, 3);
    let logged =
        all.iter().find(|it| it.get("queue_us").is_some() && it["end"] == "done").expect("it waited");
    assert!(logged["queue_us"].as_u64() > Some(0) && logged["connect_us"].is_u64(), "{logged}");
    let status = lbd.status();
    assert_eq!(status["services"][0]["queued_total"], 2);
    // Nor in the histograms: one has what connecting took, one the waits, that in vain included.
    let sum = |key: &str| all.iter().filter_map(|it| it[key].as_u64()).sum::<u64>();
    let group = &status["target_groups"][0];
    let connects = &group["targets"][0]["connect_time"];
    assert_eq!(connects["count"], 2, "{status}");
    assert!(connects["sum_us"].as_u64() <= Some(sum("connect_us")), "{connects} {all:?}");
    let waits = &group["queue_time"];
    assert_eq!((&waits["count"], &waits["sum_us"]), (&2.into(), &sum("queue_us").into()), "{all:?}");
    let (_, metrics) = lbd.ask("GET", "/metrics");
    assert_eq!(buckets_shown(waits), buckets_in(&metrics, "group_queue"));
    assert_eq!(buckets_shown(connects), buckets_in(&metrics, "target_connect"));
}

#[test]
fn the_log_tells_ends_apart() {
    let ip = own_ip();
    let (server, connections) = handed_over(ip);
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = Config::new(ip, &[server.address]);
    config.service = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}\ntimeout = {{ idle = \"3s\" }}",
        path.display()
    );
    let mut lbd = Lbd::start_in(folder, &config);
    let connected = |lbd: &Lbd| (lbd.connect(), next(&connections));
    let set = |lbd: &Lbd, state: &str| {
        assert!(lbd.command(&["set", "pool/t0", "--state", state]).status.success());
    };
    // Each has ended before the next one begins.
    let mut count = 0;
    let mut ended = |end: &str| {
        count += 1;
        let last = records(&path, count).swap_remove(count - 1);
        let target = if end == "no_target" { serde_json::Value::Null } else { "t0".into() };
        assert_eq!((&last["end"], &last["target"]), (&end.into(), &target), "{last}");
    };
    let (client, _target) = connected(&lbd);
    reset(client);
    ended("client_reset");
    let (mut client, mut target) = connected(&lbd);
    // Else it may be reset before `lbd` has seen that it is connected.
    target.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    reset(target);
    ended("target_reset");
    let _silent = connected(&lbd);
    ended("idle");
    let _held = connected(&lbd);
    set(&lbd, "maint");
    ended("drained");
    assert!(lbd.fetch().is_err());
    ended("no_target");
    set(&lbd, "ready");
    config.targets[0].1 = free(ip);
    assert_eq!(lbd.reload(&config).0, 200);
    assert!(lbd.fetch().is_err());
    ended("connect_failed");
    config.targets[0].1 = server.address;
    assert_eq!(lbd.reload(&config).0, 200);
    let _open = connected(&lbd);
    lbd.signal(Signal::SIGTERM);
    lbd.says("waiting for open connections");
    lbd.signal(Signal::SIGTERM);
    assert!(lbd.wait().success());
    ended("stopped");
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file_and_the_last_lines_are_written_at_the_end() {
    let ip = own_ip();
    let server = Server::named((ip, 0).into(), "a");
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = Config::new(ip, &[server.address]);
    config.service = format!("access_log = {{ format = \"json\", file = \"{}\" }}", path.display());
    let mut lbd = Lbd::start_in(folder, &config);
    lbd.fetch().unwrap();
    assert_eq!(records(&path, 1).len(), 1);
    let rotated = path.with_extension("1");
    fs::rename(&path, &rotated).unwrap();
    lbd.signal(Signal::SIGHUP);
    eventually("the file is opened anew", || path.exists());
    lbd.fetch().unwrap();
    assert_eq!(records(&path, 1).len(), 1);
    // A configuration with errors is refused, but rotation is not its business.
    fs::rename(&path, path.with_extension("2")).unwrap();
    lbd.write_config("nonsense");
    lbd.signal(Signal::SIGHUP);
    eventually("the file is opened anew", || path.exists());
    lbd.fetch().unwrap();
    eventually("the connection has ended", || lbd.service("connections_open") == 0);
    lbd.signal(Signal::SIGTERM);
    assert!(lbd.wait().success());
    assert_eq!(records(&path, 1).len(), 1);
}

#[test]
fn lines_are_for_people_and_go_to_standard_output() {
    let ip = own_ip();
    let server = Server::named((ip, 0).into(), "a");
    let mut config = Config::new(ip, &[server.address]);
    config.service = "access_log = { format = \"line\" }".to_owned();
    let folder = Folder::new();
    let output = folder.path().join("out");
    let file = fs::File::create(&output).unwrap();
    let text = config.text();
    let lbd = Lbd::start_with(folder, &text, config.listen[0], |command| {
        command.stdout(file);
    });
    lbd.connect().write_all(b"x").unwrap();
    eventually("a line", || {
        let text = fs::read_to_string(&output).unwrap();
        text.contains(" web 127.") && text.contains(" -> pool/t0 ") && text.contains(" end=")
    });
}
