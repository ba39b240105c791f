//! Models by name: versions, and aliases that move.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{job::PinnedModel, pipeline::Pipeline, signature::Signature, time::Timestamp};

/// Longest name of a model or an alias.
pub const LONGEST_NAME: usize = 64;

/// What a model or an alias is called: 1 to 64 letters, digits, dots, dashes and underscores, of which the first is a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Reads a name; `None` when the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let fits = (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(plain);
        (fits && text.as_bytes()[0].is_ascii_alphanumeric()).then(|| Self(text.to_owned()))
    }

    /// Reads an alias, which is a name that is no number: numbers are versions.
    pub fn parse_alias(text: &str) -> Option<Self> {
        Self::parse(text).filter(|_| !text.bytes().all(|b| b.is_ascii_digit()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which version of a model is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// This one.
    Version(u64),
    /// The one that the alias points at.
    Alias(Name),
    /// The one with the highest number.
    Newest,
}

impl Which {
    /// A version's number, or an alias.
    pub fn parse(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(version @ 1..) => Some(Self::Version(version)),
            Ok(0) => None,
            Err(_) => Name::parse_alias(text).map(Self::Alias),
        }
    }
}

/// A version of a model, as it was when it was registered.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelVersion {
    /// The model's name.
    pub name: Name,
    /// 1, 2 and so on.
    pub version: u64,
    /// Where its files are, and their digest.
    pub model: PinnedModel,
    /// All inputs and outputs.
    pub signature: Signature,
    /// As derived without a job's settings.
    pub pipeline: Pipeline,
    /// When it was registered.
    pub created_at: Timestamp,
    /// The aliases that point at it, sorted.
    pub aliases: Vec<Name>,
}

/// A model with all that points into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// Its name.
    pub name: Name,
    /// How many versions there are: they are numbered up to this.
    pub versions: u64,
    /// Aliases and the versions that they point at, sorted by name.
    pub aliases: Vec<(Name, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_paths_and_beside_locations() {
        for good in ["fraud", "fraud-2.1_b", "7", "A"] {
            assert!(Name::parse(good).is_some(), "{good}");
        }
        for bad in ["", "-a", ".", "a/b", "a@b", "a b", "é", "s3://x", &"a".repeat(65)] {
            assert!(Name::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_number_is_a_version_and_never_an_alias() {
        assert_eq!(Which::parse("12"), Some(Which::Version(12)));
        assert_eq!(Which::parse("production"), Name::parse_alias("production").map(Which::Alias));
        for bad in ["0", "00", "99999999999999999999", "a/b", ""] {
            assert_eq!(Which::parse(bad), None, "{bad}");
        }
    }
}
