//! What the documents say is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use integration::bench_l4::TARGETS;
use integration::bench_l4::memory::PER_FLOW_MAX;
use lbd_core::forward::abi::{Abi, Flow, FlowKey, HALF_OPEN_SETS, HalfOpenSet, NAT_PORTS, Ring, Slot};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fenced blocks of a language in a Markdown text, with the indentation of list items taken off.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(usize, Vec<&str>)> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match &mut open {
            None if line.trim() == format!("```{language}") => open = Some((indent, Vec::new())),
            None => {}
            Some((_, lines)) if line.trim() == "```" => {
                found.push(lines.join("\n"));
                open = None;
            }
            Some((outer, lines)) => lines.push(line.get(*outer..).unwrap_or_default()),
        }
    }
    found
}

#[test]
fn the_readme_s_configuration_passes_check() {
    let examples = blocks(&read("README.md"), "toml");
    assert!(!examples.is_empty(), "the README has no configuration");
    for example in examples {
        if let Err(errors) = common::config::parse(&example, Path::new("README.md")) {
            panic!("{errors}");
        }
    }
}

/// Names like `tandem_vrrp_role` in a text.
fn metric_names(text: &str, prefix: &str) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_readme_lists_every_metric() {
    let readme = read("README.md");
    for (source, prefix) in [("vrrpd/src/metrics.rs", "tandem_vrrp_"), ("lbd/src/metrics.rs", "tandem_lbd_")]
    {
        let documented: String = read(source).lines().take_while(|line| line.starts_with("//!")).collect();
        let expected = metric_names(&documented, prefix);
        assert!(expected.len() > 10, "{source} documents its metrics");
        assert_eq!(metric_names(&readme, prefix), expected);
    }
}

#[test]
fn files_that_documents_name_exist() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let named = text
            .split(['`', '(', ')', ' ', '\n'])
            .map(|word| word.trim_end_matches(['/', ',', '.', ';', ']']));
        for word in named {
            let of_ours = [
                "scripts/",
                "configs/",
                "vrrpd/src",
                "vrrpd/core",
                "lbd/src",
                "lbd/core",
                "common/src",
                "integration/",
            ]
            .iter()
            .any(|start| word.starts_with(start));
            assert!(!of_ours || root().join(word).exists(), "{document} names {word}, which does not exist");
        }
    }
}

/// Bytes that the kernel (64 bits) adds to an element of a hash: its place in its bucket and among the free ones, and its hash.
const ELEMENT_BYTES: u64 = 48;

/// A bucket: the head of a list, and a lock. There are as many as elements, rounded up to a power of two.
const BUCKET_BYTES: u64 = 16;

/// A number as the README writes it.
fn written(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[test]
fn what_the_readme_says_of_the_kernel_s_memory_follows_from_its_maps() {
    let readme = read("README.md");
    let bytes = |each: usize, count: u64| u64::try_from(each).unwrap() * count;
    let flows = u64::from(common::config::Kernel::default().max_flows);
    let table = bytes(FlowKey::SIZE + Flow::SIZE, flows)
        + ELEMENT_BYTES * flows
        + BUCKET_BYTES * flows.next_power_of_two();
    let per_flow = |slots: usize| {
        let bytes = table + bytes(Slot::SIZE * slots, flows);
        (bytes + flows / 2) / flows
    };
    let (one_node, both) = (per_flow(2), per_flow(1));
    let aim = u64::from(PER_FLOW_MAX);
    assert!(one_node <= aim, "{one_node} bytes for a flow");
    // With all ports of as many targets as `scripts/bench l4` has, and of the most with which the aim is met.
    let (targets, of_target) = (u64::from(TARGETS), bytes(Slot::SIZE, NAT_PORTS.into()));
    let measured = (table + targets * of_target + flows / 2) / flows;
    let used = 100 * flows / (targets * u64::from(NAT_PORTS));
    let few = (aim * flows - table) / of_target;
    let [flows, table, slot, slots, ring, half_open] = [
        flows,
        table,
        bytes(Slot::SIZE, 1),
        bytes(Slot::SIZE, NAT_PORTS.into()),
        bytes(Ring::SIZE, 1),
        bytes(HalfOpenSet::SIZE, HALF_OPEN_SETS.into()),
    ]
    .map(written);
    for said in [
        format!("the {flows} flows that `kernel.max_flows` has by default takes {table} bytes"),
        format!("takes {slots} bytes besides, {slot} for each of its ports"),
        format!("a flow takes {one_node} bytes of maps for both directions"),
        format!("where both have, {both} and {one_node}."),
        format!("take {aim} bytes each at most with up to {few} targets, and {measured} with {targets},"),
        format!("since {used} % of the ports are in use then"),
        format!("table of targets takes {ring} bytes"),
        format!("the half-open flows of each processor {half_open}."),
    ] {
        // Wherever its lines end.
        let words = readme.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&said), "the README does not say that {said}");
    }
}
