//! Replacing the configuration of the running daemon.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;

use crate::server::{Hanging, Server};
use crate::support::{Config, Lbd, end_of, eventually, free, own_ip, ping, under_load};

#[test]
fn reloads_under_load_fail_no_connection() {
    let ip = own_ip();
    let servers = [Server::echo((ip, 0).into()), Server::echo((ip, 0).into())];
    let mut first = Config::new(ip, &servers.each_ref().map(|server| server.address));
    first.group = "health = { tcp = true, interval = \"50ms\", timeout = \"40ms\" }\ndrain_timeout = \"60s\""
        .to_owned();
    let mut second = first.clone();
    // Below the ports that outgoing connections get: nothing else may take it while it is not listened on.
    second.listen.push((ip, 8081).into());
    second.targets.remove(1);
    second.targets[0].2 = 7;
    let lbd = Lbd::start(&first);
    let mut long_lived = lbd.connect();
    assert_eq!(ping(&mut long_lived, "before").unwrap(), "before");
    under_load(&lbd, 3, |goes_on| {
        for round in 0..30 {
            let (config, other) = if round % 2 == 0 { (&second, &first) } else { (&first, &second) };
            let (code, body) = lbd.reload(config);
            assert_eq!(code, 200, "{body}");
            assert!(!body.contains(&other.listen[0].to_string()), "the common listener stays: {body}");
            goes_on();
        }
    });
    assert_eq!(ping(&mut long_lived, "after").unwrap(), "after");
    assert_eq!(lbd.status()["config_generation"], 31);
}

/// As many sockets are closed as are opened: their number alone does not say that it is done.
#[test]
fn a_listener_that_moves_away_can_move_back_at_once() {
    for mode in ["tcp", "udp"] {
        let ip = own_ip();
        let mut here = Config::new(ip, &[free(ip)]);
        here.mode = mode.to_owned();
        here.listen = vec![(ip, 8081).into()];
        let mut there = here.clone();
        there.listen = vec![(ip, 8082).into()];
        let lbd = Lbd::start(&here);
        for _ in 0..25 {
            for config in [&there, &here] {
                let (code, body) = lbd.reload(config);
                assert_eq!(code, 200, "{mode}: {body}");
            }
        }
    }
}

#[test]
fn a_bad_file_changes_nothing_and_is_reported() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let config = Config::new(ip, &[server.address]);
    let lbd = Lbd::start(&config);
    let hash = lbd.status()["config_hash"].clone();
    lbd.write_config(&config.text().replace("forward = \"pool\"", "forwrad = \"pool\"\nlimits = 3"));
    let (code, body) = lbd.ask("POST", "/v1/reload");
    assert_eq!(code, 422);
    let error =
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("pair.toml:5:1") && error.contains("forwrad"), "{error}");
    assert!(error.contains("limits"), "every error is told: {error}");
    let output = lbd.command(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("forwrad"));
    // A file that is just being written.
    lbd.write_config("");
    let (code, body) = lbd.ask("POST", "/v1/reload");
    assert!(code == 422 && body.contains("nothing to do"), "{code} {body}");
    lbd.write_config(&config.text().replace("forward = \"pool\"", "forwrad = \"pool\""));
    let refused = || lbd.log().matches("was not reloaded").count();
    eventually("the reloads so far are logged", || refused() == 3);
    lbd.signal(Signal::SIGHUP);
    eventually("the signal's reload is logged", || refused() == 4);
    lbd.says("forwrad");
    assert_eq!(lbd.status()["config_hash"], hash);
    assert_eq!(ping(&mut lbd.connect(), "hello").unwrap(), "hello");
    lbd.write_config(&config.text());
    lbd.signal(Signal::SIGHUP);
    eventually("the repaired file is taken", || lbd.status()["config_generation"] == 2);
}

#[test]
fn a_busy_new_address_refuses_the_whole_reload() {
    let ip = own_ip();
    let servers = [Server::named((ip, 0).into(), "old"), Server::named((ip, 0).into(), "new")];
    let config = Config::new(ip, &[servers[0].address]);
    let lbd = Lbd::start(&config);
    let taken = TcpListener::bind((ip, 0)).unwrap();
    let mut next = Config::new(ip, &[servers[1].address]);
    next.listen = vec![config.listen[0], free(ip), taken.local_addr().unwrap()];
    let (code, body) = lbd.reload(&next);
    assert_eq!(code, 409, "{body}");
    assert!(body.contains(&taken.local_addr().unwrap().to_string()), "{body}");
    assert_eq!(lbd.fetch().unwrap(), "old");
    assert_eq!(lbd.status()["services"][0]["listen"].as_array().unwrap().len(), 1);
    assert!(TcpListener::bind(next.listen[1]).is_ok(), "the other new address is free again");
    drop(taken);
    assert_eq!(lbd.reload(&next).0, 200);
    assert_eq!(lbd.fetch().unwrap(), "new");
}

#[test]
fn removed_listeners_close_and_their_connections_go_on() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.listen.push(free(ip));
    let lbd = Lbd::start(&config);
    let removed = config.listen.pop().unwrap();
    let mut open = crate::support::connect(removed);
    assert_eq!(ping(&mut open, "before").unwrap(), "before");
    assert_eq!(lbd.reload(&config).0, 200);
    eventually("it is refused", || {
        TcpStream::connect(removed).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert_eq!(ping(&mut open, "after").unwrap(), "after");
}

#[test]
fn connections_of_a_removed_target_end_after_its_drain_time() {
    let ip = own_ip();
    let servers = [Server::echo((ip, 0).into()), Server::echo((ip, 0).into())];
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.group = "drain_timeout = \"1s\"".to_owned();
    let lbd = Lbd::start(&config);
    let open = |server: &Server| loop {
        let before = server.accepted();
        let mut stream = lbd.connect();
        assert_eq!(ping(&mut stream, "before").unwrap(), "before");
        if server.accepted() > before {
            return stream;
        }
    };
    let (mut kept, mut removed) = (open(&servers[0]), open(&servers[1]));
    config.targets.pop();
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(ping(&mut removed, "drain").unwrap(), "drain", "it may go on for a while");
    assert_eq!(lbd.health(1), "removed");
    // What still goes through it is counted where all else is.
    let label = format!("target=\"t1\",address=\"{}\"", servers[1].address);
    let moved = format!("{label},direction=\"to_target\"");
    // "before" on each of its connections, also those that were opened for the other server, and "drain".
    let sent = 6 * u64::try_from(servers[1].accepted()).unwrap() + 5;
    assert_eq!(crate::udp::metric(&lbd, "target_bytes_total", &moved), sent);
    let (_, metrics) = lbd.ask("GET", "/metrics");
    let says = |name: &str| {
        let name = format!("tandem_lbd_{name}{{");
        metrics.lines().any(|line| line.starts_with(&name) && line.contains(&label))
    };
    assert!(says("target_connections_open") && !says("target_weight"), "{metrics}");
    assert_eq!(end_of(&mut removed).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(ping(&mut kept, "stay").unwrap(), "stay");
    eventually("it is no longer shown", || {
        lbd.status()["target_groups"][0]["targets"].as_array().unwrap().len() == 1
    });
}

#[test]
fn a_retry_goes_by_the_targets_of_its_time() {
    let ip = own_ip();
    let (hanging, removed) = (Hanging::new(ip), Server::named((ip, 0).into(), "removed"));
    let mut config = Config::new(ip, &[hanging.address, removed.address]);
    config.service = "timeout = { connect = \"2s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let mut clients: Vec<TcpStream> = (0..6).map(|_| lbd.connect()).collect();
    eventually("some are answered", || lbd.service("connections_total") == 6 && removed.accepted() > 1);
    let fresh = Server::named((ip, 0).into(), "fresh");
    config.targets[1] = ("fresh".to_owned(), fresh.address, 1);
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(lbd.service("connect_retries"), 0, "the reload came before the retries");
    // The others are still being connected to the target that hangs.
    let accepted = removed.accepted();
    let answers: Vec<String> = clients.iter_mut().map(read_all).collect();
    let count = |name: &str| answers.iter().filter(|answer| *answer == name).count();
    assert_eq!((removed.accepted(), count("removed")), (accepted, accepted), "{answers:?}");
    assert!(count("fresh") > 0 && count("fresh") == 6 - accepted, "{answers:?}");
    assert_eq!(lbd.service("connect_retries"), count("fresh") as u64);
}

#[test]
fn a_client_whose_header_comes_after_a_reload_gets_a_target_of_then() {
    let ip = own_ip();
    let (removed, fresh) = (Server::named((ip, 0).into(), "removed"), Server::named((ip, 0).into(), "fresh"));
    let mut config = Config::new(ip, &[removed.address]);
    config.service = "accept_proxy = [\"127.0.0.0/8\"]".to_owned();
    let lbd = Lbd::start(&config);
    let mut client = lbd.connect();
    client.write_all(b"PROXY TCP4 198.51.100.7 203.0.113.10 ").unwrap();
    eventually("it has been accepted", || lbd.service("connections_open") == 1);
    config.targets[0] = ("fresh".to_owned(), fresh.address, 1);
    assert_eq!(lbd.reload(&config).0, 200);
    client.write_all(b"51234 443\r\n").unwrap();
    assert_eq!((read_all(&mut client).as_str(), removed.accepted()), ("fresh", 0));
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn health_outlives_a_reload() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address, free(ip)]);
    config.group = "health = { tcp = true, interval = \"1h\" }".to_owned();
    let lbd = Lbd::start(&config);
    eventually("the first checks have decided", || {
        lbd.health(0) == "healthy" && lbd.health(1) == "unhealthy"
    });
    let since = lbd.status()["target_groups"][0]["targets"][0]["since_unix_ms"].clone();
    config.targets[0].2 = 9;
    assert_eq!(lbd.reload(&config).0, 200);
    // No check runs again within the hour, so this is what was known before.
    assert_eq!((lbd.health(0).as_str(), lbd.health(1).as_str()), ("healthy", "unhealthy"));
    assert_eq!(lbd.status()["target_groups"][0]["targets"][0]["since_unix_ms"], since);
}
