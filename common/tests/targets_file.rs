//! Files of targets: taken whole or not at all.

use std::fmt::Write as _;
use std::path::Path;

use common::config::{Diagnostics, Target, is_target_id, is_zone, parse_targets};
use proptest::prelude::*;

const FILE: &str = "# Written by the deployment.
targets = [
    { id = \"s1\", address = \"10.0.1.11:8080\", weight = 12, zone = \"z1\" },
    { id = \"s2\", address = \"10.0.1.12:8080\", backup = true, max_connections = 100 },
    { address = \"[2001:db8::3]:8080\" },
]";

fn parsed(text: &str) -> Result<Vec<Target>, Diagnostics> {
    parse_targets(text, Path::new("targets.toml"))
}

#[test]
fn a_file_is_the_list_of_a_target_group() {
    let targets = parsed(FILE).unwrap();
    let ids: Vec<&str> = targets.iter().map(|target| target.id.as_str()).collect();
    assert_eq!(ids, ["s1", "s2", "[2001:db8::3]:8080"]);
    assert_eq!((targets[0].weight, targets[0].zone.as_deref()), (12, Some("z1")));
    assert_eq!((targets[1].backup, targets[1].max_connections), (true, Some(100)));
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused() {
    for end in 0..FILE.len() {
        assert!(parsed(&FILE[..end]).is_err(), "{}", &FILE[..end]);
    }
}

#[test]
fn a_form_whose_end_cannot_be_seen_is_refused() {
    let text = "[[targets]]\naddress = \"10.0.1.11:8080\"\n\n[[targets]]\naddress = \"10.0.1.12:8080\"\n";
    let errors = parsed(text).unwrap_err();
    assert_eq!(errors.len(), 1);
    let first = errors.iter().next().unwrap();
    assert_eq!((first.line(), first.column()), (1, 1));
    assert!(first.message().contains("expected one list, targets = [{"), "{errors}");
}

#[test]
fn every_error_is_told_with_its_place() {
    let text = FILE.replace("weight = 12", "weight = 300").replace("backup", "bakcup").replace("s2", "s1");
    let errors = parsed(&text).unwrap_err().to_string();
    for part in ["targets.toml:3:", "300", "targets.toml:4:", "did you mean `backup`?", "\"s1\"", "3 errors"]
    {
        assert!(errors.contains(part), "{part} in {errors}");
    }
}

#[test]
fn thousands_of_targets_are_read() {
    let mut text = "targets = [\n".to_owned();
    for host in 0..4096 {
        writeln!(text, "{{ address = \"10.0.{}.{}:80\" }},", host / 256, host % 256).unwrap();
    }
    text.push_str("]\n");
    assert_eq!(parsed(&text).unwrap().len(), 4096);
}

#[test]
fn ids_and_zones_are_checked_like_those_of_the_file() {
    for (text, id, zone) in
        [("a", true, true), ("", false, false), ("10.0.0.1:80", true, false), ("a b", false, false)]
    {
        assert_eq!((is_target_id(text), is_zone(text)), (id, zone), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_refused_without_panic(text in "[ -~\\n]{0,80}|\\PC{0,40}") {
        prop_assume!(!text.contains("targets"));
        prop_assert!(parsed(&text).is_err());
    }

    #[test]
    fn a_file_with_replaced_parts_is_read_or_refused(at in 0..FILE.len(), length in 0_usize..40, piece in "[ -~\\n]{0,12}") {
        let end = (at + length).min(FILE.len());
        let text = format!("{}{piece}{}", &FILE[..at], &FILE[end..]);
        if let Err(errors) = parsed(&text) {
            prop_assert!(errors.len() > 0 && !errors.to_string().is_empty());
        }
    }
}
