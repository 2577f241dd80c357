//! What is counted of requests by rule, group and target, and what goes on to be counted after a reload.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::config;
use super::peers::{Client, Message, Target, answer, ask, get, leave_no_port_behind, write};
use crate::support::{Config, Lbd, eventually, free, metric, own_ip};

const RULES: &str = "[[service.rule]]\nwhen = { path_prefix = \"/api\" }\nforward = \"pool\"\n\
                     [[service.rule]]\nwhen = { path = \"/no\" }\nrespond = { status = 403 }\n";

/// The answers of a class to requests that met a rule.
fn answered(lbd: &Lbd, rule: &str, class: &str) -> u64 {
    metric(lbd, "tandem_lbd_service_http_rule_requests_total")
        [&format!("{{service=\"web\",rule=\"{rule}\",class=\"{class}\"}}")]
}

#[test]
fn requests_are_counted_by_the_rule_that_they_meet() {
    let ip = own_ip();
    let target = Target::with(ip, |request, stream| match request.line() {
        "GET /api/none HTTP/1.1" => write(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        _ => answer(stream, "ok"),
    });
    let mut config = config(ip, &[target.address]);
    config.service = RULES.to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    for path in ["/", "/api", "/api/x", "/api/none", "/no", "/else"] {
        client.send(get(path)).answer();
    }
    // One that nobody understands meets no rule, either.
    client.send("GET / HTTP/1.1\r\n\r\n").answer();
    eventually("all are counted", || answered(&lbd, "none", "4xx") == 1);
    assert_eq!((answered(&lbd, "none", "2xx"), answered(&lbd, "1", "2xx")), (2, 2));
    assert_eq!((answered(&lbd, "1", "4xx"), answered(&lbd, "2", "4xx")), (1, 1));
    let all = metric(&lbd, "tandem_lbd_service_http_requests_total");
    assert_eq!(
        (all["{service=\"web\",class=\"2xx\"}"], all["{service=\"web\",class=\"4xx\"}"]),
        (4, 3),
        "together they are all of the service's"
    );
    let durations = metric(&lbd, "tandem_lbd_service_http_rule_request_duration_seconds_count");
    assert_eq!(durations["{service=\"web\",rule=\"1\"}"], 3);
    let status = lbd.status();
    let rules = &status["services"][0]["requests"]["rules"];
    assert_eq!((&rules[0]["rule"], &rules[2]["rule"]), (&"none".into(), &"2".into()), "{rules}");
    assert_eq!((&rules[1]["answered"]["2xx"], &rules[1]["answered"]["4xx"]), (&2.into(), &1.into()));
    assert!(rules[1]["duration"]["p50_us"].is_u64(), "{rules}");
    // Each that went to the target, on the connection of the first of them.
    let reused = metric(&lbd, "tandem_lbd_service_http_rule_reused_connections_total");
    let reused = ["none", "1", "2"].map(|rule| reused[&format!("{{service=\"web\",rule=\"{rule}\"}}")]);
    assert_eq!((reused, &rules[1]["reused_connections"]), ([1, 3, 0], &3.into()), "{rules}");

    // Places go on to be counted, whatever rule is there; one that is new begins at 0.
    config.service = format!("{RULES}[[service.rule]]\nwhen = {{ path = \"/third\" }}\nforward = \"pool\"\n");
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!((answered(&lbd, "1", "2xx"), answered(&lbd, "3", "2xx")), (2, 0));
    assert_eq!(ask(lbd.address, &get("/third")).status(), 200);
    assert_eq!(ask(lbd.address, &get("/api")).status(), 200);
    eventually("they are counted", || answered(&lbd, "3", "2xx") == 1 && answered(&lbd, "1", "2xx") == 3);
}

#[test]
fn a_target_s_connections_are_counted_as_they_are_kept_and_used_again() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let of_target = |name: &str| {
        let all = metric(&lbd, &format!("tandem_lbd_target_http_{name}"));
        all[&format!("{{group=\"pool\",target=\"t0\",address=\"{}\"}}", target.address)]
    };
    let view = || lbd.status()["target_groups"][0]["targets"][0]["requests"].clone();
    let mut client = Client::new(lbd.address);
    for _ in 0..5 {
        client.send(get("/")).answer();
    }
    eventually("it is kept", || view()["connections_kept"] == 1);
    assert_eq!(of_target("reused_connections_total"), 4);
    eventually("the last one is counted", || of_target("request_duration_seconds_count") == 5);
    assert_eq!((&view()["answered"]["2xx"], &view()["reused_connections"]), (&5.into(), &4.into()));
    let (_, metrics) = lbd.ask("GET", "/metrics");
    let kept = format!(
        "tandem_lbd_target_http_connections_kept{{group=\"pool\",target=\"t0\",address=\"{}\"}} 1",
        target.address
    );
    assert!(metrics.contains(&kept), "{kept} in {metrics}");
    // It was connected once: what was sent on a kept connection is no other time that connecting took.
    let connects = &lbd.status()["target_groups"][0]["targets"][0]["connect_time"];
    assert_eq!(connects["count"], 1, "{connects}");
    // A target that gets nothing more has none kept.
    let (code, _) =
        lbd.send("PATCH", "/v1/target-groups/pool/targets/t0", &serde_json::json!({ "state": "drain" }));
    assert_eq!(code, 200);
    eventually("it is closed", || view()["connections_kept"] == 0 && target.ended() == 1);
}

#[test]
fn a_group_says_how_long_and_how_many_connections_are_kept() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let mut config = config(ip, &[target.address]);
    config.group = "keep_alive = { idle = \"1s\" }".to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    assert_eq!([client.send(get("/")).answer().status(), client.send(get("/")).answer().status()], [200; 2]);
    assert_eq!(target.connections(), 1);
    eventually("it has waited for long enough", || target.ended() == 1);
    config.group = "keep_alive = { max = 0 }".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    for _ in 0..3 {
        assert_eq!(client.send(get("/")).answer().status(), 200);
    }
    assert_eq!(target.connections(), 4, "each request has one of its own");
    eventually("none is left", || target.ended() == 4);
    leave_no_port_behind(target.address);
    assert_eq!(lbd.status()["target_groups"][0]["targets"][0]["requests"]["connections_kept"], 0);
}

#[test]
fn a_reload_changes_how_connections_are_kept_also_for_those_that_wait() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let mut config = config(ip, &[target.address]);
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    let kept = || lbd.status()["target_groups"][0]["targets"][0]["requests"]["connections_kept"].clone();
    // Each would have waited for 50 s, or for an hour.
    for (ended, fewer) in ["max = 0", "idle = \"1s\""].into_iter().enumerate() {
        config.group = "keep_alive = { idle = \"1h\" }".to_owned();
        assert_eq!(lbd.reload(&config).0, 200);
        assert_eq!(client.send(get("/")).answer().status(), 200);
        eventually("it is kept", || kept() == 1);
        assert_eq!((target.connections(), target.ended()), (ended + 1, ended));
        config.group = format!("keep_alive = {{ {fewer} }}");
        assert_eq!(lbd.reload(&config).0, 200);
        eventually("it is closed", || kept() == 0 && target.ended() == ended + 1);
    }
}

#[test]
fn a_reload_closes_connections_that_wait_beyond_its_max() {
    const COUNT: usize = 6;
    let ip = own_ip();
    // None is answered before all have come, each on a connection of its own.
    let together = Barrier::new(COUNT);
    let target = Target::with(ip, move |_, stream| {
        together.wait();
        answer(stream, "ok")
    });
    let mut config = config(ip, &[target.address]);
    let lbd = Lbd::start(&config);
    let mut clients: Vec<Client> = (0..COUNT).map(|_| Client::new(lbd.address)).collect();
    for client in &mut clients {
        client.send(get("/"));
    }
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    let kept = || {
        let kept = &lbd.status()["target_groups"][0]["targets"][0]["requests"]["connections_kept"];
        kept.as_u64().and_then(|kept| usize::try_from(kept).ok()).unwrap()
    };
    eventually("all are kept", || kept() == COUNT);
    config.group = "keep_alive = { max = 1 }".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    // There are two workers, of which one may have had no request.
    eventually("each worker keeps one", || (1..=2).contains(&kept()) && target.ended() + kept() == COUNT);
}

#[test]
fn a_group_s_requests_are_counted_also_of_targets_that_have_left_and_of_none() {
    let ip = own_ip();
    let (one, two) = (Target::named(ip, "one"), Target::named(ip, "two"));
    let first = config(ip, &[one.address]);
    let lbd = Lbd::start(&first);
    let served = || metric(&lbd, "tandem_lbd_group_http_requests_total")["{group=\"pool\",class=\"2xx\"}"];
    let unserved = || metric(&lbd, "tandem_lbd_group_http_requests_unserved_total")["{group=\"pool\"}"];
    let with =
        |targets: &[std::net::SocketAddr]| Config { listen: first.listen.clone(), ..config(ip, targets) };
    assert_eq!(ask(lbd.address, &get("/")).text(), "one");
    eventually("it is counted", || served() == 1);
    assert_eq!(lbd.reload(&with(&[two.address])).0, 200);
    assert_eq!(ask(lbd.address, &get("/")).text(), "two");
    eventually("so is the next one", || served() == 2);
    let durations = metric(&lbd, "tandem_lbd_group_http_request_duration_seconds_count");
    assert_eq!(durations["{group=\"pool\"}"], 2);
    assert_eq!(unserved(), 0);
    assert_eq!(lbd.reload(&with(&[free(ip)])).0, 200);
    assert_eq!(ask(lbd.address, &get("/")).status(), 503);
    assert_eq!((served(), unserved()), (2, 1));
    let view = &lbd.status()["target_groups"][0]["requests"];
    assert_eq!((&view["answered"]["2xx"], &view["unserved"]), (&2.into(), &1.into()), "{view}");
}

#[test]
fn what_is_sent_again_is_counted_for_the_target_that_has_ended_the_connection() {
    let ip = own_ip();
    let asked = AtomicUsize::new(0);
    // The second request on the one kept connection gets no answer.
    let target = Target::with(ip, move |_, stream| {
        if asked.fetch_add(1, Ordering::SeqCst) == 1 { Ok(false) } else { answer(stream, "ok") }
    });
    let mut config = config(ip, &[target.address]);
    config.group = "retry = { on = [\"connect\", \"stale_connection\"] }".to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    for _ in 0..2 {
        assert_eq!(client.send(get("/")).answer().text(), "ok");
    }
    let resent = metric(&lbd, "tandem_lbd_target_http_requests_resent_total");
    assert_eq!(resent.values().sum::<u64>(), 1);
    let of_group = |name: &str, labels: &str| {
        metric(&lbd, &format!("tandem_lbd_group_http_{name}"))[&format!("{{group=\"pool\"{labels}}}")]
    };
    eventually("it is counted for the group", || of_group("retries_total", ",reason=\"resent\"") == 1);
    assert_eq!(of_group("retries_total", ",reason=\"connect\""), 0);
    assert_eq!(of_group("reused_connections_total", ""), 1, "the one that ended");
    let of_rule = metric(&lbd, "tandem_lbd_service_http_rule_retries_total");
    assert_eq!(of_rule["{service=\"web\",rule=\"none\",reason=\"resent\"}"], 1);
    eventually("the new one is kept", || lbd.metric("tandem_lbd_group_http_connections_kept") == 1.0);
}

#[test]
fn bytes_are_counted_by_rule_and_group() {
    let ip = own_ip();
    let target = Target::named(ip, "answer");
    let mut config = config(ip, &[target.address]);
    config.service = RULES.to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    let posted = format!("POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000));
    assert_eq!(client.send(posted).answer().status(), 200);
    let chunked =
        "POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    assert_eq!(client.send(chunked).answer().status(), 200);
    let own = client.send(get("/no")).answer();
    let bytes = |of: &str, labels: &str| {
        let all = metric(&lbd, &format!("tandem_lbd_{of}_bytes_total"));
        ["to_target", "to_client"].map(|way| all[&format!("{{{labels},direction=\"{way}\"}}")])
    };
    let of_rule = |rule: &str| bytes("service_http_rule", &format!("service=\"web\",rule=\"{rule}\""));
    eventually("both are counted", || of_rule("2")[1] > 0 && of_rule("1")[1] > 0);
    // Each head ends with an empty line. What is cut into chunks anew comes in one, with its end, and the last chunk and its own.
    let bytes_of = |seen: &Message| seen.head.len() + 4 + seen.body.len();
    let framing = "5\r\n\r\n0\r\n\r\n".len();
    let sent = (target.seen().iter().map(bytes_of).sum::<usize>() + framing) as u64;
    assert_eq!((of_rule("1")[0], of_rule("2")[0], of_rule("none")), (sent, 0, [0, 0]));
    assert_eq!(of_rule("2")[1], (own.head.len() + 4 + own.body.len()) as u64);
    assert_eq!(bytes("group_http", "group=\"pool\""), of_rule("1"), "Tandem's own answers are no group's");
    let status = lbd.status();
    let rule = &status["services"][0]["requests"]["rules"][1];
    assert_eq!((&rule["bytes_to_target"], &rule["retries"]["resent"]), (&sent.into(), &0.into()), "{rule}");
    assert_eq!(status["target_groups"][0]["requests"]["bytes_to_target"], sent, "{status}");
    // How long bodies were is told without all that, and of those only that a target has answered.
    let group = &status["target_groups"][0];
    let of_service = &status["services"][0]["requests"];
    for requests in [of_service, rule, &group["requests"], &group["targets"][0]["requests"]] {
        let sizes = |way: &str, what: &str| requests["body_sizes"][way][what].as_u64();
        assert_eq!((sizes("to_target", "count"), sizes("to_target", "sum_bytes")), (Some(2), Some(5005)));
        assert_eq!((sizes("to_client", "count"), sizes("to_client", "sum_bytes")), (Some(2), Some(12)));
        assert_eq!(
            (sizes("to_target", "p50_bytes"), sizes("to_target", "p99_bytes")),
            (Some(256), Some(16_384))
        );
    }
    assert_eq!(of_service["rules"][2]["body_sizes"]["to_client"]["count"], 0, "{of_service}");
}

#[test]
fn bytes_of_a_tunnel_are_counted_by_rule_group_and_target() {
    let ip = own_ip();
    let target = Target::with(ip, |_, stream| {
        write(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nat once",
        )?;
        std::io::copy(stream, &mut std::io::sink())?;
        write(stream, " and at the end")?;
        Ok(false)
    });
    let mut config = config(ip, &[target.address]);
    config.service = RULES.to_owned();
    let lbd = Lbd::start(&config);
    let mut client = Client::new(lbd.address);
    // Both ends have something to say before the tunnel is there.
    client.send("GET /api HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nfrom the begin");
    let answer = client.answer();
    assert_eq!((answer.status(), client.read(7)), (101, b"at once".to_vec()));
    client.send("x".repeat(100_000)).finish();
    assert_eq!(client.read(15), b" and at the end");
    assert!(client.is_at_its_end());
    let sent = (target.last().head.len() + 4 + 14 + 100_000) as u64;
    let received = (answer.head.len() + 4 + 7 + 15) as u64;
    let of_target = format!("group=\"pool\",target=\"t0\",address=\"{}\"", target.address);
    for (name, labels) in [
        ("service", "service=\"web\""),
        ("service_http_rule", "service=\"web\",rule=\"1\""),
        ("group_http", "group=\"pool\""),
        ("target", of_target.as_str()),
    ] {
        eventually(&format!("all is counted in {name}_bytes_total"), || {
            let all = metric(&lbd, &format!("tandem_lbd_{name}_bytes_total"));
            let bytes = |way: &str| all[&format!("{{{labels},direction=\"{way}\"}}")];
            [bytes("to_target"), bytes("to_client")] == [sent, received]
        });
    }
    let sizes = &lbd.status()["services"][0]["requests"]["body_sizes"]["to_client"];
    assert_eq!(sizes["count"], 0, "what goes through a tunnel is no body: {sizes}");
}

#[test]
fn bytes_of_a_request_are_counted_also_where_its_answer_is_none() {
    let ip = own_ip();
    // It is known from what comes with the head that this cannot be passed on.
    let target = Target::with(ip, |_, stream| {
        write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")?;
        Ok(false)
    });
    let lbd = Lbd::start(&config(ip, &[target.address]));
    let posted = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(5000));
    assert_eq!(ask(lbd.address, &posted).status(), 502);
    let seen = target.last();
    let sent = (seen.head.len() + 4 + seen.body.len()) as u64;
    let bytes = || metric(&lbd, "tandem_lbd_group_http_bytes_total");
    eventually("they are counted", || bytes()["{group=\"pool\",direction=\"to_target\"}"] == sent);
}

#[test]
fn what_has_no_other_target_is_not_tried_again() {
    let ip = own_ip();
    let silent = Target::with(ip, |_, _| Ok(false));
    let mut nobody = config(ip, &[free(ip)]);
    nobody.group = "retry = { on = [\"connect\"] }".to_owned();
    let mut no_answer = config(own_ip(), &[silent.address]);
    no_answer.group = "retry = { on = [\"no_answer\"] }".to_owned();
    for config in [nobody, no_answer] {
        let lbd = Lbd::start(&config);
        assert_eq!(ask(lbd.address, &get("/")).status(), 503);
        eventually("it is counted", || answered(&lbd, "none", "5xx") == 1);
        for name in [
            "group_http_retries_total",
            "service_http_rule_retries_total",
            "service_connect_retries_total",
            "service_http_requests_resent_total",
            "target_http_requests_resent_total",
        ] {
            let all = metric(&lbd, &format!("tandem_lbd_{name}"));
            assert!(!all.is_empty() && all.values().all(|count| *count == 0), "{name}: {all:?}");
        }
    }
}

#[test]
fn a_target_that_cannot_be_connected_is_a_retry_of_its_group() {
    let ip = own_ip();
    let target = Target::named(ip, "ok");
    let lbd = Lbd::start(&config(ip, &[free(ip), target.address]));
    for _ in 0..4 {
        assert_eq!(ask(lbd.address, &get("/")).text(), "ok");
    }
    let retries =
        || metric(&lbd, "tandem_lbd_group_http_retries_total")["{group=\"pool\",reason=\"connect\"}"];
    eventually("it is counted", || retries() > 0);
    let of_service = || metric(&lbd, "tandem_lbd_service_connect_retries_total")["{service=\"web\"}"];
    eventually("as for the service", || retries() == of_service());
}
