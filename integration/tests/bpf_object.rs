//! The committed objects are what their sources give: code, data, what relocations refer to, and the types and lines (BTF) by which the
//! kernel knows the maps' contents and says where in the source a program fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where there are sources with their objects beside them; as in `scripts/bpf`.
const FOLDERS: [&str; 2] = ["lbd/bpf", "integration/src/bench_l4"];

/// Kinds of sections.
const PROGBITS: usize = 1;
const RELOCATIONS: usize = 9;

fn root() -> PathBuf {
    // As the compiler will see it, so that it can be taken out of the names of files.
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap()
}

/// Files of these folders whose names end so, without that.
fn named(ending: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            found.extend(path.to_str().unwrap().strip_suffix(ending).map(PathBuf::from));
        }
    }
    found
}

fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// An ELF object of 64 bits, low end first.
struct Object<'o> {
    bytes: &'o [u8],
    headers: Vec<&'o [u8]>,
    names: usize,
}

impl<'o> Object<'o> {
    fn of(bytes: &'o [u8]) -> Self {
        assert_eq!(&bytes[..6], b"\x7fELF\x02\x01", "a 64-bit object, low end first");
        let (table, size, count) = (number(bytes, 40, 8), number(bytes, 58, 2), number(bytes, 60, 2));
        let headers = (0..count).map(|index| &bytes[table + index * size..table + (index + 1) * size]);
        Self { bytes, headers: headers.collect(), names: number(bytes, 62, 2) }
    }

    fn content(&self, index: usize) -> &'o [u8] {
        let (offset, length) = (number(self.headers[index], 24, 8), number(self.headers[index], 32, 8));
        &self.bytes[offset..offset + length]
    }

    /// What begins there in a section of strings.
    fn text(&self, strings: usize, at: usize) -> String {
        let bytes = self.content(strings)[at..].iter().copied().take_while(|byte| *byte != 0);
        String::from_utf8(bytes.collect()).unwrap()
    }

    fn name(&self, index: usize) -> String {
        self.text(self.names, number(self.headers[index], 0, 4))
    }

    /// Sections of what is loaded, not what is there for debuggers; and of relocations what they refer to, for a table of symbols may
    /// have more in it in one object than in another.
    fn sections(&self) -> BTreeMap<String, Vec<u8>> {
        let mut sections = BTreeMap::new();
        for index in 1..self.headers.len() {
            let name = self.name(index);
            let content = match number(self.headers[index], 4, 4) {
                PROGBITS => self.content(index).to_vec(),
                RELOCATIONS => self.relocations(index).into_bytes(),
                _ => continue,
            };
            if !name.starts_with(".debug") && !name.starts_with(".rel.debug") {
                sections.insert(name, content);
            }
        }
        sections
    }

    /// A line each: place, kind, and the symbol with its place in a section.
    fn relocations(&self, index: usize) -> String {
        let symbols = number(self.headers[index], 40, 4);
        let strings = number(self.headers[symbols], 40, 4);
        let line = |entry: &[u8]| {
            let (place, kind, symbol) = (number(entry, 0, 8), number(entry, 8, 4), number(entry, 12, 4));
            let symbol = &self.content(symbols)[symbol * 24..][..24];
            let (text, section) = (self.text(strings, number(symbol, 0, 4)), number(symbol, 6, 2));
            let section = if section < self.headers.len() { self.name(section) } else { String::new() };
            format!("{place} {kind} {text} {section}+{}\n", number(symbol, 8, 8))
        };
        self.content(index).chunks_exact(16).map(line).collect()
    }
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
    let sources = named(".bpf.c");
    assert_eq!(sources, named(".bpf.o"), "sources and objects: run scripts/bpf");
    assert!(sources.len() >= 3, "{sources:?}");
    for source in sources {
        let (built, parent) = (folder.join("built.o"), source.parent().unwrap());
        let file = format!("{}.bpf.c", source.file_name().unwrap().to_str().unwrap());
        let run = Command::new("clang")
            .current_dir(parent)
            .args(flags.lines())
            .arg(format!("-fdebug-prefix-map={}=.", parent.display()))
            .args(["-c", &file, "-o"])
            .arg(&built)
            .output()
            .unwrap();
        assert!(run.status.success(), "{file}: {}", String::from_utf8_lossy(&run.stderr));
        let (built, committed) =
            (fs::read(&built).unwrap(), fs::read(parent.join(file.replace(".c", ".o"))).unwrap());
        let (built, committed) = (Object::of(&built).sections(), Object::of(&committed).sections());
        assert_eq!(built.keys().collect::<Vec<_>>(), committed.keys().collect::<Vec<_>>(), "run scripts/bpf");
        assert!(built.contains_key(".BTF") && built.contains_key(".BTF.ext"), "{:?}", built.keys());
        // Another clang makes other code of the same sources, and knows other types.
        if version == of_object {
            for (name, bytes) in &built {
                assert!(*bytes == committed[name], "{name} of {file} is old: run scripts/bpf");
            }
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}
