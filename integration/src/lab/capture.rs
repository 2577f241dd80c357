//! Packet captures: tcpdump to record, tshark to read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Lab;
use super::clock::wait_until;
use super::error::{LabError, Result};
use super::netns::Namespace;
use super::process::{self, Daemon};

/// How long another program may take to start: it is not what is tested, and the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Daemon,
    file: PathBuf,
}

impl Capture {
    /// Captures what passes an interface of the switch: `lan` (everything that enters the switch from any host, also
    /// what a block then drops), `peers`, or a host's port by the host's name. `filter` is tcpdump's, e.g.
    /// `arp or proto 112`.
    ///
    /// # Errors
    /// [`LabError`] when tcpdump does not start.
    pub fn on_switch(lab: &Lab, interface: &str, filter: &str) -> Result<Self> {
        Self::start(lab.dir(), lab.switch().namespace(), &format!("sw-{interface}"), interface, filter)
    }

    /// Captures on a host's own interface.
    ///
    /// # Errors
    /// [`LabError`] when there is no such host or tcpdump does not start.
    pub fn on_host(lab: &Lab, host: &str, interface: &str, filter: &str) -> Result<Self> {
        let namespace = lab.host(host)?.namespace();
        Self::start(lab.dir(), &namespace, &format!("{host}-{interface}"), interface, filter)
    }

    fn start(dir: &Path, namespace: &Namespace, name: &str, interface: &str, filter: &str) -> Result<Self> {
        let file = dir.join(format!("{name}.pcap"));
        let log = dir.join("logs").join(format!("tcpdump-{name}.log"));
        let mut command = namespace.command("tcpdump");
        command.args(["-n", "-U", "--immediate-mode", "-Z", "root", "-s", "0", "-i", interface, "-w"]);
        command.arg(&file).arg(filter);
        let mut tcpdump = Daemon::start("tcpdump", command, &log)?;
        // The file is written once packets are being captured; the header is the first thing in it.
        wait_until(&format!("tcpdump to capture {name}"), START_LIMIT, || {
            tcpdump.ended().is_some() || process::tail(&log, 4096).contains("listening on")
        })?;
        if tcpdump.ended().is_some() {
            return Err(LabError::Answer {
                asked: format!("tcpdump of {name}"),
                answer: process::tail(&log, 4096),
            });
        }
        Ok(Self { tcpdump, file })
    }

    /// Ends it and returns the file, which is complete then.
    ///
    /// # Errors
    /// [`LabError`] when tcpdump does not end.
    pub fn stop(mut self) -> Result<PathBuf> {
        if self.tcpdump.ended().is_none() {
            self.tcpdump.signal(Signal::SIGINT)?;
        }
        self.tcpdump.wait(STOP_LIMIT)?;
        Ok(self.file.clone())
    }
}

/// Reads fields of the packets in a capture that pass a display filter, one row per packet, e.g.
/// `fields(&file, "vrrp", &["frame.time_epoch", "vrrp.prio"])`. A field a packet lacks is empty; of one that occurs
/// more than once the first is given.
///
/// # Errors
/// [`LabError::Command`] when tshark fails, as it does for a field or filter it does not know.
pub fn fields(file: &Path, filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(file).args(["-Y", filter, "-T", "fields", "-E", "occurrence=f"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let text = process::output(command, "")?;
    Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}
