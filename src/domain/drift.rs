//! How far a run is from an earlier one: what its predictions and its input columns are like, then and now.

use serde::{Deserialize, Serialize};

use super::{
    job::JobId,
    sketch::{Sketch, stability_index},
    summary::Summary,
};

/// Columns that a report lists.
pub const LISTED_COLUMNS: usize = 50;
/// Shares of a column's numbers whose quantiles a report gives.
pub const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// How far a run is from an earlier one, in population stability indices: see [`Sketch::drift_from`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Of the predictions: the largest of their labels' and columns'; `None` where neither was counted.
    pub predictions: Option<f64>,
    /// Of input columns, those that moved most first, at most [`LISTED_COLUMNS`].
    pub inputs: Vec<ColumnDrift>,
    /// Input columns that were compared.
    pub columns: u64,
    /// Columns that only one of the runs has.
    pub unmatched: Vec<String>,
}

/// How far a column is from what it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnDrift {
    /// Its name.
    pub column: String,
    /// How far.
    pub psi: f64,
    /// The share of its values that were missing.
    pub null_rate_before: f64,
    /// The share of its values that are missing.
    pub null_rate: f64,
    /// The [`QUANTILES`] of its numbers as they were; empty of texts.
    pub quantiles_before: Vec<f64>,
    /// The [`QUANTILES`] of its numbers; empty of texts.
    pub quantiles: Vec<f64>,
}

/// A job beside an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The earlier one.
    pub against: JobId,
    /// From which index on somebody wants to be told.
    pub threshold: Option<f64>,
    /// How far it is from that one.
    pub drift: Drift,
}

impl Compared {
    /// Whether it is so far that somebody wants to be told.
    pub fn exceeds(&self) -> bool {
        self.threshold.is_some_and(|threshold| self.drift.largest() >= threshold)
    }
}

impl Drift {
    /// How far a run is from one before it; `None` where neither predictions nor columns were counted in both.
    pub fn between(before: &Summary, now: &Summary) -> Option<Self> {
        let mut inputs: Vec<ColumnDrift> = Vec::new();
        let mut unmatched: Vec<String> = before.inputs.keys().filter(|name| !now.inputs.contains_key(*name)).cloned().collect();
        for (name, sketch) in &now.inputs {
            match before.inputs.get(name) {
                Some(earlier) => inputs.push(ColumnDrift::of(name, earlier, sketch)),
                None => unmatched.push(name.clone()),
            }
        }
        // One run whose columns nobody counted says nothing of columns.
        if before.inputs.is_empty() || now.inputs.is_empty() {
            unmatched.clear();
        }
        inputs.sort_by(|a, b| b.psi.total_cmp(&a.psi).then_with(|| a.column.cmp(&b.column)));
        let columns = inputs.len() as u64;
        inputs.truncate(LISTED_COLUMNS);
        unmatched.truncate(LISTED_COLUMNS);
        let predictions = predictions(before, now);
        (predictions.is_some() || columns > 0).then_some(Self { predictions, inputs, columns, unmatched })
    }

    /// The largest of all of them.
    pub fn largest(&self) -> f64 {
        self.inputs.first().map(|column| column.psi).into_iter().chain(self.predictions).fold(0.0, f64::max)
    }
}

impl ColumnDrift {
    fn of(column: &str, before: &Sketch, now: &Sketch) -> Self {
        let quantiles = |sketch: &Sketch| QUANTILES.iter().filter_map(|share| sketch.quantile(*share)).collect();
        Self {
            column: column.to_owned(),
            psi: now.drift_from(before),
            null_rate_before: before.null_rate(),
            null_rate: now.null_rate(),
            quantiles_before: quantiles(before),
            quantiles: quantiles(now),
        }
    }
}

fn predictions(before: &Summary, now: &Summary) -> Option<f64> {
    let labels = (!before.labels.counts.is_empty() && !now.labels.counts.is_empty()).then(|| {
        let names: std::collections::BTreeSet<&String> = before.labels.counts.keys().chain(now.labels.counts.keys()).collect();
        let of = |summary: &Summary, name: &String| summary.labels.counts.get(name).copied().unwrap_or_default();
        let mut counts: Vec<(u64, u64)> = names.into_iter().map(|name| (of(before, name), of(now, name))).collect();
        counts.push((before.labels.other, now.labels.other));
        stability_index(&counts)
    });
    let columns = before.predicted.iter().filter_map(|(name, before)| Some(now.predicted.get(name)?.drift_from(before)));
    columns.chain(labels).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(labels: &[(&str, u64)], amounts: impl Iterator<Item = f64>) -> Summary {
        let mut summary = Summary::default();
        for (label, count) in labels {
            (0..*count).for_each(|_| summary.add_label(label, Some(0.9)));
        }
        summary.inputs.insert("amount".to_owned(), Sketch::of_numbers(amounts, 0));
        summary
    }

    #[test]
    fn a_run_like_the_one_before_has_not_moved() {
        let run = || summary(&[("good", 900), ("bad", 100)], (0..1000).map(f64::from));
        let drift = Drift::between(&run(), &run()).unwrap();
        assert!(drift.largest() < 1e-9 && drift.columns == 1 && drift.unmatched.is_empty(), "{drift:?}");
    }

    #[test]
    fn what_moved_most_comes_first() {
        let before = summary(&[("good", 900), ("bad", 100)], (0..1000).map(f64::from));
        let mut now = summary(&[("good", 500), ("bad", 500)], (0..1000).map(|n| f64::from(n) * 3.0));
        now.inputs.insert("new".to_owned(), Sketch::of_numbers([1.0], 0));
        let drift = Drift::between(&before, &now).unwrap();
        assert!(drift.predictions.unwrap() > 0.25 && drift.inputs[0].psi > 0.25, "{drift:?}");
        assert_eq!(drift.unmatched, ["new"]);
        let column = &drift.inputs[0];
        assert!((column.quantiles[2] / column.quantiles_before[2] - 3.0).abs() < 0.3, "{column:?}");
    }

    #[test]
    fn runs_of_which_nothing_was_counted_are_not_compared() {
        assert_eq!(Drift::between(&Summary::default(), &Summary::default()), None);
    }
}
