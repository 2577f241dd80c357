//! What the other node hands over to this one's stack, and where. A strict filter of sources there drops some of it.

use std::collections::BTreeMap;

use common::config::{Config, Method};
use lbd_core::chance::plan::places;

/// What is handed over at an interface, over IPv4: the filter is that family's alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HandedOver {
    /// Packets of connections and sessions that live in this node's sockets, from clients.
    pub(super) of_clients: bool,
    /// Packets of targets to clients' own addresses, of flows that neither node knows.
    pub(super) of_targets: bool,
}

impl HandedOver {
    /// What that is and who sends it, in words; none if there is nothing.
    pub(super) const fn words(self) -> Option<&'static str> {
        match (self.of_clients, self.of_targets) {
            (false, false) => None,
            (true, false) => Some("clients' packets of connections through proxies (the second chance)"),
            (false, true) => Some("targets' packets to clients' own addresses (`preserve_client_ip`)"),
            (true, true) => Some(
                "clients' packets of connections through proxies (the second chance), and targets' packets to clients' own addresses \
                 (`preserve_client_ip`),",
            ),
        }
    }
}

/// By the interfaces of this node where there is something.
pub(super) fn by_interface(config: &Config, node: &str) -> BTreeMap<String, HandedOver> {
    let mut interfaces: BTreeMap<String, HandedOver> = BTreeMap::new();
    for (instance, place) in places(config, node) {
        let handed = HandedOver {
            of_clients: place.addresses.iter().chain(&place.datagrams).any(|address| address.is_ipv4()),
            of_targets: config.is_replicated() && has_preserved(config, &instance),
        };
        if handed.words().is_some() {
            let all = interfaces.entry(place.interface).or_default();
            all.of_clients |= handed.of_clients;
            all.of_targets |= handed.of_targets;
        }
    }
    interfaces
}

/// Whether a service that preserves its clients' addresses has one of an instance.
fn has_preserved(config: &Config, instance: &str) -> bool {
    let preserving = config.services.iter().filter(|service| {
        let method = service.forwarding.as_ref().map(|forwarding| forwarding.method);
        method == Some(Method::Nat { preserve_client_ip: true })
    });
    let mut listens = preserving.flat_map(|service| &service.listen);
    listens.any(|listen| listen.instance.as_deref() == Some(instance) && listen.address.is_ipv4())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const PAIR: &str = "[[node]]\nname = \"a\"\npeer_address = \"198.51.100.1\"\n[[node]]\nname = \"b\"\npeer_address = \"198.51.100.2\"\n\
        [[vrrp]]\nname = \"mail\"\ninterface = \"eth1\"\nvrid = 2\npriority = { a = 100, b = 200 }\nvips = [\"192.0.2.20/24\"]\n\
        [[vrrp]]\nname = \"web\"\ninterface = { a = \"eth0\", b = \"ens3\" }\nvrid = 1\npriority = { a = 200, b = 100 }\n\
        vips = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\n";

    fn handed(key: &str, services: &[(&str, &str)]) -> Vec<(String, bool, bool)> {
        let mut text = format!("[pair]\nname = \"edge\"\n{key}\n{PAIR}");
        for (number, (keys, listen)) in services.iter().enumerate() {
            let target = if listen.starts_with('[') { "[2001:db8:1::9]" } else { "203.0.113.9" };
            text.push_str(&format!(
                "[[service]]\nname = \"s{number}\"\n{keys}\nlisten = [\"{listen}\"]\nforward = \"g{number}\"\n\
                 [[target_group]]\nname = \"g{number}\"\ntargets = [{{ address = \"{target}:808{number}\" }}]\n"
            ));
        }
        let config = common::config::parse(&text, Path::new("pair.toml"));
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        let found = by_interface(&config, "b").into_iter();
        found.map(|(interface, it)| (interface, it.of_clients, it.of_targets)).collect()
    }

    #[test]
    fn clients_packets_come_where_proxied_virtual_ips_are_and_targets_where_clients_addresses_are_kept() {
        const KEY: &str = "key_file = \"pair.key\"";
        let (proxied, kept) = ("mode = \"tcp\"", "mode = \"nat\"\npreserve_client_ip = true");
        let [at_web, at_mail] = ["ens3", "eth1"].map(str::to_owned);
        assert_eq!(handed(KEY, &[(proxied, "192.0.2.10:80")]), [(at_web.clone(), true, false)]);
        assert_eq!(handed(KEY, &[(kept, "192.0.2.20:25")]), [(at_mail.clone(), false, true)]);
        assert_eq!(
            handed(KEY, &[(kept, "192.0.2.20:25"), (proxied, "192.0.2.20:80"), (proxied, "192.0.2.10:80")]),
            [(at_web, true, false), (at_mail, true, true)]
        );
        // With the virtual IP as source the port says whose it is; the filter is IPv4's; and without a key nobody tells of flows.
        assert!(handed(KEY, &[("mode = \"nat\"", "192.0.2.20:25")]).is_empty());
        assert!(handed(KEY, &[(proxied, "[2001:db8::10]:80"), (kept, "[2001:db8::10]:81")]).is_empty());
        assert!(handed("", &[(kept, "192.0.2.20:25")]).is_empty());
    }
}
