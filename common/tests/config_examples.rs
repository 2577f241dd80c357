//! The example files are right, and say what the documentation says they do.

use std::path::PathBuf;
use std::time::Duration;

use common::config::{
    self, Acme, Algorithm, Attach, Auth, Config, Discover, DiscoverSource, Dsr, FlowTimeouts, HashBy,
    HealthCheck, HttpAuth, Kernel, Method, Mode, OnUnhealthy, Protocol, ProxyVersion, RateKey, StickyBy,
    TlsVersion, Transport, VrrpVersion,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn example(name: &str) -> Config {
    config::load(&folder().join(name)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn minimal_has_the_defaults() {
    let config = example("minimal.toml");
    let vrrp = &config.vrrp[0];
    assert_eq!(vrrp.interface["a"], "eth0");
    assert_eq!(vrrp.interface["b"], "eth0");
    assert_eq!((vrrp.priority["a"].get(), vrrp.priority["b"].get()), (200, 100));
    assert_eq!(vrrp.advert_interval, Duration::from_secs(1));
    assert_eq!((vrrp.preempt, vrrp.preempt_delay), (true, Duration::ZERO));
    assert_eq!(
        (vrrp.transport, vrrp.auth, vrrp.version),
        (Transport::Multicast, Auth::None, VrrpVersion::V3)
    );
    assert!(!vrrp.track.lbd, "there is no service");
    assert_eq!((vrrp.announce.repeat, vrrp.announce.refresh), (5, Duration::from_secs(60)));
    assert_eq!(config.api.vrrpd.to_string(), "127.0.0.1:9112");
    assert_eq!(config.api.lbd.to_string(), "127.0.0.1:9180");
    assert!(config.services.is_empty() && config.target_groups.is_empty());
}

#[test]
fn active_passive_listens_on_every_vip() {
    let config = example("active-passive.toml");
    assert!(config.pair.key_file.as_ref().is_some_and(|path| path.ends_with("configs/pair.key")));
    assert_eq!(config.vrrp[0].auth, Auth::Hmac);
    assert!(config.vrrp[0].track.lbd);
    let service = &config.services[0];
    let listen: Vec<String> = service.listen.iter().map(|listen| listen.address.to_string()).collect();
    assert_eq!(listen, ["192.0.2.10:80", "[2001:db8::10]:80"]);
    assert!(service.listen.iter().all(|listen| listen.instance.as_deref() == Some("web")));
    assert_eq!(service.timeout.connect, Duration::from_secs(5));
    assert_eq!(service.limits.max_connections, 100_000);
    let health = config.target_groups[0].health.as_ref().unwrap();
    let expected = HealthCheck::Http {
        tls: false,
        path: "/health".to_owned(),
        host: None,
        expect: vec![(200, 299)],
        body: None,
        ca_file: None,
    };
    assert_eq!(health.check, expected);
    assert_eq!((health.interval, health.timeout), (Duration::from_secs(5), Duration::from_secs(2)));
}

#[test]
fn active_active_has_opposite_priorities() {
    let config = example("active-active.toml");
    let leader =
        |index: usize| config.vrrp[index].priority.iter().max_by_key(|(_, p)| **p).unwrap().0.clone();
    assert_eq!((leader(0), leader(1)), ("a".to_owned(), "b".to_owned()));
    // Each way of forwarding is for the virtual IPs of both, and so goes both ways at once.
    let modes: Vec<Mode> = config.services.iter().map(|service| service.mode).collect();
    assert_eq!(modes, [Mode::Tcp, Mode::Nat, Mode::Dsr]);
    for service in &config.services {
        for instance in ["east", "west"] {
            let listens =
                service.listen.iter().filter(|listen| listen.instance.as_deref() == Some(instance)).count();
            assert!(listens > 0, "{} does not listen on {instance}", service.name);
        }
    }
}

#[test]
fn ecmp_announces_single_addresses() {
    let config = example("ecmp.toml");
    assert!(config.vrrp[0].vips.iter().all(|vip| vip.prefix_len() == vip.max_prefix_len()));
    assert_eq!(config.target_groups[0].algorithm, Algorithm::FlowHash, "the same table on every node");
}

#[test]
fn http_has_rules() {
    let config = example("http.toml");
    let service = &config.services[0];
    let http = service.http.as_ref().unwrap();
    assert_eq!((service.mode, service.forward.as_str(), service.rules.len()), (Mode::Http, "shop", 0));
    assert_eq!(service.timeout.idle, Duration::from_secs(60));
    assert_eq!(
        (http.response_timeout, http.tunnel_timeout),
        (Duration::from_secs(30), Duration::from_secs(3600))
    );
    assert_eq!((http.header_bytes_max, http.trust_forwarded.len()), (32 * 1024, 1));
    let conditions: Vec<usize> = http.rules.iter().map(|rule| rule.when.len()).collect();
    assert_eq!(conditions, [2, 2, 2, 1, 2]);
    let groups: Vec<&str> = http.groups().collect();
    assert_eq!(groups, ["shop", "api", "shop", "canary"]);
    let retry = config.target_groups[0].retry;
    assert!(retry.connect && retry.stale_connection && retry.no_answer);
}

#[test]
fn tls_names_files_beside_the_configuration() {
    let config = example("tls.toml");
    let tls = |service: usize| config.services[service].http.as_ref().unwrap().tls.as_ref();
    let shop = tls(0).unwrap();
    assert_eq!((shop.certificates.len(), shop.min_version, &shop.clients), (3, TlsVersion::V12, &None));
    assert!(shop.certificates[0].certificate.path.ends_with("configs/tls/shop.pem"));
    assert_eq!(shop.certificates[0].key, None);
    let [key, ocsp] = [&shop.certificates[2].key, &shop.certificates[2].ocsp].map(|it| it.as_ref().unwrap());
    assert!(key.path.ends_with("configs/tls/example.key") && ocsp.path.ends_with("configs/tls/example.ocsp"));
    assert_eq!(tls(1), None);
    let internal = tls(2).unwrap();
    assert_eq!(internal.min_version, TlsVersion::V13);
    assert!(internal.clients.as_ref().unwrap().required);
    let [shop, internal] = [0, 1].map(|group| config.target_groups[group].tls.as_ref());
    assert_eq!(shop, None);
    let internal = internal.unwrap();
    assert!(internal.verify && internal.ca.as_ref().unwrap().path.ends_with("configs/tls/ca.pem"));
    assert_eq!(internal.server_name.as_deref(), Some("internal.example.com"));
    let full = example("full.toml");
    assert_eq!(full.target_group("internal").unwrap().tls.as_ref().unwrap().pins, [[0; 32]]);
    assert!(
        !full.services[4].http.as_ref().unwrap().tls.as_ref().unwrap().clients.as_ref().unwrap().required
    );
}

#[test]
fn acme_orders_a_certificate_for_two_names() {
    let config = example("acme.toml");
    let acme = config.acme.as_ref().unwrap();
    assert_eq!((acme.directory.as_str(), acme.http_port), (Acme::DIRECTORY, 80));
    assert_eq!((acme.contact.as_slice(), &acme.roots), (&["mailto:admin@example.org".to_owned()][..], &None));
    assert_eq!((acme.folder.to_str(), acme.renew_before), (Some(Acme::FOLDER), None));
    let tls = config.services[0].http.as_ref().unwrap().tls.as_ref().unwrap();
    assert_eq!(tls.acme, ["www.example.org", "example.org"]);
    assert!(tls.certificates.is_empty());
    let full = example("full.toml").acme.unwrap();
    assert_eq!(full.renew_before, Some(Duration::from_secs(20 * 86_400)));
    assert!(full.roots.unwrap().path.ends_with("configs/tls/acme-roots.pem"));
    assert_eq!(example("tls.toml").acme, None);
}

#[test]
fn full_reads_every_key() {
    let config = example("full.toml");
    let vrrp = &config.vrrp[0];
    assert_eq!((vrrp.interface["a"].as_str(), vrrp.interface["b"].as_str()), ("eth0", "ens3"));
    assert_eq!(vrrp.addresses["b"][1].to_string(), "2001:db8::3");
    assert_eq!(vrrp.hooks.on_backup, ["/usr/local/bin/notify", "backup"]);
    assert_eq!(vrrp.track.gateway.unwrap().to_string(), "192.0.2.1");
    assert_eq!(config.nodes[1].zone.as_deref(), Some("z2"));
    assert!(config.api.token_file.as_ref().is_some_and(|path| path.ends_with("configs/api.token")));
}

#[test]
fn full_has_every_key_of_services() {
    let config = example("full.toml");
    let [shop, dns, mail, media, site] = &config.services[..] else { panic!("five services") };
    assert_eq!((shop.mode, shop.listen.len()), (Mode::Tcp, 4));
    assert_eq!(shop.accept_proxy.len(), 2);
    assert_eq!(shop.timeout.user, Some(Duration::from_secs(30)));
    assert_eq!(shop.limits.max_connections_per_source, Some(1000));
    assert_eq!(shop.rates.of_each.map(|rate| (rate.key, rate.requests)), Some((RateKey::SourceIp, 200)));
    assert_eq!(shop.access.allow[1].tag.as_deref(), Some("office"));
    assert_eq!(shop.access.deny[0].network.to_string(), "10.66.0.0/16");
    assert_eq!(shop.access_log.as_ref().unwrap().file, Some("/var/log/tandem/shop.log".into()));
    assert_eq!((shop.rules[0].sni.len(), shop.rules[0].forward.as_str()), (2, "api"));
    assert_eq!((dns.mode, dns.timeout.idle), (Mode::Udp, Duration::from_secs(60)));
    assert_eq!((shop.forwarding, dns.forwarding), (None, None));
    let listen: Vec<String> = mail.listen.iter().map(ToString::to_string).collect();
    assert_eq!(
        listen,
        ["192.0.2.10:25", "[2001:db8::10]:25", "192.0.2.10:8000-8100", "192.0.2.10:1000-2000"]
    );
    assert_eq!((mail.listen[2].protocol, mail.listen[3].protocol), (Protocol::Tcp, Protocol::Udp));
    let forwarding = mail.forwarding.unwrap();
    assert_eq!(forwarding.method, Method::Nat { preserve_client_ip: false });
    assert_eq!(forwarding.on_unhealthy, OnUnhealthy::Reset);
    assert_eq!(forwarding.timeout.datagrams, Duration::from_secs(350), "written, so it is for both");
    assert_eq!(media.forwarding.unwrap().method, Method::Dsr(Dsr::Gue));
    assert_eq!(media.forwarding.unwrap().timeout, FlowTimeouts::default());
    let http = site.http.as_ref().unwrap();
    assert_eq!((http.rules.len(), http.rules[0].when.len(), site.forward.as_str()), (3, 6, "shop"));
    assert!(http.request_headers.has_variables() && !http.response_headers.has_variables());
    let [of_requests, of_answers] = [&http.request_headers, &http.response_headers].map(|it| it.fixed());
    assert_eq!((of_requests.remove.len(), of_answers.remove.len()), (2, 1), "one has nothing to say here");
    assert_eq!(http.rules[0].rewrite.as_ref().unwrap().to_string(), "/v2/{rest}");
}

#[test]
fn full_has_every_key_of_the_kernel() {
    let kernel = example("full.toml").kernel;
    assert_eq!(
        (kernel.interfaces_of("a"), kernel.interfaces_of("b")),
        (&["eth1".into()][..], &["ens4".into()][..])
    );
    assert_eq!(kernel.interfaces_of("c"), <[String; 0]>::default());
    assert_eq!((kernel.max_flows, kernel.new_flows_per_second), (1_000_000, 125_000));
    assert_eq!((kernel.attach, kernel.trace_every, kernel.gue_port), (Attach::Auto, 0, 6080));
    assert_eq!(kernel.drain_timeout, Duration::from_secs(10));
    assert_eq!(example("minimal.toml").kernel, Kernel::default());
}

#[test]
fn the_kernel_chooses_by_hash() {
    let config = example("kernel.toml");
    assert!(config.services.iter().all(|service| service.mode.in_kernel() && service.forwarding.is_some()));
    assert!(config.target_groups.iter().all(|group| group.algorithm == Algorithm::FlowHash));
    let web = config.target_group("web").unwrap();
    assert_eq!((web.targets[0].address.port(), web.targets[0].id.as_str()), (0, "w1"));
    assert_eq!(example("full.toml").target_group("mail").unwrap().targets[1].id, "2001:db8:1::41");
}

#[test]
fn full_has_every_key_of_groups() {
    let config = example("full.toml");
    let group = &config.target_groups[0];
    assert_eq!(group.algorithm, Algorithm::LeastConnections);
    assert_eq!(group.targets[2].id, "10.0.1.13:8080");
    assert_eq!((group.targets[0].weight, group.targets[1].weight), (2, 1));
    assert_eq!((group.targets[0].zone.as_deref(), group.targets[0].max_connections), (Some("z1"), Some(500)));
    assert!(group.targets[3].backup && !group.cross_zone);
    assert_eq!((group.panic_percent, group.slow_start), (30, Duration::from_secs(30)));
    assert_eq!(group.send_proxy, Some(ProxyVersion::V2));
    let discover = group.discover.as_ref().unwrap();
    assert!(matches!(&discover.source, DiscoverSource::File(path) if path.ends_with("configs/targets.toml")));
    let health = group.health.as_ref().unwrap();
    let HealthCheck::Http { tls: false, expect, body, .. } = &health.check else { panic!("not http") };
    assert_eq!((&expect[..], body.as_deref()), (&[(200, 299), (304, 304)][..], Some("ready")));
    assert_eq!((health.unhealthy_interval, health.port), (Duration::from_secs(1), Some(8081)));
    assert_eq!(group.eject.unwrap().max, Duration::from_secs(300));
    assert_eq!(group.sticky.as_ref().unwrap().max_entries, 100_000);
    assert_eq!(group.queue.unwrap().max, 1000);
    assert_eq!((group.keep_alive.idle, group.keep_alive.max), (Duration::from_secs(50), 256));
    assert_eq!(group.hash_by, HashBy::SourceIp);
    let internal = config.target_group("internal").unwrap();
    assert_eq!(
        (internal.algorithm, &internal.hash_by),
        (Algorithm::ConsistentHash, &HashBy::Header("x-user".to_owned()))
    );
    // The root's name servers, as `dig +noedns . NS` asks for them.
    let HealthCheck::Udp { payload, expect } =
        &config.target_group("dns").unwrap().health.as_ref().unwrap().check
    else {
        panic!("not udp")
    };
    assert_eq!(payload[..], [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]);
    assert_eq!(expect.as_deref(), Some(&[0x12, 0x34][..]));
}

/// The keys of services, target groups and the kernel.
const KEYS: &str = "zone accept_proxy transparent connect idle header keepalive user max_connections \
    max_connections_per_source rate key requests per scope access allow deny network tag access_log \
    format file rule when sni forward algorithm hash targets id address weight backup panic_percent \
    slow_start drain_timeout send_proxy cross_zone discover dns server srv consul etcd prefix \
    refresh max_targets health http tcp tls grpc udp host expect body ca_file port interval \
    unhealthy_interval timeout healthy_threshold unhealthy_threshold eject consecutive_failures base \
    max max_percent sticky by ttl max_entries retry on attempts queue dsr preserve_client_ip \
    certificates certificate ocsp_file min_version client_ca_file client_certificate verify server_name pin \
    on_unhealthy half_open closing max_flows new_flows_per_second attach interfaces drain_timeout \
    trace_every gue_port http2 max_streams protocol sample otlp endpoint \
    service_name compress types min_bytes algorithms acme directory accept_terms contact roots renew_before \
    http_port folder trust_forwarded forwarded keep_alive request_headers response_headers";

/// In an example or in a comment.
#[test]
fn full_names_every_key_there_is() {
    let text = std::fs::read_to_string(folder().join("full.toml")).unwrap();
    for key in KEYS.split_whitespace() {
        let written = [format!("{key} = "), format!(".{key}]")];
        assert!(written.iter().any(|written| text.contains(written.as_str())), "{key} is missing");
    }
}

#[test]
fn every_example_passes_check() {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let known = [
        "acme.toml",
        "active-active.toml",
        "active-passive.toml",
        "ecmp.toml",
        "edge.toml",
        "full.toml",
        "kernel.toml",
        "minimal.toml",
        "sidecar.toml",
        "tls.toml",
    ];
    for name in known {
        assert!(names.iter().any(|found| found == name), "{name} is missing");
    }
    for name in names {
        example(&name);
    }
}

#[test]
fn edge_and_sidecar_need_no_pair() {
    for (name, services) in [("edge.toml", 2), ("sidecar.toml", 2)] {
        let config = example(name);
        assert!(config.nodes.is_empty() && config.vrrp.is_empty(), "{name}");
        assert_eq!(config.services.len(), services, "{name}");
        assert!(config.services.iter().flat_map(|service| &service.listen).all(|l| l.instance.is_none()));
    }
    let sidecar = example("sidecar.toml");
    assert!(
        sidecar.services.iter().flat_map(|service| &service.listen).all(|l| l.address.ip().is_loopback())
    );
    assert!(matches!(
        example("edge.toml").target_groups[1].discover,
        Some(Discover { refresh: Some(_), .. })
    ));
}

#[test]
fn sessions_shows_who_comes_back_and_who_is_let_in() {
    let config = example("sessions.toml");
    let by: Vec<_> =
        config.target_groups.iter().map(|group| group.sticky.as_ref().map(|it| &it.by)).collect();
    assert!(matches!(
        by[..],
        [Some(StickyBy::Cookie(_)), Some(StickyBy::Cookie(_)), Some(StickyBy::AppCookie(_)), None]
    ));
    let http = config.services[0].http.as_ref().unwrap();
    let auths: Vec<_> = http.rules.iter().map(|rule| http.auth_of(Some(rule))).collect();
    assert!(matches!(auths[..], [Some(HttpAuth::Basic(_)), None, Some(HttpAuth::Jwt(_))]), "{auths:?}");
    assert_eq!((http.rules[0].access.allow.len(), http.error_pages.len()), (2, 2));
}
