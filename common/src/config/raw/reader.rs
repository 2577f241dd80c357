//! Walking the tree that `toml` parses: every accessor notes what is wrong with its value and goes on.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::{check_duration, joined};
use crate::config::diag::{Problems, Span, quoted, shortened};
use crate::config::problem::Problem;
use crate::config::types::SampleShare;
use crate::time::Duration;

/// A value with its place in the file.
pub(crate) type At<T> = Spanned<T>;

/// Puts a value at a place.
pub(crate) fn at<T>(span: &Span, value: T) -> At<T> {
    Spanned::new(span.clone(), value)
}

/// A table being read: it remembers which keys were asked for, the others are unknown.
pub(super) struct Table<'t> {
    path: String,
    span: Span,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    /// The file's outermost table.
    pub(super) fn root(table: &'t Spanned<DeTable<'t>>) -> Self {
        Self { path: String::new(), span: table.span(), table: table.get_ref(), known: Vec::new() }
    }

    /// Where the table is: its header, or its braces.
    pub(super) const fn span(&self) -> &Span {
        &self.span
    }

    /// Whether the key is there, readable or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where the value of a key is, readable or not.
    pub(super) fn place(&self, key: &'static str) -> Option<(String, Span)> {
        self.table.get(key).map(|value| (self.path_of(key), value.span()))
    }

    /// The value of a key that may be left out.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Cursor<'t>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some(Cursor { path: self.path_of(key), value })
    }

    /// The value of a key that must be there.
    pub(super) fn required(&mut self, key: &'static str, out: &mut Problems) -> Option<Cursor<'t>> {
        let found = self.get(key);
        if found.is_none() {
            out.add(self.span.clone(), Problem::MissingKey { key: self.path_of(key) });
        }
        found
    }

    /// All entries of a table whose keys are names.
    pub(super) fn entries(&self) -> Vec<(At<String>, Cursor<'t>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                let cursor = Cursor { path: self.path_of(key.get_ref()), value };
                (at(&key.span(), key.get_ref().to_string()), cursor)
            })
            .collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
    }

    /// Notes the keys that nobody asked for.
    pub(super) fn finish(self, out: &mut Problems) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                let path = self.path_of(name);
                let known = self.known.iter().copied();
                out.add(key.span(), Problem::UnknownKey { key: path }).guess(name, known);
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        let key = shortened(key);
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

/// One value being read, with the path of keys that leads to it.
pub(super) struct Cursor<'t> {
    path: String,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Cursor<'t> {
    /// The path of keys, for messages.
    pub(super) fn key(&self) -> String {
        self.path.clone()
    }

    /// The value's place.
    pub(super) fn span(&self) -> Span {
        self.value.span()
    }

    pub(super) fn is_string(&self) -> bool {
        self.value.get_ref().is_str()
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    pub(super) fn is_array(&self) -> bool {
        self.value.get_ref().is_array()
    }

    /// Notes a wrong type.
    pub(super) fn mismatch<T>(&self, expected: &str, out: &mut Problems) -> Option<T> {
        let found = match self.value.get_ref() {
            DeValue::Integer(_) => "an integer",
            DeValue::Array(_) => "a list",
            DeValue::String(_) => "a string",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Table(_) => "a table",
        };
        let problem =
            Problem::WrongType { key: self.key(), expected: expected.to_owned(), found: found.to_owned() };
        out.add(self.span(), problem);
        None
    }

    /// Notes that the value, whose form is right, is for something that does not exist yet.
    pub(super) fn not_available(&self, what: Option<&str>, out: &mut Problems) {
        let key = what.map_or_else(|| self.key(), |what| format!("{} = {}", self.path, quoted(what)));
        out.add(self.span(), Problem::NotAvailable { key });
    }

    pub(super) fn table(&self, out: &mut Problems) -> Option<Table<'t>> {
        let DeValue::Table(table) = self.value.get_ref() else { return self.mismatch("a table", out) };
        Some(Table { path: self.key(), span: self.span(), table, known: Vec::new() })
    }

    /// The entries of a list.
    pub(super) fn list(&self, expected: &str, out: &mut Problems) -> Option<Vec<Self>> {
        let DeValue::Array(array) = self.value.get_ref() else { return self.mismatch(expected, out) };
        Some(array.iter().map(|value| Self { path: self.key(), value }).collect())
    }

    pub(super) fn string(&self, out: &mut Problems) -> Option<At<String>> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(at(&self.span(), text.to_string())),
            _ => self.mismatch("a string", out),
        }
    }

    /// A string that passes a check, which says what is wrong with it.
    pub(super) fn string_that(
        &self,
        fits: impl FnOnce(&str) -> bool,
        problem: impl FnOnce(String, String) -> Problem,
        out: &mut Problems,
    ) -> Option<At<String>> {
        let text = self.string(out)?;
        if text.get_ref().is_empty() {
            out.add(self.span(), Problem::Empty { key: self.key() });
            return None;
        }
        if !fits(text.get_ref()) {
            out.add(self.span(), problem(self.key(), quoted(text.get_ref())));
            return None;
        }
        Some(text)
    }

    pub(super) fn boolean(&self, out: &mut Problems) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.mismatch("true or false", out),
        }
    }

    /// An integer between two bounds, both included.
    pub(super) fn integer<T>(&self, min: T, max: T, out: &mut Problems) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + ToString,
    {
        let DeValue::Integer(integer) = self.value.get_ref() else { return self.mismatch("an integer", out) };
        let parsed = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fits =
            parsed.and_then(|value| T::try_from(value).ok()).filter(|value| *value >= min && *value <= max);
        if fits.is_none() {
            let range = format!("{} to {}", min.to_string(), max.to_string());
            let value = shortened(&integer.to_string());
            out.add(self.span(), Problem::OutOfRange { key: self.key(), value, range });
        }
        fits
    }

    /// A share of a whole: a number above 0 and up to 1, read to the millionth.
    pub(super) fn share(&self, out: &mut Problems) -> Option<SampleShare> {
        let text = match self.value.get_ref() {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) => number.as_str(),
            _ => return self.mismatch("a number such as 0.01", out),
        };
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
        let millionths = number.and_then(|number| format!("{:.0}", number * 1e6).parse::<u32>().ok());
        let share = millionths.and_then(SampleShare::of_millionths);
        if share.is_none() {
            let range = "0.000001 to 1".to_owned();
            out.add(self.span(), Problem::OutOfRange { key: self.key(), value: shortened(text), range });
        }
        share
    }

    /// A duration between two bounds, both included.
    pub(super) fn duration(&self, min: Duration, max: Duration, out: &mut Problems) -> Option<At<Duration>> {
        let key = self.key();
        let checked = match self.value.get_ref() {
            DeValue::String(text) => check_duration(text, key, min, max),
            DeValue::Integer(number) => Err(Problem::NoUnit { key, value: shortened(number.as_str()) }),
            DeValue::Float(number) => Err(Problem::NoUnit { key, value: shortened(number.as_str()) }),
            _ => return self.mismatch("a duration such as \"500ms\"", out),
        };
        match checked {
            Ok(value) => Some(at(&self.span(), value)),
            Err(problem) => {
                out.add(self.span(), problem);
                None
            }
        }
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&self, words: &[(&'static str, T)], out: &mut Problems) -> Option<At<T>> {
        let text = self.string(out)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| word == text.get_ref()) {
            return Some(at(&self.span(), *value));
        }
        let choices: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let expected = joined(&choices);
        let problem = Problem::UnknownWord { key: self.key(), value: quoted(text.get_ref()), expected };
        out.add(self.span(), problem).guess(text.get_ref(), words.iter().map(|(word, _)| *word));
        None
    }

    /// An IP address.
    pub(super) fn ip(&self, out: &mut Problems) -> Option<At<IpAddr>> {
        self.parsed(|key, value| Problem::BadAddress { key, value }, out)
    }

    /// An IP address with a port that is not 0.
    pub(super) fn socket_address(&self, out: &mut Problems) -> Option<At<SocketAddr>> {
        let address: At<SocketAddr> =
            self.parsed(|key, value| Problem::BadSocketAddress { key, value }, out)?;
        if address.get_ref().port() == 0 {
            out.add(self.span(), Problem::PortZero { key: self.key() });
            return None;
        }
        Some(address)
    }

    /// The same, or an IP address alone, whose port is then 0.
    pub(super) fn address_with_or_without_port(&self, out: &mut Problems) -> Option<At<SocketAddr>> {
        let ip = self.value.get_ref().as_str().and_then(|text| text.parse::<IpAddr>().ok());
        ip.map_or_else(|| self.socket_address(out), |ip| Some(at(&self.span(), SocketAddr::new(ip, 0))))
    }

    fn parsed<T: FromStr>(
        &self,
        problem: impl FnOnce(String, String) -> Problem,
        out: &mut Problems,
    ) -> Option<At<T>> {
        let text = self.string(out)?;
        let parsed = text.get_ref().parse().ok();
        if parsed.is_none() {
            out.add(self.span(), problem(self.key(), quoted(text.get_ref())));
        }
        parsed.map(|value| at(&self.span(), value))
    }
}
