//! Looking for a text in a stream of bytes, cut anywhere, without keeping the stream.

/// A text to look for, prepared once (Knuth, Morris, Pratt 1977): each byte of the stream is looked at once or twice,
/// whatever text and stream are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    /// For each length of a matched beginning: the length of the longest shorter one that ends in the same bytes.
    shorter: Vec<usize>,
}

/// A search under way.
#[derive(Clone, Debug)]
pub(super) struct Search<'a> {
    pattern: &'a Pattern,
    matched: usize,
}

impl Pattern {
    /// Prepares the search for `text`. The empty text is found everywhere.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut shorter = vec![0; bytes.len()];
        let mut matched = 0;
        for end in 1..bytes.len() {
            while matched > 0 && bytes[matched] != bytes[end] {
                matched = shorter[matched - 1];
            }
            if bytes[matched] == bytes[end] {
                matched += 1;
            }
            shorter[end] = matched;
        }
        Self { text: text.to_owned(), shorter }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) const fn search(&self) -> Search<'_> {
        Search { pattern: self, matched: 0 }
    }
}

impl<'a> Search<'a> {
    pub(super) const fn pattern(&self) -> &'a Pattern {
        self.pattern
    }

    /// Takes the next bytes of the stream. Whether the text has been seen, now or before.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let text = self.pattern.text.as_bytes();
        for &byte in bytes {
            if self.found() {
                break;
            }
            while self.matched > 0 && text[self.matched] != byte {
                self.matched = self.pattern.shorter[self.matched - 1];
            }
            if text[self.matched] == byte {
                self.matched += 1;
            }
        }
        self.found()
    }

    /// Whether the text has been seen.
    pub(super) const fn found(&self) -> bool {
        self.matched == self.pattern.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_across_reads() {
        let pattern = Pattern::new("aab");
        let mut search = pattern.search();
        assert!(!search.push(b"xa"));
        assert!(!search.push(b"aa"));
        assert!(search.push(b"b"));
        assert!(search.push(b"anything"), "what was found stays found");
        assert!(Pattern::new("").search().push(b""));
        assert!(!Pattern::new("x").search().push(b""));
    }

    proptest! {
        /// Against the standard library's search, with few letters so that near misses are common, cut at random.
        #[test]
        fn agrees_with_a_plain_search(text in "[ab]{1,6}", stream in "[ab]{0,60}", cuts in proptest::collection::vec(1_usize..9, 1..40)) {
            let pattern = Pattern::new(&text);
            let mut search = pattern.search();
            let (mut rest, mut cuts) = (stream.as_bytes(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                search.push(now);
                rest = later;
            }
            prop_assert_eq!(search.found(), stream.contains(&text));
        }
    }
}
