//! Flows as people see them, and which of them they ask for.

use std::net::{IpAddr, SocketAddr};

use common::config::Protocol;
use common::time::Duration;
use serde::{Deserialize, Serialize};

use super::abi::{
    Flow, FlowKey, MODE_DSR, STATE_CLIENT_FIN, STATE_ESTABLISHED, STATE_RESET, STATE_TARGET_FIN, STATE_UDP,
    Service, duration_of,
};
use super::expiry;

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// The client has not answered yet.
    Opening,
    /// A connection.
    Established,
    /// A connection that has been closed.
    Closing,
    /// A connection that was reset.
    Reset,
    /// Datagrams.
    Datagrams,
}

impl FlowState {
    /// That of a flow of the service.
    #[must_use]
    pub const fn of(flow: &Flow, service: &Service) -> Self {
        let state = flow.state;
        let closed =
            state & STATE_CLIENT_FIN != 0 && (state & STATE_TARGET_FIN != 0 || service.mode == MODE_DSR);
        if state & STATE_UDP != 0 {
            Self::Datagrams
        } else if state & STATE_RESET != 0 {
            Self::Reset
        } else if closed {
            Self::Closing
        } else if state & STATE_ESTABLISHED != 0 {
            Self::Established
        } else {
            Self::Opening
        }
    }

    /// The word for it in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
            Self::Datagrams => "datagrams",
        }
    }
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Connections or datagrams; none for what else a map may hold.
    pub protocol: Option<Protocol>,
    /// Where it comes from.
    pub client: SocketAddr,
    /// What it asked for.
    pub vip: SocketAddr,
    /// Where it is in its life.
    pub state: FlowState,
    /// The source port towards the target, where the source is the VIP.
    pub nat_port: Option<u16>,
    /// Since its last packet that was noted: more than it really is, by a sixteenth of the time-out and 16 s at most.
    pub idle: Duration,
    /// Until it is forgotten, if no packet comes.
    pub remaining: Duration,
}

impl View {
    /// That of an entry of `flows` at the tick `now`.
    #[must_use]
    pub fn of(key: &FlowKey, flow: &Flow, service: &Service, now: u32) -> Self {
        Self {
            protocol: Protocol::of_number(key.protocol),
            client: key.client(),
            vip: key.service(),
            state: FlowState::of(flow, service),
            nat_port: Some(flow.port.0).filter(|port| *port != 0),
            idle: duration_of(expiry::silence(flow, now)),
            remaining: duration_of(expiry::remaining(flow, service, now)),
        }
    }
}

/// Which flows are asked for: those that fit everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Of this service.
    pub service: Option<String>,
    /// At this target: `ID` or `GROUP/ID`.
    pub target: Option<String>,
    /// Of this client.
    pub client: Option<IpAddr>,
    /// To this virtual IP.
    pub vip: Option<IpAddr>,
    /// Connections or datagrams.
    pub protocol: Option<Protocol>,
    /// In this state.
    pub state: Option<FlowState>,
}

impl Filter {
    /// Whether the flow is asked for as far as its key says; cheap, for tables of a million.
    #[must_use]
    pub fn fits_key(&self, key: &FlowKey) -> bool {
        self.client.is_none_or(|client| key.source == client.into())
            && self.vip.is_none_or(|vip| key.destination == vip.into())
            && self.protocol.is_none_or(|protocol| key.protocol == protocol.number())
    }

    /// Whether it is asked for as far as names and state say. A target is named by group and id.
    #[must_use]
    pub fn fits(&self, state: FlowState, service: &str, target: (&str, &str)) -> bool {
        let (group, id) = target;
        let is_target = |wanted: &String| {
            wanted == id || wanted.strip_prefix(group).and_then(|rest| rest.strip_prefix('/')) == Some(id)
        };
        self.state.is_none_or(|wanted| wanted == state)
            && self.service.as_ref().is_none_or(|wanted| wanted == service)
            && self.target.as_ref().is_none_or(is_target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::abi::{Be16, MODE_NAT};

    fn entry() -> (FlowKey, Flow, Service) {
        let key = FlowKey::new(6, "192.0.2.9:4660".parse().unwrap(), "203.0.113.10:443".parse().unwrap());
        let flow = Flow { seen: 160, state: STATE_ESTABLISHED, port: Be16(2000), ..Flow::default() };
        let service = Service { mode: MODE_NAT, established_ticks: 5600, ..Service::default() };
        (key, flow, service)
    }

    #[test]
    fn a_flow_is_shown_as_it_is() {
        let (key, mut flow, service) = entry();
        let view = View::of(&key, &flow, &service, 320);
        assert_eq!(view.protocol, Some(Protocol::Tcp));
        assert_eq!(
            (view.client.to_string(), view.vip.to_string()),
            ("192.0.2.9:4660".into(), "203.0.113.10:443".into())
        );
        assert_eq!((view.state.name(), view.nat_port), ("established", Some(2000)));
        assert_eq!((view.idle, view.remaining), (Duration::from_secs(10), Duration::from_secs(356)));
        flow.port = Be16(0);
        assert_eq!(View::of(&key, &flow, &service, 320).nat_port, None);
    }

    #[test]
    fn states_have_words() {
        let (_, flow, service) = entry();
        let dsr = Service { mode: MODE_DSR, ..service };
        let word = |state, service| FlowState::of(&Flow { state, ..flow }, service).name();
        let fins = STATE_ESTABLISHED | STATE_CLIENT_FIN;
        assert_eq!([word(0, &service), word(STATE_UDP, &service)], ["opening", "datagrams"]);
        assert_eq!([word(fins, &service), word(fins, &dsr)], ["established", "closing"]);
        assert_eq!(word(fins | STATE_TARGET_FIN | STATE_RESET, &service), "reset");
    }

    #[test]
    fn filters_take_what_fits_all_of_them() {
        let (key, ..) = entry();
        let all = Filter::default();
        assert!(all.fits_key(&key) && all.fits(FlowState::Closing, "web", ("shop", "s1")));
        let keys = |client: &str, vip: &str, protocol| Filter {
            client: client.parse().ok(),
            vip: vip.parse().ok(),
            protocol,
            ..Filter::default()
        };
        assert!(keys("192.0.2.9", "203.0.113.10", Some(Protocol::Tcp)).fits_key(&key));
        assert!(!keys("192.0.2.8", "", None).fits_key(&key));
        assert!(!keys("", "192.0.2.9", None).fits_key(&key));
        assert!(!keys("", "", Some(Protocol::Udp)).fits_key(&key));
        let target = |text: &str| Filter { target: Some(text.to_owned()), ..Filter::default() };
        for (text, fits) in
            [("s1", true), ("shop/s1", true), ("shop/s2", false), ("sho/ps1", false), ("shop", false)]
        {
            assert_eq!(target(text).fits(FlowState::Closing, "web", ("shop", "s1")), fits, "{text}");
        }
        let service = Filter { service: Some("dns".to_owned()), ..Filter::default() };
        assert!(!service.fits(FlowState::Closing, "web", ("shop", "s1")));
        let state = Filter { state: Some(FlowState::Reset), ..Filter::default() };
        assert!(!state.fits(FlowState::Closing, "web", ("shop", "s1")));
    }
}
