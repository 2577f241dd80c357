//! Forwarding in the kernel of one node, in the lab.

mod access;
mod attach;
mod doctor;
mod flood;
mod forward;
mod kernel_support;
mod lossless;
mod more;
mod narrow;
mod ports;
mod shares;
mod survive;
mod throughput;
mod tunnels;
mod vlan;
