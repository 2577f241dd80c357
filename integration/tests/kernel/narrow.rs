//! A link within a tunnel that takes smaller packets than the node's own. The router before it tells the node, which made the outer packets; the
//! node tells clients. Without that, whatever is as large as the node's link would be lost, and nobody would know why.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use integration::lab::clock::wait_until;
use integration::lab::tunnel::{Tunnel, TunnelEnd};
use integration::lab::{Lab, Result};

use crate::kernel_support::{LIMIT, bulk, start, vips};

/// The largest packet on the narrow link, outer headers included.
const NARROW: u32 = 1400;

/// Where the target is reached, behind that link.
const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 250, 0, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x250, 0, 0, 0, 0, 7)),
];

/// Puts the second target between node `a` and further addresses of the first one, by a route that takes less than the link. All of them are on
/// one network, where nobody is to find that out.
fn route(lab: &Lab) -> Result<()> {
    let (target, router) = (&lab.targets()[0], &lab.targets()[1]);
    for host in [lab.a().namespace(), router.namespace()] {
        host.sysctl(&[
            ("ipv4/conf/all/accept_redirects", "0"),
            ("ipv4/conf/eth0/accept_redirects", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/eth0/send_redirects", "0"),
            ("ipv6/conf/all/accept_redirects", "0"),
            ("ipv6/conf/eth0/accept_redirects", "0"),
        ])?;
    }
    router.namespace().sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    let ways: [(&str, &str, IpAddr, IpAddr); 2] = [
        ("", "/32", target.v4().into(), router.v4().into()),
        ("-6 ", "/128", target.v6().into(), router.v6().into()),
    ];
    for (far, (family, prefix, next, before)) in FAR.into_iter().zip(ways) {
        // An address of the loopback interface is not defended by neighbour discovery on another.
        let no_detection = if far.is_ipv6() { " nodad" } else { "" };
        target.ip(&format!("{family}address add {far}{prefix} dev lo{no_detection}"))?;
        router.ip(&format!("{family}route add {far}{prefix} via {next} mtu lock {NARROW}"))?;
        lab.a().ip(&format!("{family}route add {far}{prefix} via {before}"))?;
    }
    Ok(())
}

#[test]
fn what_a_router_within_a_tunnel_says_reaches_clients() {
    let lab = Lab::builder("narrow link").targets(2).build().unwrap();
    route(&lab).unwrap();
    let target = &lab.targets()[0];
    let mut text = String::new();
    for (name, vip, far) in [("v4", vips()[0], FAR[0]), ("v6", vips()[1], FAR[1])] {
        target.accept_vip(vip).unwrap();
        let [vip, far] = [vip, far].map(|ip| std::net::SocketAddr::new(ip, 7));
        text.push_str(&format!(
            "[[service]]\nname = \"{name}\"\nmode = \"dsr\"\ndsr = \"ipip\"\nlisten = [\"{vip}\"]\nforward = \"{name}\"\n\
             [[target_group]]\nname = \"{name}\"\ntargets = [{{ address = \"{far}\" }}]\n"
        ));
    }
    let end = TunnelEnd::start(target, Tunnel::Ipip).unwrap();
    start(&lab, &text).unwrap();
    for (vip, outer) in vips().into_iter().zip([20, 40]) {
        // Many bytes either way, as large as the client's link takes at first.
        bulk(&lab, vip).unwrap();
        // What the client has been told: what fits into the tunnel on the narrow link, and not only on the node's.
        let told = format!(" mtu {} ", NARROW - outer);
        let family = if vip.is_ipv6() { "-6 " } else { "" };
        wait_until(&format!("the client to know of{told}to {vip}"), LIMIT, || {
            lab.client()
                .ip(&format!("{family}route get {vip}"))
                .is_ok_and(|route| format!("{route} ").contains(&told))
        })
        .unwrap();
        bulk(&lab, vip).unwrap();
    }
    let unwrapped = end.stop().unwrap();
    assert!(unwrapped.packets > 0 && unwrapped.malformed == 0, "{unwrapped:?}");
    lab.finish().unwrap();
}
