//! The hosts, and the programs on them.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::lab::addresses::vip4;
use crate::lab::clock::wait_until;
use crate::lab::config::{Instance, PairConfig};
use crate::lab::error::Context;
use crate::lab::http;
use crate::lab::{Host, Lab, Result, Target};

use super::Way;

/// nginx's port, and iperf3's.
pub(super) const HTTP_PORT: u16 = 8080;
pub(super) const IPERF_PORT: u16 = 5201;

const READY_LIMIT: Duration = Duration::from_secs(15);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The processors of the target, and of the client.
const TARGET_PROCESSOR: &str = "0";
pub(super) const CLIENT_PROCESSOR: &str = "1";

/// The lab with everything running.
pub(super) struct Network {
    lab: Lab,
}

impl Network {
    pub(super) fn build() -> Result<Self> {
        let lab = Lab::builder("bench l4").targets(3).target_servers(false).build()?;
        let network = Self { lab };
        network.start_target()?;
        network.start_tandem()?;
        network.start_nftables()?;
        network.start_haproxy()?;
        network.wait_ready()?;
        Ok(network)
    }

    pub(super) fn finish(self) -> Result<()> {
        self.lab.finish()
    }

    pub(super) const fn client(&self) -> &Host {
        self.lab.client()
    }

    fn target(&self) -> &Target {
        &self.lab.targets()[0]
    }

    /// Where the client finds the target on this way.
    pub(super) fn address(&self, way: Way) -> IpAddr {
        match way {
            Way::Direct => self.target().v4().into(),
            Way::DsrL2 => vip4(1).into(),
            Way::Nat => vip4(0).into(),
            Way::Nftables => self.lab.targets()[1].v4().into(),
            Way::Haproxy => self.lab.targets()[2].v4().into(),
        }
    }

    /// The host between the client and the target on this way.
    pub(super) fn hop(&self, way: Way) -> Option<&Host> {
        match way {
            Way::Direct => None,
            Way::DsrL2 | Way::Nat => Some(self.lab.a()),
            Way::Nftables => Some(&self.lab.targets()[1]),
            Way::Haproxy => Some(&self.lab.targets()[2]),
        }
    }

    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.lab.dir().join(name);
        fs::create_dir_all(&dir).doing(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// nginx, pinned by its own configuration's one worker, and iperf3.
    fn start_target(&self) -> Result<()> {
        let target = self.target();
        target.start_http()?;
        target.accept_vip(vip4(1))?;
        let mut iperf = target.command("taskset");
        iperf.args(["-c", TARGET_PROCESSOR, "iperf3", "--server", "--port", &IPERF_PORT.to_string()]);
        target.start("iperf3", iperf)?;
        target.wait_ready()?;
        for pid in target.namespace().pids()? {
            target.run("taskset", &["-pc", TARGET_PROCESSOR, &pid.to_string()])?;
        }
        Ok(())
    }

    /// A pair of which one node runs, with a service of each mode on a virtual IP of its own.
    fn start_tandem(&self) -> Result<()> {
        let target = self.target().v4();
        let vips = vec![vip4(0).into(), vip4(1).into()];
        let mut config = PairConfig::new(vec![Instance { vips, ..Instance::default() }]);
        let (nat, dsr) = (vip4(0), vip4(1));
        for (name, port) in [("http", HTTP_PORT), ("iperf", IPERF_PORT)] {
            let group = format!("{name}-group");
            config = config
                .service(&format!("nat-{name}"), "nat", &format!("{nat}:{port}"), &group, "")
                .service(&format!("dsr-{name}"), "dsr", &format!("{dsr}:{port}"), &group, "dsr = \"l2\"")
                .target_group(&group, &[SocketAddr::from((target, port))], "");
        }
        self.lab.write_config(&config)?;
        self.lab.a().start_lbd()?;
        self.lab.a().start_vrrpd()?;
        Ok(())
    }

    fn start_nftables(&self) -> Result<()> {
        let (host, target) = (&self.lab.targets()[1], self.target().v4());
        host.namespace().sysctl(&[("ipv4/ip_forward", "1")])?;
        host.namespace().without_redirects()?;
        let rules = format!(
            "table ip nat {{
  chain before {{
    type nat hook prerouting priority -100;
    tcp dport {{ {HTTP_PORT}, {IPERF_PORT} }} dnat to {target}
  }}
  chain after {{
    type nat hook postrouting priority 100;
    ip daddr {target} masquerade
  }}
}}
"
        );
        host.namespace().run_with("nft", &["-f", "-"], &rules)?;
        Ok(())
    }

    fn start_haproxy(&self) -> Result<()> {
        let (host, target) = (&self.lab.targets()[2], self.target().v4());
        let file = self.dir("haproxy")?.join("config");
        let text = format!(
            "global\n  nbthread 1\n  maxpipes 500\n  tune.pipesize 1048576\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 350s\n  timeout server 350s\n\
             listen http\n  bind :{HTTP_PORT}\n  option splice-auto\n  server t {target}:{HTTP_PORT}\n\
             listen iperf\n  bind :{IPERF_PORT}\n  option splice-request\n  option splice-response\n  \
             server t {target}:{IPERF_PORT}\n"
        );
        fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
        let mut command = host.command("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        host.start("haproxy", command)?;
        Ok(())
    }

    /// Waits until nginx answers on each way, so that what is measured is traffic.
    fn wait_ready(&self) -> Result<()> {
        for way in Way::ALL {
            let address = (self.address(way), HTTP_PORT).into();
            let what = format!("nginx to answer on the way {:?}", way.name());
            self.client().namespace().inside(|| {
                wait_until(&what, READY_LIMIT, || {
                    http::tcp(address, "GET", "/", "", ANSWER_LIMIT).is_ok_and(|answer| answer.status == 200)
                })
            })??;
        }
        Ok(())
    }
}
