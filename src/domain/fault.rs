//! What is wrong, said so that the person who sent it can mend it.

use serde::{Deserialize, Serialize};

/// One fault in a request: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// JSON pointer (RFC 6901) into the request body, for example `/input/format`; empty for the whole body.
    pub pointer: String,
    /// Stable, lower_snake_case.
    pub code: String,
    /// What is wrong with the value that was found there.
    pub detail: String,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Fault {
    /// A fault without a hint; add one with [`Fault::hint`].
    pub fn new(pointer: impl Into<String>, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code: code.into(), detail: detail.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Why a job did not complete, as kept on the job; the API shows it as an RFC 9457 problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, lower_snake_case: the last part of the problem's `type`.
    pub code: String,
    /// One sentence, the same for every occurrence of `code`.
    pub title: String,
    /// What happened this time: names the object, the limit, the provider.
    pub detail: String,
}

impl Problem {
    /// All three parts, in the order code, title, detail.
    pub fn new(code: impl Into<String>, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code: code.into(), title: title.into(), detail: detail.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}
