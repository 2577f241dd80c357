//! Changing targets while the daemon runs: state, weight, adding and deleting.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::server::Server;
use crate::support::{Config, Lbd, connect, end_of, exchange, own_ip, ping, under_load};

/// Two echo servers, and a group with these further keys.
fn start(group: &str) -> (Lbd, Config, [Server; 2]) {
    let ip = own_ip();
    let servers = [Server::echo((ip, 0).into()), Server::echo((ip, 0).into())];
    let mut config = Config::new(ip, &servers.each_ref().map(|server| server.address));
    config.group = group.to_owned();
    (Lbd::start(&config), config, servers)
}

/// A connection that this server got.
fn open(lbd: &Lbd, server: &Server) -> TcpStream {
    loop {
        let before = server.accepted();
        let mut stream = lbd.connect();
        assert_eq!(ping(&mut stream, "x").unwrap(), "x");
        if server.accepted() > before {
            return stream;
        }
    }
}

/// Sends a change, which must be accepted, and answers the target as it is then.
fn patch(lbd: &Lbd, target: &str, body: &Value) -> Value {
    let (code, answer) = lbd.send("PATCH", &format!("/v1/target-groups/pool/targets/{target}"), body);
    assert_eq!(code, 200, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

/// How many of so many new connections each server gets.
fn shares(lbd: &Lbd, servers: &[Server], count: usize) -> Vec<usize> {
    let before: Vec<usize> = servers.iter().map(Server::accepted).collect();
    for _ in 0..count {
        assert_eq!(ping(&mut lbd.connect(), "x").unwrap(), "x");
    }
    servers.iter().zip(before).map(|(server, before)| server.accepted() - before).collect()
}

#[test]
fn a_drained_target_gets_nothing_new_and_is_closed_in_the_end() {
    let (lbd, _config, servers) = start("drain_timeout = \"2s\"");
    let (mut kept, mut drained) = (open(&lbd, &servers[0]), open(&lbd, &servers[1]));
    let shown = patch(&lbd, "t1", &json!({ "state": "drain" }));
    assert_eq!((shown["state"].as_str(), shown["reason"].as_str()), (Some("drain"), Some("drain")));
    assert!(shown["closes_in_ms"].as_u64().is_some_and(|ms| ms <= 2000), "{shown}");
    assert_eq!(shares(&lbd, &servers, 20), [20, 0]);
    assert_eq!(ping(&mut drained, "still").unwrap(), "still");
    assert_eq!(end_of(&mut drained).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(ping(&mut kept, "stay").unwrap(), "stay");
    let shown = patch(&lbd, "t1", &json!({ "state": "ready" }));
    assert_eq!((shown["reason"].as_str(), shown["closes_in_ms"].as_u64()), (Some("in_use"), None));
    assert!(shares(&lbd, &servers, 20)[1] > 0);
}

#[test]
fn maintenance_closes_at_once() {
    let (lbd, _config, servers) = start("drain_timeout = \"1h\"");
    let (mut kept, mut closed) = (open(&lbd, &servers[0]), open(&lbd, &servers[1]));
    patch(&lbd, "t1", &json!({ "state": "maint" }));
    assert_eq!(end_of(&mut closed).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(shares(&lbd, &servers, 10), [10, 0]);
    assert_eq!(ping(&mut kept, "stay").unwrap(), "stay");
    // With nothing left there is nothing to panic about: clients are refused.
    patch(&lbd, "t0", &json!({ "state": "maint" }));
    assert_eq!(lbd.status()["target_groups"][0]["mode"], "none");
    assert!(lbd.fetch().is_err());
    let (code, body) = lbd.ask("GET", "/health/ready");
    assert!(code == 503 && body.contains("no healthy target for web"), "{body}");
}

#[test]
fn weights_and_states_outlive_a_reload_but_not_the_target() {
    let (lbd, mut config, servers) = start("");
    let shown = patch(&lbd, "t0", &json!({ "weight": 3 }));
    assert_eq!(
        (&shown["weight"], &shown["weight_overridden"], &shown["share"]),
        (&json!(3), &json!(true), &json!(768))
    );
    let near = |seen: &[usize], expected: usize| seen[0].abs_diff(expected) <= 3;
    let seen = shares(&lbd, &servers, 40);
    assert!(near(&seen, 30), "{seen:?}");
    config.targets[0].2 = 9;
    assert_eq!(lbd.reload(&config).0, 200);
    let seen = shares(&lbd, &servers, 40);
    assert!(near(&seen, 30), "the reload has not changed it: {seen:?}");
    let shown = patch(&lbd, "t0", &json!({ "weight": null }));
    assert_eq!((&shown["weight"], &shown["weight_overridden"]), (&json!(9), &json!(false)));
    let seen = shares(&lbd, &servers, 40);
    assert!(near(&seen, 36), "{seen:?}");
    patch(&lbd, "t0", &json!({ "state": "drain", "weight": 0 }));
    assert_eq!(lbd.reload(&config).0, 200);
    let shown = patch(&lbd, "t0", &json!({ "weight": 4 }));
    assert_eq!((shown["state"].as_str(), shown["weight"].as_u64()), (Some("drain"), Some(4)));
    let mut without = config.clone();
    without.targets.remove(0);
    assert_eq!(lbd.reload(&without).0, 200);
    assert_eq!(lbd.reload(&config).0, 200);
    let targets = lbd.status()["target_groups"][0]["targets"].clone();
    assert_eq!((&targets[0]["state"], &targets[0]["weight"]), (&json!("ready"), &json!(9)));
}

#[test]
fn targets_can_be_added_and_deleted() {
    let (lbd, config, servers) = start("drain_timeout = \"60s\"");
    let third = Server::echo((config.ip, 0).into());
    let add = |body: Value| lbd.send("POST", "/v1/target-groups/pool/targets", &body);
    let (code, body) = add(json!({ "id": "extra", "address": third.address.to_string(), "weight": 2 }));
    assert_eq!(code, 201, "{body}");
    let shown: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&shown["id"], &shown["source"], &shown["share"]),
        (&json!("extra"), &json!("added"), &json!(512))
    );
    let all = [&servers[0], &servers[1], &third];
    let counted = |count: usize| {
        let before = all.map(Server::accepted);
        for _ in 0..count {
            assert_eq!(ping(&mut lbd.connect(), "x").unwrap(), "x");
        }
        [0, 1, 2].map(|index| all[index].accepted() - before[index])
    };
    let seen = counted(40);
    assert!(seen[2].abs_diff(20) <= 3, "{seen:?}");
    assert_eq!(lbd.reload(&config).0, 200);
    assert!(counted(40)[2] > 10, "a reload keeps it");
    let mut open = open(&lbd, &third);
    assert_eq!(lbd.ask("DELETE", "/v1/target-groups/pool/targets/extra").0, 200);
    assert_eq!(counted(20)[2], 0);
    assert_eq!(ping(&mut open, "drains").unwrap(), "drains");
    // One of the file's, too; it stays away over a reload and comes back when it is added again.
    assert_eq!(lbd.ask("DELETE", "/v1/target-groups/pool/targets/t1").0, 200);
    assert_eq!(lbd.reload(&config).0, 200);
    assert_eq!(counted(20), [20, 0, 0]);
    assert_eq!(add(json!({ "id": "t1", "address": servers[1].address.to_string() })).0, 201);
    assert!(counted(20)[1] > 0);
}

#[test]
fn what_cannot_be_done_is_said() {
    let (lbd, config, servers) = start("");
    let path = "/v1/target-groups/pool/targets";
    let address = servers[0].address.to_string();
    let cases = [
        (
            "PATCH",
            "/v1/target-groups/none/targets/t0",
            json!({ "state": "drain" }),
            404,
            "no target group \"none\"",
        ),
        ("PATCH", "/v1/target-groups/pool/targets/t9", json!({ "state": "drain" }), 404, "no target \"t9\""),
        (
            "PATCH",
            "/v1/target-groups/pool/targets/t0",
            json!({ "state": "off" }),
            422,
            "`ready`, `drain`, `maint`",
        ),
        ("PATCH", "/v1/target-groups/pool/targets/t0", json!({ "weight": 257 }), 422, "0 to 256"),
        ("PATCH", "/v1/target-groups/pool/targets/t0", json!({ "wait": 1 }), 422, "unknown field `wait`"),
        ("PATCH", "/v1/target-groups/pool/targets/t0", json!({}), 422, "neither state nor weight"),
        ("POST", path, json!({ "id": "t0", "address": "192.0.2.1:80" }), 409, "\"t0\" already"),
        ("POST", path, json!({ "id": "new", "address": address }), 409, "has the address"),
        ("POST", path, json!({ "id": "new", "address": "nowhere" }), 422, "address"),
        ("POST", path, json!({ "address": "192.0.2.1:80", "weight": 300 }), 422, "weight"),
        ("POST", "/v1/target-groups/none/targets", json!({ "address": "192.0.2.1:80" }), 404, "none"),
        ("DELETE", "/v1/target-groups/pool/targets/t9", json!({}), 404, "no target \"t9\""),
    ];
    for (method, path, body, expected, words) in cases {
        let (code, answer) = lbd.send(method, path, &body);
        let error = serde_json::from_str::<Value>(&answer).unwrap()["error"].as_str().unwrap().to_owned();
        assert!(code == expected && error.contains(words), "{method} {path} {body}: {code} {error}");
    }
    for method in ["PATCH", "DELETE"] {
        let path = "/v1/target-groups/pool/targets/t0";
        assert_eq!(
            exchange(connect(config.api_address()), method, path, "").unwrap().0,
            403,
            "TCP is read-only"
        );
    }
    assert_eq!(exchange(connect(config.api_address()), "POST", path, "").unwrap().0, 403);
    assert_eq!(shares(&lbd, &servers, 10), [5, 5], "nothing has changed");
}

#[test]
fn the_set_command_does_the_same() {
    let (lbd, _config, servers) = start("");
    let _open = open(&lbd, &servers[1]);
    let output = lbd.command(&["set", "pool/t1", "--state", "drain", "--weight", "5"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("pool/t1: drain, weight 5, "), "{text}");
    assert!(text.contains("that are closed in "), "{text}");
    assert_eq!(shares(&lbd, &servers, 10), [10, 0]);
    let table = String::from_utf8(lbd.command(&["status"]).stdout).unwrap();
    assert!(table.lines().any(|line| line.contains("t1") && line.contains("drain ")), "{table}");
    let output = lbd.command(&["set", "pool/t1", "--state", "ready", "--weight", "configured"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("pool/t1: ready, weight 1, "));
    for (arguments, words) in [
        (&["set", "pool/t9", "--state", "drain"][..], "no target \"t9\""),
        (&["set", "pool", "--state", "drain"], "GROUP/TARGET"),
        (&["set", "pool/t0"], "--state"),
        (&["set", "pool/t0", "--state", "off"], "ready, drain or maint"),
        (&["set", "pool/t0", "--weight", "300"], "0 to 256"),
    ] {
        let output = lbd.command(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(words), "{arguments:?}: {error}");
    }
}

#[test]
fn changes_under_load_fail_no_connection() {
    let (lbd, config, servers) = start("drain_timeout = \"60s\"\nslow_start = \"200ms\"");
    let third = Server::echo((config.ip, 0).into());
    let mut long_lived = [open(&lbd, &servers[0]), open(&lbd, &servers[1])];
    under_load(&lbd, 3, |goes_on| {
        let path = "/v1/target-groups/pool/targets";
        for round in 0..8 {
            patch(&lbd, "t1", &json!({ "state": "drain" }));
            goes_on();
            patch(&lbd, "t0", &json!({ "weight": 1 + round }));
            goes_on();
            let body = json!({ "id": "extra", "address": third.address.to_string() });
            assert_eq!(lbd.send("POST", path, &body).0, 201);
            goes_on();
            patch(&lbd, "t1", &json!({ "state": "ready" }));
            assert_eq!(lbd.reload(&config).0, 200);
            goes_on();
            assert_eq!(lbd.ask("DELETE", &format!("{path}/extra")).0, 200);
            goes_on();
        }
    });
    for stream in &mut long_lived {
        assert_eq!(ping(stream, "after").unwrap(), "after");
    }
    let ends: HashMap<String, u64> =
        crate::support::metric(&lbd, "tandem_lbd_service_connections_refused_total");
    assert!(ends.values().all(|count| *count == 0), "{ends:?}");
}
