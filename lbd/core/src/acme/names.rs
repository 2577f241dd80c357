//! The names that a certificate is for.

use std::fmt;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// The names of a certificate, in lower case, sorted, each once; at least one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names(Arc<[String]>);

impl Names {
    /// These names; none if there are none.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort();
        names.dedup();
        (!names.is_empty()).then(|| Self(names.into()))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The same as texts of their own.
    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        self.0.to_vec()
    }

    /// What a file is called that holds something of these names, without an ending: the first name for people, and a hash of all. Nothing but
    /// letters, digits, dots and dashes are in it, whatever the names are.
    #[must_use]
    pub fn file_stem(&self) -> String {
        let mut hash = Sha256::new();
        for name in self.iter() {
            hash.update(name.as_bytes());
            hash.update(b"\n");
        }
        let digest: [u8; 32] = hash.finalize().into();
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let first: String = self.iter().next().unwrap_or_default().chars().take(100).map(plain).collect();
        format!("{first}-{}", HEXLOWER.encode(&digest[..8]))
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> Names {
        Names::new(of.iter().map(|&name| name.to_owned())).unwrap()
    }

    #[test]
    fn a_set_is_the_same_in_whatever_order_it_is_written() {
        let (one, other) =
            (names(&["www.example.org", "example.org"]), names(&["example.org", "www.example.org"]));
        assert_eq!((&one, one.file_stem()), (&other, other.file_stem()));
        assert_eq!(one.to_string(), "example.org, www.example.org");
        assert_eq!(names(&["a", "a"]).iter().count(), 1);
        assert_eq!(Names::new([]), None);
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
        assert!(names(&[&"x".repeat(300)]).file_stem().len() < 128);
    }
}
