//! What must be true of every node at every moment, told from its actions alone.

use std::collections::{BTreeMap, BTreeSet};

use common::ipc::Role;
use ipnet::IpNet;
use vrrpd_core::event::Event;
use vrrpd_core::node::{Action, Node, Slot};
use vrrpd_core::packet::Family;

/// The world as the node's actions leave it.
#[derive(Default)]
pub(super) struct Model {
    /// The addresses on the interface, by the router they belong to.
    addresses: BTreeMap<Slot, Vec<IpNet>>,
    /// Routers that were given their addresses, none being as good as some, and did not leave since.
    acquired: BTreeSet<Slot>,
    guarded: BTreeMap<Slot, bool>,
    roles: BTreeMap<(String, Family), Role>,
    finished: bool,
}

impl Model {
    pub(super) fn holds(&self, slot: Slot) -> bool {
        self.addresses.get(&slot).is_some_and(|held| !held.is_empty())
    }

    pub(super) fn carry_out(&mut self, action: &Action) {
        assert!(!self.finished, "nothing follows the end: {action:?}");
        match action {
            Action::AddAddresses { slot, addresses } => {
                self.acquired.insert(*slot);
                let held = self.addresses.entry(*slot).or_default();
                held.extend(addresses.iter().filter(|net| !held.contains(net)).copied().collect::<Vec<_>>());
            }
            Action::RemoveAddresses { slot, addresses } => {
                self.addresses.entry(*slot).or_default().retain(|net| !addresses.contains(net));
            }
            Action::Guard { slot, active } => {
                self.guarded.insert(*slot, *active);
                if !active {
                    self.acquired.remove(slot);
                }
            }
            Action::SendAdvert { slot, bytes, .. } => {
                // Priority 0 is the only word of a router that no longer, or not any more, serves.
                let may = self.acquired.contains(slot) || bytes[2] == 0;
                assert!(may, "router {slot} advertises without its addresses");
            }
            Action::Event(Event::Role { instance, family, from, to, .. }) => {
                let last = self.roles.insert((instance.clone(), *family), *to).unwrap_or_default();
                assert_eq!(last, *from, "the role of {instance} {family:?} changed unseen");
                assert_ne!(from, to, "a change to the same role");
            }
            Action::Finished => self.finished = true,
            _ => {}
        }
    }

    /// To be asked when there are no actions left.
    pub(super) fn check(&self, node: &Node) {
        for (slot, settings) in node.slots() {
            let role = node.role(slot).unwrap();
            let active = role == Role::Active;
            let mut held = self.addresses.get(&slot).cloned().unwrap_or_default();
            let mut wanted = if active { settings.addresses.clone() } else { vec![] };
            held.sort();
            wanted.sort();
            assert_eq!(held, wanted, "the addresses of router {slot}, which is {}", role.name());
            let guarded = self.guarded.get(&slot).copied().unwrap_or_default();
            assert_eq!(guarded, active, "whether router {slot} is guarded, which is {}", role.name());
            let owned = node.owned_until(slot).is_some();
            assert_eq!(owned, active, "whether router {slot} owns its addresses, which is {}", role.name());
            let told = self.roles.get(&(settings.instance.clone(), settings.family)).copied();
            assert_eq!(told.unwrap_or_default(), role, "the role of router {slot} as the events tell it");
        }
        let slots: Vec<Slot> = node.slots().map(|(slot, _)| slot).collect();
        for (slot, held) in &self.addresses {
            assert!(held.is_empty() || slots.contains(slot), "addresses of router {slot}, which is gone");
            assert!(held.is_empty() || !self.finished, "addresses are left behind at the end");
        }
    }
}
