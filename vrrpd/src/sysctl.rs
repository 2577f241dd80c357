//! Kernel settings of the interfaces, put back at the end.
//!
//! What is set on an interface that holds virtual IPs, and why:
//! - `arp_ignore` = 1: a host answers ARP only for addresses that are *on the interface*. Both nodes always have every
//!   virtual IP as a local route; without this the backup would answer for them too.
//! - `arp_announce` = 2: its own ARP requests carry the node's address, never a virtual IP that it happens to send from.
//!   A request would teach all who hear it that the virtual IP is here.
//!
//! On a macvlan moreover `rp_filter`: the way back to a client is over the interface below, so that a strict check would drop
//! everything; and `accept_ra` = 0, as it is no interface to get routes from. These need no putting back: the macvlan goes
//! away.
//!
//! IPv6 needs nothing: a host answers neighbour solicitation only for addresses on the interface anyway.
//!
//! What was there before is kept in [`FILE_NAME`] in the run directory, written before anything is changed, so that the life
//! after a crash still knows it.

use std::io;
use std::path::{Path, PathBuf};

use common::saved::Saved;

/// The file in the run directory: a line each with path below `/proc/sys`, value before, and value set.
pub const FILE_NAME: &str = "sysctl.saved";

/// What is set on an interface: name below `net/ipv4/conf/IF`, value.
const INTERFACE: [(&str, &str); 2] = [("arp_ignore", "1"), ("arp_announce", "2")];

/// Why the settings could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// One could not be read or written.
    #[error(
        "{action} kernel setting {key} failed: {source}; run as root or with CAP_NET_ADMIN, and with /proc/sys writable"
    )]
    Access {
        /// Reading or writing.
        action: &'static str,
        /// Which, below `/proc/sys`.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// A setting for all interfaces stands in the way: the greater of both is in force.
    #[error(
        "kernel setting net.ipv4.conf.all.arp_ignore is {0}, with which this host answers no ARP for virtual IPs; set it to 0 or 1"
    )]
    ArpIgnoreAll(u32),
    /// The file of saved values could not be read or written.
    #[error("{action} {path} failed: {source}")]
    Saved {
        /// Reading or writing.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The settings made so far.
#[derive(Debug)]
pub struct Sysctls {
    /// `/proc/sys`.
    root: PathBuf,
    file: PathBuf,
    saved: Saved,
}

impl Sysctls {
    /// Reads what an earlier life has left in the run directory. The network namespace is that of the calling thread, also in all
    /// that follows.
    pub fn open(run_dir: &Path) -> Result<Self, SysctlError> {
        Self::below(Path::new("/proc/sys"), run_dir)
    }

    fn below(root: &Path, run_dir: &Path) -> Result<Self, SysctlError> {
        let file = run_dir.join(FILE_NAME);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(SysctlError::Saved { action: "reading", path: file, source }),
        };
        Ok(Self { root: root.to_owned(), file, saved: Saved::parse(&text) })
    }

    /// Sets what an interface with virtual IPs needs, remembering what was. For an interface that does not exist nothing is
    /// done: call this again when it appears. What is set already stays as it is.
    pub fn prepare_interface(&mut self, interface: &str) -> Result<(), SysctlError> {
        let all = "net/ipv4/conf/all/arp_ignore";
        if let Some(value) = self.read(all)?.and_then(|text| text.parse().ok()).filter(|value| *value > 1) {
            return Err(SysctlError::ArpIgnoreAll(value));
        }
        for (name, value) in INTERFACE {
            self.set(&format!("net/ipv4/conf/{interface}/{name}"), value)?;
        }
        Ok(())
    }

    /// Sets what a macvlan with virtual IPs needs.
    pub fn prepare_macvlan(&mut self, interface: &str) -> Result<(), SysctlError> {
        for (name, value) in INTERFACE {
            self.write_if_there(&format!("net/ipv4/conf/{interface}/{name}"), value)?;
        }
        // The greater of this and the setting for all is in force: 2, the loose check, is greater than 1, the strict one.
        let strict = self.read("net/ipv4/conf/all/rp_filter")?.is_some_and(|all| all == "1");
        self.write_if_there(&format!("net/ipv4/conf/{interface}/rp_filter"), if strict { "2" } else { "0" })?;
        self.write_if_there(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")
    }

    /// Puts back what was before, unless someone has changed it meanwhile. All of it, even if something fails; the first error
    /// counts, and what failed stays in the file.
    pub fn restore(&mut self) -> Result<(), SysctlError> {
        let mut result = Ok(());
        for key in self.saved.keys().map(str::to_owned).collect::<Vec<_>>() {
            match self.put_back(&key) {
                Ok(()) => self.saved.forget(&key),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.and(self.store())
    }

    fn put_back(&self, key: &str) -> Result<(), SysctlError> {
        let now = self.read(key)?;
        match now.and_then(|now| self.saved.to_put_back(key, &now)) {
            Some(before) => self.write_if_there(key, before),
            None => Ok(()),
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), SysctlError> {
        let Some(before) = self.read(key)? else { return Ok(()) };
        if before == value {
            return Ok(());
        }
        if self.saved.note(key, &before, value) {
            self.store()?;
        }
        self.write_if_there(key, value)
    }

    /// The value, if there is such a setting.
    fn read(&self, key: &str) -> Result<Option<String>, SysctlError> {
        match std::fs::read_to_string(self.root.join(key)) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SysctlError::Access { action: "reading", key: key.to_owned(), source }),
        }
    }

    /// Writes, if there is such a setting: IPv6 may be missing, an interface may have gone.
    fn write_if_there(&self, key: &str, value: &str) -> Result<(), SysctlError> {
        // Never creates: that is refused in /proc with another error than a missing file.
        let open = std::fs::OpenOptions::new().write(true).truncate(true).open(self.root.join(key));
        match open.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes())) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SysctlError::Access { action: "writing", key: key.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// Writes the file, whole or not at all; removes it when there is nothing to put back.
    fn store(&self) -> Result<(), SysctlError> {
        let failed = |source| SysctlError::Saved { action: "writing", path: self.file.clone(), source };
        if self.saved.is_empty() {
            return match std::fs::remove_file(&self.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let new = self.file.with_extension("new");
        std::fs::write(&new, self.saved.to_text())
            .and_then(|()| std::fs::rename(&new, &self.file))
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests;
