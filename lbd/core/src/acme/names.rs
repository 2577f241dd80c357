//! The names that a certificate is for, and where it is ordered.

use std::fmt;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// The names of a certificate, in lower case, sorted, each once; at least one. With the directory that it is ordered from: another authority's
/// certificate for the same names is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    /// The directory's URL.
    directory: Arc<str>,
    names: Arc<[String]>,
}

impl Names {
    /// These names, of which the directory of this URL is to sign a certificate; none if there are none.
    #[must_use]
    pub fn new(directory: &str, names: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort();
        names.dedup();
        (!names.is_empty()).then(|| Self { directory: Arc::from(directory), names: names.into() })
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The same as texts of their own.
    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        self.names.to_vec()
    }

    /// Whether these are the same names, be the directory another one or not.
    #[must_use]
    pub fn are_those_of(&self, other: &Self) -> bool {
        self.names == other.names
    }

    /// What a file is called that holds something of these names, without an ending: the first name for people, and a hash of all and of the
    /// directory. Nothing but letters, digits, dots and dashes are in it, whatever the names are.
    #[must_use]
    pub fn file_stem(&self) -> String {
        let mut hash = Sha256::new();
        for part in std::iter::once(&*self.directory).chain(self.iter()) {
            hash.update(part.as_bytes());
            hash.update(b"\n");
        }
        let digest: [u8; 32] = hash.finalize().into();
        let plain = |c: char| if is_plain(c) { c } else { '-' };
        let first: String =
            self.iter().next().unwrap_or_default().chars().take(FIRST_CHARS_MAX).map(plain).collect();
        format!("{first}-{}", HEXLOWER.encode(&digest[..HASH_BYTES]))
    }

    /// Whether this may be what [`Self::file_stem`] answers for some names.
    #[must_use]
    pub fn is_file_stem(text: &str) -> bool {
        let Some((first, hash)) = text.rsplit_once('-') else { return false };
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        hash.len() == 2 * HASH_BYTES
            && hash.bytes().all(is_hex)
            && first.len() <= FIRST_CHARS_MAX
            && first.chars().all(|c| is_plain(c) || c == '-')
    }
}

/// So much of the first name is in the name of a file.
const FIRST_CHARS_MAX: usize = 100;

/// So much of the hash is.
const HASH_BYTES: usize = 8;

/// Whether a character stands for itself in the name of a file.
const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '.'
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> Names {
        from("https://ca.example/dir", of)
    }

    fn from(directory: &str, of: &[&str]) -> Names {
        Names::new(directory, of.iter().map(|&name| name.to_owned())).unwrap()
    }

    #[test]
    fn a_set_is_the_same_in_whatever_order_it_is_written() {
        let (one, other) =
            (names(&["www.example.org", "example.org"]), names(&["example.org", "www.example.org"]));
        assert_eq!((&one, one.file_stem()), (&other, other.file_stem()));
        assert_eq!(one.to_string(), "example.org, www.example.org");
        assert_eq!(names(&["a", "a"]).iter().count(), 1);
        assert_eq!(Names::new("https://ca.example/dir", []), None);
    }

    #[test]
    fn files_of_different_names_are_different_and_stay_in_their_folder() {
        assert!(names(&["example.org"]).file_stem().starts_with("example.org-"));
        assert_ne!(
            names(&["example.org"]).file_stem(),
            names(&["example.org", "www.example.org"]).file_stem()
        );
        let odd = names(&["../../etc/x y\0"]).file_stem();
        assert!(odd.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-'), "{odd}");
        let long = names(&[&"x".repeat(300)]).file_stem();
        assert!(long.len() < 120 && Names::is_file_stem(&long) && Names::is_file_stem(&odd), "{long}");
    }

    #[test]
    fn another_directory_has_another_certificate_for_the_same_names() {
        let (one, other) = (names(&["example.org"]), from("https://ca.example/other", &["example.org"]));
        assert_ne!(one, other);
        assert_ne!(one.file_stem(), other.file_stem());
        assert!(one.are_those_of(&other) && !one.are_those_of(&names(&["www.example.org"])));
        assert_eq!(one.to_string(), other.to_string());
    }

    #[test]
    fn what_others_have_called_their_files_is_none_of_ours() {
        assert!(Names::is_file_stem("a-b.example-0123456789abcdef"));
        for other in [
            "",
            "fullchain",
            "backup-2026",
            "0123456789abcdef",
            "a-0123456789abcde",
            "a-0123456789ABCDEF",
            "a b-0123456789abcdef",
        ] {
            assert!(!Names::is_file_stem(other), "{other}");
        }
    }
}
