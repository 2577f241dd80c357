//! The example of a pair of which each node has a virtual IP of its own, as it runs: through a move of both at once, with what is proxied going on
//! in both directions, and through the loss of one node.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use integration::lab::addresses::{vip4, vip6};
use integration::lab::clock::wait_until;
use integration::lab::fault::Fault;
use integration::lab::probe::{
    ConnectProbe, DownloadProbe, DownloadSettings, EchoProbe, EchoSettings, exchange_datagram, sha256,
};
use integration::lab::{Lab, Node, Result, http};
use integration::scenario::lasting::noise;

use super::talk::{Clients, Targets};
use super::{begins, chance, drains_of, end, end_new, packets, sends_of, steady};
use crate::kernel_pair_support::{DIRECT_TARGETS, PATIENCE, ready, synced};
use crate::pair_support::{LIMIT, caught_up, vips, vrrpd};

/// The example's instances: `a` is to be active for the first, `b` for the second.
const NAMES: [&str; 2] = ["east", "west"];

/// Its services: `tcp`, `nat`, and `dsr` for connections and datagrams, which leaves the port as the targets have it.
const SHOP: u16 = 80;
const MAIL: u16 = 25;
const DNS: u16 = 7;
/// And those that it is given besides: `tcp` to the echo servers, and `http`. (That of datagrams has the port of [`Clients`].)
const LINES: u16 = 7007;
const PAGES: u16 = 8080;

/// Long-lived connections to each service of each virtual IP, and clients with datagrams, and the time between two messages of one.
const CONNECTIONS: usize = 10;
const CLIENTS: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(100);

/// A download's length, and how fast it is taken until it may hurry: it lasts for a minute, and all that happens takes some seconds.
const LARGE_BYTES: usize = 8 << 20;
const BYTES_PER_SECOND: u64 = 128 << 10;

/// What is in the example, and what is in its place here: the addresses of the lab, the ports of its targets, and no time before `b` takes back
/// what is its own.
const IN_PLACE: [(&str, &str); 19] = [
    ("\"198.51.100.1\"", "\"10.0.255.1\""),
    ("\"198.51.100.2\"", "\"10.0.255.2\""),
    ("192.0.2.10/24", "10.77.0.50/24"),
    ("2001:db8::10/64", "fd77::50/64"),
    ("192.0.2.11/24", "10.77.0.51/24"),
    ("2001:db8::11/64", "fd77::51/64"),
    ("preempt_delay = \"5s\"", "preempt_delay = \"0s\""),
    ("10.0.1.11:8080", "10.77.0.11:8080"),
    ("10.0.1.12:8080", "10.77.0.12:8080"),
    ("10.0.1.21:25", "10.77.0.13:7"),
    ("10.0.1.22:25", "10.77.0.14:7"),
    ("[2001:db8:1::21]:25", "[fd77::13]:7"),
    ("[2001:db8:1::22]:25", "[fd77::14]:7"),
    ("@east:53", "@east:7"),
    ("@west:53", "@west:7"),
    ("192.0.2.31:53", "10.77.0.11:7"),
    ("192.0.2.32:53", "10.77.0.12:7"),
    ("[2001:db8::31]:53", "[fd77::11]:7"),
    ("[2001:db8::32]:53", "[fd77::12]:7"),
];

/// What the example has no service of.
const BESIDES: &str = r#"
[[service]]
name = "lines"
mode = "tcp"
listen = ["@east:7007", "@west:7007"]
forward = "lines"
[[target_group]]
name = "lines"
targets = [{ address = "10.77.0.11:7" }, { address = "10.77.0.12:7" }]

[[service]]
name = "pages"
mode = "http"
listen = ["@east:8080", "@west:8080"]
forward = "pages"
[[target_group]]
name = "pages"
targets = [{ address = "10.77.0.11:8080" }, { address = "10.77.0.12:8080" }]

[[service]]
name = "talk"
mode = "udp"
listen = ["@east:7070", "@west:7070"]
forward = "talk"
[[target_group]]
name = "talk"
targets = [{ address = "10.77.0.11:7070" }, { address = "10.77.0.12:7070" }]
"#;

fn config() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/active-active.toml");
    let mut text = fs::read_to_string(path).expect("the example is there");
    for (theirs, ours) in IN_PLACE {
        assert!(text.contains(theirs), "the example has no {theirs} any more");
        text = text.replace(theirs, ours);
    }
    text + BESIDES
}

fn vips_of(place: usize) -> [IpAddr; 2] {
    if place == 0 { vips() } else { [vip4(1).into(), vip6(1).into()] }
}

fn all_vips() -> Vec<IpAddr> {
    [0, 1].into_iter().flat_map(vips_of).collect()
}

/// Where these services of an instance are.
fn servers(place: usize, ports: &[u16]) -> Vec<SocketAddr> {
    vips_of(place)
        .into_iter()
        .flat_map(|vip| ports.iter().map(move |port| SocketAddr::new(vip, *port)))
        .collect()
}

/// Waits until an instance is active on this node, which alone has its virtual IPs. The other one may be dead.
fn active(lab: &Lab, place: usize, node: &Node) -> Result<()> {
    let other = lab.peer_of(node);
    node.wait_role(NAMES[place], "active", LIMIT)?;
    for vip in vips_of(place) {
        wait_until(&format!("{} to hold {vip} alone", node.name()), LIMIT, || {
            let left = !other.running("vrrpd") || !other.holds(vip).unwrap_or(true);
            left && node.holds(vip).unwrap_or(false)
        })?;
    }
    Ok(())
}

/// Says something over a new connection, and hears it.
fn exchanges(server: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"hello")
}

/// Waits until every service answers at all virtual IPs.
fn served(lab: &Lab) -> Result<()> {
    let until = |server: SocketAddr, answers: &(dyn Fn() -> bool + Sync)| {
        wait_until(&format!("an answer from {server}"), LIMIT, || {
            lab.client().namespace().inside(answers).unwrap_or(false)
        })
    };
    for place in [0, 1] {
        for server in servers(place, &[SHOP, PAGES]) {
            until(server, &|| {
                http::tcp(server, "GET", "/", "", PATIENCE).is_ok_and(|page| page.status == 200)
            })?;
        }
        for server in servers(place, &[MAIL, DNS, LINES]) {
            until(server, &|| exchanges(server).unwrap_or(false))?;
        }
        for server in servers(place, &[DNS]) {
            until(server, &|| exchange_datagram(server, PATIENCE).is_ok())?;
        }
    }
    Ok(())
}

/// What the client does all the while at the virtual IPs of one instance.
struct Side {
    /// New connections, through `tcp`.
    new: Vec<ConnectProbe>,
    /// Those that last, through `tcp`.
    proxied: Vec<EchoProbe>,
    /// And through `nat` and `dsr`.
    forwarded: Vec<EchoProbe>,
    /// Through `tcp` and `http`.
    downloads: Vec<DownloadProbe>,
    /// Through `udp`.
    datagrams: Clients,
}

impl Side {
    fn begin(lab: &Lab, place: usize) -> Result<Self> {
        let new = |server| begins(lab, server);
        let known = |server| {
            let settings = EchoSettings { interval: INTERVAL, ..EchoSettings::new(server, CONNECTIONS) };
            EchoProbe::start(lab.client(), settings)
        };
        let download = |server| {
            let mut settings = DownloadSettings::new(server, "/files/large");
            settings.bytes_per_second = BYTES_PER_SECOND;
            DownloadProbe::start(lab.client(), settings)
        };
        let first = if place == 0 { 0 } else { 2 * CLIENTS };
        Ok(Self {
            new: servers(place, &[SHOP]).into_iter().map(new).collect::<Result<_>>()?,
            proxied: servers(place, &[LINES]).into_iter().map(known).collect::<Result<_>>()?,
            forwarded: servers(place, &[MAIL, DNS]).into_iter().map(known).collect::<Result<_>>()?,
            downloads: servers(place, &[SHOP, PAGES]).into_iter().map(download).collect::<Result<_>>()?,
            datagrams: Clients::start_at(lab, &vips_of(place), first, CLIENTS, (INTERVAL, 0))?,
        })
    }

    /// Waits until everything has gone on.
    fn steady(&self) -> Result<()> {
        self.new.iter().try_for_each(|probe| probe.wait_steady(20, LIMIT))?;
        steady(&self.proxied)?;
        steady(&self.forwarded)?;
        self.datagrams.steady()?;
        go_on(&self.downloads)
    }

    /// How much of it there is in the sockets of one node.
    fn in_sockets(&self) -> usize {
        self.proxied.len() * CONNECTIONS + self.downloads.len() + 2 * CLIENTS as usize
    }
}

fn go_on(downloads: &[DownloadProbe]) -> Result<()> {
    downloads.iter().try_for_each(|download| download.wait_bytes(64 << 10, LIMIT))?;
    assert!(!downloads.iter().any(DownloadProbe::is_over), "they are over, or broken");
    Ok(())
}

/// Fails unless each is whole.
fn are_whole(downloads: Vec<DownloadProbe>, sum: &str) -> Result<()> {
    for download in downloads {
        let report = download.finish(LIMIT)?;
        assert!(report.is_whole(sum), "{} bytes, {:?}", report.bytes, report.broken);
    }
    Ok(())
}

/// Fails if a new connection was not served, or reset, or a datagram was lost.
fn lacks_nothing(new: Vec<ConnectProbe>, datagrams: Clients) -> Result<()> {
    end_new(new)?;
    let (lost, gap) = datagrams.end()?;
    assert_eq!(lost, 0, "the longest wait for an answer was {gap:?}");
    Ok(())
}

/// Has both nodes hand over what they have, at the same time.
fn swap(lab: &Lab) -> Result<()> {
    caught_up(lab)?;
    let [a, b] = lab.nodes();
    let said = std::thread::scope(|scope| {
        let asked = [(a, NAMES[0]), (b, NAMES[1])]
            .map(|(node, name)| scope.spawn(move || vrrpd(node, &["switchover", name])));
        asked.map(|asked| asked.join().expect("it does not panic"))
    });
    for (good, _, complaint) in said {
        assert!(good, "{complaint}");
    }
    active(lab, 0, b)?;
    active(lab, 1, a)
}

#[test]
fn the_example_serves_from_both_nodes_through_moves_both_ways_and_the_loss_of_one() -> Result<()> {
    let lab = Lab::builder("chance-both").targets(4).build()?;
    let (file, bytes) = (lab.dir().join("large"), noise(LARGE_BYTES));
    fs::write(&file, &bytes).expect("the lab's directory can be written to");
    for target in &lab.targets()[..DIRECT_TARGETS] {
        all_vips().into_iter().try_for_each(|vip| target.accept_vip(vip))?;
        target.publish(&file)?;
    }
    let targets = Targets::start(&lab)?;
    lab.write_config_text(&config())?;
    let [a, b] = lab.nodes();
    for node in [a, b] {
        node.start_lbd()?;
        node.start_vrrpd()?;
    }
    for (place, node) in [a, b].into_iter().enumerate() {
        active(&lab, place, node)?;
        ready(node)?;
        synced(node)?;
        sends_of(lab.peer_of(node), NAMES[place])?;
    }
    served(&lab)?;
    let (east, west) = (Side::begin(&lab, 0)?, Side::begin(&lab, 1)?);
    east.steady()?;
    west.steady()?;

    // Each node has the other one's virtual IPs now, and sends on what lives there.
    swap(&lab)?;
    east.steady()?;
    west.steady()?;
    drains_of(&lab, a, NAMES[0], east.in_sockets())?;
    drains_of(&lab, b, NAMES[1], west.in_sockets())?;
    for (node, side) in [(a, &east), (b, &west)] {
        let other = lab.peer_of(node);
        assert!(packets(other, "sent") > 0 && packets(node, "received") > 0, "{}", chance(node));
        targets.heard_once(&side.datagrams, node.v4().into());
    }

    // What is proxied of west lives on b, and would be gone with it.
    let sum = sha256(&bytes);
    are_whole(west.downloads, &sum)?;
    end(west.proxied)?;
    lacks_nothing(west.new, west.datagrams)?;
    lacks_nothing(east.new, east.datagrams)?;
    go_on(&east.downloads)?;
    lab.inject(&Fault::power_loss("b"))?;
    for place in [0, 1] {
        active(&lab, place, a)?;
    }
    served(&lab)?;
    go_on(&east.downloads)?;
    for probes in [&east.proxied, &east.forwarded, &west.forwarded] {
        steady(probes)?;
    }
    are_whole(east.downloads, &sum)?;
    for probes in [east.proxied, east.forwarded, west.forwarded] {
        end(probes)?;
    }
    lab.finish()
}
