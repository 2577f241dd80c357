//! Forwarding in the kernel of one node, in the lab.

mod access;
mod attach;
mod capabilities;
mod counters;
mod doctor;
mod flood;
mod former;
mod forward;
mod kernel_support;
mod lossless;
mod lossless_beside;
mod lossless_routes;
mod more;
mod narrow;
mod ping;
mod ports;
mod shares;
mod survive;
mod throughput;
mod tunnels;
mod vlan;
