//! Bounds: connections, idle time, open files.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use nix::libc;

use crate::server::Server;
use crate::support::{Config, Lbd, end_of, eventually, own_ip, ping};

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
    let limit = |soft: u64| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: 4096 };
        // SAFETY: the pointer is to a whole rlimit that outlives the call, and the old one is not asked for.
        let done =
            unsafe { libc::prlimit(lbd.pid().as_raw(), libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
        assert_eq!(done, 0);
    };
    // Every number below it is in use, so that nothing can be opened.
    limit(3);
    let mut waiting = lbd.connect();
    let begin_ticks = cpu_ticks(&lbd);
    std::thread::sleep(Duration::from_secs(1));
    let spent = cpu_ticks(&lbd) - begin_ticks;
    limit(4096);
    assert_eq!(
        ping(&mut waiting, "late").unwrap(),
        "late",
        "what waited is served once there are files again"
    );
    assert!((1..200).contains(&errors()), "{}", errors());
    assert!(spent < 30, "the pause must not spin: {spent} of 100 ticks");
}

/// Processor time in hundredths of a second.
fn cpu_ticks(lbd: &Lbd) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", lbd.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
