//! Rules at work: where requests go, and what is answered without a target.

use std::fs;

use super::config;
use super::peers::{Client, Target, ask, get};
use super::real::curl;
use crate::support::{Folder, Lbd, eventually, metric, own_ip};

/// A request to a host.
fn at(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[test]
fn requests_go_where_rules_say() {
    let ip = own_ip();
    let (pool, api) = (Target::named(ip, "pool"), Target::named(ip, "api"));
    let mut config = config(ip, &[pool.address]);
    config.service = "response_headers = { remove = [\"Server\"], set = { \"X-From\" = \"service\" } }\n\
        [[service.rule]]\nwhen = { host = [\"api.example\"], path_prefix = \"/v2\" }\nforward = \"api\"\n\
        rewrite = \"/api/{rest}\"\nrequest_headers = { set = { Host = \"inner.example\", \"X-Rule\" = \"1\" } }\n\
        response_headers = { set = { \"X-From\" = \"rule\" } }\n\
        [[service.rule]]\nwhen = { path = \"/health\" }\nrespond = { status = 200, body = \"fine\", content_type = \"text/x\" }\n\
        [[service.rule]]\nwhen = { path_prefix = \"/old\" }\nredirect = { to = \"https://{host}/new/{rest}{query}\", status = 308 }\n\
        [[service.rule]]\nwhen = { header = { \"User-Agent\" = \"*Bot*\" } }\nrespond = { status = 403 }\n"
        .to_owned();
    config.group =
        format!("[[target_group]]\nname = \"api\"\ntargets = [{{ address = \"{}\" }}]\n", api.address);
    let lbd = Lbd::start(&config);
    let got = ask(lbd.address, &at("api.example:80", "/v2/users?x=1"));
    assert_eq!((got.text(), got.field("x-from")), ("api", Some("rule")));
    let seen = api.last();
    assert_eq!(seen.line(), "GET /api/users?x=1 HTTP/1.1");
    assert_eq!((seen.field("host"), seen.field("x-rule")), (Some("inner.example"), Some("1")));
    assert_eq!(seen.field("x-forwarded-host"), Some("api.example:80"));

    let got = ask(lbd.address, &at("shop.example", "/v2/users"));
    assert_eq!((got.text(), got.field("x-from")), ("pool", Some("service")));

    let mut client = Client::new(lbd.address);
    let got = client.send(get("/health")).answer();
    assert_eq!((got.status(), got.text(), got.field("content-type")), (200, "fine", Some("text/x")));
    let got = client.send(at("shop.example", "/old/a/b?c=d")).answer();
    assert_eq!((got.status(), got.field("location")), (308, Some("https://shop.example/new/a/b?c=d")));
    let got = client.send("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: A Bot/1\r\n\r\n").answer();
    assert_eq!((got.status(), got.text()), (403, "403 Forbidden\n"));
    // The client has its answer before that is counted.
    eventually("its own answers are counted", || lbd.status()["services"][0]["requests"]["own_answers"] == 3);
    assert_eq!((pool.seen().len(), api.seen().len()), (1, 1));
}

#[test]
fn headers_paths_and_redirects_are_made_of_what_is_known_of_a_request() {
    let ip = own_ip();
    let pool = Target::named(ip, "pool");
    let mut config = config(ip, &[pool.address]);
    config.service = "http2 = true\n\
        request_headers = { set = { \"X-Client\" = \"{client_ip} {method}\", \"X-TLS\" = \"{tls_version}{tls_sni}\" } }\n\
        response_headers = { set = { \"X-Request-ID\" = \"{request_id}\", \"X-JSON\" = \"{{\\\"a\\\":1}}\" } }\n\
        [[service.rule]]\nwhen = { path_regex = \"^/user/([0-9]+)$\" }\nforward = \"pool\"\n\
        request_headers = { set = { Host = \"{host}:8080\", \"X-User\" = \"{1}\" } }\n\
        response_headers = { add = { \"X-User\" = \"u{1}{query}\" } }\n\
        [[service.rule]]\nwhen = { path_prefix = \"/own\" }\nrespond = { status = 200, body = \"own\" }\n\
        response_headers = { set = { \"X-Rest\" = \"{rest}\" } }\n\
        [[service.rule]]\nwhen = { path = \"/nobody\" }\nforward = \"empty\"\n\
        [[service.rule]]\nwhen = { path_prefix = \"/by\" }\nforward = \"pool\"\nrewrite = \"/as/{client_ip}/{method}/{rest}\"\n\
        [[service.rule]]\nwhen = { path_prefix = \"/go\" }\nredirect = { to = \"/went?from={client_ip}&by={method}&id={request_id}\" }\n"
        .to_owned();
    let closed = crate::support::free(ip);
    config.group = format!("[[target_group]]\nname = \"empty\"\ntargets = [{{ address = \"{closed}\" }}]\n");
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    let from = client.stream().local_addr().unwrap().ip().to_string();
    let forged = "GET /user/42?a=b HTTP/1.1\r\nHost: shop.example\r\nX-TLS: 1.3\r\nX-User: 1\r\n\r\n";
    let got = client.send(forged).answer();
    let seen = pool.last();
    assert_eq!((seen.field("x-client"), seen.field("x-user")), (Some(&*format!("{from} GET")), Some("42")));
    assert_eq!((seen.field("host"), seen.field("x-tls")), (Some("shop.example:8080"), None));
    assert_eq!((got.field("x-user"), got.field("x-json")), (Some("u42?a=b"), Some("{\"a\":1}")));
    assert_eq!(got.field("x-request-id"), seen.field("x-request-id"));
    // Answers of Tandem's own have them, too, as far as the request was understood.
    let got = client.send(get("/own/a/b")).answer();
    assert_eq!((got.text(), got.field("x-rest")), ("own", Some("a/b")));
    assert_eq!(got.field("x-request-id").map(str::len), Some(32));
    assert_eq!(client.send(get("/by/a?b")).answer().status(), 200);
    assert_eq!(pool.last().line(), format!("GET /as/{from}/GET/a?b HTTP/1.1"));
    let got = client.send("M&/ /go HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    assert_eq!(got.status(), 400, "it is no method");
    let got = ask(lbd.address, "M&% /go HTTP/1.1\r\nHost: a\r\n\r\n");
    let to = got.field("location").unwrap_or_default();
    let id = to.strip_prefix(&format!("/went?from={from}&by=M%26%25&id="));
    assert_eq!((got.status(), id.map(str::len)), (302, Some(32)), "{to}");
    let got = ask(lbd.address, ".. /by/a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(got.status(), 400, "no client says where its path leads to");
    let got = ask(lbd.address, &get("/nobody"));
    assert_eq!((got.status(), got.field("x-request-id").map(str::len)), (503, Some(32)));
    let got = ask(lbd.address, "GET /\r\n\r\n");
    assert_eq!((got.status(), got.field("x-request-id"), got.field("x-json").is_some()), (400, None, true));
    let url = format!("http://{}/user/7", lbd.address);
    let got = curl(&["--http2-prior-knowledge", "-D", "-", "-o", "/dev/null", &url]);
    assert!(got.contains("\r\nx-user: u7\r\n") && got.contains("\r\nx-request-id: "), "{got}");
}

#[test]
fn a_client_stays_with_the_group_that_it_was_given() {
    let ip = own_ip();
    let (old, new) = (Target::named(ip, "old"), Target::named(ip, "new"));
    let mut config = config(ip, &[old.address]);
    config.service = "[[service.rule]]\nwhen = { path_prefix = \"/\" }\n\
        forward = [{ group = \"pool\", weight = 1 }, { group = \"new\", weight = 1 }]\n"
        .to_owned();
    config.group =
        format!("[[target_group]]\nname = \"new\"\ntargets = [{{ address = \"{}\" }}]\n", new.address);
    let lbd = Lbd::start(&config);
    let mut groups = std::collections::BTreeSet::new();
    // Each address of its own is a client of its own.
    for last in 1..=40 {
        let [a, b, c, _] = ip.octets();
        let from = std::net::SocketAddr::from(([a, b, c, last], 0));
        let fetch = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&from.into()).unwrap();
            socket.connect(&lbd.address.into()).unwrap();
            let mut client = Client::of(socket.into());
            client.send(get("/")).answer().text().to_owned()
        };
        let first = fetch();
        assert_eq!((fetch(), fetch()), (first.clone(), first.clone()));
        groups.insert(first);
    }
    assert_eq!(groups.len(), 2, "half of them each, more or less");
}

#[test]
fn a_service_needs_no_target_to_send_clients_elsewhere() {
    let ip = own_ip();
    let listen = crate::support::free(ip);
    let text = format!(
        "[[service]]\nname = \"plain\"\nmode = \"http\"\nlisten = [\"{listen}\"]\n\
         [[service.rule]]\nwhen = {{ path_prefix = \"/\", method = [\"GET\", \"HEAD\"] }}\nredirect = {{ to = \"https://{{host}}{{path}}{{query}}\", status = 301 }}\n\
         [api]\nlbd = \"{ip}:9180\"\n"
    );
    let lbd = Lbd::start_with(Folder::new(), &text, listen, |_| {});
    let got = ask(lbd.address, &at("shop.example", "/a?b"));
    assert_eq!((got.status(), got.field("location")), (301, Some("https://shop.example/a?b")));
    assert_eq!(ask(lbd.address, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").status(), 404);
    assert_eq!(lbd.status()["ready"], true);
}

#[test]
fn more_requests_than_the_rate_are_told_when_to_come_again() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let mut config = config(ip, &[target.address]);
    config.service = "rate = { key = \"source_ip\", requests = 5, per = \"60s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    for _ in 0..5 {
        assert_eq!(client.send(get("/")).answer().status(), 200);
    }
    let got = client.send(get("/")).answer();
    assert_eq!((got.status(), got.field("retry-after")), (429, Some("12")));
    assert_eq!(ask(lbd.address, &get("/")).status(), 429, "connections are not what is counted");
    eventually("it is counted", || lbd.status()["services"][0]["requests"]["over_rate"] == 2);
}

#[test]
fn the_rate_of_each_client_is_that_of_its_network_of_ipv6() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let mut config = config(ip, &[target.address]);
    config.service =
        "accept_proxy = [\"127.0.0.0/8\"]\nrate = { key = \"source_ip\", requests = 2, per = \"1h\" }"
            .to_owned();
    let lbd = Lbd::start(&config);
    let of = |client: &str| {
        let header = format!("PROXY TCP6 {client} 2001:db8:ffff::10 5000 80\r\n");
        Client::new(lbd.address).send(format!("{header}{}", get("/"))).answer().status()
    };
    let clients = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8::3:4:5:6", "2001:db8:0:1::1"];
    assert_eq!(clients.map(of), [200, 200, 429, 200]);
}

#[test]
fn a_rule_is_for_some_clients_only() {
    let ip = own_ip();
    let target = Target::named(ip, "x");
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = config(ip, &[target.address]);
    config.service = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}\n[[service.rule]]\nwhen = {{ path = \"/admin\" }}\nforward = \"pool\"\n\
         access = {{ allow = [{{ network = \"{ip}\", tag = \"office\" }}] }}\n",
        path.display()
    );
    let lbd = Lbd::start_in(folder, &config);
    let from = |source: std::net::Ipv4Addr, path: &str| {
        let mut client = Client::of(crate::clients::connect_from(source, lbd.address).unwrap());
        client.send(get(path)).answer().status()
    };
    let other = crate::clients::beside(ip, 1);
    assert_eq!([from(ip, "/admin"), from(other, "/admin"), from(other, "/")], [200, 403, 200]);
    assert_eq!(target.seen().len(), 2);
    eventually("the tag is logged", || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.lines().count() == 3 && text.matches("\"tag\":\"office\"").count() == 1
    });
}

#[test]
fn errors_have_pages() {
    let ip = own_ip();
    let nobody = crate::support::free(ip);
    let folder = Folder::new();
    fs::write(folder.path().join("503.html"), "<p>soon").unwrap();
    fs::write(folder.path().join("404"), "not here").unwrap();
    let mut config = config(ip, &[nobody]);
    config.service = "error_pages = { 503 = \"503.html\", 404 = \"404\" }\n\
        [[service.rule]]\nwhen = { path = \"/said\" }\nrespond = { status = 404, body = \"said\" }\n\
        [[service.rule]]\nwhen = { path = \"/none\" }\nrespond = { status = 404 }\n"
        .to_owned();
    let lbd = Lbd::start_in(folder, &config);
    let got = |path: &str| {
        let answer = ask(lbd.address, &get(path));
        let text = answer.text().to_owned();
        (answer.status(), text, answer.field("content-type").unwrap().to_owned())
    };
    let plain = "text/plain; charset=utf-8".to_owned();
    assert_eq!(got("/"), (503, "<p>soon".to_owned(), "text/html; charset=utf-8".to_owned()));
    assert_eq!(got("/said"), (404, "said".to_owned(), plain.clone()));
    assert_eq!(got("/none"), (404, "not here".to_owned(), plain.clone()));
    assert_eq!(ask(lbd.address, &get("/")).field("retry-after"), Some("1"));
    let head = Client::new(lbd.address).send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer_to_head();
    assert_eq!((head.status(), head.text()), (503, ""));
    fs::write(lbd.folder.path().join("404"), "nor there").unwrap();
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(got("/none"), (404, "nor there".to_owned(), plain));
}

#[test]
fn the_access_log_has_a_line_for_each_request() {
    let ip = own_ip();
    let target = Target::named(ip, "hello");
    let folder = Folder::new();
    let path = folder.path().join("access.log");
    let mut config = config(ip, &[target.address]);
    config.service = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}\n[[service.rule]]\nwhen = {{ path = \"/no\" }}\nrespond = {{ status = 403 }}\n",
        path.display()
    );
    let lbd = Lbd::start_in(folder, &config);
    let mut client = Client::new(lbd.address);
    client.send("POST /a/../b?c=d HTTP/1.1\r\nHost: Shop.example\r\nContent-Length: 3\r\n\r\nabc").answer();
    client.send(get("/")).answer();
    client.send(get("/no")).answer();
    client.send("GET / HTTP/1.1\r\n\r\n").answer();
    let mut lines: Vec<serde_json::Value> = Vec::new();
    eventually("four lines", || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        lines = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.len() == 4
    });
    let of = |index: usize, key: &str| lines[index][key].clone();
    assert_eq!(
        (of(0, "method"), of(0, "host"), of(0, "path")),
        ("POST".into(), "shop.example".into(), "/b".into())
    );
    assert_eq!((of(0, "query"), of(0, "status"), of(0, "end")), ("c=d".into(), 200.into(), "done".into()));
    assert_eq!(
        (of(0, "group"), of(0, "target"), of(0, "reused")),
        ("pool".into(), "t0".into(), false.into())
    );
    assert!(of(0, "bytes_to_target").as_u64() > Some(100) && of(0, "first_byte_us").is_u64(), "{}", lines[0]);
    assert_eq!(of(1, "reused"), true);
    assert_eq!((of(2, "status"), of(2, "rule"), of(2, "end")), (403.into(), 1.into(), "answered".into()));
    assert_eq!((of(3, "status"), of(3, "end"), of(3, "method")), (400.into(), "host".into(), "-".into()));
}

/// What is behind a rule is not had by a spelling of its path that only targets take for it.
#[test]
fn rules_are_not_evaded_by_what_targets_read_otherwise() {
    let ip = own_ip();
    let target = Target::named(ip, "inside");
    let folder = Folder::new();
    fs::write(
        folder.path().join("users"),
        "ada:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n",
    )
    .unwrap();
    let mut config = config(ip, &[target.address]);
    config.service = "[[service.rule]]\nwhen = { path_prefix = \"/admin\" }\nforward = \"pool\"\nauth = { basic = { users = \"users\" } }\n\
        [[service.rule]]\nwhen = { path_prefix = \"/internal\" }\nrespond = { status = 404 }\n"
        .to_owned();
    let lbd = Lbd::start_in(folder, &config);
    for (path, status) in [
        ("/admin/x", 401),
        ("/admin%2Fx", 400),
        ("/admin;a=b/x", 400),
        ("//admin", 400),
        ("/%2fadmin/x", 400),
        ("/internal", 404),
        ("/internal;x", 400),
        ("//internal/", 400),
        // Too many ways to read it.
        ("/%5C%2F%2F/;aa%2Fb/%5C/;bb%5Ca//aa", 400),
    ] {
        let answer = Client::new(lbd.address).send(get(path)).answer();
        assert_eq!(answer.status(), status, "{path}");
    }
    assert_eq!(target.seen().len(), 0);
    for path in ["/shop//a", "/shop;v=1", "/a%2Fb"] {
        assert_eq!(Client::new(lbd.address).send(get(path)).answer().status(), 200, "{path}");
    }
    let refused = metric(&lbd, "tandem_lbd_service_http_requests_malformed_total");
    assert_eq!(refused["{service=\"web\",reason=\"other_rule\"}"], 6);
    assert_eq!(refused["{service=\"web\",reason=\"path\"}"], 1);
}
