//! Each algorithm that a configuration can name is the one that chooses.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::clients::{beside, fetch_from};
use crate::server::Server;
use crate::support::{Config, Lbd, eventually, own_ip, patient, reset};

/// Says its name and keeps the connection until the client ends it.
fn holding(ip: Ipv4Addr, name: &'static str) -> Server {
    Server::start((ip, 0).into(), move |mut stream| {
        // The client may have gone.
        drop(stream.write_all(name.as_bytes()));
        while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
    })
}

/// A connection that stays open, and the name of its one-letter target.
fn open(lbd: &Lbd) -> (TcpStream, String) {
    let mut stream = lbd.connect();
    let name = name(&mut stream);
    (stream, name)
}

fn name(stream: &mut TcpStream) -> String {
    let mut letter = [0];
    stream.read_exact(&mut letter).unwrap();
    String::from_utf8(letter.to_vec()).unwrap()
}

fn count(connections: &[(TcpStream, String)]) -> [usize; 2] {
    ["a", "b"].map(|name| connections.iter().filter(|(_, it)| it == name).count())
}

#[test]
fn by_load_the_less_loaded_gets_the_next() {
    for algorithm in ["least_connections", "least_outstanding_requests", "power_of_two_choices"] {
        let ip = own_ip();
        let servers = ["a", "b"].map(|name| holding(ip, name));
        let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
        config.targets[0].2 = 2;
        config.group = format!("algorithm = \"{algorithm}\"");
        let lbd = Lbd::start(&config);
        assert_eq!(lbd.status()["target_groups"][0]["algorithm"], algorithm);
        let mut connections: Vec<_> = (0..30).map(|_| open(&lbd)).collect();
        let [heavy, light] = count(&connections);
        assert!(heavy.abs_diff(20) <= 1 && light.abs_diff(10) <= 1, "{algorithm}: {heavy} and {light}");
        // Taking turns would go on giving each its share; by load all go to where there are none.
        connections.retain(|(_, name)| name == "a");
        eventually("they have ended", || {
            lbd.status()["target_groups"][0]["targets"][1]["connections_open"] == 0
        });
        let next: Vec<_> = (0..9).map(|_| open(&lbd)).collect();
        assert_eq!(count(&next), [0, 9], "{algorithm}");
    }
}

#[test]
fn by_chance_shares_follow_weights_and_nobody_takes_turns() {
    let ip = own_ip();
    let servers = ["a", "b"].map(|name| Server::named((ip, 0).into(), name));
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.targets[0].2 = 3;
    config.group = "algorithm = \"random\"".to_owned();
    let lbd = Lbd::start(&config);
    let mut heavy = 0_usize;
    let (mut run, mut longest) = (0, 0);
    for _ in 0..400 {
        let is_heavy = lbd.fetch().unwrap() == "a";
        heavy += usize::from(is_heavy);
        run = if is_heavy { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    // Six standard deviations.
    assert!(heavy.abs_diff(300) <= 52, "{heavy} of 400");
    // Two workers that take turns 3 to 1 never give the heavy one more than 6 in a row; chance does, but for once in a million.
    assert!(longest > 6, "{longest} in a row");
}

/// With a few connections that last there would otherwise be targets that nobody ever gets.
#[test]
fn each_start_draws_anew() {
    let ip = own_ip();
    let servers = ["a", "b", "c", "d"].map(|name| Server::named((ip, 0).into(), name));
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.group = "algorithm = \"random\"".to_owned();
    let firsts: Vec<String> = (0..10).map(|_| Lbd::start(&config).fetch().unwrap()).collect();
    // By chance they are all the same once in 260,000 times.
    assert!(firsts.iter().any(|first| *first != firsts[0]), "{firsts:?}");
}

/// Where 40 clients go, each of them three times.
fn homes(lbd: &Lbd, ip: Ipv4Addr) -> Vec<String> {
    (1..=40)
        .map(|client| {
            let ask = || fetch_from(beside(ip, client), lbd.address).unwrap();
            let home = ask();
            assert_eq!([ask(), ask()], [home.as_str(); 2], "client {client}");
            home
        })
        .collect()
}

#[test]
fn by_client_a_client_keeps_its_target_and_only_the_consistent_way_when_others_fail() {
    for (algorithm, consistent) in [("source_ip_hash", false), ("consistent_hash", true)] {
        let ip = own_ip();
        let servers = ["a", "b", "c"].map(|name| Server::named((ip, 0).into(), name));
        let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
        config.group = format!("algorithm = \"{algorithm}\"");
        let lbd = Lbd::start(&config);
        let before = homes(&lbd, ip);
        let mut sizes = HashMap::new();
        for home in &before {
            *sizes.entry(home.clone()).or_insert(0_usize) += 1;
        }
        assert!(sizes.len() == 3 && sizes.values().all(|&size| size >= 3), "{algorithm}: {sizes:?}");
        assert!(lbd.command(&["set", "pool/t0", "--state", "maint"]).status.success());
        let after = homes(&lbd, ip);
        let pairs = || before.iter().zip(&after);
        assert!(pairs().all(|(_, after)| after != "a"), "{algorithm}: {after:?}");
        let moved = pairs().filter(|(before, after)| *before != "a" && before != after).count();
        assert_eq!(moved == 0, consistent, "{algorithm}: {moved} moved without need");
    }
}

/// A connection from this very address and port.
fn from_port(source: SocketAddr, address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = socket.into();
    patient(&stream);
    stream
}

#[test]
fn by_flow_the_same_ports_find_the_same_target() {
    let ip = own_ip();
    let servers = ["a", "b", "c"].map(|name| holding(ip, name));
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.group = "algorithm = \"flow_hash\"".to_owned();
    let lbd = Lbd::start(&config);
    let client = beside(ip, 1);
    let home = |port: u16| {
        let mut stream = from_port((client, port).into(), lbd.address);
        let name = name(&mut stream);
        // So that the ports are free again at once.
        reset(stream);
        name
    };
    let first: Vec<String> = (20_000..20_030).map(home).collect();
    for name in ["a", "b", "c"] {
        assert!(first.iter().any(|it| it == name), "{first:?}");
    }
    assert_eq!((20_000..20_030).map(home).collect::<Vec<_>>(), first);
}
