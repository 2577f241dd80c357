//! Three hosts and three cables: the client and the target each have one to the proxies' host, and one to each other for what
//! would happen without a proxy.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use crate::lab::error::{Context, LabError};
use crate::lab::netns::Namespace;
use crate::lab::registry::Entry;
use crate::lab::{Result, process};

/// The proxies' address on the client's cable.
pub(crate) const PROXY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// The target's address on the proxies' cable.
const TARGET: Ipv4Addr = Ipv4Addr::new(10, 78, 1, 1);
/// The target's address on the client's own cable.
const TARGET_DIRECT: Ipv4Addr = Ipv4Addr::new(10, 78, 2, 1);
/// The target's port.
const PORT: u16 = 9000;

/// Parameters of every host: enough ports and room in queues that nothing but the proxies is measured.
const SYSCTL: [(&str, &str); 3] = [
    ("ipv4/ip_local_port_range", "10000 65535"),
    ("core/somaxconn", "16384"),
    ("ipv4/tcp_max_syn_backlog", "16384"),
];

/// The hosts, which go away with it.
#[derive(Debug)]
pub(crate) struct Network {
    /// Where connections come from.
    pub(crate) client: Namespace,
    /// Where the proxies run.
    pub(crate) proxy: Namespace,
    /// Where connections go.
    pub(crate) target: Namespace,
    entry: Entry,
}

impl Network {
    /// Makes the hosts and plugs their cables in.
    pub(crate) fn build() -> Result<Self> {
        process::raise_descriptor_limit()?;
        let entry = Entry::create("bench tcp")?;
        let built = Self::build_in(&entry);
        if built.is_err() {
            // Best effort: the error that stopped the build is the one to report, and the next lab sweeps.
            entry.remove(false).ok();
        }
        built
    }

    fn build_in(entry: &Entry) -> Result<Self> {
        fs::create_dir_all(&entry.dir).doing(|| format!("making {}", entry.dir.display()))?;
        let names = ["client", "proxy", "target"].map(|host| format!("{}-{host}", entry.prefix));
        let mut made = Namespace::create_all(&names)?.into_iter();
        let (Some(client), Some(proxy), Some(target)) = (made.next(), made.next(), made.next()) else {
            let known = names.join(" ");
            return Err(LabError::Unknown { kind: "namespace", name: names[0].clone(), known });
        };
        cable(&client, "10.78.0.1", &proxy, &PROXY.to_string())?;
        cable(&target, &TARGET.to_string(), &proxy, "10.78.1.2")?;
        cable(&client, "10.78.2.2", &target, &TARGET_DIRECT.to_string())?;
        for host in [&client, &proxy, &target] {
            host.ip("link set lo up")?;
            host.sysctl(&SYSCTL)?;
        }
        Ok(Self { client, proxy, target, entry: entry.clone() })
    }

    /// Where configurations and logs go.
    pub(crate) fn dir(&self) -> &Path {
        &self.entry.dir
    }

    /// Where the target listens, seen from the proxies.
    pub(crate) fn target_address() -> SocketAddr {
        (TARGET, PORT).into()
    }

    /// The same, seen from the client.
    pub(crate) fn direct_address() -> SocketAddr {
        (TARGET_DIRECT, PORT).into()
    }

    /// Listens as the target, with as long a queue as the kernel allows.
    pub(crate) fn listen(&self) -> Result<TcpListener> {
        let doing = || "listening as the target".to_owned();
        let listener = self.target.inside(|| TcpListener::bind(Self::bind_address()))?.doing(doing)?;
        // Made again with the namespace's queue length; std's is 4096 at most.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXALLOWABLE).doing(doing)?;
        Ok(listener)
    }

    /// Where the target binds, for both.
    pub(crate) fn bind_address() -> SocketAddr {
        (Ipv4Addr::UNSPECIFIED, PORT).into()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in [&self.client, &self.proxy, &self.target] {
            // Best effort, as is what follows: the next lab's sweep removes what stays.
            host.destroy().ok();
        }
        self.entry.remove(std::env::var_os("TANDEM_LAB_KEEP").is_some()).ok();
    }
}

/// A cable between two hosts; each end is named after the address on the other.
fn cable(a: &Namespace, a_address: &str, b: &Namespace, b_address: &str) -> Result<()> {
    let (a_device, b_device) = (device(b_address), device(a_address));
    a.ip(&format!("link add {a_device} type veth peer name {b_device} netns {}", b.name()))?;
    for (host, device, address) in [(a, a_device, a_address), (b, b_device, b_address)] {
        host.ip_batch(&format!("address add {address}/24 dev {device}\nlink set {device} up\n"))?;
    }
    Ok(())
}

fn device(address: &str) -> String {
    format!("to{}", address.replace('.', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_the_kernel_takes() {
        assert_eq!(device("10.78.1.1"), "to10-78-1-1");
        assert!(device(&TARGET_DIRECT.to_string()).len() < 16);
    }
}
