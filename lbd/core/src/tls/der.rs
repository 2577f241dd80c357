//! DER (X.690), as far as certificates need it: definite lengths in their shortest form, tags of one byte.

/// What is read is no DER, or says something else than expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is malformed ({0})")]
pub struct Malformed(pub &'static str);

/// Tags.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// What is left to be read of a value that holds others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'d> {
    rest: &'d [u8],
}

/// A value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'d> {
    /// Its tag.
    pub(super) tag: u8,
    /// What it holds.
    pub(super) content: &'d [u8],
    /// The same with its tag and length.
    pub(super) whole: &'d [u8],
}

impl<'d> Reader<'d> {
    pub(super) const fn new(bytes: &'d [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value.
    pub(super) fn next(&mut self) -> Result<Value<'d>, Malformed> {
        let bad = Malformed("a value is cut off");
        let (&tag, after_tag) = self.rest.split_first().ok_or(bad)?;
        if tag & 0x1f == 0x1f {
            return Err(Malformed("a tag of several bytes"));
        }
        let (&first, after_length) = after_tag.split_first().ok_or(bad)?;
        let (length, content) = if first < 0x80 {
            (usize::from(first), after_length)
        } else {
            let count = usize::from(first & 0x7f);
            if !(1..=4).contains(&count) {
                return Err(Malformed("a length of no use"));
            }
            let digits = after_length.get(..count).ok_or(bad)?;
            let length = digits.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
            if digits[0] == 0 || length < 0x80 {
                return Err(Malformed("a length that is not in its shortest form"));
            }
            (length, &after_length[count..])
        };
        let value = content.get(..length).ok_or(bad)?;
        let whole = &self.rest[..self.rest.len() - content.len() + length];
        self.rest = &content[length..];
        Ok(Value { tag, content: value, whole })
    }

    /// The next value, which has to have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<Value<'d>, Malformed> {
        let value = self.next()?;
        if value.tag == tag { Ok(value) } else { Err(Malformed("a value of another kind")) }
    }

    /// What the next value holds, which has to have this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Result<Self, Malformed> {
        Ok(Self::new(self.expect(tag)?.content))
    }

    /// The next value if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Value<'d>>, Malformed> {
        if self.rest.first() == Some(&tag) { self.next().map(Some) } else { Ok(None) }
    }
}

/// A point of time in seconds since 1970. RFC 5280, section 4.1.2.5: dates "MUST be expressed in Greenwich Mean Time (Zulu) and MUST
/// include seconds"; a `UTCTime` of a year "greater than or equal to 50" is of the last century.
pub(super) fn time(value: Value<'_>) -> Result<i64, Malformed> {
    let bad = Malformed("a time that is none");
    let digits = value.content.strip_suffix(b"Z").ok_or(bad)?;
    let (year, rest) = match (value.tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]).ok_or(bad)?;
            (if year >= 50 { 1900 + year } else { 2000 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]).ok_or(bad)?, &digits[4..]),
        _ => return Err(bad),
    };
    let part = |index: usize| number(&rest[2 * index..2 * index + 2]).ok_or(bad);
    let (month, day, hour, minute, second) = (part(0)?, part(1)?, part(2)?, part(3)?, part(4)?);
    let fits =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if !fits {
        return Err(bad);
    }
    Ok(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(digits: &[u8]) -> Option<i64> {
    let digit = |number: i64, byte: &u8| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'));
    digits.iter().try_fold(0, digit)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar: whole years are counted from a March, so that a leap day is a year's last.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tag: u8, text: &[u8]) -> Result<i64, Malformed> {
        time(Value { tag, content: text, whole: text })
    }

    #[test]
    fn times_are_seconds_since_1970() {
        // By `date -d ... +%s`.
        assert_eq!(at(UTC_TIME, b"700101000000Z"), Ok(0));
        assert_eq!(at(UTC_TIME, b"491231235959Z"), Ok(2_524_607_999));
        assert_eq!(at(UTC_TIME, b"500101000000Z"), Ok(-631_152_000));
        assert_eq!(at(GENERALIZED_TIME, b"20000229120000Z"), Ok(951_825_600));
        assert_eq!(at(GENERALIZED_TIME, b"20240301000000Z"), Ok(1_709_251_200));
        assert_eq!(at(GENERALIZED_TIME, b"99991231235959Z"), Ok(253_402_300_799));
        for bad in [&b"700101000000"[..], b"7001010000Z", b"701301000000Z", b"70010100000xZ", b""] {
            assert!(at(UTC_TIME, bad).is_err());
        }
    }

    #[test]
    fn lengths_have_one_form() {
        let read = |bytes: &[u8]| Reader::new(bytes).next().map(|value| value.content.len());
        assert_eq!(read(&[4, 1, 0]), Ok(1));
        assert!(read(&[4, 0x81, 1, 0]).is_err(), "not the shortest");
        assert!(read(&[4, 0x80, 0, 0]).is_err(), "indefinite");
        assert!(read(&[4, 2, 0]).is_err() && read(&[4]).is_err() && read(&[]).is_err());
        assert!(read(&[0x1f, 1, 0]).is_err());
        assert!(read(&[4, 0x84, 0xff, 0xff, 0xff, 0xff]).is_err());
        let long = [&[4, 0x81, 0x80][..], &[7; 128]].concat();
        assert_eq!(read(&long), Ok(128));
    }
}
