//! What a job's predictions are like, as the document shows it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{
    Compared, Summary,
    drift::ColumnDrift,
    summary::{ImagesReport, LengthsReport, Report, Scores, ValuesReport},
};

/// What predictions are like, over the committed parts. What does not apply to the task is null or empty.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SummaryBody {
    /// The most frequent labels, at most 50, most frequent first. Of a record with several best ones (`top_k`) the first counts, with
    /// `threshold` every label above it, of detections every box. Of more than 1,000 different labels, 1,000 are counted one by one,
    /// chosen without regard to how frequent they are, and the others together.
    labels: Vec<LabelBody>,
    /// How often a label was given that is not in `labels`.
    other_labels: u64,
    /// Scores of all those labels.
    scores: Option<ScoresBody>,
    /// The numbers of a regression.
    values: Option<ValuesBody>,
    /// Elements of an embedding.
    #[schema(example = 384)]
    embedding_dimension: Option<u32>,
    /// Sizes of the pictures.
    images: Option<ImagesBody>,
    /// Tokens of each text, special ones included, padding not.
    tokens: Option<LengthsBody>,
    /// Boxes in each picture.
    detections: Option<LengthsBody>,
    /// Records that met each flag of the pipeline.
    #[schema(example = json!({"needs_review": 1207}))]
    flags: BTreeMap<String, u64>,
    /// How far the job is from an earlier one, once it has ended; null where it was not compared.
    drift: Option<DriftBody>,
}

/// How often a label was given.
#[derive(Debug, Serialize, ToSchema)]
struct LabelBody {
    /// The label.
    label: String,
    /// How often.
    count: u64,
}

/// A histogram of scores.
#[derive(Debug, Serialize, ToSchema)]
struct ScoresBody {
    /// 20 bins of equal width from 0 to 1; the last one includes 1.
    bins: Vec<u64>,
    /// Scores that do not lie between 0 and 1, or are no number.
    outside: u64,
}

/// Numbers.
#[derive(Debug, Serialize, ToSchema)]
struct ValuesBody {
    /// How many; those that are infinite or no number are left out.
    count: u64,
    /// The smallest.
    min: f64,
    /// The largest.
    max: f64,
    /// Their mean.
    mean: f64,
}

/// Whole numbers, by powers of two.
#[derive(Debug, Serialize, ToSchema)]
struct LengthsBody {
    /// How many.
    count: u64,
    /// The smallest.
    min: u64,
    /// The largest.
    max: u64,
    /// Their mean.
    mean: f64,
    /// Ascending; bins without any are left out.
    histogram: Vec<LengthBinBody>,
}

/// Numbers from one power of two to the next.
#[derive(Debug, Serialize, ToSchema)]
struct LengthBinBody {
    /// The smallest number of the bin: 0 or a power of two. The bin ends before twice of it.
    from: u64,
    /// How many.
    count: u64,
}

/// Sizes of pictures.
#[derive(Debug, Serialize, ToSchema)]
struct ImagesBody {
    /// How many.
    count: u64,
    /// The narrowest, pixels.
    min_width: u64,
    /// The widest, pixels.
    max_width: u64,
    /// The lowest, pixels.
    min_height: u64,
    /// The highest, pixels.
    max_height: u64,
    /// The most common sizes, at most 5, most common first.
    common: Vec<SizeBody>,
}

/// Pictures of about one size.
#[derive(Debug, Serialize, ToSchema)]
struct SizeBody {
    /// Width and height from these powers of two to below twice of them.
    #[schema(example = "1024x512")]
    from: String,
    /// How many.
    count: u64,
}

/// How far a job is from an earlier one, in population stability indices: 0 is not at all, below 0.1 little as a rule, from 0.25 on much.
#[derive(Debug, Serialize, ToSchema)]
struct DriftBody {
    /// The earlier job.
    #[schema(example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    against: String,
    /// From which index on `job.drift` is told.
    threshold: Option<f64>,
    /// Whether anything is as far as that.
    exceeded: bool,
    /// Of the predictions: the largest of their labels' and of their columns of numbers, truth values and short texts.
    #[schema(example = 0.031)]
    predictions: Option<f64>,
    /// Input columns, those that moved most first, at most 50.
    inputs: Vec<ColumnDriftBody>,
    /// Input columns that were compared, at most 100.
    columns: u64,
    /// Columns that only one of the jobs has.
    unmatched: Vec<String>,
}

/// How far a column is from what it was.
#[derive(Debug, Serialize, ToSchema)]
struct ColumnDriftBody {
    /// Its name.
    #[schema(example = "amount")]
    column: String,
    /// How far.
    #[schema(example = 0.12)]
    psi: f64,
    /// The share of its values that were missing.
    null_rate_before: f64,
    /// The share of its values that are missing.
    null_rate: f64,
    /// What 5, 25, 50, 75 and 95 of 100 of its numbers were below, within an eighth as a rule; empty of texts.
    quantiles_before: Vec<f64>,
    /// What 5, 25, 50, 75 and 95 of 100 of its numbers are below.
    quantiles: Vec<f64>,
}

impl SummaryBody {
    pub(super) fn new(summary: &Summary, compared: Option<&Compared>) -> Self {
        Self { drift: compared.map(DriftBody::from), ..summary.report().into() }
    }
}

impl From<&Compared> for DriftBody {
    fn from(compared: &Compared) -> Self {
        let drift = &compared.drift;
        let column = |column: &ColumnDrift| ColumnDriftBody {
            column: column.column.clone(),
            psi: column.psi,
            null_rate_before: column.null_rate_before,
            null_rate: column.null_rate,
            quantiles_before: column.quantiles_before.clone(),
            quantiles: column.quantiles.clone(),
        };
        Self {
            against: compared.against.to_string(),
            threshold: compared.threshold,
            exceeded: compared.exceeds(),
            predictions: drift.predictions,
            inputs: drift.inputs.iter().map(column).collect(),
            columns: drift.columns,
            unmatched: drift.unmatched.clone(),
        }
    }
}

impl From<Report> for SummaryBody {
    fn from(report: Report) -> Self {
        Self {
            drift: None,
            labels: report.labels.into_iter().map(|l| LabelBody { label: l.label, count: l.count }).collect(),
            other_labels: report.other_labels,
            scores: report.scores.map(|Scores { bins, outside }| ScoresBody { bins, outside }),
            values: report.values.map(|ValuesReport { count, min, max, mean }| ValuesBody { count, min, max, mean }),
            embedding_dimension: report.embedding_dimension,
            images: report.images.map(ImagesBody::from),
            tokens: report.tokens.map(LengthsBody::from),
            detections: report.detections.map(LengthsBody::from),
            flags: report.flags,
        }
    }
}

impl From<LengthsReport> for LengthsBody {
    fn from(report: LengthsReport) -> Self {
        let histogram = report.histogram.into_iter().map(|bin| LengthBinBody { from: bin.from, count: bin.count }).collect();
        Self { count: report.count, min: report.min, max: report.max, mean: report.mean, histogram }
    }
}

impl From<ImagesReport> for ImagesBody {
    fn from(report: ImagesReport) -> Self {
        Self {
            count: report.count,
            min_width: report.min_width,
            max_width: report.max_width,
            min_height: report.min_height,
            max_height: report.max_height,
            common: report.common.into_iter().map(|size| SizeBody { from: size.from, count: size.count }).collect(),
        }
    }
}
