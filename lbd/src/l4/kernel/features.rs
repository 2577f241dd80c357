//! What the host offers, looked at before anything is loaded, so that what is missing is said by its name.

use std::fs;
use std::io;
use std::path::Path;

pub(crate) use common::kernel::Version;

use super::{KernelError, bpf};

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

/// What loading and attaching the programs takes. (They subtract addresses in packets, which takes CAP_PERFMON.)
const NEEDED: [(u32, &str); 3] =
    [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON"), (CAP_NET_ADMIN, "CAP_NET_ADMIN")];

/// A program that does nothing: `r0 = 0`, and its end.
const NOTHING: [u64; 2] = [0xb7, 0x95];

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// The kernel's version.
    pub(crate) version: Version,
    /// This process's effective capabilities, a bit each.
    pub(crate) capabilities: u64,
    /// The error number with which the kernel refuses a program that does nothing, although the capabilities are there.
    pub(crate) refusal: Option<i32>,
    /// Whether bpffs is mounted.
    pub(crate) bpffs: bool,
    /// Whether the kernel translates programs (`net.core.bpf_jit_enable`); none if it does not say.
    pub(crate) jit: Option<bool>,
}

impl Features {
    /// Looks at the host, and tries whether it takes a program.
    pub(crate) fn of_host() -> Self {
        // And not /proc: for a process, the kernel is what uname says (`setarch --uname-2.6`).
        let release = nix::sys::utsname::uname().map(|it| it.release().to_string_lossy().into_owned());
        let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok();
        let found = Self {
            version: release.ok().and_then(|it| Version::parse(&it)).unwrap_or(Version(0, 0)),
            capabilities: effective(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
            refusal: None,
            bpffs: is_bpffs(Path::new(BPFFS)),
            jit: jit.map(|text| text.trim() != "0"),
        };
        // Where something is missing, that is what there is to say.
        let refused = || bpf::load_classifier("tandem_try", &NOTHING).err()?.raw_os_error();
        Self { refusal: found.lack().is_ok().then(refused).flatten(), ..found }
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
        let missing = self.missing();
        if !missing.is_empty() {
            return Err(KernelError::Capabilities { missing });
        }
        match self.refusal {
            None => Ok(()),
            Some(errno) => Err(KernelError::Refused { source: io::Error::from_raw_os_error(errno) }),
        }
    }

    /// The capabilities that are not there. CAP_SYS_ADMIN stands for those that it was divided into.
    fn missing(&self) -> Vec<&'static str> {
        let has = |bit: u32| self.capabilities & (1 << bit) != 0;
        let is_there = |bit: u32| has(bit) || (bit != CAP_NET_ADMIN && has(CAP_SYS_ADMIN));
        NEEDED.iter().filter(|(bit, _)| !is_there(*bit)).map(|(_, name)| *name).collect()
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

/// The effective capabilities in `/proc/self/status`; none where it does not say.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Features = Features {
        version: Version(6, 6),
        capabilities: u64::MAX,
        refusal: None,
        bpffs: true,
        jit: Some(true),
    };

    #[test]
    fn capabilities_are_read_and_those_missing_named() {
        let missing = |status: &str| Features { capabilities: effective(status), ..ALL }.missing();
        let none: [&str; 0] = [];
        assert_eq!(missing("Name:\tlbd\nCapEff:\t000001ffffffffff\n"), none);
        assert_eq!(missing("CapEff:\t000000c000001000\n"), none, "these three");
        assert_eq!(missing("CapEff:\t0000000000201000\n"), none, "CAP_SYS_ADMIN and CAP_NET_ADMIN");
        assert_eq!(missing("CapEff:\t0000008000001000\n"), ["CAP_PERFMON"]);
        assert_eq!(missing("CapEff:\t0000004000001000\n"), ["CAP_BPF"]);
        assert_eq!(missing("CapEff:\t000000c000000000\n"), ["CAP_NET_ADMIN"]);
        assert_eq!(missing("CapEff:\t0000000000200000\n"), ["CAP_NET_ADMIN"]);
        for nothing in ["CapEff:\t0000000000000000\n", "CapEff:\tx\n", ""] {
            assert_eq!(missing(nothing), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"], "{nothing:?}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(ALL.lack().is_ok() && ALL.tcx());
        assert!(Features { version: Version(5, 15), ..ALL }.lack().is_ok());
        assert!(!Features { version: Version(6, 5), ..ALL }.tcx());
        let old = Features { version: Version(5, 10), ..ALL }.lack().unwrap_err().to_string();
        assert!(old.contains("5.10") && old.contains("5.15"), "{old}");
        let bare = Features { capabilities: 1 << CAP_BPF, refusal: Some(libc::EPERM), ..ALL };
        let bare = bare.lack().unwrap_err().to_string();
        assert!(bare.contains(" lacks CAP_PERFMON and CAP_NET_ADMIN; run as root"), "{bare}");
        let refused = Features { refusal: Some(libc::EPERM), ..ALL }.lack().unwrap_err().to_string();
        assert!(
            refused.starts_with("this host refuses bpf(2)") && refused.contains("not permitted"),
            "{refused}"
        );
    }

    #[test]
    fn a_program_that_does_nothing_is_taken() {
        let program = bpf::load_classifier("tandem_try", &NOTHING).unwrap();
        assert_eq!(bpf::run(std::os::fd::AsFd::as_fd(&program)).unwrap(), 0);
    }
}
