//! Formats of the tables whose entries outlive an upgrade: an `lbd` that finds what another version has left knows by the format's number how
//! to read it.
//!
//! Whoever changes what an entry looks like, or what is meant by it, gives its table the next number and describes the format of before as a
//! [`Former`] one, with a function that makes today's entries of it.

/// The format of a table.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// The name of its map.
    pub table: &'static str,
    /// The number, counted from 1.
    pub version: u32,
    /// Those of before that are known, in any order.
    pub former: &'static [Former],
}

/// One that an earlier version had.
#[derive(Clone, Copy, Debug)]
pub struct Former {
    /// Its number.
    pub version: u32,
    /// Bytes of a key and of a value.
    pub sizes: [u32; 2],
    /// Makes an entry of today's format of it; none if there is no such.
    pub convert: Convert,
}

/// A key and a value, in the bytes of one format, to those of another.
pub type Convert = fn(&[u8], &[u8]) -> Option<(Vec<u8>, Vec<u8>)>;

/// How entries of another layout come into a table.
#[derive(Clone, Copy, Debug)]
pub enum Entries {
    /// As they are.
    Same,
    /// Each made anew.
    Converted(Convert),
}

/// The tables: flows, and where clients come back to.
pub const FORMATS: [Format; 2] = [
    Format { table: "flows", version: 1, former: &[] },
    Format { table: "affinity", version: 1, former: &[] },
];

impl Format {
    /// How entries of a table of this format's name come into one of `own` bytes for a key and a value, if it has the format of this number and
    /// these sizes; none if nobody knows.
    #[must_use]
    pub fn entries(&self, version: u32, sizes: [u32; 2], own: [u32; 2]) -> Option<Entries> {
        if version == self.version {
            return (sizes == own).then_some(Entries::Same);
        }
        let former = self.former.iter().find(|former| (former.version, former.sizes) == (version, sizes));
        former.map(|former| Entries::Converted(former.convert))
    }

    /// A name that says that a table has the format of this number.
    #[must_use]
    pub fn name(&self, version: u32) -> String {
        format!("{}_format_{version}", self.table)
    }

    /// Which of these names is one of this table's; 1 where none is, since those that were first had no such name.
    pub fn version_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> u32 {
        let prefix = self.name(0);
        let prefix = prefix.strip_suffix('0').unwrap_or(&prefix);
        let number = |name: &str| name.strip_prefix(prefix)?.parse().ok();
        names.into_iter().filter_map(number).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIRD: Format = Format {
        table: "things",
        version: 3,
        former: &[
            Former { version: 1, sizes: [4, 4], convert: |_, _| None },
            Former { version: 2, sizes: [4, 8], convert: |key, value| Some((key.to_vec(), value.to_vec())) },
        ],
    };

    #[test]
    fn formats_that_are_known_are_converted() {
        let entries = |version, sizes| THIRD.entries(version, sizes, [4, 12]);
        assert!(matches!(entries(3, [4, 12]), Some(Entries::Same)));
        let Some(Entries::Converted(convert)) = entries(2, [4, 8]) else { panic!("it is known") };
        assert_eq!(convert(&[1], &[2]), Some((vec![1], vec![2])));
        for (version, sizes) in [(3, [4, 8]), (2, [4, 4]), (1, [8, 4]), (4, [4, 12]), (0, [4, 4])] {
            assert!(entries(version, sizes).is_none(), "{version} {sizes:?}");
        }
    }

    #[test]
    fn a_format_is_known_by_a_name() {
        assert_eq!(THIRD.name(2), "things_format_2");
        let version = |names: &[&str]| THIRD.version_of(names.iter().copied());
        assert_eq!(version(&["things", "things_format_2", "other_things_format_7", "things_format_"]), 2);
        assert_eq!(version(&["things", "flows_format_9"]), 1);
        assert_eq!(version(&["things_format_2", "things_format_10"]), 10);
    }

    #[test]
    fn each_table_has_numbers_of_its_own() {
        for format in FORMATS {
            let mut numbers: Vec<u32> = format.former.iter().map(|former| former.version).collect();
            numbers.push(format.version);
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), format.former.len() + 1, "{}", format.table);
            assert_eq!((numbers.first().copied(), numbers.last().copied()), (Some(1), Some(format.version)));
        }
    }
}
