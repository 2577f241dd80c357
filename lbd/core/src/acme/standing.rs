//! Which of the nodes orders.

use common::ipc::Role;
use common::time::Duration;

/// So long a node that has just started waits for what the other one knows before it orders anything itself.
pub const SETTLE: Duration = Duration::from_secs(10);

/// What decides whether this node orders a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Whether there is another node.
    pub is_paired: bool,
    /// Whether this is the first node of the file.
    pub is_first: bool,
    /// This node's role for the instance whose virtual IP the first service with the names listens on; none if they are the node's own
    /// addresses, or `vrrpd` has not said.
    pub role: Option<Role>,
    /// Whether the names' services listen on virtual IPs.
    pub on_virtual_ip: bool,
    /// Whether the nodes tell each other of certificates at all.
    pub is_replicated: bool,
    /// Whether this node knows what the other one has to tell.
    pub in_step: bool,
    /// How long this process has run.
    pub uptime: Duration,
}

/// Whether this node is the one that orders: the only one; or the one that has the virtual IP, where the authority asks; or, where the
/// nodes listen on addresses of their own, the first in the file, and the other one as long as that is not to be heard. A node that has just
/// started hears first what the other one has.
#[must_use]
pub fn may_order(situation: Situation) -> bool {
    let Situation { is_paired, is_first, role, on_virtual_ip, is_replicated, in_step, uptime } = situation;
    if !is_paired {
        return true;
    }
    if is_replicated && !in_step && uptime < SETTLE {
        return false;
    }
    let hears = is_replicated && in_step;
    if on_virtual_ip { role == Some(Role::Active) } else { is_first || !hears }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Situation = Situation {
        is_paired: false,
        is_first: true,
        role: None,
        on_virtual_ip: false,
        is_replicated: false,
        in_step: false,
        uptime: Duration::ZERO,
    };

    const PAIRED: Situation = Situation {
        is_paired: true,
        on_virtual_ip: true,
        is_replicated: true,
        in_step: true,
        uptime: Duration::from_secs(100),
        ..ALONE
    };

    #[test]
    fn who_is_alone_orders() {
        assert!(may_order(ALONE));
        assert!(may_order(Situation { on_virtual_ip: true, ..ALONE }));
    }

    #[test]
    fn who_has_the_virtual_ip_orders() {
        for (role, expected) in [
            (Some(Role::Active), true),
            (Some(Role::Backup), false),
            (Some(Role::Fault), false),
            (Some(Role::Init), false),
            (None, false),
        ] {
            assert_eq!(may_order(Situation { role, ..PAIRED }), expected, "{role:?}");
            // The other node may be gone for good.
            assert_eq!(may_order(Situation { role, in_step: false, ..PAIRED }), expected, "{role:?}");
        }
    }

    #[test]
    fn who_has_just_started_hears_the_other_one_first() {
        let started =
            Situation { uptime: Duration::ZERO, in_step: false, role: Some(Role::Active), ..PAIRED };
        assert!(!may_order(started));
        assert!(may_order(Situation { in_step: true, ..started }));
        assert!(may_order(Situation { uptime: SETTLE, ..started }));
        assert!(may_order(Situation { is_replicated: false, ..started }), "there is nothing to hear");
    }

    #[test]
    fn of_nodes_with_addresses_of_their_own_one_orders_while_they_hear_each_other() {
        let own = Situation { on_virtual_ip: false, ..PAIRED };
        assert!(may_order(own) && !may_order(Situation { is_first: false, ..own }));
        assert!(may_order(Situation { is_first: false, in_step: false, ..own }), "the first one may be gone");
        let apart = Situation { is_first: false, is_replicated: false, in_step: false, ..own };
        assert!(may_order(apart), "each is for itself");
    }
}
