//! A lab in which node `a` runs `vrrpd` and node `b` keepalived.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use integration::lab::addresses::{Mac, mac_text, vip4, vip6};
use integration::lab::clock::{now, wait_until};
use integration::lab::config::{Instance, PairConfig};
use integration::lab::probe::{Sighting, WatchSettings, Watcher};
use integration::lab::{Lab, Node, Result};
use serde_json::Value;

use crate::keepalived::{Keepalived, complaints};

pub(crate) const INSTANCE: &str = "web";
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// How long a node has to have been the only one to answer after an event.
const SETTLED: Duration = Duration::from_millis(300);
/// How often the watcher asks.
const QUESTION_INTERVAL: Duration = Duration::from_millis(5);

/// Which node has the higher priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preferred {
    /// Node `a`.
    Vrrpd,
    /// Node `b`.
    Keepalived,
}

/// Where advertisements go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Multicast,
    /// To the other node, with IPv6 to its link-local address: the one that advertisements come from. keepalived is told
    /// to take them from there only.
    LinkLocal,
    /// To the other node, with IPv6 to its global address. keepalived has to be told that this is where it listens.
    Global,
}

/// What both nodes are set up to do.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) label: &'static str,
    pub(crate) preferred: Preferred,
    pub(crate) version: u8,
    pub(crate) vips: Vec<IpAddr>,
    pub(crate) advert_interval_ms: u32,
    pub(crate) transport: Transport,
    pub(crate) preempt: bool,
    /// Further lines of `vrrpd`'s instance.
    pub(crate) extra: String,
}

impl Setup {
    /// Version 3, multicast, both families, preempting; the checksum as keepalived reads it.
    pub(crate) fn new(label: &'static str, preferred: Preferred, advert_interval_ms: u32) -> Self {
        Self {
            label,
            preferred,
            version: 3,
            vips: vec![vip4(0).into(), vip6(0).into()],
            advert_interval_ms,
            transport: Transport::Multicast,
            preempt: true,
            extra: "checksum = \"pseudo_header\"\n".to_owned(),
        }
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(u64::from(self.advert_interval_ms))
    }

    fn priority(&self) -> (u8, u8) {
        match self.preferred {
            Preferred::Vrrpd => (200, 100),
            Preferred::Keepalived => (100, 200),
        }
    }

    /// `vrrpd`'s configuration.
    pub(crate) fn config(&self, lab: &Lab) -> PairConfig {
        let mut extra = self.extra.clone();
        if self.transport != Transport::Multicast {
            let quoted = |node| self.addresses(node).map(|address| format!("{address}"));
            let (a, b) = (quoted(lab.a()), quoted(lab.b()));
            extra.push_str(&format!("address = {{ a = {a:?}, b = {b:?} }}\n"));
        }
        if self.version == 2 {
            extra.push_str("version = 2\n");
        }
        PairConfig::new(vec![Instance {
            name: INSTANCE.to_owned(),
            priority: self.priority(),
            vips: self.vips.clone(),
            advert_interval: format!("{}ms", self.advert_interval_ms),
            preempt: self.preempt,
            auth: "none".to_owned(),
            transport: if self.transport == Transport::Multicast { "multicast" } else { "unicast" }
                .to_owned(),
            extra,
            ..Instance::default()
        }])
    }

    /// keepalived's. It compares the lists of addresses, and `vrrpd` puts the virtual router's link-local address first.
    pub(crate) fn keepalived(&self, lab: &Lab) -> Keepalived {
        let mut vips = self.vips.clone();
        if let Some(first) = vips.iter().position(IpAddr::is_ipv6) {
            vips.insert(first, link_local());
        }
        let unicast = |node| match self.transport {
            Transport::Multicast => Vec::new(),
            Transport::LinkLocal | Transport::Global => self.addresses(node).to_vec(),
        };
        let check = "  vrrp_check_unicast_src\n".to_owned();
        Keepalived {
            version: self.version,
            priority: self.priority().1,
            vips,
            advert_interval_ms: self.advert_interval_ms,
            unicast_from: unicast(lab.b()),
            unicast_to: unicast(lab.a()),
            extra: if self.preempt { String::new() } else { "  nopreempt\n".to_owned() },
            global: if self.transport == Transport::LinkLocal { check } else { String::new() },
        }
    }

    /// Where a node is sent advertisements, one address of each family.
    fn addresses(&self, node: &Node) -> [IpAddr; 2] {
        let link_local = IpAddr::from(eui64(node.mac()));
        [node.v4().into(), if self.transport == Transport::Global { node.v6().into() } else { link_local }]
    }
}

/// The link-local address that the kernel makes of a MAC address.
fn eui64(mac: Mac) -> [u8; 16] {
    let [a, b, c, d, e, f] = mac;
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// The virtual router's MAC address for the family of an address; the VRID is 51.
pub(crate) fn virtual_mac(vip: IpAddr) -> Mac {
    [0, 0, 0x5e, 0, if vip.is_ipv4() { 1 } else { 2 }, 51]
}

/// The link-local address of virtual router 51, made of its MAC address.
pub(crate) fn link_local() -> IpAddr {
    IpAddr::from(eui64(virtual_mac(Ipv6Addr::UNSPECIFIED.into())))
}

/// The pair, watched from the LAN.
pub(crate) struct Pair {
    pub(crate) lab: Lab,
    pub(crate) setup: Setup,
    pub(crate) keepalived: Keepalived,
    pub(crate) watcher: Watcher,
}

impl Pair {
    /// Builds the lab and starts neither.
    pub(crate) fn new(setup: Setup) -> Result<Self> {
        let lab = Lab::builder(setup.label).targets(0).build()?;
        lab.write_config(&setup.config(&lab))?;
        let keepalived = setup.keepalived(&lab);
        let watcher = Watcher::start(&lab, WatchSettings::new(&setup.vips))?;
        Ok(Self { lab, setup, keepalived, watcher })
    }

    pub(crate) fn start_vrrpd(&self) -> Result<()> {
        self.lab.a().start_vrrpd().map(drop)
    }

    pub(crate) fn start_keepalived(&self) -> Result<()> {
        self.keepalived.start(self.lab.b())
    }

    /// Waits until `owner` alone answers for every VIP, and was the last to announce it.
    pub(crate) fn wait_owner(&self, owner: &Node) -> Result<()> {
        self.wait_owner_for(owner, SETTLED)
    }

    /// Like [`Pair::wait_owner`], with how long this has to have been so.
    fn wait_owner_for(&self, owner: &Node, time: Duration) -> Result<()> {
        let questions =
            usize::try_from(time.as_millis() / QUESTION_INTERVAL.as_millis()).unwrap_or(usize::MAX);
        for vip in &self.setup.vips {
            // The announcement first: where a dead node left its address behind, it alone answered until then.
            self.wait_announced(*vip, owner.mac())?;
            self.watcher.wait_owner(*vip, owner.mac(), questions, LIMIT)?;
            // And after it, for the other one may have had it in between; keepalived repeats its announcements.
            self.wait_announced(*vip, owner.mac())?;
        }
        Ok(())
    }

    /// Waits until `mac` was the last to announce a VIP.
    pub(crate) fn wait_announced(&self, vip: IpAddr, mac: Mac) -> Result<()> {
        wait_until(&format!("{} to be the last to announce {vip}", mac_text(mac)), LIMIT, || {
            self.watcher.snapshot().last_announcement(vip).is_some_and(|last| last.mac == mac)
        })
    }

    /// Waits until `time` has passed and sees that nobody but `owner` answers meanwhile.
    pub(crate) fn stays(&self, owner: &Node, time: Duration) -> Result<()> {
        let start = now();
        wait_until("time to pass", LIMIT, || now() - start >= time)?;
        let seen = self.watcher.snapshot();
        for vip in &self.setup.vips {
            let others = |answer: &&Sighting| {
                answer.vip == *vip
                    && answer.at > start
                    && answer.mac != owner.mac()
                    && answer.question.is_some()
            };
            assert_eq!(seen.sightings.iter().find(others), None, "{}", self.setup.label);
        }
        self.wait_owner_for(owner, time)
    }

    /// Waits for a role of `vrrpd`.
    pub(crate) fn wait_role(&self, role: &str) -> Result<()> {
        self.lab.a().wait_role(INSTANCE, role, LIMIT)
    }

    /// Why `vrrpd` dropped advertisements, or would have if it were strict, with how often.
    pub(crate) fn drops(&self) -> Result<Vec<(String, u64)>> {
        let status: Value = self.lab.a().get("vrrpd", "/v1/status")?.json()?;
        let mut found = Vec::new();
        collect_drops(&status, &mut found);
        Ok(found)
    }

    /// Ends it: `owner` keeps the VIPs, never did both nodes answer for one for longer than an interval, and keepalived did
    /// not complain of what it received.
    pub(crate) fn finish(self, owner: fn(&Lab) -> &Node) -> Result<()> {
        // A node that does not hear the other takes less than four intervals to become active beside it.
        self.wait_owner_for(owner(&self.lab), self.setup.interval() * 4)?;
        let (label, interval) = (self.setup.label, self.setup.interval());
        let report = self.end()?;
        for (vip, longest) in report {
            assert!(longest <= interval, "{label}: two answered for {vip} for {longest:?}");
        }
        Ok(())
    }

    /// Ends it and returns how long at most two different hardware addresses were given for each VIP.
    pub(crate) fn end(self) -> Result<Vec<(IpAddr, Duration)>> {
        let Self { lab, setup, watcher, .. } = self;
        let report = watcher.stop()?;
        let log = lab.b().log("keepalived");
        assert_eq!(complaints(&log), Vec::<&str>::new(), "{}: keepalived's complaints", setup.label);
        let longest = |vip| report.longest_overlap(vip).map(|overlap| overlap.length()).unwrap_or_default();
        let overlaps = setup.vips.iter().map(|vip| (*vip, longest(*vip))).collect();
        lab.finish()?;
        Ok(overlaps)
    }
}

fn collect_drops(value: &Value, found: &mut Vec<(String, u64)>) {
    match value {
        Value::Object(fields) => {
            if let (Some(reason), Some(count)) = (fields.get("reason"), fields.get("count")) {
                found.push((
                    reason.as_str().unwrap_or_default().to_owned(),
                    count.as_u64().unwrap_or_default(),
                ));
            }
            fields.values().for_each(|value| collect_drops(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_drops(value, found)),
        _ => {}
    }
}
