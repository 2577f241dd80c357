//! The command line.

use std::io::{self, Write};
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use common::config::{Config, Mode, TargetGroup, Via};
use common::key::PairKey;
use lbd_core::group::Admin;

use crate::flows::{self, FlowsWanted};
use crate::l4::kernel::{self, DoctorOptions};
use crate::{access_log, load, prober, process, reload, route, run, simulate, status};

/// Tandem's load balancer: forwards the traffic of the pair's virtual IPs to healthy targets.
#[derive(Debug, Parser)]
#[command(name = "lbd", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The pair's configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/tandem/pair.toml")]
    pub(crate) config: PathBuf,
    /// This node's name in the configuration [default: the host's name]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// The folder of the daemons' sockets
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/tandem")]
    pub(crate) run_dir: PathBuf,
}

impl Options {
    /// The node's name: as given, else the only one's of `config`, else the host's.
    pub(crate) fn node_name(&self, config: &Config) -> String {
        let lone = || config.lone_node().map(|node| node.name.clone());
        self.node.clone().or_else(lone).or_else(process::host_name).unwrap_or_default()
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run in the foreground, log to standard error
    Run {
        /// Worker threads [default: one for each core]
        #[arg(long, value_name = "COUNT")]
        workers: Option<NonZeroUsize>,
    },
    /// Check the configuration file and print every error
    Check,
    /// Show what the running daemon does
    Status {
        /// Print what `GET /v1/status` answers; with --flows, what `GET /v1/flows` does
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flows: FlowsWanted,
    },
    /// Set a target's state or weight in the running daemon, until it is set again, deleted, or lbd restarts
    Set {
        /// The target, as `lbd status` shows it
        #[arg(value_name = "GROUP/TARGET")]
        target: String,
        /// ready; drain: no new connections, open ones are closed after drain_timeout; maint: no connections at all
        #[arg(long, value_name = "ready|drain|maint", value_parser = parse_admin, required_unless_present = "weight")]
        state: Option<Admin>,
        /// 0 to 256, or `configured`
        #[arg(long, value_name = "N")]
        weight: Option<status::Weight>,
    },
    /// Look at what kernel forwarding (mode nat and dsr) needs of this host, its interfaces and its targets
    Doctor {
        /// Take the forwarding program, its flows and everything else of it out of the kernel; lbd must not be running
        #[arg(long)]
        remove: bool,
        /// Show a sample of the packets that the kernel forwards, one of so many, and what becomes of them
        #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "1", conflicts_with = "remove")]
        trace: Option<NonZeroU32>,
        /// How long to sample
        #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "trace")]
        seconds: u32,
    },
    /// Have the running daemon read its configuration again
    Reload,
    /// Show which rule of a service of mode http a request would meet, and what would become of it
    Route {
        /// The method, such as GET
        #[arg(value_name = "METHOD")]
        method: String,
        /// The address, such as http://shop.example.com/path, or a path
        #[arg(value_name = "URL")]
        url: String,
        /// A field of the request; may be given several times
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
        headers: Vec<String>,
        /// The client's address
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
        source: IpAddr,
        /// The service, if more than one listens on the address's port
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// Play a workload through the balancing algorithms on a virtual clock, and print what each makes of it
    Simulate {
        /// The description of the workload; examples are in configs/simulate
        file: PathBuf,
        /// Also draw it: targets' shares, and their load over time
        #[arg(long, value_name = "OUT")]
        svg: Option<PathBuf>,
    },
}

/// Runs the command.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let options = &cli.options;
    let done = match cli.command {
        Command::Run { workers } => run::run(options, workers).map(|()| String::new()),
        Command::Check => check(options),
        Command::Status { json, flows } if flows.flows => flows::show(&options.run_dir, &flows, json),
        Command::Status { json, .. } => status::show(&options.run_dir, json),
        Command::Set { target, state, weight } => {
            status::set(&options.run_dir, &target, status::Settings { state, weight })
        }
        Command::Doctor { remove, trace, seconds } => {
            let trace_time = Duration::from_secs(seconds.into());
            doctor(options, &DoctorOptions { remove, trace: trace.map(NonZeroU32::get), trace_time })
        }
        Command::Reload => status::reload(&options.run_dir),
        Command::Route { method, url, headers, source, service } => {
            let (headers, service) = (headers.as_slice(), service.as_deref());
            route::explain(
                &options.config,
                &route::Question { method: &method, url: &url, headers, source, service },
            )
        }
        Command::Simulate { file, svg } => simulate::simulate(&file, svg.as_deref()),
    };
    let (code, written) = match done {
        Ok(text) => (ExitCode::SUCCESS, io::stdout().write_all(text.as_bytes())),
        Err(error) => (ExitCode::FAILURE, writeln!(io::stderr(), "{}", message(&error))),
    };
    // Nobody is left to be told that nobody reads.
    drop(written);
    code
}

/// What failed and why. Some errors say their cause themselves, and it is said once.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn parse_admin(text: &str) -> Result<Admin, &'static str> {
    let all = [Admin::Ready, Admin::Drain, Admin::Maint];
    all.into_iter().find(|admin| admin.name() == text).ok_or("it must be ready, drain or maint")
}

fn check(options: &Options) -> anyhow::Result<String> {
    let (config, soon) = load::check(&options.config)?;
    if let Some(node) = &options.node {
        reload::check_node(&config, node)?;
    }
    let mut lacking: Vec<String> = prober::problems(&config).map(|error| error.to_string()).collect();
    lacking.extend(common::config::load_token(&config.api).err().map(|error| error.to_string()));
    lacking.extend(access_log::problems(&config).map(|error| error.to_string()));
    let file = options.config.display();
    if !lacking.is_empty() {
        bail!(
            "{file}: there is no mistake in it, but not all that it names can be used on this host:\n{}",
            lacking.join("\n")
        );
    }
    let mut text = format!("{file}: ok\n");
    for note in soon {
        text.push_str(&format!("note: {note}\n"));
    }
    for group in checked_elsewhere(&config) {
        text.push_str(&format!(
            "note: the targets of {} are checked at their own addresses, although a service of mode \"dsr\" forwards to \
             them: one that has lost the virtual IP would not be noticed; health.via = \"vip\" checks them through it\n",
            group.name
        ));
    }
    if let Some(lack) = kernel::lack(&config) {
        text.push_str(&format!("note: it cannot run on this host: {lack}\n"));
    }
    if let Some(clash) = kernel::port_clash(&config, &options.node_name(&config)) {
        text.push_str(&format!("note: {clash}\n"));
    }
    Ok(text)
}

/// The groups of `dsr` whose checks do not take the way of clients' packets.
fn checked_elsewhere(config: &Config) -> impl Iterator<Item = &TargetGroup> {
    let by_dsr = |group: &&TargetGroup| {
        config.services.iter().any(|service| service.mode == Mode::Dsr && service.forward == group.name)
    };
    let at_target = |group: &&TargetGroup| group.health.as_ref().is_some_and(|it| it.via == Via::Target);
    config.target_groups.iter().filter(by_dsr).filter(at_target)
}

fn doctor(options: &Options, wanted: &DoctorOptions) -> anyhow::Result<String> {
    let mut node = String::new();
    let config = reload::load_for_node(&options.config, &PairKey::new([0; 32]), |config| {
        node = options.node_name(config);
        node.clone()
    });
    let config = config.map(|loaded| loaded.config).map_err(anyhow::Error::from);
    let running = status::read(&options.run_dir).ok();
    kernel::doctor(config, &node, &options.run_dir, running.as_ref(), wanted)
}
