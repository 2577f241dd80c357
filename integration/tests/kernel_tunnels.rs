//! Direct server return in its four ways, with real targets: the client speaks to the virtual IP, nginx and the echo server of a
//! target answer it directly, in both address families.
//!
//! Tunnels end in a program of the lab's, because not every kernel has devices for them. With `TANDEM_LAB_TUNNELS=kernel` they end in
//! the kernel's, as `scripts/dsr-target` sets them up; `scripts/kernels` does that.

mod kernel_support;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::wait_until;
use integration::lab::config::PairConfig;
use integration::lab::tunnel::{Tunnel, TunnelEnd};
use integration::lab::{Lab, Result, Target, http};

use kernel_support::bulk;

const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const READY_LIMIT: Duration = Duration::from_secs(15);
/// What is fetched of each kind, so that many ports hash to both targets.
const FETCHES: usize = 40;

/// Where packets of one family go through tunnels of the other.
const CROSSED_PORT: u16 = 80;

/// A service of `mode = "dsr"` in this way for HTTP and for the echo server's datagrams and connections, in both families; and with tunnels one for
/// HTTP whose outer packets are of the other family.
fn config(lab: &Lab, way: &str) -> PairConfig {
    let addresses = |port: u16, v6: bool| -> Vec<SocketAddr> {
        let address =
            |target: &Target| -> IpAddr { if v6 { target.v6().into() } else { target.v4().into() } };
        lab.targets().iter().map(|target| SocketAddr::new(address(target), port)).collect()
    };
    let mut config = PairConfig::default();
    for (family, vip, v6) in [("v4", IpAddr::from(vip4(0)), false), ("v6", IpAddr::from(vip6(0)), true)] {
        for (name, port, suffix) in [("http", 8080, ""), ("echo", 7, "/udp"), ("bulk", 7, "")] {
            let (service, group) = (format!("{name}-{family}"), format!("{name}-{family}"));
            let listen = format!("{}{suffix}", SocketAddr::new(vip, port));
            config = config
                .service(&service, "dsr", &listen, &group, &format!("dsr = \"{way}\""))
                .target_group(&group, &addresses(port, v6), "");
        }
        if way != "l2" {
            let (listen, name) =
                (SocketAddr::new(vip, CROSSED_PORT).to_string(), format!("crossed-{family}"));
            config = config.service(&name, "dsr", &listen, &name, &format!("dsr = \"{way}\"")).target_group(
                &name,
                &addresses(CROSSED_PORT, !v6),
                "",
            );
        }
    }
    config
}

/// Fetches small and large pages, and sends datagrams, through both VIPs; both targets have to answer, and nothing may fail.
fn exchange(lab: &Lab, ports: &[u16]) -> Result<()> {
    for vip in [IpAddr::from(vip4(0)), IpAddr::from(vip6(0))] {
        for port in ports {
            fetch(lab, SocketAddr::new(vip, *port))?;
        }
        let answered = lab.client().namespace().inside(|| echo_datagrams(SocketAddr::new(vip, 7)))?;
        assert_eq!(answered, FETCHES, "datagrams answered by the echo server through {vip}");
        bulk(lab, vip)?;
    }
    Ok(())
}

/// Fetches small and large pages of both targets from a VIP.
fn fetch(lab: &Lab, server: SocketAddr) -> Result<()> {
    let names = lab.client().namespace().inside(|| -> Result<Vec<String>> {
        wait_until(&format!("an answer from {server}"), READY_LIMIT, || {
            http::tcp(server, "GET", "/", "", ANSWER_LIMIT).is_ok_and(|answer| answer.status == 200)
        })?;
        (0..FETCHES).map(|_| Ok(http::tcp(server, "GET", "/", "", ANSWER_LIMIT)?.body)).collect()
    })??;
    for target in lab.targets() {
        let answered = names.iter().filter(|name| name.trim() == target.name()).count();
        assert!(answered > 0, "{} answered none of {FETCHES} through {server}: {names:?}", target.name());
    }
    // curl checks that all of it came.
    let url = format!("http://{server}/large");
    for _ in 0..5 {
        let size = lab
            .client()
            .run("curl", &["-sS", "-m", "10", "-o", "/dev/null", "-w", "%{size_download}", &url])?;
        assert_eq!(size, (1 << 20).to_string());
    }
    Ok(())
}

/// Sends datagrams from new ports, small and as large as fits, and counts those that came back from where they were sent.
fn echo_datagrams(server: SocketAddr) -> usize {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let came_back = |size: usize| {
        let socket = std::net::UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
        let sent = vec![b'e'; size];
        socket.send_to(&sent, server).unwrap();
        let mut buffer = [0; 2048];
        matches!(socket.recv_from(&mut buffer), Ok((count, from)) if from == server && buffer[..count] == sent)
    };
    (0..FETCHES).filter(|index| came_back([1, 512, 1300][index % 3])).count()
}

/// Has a target take packets to the VIPs, out of the tunnel where there is one.
fn prepare(target: &Target, way: &str, tunnel: Option<Tunnel>) -> Result<Option<TunnelEnd>> {
    if std::env::var("TANDEM_LAB_TUNNELS").is_ok_and(|ends| ends == "kernel") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/dsr-target");
        let (v4, v6) = (vip4(0).to_string(), vip6(0).to_string());
        return target.run(script, &["up", way, &v4, &v6]).map(|_| None);
    }
    target.accept_vip(vip4(0))?;
    target.accept_vip(vip6(0))?;
    tunnel.map(|tunnel| TunnelEnd::start(target, tunnel)).transpose()
}

fn through(label: &str, way: &str, tunnel: Option<Tunnel>) {
    let lab = Lab::builder(label).targets(2).build().unwrap();
    let mut ends = Vec::new();
    for target in lab.targets() {
        ends.extend(prepare(target, way, tunnel).unwrap());
    }
    lab.write_config(&config(&lab, way)).unwrap();
    for node in lab.nodes() {
        node.start_lbd().unwrap();
        node.start_vrrpd().unwrap();
    }
    exchange(&lab, if tunnel.is_some() { &[8080, CROSSED_PORT] } else { &[8080] }).unwrap();
    for end in ends {
        let unwrapped = end.stop().unwrap();
        assert!(unwrapped.packets > 0, "nothing came through the tunnel");
        assert_eq!(unwrapped.malformed, 0, "{unwrapped:?}");
    }
    lab.finish().unwrap();
}

#[test]
fn on_the_same_link_by_mac_address() {
    through("dsr l2", "l2", None);
}

#[test]
fn ip_in_ip() {
    through("dsr ipip", "ipip", Some(Tunnel::Ipip));
}

#[test]
fn gre() {
    through("dsr gre", "gre", Some(Tunnel::Gre));
}

#[test]
fn gue() {
    through("dsr gue", "gue", Some(Tunnel::Gue));
}
