//! Reloads, drains and stops while requests go on.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use nix::sys::signal::Signal;

use super::config;
use super::peers::{Client, Target, answer, ask, get, write};
use crate::clients::{beside, connect_from};
use crate::support::{Config, Lbd, eventually, metric, own_ip};

/// A target that answers `/wait` only once it is told to.
fn waiting(ip: std::net::Ipv4Addr) -> (Target, Sender<()>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let target = Target::with(ip, move |request, stream| {
        if request.line().contains("/wait") {
            wait.lock().unwrap().recv().ok();
        }
        answer(stream, "served")
    });
    (target, go)
}

#[test]
fn a_stop_ends_connections_kindly() {
    let ip = own_ip();
    let (target, go) = waiting(ip);
    let mut lbd = Lbd::start(&config(ip, &[target.address]));
    let mut idle = Client::new(lbd.address);
    assert_eq!(idle.send(get("/")).answer().field("connection"), None);
    let mut busy = Client::new(lbd.address);
    busy.send(get("/wait"));
    eventually("the request is at the target", || target.seen().len() == 2);
    lbd.signal(Signal::SIGTERM);
    eventually("nothing is accepted any more", || std::net::TcpStream::connect(lbd.address).is_err());
    // Who has no request is closed after a moment, who has one is answered and told.
    assert!(idle.is_at_its_end());
    go.send(()).unwrap();
    let got = busy.answer();
    assert_eq!((got.text(), got.field("connection")), ("served", Some("close")));
    assert!(busy.is_at_its_end());
    assert!(lbd.wait().success());
}

#[test]
fn a_reload_changes_rules_under_connections_without_a_lost_request() {
    let ip = own_ip();
    let (one, two) = (Target::named(ip, "one"), Target::named(ip, "two"));
    let config_of = |target: &Target, service: &str| {
        let mut config = Config { listen: vec![], ..config(ip, &[target.address]) };
        config.service = service.to_owned();
        config
    };
    let listen = vec![crate::support::free(ip)];
    let first = Config { listen: listen.clone(), ..config_of(&one, "") };
    let lbd = Lbd::start(&first);
    let mut client = Client::new(lbd.address);
    assert_eq!(client.send(get("/")).answer().text(), "one");
    let second = Config { listen: listen.clone(), ..config_of(&two, "") };
    assert_eq!(lbd.reload(&second).0, 200);
    eventually("the connection's requests go to the new target", || {
        client.send(get("/")).answer().text() == "two"
    });
    let rule = "[[service.rule]]\nwhen = { path = \"/gone\" }\nrespond = { status = 410 }\n";
    let third = Config { listen, ..config_of(&two, rule) };
    assert_eq!(lbd.reload(&third).0, 200);
    eventually("and meet the new rule", || client.send(get("/gone")).answer().status() == 410);
    // Another mode keeps the address listened on.
    let fourth = Config { mode: "tcp".to_owned(), ..third };
    let fourth = Config { service: String::new(), ..fourth };
    let (code, report) = lbd.reload(&fourth);
    assert_eq!(code, 200, "{report}");
    assert!(
        report.contains("\"listeners_added\":[]") && report.contains("\"listeners_removed\":[]"),
        "{report}"
    );
    let got = client.send(get("/")).answer();
    assert_eq!(
        (got.text(), got.field("connection")),
        ("two", Some("close")),
        "it is the last on this connection"
    );
    assert_eq!(ask(lbd.address, &get("/raw")).text(), "two");
    assert_eq!(two.last().field("via"), None, "passed through as bytes now");
}

#[test]
fn a_reload_changes_who_is_let_in_on_open_connections() {
    let ip = own_ip();
    let target = Target::named(ip, "served");
    let mut config = config(ip, &[target.address]);
    let lbd = Lbd::start(&config);
    let (mut here, mut there) =
        (Client::new(lbd.address), connect_from(beside(ip, 1), lbd.address).map(Client::of).unwrap());
    let denied = here.stream().local_addr().unwrap().ip();
    for client in [&mut here, &mut there] {
        assert_eq!(client.send(get("/")).answer().text(), "served");
    }
    config.service = format!("access = {{ deny = [\"{denied}\"] }}");
    assert_eq!(lbd.reload(&config).0, 200);
    let refused = here.send(get("/")).answer();
    assert_eq!((refused.status(), refused.field("connection")), (403, Some("close")));
    assert!(here.is_at_its_end());
    assert_eq!(there.send(get("/")).answer().text(), "served");
    assert_eq!(target.seen().len(), 3);
    let all = metric(&lbd, "tandem_lbd_service_http_requests_denied_total");
    assert_eq!(all["{service=\"web\",reason=\"access\"}"], 1);
}

#[test]
fn a_removed_target_gets_no_requests_and_its_kept_connections_are_closed() {
    let ip = own_ip();
    let (one, two) = (Target::named(ip, "one"), Target::named(ip, "two"));
    let both = config(ip, &[one.address, two.address]);
    let lbd = Lbd::start(&both);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::new(lbd.address)).collect();
    for client in &mut clients {
        client.send(get("/")).answer();
        client.send(get("/")).answer();
    }
    assert!(!one.seen().is_empty() && !two.seen().is_empty());
    let (code, _) =
        lbd.send("PATCH", "/v1/target-groups/pool/targets/t0", &serde_json::json!({ "state": "drain" }));
    assert_eq!(code, 200);
    let before = one.seen().len();
    for client in &mut clients {
        assert_eq!(client.send(get("/")).answer().text(), "two");
    }
    assert_eq!(one.seen().len(), before);
    eventually("its connections are closed", || one.ended() == one.connections());
}

/// A tunnel through which something has passed both ways.
fn tunnel(lbd: &Lbd) -> Client {
    let mut client = Client::new(lbd.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.answer().status(), 101);
    assert_eq!(client.send("hello").read(5), b"hello");
    client
}

#[test]
fn a_tunnel_ends_with_silence_and_with_its_target_and_goes_on_while_the_daemon_stops() {
    let ip = own_ip();
    let target = Target::with(ip, |_, stream| {
        let fields = "Connection: Upgrade\r\nUpgrade: x";
        write(stream, &format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n"))?;
        let mut bytes = [0; 64];
        loop {
            let count = stream.read(&mut bytes)?;
            if count == 0 {
                return Ok(false);
            }
            stream.get_mut().write_all(&bytes[..count])?;
        }
    });
    let mut config = config(ip, &[target.address]);
    // That of a connection without a tunnel is another one.
    config.service = "timeout = { tunnel = \"1s\" }".to_owned();
    let mut lbd = Lbd::start(&config);
    let ended = |lbd: &Lbd, how: &str| lbd.status()["services"][0]["ended"][how].clone();
    let mut silent = tunnel(&lbd);
    assert!(silent.is_at_its_end());
    eventually("it was silent for too long", || ended(&lbd, "idle") == 1);
    config.service = "timeout = { idle = \"1s\" }".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    let (mut left, mut other) = (tunnel(&lbd), tunnel(&lbd));
    let set = |state: &str| {
        let body = serde_json::json!({ "state": state });
        assert_eq!(lbd.send("PATCH", "/v1/target-groups/pool/targets/t0", &body).0, 200);
    };
    set("maint");
    assert!(left.is_at_its_end() && other.is_at_its_end());
    eventually("their target is gone", || ended(&lbd, "drained") == 2);
    eventually("nothing of them is left", || lbd.service("connections_open") == 0);
    set("ready");
    let mut last = tunnel(&lbd);
    lbd.signal(Signal::SIGTERM);
    eventually("nothing is accepted any more", || std::net::TcpStream::connect(lbd.address).is_err());
    assert_eq!(last.send("still").read(5), b"still");
    last.finish();
    assert!(last.is_at_its_end());
    assert!(lbd.wait().success());
}

#[test]
fn requests_wait_for_a_place_at_a_target() {
    let ip = own_ip();
    let (target, go) = waiting(ip);
    let mut config = config(ip, &[target.address]);
    config.target_keys = vec!["max_connections = 1".to_owned()];
    config.group = "queue = { max = 1, timeout = \"20s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let mut first = Client::new(lbd.address);
    first.send(get("/wait"));
    eventually("the first is at the target", || target.seen().len() == 1);
    let mut second = Client::new(lbd.address);
    second.send(get("/"));
    eventually("the second waits", || lbd.status()["target_groups"][0]["queue_waiting"] == 1);
    assert_eq!(ask(lbd.address, &get("/")).status(), 503, "there is no more room in the queue");
    go.send(()).unwrap();
    assert_eq!((first.answer().text(), second.answer().text()), ("served", "served"));
}

#[test]
fn least_outstanding_requests_are_counted_by_request() {
    let ip = own_ip();
    let (slow, go) = waiting(ip);
    let fast = Target::named(ip, "fast");
    let mut config = config(ip, &[slow.address, fast.address]);
    config.group = "algorithm = \"least_outstanding_requests\"".to_owned();
    let lbd = Lbd::start(&config);
    // Requests of their own connections, until one is held up.
    let mut held = Vec::new();
    eventually("one is held up", || {
        let mut client = Client::new(lbd.address);
        client.send(get("/wait"));
        held.push(client);
        !slow.seen().is_empty()
    });
    let mut client = Client::new(lbd.address);
    let mut answerer = || client.send(get("/")).answer().text().to_owned();
    // Others of those may be with the fast one for a moment still.
    eventually("the fast one is free", || (0..3).all(|_| answerer() == "fast"));
    for _ in 0..20 {
        assert_eq!(answerer(), "fast");
    }
    for _ in &held {
        go.send(()).ok();
    }
}

#[test]
fn a_client_that_never_stops_asking_keeps_nobody_waiting() {
    let ip = own_ip();
    let mut config = config(ip, &[crate::support::free(ip)]);
    config.service = "[[service.rule]]\nwhen = { path = \"/\" }\nrespond = { status = 204 }\n".to_owned();
    let lbd = Lbd::start(&config);
    let asking = Client::new(lbd.address).stream().try_clone().unwrap();
    let (mut from, mut to) = (asking.try_clone().unwrap(), asking.try_clone().unwrap());
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 20];
        while from.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    let requests = get("/").repeat(2000);
    let writer = std::thread::spawn(move || while to.write_all(requests.as_bytes()).is_ok() {});
    eventually("it is served", || {
        lbd.status()["services"][0]["requests"]["answered"]["2xx"].as_u64() > Some(1000)
    });
    let begin = std::time::Instant::now();
    for _ in 0..16 {
        assert_eq!(ask(lbd.address, &get("/")).status(), 204);
    }
    let took = begin.elapsed();
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    asking.shutdown(std::net::Shutdown::Both).unwrap();
    writer.join().unwrap();
    reader.join().unwrap();
}
