//! What `vrrpd` sends, as tshark reads it. tshark 4.0 knows the checksum with the pseudo-header only, and no signatures.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use integration::lab::addresses::{Mac, mac, mac_text};
use integration::lab::capture::Capture;
use integration::lab::clock::wait_until;
use integration::lab::{Lab, LabError, Result};

use crate::pair::{INSTANCE, LIMIT, Preferred, Setup, Transport, link_local, virtual_mac};

/// What malformed packets and those with a wrong checksum, of any protocol, have in common.
const COMPLAINTS: &str = "_ws.malformed || _ws.expert";

/// Reads fields of the packets that pass a filter. Those quoted in ICMP errors are left out.
fn decode(file: &Path, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let filter = format!("({filter}) && !(icmpv6.type < 128) && !(icmp)");
    let mut command = Command::new("tshark");
    command.args(["-n", "-o", "ip.check_checksum:TRUE", "-r"]).arg(file);
    command.args(["-Y", &filter, "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let doing = || format!("reading {} with tshark", file.display());
    let output = command.output().map_err(|source| LabError::Io { doing: doing(), source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {}", doing(), String::from_utf8_lossy(&output.stderr));
    Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

/// Runs `vrrpd` alone, from becoming active to its farewell, and looks at what passed the switch.
fn captured(setup: &Setup, look: impl FnOnce(&Lab, &Path) -> Result<()>) -> Result<()> {
    let lab = Lab::builder(setup.label).targets(0).build()?;
    lab.write_config(&setup.config(&lab))?;
    let capture = Capture::on_switch(&lab, "lan", "ip proto 112 or ip6 proto 112 or arp or icmp6")?;
    lab.a().start_vrrpd()?;
    lab.a().wait_role(INSTANCE, "active", LIMIT)?;
    wait_until("vrrpd to advertise", LIMIT, || {
        let status = lab.a().get("vrrpd", "/v1/status").and_then(|answer| answer.json()).unwrap_or_default();
        let routers = status["instances"][0]["routers"].as_array().cloned().unwrap_or_default();
        !routers.is_empty() && routers.iter().all(|router| router["adverts_sent"].as_u64() > Some(2))
    })?;
    lab.a().stop("vrrpd")?;
    look(&lab, &capture.stop()?)?;
    lab.finish()
}

/// Every advertisement is as the standard wants it, the last one says farewell, and nothing draws a complaint.
fn check(setup: &Setup, source_mac: fn(IpAddr) -> Mac) -> Result<()> {
    captured(setup, |lab, file| {
        assert_eq!(
            decode(file, COMPLAINTS, &["frame.number", "_ws.expert.message"])?,
            Vec::<Vec<String>>::new()
        );
        for vip in &setup.vips {
            check_adverts(setup, lab, file, *vip, source_mac(*vip))?;
            check_announcements(setup, file, *vip, source_mac(*vip))?;
        }
        Ok(())
    })
}

fn check_adverts(setup: &Setup, lab: &Lab, file: &Path, vip: IpAddr, source_mac: Mac) -> Result<()> {
    let v4 = vip.is_ipv4();
    let (ip, interval) = (if v4 { "ip" } else { "ipv6" }, setup.advert_interval_ms);
    let (source, hops, addresses) = if v4 {
        (lab.a().v4().to_string(), "ip.ttl", "vrrp.ip_addr")
    } else {
        ("fe80::7d:ff:fe00:1".to_owned(), "ipv6.hlim", "vrrp.ipv6_addr")
    };
    let (destination, destination_mac) = match (setup.transport, v4) {
        (Transport::Multicast, true) => ("224.0.0.18".to_owned(), "01:00:5e:00:00:12".to_owned()),
        (Transport::Multicast, false) => ("ff02::12".to_owned(), "33:33:00:00:00:12".to_owned()),
        (_, true) => (lab.b().v4().to_string(), mac_text(mac(2))),
        (_, false) => ("fe80::7d:ff:fe00:2".to_owned(), mac_text(mac(2))),
    };
    let (interval_field, interval) = if setup.version == 3 {
        ("vrrp.short_adver_int", interval / 10)
    } else {
        ("vrrp.adver_int", interval / 1000)
    };
    let listed = if v4 { vec![vip] } else { vec![link_local(), vip] };
    let listed: Vec<String> = listed.iter().map(IpAddr::to_string).collect();
    let (from, to) = (format!("{ip}.src"), format!("{ip}.dst"));
    let fields = [
        ("eth.src", mac_text(source_mac)),
        ("eth.dst", destination_mac),
        (from.as_str(), source),
        (to.as_str(), destination),
        (hops, "255".to_owned()),
        ("vrrp.version", setup.version.to_string()),
        ("vrrp.type", "1".to_owned()),
        ("vrrp.virt_rtr_id", "51".to_owned()),
        (interval_field, interval.to_string()),
        ("vrrp.checksum.status", "1".to_owned()),
        ("vrrp.addr_count", listed.len().to_string()),
        (addresses, listed.join(",")),
        ("vrrp.prio", "200".to_owned()),
    ];
    let (names, mut expected): (Vec<&str>, Vec<String>) = fields.into_iter().unzip();
    let rows = decode(file, &format!("vrrp && {ip}"), &names)?;
    let (farewell, steady) = rows.split_last().expect("vrrpd advertised");
    assert!(steady.len() > 2, "{rows:?}");
    for row in steady {
        assert_eq!(*row, expected, "{}: {names:?}", setup.label);
    }
    // The priority comes last.
    expected.pop();
    expected.push("0".to_owned());
    assert_eq!(*farewell, expected, "{}: {names:?}", setup.label);
    Ok(())
}

/// Gratuitous ARP to all, as a request; unsolicited neighbour advertisements to all nodes, which override.
fn check_announcements(setup: &Setup, file: &Path, vip: IpAddr, source_mac: Mac) -> Result<()> {
    let (mac, vip) = (mac_text(source_mac), vip.to_string());
    let every = "ff:ff:ff:ff:ff:ff";
    let (filter, fields) = if vip.contains(':') {
        let fields = [
            ("eth.src", mac.as_str()),
            ("eth.dst", "33:33:00:00:00:01"),
            ("ipv6.dst", "ff02::1"),
            ("ipv6.hlim", "255"),
            ("icmpv6.checksum.status", "1"),
            ("icmpv6.nd.na.flag.s", "0"),
            ("icmpv6.nd.na.flag.o", "1"),
            ("icmpv6.opt.linkaddr", mac.as_str()),
        ];
        (format!("icmpv6.nd.na.target_address == {vip}"), fields.to_vec())
    } else {
        let fields = [
            ("eth.src", mac.as_str()),
            ("eth.dst", every),
            ("arp.opcode", "1"),
            ("arp.src.hw_mac", mac.as_str()),
            ("arp.src.proto_ipv4", vip.as_str()),
            ("arp.isgratuitous", "1"),
        ];
        (format!("arp.dst.proto_ipv4 == {vip}"), fields.to_vec())
    };
    let (names, expected): (Vec<&str>, Vec<&str>) = fields.into_iter().unzip();
    let rows = decode(file, &filter, &names)?;
    assert!(!rows.is_empty(), "{}: {vip} is announced", setup.label);
    for row in rows {
        assert_eq!(row, expected, "{}: {names:?}", setup.label);
    }
    Ok(())
}

fn node_mac(_: IpAddr) -> Mac {
    mac(1)
}

#[test]
fn version_3_by_multicast_decodes_without_complaint() -> Result<()> {
    check(&Setup::new("captured", Preferred::Vrrpd, 100), node_mac)
}

#[test]
fn version_3_by_unicast_decodes_without_complaint() -> Result<()> {
    let setup = Setup::new("captured unicast", Preferred::Vrrpd, 100);
    check(&Setup { transport: Transport::LinkLocal, ..setup }, node_mac)
}

#[test]
fn version_2_decodes_without_complaint() -> Result<()> {
    let mut setup = Setup::new("captured version 2", Preferred::Vrrpd, 1000);
    setup.version = 2;
    setup.vips.truncate(1);
    setup.extra.clear();
    check(&setup, node_mac)
}

#[test]
fn frames_of_the_virtual_mac_decode_without_complaint() -> Result<()> {
    let mut setup = Setup::new("captured virtual MAC", Preferred::Vrrpd, 100);
    setup.extra.push_str("virtual_mac = true\n");
    check(&setup, virtual_mac)
}

/// tshark does complain when there is something to complain of: the other reading of the checksum is none it knows.
#[test]
fn a_checksum_of_the_message_alone_is_reported() -> Result<()> {
    let mut setup = Setup::new("captured checksum", Preferred::Vrrpd, 100);
    setup.vips.truncate(1);
    setup.extra = "checksum = \"message\"\n".to_owned();
    captured(&setup, |_, file| {
        let complaints = decode(file, COMPLAINTS, &["vrrp.checksum.status"])?;
        let adverts = decode(file, "vrrp", &["vrrp.checksum.status"])?;
        assert_eq!(adverts, complaints);
        assert_eq!(complaints.first().map(Vec::as_slice), Some(["0".to_owned()].as_slice()));
        Ok(())
    })
}
