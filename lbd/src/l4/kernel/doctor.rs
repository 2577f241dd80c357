//! `lbd doctor`: what kernel forwarding and the second chance need of this host, its interfaces and its targets, and what they have.

mod checks;
mod handed;
mod host;
mod ports;
mod second_chance;
mod targets;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use common::config::{Attach, Config};

use super::sync::gather;
use super::ways::Ways;
use super::{chance, load, trace};
use crate::process::RunDir;
use crate::view::Status;
pub(crate) use ports::clash as port_clash;

/// What is asked of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct DoctorOptions {
    /// Take everything out of the kernel.
    pub(crate) remove: bool,
    /// Sample every so many packets.
    pub(crate) trace: Option<u32>,
    /// For so long.
    pub(crate) trace_time: Duration,
}

/// How a finding is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Good,
    Note,
    Bad,
}

/// What was found, in lines.
#[derive(Debug, Default)]
struct Report {
    text: String,
    bad: usize,
}

impl Report {
    fn add(&mut self, level: Level, topic: &str, finding: impl std::fmt::Display) {
        let mark = match level {
            Level::Good => "ok  ",
            Level::Note => "note",
            Level::Bad => "BAD ",
        };
        self.bad += usize::from(level == Level::Bad);
        // Writing into a String cannot fail.
        writeln!(self.text, "{mark}  {topic}: {finding}").ok();
    }
}

/// Looks at everything, or does what is asked. An error if something is bad; what was found is in it.
pub(crate) fn doctor(
    config: anyhow::Result<Config>,
    node: &str,
    run_dir: &Path,
    running: Option<&Status>,
    options: &DoctorOptions,
) -> anyhow::Result<String> {
    if options.remove {
        return remove(run_dir);
    }
    if let Some(every) = options.trace {
        // As they come: nobody waits for the end to see whether there is anything.
        trace::trace(run_dir, every, options.trace_time, &mut std::io::stdout().lock())?;
        return Ok(String::new());
    }
    let mut report = Report::default();
    host::host(&mut report);
    match config {
        Ok(config) if super::thread::wanted(&config) => look(&config, node, running, &mut report),
        Ok(config) => {
            report.add(Level::Note, "configuration", "no service has mode nat or dsr");
            for (name, handed) in handed::by_interface(&config, node) {
                host::filter(&name, handed, &mut report);
            }
        }
        Err(error) => report.add(Level::Bad, "configuration", format!("{error:#}")),
    }
    if let Some(status) = running {
        second_chance::look(status, &mut report);
    }
    if report.bad > 0 {
        anyhow::bail!("{}{} found bad", report.text, report.bad);
    }
    Ok(report.text)
}

/// Takes everything out of the kernel that belongs to a run directory whose daemon does not run.
fn remove(run_dir: &Path) -> anyhow::Result<String> {
    let _held = RunDir::take(run_dir)?;
    let mut removed = load::remove_all(run_dir)?;
    removed.extend(chance::remove(run_dir)?);
    if removed.is_empty() {
        return Ok("nothing was there\n".to_owned());
    }
    Ok(removed.iter().map(|path| format!("removed {}\n", path.display())).collect())
}

fn look(config: &Config, node: &str, running: Option<&Status>, report: &mut Report) {
    match running.and_then(|status| status.kernel.as_ref()) {
        Some(kernel) => {
            report.add(
                Level::Good,
                "lbd",
                format!("forwards {} of {} flows", kernel.flows, kernel.flows_max),
            );
            for it in &kernel.interfaces {
                report.add(Level::Good, &it.name, format!("{} for {}; {}", it.attached, it.purpose, it.why));
            }
            if kernel.attached_again > 0 {
                let finding = format!(
                    "the program was taken off by somebody else and attached again {} times; `journalctl -u lbd` says when and where",
                    kernel.attached_again
                );
                report.add(Level::Note, "attaching", finding);
            }
            for trouble in &kernel.troubles {
                report.add(Level::Bad, &trouble.what, &trouble.why);
            }
        }
        None => report.add(Level::Note, "lbd", "does not run with this --run-dir, or forwards nothing yet"),
    }
    let finding = "what it sends to a virtual IP of nat or dsr itself is forwarded to no target: where it has the address its own stack answers, with a \
                   reset if nothing listens; have it ask the targets";
    report.add(Level::Note, "this host", finding);
    let mut ways = match Ways::open() {
        Ok(ways) => ways,
        Err(error) => return report.add(Level::Bad, "network", error),
    };
    let mut names: BTreeSet<String> = BTreeSet::new();
    for vrrp in &config.vrrp {
        names.extend(vrrp.interface.get(node).cloned());
    }
    names.extend(config.kernel.interfaces_of(node).iter().cloned());
    names.extend(targets::ways_of(&mut ways, config, report));
    let handed = handed::by_interface(config, node);
    for name in &names {
        let handed = handed.get(name).copied().unwrap_or_default();
        host::interface(&ways, name, config.kernel.attach == Attach::Xdp, handed, report);
    }
    if let Some(clash) = ports::clash(config, node) {
        report.add(Level::Note, "ports", clash);
    }
    for service in gather::services(config) {
        targets::needs(service, config.kernel.gue_port, report);
    }
    if let Some(status) = running {
        checks::look(config, status, report);
    }
}
