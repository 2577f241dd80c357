//! What can be broken in a lab, and mended.

use std::net::IpAddr;

use super::clock::Window;
use super::error::Result;
use super::switch::{Direction, peer_port};
use super::{Lab, Node};

/// A fault. Hosts are named as in [`Lab::host`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The cable of a host's `eth0` is pulled at the switch: the host sees its carrier go.
    LinkDown(String),
    /// `eth0` is set down on the host itself (which also removes its IPv6 addresses and its routes).
    InterfaceDown(String),
    /// The switch drops frames of a host's LAN port, silently; its carrier stays.
    Blocked(String, Direction),
    /// The peer link drops everything, silently.
    PeerBlocked,
    /// The peer link's cable is pulled: both nodes see their carrier go.
    PeerDown,
    /// Both of a node's links drop everything, silently, from the same moment on.
    Isolated(String),
    /// Both of a node's cables are pulled.
    Unplugged(String),
    /// An address is removed from a host's `eth0` by hand.
    AddressRemoved(String, IpAddr),
    /// Every process on a node is killed (SIGKILL), all stopped before so that none can tell of another's death. Its kernel, its links
    /// and what they hold live on. Healing it does nothing: who started the daemons starts them again.
    Killed(String),
    /// A node loses its power: from one moment on nothing passes either link, and then every process on it is killed
    /// (its daemons with all their children). Healing it boots a fresh machine on the same cables: no addresses but
    /// its own, no routes, no BPF programs or maps, no processes.
    PowerLoss(String),
}

impl Fault {
    /// [`Fault::LinkDown`].
    #[must_use]
    pub fn link_down(host: &str) -> Self {
        Self::LinkDown(host.to_owned())
    }

    /// [`Fault::Blocked`] in both directions.
    #[must_use]
    pub fn blocked(host: &str) -> Self {
        Self::Blocked(host.to_owned(), Direction::Both)
    }

    /// [`Fault::Isolated`].
    #[must_use]
    pub fn isolated(host: &str) -> Self {
        Self::Isolated(host.to_owned())
    }

    /// [`Fault::PowerLoss`].
    #[must_use]
    pub fn power_loss(host: &str) -> Self {
        Self::PowerLoss(host.to_owned())
    }
}

impl Lab {
    /// Breaks something and says when. Of [`Fault::PowerLoss`] the window is that of the links: nothing gets out after
    /// `after`; the processes are gone when this returns.
    ///
    /// # Errors
    /// [`super::LabError`] when the host does not exist or a command fails.
    pub fn inject(&self, fault: &Fault) -> Result<Window> {
        match fault {
            Fault::LinkDown(host) => self.switch().carrier(&[self.host(host)?.name()], false),
            Fault::InterfaceDown(host) => self.set_interface(host, "down"),
            Fault::Blocked(host, direction) => {
                self.switch().block(&[self.host(host)?.name()], *direction, true)
            }
            Fault::PeerBlocked => self.switch().block(&["a-peer", "b-peer"], Direction::Both, true),
            Fault::PeerDown => self.switch().carrier(&["a-peer", "b-peer"], false),
            Fault::Isolated(host) => self.block_all(host, true),
            Fault::Unplugged(host) => self.plug_all(host, false),
            Fault::AddressRemoved(host, address) => self.host(host)?.remove_address(*address),
            Fault::Killed(host) => {
                let node = self.node(host)?;
                let (window, ()) = Window::around(|| node.namespace().kill_all_at_once())?;
                node.namespace().kill_all()?;
                node.forget_daemons();
                Ok(window)
            }
            Fault::PowerLoss(host) => {
                let node = self.node(host)?;
                let window = self.block_all(host, true)?;
                node.namespace().kill_all()?;
                node.forget_daemons();
                Ok(window)
            }
        }
    }

    /// Mends what [`Lab::inject`] broke and says when. An interface that was down gets the host's own addresses back,
    /// not the VIPs.
    ///
    /// # Errors
    /// [`super::LabError`] when the host does not exist or a command fails.
    pub fn heal(&self, fault: &Fault) -> Result<Window> {
        match fault {
            Fault::LinkDown(host) => self.switch().carrier(&[self.host(host)?.name()], true),
            Fault::InterfaceDown(host) => {
                let window = self.set_interface(host, "up")?;
                let host = self.host(host)?;
                if !host.holds(host.v6())? {
                    host.add_address(host.v6())?;
                }
                Ok(window)
            }
            Fault::Blocked(host, direction) => {
                self.switch().block(&[self.host(host)?.name()], *direction, false)
            }
            Fault::PeerBlocked => self.switch().block(&["a-peer", "b-peer"], Direction::Both, false),
            Fault::PeerDown => self.switch().carrier(&["a-peer", "b-peer"], true),
            Fault::Isolated(host) => self.block_all(host, false),
            Fault::Unplugged(host) => self.plug_all(host, true),
            Fault::AddressRemoved(host, address) => self.host(host)?.add_address(*address),
            Fault::Killed(host) => {
                self.node(host)?;
                Ok(Window::around(|| Ok(()))?.0)
            }
            Fault::PowerLoss(host) => {
                self.rebuild(self.node(host)?)?;
                self.block_all(host, false)
            }
        }
    }

    /// Opens every port of the switch and gives each its carrier back. Leaves the hosts as they are.
    ///
    /// # Errors
    /// [`super::LabError`] when a command fails.
    pub fn heal_switch(&self) -> Result<Window> {
        self.switch().restore()
    }

    /// A node by name.
    ///
    /// # Errors
    /// [`super::LabError::Unknown`] when it is neither `a` nor `b`.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes().into_iter().find(|node| node.name() == name);
        found.ok_or_else(|| super::LabError::Unknown {
            kind: "node",
            name: name.to_owned(),
            known: "a b".to_owned(),
        })
    }

    fn set_interface(&self, host: &str, state: &str) -> Result<Window> {
        let host = self.host(host)?;
        Ok(Window::around(|| host.ip(&format!("link set eth0 {state}")))?.0)
    }

    fn block_all(&self, host: &str, blocked: bool) -> Result<Window> {
        let ports = self.ports(host)?;
        let names: Vec<&str> = ports.iter().map(String::as_str).collect();
        self.switch().block(&names, Direction::Both, blocked)
    }

    fn plug_all(&self, host: &str, up: bool) -> Result<Window> {
        let ports = self.ports(host)?;
        let names: Vec<&str> = ports.iter().map(String::as_str).collect();
        self.switch().carrier(&names, up)
    }

    fn ports(&self, host: &str) -> Result<Vec<String>> {
        let name = self.host(host)?.name();
        Ok(std::iter::once(name.to_owned()).chain(peer_port(name)).collect())
    }
}
