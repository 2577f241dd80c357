//! What clients get when targets fail, and what is asked twice.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::config;
use super::peers::{Client, Target, answer, ask, get, write};
use crate::support::{Lbd, eventually, free, metric, own_ip, reset};

/// Ends the connection without an answer.
fn hang_up() -> std::io::Result<bool> {
    Ok(false)
}

fn cut(lbd: &Lbd, reason: &str) -> u64 {
    metric(lbd, "tandem_lbd_service_http_requests_cut_total")
        [&format!("{{service=\"web\",reason=\"{reason}\"}}")]
}

/// Ejections of a target that came to this.
fn ejections(lbd: &Lbd, target: &str, result: &str) -> u64 {
    let (target, result) = (format!("target=\"{target}\""), format!("result=\"{result}\""));
    let all = metric(lbd, "tandem_lbd_target_ejections_total");
    all.iter()
        .filter(|(labels, _)| labels.contains(&target) && labels.contains(&result))
        .map(|(_, count)| count)
        .sum()
}

#[test]
fn without_a_target_the_answer_is_503_and_another_one_is_tried_first() {
    let ip = own_ip();
    let target = Target::named(ip, "alive");
    let folder = crate::support::Folder::new();
    let path = folder.path().join("access.log");
    let mut alone = config(ip, &[free(ip)]);
    alone.service = format!("access_log = {{ format = \"json\", file = \"{}\" }}", path.display());
    let lbd = Lbd::start_in(folder, &alone);
    let got = ask(lbd.address, &get("/"));
    assert_eq!((got.status(), got.text()), (503, "503 Service Unavailable\n"));
    assert_eq!(lbd.status()["services"][0]["refused"]["connect_failed"], 1);
    eventually("the access log says which one failed", || {
        let line = std::fs::read_to_string(&path).unwrap_or_default();
        let line: serde_json::Value = serde_json::from_str(line.trim_end()).unwrap_or_default();
        (&line["end"], &line["group"], &line["target"])
            == (&"connect_failed".into(), &"pool".into(), &"t0".into())
    });
    let both = Lbd::start(&config(own_ip(), &[free(ip), target.address]));
    for _ in 0..10 {
        assert_eq!(ask(both.address, &get("/")).text(), "alive");
    }
    // Whoever sends a body has it passed on once the connection is there, so that is tried again, too.
    for _ in 0..4 {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(ask(both.address, post).text(), "alive");
        assert_eq!(target.last().body, b"hello");
    }
    assert!(both.service("connect_retries") > 0);
}

#[test]
fn a_kept_connection_that_has_ended_costs_a_client_nothing() {
    let ip = own_ip();
    // Ends each connection after its first answer, without saying so.
    let target = Target::with(ip, |_, stream| {
        answer(stream, "once")?;
        hang_up()
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    for request in [get("/"), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab".to_owned()] {
        for _ in 0..20 {
            assert_eq!(client.send(&request).answer().text(), "once");
            eventually("the target has closed it", || target.is_left());
        }
    }
    assert_eq!(target.connections(), 40);
}

#[test]
fn what_a_kept_connection_ends_under_is_sent_again_if_it_may_be() {
    let ip = own_ip();
    // The second request on each connection gets no answer.
    let counts: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&counts);
    let target = crate::server::Server::start((ip, 0).into(), move |stream| {
        let mut stream = BufReader::new(stream);
        for round in 0.. {
            if !read_request(&mut stream) {
                return;
            }
            counted.fetch_add(1, Ordering::SeqCst);
            if round == 1 {
                return reset(stream.into_inner());
            }
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    for _ in 0..10 {
        assert_eq!(client.send(get("/")).answer().status(), 200);
    }
    // Each but the first was sent on a kept connection, got nothing, and was sent on a new one.
    assert_eq!(counts.load(Ordering::SeqCst), 19);
    let resent = metric(&lbd, "tandem_lbd_service_http_requests_resent_total");
    assert_eq!(resent["{service=\"web\",result=\"sent\"}"], 9);
    // A POST may have been done already.
    let post = "POST / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(client.send(post).answer().status(), 502);
}

/// Reads a head without a body.
fn read_request(stream: &mut BufReader<TcpStream>) -> bool {
    let mut last = [0; 4];
    while &last != b"\r\n\r\n" {
        last.rotate_left(1);
        if stream.read_exact(&mut last[3..]).is_err() {
            return false;
        }
    }
    true
}

#[test]
fn a_request_without_an_answer_is_sent_elsewhere_only_where_asked_for() {
    let ip = own_ip();
    let dead = Target::with(ip, |_, _| hang_up());
    let alive = Target::named(ip, "alive");
    let lbd = Lbd::start(&config(ip, &[dead.address, alive.address]));
    let statuses: Vec<u16> = (0..4).map(|_| ask(lbd.address, &get("/")).status()).collect();
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
    assert!(cut(&lbd, "target") > 0);
    let mut config = config(own_ip(), &[dead.address, alive.address]);
    config.group = "retry = { on = [\"connect\", \"no_answer\"], attempts = 2 }".to_owned();
    let lbd = Lbd::start(&config);
    for _ in 0..10 {
        assert_eq!(ask(lbd.address, &get("/")).text(), "alive");
    }
    let posts: Vec<u16> =
        (0..4).map(|_| ask(lbd.address, "POST / HTTP/1.1\r\nHost: a\r\n\r\n").status()).collect();
    assert!(posts.contains(&502), "a POST is not: {posts:?}");
}

#[test]
fn what_is_no_answer_is_a_bad_gateway() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        let bytes = match request.line().split(' ').nth(1).unwrap() {
            "/lf" => "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            "/two-lengths" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "/both" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "/junk" => "SSH-2.0-OpenSSH\r\n\r\n",
            "/switch" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "/chunk" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "/split" => "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
            other => panic!("{other}"),
        };
        write(stream, bytes)?;
        hang_up()
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    for path in ["/lf", "/two-lengths", "/both", "/junk", "/switch", "/chunk", "/split"] {
        assert_eq!(ask(lbd.address, &get(path)).status(), 502, "{path}");
    }
    assert_eq!(cut(&lbd, "bad_answer"), 7);
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        let head = match request.line() {
            "GET /length HTTP/1.1" => "Content-Length: 10\r\n\r\nhello",
            _ => "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        };
        write(stream, &format!("HTTP/1.1 200 OK\r\n{head}"))?;
        hang_up()
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    for path in ["/length", "/chunks"] {
        let mut client = Client::new(lbd.address);
        assert!(client.send(get(path)).try_answer(false).is_err(), "{path}");
    }
    // HTTP/1.0 knows no other end than the connection's: a reset is none.
    let mut client = Client::new(lbd.address);
    client.send("GET /chunks HTTP/1.0\r\n\r\n");
    assert!(client.try_answer(false).is_err());
    eventually("they are counted", || cut(&lbd, "target") == 3);
}

#[test]
fn nobody_is_waited_for_without_end() {
    let ip = own_ip();
    let target = Target::with(ip, |_, _| {
        std::thread::sleep(Duration::from_secs(30));
        hang_up()
    });
    let mut config = config(ip, &[target.address]);
    config.service = "timeout = { header = \"400ms\", idle = \"1s\", response = \"500ms\" }".to_owned();
    let lbd = Lbd::start(&config);
    assert_eq!(ask(lbd.address, &get("/")).status(), 504);
    assert_eq!(cut(&lbd, "no_answer"), 1);
    // A head that does not come to its end.
    assert_eq!(ask(lbd.address, "GET / HTTP/1.1\r\nHost:").status(), 408);
    // Who says nothing at all is told nothing.
    assert!(Client::new(lbd.address).is_at_its_end());
    // A body that stops is the client's fault, one that is not taken the target's.
    let half = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
    assert_eq!(ask(lbd.address, half).status(), 408);
    assert_eq!(cut(&lbd, "no_body"), 1);
    let deaf = crate::server::Server::start((ip, 0).into(), |_stream| {
        std::thread::sleep(Duration::from_secs(5));
    });
    let mut config = super::config(own_ip(), &[deaf.address]);
    config.service = "timeout = { idle = \"1s\" }".to_owned();
    config.group = "eject = { consecutive_failures = 1 }".to_owned();
    let lbd = Lbd::start(&config);
    let much = 64 << 20;
    let mut client = Client::new(lbd.address);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {much}\r\n\r\n")).send(vec![0; much]);
    eventually("the target is given up", || cut(&lbd, "idle") == 1);
    assert_eq!(cut(&lbd, "no_body"), 0);
    // It is the only one, so `max_percent` keeps it.
    eventually("it was to be ejected", || ejections(&lbd, "t0", "refused") == 1);
}

#[test]
fn a_client_that_is_gone_is_not_answered() {
    let ip = own_ip();
    let target = Target::with(ip, |_, stream| {
        // Until lbd ends the connection.
        let mut bytes = [0; 16];
        Ok(stream.read(&mut bytes)? > 0)
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    client.send(get("/"));
    eventually("the target has it", || target.seen().len() == 1);
    reset(client.stream().try_clone().unwrap());
    drop(client);
    eventually("it is cut", || cut(&lbd, "client") == 1);
    eventually("nothing is left", || lbd.service("connections_open") == 0);
}

#[test]
fn a_target_that_answers_with_5xx_is_ejected() {
    let ip = own_ip();
    let sick = Target::with(ip, |_, stream| write(stream, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"));
    let well = Target::named(ip, "well");
    let mut config = config(ip, &[sick.address, well.address]);
    config.group = "eject = { consecutive_failures = 3, base = \"60s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    eventually("the sick one is ejected", || {
        client.send(get("/")).answer();
        lbd.status()["target_groups"][0]["targets"][0]["reason"] == "ejected"
    });
    // Some more may have gone there until the ejection was in force.
    let failed = sick.seen().len();
    assert!((3..10).contains(&failed), "{failed}");
    assert!((0..10).all(|_| client.send(get("/")).answer().status() == 200));
    let answers = metric(&lbd, "tandem_lbd_target_http_answers_total");
    let labels = format!("{{group=\"pool\",target=\"t0\",address=\"{}\",class=\"5xx\"}}", sick.address);
    assert_eq!(answers[&labels], failed as u64);
}

/// Says nothing until the other end has had enough.
fn keep_silent(stream: &mut BufReader<TcpStream>) -> std::io::Result<bool> {
    Ok(stream.read(&mut [0; 16])? > 0)
}

/// It takes connections and reads what it is asked: nothing but the time says that it is ill.
#[test]
fn a_target_that_never_answers_is_ejected() {
    const FAILURES: u64 = 3;
    let ip = own_ip();
    let silent = Target::with(ip, |_, stream| keep_silent(stream));
    let well = Target::named(ip, "well");
    let mut config = config(ip, &[silent.address, well.address]);
    config.service = "timeout = { response = \"200ms\" }".to_owned();
    config.group = format!("eject = {{ consecutive_failures = {FAILURES}, base = \"60s\" }}");
    let lbd = Lbd::start(&config);
    let shown = || lbd.status()["target_groups"][0]["targets"][0].clone();
    let mut failed = 0;
    eventually("the silent one is ejected", || {
        failed += u64::from(ask(lbd.address, &get("/")).status() == 504);
        let reason = shown()["reason"].clone();
        assert!(failed >= FAILURES || reason == "in_use", "{reason} after {failed}");
        reason == "ejected"
    });
    // Some more may have gone there until the ejection was in force.
    assert!(failed <= FAILURES + 2, "{failed}");
    assert_eq!(cut(&lbd, "no_answer"), failed);
    let status = shown();
    assert_eq!((&status["ejections"], &status["connect_failures"]), (&1.into(), &0.into()), "{status}");
    assert!(status["ejected_for_ms"].as_u64().is_some_and(|ms| ms > 0 && ms <= 60_000), "{status}");
    let labels =
        format!("{{group=\"pool\",target=\"t0\",address=\"{}\",result=\"ejected\"}}", silent.address);
    assert_eq!(metric(&lbd, "tandem_lbd_target_ejections_total")[&labels], 1);
    let table = String::from_utf8(lbd.command(&["status"]).stdout).unwrap();
    let row = table.lines().find(|line| line.contains(" t0 ")).unwrap();
    assert!(row.contains("ejected until 2"), "{row}");
    lbd.says("failure=\"timeout\"");
    assert!((0..10).all(|_| ask(lbd.address, &get("/")).text() == "well"));
    assert_eq!(silent.seen().len() as u64, failed);
}

/// Whoever has said how much comes, and sends nothing more, is ill; whoever has not may have nothing to say.
#[test]
fn a_target_that_stops_within_its_answer_is_ejected_and_one_that_pauses_is_not() {
    const FAILURES: usize = 3;
    let ip = own_ip();
    let stopping = |head: &'static str| {
        Target::with(ip, move |_, stream| {
            write(stream, &format!("HTTP/1.1 200 OK\r\n{head}"))?;
            keep_silent(stream)
        })
    };
    let stops = stopping("Content-Length: 10\r\n\r\nhello");
    let pauses = stopping("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let mut config = config(ip, &[stops.address, pauses.address]);
    config.service = "timeout = { idle = \"1s\" }".to_owned();
    config.group = format!("eject = {{ consecutive_failures = {FAILURES}, base = \"60s\" }}");
    let lbd = Lbd::start(&config);
    eventually("one is ejected, and the other one was asked as often", || {
        let mut clients: Vec<Client> = (0..4 * FAILURES).map(|_| Client::new(lbd.address)).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        assert!(clients.iter_mut().all(|client| client.try_answer(false).is_err()));
        ejections(&lbd, "t0", "ejected") == 1 && pauses.seen().len() > FAILURES
    });
    lbd.says("failure=\"timeout\"");
    // It would have been asked for, though in vain: one of two may be out.
    assert_eq!(ejections(&lbd, "t1", "refused") + ejections(&lbd, "t1", "ejected"), 0);
    // A client that takes nothing of what there is has the target stop as well.
    let much = Target::with(ip, |_, stream| {
        write(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 64 << 20))?;
        // Until lbd has had enough.
        stream.get_mut().write_all(&vec![0; 64 << 20]).map(|()| true)
    });
    let mut config = super::config(own_ip(), &[much.address]);
    config.service = "timeout = { idle = \"1s\" }".to_owned();
    config.group = "eject = { consecutive_failures = 1 }".to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    client.send(get("/"));
    eventually("the client is given up", || cut(&lbd, "idle") == 1);
    assert_eq!(ejections(&lbd, "t0", "refused"), 0);
}

#[test]
fn a_target_that_answers_now_and_then_stays() {
    let ip = own_ip();
    let count = AtomicUsize::new(0);
    // Never three times in a row without an answer.
    let slow = Target::with(ip, move |_, stream| match count.fetch_add(1, Ordering::SeqCst) % 3 {
        2 => answer(stream, "at last"),
        _ => keep_silent(stream),
    });
    let well = Target::named(ip, "well");
    let mut config = config(ip, &[slow.address, well.address]);
    config.service = "timeout = { response = \"200ms\" }".to_owned();
    config.group = "eject = { consecutive_failures = 3, base = \"60s\" }".to_owned();
    let lbd = Lbd::start(&config);
    eventually("it was asked often enough", || {
        ask(lbd.address, &get("/"));
        slow.seen().len() >= 12
    });
    let status = lbd.status()["target_groups"][0]["targets"][0].clone();
    assert_eq!((&status["reason"], &status["ejections"]), (&"in_use".into(), &0.into()), "{status}");
    assert!(cut(&lbd, "no_answer") >= 8);
}

#[test]
fn what_a_client_asks_for_ejects_nobody() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| match request.line() {
        "GET / HTTP/1.1" => answer(stream, "well"),
        _ => write(stream, "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n"),
    });
    let mut config = config(ip, &[target.address, free(ip)]);
    config.group =
        "eject = { consecutive_failures = 3, base = \"60s\" }\nretry = { on = [\"connect\"], attempts = 2 }"
            .to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    for _ in 0..10 {
        assert_eq!(client.send("BREW / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status(), 501);
    }
    // The one that nobody listens at is ejected, which shows that ejections are in force.
    eventually("the other one is ejected", || {
        assert_eq!(client.send(get("/")).answer().text(), "well");
        lbd.status()["target_groups"][0]["targets"][1]["reason"] == "ejected"
    });
    assert_ne!(lbd.status()["target_groups"][0]["targets"][0]["reason"], "ejected");
}

#[test]
fn a_target_that_only_promises_an_answer_is_not_listened_to_for_ever() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| {
        let promises = if request.line().contains("/many") { 1000 } else { 20 };
        write(stream, &"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(promises))?;
        answer(stream, "at last")
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let last = |path: &str| {
        let mut client = Client::new(lbd.address);
        client.send(get(path));
        std::iter::repeat_with(|| client.answer().status()).find(|status| *status >= 200)
    };
    assert_eq!(last("/some"), Some(200));
    assert_eq!(last("/many"), Some(502));
    assert_eq!(cut(&lbd, "bad_answer"), 1);
}
