//! Query parameters, strictly: one that is not known is a fault, as it would silently not do what its sender meant.

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{problem::ApiProblem, read::nearest};
use crate::domain::Fault;

/// The query of a request, decoded.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiProblem> {
        let pairs = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        Ok(Self(pairs))
    }
}

impl Query {
    /// Refuses parameters other than these; a name that ends in `.` stands for all that begin with it.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ApiProblem> {
        let is_known = |name: &str| known.iter().any(|k| *k == name || k.ends_with('.') && name.starts_with(k) && name.len() > k.len());
        let mut faults = Vec::new();
        for (at, (name, _)) in self.0.iter().enumerate() {
            if !is_known(name) {
                faults.push(unknown(name, known));
            } else if self.0[..at].iter().any(|(earlier, _)| earlier == name) {
                let detail = format!("the parameter {name:?} stands twice");
                faults.push(Fault::new(format!("?{name}"), "repeated", detail).hint("give it once"));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(ApiProblem::faults(faults)) }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Parameters that begin with `prefix`, with the rest of their names.
    pub(super) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (String, String)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone())))
    }

    /// A parameter that `parse` understands.
    pub(super) fn parsed<T>(&self, name: &str, hint: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ApiProblem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(ApiProblem::faults(vec![
                Fault::new(format!("?{name}"), "unknown_value", format!("{text:?} is not allowed here")).hint(hint),
            ])),
        }
    }

    /// The size of a page.
    pub(super) fn limit(&self, default: u32, most: u32) -> Result<u32, ApiProblem> {
        let hint = format!("give a whole number from 1 to {most}");
        let limit = self.parsed("limit", &hint, |text| text.parse().ok().filter(|n| (1..=most).contains(n)))?;
        Ok(limit.unwrap_or(default))
    }
}

fn unknown(name: &str, known: &[&str]) -> Fault {
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if known.is_empty() => "this takes no parameters".to_owned(),
        None => format!("known are {}", known.join(", ")),
    };
    Fault::new(format!("?{name}"), "unknown_parameter", format!("there is no parameter {name:?} here")).hint(hint)
}
