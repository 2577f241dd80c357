//! The committed objects are what their sources give.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: [&str; 3] =
    ["lbd/bpf/forward.bpf.c", "lbd/bpf/chance.bpf.c", "integration/src/bench_l4/minimal.bpf.c"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// Sections of an ELF object that have code or data of the programs, not what is there for debuggers.
fn sections(object: &[u8]) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(&object[..6], b"\x7fELF\x02\x01", "a 64-bit object, low end first");
    let (table, size, count, names) =
        (number(object, 40, 8), number(object, 58, 2), number(object, 60, 2), number(object, 62, 2));
    let header = |index: usize| &object[table + index * size..table + (index + 1) * size];
    let content = |header: &[u8]| {
        let (offset, length) = (number(header, 24, 8), number(header, 32, 8));
        object[offset..offset + length].to_vec()
    };
    let strings = content(header(names));
    let name = |header: &[u8]| {
        let bytes = strings[number(header, 0, 4)..].iter().copied().take_while(|byte| *byte != 0);
        String::from_utf8(bytes.collect()).unwrap()
    };
    const PROGBITS: usize = 1;
    (1..count)
        .map(header)
        .filter(|header| number(header, 4, 4) == PROGBITS)
        .map(|header| (name(header), content(header)))
        .filter(|(name, _)| !name.starts_with(".debug") && !name.starts_with(".BTF"))
        .collect()
}

#[test]
fn the_committed_objects_are_what_the_sources_give() {
    let version =
        Command::new("clang").arg("-dumpversion").output().expect("scripts/setup test installs clang");
    let version = String::from_utf8(version.stdout).unwrap();
    let of_object = fs::read_to_string(root().join("lbd/bpf/clang_version.txt")).unwrap();
    let flags = fs::read_to_string(root().join("lbd/bpf/compile_flags.txt")).unwrap();
    let folder = std::env::temp_dir().join(format!("tandem-bpf-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    for source in SOURCES.map(|source| root().join(source)) {
        let built = folder.join("built.o");
        let run = Command::new("clang")
            .current_dir(source.parent().unwrap())
            .args(flags.lines())
            .args(["-c", source.file_name().unwrap().to_str().unwrap(), "-o"])
            .arg(&built)
            .output()
            .unwrap();
        assert!(run.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&run.stderr));
        let (built, committed) =
            (sections(&fs::read(&built).unwrap()), sections(&fs::read(source.with_extension("o")).unwrap()));
        assert_eq!(built.keys().collect::<Vec<_>>(), committed.keys().collect::<Vec<_>>(), "run scripts/bpf");
        // Another clang makes other code of the same sources.
        if version == of_object {
            for (name, bytes) in &built {
                assert!(*bytes == committed[name], "{name} of {} is old: run scripts/bpf", source.display());
            }
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}
