//! The commands of `vrrpd`.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use common::key::PairKey;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{self, ClientError};
use crate::command::{LoopError, LoopHandle, Setup};
use crate::control::{self, Options};
use crate::{events, kernel, logging, table};

/// Tandem's VRRP daemon: elects the active node of a pair and moves the virtual IPs.
#[derive(Debug, Parser)]
#[command(name = "vrrpd", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// The pair's configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/tandem/pair.toml")]
    config: PathBuf,
    /// The name of this node in the configuration [default: the host's name up to the first dot]
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
    /// Where the daemons' sockets are; two nodes on one machine need two
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/tandem")]
    run_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground; it logs to standard error (TANDEM_LOG=debug for more)
    Run,
    /// Check the configuration file and the files it names; print every error
    Check,
    /// Show the state of the running daemon
    Status {
        /// Print what the API prints
        #[arg(long)]
        json: bool,
    },
    /// Hand an instance over to the other node, without losing a connection
    Switchover {
        /// The name of the [[vrrp]]
        instance: String,
    },
    /// Switch maintenance: while it is on, this node is active only if the other cannot be
    Maintenance {
        /// On or off
        state: Switch,
    },
    /// Put the present content of the configuration file in force, like SIGHUP
    Reload,
    /// Show what happened
    Events {
        /// Go on with what happens from now on
        #[arg(long, short)]
        follow: bool,
        /// Only events after this number
        #[arg(long, value_name = "ID", default_value_t = 0)]
        after: u64,
        /// One JSON object on each line
        #[arg(long)]
        json: bool,
    },
    /// Write a new key for the pair; copy it to the other node
    Keygen {
        /// The file, made with mode 0600 and never overwritten [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Control(#[from] control::ControlError),
    #[error(transparent)]
    Kernel(#[from] kernel::KernelError),
    #[error("cannot write the key to {}: {source}", path.display())]
    Key { path: PathBuf, source: io::Error },
    #[error("{} exists already; a key is never overwritten, remove the file first", .0.display())]
    KeyExists(PathBuf),
    #[error("this host's name cannot be read ({0}); name the node with --node")]
    HostName(nix::errno::Errno),
    #[error("vrrpd's answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Everything has been printed already.
    #[error("")]
    Reported,
}

impl Cli {
    /// Carries the command out. `start` starts the real-time loop, for `run`.
    #[must_use]
    pub fn execute<E: Into<LoopError>>(self, start: impl FnOnce(Setup) -> Result<LoopHandle, E>) -> ExitCode {
        match self.try_execute(start) {
            Ok(()) => ExitCode::SUCCESS,
            Err(CliError::Reported) => ExitCode::FAILURE,
            Err(CliError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                complain(error);
                ExitCode::FAILURE
            }
        }
    }

    fn try_execute<E: Into<LoopError>>(
        self,
        start: impl FnOnce(Setup) -> Result<LoopHandle, E>,
    ) -> Result<(), CliError> {
        let Common { config, node, run_dir } = self.common;
        let mut out = io::stdout().lock();
        match self.command {
            Command::Run => {
                let flush = logging::start()?;
                kernel::require()?;
                let node = node.map_or_else(host_name, Ok)?;
                let ended = control::run(&Options { config, node, run_dir }, start);
                // What was logged comes before the last sentence.
                drop(flush);
                Ok(ended?)
            }
            Command::Check => check(&config, node.as_deref(), &mut out),
            Command::Status { json: true } => print_json(&mut out, &get(&run_dir, "/v1/status")?),
            Command::Status { json: false } => {
                let status = serde_json::from_value(get(&run_dir, "/v1/status")?)?;
                Ok(out.write_all(table::render(&status, events::now().as_millis()).as_bytes())?)
            }
            Command::Switchover { instance } => {
                let answer = post(&run_dir, "/v1/switchover", &json!({ "instance": instance }))?;
                let active = answer["active"].as_str().unwrap_or("?");
                Ok(writeln!(
                    out,
                    "instance {instance} is active on node {active} after {} ms",
                    answer["took_ms"]
                )?)
            }
            Command::Maintenance { state } => {
                let answer = post(&run_dir, "/v1/maintenance", &json!({ "on": state == Switch::On }))?;
                let on = answer["on"].as_bool().unwrap_or_default();
                Ok(writeln!(out, "maintenance is {}", if on { "on" } else { "off" })?)
            }
            Command::Reload => {
                let answer = post(&run_dir, "/v1/reload", &json!({}))?;
                let hash = answer["config_hash"].as_str().unwrap_or("?");
                Ok(writeln!(out, "configuration {hash} is in force")?)
            }
            Command::Events { follow, after, json } => show_events(&run_dir, follow, after, json, &mut out),
            Command::Keygen { out: file } => keygen(file.as_deref(), &mut out),
        }
    }
}

#[expect(clippy::print_stderr, reason = "a command's errors go to standard error")]
fn complain(error: impl Display) {
    eprintln!("vrrpd: {error}");
}

/// The host's name up to the first dot.
fn host_name() -> Result<String, CliError> {
    let name = nix::unistd::gethostname().map_err(CliError::HostName)?;
    let name = name.to_string_lossy();
    Ok(name.split('.').next().unwrap_or_default().to_owned())
}

/// Checks everything that `run` would read. All the configuration's errors are shown; only when it has none are the
/// files it names looked at.
fn check(file: &Path, node: Option<&str>, out: &mut impl Write) -> Result<(), CliError> {
    let config = match common::config::load(file) {
        Ok(config) => config,
        Err(error) => {
            complain(error);
            return Err(CliError::Reported);
        }
    };
    let mut good = true;
    let mut note = |result: Result<(), control::ControlError>| {
        if let Err(error) = result {
            complain(error);
            good = false;
        }
    };
    if let Some(node) = node {
        note(control::require_node(&config, node, file));
    }
    note(common::config::load_key(&config.pair).map(|_| ()).map_err(Into::into));
    note(common::config::load_token(&config.api).map(|_| ()).map_err(Into::into));
    if !good {
        return Err(CliError::Reported);
    }
    writeln!(out, "{}: ok", file.display())?;
    // The file may be for another host.
    if let Err(error) = kernel::require() {
        writeln!(out, "note: it cannot run on this host: {error}")?;
    }
    Ok(())
}

fn get(run_dir: &Path, path: &str) -> Result<Value, CliError> {
    Ok(runtime()?.block_on(client::ask(run_dir, Method::GET, path, None))?)
}

fn post(run_dir: &Path, path: &str, body: &Value) -> Result<Value, CliError> {
    Ok(runtime()?.block_on(client::ask(run_dir, Method::POST, path, Some(body)))?)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn print_json(out: &mut impl Write, value: &Value) -> Result<(), CliError> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    Ok(writeln!(out)?)
}

fn show_events(
    run_dir: &Path,
    follow: bool,
    after: u64,
    json: bool,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let mut show = |event: &Value| {
        if json {
            writeln!(out, "{event}")?;
        } else if let Some(dropped) = event.get("dropped") {
            writeln!(out, "({dropped} events are gone)")?;
        } else {
            let text = |key: &str| event[key].as_str().unwrap_or("?");
            let id = event["id"].as_u64().unwrap_or_default();
            writeln!(out, "{id:>6}  {}  {}", text("at"), text("message"))?;
        }
        out.flush()
    };
    if follow {
        return Ok(runtime()?.block_on(client::follow(run_dir, after, show))?);
    }
    let mut after = after;
    loop {
        let page = get(run_dir, &format!("/v1/events?after={after}"))?;
        let events = page["events"].as_array().map_or(&[][..], Vec::as_slice);
        if events.is_empty() {
            return Ok(());
        }
        if page["dropped"].as_u64().unwrap_or(0) > 0 && !json {
            show(&json!({ "dropped": page["dropped"] }))?;
        }
        events.iter().try_for_each(&mut show)?;
        after = page["next"].as_u64().unwrap_or(u64::MAX);
    }
}

fn keygen(file: Option<&Path>, out: &mut impl Write) -> Result<(), CliError> {
    let text = PairKey::new(random_bytes()?).to_text();
    let Some(path) = file else { return Ok(out.write_all(text.as_bytes())?) };
    // `create_new` is O_EXCL: it follows no link and overwrites nothing.
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(CliError::KeyExists(path.to_owned()));
        }
        Err(source) => return Err(CliError::Key { path: path.to_owned(), source }),
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(source) = written {
        // Half a key is of no use.
        std::fs::remove_file(path).ok();
        return Err(CliError::Key { path: path.to_owned(), source });
    }
    Ok(writeln!(out, "wrote a new key to {}; copy it to the other node, it is secret", path.display())?)
}

fn random_bytes() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    // SAFETY: the pointer and the length are those of `bytes`, which lives through the call.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes are given whole, once the kernel's generator is seeded.
    if usize::try_from(count) == Ok(bytes.len()) { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}
