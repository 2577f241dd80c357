//! What the tests of kernel forwarding share: a lab in which `lbd` alone forwards on node `a`, and questions of its client.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::rng::Rng;
use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::wait_until;
use integration::lab::probe::talker;
use integration::lab::{Host, Lab, Passed, Result, http};
use serde_json::Value;

/// How long what must happen may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A question of a client's to a server that is there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// A service for TCP and one for UDP, in both families.
fn text(lab: &Lab, keys: &str) -> String {
    let health = "health = { http = \"/health\", interval = \"100ms\", timeout = \"90ms\" }";
    service(lab, "web", keys, &["80"], 80, health) + &service(lab, "echo", keys, &["7", "7/udp"], 7, "")
}

/// A virtual IP of either family.
pub(crate) fn vips() -> [IpAddr; 2] {
    [vip4(0).into(), vip6(0).into()]
}

/// A lab in which node `a` has the VIPs and forwards in this way.
pub(crate) fn forwarding(label: &str, keys: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(2).build()?;
    start(&lab, &text(&lab, keys))?;
    Ok(lab)
}

/// Which target answers the client's next connection to port 80 of a VIP.
pub(crate) fn answerer(lab: &Lab, vip: IpAddr) -> Option<String> {
    let ask = || http::tcp(SocketAddr::new(vip, 80), "GET", "/", "", PATIENCE);
    let answer = lab.client().namespace().inside(ask).ok()?.ok()?;
    (answer.status == 200).then(|| answer.body.trim().to_owned())
}

/// What `lbd` on node `a` says.
pub(crate) fn status(lab: &Lab) -> Result<Value> {
    lab.a().get("lbd", "/v1/status")?.json()
}

/// The same services in another way.
pub(crate) fn reload(lab: &Lab, keys: &str) -> Result<()> {
    reload_text(lab, &text(lab, keys))
}

/// Another configuration.
pub(crate) fn reload_text(lab: &Lab, text: &str) -> Result<()> {
    lab.write_config_text(text)?;
    let answer = lab.a().send("lbd", "POST", "/v1/reload", "")?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    Ok(())
}

/// A host's address of the VIP's family.
pub(crate) fn address(host: &Host, vip: IpAddr) -> IpAddr {
    if vip.is_ipv4() { host.v4().into() } else { host.v6().into() }
}

/// A service with these ports (`53`, `53/udp`) on both VIPs, one for each family, and its targets at `port`.
pub(crate) fn service(lab: &Lab, name: &str, keys: &str, ports: &[&str], port: u16, group: &str) -> String {
    let mut text = String::new();
    for (family, vip) in [("4", vips()[0]), ("6", vips()[1])] {
        let bracketed = if vip.is_ipv4() { vip.to_string() } else { format!("[{vip}]") };
        let listen: Vec<String> = ports.iter().map(|port| format!("\"{bracketed}:{port}\"")).collect();
        let target = |target: &integration::lab::Target| {
            let address = SocketAddr::new(address(target, vip), port);
            format!("{{ id = \"{}\", address = \"{address}\" }}", target.name())
        };
        let targets: Vec<String> = lab.targets().iter().map(target).collect();
        text.push_str(&format!(
            "[[service]]\nname = \"{name}{family}\"\nlisten = [{}]\nforward = \"{name}{family}\"\n{keys}\n\
             [[target_group]]\nname = \"{name}{family}\"\ntargets = [{}]\n{group}\n",
            listen.join(", "),
            targets.join(", ")
        ));
    }
    text
}

/// Gives node `a` the VIPs and starts `lbd` there with this configuration.
pub(crate) fn start(lab: &Lab, text: &str) -> Result<()> {
    for vip in vips() {
        lab.a().add_address(vip)?;
    }
    lab.write_config_text(text)?;
    lab.a().start_lbd().map(drop)
}

/// The flows of a service, as the API shows them.
pub(crate) fn flows(lab: &Lab, service: &str) -> Result<Vec<Value>> {
    let listed: Value = lab.a().get("lbd", &format!("/v1/flows?service={service}&max=5000"))?.json()?;
    Ok(listed["flows"].as_array().cloned().unwrap_or_default())
}

/// What TCP of a host has counted under these names, over both families.
pub(crate) fn tcp_counters<const COUNT: usize>(host: &Host, names: [&str; COUNT]) -> Result<[u64; COUNT]> {
    let text = host.namespace().inside(|| fs::read_to_string("/proc/thread-self/net/snmp"))?.unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (known, values) = (lines.next().unwrap(), lines.next().unwrap());
    let value = |wanted: &str| {
        let mut pairs = known.split(' ').zip(values.split(' '));
        pairs.find(|(name, _)| *name == wanted).unwrap().1.parse().unwrap()
    };
    Ok(names.map(value))
}

/// Bytes of a large transfer.
const BULK: usize = 8 << 20;

/// Has many bytes go through TCP port 7 of a VIP to the echo server and come back as they were, in packets as large as the offloads
/// make them: what they cut is too large for any link, and whose checksums they complete, nobody else does.
pub(crate) fn bulk(lab: &Lab, vip: IpAddr) -> Result<()> {
    let hosts = [lab.client(), lab.a()].into_iter().chain(lab.targets().iter().map(|target| &**target));
    for host in hosts {
        let features = host.run("ethtool", &["-k", "eth0"])?;
        for feature in ["tcp-segmentation-offload", "tx-checksumming", "generic-segmentation-offload"] {
            assert!(features.contains(&format!("{feature}: on")), "{}: {features}", host.name());
        }
    }
    let mut rng = Rng::new(7);
    let sent: Vec<u8> = (0..BULK / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    let before = came(lab)?;
    lab.client().namespace().inside(|| -> Result<()> {
        let mut made = None;
        wait_until(&format!("a connection to {vip}"), LIMIT, || {
            made = TcpStream::connect_timeout(&SocketAddr::new(vip, 7), PATIENCE).ok();
            made.is_some()
        })?;
        let mut reader = made.expect("just made");
        reader.set_read_timeout(Some(LIMIT)).unwrap();
        reader.set_write_timeout(Some(LIMIT)).unwrap();
        let mut writer = reader.try_clone().unwrap();
        let came = std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&sent));
            let mut came = vec![0; BULK];
            reader.read_exact(&mut came).map(|()| came)
        });
        assert!(came.as_ref().is_ok_and(|came| *came == sent), "through {vip}: {:?}", came.err());
        Ok(())
    })??;
    let after = came(lab)?;
    let (bytes, packets) = (after.bytes - before.bytes, after.packets - before.packets);
    assert!(
        bytes >= BULK as u64 && bytes > packets * 2000,
        "{bytes} bytes in {packets} packets came to the targets"
    );
    Ok(())
}

/// What has come to all targets so far.
fn came(lab: &Lab) -> Result<Passed> {
    let mut all = Passed { bytes: 0, packets: 0 };
    for target in lab.targets() {
        let [come, _] = target.passed()?;
        all = Passed { bytes: all.bytes + come.bytes, packets: all.packets + come.packets };
    }
    Ok(all)
}

/// Datagrams that leave their sender as one packet, and how long each is.
const SEGMENTS: usize = 8;
const SEGMENT: usize = 1000;

/// Has datagrams go through UDP port 7 of a VIP to the echo server as one packet, which whoever comes last cuts (UDP_SEGMENT), and each come
/// back as it was.
pub(crate) fn segmented(lab: &Lab, vip: IpAddr) -> Result<()> {
    let features = lab.client().run("ethtool", &["-k", "eth0"])?;
    assert!(features.contains("tx-udp-segmentation: on"), "{features}");
    let sent: Vec<u8> = (0..SEGMENTS * SEGMENT).map(|at| u8::try_from(at / SEGMENT).unwrap()).collect();
    lab.client().namespace().inside(|| {
        let socket = talker(SocketAddr::new(vip, 7), PATIENCE).unwrap();
        let length = i32::try_from(SEGMENT).unwrap().to_ne_bytes();
        // SAFETY: the descriptor is the socket's, and the option's value is four bytes that live during the call.
        let set = unsafe {
            let value = length.as_ptr().cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, 4)
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        wait_until(&format!("each datagram of one packet to come back from {vip}"), LIMIT, || {
            let (mut came, mut answer) = (BTreeSet::new(), [0; 2 * SEGMENT]);
            let asked = socket.send(&sent).is_ok_and(|length| length == sent.len());
            while came.len() < SEGMENTS
                && let Ok(length) = socket.recv(&mut answer)
            {
                let whole = length == SEGMENT && answer[..length].iter().all(|byte| *byte == answer[0]);
                assert!(whole, "{length} bytes, not all the same, or not {SEGMENT}");
                came.insert(answer[0]);
            }
            asked && came.len() == SEGMENTS
        })
    })?
}
