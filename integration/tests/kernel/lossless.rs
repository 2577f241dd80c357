//! Under full load no packet is lost by what happens to the kernel's forwarding in ordinary times: targets that come and go and
//! change their weights, an `lbd` that is replaced by one whose maps look different, and one that is killed. TCP itself says so: no host
//! sends a segment for the second time, and no connection is reset.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use integration::lab::clock::{wait_for, wait_until};
use integration::lab::probe::{ConnectProbe, ConnectSettings, EchoProbe, EchoSettings};
use integration::lab::{Host, Lab, Result, binary, http};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::kernel_support::{LIMIT, PATIENCE, address, reload_text, start, status, tcp_counters, vips};

/// A way of forwarding: its keys, the ports of HTTP and echo at the VIP and at its targets, and which of the lab's are these. `dsr`
/// leaves ports alone; and a host that has the VIP takes no packet from it, so that each has targets of its own.
struct Way {
    name: &'static str,
    keys: &'static str,
    http: (u16, u16),
    echo: (u16, u16),
    targets: [usize; 3],
}

const WAYS: [Way; 2] = [
    Way { name: "nat", keys: "mode = \"nat\"", http: (8080, 8080), echo: (7007, 7), targets: [0, 1, 2] },
    Way {
        name: "dsr",
        keys: "mode = \"dsr\"\ndsr = \"l2\"",
        http: (80, 80),
        echo: (7, 7),
        targets: [3, 4, 5],
    },
];

/// Long-lived connections of each family to each service.
const CONNECTIONS: usize = 16;

/// The time between messages of each: enough to be in the way of everything, and few beside the load.
const EVERY: Duration = Duration::from_millis(25);

/// So long a new connection may take that loses no packet: a SYN is repeated after a second.
const WITHOUT_LOSS: Duration = Duration::from_millis(950);

/// Services of each way for HTTP and echo in both families. The first two targets of each have these weights, the third is not there.
fn text(lab: &Lab, weights: [u32; 2], max_flows: u64) -> String {
    text_with(lab, weights, &format!("max_flows = {max_flows}"))
}

/// The same with these keys of `[kernel]`.
pub(crate) fn text_with(lab: &Lab, weights: [u32; 2], kernel: &str) -> String {
    text_of(lab, "", |way| way.targets.into_iter().zip(weights).collect(), kernel)
}

/// The same with these targets and weights of each way, in groups whose names begin so.
fn text_of(lab: &Lab, prefix: &str, targets: impl Fn(&Way) -> Vec<(usize, u32)>, kernel: &str) -> String {
    let mut text = format!("[kernel]\n{kernel}\n");
    for way in &WAYS {
        for vip in vips() {
            for (what, (port, target_port)) in [("http", way.http), ("echo", way.echo)] {
                let name = format!("{}-{what}{}", way.name, family(vip));
                let target = |(place, weight): (usize, u32)| {
                    let host = &lab.targets()[place];
                    let address = SocketAddr::new(address(host, vip), target_port);
                    format!("{{ id = \"{}\", address = \"{address}\", weight = {weight} }}", host.name())
                };
                let targets: Vec<String> = targets(way).into_iter().map(target).collect();
                text.push_str(&format!(
                    "[[service]]\nname = \"{name}\"\nlisten = [\"{}\"]\nforward = \"{prefix}{name}\"\n{}\n\
                     [[target_group]]\nname = \"{prefix}{name}\"\ntargets = [{}]\n",
                    SocketAddr::new(vip, port),
                    way.keys,
                    targets.join(", ")
                ));
            }
        }
    }
    text
}

pub(crate) const fn family(vip: IpAddr) -> &'static str {
    if vip.is_ipv4() { "4" } else { "6" }
}

/// A lab in which node `a` forwards in both ways, and all of it is served.
fn forwarding(label: &str, weights: [u32; 2], max_flows: u64) -> Result<Lab> {
    let lab = lab(label)?;
    start(&lab, &text(&lab, weights, max_flows))?;
    served(&lab, &servers())?;
    Ok(lab)
}

/// A lab whose targets may be those of both ways, and in which TCP sends nothing again that was not lost.
pub(crate) fn lab(label: &str) -> Result<Lab> {
    let lab = Lab::builder(label).targets(6).build()?;
    for place in WAYS[1].targets {
        vips().into_iter().try_for_each(|vip| lab.targets()[place].accept_vip(vip))?;
    }
    send_once(&lab)?;
    Ok(lab)
}

/// A probe for a lost tail is a second segment too, and is sent whenever a processor is late.
pub(crate) fn send_once(lab: &Lab) -> Result<()> {
    watched(lab).try_for_each(|host| host.namespace().sysctl(&[("ipv4/tcp_early_retrans", "0")]))
}

/// HTTP and echo of each way in each family.
pub(crate) fn servers() -> Vec<(SocketAddr, SocketAddr)> {
    let mut servers = Vec::new();
    for way in &WAYS {
        for vip in vips() {
            servers.push((SocketAddr::new(vip, way.http.0), SocketAddr::new(vip, way.echo.0)));
        }
    }
    servers
}

/// Waits until a page comes from each.
pub(crate) fn served(lab: &Lab, servers: &[(SocketAddr, SocketAddr)]) -> Result<()> {
    servers.iter().try_for_each(|(server, _)| {
        let ask = || http::tcp(*server, "GET", "/", "", PATIENCE);
        wait_until(&format!("a page from {server}"), LIMIT, || {
            lab.client().namespace().inside(ask).is_ok_and(|it| it.is_ok_and(|page| page.status == 200))
        })
    })
}

/// Whoever has connections.
fn watched(lab: &Lab) -> impl Iterator<Item = &Host> {
    std::iter::once(lab.client()).chain(lab.targets().iter().map(|target| &**target))
}

/// What TCP of a host has counted: segments sent again, and connections that were reset or refused.
fn counted(host: &Host) -> Result<[u64; 3]> {
    tcp_counters(host, ["RetransSegs", "EstabResets", "AttemptFails"])
}

/// What the client does all the while: as many requests as there is processor for on kept connections, a new connection every
/// two milliseconds, and long-lived connections.
pub(crate) struct Load {
    new: Vec<ConnectProbe>,
    known: Vec<EchoProbe>,
    /// Programs that take what there is of the processor.
    busy: Vec<String>,
    before: Vec<[u64; 3]>,
    dropped: u64,
}

impl Load {
    pub(crate) fn begin(lab: &Lab) -> Result<Self> {
        let mut busy = Vec::new();
        for way in &WAYS {
            let mut load = lab.client().command("wrk");
            let url = format!("http://{}/", SocketAddr::new(vips()[0], way.http.0));
            load.args(["-c", "16", "-t", "1", "-d", "600", &url]);
            busy.push(format!("wrk-{}", way.name));
            lab.client().start(&format!("wrk-{}", way.name), load)?;
        }
        Self::begin_beside(lab, &servers(), busy)
    }

    /// At these servers of HTTP and echo, beside what runs already.
    pub(crate) fn begin_beside(
        lab: &Lab,
        servers: &[(SocketAddr, SocketAddr)],
        busy: Vec<String>,
    ) -> Result<Self> {
        let (mut new, mut known) = (Vec::new(), Vec::new());
        for (http, echo) in servers {
            let mut echo = EchoSettings::new(*echo, CONNECTIONS);
            echo.interval = EVERY;
            known.push(EchoProbe::start(lab.client(), echo)?);
            let mut settings = ConnectSettings::http(*http);
            settings.interval = Duration::from_millis(8);
            settings.deadline = WITHOUT_LOSS;
            new.push(ConnectProbe::start(lab.client(), settings)?);
        }
        let mut load = Self { new, known, busy, before: Vec::new(), dropped: 0 };
        load.goes_on()?;
        load.before = watched(lab).map(counted).collect::<Result<_>>()?;
        load.dropped = drops(lab)?;
        Ok(load)
    }

    /// Waits until each connection has exchanged some more, and new ones have been served.
    pub(crate) fn goes_on(&self) -> Result<()> {
        self.known.iter().try_for_each(|probe| probe.wait_exchanges(5, LIMIT))?;
        self.new.iter().try_for_each(|probe| probe.wait_steady(30, LIMIT))
    }

    /// Ends, and fails if anything was lost. Counters of the kernel are compared where they were not begun anew.
    pub(crate) fn end(self, lab: &Lab) -> Result<()> {
        self.goes_on()?;
        let dropped = drops(lab)?;
        let after: Vec<[u64; 3]> = watched(lab).map(counted).collect::<Result<_>>()?;
        for name in &self.busy {
            // What it has open is reset by its end.
            lab.client().signal(name, Signal::SIGINT)?;
            lab.client().wait_end(name, LIMIT)?;
            let said = lab.client().log(name);
            assert!(said.contains("Requests/sec") && !said.contains("Socket errors"), "{said}");
            assert!(!said.contains("Non-2xx"), "{said}");
        }
        for probe in self.known {
            let report = probe.stop()?;
            assert_eq!(report.broken(), 0, "{}", report.summary());
        }
        for probe in self.new {
            let report = probe.stop()?;
            assert_eq!(report.failed(), 0, "{}", report.summary());
        }
        for ((host, before), after) in watched(lab).zip(self.before).zip(after) {
            assert_eq!(before, after, "{}: segments sent again, connections reset, refused", host.name());
        }
        assert_eq!(self.dropped, dropped, "packets that node `a` did not forward");
        Ok(())
    }
}

/// Packets that node `a` did not forward, for whatever reason.
fn drops(lab: &Lab) -> Result<u64> {
    lab.a().counted("tandem_lbd_kernel_drops_total", "reason=")
}

#[test]
fn targets_that_come_go_and_change_cost_no_packet() -> Result<()> {
    let lab = forwarding("kernel-ring", [1, 1], 100_000)?;
    let load = Load::begin(&lab)?;
    // To another group, whose targets were nobody's, while the one before is gone from the file; and back.
    let kernel = "max_flows = 100000";
    let green = text_of(&lab, "green-", |way| vec![(way.targets[2], 1)], kernel);
    for text in [green, text_with(&lab, [1, 1], kernel)] {
        reload_text(&lab, &text)?;
        load.goes_on()?;
    }
    let send = |method: &str, path: &str, body: &str| -> Result<()> {
        let answer = lab.a().send("lbd", method, path, body)?;
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.body);
        Ok(())
    };
    for round in 0..4 {
        for way in &WAYS {
            for vip in vips() {
                for (what, port) in [("http", way.http.1), ("echo", way.echo.1)] {
                    let group = format!("/v1/target-groups/{}-{what}{}/targets", way.name, family(vip));
                    let [first, _, third] = way.targets.map(|place| &lab.targets()[place]);
                    let added = SocketAddr::new(address(third, vip), port);
                    let path = format!("{group}/{}", first.name());
                    send("POST", &group, &format!("{{\"id\":\"third\",\"address\":\"{added}\"}}"))?;
                    // Whose nearly all places are: the next place of another one is a long way off.
                    send("PATCH", &path, "{\"weight\":100}")?;
                    send("PATCH", &path, "{\"state\":\"drain\"}")?;
                    send("PATCH", &path, "{\"state\":\"ready\"}")?;
                    send("PATCH", &path, &format!("{{\"weight\":{}}}", 7 - round))?;
                    send("DELETE", &format!("{group}/third"), "")?;
                }
            }
        }
        load.goes_on()?;
    }
    load.end(&lab)?;
    lab.finish()
}

/// The program of `lbd` with another text in the place of the header that describes its maps, of the same length: to it what an
/// `lbd` of another version has left is of another layout.
pub(crate) fn other_version(lab: &Lab) -> Result<PathBuf> {
    const OURS: &[u8] = b"#ifndef TANDEM_TYPES_H\n#define TANDEM_TYPES_H\n";
    const OTHER: &[u8] = b"#ifndef TANDEM_TYPES_2\n#define TANDEM_TYPES_2\n";
    let mut program = fs::read(binary("lbd")?).unwrap();
    let place = program.windows(OURS.len()).position(|bytes| bytes == OURS).expect("the header is in lbd");
    program[place..place + OTHER.len()].copy_from_slice(OTHER);
    let path = lab.dir().join("lbd-other");
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    Ok(path)
}

/// Where the maps are, and how many flows they hold at most.
pub(crate) fn layout(lab: &Lab) -> Result<(String, u64)> {
    let kernel = status(lab)?["kernel"].clone();
    Ok((kernel["folder"].as_str().unwrap_or_default().to_owned(), kernel["flows_max"].as_u64().unwrap_or(0)))
}

#[test]
fn an_upgrade_to_other_maps_costs_no_packet() -> Result<()> {
    let lab = forwarding("kernel-upgrade", [1, 100], 100_000)?;
    let load = Load::begin(&lab)?;
    let mut folders = vec![layout(&lab)?.0];
    // From now on the hash leads nearly everybody to the other target: whose flow is lost will notice.
    reload_text(&lab, &text(&lab, [100, 1], 100_000))?;
    load.goes_on()?;
    let other = other_version(&lab)?;
    for (program, max_flows) in [(&other, 100_000), (&binary("lbd")?, 200_000), (&other, 50_000)] {
        // It is for the next life.
        reload_text(&lab, &text(&lab, [100, 1], max_flows))?;
        lab.a().stop("lbd")?;
        load.goes_on()?;
        lab.a().start_build("lbd", program)?;
        wait_until("the other maps in use, and the ones before gone", LIMIT, || {
            layout(&lab).is_ok_and(|(folder, flows)| !folders.contains(&folder) && flows == max_flows)
                && lab.a().run("sh", &["-c", "ls /sys/fs/bpf/tandem"]).is_ok_and(|it| it.lines().count() == 2)
        })?;
        folders.push(layout(&lab)?.0);
        load.goes_on()?;
    }
    load.end(&lab)?;
    lab.finish()
}

/// Where ports are written down in another way than before, nothing of that can be taken over: they follow from the flows.
#[test]
fn connections_keep_their_ports_where_an_upgrade_keeps_these_in_another_way() -> Result<()> {
    let lab = forwarding("kernel-ports-anew", [1, 100], 100_000)?;
    let mut known = Vec::new();
    for vip in vips() {
        let mut echo = EchoSettings::new(SocketAddr::new(vip, WAYS[0].echo.0), CONNECTIONS);
        echo.interval = EVERY;
        known.push(EchoProbe::start(lab.client(), echo)?);
    }
    let goes_on = || known.iter().try_for_each(|probe| probe.wait_exchanges(5, LIMIT));
    goes_on()?;
    // What loses its port would go to the other target now, which knows nothing of it.
    reload_text(&lab, &text(&lab, [100, 1], 100_000))?;
    let folder = layout(&lab)?.0;
    lab.a().stop("lbd")?;
    // The program in the kernel goes on with them; whoever comes next does not find them.
    lab.a().run("sh", &["-c", &format!("rm {folder}/slots_*")])?;
    lab.a().start_build("lbd", &other_version(&lab)?)?;
    wait_until("the other maps in use, and the ones before gone", LIMIT, || {
        layout(&lab).is_ok_and(|(other, _)| !other.is_empty() && other != folder)
            && lab.a().run("sh", &["-c", "ls /sys/fs/bpf/tandem"]).is_ok_and(|it| it.lines().count() == 2)
    })?;
    goes_on()?;
    for probe in known {
        let report = probe.stop()?;
        assert_eq!(report.broken(), 0, "{}", report.summary());
    }
    lab.finish()
}

/// What is sent again and again through a connection; a segment that is lost, or comes twice, would move it.
const BLOCK: usize = 251 * 256;

/// Bytes that a transfer has on its way at most. With as many as TCP likes, queues overflow without any help.
const WINDOW: usize = 16 * 1024;

/// Blocks that pass between two events.
const BLOCKS: u64 = 64;

/// A connection through which as many bytes go to an echo server and back as there is room for.
struct Transfer {
    passed: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Transfer {
    fn begin(lab: &Lab, server: SocketAddr) -> Result<Self> {
        let connect = || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
            socket.set_send_buffer_size(WINDOW)?;
            socket.set_recv_buffer_size(WINDOW)?;
            socket.connect_timeout(&server.into(), PATIENCE)?;
            Ok(socket.into())
        };
        let stream = wait_for(&format!("a connection to {server}"), LIMIT, || {
            lab.client().namespace().inside(connect).ok()?.ok()
        })?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let (passed, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, end) = (Arc::clone(&passed), Arc::clone(&ends));
        let thread = thread::spawn(move || exchange(&stream, &counter, &end));
        Ok(Self { passed, ends, thread })
    }

    /// Waits until some more has come back.
    fn goes_on(&self) -> Result<()> {
        let wanted = self.passed() + BLOCKS;
        wait_until("the transfer to go on", LIMIT, || self.passed() >= wanted || self.thread.is_finished())?;
        assert!(!self.thread.is_finished(), "it ended after {} blocks", self.passed());
        Ok(())
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
    }
}

/// Sends blocks until it is to end, and counts those that have come back as they were.
fn exchange(stream: &TcpStream, passed: &AtomicU64, end: &AtomicBool) -> io::Result<()> {
    let (mut reader, mut writer) = (stream, stream);
    let block: Vec<u8> = (0..BLOCK).map(|place| u8::try_from(place % 251).unwrap()).collect();
    thread::scope(|scope| {
        let (begun, blocks) = channel();
        let sent = &block;
        let sender = scope.spawn(move || -> io::Result<()> {
            while !end.load(Ordering::Relaxed) && begun.send(()).is_ok() {
                writer.write_all(sent)?;
            }
            Ok(())
        });
        let mut came = vec![0; BLOCK];
        for () in blocks {
            reader.read_exact(&mut came)?;
            if came != block {
                return Err(io::Error::other("something else came back"));
            }
            passed.fetch_add(1, Ordering::Relaxed);
        }
        sender.join().expect("it does not panic")
    })
}

/// Blocks that have passed, and segments that were sent again for them.
#[derive(Clone, Copy)]
struct Stretch {
    passed: u64,
    again: u64,
}

/// How many more segments may be sent again while `lbd` is killed than else: a processor may be late. What the offloads make one packet of is
/// up to 44 of them.
const AGAIN: u64 = 10;

#[test]
fn a_killed_lbd_costs_a_transfer_no_packet() -> Result<()> {
    let lab = forwarding("kernel-killed", [1, 1], 100_000)?;
    let mut transfers = Vec::new();
    for way in &WAYS {
        for vip in vips() {
            transfers.push(Transfer::begin(&lab, SocketAddr::new(vip, way.echo.0))?);
        }
    }
    let go_on = || transfers.iter().try_for_each(Transfer::goes_on);
    let lost = |lab: &Lab| -> Result<Vec<[u64; 3]>> { watched(lab).map(counted).collect() };
    let so_far = || -> Result<Stretch> {
        let again = lost(&lab)?.iter().map(|counted| counted[0]).sum();
        Ok(Stretch { passed: transfers.iter().map(Transfer::passed).sum(), again })
    };
    let since = |before: Stretch, after: Stretch| Stretch {
        passed: after.passed - before.passed,
        again: after.again - before.again,
    };
    go_on()?;
    let broken = |lab: &Lab| -> Result<Vec<u64>> {
        Ok(lost(lab)?.iter().flat_map(|counted| counted[1..].to_vec()).collect())
    };
    let (before, broken_before) = (so_far()?, broken(&lab)?);
    // What the same transfers lose by themselves.
    for _ in 0..6 {
        go_on()?;
    }
    let middle = so_far()?;
    for _ in 0..3 {
        lab.a().signal("lbd", Signal::SIGKILL)?;
        lab.a().wait_end("lbd", LIMIT)?;
        go_on()?;
        lab.a().start_lbd()?;
        wait_until("the next one's program in its place", LIMIT, || {
            status(&lab).is_ok_and(|status| status["kernel"]["interfaces"][0]["attached"].is_string())
        })?;
        go_on()?;
    }
    let after = so_far()?;
    let (control, killed) = (since(before, middle), since(middle, after));
    let most = 2 * control.again * killed.passed / control.passed.max(1) + AGAIN;
    assert!(
        killed.again <= most,
        "{} segments sent again for {} blocks, without that {} for {}",
        killed.again,
        killed.passed,
        control.again,
        control.passed
    );
    assert_eq!(broken(&lab)?, broken_before, "connections reset and refused, of the client and each target");
    transfers.into_iter().for_each(Transfer::end);
    lab.finish()
}
