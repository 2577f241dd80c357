//! The configurations that are simulated, and the real text of each.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use common::config;
use common::key::PairKey;
use common::rng::Rng;
use common::time::Duration;
use vrrpd_core::packet::Family;
use vrrpd_core::settings::Settings;

/// The nodes' names.
pub const NAMES: [&str; 2] = ["a", "b"];

/// The interface of both nodes.
pub const INTERFACE: &str = "eth0";

/// The gateway on the LAN.
pub const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// What a pair is configured to do, and the links it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Advertisement interval.
    pub interval: Duration,
    /// The priorities of nodes a and b in the first instance; the second one has them the other way round.
    pub priority: [u8; 2],
    /// Instances, 1 or 2.
    pub instances: usize,
    /// Whether there are IPv4 addresses.
    pub ipv4: bool,
    /// Whether there are IPv6 addresses.
    pub ipv6: bool,
    /// Further addresses of each family, which a reload adds or takes away.
    pub extra_vips: u8,
    /// Whether there is a key.
    pub key: bool,
    /// `hmac`, `permissive` or `none`.
    pub auth: &'static str,
    /// Whether there is a peer link.
    pub peer_link: bool,
    /// `preempt`.
    pub preempt: bool,
    /// `preempt_delay`.
    pub preempt_delay: Duration,
    /// Unicast instead of multicast.
    pub unicast: bool,
    /// The protocol's version, 2 or 3.
    pub version: u8,
    /// Whether `lbd` is tracked.
    pub track_lbd: bool,
    /// Whether there is a service, and so an `lbd` that says whether it lacks connections. Always with `track_lbd`.
    pub service: bool,
    /// Whether the gateway is tracked.
    pub track_gateway: bool,
    /// How often becoming active is announced.
    pub announce_repeat: u32,
}

impl Variant {
    /// The plain pair of the scenario tests: IPv4, signed, with a peer link, preempting at once.
    #[must_use]
    pub const fn plain(interval: Duration) -> Self {
        Self {
            interval,
            priority: [200, 100],
            instances: 1,
            ipv4: true,
            ipv6: false,
            extra_vips: 0,
            key: true,
            auth: "hmac",
            peer_link: true,
            preempt: true,
            preempt_delay: Duration::ZERO,
            unicast: false,
            version: 3,
            track_lbd: true,
            service: true,
            track_gateway: false,
            announce_repeat: 5,
        }
    }

    /// A variant drawn from a seed.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let version = if rng.chance(60) { 2 } else { 3 };
        let millis =
            if version == 2 { 1000 } else { *rng.pick(&[10, 10, 20, 100, 100, 100, 250, 1000, 1000, 3000]) };
        let ipv6 = version == 3 && rng.chance(400);
        let key = version == 3 && rng.chance(750);
        let auth = if key { *rng.pick(&["hmac", "hmac", "permissive", "none"]) } else { "none" };
        let high = u8::try_from(rng.range(120..255)).unwrap_or(u8::MAX);
        let low = u8::try_from(rng.range(80..u64::from(high))).unwrap_or(80);
        let ipv4 = !ipv6 || rng.chance(500);
        let mut variant = Self {
            interval: Duration::from_millis(millis),
            priority: if rng.chance(800) { [high, low] } else { [low, high] },
            instances: if rng.chance(150) { 2 } else { 1 },
            ipv4,
            ipv6,
            extra_vips: 0,
            key,
            auth,
            peer_link: key && rng.chance(800),
            preempt: rng.chance(700),
            preempt_delay: if rng.chance(300) { Duration::from_millis(millis) * 10 } else { Duration::ZERO },
            unicast: rng.chance(300),
            version,
            track_lbd: rng.chance(700),
            service: false,
            track_gateway: ipv4 && rng.chance(300),
            announce_repeat: *rng.pick(&[1, 2, 5, 5, 5]),
        };
        // Without one, nobody asks whether `lbd` is there.
        variant.service = variant.track_lbd;
        variant
    }

    /// This node's settings, by way of the configuration file's text.
    ///
    /// # Panics
    ///
    /// If the text is not a valid configuration, which is a mistake of the simulation.
    #[must_use]
    pub fn settings(&self, host: usize) -> Settings {
        let text = self.text();
        let config = match config::parse(&text, Path::new("pair.toml")) {
            Ok(config) => config,
            Err(errors) => panic!("the simulation's configuration is wrong: {errors}\n{text}"),
        };
        let settings = Settings::new(&config, NAMES[host], self.pair_key(), "sim");
        settings.unwrap_or_else(|| panic!("the configuration has both nodes\n{text}"))
    }

    /// The pair's key, if it has one.
    #[must_use]
    pub fn pair_key(&self) -> Option<PairKey> {
        self.key.then(|| PairKey::new([42; 32]))
    }

    /// The configuration file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from("[pair]\nname = \"sim\"\n");
        if self.key {
            text.push_str("key_file = \"pair.key\"\n");
        }
        for (host, name) in NAMES.iter().enumerate() {
            let peer = if self.peer_link {
                format!("peer_address = \"198.51.100.{}\"\n", host + 1)
            } else {
                String::new()
            };
            write_to(&mut text, format_args!("[[node]]\nname = \"{name}\"\n{peer}"));
        }
        for instance in 0..self.instances {
            self.write_instance(instance, &mut text);
        }
        if self.service {
            text.push_str(
                "[[service]]\nname = \"shop\"\nmode = \"tcp\"\nlisten = [\"@i0:80\"]\nforward = \"shop\"\n",
            );
            text.push_str("[[target_group]]\nname = \"shop\"\ntargets = [{ id = \"s1\", address = \"10.0.1.11:8080\" }]\n");
        }
        text
    }

    fn write_instance(&self, instance: usize, text: &mut String) {
        let [first, second] = self.priority;
        let (a, b) = if instance == 0 { (first, second) } else { (second, first) };
        let vips: Vec<String> = self
            .vips(instance)
            .into_iter()
            .map(|ip| format!("\"{ip}/{}\"", if ip.is_ipv4() { 24 } else { 64 }))
            .collect();
        let family = |host: usize| {
            let mut own = Vec::new();
            if self.ipv4 {
                own.push(format!("\"192.0.2.{}\"", host + 2));
            }
            if self.ipv6 {
                own.push(format!("\"2001:db8::{}\"", host + 2));
            }
            own.join(", ")
        };
        let transport = if self.unicast { "unicast" } else { "multicast" };
        let gateway = if self.track_gateway { format!("gateway = \"{GATEWAY}\"\n") } else { String::new() };
        write_to(
            text,
            format_args!(
                "[[vrrp]]\nname = \"i{instance}\"\ninterface = \"{INTERFACE}\"\nvrid = {vrid}\n\
                 priority = {{ a = {a}, b = {b} }}\nvips = [{vips}]\naddress = {{ a = [{own_a}], b = [{own_b}] }}\n\
                 advert_interval = \"{interval}ms\"\npreempt = {preempt}\npreempt_delay = \"{delay}ms\"\n\
                 transport = \"{transport}\"\nauth = \"{auth}\"\nversion = {version}\n\
                 [vrrp.track]\nlbd = {lbd}\n{gateway}[vrrp.announce]\nrepeat = {repeat}\nrefresh = \"{refresh}\"\n",
                vrid = 51 + instance,
                vips = vips.join(", "),
                own_a = family(0),
                own_b = family(1),
                interval = self.interval.as_millis(),
                preempt = self.preempt,
                delay = self.preempt_delay.as_millis(),
                auth = self.auth,
                version = self.version,
                lbd = self.track_lbd,
                repeat = self.announce_repeat,
                // A pair that announces only once has to rely on the refresh where that one is lost.
                refresh = if self.announce_repeat > 2 { "0s" } else { "1s" },
            ),
        );
    }

    /// The virtual addresses of an instance.
    #[must_use]
    pub fn vips(&self, instance: usize) -> Vec<IpAddr> {
        let instance = u8::try_from(instance).unwrap_or(u8::MAX);
        let numbers = (0..=self.extra_vips).map(|extra| 10 + instance * 20 + extra);
        let mut vips = Vec::new();
        for number in numbers {
            if self.ipv4 {
                vips.push(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)));
            }
            if self.ipv6 {
                vips.push(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, u16::from(number))));
            }
        }
        vips
    }

    /// The virtual routers that the pair has, by instance and family.
    #[must_use]
    pub fn routers(&self) -> Vec<(String, Family)> {
        let families = [(self.ipv4, Family::V4), (self.ipv6, Family::V6)];
        let families = families.into_iter().filter(|(there, _)| *there);
        let instance =
            |number: usize| families.clone().map(move |(_, family)| (format!("i{number}"), family));
        (0..self.instances).flat_map(instance).collect()
    }
}

/// Writing to a `String` does not fail.
fn write_to(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    if text.write_fmt(arguments).is_err() {
        debug_assert!(false, "writing to a String does not fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_a_valid_configuration() {
        for seed in 0..300 {
            let variant = Variant::draw(&mut Rng::new(seed));
            let settings = variant.settings(0);
            assert_eq!(settings.routers().count(), variant.routers().len(), "{}", variant.text());
            assert_eq!(settings.peer_link.is_some(), variant.peer_link);
        }
    }
}
