//! What targets and clients get of each other's heads, and how connections are used again.

use super::config;
use super::peers::{Client, Target, answer, ask, get, leave_no_port_behind, write};
use super::real::curl;
use crate::support::{Lbd, eventually, metric, own_ip};

/// A request that shares its connection with no other one.
const NEGOTIATING: &str = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Negotiate YII=\r\n\r\n";

#[test]
fn a_request_is_passed_on_with_what_a_proxy_adds() {
    let ip = own_ip();
    let target = Target::named(ip, "hello");
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let request = "GET /a/./b?x=1 HTTP/1.1\r\nHost: Shop.Example\r\nAccept: text/html\r\nX-Forwarded-For: 10.0.0.1\r\n\
                   Connection: X-Hop\r\nX-Hop: 1\r\n\r\n";
    let mut client = Client::new(lbd.address);
    let from = client.stream().local_addr().unwrap().ip().to_string();
    let got = client.send(request).answer();
    assert_eq!((got.status(), got.text(), got.field("connection")), (200, "hello", None));
    let seen = target.last();
    assert_eq!(seen.line(), "GET /a/b?x=1 HTTP/1.1");
    assert_eq!((seen.field("host"), seen.field("accept")), (Some("shop.example"), Some("text/html")));
    assert_eq!((seen.field("x-hop"), seen.field("connection")), (None, None));
    assert_eq!(seen.field("x-forwarded-for"), Some(from.as_str()), "nobody's word is taken");
    assert_eq!(
        (seen.field("x-forwarded-proto"), seen.field("x-forwarded-host")),
        (Some("http"), Some("shop.example"))
    );
    assert_eq!(seen.field("x-request-id").map(str::len), Some(32));
    assert!(seen.field("via").is_some_and(|via| via.starts_with("1.1 tandem-")), "{}", seen.head);
}

#[test]
fn both_sides_keep_their_connections() {
    let ip = own_ip();
    let target = Target::named(ip, "again");
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    for _ in 0..20 {
        assert_eq!(client.send(get("/")).answer().text(), "again");
    }
    assert_eq!((target.seen().len(), target.connections()), (20, 1));
    assert_eq!(metric(&lbd, "tandem_lbd_service_http_reused_connections_total")["{service=\"web\"}"], 19);
    // Two at once on one connection are answered in their order.
    client.send(get("/1") + &get("/2"));
    assert_eq!((client.answer().text(), client.answer().text()), ("again", "again"));
    let lines: Vec<String> = target.seen().iter().rev().take(2).map(|it| it.line().to_owned()).collect();
    assert_eq!(lines, ["GET /2 HTTP/1.1", "GET /1 HTTP/1.1"]);
    // Another client gets the kept connection, if the same worker serves it.
    let close = client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").answer();
    assert_eq!(close.field("connection"), Some("close"));
    assert!(client.is_at_its_end());
    eventually("its connection is closed", || lbd.service("connections_open") == 0);
}

#[test]
fn a_connection_that_may_be_somebody_s_or_hold_a_rest_is_nobody_else_s() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| match request.line() {
        "GET /challenge HTTP/1.1" => write(
            stream,
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\", negotiate\r\nContent-Length: 0\r\n\r\n",
        ),
        _ => answer(stream, "ok"),
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    // All of one client, so that one worker has them.
    let mut client = Client::new(lbd.address);
    for (count, alone) in [
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: NTLM TlRMTVNTUAAB\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nproxy-authorization: Negotiate YII=\r\n\r\n",
        "GET /challenge HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(client.send(get("/")).answer().text(), "ok");
        assert_eq!((target.connections(), target.ended()), (count + 1, count), "{alone}");
        assert!([200, 401].contains(&client.send(alone).answer().status()));
        eventually("it is closed", || target.ended() == count + 1);
    }
    let basic = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic bnRsbTpudGxt\r\n\r\n";
    for _ in 0..3 {
        assert_eq!(client.send(basic).answer().text(), "ok");
    }
    assert_eq!((target.connections(), target.ended()), (5, 4));
}

#[test]
fn a_request_that_shares_no_connection_leaves_the_kept_one_to_others() {
    let ip = own_ip();
    // Answers with what tells its connections apart.
    let target = Target::with(ip, |_, stream| {
        let port = stream.get_ref().peer_addr()?.port().to_string();
        answer(stream, &port)
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    // All of one client, so that one worker has them.
    let mut client = Client::new(lbd.address);
    let mut port_of = |request: &str| client.send(request).answer().text().to_owned();
    let kept = port_of(&get("/"));
    assert_ne!(port_of(NEGOTIATING), kept);
    assert_eq!(port_of(&get("/")), kept);
}

#[test]
fn a_connection_that_is_not_kept_leaves_no_port_behind() {
    const COUNT: usize = 50;
    let plain = get("/");
    for (group, request) in [
        ("send_proxy = \"v1\"", plain.as_str()),
        ("keep_alive = { max = 0 }", plain.as_str()),
        ("", NEGOTIATING),
    ] {
        let ip = own_ip();
        let target = Target::named(ip, "ok");
        let mut config = config(ip, &[target.address]);
        config.group = group.to_owned();
        let lbd = Lbd::start(&config);
        let mut client = Client::new(lbd.address);
        for _ in 0..COUNT {
            assert_eq!(client.send(request).answer().text(), "ok");
            // It may close it itself, though this one waits for the daemon to.
            assert_eq!(target.last().field("connection"), Some("close"), "{group}");
        }
        assert_eq!(target.connections(), COUNT, "{group}");
        leave_no_port_behind(target.address);
    }
}

#[test]
fn http_1_0_is_served_as_it_expects() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| match request.line() {
        "GET /chunks HTTP/1.1" => write(
            stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        ),
        _ => answer(stream, "old"),
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let mut client = Client::new(lbd.address);
    let got = client.send("GET / HTTP/1.0\r\n\r\n").answer();
    assert_eq!((got.text(), got.field("connection")), ("old", Some("close")));
    assert!(client.is_at_its_end());
    assert_eq!(target.last().field("host"), Some(ip.to_string().as_str()));
    let mut client = Client::new(lbd.address);
    for _ in 0..2 {
        let got = client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer();
        assert_eq!((got.text(), got.field("connection")), ("old", Some("keep-alive")));
    }
    // No chunks for HTTP/1.0: the end of the connection is the end of the body.
    let got = client.send("GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer();
    assert_eq!(
        (got.text(), got.field("transfer-encoding"), got.field("connection")),
        ("abcde", None, Some("close"))
    );
}

#[test]
fn a_proxy_whose_word_is_taken_is_added_to() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let mut config = config(ip, &[target.address]);
    config.service = "trust_forwarded = [\"127.0.0.0/8\"]".to_owned();
    let lbd = Lbd::start(&config);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-ID: mine\r\n\r\n";
    ask(lbd.address, request);
    let seen = target.last();
    let list = seen.field("x-forwarded-for").unwrap();
    assert!(list.starts_with("203.0.113.9, 127."), "{list}");
    assert_eq!((seen.field("x-forwarded-proto"), seen.field("x-request-id")), (Some("https"), Some("mine")));
}

#[test]
fn a_proxy_protocol_header_names_the_client() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let mut config = config(ip, &[target.address]);
    config.service = "accept_proxy = [\"127.0.0.0/8\"]".to_owned();
    let lbd = Lbd::start(&config);
    let header = "PROXY TCP4 203.0.113.9 198.51.100.1 5000 80\r\n";
    let mut client = Client::new(lbd.address);
    assert_eq!(client.send(format!("{header}{}", get("/"))).answer().status(), 200);
    assert_eq!(target.last().field("x-forwarded-for"), Some("203.0.113.9"));
    assert_eq!(client.send(get("/")).answer().status(), 200);
    assert_eq!(target.last().field("x-forwarded-for"), Some("203.0.113.9"), "for all of the connection");
}

#[test]
fn what_may_go_no_further_is_answered_here() {
    let ip = own_ip();
    let target = Target::named(ip, "there");
    let mut config = config(ip, &[target.address]);
    config.service = "http2 = true\n[[service.rule]]\nwhen = { path = \"/own\" }\nrespond = { status = 200, body = \"own\" }\n".to_owned();
    let lbd = Lbd::start(&config);
    let asked = |method: &str, path: &str, left: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nMax-Forwards: {left}\r\n\r\n");
        ask(lbd.address, &request)
    };
    for (method, path, status) in [("OPTIONS", "/", 204), ("OPTIONS", "*", 204), ("TRACE", "/", 405)] {
        let got = asked(method, path, "0");
        assert_eq!((got.status(), got.field("allow")), (status, Some("OPTIONS")), "{method} {path}");
    }
    assert_eq!(asked("TRACE", "/", "9").status(), 405, "a target would show what it is told");
    assert_eq!(asked("OPTIONS", "/own", "0").text(), "own", "no target is asked for that anyway");
    for bad in ["-1", "", "1, 0"] {
        assert_eq!(asked("OPTIONS", "/", bad).status(), 400, "{bad}");
    }
    assert_eq!(target.seen().len(), 0);
    assert_eq!(asked("OPTIONS", "/", "2").text(), "there");
    assert_eq!(target.last().field("max-forwards"), Some("1"));
    assert_eq!(asked("GET", "/", "0").text(), "there", "it is for others to say");
    assert_eq!(target.last().field("max-forwards"), Some("0"));
    let url = format!("http://{}/", lbd.address);
    let by_http2 = |left: &str| {
        let field = format!("Max-Forwards: {left}");
        curl(&["--http2-prior-knowledge", "-X", "OPTIONS", "-H", &field, "-w", "%{http_code}", &url])
    };
    assert_eq!(by_http2("1"), "there200");
    assert_eq!(target.last().field("max-forwards"), Some("0"));
    assert_eq!(
        [by_http2("0"), by_http2("x")].map(|got| got.rsplit('\n').next().map(str::to_owned)),
        ["204", "400"].map(|code| Some(code.to_owned()))
    );
    assert_eq!(target.seen().len(), 3);
}

#[test]
fn what_goes_round_in_circles_is_stopped() {
    let ip = own_ip();
    let address = crate::support::free(ip);
    let mut config = config(ip, &[address]);
    config.listen = vec![address];
    let lbd = Lbd::start(&config);
    assert_eq!(ask(lbd.address, &get("/")).status(), 508);
    assert_eq!(
        metric(&lbd, "tandem_lbd_service_http_requests_malformed_total")["{service=\"web\",reason=\"loop\"}"],
        1
    );
}
