//! `lbd simulate`.

use std::fs;

use crate::support::{Folder, command};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/simulate/heavy-target.toml");

#[test]
fn an_example_is_played_and_drawn() {
    let folder = Folder::new();
    let drawing = folder.path().join("drawing.svg");
    let arguments = ["simulate", EXAMPLE, "--svg", drawing.to_str().unwrap()];
    let output = command(folder.path(), &arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("Five targets, one three times as heavy\n1000 connections"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("least_connections ")), "{text}");
    assert!(text.ends_with(&format!("drawn in {}\n", drawing.display())), "{text}");
    assert!(fs::read_to_string(drawing).unwrap().starts_with("<svg "));
    // Without a drawing it says the same.
    let again = command(folder.path(), &["simulate", EXAMPLE]).output().unwrap();
    assert_eq!(text.split("\ndrawn in").next().unwrap().as_bytes(), again.stdout);
}

#[test]
fn mistakes_are_told_with_the_file_s_name() {
    let folder = Folder::new();
    let file = folder.path().join("bad.toml");
    let failure = |arguments: &[&str]| {
        let output = command(folder.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let path = file.to_str().unwrap();
    assert!(failure(&["simulate", path]).contains(&format!("cannot read the workload {path}")));
    fs::write(&file, fs::read_to_string(EXAMPLE).unwrap().replace("clients = 300", "clients = 0")).unwrap();
    let text = failure(&["simulate", path]);
    assert!(
        text.contains(&format!("{path} cannot be played: `clients` is 0, but must be 1 to 1000000")),
        "{text}"
    );
    fs::write(&file, "clients = [").unwrap();
    assert!(failure(&["simulate", path]).contains("TOML parse error at line 1"));
    let unwritable = folder.path().join("missing/drawing.svg");
    let text = failure(&["simulate", EXAMPLE, "--svg", unwritable.to_str().unwrap()]);
    assert!(text.contains("cannot write the drawing to"), "{text}");
}
