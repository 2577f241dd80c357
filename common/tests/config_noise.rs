//! Whatever the file holds, checking it ends soon, and with errors rather than a panic.

use std::path::Path;
use std::time::{Duration, Instant};

use common::config;
use proptest::prelude::*;

const FULL: &str = include_str!("../../configs/full.toml");

/// Far more than even a file of a megabyte takes on a busy machine; something that grows with the square of the size would
/// take longer still.
const SOON: Duration = Duration::from_secs(60);

/// Checks the text and shows what is found. The answer is whether it is right.
fn check(text: &str) -> bool {
    let start = Instant::now();
    let result = config::parse(text, Path::new("noise.toml"));
    if let Err(errors) = &result {
        assert!(errors.len() > 0);
        assert!(!errors.to_string().is_empty());
    }
    assert!(start.elapsed() < SOON, "checking took {:?}", start.elapsed());
    result.is_ok()
}

/// What is put into a file to spoil it.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~\\n]{0,12}",
        "\\PC{0,6}",
        Just("\"".to_owned()),
        Just("[[vrrp]]\n".to_owned()),
        Just("[[service]]\n".to_owned()),
        Just("= { a = 1, b = [".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("-1".to_owned()),
        Just("0x7f".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("\"🦀\u{202e}\\u0000\"".to_owned()),
        Just("\r\n\u{feff}".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_cut_anywhere(at in 0..FULL.len()) {
        check(&FULL[..FULL.floor_char_boundary(at)]);
        check(&FULL[FULL.floor_char_boundary(at)..]);
    }

    #[test]
    fn a_file_with_replaced_parts(edits in prop::collection::vec((0..FULL.len(), 0..40_usize, piece()), 1..6)) {
        let mut text = FULL.to_owned();
        for (at, length, piece) in edits {
            let start = text.floor_char_boundary(at);
            let end = text.ceil_char_boundary(start + length).min(text.len());
            text.replace_range(start..end, &piece);
        }
        check(&text);
    }

    #[test]
    fn a_file_with_values_exchanged(pairs in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8)) {
        let lines: Vec<&str> = FULL.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).collect();
        let mut text = FULL.to_owned();
        for (into, from) in pairs {
            let (into, from) = (into.get(&lines), from.get(&lines));
            let (Some((key, _)), Some((_, value))) = (into.split_once(" = "), from.split_once(" = ")) else { continue };
            text = text.replacen(*into, &format!("{key} = {value}"), 1);
        }
        check(&text);
    }

    #[test]
    fn no_file_at_all(text in "\\PC{0,200}") {
        check(&text);
    }
}

/// A mutation test that only ever saw broken files, or only right ones, would show little.
#[test]
fn the_unspoilt_file_is_right() {
    assert!(check(FULL));
    let cut = FULL.find("vrid").expect("an instance has a number");
    assert!(!check(&FULL[..cut]));
}

#[test]
fn large_and_deep_files_are_checked_soon() {
    assert!(!check(&"[[vrrp]]\nvips = [\"10.0.0.1/24\"]\n".repeat(20_000)));
    assert!(!check(&format!("x = {}", "[".repeat(200_000))));
    assert!(!check(&format!("{} = 1", "a.".repeat(100_000))));
    assert!(!check(&(0..50_000).map(|n| format!("unknown_{n} = 1\n")).collect::<String>()));
    let targets = |weight: &str| {
        let target = |n| format!("{{ address = \"10.{}.{}.1:80\", weight = {weight} }},", n / 256, n % 256);
        let service =
            "[[service]]\nname = \"s\"\nmode = \"tcp\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\n";
        format!(
            "{service}[[target_group]]\nname = \"g\"\ntargets = [{}]",
            (0..20_000).map(target).collect::<String>()
        )
    };
    assert!(check(&targets("1")));
    // Twenty thousand errors on one line of a megabyte.
    assert!(!check(&targets("x = 1")));
    assert!(!check(&targets("-1")));
}

/// References are looked up, guessed at and expanded: none of it may take the product of two lengths.
#[test]
fn many_references_are_checked_soon() {
    let many = |line: &dyn Fn(usize) -> String| (0..12_000).map(line).collect::<String>();
    let groups = many(&|n| format!("[[target_group]]\nname = \"g{n}\"\n"));
    let services = many(&|n| format!("[[service]]\nname = \"s{n}\"\nforward = \"h{n}\"\n"));
    assert!(!check(&format!("{groups}{services}")));
    let vips = many(&|n| format!("\"10.{}.{}.1/24\",", n / 256, n % 256));
    let listen = "\"@web:80\", \"192.0.2.1:80\",".repeat(12_000);
    assert!(!check(&format!("[[vrrp]]\nname = \"web\"\nvips = [{vips}]\n[[service]]\nlisten = [{listen}]")));
    let names = many(&|n| format!("\"x{n}.example.com\","));
    let rules =
        many(&|n| format!("[[service.rule]]\nwhen = {{ sni = [\"y{n}.example.com\"] }}\nforward = \"h\"\n"));
    assert!(!check(&format!("[[service]]\n[[service.rule]]\nwhen = {{ sni = [{names}] }}\n{rules}")));
    let networks = many(&|n| format!("\"10.{}.{}.0/24\",", n / 256, n % 256));
    assert!(!check(&format!("[[service]]\naccess = {{ allow = [{networks}], deny = [{networks}] }}\n")));
    let nodes = many(&|n| format!("[[node]]\nname = \"n{n}\"\n"));
    let priorities = many(&|n| format!("n{n} = 1,"));
    assert!(!check(&format!("{nodes}[[vrrp]]\npriority = {{ {priorities} }}")));
}
