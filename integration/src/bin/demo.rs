//! A pair in namespaces, load, a planned switchover, a power loss, and the node's return: `scripts/demo` runs this. In a second act
//! there are long-lived connections (tunnels where requests are read), downloads and clients with datagrams through each mode, while the role
//! moves and while a node dies. It fails if what it shows is not as it should be.
#![expect(clippy::print_stdout, reason = "a command for people, who read its standard output")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use common::time::Instant;
use integration::lab::addresses::{Mac, vip4, vip6};
use integration::lab::clock::{Window, now};
use integration::lab::fault::Fault;
use integration::lab::probe::{
    DatagramProbe, DatagramReport, DatagramSettings, DownloadProbe, EchoProbe, EchoSettings, RoleWatcher,
    Seen,
};
use integration::lab::timeline::{EventKind, Timeline};
use integration::lab::{Lab, LabError, Node, binary};
use integration::report::page::{self, Act, After, Chapter, Lasting};
use integration::report::promises;
use integration::report::statistics::ms;
use integration::report::table::{Align, Table};
use integration::scenario::lasting::{self, Bulk, Mode};
use integration::scenario::{INSTANCE, Observation, Observer, PORT, Pair, PairSettings, System};
use nix::sys::signal::{SigSet, Signal};

/// How long a step may take; all are a matter of milliseconds, or of a boot.
const LIMIT: Duration = Duration::from_secs(20);
/// Connections served in a row before the next thing happens: a second of them.
const STEADY: usize = 1000;
/// Of the second act: connections through each mode, clients of each with datagrams, and the time between two messages of one of them.
const CONNECTIONS: usize = 200;
const CLIENTS: usize = 20;
const MESSAGE_INTERVAL: Duration = Duration::from_millis(100);
/// Messages that have to come back before the first event, and after each.
const ANSWERS: u64 = 5;
/// What each download has got before the first event, and has to get after each.
const PIECE: u64 = 2 << 20;
const ROLE_INTERVAL: Duration = Duration::from_millis(5);
/// Between two advertisements.
const ADVERT_INTERVAL: Duration = Duration::from_millis(100);

/// Two nodes, four nginx targets, load, and what happens to nodes, in two acts.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Leave the pair up afterwards and say how to reach it
    #[arg(long)]
    keep: bool,
    /// Where the page with the timeline is written
    #[arg(long, value_name = "FILE", default_value = "target/tandem-demo.html")]
    html: PathBuf,
}

/// Something that was done.
struct Step {
    name: &'static str,
    description: &'static str,
    host: String,
    kind: EventKind,
    event: Window,
    /// When it was over.
    over: Instant,
}

/// What lasts through one mode.
struct Lines {
    mode: Mode,
    connections: EchoProbe,
    download: DownloadProbe,
    /// Its place among the destinations of datagrams; none if it has none.
    datagrams: Option<usize>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    // Blocked in every thread from the start on, so that only the wait at the end takes them; without --keep they end
    // the demonstration as usual.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGINT);
    ends.add(Signal::SIGTERM);
    if arguments.keep {
        ends.thread_block().context("blocking the signals that end the pair")?;
    }
    let begun = now();
    println!("bringing up two nodes, four nginx targets, a client and a switch in network namespaces");
    let mut settings =
        PairSettings::new("demo", System::Tandem, &[vip4(0).into(), vip6(0).into()], ADVERT_INTERVAL);
    settings.targets = lasting::TARGETS;
    settings.group_extra =
        "health = { http = \"/health\", interval = \"500ms\", timeout = \"200ms\" }".to_owned();
    settings.lasting = true;
    let pair = Pair::start(settings)?;
    println!("the pair is up after {:.1} s: node a is active, b is backup", (now() - begun).as_secs_f64());
    let bulk = lasting::prepare(&pair)?;
    println!("load: one new connection every millisecond from the client to http://{}/\n", vip4(0));

    let observer = Observer::start_with(&pair, vip4(0).into(), ROLE_INTERVAL)?;
    let (steps, act) = perform(&pair, &observer, &bulk)?;
    let timeline_end = now();
    let observation = observer.stop()?;
    let chapters = chapters(&pair, &observation, &steps, timeline_end);
    print_results(&observation, &chapters);
    print_lasting(&chapters, &act);
    let timeline = timeline(&observation, &steps, &pair);
    write_page(&arguments.html, &page::render(&timeline, &observation, &chapters, &act))?;
    println!("the timeline, drawn: {}", arguments.html.display());
    println!("took {:.0} s", (now() - begun).as_secs_f64());
    let broken = promises::broken(&chapters, &act, ADVERT_INTERVAL);
    if !broken.is_empty() {
        // `scripts/demo` knows this line.
        println!("\nNOT AS IT SHOULD BE:");
        broken.iter().for_each(|what| println!("  {what}"));
    }
    if arguments.keep {
        // The second act ends with a node that has no power.
        pair.lab().heal(&Fault::power_loss(pair.lab().b().name()))?;
        pair.start_node(pair.lab().b())?;
        pair.wait_settled()?;
        explain_reaching(&pair)?;
        println!("ready");
        ends.wait().context("waiting for a signal")?;
    }
    if broken.is_empty() || arguments.keep {
        pair.finish()?;
    } else {
        // Shows the ends of the logs.
        drop(pair);
    }
    Ok(ExitCode::from(u8::from(!broken.is_empty())))
}

/// Does everything while roles are printed as they change.
fn perform(pair: &Pair, observer: &Observer, bulk: &Bulk) -> Result<(Vec<Step>, Act)> {
    let begun = now();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        if let Some(roles) = &observer.roles {
            let done = &done;
            scope.spawn(move || print_roles(roles, begun, done));
        }
        let played = events(pair, observer, begun).and_then(|mut steps| {
            let act = second_act(pair, observer, bulk, begun, &mut steps)?;
            Ok((steps, act))
        });
        done.store(true, Ordering::Release);
        played
    })
}

/// The first act: new connections only.
fn events(pair: &Pair, observer: &Observer, begun: Instant) -> Result<Vec<Step>> {
    let [a, b] = pair.lab().nodes();
    let mut steps = Vec::new();
    observer.wait_steady(STEADY)?;
    for (from, to, name) in [(a, b, "planned switchover, a to b"), (b, a, "planned switchover, b to a")] {
        let event = move_role(observer, from, to, begun)?;
        steps.push(Step {
            name,
            description: "The other node takes over and announces the virtual IP before the first one lets go of it.",
            host: from.name().to_owned(),
            kind: EventKind::Action,
            event,
            over: now(),
        });
    }
    let fault = Fault::power_loss(a.name());
    say(begun, "node a loses power: both its links are dead from one moment on");
    let event = pair.lab().inject(&fault)?;
    observer.wait_announced(b.mac(), event.before, LIMIT)?;
    observer.wait_role(b.name(), "active", LIMIT)?;
    observer.wait_steady(STEADY)?;
    steps.push(Step {
        name: "power loss of the active node",
        description: "No word of farewell: b takes over when three adverts of 100 ms are missing, plus its skew of 61 ms.",
        host: a.name().to_owned(),
        kind: EventKind::Fault,
        event,
        over: now(),
    });
    say(begun, "node a gets power again and boots");
    pair.lab().heal(&fault)?;
    let before = now();
    pair.start_node(a)?;
    let event = Window { before, after: now() };
    settle(observer, a, b, event)?;
    steps.push(Step {
        name: "the node comes back",
        description: "It starts as backup and, having the higher priority, asks b to hand over once lbd is healthy.",
        host: a.name().to_owned(),
        kind: EventKind::Heal,
        event,
        over: now(),
    });
    Ok(steps)
}

/// The second act: what lasts through each mode, while the role moves and while the node dies that has it then.
fn second_act(
    pair: &Pair,
    observer: &Observer,
    bulk: &Bulk,
    begun: Instant,
    steps: &mut Vec<Step>,
) -> Result<Act> {
    let (lab, first) = (pair.lab(), steps.len());
    let [a, b] = lab.nodes();
    say(
        begun,
        &format!(
            "{CONNECTIONS} long-lived connections (of http: tunnels), a download of {} MiB and {CLIENTS} clients with datagrams through each mode",
            lasting::FILE_MIB
        ),
    );
    let (lines, datagrams) = begin_lasting(lab, bulk)?;
    let mut after = vec![Vec::new(); lines.len()];
    let act_begun = now();
    go_on(&lines, &datagrams)?;

    let event = move_role(observer, a, b, begun)?;
    for (all, one) in after.iter_mut().zip(go_on(&lines, &datagrams)?) {
        all.push(one);
    }
    steps.push(Step {
        name: "with connections that last: planned switchover, a to b",
        description: "The same as before, now with hundreds of connections, downloads in progress and datagrams. What went through a's \
                      proxies still does: b sends its packets there.",
        host: a.name().to_owned(),
        kind: EventKind::Action,
        event,
        over: now(),
    });

    say(begun, "node b, which is active now, loses power");
    let event = lab.inject(&Fault::power_loss(b.name()))?;
    observer.wait_announced(a.mac(), event.before, LIMIT)?;
    observer.wait_role(a.name(), "active", LIMIT)?;
    observer.wait_steady(STEADY)?;
    for (all, one) in after.iter_mut().zip(go_on(&lines, &datagrams)?) {
        all.push(one);
    }
    steps.push(Step {
        name: "with connections that last: power loss of the active node",
        description: "a knows what goes through nat and dsr and goes on with it; what goes through its proxies it has had in its own sockets all the \
                      time. (What had begun at those of b would be gone with b.)",
        host: b.name().to_owned(),
        kind: EventKind::Fault,
        event,
        over: now(),
    });
    let ended = now();
    datagrams.stop()?;
    let lines = lines.into_iter().zip(after);
    let lasting = lines.map(|(line, after)| line.end(after, bulk)).collect::<Result<_>>()?;
    Ok(Act { first, begun: act_begun, ended, lasting })
}

/// Begins what lasts through each mode.
fn begin_lasting(lab: &Lab, bulk: &Bulk) -> Result<(Vec<Lines>, DatagramProbe)> {
    let of_datagrams = Mode::ALL.into_iter().filter(|mode| mode.of_datagrams().is_some());
    let servers: Vec<SocketAddr> = of_datagrams.map(Mode::echo_server).collect();
    let start = |mode: Mode| {
        let settings = EchoSettings { interval: MESSAGE_INTERVAL, ..mode.echo_settings(CONNECTIONS) };
        let connections = EchoProbe::start(lab.client(), settings)?;
        let datagrams = servers.iter().position(|server| *server == mode.echo_server());
        Ok(Lines { mode, connections, download: bulk.download(lab, mode)?, datagrams })
    };
    let lines = Mode::ALL.into_iter().map(start).collect::<Result<_>>()?;
    let settings =
        DatagramSettings { interval: MESSAGE_INTERVAL, ..DatagramSettings::new(&servers, CLIENTS) };
    Ok((lines, DatagramProbe::start(lab.client(), settings)?))
}

impl Lines {
    /// Waits until messages have come back on each connection, and a piece of the download has come, as far as they are not broken or over.
    fn wait(&self) -> std::result::Result<(), LabError> {
        self.connections.wait_exchanges(ANSWERS, LIMIT)?;
        self.download.wait_bytes(PIECE, LIMIT)
    }

    /// Has the download come to its end and the connections end; what came of them.
    fn end(self, after: Vec<After>, bulk: &Bulk) -> Result<Lasting> {
        let download = self.download.finish(LIMIT)?;
        Ok(Lasting {
            name: self.mode.name().to_owned(),
            description: self.mode.description().to_owned(),
            after,
            echo: self.connections.stop()?,
            whole: download.is_whole(&bulk.sha256),
            download,
            datagrams_by: self.mode.of_datagrams().map(str::to_owned),
            clients: self.datagrams.map_or(0, |_| CLIENTS),
        })
    }
}

/// Waits until everything that lasts has gone on, or is broken; what there is then of each mode.
fn go_on(lines: &[Lines], datagrams: &DatagramProbe) -> Result<Vec<After>> {
    let before = datagrams.snapshot();
    // For all at once: one mode after the other takes as long as a download lasts.
    let (went_on, answered) = thread::scope(|scope| {
        let waits: Vec<_> = lines.iter().map(|line| scope.spawn(move || line.wait())).collect();
        let answered = datagrams.wait_answers(ANSWERS, LIMIT);
        let ended = waits.into_iter().map(|wait| wait.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (ended.collect::<std::result::Result<(), LabError>>(), answered)
    });
    went_on?;
    match answered {
        // Who is not answered is shown as that.
        Ok(()) | Err(LabError::Timeout { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let report = datagrams.snapshot();
    datagrams.forget_silence();
    let after = |line: &Lines| {
        let of_its = |report: &DatagramReport| {
            line.datagrams.map_or_else(DatagramReport::default, |place| report.of_destination(place, CLIENTS))
        };
        let own = of_its(&report);
        After {
            alive: CONNECTIONS - line.connections.broken(),
            worst_stall: line.connections.forget_stalls(),
            downloads: !line.download.is_over(),
            answered: own.ahead_of(&of_its(&before), ANSWERS),
            lost_so_far: own.lost(),
            silence: own.silence(),
        }
    };
    Ok(lines.iter().map(after).collect())
}

/// Has a node hand over, and waits until the other one serves alone.
fn move_role(observer: &Observer, from: &Node, to: &Node, begun: Instant) -> Result<Window> {
    say(begun, &format!("on {}: vrrpd switchover {INSTANCE}", from.name()));
    let before = now();
    let answer = switch_over(from)?;
    let event = Window { before, after: now() };
    say(begun, answer.trim());
    settle(observer, to, from, event)?;
    Ok(event)
}

/// Waits until `active` serves alone and `backup` is backup.
fn settle(observer: &Observer, active: &Node, backup: &Node, event: Window) -> Result<()> {
    observer.wait_announced(active.mac(), event.before, LIMIT)?;
    observer.wait_role(active.name(), "active", LIMIT)?;
    observer.wait_role(backup.name(), "backup", LIMIT)?;
    observer.wait_sole_owner(active.mac(), LIMIT)?;
    observer.wait_steady(STEADY)?;
    Ok(())
}

fn switch_over(active: &Node) -> Result<String> {
    let program = binary("vrrpd")?.display().to_string();
    let run_dir = active.run_dir().display().to_string();
    Ok(active.run(&program, &["switchover", INSTANCE, "--run-dir", &run_dir])?)
}

fn say(begun: Instant, text: &str) {
    println!("{:>7.3} s  {text}", (now() - begun).as_secs_f64());
}

/// Prints each change of a role when it is seen.
fn print_roles(roles: &RoleWatcher, begun: Instant, done: &AtomicBool) {
    let mut printed = 0;
    // Once more after the end, for the last changes.
    let mut last = false;
    while !last {
        last = done.load(Ordering::Acquire);
        let report = roles.snapshot();
        for change in &report.changes[printed..] {
            let role = match &change.seen {
                Seen::Role(role) => format!("is {role}"),
                Seen::None => "is not running".to_owned(),
                Seen::Silent => "does not answer".to_owned(),
            };
            let at = if change.at >= begun { (change.at - begun).as_secs_f64() } else { 0.0 };
            println!("{at:>7.3} s      node {} {role}", change.node);
        }
        printed = report.changes.len();
        thread::sleep(ROLE_INTERVAL);
    }
}

fn names(pair: &Pair) -> BTreeMap<Mac, String> {
    pair.lab().hosts().map(|host| (host.mac(), host.name().to_owned())).collect()
}

/// Each step with what came of it until the next one.
fn chapters(pair: &Pair, observation: &Observation, steps: &[Step], end: Instant) -> Vec<Chapter> {
    let names = names(pair);
    let ends = steps.iter().skip(1).map(|step| step.event.before).chain([end]);
    let chapter = |(step, until): (&Step, Instant)| {
        let measured = observation.measure(step.event, until.min(step.over), |mac| names.get(&mac).cloned());
        // The return of a node is the moment it takes over, which is well after its start.
        let close_up_until = (step.kind == EventKind::Heal).then(|| takeover(observation, step)).flatten();
        Chapter {
            name: step.name.to_owned(),
            description: step.description.to_owned(),
            kind: step.kind,
            event: step.event,
            measured,
            close_up_until,
            names: names.clone(),
        }
    };
    steps.iter().zip(ends).map(chapter).collect()
}

/// A little after the node of a step became active.
fn takeover(observation: &Observation, step: &Step) -> Option<Instant> {
    let mut changes = observation.roles.of(&step.host, INSTANCE);
    let active = changes.find(|change| change.at >= step.event.before && change.seen.is("active"))?;
    Some(active.at + Duration::from_millis(150))
}

fn print_results(observation: &Observation, chapters: &[Chapter]) {
    let mut table = Table::new(&[
        ("event", Align::Left),
        ("failed", Align::Right),
        ("longest gap", Align::Right),
        ("who answered", Align::Left),
    ]);
    for chapter in chapters {
        let measured = &chapter.measured;
        table.row(vec![
            chapter.name.clone(),
            measured.failed.to_string(),
            format!("{} ms", ms(measured.gap)),
            measured.answered_text(),
        ]);
    }
    println!("\n{}", table.render());
    let targets: Vec<String> = observation
        .connects
        .by_target()
        .into_iter()
        .map(|(name, count)| format!("{count} by {}", if name.is_empty() { "?" } else { &name }))
        .collect();
    println!("{} connections, served: {}", observation.connects.attempts.len(), targets.join(", "));
}

fn print_lasting(chapters: &[Chapter], act: &Act) {
    let mut columns = vec![("what lasts, and the longest wait for a message", Align::Left)];
    columns.extend(act.lasting.iter().map(|one| (one.name.as_str(), Align::Right)));
    let mut table = Table::new(&columns);
    for (index, chapter) in chapters.iter().skip(act.first).enumerate() {
        let cell = |one: &Lasting| {
            let Some(after) = one.after.get(index) else { return String::new() };
            let stall =
                if after.alive == 0 { String::new() } else { format!(", {} ms", ms(after.worst_stall)) };
            format!("{} of {}{stall}", after.alive, one.connections())
        };
        table.row(std::iter::once(chapter.name.clone()).chain(act.lasting.iter().map(cell)).collect());
        let label = format!("  datagrams by {}: clients answered again, longest wait", act.datagrams_by());
        let datagrams = act.lasting.iter().map(|one| one.datagrams_text(index));
        table.row(std::iter::once(label).chain(datagrams).collect());
    }
    let downloads = act.lasting.iter().map(Lasting::download_text);
    table.row(std::iter::once("the download".to_owned()).chain(downloads).collect());
    println!("\n{}", table.render());
    for one in &act.lasting {
        println!("{}: {}", one.name, one.description);
    }
}

fn timeline(observation: &Observation, steps: &[Step], pair: &Pair) -> Timeline {
    let mut timeline = Timeline::begin("Tandem: a failover, watched");
    timeline.begun = observation.connects.begun;
    for step in steps {
        timeline.window(step.event, step.kind, &step.host, step.name);
    }
    timeline.add_roles(&observation.roles);
    timeline.add_sightings(&observation.watch, |mac| pair.name_of(mac));
    timeline.end();
    timeline
}

fn write_page(file: &Path, text: &str) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn explain_reaching(pair: &Pair) -> Result<()> {
    let lab = pair.lab();
    let vrrpd = binary("vrrpd")?.display().to_string();
    let client = format!("ip netns exec {}-client", lab.prefix());
    let vip6 = IpAddr::from(vip6(0));
    println!("\nthe pair stays up:");
    println!("  {client} curl http://{}:{PORT}/", vip4(0));
    println!("  {client} curl 'http://[{vip6}]:{PORT}/'");
    for node in lab.nodes() {
        println!("  {vrrpd} status --run-dir {}", node.run_dir().display());
    }
    println!("  {vrrpd} switchover {INSTANCE} --run-dir {}", lab.a().run_dir().display());
    println!("  scripts/lab exec --lab {} a ip address show eth0", lab.prefix());
    println!("logs and the configuration: {}", lab.dir().display());
    println!("remove it: scripts/lab down {}", lab.prefix());
    Ok(())
}
