//! A lab by hand: `scripts/lab` runs this.
#![expect(clippy::print_stdout, reason = "a command for people, who read its standard output")]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use integration::lab::clock::wait_until;
use integration::lab::registry::{Entry, labs, sweep};
use integration::lab::{Host, Lab, echo_forever, machine_of};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// What labs made by this command are called.
const LABEL: &str = "by hand";
const DOWN_LIMIT: Duration = Duration::from_secs(15);

/// Network namespaces with a whole pair, a client, targets and a switch.
#[derive(Parser)]
#[command(name = "tandem-lab")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build a lab and hold it until interrupted
    Up {
        /// How many targets
        #[arg(long, default_value_t = 2)]
        targets: u8,
        /// With the gateway host
        #[arg(long)]
        gateway: bool,
    },
    /// Take down the labs made by `up`, or one lab
    Down {
        /// The lab's prefix, as `list` shows it
        prefix: Option<String>,
    },
    /// Show the labs on this machine
    List,
    /// Remove what labs left behind whose process is gone
    Clean,
    /// Run a command on a host of the lab made by `up`
    Exec {
        /// The host: a, b, client, watch, t1…, gw, sw
        host: String,
        /// The command with its arguments
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<String>,
        /// The lab's prefix, when there are several
        #[arg(long)]
        lab: Option<String>,
    },
    #[command(hide = true)]
    Echo(Echo),
}

/// Echoes on ports: the targets of labs with thousands of connections run this.
#[derive(clap::Args)]
struct Echo {
    /// TCP and UDP, both families
    port: u16,
    /// TCP, in tunnels that HTTP's `Upgrade` opens
    tunnel_port: u16,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Action::Up { targets, gateway } => up(targets, gateway),
        Action::Down { prefix } => down(prefix.as_deref()),
        Action::List => {
            for entry in labs()? {
                let state = if entry.owner_lives() { "in use by" } else { "left behind by" };
                println!(
                    "{} ({}), {state} process {}: {}",
                    entry.prefix,
                    entry.label,
                    entry.pid,
                    entry.dir.display()
                );
            }
            Ok(())
        }
        Action::Clean => {
            for prefix in sweep()? {
                println!("removed {prefix}");
            }
            Ok(())
        }
        Action::Exec { host, command, lab } => exec(&host, &command, lab.as_deref()),
        Action::Echo(Echo { port, tunnel_port }) => Ok(echo_forever(port, tunnel_port)?),
    }
}

fn up(targets: u8, gateway: bool) -> Result<()> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGINT);
    ends.add(Signal::SIGTERM);
    ends.thread_block().context("blocking the signals that end the lab")?;
    let builder = Lab::builder(LABEL).targets(targets);
    let lab = if gateway { builder.gateway() } else { builder }.build()?;
    let hosts: Vec<&str> = lab.hosts().map(Host::name).collect();
    println!("lab {} in {}", lab.prefix(), lab.dir().display());
    println!("hosts: {} (and sw, the switch)", hosts.join(" "));
    println!(
        "eth0, the LAN: a 10.77.0.1 fd77::1, b 10.77.0.2 fd77::2, targets from 10.77.0.11 fd77::11 (ports 80, 8080)"
    );
    println!("peer0, the link between the nodes: a 10.0.255.1, b 10.0.255.2");
    println!("free for virtual IPs: 10.77.0.50 to 10.77.0.59, fd77::50 to fd77::59");
    println!("ready");
    ends.wait().context("waiting for a signal")?;
    lab.finish()?;
    Ok(())
}

fn down(prefix: Option<&str>) -> Result<()> {
    let wanted: Vec<Entry> = labs()?
        .into_iter()
        .filter(|entry| prefix.map_or(entry.label == LABEL, |prefix| entry.prefix == prefix))
        .filter(Entry::owner_lives)
        .collect();
    if wanted.is_empty() {
        bail!("there is no such lab; `list` shows those there are, `clean` removes what crashed ones left");
    }
    for entry in wanted {
        let pid = Pid::from_raw(entry.pid.cast_signed());
        kill(pid, Signal::SIGTERM)
            .with_context(|| format!("ending process {pid} of lab {}", entry.prefix))?;
        wait_until(&format!("the end of lab {}", entry.prefix), DOWN_LIMIT, || !entry.owner_lives())?;
        println!("took down {}", entry.prefix);
    }
    sweep()?;
    Ok(())
}

fn exec(host: &str, command: &[String], lab: Option<&str>) -> Result<()> {
    let mut wanted: Vec<Entry> = labs()?
        .into_iter()
        .filter(|entry| lab.map_or(entry.label == LABEL, |prefix| entry.prefix == prefix))
        .collect();
    let Some(entry) = wanted.pop() else { bail!("no lab is up: `scripts/lab up` makes one") };
    if !wanted.is_empty() {
        bail!("several labs are up: say which one with `--lab`, as `list` shows them");
    }
    let namespace = format!("{}-{host}", entry.prefix);
    if !entry.namespaces().contains(&namespace) {
        bail!("lab {} has no host {host:?}, only: {}", entry.prefix, entry.namespaces().join(" "));
    }
    let mut enter = match machine_of(&entry, host) {
        Some(holder) => {
            let mut enter = Command::new("nsenter");
            enter.args(["--mount", "--net", "--target", &holder.to_string()]);
            enter
        }
        None => {
            let mut enter = Command::new("ip");
            enter.args(["netns", "exec", &namespace]);
            enter
        }
    };
    let error = enter.args(command).exec();
    Err(error).with_context(|| format!("entering {namespace}"))
}
