//! `vrrpd` on one node and Debian's keepalived on the other: each takes over from the other and gives way to it, whatever
//! the version, address family, transport and interval, and nobody answers for a VIP beside its owner.

mod captured;
mod disagreement;
mod example;
mod keepalived;
mod pair;
mod takeover;
mod virtual_mac;
