//! One attempt: a signed POST to a receiver.
//!
//! In: a message. Out: the receiver's answer, or why there is none. Follows no redirect, uses no proxy, keeps no connection, reads no
//! body: what a receiver can do to this process is to keep one task waiting, for a while.

use std::time::{Duration, Instant, SystemTime};

use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect::Policy,
};

use super::{
    guard::{Guard, Refused},
    retry, sign,
};
use crate::domain::{Timestamp, TraceParent, WebhookSecret, WebhookUrl};

/// How long an attempt may last.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the connection, TLS included.
    pub connect: Duration,
    /// For the whole attempt, name resolution included.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), total: Duration::from_secs(15) }
    }
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The receiver answered.
    Status {
        /// With this HTTP status.
        status: u16,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// There was no answer.
    Silence {
        /// Why, in words.
        error: String,
    },
    /// Nothing was sent: the guard refused the address.
    Refused {
        /// Why, in words.
        error: String,
    },
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Message<'m> {
    /// `webhook-id`: the same for every attempt.
    pub id: &'m str,
    /// Byte by byte.
    pub body: &'m str,
    /// The trace that the job belongs to.
    pub trace: Option<TraceParent>,
}

/// Makes attempts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Deliverer {
    client: reqwest::Client,
    guard: Guard,
    timeouts: Timeouts,
}

impl Deliverer {
    /// A deliverer that calls what the guard lets it.
    ///
    /// # Errors
    /// When the HTTP client cannot be made, for example without root certificates.
    pub fn new(guard: Guard, timeouts: Timeouts) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("nightshift/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .dns_resolver(guard.clone())
            // A kept connection would be used without asking the guard again.
            .pool_max_idle_per_host(0)
            .connect_timeout(timeouts.connect)
            .timeout(timeouts.total)
            .build()
            .map_err(|e| format!("the HTTP client for webhooks cannot be made: {}", innermost(&e)))?;
        Ok(Self { client, guard, timeouts })
    }

    /// Sends a message once; the answer, and how long it took.
    pub async fn attempt(&self, url: &WebhookUrl, message: Message<'_>, secrets: &[WebhookSecret]) -> (Answer, Duration) {
        let Message { id, body, trace } = message;
        let began = Instant::now();
        // The client does not ask its resolver about literals.
        if let Err(refused) = self.guard.check_literal(url) {
            return (Answer::Refused { error: refused.to_string() }, began.elapsed());
        }
        let timestamp = Timestamp::now().0.div_euclid(1_000_000);
        let request = self
            .client
            .post(url.as_url().clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", sign::signatures(secrets, id, timestamp, body))
            .body(body.to_owned());
        let request = match trace {
            Some(trace) => request.header("traceparent", trace.to_string()),
            None => request,
        };
        let answer = match request.send().await {
            Ok(response) => {
                let wanted = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = wanted.and_then(|value| retry::retry_after(value, SystemTime::now()));
                Answer::Status { status: response.status().as_u16(), retry_after }
            }
            Err(error) => self.explain(&error),
        };
        (answer, began.elapsed())
    }

    fn explain(&self, error: &reqwest::Error) -> Answer {
        if let Some(refused) = refused(error) {
            return Answer::Refused { error: refused.to_string() };
        }
        let error = if error.is_timeout() && error.is_connect() {
            format!("no connection within {} s", self.timeouts.connect.as_secs_f64())
        } else if error.is_timeout() {
            format!("no answer within {} s", self.timeouts.total.as_secs_f64())
        } else if error.is_connect() {
            format!("no connection: {}", innermost(error))
        } else {
            format!("no answer: {}", innermost(error))
        };
        Answer::Silence { error }
    }
}

/// What an answer means in words; `None` for success.
pub(super) fn failure(status: u16) -> Option<String> {
    let known = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("an unknown status");
    match status {
        200..300 => None,
        300..400 => Some(format!("answered {status} {known}: redirects are not followed, give the final URL")),
        _ => Some(format!("answered {status} {known}")),
    }
}

/// The guard's refusal, if it is that on which the request failed.
fn refused(error: &reqwest::Error) -> Option<Refused> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return Some(*refused);
        }
        source = inner.source();
    }
    None
}

/// The cause of a failed request, without the URL, whose path may be a secret of the receiver's.
fn innermost(error: &reqwest::Error) -> String {
    let Some(mut inner) = std::error::Error::source(error) else { return "the request failed".to_owned() };
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
