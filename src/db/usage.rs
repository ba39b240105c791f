//! Which sums of usage the store is asked for, and what they are.

/// What sums of usage are asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsageBy {
    /// The value of this label.
    Label(String),
    /// The registered name of the model, or its location.
    Model,
    /// The schedule that made the job.
    Schedule,
    /// The day on which the job ended.
    Day,
}

/// Which sums of usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageFilter {
    /// By what.
    pub by: UsageBy,
    /// The first day of ends, counted from 1970-01-01 UTC.
    pub from_day: i64,
    /// The last day, which counts.
    pub to_day: i64,
    /// At most this many groups: those that cost most.
    pub limit: u32,
}

/// Sums over jobs that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct UsageSums {
    /// Jobs. As all of these a difference too: a job that is retried may have fewer records than before.
    pub jobs: i64,
    /// Records with an outcome.
    pub records: i64,
    /// Device-seconds.
    pub device_seconds: f64,
    /// Those of them that came to nothing.
    pub retry_device_seconds: f64,
    /// Price of the device-seconds.
    pub cost: f64,
    /// Price of those that came to nothing.
    pub retry_cost: f64,
}

/// Sums over the jobs of one group and one currency.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageGroup {
    /// The label's value, the model, the schedule; of days the number since 1970-01-01.
    pub group: String,
    /// Of the prices; `None` where there were none.
    pub currency: Option<String>,
    /// What they come to.
    pub sums: UsageSums,
}

/// Sums of usage.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageReport {
    /// The groups that cost most, those first.
    pub items: Vec<UsageGroup>,
    /// Over all groups, by currency.
    pub grouped: Vec<(Option<String>, UsageSums)>,
    /// Over all jobs, by currency: those too that are in no group.
    pub total: Vec<(Option<String>, UsageSums)>,
}
