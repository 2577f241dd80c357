//! The ledger: what RFC 9568 requires of a VRRP router, and of RFC 3768 what differs where version 2 is spoken, sentence by
//! sentence, with the tests that show it.
//!
//! Each entry stands beside its cases in the module of its section. `cargo test -p vrrpd-core --test ledger -- --nocapture
//! the_ledger_is_complete` prints the table. What the RFCs put in capital words is quoted; the steps of the state machine and
//! the formats are told in the RFC's words, abridged. Where a verified erratum changes a sentence, the entry names it.

#[path = "../harness/mod.rs"]
mod harness;

mod entry;
mod not_applicable;
mod s5_1;
mod s5_2;
mod s6_1;
mod s6_4_1;
mod s6_4_2;
mod s6_4_3;
mod s7_1;
mod s7_2;
mod s8;
mod version_2;
mod wire;

use std::collections::BTreeSet;
use std::path::Path;

use entry::{Entry, Place};

fn all() -> Vec<&'static Entry> {
    let sections = [
        s5_1::ENTRIES,
        s5_2::ENTRIES,
        s6_1::ENTRIES,
        s6_4_1::ENTRIES,
        s6_4_2::ENTRIES,
        s6_4_3::ENTRIES,
        s7_1::ENTRIES,
        s7_2::ENTRIES,
        s8::ENTRIES,
        not_applicable::ENTRIES,
        version_2::ENTRIES,
    ];
    let mut all: Vec<&Entry> = sections.into_iter().flatten().collect();
    all.sort_by_key(|entry| (entry.rfc, section_number(entry.section), entry.nth));
    all
}

/// The section's parts as numbers, so that 5.10 comes after 5.2.
fn section_number(section: &str) -> Vec<u32> {
    section.split('.').map(|part| part.parse().unwrap()).collect()
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is for who asks for it with --nocapture")]
fn the_ledger_is_complete() {
    let mut ids = BTreeSet::new();
    for entry in all() {
        let id = entry.id();
        assert!(ids.insert(id.clone()), "{id} twice");
        assert!(matches!(entry.rfc, 3768 | 9568), "{id}");
        assert!(entry.text.len() > 20, "{id}: {}", entry.text);
        match &entry.place {
            Place::Core { positive, negative } => assert_ne!(positive.name, negative.name, "{id}"),
            Place::Elsewhere { tests } => assert!(!tests.is_empty(), "{id}"),
            Place::Deviates { why, .. } | Place::NotApplicable { why } => {
                assert!(why.len() > 20, "{id}: {why}");
            }
        }
        println!("{}", entry.row());
    }
    println!("{} entries", ids.len());
}

/// The cases run as tests of their own too; here each runs because the ledger says so.
#[test]
fn every_case_in_the_ledger_holds() {
    for entry in all() {
        for case in entry.cases() {
            (case.run)();
        }
    }
}

#[test]
fn every_test_elsewhere_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for entry in all() {
        let Place::Elsewhere { tests } = &entry.place else { continue };
        for (file, name) in *tests {
            let text = std::fs::read_to_string(root.join(file))
                .unwrap_or_else(|error| panic!("{}: {file}: {error}", entry.id()));
            let test = text.split("#[test]").skip(1).any(|test| {
                let function = test.lines().find(|line| line.trim_start().starts_with("fn "));
                function.is_some_and(|line| line.contains(&format!("fn {name}(")))
            });
            assert!(test, "{}: no test {name} in {file}", entry.id());
        }
    }
}
