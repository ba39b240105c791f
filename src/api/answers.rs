//! Answers about jobs that were made a moment ago.
//!
//! In: a job's version and its answer. Out: the same answer, while the job is what it was. A job that many watch is not read and written
//! anew for each of them: reading its row's documents and writing the answer is most of what such a request costs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::problem::ApiProblem;
use crate::domain::JobId;

/// For how long an answer is given again: the times in it that pass, such as `wall_seconds` and `eta_seconds`, are older by that at most.
const FRESH: Duration = Duration::from_millis(100);

/// A job as JSON.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    etag: HeaderValue,
    body: Bytes,
}

impl Answer {
    pub(super) fn new(etag: &str, body: &impl serde::Serialize) -> Result<Self, ApiProblem> {
        let failed = |e: &dyn std::fmt::Display| ApiProblem::internal(&e.to_string());
        let etag = HeaderValue::from_str(etag).map_err(|e| failed(&e))?;
        Ok(Self { etag, body: serde_json::to_vec(body).map_err(|e| failed(&e))?.into() })
    }

    /// The answer, or `304` to one who has it.
    pub(super) fn to(&self, request: &HeaderMap) -> Response {
        let known = request.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let tag = [(header::ETAG, self.etag.clone())];
        if known.split(',').any(|known| known.trim() == "*" || weak(known.as_bytes()) == weak(self.etag.as_bytes())) {
            return (StatusCode::NOT_MODIFIED, tag).into_response();
        }
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        (tag, json, self.body.clone()).into_response()
    }
}

/// A tag as `If-None-Match` compares it (RFC 9110, section 13.1.2).
fn weak(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// What was answered lately. Cheap to clone: all clones share it.
#[derive(Debug, Clone, Default)]
pub struct Answers(Arc<Mutex<HashMap<JobId, Kept>>>);

#[derive(Debug)]
struct Kept {
    version: i64,
    made: Instant,
    answer: Answer,
}

impl Answers {
    /// Whether something was answered of a job just now.
    pub(super) fn has(&self, job: &JobId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(job).is_some_and(|kept| kept.is_fresh(Instant::now()))
    }

    /// What was answered of a job just now, in this version of it.
    pub(super) fn find(&self, job: &JobId, version: i64) -> Option<Answer> {
        self.find_at(job, version, Instant::now())
    }

    fn find_at(&self, job: &JobId, version: i64, now: Instant) -> Option<Answer> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(job).filter(|kept| kept.version == version && kept.is_fresh(now)).map(|kept| kept.answer.clone())
    }

    /// Keeps an answer that was just made of a job in this version, and drops those that nobody will be given.
    pub(super) fn keep(&self, job: JobId, version: i64, answer: Answer) {
        self.keep_at(job, version, answer, Instant::now());
    }

    fn keep_at(&self, job: JobId, version: i64, answer: Answer, now: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.is_fresh(now));
        kept.insert(job, Kept { version, made: now, answer });
    }
}

impl Kept {
    fn is_fresh(&self, now: Instant) -> bool {
        now - self.made < FRESH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        Answer::new("W/\"1\"", &text).unwrap()
    }

    #[test]
    fn an_answer_is_given_again_for_a_moment_and_for_the_version_it_was_made_of() {
        let (answers, job, other) = (Answers::default(), JobId::generate(), JobId::generate());
        let now = Instant::now();
        answers.keep_at(job.clone(), 1, answer("a"), now);
        assert_eq!(answers.find_at(&job, 1, now + FRESH / 2).unwrap().body, "\"a\"");
        assert!(answers.find_at(&job, 2, now).is_none() && answers.find_at(&other, 1, now).is_none());
        assert!(answers.find_at(&job, 1, now + FRESH).is_none(), "its times have passed");
        answers.keep_at(other.clone(), 1, answer("b"), now + FRESH);
        assert_eq!(answers.0.lock().unwrap().keys().collect::<Vec<_>>(), [&other], "nothing is kept that is not given");
    }
}
