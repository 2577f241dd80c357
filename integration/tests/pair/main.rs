//! Pairs in the lab: who is active, what clients notice of it, and what goes on when the role moves.

mod acme;
mod api;
mod balancer;
mod chance;
mod clients;
mod failover;
mod hostile_flood;
mod hostile_forged;
mod hostile_operator;
mod http;
mod http_lasting;
mod interop_bird;
mod kernel_both;
mod kernel_checks;
mod kernel_lease;
mod kernel_pair;
mod kernel_pair_support;
mod kernel_replication;
mod kernel_rings;
mod links;
mod pair_support;
mod power;
mod reload;
mod tls;
mod udp;
