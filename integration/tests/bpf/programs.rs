//! Every program that `lbd` may load is one that the kernel takes, also the kernels on which not all of them are used by other tests
//! (`scripts/kernels`).

use std::collections::BTreeSet;

use aya::EbpfLoader;
use integration::bench_l4::object::verify;

/// The programs of each object.
const OBJECTS: [(&str, &[&str]); 2] = [
    ("forward", &["forward_tc", "forward_xdp", "check_out", "check_in", "clock_tc"]),
    ("chance", &["second_chance", "second_chance_link", "second_chance_in"]),
];

#[test]
fn the_kernel_takes_every_program() {
    for (object, names) in OBJECTS {
        let path = format!("{}/../lbd/bpf/{object}.bpf.o", env!("CARGO_MANIFEST_DIR"));
        let mut loaded = EbpfLoader::new().map_max_entries("flows", 1024).load_file(&path).unwrap();
        let present: BTreeSet<String> = loaded.programs().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(present, names.iter().map(|name| (*name).to_owned()).collect(), "{object}");
        for (name, program) in loaded.programs_mut() {
            verify(program).unwrap_or_else(|error| panic!("{name} of {object}: {error}"));
        }
    }
}
