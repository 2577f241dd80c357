//! Whether the kernel has what the daemon cannot do without.

use common::kernel::Version;

use crate::netlink::{Address, Netlink, NetlinkError};

/// The first kernel in which an address says who has set it (`IFA_PROTO`; commit 47f0bd503210, "net: Add new protocol attribute to IP
/// addresses"): by that a life of the daemon knows the addresses that a former one has left. All else is older.
const OLDEST: Version = Version(5, 18);

/// Why the daemon cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Too old.
    #[error(
        "vrrpd needs Linux {oldest} or newer, this is {found}, which does not keep who has set an address (IFA_PROTO): virtual IPs that a \
         killed vrrpd leaves would be found by nobody; install a newer kernel"
    )]
    Old {
        /// What runs here.
        found: Version,
        /// The oldest that will do.
        oldest: Version,
    },
}

/// Checks that the kernel is new enough, in the network namespace of the calling thread.
///
/// # Errors
///
/// [`KernelError::Old`].
pub fn require() -> Result<(), KernelError> {
    // A system without a release has no Linux that we know of; what it lacks will say so itself.
    let release = nix::sys::utsname::uname().map(|it| it.release().to_string_lossy().into_owned());
    judge(&release.unwrap_or_default(), || loopback_addresses().unwrap_or_default())
}

/// Distributions take new features into kernels that keep their old number: those show it by the loopback addresses, which the kernel
/// itself then says it has set.
fn judge(release: &str, loopback: impl FnOnce() -> Vec<Address>) -> Result<(), KernelError> {
    let Some(found) = Version::parse(release).filter(|found| *found < OLDEST) else { return Ok(()) };
    if loopback().iter().any(|address| address.proto.is_some()) {
        return Ok(());
    }
    Err(KernelError::Old { found, oldest: OLDEST })
}

fn loopback_addresses() -> Result<Vec<Address>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    match netlink.link("lo")? {
        Some(link) => netlink.addresses(link.index),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(proto: Option<u8>) -> Address {
        Address {
            index: 1,
            ip: [127, 0, 0, 1].into(),
            prefix: 8,
            secondary: false,
            tentative: false,
            duplicate: false,
            deprecated: false,
            proto,
            scope: 254,
        }
    }

    #[test]
    fn old_kernels_are_refused_unless_they_have_what_it_takes() {
        let none = || -> Vec<Address> { panic!("nobody has to look") };
        for good in ["5.18.0", "6.1.0-18-amd64", "6.18.44", "7.0.0-rc1", "", "something"] {
            assert!(judge(good, none).is_ok(), "{good}");
        }
        for old in ["5.17.15", "5.15.0-91-generic", "4.19.0", "5.14.0-427.el9.x86_64"] {
            let error = judge(old, || vec![loopback(None)]).unwrap_err().to_string();
            assert!(error.starts_with("vrrpd needs Linux 5.18 or newer, this is "), "{error}");
            assert!(judge(old, Vec::new).is_err(), "{old}");
            // 1 stands for the loopback addresses of the kernel's own.
            assert!(judge(old, || vec![loopback(None), loopback(Some(1))]).is_ok(), "{old}");
        }
    }

    #[test]
    fn the_kernel_says_who_has_set_the_loopback_addresses() {
        assert!(loopback_addresses().unwrap().iter().any(|address| address.proto == Some(1)));
    }
}
