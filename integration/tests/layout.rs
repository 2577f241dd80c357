//! The shape of the tree: folders, file lengths, and which crate may use which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDERS: [&str; 6] = ["common", "configs", "integration", "lbd", "scripts", "vrrpd"];
const LINES_MAX: usize = 800;

/// Each crate of ours and those of ours it may use: `common` ← cores ← daemons ← `integration`.
const MAY_USE: [(&str, &[&str]); 6] = [
    ("tandem-common", &[]),
    ("vrrpd-core", &["tandem-common"]),
    ("lbd-core", &["tandem-common"]),
    ("vrrpd", &["tandem-common", "vrrpd-core"]),
    ("lbd", &["tandem-common", "lbd-core"]),
    ("integration", &["tandem-common", "vrrpd-core", "lbd-core", "vrrpd", "lbd"]),
];

/// Crates that do IO, keep time or log, and so have no place in a core.
const NOT_IN_CORES: [&str; 8] =
    ["tokio", "socket2", "nix", "libc", "tracing", "axum", "hyper", "netlink-sys"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect()
}

#[test]
fn only_the_agreed_folders_are_at_the_top() {
    let folders: BTreeSet<String> = tracked()
        .iter()
        .filter(|path| path.components().count() > 1)
        .map(|path| path.components().next().unwrap().as_os_str().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let agreed: BTreeSet<String> = FOLDERS.into_iter().map(str::to_owned).collect();
    assert_eq!(folders, agreed);
}

#[test]
fn no_source_file_is_too_long() {
    let long: Vec<String> = tracked()
        .iter()
        .filter(|path| path.extension().is_some_and(|ext| ["rs", "c", "h"].iter().any(|known| ext == *known)))
        .filter_map(|path| {
            let lines = fs::read_to_string(root().join(path)).ok()?.lines().count();
            (lines > LINES_MAX).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "longer than {LINES_MAX} lines: {long:#?}");
}

/// Names of the crates each of our manifests names under a `dependencies` table.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let manifests =
        tracked().into_iter().filter(|path| path.ends_with("Cargo.toml") && path.components().count() > 1);
    manifests
        .map(|path| {
            let manifest: toml::Table = fs::read_to_string(root().join(&path)).unwrap().parse().unwrap();
            let name = manifest["package"]["name"].as_str().unwrap().to_owned();
            let table =
                manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
            let rename =
                |name: &String| if name == "common" { "tandem-common".to_owned() } else { name.clone() };
            (name, table.keys().map(rename).collect())
        })
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let dependencies = dependencies();
    let ours: BTreeSet<&str> = MAY_USE.iter().map(|&(name, _)| name).collect();
    assert_eq!(dependencies.keys().map(String::as_str).collect::<BTreeSet<_>>(), ours);
    for (name, allowed) in MAY_USE {
        for used in &dependencies[name] {
            let of_ours = ours.contains(used.as_str());
            assert!(!of_ours || allowed.contains(&used.as_str()), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn cores_have_no_io_and_no_unsafe_code() {
    let dependencies = dependencies();
    for (name, library) in [
        ("tandem-common", "common/src/lib.rs"),
        ("vrrpd-core", "vrrpd/core/src/lib.rs"),
        ("lbd-core", "lbd/core/src/lib.rs"),
    ] {
        for banned in NOT_IN_CORES {
            assert!(!dependencies[name].contains(banned), "{name} must not depend on {banned}");
        }
        let text = fs::read_to_string(root().join(library)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{library} must forbid unsafe code");
    }
}

#[test]
fn cores_read_no_clock() {
    let cores = ["vrrpd/core/src", "lbd/core/src", "common/src"];
    for path in tracked().iter().filter(|path| cores.iter().any(|core| path.starts_with(core))) {
        let text = fs::read_to_string(root().join(path)).unwrap_or_default();
        for banned in ["Instant::now", "SystemTime::now", "std::net::TcpStream", "std::thread"] {
            assert!(!text.contains(banned), "{} uses {banned}", path.display());
        }
    }
}

/// A filter that nothing matches runs no test, and passes.
#[test]
fn what_is_tried_on_other_kernels_is_there() {
    let script = fs::read_to_string(root().join("scripts/kernels")).unwrap();
    let mut filters = 0;
    for line in script.lines() {
        let Some((file, words)) = line.split_once("$(newest ").and_then(|(_, rest)| rest.split_once(')'))
        else {
            continue;
        };
        for filter in
            words.split_whitespace().map(|word| word.trim_matches('"')).filter(|it| it.contains("::"))
        {
            filters += 1;
            let (module, begin) = filter.rsplit_once("::").unwrap();
            let module = root().join("integration/tests").join(file).join(module.replace("::", "/"));
            let texts = [module.with_extension("rs"), module.join("mod.rs")].map(fs::read_to_string);
            let Some(text) = texts.into_iter().find_map(Result::ok) else { panic!("no module of {filter}") };
            assert!(
                text.contains(&format!("#[test]\nfn {begin}"))
                    || text.contains("#[test]") && begin.is_empty(),
                "{filter}"
            );
        }
    }
    assert!(filters >= 5, "{filters} found in scripts/kernels");
}
