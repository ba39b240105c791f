//! Names of the objects that a job writes below its output prefix.

use serde::{Deserialize, Serialize};

use super::spec::{OutputCompression, OutputFormat};

/// Written last but one: what the job wrote, in input order.
pub const MANIFEST: &str = "_manifest.json";
/// Written last: a reader that waits for it never sees half a job.
pub const SUCCESS: &str = "_SUCCESS";

/// The two names that one attempt at one chunk may write: no other attempt uses them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartNames {
    /// `part-000012-<token>.jsonl.gz`.
    pub part: String,
    /// `errors/part-000012-<token>.jsonl`.
    pub errors: String,
}

impl PartNames {
    /// Names for chunk `seq`; `token` is random for each attempt, lower-case letters and digits.
    pub fn new(seq: u64, token: &str, format: OutputFormat, compression: OutputCompression) -> Self {
        let extension = match format {
            OutputFormat::Jsonl => "jsonl",
            OutputFormat::Csv => "csv",
            OutputFormat::Parquet => "parquet",
        };
        let suffix = match (format, compression) {
            (OutputFormat::Parquet, _) | (_, OutputCompression::None) => "",
            (_, OutputCompression::Gzip) => ".gz",
            (_, OutputCompression::Zstd) => ".zst",
        };
        Self { part: format!("part-{seq:06}-{token}.{extension}{suffix}"), errors: format!("errors/part-{seq:06}-{token}.jsonl") }
    }

    /// Whether `name` (relative to the output prefix) has the form of a part or an errors file of some attempt.
    pub fn is_part(name: &str) -> bool {
        let name = name.strip_prefix("errors/").unwrap_or(name);
        let Some((seq, rest)) = name.strip_prefix("part-").and_then(|n| n.split_once('-')) else { return false };
        let Some((token, extension)) = rest.split_once('.') else { return false };
        seq.len() >= 6
            && seq.bytes().all(|b| b.is_ascii_digit())
            && !token.is_empty()
            && token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && matches!(extension, "jsonl" | "jsonl.gz" | "jsonl.zst" | "csv" | "csv.gz" | "csv.zst" | "parquet")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_making_count_as_parts() {
        for format in [OutputFormat::Jsonl, OutputFormat::Csv, OutputFormat::Parquet] {
            for compression in [OutputCompression::None, OutputCompression::Gzip, OutputCompression::Zstd] {
                let names = PartNames::new(1_234_567, "01hz3", format, compression);
                assert!(PartNames::is_part(&names.part) && PartNames::is_part(&names.errors), "{names:?}");
            }
        }
        for foreign in ["part-0.parquet", "part-000001.csv", "_manifest.json", "errors/x", "part-000001-AB.csv", "x/part-000001-a.csv"] {
            assert!(!PartNames::is_part(foreign), "{foreign}");
        }
    }
}
