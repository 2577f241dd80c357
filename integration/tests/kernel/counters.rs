//! What the program counts of each target, beside what the kernel of the target counts of the same packets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use integration::lab::clock::wait_until;
use integration::lab::probe::talker;
use integration::lab::{Lab, Result, Target};
use serde_json::Value;

use crate::kernel_support::{LIMIT, PATIENCE, flows, service, start, vips};

/// Sockets and connections: so many that both targets have some.
const FLOWS: usize = 24;

/// Has a target count what its echo server gets and sends.
const TALLY: &str = "add table inet tally
add counter inet tally in4
add counter inet tally in6
add counter inet tally out4
add counter inet tally out6
add chain inet tally input { type filter hook input priority 0; }
add chain inet tally output { type filter hook output priority 0; }
add rule inet tally input meta nfproto ipv4 meta l4proto { tcp, udp } th dport 7 counter name \"in4\"
add rule inet tally input meta nfproto ipv6 meta l4proto { tcp, udp } th dport 7 counter name \"in6\"
add rule inet tally output meta nfproto ipv4 meta l4proto { tcp, udp } th sport 7 counter name \"out4\"
add rule inet tally output meta nfproto ipv6 meta l4proto { tcp, udp } th sport 7 counter name \"out6\"
";

/// Packets and bytes from clients, then the same from a target.
type Passed = [u64; 4];

fn since(before: Passed, after: Passed) -> Passed {
    let mut passed = after;
    passed.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
    passed
}

/// What a target has counted itself.
fn tallied(target: &Target, family: &str) -> Result<Passed> {
    let text = target.run("nft", &["--json", "list", "counters"])?;
    let listed: Value = serde_json::from_str(&text).expect("JSON of nft");
    let counters = listed["nftables"].as_array().cloned().unwrap_or_default();
    let of = |name: String, what: &str| {
        let counter = counters.iter().find(|it| it["counter"]["name"] == name.as_str());
        counter.and_then(|it| it["counter"][what].as_u64()).unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let [come, gone] = ["in", "out"].map(|way| format!("{way}{family}"));
    Ok([of(come.clone(), "packets"), of(come, "bytes"), of(gone.clone(), "packets"), of(gone, "bytes")])
}

/// What the metrics of node `a` say beside these labels.
struct Metrics(String);

impl Metrics {
    fn read(lab: &Lab) -> Result<Self> {
        Ok(Self(lab.a().get("lbd", "/metrics")?.body))
    }

    fn value(&self, name: &str, labels: &[&str]) -> u64 {
        let begin = format!("tandem_lbd_kernel_{name}_total{{");
        let is_it = |line: &&str| line.starts_with(&begin) && labels.iter().all(|label| line.contains(label));
        let lines: Vec<&str> = self.0.lines().filter(is_it).collect();
        assert_eq!(lines.len(), 1, "{name} {labels:?}: {lines:?}");
        lines[0].rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Of a `service` or a `target`.
    fn passed(&self, of: &str, labels: &[&str]) -> Passed {
        let value = |what: &str, direction: &str| {
            self.value(&format!("{of}_{what}"), &[labels, &[direction]].concat())
        };
        let [to_target, to_client] = ["direction=\"to_target\"", "direction=\"to_client\""];
        [
            value("packets", to_target),
            value("bytes", to_target),
            value("packets", to_client),
            value("bytes", to_client),
        ]
    }

    /// What has passed through a target, and flows begun there.
    fn of_target(&self, family: &str, target: &Target) -> (Passed, u64) {
        let (group, id) = (format!("group=\"echo{family}\""), format!("target=\"{}\"", target.name()));
        let labels = [group.as_str(), id.as_str()];
        (self.passed("target", &labels), self.value("target_new_flows", &labels))
    }

    fn of_service(&self, family: &str) -> (Passed, u64) {
        let name = format!("service=\"echo{family}\"");
        (self.passed("service", &[&name]), self.value("service_new_flows", &[&name]))
    }
}

/// What the API says of the same target.
fn of_api(lab: &Lab, family: &str, target: &Target) -> Result<(Passed, u64)> {
    let groups = lab.a().get("lbd", "/v1/target-groups")?.json()?;
    let find = |all: &Value, key: &str, name: &str| {
        let found = all.as_array().and_then(|all| all.iter().find(|it| it[key] == name));
        found.cloned().unwrap_or_else(|| panic!("no {name} in {all}"))
    };
    let kernel =
        find(&find(&groups, "name", &format!("echo{family}"))["targets"], "id", target.name())["kernel"]
            .clone();
    let value = |name: &str| kernel[name].as_u64().unwrap_or_else(|| panic!("no {name} in {kernel}"));
    let passed = ["packets_to_target", "bytes_to_target", "packets_to_client", "bytes_to_client"].map(value);
    Ok((passed, value("new_flows")))
}

/// A socket of the client's to the echo service.
fn socket(vip: IpAddr) -> UdpSocket {
    talker(SocketAddr::new(vip, 7), PATIENCE).unwrap()
}

fn echoed(socket: &UdpSocket, length: usize) -> bool {
    let mut answer = vec![0; length + 1];
    socket.send(&vec![b'u'; length]).is_ok() && socket.recv(&mut answer).is_ok_and(|came| came == length)
}

/// Datagrams and connections whose packets nothing joins on their way. Answers which flows they are: protocol and client.
fn exchange(vip: IpAddr) -> BTreeSet<(&'static str, String)> {
    let sockets: Vec<UdpSocket> = (0..FLOWS).map(|_| socket(vip)).collect();
    for length in [1, 100, 1200] {
        assert!(sockets.iter().all(|socket| echoed(socket, length)), "{length} bytes through {vip}");
    }
    let streams: Vec<TcpStream> = (0..FLOWS).map(|_| TcpStream::connect((vip, 7)).unwrap()).collect();
    for length in [1, 100, 1200] {
        for mut stream in &streams {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&vec![b't'; length]).unwrap();
            stream.read_exact(&mut vec![0; length]).unwrap();
        }
    }
    let text = |address: std::io::Result<SocketAddr>| address.unwrap().to_string();
    let datagrams = sockets.iter().map(|socket| ("udp", text(socket.local_addr())));
    datagrams.chain(streams.iter().map(|stream| ("tcp", text(stream.local_addr())))).collect()
}

/// How many of these flows each target has, by what the list of flows says.
fn begun(
    lab: &Lab,
    service: &str,
    wanted: &BTreeSet<(&'static str, String)>,
) -> Result<BTreeMap<String, u64>> {
    let mut at = BTreeMap::new();
    for flow in flows(lab, service)? {
        let word = |key: &str| flow[key].as_str().unwrap_or_default().to_owned();
        if wanted.iter().any(|(protocol, client)| *protocol == word("protocol") && *client == word("client"))
        {
            *at.entry(word("target")).or_default() += 1;
        }
    }
    Ok(at)
}

#[test]
fn each_target_s_packets_bytes_and_flows_are_counted() -> Result<()> {
    let lab = Lab::builder("kernel-counters").targets(2).build()?;
    for target in lab.targets() {
        target.namespace().run_with("nft", &["-f", "-"], TALLY)?;
    }
    start(&lab, &service(&lab, "echo", "mode = \"nat\"", &["7", "7/udp"], 7, ""))?;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    for (family, vip) in ["4", "6"].into_iter().zip(vips()) {
        let name = format!("echo{family}");
        let mut asked = BTreeSet::new();
        wait_until("both targets to have had datagrams", LIMIT, || {
            let ask = || {
                let socket = socket(vip);
                echoed(&socket, 1).then(|| ("udp", socket.local_addr().unwrap().to_string()))
            };
            let answered = lab.client().namespace().inside(ask).ok().flatten();
            let good = answered.is_some();
            asked.extend(answered);
            let listed = flows(&lab, &name).unwrap_or_default();
            let has = |id: &str| listed.iter().any(|flow| flow["target"] == format!("{name}/{id}"));
            good && has("t1") && has("t2")
        })?;
        let metrics = Metrics::read(&lab)?;
        let mut before = Vec::new();
        for target in lab.targets() {
            before.push((tallied(target, family)?, metrics.of_target(family, target)));
        }
        let of_service = metrics.of_service(family);

        let ours = lab.client().namespace().inside(|| exchange(vip))?;
        let of_all = begun(&lab, &name, &ours)?;
        assert_eq!(of_all.values().sum::<u64>(), 2 * FLOWS as u64, "{of_all:?}");
        // One from a port that a datagram had before is known already.
        let of_fresh = begun(&lab, &name, &ours.difference(&asked).cloned().collect())?;
        let mut new_flows = 0;
        for (target, (tally, (passed, new))) in lab.targets().iter().zip(&before) {
            let known_as = format!("{name}/{}", target.name());
            let [all, fresh] = [&of_all, &of_fresh].map(|flows| flows.get(&known_as).copied().unwrap_or(0));
            // The ends of connections may still be on their way.
            let both = || -> Result<[Passed; 2]> {
                let counted = since(*passed, Metrics::read(&lab)?.of_target(family, target).0);
                Ok([counted, since(*tally, tallied(target, family)?)])
            };
            let waited = wait_until(&format!("{} and node a to agree", target.name()), LIMIT, || {
                both().is_ok_and(|[counted, own]| counted == own)
            });
            if waited.is_err() {
                let [counted, own] = both()?;
                assert_eq!(counted, own, "what node a and {} have counted of IPv{family}", target.name());
            }
            let now = Metrics::read(&lab)?.of_target(family, target);
            assert_eq!(of_api(&lab, family, target)?, now, "of {}", target.name());
            // One whose packets come by several processors before it has proved itself is begun by each.
            let begun = now.1 - new;
            assert!((fresh..=processors * all).contains(&begun), "{begun} begun, {fresh} new of {all}");
            new_flows += begun;
        }
        // Of a service nothing is left out: it has what its targets have got and sent, to the byte.
        let service_and_targets = || -> Result<[Passed; 2]> {
            let mut own = [0; 4];
            for (target, (tally, _)) in lab.targets().iter().zip(&before) {
                let passed = since(*tally, tallied(target, family)?);
                own.iter_mut().zip(passed).for_each(|(sum, count)| *sum += count);
            }
            Ok([since(of_service.0, Metrics::read(&lab)?.of_service(family).0), own])
        };
        let waited = wait_until("the service and its targets to agree", LIMIT, || {
            service_and_targets().is_ok_and(|[counted, own]| counted == own)
        });
        if waited.is_err() {
            let [counted, own] = service_and_targets()?;
            assert_eq!(counted, own, "what node a has counted of {name}, and its targets");
        }
        assert_eq!(Metrics::read(&lab)?.of_service(family).1 - of_service.1, new_flows, "flows of {name}");
    }
    lab.finish()
}
