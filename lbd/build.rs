//! Builds the kernel's programs with clang where there is one; else the committed objects serve.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const FOLDER: &str = "bpf";
const PROGRAMS: [&str; 2] = ["forward", "chance"];

fn main() {
    println!("cargo::rerun-if-changed={FOLDER}");
    println!("cargo::rerun-if-env-changed=PATH");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    PROGRAMS.iter().for_each(|program| build(program, &out));
}

fn build(program: &str, out: &Path) {
    let (source, object) = (format!("{program}.bpf.c"), format!("{program}.bpf.o"));
    let out = out.join(&object);
    match compile(&source, &out) {
        Compiled::Yes => return,
        Compiled::NoClang => {}
        Compiled::Failed(why) => {
            println!(
                "cargo::warning=clang could not build {FOLDER}/{source}, so the committed object is used: {why}"
            );
        }
    }
    let committed = Path::new(FOLDER).join(object);
    fs::copy(&committed, &out).unwrap_or_else(|error| panic!("copying {}: {error}", committed.display()));
}

enum Compiled {
    Yes,
    NoClang,
    Failed(String),
}

/// Runs clang as `scripts/bpf` does.
fn compile(source: &str, out: &Path) -> Compiled {
    let flags = Path::new(FOLDER).join("compile_flags.txt");
    let flags =
        fs::read_to_string(&flags).unwrap_or_else(|error| panic!("reading {}: {error}", flags.display()));
    let run = Command::new("clang")
        .current_dir(FOLDER)
        .args(flags.lines())
        .args(["-c", source, "-o"])
        .arg(out)
        .output();
    match run {
        Err(_) => Compiled::NoClang,
        Ok(output) if output.status.success() => Compiled::Yes,
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Compiled::Failed(text.lines().next().unwrap_or("it says nothing").to_owned())
        }
    }
}
