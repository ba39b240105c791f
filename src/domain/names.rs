//! Names of the objects that a job writes below its output prefix.

use serde::{Deserialize, Serialize};

use super::{
    chunk::Chunk,
    job::JobId,
    spec::{JobSpec, Layout, OutputCompression, OutputFormat, OutputSpec},
    uri::Uri,
};

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
    /// Names for chunk `seq`; `token` is of [`PartNames::token`].
    pub fn new(seq: u64, token: &str, format: OutputFormat, compression: OutputCompression) -> Self {
        let suffix = suffix(format, compression);
        Self { part: format!("part-{seq:06}-{token}{suffix}"), errors: format!("errors/part-{seq:06}-{token}.jsonl") }
    }

    /// What tells an attempt's names from those of every other: the job's tag, so that a job knows its own leftovers beside another's
    /// output, and a random number.
    pub fn token(job: &JobId, random: u64) -> String {
        format!("{}{random:016x}", job.tag())
    }

    /// Whether `name` is a part or an errors file of an attempt of this job.
    pub fn is_part_of(name: &str, job: &JobId) -> bool {
        let token = name.rsplit('/').next().and_then(|name| name.strip_prefix("part-")?.split_once('-'));
        Self::is_part(name) && token.is_some_and(|(_, token)| token.starts_with(job.tag()))
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

/// The extension of an output, dot included: `.jsonl.gz`.
fn suffix(format: OutputFormat, compression: OutputCompression) -> String {
    let extension = match format {
        OutputFormat::Jsonl => "jsonl",
        OutputFormat::Csv => "csv",
        OutputFormat::Parquet => "parquet",
    };
    let compression = match (format, compression) {
        (OutputFormat::Parquet, _) | (_, OutputCompression::None) => "",
        (_, OutputCompression::Gzip) => ".gz",
        (_, OutputCompression::Zstd) => ".zst",
    };
    format!(".{extension}{compression}")
}

/// The name of the one output of an input object in the layout `mirror`: its key below the input prefix, and the output's extension.
fn mirrored(input: &Uri, output: &OutputSpec, key: &str) -> String {
    let below = match input.is_prefix() {
        true => key.strip_prefix(input.path()).unwrap_or(key),
        false => key.rsplit('/').next().unwrap_or(key),
    };
    format!("{below}{}", suffix(output.format, output.compression))
}

/// The name that a chunk's part has once its job has ended; `None` where the chunk has no part.
pub fn final_part(spec: &JobSpec, chunk: &Chunk) -> Option<String> {
    let part = chunk.result.as_ref()?.part.as_ref()?;
    match (spec.output.layout, chunk.inputs.as_slice()) {
        (Layout::Mirror, [input]) => Some(mirrored(&spec.input.uri, &spec.output, &input.key)),
        _ => Some(part.key.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_knows_its_own_parts() {
        let (job, other) = (JobId::parse("job_0199e8c0a0b07c3d8e4f5a6b7c8d9e0f").unwrap(), JobId::generate());
        let token = PartNames::token(&job, 7);
        let names = PartNames::new(3, &token, OutputFormat::Csv, OutputCompression::None);
        assert_eq!(names.part, "part-000003-7c8d9e0f0000000000000007.csv");
        for name in [&names.part, &names.errors] {
            assert!(PartNames::is_part_of(name, &job) && !PartNames::is_part_of(name, &other), "{name}");
        }
    }

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
