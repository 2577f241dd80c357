//! Who is not the peer is refused and counted, and does not keep the peer away.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::key::PairKey;
use rustls::{ClientConfig, ClientConnection};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::Settings;
use super::super::error::Refusal;
use super::super::identity::Identity;
use super::proxy::{PROXY_PORT, Proxy, connect_from};
use super::support::{Node, key, nowhere, own_ip, pair, run, sessions, until};

/// What a handshake of a client of the test's own brings, with `config`, from `from`.
async fn handshake(config: Arc<ClientConfig>, from: IpAddr, to: SocketAddr) -> std::io::Result<()> {
    use tokio::io::AsyncReadExt as _;
    let stream = connect_from(from, to)?;
    stream.set_nonblocking(true)?;
    let connector = TlsConnector::from(config);
    let mut stream = connector.connect(to.ip().into(), TcpStream::from_std(stream)?).await?;
    // In TLS 1.3, whether the other end accepts shows with its first word.
    stream.read_u8().await.map(drop)
}

/// The client's first bytes.
fn client_hello(config: &Arc<ClientConfig>, to: IpAddr) -> Vec<u8> {
    let mut client = ClientConnection::new(Arc::clone(config), to.into()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Writes `bytes`, and reads until the other end closes.
fn say(from: IpAddr, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect_from(from, to).unwrap();
    stream.write_all(bytes).ok();
    stream.shutdown(std::net::Shutdown::Write).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    answer
}

/// Node `b`, and the address of the `a` that the test plays.
fn b_alone() -> (Node, Settings, IpAddr) {
    let (a, mut b) = pair();
    nowhere(&mut b);
    let node = Node::start(&b);
    run(until("it listens", || node.stats.is_listening()));
    (node, b, a.own_address.ip())
}

#[test]
fn another_key_is_refused_and_named_at_both_ends() {
    let (mut a, b) = pair();
    a.key = PairKey::new([8; 32]);
    let (a, b) = (Node::start(&a), Node::start(&b));
    run(async {
        for node in [&a, &b] {
            until("it is counted both ways", || {
                node.failed(Refusal::Key) > 1 && node.refused(Refusal::Key) > 1
            })
            .await;
            for told in [node.failure(), node.refusal()] {
                assert!(told.contains("the key_file must hold the same key"), "{told}");
            }
        }
        assert_eq!((a.stats.sessions.get(), b.stats.sessions.get()), (0, 0));
    });
}

#[test]
fn the_right_key_under_a_wrong_name_is_refused() {
    let (mut a, b) = pair();
    a.peer = "c".to_owned();
    let (a, b) = (Node::start(&a), Node::start(&b));
    run(async {
        until("it is counted", || a.failed(Refusal::Key) > 0 && b.refused(Refusal::Key) > 0).await;
        assert_eq!((a.stats.sessions.get(), b.stats.sessions.get()), (0, 0));
    });
}

#[test]
fn a_connection_turned_back_to_where_it_came_from_is_refused() {
    let (mut a, b) = pair();
    a.peer_address.set_port(PROXY_PORT);
    let proxy = Proxy::start(a.peer_address, b.own_address.ip(), a.own_address);
    let a = Node::start(&a);
    run(async {
        until("it is refused at both ends", || a.failed(Refusal::Key) > 1 && a.refused(Refusal::Key) > 1)
            .await;
        assert!(a.stats.sessions.get() == 0 && !proxy.recorded.lock().unwrap().is_empty());
    });
}

#[test]
fn whoever_knows_the_key_is_still_not_the_peer_by_another_name() {
    let (b, settings, from) = b_alone();
    // It shows `b`'s own key, and another node's, to `b`.
    for name in ["b", "c"] {
        let before = b.refused(Refusal::Key);
        let client = Identity::new(&key(), name, "b").unwrap().client;
        run(handshake(client, from, settings.own_address)).unwrap_err();
        run(until("it is refused", || b.refused(Refusal::Key) > before));
    }
    assert!(b.refusal().contains("does not have the other node's key"), "{}", b.refusal());
    assert_eq!(b.stats.sessions.get(), 0);
}

#[test]
fn another_address_is_refused_before_a_byte_is_read() {
    let (b, settings, _) = b_alone();
    let client = Identity::new(&key(), "a", "b").unwrap().client;
    assert!(say(own_ip(), settings.own_address, &client_hello(&client, own_ip())).is_empty());
    run(until("it is counted", || b.refused(Refusal::Address) == 1));
    assert!(b.refusal().contains("peer_address"), "{}", b.refusal());
}

#[test]
fn what_is_not_tls_is_refused() {
    let (b, settings, from) = b_alone();
    let noise: [&[u8]; 3] = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[0xff; 300], &[0; 300]];
    for noise in noise {
        let before = b.refused(Refusal::NotTls);
        say(from, settings.own_address, noise);
        run(until("it is counted", || b.refused(Refusal::NotTls) == before + 1));
    }
    assert!(b.refusal().contains("not TLS"), "{}", b.refusal());
}

#[test]
fn a_handshake_that_breaks_off_anywhere_is_refused() {
    let (b, settings, from) = b_alone();
    let client = Identity::new(&key(), "a", "b").unwrap().client;
    let hello = client_hello(&client, from);
    for length in [0, 1, 5, 20, hello.len() / 2, hello.len() - 1, hello.len()] {
        let before = b.refused(Refusal::Closed);
        say(from, settings.own_address, &hello[..length]);
        run(until("it is counted", || b.refused(Refusal::Closed) == before + 1));
    }
    assert_eq!(b.stats.sessions.get(), 0);
}

#[test]
fn other_protocols_inside_tls_are_refused() {
    let (b, settings, from) = b_alone();
    for protocols in [vec![], vec![b"tandem-replication/2".to_vec()], vec![b"h2".to_vec()]] {
        let before = b.refused(Refusal::Protocol);
        let mut client = (*Identity::new(&key(), "a", "b").unwrap().client).clone();
        client.alpn_protocols = protocols;
        run(handshake(Arc::new(client), from, settings.own_address)).unwrap_err();
        run(until("it is counted", || b.refused(Refusal::Protocol) == before + 1));
    }
    assert!(b.refusal().contains("same Tandem release"), "{}", b.refusal());
}

#[test]
fn other_clients_of_tls_are_refused() {
    let (b, settings, from) = b_alone();
    for (version, why) in [("-tls1_2", Refusal::Version), ("-tls1_3", Refusal::KeyType)] {
        let openssl = Command::new("openssl")
            .args(["s_client", version, "-alpn", "tandem-replication/1", "-bind", &format!("{from}:0")])
            .args(["-connect", &settings.own_address.to_string()])
            .stdin(Stdio::null())
            .output();
        assert!(!openssl.unwrap().status.success());
        run(until("it is counted", || b.refused(why) == 1));
    }
    assert_eq!(b.stats.sessions.get(), 0);
}

#[test]
fn a_client_without_a_key_is_refused() {
    let (b, settings, from) = b_alone();
    let mut client = (*Identity::new(&key(), "a", "b").unwrap().client).clone();
    client.client_auth_cert_resolver = Arc::new(NoKey);
    run(handshake(Arc::new(client), from, settings.own_address)).unwrap_err();
    run(until("it is counted", || b.refused(Refusal::Key) == 1));
}

/// Offers a raw public key, and has none.
#[derive(Debug)]
struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn recorded_bytes_are_of_no_use_a_second_time() {
    let (mut a, mut b) = pair();
    let (from, to) = (a.own_address.ip(), b.own_address);
    a.peer_address.set_port(PROXY_PORT);
    nowhere(&mut b);
    let proxy = Proxy::start(a.peer_address, from, to);
    let (node_a, node_b) = (Node::start(&a), Node::start(&b));
    run(async { drop(sessions(&node_a, &node_b).await) });
    drop((node_a, node_b));
    // Whatever was recorded that led to a session; against a new life of `b`, and once more against the same.
    let recorded = proxy.recorded.lock().unwrap().iter().max_by_key(|bytes| bytes.len()).unwrap().clone();
    let node_b = Node::start(&b);
    for time in 1..=2 {
        run(until("it listens", || node_b.stats.is_listening()));
        say(from, to, &recorded);
        run(until("it is refused", || node_b.refused(Refusal::Forged) == time));
    }
    assert!(node_b.refusal().contains("changes or repeats"), "{}", node_b.refusal());
    assert_eq!(node_b.stats.sessions.get(), 0);
}

#[test]
fn idle_connections_time_out_and_do_not_keep_the_peer_away() {
    let (mut a, mut b) = pair();
    b.timing.handshake = Duration::from_secs(2);
    nowhere(&mut b);
    nowhere(&mut a);
    let node_b = Node::start(&b);
    run(until("it listens", || node_b.stats.is_listening()));
    let idle: Vec<_> = (0..20).map(|_| connect_from(a.own_address.ip(), b.own_address).unwrap()).collect();
    // Twelve gave way to later ones.
    run(until("there are too many", || node_b.refused(Refusal::TooMany) >= 12));
    a.peer_address = b.own_address;
    let node_a = Node::start(&a);
    run(async { drop(sessions(&node_a, &node_b).await) });
    run(until("the others are closed", || {
        node_b.refused(Refusal::TooMany) + node_b.refused(Refusal::Timeout) >= 20
    }));
    for mut stream in idle {
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
}

#[test]
fn floods_are_bounded_and_the_session_goes_on() {
    let (a, b) = pair();
    let (peer, to) = (a.own_address.ip(), b.own_address);
    let (node_a, node_b) = (Node::start(&a), Node::start(&b));
    run(async {
        let (at_a, at_b) = sessions(&node_a, &node_b).await;
        let flood = |from: IpAddr| move || (0..400).filter_map(|_| connect_from(from, to).ok()).count();
        let floods = [peer, own_ip()].map(|from| std::thread::spawn(flood(from)));
        for number in 0_u32..500 {
            super::support::send(&at_a, number.to_le_bytes().to_vec()).await;
            assert_eq!(super::support::receive(&at_b).await, number.to_le_bytes());
        }
        let came = floods.map(|flood| flood.join().unwrap() as u64);
        until("strangers are counted", || node_b.refused(Refusal::Address) == came[1]).await;
        // Whether they went away or were sent away, each is accounted for.
        let refused =
            || [Refusal::TooMany, Refusal::Closed].map(|why| node_b.refused(why)).iter().sum::<u64>();
        until("the others are counted", || refused() >= came[0]).await;
        assert!(node_b.refused(Refusal::TooMany) > 0);
        assert_eq!((at_a.end(), at_b.end()), (None, None));
    });
}
