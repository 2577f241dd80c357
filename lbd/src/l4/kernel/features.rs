//! What the host offers, looked at before anything is loaded, so that what is missing is said by its name.

use std::fs;
use std::io;
use std::path::Path;

use super::KernelError;

/// Where pins are, and where bpffs is mounted.
pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// The oldest kernel that the program is written for.
const OLDEST: Version = Version(5, 15);

/// The first kernel with tcx links, which are replaced without a gap.
const TCX: Version = Version(6, 6);

/// bpffs's number among file systems.
const BPFFS_MAGIC: libc::__fsword_t = 0xcafe_4a11;

/// Bits of capabilities.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// A kernel's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// The kernel's version.
    pub(crate) version: Version,
    /// Whether this process may load programs: CAP_NET_ADMIN, and CAP_BPF with CAP_PERFMON or CAP_SYS_ADMIN.
    pub(crate) may_load: bool,
    /// Whether bpffs is mounted.
    pub(crate) bpffs: bool,
    /// Whether the kernel translates programs (`net.core.bpf_jit_enable`); none if it does not say.
    pub(crate) jit: Option<bool>,
}

impl Features {
    /// Looks at the host.
    pub(crate) fn of_host() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok();
        Self {
            version: parse(&release).unwrap_or(Version(0, 0)),
            may_load: may_load(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
            bpffs: is_bpffs(Path::new(BPFFS)),
            jit: jit.map(|text| text.trim() != "0"),
        }
    }

    /// Whether programs are attached by tcx links.
    pub(crate) fn tcx(&self) -> bool {
        self.version >= TCX
    }

    /// Why kernel forwarding cannot run here, if it cannot; bpffs aside, which is mounted on demand.
    pub(crate) fn lack(&self) -> Result<(), KernelError> {
        if self.version < OLDEST {
            return Err(KernelError::Version { found: self.version, oldest: OLDEST });
        }
        if !self.may_load {
            return Err(KernelError::Capabilities);
        }
        Ok(())
    }
}

/// Mounts bpffs where nothing is mounted; true if that was necessary.
pub(super) fn mount_bpffs() -> Result<bool, KernelError> {
    let path = Path::new(BPFFS);
    if is_bpffs(path) {
        return Ok(false);
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let (source, target, kind) = (c"bpf", c"/sys/fs/bpf", c"bpf");
    // SAFETY: three strings that end with a zero, and no data.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    if result != 0 {
        return Err(KernelError::Bpffs { source: io::Error::last_os_error() });
    }
    Ok(true)
}

fn is_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type().0 == BPFFS_MAGIC)
}

/// The version in `6.1.0-18-amd64`.
fn parse(release: &str) -> Option<Version> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some(Version(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the capabilities in `/proc/self/status` suffice.
fn may_load(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return false;
    };
    let has = |bit: u32| effective & (1 << bit) != 0;
    has(CAP_NET_ADMIN) && (has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_capabilities_are_read() {
        assert_eq!(parse("6.1.0-18-amd64\n"), Some(Version(6, 1)));
        assert_eq!(parse("5.15.0"), Some(Version(5, 15)));
        assert_eq!(parse("linux"), None);
        assert!(Version(6, 6) >= TCX && Version(6, 10) > TCX && Version(5, 19) < TCX);
        assert!(may_load("Name:\tlbd\nCapEff:\t000001ffffffffff\n"));
        assert!(may_load("CapEff:\t000000c000001000\n"), "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN");
        assert!(may_load("CapEff:\t0000000000201000\n"), "CAP_SYS_ADMIN and CAP_NET_ADMIN");
        // The programs subtract addresses in packets, which takes it.
        assert!(!may_load("CapEff:\t0000008000001000\n"), "without CAP_PERFMON");
        assert!(!may_load("CapEff:\t000000c000000000\n"), "nothing is attached without CAP_NET_ADMIN");
        assert!(!may_load("CapEff:\t0000000000000000\n") && !may_load(""));
    }

    #[test]
    fn what_is_missing_is_said() {
        let all = Features { version: Version(6, 6), may_load: true, bpffs: true, jit: Some(true) };
        assert!(all.lack().is_ok());
        let old = Features { version: Version(5, 10), ..all }.lack().unwrap_err().to_string();
        assert!(old.contains("5.10") && old.contains("5.15"), "{old}");
        let bare = Features { may_load: false, ..all }.lack().unwrap_err().to_string();
        assert!(bare.contains("CAP_BPF"), "{bare}");
    }
}
