//! Settings of interfaces in `/proc/sys/net`: what the program needs, and what the doctor looks at.
//!
//! What was there before is kept in [`FILE_NAME`] in the run directory, written before anything is changed, and put back where the
//! program is taken off: not at the end of `lbd`, after which it goes on forwarding, but with an interface that no longer has it, with the last
//! service of the kernel, and by `lbd doctor --remove`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use common::saved::Saved;

/// Where settings are.
const ROOT: &str = "/proc/sys/net";

/// The file in the run directory: a line each with path below `/proc/sys/net`, value before, and value set.
pub(super) const FILE_NAME: &str = "lbd-sysctl.saved";

/// A setting; none if it cannot be read.
pub(super) fn read(path: &str) -> Option<String> {
    read_in(Path::new(ROOT), path)
}

fn read_in(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
}

/// The settings made so far.
#[derive(Debug)]
pub(super) struct Settings {
    /// `/proc/sys/net`.
    root: PathBuf,
    file: PathBuf,
    saved: Saved,
    /// Asked for since the others were put back.
    wanted: BTreeSet<String>,
}

impl Settings {
    /// Reads what an earlier life has left in the run directory. The network namespace is that of the calling thread, also in all
    /// that follows.
    pub(super) fn open(run_dir: &Path) -> Self {
        Self::below(Path::new(ROOT), run_dir)
    }

    fn below(root: &Path, run_dir: &Path) -> Self {
        let file = run_dir.join(FILE_NAME);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "cannot read what kernel settings were; they stay as they are");
            }
            String::new()
        });
        Self { root: root.to_owned(), file, saved: Saved::parse(&text), wanted: BTreeSet::new() }
    }

    /// Has the kernel forward packets of these families that arrive at an interface: only then it tells the program the way to clients,
    /// which `nat` asks for. Answers what could not be set; the other family's is all the same. An IPv6 interface that forwards hears no router advertisements, unless it is told to all the same: it goes on
    /// hearing those that it heard before.
    pub(super) fn allow_forwarding(&mut self, interface: &str, ipv4: bool, ipv6: bool) -> Result<(), String> {
        let of_ipv4 = if ipv4 { self.set(&format!("ipv4/conf/{interface}/forwarding"), "1") } else { Ok(()) };
        let of_ipv6 = if ipv6 { self.allow_forwarding_of_ipv6(interface) } else { Ok(()) };
        of_ipv4.and(of_ipv6)
    }

    fn allow_forwarding_of_ipv6(&mut self, interface: &str) -> Result<(), String> {
        let (forwarding, advertisements) =
            (format!("ipv6/conf/{interface}/forwarding"), format!("ipv6/conf/{interface}/accept_ra"));
        if self.read(&forwarding).is_none() {
            return Ok(());
        }
        self.wanted.insert(advertisements.clone());
        if self.read(&forwarding).is_some_and(|value| value != "1")
            && self.read(&advertisements).is_some_and(|value| value == "1")
        {
            self.set(&advertisements, "2")?;
        }
        self.set(&forwarding, "1")
    }

    /// Has the stack take packets from virtual IPs at the loopback interface: answers to health checks, which the program hands in
    /// there. Nothing else from outside comes in by this interface, and what is sent on it is not looked at again.
    pub(super) fn accept_answers(&mut self) -> Result<(), String> {
        self.set("ipv4/conf/lo/accept_local", "1")
    }

    /// Puts back what nobody has asked for since the last call. Answers what could not be; that is tried again.
    pub(super) fn put_back_others(&mut self) -> Result<(), String> {
        let wanted = std::mem::take(&mut self.wanted);
        let others = self.saved.keys().filter(|key| !wanted.contains(*key));
        let others: Vec<String> = others.map(str::to_owned).collect();
        if others.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        for key in others {
            match self.put_back(&key) {
                Ok(()) => self.saved.forget(&key),
                Err(why) => result = result.and(Err(why)),
            }
        }
        result.and(self.store())
    }

    /// Puts one back, unless somebody has set it meanwhile, or has the whole host forward.
    fn put_back(&self, key: &str) -> Result<(), String> {
        // It may have gone with its interface.
        let Some(before) = self.read(key).and_then(|now| self.saved.to_put_back(key, &now)) else {
            return Ok(());
        };
        let for_all = key.split('/').next().map(|family| format!("{family}/conf/all/forwarding"));
        let is_routing = for_all.and_then(|all| self.read(&all)).is_some_and(|all| all == "1");
        if key.ends_with("/forwarding") && is_routing {
            return Ok(());
        }
        self.write(key, before)?;
        tracing::info!(setting = key, value = before, "put back");
        Ok(())
    }

    fn set(&mut self, path: &str, value: &str) -> Result<(), String> {
        self.wanted.insert(path.to_owned());
        let before = self.read(path).unwrap_or_default();
        if before == value {
            return Ok(());
        }
        if self.saved.note(path, &before, value) {
            self.store()?;
        }
        self.write(path, value).map_err(|why| format!("{why}; answers of targets find no way without it"))?;
        tracing::info!(setting = path, value, "set, so that answers of targets find their way");
        Ok(())
    }

    fn read(&self, path: &str) -> Option<String> {
        read_in(&self.root, path)
    }

    fn write(&self, path: &str, value: &str) -> Result<(), String> {
        let whole = self.root.join(path);
        fs::write(&whole, value)
            .map_err(|error| format!("cannot write {value} to {}: {error}", whole.display()))
    }

    /// Writes the file, whole or not at all; removes it when there is nothing to put back.
    fn store(&self) -> Result<(), String> {
        let stored = if self.saved.is_empty() {
            match fs::remove_file(&self.file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        } else {
            let new = self.file.with_extension("new");
            fs::write(&new, self.saved.to_text()).and_then(|()| fs::rename(&new, &self.file))
        };
        stored.map_err(|error| {
            format!("cannot write {}, which says how kernel settings were: {error}", self.file.display())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with settings as in `/proc/sys/net`, and a run directory.
    struct Host(PathBuf);

    impl Host {
        fn new(test: &str) -> Self {
            let host = Self(std::env::temp_dir().join(format!("lbd-settings-{}-{test}", std::process::id())));
            for interface in ["all", "eth0", "lo"] {
                for setting in
                    ["ipv4/conf/IF/forwarding", "ipv6/conf/IF/forwarding", "ipv4/conf/IF/accept_local"]
                {
                    host.put(&setting.replace("IF", interface), "0");
                }
                host.put(&format!("ipv6/conf/{interface}/accept_ra"), "1");
            }
            fs::create_dir_all(host.0.join("run")).unwrap();
            host
        }

        fn put(&self, key: &str, value: &str) {
            let path = self.0.join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }

        /// Forwarding of both families, and whether routers are heard.
        fn eth0(&self) -> [String; 3] {
            ["ipv4/conf/eth0/forwarding", "ipv6/conf/eth0/forwarding", "ipv6/conf/eth0/accept_ra"]
                .map(|key| read_in(&self.0, key).unwrap())
        }

        fn open(&self) -> Settings {
            Settings::below(&self.0, &self.0.join("run"))
        }

        fn has_file(&self) -> bool {
            self.0.join("run").join(FILE_NAME).exists()
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn what_is_set_is_put_back_when_nobody_asks_for_it_any_more() {
        let host = Host::new("plain");
        let mut settings = host.open();
        for _ in 0..2 {
            settings.allow_forwarding("eth0", true, true).unwrap();
            settings.accept_answers().unwrap();
            settings.put_back_others().unwrap();
            assert_eq!(host.eth0(), ["1", "1", "2"]);
            assert_eq!(read_in(&host.0, "ipv4/conf/lo/accept_local").unwrap(), "1");
        }
        assert!(host.has_file());
        // Of one family only, and then of none.
        settings.allow_forwarding("eth0", true, false).unwrap();
        settings.put_back_others().unwrap();
        assert_eq!(host.eth0(), ["1", "0", "1"]);
        assert_eq!(read_in(&host.0, "ipv4/conf/lo/accept_local").unwrap(), "0");
        settings.put_back_others().unwrap();
        assert_eq!(host.eth0(), ["0", "0", "1"]);
        assert!(!host.has_file());
    }

    #[test]
    fn what_fails_for_one_family_takes_nothing_from_the_other() {
        let host = Host::new("failure");
        let ipv4 = host.0.join("ipv4/conf/eth0/forwarding");
        fs::remove_file(&ipv4).unwrap();
        fs::create_dir(&ipv4).unwrap();
        let mut settings = host.open();
        for _ in 0..2 {
            settings.allow_forwarding("eth0", true, true).unwrap_err();
            settings.put_back_others().unwrap();
            assert_eq!(read_in(&host.0, "ipv6/conf/eth0/forwarding").unwrap(), "1");
        }
        fs::remove_dir(&ipv4).unwrap();
        host.put("ipv4/conf/eth0/forwarding", "0");
        settings.allow_forwarding("eth0", true, true).unwrap();
        assert_eq!(host.eth0(), ["1", "1", "2"]);
    }

    #[test]
    fn the_life_after_a_crash_puts_back_what_was_first() {
        let host = Host::new("crash");
        host.open().allow_forwarding("eth0", true, true).unwrap();
        let mut next = host.open();
        next.allow_forwarding("eth0", true, true).unwrap();
        next.put_back_others().unwrap();
        assert_eq!(host.eth0(), ["1", "1", "2"], "all of it is still asked for");
        host.open().put_back_others().unwrap();
        assert_eq!(host.eth0(), ["0", "0", "1"]);
        assert!(!host.has_file());
    }

    #[test]
    fn what_was_so_or_is_set_by_others_stays() {
        let host = Host::new("others");
        host.put("ipv4/conf/eth0/forwarding", "1");
        let mut settings = host.open();
        settings.allow_forwarding("eth0", true, true).unwrap();
        // The host is made a router for IPv6 meanwhile; and what routers say is not to be heard.
        host.put("ipv6/conf/all/forwarding", "1");
        host.put("ipv6/conf/eth0/accept_ra", "0");
        settings.put_back_others().unwrap();
        settings.put_back_others().unwrap();
        assert_eq!(host.eth0(), ["1", "1", "0"]);
        assert!(!host.has_file());
    }

    #[test]
    fn an_interface_that_is_gone_needs_nothing() {
        let host = Host::new("gone");
        let mut settings = host.open();
        settings.allow_forwarding("eth0", true, true).unwrap();
        settings.put_back_others().unwrap();
        fs::remove_dir_all(host.0.join("ipv4/conf/eth0")).unwrap();
        fs::remove_dir_all(host.0.join("ipv6")).unwrap();
        settings.put_back_others().unwrap();
        assert!(!host.has_file());
        // Nor does a host without IPv6.
        settings.allow_forwarding("lo", true, true).unwrap();
    }
}
