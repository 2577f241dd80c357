//! The pair's configuration as text: what a lab's daemons are given.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use super::addresses::{LAN_PREFIX_V4, LAN_PREFIX_V6, vip4, vip6};

/// The key every lab signs with.
pub const KEY: &str = "7464746474647464746474647464746474647464746474647464746474647464\n";

/// One configuration file for both nodes. The default has one instance `web` (VRID 51, `a` 200, `b` 100) with the VIPs
/// 10.77.0.50 and fd77::50, adverts of 100 ms signed with the lab's key, and no services.
#[derive(Clone, Debug)]
pub struct PairConfig {
    second_pair: bool,
    linked: bool,
    instances: Vec<Instance>,
    services: String,
    groups: String,
    extra: String,
}

/// One `[[vrrp]]`.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// Its VRID.
    pub vrid: u8,
    /// The priorities of `a` and `b`, or of `c` and `d`.
    pub priority: (u8, u8),
    /// Its VIPs; each gets the LAN's prefix length.
    pub vips: Vec<IpAddr>,
    /// The advert interval, with its unit.
    pub advert_interval: String,
    /// Whether the higher priority takes over.
    pub preempt: bool,
    /// How long it waits before that, with its unit.
    pub preempt_delay: String,
    /// `hmac` or `none`.
    pub auth: String,
    /// `multicast` or `unicast`.
    pub transport: String,
    /// Further lines of the table, e.g. `track = { lbd = true }`.
    pub extra: String,
}

impl Default for Instance {
    fn default() -> Self {
        Self {
            name: "web".to_owned(),
            vrid: 51,
            priority: (200, 100),
            vips: vec![vip4(0).into(), vip6(0).into()],
            advert_interval: "100ms".to_owned(),
            preempt: true,
            preempt_delay: "0s".to_owned(),
            auth: "hmac".to_owned(),
            transport: "multicast".to_owned(),
            extra: String::new(),
        }
    }
}

impl Default for PairConfig {
    fn default() -> Self {
        Self::new(vec![Instance::default()])
    }
}

impl PairConfig {
    /// A configuration with these instances.
    #[must_use]
    pub const fn new(instances: Vec<Instance>) -> Self {
        Self {
            second_pair: false,
            linked: true,
            instances,
            services: String::new(),
            groups: String::new(),
            extra: String::new(),
        }
    }

    /// Makes it one of nodes `c` and `d`.
    #[must_use]
    pub const fn second_pair(mut self) -> Self {
        self.second_pair = true;
        self
    }

    /// Leaves out the link between the nodes: neither tells the other of flows.
    #[must_use]
    pub const fn without_link(mut self) -> Self {
        self.linked = false;
        self
    }

    /// Adds a service that forwards to a target group. `listen` is as in the file, e.g. `@web:80`; `extra` holds
    /// further lines of the table, e.g. `preserve_client_ip = true`, or nothing.
    #[must_use]
    pub fn service(mut self, name: &str, mode: &str, listen: &str, group: &str, extra: &str) -> Self {
        let text = format!(
            "\n[[service]]\nname = {name:?}\nmode = {mode:?}\nlisten = [{listen:?}]\nforward = {group:?}\n{extra}\n"
        );
        self.services.push_str(&text);
        self
    }

    /// Adds a target group whose targets are called `t1`, `t2`… in this order; `extra` as for a service.
    #[must_use]
    pub fn target_group(mut self, name: &str, targets: &[SocketAddr], extra: &str) -> Self {
        let list = targets.iter().enumerate();
        let list: Vec<String> =
            list.map(|(index, to)| format!("{{ id = \"t{}\", address = \"{to}\" }}", index + 1)).collect();
        let list = list.join(", ");
        let text = format!("\n[[target_group]]\nname = {name:?}\ntargets = [{list}]\n{extra}\n");
        self.groups.push_str(&text);
        self
    }

    /// Adds text at the end of the file: whole tables.
    #[must_use]
    pub fn raw(mut self, text: &str) -> Self {
        self.extra.push_str(text);
        self
    }

    /// The file's text.
    #[must_use]
    pub fn render(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for PairConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[pair]\nname = \"lab\"\nkey_file = \"pair.key\"\n")?;
        let nodes = if self.second_pair { [("c", 3), ("d", 4)] } else { [("a", 1), ("b", 2)] };
        for (node, number) in nodes {
            write!(f, "\n[[node]]\nname = \"{node}\"\n")?;
            if self.linked {
                writeln!(f, "peer_address = \"10.0.255.{number}\"")?;
            }
        }
        for instance in &self.instances {
            instance.write(f, nodes.map(|(node, _)| node))?;
        }
        f.write_str(&self.services)?;
        f.write_str(&self.groups)?;
        f.write_str(&self.extra)
    }
}

impl Instance {
    fn write(&self, f: &mut fmt::Formatter<'_>, nodes: [&str; 2]) -> fmt::Result {
        let mut vips = String::new();
        for vip in &self.vips {
            let prefix = if vip.is_ipv4() { LAN_PREFIX_V4 } else { LAN_PREFIX_V6 };
            let comma = if vips.is_empty() { "" } else { ", " };
            write!(vips, "{comma}\"{vip}/{prefix}\"")?;
        }
        let ((first, second), [a, b]) = (self.priority, nodes);
        writeln!(f, "\n[[vrrp]]\nname = {:?}\ninterface = \"eth0\"\nvrid = {}", self.name, self.vrid)?;
        writeln!(f, "priority = {{ {a} = {first}, {b} = {second} }}\nvips = [{vips}]")?;
        writeln!(f, "advert_interval = {:?}\npreempt = {}", self.advert_interval, self.preempt)?;
        writeln!(f, "preempt_delay = {:?}\ntransport = {:?}", self.preempt_delay, self.transport)?;
        writeln!(f, "auth = {:?}\n{}", self.auth, self.extra)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_text_is_the_toml_it_is_meant_to_be() {
        let target = SocketAddr::from(([10, 77, 0, 11], 8080));
        let config = PairConfig::new(vec![Instance {
            extra: "track = { lbd = true }".to_owned(),
            ..Instance::default()
        }])
        .service("shop", "tcp", "@web:80", "shop", "")
        .target_group("shop", &[target], "algorithm = \"round_robin\"")
        .raw("\n[api]\nvrrpd = \"127.0.0.1:9112\"\n");
        let text = config.render();
        if let Err(diagnostics) = common::config::parse(&text, Path::new("pair.toml")) {
            panic!("the daemons refuse it: {diagnostics:?}");
        }
        let value: toml::Table = text.parse().unwrap();
        assert_eq!(value["node"][1]["peer_address"].as_str(), Some("10.0.255.2"));
        assert_eq!(value["vrrp"][0]["priority"]["a"].as_integer(), Some(200));
        assert_eq!(value["vrrp"][0]["vips"][1].as_str(), Some("fd77::50/64"));
        assert_eq!(value["vrrp"][0]["track"]["lbd"].as_bool(), Some(true));
        assert_eq!(value["service"][0]["listen"][0].as_str(), Some("@web:80"));
        assert_eq!(value["target_group"][0]["targets"][0]["address"].as_str(), Some("10.77.0.11:8080"));
        assert_eq!(value["api"]["vrrpd"].as_str(), Some("127.0.0.1:9112"));
    }

    #[test]
    fn a_pair_without_a_link_is_one_too() {
        let text = PairConfig::default().without_link().render();
        if let Err(diagnostics) = common::config::parse(&text, Path::new("pair.toml")) {
            panic!("the daemons refuse it: {diagnostics:?}");
        }
        assert!(!text.contains("peer_address"), "{text}");
    }

    #[test]
    fn the_key_is_a_key() {
        assert!(common::key::PairKey::parse(KEY).is_ok());
    }
}
