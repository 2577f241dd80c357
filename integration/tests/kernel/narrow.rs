//! A link within a tunnel that takes smaller packets than the node's own. The router before it tells the node, which made the outer packets; the
//! node tells clients. Without that, whatever is as large as the node's link would be lost, and nobody would know why.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use integration::lab::clock::wait_until;
use integration::lab::tunnel::{Tunnel, TunnelEnd};
use integration::lab::{Lab, Result};

use crate::kernel_support::{LIMIT, PATIENCE, bulk, start, vips};

/// The largest packet on the narrow link, outer headers included.
const NARROW: u32 = 1400;

/// Less than IPv6 guarantees is left of this within a tunnel.
const TOO_NARROW: u32 = 1300;

/// Where the target is reached, behind that link.
const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 250, 0, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x250, 0, 0, 0, 0, 7)),
];

/// Puts the second target between node `a` and further addresses of the first one, by a route that takes no more than `narrow`. All of them
/// are on one network, where nobody is to find that out.
fn route(lab: &Lab, narrow: u32) -> Result<()> {
    let (target, router) = (&lab.targets()[0], &lab.targets()[1]);
    for host in [lab.a().namespace(), router.namespace()] {
        host.without_redirects()?;
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
        router.ip(&format!("{family}route add {far}{prefix} via {next} mtu lock {narrow}"))?;
        lab.a().ip(&format!("{family}route add {far}{prefix} via {before}"))?;
    }
    Ok(())
}

/// Has node `a` forward to the first target through the tunnel, whose end is given back.
fn forward(lab: &Lab) -> Result<TunnelEnd> {
    let target = &lab.targets()[0];
    let mut text = String::new();
    for (name, vip, far) in [("v4", vips()[0], FAR[0]), ("v6", vips()[1], FAR[1])] {
        target.accept_vip(vip)?;
        let [vip, far] = [vip, far].map(|ip| SocketAddr::new(ip, 7));
        text.push_str(&format!(
            "[[service]]\nname = \"{name}\"\nmode = \"dsr\"\ndsr = \"ipip\"\nlisten = [\"{vip}\"]\nforward = \"{name}\"\n\
             [[target_group]]\nname = \"{name}\"\ntargets = [{{ address = \"{far}\" }}]\n"
        ));
    }
    let end = TunnelEnd::start(target, Tunnel::Ipip)?;
    start(lab, &text)?;
    Ok(end)
}

#[test]
fn what_a_router_within_a_tunnel_says_reaches_clients() {
    let lab = Lab::builder("narrow link").targets(2).build().unwrap();
    route(&lab, NARROW).unwrap();
    let end = forward(&lab).unwrap();
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

/// Anybody can say that, and clients of IPv6 could not obey.
#[test]
fn that_less_is_left_than_ipv6_guarantees_is_not_believed() {
    let lab = Lab::builder("too narrow link").targets(2).build().unwrap();
    route(&lab, TOO_NARROW).unwrap();
    let end = forward(&lab).unwrap();
    let refused = || lab.a().counted("tandem_lbd_kernel_path_mtu_refused_total", "");
    assert_eq!(refused().unwrap(), 0);
    let vip = vips()[1];
    let server = SocketAddr::new(vip, 7);
    let mut made = None;
    wait_until(&format!("a connection to {vip}"), LIMIT, || {
        let connected =
            lab.client().namespace().inside(|| TcpStream::connect_timeout(&server, PATIENCE).ok());
        made = connected.ok().flatten();
        made.is_some()
    })
    .unwrap();
    // In segments as large as the node's own link takes.
    let mut stream = made.expect("just made");
    stream.write_all(&[7; 8192]).unwrap();
    wait_until("a word that is refused", LIMIT, || refused().is_ok_and(|count| count > 0)).unwrap();
    let way = lab.client().ip(&format!("-6 route get {vip}")).unwrap();
    assert!(!way.contains(" mtu 12"), "the client was told: {way}");
    drop(stream);
    assert!(end.stop().unwrap().packets > 0);
    lab.finish().unwrap();
}
