//! Every error message, as it is shown: `config_errors/NAME.toml` gives `config_errors/NAME.expected`.
//!
//! After a change that is meant, write the expected texts anew with `UPDATE_EXPECTED=1 cargo test -p tandem-common
//! --test config_errors` and read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::config::{self, DIAGNOSTIC_CODES, Diagnostics};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config_errors")
}

/// Name and text of every case, by name.
fn cases() -> Vec<(String, String)> {
    let entries = fs::read_dir(folder()).unwrap();
    let mut cases: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    cases.sort();
    cases
}

fn errors(name: &str, text: &str) -> Diagnostics {
    match config::parse(text, Path::new(&format!("{name}.toml"))) {
        Ok(_) => panic!("{name}.toml has no error"),
        Err(errors) => errors,
    }
}

#[test]
fn every_case_is_shown_as_expected() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut differences = String::new();
    for (name, text) in cases() {
        let shown = format!("{}\n", errors(&name, &text));
        let path = folder().join(format!("{name}.expected"));
        if update {
            fs::write(&path, &shown).unwrap();
        } else {
            let expected = fs::read_to_string(&path).unwrap_or_default();
            if expected != shown {
                differences += &format!("--- {name}: expected\n{expected}--- {name}: shown\n{shown}");
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn every_message_has_a_case() {
    let mut missing: BTreeSet<&str> = DIAGNOSTIC_CODES.iter().copied().collect();
    for (name, text) in cases() {
        for diagnostic in &errors(&name, &text) {
            missing.remove(diagnostic.code());
        }
    }
    // What is in a file that the configuration names is not found by `parse`.
    missing.remove("UnusableFile");
    assert!(missing.is_empty(), "no case shows {missing:?}");
}

#[test]
fn what_is_wrong_with_a_named_file_is_shown_where_it_is_named() {
    let text = "[[service]]\nname = \"shop\"\nmode = \"http\"\nlisten = [\"127.0.0.1:443\"]\nforward = \"shop\"\n\
                tls = { certificates = [\"shop.pem\"] }\n[[target_group]]\nname = \"shop\"\n\
                targets = [{ address = \"10.0.1.11:8080\" }]\n";
    let config = config::parse(text, Path::new("dir/pair.toml")).unwrap();
    let tls = config.services[0].http.as_ref().unwrap().tls.as_ref().unwrap();
    let file = &tls.certificates[0].certificate;
    let wrong = [(file, "it has no key".to_owned())];
    let errors = Diagnostics::of_files(Path::new("dir/pair.toml"), text, wrong).unwrap();
    let shown = errors.to_string();
    assert!(
        shown.starts_with("dir/pair.toml:6:25: service.tls.certificates: dir/shop.pem: it has no key\n"),
        "{shown}"
    );
    assert!(shown.contains("^^^^^^^^^^"), "{shown}");
    assert_eq!(Diagnostics::of_files(Path::new("x"), text, []), None);
}

#[test]
fn every_expected_text_has_its_case() {
    let names: BTreeSet<String> = cases().into_iter().map(|(name, _)| name).collect();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(names.contains(name), "{} belongs to no case", path.display());
    }
}

/// The shape other programs rely on: each error starts with `file:line:col: message`, and the caret is under the
/// characters that start there.
#[test]
fn positions_are_where_the_carets_are() {
    for (name, text) in cases() {
        let errors = errors(&name, &text);
        let shown = errors.to_string();
        for error in &errors {
            let (line, column) = (error.line(), error.column());
            let head = format!("{name}.toml:{line}:{column}: {}", error.message());
            assert!(shown.lines().any(|shown| shown == head), "{head} is missing in\n{shown}");
            let before = &text[..error.span().start];
            assert_eq!(line, before.matches('\n').count() + 1, "{head}");
            assert_eq!(column, before.chars().rev().take_while(|c| *c != '\n').count() + 1, "{head}");
        }
    }
}
