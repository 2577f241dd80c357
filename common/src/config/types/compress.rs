//! Which answers of targets are compressed for clients.

/// `compress` of a service of `mode = "http"` or of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compress {
    /// `"none"`: nothing is; of a rule whose service compresses.
    Nothing,
    /// Answers of these kinds, by gzip, which is the only one of `algorithms`.
    Answers(Compressible),
}

/// The kinds of answers that are compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressible {
    /// Media types in lower case, `text/html` or `text/*`; by default [`Self::TYPES`].
    pub types: Vec<String>,
    /// An answer of a length that is known and less than this is not compressed; 1 KiB by default, to 1 GiB.
    pub bytes_min: u64,
}

impl Compressible {
    /// What is text, and nothing that comes as a stream of events.
    pub const TYPES: [&str; 9] = [
        "text/html",
        "text/plain",
        "text/css",
        "text/javascript",
        "text/xml",
        "application/javascript",
        "application/json",
        "application/xml",
        "image/svg+xml",
    ];

    /// Whether an answer with this `Content-Type` is of these kinds, whatever its parameters are.
    #[must_use]
    pub fn has_type(&self, content_type: &[u8]) -> bool {
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        self.types.iter().any(|known| match known.strip_suffix('*') {
            Some(all) => {
                essence.get(..all.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(all.as_bytes()))
            }
            None => essence.eq_ignore_ascii_case(known.as_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_compared_without_case_and_parameters() {
        let types = vec!["text/html".to_owned(), "font/*".to_owned()];
        let kinds = Compressible { types, bytes_min: 0 };
        for (content_type, expected) in [
            ("text/html", true),
            ("Text/HTML; charset=utf-8", true),
            ("text/html ;a=b", true),
            ("text/html5", false),
            ("text/plain", false),
            ("font/ttf", true),
            ("fonts/ttf", false),
            ("font", false),
            ("", false),
        ] {
            assert_eq!(kinds.has_type(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
