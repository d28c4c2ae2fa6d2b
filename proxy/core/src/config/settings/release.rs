//! Which versions know a setting.

use std::fmt;

/// A version, as far as settings depend on it: a setting comes with a minor one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u32,
    minor: u32,
}

impl Release {
    /// The first that there was.
    pub const FIRST: Self = Self::new(0, 1);

    /// The release `major.minor`.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// This one.
    ///
    /// # Panics
    /// Never: the build's own version is one.
    #[must_use]
    pub fn ours() -> Self {
        Self::parse(env!("CARGO_PKG_VERSION")).expect("the build's own version is one")
    }

    /// That of a version such as `0.1.0`, `v0.2` or `0.2.1-rc.1`.
    #[must_use]
    pub fn parse(version: &str) -> Option<Self> {
        let version = version.strip_prefix('v').unwrap_or(version);
        let (major, rest) = version.split_once('.')?;
        let minor = rest.split(['.', '-', '+']).next()?;
        let number = |text: &str| -> Option<u32> {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        Some(Self::new(number(major)?, number(minor)?))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        for (version, release) in [
            ("0.1.0", Some(Release::FIRST)),
            ("v0.2", Some(Release::new(0, 2))),
            ("0.10.3-rc.1", Some(Release::new(0, 10))),
            ("1.0+build", Some(Release::new(1, 0))),
            ("latest", None),
            ("17", None),
            ("+1.2", None),
            ("1.x", None),
            ("", None),
        ] {
            assert_eq!(Release::parse(version), release, "{version}");
        }
        assert!(Release::new(0, 9) < Release::new(0, 10));
        assert!(Release::new(0, 10) < Release::new(1, 0));
        assert!(Release::ours() >= Release::FIRST);
    }
}
