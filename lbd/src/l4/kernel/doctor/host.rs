//! What the doctor says of this host and its interfaces: what they are is read, what to say of it decided apart from that.

use super::handed::HandedOver;
use super::{Level, Report};
use crate::l4::kernel::features::{BPFFS, Features};
use crate::l4::kernel::ways::Ways;
use crate::l4::kernel::{ethtool, settings};

/// The host.
pub(super) fn host(report: &mut Report) {
    judge_host(&Features::of_host(), report);
}

fn judge_host(features: &Features, report: &mut Report) {
    match features.lack() {
        Ok(()) => report.add(Level::Good, "kernel", format!("Linux {}", features.version)),
        Err(error) => report.add(Level::Bad, "kernel", error),
    }
    if features.tcx() {
        report.add(Level::Good, "attaching", "tcx links, replaced without a gap");
    } else {
        let finding = "by clsact filters, which stay while lbd is away; Linux 6.6 and newer have tcx links";
        report.add(Level::Note, "attaching", finding);
    }
    if features.bpffs {
        report.add(Level::Good, "bpffs", BPFFS);
    } else {
        report.add(Level::Note, "bpffs", format!("not mounted on {BPFFS}; `lbd run` mounts it"));
    }
    match features.jit {
        Some(false) => {
            report.add(
                Level::Bad,
                "JIT",
                "net.core.bpf_jit_enable is 0: each packet would be interpreted; set it to 1",
            );
        }
        _ => report.add(Level::Good, "JIT", "on"),
    }
}

/// An interface; `in_driver` is whether the program is to be in its driver.
pub(super) fn interface(ways: &Ways, name: &str, in_driver: bool, handed: HandedOver, report: &mut Report) {
    match Facts::read(ways, name) {
        Some(facts) => judge(name, &facts, in_driver, handed, report),
        None => report.add(Level::Bad, name, "there is no such interface"),
    }
}

/// The filter of an interface on which the program is not to be.
pub(super) fn filter(name: &str, handed: HandedOver, report: &mut Report) {
    judge_filter(name, &filters(name), handed, report);
}

/// `rp_filter` of an interface and of all; empty where it cannot be read.
fn filters(name: &str) -> [String; 2] {
    [name, "all"].map(|of| settings::read(&format!("ipv4/conf/{of}/rp_filter")).unwrap_or_default())
}

/// Whether what comes from an address is taken only by the interface of the way there: the larger number of the two counts, and 2 is less
/// strict than 1 (Documentation/networking/ip-sysctl.rst).
fn are_strict(filters: &[String; 2]) -> bool {
    let number = |text: &String| text.parse::<u8>().unwrap_or(0);
    filters.iter().map(number).max() == Some(1)
}

fn judge_filter(name: &str, filters: &[String; 2], handed: HandedOver, report: &mut Report) {
    if !are_strict(filters) {
        return;
    }
    let mut finding =
        "rp_filter is strict. Forwarded packets do not pass it, what goes up the stack does".to_owned();
    if let Some(what) = handed.words() {
        finding = format!(
            "{finding}: of what the other node hands over here it drops {what} where the way back to who has sent them is by another \
             interface; `sysctl -w net/ipv4/conf/{name}/rp_filter=2` makes it loose"
        );
    }
    report.add(Level::Note, name, finding);
}

/// What an interface is like.
#[derive(Clone, Debug)]
struct Facts {
    up: bool,
    /// The driver's name, or what kind of device it is.
    kind: String,
    mtu: u32,
    /// Whether its driver joins packets for good (LRO); none if it does not say.
    large_receive: Option<bool>,
    /// Whether it is a VLAN's, or has VLANs.
    is_vlan: bool,
    has_vlans: bool,
    /// Whether its driver takes VLAN tags off; none if it does not say.
    takes_tags_off: Option<bool>,
    /// Whether checksums of what it sends are left to its driver; none if it does not say.
    completes_checksums: Option<bool>,
    hands_over: bool,
    /// `forwarding` of IPv4 and IPv6; none where there is no such family.
    forwarding: [Option<String>; 2],
    /// `rp_filter` of it and of all; empty where it cannot be read.
    filters: [String; 2],
}

impl Facts {
    /// None if there is no such interface.
    fn read(ways: &Ways, name: &str) -> Option<Self> {
        let link = ways.link(name)?;
        let driver = std::fs::read_link(format!("/sys/class/net/{name}/device/driver")).ok();
        let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Some(Self {
            up: link.up,
            kind: driver.unwrap_or_else(|| link.kind.clone()),
            mtu: link.mtu,
            large_receive: ethtool::large_receive(name),
            is_vlan: link.kind == "vlan",
            has_vlans: ways.has_vlans(link.index),
            takes_tags_off: ethtool::takes_tags_off(name),
            completes_checksums: ethtool::completes_checksums(name),
            hands_over: link.hands_over(),
            forwarding: ["ipv4", "ipv6"]
                .map(|family| settings::read(&format!("{family}/conf/{name}/forwarding"))),
            filters: filters(name),
        })
    }
}

fn judge(name: &str, facts: &Facts, in_driver: bool, handed: HandedOver, report: &mut Report) {
    let state = if facts.up { "up" } else { "down" };
    let level = if facts.up { Level::Good } else { Level::Bad };
    report.add(level, name, format!("{state}, {}, MTU {}", facts.kind, facts.mtu));
    if facts.large_receive == Some(true) {
        let finding = "LRO is on: it joins packets that cannot be forwarded again; `ethtool -K … lro off` (GRO may stay on)";
        report.add(Level::Bad, name, finding);
    }
    for (family, forwarding) in ["ipv4", "ipv6"].into_iter().zip(&facts.forwarding) {
        if forwarding.as_deref() == Some("0") {
            let finding =
                format!("net.{family}.conf.{name}.forwarding is 0; `lbd run` sets it where it needs it");
            report.add(Level::Note, name, finding);
        }
    }
    judge_filter(name, &facts.filters, handed, report);
    // Of the other end, which is the one that counts, nothing can be read from here: whoever has set up one has set up both.
    if in_driver && facts.kind == "veth" && facts.completes_checksums != Some(false) {
        let finding = "tx checksum offload is on, as it is at the other end of a veth by default. What is sent there without a checksum, for a device to \
             complete, loses that on its way through a program in the driver: pings pass, and TCP does not; `ethtool -K … tx off` on each host that \
             sends through a veth to here, and on this one";
        report.add(Level::Note, name, finding);
    }
    if !in_driver && facts.hands_over {
        let finding = "packets forwarded out of it are handed to its other end at once; captures, filters and counters of what it sends do not \
             see them";
        report.add(Level::Good, name, finding);
    }
    let without_driver = match facts.kind.as_str() {
        _ if facts.is_vlan => Some("a VLAN's interface"),
        "bridge" => Some("a bridge"),
        _ => None,
    };
    if let Some(what) = without_driver.filter(|_| in_driver) {
        let finding = format!("{what} has no driver that a program could be in; use `attach = \"auto\"`");
        report.add(Level::Bad, name, finding);
    } else if in_driver && facts.has_vlans && facts.takes_tags_off == Some(true) {
        let finding = "it takes VLAN tags off before the program in the driver sees them, which then takes frames of its VLANs for its own; \
             `ethtool -K … rxvlan off`";
        report.add(Level::Bad, name, finding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l4::kernel::features::Version;

    fn good_host() -> Features {
        let version = Version(6, 12);
        Features { version, capabilities: u64::MAX, refusal: None, bpffs: true, jit: Some(true) }
    }

    fn of_host(features: Features) -> Report {
        let mut report = Report::default();
        judge_host(&features, &mut report);
        report
    }

    #[test]
    fn a_host_is_told_what_it_lacks() {
        let good = of_host(good_host());
        assert_eq!(good.bad, 0, "{}", good.text);
        let lines = ["kernel: Linux 6.12", "attaching: tcx links", "bpffs: /sys/fs/bpf", "JIT: on"];
        for (line, expected) in good.text.lines().zip(lines) {
            assert!(line.starts_with(&format!("ok    {expected}")), "{line}");
        }
        let all = good_host();
        let cases = [
            (Features { version: Version(6, 1), ..all }, "note  attaching: by clsact filters", 0),
            (
                Features { version: Version(5, 10), ..all },
                "BAD   kernel: kernel forwarding needs Linux 5.15",
                1,
            ),
            (Features { capabilities: 0, ..all }, "BAD   kernel: kernel forwarding needs CAP_BPF,", 1),
            (Features { refusal: Some(libc::EPERM), ..all }, "BAD   kernel: this host refuses bpf(2)", 1),
            (Features { bpffs: false, ..all }, "note  bpffs: not mounted on /sys/fs/bpf", 0),
            (Features { jit: Some(false), ..all }, "BAD   JIT: net.core.bpf_jit_enable is 0", 1),
            // A kernel without the interpreter has no such setting.
            (Features { jit: None, ..all }, "ok    JIT: on", 0),
        ];
        for (features, expected, bad) in cases {
            let report = of_host(features);
            assert!(
                report.text.lines().any(|line| line.starts_with(expected)),
                "{expected}: {}",
                report.text
            );
            assert_eq!(report.bad, bad, "{}", report.text);
        }
    }

    /// As a virtual machine's interface is once `lbd` has run.
    fn eth0() -> Facts {
        Facts {
            up: true,
            kind: "virtio_net".to_owned(),
            mtu: 1500,
            large_receive: Some(false),
            is_vlan: false,
            has_vlans: false,
            takes_tags_off: Some(true),
            completes_checksums: Some(true),
            hands_over: false,
            forwarding: [Some("1".to_owned()), Some("1".to_owned())],
            filters: ["0".to_owned(), "0".to_owned()],
        }
    }

    fn of(facts: &Facts, in_driver: bool) -> Vec<String> {
        let mut report = Report::default();
        judge("eth0", facts, in_driver, HandedOver::default(), &mut report);
        report.text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_interface_is_told_what_is_in_the_way() {
        for in_driver in [false, true] {
            assert_eq!(of(&eth0(), in_driver), ["ok    eth0: up, virtio_net, MTU 1500"]);
        }
        let only = |facts: &Facts, in_driver: bool| {
            let said = of(facts, in_driver);
            assert_eq!(said.len(), 2, "{said:?}");
            said[1].clone()
        };
        assert!(
            only(&Facts { large_receive: Some(true), ..eth0() }, false).starts_with("BAD   eth0: LRO is on")
        );
        let no_forwarding = Facts { forwarding: [Some("1".to_owned()), Some("0".to_owned())], ..eth0() };
        assert!(only(&no_forwarding, false).starts_with("note  eth0: net.ipv6.conf.eth0.forwarding is 0"));
        let vlan = Facts { is_vlan: true, ..eth0() };
        assert!(only(&vlan, true).starts_with("BAD   eth0: a VLAN's interface has no driver"));
        let bridge = Facts { kind: "bridge".to_owned(), ..eth0() };
        assert!(only(&bridge, true).starts_with("BAD   eth0: a bridge has no driver"));
        let tagged = Facts { has_vlans: true, ..eth0() };
        assert!(only(&tagged, true).contains("takes VLAN tags off"));
        // What a driver does not say is not known, and what matters to the driver's program alone matters to no other.
        let unknown = Facts { has_vlans: true, takes_tags_off: None, large_receive: None, ..eth0() };
        assert_eq!(of(&unknown, true).len(), 1);
        let veth = Facts { kind: "veth".to_owned(), ..eth0() };
        assert!(only(&veth, true).starts_with("note  eth0: tx checksum offload is on"));
        assert_eq!(of(&Facts { completes_checksums: Some(false), ..veth.clone() }, true).len(), 1);
        let handing = Facts { hands_over: true, ..veth.clone() };
        assert!(only(&handing, false).starts_with("ok    eth0: packets forwarded out of it are handed"));
        for facts in [vlan, bridge, tagged, veth] {
            assert_eq!(of(&facts, false).len(), 1);
        }
        let without_ipv6 = Facts { forwarding: [Some("1".to_owned()), None], ..eth0() };
        assert_eq!(of(&without_ipv6, false).len(), 1);
        assert_eq!(
            of(&Facts { up: false, mtu: 576, ..eth0() }, false),
            ["BAD   eth0: down, virtio_net, MTU 576"]
        );
    }

    #[test]
    fn the_larger_filter_counts_and_only_1_is_strict() {
        for (own, all, strict) in [
            ("0", "0", false),
            ("1", "0", true),
            ("0", "1", true),
            ("1", "1", true),
            ("2", "1", false),
            ("1", "2", false),
            ("", "", false),
        ] {
            let facts = Facts { filters: [own.to_owned(), all.to_owned()], ..eth0() };
            assert_eq!(are_strict(&facts.filters), strict, "{own} and {all}");
            let said =
                of(&facts, false).iter().any(|line| line.starts_with("note  eth0: rp_filter is strict"));
            assert_eq!(said, strict);
        }
    }

    #[test]
    fn a_strict_filter_where_the_other_node_hands_packets_over_is_told_of_with_the_remedy() {
        let said = |own: &str, of_clients: bool, of_targets: bool| {
            let mut report = Report::default();
            let filters = [own.to_owned(), "0".to_owned()];
            judge_filter("eth0.7", &filters, HandedOver { of_clients, of_targets }, &mut report);
            assert_eq!(report.bad, 0);
            report.text
        };
        let remedy = "`sysctl -w net/ipv4/conf/eth0.7/rp_filter=2`";
        for (of_clients, of_targets, parts) in [
            (true, false, &["the second chance"][..]),
            (false, true, &["preserve_client_ip"]),
            (true, true, &["the second chance", "preserve_client_ip"]),
        ] {
            let told = said("1", of_clients, of_targets);
            assert!(told.starts_with("note  eth0.7: rp_filter is strict") && told.contains(remedy), "{told}");
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
            assert_eq!(said("2", of_clients, of_targets), "");
        }
        assert!(!said("1", false, false).contains(remedy), "nothing is handed over");
    }
}
