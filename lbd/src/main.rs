//! Tandem's load balancer daemon.
//!
//! `main` reads the command line; [`run`] starts the daemon: configuration, listeners, one worker thread per core
//! ([`worker`], [`executor`], [`l4`], [`l7`]) and the control runtime on the main thread (health checks, API, link to `vrrpd`, reload, signals).
//! What is decided is decided in `lbd-core`; this crate does the IO.

mod access_log;
mod acme;
mod api;
mod ask;
mod change;
mod cli;
mod clock;
mod counters;
mod discover;
mod executor;
mod flows;
mod groups;
mod l4;
mod l7;
mod lines;
mod load;
mod logging;
mod metrics;
mod otlp;
mod peer;
mod prober;
mod process;
mod random;
mod reload;
mod replication;
mod route;
mod run;
mod shared;
mod simulate;
mod site_files;
mod snapshot;
mod status;
mod stop;
mod summary;
mod tls;
mod token_keys;
mod view;
mod vrrpd_link;
mod worker;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// What is taken for a request is given back soon, in pieces of up to some KiB. For HTTP/2 that was a twelfth of what the C library's
/// allocator had of a request's time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
