//! Settings of how much the API answers at once.

use clap::Args;

use crate::api::Limits;

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
}

impl ApiLoad {
    /// As the API takes them.
    pub fn limits(&self) -> Limits {
        Limits { requests: self.max_requests.max(1), waits: self.max_waits.max(1), submissions: self.max_submissions.max(1) }
    }
}
