//! How long what is open may go on once the daemon stops.

use common::ipc::Role;
use common::time::Duration;

/// Of connections whose addresses are still here: there is no other node, or it did not take them over.
pub const GRACE: Duration = Duration::from_secs(30);

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
    let is_elsewhere = |it: Standing| it.left && it.role.is_some_and(|role| role != Role::Active);
    let any = other_node_is_known && instances.into_iter().any(is_elsewhere);
    drain_timeouts.into_iter().max().filter(|_| any).map(|longest| longest + SWEPT)
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
}
