//! The committed objects are what their sources give: code, data, what relocations refer to, and the types and lines (BTF) by which the
//! kernel knows the maps' contents and says where in the source a program fails.
//!
//! Another clang than the one that made them makes other code of the same sources. What it cannot make otherwise is compared all the same: maps
//! with the layout of all that is in them, sections, functions that are seen from outside, and the licence. That the code is of these very
//! sources is what the objects say themselves: of each instruction, which line of which file it comes from, and what that line was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where there are sources with their objects beside them; as in `scripts/bpf`.
const FOLDERS: [&str; 2] = ["lbd/bpf", "integration/src/bench_l4"];

/// Kinds of sections.
const PROGBITS: usize = 1;
const SYMBOLS: usize = 2;
const RELOCATIONS: usize = 9;

/// A flag of sections: there is code in it.
const EXECUTABLE: usize = 4;

/// Kinds of types (the kernel's `Documentation/bpf/btf.rst`).
mod kind {
    pub(super) const INT: usize = 1;
    pub(super) const POINTER: usize = 2;
    pub(super) const ARRAY: usize = 3;
    pub(super) const STRUCT: usize = 4;
    pub(super) const UNION: usize = 5;
    pub(super) const ENUM: usize = 6;
    pub(super) const TYPEDEF: usize = 8;
    pub(super) const VOLATILE: usize = 9;
    pub(super) const CONST: usize = 10;
    pub(super) const RESTRICT: usize = 11;
    pub(super) const PROTOTYPE: usize = 13;
    pub(super) const VARIABLE: usize = 14;
    pub(super) const SECTION: usize = 15;
    pub(super) const DECLARATION_TAG: usize = 17;
    pub(super) const TYPE_TAG: usize = 18;
    pub(super) const ENUM64: usize = 19;
}

/// So deep types are within each other at most.
const DEPTH_MAX: usize = 16;

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

fn text(strings: &[u8], at: usize) -> String {
    let bytes = strings[at..].iter().copied().take_while(|byte| *byte != 0);
    String::from_utf8(bytes.collect()).unwrap()
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
        text(self.content(strings), at)
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

    fn section(&self, name: &str) -> &'o [u8] {
        let index = (1..self.headers.len()).find(|index| self.name(*index) == name);
        self.content(index.unwrap_or_else(|| panic!("no section {name}: run scripts/bpf")))
    }

    fn types(&self) -> Types<'o> {
        Types::of(self.section(".BTF"))
    }

    /// What every compiler makes of the same sources.
    fn promises(&self) -> Promises {
        let is_code = |index: &usize| number(self.headers[*index], 8, 8) & EXECUTABLE != 0;
        Promises {
            code: (1..self.headers.len()).filter(is_code).map(|index| self.name(index)).collect(),
            functions: self.functions(),
            maps: self.types().maps(),
            licence: self.section("license").to_vec(),
        }
    }

    /// Functions that are seen from outside, which no compiler leaves out, and the sections that they are in.
    fn functions(&self) -> BTreeSet<(String, String)> {
        let of_kind = |index: &usize| number(self.headers[*index], 4, 4) == SYMBOLS;
        let symbols = (1..self.headers.len()).find(of_kind).expect("a table of symbols");
        let strings = number(self.headers[symbols], 40, 4);
        let all = self.content(symbols).chunks_exact(24);
        // Global, and a function.
        let found = all.filter(|symbol| symbol[4] == 1 << 4 | 2);
        found
            .map(|symbol| (self.name(number(symbol, 6, 2)), self.text(strings, number(symbol, 0, 4))))
            .collect()
    }

    /// Of the instructions: a file, as it is called from the object's folder, a line in it, counted from 1, and what is in that line.
    fn lines(&self) -> BTreeSet<(String, usize, String)> {
        let (types, section) = (self.types(), self.section(".BTF.ext"));
        let (start, length) = (number(section, 4, 4) + number(section, 16, 4), number(section, 20, 4));
        let part = &section[start..start + length];
        let (size, mut rest) = (number(part, 0, 4), &part[4..]);
        let mut lines = BTreeSet::new();
        while !rest.is_empty() {
            // A section's name, and how many follow.
            let (of_section, next) = rest[8..].split_at(size * number(rest, 4, 4));
            rest = next;
            for line in of_section.chunks_exact(size) {
                let (file, text) = (types.text(number(line, 4, 4)), types.text(number(line, 8, 4)));
                // The lower bits are the column.
                lines.insert((file, number(line, 12, 4) >> 10, text));
            }
        }
        // What a compiler has added is in no line.
        lines.retain(|(_, line, _)| *line > 0);
        lines
    }
}

/// What does not depend on the compiler.
#[derive(Debug, PartialEq, Eq)]
struct Promises {
    /// Sections of code.
    code: BTreeSet<String>,
    /// Functions, and before each the section.
    functions: BTreeSet<(String, String)>,
    /// Maps, and what they are and hold.
    maps: BTreeMap<String, String>,
    licence: Vec<u8>,
}

/// An object's types.
struct Types<'o> {
    strings: &'o [u8],
    /// By their number; nothing is 0.
    types: Vec<&'o [u8]>,
}

impl<'o> Types<'o> {
    fn of(section: &'o [u8]) -> Self {
        assert_eq!(number(section, 0, 2), 0xeb9f, "BTF");
        let header = number(section, 4, 4);
        let part = |at: usize| {
            let (offset, length) = (number(section, at, 4), number(section, at + 4, 4));
            &section[header + offset..header + offset + length]
        };
        let (mut rest, strings) = (part(8), part(16));
        let mut types = vec![&section[..0]];
        while !rest.is_empty() {
            let (kind, count) = (kind_of(rest), number(rest, 4, 2));
            let more = match kind {
                kind::INT | kind::VARIABLE | kind::DECLARATION_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::SECTION | kind::ENUM64 => 12 * count,
                kind::ENUM | kind::PROTOTYPE => 8 * count,
                _ => 0,
            };
            let (this, next) = rest.split_at(12 + more);
            types.push(this);
            rest = next;
        }
        Self { strings, types }
    }

    fn text(&self, at: usize) -> String {
        text(self.strings, at)
    }

    /// Each map's declaration, with all that it says of keys and values.
    fn maps(&self) -> BTreeMap<String, String> {
        let is_of_maps = |it: &&&[u8]| kind_of(it) == kind::SECTION && self.text(number(it, 0, 4)) == ".maps";
        let sections = self.types[1..].iter().filter(is_of_maps);
        let variables = sections.flat_map(|section| section[12..].chunks_exact(12));
        let map = |variable: &[u8]| {
            let variable = self.types[number(variable, 0, 4)];
            (self.text(number(variable, 0, 4)), self.layout(number(variable, 8, 4), 0))
        };
        variables.map(map).collect()
    }

    /// How a type is laid out, whatever it is called: places of members are in bits.
    fn layout(&self, which: usize, depth: usize) -> String {
        assert!(depth < DEPTH_MAX, "types within each other without an end");
        if which == 0 {
            return "nothing".to_owned();
        }
        let this = self.types[which];
        let size_or_type = number(this, 8, 4);
        match kind_of(this) {
            kind::INT => format!("{size_or_type} bytes"),
            kind::POINTER => format!("*{}", self.layout(size_or_type, depth + 1)),
            kind::ARRAY => {
                format!("{} of {}", number(this, 20, 4), self.layout(number(this, 12, 4), depth + 1))
            }
            kind::STRUCT | kind::UNION => {
                let member = |member: &[u8]| {
                    let (name, place) = (self.text(number(member, 0, 4)), number(member, 8, 4));
                    format!(" {name} at {place}: {};", self.layout(number(member, 4, 4), depth + 1))
                };
                let members: String = this[12..].chunks_exact(12).map(member).collect();
                format!("{size_or_type} bytes {{{members} }}")
            }
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                self.layout(size_or_type, depth + 1)
            }
            other => format!("kind {other}"),
        }
    }
}

fn kind_of(this: &[u8]) -> usize {
    number(this, 7, 1) & 0x1f
}

/// Lines that are not in the sources any more as they were when the object was made; `source` reads a file by the name that the object has.
fn stale(object: &Object<'_>, source: impl Fn(&str) -> String) -> Vec<String> {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut stale = Vec::new();
    for (file, line, text) in object.lines() {
        let lines = files
            .entry(file.clone())
            .or_insert_with_key(|file| source(file).lines().map(str::to_owned).collect());
        if lines.get(line - 1) != Some(&text) {
            stale.push(format!("{file}:{line}: {text}"));
        }
    }
    stale
}

/// An object beside its sources, and how to read these; what is not there any more is empty.
fn committed(stem: &Path) -> (Vec<u8>, impl Fn(&str) -> String + use<>) {
    let folder = stem.parent().unwrap().to_path_buf();
    let object = format!("{}.bpf.o", stem.file_name().unwrap().to_str().unwrap());
    let bytes = fs::read(folder.join(object)).unwrap();
    (bytes, move |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default())
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
    assert!(sources.len() >= 4, "{sources:?}");
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
        let (committed, source_of) = committed(&source);
        let built = fs::read(&built).unwrap();
        let (built, committed) = (Object::of(&built), Object::of(&committed));
        assert_eq!(built.promises(), committed.promises(), "{file}, built and committed: run scripts/bpf");
        let old = stale(&committed, source_of);
        assert!(
            old.is_empty(),
            "the object of {file} was made of lines that have changed: run scripts/bpf; {old:#?}"
        );
        // Another clang makes other code of the same sources, and knows other types.
        if version == of_object {
            let (built, committed) = (built.sections(), committed.sections());
            assert_eq!(
                built.keys().collect::<Vec<_>>(),
                committed.keys().collect::<Vec<_>>(),
                "{file}: run scripts/bpf"
            );
            for (name, bytes) in &built {
                assert!(*bytes == committed[name], "{name} of {file} is old: run scripts/bpf");
            }
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}

/// What is compared whichever clang there is.
#[test]
fn an_old_object_is_noticed_without_the_clang_that_made_it() {
    let (bytes, source) = committed(&root().join("lbd/bpf/forward"));
    let object = Object::of(&bytes);
    let lines = object.lines();
    for file in ["./nat.h", "./decide.h", "./forward.bpf.c"] {
        assert!(lines.iter().any(|(name, ..)| name.ends_with(file)), "no instruction comes from {file}");
    }
    assert_eq!(stale(&object, &source), Vec::<String>::new());
    let changed = |file: &str| {
        let text = source(file);
        if file.ends_with("/nat.h") { text.replace("NAT_TRIES", "NAT_TURNS") } else { text }
    };
    assert!(!stale(&object, changed).is_empty(), "a line of code became another one");
    let longer =
        |file: &str| if file.ends_with("/nat.h") { "\n".to_owned() + &source(file) } else { source(file) };
    assert!(!stale(&object, longer).is_empty(), "lines moved");

    let promises = object.promises();
    assert!(promises.code.contains("classifier") && promises.code.contains("xdp"), "{:?}", promises.code);
    assert!(promises.functions.contains(&("xdp".to_owned(), "forward_xdp".to_owned())));
    assert!(promises.functions.contains(&(".text".to_owned(), "take_port".to_owned())));
    assert_eq!(promises.licence, b"Dual MIT/GPL\0");
    let flows = &promises.maps["flows"];
    assert!(
        flows.contains("source_port at 256: 2 bytes") && flows.contains("generation at 96: 4 bytes"),
        "{flows}"
    );
    // Room for so many flows, as types say it: an array of as many elements, which there never is. Types consist of whole words.
    let (btf, room) = (object.section(".BTF"), 1_048_576_u32.to_le_bytes());
    let at = 4 * btf.chunks(4).position(|word| word == room).expect("the table's size");
    let mut other = btf.to_vec();
    other[at..at + 4].copy_from_slice(&9_u32.to_le_bytes());
    let other = Types::of(&other).maps();
    assert!(other.keys().eq(promises.maps.keys()) && other["flows"] != promises.maps["flows"]);
}
