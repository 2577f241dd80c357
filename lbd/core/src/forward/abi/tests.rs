//! The twins against the header: its text is read here by a small C parser, which knows how a compiler lays out structs.

use std::collections::BTreeMap;

use common::time::Duration;

use super::structs::{TWINS, TwinField};
use super::*;

/// A struct as a C compiler lays it out.
#[derive(Debug, Default)]
struct Layout {
    /// Offsets of the fields by name.
    offsets: BTreeMap<String, usize>,
    size: usize,
    align: usize,
}

/// What the header declares.
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) defines: BTreeMap<String, u64>,
    structs: BTreeMap<String, Layout>,
    /// The names of each.
    pub(crate) enums: BTreeMap<String, Vec<String>>,
}

impl Header {
    pub(crate) fn read(text: &str) -> Self {
        let mut header = Self::default();
        let mut code = String::new();
        // The one union: its words are aligned, its bytes are the same ones.
        let union = "union { __u8 bytes[16]; __u32 words[4]; };";
        for line in without_comments(text).replace(union, "__u32 words[4];").lines() {
            match line.strip_prefix("#define ") {
                Some(define) => header.define(define),
                None if line.starts_with('#') => {}
                None => code.extend([line, "\n"]),
            }
        }
        let mut rest = code.as_str();
        while let Some((head, tail)) = rest.split_once('{') {
            let (body, after) = tail.split_once("};").expect("a declaration ends");
            let mut words = head.split_whitespace();
            match (words.next(), words.next()) {
                (Some("struct"), Some(name)) => {
                    let layout = header.lay_out(body);
                    header.structs.insert(name.to_owned(), layout);
                }
                (Some("enum"), Some(name)) => {
                    let names = body.split(',').map(|name| name.trim().to_owned());
                    header.enums.insert(name.to_owned(), names.filter(|name| !name.is_empty()).collect());
                }
                other => panic!("neither struct nor enum: {other:?}"),
            }
            rest = after;
        }
        header
    }

    fn define(&mut self, define: &str) {
        let mut words = define.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { return };
        let value = value.trim_end_matches('u');
        let value = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        self.defines.insert(name.to_owned(), value.unwrap());
    }

    fn lay_out(&self, body: &str) -> Layout {
        let mut layout = Layout { align: 1, ..Layout::default() };
        for declaration in body.split(';').map(str::trim).filter(|declaration| !declaration.is_empty()) {
            let (kind, names) = match declaration.strip_prefix("struct ") {
                Some(rest) => rest.split_once(' ').unwrap(),
                None => declaration.split_once(' ').unwrap(),
            };
            let (size, align) = match kind {
                "__u8" => (1, 1),
                "__u16" | "__be16" => (2, 2),
                "__u32" => (4, 4),
                "__u64" => (8, 8),
                name => (self.structs[name].size, self.structs[name].align),
            };
            layout.align = layout.align.max(align);
            for name in names.split(',').map(str::trim) {
                let (name, count) = match name.split_once('[') {
                    Some((name, count)) => (name, self.number(count.trim_end_matches(']'))),
                    None => (name, 1),
                };
                let offset = layout.size.next_multiple_of(align);
                layout.offsets.insert(name.to_owned(), offset);
                layout.size = offset + size * count;
            }
        }
        layout.size = layout.size.next_multiple_of(layout.align);
        layout
    }

    /// Fails unless these are laid out as the header has them; answers the structs that are not among them.
    pub(crate) fn compare(&self, twins: &[(&str, &[TwinField], usize)]) -> Vec<&str> {
        let mut missing: Vec<&str> = self.structs.keys().map(String::as_str).collect();
        for (name, fields, size) in twins {
            let layout = self.structs.get(*name).unwrap_or_else(|| panic!("no struct {name} in the header"));
            assert_eq!(*size, layout.size, "struct {name}");
            let mut offset = 0;
            let mut known = 0;
            for (field, size) in *fields {
                match layout.offsets.get(*field) {
                    Some(expected) => {
                        assert_eq!(offset, *expected, "{name}.{field}");
                        known += 1;
                    }
                    None => assert_eq!(*field, "spare", "{name}.{field} is not in the header"),
                }
                offset += size;
            }
            assert_eq!(known, layout.offsets.len(), "a field of {name} is missing here");
            missing.retain(|missing| missing != name);
        }
        missing
    }

    /// A number, a constant, or a sum of them.
    fn number(&self, text: &str) -> usize {
        let one = |text: &str| text.parse().unwrap_or_else(|_| self.defines[text]);
        usize::try_from(text.split('+').map(|part| one(part.trim())).sum::<u64>()).unwrap()
    }
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("/*") {
        out += before;
        rest = comment.split_once("*/").expect("a comment ends").1;
    }
    out + rest
}

#[test]
fn the_header_is_read_as_a_compiler_does() {
    let text = "#define N 3 /* three */\nstruct a { __u8 x; __u32 y, z[N + 1]; };\nstruct b { __u8 p; struct a q[2]; };";
    let header = Header::read(text);
    let (a, b) = (&header.structs["a"], &header.structs["b"]);
    assert_eq!((a.size, a.align, a.offsets["y"], a.offsets["z"]), (24, 4, 4, 8));
    assert_eq!((b.size, b.offsets["q"]), (52, 4));
}

#[test]
fn structs_are_laid_out_alike() {
    let header = Header::read(HEADER);
    let missing = header.compare(TWINS);
    for (name, size) in
        [("address", Address::SIZE), ("ring", Ring::SIZE), ("service_ports", ServicePorts::SIZE)]
    {
        assert_eq!(header.structs[name].size, size, "{name}");
    }
    // The program's own are none of ours.
    assert_eq!(
        missing,
        ["address", "processor", "ring", "route", "service_ports"],
        "these have no plain twin"
    );
}

#[test]
fn constants_are_the_same() {
    let ours: BTreeMap<String, u64> =
        CONSTANTS.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let mut theirs = Header::read(HEADER).defines;
    // The program's own.
    theirs.retain(|name, _| !name.starts_with("ROUTE"));
    assert_eq!(ours, theirs);
}

#[test]
fn drop_reasons_are_the_same() {
    let mut theirs = Header::read(HEADER).enums.remove("drop_reason").unwrap();
    assert_eq!(theirs.pop().as_deref(), Some("DROP_REASONS"));
    let ours = DropReason::ALL.map(|reason| format!("DROP_{}", reason.name().to_uppercase()));
    assert_eq!(ours[..], theirs);
    for (number, reason) in (0..).zip(DropReason::ALL) {
        assert_eq!((reason as u8, DropReason::of(number)), (number, Some(reason)));
    }
    assert_eq!(u8::try_from(DropReason::ALL.len()).map(DropReason::of), Ok(None));
}

#[test]
fn bytes_are_as_c_writes_them() {
    let key = FlowKey::new(6, "192.0.2.1:4660".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap());
    let mut expected = vec![0; 10];
    expected.extend([0xff, 0xff, 192, 0, 2, 1, 0x20, 0x01, 0x0d, 0xb8]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x12, 0x34, 0, 80, 6, 0, 0, 0]);
    assert_eq!(key.to_bytes(), expected);
    assert_eq!(FlowKey::from_bytes(&expected), Some(key));
    assert_eq!(
        (key.client().to_string(), key.service().to_string()),
        ("192.0.2.1:4660".into(), "[2001:db8::1]:80".into())
    );
    let hash = HashKey::new([3; 16]);
    assert_eq!(hash.bytes(&expected), hash.flow(6, key.client(), key.service()));

    let flow = Flow { seen: 0x0102_0304, target: 5, port: Be16(0x1234), ..Flow::default() };
    let bytes = flow.to_bytes();
    assert_eq!(bytes[..4], 0x0102_0304_u32.to_ne_bytes());
    assert_eq!(bytes[8..10], [0x12, 0x34]);
    assert_eq!(Flow::from_bytes(&bytes), Some(flow));
    assert_eq!(Flow::from_bytes(&bytes[1..]), None);
    assert_eq!(Flow::from_bytes(&[&bytes[..], &[0]].concat()), None);
}

#[test]
fn rings_have_their_size_whatever_they_hold() {
    let mut ring = Ring::empty();
    ring.targets[65_536] = 0x0102;
    let bytes = ring.to_bytes();
    assert_eq!((bytes.len(), Ring::from_bytes(&bytes)), (Ring::SIZE, Some(ring)));
    assert_eq!(Ring { targets: vec![1; 3] }.to_bytes().len(), Ring::SIZE);
    assert_eq!(Ring { targets: vec![1; 70_000] }.to_bytes().len(), Ring::SIZE);
}

#[test]
fn ports_are_bits_of_words() {
    let mut ports = ServicePorts::default();
    ports.set(0);
    ports.set(65);
    ports.set(u16::MAX);
    let bytes = ports.to_bytes();
    assert_eq!(bytes[..8], 1_u64.to_ne_bytes());
    assert_eq!(bytes[8..16], 2_u64.to_ne_bytes());
    assert_eq!(bytes[8184..], (1_u64 << 63).to_ne_bytes());
    assert_eq!(ServicePorts::from_bytes(&bytes).as_ref(), Some(&ports));
    assert!(ports.contains(65) && !ports.contains(64));
}

#[test]
fn slots_are_controlled_by_one_word() {
    let control = SlotControl { seen: 0x0403_0201, service: 0x0305, vip: 0x0102, state: 7, lock: 8 };
    // From the low end: 32 bits, 10, 10, 8 and 4.
    assert_eq!(control.word(), 0x8074_0b05_0403_0201);
    assert_eq!(SlotControl::of(control.word()), control);
    let full = SlotControl { seen: u32::MAX, service: 1023, vip: 1023, state: u8::MAX, lock: 15 };
    assert_eq!((full.word(), SlotControl::of(u64::MAX)), (u64::MAX, full));
    let largest = [SERVICES_MAX, VIPS_MAX].map(|count| count - 1);
    assert!(largest.iter().all(|number| *number <= 1023), "numbers of services and VIPs have room in it");
}

#[test]
fn ticks_are_sixteenths_of_a_second() {
    assert_eq!(ticks_of(Duration::from_secs(350)), 5600);
    assert_eq!(ticks_of(Duration::from_millis(1)), 1, "never too early");
    assert_eq!(ticks_of(Duration::MAX), u32::MAX / 2);
    assert_eq!(duration_of(5600), Duration::from_secs(350));
    for hz in [100, 250, 300, 1000] {
        let day = u64::from(hz) * 86_400;
        let ticks = Ticks::at(day, ticks_multiplier(hz)).0;
        assert!((86_400 * 16 - 1..=86_400 * 16).contains(&ticks), "{hz}: {ticks}");
    }
    let (early, late) = (Ticks(u32::MAX - 1), Ticks(3));
    assert_eq!((late.since(early), early.since(late), early.after(5)), (5, 0, late));
}

#[test]
fn the_layout_has_a_name_for_folders() {
    let hash = layout_hash();
    assert!(hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
}

#[test]
fn boot_time_follows_from_jiffies() {
    let clock = KernelClock::of(4_000_000, u64::from(u32::MAX) - 75_000, 9_000_000_000);
    let later = u64::from(u32::MAX) - 75_000 + 250;
    assert_eq!(later.wrapping_mul(clock.jiffy_ns).wrapping_add(clock.boot_offset_ns), 10_000_000_000);
    assert_eq!(
        [1_000_000, 3_333_333, 4_000_000, 10_000_000].map(|ns| KernelClock::of(ns, 0, 0).hz()),
        [1000, 300, 250, 100]
    );
    let moved =
        |ns: i64| KernelClock { boot_offset_ns: clock.boot_offset_ns.wrapping_add_signed(ns), ..clock };
    for jitter in [-4_000_000, 0, 4_000_000] {
        assert_eq!(clock.or_after_sleep(moved(jitter)), clock);
    }
    for sleep in [1_000_000_000, 3_600_000_000_000] {
        assert_eq!(clock.or_after_sleep(moved(sleep)), moved(sleep));
    }
}

#[test]
fn a_slot_is_its_words() {
    let slot = Slot {
        control: SlotControl { seen: 7, service: 3, vip: 0x0102, state: 5, lock: 0 }.word(),
        client: [192, 0, 2, 7],
        client_port: Be16(0x1234),
        vip_port: Be16(80),
    };
    let bytes: Vec<u8> = slot.to_words().iter().flat_map(|word| word.to_ne_bytes()).collect();
    assert_eq!(bytes, slot.to_bytes());
    assert_eq!(Slot::of_words(slot.to_words()), slot);
}

#[test]
fn a_configuration_that_another_has_taken_the_place_of_is_written_again_but_for_its_samples() {
    let written = Config { flags: CONFIG_HAS_NAT, trace_every: 500, node: 1, ..Config::default() };
    assert_eq!(written.instead_of(&written), None);
    let traced = Config { trace_every: 1, ..written };
    assert_eq!(written.instead_of(&traced), None);
    let before = Config { flags: 0, ..traced };
    assert_eq!(written.instead_of(&before), Some(traced));
}
