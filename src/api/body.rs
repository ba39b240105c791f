//! The body of a request as JSON. What is no JSON is answered with the place and with what it most likely was meant to be.

use serde_json::Value;

use super::{problem::ApiProblem, read};
use crate::domain::Fault;

/// Reads a job definition's JSON.
///
/// # Errors
/// `400` with one fault.
pub(super) fn parse(body: &[u8]) -> Result<Value, ApiProblem> {
    read::parse(body).map_err(|error| ApiProblem::malformed_body(explain(body, &error)))
}

/// `error` is the parser's, which ends in line and column.
fn explain(body: &[u8], error: &str) -> Fault {
    const EXAMPLE: &str = "{\"model\": \"s3://…\", \"input\": \"s3://…\", \"output\": \"s3://…\"}";
    let fault = |code, detail: &str, hint: &str| Fault::new("", code, detail).hint(hint);
    let Ok(text) = std::str::from_utf8(body) else {
        return fault("not_json", "the body is not UTF-8 text", "send the definition as JSON in UTF-8, uncompressed");
    };
    let text = text.trim_start_matches('\u{feff}').trim();
    let Some(first) = text.chars().next() else {
        return fault("empty_body", "the body is empty", &format!("send a definition such as {EXAMPLE}; with curl: -d @job.json"));
    };
    let is_key =
        |line: &str| line.split_once(':').is_some_and(|(key, _)| key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ')));
    if first == '-' && text.starts_with("---") || first.is_alphabetic() && text.lines().next().is_some_and(is_key) {
        return fault("not_json", "the body looks like YAML", &format!("write the same as JSON: {EXAMPLE}"));
    }
    if first != '{' && first.is_ascii() && text.contains('=') && text.contains("%3A") {
        return fault("not_json", "the body is an encoded form", "send the definition itself, with the content type application/json");
    }
    let hint = if error.contains("stands twice") {
        "keep one of the two"
    } else if error.starts_with("trailing comma") {
        "remove the comma before the closing bracket"
    } else if error.starts_with("EOF") {
        "the body ends too early: a bracket or a quote is not closed, or not all of it was sent"
    } else if error.starts_with("trailing characters") {
        "send one JSON object and nothing after it"
    } else if text.contains('\'') && (error.starts_with("key must be") || error.starts_with("expected value")) {
        "JSON writes names and texts in double quotes"
    } else {
        "look at that place; python3 -m json.tool job.json checks a file"
    };
    fault("not_json", &format!("the body is not JSON: {error}"), hint)
}
