//! How the other node is reached in the network of an instance.

/// How.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// It is a neighbour there, and gets frames.
    #[default]
    Lan,
    /// It is none: its packets go through a tunnel over the link between the nodes.
    Tunnel,
}

impl Way {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Tunnel => "tunnel",
        }
    }

    /// By what is known of the other node's addresses in that network; none while that is not enough.
    pub fn of(addresses: &[Seen]) -> Option<Self> {
        let any = |answers| addresses.iter().any(|seen| seen.on_link && seen.answers == answers);
        // Who has no addresses there cannot be asked for. By its Ethernet address it can be reached all the same.
        if addresses.is_empty() || any(Some(true)) {
            return Some(Self::Lan);
        }
        if any(None) { None } else { Some(Self::Tunnel) }
    }
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Packets for it go out of the virtual IPs' interface, to no router.
    pub on_link: bool,
    /// Whether its host answers there, with the Ethernet address that the other node says it has; none before it had the time to.
    pub answers: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_on_the_link_and_answers() {
        let seen = |on_link, answers| Seen { on_link, answers };
        assert_eq!(Way::of(&[]), Some(Way::Lan));
        assert_eq!(Way::of(&[seen(true, None)]), None, "not asked yet");
        assert_eq!(Way::of(&[seen(true, Some(true))]), Some(Way::Lan));
        assert_eq!(Way::of(&[seen(true, Some(false))]), Some(Way::Tunnel));
        assert_eq!(Way::of(&[seen(false, None)]), Some(Way::Tunnel));
        assert_eq!(Way::of(&[seen(true, None), seen(true, Some(true))]), Some(Way::Lan), "one is enough");
        assert_eq!(Way::of(&[seen(true, None), seen(true, Some(false))]), None, "all have to fail");
        assert_eq!(Way::of(&[seen(false, None), seen(true, Some(false))]), Some(Way::Tunnel));
    }
}
