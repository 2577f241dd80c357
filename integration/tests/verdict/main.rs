//! The forwarding program against the oracle, packet by packet (needs root). One test program, because loading the
//! programs takes the kernel's verifier seconds.

mod checks;
mod checksums;
mod icmp;
mod limits;
mod next_hops;
mod others;
mod ownership;
mod paths;
mod ports;
mod random;
mod rules;
mod seed;
mod told;

use std::panic::{AssertUnwindSafe, catch_unwind};

use integration::verdict::compare::Pair;
use integration::verdict::harness::{PROGRAMS, program};
use integration::verdict::sample::Path;

/// Runs for each path and each program on a node that has seen nothing. All are tried before a failure is told.
fn each(paths: Vec<Path>, mut check: impl FnMut(&Path, &mut Pair<'_>)) {
    let mut harness = program();
    let mut failed = Vec::new();
    for path in paths {
        for program in PROGRAMS {
            let mut pair = Pair::new(&mut harness, program, path.world.clone());
            let checked = catch_unwind(AssertUnwindSafe(|| check(&path, &mut pair)));
            if checked.is_err() {
                failed.push(format!("{} by {program:?}", path.name));
            }
        }
    }
    assert!(failed.is_empty(), "failed (in this order above), with {}: {failed:#?}", seed::replay());
}
