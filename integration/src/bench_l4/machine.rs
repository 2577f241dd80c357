//! Follows a program's instructions one by one, with maps of its own. What a packet takes is known exactly then, wherever this runs: no clock
//! has to be fine enough, and no kernel has to let its functions be watched.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use serde::Serialize;

use super::object::{Outcome, XDP_REDIRECT};
use super::world::{INTERFACE, MAC, Written};

/// The lower half of a word.
const LOW: u64 = 0xffff_ffff;

/// Addresses have the number of a region in their upper half and a place in it in the lower one. Region 0 is nobody's; of those that there are
/// from the beginning, the last one has the packet.
const CONTEXT: u64 = 1 << 32;
const FRAME: u64 = 2 << 32;
const REGIONS: usize = 3;
/// What stands for a map, with its number, has this in it.
const HANDLE: u64 = 1 << 63;

/// Free bytes before a packet.
const HEADROOM: usize = 256;
/// Bytes of a function's stack, and of that of all who have called each other.
const STACK: usize = 512;
/// How deep functions call each other.
const DEPTH_MAX: usize = 8;
/// No packet takes so many instructions.
const INSTRUCTIONS_MAX: u64 = 1 << 20;

/// The time stands still: a good while after the start, as jiffies of 4 ms.
const JIFFIES: u64 = 1 << 24;
const BOOT_NS: u64 = JIFFIES * 4_000_000;

/// Kinds of maps.
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const ARRAY_OF_MAPS: u32 = 12;

/// Sources of a constant and of a call.
const OF_MAP: usize = 1;
const OWN: usize = 1;

/// Operations of jumps.
const CALL: u8 = 8;
const EXIT: u8 = 9;

/// Stores that are one with what they read.
const ATOMIC: u8 = 0xc0;
const FETCH_ADD: i32 = 0x01;
const COMPARE_EXCHANGE: i32 = 0xf1;

/// To the network's order.
const SWAP: u8 = 0xdc;

type Registers = [u64; 16];

/// What a packet has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Instructions of the program, as they are in the object.
    pub instructions: u64,
    /// Calls of the kernel's functions. Look-ups in arrays and jiffies are none: the kernel puts instructions in their places.
    pub calls: u64,
    /// Calls of the program's own functions.
    pub functions: u64,
}

/// A program with maps of its own.
#[derive(Debug)]
pub struct Machine {
    code: Vec<Instruction>,
    names: Vec<String>,
    /// Maps, those of the names first.
    stores: Vec<Store>,
    memory: Memory,
    stacks: Vec<u64>,
    /// Where the packet begins and ends.
    packet: (u64, u64),
    taken: Taken,
}

impl Machine {
    /// A program of an object, with empty maps.
    ///
    /// # Errors
    /// If the object cannot be read, or has no such program.
    pub fn new(path: &str, program: &str) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {path}"))?;
        let mut object = Object::parse(&bytes).with_context(|| format!("reading {path}"))?;
        let maps: BTreeMap<String, aya_obj::Map> = object.maps.clone().into_iter().collect();
        let sections = object.functions.keys().map(|(section, _)| *section).collect();
        let numbered = maps.iter().zip(0..).map(|((name, map), number)| (name.as_str(), number, map));
        object.relocate_maps(numbered, &sections)?;
        object.relocate_calls(&sections)?;
        let known = object.programs.get(program).with_context(|| format!("no program {program}"))?;
        let function = object.functions.get(&known.function_key()).context("the program has no code")?;
        Ok(Self {
            code: function.instructions.iter().map(Instruction::of).collect(),
            names: maps.keys().cloned().collect(),
            stores: maps.values().map(Store::of).collect::<Result<_>>()?,
            memory: Memory { regions: vec![Vec::new(); REGIONS] },
            stacks: Vec::new(),
            packet: (FRAME, FRAME),
            taken: Taken::default(),
        })
    }

    /// Writes into a map what was written into the kernel's.
    ///
    /// # Errors
    /// If there is no such map, or its values are shorter.
    pub fn write(&mut self, written: &Written) -> Result<()> {
        match written {
            Written::Element { map, key, value } => {
                let map = self.named(map)?;
                self.update(map, key.clone(), value.clone())
            }
            Written::Array { map, index, elements, first } => {
                let (outer, inner) = (self.named(map)?, self.stores.len());
                let first_place = self.memory.add(first.clone());
                self.stores.push(Store {
                    kind: ARRAY,
                    key_size: 4,
                    value_size: first.len(),
                    max_entries: *elements,
                    elements: HashMap::from([(vec![0; 4], first_place)]),
                });
                let key = index.to_ne_bytes().to_vec();
                self.stores[outer].elements.insert(key, HANDLE | inner as u64);
                Ok(())
            }
        }
    }

    /// Runs the program on a packet: the outcome, and what that took. What it writes into maps stays there.
    ///
    /// # Errors
    /// If it does something that is not known here, or that no kernel would let it do.
    pub fn run(&mut self, packet: &[u8]) -> Result<(Outcome, Taken)> {
        self.taken = Taken::default();
        let mut frame = vec![0; HEADROOM];
        frame.extend_from_slice(packet);
        self.packet = (FRAME + HEADROOM as u64, FRAME + frame.len() as u64);
        self.memory.regions[REGIONS - 1] = frame;
        let verdict = self.function(0, [CONTEXT, 0, 0, 0, 0], 0)?;
        let length = usize::try_from(self.packet.1.saturating_sub(self.packet.0))?;
        let packet = self.memory.bytes(self.packet.0, length)?.to_vec();
        Ok((Outcome { verdict: u32::try_from(verdict & LOW)?, packet }, self.taken))
    }

    /// Bytes of the stack that the longest chain of functions takes, as Linux before 6.9 counts, which rounds each of them up to 32. It takes
    /// no program with more than 512.
    #[must_use]
    pub fn stack(&self) -> usize {
        let calls = self.code.iter().enumerate().filter(|(_, it)| it.is_own_call());
        let targets: BTreeMap<usize, usize> =
            calls.filter_map(|(at, it)| Some((at, moved(at + 1, it.number).ok()?))).collect();
        let starts: BTreeSet<usize> = targets.values().copied().collect();
        self.stack_from(0, &starts, &targets)
    }

    fn stack_from(&self, start: usize, starts: &BTreeSet<usize>, targets: &BTreeMap<usize, usize>) -> usize {
        let end = starts.range(start + 1..).next().copied().unwrap_or(self.code.len());
        let code = self.code.get(start..end).unwrap_or(&[]);
        let used = code.iter().filter_map(Instruction::in_stack);
        let named = code.windows(2).filter_map(|two| two[1].of_stack(&two[0]));
        let own = used.chain(named).max().unwrap_or(1).next_multiple_of(32);
        let called = targets.range(start..end).map(|(_, target)| self.stack_from(*target, starts, targets));
        own + called.max().unwrap_or(0)
    }

    fn named(&self, name: &str) -> Result<usize> {
        self.names.iter().position(|known| known == name).with_context(|| format!("no map {name}"))
    }

    /// Runs a function: what it returns.
    fn function(&mut self, start: usize, arguments: [u64; 5], depth: usize) -> Result<u64> {
        ensure!(depth < DEPTH_MAX, "functions call each other too deep");
        let mut registers: Registers = [0; 16];
        registers[1..6].copy_from_slice(&arguments);
        registers[10] = self.stack_of(depth) + STACK as u64;
        let mut at = start;
        loop {
            let it = *self.code.get(at).context("the program goes on beyond its end")?;
            at += 1;
            self.taken.instructions += 1;
            ensure!(self.taken.instructions < INSTRUCTIONS_MAX, "the program does not end");
            match it.code & 7 {
                0 => {
                    let upper = self.code.get(at).context("half a constant")?.number;
                    registers[it.to] = it.constant(upper);
                    at += 1;
                }
                1 => registers[it.to] = self.load(it.address(registers[it.from]), it.size())?,
                3 => self.store(it, &mut registers)?,
                4 | 7 => registers[it.to] = it.compute(&registers)?,
                5 | 6 => match it.operation() {
                    CALL if it.from == OWN => {
                        self.taken.functions += 1;
                        let [_, one, two, three, four, five, ..] = registers;
                        let target = moved(at, it.number)?;
                        registers[0] = self.function(target, [one, two, three, four, five], depth + 1)?;
                    }
                    CALL => registers[0] = self.call(it.number, &registers)?,
                    EXIT => return Ok(registers[0]),
                    _ if it.jumps(&registers)? => at = moved(at, it.offset.into())?,
                    _ => {}
                },
                _ => bail!("what the instruction {:#x} does is not known here", it.code),
            }
        }
    }

    fn stack_of(&mut self, depth: usize) -> u64 {
        while self.stacks.len() <= depth {
            let stack = self.memory.add(vec![0; STACK]);
            self.stacks.push(stack);
        }
        self.stacks[depth]
    }

    fn load(&mut self, address: u64, size: usize) -> Result<u64> {
        match address.wrapping_sub(CONTEXT) {
            0 => Ok(self.packet.0),
            4 => Ok(self.packet.1),
            12 => Ok(INTERFACE.into()),
            _ => self.memory.load(address, size),
        }
    }

    fn store(&mut self, it: Instruction, registers: &mut Registers) -> Result<()> {
        let (address, size, value) = (it.address(registers[it.to]), it.size(), registers[it.from]);
        if it.code & 0xe0 != ATOMIC {
            return self.memory.store(address, size, value);
        }
        let before = self.memory.load(address, size)?;
        match it.number {
            COMPARE_EXCHANGE => {
                let mask = if size == 8 { u64::MAX } else { LOW };
                if before == registers[0] & mask {
                    self.memory.store(address, size, value)?;
                }
                registers[0] = before;
            }
            FETCH_ADD => {
                self.memory.store(address, size, before.wrapping_add(value))?;
                registers[it.from] = before;
            }
            other => bail!("what the atomic operation {other:#x} does is not known here"),
        }
        Ok(())
    }

    /// Does what a helper of the kernel does, by its number in the kernel's interface.
    fn call(&mut self, helper: i32, registers: &Registers) -> Result<u64> {
        let [_, first, second, third, ..] = *registers;
        match helper {
            1 => {
                let (map, key) = self.element(first, second)?;
                self.taken.calls += u64::from(!self.stores[map].is_array());
                return Ok(self.look_up(map, &key));
            }
            118 => return Ok(JIFFIES),
            _ => self.taken.calls += 1,
        }
        match helper {
            2 => {
                let (map, key) = self.element(first, second)?;
                let value = self.memory.bytes(third, self.stores[map].value_size)?.to_vec();
                self.update(map, key, value)?;
            }
            3 => {
                let (map, key) = self.element(first, second)?;
                self.stores[map].elements.remove(&key);
            }
            5 | 125 => return Ok(BOOT_NS),
            23 => return Ok(XDP_REDIRECT.into()),
            44 => self.packet.0 = self.packet.0.wrapping_add_signed(signed(second, false)),
            // Everybody is behind another interface.
            69 => {
                self.memory.store(second + 8, 4, (INTERFACE + 1).into())?;
                self.memory.bytes(second + 52, 12)?.copy_from_slice(&[MAC, MAC].concat());
            }
            _ => bail!("what helper {helper} does is not known here"),
        }
        Ok(0)
    }

    /// The map and the key that a helper is given.
    fn element(&mut self, map: u64, key: u64) -> Result<(usize, Vec<u8>)> {
        ensure!(map & HANDLE != 0, "{map:#x} is no map");
        let map = usize::try_from(map & !HANDLE)?;
        let size = self.stores.get(map).context("there is no such map")?.key_size;
        Ok((map, self.memory.bytes(key, size)?.to_vec()))
    }

    /// Where an element's value is; 0 if there is none. An array has all of its, from the first look on.
    fn look_up(&mut self, map: usize, key: &[u8]) -> u64 {
        let store = &mut self.stores[map];
        if let Some(place) = store.elements.get(key) {
            return *place;
        }
        let index = <[u8; 4]>::try_from(key).map(u32::from_ne_bytes);
        if store.kind == ARRAY_OF_MAPS || !store.is_array() || index.is_ok_and(|it| it >= store.max_entries) {
            return 0;
        }
        let place = self.memory.add(vec![0; store.value_size]);
        store.elements.insert(key.to_vec(), place);
        place
    }

    fn update(&mut self, map: usize, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        match self.look_up(map, &key) {
            0 => {
                let place = self.memory.add(value);
                self.stores[map].elements.insert(key, place);
            }
            place => self.memory.bytes(place, value.len())?.copy_from_slice(&value),
        }
        Ok(())
    }
}

/// A map: where the values of its elements are or, of an array of maps, what stands for them.
#[derive(Debug)]
struct Store {
    kind: u32,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
    elements: HashMap<Vec<u8>, u64>,
}

impl Store {
    fn of(map: &aya_obj::Map) -> Result<Self> {
        Ok(Self {
            kind: map.map_type(),
            key_size: usize::try_from(map.key_size())?,
            value_size: usize::try_from(map.value_size())?,
            max_entries: map.max_entries(),
            elements: HashMap::new(),
        })
    }

    /// Look-ups in it are no calls.
    const fn is_array(&self) -> bool {
        matches!(self.kind, ARRAY | PERCPU_ARRAY | ARRAY_OF_MAPS)
    }
}

#[derive(Debug)]
struct Memory {
    regions: Vec<Vec<u8>>,
}

impl Memory {
    /// Adds a region: its address.
    fn add(&mut self, bytes: Vec<u8>) -> u64 {
        self.regions.push(bytes);
        ((self.regions.len() - 1) as u64) << 32
    }

    fn bytes(&mut self, address: u64, length: usize) -> Result<&mut [u8]> {
        let (region, place) = (usize::try_from(address >> 32)?, usize::try_from(address & LOW)?);
        let region = self.regions.get_mut(region);
        let bytes = region.and_then(|bytes| bytes.get_mut(place..place.checked_add(length)?));
        bytes.with_context(|| format!("{length} bytes at {address:#x} are nobody's"))
    }

    fn load(&mut self, address: u64, size: usize) -> Result<u64> {
        let mut word = [0; 8];
        word[..size].copy_from_slice(self.bytes(address, size)?);
        Ok(u64::from_le_bytes(word))
    }

    fn store(&mut self, address: u64, size: usize, value: u64) -> Result<()> {
        self.bytes(address, size)?.copy_from_slice(&value.to_le_bytes()[..size]);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    to: usize,
    from: usize,
    offset: i16,
    number: i32,
}

impl Instruction {
    fn of(it: &bpf_insn) -> Self {
        let (to, from) = (it.dst_reg().into(), it.src_reg().into());
        Self { code: it.code, to, from, offset: it.off, number: it.imm }
    }

    const fn operation(self) -> u8 {
        self.code >> 4
    }

    /// Bytes that are read or written.
    const fn size(self) -> usize {
        match self.code >> 3 & 3 {
            0 => 4,
            1 => 2,
            2 => 1,
            _ => 8,
        }
    }

    /// Whether it is about whole registers.
    const fn is_wide(self) -> bool {
        matches!(self.code & 7, 5 | 7)
    }

    const fn is_own_call(&self) -> bool {
        self.code == CALL << 4 | 5 && self.from == OWN
    }

    /// How far down in the stack it reads or writes.
    fn in_stack(&self) -> Option<usize> {
        let base = match self.code & 7 {
            1 => self.from,
            2 | 3 => self.to,
            _ => return None,
        };
        (base == 10).then(|| usize::from(self.offset.unsigned_abs()))
    }

    /// How far down in the stack it is that it has the address of, together with the instruction `before` it.
    fn of_stack(&self, before: &Self) -> Option<usize> {
        let is_one = before.code == 0xbf && before.from == 10 && self.code == 0x07 && self.to == before.to;
        let down = usize::try_from(self.number.unsigned_abs()).ok()?;
        (is_one && self.number < 0).then_some(down)
    }

    const fn address(self, base: u64) -> u64 {
        base.wrapping_add_signed(self.offset as i64)
    }

    /// `upper` is the next instruction's number.
    fn constant(self, upper: i32) -> u64 {
        let lower = u64::from(self.number.cast_unsigned());
        if self.from == OF_MAP { HANDLE | lower } else { lower | u64::from(upper.cast_unsigned()) << 32 }
    }

    fn operand(self, registers: &Registers) -> u64 {
        if self.code & 8 != 0 { registers[self.from] } else { i64::from(self.number).cast_unsigned() }
    }

    fn compute(self, registers: &Registers) -> Result<u64> {
        let (left, is_wide) = (registers[self.to], self.is_wide());
        if self.code == SWAP {
            return Ok(match self.number {
                16 => (left & 0xffff).swap_bytes() >> 48,
                32 => (left & LOW).swap_bytes() >> 32,
                _ => left.swap_bytes(),
            });
        }
        let (mask, bits) = if is_wide { (u64::MAX, 64) } else { (LOW, 32) };
        let (left, right) = (left & mask, self.operand(registers) & mask);
        let shift = right % bits;
        let result = match self.operation() {
            0 => left.wrapping_add(right),
            1 => left.wrapping_sub(right),
            2 => left.wrapping_mul(right),
            3 => left.checked_div(right).unwrap_or(0),
            4 => left | right,
            5 => left & right,
            6 => left << shift,
            7 => left >> shift,
            8 => left.wrapping_neg(),
            9 => left.checked_rem(right).unwrap_or(left),
            10 => left ^ right,
            11 => right,
            12 => (signed(left, is_wide) >> shift).cast_unsigned(),
            _ => bail!("what the instruction {:#x} does is not known here", self.code),
        };
        Ok(result & mask)
    }

    fn jumps(self, registers: &Registers) -> Result<bool> {
        let mask = if self.is_wide() { u64::MAX } else { LOW };
        let (left, right) = (registers[self.to] & mask, self.operand(registers) & mask);
        let [before, after] = [left, right].map(|it| signed(it, self.is_wide()));
        Ok(match self.operation() {
            0 => true,
            1 => left == right,
            2 => left > right,
            3 => left >= right,
            4 => left & right != 0,
            5 => left != right,
            6 => before > after,
            7 => before >= after,
            10 => left < right,
            11 => left <= right,
            12 => before < after,
            13 => before <= after,
            _ => bail!("what the jump {:#x} does is not known here", self.code),
        })
    }
}

/// A number with its sign, of 64 bits or of the lower 32.
const fn signed(value: u64, is_wide: bool) -> i64 {
    if is_wide { value.cast_signed() } else { (value << 32).cast_signed() >> 32 }
}

/// So many instructions further.
fn moved(at: usize, by: i32) -> Result<usize> {
    at.checked_add_signed(isize::try_from(by)?).context("a jump to before the program")
}

#[cfg(test)]
mod tests {
    use super::super::measure::{ACK, packet};
    use super::super::object::{CHANCE, FORWARD, MINIMAL, XDP_PASS, XDP_TX};
    use super::*;

    /// By the listing of the object, what is behind the look-up is 13 instructions.
    #[test]
    fn the_minimal_program_looks_a_flow_up_once_and_changes_addresses() {
        let mut machine = Machine::new(MINIMAL, "minimal").unwrap();
        let packet = packet(0, ACK);
        let (outcome, taken) = machine.run(&packet).unwrap();
        assert_eq!((outcome.verdict, outcome.packet.as_slice()), (XDP_PASS, &packet[..]));
        assert_eq!((taken.calls, taken.functions), (1, 0));
        let key = [&packet[26..38], &6_u32.to_le_bytes()].concat();
        let macs = [4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5];
        let value = [&macs[..], &[0; 4]].concat();
        machine.write(&Written::Element { map: "known".to_owned(), key, value }).unwrap();
        let (outcome, known) = machine.run(&packet).unwrap();
        assert_eq!((outcome.verdict, &outcome.packet[..12]), (XDP_TX, &macs[..]));
        assert_eq!(outcome.packet[12..], packet[12..]);
        assert_eq!((known.calls, known.instructions), (1, taken.instructions + 13));
    }

    #[test]
    fn numbers_of_32_bits_have_their_own_sign_and_end() {
        let registers: Registers = std::array::from_fn(|number| if number == 1 { 0xffff_fff0 } else { 3 });
        let of = |code, number| Instruction { code, to: 1, from: 2, offset: 0, number };
        let computed = |code, number| of(code, number).compute(&registers).unwrap();
        // To the right by 4, as a signed number of 32 bits and of 64; plus 32; the last two bytes the other way round.
        assert_eq!([computed(0xc4, 4), computed(0xc7, 4)], [0xffff_ffff, 0x0fff_ffff]);
        assert_eq!([computed(0x04, 32), computed(0x07, 32)], [0x10, 0x1_0000_0010]);
        assert_eq!([computed(SWAP, 16), computed(SWAP, 32)], [0xf0ff, 0xf0ff_ffff]);
        // Less than 0?
        assert!(of(0xc6, 0).jumps(&registers).unwrap() && !of(0xc5, 0).jumps(&registers).unwrap());
    }

    #[test]
    fn the_programs_fit_on_the_stack_of_older_kernels_too() {
        for (object, programs) in [
            (FORWARD, &["forward_tc", "forward_xdp", "check_out", "check_in", "clock_tc"][..]),
            (CHANCE, &["second_chance", "second_chance_link", "second_chance_in"][..]),
        ] {
            for program in programs {
                let stack = Machine::new(object, program).unwrap().stack();
                assert!((32..=STACK).contains(&stack), "{program} takes {stack} bytes");
            }
        }
    }
}
