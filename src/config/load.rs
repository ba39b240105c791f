//! Settings of how much the API answers at once.

use clap::Args;

use super::seconds;
use crate::api::{FeedOptions, Limits};

/// How much the API answers at once; more is refused with 429.
#[derive(Debug, Clone, Args)]
pub struct ApiLoad {
    /// Most short requests that the API answers at once; more are refused with 429
    #[arg(long, env = "NIGHTSHIFT_MAX_REQUESTS", default_value_t = Limits::default().requests, value_name = "COUNT")]
    pub max_requests: usize,
    /// Most requests that wait for a job at once (?wait=)
    #[arg(long, env = "NIGHTSHIFT_MAX_WAITS", default_value_t = Limits::default().waits, value_name = "COUNT")]
    pub max_waits: usize,
    /// Most requests that submit a job at once; a few resolve their models, the others wait for them
    #[arg(long, env = "NIGHTSHIFT_MAX_SUBMISSIONS", default_value_t = Limits::default().submissions, value_name = "COUNT")]
    pub max_submissions: usize,
    /// Most streams of events that are open at once; more are refused with 503
    #[arg(long, env = "NIGHTSHIFT_MAX_STREAMS", default_value_t = FeedOptions::default().most, value_name = "COUNT")]
    pub max_streams: usize,
    /// Seconds after which a stream on which nothing happens says that it lives: fewer than proxies on the way wait. An answer of which a client
    /// takes nothing for four times as long is broken off
    #[arg(long, env = "NIGHTSHIFT_STREAM_HEARTBEAT", default_value_t = 15.0, value_name = "SECONDS")]
    pub stream_heartbeat: f64,
}

impl ApiLoad {
    /// As the API takes them.
    pub fn limits(&self) -> Limits {
        Limits { requests: self.max_requests.max(1), waits: self.max_waits.max(1), submissions: self.max_submissions.max(1) }
    }

    /// As streams are kept.
    pub fn feed(&self) -> FeedOptions {
        FeedOptions { most: self.max_streams.max(1), heartbeat: seconds(self.stream_heartbeat), ..FeedOptions::default() }
    }
}
