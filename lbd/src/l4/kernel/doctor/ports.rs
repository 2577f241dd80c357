//! Where an address of this host's own is the source of `nat`: whether the host's own connections get ports of `nat`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use common::config::{Config, Method};
use lbd_core::forward::ports;

use crate::l4::kernel::settings;
use crate::l4::kernel::sync::gather;

/// Settings of the host, for both families.
const RANGE: &str = "ipv4/ip_local_port_range";
const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// What should be known of it, and what to do; none where no port can be of both.
pub(crate) fn clash(config: &Config, node: &str) -> Option<String> {
    let addresses = own_sources(config);
    let range = settings::read(RANGE).and_then(|text| ports::parse_range(&text))?;
    let reserved = settings::read(RESERVED).unwrap_or_default();
    let wanted = ports::of_node(gather::node_number(config, node));
    describe(&addresses, &wanted, &range, &reserved)
}

/// The addresses that are no virtual IPs of `vrrpd`'s, which the host does not choose for its own connections, and that flows of `nat` come from.
fn own_sources(config: &Config) -> BTreeSet<IpAddr> {
    let translates = Method::Nat { preserve_client_ip: false };
    gather::services(config)
        .filter(|service| service.forwarding.is_some_and(|it| it.method == translates))
        .flat_map(|service| &service.listen)
        .filter(|listen| listen.instance.is_none())
        .map(|listen| listen.address.ip())
        .collect()
}

fn describe(
    addresses: &BTreeSet<IpAddr>,
    wanted: &RangeInclusive<u16>,
    range: &RangeInclusive<u16>,
    reserved: &str,
) -> Option<String> {
    let common = ports::in_common(wanted, range, &ports::parse_reserved(reserved));
    if addresses.is_empty() || common.is_empty() {
        return None;
    }
    let list = |ranges: &[RangeInclusive<u16>]| {
        let texts: Vec<String> = ranges.iter().map(shown).collect();
        texts.join(",")
    };
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let (wanted_text, comma) = (shown(wanted), if reserved.trim().is_empty() { "" } else { "," });
    Some(format!(
        "nat sends from {} with ports {wanted_text}, and the host gives {} of these to its own connections too \
         (net.ipv4.ip_local_port_range), health checks included: one to a target may get the port of a client's and fail. \
         `sysctl -w net.ipv4.ip_local_reserved_ports={}{comma}{wanted_text}` keeps them apart",
        addresses.join(", "),
        list(&common),
        reserved.trim(),
    ))
}

fn shown(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        return range.start().to_string();
    }
    format!("{}-{}", range.start(), range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let parsed = common::config::parse(text, std::path::Path::new("ports.toml"));
        parsed.unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn the_host_s_own_ports_and_those_of_nat_are_told_apart() {
        let addresses = BTreeSet::from(["192.0.2.10".parse().unwrap()]);
        let of = |range: RangeInclusive<u16>, reserved: &str| {
            describe(&addresses, &ports::of_node(0), &range, reserved)
        };
        let said = of(32_768..=60_999, "").unwrap();
        assert!(
            said.starts_with(
                "nat sends from 192.0.2.10 with ports 1024-33279, and the host gives 32768-33279 "
            ),
            "{said}"
        );
        assert!(said.contains("`sysctl -w net.ipv4.ip_local_reserved_ports=1024-33279`"), "{said}");
        // What somebody has reserved already stays reserved.
        let said = of(32_768..=60_999, "8080\n").unwrap();
        assert!(said.contains("ip_local_reserved_ports=8080,1024-33279`"), "{said}");
        assert_eq!(of(32_768..=60_999, "1024-33279"), None);
        assert_eq!(of(33_280..=60_999, ""), None);
        assert_eq!(describe(&BTreeSet::new(), &ports::of_node(0), &(1024..=65_535), ""), None);
    }

    #[test]
    fn only_addresses_of_the_host_s_own_as_sources_matter() {
        let service = |name: &str, mode: &str, port: u16| {
            format!(
                "[[service]]\nname = \"{name}\"\nlisten = [\"192.0.2.{port}:{port}\"]\nforward = \"{name}\"\n{mode}\n\
                 [[target_group]]\nname = \"{name}\"\ntargets = [{{ address = \"192.0.2.200:{port}\" }}]\n"
            )
        };
        let text = service("nat", "mode = \"nat\"", 80)
            + &service("preserved", "mode = \"nat\"\npreserve_client_ip = true", 81)
            + &service("dsr", "mode = \"dsr\"\ndsr = \"l2\"", 82)
            + &service("tcp", "mode = \"tcp\"", 83);
        assert_eq!(own_sources(&config(&text)), BTreeSet::from(["192.0.2.80".parse().unwrap()]));
        let vrrp = "[[node]]\nname = \"a\"\n[[node]]\nname = \"b\"\n[[vrrp]]\nname = \"v\"\ninterface = \"eth0\"\nvrid = 1\n\
             priority = { a = 2, b = 3 }\nvips = [\"192.0.2.80/24\"]\nauth = \"none\"\n";
        let pair = vrrp.to_owned() + &service("nat", "mode = \"nat\"", 80);
        assert_eq!(own_sources(&config(&pair)), BTreeSet::new());
    }
}
