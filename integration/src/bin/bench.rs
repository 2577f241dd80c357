//! Tandem beside other software: `scripts/bench failover`, `tcp`, `udp`, `http` and `l4` run this; and beside itself in trouble:
//! `scripts/bench flap`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command for people, who read its output")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use integration::bench_flap;
use integration::bench_hop;
use integration::bench_http;
use integration::bench_l4;
use integration::bench_replication;
use integration::bench_survive::{self, Case, Forth};
use integration::bench_tcp::{self, Compared, Load, Proxy, Settings};
use integration::bench_udp;
use integration::report::comparison::{Row, noise_max, render, render_misses};
use integration::report::statistics::ms;
use integration::scenario::{
    Event, Family, Record, System, balancer_version, conntrackd_version, run, vrrp_version,
};
use serde::Serialize;

/// Measures Tandem, and other software in the same lab.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// What failovers cost new connections, beside keepalived with HAProxy
    Failover(Failover),
    /// What `lbd` as a TCP proxy costs, beside HAProxy and nginx
    Tcp(Tcp),
    /// What `lbd` as a UDP proxy costs, beside nginx
    Udp(Udp),
    /// What `lbd` as an HTTP proxy costs, with TLS and HTTP/2 too, beside HAProxy and nginx
    Http(Http),
    /// What targets that change their health all the time cost the connections
    Flap(Flap),
    /// What forwarding in the kernel costs, beside the least that forwards
    L4(L4),
    /// What a hop through the kernel costs real traffic, beside nftables and HAProxy
    Hop(Hop),
    /// What survives when roles move, beside keepalived with HAProxy and with conntrackd
    Survive(Survive),
    /// What replicating flows does and costs
    Replication(Replication),
}

#[derive(clap::Args)]
struct Failover {
    /// How often each event is done to each system
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only this event; may be repeated
    #[arg(long, value_name = "NAME", value_parser = event)]
    only: Vec<Event>,
    /// The address families of the VIP
    #[arg(long, value_enum, default_value_t = Families::Both)]
    family: Families,
    /// Write every run and the rows of the table to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the logs of runs of Tandem that missed a target in this folder
    #[arg(long, value_name = "DIR", default_value = "target/bench/evidence")]
    evidence: PathBuf,
    /// Exit with 1 when Tandem missed a target
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
struct Tcp {
    /// How often everything is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only this load: short, bulk, requests, paced or idle; may be repeated
    #[arg(long, value_name = "LOAD", value_parser = load)]
    only: Vec<Load>,
    /// Write the rows of the table with every measurement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 when Tandem missed a target
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
struct Udp {
    /// How often everything is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Write the rows of the table to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 when Tandem takes more processor time than nginx somewhere
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
struct Http {
    /// How often everything is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only this load: small, large, fresh, handshakes, resumed, http2 or websockets; may be repeated
    #[arg(long, value_name = "LOAD", value_parser = http_load)]
    only: Vec<bench_http::Load>,
    /// Write the rows of the table with every measurement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 when Tandem missed a target
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
struct Flap {
    /// How often both states are measured
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Write every measurement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 when a connection takes more processor time while targets flap
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
struct Hop {
    /// How often everything is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Write the rows of the table with every measurement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 when a target was missed
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
struct Survive {
    /// How often each event is done to each system
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only what has this in its name (as in "sigkill nat Tandem" or "back-and-forth"); may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Write every run and the rows of the tables to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 when Tandem missed a target
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
struct Replication {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only this: nat or dsr (flows that are begun by the program alone), or connections (real ones of both); may be repeated
    #[arg(long, value_name = "PART", value_parser = replicated)]
    only: Vec<bench_replication::Part>,
    /// Write every run to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 when a target was missed
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
struct L4 {
    /// How often everything is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only this: l2, ipip or nat; may be repeated
    #[arg(long, value_name = "WAY", value_parser = subject)]
    only: Vec<bench_l4::Subject>,
    /// Write the rows of the table to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 when a target was missed
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Families {
    #[value(name = "4")]
    V4,
    #[value(name = "6")]
    V6,
    Both,
}

impl Families {
    const fn list(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Both => &[Family::V4, Family::V6],
        }
    }
}

/// What a probe on an idle machine stays below.
const QUIET_ENOUGH: Duration = Duration::from_millis(10);

/// A probe that starts nothing for longer than this is late.
const LATE: Duration = Duration::from_millis(5);

/// What is written as JSON.
#[derive(Serialize)]
struct Results<'a> {
    rival: String,
    runs: u32,
    failures_to_run: &'a [String],
    rows: &'a [Row],
    records: &'a [Record],
}

fn event(name: &str) -> Result<Event, String> {
    let known = || Event::ALL.map(Event::name).join(", ");
    Event::of_name(name).ok_or_else(|| format!("there is no such event; there are {}", known()))
}

fn load(name: &str) -> Result<Load, String> {
    let known = || Load::ALL.map(Load::name).join(", ");
    let found = Load::ALL.into_iter().find(|load| load.name() == name);
    found.ok_or_else(|| format!("there is no such load; there are {}", known()))
}

fn http_load(name: &str) -> Result<bench_http::Load, String> {
    let known = || bench_http::Load::ALL.map(bench_http::Load::name).join(", ");
    let found = bench_http::Load::ALL.into_iter().find(|load| load.name() == name);
    found.ok_or_else(|| format!("there is no such load; there are {}", known()))
}

fn subject(name: &str) -> Result<bench_l4::Subject, String> {
    let found = bench_l4::Subject::ALL.into_iter().find(|subject| subject.name().ends_with(name));
    found.ok_or_else(|| "there are l2, ipip and nat".to_owned())
}

fn replicated(name: &str) -> Result<bench_replication::Part, String> {
    let found = bench_replication::Part::ALL.into_iter().find(|part| part.name() == name);
    found.ok_or_else(|| "there are nat, dsr and connections".to_owned())
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Action::Failover(arguments) => failover(&arguments),
        Action::Tcp(arguments) => tcp(&arguments),
        Action::Udp(arguments) => udp(&arguments),
        Action::Http(arguments) => http(&arguments),
        Action::Flap(arguments) => flap(&arguments),
        Action::L4(arguments) => l4(&arguments),
        Action::Hop(arguments) => hop(&arguments),
        Action::Survive(arguments) => survive(&arguments),
        Action::Replication(arguments) => replication(&arguments),
    }
}

/// Two medians of the same thing differ by less than this.
const SAME_RATIO_MAX: f64 = 1.05;

fn flap(arguments: &Flap) -> Result<ExitCode> {
    println!("lbd on processor 0, clients, targets and checks on processor 1\n");
    let compared = bench_flap::run(arguments.runs, |line| println!("{line}"))?;
    println!("\nmedians of {} runs each\n\n{}", arguments.runs, compared.render());
    write_json(arguments.json.as_deref(), &compared)?;
    Ok(ExitCode::from(u8::from(arguments.check && compared.ratio() > SAME_RATIO_MAX)))
}

/// Writes results to the file, if one was asked for.
fn write_json(file: Option<&Path>, results: &impl Serialize) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(results).context("writing the results as JSON")?;
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn tcp(arguments: &Tcp) -> Result<ExitCode> {
    rivals_installed()?;
    let chosen = |load: &Load| arguments.only.is_empty() || arguments.only.contains(load);
    let loads: Vec<Load> = Load::ALL.into_iter().filter(chosen).collect();
    let settings = Settings { repetitions: arguments.runs, loads };
    println!("{}; each on processor 0, clients and target on processor 1:", bench_tcp::versions());
    for load in &settings.loads {
        println!("  {}: {load}", load.name());
    }
    println!("this takes about {} min\n", bench_tcp::estimate(&settings).as_secs().div_ceil(60));
    let begun = Instant::now();
    let rows = bench_tcp::run(&settings, |line| println!("{line}"))?;
    conclude(&rows, arguments.runs, begun, arguments.json.as_deref(), arguments.check)
}

fn http(arguments: &Http) -> Result<ExitCode> {
    rivals_installed()?;
    if let Some(missing) = bench_http::missing() {
        bail!("{missing} is not installed: `scripts/setup test` does that");
    }
    let chosen = |load: &bench_http::Load| arguments.only.is_empty() || arguments.only.contains(load);
    let loads = bench_http::Load::ALL.into_iter().filter(chosen).collect();
    let settings = bench_http::Settings { repetitions: arguments.runs, loads };
    println!("{}; each on processor 0, load and target on processor 1:", bench_tcp::versions());
    for load in &settings.loads {
        println!("  {}: {load}", load.name());
    }
    println!("this takes about {} min\n", bench_http::estimate(&settings).as_secs().div_ceil(60));
    let begun = Instant::now();
    let rows = bench_http::run(&settings, |line| println!("{line}"))?;
    conclude(&rows, arguments.runs, begun, arguments.json.as_deref(), arguments.check)
}

/// Fails unless what proxies are compared with is there.
fn rivals_installed() -> Result<()> {
    if let Some(missing) = Proxy::ALL.into_iter().find(|proxy| proxy.version().is_none()) {
        bail!("{} is not installed: `scripts/setup test` does that", missing.name());
    }
    Ok(())
}

/// Shows how proxies compare, and writes it down.
fn conclude<F: Compared + Serialize>(
    rows: &[bench_tcp::Row<F>],
    runs: u32,
    begun: Instant,
    json: Option<&Path>,
    check: bool,
) -> Result<ExitCode> {
    println!("\n{}, medians of {runs} runs each\n", bench_tcp::versions());
    println!("{}", bench_tcp::render(rows));
    println!(
        "ratio: Tandem's figure as a multiple of the better one's of the others; CPU: user and system time of"
    );
    println!(
        "the proxy's threads, with what the kernel does of a sent packet's way, without interrupts taken elsewhere\n"
    );
    println!("{}", bench_tcp::RESULTS);
    if rows.iter().any(|row| !row.judged) {
        println!("the load's: Tandem left part of its processor unused, so that the load limits the rate\n");
    }
    println!("took {} min", ms(begun.elapsed() / 60_000));
    write_json(json, &serde_json::json!({ "versions": bench_tcp::versions(), "runs": runs, "rows": rows }))?;
    let missed = bench_tcp::render_misses(rows);
    if !missed.is_empty() {
        println!("targets missed, or undecided:\n{missed}");
    }
    Ok(ExitCode::from(u8::from(check && !missed.is_empty())))
}

fn udp(arguments: &Udp) -> Result<ExitCode> {
    if let Some(missing) = bench_udp::Proxy::ALL.into_iter().find(|proxy| proxy.version().is_none()) {
        bail!("{} is not installed: `scripts/setup test` does that", missing.name());
    }
    println!("{}; each on processor 0, clients and target on processor 1\n", bench_udp::versions());
    let rows = bench_udp::run(arguments.runs, |line| println!("{line}"))?;
    println!("\n{}, medians of {} runs each; lost: the most\n", bench_udp::versions(), arguments.runs);
    println!("{}", bench_udp::render(&rows));
    write_json(
        arguments.json.as_deref(),
        &serde_json::json!({ "versions": bench_udp::versions(), "runs": arguments.runs, "rows": rows }),
    )?;
    let missed = rows.iter().any(|row| row.ratio() > 1.0);
    Ok(ExitCode::from(u8::from(arguments.check && missed)))
}

fn l4(arguments: &L4) -> Result<ExitCode> {
    let subjects =
        if arguments.only.is_empty() { bench_l4::Subject::ALL.to_vec() } else { arguments.only.clone() };
    let sizes = bench_l4::sizes()?;
    println!("{}", sizes.render());
    println!(
        "packet by packet, ours / the minimal program's: 1, 1,000 and 1,000,000 flows; first and second packet; answers through nat"
    );
    let rows = bench_l4::run(&subjects, arguments.runs, |line| println!("{line}"))?;
    println!(
        "\nXDP, TCP over IPv4, medians of {} runs; what one packet takes besides: instructions of the program, calls of",
        arguments.runs
    );
    println!("the kernel's functions (look-ups in arrays are none) and of its own\n");
    println!("{}", bench_l4::render(&rows));
    println!("{}", bench_l4::render_new(&rows));
    let expiry = bench_l4::expiry::run(arguments.runs.min(3))?;
    println!("{}", expiry.render());
    write_json(
        arguments.json.as_deref(),
        &serde_json::json!({ "runs": arguments.runs, "sizes": sizes, "rows": rows, "expiry": expiry }),
    )?;
    let missed = !sizes.met() || rows.iter().any(|row| !row.met);
    Ok(ExitCode::from(u8::from(arguments.check && missed)))
}

fn hop(arguments: &Hop) -> Result<ExitCode> {
    if let Some(missing) = bench_hop::missing() {
        bail!("{missing} is not installed: `scripts/setup test` does that");
    }
    let rows = bench_hop::run(arguments.runs, |line| println!("{line}"))?;
    println!(
        "\n{}\nmedians of {} runs each; in brackets the part of the direct way's rate, or",
        bench_hop::versions(),
        arguments.runs
    );
    println!(
        "what the whole machine spends more than on that; bulk: one TCP stream, to the target or from it;\n\
         for a packet that comes to the hop: what the machine spends more, in brackets the part of nftables'\n"
    );
    println!("{}", bench_hop::render(&rows));
    write_json(
        arguments.json.as_deref(),
        &serde_json::json!({ "versions": bench_hop::versions(), "runs": arguments.runs, "rows": rows }),
    )?;
    let missed = bench_hop::render_misses(&rows);
    if !missed.is_empty() {
        println!("targets missed:\n{missed}");
    }
    Ok(ExitCode::from(u8::from(arguments.check && !missed.is_empty())))
}

fn replication(arguments: &Replication) -> Result<ExitCode> {
    use bench_replication::Part;

    let chosen = |part: &Part| arguments.only.is_empty() || arguments.only.contains(part);
    let parts: Vec<Part> = Part::ALL.into_iter().filter(chosen).collect();
    let flows = parts.iter().any(|part| matches!(part, Part::Flows(_)));
    if flows {
        let Some(conntrackd) = conntrackd_version() else {
            bail!("conntrackd is not installed: `scripts/setup test` does that");
        };
        println!("beside conntrackd {conntrackd};");
    }
    println!(
        "what begins flows and the lbd that tells of them on processor 0, the other node's lbd on processor 1;"
    );
    println!(
        "real connections: their target and the lbd that tells on processor 0, client and other lbd on 1\n"
    );
    let (mut runs, mut rivals, mut connections) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..arguments.runs {
        if flows {
            let rival = bench_replication::run_rival()?;
            println!("{rival}");
            rivals.push(rival);
        }
        for part in &parts {
            let progress = |line: &str| println!("{line}");
            match part {
                Part::Flows(subject) => runs.push(bench_replication::run(*subject, progress)?),
                Part::Connections => connections.push(bench_replication::run_connections(number, progress)?),
            }
        }
    }
    if flows {
        println!(
            "\nmedians of {} runs; lost: the most. flows/s of a core: by the processor time of the slower lbd's replication;",
            arguments.runs
        );
        println!("share: the sender's time for a flow, of the program's for a connection of ten packets\n");
        println!("{}", bench_replication::render(&runs, &rivals));
    }
    if !connections.is_empty() {
        println!(
            "\nreal connections, medians of {} runs; forwarding's own: what the machine spends on one by the hop, without telling,",
            arguments.runs
        );
        println!(
            "more than on one directly; sender: the thread that tells, with what each connection changes until it is forgotten; share: of"
        );
        println!(
            "forwarding's own. More when told: by the whole machine, the other node and the link included, as a difference of differences\n"
        );
        println!("{}", bench_replication::render_connections(&connections));
    }
    println!("{}", bench_replication::render_aims(&runs, &connections));
    write_json(arguments.json.as_deref(), &(&runs, &rivals, &connections))?;
    let missed = bench_replication::render_misses(&runs, &connections);
    if !missed.is_empty() {
        println!("targets missed:\n{missed}");
    }
    Ok(ExitCode::from(u8::from(arguments.check && !missed.is_empty())))
}

fn survive(arguments: &Survive) -> Result<ExitCode> {
    let (Some(keepalived), Some(haproxy), Some(conntrackd)) =
        (vrrp_version(), balancer_version(), conntrackd_version())
    else {
        bail!("keepalived, haproxy and conntrackd have to be installed: `scripts/setup test` does that");
    };
    let rivals = format!("keepalived {keepalived}, HAProxy {haproxy}, conntrackd {conntrackd}");
    let chosen =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|text| name.contains(text));
    println!("beside {rivals}\n");
    let begun = Instant::now();
    let (mut outcomes, mut forth, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    let mut failed = |what: &str, error: &dyn std::fmt::Display| {
        eprintln!("{what}: {error}");
        broken.push(format!("{what}: {error}"));
    };
    for number in 1..=arguments.runs {
        for case in Case::all().into_iter().filter(|case| chosen(&case.name())) {
            let what = format!("{} {number}", case.name());
            match case.run() {
                Ok(outcome) => {
                    println!("{what}: {outcome}");
                    outcomes.push(outcome);
                }
                Err(error) => failed(&what, &error),
            }
        }
        for system in [System::Tandem, System::Rival, System::Conntrackd] {
            let what = format!("back-and-forth {}", system.name());
            if !chosen(&what) {
                continue;
            }
            match Forth::run(system) {
                Ok(run) => {
                    println!("{what} {number}: {run}");
                    forth.push(run);
                }
                Err(error) => failed(&what, &error),
            }
        }
    }
    let (rows, forth_rows) = (bench_survive::rows(&outcomes), bench_survive::forth_rows(&forth));
    println!("\n{rivals}; {} runs each, adverts every 100 ms\n", arguments.runs);
    if !rows.is_empty() {
        println!(
            "survived: median / fewest; stall: from sending a message to having it back, median / longest\n"
        );
        println!("{}", bench_survive::render(&rows));
    }
    if !forth_rows.is_empty() {
        println!("back and forth, with new connections and with such that last; the worst of all runs\n");
        println!("{}", bench_survive::render_forth(&forth_rows));
    }
    println!("took {} min", ms(begun.elapsed() / 60_000));
    let results = serde_json::json!({
        "rivals": rivals, "runs": arguments.runs, "failures_to_run": broken, "rows": rows, "back_and_forth": forth_rows,
        "back_and_forth_runs": forth,
    });
    write_json(arguments.json.as_deref(), &results)?;
    let missed = bench_survive::render_misses(&rows, &forth_rows);
    if !missed.is_empty() {
        println!("targets missed:\n{missed}");
    }
    Ok(ExitCode::from(u8::from(arguments.check && !(missed.is_empty() && broken.is_empty()))))
}

fn failover(arguments: &Failover) -> Result<ExitCode> {
    let (Some(keepalived), Some(haproxy)) = (vrrp_version(), balancer_version()) else {
        bail!("keepalived and haproxy have to be installed: `scripts/setup test` does that");
    };
    let rival = format!("keepalived {keepalived} + HAProxy {haproxy}");
    let events: Vec<Event> = if arguments.only.is_empty() {
        Event::ALL.to_vec()
    } else {
        Event::ALL.into_iter().filter(|event| arguments.only.contains(event)).collect()
    };
    let families = arguments.family.list();
    introduce(&events, families.len(), arguments.runs, &rival);

    let begun = Instant::now();
    let (mut records, mut rows, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    for family in families {
        for event in &events {
            for number in 1..=arguments.runs {
                for system in [System::Tandem, System::Rival] {
                    let what = format!("{} {} {number} {}", family.name(), event.name(), system.name());
                    let evidence = arguments.evidence.join(what.replace(' ', "-"));
                    // What the other one does is no news.
                    let evidence = (system == System::Tandem).then_some(evidence.as_path());
                    match run(*event, system, *family, evidence) {
                        Ok(record) => {
                            tell(&what, &record);
                            records.push(record);
                        }
                        Err(error) => {
                            eprintln!("{what}: {error}");
                            broken.push(format!("{what}: {error}"));
                        }
                    }
                }
            }
            rows.push(Row::of(*event, *family, &records));
        }
        println!("\n{}, {} runs each; Tandem, and as rival {rival}", family.name(), arguments.runs);
        println!(
            "gap: longest time without a new connection served, ms, median / max; failed: connections, median / max;"
        );
        println!("overlap: longest time both nodes answered for the VIP, ms, max\n");
        println!("{}", render(&rows, *family));
        let noise = noise_max(&rows, *family);
        if noise > QUIET_ENOUGH {
            println!(
                "up to {} ms passed without a connection when nothing was done: something else kept the",
                ms(noise)
            );
            println!("processors busy, and the figures above are too high. Measure on an idle machine.\n");
        }
    }
    let missed = render_misses(&rows);
    if !missed.is_empty() {
        println!("targets missed:\n{missed}  (logs: {})\n", arguments.evidence.display());
    }
    println!("took {} min", ms(begun.elapsed() / 60_000));
    write_json(
        arguments.json.as_deref(),
        &Results { rival, runs: arguments.runs, failures_to_run: &broken, rows: &rows, records: &records },
    )?;
    if !broken.is_empty() {
        println!("{} runs could not be made:\n  {}", broken.len(), broken.join("\n  "));
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::from(u8::from(arguments.check && !missed.is_empty())))
}

/// Says what will be done and how long it takes.
fn introduce(events: &[Event], families: usize, runs: u32, rival: &str) {
    println!("each event on a fresh pair in a lab of its own, Tandem and {rival} in turn:");
    for event in events {
        let (ours, theirs) = event.description();
        println!("  {}: {ours}\n      | {theirs}", event.name());
    }
    // Building and removing the lab, 0.7 s of quiet, the event and 0.3 s of service, and the elections.
    let one = |event: &Event| {
        let fixed = if *event == Event::NodeReturns { 6.0 } else { 4.0 };
        fixed + 4.0 * event.advert_interval().as_secs_f64()
    };
    let seconds: f64 = events.iter().map(one).sum::<f64>() * 2.0 * f64::from(runs);
    let families = if families == 2 { 2.0 } else { 1.0 };
    let estimate = Duration::from_secs_f64(seconds * families);
    println!("this takes about {} min\n", estimate.as_secs().div_ceil(60));
}

fn tell(what: &str, record: &Record) {
    let measured = &record.measured;
    let released = if record.released { "" } else { ", VIP not released" };
    // The probe errs upwards by its own lateness; where that is most of the gap, people should know.
    let late = measured.pause > LATE && measured.pause * 2 > measured.gap;
    let pause = if late { format!(" (probe paused for {})", ms(measured.pause)) } else { String::new() };
    let problems: String = record.problems.iter().map(|problem| format!(", {problem}")).collect();
    println!(
        "{what}: gap {} ms{pause}, failed {} ({}), overlap {} ms, noise {} ms, answered {}{released}{problems}",
        ms(measured.gap),
        measured.failed,
        measured.failures_text(),
        ms(measured.overlap),
        ms(measured.noise),
        measured.answered_text(),
    );
}
