//! PROXY protocol headers, towards targets and from proxies in front.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::clients::{handed_over, next};
use crate::real::Process;
use crate::server::Server;
use crate::support::{Config, Folder, Lbd, connect, end_of, eventually, finish, free, own_ip, patient};

const V1: &[u8] = b"PROXY TCP4 198.51.100.7 203.0.113.10 51234 443\r\n";
/// The same header in version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\xcb\x00\x71\x0a\xc8\x22\x01\xbb";

/// What one read gets.
fn one_read(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let count = stream.read(&mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn a_header_is_taken_from_a_trusted_proxy_and_another_one_is_sent_on() {
    let ip = own_ip();
    let (server, connections) = handed_over(ip);
    let mut config = Config::new(ip, &[server.address]);
    config.service = "accept_proxy = [\"127.0.0.0/8\"]".to_owned();
    for (version, received, sent) in [("v1", V2, V1), ("v2", V1, V2)] {
        config.group = format!("send_proxy = \"{version}\"");
        let lbd = Lbd::start(&config);
        let mut client = lbd.connect();
        client.write_all(&[received, b"hello"].concat()).unwrap();
        let mut target = next(&connections);
        // Header and first bytes come together.
        assert_eq!(one_read(&mut target), [sent, b"hello"].concat());
        target.write_all(b"welcome").unwrap();
        let mut answer = [0; 7];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"welcome");
        // A header byte for byte, and the rest later.
        let mut slow = lbd.connect();
        for byte in received {
            slow.write_all(&[*byte]).unwrap();
        }
        let mut slow_target = next(&connections);
        assert_eq!(one_read(&mut slow_target), sent);
        slow.write_all(b"late").unwrap();
        assert_eq!(one_read(&mut slow_target), b"late");
        drop((client, slow, target, slow_target));
        eventually("all have ended", || lbd.service("connections_open") == 0);
        assert_eq!(lbd.service("bytes_to_target"), 9, "headers do not count");
    }
}

#[test]
fn the_header_does_not_wait_for_the_client_to_speak() {
    let ip = own_ip();
    let (server, connections) = handed_over(ip);
    let mut config = Config::new(ip, &[server.address]);
    config.group = "send_proxy = \"v1\"".to_owned();
    let lbd = Lbd::start(&config);
    let mut client = lbd.connect();
    let mut target = next(&connections);
    let (from, to) = (client.local_addr().unwrap(), lbd.address);
    let expected = format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
    assert_eq!(String::from_utf8(one_read(&mut target)).unwrap(), expected);
    target.write_all(b"220 mail").unwrap();
    assert_eq!(one_read(&mut client), b"220 mail");
}

/// Whatever has been read ahead of the relay, the end behind it is not lost.
#[test]
fn a_client_that_finishes_at_once_is_passed_on_whole() {
    let ip = own_ip();
    let (server, connections) = handed_over(ip);
    let mut config = Config::new(ip, &[server.address]);
    for accept in ["", "accept_proxy = [\"127.0.0.0/8\"]"] {
        config.service = accept.to_owned();
        config.group = "send_proxy = \"v1\"".to_owned();
        let lbd = Lbd::start(&config);
        for said in ["", "all"].repeat(20) {
            let mut client = lbd.connect();
            let header: &[u8] = if accept.is_empty() { b"" } else { V2 };
            client.write_all(&[header, said.as_bytes()].concat()).unwrap();
            finish(&client);
            let mut target = next(&connections);
            let mut received = String::new();
            target.read_to_string(&mut received).unwrap();
            assert!(
                received.starts_with("PROXY TCP4 ") && received.ends_with(&format!("\r\n{said}")),
                "{received:?}"
            );
            target.write_all(b"done").unwrap();
            drop(target);
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "done");
        }
    }
}

#[test]
fn from_elsewhere_no_header_is_read() {
    let ip = own_ip();
    let (server, connections) = handed_over(ip);
    let mut config = Config::new(ip, &[server.address]);
    config.service = "accept_proxy = [\"192.0.2.0/24\"]".to_owned();
    let lbd = Lbd::start(&config);
    let mut client = lbd.connect();
    client.write_all(V1).unwrap();
    assert_eq!(one_read(&mut next(&connections)), V1, "for the target these are bytes like others");
}

#[test]
fn what_is_no_header_is_refused_counted_and_logged() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.service = "accept_proxy = [\"127.0.0.0/8\"]".to_owned();
    let lbd = Lbd::start(&config);
    let too_long = [&V2[..14], &[0xff, 0xff], &[0; 4096]].concat();
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    let malformed: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        &too_long,
        &endless,
        b"\r\n\r\n\0\r\nQUIT\n\x31",
        b"X",
    ];
    for (count, bytes) in (1..).zip(malformed) {
        let mut client = lbd.connect();
        // It may be reset before everything is sent.
        drop(client.write_all(bytes));
        let end = end_of(&mut client).unwrap_err();
        assert!(matches!(end.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
        eventually("it is counted", || lbd.refused("proxy_header") == count);
    }
    lbd.says("does not begin with a PROXY protocol header");
    // Who leaves without a word, or in the middle of one, is counted differently.
    drop(lbd.connect());
    lbd.connect().write_all(b"PROXY TC").unwrap();
    eventually("it is counted", || lbd.refused("client_gone") == 2);
    eventually("nobody is left", || lbd.service("connections_open") == 0);
    assert_eq!(server.accepted(), 0);
    // A health check of the proxy in front.
    let mut local = lbd.connect();
    local.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00ping").unwrap();
    let mut answer = [0; 4];
    local.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

#[test]
fn lists_and_limits_are_about_the_client_that_the_header_names() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.service = "accept_proxy = [\"127.0.0.0/8\"]\naccess = { deny = [\"198.51.100.0/28\"] }\n\
                      limits = { max_connections_per_source = 1 }"
        .to_owned();
    let lbd = Lbd::start(&config);
    let speak = |client: &str| {
        let mut stream = lbd.connect();
        write!(stream, "PROXY TCP4 {client} 203.0.113.10 51234 443\r\nping").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).map(|()| stream)
    };
    assert!(speak("198.51.100.7").is_err());
    let first = speak("198.51.100.77").unwrap();
    let other = speak("198.51.100.78").unwrap();
    assert!(speak("198.51.100.77").is_err());
    assert_eq!((lbd.refused("access"), lbd.refused("max_connections_per_source")), (1, 1));
    drop((first, other));
    eventually("places are free again", || lbd.service("connections_open") == 0);
    assert!(speak("198.51.100.77").is_ok());
}

/// Whoever has one address of a network of 64 bits has all.
#[test]
fn limits_for_each_client_are_for_each_network_of_ipv6() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    let open = |lbd: &Lbd, client: &str| {
        let mut stream = lbd.connect();
        write!(stream, "PROXY TCP6 {client} 2001:db8:ffff::10 51234 443\r\nping").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).map(|()| stream)
    };
    let own = "accept_proxy = [\"127.0.0.0/8\"]\n";
    config.service = format!("{own}limits = {{ max_connections_per_source = 2 }}");
    let lbd = Lbd::start(&config);
    let held =
        ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"].map(|client| open(&lbd, client).unwrap());
    assert!(open(&lbd, "2001:db8::3:4:5:6").is_err(), "its network has two");
    let fourth = open(&lbd, "2001:db8:0:1::2").unwrap();
    assert_eq!(lbd.refused("max_connections_per_source"), 1);
    drop((held, fourth));
    eventually("places are free again", || lbd.service("connections_open") == 0);
    assert!(open(&lbd, "2001:db8::1").is_ok());
    drop(lbd);
    config.service = format!("{own}rate = {{ key = \"source_ip\", requests = 2, per = \"1h\" }}");
    let lbd = Lbd::start(&config);
    let admitted = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8::3:4:5:6", "2001:db8:0:1::1"]
        .map(|client| open(&lbd, client).is_ok());
    assert_eq!(admitted, [true, true, false, true]);
    assert_eq!(lbd.refused("rate"), 1);
}

/// HAProxy in front sends each kind of header, and HAProxy behind reads what lbd makes of it.
#[test]
fn haproxy_on_both_sides() {
    let ip = own_ip();
    let (front, back) = ([free(ip), free(ip), free(ip)], free(ip));
    let mut config = Config::new(ip, &[back]);
    config.service = "accept_proxy = [\"127.0.0.0/8\"]".to_owned();
    let sends = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"];
    let mut text = format!(
        "defaults\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
         frontend back\n mode http\n bind {back} accept-proxy\n\
         http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port] %[dst]:%[dst_port]\"\n"
    );
    for (front, send) in front.iter().zip(sends) {
        text.push_str(&format!(
            "listen front{}\n mode tcp\n unique-id-format %Ts\n bind {front}\n server lbd {} {send}\n",
            front.port(),
            config.listen[0]
        ));
    }
    let folder = Folder::new();
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let mut haproxy = Process::start_silent(&mut command);
    haproxy.until_listening(&[back], None);
    for version in ["v1", "v2"] {
        config.group = format!("send_proxy = \"{version}\"");
        let lbd = Lbd::start(&config);
        for front in front {
            let mut client = connect(front);
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            let from = client.local_addr().unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            // The client of the proxy in front, and the address that it connected to there.
            assert!(answer.ends_with(&format!("\r\n\r\n{from} {front}")), "{version}: {answer}");
        }
        assert_eq!(lbd.refused("proxy_header"), 0);
    }
}

/// A target that takes nothing without a header is checked with one.
#[test]
fn checks_begin_with_a_header_too() {
    let ip = own_ip();
    let back = free(ip);
    let text = format!(
        "defaults\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
         frontend back\n mode http\n bind {back} accept-proxy\n http-request return status 200\n"
    );
    let folder = Folder::new();
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let mut haproxy = Process::start_silent(&mut command);
    haproxy.until_listening(&[back], None);
    let mut config = Config::new(ip, &[back]);
    for (send, health) in [("v1", "healthy"), ("v2", "healthy"), ("", "unhealthy")] {
        let send = if send.is_empty() { String::new() } else { format!("send_proxy = \"{send}\"") };
        config.group = format!(
            "{send}\nhealth = {{ http = \"/\", interval = \"50ms\", timeout = \"40ms\", unhealthy_threshold = 1 }}"
        );
        let lbd = Lbd::start(&config);
        eventually("the check has decided", || lbd.health(0) == health);
    }
}

/// Connections that say nothing: a small and stated amount of memory each, and an end in time.
#[test]
fn silent_connections_cost_little_and_end_in_time() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    config.service = "accept_proxy = [\"127.0.0.0/8\"]\ntimeout = { header = \"4s\" }".to_owned();
    expect_little(&config, &[V1, b"x"].concat());
    // The same where a server name decides.
    config.service = "timeout = { header = \"4s\" }\n[[service.rule]]\nwhen = { sni = [\"a.example\"] }\n\
                      forward = \"pool\"\n"
        .to_owned();
    expect_little(&config, &crate::sni::hello("a.example"));
}

/// Opens many connections that say nothing, and meanwhile one that says `spoken`, to be echoed from its last byte on.
fn expect_little(config: &Config, spoken: &[u8]) {
    const COUNT: usize = 4000;
    /// What README says; the kernel's part of a socket is its own.
    const BYTES_EACH_MAX: u64 = 4096;
    const HEADER: Duration = Duration::from_secs(4);
    let lbd = Lbd::start(config);
    let speak = || {
        let mut client = lbd.connect();
        client.write_all(spoken).unwrap();
        client.read_exact(&mut [0]).unwrap();
    };
    // What the first connections cost is not theirs.
    speak();
    let before = lbd.resident_kib();
    let begin = Instant::now();
    let mut silent = open_many(lbd.address, COUNT);
    eventually("all are there", || lbd.service("connections_open") >= COUNT as u64);
    let all_there = begin.elapsed();
    assert!(all_there < HEADER, "too slow a machine for this test: {all_there:?}");
    let each = lbd.resident_kib().saturating_sub(before) * 1024 / COUNT as u64;
    assert!(each <= BYTES_EACH_MAX, "{each} bytes for each silent connection");
    // Others are served meanwhile.
    speak();
    eventually("all are closed", || lbd.refused("header_timeout") == COUNT as u64);
    let closed = begin.elapsed();
    assert!(closed >= HEADER && closed < HEADER + all_there + Duration::from_secs(2), "{closed:?}");
    assert_eq!(end_of(&mut silent[0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("nobody is left", || lbd.service("connections_open") == 0);
}

/// Thousands that begin a header or a hello of the greatest size and do not end it: each costs what it has sent, and all go in time.
#[test]
fn unfinished_headers_cost_what_was_sent_and_end_in_time() {
    const COUNT: usize = 2000;
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    // All but its last byte is there: a header of version 2 that says how long it is, and a hello that says the same.
    let header = [&V2[..14], &4000_u16.to_be_bytes(), &[0; 3999]].concat();
    let hello =
        [&[22, 3, 1, 0x3f, 0, 1, 0, 0x3e, 0xfc, 3, 3][..], &[0; 33], &[0x3e, 0], &[0; 15_871]].concat();
    let sni = "[[service.rule]]\nwhen = { sni = [\"a.example\"] }\nforward = \"pool\"\n";
    for (service, begun) in [("accept_proxy = [\"127.0.0.0/8\"]\n", header), (sni, hello)] {
        config.service = format!("timeout = {{ header = \"4s\" }}\n{service}");
        let lbd = Lbd::start(&config);
        // A buffer that grows may be twice as large as what is in it.
        let bytes_each_max = 2 * begun.len() as u64 + 4096;
        let before = lbd.resident_kib();
        let mut clients = open_many(lbd.address, COUNT);
        for client in &mut clients {
            client.write_all(&begun).unwrap();
        }
        eventually("all are closed", || lbd.refused("header_timeout") == COUNT as u64);
        let each = lbd.peak_kib().saturating_sub(before) * 1024 / COUNT as u64;
        assert!(each <= bytes_each_max, "{each} bytes for each of {} that were sent", begun.len());
        eventually("nobody is left", || lbd.service("connections_open") == 0);
    }
}

/// The time is one for all of it: who sends a byte now and then gets no more.
#[test]
fn a_header_that_comes_in_drops_has_no_more_time() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    let proxied = "accept_proxy = [\"127.0.0.0/8\"]\n";
    let sni = "[[service.rule]]\nwhen = { sni = [\"a.example\"] }\nforward = \"pool\"\n";
    let hello = crate::sni::hello("a.example");
    for (service, bytes) in [(proxied, V1), (proxied, V2), (sni, &hello[..])] {
        config.service = format!("timeout = {{ header = \"1s\" }}\n{service}");
        let lbd = Lbd::start(&config);
        let mut client = lbd.connect();
        // All of it would take 3 s or more.
        let sent = bytes.iter().take_while(|byte| {
            std::thread::sleep(Duration::from_millis(110));
            client.write_all(&[**byte]).is_ok()
        });
        let sent = sent.count();
        assert!(sent < bytes.len(), "it had time for all {sent} bytes");
        eventually("it is counted", || lbd.refused("header_timeout") == 1);
        eventually("its place is free", || lbd.service("connections_open") == 0);
    }
    assert_eq!(server.accepted(), 0);
}

fn open_many(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let stream = TcpStream::connect(address).unwrap();
        patient(&stream);
        stream
    };
    (0..count).map(open).collect()
}
