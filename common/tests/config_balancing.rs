//! What services and target groups can say, and what they mean when they don't.

use std::path::Path;
use std::time::Duration;

use common::config::{
    self, AccessLogFormat, Algorithm, Config, DiscoverSource, HealthCheck, Mode, ProxyVersion, RateKey,
    RateScope, SampleShare, Service, StickyBy, TargetGroup, Via,
};

const SERVICE: &str =
    "[[service]]\nname = \"s\"\nmode = \"tcp\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\n";
const GROUP: &str = "[[target_group]]\nname = \"g\"\ntargets = [{ address = \"10.0.1.1:80\" }]\n";

fn accept(text: &str) -> Config {
    config::parse(text, Path::new("/etc/tandem/pair.toml")).unwrap_or_else(|errors| panic!("{errors}"))
}

fn service(keys: &str) -> Service {
    accept(&format!("{SERVICE}{keys}\n{GROUP}")).services.remove(0)
}

fn group(keys: &str) -> TargetGroup {
    accept(&format!("{SERVICE}{GROUP}{keys}\n")).target_groups.remove(0)
}

fn discover(keys: &str) -> config::Discover {
    let text = format!("{SERVICE}[[target_group]]\nname = \"g\"\ndiscover = {{ {keys} }}\n");
    accept(&text).target_groups.remove(0).discover.unwrap()
}

fn check(keys: &str) -> HealthCheck {
    group(&format!("health = {{ {keys} }}")).health.unwrap().check
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_service_without_more_has_the_defaults() {
    let service = service("");
    assert_eq!(service.mode, Mode::Tcp);
    let timeout = service.timeout;
    assert_eq!((timeout.connect, timeout.idle, timeout.header), (secs(5), secs(350), secs(5)));
    assert_eq!((timeout.keepalive, timeout.user), (secs(60), None));
    assert_eq!((service.limits.max_connections, service.limits.max_connections_per_source), (100_000, None));
    assert!(
        service.rules.is_empty()
            && service.rates == config::Rates::default()
            && service.accept_proxy.is_empty()
    );
    assert!(!service.transparent && service.access_log.is_none());
    assert!(service.access.allow.is_empty() && service.access.deny.is_empty());
}

#[test]
fn a_service_with_everything() {
    let service = service(
        "timeout = { header = \"1ms\", keepalive = \"2h\", user = \"1h\" }\n\
         limits = { max_connections_per_source = 10_000_000 }\n\
         rate = [{ key = \"source_ip\", requests = 5, per = \"1s\", scope = \"pair\" },\
         { key = \"service\", requests = 1_000_000_000, per = \"1days\", scope = \"node\" }]\n\
         accept_proxy = [\"10.0.0.0/8\", \"192.0.2.7\", \"::/0\", \"0.0.0.0/0\"]\n\
         transparent = true\n\
         access = { allow = [\"10.0.0.0/8\", { network = \"2001:db8::/32\", tag = \"office\" }], deny = [\"10.1.0.0/16\"] }\n\
         access_log = { format = \"json\", sample = 0.01 }",
    );
    assert_eq!((service.timeout.keepalive, service.timeout.user), (secs(7200), Some(secs(3600))));
    assert_eq!(service.limits.max_connections_per_source, Some(10_000_000));
    let each = service.rates.of_each.unwrap();
    assert_eq!((each.key, each.requests, each.scope), (RateKey::SourceIp, 5, RateScope::Pair));
    let rate = service.rates.of_all.unwrap();
    assert_eq!((rate.key, rate.requests, rate.per), (RateKey::Service, 1_000_000_000, secs(86_400)));
    let networks: Vec<String> = service.accept_proxy.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32", "::/0", "0.0.0.0/0"]);
    assert!(service.transparent);
    let [any, office] = &service.access.allow[..] else { panic!("two entries") };
    assert_eq!((any.tag.as_deref(), office.tag.as_deref()), (None, Some("office")));
    assert_eq!(service.access.deny[0].network.to_string(), "10.1.0.0/16");
    let log = service.access_log.unwrap();
    assert_eq!((log.format, log.file, log.sample.millionths()), (AccessLogFormat::Json, None, 10_000));
}

#[test]
fn rules_keep_their_order_and_names_are_lower_case() {
    let service = service(
        "[[service.rule]]\nwhen = { sni = [\"Shop.Example.com\", \"*.b.example\"] }\nforward = \"g\"\n\
         [[service.rule]]\nwhen = { sni = [\"localhost\"] }\nforward = \"h\"\n\
         [[target_group]]\nname = \"h\"\ntargets = [{ address = \"10.0.1.2:80\" }]",
    );
    let [first, second] = &service.rules[..] else { panic!("two rules") };
    assert_eq!(
        (&first.sni[..], first.forward.as_str()),
        (&["shop.example.com".to_owned(), "*.b.example".to_owned()][..], "g")
    );
    assert_eq!((second.sni[0].as_str(), second.forward.as_str()), ("localhost", "h"));
}

#[test]
fn datagram_services_share_ports_with_stream_services() {
    let config = accept(&format!(
        "{SERVICE}[[service]]\nname = \"u\"\nmode = \"udp\"\nlisten = [\"127.0.0.1:80\", \"127.0.0.1:81/udp\"]\n\
         forward = \"g\"\naccess_log = {{ file = \"/var/log/u\" }}\n{GROUP}"
    ));
    let service = &config.services[1];
    assert_eq!((service.mode, service.listen.len()), (Mode::Udp, 2));
    // Sessions take ports of the host's own, of which there are 28,232.
    assert_eq!((service.timeout.idle, service.limits.max_connections), (secs(60), 20_000));
    let log = service.access_log.as_ref().unwrap();
    assert_eq!((log.format, log.sample), (AccessLogFormat::Line, SampleShare::ALL));
}

#[test]
fn a_group_without_more_has_the_defaults() {
    let group = group("");
    assert_eq!((group.algorithm, group.panic_percent), (Algorithm::RoundRobin, 0));
    assert!(group.discover.is_none() && group.health.is_none() && group.eject.is_none());
    assert!(group.sticky.is_none() && group.queue.is_none() && group.send_proxy.is_none());
    assert_eq!((group.slow_start, group.drain_timeout, group.cross_zone), (Duration::ZERO, secs(300), true));
    assert_eq!((group.keep_alive.idle, group.keep_alive.max), (secs(50), 256));
    let target = &group.targets[0];
    assert_eq!((target.weight, target.backup), (1, false));
    assert!(target.zone.is_none() && target.max_connections.is_none());
}

#[test]
fn every_algorithm_has_its_word() {
    for algorithm in Algorithm::ALL {
        assert_eq!(group(&format!("algorithm = \"{}\"", algorithm.name())).algorithm, algorithm);
    }
}

#[test]
fn a_group_with_everything() {
    let config = accept(&format!(
        "[[node]]\nname = \"a\"\nzone = \"z1\"\n[[node]]\nname = \"b\"\n{SERVICE}\
         [[target_group]]\nname = \"g\"\npanic_percent = 100\nslow_start = \"1h\"\nsend_proxy = \"v1\"\ncross_zone = false\n\
         targets = [{{ address = \"10.0.1.1:80\", zone = \"z1\", max_connections = 1 }}, \
         {{ address = \"10.0.1.2:80\", backup = true }}]\n\
         queue = {{ max = 100_000, timeout = \"5m\" }}\n\
         sticky = {{ by = \"source_ip\", ttl = \"30days\", max_entries = 10_000_000 }}\n\
         eject = {{ consecutive_failures = 1000, base = \"1h\", max = \"1day\", max_percent = 0 }}\n"
    ));
    assert_eq!((config.nodes[0].zone.as_deref(), config.nodes[1].zone.as_deref()), (Some("z1"), None));
    let group = &config.target_groups[0];
    assert_eq!((group.panic_percent, group.slow_start, group.cross_zone), (100, secs(3600), false));
    assert_eq!((group.targets[0].max_connections, group.targets[1].backup), (Some(1), true));
    assert_eq!(group.send_proxy, Some(ProxyVersion::V1));
    let queue = group.queue.unwrap();
    assert_eq!((queue.max, queue.timeout), (100_000, secs(300)));
    let sticky = group.sticky.as_ref().unwrap();
    assert_eq!(
        (&sticky.by, sticky.ttl, sticky.max_entries),
        (&StickyBy::SourceIp, secs(30 * 86_400), 10_000_000)
    );
    let eject = group.eject.unwrap();
    assert_eq!((eject.consecutive_failures, eject.max_percent), (1000, 0));
    assert_eq!((eject.base, eject.max), (secs(3600), secs(86_400)));
}

#[test]
fn a_single_node_may_have_a_zone() {
    let config = accept(&format!(
        "[[node]]\nname = \"edge\"\nzone = \"z1\"\n{SERVICE}\
         [[target_group]]\nname = \"g\"\ncross_zone = false\ntargets = [{{ address = \"10.0.1.1:80\", zone = \"z1\" }}]\n"
    ));
    assert_eq!(config.lone_node().and_then(|node| node.zone.as_deref()), Some("z1"));
    let pair = accept(&format!(
        "[[node]]\nname = \"a\"\n[[node]]\nname = \"b\"\n{SERVICE}\
         [[target_group]]\nname = \"g\"\ntargets = [{{ address = \"10.0.1.1:80\" }}]\n"
    ));
    assert!(pair.lone_node().is_none());
}

#[test]
fn ejection_sticky_and_queue_by_default() {
    let eject = group("eject = {}").eject.unwrap();
    assert_eq!((eject.consecutive_failures, eject.max_percent), (5, 50));
    assert_eq!((eject.base, eject.max), (secs(30), secs(300)));
    assert_eq!(group("eject = { base = \"10m\" }").eject.unwrap().max, secs(600), "not less than base");
    assert_eq!(group("eject = { max = \"30s\" }").eject.unwrap().max, secs(30));
    let sticky = group("sticky = { by = \"source_ip\" }").sticky.unwrap();
    assert_eq!((sticky.ttl, sticky.max_entries), (secs(3600), 100_000));
    let text =
        format!("{SERVICE}[[target_group]]\nname = \"g\"\ndiscover = {{ file = \"t\" }}\nqueue = {{}}\n");
    let queue = accept(&text).target_groups[0].queue.unwrap();
    assert_eq!((queue.max, queue.timeout), (1000, secs(5)));
}

#[test]
fn every_source_of_targets() {
    let file = discover("file = \"targets.toml\"");
    assert_eq!(file.source, DiscoverSource::File("/etc/tandem/targets.toml".into()));
    assert_eq!((file.refresh, file.max_targets), (None, 1024));
    let dns = discover("dns = \"shop.internal:8080\", refresh = \"1s\", max_targets = 4096");
    let name = "shop.internal".to_owned();
    assert_eq!(dns.source, DiscoverSource::Dns { name, port: 8080, server: None });
    assert_eq!((dns.refresh, dns.max_targets), (Some(secs(1)), 4096));
    let srv = discover("srv = \"_http._tcp.shop.internal.\", server = \"[::1]:53\"");
    let name = "_http._tcp.shop.internal.".to_owned();
    assert_eq!(srv.source, DiscoverSource::Srv { name, server: Some("[::1]:53".parse().unwrap()) });
    let consul = discover("consul = \"http://127.0.0.1:8500/\", service = \"shop\", tag = \"v1\"");
    let (url, service) = ("http://127.0.0.1:8500".to_owned(), "shop".to_owned());
    assert_eq!(consul.source, DiscoverSource::Consul { url, service, tag: Some("v1".to_owned()) });
    let etcd = discover("etcd = \"http://etcd.internal:2379\", prefix = \"/shop/\"");
    let (url, prefix) = ("http://etcd.internal:2379".to_owned(), "/shop/".to_owned());
    assert_eq!(etcd.source, DiscoverSource::Etcd { url, prefix });
}

#[test]
fn every_kind_of_check() {
    assert_eq!(check("tls = true"), HealthCheck::Tls { host: None, ca_file: None });
    let tls = check("tls = true, host = \"10.0.1.1\", ca_file = \"ca.pem\"");
    let ca_file = Some("/etc/tandem/ca.pem".into());
    assert_eq!(tls, HealthCheck::Tls { host: Some("10.0.1.1".to_owned()), ca_file });
    let https = check("https = \"/\", body = \"all is well\", host = \"shop.example.com\"");
    let HealthCheck::Http { tls: true, host: Some(host), body: Some(body), ca_file: None, .. } = https else {
        panic!("{https:?}")
    };
    assert_eq!((host.as_str(), body.as_str()), ("shop.example.com", "all is well"));
    let service = String::new();
    assert_eq!(check("grpc = \"\""), HealthCheck::Grpc { tls: false, service, host: None, ca_file: None });
    let grpc = check("grpc = \"shop\", tls = true, host = \"shop.example.com:443\", ca_file = \"ca.pem\"");
    let (service, host) = ("shop".to_owned(), Some("shop.example.com:443".to_owned()));
    let ca_file = Some("/etc/tandem/ca.pem".into());
    assert_eq!(grpc, HealthCheck::Grpc { tls: true, service, host, ca_file });
    let udp = check("udp = \"\\u0000\\u00ffx\", expect = \"\\u0080\"");
    assert_eq!(udp, HealthCheck::Udp { payload: vec![0, 255, b'x'], expect: Some(vec![0x80]) });
    let most = check(&format!("udp = \"{}\"", "x".repeat(1024)));
    assert_eq!(most, HealthCheck::Udp { payload: vec![b'x'; 1024], expect: None });
}

#[test]
fn checks_of_unhealthy_targets_may_be_faster() {
    let health = |keys: &str| group(&format!("health = {{ tcp = true, {keys} }}")).health.unwrap();
    let same = health("interval = \"3s\"");
    assert_eq!((same.unhealthy_interval, same.port), (secs(3), None));
    let faster = health("unhealthy_interval = \"10ms\", port = 8081");
    assert_eq!((faster.unhealthy_interval, faster.port), (Duration::from_millis(10), Some(8081)));
    assert_eq!(health("unhealthy_interval = \"5s\"").unhealthy_interval, secs(5));
}

/// A service of this mode with these addresses, for the group `g`.
fn forwards(name: &str, mode: &str, listen: &str) -> String {
    let dsr = if mode == "dsr" { "dsr = \"l2\"\n" } else { "" };
    format!("[[service]]\nname = \"{name}\"\nmode = \"{mode}\"\n{dsr}listen = [{listen}]\nforward = \"g\"\n")
}

#[test]
fn where_a_target_is_asked_depends_on_who_forwards_to_it() {
    let via = |services: &str, keys: &str| {
        let group = "[[target_group]]\nname = \"g\"\ntargets = [{ address = \"192.0.2.31:80\" }]\n";
        let config = accept(&format!("{services}{group}health = {{ tcp = true{keys} }}\n"));
        config.target_groups[0].health.as_ref().unwrap().via
    };
    let dsr = forwards("d", "dsr", "\"192.0.2.10:80\"");
    let nat = forwards("n", "nat", "\"192.0.2.10:81\"");
    let tcp = forwards("t", "tcp", "\"192.0.2.10:82\"");
    assert_eq!(via(&dsr, ""), Via::Vip);
    assert_eq!(via(&dsr, ", via = \"target\""), Via::Target);
    assert_eq!(via(&nat, ""), Via::Target);
    for mixed in [format!("{dsr}{nat}"), format!("{tcp}{dsr}")] {
        assert_eq!((via(&mixed, ""), via(&mixed, ", via = \"vip\"")), (Via::Target, Via::Vip));
    }
}

#[test]
fn the_virtual_ip_that_a_target_is_checked_through() {
    let services = forwards("a", "dsr", "\"192.0.2.10:53/udp\", \"192.0.2.10:53\", \"192.0.2.11:53\"")
        + &forwards("b", "dsr", "\"[2001:db8::10]:53\", \"192.0.2.12:8080\"")
        + &forwards("c", "nat", "\"[2001:db8::11]:53\"");
    let through = |target: &str, keys: &str| {
        let group = "[[target_group]]\nname = \"g\"\ntargets = [{ address = \"192.0.2.31\" }, { address = \"2001:db8::31\" }]\n";
        let config = accept(&format!("{services}{group}health = {{ via = \"vip\", {keys} }}\n"));
        let found = config.checked_through(&config.target_groups[0], target.parse().unwrap());
        let (service, listen) = found.unwrap();
        format!("{} {listen} {}", service.name, listen.protocol.name())
    };
    assert_eq!(through("192.0.2.31:0", "tcp = true, port = 53"), "a 192.0.2.10:53 tcp");
    assert_eq!(through("192.0.2.31:0", "udp = \"?\", port = 53"), "a 192.0.2.10:53 udp");
    // One that is listened on at the port, whatever comes before it; then the first.
    assert_eq!(through("192.0.2.31:0", "tcp = true, port = 8080"), "b 192.0.2.12:8080 tcp");
    assert_eq!(through("192.0.2.31:0", "tcp = true, port = 9"), "a 192.0.2.10:53 tcp");
    assert_eq!(through("[2001:db8::31]:0", "tcp = true, port = 9"), "b [2001:db8::10]:53 tcp");
    // Only with another family if there is none of the target's.
    let only = accept(
        "[[service]]\nname = \"d\"\nmode = \"dsr\"\ndsr = \"ipip\"\nlisten = [\"192.0.2.10:80\"]\nforward = \"g\"\n\
         [[target_group]]\nname = \"g\"\ntargets = [{ address = \"[2001:db8::31]:80\" }]\nhealth = { tcp = true }\n",
    );
    let group = &only.target_groups[0];
    let found = only.checked_through(group, group.targets[0].address).unwrap();
    assert_eq!(found.1.to_string(), "192.0.2.10:80");
}
