//! How long what is open may go on once the daemon stops, and where it listens on for a while.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use common::ipc::Role;
use common::time::Duration;

/// Of connections whose addresses are still here: there is no other node, or it did not take them over.
pub const GRACE: Duration = Duration::from_secs(30);

/// After the last connection has been closed: what the kernel has yet to deliver of those that came by virtual IPs that have left. Of who does
/// not acknowledge it by then, no more is delivered than the other node sends on for [`LEASE`](crate::chance::LEASE) from then.
pub const DELIVERY: Duration = Duration::from_secs(10);

/// Until the sweep has come by all connections whose time is over.
const SWEPT: Duration = Duration::from_secs(2);

/// A VRRP instance at the time of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// This node's role; none if `vrrpd` does not say it.
    pub role: Option<Role>,
    /// Whether its virtual IPs were here and have left, and connections that they brought may still be open.
    pub left: bool,
}

impl Standing {
    /// Whether the other node has its virtual IPs, and this one may have connections that they brought.
    #[must_use]
    pub fn is_elsewhere(self) -> bool {
        self.left && self.role.is_some_and(|role| role != Role::Active)
    }
}

/// How long connections of virtual IPs that have left may go on, from when nothing new is accepted; none if there are none such.
///
/// As long as the groups' `drain_timeout`s let them, whatever else is still here: the other node sends on what is for them, if it is known.
/// Else they are dead already, as they are without a `vrrpd`, which takes the way to the virtual IPs with it.
#[must_use]
pub fn elsewhere(
    instances: impl IntoIterator<Item = Standing>,
    other_node_is_known: bool,
    drain_timeouts: impl IntoIterator<Item = Duration>,
) -> Option<Duration> {
    let any = other_node_is_known && instances.into_iter().any(Standing::is_elsewhere);
    drain_timeouts.into_iter().max().filter(|_| any).map(|longest| longest + SWEPT)
}

/// Whether a listener makes the connections of one of these addresses, perhaps among others.
#[must_use]
pub fn listens_at(listener: SocketAddr, addresses: &BTreeSet<SocketAddr>) -> bool {
    addresses.iter().any(|at| {
        let any = listener.ip().is_unspecified() && listener.is_ipv4() == at.is_ipv4();
        listener.port() == at.port() && (any || listener.ip() == at.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Standing = Standing { role: Some(Role::Active), left: false };
    const GONE: Standing = Standing { role: Some(Role::Backup), left: true };

    #[test]
    fn what_has_left_goes_on_whatever_is_still_here() {
        let timeouts = [5, 300, 60].map(Duration::from_secs);
        let longest = Some(Duration::from_secs(302));
        assert_eq!(elsewhere([GONE], true, timeouts), longest);
        assert_eq!(elsewhere([HERE, GONE], true, timeouts), longest);
        assert_eq!(elsewhere([GONE, HERE], false, timeouts), None, "nobody sends anything on");
        assert_eq!(elsewhere([HERE], true, timeouts), None);
        assert_eq!(elsewhere([], true, timeouts), None);
        assert_eq!(elsewhere([GONE], true, []), None, "there is nothing to serve");
    }

    #[test]
    fn what_was_never_here_or_is_over_keeps_nobody() {
        let timeouts = [Duration::from_secs(300)];
        let backup = Standing { role: Some(Role::Backup), left: false };
        assert_eq!(elsewhere([backup, HERE], true, timeouts), None);
        let alone = Standing { role: None, ..GONE };
        assert_eq!(elsewhere([alone], true, timeouts), None, "vrrpd is gone");
        let fault = Standing { role: Some(Role::Fault), ..GONE };
        assert_eq!(elsewhere([fault], true, timeouts), Some(Duration::from_secs(302)));
    }

    #[test]
    fn what_listens_at_an_address_or_at_any_makes_its_connections() {
        let at = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        let left = BTreeSet::from(["192.0.2.10:80", "[2001:db8::10]:443"].map(at));
        let all = [
            ("192.0.2.10:80", true),
            ("0.0.0.0:80", true),
            ("[::]:443", true),
            ("192.0.2.10:443", false),
            ("192.0.2.2:80", false),
            ("[::]:80", false),
            ("0.0.0.0:443", false),
        ];
        for (listener, expected) in all {
            assert_eq!(listens_at(at(listener), &left), expected, "{listener}");
        }
        assert!(!listens_at(at("0.0.0.0:80"), &BTreeSet::new()));
    }
}
