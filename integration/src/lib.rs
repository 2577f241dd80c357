//! What Tandem is tested with: a lab of network namespaces that holds a whole pair with its clients and targets, and
//! a simulation of two nodes that runs from a seed.

pub mod bench_flap;
pub mod bench_hop;
pub mod bench_http;
pub mod bench_l4;
pub mod bench_replication;
pub mod bench_survive;
pub mod bench_tcp;
pub mod bench_udp;
pub mod lab;
pub mod report;
pub mod scenario;
pub mod sim;
pub mod verdict;
