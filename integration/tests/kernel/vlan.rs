//! VLANs: a tagged frame is nothing to do with the interface that it comes by, but with the VLAN's own, where the program may be too.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use integration::lab::addresses::vip4;
use integration::lab::capture::{Capture, fields};
use integration::lab::clock::wait_until;
use integration::lab::probe::send_frames;
use integration::lab::{Host, Lab, Result, http};
use integration::verdict::packet::Packet;

use crate::kernel_support::{LIMIT, PATIENCE, answerer, bulk, reload_text, service, start, status};

/// Kind and content of a VLAN tag.
type Tag = (u16, u16);

/// A client's datagram to the echo service.
fn frame(lab: &Lab, vlans: &[Tag], says: &str) -> Vec<u8> {
    let ends = (SocketAddr::from((lab.client().v4(), 4321)), SocketAddr::from((vip4(0), 7)));
    let (macs, payload) = ((lab.a().mac(), lab.client().mac()), says.as_bytes().to_vec());
    Packet { macs, vlans: vlans.to_vec(), payload, ..Packet::udp(ends.0, ends.1) }.frame()
}

/// What datagrams to the echo service say that a capture has so far, each with its VLAN.
fn heard(file: &Path) -> Vec<(String, String)> {
    // A file that is still being written may end within a packet.
    let rows = fields(file, "udp.dstport == 7", &["vlan.id", "udp.payload"]).unwrap_or_default();
    let text = |hexadecimal: &str| {
        let pairs = hexadecimal.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
        let bytes = pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
        String::from_utf8(bytes).unwrap_or_default()
    };
    rows.iter().map(|row| (row[0].clone(), text(&row[1]))).collect()
}

#[test]
fn a_frame_of_a_vlan_is_not_taken_for_one_without() -> Result<()> {
    let lab = Lab::builder("kernel-tags").targets(1).build()?;
    let target = &lab.targets()[0];
    let capture = Capture::on_host(&lab, target.name(), "eth0", "udp or vlan")?;
    let file = lab.dir().join(format!("{}-eth0.pcap", target.name()));
    let echo = |keys: &str| service(&lab, "echo", keys, &["7/udp"], 7, "");
    start(&lab, &echo("mode = \"nat\""))?;
    let mut expected = Vec::new();
    for mode in ["nat", "dsr"] {
        if mode == "dsr" {
            target.accept_vip(vip4(0))?;
            reload_text(&lab, &echo("mode = \"dsr\"\ndsr = \"l2\""))?;
        }
        let counted = || lab.a().counted("tandem_lbd_kernel_service_packets_total", "to_target").unwrap_or(0);
        wait_until("the service", LIMIT, || {
            let before = counted();
            send_frames(lab.client(), &[frame(&lab, &[], "first")]).is_ok() && counted() > before
        })?;
        let tagged: [(&[Tag], &str); 5] = [
            (&[(0x8100, 100)], "of a VLAN"),
            (&[(0x88a8, 100)], "of a provider's"),
            (&[(0x88a8, 100), (0x8100, 200)], "of one in another"),
            (&[(0x8100, 0xa000)], "urgent"),
            (&[], "last"),
        ];
        let frames: Vec<Vec<u8>> =
            tagged.iter().map(|(tags, says)| frame(&lab, tags, &format!("{says}, {mode}"))).collect();
        send_frames(lab.client(), &frames)?;
        for says in ["urgent", "last"] {
            expected.push((String::new(), format!("{says}, {mode}")));
        }
        let last = expected.last().cloned();
        wait_until("the last one to arrive", LIMIT, || heard(&file).last() == last.as_ref())?;
    }
    capture.stop()?;
    let mut heard = heard(&file);
    heard.retain(|(_, says)| says != "first");
    assert_eq!(heard, expected, "what is of no VLAN, without a tag, and nothing else");
    lab.finish()
}

/// The VLAN of the clients and of the virtual IPs, and that of the targets.
const CLIENTS: u16 = 100;
const TARGETS: u16 = 200;

/// The host of this number in a VLAN.
fn addresses(vlan: u16, host: u8) -> [IpAddr; 2] {
    let third = u8::try_from(vlan).unwrap();
    [IpAddr::from([10, 78, third, host]), IpAddr::from([0xfd78, vlan, 0, 0, 0, 0, 0, u16::from(host)])]
}

/// Gives a host an interface in a VLAN, above its `eth0`.
fn join(host: &Host, vlan: u16) -> Result<()> {
    host.ip(&format!("link add link eth0 name eth0.{vlan} type vlan id {vlan}"))?;
    host.ip(&format!("link set eth0.{vlan} up"))?;
    let number = host.v4().octets()[3];
    add(host, vlan, number)
}

/// Gives a host the addresses of this number.
fn add(host: &Host, vlan: u16, number: u8) -> Result<()> {
    for address in addresses(vlan, number) {
        let rest = if address.is_ipv4() { "/24" } else { "/64 nodad" };
        host.ip(&format!("address add {address}{rest} dev eth0.{vlan}"))?;
    }
    Ok(())
}

/// Has the targets' answers to the virtual IPs go to node `a`, by its address of each family there.
fn back_by(lab: &Lab, node: [IpAddr; 2]) -> Result<()> {
    for target in lab.targets() {
        for (vip, via) in addresses(CLIENTS, 50).into_iter().zip(node) {
            let ip = if vip.is_ipv4() { "" } else { "-6 " };
            target.ip(&format!("{ip}route replace {vip} via {via}"))?;
        }
    }
    Ok(())
}

/// HTTP and the echo server at the virtual IPs, with the targets' addresses of each family.
fn text(lab: &Lab, keys: &str, of: impl Fn(&Host, usize) -> IpAddr) -> String {
    let mut text = String::new();
    for (name, port) in [("web", 80), ("echo", 7)] {
        for (family, vip) in addresses(CLIENTS, 50).into_iter().enumerate() {
            let listen = SocketAddr::new(vip, port);
            let target = |target: &integration::lab::Target| {
                let address = SocketAddr::new(of(target, family), port);
                format!("{{ id = \"{}\", address = \"{address}\" }}", target.name())
            };
            let targets: Vec<String> = lab.targets().iter().map(target).collect();
            text.push_str(&format!(
                "[[service]]\nname = \"{name}{family}\"\nlisten = [\"{listen}\"]\nforward = \"{name}{family}\"\n{keys}\n\
                 [[target_group]]\nname = \"{name}{family}\"\ntargets = [{}]\n",
                targets.join(", ")
            ));
        }
    }
    text
}

/// Waits until both targets have answered through both virtual IPs, and sends and fetches what takes many packets.
fn served(lab: &Lab) -> Result<()> {
    for vip in addresses(CLIENTS, 50) {
        let mut seen = BTreeSet::new();
        wait_until(&format!("answers of both targets through {vip}"), LIMIT, || {
            seen.extend(answerer(lab, vip));
            seen.len() == 2
        })?;
        let large = || http::tcp(SocketAddr::new(vip, 80), "GET", "/large", "", PATIENCE);
        wait_until(&format!("a large answer through {vip}"), LIMIT, || {
            let answer = lab.client().namespace().inside(large);
            answer.is_ok_and(|it| it.is_ok_and(|it| (it.status, it.body.len()) == (200, 1 << 20)))
        })?;
        bulk(lab, vip)?;
    }
    Ok(())
}

/// It takes a kernel with VLAN devices, which not every one has: `scripts/test` leaves it out where there are none, and says so.
#[test]
fn virtual_ips_and_targets_may_be_in_vlans_of_one_interface() -> Result<()> {
    let lab = Lab::builder("kernel-vlan").targets(2).build()?;
    for host in [lab.client(), lab.a()] {
        join(host, CLIENTS)?;
    }
    add(lab.a(), CLIENTS, 50)?;
    join(lab.a(), TARGETS)?;
    for target in lab.targets() {
        join(target, TARGETS)?;
    }
    let in_vlan = |host: &Host, family: usize| addresses(TARGETS, host.v4().octets()[3])[family];
    let without = |host: &Host, family: usize| [host.v4().into(), host.v6().into()][family];
    back_by(&lab, addresses(TARGETS, 1))?;
    lab.write_config_text(&text(&lab, "mode = \"nat\"", in_vlan))?;
    lab.a().start_lbd()?;
    served(&lab)?;
    // By the same interface without a tag: the program is there too then, and sees the clients' frames first.
    back_by(&lab, [lab.a().v4().into(), lab.a().v6().into()])?;
    reload_text(&lab, &text(&lab, "mode = \"nat\"", without))?;
    served(&lab)?;
    for target in lab.targets() {
        // Answers go by the clients' network.
        join(target, CLIENTS)?;
        addresses(CLIENTS, 50).into_iter().try_for_each(|vip| target.accept_vip(vip))?;
    }
    reload_text(&lab, &text(&lab, "mode = \"dsr\"\ndsr = \"l2\"", in_vlan))?;
    served(&lab)?;
    reload_text(&lab, &text(&lab, "mode = \"dsr\"\ndsr = \"l2\"", without))?;
    served(&lab)?;
    // The driver's program has no business with any of these, and says so.
    let driver = format!("[kernel]\nattach = \"xdp\"\n{}", text(&lab, "mode = \"nat\"", in_vlan));
    lab.write_config_text(&driver)?;
    lab.a().send("lbd", "POST", "/v1/reload", "")?;
    wait_until("what is wrong to be told", LIMIT, || {
        let status = status(&lab).unwrap_or_default();
        let told = status["kernel"]["troubles"].to_string();
        told.contains("VLAN's interface") && told.contains("eth0.100")
    })?;
    lab.finish()
}
