//! The API on both of its sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::server::Server;
use crate::support::{
    Config, Lbd, PATIENCE, connect, end_of, eventually, exchange, free, own_ip, ping, reset,
};

fn lbd(api: impl Fn(&mut Config)) -> (Lbd, Config, Server) {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[server.address]);
    api(&mut config);
    (Lbd::start(&config), config, server)
}

#[test]
fn tcp_is_read_only_and_the_unix_socket_is_not() {
    let (lbd, config, _server) = lbd(|_| {});
    let tcp = |method, path| exchange(connect(config.api_address()), method, path, "").unwrap();
    for path in [
        "/v1/status",
        "/v1/services",
        "/v1/target-groups",
        "/health",
        "/health/live",
        "/health/ready",
        "/health/details",
        "/metrics",
    ] {
        assert_eq!(tcp("GET", path).0, 200, "{path}");
    }
    let (code, body) = tcp("POST", "/v1/reload");
    assert_eq!(code, 403);
    assert!(body.contains("read-only"), "{body}");
    assert_eq!(lbd.ask("POST", "/v1/reload").0, 200);
    assert_eq!(tcp("GET", "/nothing").0, 404);
    assert_eq!(tcp("DELETE", "/v1/status").0, 405);
    let mode = fs::metadata(lbd.folder.path().join("lbd.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_token_allows_changes_over_tcp() {
    let folder = crate::support::Folder::new();
    let token = folder.path().join("api.token");
    fs::write(&token, "a very secret word\n").unwrap();
    let (_lbd, config, _server) = lbd(|config| config.api = format!("token_file = \"{}\"", token.display()));
    let reload = |headers| exchange(connect(config.api_address()), "POST", "/v1/reload", headers).unwrap().0;
    assert_eq!(reload(""), 403);
    assert_eq!(reload("Authorization: Bearer a very secret wort\r\n"), 403);
    assert_eq!(reload("Authorization: Bearer a very secret word\r\n"), 200);
}

#[test]
fn the_status_command_prints_the_same_as_the_api() {
    let (lbd, _config, _server) = lbd(|_| {});
    let json: serde_json::Value = serde_json::from_slice(&lbd.command(&["status", "--json"]).stdout).unwrap();
    assert_eq!(json["services"][0]["name"], "web");
    assert_eq!(json["target_groups"], lbd.status()["target_groups"]);
    let table = String::from_utf8(lbd.command(&["status"]).stdout).unwrap();
    assert!(table.contains("pool   t0") && table.contains("unchecked"), "{table}");
    assert!(lbd.command(&["reload"]).status.success());
}

/// The sum of a metric, of whole numbers, over all lines that hold this.
fn sum(lbd: &Lbd, name: &str, holds: &str) -> u64 {
    let (_, text) = lbd.ask("GET", "/metrics");
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    let values = lines.filter(|(labels, _)| labels.contains(holds)).map(|(_, value)| value);
    values.map(|value| value.trim_end_matches(".0").parse::<u64>().unwrap()).sum()
}

#[test]
fn the_metrics_say_what_the_api_says() {
    let ip = own_ip();
    let server = Server::echo((ip, 0).into());
    let mut config = Config::new(ip, &[free(ip), server.address]);
    let lbd = Lbd::start(&config);
    let mut open = Vec::new();
    for _ in 0..6 {
        let mut stream = lbd.connect();
        assert_eq!(ping(&mut stream, "x").unwrap(), "x");
        open.push(stream);
    }
    open.truncate(2);
    eventually("four are closed", || lbd.service("connections_open") == 2);
    config.group = "health = { tcp = true, interval = \"50ms\", unhealthy_threshold = 1 }".to_owned();
    assert_eq!(lbd.reload(&config).0, 200);
    let target = |index: usize| lbd.status()["target_groups"][0]["targets"][index].clone();
    eventually("both are checked", || {
        [0, 1].iter().all(|&it| target(it)["checks_total"].as_u64() >= Some(2))
    });
    assert_eq!([0, 1].map(|it| target(it)["checks_failed"].as_u64() >= Some(2)), [true, false]);

    let (code, status) = lbd.ask("GET", "/v1/services");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(code, 200);
    let service = |key: &str| status[0][key].as_u64().unwrap();
    for (name, key, value) in [
        ("service_connections_open", "connections_open", 2),
        ("service_connections_total", "connections_total", 6),
        ("service_connections_queued_total", "queued_total", 0),
        ("service_connect_retries_total", "connect_retries", service("connect_retries").max(1)),
        ("service_connections_max", "connections_max", service("connections_max")),
    ] {
        assert_eq!((service(key), sum(&lbd, &format!("tandem_lbd_{name}"), "")), (value, value), "{name}");
    }
    assert_eq!(sum(&lbd, "tandem_lbd_group_queue_waiting", ""), 0);
    let states =
        ["all", "usable", "ejected"].map(|it| sum(&lbd, "tandem_lbd_group_targets", &format!("\"{it}\"")));
    assert_eq!(states, [2, 1, 0]);
    for (index, id) in ["t0", "t1"].into_iter().enumerate() {
        let (label, shown) = (format!("target=\"{id}\""), target(index));
        for (name, key) in [
            ("target_connections_open", "connections_open"),
            ("target_connections_total", "connections_total"),
            ("target_connect_retries_total", "connect_retries"),
            ("target_connect_failures_total", "connect_failures"),
            ("target_share", "share"),
            ("target_weight", "weight"),
        ] {
            let told = shown[key].as_u64().unwrap();
            assert_eq!(sum(&lbd, &format!("tandem_lbd_{name}"), &label), told, "{id} {name}");
        }
        let healthy = u64::from(shown["health"] == "healthy");
        for name in ["target_usable", "target_serving"] {
            assert_eq!(sum(&lbd, &format!("tandem_lbd_{name}"), &label), healthy, "{id} {name}");
        }
        // These go on.
        let checks = sum(&lbd, "tandem_lbd_target_checks_total", &label);
        assert!(checks >= shown["checks_total"].as_u64().unwrap(), "{id}");
    }
    assert!(target(1)["first_byte_time"]["p50_us"].as_u64().is_some());
}

#[test]
fn what_goes_through_each_target_is_counted() {
    let ip = own_ip();
    let echo = Server::echo((ip, 0).into());
    let silent = Server::start((ip, 0).into(), |mut stream| {
        drop(stream.read(&mut [0]));
        reset(stream);
    });
    let mut config = Config::new(ip, &[echo.address, silent.address]);
    config.group = "send_proxy = \"v1\"".to_owned();
    let lbd = Lbd::start(&config);
    let use_only = |id: &str, other: &str| {
        for (id, state) in [(id, "ready"), (other, "maint")] {
            assert!(lbd.command(&["set", &format!("pool/{id}"), "--state", state]).status.success());
        }
    };
    use_only("t0", "t1");
    let mut stream = lbd.connect();
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 2000];
    let mut length = 0;
    // The header comes back too: it is the target's answer, but was not the client's to send.
    while !answer[..length].ends_with(b"\r\nhello") {
        length += stream.read(&mut answer[length..]).unwrap();
    }
    drop(stream);
    use_only("t1", "t0");
    // The header alone has the target reset, perhaps before the client has seen that it is connected.
    let ended = TcpStream::connect_timeout(&lbd.address, PATIENCE).and_then(|mut stream| {
        drop(stream.write_all(b"x"));
        end_of(&mut stream)
    });
    assert!(ended.is_err(), "the reset is passed on");
    eventually("it is counted", || lbd.service("connections_open") == 0);
    let targets = lbd.status()["target_groups"][0]["targets"].clone();
    let counts = |index: usize| {
        ["bytes_to_target", "bytes_to_client", "resets"].map(|key| targets[index][key].as_u64().unwrap())
    };
    assert_eq!(counts(0), [5, length as u64, 0]);
    assert_eq!(counts(1)[2], 1, "{targets}");
    let metrics = lbd.ask("GET", "/metrics").1;
    let value = |name: &str, labels: &[&str]| {
        let row = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
        metrics.lines().find(row).and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    let bytes = value("tandem_lbd_target_bytes_total", &["target=\"t0\"", "direction=\"to_target\""]);
    let resets = value("tandem_lbd_target_resets_total", &["target=\"t1\""]);
    assert_eq!((bytes.as_deref(), resets.as_deref()), (Some("5"), Some("1")));
}

/// By the parser of Prometheus' own client for Python, which is strict about the format.
#[test]
fn metrics_are_what_prometheus_reads() {
    const READER: &str = r#"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = {family.name: family for family in text_string_to_metric_families(sys.stdin.read())}
connects = families["tandem_lbd_target_connect_seconds"]
print(len(families), sum(sample.value for sample in connects.samples if sample.name.endswith("_count")))
"#;
    let (lbd, _, _server) = lbd(|config| {
        config.service = "access_log = {}".to_owned();
        config.group = "health = { tcp = true }\nsticky = { by = \"source_ip\" }\neject = {}".to_owned();
    });
    assert_eq!(ping(&mut lbd.connect(), "hello").unwrap(), "hello");
    eventually("it has ended", || lbd.service("connections_open") == 0);
    let mut reader = Command::new("/usr/bin/python3");
    reader.args(["-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut reader = reader.spawn().unwrap();
    reader.stdin.take().unwrap().write_all(lbd.ask("GET", "/metrics").1.as_bytes()).unwrap();
    let output = reader.wait_with_output().unwrap();
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    let (families, connects) = text.trim().split_once(' ').unwrap_or_else(|| panic!("{errors}"));
    assert!(families.parse::<u32>().unwrap() > 40 && connects == "1", "{text}");
}

#[test]
fn too_many_connections_are_closed_and_the_unix_socket_stays_open() {
    let (lbd, config, _server) = lbd(|_| {});
    let idle: Vec<TcpStream> = (0..64).map(|_| connect(config.api_address())).collect();
    let mut refused = connect(config.api_address());
    assert!(matches!(end_of(&mut refused), Ok(0) | Err(_)));
    let (_, metrics) = lbd.ask("GET", "/metrics");
    assert!(metrics.contains("tandem_lbd_api_connections_refused_total 1\n"), "{metrics}");
    drop(idle);
    eventually("there is room again", || {
        exchange(connect(config.api_address()), "GET", "/health", "").is_ok_and(|(code, _)| code == 200)
    });
}

#[test]
fn nonsense_on_the_api_does_no_harm() {
    let (lbd, config, _server) = lbd(|_| {});
    for bytes in [
        &b"\0\xff\xfe nonsense\r\n\r\n"[..],
        &[b'A'; 100_000],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
    ] {
        let mut stream = connect(config.api_address());
        // It may be closed before everything is sent.
        drop(stream.write_all(bytes));
        drop(stream.read(&mut [0; 512]));
    }
    assert_eq!(lbd.ask("GET", "/health").0, 200);
}
