//! What is wrong with an output, said so that its place can be found.

use serde::Serialize;

/// One thing that is not as the manifest, or the job's promises, say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable, lower_snake_case.
    pub code: &'static str,
    /// The file, relative to the output prefix; `None` when it is the output as a whole.
    pub file: Option<String>,
    /// The row of that file, counted from 0 without the header.
    pub row: Option<u64>,
    /// What is wrong.
    pub detail: String,
}

impl Finding {
    pub(super) fn of_output(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, file: None, row: None, detail: detail.into() }
    }

    pub(super) fn of_file(code: &'static str, file: &str, detail: impl Into<String>) -> Self {
        Self { code, file: Some(file.to_owned()), row: None, detail: detail.into() }
    }

    pub(super) fn of_row(code: &'static str, file: &str, row: u64, detail: impl Into<String>) -> Self {
        Self { code, file: Some(file.to_owned()), row: Some(row), detail: detail.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.file, self.row) {
            (Some(file), Some(row)) => write!(f, "{file}, row {row}: {}", self.detail),
            (Some(file), None) => write!(f, "{file}: {}", self.detail),
            (None, _) => f.write_str(&self.detail),
        }
    }
}

/// Findings, of which the first are kept and all are counted: a part whose every row is wrong must not fill the memory.
#[derive(Debug)]
pub(super) struct Findings {
    kept: Vec<Finding>,
    total: u64,
    most: usize,
}

impl Findings {
    pub(super) fn at_most(most: usize) -> Self {
        Self { kept: Vec::new(), total: 0, most }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        self.total += 1;
        if self.kept.len() < self.most {
            self.kept.push(finding);
        }
    }

    pub(super) fn append(&mut self, other: Findings) {
        self.total += other.total;
        let room = self.most.saturating_sub(self.kept.len());
        self.kept.extend(other.kept.into_iter().take(room));
    }

    /// Those that were kept, and how many there were.
    pub(super) fn take(self) -> (Vec<Finding>, u64) {
        (self.kept, self.total)
    }
}
