//! `/v1/usage`: what jobs cost, by label, model, schedule or day; and what single jobs are expected to.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiState, problem::ApiProblem, query::Query};
use crate::{
    db::{UsageBy, UsageFilter, UsageSums},
    domain::{Estimate, Fault, Timestamp},
};

const DAY_US: i64 = 86_400_000_000;
/// Days that are summed when nobody says which: the last ones, today's included.
const DAYS: i64 = 30;
const DATE: &str = "write a day as 2026-11-23";

/// What jobs took that ended on these days.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsageReportBody {
    /// By what: `day`, `model`, `schedule` or `label.` and a key.
    #[schema(example = "label.team")]
    group_by: String,
    /// The first day, UTC.
    #[schema(example = "2026-11-01")]
    from: String,
    /// The last day, which counts, UTC.
    #[schema(example = "2026-11-30")]
    to: String,
    /// The groups that cost most, at most `limit`, those first.
    items: Vec<UsageGroupBody>,
    /// Groups that are not in `items`, together; one entry a currency, none where there are none.
    others: Vec<UsageSumsBody>,
    /// Jobs that are in no group, such as those without the label; one entry a currency, none where there are none.
    ungrouped: Vec<UsageSumsBody>,
    /// All jobs; one entry a currency.
    total: Vec<UsageSumsBody>,
}

/// What the jobs of a group took.
#[derive(Debug, Serialize, ToSchema)]
struct UsageGroupBody {
    /// The label's value, the model's registered name or its location, the schedule, or the day.
    #[schema(example = "risk")]
    group: String,
    /// Their sums.
    #[serde(flatten)]
    sums: UsageSumsBody,
}

/// Sums over jobs that have ended.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct UsageSumsBody {
    /// Jobs; one that is retried counts once.
    jobs: i64,
    /// Records with an outcome.
    records: i64,
    /// Time of devices, seconds.
    device_seconds: f64,
    /// Device-seconds of attempts that came to nothing.
    retry_device_seconds: f64,
    /// What the device-seconds cost; absent where they had no price.
    cost: Option<f64>,
    /// What attempts cost that came to nothing.
    retry_cost: Option<f64>,
    /// What a million records cost.
    cost_per_million_records: Option<f64>,
    /// Of these costs.
    #[schema(example = "EUR")]
    currency: Option<String>,
}

impl UsageSumsBody {
    fn new(currency: Option<String>, sums: &UsageSums) -> Self {
        let priced = currency.is_some();
        Self {
            jobs: sums.jobs,
            records: sums.records,
            device_seconds: sums.device_seconds,
            retry_device_seconds: sums.retry_device_seconds,
            cost: priced.then_some(sums.cost),
            retry_cost: priced.then_some(sums.retry_cost),
            cost_per_million_records: (priced && sums.records > 0).then(|| sums.cost / sums.records as f64 * 1e6),
            currency,
        }
    }
}

/// What work is expected to take.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExpectedBody {
    /// `measured`: by earlier jobs with the same model, pipeline and provider. `sample`: by the records of this dry run, which ran one
    /// after the other and tell little.
    #[schema(example = "measured")]
    basis: &'static str,
    /// The execution provider that it is for.
    #[schema(example = "cpu")]
    provider: String,
    /// From the first claim to the end.
    seconds: f64,
    /// Time of devices.
    device_seconds: f64,
    /// What that costs; absent where the provider had no price.
    cost: Option<f64>,
    /// Of the cost.
    #[schema(example = "EUR")]
    currency: Option<String>,
}

impl From<&Estimate> for ExpectedBody {
    fn from(estimate: &Estimate) -> Self {
        Self {
            basis: estimate.basis.name(),
            provider: estimate.provider.clone(),
            seconds: estimate.seconds,
            device_seconds: estimate.device_seconds,
            cost: estimate.cost,
            currency: estimate.currency.clone(),
        }
    }
}

/// What jobs cost
///
/// Sums over jobs by the day on which they ended, in UTC; a job that runs is not among them yet, and one that was purged still is. What a
/// retry adds counts on the day on which the job ends again. The read costs the same however many jobs there were.
#[utoipa::path(
    get, path = "/v1/usage", tag = "costs",
    params(
        ("group_by" = String, Query, description = "`day`, `model`, `schedule` (its id, or the label `schedule` of jobs that none made), or `label.` and a key", example = "label.team"),
        ("from" = Option<String>, Query, description = "The first day, UTC; 30 days up to `to` when absent", example = "2026-11-01"),
        ("to" = Option<String>, Query, description = "The last day, which counts; today when absent", example = "2026-11-30"),
        ("limit" = Option<u32>, Query, description = "Groups at most: 1 to 1000, 100 when absent"),
    ),
    responses(
        (status = 200, description = "The sums", body = UsageReportBody, example = json!({
            "group_by": "label.team", "from": "2026-11-01", "to": "2026-11-30",
            "items": [{"group": "risk", "jobs": 30, "records": 41_000_000, "device_seconds": 5400.5, "retry_device_seconds": 12.25, "cost": 0.3, "retry_cost": 0.0007, "cost_per_million_records": 0.0073, "currency": "EUR"}],
            "others": [], "ungrouped": [],
            "total": [{"jobs": 30, "records": 41_000_000, "device_seconds": 5400.5, "retry_device_seconds": 12.25, "cost": 0.3, "retry_cost": 0.0007, "cost_per_million_records": 0.0073, "currency": "EUR"}]
        })),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn usage(State(state): State<ApiState>, query: Query) -> Result<Json<UsageReportBody>, ApiProblem> {
    const BY: &str = "give day, model, schedule, or label. and a key, such as label.team";
    query.only(&["group_by", "from", "to", "limit"])?;
    let by = query.parsed("group_by", BY, |text| match text {
        "day" => Some(UsageBy::Day),
        "model" => Some(UsageBy::Model),
        "schedule" => Some(UsageBy::Schedule),
        other => other.strip_prefix("label.").filter(|key| !key.is_empty()).map(|key| UsageBy::Label(key.to_owned())),
    })?;
    let missing = || ApiProblem::faults(vec![Fault::new("?group_by", "missing", "this parameter is needed").hint(BY)]);
    let by = by.ok_or_else(missing)?;
    let to_day = query.parsed("to", DATE, day)?.unwrap_or_else(|| Timestamp::now().0.div_euclid(DAY_US));
    let from_day = query.parsed("from", DATE, day)?.unwrap_or(to_day - DAYS + 1);
    let limit = query.limit(100, 1000)?;
    let days = by == UsageBy::Day;
    let report = state.store.usage(&UsageFilter { by, from_day, to_day, limit }).await?;

    let mut others = report.grouped.clone();
    for (currency, sums) in &mut others {
        report.items.iter().filter(|item| item.currency == *currency).for_each(|item| subtract(sums, &item.sums));
    }
    let mut ungrouped = report.total.clone();
    for (currency, sums) in &mut ungrouped {
        report.grouped.iter().filter(|(of, _)| of == currency).for_each(|(_, grouped)| subtract(sums, grouped));
    }
    let some = |sums: Vec<(Option<String>, UsageSums)>| sums.into_iter().filter(|(_, sums)| sums.jobs != 0).collect::<Vec<_>>();
    let bodies = |sums: Vec<(Option<String>, UsageSums)>| sums.into_iter().map(|(of, sums)| UsageSumsBody::new(of, &sums)).collect();
    let name = |group: String| if days { group.parse().map_or(group, date) } else { group };
    let items = report
        .items
        .into_iter()
        .map(|item| UsageGroupBody { group: name(item.group), sums: UsageSumsBody::new(item.currency, &item.sums) });
    Ok(Json(UsageReportBody {
        group_by: query.get("group_by").unwrap_or_default().to_owned(),
        from: date(from_day),
        to: date(to_day),
        items: items.collect(),
        others: bodies(some(others)),
        ungrouped: bodies(some(ungrouped)),
        total: bodies(report.total),
    }))
}

fn subtract(sums: &mut UsageSums, other: &UsageSums) {
    let less = |value: f64, by: f64| (value - by).max(0.0);
    sums.jobs -= other.jobs;
    sums.records -= other.records;
    sums.device_seconds = less(sums.device_seconds, other.device_seconds);
    sums.retry_device_seconds = less(sums.retry_device_seconds, other.retry_device_seconds);
    sums.cost = less(sums.cost, other.cost);
    sums.retry_cost = less(sums.retry_cost, other.retry_cost);
}

/// Days since 1970-01-01.
fn day(text: &str) -> Option<i64> {
    let date: jiff::civil::Date = text.parse().ok()?;
    // What a date with a time would mean is for the one who writes it to say.
    (text.len() == 10).then(|| Timestamp::parse(&format!("{date}T00:00:00Z")))?.map(|midnight| midnight.0.div_euclid(DAY_US))
}

fn date(day: i64) -> String {
    Timestamp(day.saturating_mul(DAY_US)).to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates_and_nothing_else() {
        assert_eq!(day("1970-01-02"), Some(1));
        assert_eq!(day("2026-11-23").map(date).as_deref(), Some("2026-11-23"));
        for text in ["2026-11-31", "2026-11-23T00:00:00Z", "23.11.2026", "", "20261123"] {
            assert_eq!(day(text), None, "{text}");
        }
    }
}
