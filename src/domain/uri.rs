//! Locations of models, inputs and outputs: `s3://bucket/key`, `gs://bucket/key`, `az://container/key` and `file:///path`.

use serde::{Deserialize, Serialize};

/// The kind of store a location lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Amazon S3 or a server that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage; its containers are buckets here.
    Az,
    /// A folder of this machine, under a configured root.
    File,
}

impl Scheme {
    /// As locations write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
            Self::File => "file",
        }
    }
}

/// A location, parsed. The path is kept decoded and without `.`, `..` or empty segments; it is a prefix when it ends in `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uri {
    scheme: Scheme,
    /// The bucket; empty for files.
    bucket: String,
    /// The key within the bucket, or the absolute path without its leading slash.
    path: String,
}

/// Why a text is not a location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No `scheme://`.
    #[error("{0:?} is not a URI: it has no scheme")]
    NoScheme(String),
    /// A scheme that no store is registered for.
    #[error("scheme {0:?} is none of s3, gs, az and file")]
    Scheme(String),
    /// `s3://`, `gs://` or `az://` without a bucket, or a bucket with characters that no bucket has.
    #[error("{0:?} names no valid bucket")]
    Bucket(String),
    /// `.`, `..`, empty segments, control characters, query or fragment.
    #[error("{uri:?}: {reason}")]
    Path {
        /// The text as given.
        uri: String,
        /// What is wrong with its path.
        reason: &'static str,
    },
}

impl Uri {
    /// Parses a location. `s3://bucket/a/b/` and `file:///a/b/` are prefixes, the same without the last slash are objects.
    ///
    /// # Errors
    /// Says what is wrong with the text, in words for the person who wrote it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| Error::NoScheme(text.into()))?;
        let path_error = |reason| Error::Path { uri: text.into(), reason };
        let (scheme, bucket, path) = match scheme {
            "s3" | "gs" | "az" => {
                let scheme = match scheme {
                    "s3" => Scheme::S3,
                    "gs" => Scheme::Gs,
                    _ => Scheme::Az,
                };
                let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                if bucket.is_empty() || !bucket.chars().all(legal) {
                    return Err(Error::Bucket(text.into()));
                }
                (scheme, bucket, path)
            }
            "file" => {
                let path = rest.strip_prefix('/').ok_or(path_error("write three slashes and an absolute path"))?;
                (Scheme::File, "", path)
            }
            other => return Err(Error::Scheme(other.into())),
        };
        if path.chars().any(char::is_control) {
            return Err(path_error("control characters are not allowed"));
        }
        let segments = path.strip_suffix('/').unwrap_or(path);
        if !segments.is_empty() && segments.split('/').any(|s| matches!(s, "" | "." | "..")) {
            return Err(path_error("empty, '.' and '..' segments are not allowed"));
        }
        Ok(Self { scheme, bucket: bucket.into(), path: path.into() })
    }

    /// The kind of store.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket; empty for files.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key in the bucket, or the absolute path without its leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the location ends in `/` (or is a whole bucket).
    pub fn is_prefix(&self) -> bool {
        self.path.is_empty() || self.path.ends_with('/')
    }

    /// The same location as a prefix: with a slash at its end.
    #[must_use]
    pub fn as_prefix(&self) -> Self {
        let mut uri = self.clone();
        if !uri.is_prefix() {
            uri.path.push('/');
        }
        uri
    }

    /// The location of `name` (which may hold slashes) below this prefix.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let mut uri = self.as_prefix();
        uri.path.push_str(name);
        uri
    }

    /// Another key of the same store.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        Self { path: path.into(), ..self.clone() }
    }

    /// Whether `other` lies at or below this prefix.
    pub fn contains(&self, other: &Uri) -> bool {
        let (a, b) = (self.as_prefix(), other.as_prefix());
        a.scheme == b.scheme && a.bucket == b.bucket && b.path.starts_with(&a.path)
    }

    /// Whether either location lies at or below the other.
    pub fn overlaps(&self, other: &Uri) -> bool {
        self.contains(other) || other.contains(self)
    }
}

impl std::fmt::Display for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.scheme {
            Scheme::File => write!(f, "file:///{}", self.path),
            remote => write!(f, "{}://{}/{}", remote.name(), self.bucket, self.path),
        }
    }
}

impl TryFrom<String> for Uri {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl From<Uri> for String {
    fn from(uri: Uri) -> Self {
        uri.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_survive_a_round_trip() {
        for text in ["s3://b/", "s3://b/a/x.csv", "file:///data/in/", "file:///x", "s3://my.bucket-1/ä €/%20/", "gs://b/x", "az://c/x/"]
        {
            assert_eq!(Uri::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Uri::parse("s3://b").unwrap().to_string(), "s3://b/");
    }

    #[test]
    fn paths_that_could_escape_are_refused() {
        for text in ["s3://b/a/../c", "file:///../etc", "s3://b//x", "file://host/x", "http://x/y", "x", "s3:///k", "s3://b/a\nb"] {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_overlap_only_at_segment_borders() {
        let uri = |t| Uri::parse(t).unwrap();
        assert!(uri("s3://b/a").contains(&uri("s3://b/a/b/")));
        assert!(!uri("s3://b/a").contains(&uri("s3://b/ab/")));
        assert!(uri("s3://b/a/b/").overlaps(&uri("s3://b/a/")));
        assert!(!uri("s3://c/a/").overlaps(&uri("s3://b/a/")));
        assert!(!uri("gs://b/a/").overlaps(&uri("s3://b/a/")));
    }
}
