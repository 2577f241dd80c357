//! What the daemon needs of the operating system, and giving up everything else.
//!
//! Capabilities and scheduling belong to a thread and pass on to the threads it starts: [`reduce`] is for the main thread,
//! before there are others; [`enter_real_time`] for the real-time thread itself.

use std::fmt;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};

/// The `SCHED_RR` priority of the real-time loop: in the middle, above ordinary real-time work, below the kernel's threads that
/// matter (interrupts are at 50 on some kernels, the migration threads at 99).
pub const LOOP_PRIORITY: i32 = 40;

/// That of the warden: above the loop, so that a loop that spins cannot starve it.
pub const WARDEN_PRIORITY: i32 = LOOP_PRIORITY + 1;

/// Without these nothing works.
const REQUIRED: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// All that is ever used: beyond the required ones, those for real-time scheduling and locked memory.
const USED: [Capability; 4] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_SYS_NICE, Capability::CAP_IPC_LOCK];

/// Why the daemon cannot run as it was started.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Not permitted to do what it is there for.
    #[error(
        "vrrpd lacks {}; run it as root or grant the capabilities (AmbientCapabilities= in its systemd unit)",
        .0.join(" and ")
    )]
    Missing(Vec<String>),
    /// The capabilities could not be looked at or changed.
    #[error("{action} failed: {source}")]
    Capabilities {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: caps::errors::CapsError,
    },
    /// `PR_SET_NO_NEW_PRIVS` was refused.
    #[error("forbidding new privileges failed: {0}")]
    NoNewPrivileges(nix::Error),
}

/// Checks that the required capabilities are there.
pub fn require() -> Result<(), PrivilegeError> {
    let effective = read(CapSet::Effective)?;
    let missing: Vec<String> =
        REQUIRED.iter().filter(|cap| !effective.contains(cap)).map(ToString::to_string).collect();
    if missing.is_empty() { Ok(()) } else { Err(PrivilegeError::Missing(missing)) }
}

/// Gives up every capability that is not used, for good, for this thread and all it starts, programs included. The used
/// ones are kept in the ambient set too, so that a warden started later has them without being root.
///
/// A root daemon remains root as far as files are concerned that root owns, but no longer reads or writes those of others
/// against their permissions; the same goes for its hooks.
pub fn reduce() -> Result<(), PrivilegeError> {
    let permitted = read(CapSet::Permitted)?;
    let kept: CapsHashSet = USED.iter().copied().filter(|cap| permitted.contains(cap)).collect();
    // Shrinking the bounding set takes CAP_SETPCAP. Who lacks it gains nothing by exec either, once new privileges
    // are forbidden.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        let bounding = read(CapSet::Bounding)?;
        for cap in bounding.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *cap).map_err(|source| PrivilegeError::Capabilities {
                action: "shrinking the bounding set",
                source,
            })?;
        }
    }
    write(CapSet::Inheritable, "setting the inheritable capabilities", &kept)?;
    write(CapSet::Ambient, "setting the ambient capabilities", &kept)?;
    write(CapSet::Effective, "reducing the effective capabilities", &kept)?;
    write(CapSet::Permitted, "reducing the permitted capabilities", &kept)?;
    prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivileges)
}

fn read(set: CapSet) -> Result<CapsHashSet, PrivilegeError> {
    caps::read(None, set)
        .map_err(|source| PrivilegeError::Capabilities { action: "reading the capabilities", source })
}

fn write(set: CapSet, action: &'static str, value: &CapsHashSet) -> Result<(), PrivilegeError> {
    caps::set(None, set, value).map_err(|source| PrivilegeError::Capabilities { action, source })
}

/// How the calling thread is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// `SCHED_RR` with this priority.
    RoundRobin(i32),
    /// As other processes, but with this nice value.
    Nice(i32),
    /// As other processes.
    Ordinary,
}

/// What was achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealTime {
    /// Whether nothing of the process can be swapped out.
    pub memory_locked: bool,
    /// How the thread is scheduled.
    pub scheduling: Scheduling,
}

impl RealTime {
    /// Whether everything that helps against lateness is in place.
    #[must_use]
    pub const fn is_complete(self) -> bool {
        self.memory_locked && matches!(self.scheduling, Scheduling::RoundRobin(_))
    }
}

impl fmt::Display for RealTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheduling {
            Scheduling::RoundRobin(priority) => write!(f, "SCHED_RR {priority}")?,
            Scheduling::Nice(nice) => {
                write!(f, "nice {nice} (for SCHED_RR grant CAP_SYS_NICE or LimitRTPRIO=)")?;
            }
            Scheduling::Ordinary => {
                f.write_str("ordinary scheduling (grant CAP_SYS_NICE or LimitRTPRIO=)")?;
            }
        }
        f.write_str(if self.memory_locked {
            ", memory locked"
        } else {
            ", memory not locked (grant CAP_IPC_LOCK or LimitMEMLOCK=infinity)"
        })
    }
}

/// Locks the process's memory and makes the calling thread a real-time thread, as far as permitted.
pub fn enter_real_time() -> RealTime {
    become_real_time(LOOP_PRIORITY)
}

/// The same with a given priority.
pub(crate) fn become_real_time(priority: i32) -> RealTime {
    RealTime { memory_locked: lock_memory(), scheduling: schedule(priority) }
}

fn lock_memory() -> bool {
    // With a limit in force, memory that is wanted later would be refused once the limit is reached, instead of just not
    // being locked: then rather lock nothing.
    let unlimited = getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == u64::MAX);
    let allowed = caps::has_cap(None, CapSet::Effective, Capability::CAP_IPC_LOCK).unwrap_or(false);
    (unlimited || allowed) && mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).is_ok()
}

fn schedule(priority: i32) -> Scheduling {
    /// The best one.
    const NICE: i32 = -20;
    let parameters = libc::sched_param { sched_priority: priority };
    // Children and threads of a real-time thread start as ordinary ones.
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is the calling thread, and the parameters are a valid value that the kernel only reads.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } == 0 {
        return Scheduling::RoundRobin(priority);
    }
    // SAFETY: no pointer is involved; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } == 0 {
        return Scheduling::Nice(NICE);
    }
    Scheduling::Ordinary
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capabilities belong to a thread: what happens in one of its own leaves the other tests alone.
    fn in_a_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        in_a_thread(|| {
            require().unwrap();
            caps::drop(None, CapSet::Effective, Capability::CAP_NET_RAW).unwrap();
            let one = require().unwrap_err().to_string();
            assert!(one.starts_with("vrrpd lacks CAP_NET_RAW; run it as root"), "{one}");
            caps::clear(None, CapSet::Effective).unwrap();
            let two = require().unwrap_err().to_string();
            assert!(two.starts_with("vrrpd lacks CAP_NET_ADMIN and CAP_NET_RAW;"), "{two}");
        });
    }

    #[test]
    fn only_what_is_used_is_kept_and_children_have_it_too() {
        in_a_thread(|| {
            reduce().unwrap();
            let used: CapsHashSet = USED.into_iter().collect();
            for set in
                [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient, CapSet::Bounding]
            {
                assert_eq!(caps::read(None, set).unwrap(), used, "{set:?}");
            }
            require().unwrap();
            let status = std::process::Command::new("cat").arg("/proc/self/status").output().unwrap().stdout;
            let status = String::from_utf8(status).unwrap();
            // CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_IPC_LOCK 14, CAP_SYS_NICE 23.
            for line in ["CapEff:\t0000000000807000", "CapBnd:\t0000000000807000", "NoNewPrivs:\t1"] {
                assert!(status.contains(line), "{line} in {status}");
            }
            // Twice does no harm.
            reduce().unwrap();
        });
    }

    #[test]
    fn scheduling_falls_back_to_what_is_permitted() {
        in_a_thread(|| {
            assert_eq!(schedule(LOOP_PRIORITY), Scheduling::RoundRobin(LOOP_PRIORITY));
            // Children do not inherit it.
            let policy = std::process::Command::new("chrt").args(["-p", "0"]).output().unwrap().stdout;
            assert!(String::from_utf8(policy).unwrap().contains("SCHED_OTHER"));
            assert!(matches!(schedule(1000), Scheduling::Nice(-20)));
        });
    }

    #[test]
    fn the_report_says_what_to_grant() {
        let full = RealTime { memory_locked: true, scheduling: Scheduling::RoundRobin(40) };
        assert_eq!((full.is_complete(), full.to_string().as_str()), (true, "SCHED_RR 40, memory locked"));
        let none = RealTime { memory_locked: false, scheduling: Scheduling::Ordinary };
        assert!(!none.is_complete());
        assert!(none.to_string().contains("CAP_SYS_NICE") && none.to_string().contains("CAP_IPC_LOCK"));
    }
}
