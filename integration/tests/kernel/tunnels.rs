//! Direct server return in its four ways, with real targets: the client speaks to the virtual IP, nginx and the echo server of a
//! target answer it directly, in both address families. `scripts/dsr-target` prepares them, and leaves nothing behind.
//!
//! Tunnels end in a program of the lab's, because not every kernel has devices for them. With `TANDEM_LAB_TUNNELS=kernel` they end in
//! the kernel's, as `scripts/dsr-target` sets them up; `scripts/kernels` does that.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::wait_until;
use integration::lab::config::PairConfig;
use integration::lab::tunnel::{Tunnel, TunnelEnd};
use integration::lab::{Lab, Result, Target, http};

use crate::kernel_support::{bulk, segmented};
use socket2::SockRef;

const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const READY_LIMIT: Duration = Duration::from_secs(15);
/// What prepares targets.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/dsr-target");
/// The largest packet that everybody's link takes.
const MTU: u32 = 1500;
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
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
        let sent = vec![b'e'; size];
        socket.send_to(&sent, server).unwrap();
        let mut buffer = [0; 2048];
        matches!(socket.recv_from(&mut buffer), Ok((count, from)) if from == server && buffer[..count] == sent)
    };
    (0..FETCHES).filter(|index| came_back([1, 512, 1300][index % 3])).count()
}

/// Whether targets have been told everything by then.
fn tunnels_of_the_kernel() -> bool {
    std::env::var("TANDEM_LAB_TUNNELS").is_ok_and(|ends| ends == "kernel")
}

fn script(target: &Target, action: &str, way: &str) -> Result<()> {
    target.run(SCRIPT, &[action, way, &vip4(0).to_string(), &vip6(0).to_string()]).map(drop)
}

/// Packets that were longer than the way to their target takes.
fn too_long(lab: &Lab, reason: &str) -> Result<u64> {
    let counted = lab.nodes().map(|node| node.counted("tandem_lbd_kernel_drops_total", reason));
    counted.into_iter().sum()
}

/// The client forgets what it has learned of ways.
fn forget(lab: &Lab) -> Result<()> {
    ["route flush cache", "-6 route flush cache"].iter().try_for_each(|it| lab.client().ip(it).map(drop))
}

/// What the client sends through a tunnel is as long as the target says that it may be, in an answer that passes no node. So a node has
/// to say what is too long, unless the target says it.
fn uploads_fit(lab: &Lab, way: &str) -> Result<()> {
    let before = too_long(lab, "too_big")?;
    assert!(before > 0 || tunnels_of_the_kernel(), "so far a node had to");
    for target in lab.targets() {
        script(target, "segments", way)?;
    }
    let outer = match way {
        "ipip" => 40,
        "gre" => 44,
        _ => 48,
    };
    for vip in [IpAddr::from(vip4(0)), IpAddr::from(vip6(0))] {
        forget(lab)?;
        let segment = lab.client().namespace().inside(|| {
            let connection = TcpStream::connect_timeout(&SocketAddr::new(vip, 7), ANSWER_LIMIT).unwrap();
            SockRef::from(&connection).tcp_mss().unwrap()
        })?;
        let most = MTU - outer - if vip.is_ipv4() { 40 } else { 60 };
        assert!((most - 20..=most).contains(&segment), "{segment} bytes of {most} through {vip}");
        bulk(lab, vip)?;
    }
    assert_eq!(too_long(lab, "too_big")?, before, "nothing had to be said");
    Ok(())
}

/// Datagrams whose sender leaves it to routers to cut them are not cut by a node. It says what fits, and then the sender cuts.
fn uncut_datagrams_are_told(lab: &Lab) -> Result<()> {
    forget(lab)?;
    let before = too_long(lab, "not_cut")?;
    lab.client().namespace().inside(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let never = libc::IP_PMTUDISC_DONT.to_ne_bytes();
        // SAFETY: the descriptor is the socket's, and the option's value is four bytes that live during the call.
        let set = unsafe {
            let value = never.as_ptr().cast();
            libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value, 4)
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        let sent = vec![b'd'; MTU as usize - 28];
        let mut answer = [0; 2048];
        wait_until("a datagram in fragments that fit", READY_LIMIT, || {
            let asked = socket.send_to(&sent, (vip4(0), 7)).is_ok();
            asked && socket.recv(&mut answer).is_ok_and(|length| answer[..length] == sent[..])
        })
    })??;
    assert!(too_long(lab, "not_cut")? > before, "the first one was too long");
    Ok(())
}

/// What there was before `up`, and what `down` has to leave: addresses and devices, rules, ports of tunnels, parameters, and nothing kept of it.
fn found(target: &Target) -> Result<String> {
    // A device that is down has no queue; what is said of it is another thing once it was up.
    const LOOK: &str = "set -e; ip address show | sed -E 's/ qdisc noop| qdisc noqueue//'; nft list ruleset; sysctl -a -r '^net[.]ipv4[.]conf[.]'
        for family in -4 -6; do ip $family rule show; ip $family fou show 2>&1 || true; done
        ls /run/tandem-dsr-target/$(stat -Lc %i /proc/self/ns/net) 2>/dev/null || true";
    target.run("sh", &["-c", LOOK])
}

/// Has a target take packets to the VIPs, out of the tunnel where there is one.
fn prepare(target: &Target, way: &str, tunnel: Option<Tunnel>) -> Result<Option<TunnelEnd>> {
    match tunnel.filter(|_| !tunnels_of_the_kernel()) {
        None => script(target, "up", way).map(|()| None),
        Some(tunnel) => {
            // What a target needs in every way.
            script(target, "up", "l2")?;
            TunnelEnd::start(target, tunnel).map(Some)
        }
    }
}

/// Settings of a target that are not those of `scripts/dsr-target`. The lab's end of a tunnel turns the filter off, too, and leaves it so.
fn settle(target: &Target, filter: &str) -> Result<()> {
    target.namespace().sysctl(&[
        ("ipv4/conf/all/arp_ignore", "0"),
        ("ipv4/conf/all/arp_announce", "1"),
        ("ipv4/conf/all/rp_filter", filter),
    ])
}

fn through(label: &str, way: &str, tunnel: Option<Tunnel>) {
    let lab = Lab::builder(label).targets(2).build().unwrap();
    let (mut before, mut ends) = (Vec::new(), Vec::new());
    let filter = if tunnel.is_some() && !tunnels_of_the_kernel() { "0" } else { "1" };
    for target in lab.targets() {
        settle(target, filter).unwrap();
        before.push(found(target).unwrap());
        ends.extend(prepare(target, way, tunnel).unwrap());
    }
    lab.write_config(&config(&lab, way)).unwrap();
    for node in lab.nodes() {
        node.start_lbd().unwrap();
        node.start_vrrpd().unwrap();
    }
    exchange(&lab, if tunnel.is_some() { &[8080, CROSSED_PORT] } else { &[8080] }).unwrap();
    if tunnel.is_some() {
        uncut_datagrams_are_told(&lab).unwrap();
        uploads_fit(&lab, way).unwrap();
    }
    if tunnel == Some(Tunnel::Ipip) {
        for node in lab.nodes() {
            // The tunnel's end in the lab takes packets as they come: here the node's own device is the last that can cut them.
            node.run("ethtool", &["-K", "eth0", "tx-udp-segmentation", "off"]).unwrap();
        }
        for vip in [IpAddr::from(vip4(0)), IpAddr::from(vip6(0))] {
            segmented(&lab, vip).unwrap();
        }
    }
    for end in ends {
        let unwrapped = end.stop().unwrap();
        assert!(unwrapped.packets > 0, "nothing came through the tunnel");
        assert_eq!(unwrapped.malformed, 0, "{unwrapped:?}");
    }
    for (target, before) in lab.targets().iter().zip(before) {
        // What `up` and `segments` did, with the lab's end of the tunnel as well as with the kernel's.
        script(target, "down", way).unwrap();
        script(target, "down", "l2").unwrap();
        assert_eq!(found(target).unwrap(), before, "of {}", target.name());
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

/// The value of a parameter below `net.ipv4.conf.all`.
fn parameter(target: &Target, name: &str) -> Result<String> {
    Ok(target.run("sysctl", &["-n", &format!("net.ipv4.conf.all.{name}")])?.trim().to_owned())
}

/// Several ways and virtual IPs share addresses, devices and parameters: each stays until the last one that needs it is taken down.
#[test]
fn what_a_target_was_set_up_with_is_taken_back_with_the_last_one_that_needs_it() -> Result<()> {
    let lab = Lab::builder("dsr target").targets(1).target_servers(false).build()?;
    let target = &lab.targets()[0];
    settle(target, "1")?;
    // A module brings devices of its own into every network, which stay.
    target.run("sh", &["-c", "modprobe -qa ip_gre ip6_gre || true"])?;
    let before = found(target)?;
    let [first, second, six] = [vip4(0).to_string(), vip4(1).to_string(), vip6(0).to_string()];
    let run = |action: &str, way: &str, vips: &[&String]| {
        let words: Vec<&str> = [action, way].into_iter().chain(vips.iter().map(|vip| vip.as_str())).collect();
        target.run(SCRIPT, &words).map(drop)
    };
    let has =
        |vip: &String| -> Result<bool> { Ok(target.ip("address show dev lo")?.contains(&format!("{vip}/"))) };
    // Again and again, as a unit does that is started anew.
    for _ in 0..2 {
        run("up", "l2", &[&first, &six])?;
    }
    run("up", "l2", &[&second])?;
    assert!(has(&first)? && has(&second)? && has(&six)?);
    assert_eq!(parameter(target, "arp_ignore")?, "1");
    assert_eq!(parameter(target, "arp_announce")?, "2");
    assert_eq!(parameter(target, "rp_filter")?, "1", "only tunnels have it off");
    // Where the kernel has no such device, what was done by then is taken back all the same.
    if let Err(error) = run("up", "gre", &[&first]) {
        assert!(error.to_string().contains("this kernel has no device for it: load the module"), "{error}");
    }
    assert_eq!(parameter(target, "rp_filter")?, "0");
    assert!(target.run("nft", &["list", "ruleset"])?.contains("tandem_gre"));
    run("down", "gre", &[&first])?;
    assert!(!target.run("nft", &["list", "ruleset"])?.contains("tandem"));
    assert_eq!(parameter(target, "rp_filter")?, "1");
    run("down", "l2", &[&second, &six])?;
    assert!(has(&first)? && !has(&second)? && !has(&six)?);
    assert_eq!(parameter(target, "arp_ignore")?, "1", "one virtual IP is left");
    // What somebody has set meanwhile is his.
    target.namespace().sysctl(&[("ipv4/conf/all/arp_announce", "0")])?;
    run("down", "l2", &[&first])?;
    assert_eq!(parameter(target, "arp_announce")?, "0");
    settle(target, "1")?;
    assert_eq!(found(target)?, before);
    lab.finish()
}
