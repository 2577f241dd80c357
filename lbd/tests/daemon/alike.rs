//! What the metrics say of services, groups and targets, the API says, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};

use serde_json::Value;

use crate::http::{Client, Target, get};
use crate::server::Server;
use crate::support::{Config, Folder, Lbd, eventually, free, own_ip};
use crate::udp::{Answering, ask, client};

/// What these begin with is of a service, a group or a target.
const KINDS: [&str; 4] = ["service_", "group_", "target_", "discovery_"];

/// Where the API has it, below the service, group or target of the labels: `{label}` is the value of a label, `/a-/b` is what is left of one
/// number without another, and `/a=text` is 1 if that is what it says. A metric that is in several places has one of them for each value
/// of a label.
const PLACES: &[(&str, &str)] = &[
    ("service_connections_open", "/connections_open"),
    ("service_connections_max", "/connections_max"),
    ("service_connections_total", "/connections_total"),
    ("service_connections_refused_total", "/refused/{reason}"),
    ("service_connections_queued_total", "/queued_total"),
    ("service_rate_sources_forgotten_total", "/rate_sources_forgotten"),
    ("service_connections_ended_total", "/ended/{end}"),
    ("service_connect_retries_total", "/connect_retries"),
    ("service_connect_local_errors_total", "/connect_local_errors"),
    ("service_unhealthy_tries_total", "/unhealthy_tries"),
    ("service_bytes_total", "/bytes_{direction}"),
    ("service_spliced_bytes_total", "/bytes_spliced"),
    ("service_access_log_lost_total", "/access_log_lost"),
    ("service_access_log_left_out_total", "/access_log_left_out"),
    ("service_connection_duration_seconds", "/duration"),
    ("service_datagrams_total", "/datagrams/{direction}"),
    ("service_datagrams_dropped_total", "/datagrams/dropped/{reason}"),
    ("service_sessions_moved_total", "/datagrams/sessions_moved"),
    ("service_sessions_ended_total", "/datagrams/sessions_ended/{end}"),
    ("service_session_socket_errors_total", "/datagrams/socket_errors"),
    ("service_http_requests_total", "/requests/answered/{class}"),
    ("service_http_own_answers_total", "/requests/own_answers"),
    ("service_http_requests_malformed_total", "/requests/malformed_by_reason/{reason}"),
    ("service_http_requests_cut_total", "/requests/cut_by_reason/{reason}"),
    ("service_http_requests_resent_total result=sent", "/requests/resent"),
    ("service_http_requests_resent_total result=refused", "/requests/resends_refused"),
    ("service_http_sticky_cookies_rejected_total", "/requests/sticky_cookies_rejected/{reason}"),
    ("service_http_requests_denied_total", "/requests/denied/{reason}"),
    ("service_http_over_rate_total", "/requests/over_rate"),
    ("service_http_reused_connections_total", "/requests/reused_connections"),
    ("service_http_tunnels_total", "/requests/tunnels"),
    ("service_http_compressions_total result=compressed", "/requests/compressed"),
    ("service_http_compressions_total result=refused", "/requests/compressions_refused"),
    ("service_http_compressed_bytes_total", "/requests/compressed_bytes_{when}"),
    ("service_http2_connections_total", "/requests/http2_connections"),
    ("service_http2_connections_expelled_total", "/requests/http2_connections_expelled/{reason}"),
    ("service_http_request_duration_seconds", "/requests/duration"),
    ("service_http_body_bytes", "/requests/body_sizes/{direction}"),
    ("service_http_rule_requests_total", "/requests/rules/{rule}/answered/{class}"),
    ("service_http_rule_request_duration_seconds", "/requests/rules/{rule}/duration"),
    ("service_http_rule_body_bytes", "/requests/rules/{rule}/body_sizes/{direction}"),
    ("service_http_rule_bytes_total", "/requests/rules/{rule}/bytes_{direction}"),
    ("service_http_rule_retries_total", "/requests/rules/{rule}/retries/{reason}"),
    ("service_http_rule_reused_connections_total", "/requests/rules/{rule}/reused_connections"),
    ("service_tls_handshakes_total", "/tls/handshakes/{version} {kind}"),
    ("service_tls_handshakes_failed_total", "/tls/handshakes_failed/{reason}"),
    ("service_tls_certificate_expiry_time_seconds", "/tls/certificates/0/not_after_unix_ms"),
    ("group_mode", "/mode={mode}"),
    // What a group has of targets is counted below.
    ("group_targets", ""),
    ("group_queue_waiting", "/queue_waiting"),
    ("group_queue_seconds", "/queue_time"),
    ("group_sticky_entries", "/sticky/entries"),
    ("group_sticky_forgotten_total", "/sticky/forgotten"),
    ("group_sticky_withheld_total", "/sticky/withheld"),
    ("group_check_failures_total", "/check_failures/{reason}"),
    ("group_http_requests_total", "/requests/answered/{class}"),
    ("group_http_requests_unserved_total", "/requests/unserved"),
    ("group_http_request_duration_seconds", "/requests/duration"),
    ("group_http_body_bytes", "/requests/body_sizes/{direction}"),
    ("group_http_bytes_total", "/requests/bytes_{direction}"),
    ("group_http_retries_total", "/requests/retries/{reason}"),
    ("group_http_reused_connections_total", "/requests/reused_connections"),
    ("group_http_connections_kept", "/requests/connections_kept"),
    ("discovery_targets", "/discovery/targets"),
    ("discovery_stale", "/discovery/stale"),
    ("discovery_last_success_time_seconds", "/discovery/last_success_unix_ms"),
    ("discovery_answers_total result=changed", "/discovery/changes"),
    ("discovery_answers_total result=unchanged", "/discovery/answers-/discovery/changes"),
    ("discovery_answers_total", "/discovery/failures_by_reason/{result}"),
    ("discovery_entries_left_out_total", "/discovery/{reason}_total"),
    ("target_serving", "/serving"),
    ("target_usable", "/usable"),
    ("target_health", "/health={state}"),
    // Only with another node.
    ("target_health_differs", "/peer_health"),
    ("target_weight", "/weight"),
    ("target_share", "/share"),
    ("target_ejections_total result=ejected", "/ejections"),
    ("target_ejections_total result=refused", "/ejections_refused"),
    ("target_connections_open", "/connections_open"),
    ("target_connections_total", "/connections_total"),
    ("target_connect_seconds", "/connect_time"),
    ("target_first_byte_seconds", "/first_byte_time"),
    ("target_connect_failures_total reason=error", "/connect_failures-/connect_timeouts-/tls_failures"),
    ("target_connect_failures_total reason=timeout", "/connect_timeouts"),
    ("target_connect_failures_total reason=tls", "/tls_failures"),
    ("target_connect_retries_total", "/connect_retries"),
    ("target_resets_total", "/resets"),
    ("target_vanished_total", "/vanished"),
    ("target_bytes_total", "/bytes_{direction}"),
    ("target_http_answers_total", "/requests/answered/{class}"),
    ("target_http_request_duration_seconds", "/requests/duration"),
    ("target_http_body_bytes", "/requests/body_sizes/{direction}"),
    ("target_http_connections_kept", "/requests/connections_kept"),
    ("target_http_reused_connections_total", "/requests/reused_connections"),
    ("target_http_requests_resent_total", "/requests/resent"),
    ("target_checks_total result=success", "/checks_total-/checks_failed"),
    ("target_checks_total result=failure", "/checks_failed"),
    ("target_check_failures_total", "/check_failures/{reason}"),
    ("target_check_duration_seconds", "/last_check/latency_us"),
];

/// Everything that is there in this test, and what it answers.
const ELSE: &str = "[[service]]
name = \"dns\"
mode = \"udp\"
listen = [\"DNS\"]
forward = \"dns\"
[[target_group]]
name = \"dns\"
targets = [{ address = \"ANSWERING\" }]
[[service]]
name = \"site\"
mode = \"http\"
listen = [\"SITE\"]
forward = \"site\"
[[service.rule]]
when = { path = \"/no\" }
respond = { status = 403 }
[[service]]
name = \"safe\"
mode = \"http\"
listen = [\"SAFE\"]
forward = \"site\"
tls = { certificates = [\"BUNDLE\"] }
[[target_group]]
name = \"site\"
discover = { file = \"targets.toml\" }
";

type Labels = BTreeMap<String, String>;

/// A value of a metric.
struct Sample {
    name: String,
    labels: Labels,
    value: f64,
}

impl Sample {
    fn read(line: &str) -> Option<Self> {
        let (series, value) = line.strip_prefix("tandem_lbd_")?.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{')?;
        let label = |text: &str| {
            let (key, value) = text.split_once("=\"")?;
            Some((key.to_owned(), value.to_owned()))
        };
        let labels = labels.strip_suffix("\"}")?.split("\",").filter_map(label).collect();
        let is_ours = KINDS.iter().any(|kind| name.starts_with(kind));
        is_ours.then(|| Self { name: name.to_owned(), labels, value: value.parse().unwrap() })
    }

    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// What the API says of the service, group or target.
    fn subject<'s>(&self, status: &'s Value) -> &'s Value {
        if self.name.starts_with("service_") {
            return found(&status["services"], "name", self.label("service"));
        }
        let group = found(&status["target_groups"], "name", self.label("group"));
        if self.name.starts_with("target_") {
            return found(&group["targets"], "id", self.label("target"));
        }
        group
    }

    /// The part of a histogram that this is, and the histogram's name.
    fn of_histogram(&self) -> Option<(&str, &'static str)> {
        ["_bucket", "_count", "_sum"].into_iter().find_map(|part| {
            let name = self.name.strip_suffix(part)?;
            let is_one = ["_seconds", "_bytes"].iter().any(|unit| name.ends_with(unit));
            is_one.then_some((name, part))
        })
    }

    /// The same number, as the API has it.
    fn told(&self, status: &Value) -> Option<f64> {
        let subject = self.subject(status);
        if self.name == "group_targets" {
            return Some(self.targets(&subject["targets"]));
        }
        let histogram = self.of_histogram();
        let place = self.place(histogram.map_or(self.name.as_str(), |(name, _)| name))?;
        let Some((name, part)) = histogram else { return number_at(subject, &place) };
        let view = subject.pointer(&place)?;
        let (unit, parts) = if name.ends_with("_bytes") { ("bytes", 1.0) } else { ("us", 1e6) };
        match part {
            "_count" => view["count"].as_f64(),
            "_sum" => Some(view[format!("sum_{unit}")].as_f64()? / parts),
            _ => {
                let bound: f64 = self.label("le").parse().unwrap();
                let is_it = |bucket: &&Value| match bucket[format!("up_to_{unit}")].as_f64() {
                    Some(end) => (end - bound * parts).abs() < 0.5,
                    None => bound.is_infinite(),
                };
                view["buckets"].as_array()?.iter().find(is_it)?["count"].as_f64()
            }
        }
    }

    /// Where the API has what a metric of this name says with these labels.
    fn place(&self, name: &str) -> Option<String> {
        let is_it = |(metric, _): &&(&str, &str)| match metric.split_once(' ') {
            Some((metric, label)) => {
                let (key, value) = label.split_once('=').unwrap();
                metric == name && self.label(key) == value
            }
            None => *metric == name,
        };
        let (_, place) = PLACES.iter().find(is_it)?;
        let with = |place: String, (key, value): (&String, &String)| {
            // The requests that meet no rule come before those of the first one.
            let value = if key == "rule" && value == "none" { "0" } else { value.as_str() };
            place.replace(&format!("{{{key}}}"), value)
        };
        Some(self.labels.iter().fold((*place).to_owned(), with))
    }

    fn targets(&self, targets: &Value) -> f64 {
        let counts = |target: &&Value| match self.label("state") {
            "usable" => target["usable"] == true,
            "ejected" => target["ejected_for_ms"].is_u64(),
            _ => true,
        };
        targets.as_array().unwrap().iter().filter(counts).count() as f64
    }
}

fn found<'a>(all: &'a Value, key: &str, name: &str) -> &'a Value {
    let found = all.as_array().and_then(|all| all.iter().find(|it| it[key] == name));
    found.unwrap_or_else(|| panic!("no {name} in {all}"))
}

fn number_at(subject: &Value, place: &str) -> Option<f64> {
    if let Some((place, text)) = place.split_once('=') {
        return Some(f64::from(u8::from(subject.pointer(place)? == text)));
    }
    let number = |place: &str| {
        let value = subject.pointer(place)?;
        let number = value.as_f64().or_else(|| value.as_bool().map(|set| f64::from(u8::from(set))))?;
        let parts = [("_unix_ms", 1e3), ("_us", 1e6)].into_iter().find(|(unit, _)| place.ends_with(unit));
        Some(parts.map_or(number, |(_, parts)| number / parts))
    };
    let mut numbers = place.split('-').map(number);
    let first = numbers.next()??;
    numbers.try_fold(first, |rest, number| Some(rest - number?))
}

/// What one says and the other does not, or says otherwise.
fn differences(lbd: &Lbd) -> Vec<String> {
    let (metrics, status) = (lbd.ask("GET", "/metrics").1, lbd.status());
    let samples: Vec<Sample> = metrics.lines().filter_map(Sample::read).collect();
    assert!(samples.len() > 500, "only {} values", samples.len());
    let differs = |sample: &Sample| {
        let told = sample.told(&status);
        // Of requests the API speaks where there are services that have some.
        let nothing = (sample.name.starts_with("target_http_") && told.is_none()).then_some(0.0);
        // What took some part of a microsecond is whole ones in the API.
        let same = told.or(nothing).is_some_and(|told| (told - sample.value).abs() < 2e-6);
        let Sample { name, labels, value } = sample;
        (!same).then(|| format!("{name} {labels:?}: {value}, in the API {told:?}"))
    };
    samples.iter().filter_map(differs).collect()
}

#[test]
fn every_metric_of_services_groups_and_targets_has_a_place_in_the_api() {
    let table = include_str!("../../src/metrics.rs").lines();
    let documented: BTreeSet<&str> = table
        .filter_map(|line| line.strip_prefix("//! | `tandem_lbd_")?.split('`').next())
        .filter(|name| KINDS.iter().any(|kind| name.starts_with(kind)))
        .collect();
    let placed: BTreeSet<&str> = PLACES.iter().filter_map(|(metric, _)| metric.split(' ').next()).collect();
    assert_eq!(placed, documented);
}

#[test]
fn the_api_says_all_that_the_metrics_say() {
    let ip = own_ip();
    let authority = crate::http::tls::shop();
    // Whoever connects gets 16 MiB.
    let bulk = Server::start((ip, 0).into(), |mut stream| {
        let bytes = vec![7; 64 * 1024];
        for _ in 0..256 {
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    let (answering, target) = (Answering::echo(ip), Target::named(ip, "site"));
    let [dns, site, safe] = [(); 3].map(|()| free(ip));
    let mut config = Config::new(ip, &[bulk.address]);
    config.service = "access_log = {}".to_owned();
    config.target_keys = vec!["max_connections = 100".to_owned()];
    let all = ELSE
        .replace("DNS", &dns.to_string())
        .replace("ANSWERING", &answering.address.to_string())
        .replace("SITE", &site.to_string())
        .replace("SAFE", &safe.to_string())
        .replace("BUNDLE", &authority.bundle("shop").display().to_string());
    // Its first check fails, so that the group is in panic, and there is no other one as long as this takes.
    config.group = format!(
        "health = {{ tcp = true, port = {}, interval = \"1h\", unhealthy_threshold = 1 }}\n\
         sticky = {{ by = \"source_ip\" }}\nqueue = {{ max = 10 }}\n{all}",
        free(ip).port()
    );
    let folder = Folder::new();
    let targets = format!("targets = [{{ address = \"{}\" }}]\n", target.address);
    fs::write(folder.path().join("targets.toml"), targets).unwrap();
    let lbd = Lbd::start_in(folder, &config);
    eventually("the group is in panic", || lbd.status()["target_groups"][0]["mode"] == "panic");

    let mut bytes = Vec::new();
    lbd.connect().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 256 * 64 * 1024);
    assert_eq!(ask(&client(ip, dns), b"hello").unwrap(), b"hello");
    let mut asking = Client::new(site);
    assert_eq!(asking.send(get("/")).answer().text(), "site");
    assert_eq!(asking.send(get("/no")).answer().status(), 403);
    assert_eq!(asking.send("GET / HTTP/1.1\r\n\r\n").answer().status(), 400);
    // No TLS: it is answered or not, but counted.
    drop(Client::new(safe).send(get("/")).try_answer(false));
    drop(asking);

    let mut rest = Vec::new();
    let mut all_agree = || {
        rest = differences(&lbd);
        rest.is_empty()
    };
    let end = std::time::Instant::now() + crate::support::PATIENCE;
    while !all_agree() && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(rest.is_empty(), "{rest:#?}");
    // Of what is new in the API there is some to be seen.
    let status = lbd.status();
    let at = |kind: &str, name: &str, place: &str| number_at(found(&status[kind], "name", name), place);
    let seen = [
        at("services", "web", "/unhealthy_tries"),
        at("services", "web", "/bytes_spliced"),
        at("target_groups", "pool", "/sticky/entries"),
        at("services", "site", "/requests/malformed_by_reason/host"),
        at("services", "safe", "/tls/handshakes_failed/plain_http"),
        at("target_groups", "site", "/discovery/targets"),
    ];
    assert!(seen.iter().all(|number| *number > Some(0.0)), "{seen:?}");
}
