//! What passes, and between which addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use super::{Answering, ask, client, config, dropped, hear, metric};
use crate::server::Server;
use crate::support::{Config, Lbd, PATIENCE, eventually, own_ip, ping};

#[test]
fn every_size_passes_whole_both_ways() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let lbd = Lbd::start(&config(ip, &[&server]));
    let client = client(ip, lbd.address);
    for size in [1, 0, 512, 1472, 1473, 9000, 65_507, 3] {
        let sent: Vec<u8> = (0..size).map(|index: usize| u8::try_from(index % 251).unwrap()).collect();
        assert!(ask(&client, &sent).unwrap() == sent, "{size} bytes");
    }
    assert_eq!(server.sessions(), 1, "all were of one session");
    assert_eq!((lbd.service("connections_open"), lbd.service("connections_total")), (1, 1));
    assert_eq!(metric(&lbd, "service_datagrams_total", "direction=\"to_target\""), 8);
    assert_eq!(metric(&lbd, "service_datagrams_total", "direction=\"to_client\""), 8);
    assert_eq!(lbd.service("bytes_to_target"), lbd.service("bytes_to_client"));
    let target = &lbd.status()["target_groups"][0]["targets"][0];
    for key in ["bytes_to_target", "bytes_to_client"] {
        assert_eq!(target[key].as_u64(), Some(lbd.service(key)), "{key}: {target}");
    }
}

/// A sender has the kernel cut up what it hands over (UDP_SEGMENT), which the kernel leaves for last: with nobody who would take them
/// together (UDP_GRO), what comes are the datagrams, and what goes on are they.
#[test]
fn datagrams_that_are_handed_over_as_one_arrive_one_by_one() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let lbd = Lbd::start(&config(ip, &[&server]));
    let client = client(ip, lbd.address);
    assert_eq!(ask(&client, b"first").unwrap(), b"first");
    setsockopt(&client, sockopt::UdpGsoSegment, &1000).unwrap();
    // More than are received with one call, and the last one is shorter.
    let all: Vec<u8> = (0..40_500_u32).map(|index| index.to_le_bytes()[1] ^ index.to_le_bytes()[0]).collect();
    client.send(&all).unwrap();
    for (number, sent) in (1..).zip(all.chunks(1000)) {
        assert!(hear(&client).unwrap() == sent, "datagram {number} is another one");
    }
    assert_eq!(server.seen(), 42);
    for direction in ["to_target", "to_client"] {
        eventually("each is counted", || {
            metric(&lbd, "service_datagrams_total", &format!("direction=\"{direction}\"")) == 42
        });
    }
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let mut config = config(ip, &[&server]);
    let port = config.listen[0].port();
    // Every address of this host, of both families.
    config.listen = vec![format!("0.0.0.0:{port}").parse().unwrap(), format!("[::]:{port}").parse().unwrap()];
    let lbd = Lbd::start(&config);
    let [first, second, third, _] = ip.octets();
    let asked: [IpAddr; 4] = [
        ip.into(),
        [first, second, third, 201].into(),
        [first, second, third, 202].into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let source = UdpSocket::bind((ip, 0)).unwrap();
    source.set_read_timeout(Some(PATIENCE)).unwrap();
    for address in asked.into_iter().filter(IpAddr::is_ipv4) {
        // One port of the client's for all, so that only the address asked tells the sessions apart.
        source.send_to(address.to_string().as_bytes(), (address, port)).unwrap();
        let mut bytes = [0; 100];
        let (length, from) = source.recv_from(&mut bytes).unwrap();
        assert_eq!((from, &bytes[..length]), ((address, port).into(), address.to_string().as_bytes()));
    }
    assert_eq!(ask(&client(Ipv6Addr::LOCALHOST, (asked[3], port).into()), b"six").unwrap(), b"six");
    assert_eq!(server.sessions(), 4);
    assert_eq!(lbd.service("connections_open"), 4);
}

#[test]
fn ipv6_clients_and_targets() {
    let ip = own_ip();
    let (four, six) = (Answering::echo(ip), Answering::echo(Ipv6Addr::LOCALHOST));
    let mut config = config(ip, &[&six]);
    let listener = UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap();
    // A documentation address too: this host has it as little as a backup node has the VIP.
    config.listen = vec![listener, "[2001:db8::1]:5300".parse().unwrap(), config.listen[0]];
    let lbd = Lbd::start(&config);
    let largest = vec![6; 65_527];
    let from_six = client(Ipv6Addr::LOCALHOST, listener);
    assert!(ask(&from_six, &largest).unwrap() == largest);
    assert_eq!(ask(&client(ip, config.listen[2]), b"from four to six").unwrap(), b"from four to six");
    config.targets = vec![("four".to_owned(), four.address, 1)];
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(ask(&from_six, b"from six to four").unwrap(), b"from six to four");
    // Larger than IPv4 can carry.
    from_six.send(&largest).unwrap();
    eventually("it is counted", || dropped(&lbd, "too_big") == 1);
    lbd.says("datagrams are dropped");
    lbd.says("too_big");
    assert_eq!(ask(&from_six, b"after").unwrap(), b"after");
}

#[test]
fn a_tcp_service_may_have_the_same_address() {
    let ip = own_ip();
    let (stream, datagrams) = (Server::echo((ip, 0).into()), Answering::named(ip, "datagrams"));
    let tcp = Config::new(ip, &[stream.address]);
    let text = format!(
        "{}\n[[service]]\nname = \"dns\"\nmode = \"udp\"\nlisten = [\"{}\"]\nforward = \"udp\"\n\
         [[target_group]]\nname = \"udp\"\ntargets = [{{ address = \"{}\" }}]\n",
        tcp.text(),
        tcp.listen[0],
        datagrams.address
    );
    let lbd = Lbd::start(&tcp);
    lbd.write_config(&text);
    let (code, body) = lbd.ask("POST", "/v1/reload");
    assert_eq!(code, 200, "{body}");
    assert_eq!(ask(&client(ip, tcp.listen[0]), b"?").unwrap(), b"datagrams");
    assert_eq!(ping(&mut lbd.connect(), "stream").unwrap(), "stream");
    assert_eq!(lbd.reload(&tcp).0, 200);
    assert_eq!(ping(&mut lbd.connect(), "stream").unwrap(), "stream");
    let refused = ask(&client(ip, tcp.listen[0]), b"?").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// A client with so many datagrams under way; answers how many it has sent once all have come back in order.
fn keep_under_way(to: SocketAddr, from: IpAddr, window: u32, stop: &AtomicBool) -> u32 {
    let client = client(from, to);
    let (mut sent, mut heard) = (0_u32, 0_u32);
    let mut bytes = [0; 64];
    while !stop.load(Ordering::SeqCst) || heard < sent {
        while !stop.load(Ordering::SeqCst) && sent < heard + window {
            bytes[..4].copy_from_slice(&sent.to_be_bytes());
            client.send(&bytes).unwrap();
            sent += 1;
        }
        if heard < sent {
            let answer = hear(&client).expect("no datagram is lost");
            assert_eq!(answer[..4], heard.to_be_bytes(), "the order stays");
            heard += 1;
        }
    }
    sent
}

#[test]
fn nothing_is_lost_under_load_or_by_reloads() {
    let ip = own_ip();
    let servers = [Answering::echo(ip), Answering::echo(ip)];
    let config = config(ip, &servers.each_ref());
    let mut other = config.clone();
    other.listen.push((ip, 8082).into());
    other.targets[0].2 = 5;
    let lbd = Lbd::start(&config);
    let stop = AtomicBool::new(false);
    let total: u32 = std::thread::scope(|scope| {
        let (stop, address) = (&stop, lbd.address);
        let clients: Vec<_> =
            (0..6).map(|_| scope.spawn(move || keep_under_way(address, ip.into(), 16, stop))).collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..10 {
                let before = servers[0].seen() + servers[1].seen();
                assert_eq!(lbd.reload(if round % 2 == 0 { &other } else { &config }).0, 200);
                eventually("traffic goes on", || servers[0].seen() + servers[1].seen() > before + 1000);
            }
        }));
        stop.store(true, Ordering::SeqCst);
        let sent = clients.into_iter().map(|client| client.join().unwrap()).sum();
        outcome.unwrap();
        sent
    });
    assert_eq!(servers[0].seen() + servers[1].seen(), usize::try_from(total).unwrap());
    assert_eq!(servers[0].sessions() + servers[1].sessions(), 6, "each stayed with its target");
    assert_eq!(metric(&lbd, "service_datagrams_dropped_total", ""), 0);
    let answered = || metric(&lbd, "service_datagrams_total", "direction=\"to_client\"");
    eventually("all answers are counted", || answered() == u64::from(total));
}

#[test]
fn an_answer_under_way_arrives_while_the_daemon_stops() {
    let ip = own_ip();
    let server = Answering::start((ip, 0).into(), |bytes| {
        std::thread::sleep(Duration::from_millis(300));
        Some(bytes.to_vec())
    });
    let mut lbd = Lbd::start(&config(ip, &[&server]));
    let client = client(ip, lbd.address);
    client.send(b"late").unwrap();
    eventually("it is under way", || server.seen() == 1);
    lbd.signal(Signal::SIGTERM);
    assert_eq!(hear(&client).unwrap(), b"late");
    assert!(lbd.wait().success());
}

#[test]
fn a_transparent_service_shows_its_clients_to_the_targets() {
    let ip = own_ip();
    let server = Answering::echo(ip);
    let mut config = config(ip, &[&server]);
    let [first, second, third, _] = ip.octets();
    // On loopback every address is this host's, so the answers need no routing of their own.
    let from = IpAddr::from([first, second, third, 231]);
    let lbd = Lbd::start(&config);
    assert_eq!(ask(&client(from, lbd.address), b"hidden").unwrap(), b"hidden");
    assert!(!server.hosts().contains(&from));
    config.service = "transparent = true".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(ask(&client(from, lbd.address), b"shown").unwrap(), b"shown");
    assert!(server.hosts().contains(&from));
}
