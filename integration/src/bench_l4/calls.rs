//! How often the forwarding program calls the kernel, counted as it runs: each function that its helpers are at last is watched by a
//! program of its own. What the kernel has put into the program in the place of a call (look-ups in arrays, jiffies) is no call.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use aya::maps::PerCpuArray;
use aya::programs::FEntry;
use aya::{Btf, Ebpf, EbpfLoader};

use super::object::FORWARD;

/// The program that counts.
const CALLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench_l4/calls.bpf.o");

/// Helpers by their number in the kernel's interface, and the functions that the XDP program calls for them.
const HELPERS: [(u32, &[&str]); 22] = [
    (1, &["__htab_map_lookup_elem", "trie_lookup_elem"]),
    (2, &["htab_map_update_elem", "htab_lru_map_update_elem"]),
    (3, &["htab_map_delete_elem", "htab_lru_map_delete_elem"]),
    (5, &["bpf_ktime_get_ns"]),
    (23, &["bpf_xdp_redirect"]),
    (44, &["bpf_xdp_adjust_head"]),
    (65, &["bpf_xdp_adjust_tail"]),
    (69, &["bpf_xdp_fib_lookup"]),
    (125, &["bpf_ktime_get_boot_ns"]),
    (130, &["bpf_ringbuf_output"]),
    // Put in by the verifier.
    (118, &[]),
    // Of the TC program alone.
    (10, &[]),
    (11, &[]),
    (19, &[]),
    (38, &[]),
    (39, &[]),
    (43, &[]),
    (50, &[]),
    (84, &[]),
    (85, &[]),
    (86, &[]),
    (152, &[]),
];

/// A call of a helper in the code of a program; of its own functions it is another source register.
const CALL: u8 = 0x85;

/// Counts calls as long as it lives.
pub struct Calls {
    counters: Vec<Ebpf>,
}

impl Calls {
    /// Begins to count. Everything else that this processor does with such maps is counted too, so it should do nothing else.
    ///
    /// # Errors
    /// What the kernel said, or that the program has a helper that is not watched.
    pub fn watch() -> Result<Self> {
        let btf = Btf::from_sys_fs().context("reading the kernel's types")?;
        let mut counters = Vec::new();
        for helper in helpers()? {
            let Some((_, functions)) = HELPERS.iter().find(|(number, _)| *number == helper) else {
                bail!("the program calls helper {helper}, and nobody knows which function that is");
            };
            for function in *functions {
                let mut counter = EbpfLoader::new().load_file(CALLS)?;
                let program = counter.program_mut("count").context("no program count")?;
                let program: &mut FEntry = program.try_into()?;
                program.load(function, &btf).with_context(|| format!("watching {function}"))?;
                program.attach().with_context(|| format!("watching {function}"))?;
                counters.push(counter);
            }
        }
        Ok(Self { counters })
    }

    /// Calls so far on a processor.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn so_far(&self, processor: usize) -> Result<u64> {
        let mut all = 0;
        for counter in &self.counters {
            let map: PerCpuArray<_, u64> = counter.map("calls").context("no map calls")?.try_into()?;
            all += map.get(&0, 0)?.get(processor).copied().unwrap_or(0);
        }
        Ok(all)
    }
}

/// The helpers that the object has calls of.
fn helpers() -> Result<BTreeSet<u32>> {
    let bytes = std::fs::read(FORWARD)?;
    let object = aya_obj::Object::parse(&bytes)?;
    let code = object.functions.values().flat_map(|function| &function.instructions);
    let calls = code.filter(|it| it.code == CALL && it.src_reg() == 0);
    Ok(calls.map(|it| it.imm.unsigned_abs()).collect())
}
