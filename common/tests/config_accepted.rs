//! What is near an error, but right: the bounds themselves, and every choice that exists.

use std::path::Path;
use std::time::Duration;

use common::config::{self, Auth, ChecksumReading, Config, HealthCheck, Transport, VrrpVersion};

const NODES: &str = "[pair]\nkey_file = \"/etc/tandem/pair.key\"\n\
    [[node]]\nname = \"a\"\npeer_address = \"198.51.100.1\"\n\
    [[node]]\nname = \"b\"\npeer_address = \"198.51.100.2\"\n";

fn accept(text: &str) -> Config {
    config::parse(text, Path::new("/etc/tandem/pair.toml")).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A pair with one instance for each text, which says its keys but the name, the interface and the priorities.
fn instances(keys: &[&str]) -> Config {
    let head =
        |n| format!("[[vrrp]]\nname = \"i{n}\"\ninterface = \"eth0\"\npriority = {{ a = 3, b = 2 }}\n");
    let all: Vec<String> = keys.iter().enumerate().map(|(n, keys)| head(n) + keys + "\n").collect();
    accept(&format!("{NODES}{}", all.concat()))
}

fn group(keys: &str) -> config::TargetGroup {
    let text = format!(
        "[[service]]\nname = \"s\"\nmode = \"tcp\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\n\
         [[target_group]]\nname = \"g\"\ntargets = [{{ address = \"10.0.1.1:80\" }}]\n{keys}"
    );
    accept(&text).target_groups.remove(0)
}

#[test]
fn the_bounds_of_instances() {
    let config = instances(&[
        "vrid = 1\nvips = [\"192.0.2.1/32\", \"192.0.2.2/31\"]\nadvert_interval = \"10ms\"\npreempt_delay = \"1h\"",
        "vrid = 255\nvips = [\"2001:db8::1/128\"]\nadvert_interval = \"40s\"\nannounce = { refresh = \"0s\" }",
        "vrid = 2\nhooks = { on_active = [\"/bin/true\"] }\npreempt = false",
    ]);
    assert_eq!(config.vrrp[0].vrid.get(), 1);
    assert_eq!(config.vrrp[1].advert_interval, Duration::from_secs(40));
    assert_eq!(config.vrrp[1].announce.refresh, Duration::ZERO);
    assert!(config.vrrp[2].vips.is_empty() && !config.vrrp[2].preempt);
}

#[test]
fn as_many_instances_and_vips_as_are_supported() {
    let vips =
        |n: usize| (1..=64).map(|m| format!("\"10.{n}.0.{m}/24\", \"2001:db8:{n}::{m}/64\",")).collect();
    let keys: Vec<String> = (1..=32)
        .map(|n| {
            let vips: String = vips(n);
            format!("vrid = {n}\nvips = [{vips}]")
        })
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let config = instances(&keys);
    assert_eq!(config.vrrp.len(), 32);
    assert!(config.vrrp.iter().all(|vrrp| vrrp.vips.len() == 128));
}

#[test]
fn a_vrid_may_be_used_again_in_another_family_or_on_another_link() {
    let config =
        instances(&["vrid = 51\nvips = [\"192.0.2.1/24\"]", "vrid = 51\nvips = [\"2001:db8::1/64\"]"]);
    assert_eq!(config.vrrp[0].vrid, config.vrrp[1].vrid);
    accept(&format!(
        "{NODES}[[vrrp]]\nname = \"x\"\ninterface = {{ a = \"eth0\", b = \"eth1\" }}\nvrid = 51\n\
         priority = {{ a = 2, b = 1 }}\nvips = [\"192.0.2.1/24\"]\n[[vrrp]]\nname = \"y\"\n\
         interface = {{ a = \"eth1\", b = \"eth0\" }}\nvrid = 51\npriority = {{ a = 2, b = 1 }}\n\
         vips = [\"192.0.2.2/24\"]\n"
    ));
}

/// With nothing tracked there is nothing to rank below for.
#[test]
fn the_lowest_priority_is_for_instances_that_track_nothing() {
    let text = format!(
        "{NODES}[[vrrp]]\nname = \"x\"\ninterface = \"eth0\"\nvrid = 1\npriority = {{ a = 2, b = 1 }}\n\
         vips = [\"192.0.2.1/24\"]\n"
    );
    assert_eq!(accept(&text).vrrp[0].priority["b"].get(), 1);
}

#[test]
fn one_node_may_own_the_addresses() {
    let text = format!(
        "{NODES}[[vrrp]]\nname = \"x\"\ninterface = \"eth0\"\nvrid = 1\npriority = {{ a = 255, b = 254 }}\n\
         vips = [\"192.0.2.1/24\"]\n"
    );
    assert_eq!(accept(&text).vrrp[0].priority["a"], config::Priority::OWNER);
}

#[test]
fn every_choice_of_protocol() {
    let config = instances(&[
        "vrid = 1\nvips = [\"192.0.2.1/24\"]\nversion = 2\nauth = \"none\"\nadvert_interval = \"40s\"",
        "vrid = 2\nvips = [\"192.0.2.2/24\"]\nauth = \"permissive\"\nchecksum = \"pseudo_header\"",
        "vrid = 3\nvips = [\"192.0.2.3/24\"]\ntransport = \"unicast\"",
        "vrid = 4\nvips = [\"2001:db8::4/64\"]\ntransport = \"unicast\"\n\
         address = { a = \"2001:db8::a\", b = [\"2001:db8::b\", \"192.0.2.20\"] }",
        "vrid = 5\nvips = [\"fe80::5/64\", \"2001:db8::5/64\"]\nvirtual_mac = true\n\
         track = { lbd = true, targets = false, gateway = \"fe80::1\" }",
    ]);
    let [v2, permissive, unicast, addresses, tracked] = &config.vrrp[..] else { panic!("five instances") };
    assert_eq!((v2.version, v2.auth), (VrrpVersion::V2, Auth::None));
    assert_eq!((permissive.auth, permissive.checksum), (Auth::Permissive, ChecksumReading::PseudoHeader));
    assert_eq!((unicast.transport, unicast.auth), (Transport::Unicast, Auth::Hmac));
    assert!(unicast.addresses.is_empty());
    assert_eq!((addresses.addresses["a"].len(), addresses.addresses["b"].len()), (1, 2));
    assert!(tracked.track.lbd && !tracked.track.targets && tracked.virtual_mac);
}

#[test]
fn without_instances_services_listen_anywhere() {
    let config = accept(
        "[[service]]\nname = \"s\"\nmode = \"tcp\"\nforward = \"g\"\n\
         listen = [\"0.0.0.0:80\", \"[::]:80\", \"127.0.0.1:81\", \"[::1]:82\"]\n\
         timeout = { connect = \"75s\", idle = \"7days\" }\nlimits = { max_connections = 10_000_000 }\n\
         [[target_group]]\nname = \"g\"\ntargets = [{ address = \"127.0.0.1:8080\", weight = 0 }]\n",
    );
    assert_eq!(config.services[0].listen.len(), 4);
    assert!(config.services[0].listen.iter().all(|listen| listen.instance.is_none()));
    assert!(config.nodes.is_empty());
}

#[test]
fn a_vip_is_listened_on_by_name_and_by_address_unless_it_is_link_local() {
    let config = accept(&format!(
        "{NODES}[[vrrp]]\nname = \"web\"\ninterface = \"eth0\"\nvrid = 1\npriority = {{ a = 3, b = 2 }}\n\
         vips = [\"fe80::10/64\", \"2001:db8::10/64\", \"192.0.2.10/24\"]\n\
         [[service]]\nname = \"s\"\nmode = \"tcp\"\nforward = \"g\"\nlisten = [\"@web:80\", \"192.0.2.10:81\"]\n\
         [[target_group]]\nname = \"g\"\ntargets = [{{ address = \"10.0.1.1:80\" }}]\n"
    ));
    let listen: Vec<String> = config.services[0].listen.iter().map(|l| l.address.to_string()).collect();
    assert_eq!(listen, ["[2001:db8::10]:80", "192.0.2.10:80", "192.0.2.10:81"]);
    assert!(config.services[0].listen.iter().all(|l| l.instance.as_deref() == Some("web")));
    assert!(config.vrrp[0].track.lbd, "there is a service");
}

#[test]
fn health_checks_and_their_defaults() {
    let health = |keys: &str| group(&format!("health = {{ {keys} }}\n")).health.unwrap();
    let ms = Duration::from_millis;
    let tcp = health("tcp = true");
    assert_eq!((tcp.check, tcp.interval, tcp.timeout), (HealthCheck::Tcp, ms(5000), ms(2000)));
    assert_eq!((tcp.healthy_threshold, tcp.unhealthy_threshold), (3, 2));
    assert_eq!(health("tcp = true, interval = \"2s\"").timeout, ms(1000));
    assert_eq!(health("tcp = true, interval = \"10ms\"").timeout, ms(5));
    assert_eq!(health("tcp = true, interval = \"1s\", timeout = \"999ms\"").timeout, ms(999));
    let http = health("http = \"/h?x=1\", host = \"example.com:80\", expect = \"200, 301-302\"");
    let expect = vec![(200, 200), (301, 302)];
    let host = Some("example.com:80".to_owned());
    let path = "/h?x=1".to_owned();
    assert_eq!(http.check, HealthCheck::Http { tls: false, path, host, expect, body: None, ca_file: None });
}

#[test]
fn retries_can_be_switched_off() {
    assert_eq!((group("").retry.connect, group("").retry.attempts), (true, 2));
    let off = group("retry = { on = [] }\n").retry;
    assert_eq!((off.connect, off.attempts), (false, 2));
    let on = group("retry = { on = [\"connect\"], attempts = 10 }\ndrain_timeout = \"1s\"\n");
    assert_eq!((on.retry.connect, on.retry.attempts, on.drain_timeout), (true, 10, Duration::from_secs(1)));
    assert!(on.health.is_none());
}

/// One more is refused: see `config_errors/ranges.toml`.
#[test]
fn a_drain_takes_an_hour_at_most() {
    for longest in ["1h", "3600s"] {
        let drained = group(&format!("drain_timeout = \"{longest}\"\n"));
        assert_eq!(drained.drain_timeout, Duration::from_secs(3600), "{longest}");
    }
}

/// Plain advertisements are for other software, which mostly wants the pseudo-header in the checksum.
#[test]
fn the_checksum_follows_the_signature_unless_told() {
    let reading = |extra: &str| {
        let text = format!(
            "[pair]\nkey_file = \"k\"\n[[node]]\nname = \"a\"\n[[node]]\nname = \"b\"\n[[vrrp]]\nname = \"web\"\ninterface = \"e\"\nvrid = 1\npriority = {{ a = 2, b = 1 }}\nvips = [\"192.0.2.1/24\"]\n{extra}"
        );
        config::parse(&text, Path::new("pair.toml")).unwrap().vrrp[0].checksum
    };
    use common::config::ChecksumReading::{Message, PseudoHeader};
    assert_eq!(reading(""), Message);
    assert_eq!(reading("auth = \"none\""), PseudoHeader);
    assert_eq!(reading("auth = \"none\"\nchecksum = \"message\""), Message);
    assert_eq!(reading("auth = \"none\"\nversion = 2"), Message);
}

/// A file for `lbd` alone, whose services forward to `g`.
fn alone(services: &[(&str, &str)], targets: &str) -> Result<Config, config::Diagnostics> {
    let services: String = services
        .iter()
        .map(|(name, keys)| format!("[[service]]\nname = \"{name}\"\nforward = \"g\"\n{keys}\n"))
        .collect();
    config::parse(
        &format!("{services}[[target_group]]\nname = \"g\"\ntargets = [{targets}]\n"),
        Path::new("alone.toml"),
    )
}

#[test]
fn the_kernel_forwards_for_addresses_of_the_host_s_own() {
    let nat = "mode = \"nat\"\nlisten = [\"192.0.2.1:80\", \"192.0.2.1:*/udp\"]";
    let config =
        alone(&[("nat", nat)], "{ address = \"10.0.1.1\" }").unwrap_or_else(|errors| panic!("{errors}"));
    let listen = &config.services[0].listen;
    assert_eq!((listen[1].to_string().as_str(), listen[1].ports()), ("192.0.2.1:*", 0..=65535));
    assert!(listen.iter().all(|listen| listen.instance.is_none()));
}

#[test]
fn the_narrower_of_two_listeners_in_the_kernel_goes_first() {
    let of = |listen: &str| format!("mode = \"nat\"\nlisten = [\"{listen}\"]");
    let all = ["192.0.2.1:*", "192.0.2.1:80", "192.0.2.1:8000-8100", "192.0.2.1:8050", "192.0.2.1:8010-8020"]
        .map(of);
    let services: Vec<_> =
        ["a", "b", "c", "d", "e"].into_iter().zip(all.iter().map(String::as_str)).collect();
    assert!(alone(&services, "{ address = \"10.0.1.1:80\" }").is_ok());
    // In whatever order they are written.
    let reversed: Vec<_> = services.into_iter().rev().collect();
    assert!(alone(&reversed, "{ address = \"10.0.1.1:80\" }").is_ok());
}

#[test]
fn kernel_and_proxy_share_a_group_that_both_can_use() {
    let services = [
        ("nat", "mode = \"nat\"\nlisten = [\"192.0.2.1:80\"]"),
        ("tcp", "mode = \"tcp\"\nlisten = [\"192.0.2.1:81\", \"[2001:db8::1]:81\"]"),
    ];
    let targets = "{ address = \"10.0.1.1:80\" }, { address = \"[2001:db8::2]:80\" }";
    let config = alone(&services, targets).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.target_groups[0].algorithm, config::Algorithm::FlowHash);
}

#[test]
fn nodes_with_a_key_and_addresses_replicate() {
    let service = "[[service]]\nname = \"s\"\nmode = \"tcp\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\n\
        [[target_group]]\nname = \"g\"\ntargets = [{ address = \"192.0.2.1:1\" }]\n";
    let replicates = |nodes: &str| accept(&format!("{nodes}{service}")).is_replicated();
    assert!(replicates(NODES));
    let unlinked = NODES.replace("peer_address = \"198.51.100.1\"\n", "");
    let unlinked = unlinked.replace("peer_address = \"198.51.100.2\"\n", "");
    assert!(!replicates(&unlinked), "they cannot reach each other");
    assert!(!replicates(&NODES.replace("key_file = \"/etc/tandem/pair.key\"\n", "")));
    assert!(!replicates(""));
}
