//! The command line.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lbd_core::group::Admin;

use crate::{api, prober, process, reload, run, simulate, status};

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
    /// The node's name: as given, else the host's.
    pub(crate) fn node_name(&self) -> String {
        self.node.clone().or_else(process::host_name).unwrap_or_default()
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
        /// Print what `GET /v1/status` answers
        #[arg(long)]
        json: bool,
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
    /// Have the running daemon read its configuration again
    Reload,
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
        Command::Status { json } => status::show(&options.run_dir, json),
        Command::Set { target, state, weight } => {
            status::set(&options.run_dir, &target, status::Settings { state, weight })
        }
        Command::Reload => status::reload(&options.run_dir),
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
    let config = match &options.node {
        Some(node) => reload::load_for_node(&options.config, node)?,
        None => common::config::load(&options.config)?,
    };
    prober::check_config(&config)?;
    if let Some(path) = &config.api.token_file {
        api::read_token(path)?;
    }
    Ok(format!("{}: ok\n", options.config.display()))
}
