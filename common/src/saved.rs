//! Kernel settings as they were before a daemon set them, to be put back at the end: what is worth keeping, and what of it still
//! holds. The daemons read and write the settings, and the file in which the next life finds this after a crash.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Settings by name, each as it was and as it was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    before: String,
    set: String,
}

impl Saved {
    /// What [`Self::to_text`] has written. A line that is something else is not ours, and dropped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let parse = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let entry = (words.next()?, Entry { before: words.next()?, set: words.next()? });
            words.next().is_none().then_some(entry)
        };
        Self { entries: text.lines().filter_map(parse).collect() }
    }

    /// A line each: name, value before, and value set.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (key, entry) in &self.entries {
            // Writing to a string cannot fail.
            writeln!(text, "{key} {} {}", entry.before, entry.set).ok();
        }
        text
    }

    /// Whether there is nothing to put back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Notes that a setting, which is `before`, is about to be set to another value. True if that is to be kept first.
    pub fn note(&mut self, key: &str, before: &str, set: &str) -> bool {
        // After a crash or on a new interface of the same name, what was first counts; but what someone has set since then is
        // what they want to have back.
        let known = self.entries.get(key).is_some_and(|entry| before == entry.before);
        if !known {
            let entry = Entry { before: before.to_owned(), set: set.to_owned() };
            self.entries.insert(key.to_owned(), entry);
        }
        !known
    }

    /// What a setting, which is `now`, is to be again; none if it is not as it was set.
    #[must_use]
    pub fn to_put_back(&self, key: &str, now: &str) -> Option<&str> {
        self.entries.get(key).filter(|entry| entry.set == now).map(|entry| entry.before.as_str())
    }

    /// A setting needs no putting back any more.
    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_first_is_put_back() {
        let mut saved = Saved::default();
        assert!(saved.note("a", "0", "1"));
        assert!(!saved.note("a", "0", "1"), "as after a crash");
        assert_eq!(saved.to_put_back("a", "1"), Some("0"));
        assert_eq!(saved.to_put_back("a", "2"), None, "somebody has set it");
        assert_eq!(saved.to_put_back("b", "1"), None);
        // And what somebody has set meanwhile, if it is set again.
        assert!(saved.note("a", "2", "1"));
        assert_eq!(saved.to_put_back("a", "1"), Some("2"));
        saved.forget("a");
        assert!(saved.is_empty());
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let mut saved = Saved::default();
        saved.note("net/ipv4/conf/eth0.100/forwarding", "0", "1");
        saved.note("net/ipv6/conf/eth0/accept_ra", "1", "2");
        let text = saved.to_text();
        assert_eq!(text, "net/ipv4/conf/eth0.100/forwarding 0 1\nnet/ipv6/conf/eth0/accept_ra 1 2\n");
        assert_eq!(Saved::parse(&text), saved);
        assert_eq!(Saved::parse(&text).keys().count(), 2);
        assert!(Saved::parse("nonsense\na 0\na 0 1 2\n\n").is_empty());
    }
}
