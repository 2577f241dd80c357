//! The version of the kernel that a daemon runs on.

use std::fmt;

/// The first two numbers of a version: what is new in Linux is new by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The version in what the kernel calls its release, such as `6.1.0-18-amd64`; none if it does not begin with one.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_compared_by_number() {
        assert_eq!(Version::parse("6.1.0-18-amd64\n"), Some(Version(6, 1)));
        assert_eq!(Version::parse("5.15.0"), Some(Version(5, 15)));
        assert_eq!(Version::parse("6.18-rc1"), Some(Version(6, 18)));
        for none in ["", "linux", "6", "6.", "v6.1", "99999999999.1"] {
            assert_eq!(Version::parse(none), None, "{none}");
        }
        assert!(
            Version(5, 9) < Version(5, 18)
                && Version(5, 18) < Version(6, 0)
                && Version(6, 6) < Version(6, 10)
        );
        assert_eq!(Version(5, 18).to_string(), "5.18");
    }
}
