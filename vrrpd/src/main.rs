//! `vrrpd`: see the library of the same name.

use std::process::ExitCode;

use clap::Parser;
use vrrpd::cli::Cli;
use vrrpd::{run, warden};

fn main() -> ExitCode {
    // The daemon starts its warden as itself with this one word; it is no command for people.
    if std::env::args().nth(1).as_deref() == Some(warden::SUBCOMMAND) {
        return warden::main();
    }
    Cli::parse().execute(run::start)
}
