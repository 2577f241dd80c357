//! What the documents say is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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
