//! Bounds: connections, idle time, open files.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::clients::{beside, connect_from, fetch_from};
use crate::server::Server;
use crate::support::{Config, Lbd, end_of, eventually, own_ip, patient, ping};

#[test]
fn connections_over_the_limit_are_closed_at_once() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.service = "limits = { max_connections = 2 }".to_owned();
    let lbd = Lbd::start(&config);
    let mut open = [lbd.connect(), lbd.connect()];
    for stream in &mut open {
        assert_eq!(ping(stream, "hello").unwrap(), "hello");
    }
    // The reset may come while the client is still connecting.
    let error = lbd.fetch().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    eventually("it is counted", || lbd.service("refused_over_limit") == 1);
    for stream in &mut open {
        assert_eq!(ping(stream, "again").unwrap(), "again");
    }
    drop(open);
    eventually("places are free again", || lbd.service("connections_open") == 0);
    assert_eq!(ping(&mut lbd.connect(), "hello").unwrap(), "hello");
}

/// A flood of connections that are refused is not served in one go: those there are go on, and the workers live.
#[test]
fn a_flood_of_connections_holds_up_no_other() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.service = "limits = { max_connections = 4 }".to_owned();
    let lbd = Lbd::start(&config);
    let mut open: Vec<_> = (0..4).map(|_| lbd.connect()).collect();
    for stream in &mut open {
        assert_eq!(ping(stream, "before").unwrap(), "before");
    }
    let begin = Instant::now();
    let flooding = || begin.elapsed() < Duration::from_secs(2);
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while flooding() {
                    let socket =
                        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    // Under way, or no port is left for the moment.
                    drop(socket.connect(&lbd.address.into()));
                }
            });
        }
        while flooding() {
            for stream in &mut open {
                let sent = Instant::now();
                assert_eq!(ping(stream, "during").unwrap(), "during");
                longest = longest.max(sent.elapsed());
            }
        }
    });
    assert!(longest < Duration::from_secs(1), "an answer took {longest:?}");
    assert!(!lbd.log().contains("workers=0") && !lbd.log().contains("workers=1 of=2"), "{}", lbd.log());
}

#[test]
fn only_silent_connections_time_out() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.service = "timeout = { idle = \"1s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let (mut silent, mut busy) = (lbd.connect(), lbd.connect());
    assert_eq!(ping(&mut silent, "x").unwrap(), "x");
    let begin = Instant::now();
    silent.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let ended = loop {
        assert_eq!(ping(&mut busy, "y").unwrap(), "y", "a busy connection goes on");
        match end_of(&mut silent) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => break other,
        }
        assert!(begin.elapsed() < crate::support::PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    assert_eq!(ping(&mut busy, "z").unwrap(), "z");
}

/// Connections that have a target, and on which neither end says anything: a small and stated amount of memory each, and an end in time.
#[test]
fn silent_connections_with_a_target_cost_little_and_end_in_time() {
    const COUNT: usize = 4000;
    /// What README says; the kernel's part of two sockets is its own.
    const BYTES_EACH_MAX: u64 = 4096;
    /// Long enough for all to be there before the first ones end, also on a busy machine, and shorter than a test waits.
    const IDLE: Duration = Duration::from_secs(15);
    // Both ends of each are sockets of the test's.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let ip = own_ip();
    let held = Arc::new(Mutex::new(Vec::new()));
    let holding = Arc::clone(&held);
    let server = Server::start((ip, 0).into(), move |stream| holding.lock().unwrap().push(stream));
    let mut config = Config::new(ip, &[server.address]);
    config.service = "timeout = { idle = \"15s\" }".to_owned();
    let lbd = Lbd::start(&config);
    // Not more at once than a listening socket has room for.
    let open = |count: usize| -> Vec<TcpStream> {
        let before = held.lock().unwrap().len();
        let connect = |index: usize| {
            let stream = lbd.connect();
            if index % 64 == 63 {
                eventually("the target has accepted one for each", || {
                    held.lock().unwrap().len() > before + index
                });
            }
            stream
        };
        (0..count).map(connect).collect()
    };
    let at_target = || {
        let open = &lbd.status()["target_groups"][0]["targets"][0]["connections_open"];
        open.as_u64().and_then(|open| usize::try_from(open).ok()).unwrap()
    };
    // What the first ones cost, of each worker, is not theirs.
    let first = open(64);
    eventually("the first ones are there", || at_target() == first.len());
    let before = lbd.resident_kib();
    let begin = Instant::now();
    let mut silent = open(COUNT);
    eventually("all are there", || at_target() >= COUNT);
    let each = lbd.resident_kib().saturating_sub(before) * 1024 / COUNT as u64;
    assert!(each <= BYTES_EACH_MAX, "{each} bytes for each silent connection");
    let idle = || lbd.status()["services"][0]["ended"]["idle"].as_u64();
    eventually("all are closed", || idle() == Some((first.len() + COUNT) as u64));
    assert!(begin.elapsed() >= IDLE, "{:?}", begin.elapsed());
    assert_eq!(end_of(&mut silent[0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut held = held.lock().unwrap();
    assert!(held.len() >= COUNT, "each had one to the target");
    patient(&held[0]);
    assert!(matches!(end_of(&mut held[0]), Ok(0) | Err(_)));
    eventually("nobody is left", || lbd.service("connections_open") == 0);
}

#[test]
fn without_free_files_accepting_pauses_and_comes_back() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let lbd = Lbd::start(&Config::new(ip, &[server.address]));
    let errors = || -> u64 {
        let (_, metrics) = lbd.ask("GET", "/metrics");
        let lines = metrics.lines().filter(|line| line.starts_with("tandem_lbd_accept_errors_total"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    // Every number below it is in use, so that nothing can be opened.
    lbd.limit_files(3);
    let mut waiting = lbd.connect();
    let begin_ticks = cpu_ticks(&lbd);
    std::thread::sleep(Duration::from_secs(1));
    let spent = cpu_ticks(&lbd) - begin_ticks;
    lbd.limit_files(4096);
    assert_eq!(
        ping(&mut waiting, "late").unwrap(),
        "late",
        "what waited is served once there are files again"
    );
    assert!((1..200).contains(&errors()), "{}", errors());
    assert!(spent < 30, "the pause must not spin: {spent} of 100 ticks");
}

/// The client's connection took the last file: that is this host's lack, and nobody blames the target.
#[test]
fn without_a_file_for_the_target_the_client_is_refused_and_the_target_is_not_blamed() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.group = "eject = { consecutive_failures = 1, max_percent = 100 }".to_owned();
    let lbd = Lbd::start(&config);
    assert_eq!(ping(&mut lbd.connect(), "before").unwrap(), "before");
    eventually("that one has ended", || lbd.service("connections_open") == 0);
    let target = || lbd.status()["target_groups"][0]["targets"][0].clone();
    let before = target()["connections_total"].clone();
    // The API's own connections are closed soon after their answers.
    let used = || -> BTreeSet<u64> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", lbd.pid())).unwrap().flatten();
        files.map(|file| file.file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    let at_rest = || {
        let before = used();
        std::thread::sleep(Duration::from_millis(100));
        used() == before
    };
    eventually("its files are at rest", at_rest);
    let used = used();
    let free = (0..).find(|number| !used.contains(number)).unwrap();
    lbd.limit_files(free + 1);
    let refused = lbd.fetch().unwrap_err();
    lbd.limit_files(4096);
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    assert_eq!((lbd.refused("local"), lbd.refused("no_target")), (1, 0));
    assert_eq!(lbd.service("connect_local_errors"), 1);
    assert!((lbd.metric("tandem_lbd_service_connect_local_errors_total") - 1.0).abs() < 1e-9);
    let after = target();
    assert_eq!((&after["connect_failures"], &after["ejections"]), (&0.into(), &0.into()), "{after}");
    assert_eq!((&after["reason"], &after["connections_total"]), (&"in_use".into(), &before));
    lbd.says("this host cannot make a connection");
    assert_eq!(ping(&mut lbd.connect(), "again").unwrap(), "again");
}

#[test]
fn each_client_has_its_own_limit() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.service = "limits = { max_connections_per_source = 2 }".to_owned();
    let lbd = Lbd::start(&config);
    let open = |source| {
        let mut stream = connect_from(source, lbd.address)?;
        ping(&mut stream, "x").map(|_| stream)
    };
    let (one, other) = (beside(ip, 1), beside(ip, 2));
    // Many at once from each, so that both workers are asked.
    for _ in 0..5 {
        let held = [open(one).unwrap(), open(other).unwrap(), open(one).unwrap(), open(other).unwrap()];
        for source in [one, other] {
            assert_eq!(open(source).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        drop(held);
        eventually("places are free again", || lbd.service("connections_open") == 0);
    }
    assert_eq!((lbd.refused("max_connections_per_source"), lbd.service("connections_total")), (10, 20));
}

#[test]
fn a_rate_for_each_client() {
    let ip = own_ip();
    let server = Server::named((ip, 0).into(), "a");
    let mut config = Config::new(ip, &[server.address]);
    config.service = "rate = { key = \"source_ip\", requests = 5, per = \"1h\" }".to_owned();
    let lbd = Lbd::start(&config);
    for source in [beside(ip, 1), beside(ip, 2)] {
        let served = (0..8).filter(|_| fetch_from(source, lbd.address).is_ok()).count();
        assert_eq!(served, 5);
    }
    assert_eq!(lbd.refused("rate"), 6);
    // A reload that leaves the rate alone leaves the buckets alone.
    config.service.push_str("\ntimeout = { connect = \"1s\" }");
    assert_eq!(lbd.reload(&config).0, 200);
    assert!(fetch_from(beside(ip, 1), lbd.address).is_err());
    config.service = "rate = { key = \"source_ip\", requests = 1, per = \"1h\" }".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    assert!(fetch_from(beside(ip, 1), lbd.address).is_ok());
    assert_eq!(lbd.refused("rate"), 7);
}

#[test]
fn a_rate_for_all_and_one_for_each_client() {
    let ip = own_ip();
    let server = Server::named((ip, 0).into(), "a");
    let mut config = Config::new(ip, &[server.address]);
    config.service = "rate = [{ key = \"service\", requests = 12, per = \"1h\" }, { key = \"source_ip\", requests = 5, per = \"1h\" }]".to_owned();
    let lbd = Lbd::start(&config);
    let served = |source| (0..40).filter(|_| fetch_from(source, lbd.address).is_ok()).count();
    // What the first one is refused takes nothing of what the others share.
    assert_eq!([1, 2, 3, 4].map(|host| served(beside(ip, host))), [5, 5, 2, 0]);
    assert_eq!(lbd.refused("rate"), 148);
    // A reload that leaves one alone leaves its buckets alone.
    config.service = "rate = [{ key = \"source_ip\", requests = 5, per = \"1h\" }, { key = \"service\", requests = 20, per = \"1h\" }]".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!([1, 3, 4].map(|host| served(beside(ip, host))), [0, 3, 5]);
}

#[test]
fn a_rate_for_the_service_comes_back_evenly() {
    let ip = own_ip();
    let server = Server::named((ip, 0).into(), "a");
    let mut config = Config::new(ip, &[server.address]);
    config.service = "rate = { key = \"service\", requests = 20, per = \"1s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let begin = Instant::now();
    let mut served = 0_u32;
    let mut number = 0_u8;
    while begin.elapsed() < Duration::from_secs(2) {
        number = number.wrapping_add(1) % 100;
        served += u32::from(fetch_from(beside(ip, number), lbd.address).is_ok());
    }
    let allowed = 20.0 + begin.elapsed().as_secs_f64() * 20.0;
    assert!(f64::from(served) <= allowed + 1.0, "{served} of {allowed}");
    assert!(f64::from(served) >= 40.0, "{served} of {allowed}");
    assert!(lbd.refused("rate") > 0);
}

#[test]
fn keep_alive_is_set_on_both_sides_and_a_reload_changes_it() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.service = "timeout = { keepalive = \"90s\", user = \"30s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let process = format!("pid={},", lbd.pid());
    // The kernel's own word for the timers of lbd's sockets.
    let timers = || {
        let mut command = Command::new("ss");
        command.args([
            "-tnopH",
            "state",
            "established",
            "src",
            &ip.to_string(),
            "or",
            "dst",
            &ip.to_string(),
        ]);
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let ours = text.lines().filter(|line| line.contains(&process));
        ours.map(|line| line.split("timer:(").nth(1).unwrap_or("none").to_owned()).collect::<Vec<_>>()
    };
    let mut first = lbd.connect();
    assert_eq!(ping(&mut first, "x").unwrap(), "x");
    let minute =
        |timer: &String| timer.starts_with("keepalive,1min2") || timer.starts_with("keepalive,1min30");
    eventually("both sockets have the time", || timers().len() == 2 && timers().iter().all(minute));
    config.service = "timeout = { keepalive = \"20s\" }".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    drop(first);
    // Each worker applies it with its next connection, the first of which may still have the old one.
    let seconds = |timer: &String| {
        ["17", "18", "19", "20"].iter().any(|left| timer.starts_with(&format!("keepalive,{left}sec")))
    };
    eventually("new ones have the new time", || {
        let mut again = lbd.connect();
        assert_eq!(ping(&mut again, "x").unwrap(), "x");
        let mut now = Vec::new();
        // That of the target's socket is set once the connection has been silent.
        eventually("both sockets have a time", || {
            now = timers();
            now.len() == 2 && now.iter().all(|timer| timer.starts_with("keepalive"))
        });
        let done = now.iter().all(seconds);
        drop(again);
        eventually("it has ended", || lbd.service("connections_open") == 0);
        done
    });
}

/// Processor time in hundredths of a second.
fn cpu_ticks(lbd: &Lbd) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", lbd.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
