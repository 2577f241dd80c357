//! `lbd doctor`: what kernel forwarding and the second chance need of this host, its interfaces and its targets, and what they have.

mod checks;
mod ports;
mod second_chance;
mod targets;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use common::config::{Attach, Config};

use super::features::{BPFFS, Features};
use super::settings;
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
    host(&mut report);
    match config {
        Ok(config) if super::thread::wanted(&config) => look(&config, node, running, &mut report),
        Ok(_) => report.add(Level::Note, "configuration", "no service has mode nat or dsr"),
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

fn host(report: &mut Report) {
    let features = Features::of_host();
    match features.lack() {
        Ok(()) => report.add(Level::Good, "kernel", format!("Linux {}", features.version)),
        Err(error) => report.add(Level::Bad, "kernel", error),
    }
    if features.tcx() {
        report.add(Level::Good, "attaching", "tcx links, replaced without a gap");
    } else {
        let finding = "by clsact filters, which stay while lbd is away; Linux 6.6 and newer have tcx links";
        report.add(Level::Note, "attaching", finding);
    }
    if features.bpffs {
        report.add(Level::Good, "bpffs", BPFFS);
    } else {
        report.add(Level::Note, "bpffs", format!("not mounted on {BPFFS}; `lbd run` mounts it"));
    }
    match features.jit {
        Some(false) => {
            report.add(
                Level::Bad,
                "JIT",
                "net.core.bpf_jit_enable is 0: each packet would be interpreted; set it to 1",
            );
        }
        _ => report.add(Level::Good, "JIT", "on"),
    }
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
    for name in &names {
        interface(&ways, name, report);
        if config.kernel.attach == Attach::Xdp {
            beside_vlans(&ways, name, report);
        }
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

/// What the driver's program cannot do where there are VLANs.
fn beside_vlans(ways: &Ways, name: &str, report: &mut Report) {
    let Some(link) = ways.link(name) else { return };
    if link.kind == "vlan" {
        let finding = "a VLAN's interface has no driver that a program could be in; use `attach = \"auto\"`";
        report.add(Level::Bad, name, finding);
    } else if ways.has_vlans(link.index) && super::ethtool::takes_tags_off(name) == Some(true) {
        let finding = "it takes VLAN tags off before the program in the driver sees them, which then takes frames of its VLANs for its own; \
             `ethtool -K … rxvlan off`";
        report.add(Level::Bad, name, finding);
    }
}

fn interface(ways: &Ways, name: &str, report: &mut Report) {
    let Some(link) = ways.link(name) else {
        return report.add(Level::Bad, name, "there is no such interface");
    };
    let driver = std::fs::read_link(format!("/sys/class/net/{name}/device/driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let kind = driver.unwrap_or_else(|| link.kind.clone());
    let state = if link.up { "up" } else { "down" };
    let level = if link.up { Level::Good } else { Level::Bad };
    report.add(level, name, format!("{state}, {kind}, MTU {}", link.mtu));
    if super::ethtool::large_receive(name) == Some(true) {
        let finding = "LRO is on: it joins packets that cannot be forwarded again; `ethtool -K … lro off` (GRO may stay on)";
        report.add(Level::Bad, name, finding);
    }
    for family in ["ipv4", "ipv6"] {
        let forwarding = settings::read(&format!("{family}/conf/{name}/forwarding"));
        if forwarding.as_deref() == Some("0") {
            let finding =
                format!("net.{family}.conf.{name}.forwarding is 0; `lbd run` sets it where it needs it");
            report.add(Level::Note, name, finding);
        }
    }
    let filter = |name: &str| settings::read(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or_default();
    if filter(name) == "1" || filter("all") == "1" {
        let finding = "rp_filter is strict. Forwarded packets do not pass it, what goes up the stack does";
        report.add(Level::Note, name, finding);
    }
}
