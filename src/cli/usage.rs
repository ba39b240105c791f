//! `nightshift usage`: what jobs cost, by label, model, schedule or day.

use serde_json::Value;

use super::{client::Client, show, stop::Outcome};
use crate::config::{self, Form};

pub(super) fn run(settings: &config::Usage) -> Outcome {
    super::block_on(async move {
        let client = Client::new(&settings.talk.api, settings.talk.output)?;
        let mut query = vec![("group_by".to_owned(), settings.by.clone()), ("limit".to_owned(), settings.limit.to_string())];
        for (name, day) in [("from", &settings.from), ("to", &settings.to)] {
            query.extend(day.iter().map(|day| (name.to_owned(), day.clone())));
        }
        let report = client.send(client.get("/v1/usage", &query)?).await?;
        match settings.talk.output {
            Form::Json => show::print_json(&report),
            Form::Table => show::print(&table(&report)),
        }
    })
}

/// The groups, what is in none of those shown, and all together.
fn table(report: &Value) -> String {
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let items = list("items").into_iter().map(|item| (show::cell(&item["group"]), item));
    let rest = [("others", "(others)"), ("ungrouped", "(in no group)"), ("total", "(all)")];
    let rest = rest.into_iter().flat_map(|(name, shown)| list(name).into_iter().map(move |sums| (shown.to_owned(), sums)));
    let rows = items.chain(rest).map(|(group, sums)| {
        let hours = |name: &str| sums[name].as_f64().map(|seconds| format!("{:.4}", seconds / 3600.0)).unwrap_or_default();
        vec![
            group,
            sums["jobs"].to_string(),
            sums["records"].to_string(),
            hours("device_seconds"),
            money(&sums["cost"], &sums["currency"]),
            money(&sums["cost_per_million_records"], &sums["currency"]),
            money(&sums["retry_cost"], &sums["currency"]),
        ]
    });
    let group = show::cell(&report["group_by"]).to_uppercase();
    show::columns(&[&group, "JOBS", "RECORDS", "DEVICE HOURS", "COST", "A MILLION RECORDS", "RETRIES"], rows)
}

/// An amount with as many digits as make it one: cheap jobs cost fractions of a cent. Nothing where there is no price.
pub(super) fn money(amount: &Value, currency: &Value) -> String {
    let Some(amount) = amount.as_f64() else { return String::new() };
    let digits = if amount >= 1.0 || amount == 0.0 { 2 } else { 6 };
    format!("{amount:.digits$} {}", show::cell(currency)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cheap_and_dear_are_both_amounts() {
        let eur = json!("EUR");
        assert_eq!(money(&json!(12.345), &eur), "12.35 EUR");
        assert_eq!(money(&json!(0.000_046_2), &eur), "0.000046 EUR");
        assert_eq!(money(&json!(0.0), &eur), "0.00 EUR");
        assert_eq!(money(&json!(null), &json!(null)), "");
    }

    #[test]
    fn a_report_is_a_table_that_ends_with_all() {
        let sums = json!({"jobs": 2, "records": 5000, "device_seconds": 3600.0, "cost": 0.5, "cost_per_million_records": 100.0, "retry_cost": 0.0, "currency": "EUR"});
        let mut item = sums.clone();
        item["group"] = "risk".into();
        let text = table(&json!({"group_by": "label.team", "items": [item], "others": [], "ungrouped": [], "total": [sums]}));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("LABEL.TEAM  JOBS") && lines[1].starts_with("risk") && lines[1].contains("1.0000"), "{text}");
        assert!(lines[2].starts_with("(all)") && lines[2].contains("100.00 EUR"), "{text}");
    }
}
