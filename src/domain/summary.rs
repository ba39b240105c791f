//! What a job's predictions are like, in numbers that add up.
//!
//! A [`Summary`] is made of a batch's predictions; summaries merge to that of a chunk and of a job, in whatever order: the same records
//! give the same summary, but for the last digits of a mean. What it holds is bounded, whatever the number of records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sketch::Sketch;

/// Labels that are counted one by one.
pub const MOST_LABELS: usize = 1000;
/// Labels that a report lists.
pub const LISTED_LABELS: usize = 50;
/// Picture sizes that a report lists.
pub const LISTED_SIZES: usize = 5;
/// Input columns whose values are counted, by name.
pub const MOST_COLUMNS: usize = 100;
/// Bins of a histogram of scores, from 0 to 1.
pub const SCORE_BINS: usize = 20;

/// What predictions are like.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// How often each label was given.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Scores of those labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
    /// A regression's numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
    /// Elements of an embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_dimension: Option<u32>,
    /// Sizes of the pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
    /// Tokens of each text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Lengths>,
    /// Boxes in each picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detections: Option<Lengths>,
    /// Records that met each flag, those that none met too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, u64>,
    /// Prediction columns, where somebody is going to compare them; of [`MOST_COLUMNS`] at most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub predicted: BTreeMap<String, Sketch>,
    /// Input columns, where somebody is going to compare them; of [`MOST_COLUMNS`] at most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Sketch>,
}

/// How often labels were given.
///
/// Beyond [`MOST_LABELS`] different ones, those with the lowest hashes are counted one by one and the others together. A label that is
/// among the lowest of all is so among any of them: what is counted one by one in the end has been from the start, and in whatever
/// order the records came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Labels {
    /// Exact counts.
    pub counts: BTreeMap<String, u64>,
    /// How often any other label was given.
    pub other: u64,
}

/// A histogram of scores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scores {
    /// [`SCORE_BINS`] bins of equal width from 0 to 1; the last one includes 1.
    pub bins: Vec<u64>,
    /// Scores that do not lie between 0 and 1, or are no number.
    pub outside: u64,
}

/// Numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Values {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All of them added up.
    pub sum: f64,
}

/// Whole numbers, by powers of two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// All of them added up.
    pub sum: u64,
    /// How many lie from the key to twice the key; the keys are 0 and powers of two.
    #[serde(with = "numbered")]
    pub histogram: BTreeMap<u64, u64>,
}

/// Sizes of pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// Widths, pixels.
    pub width: Lengths,
    /// Heights, pixels.
    pub height: Lengths,
    /// How many pictures have a width and a height from these powers of two, written `1024x512`, to twice of them.
    pub sizes: BTreeMap<String, u64>,
}

impl Summary {
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds one label with its score, where it has one.
    pub fn add_label(&mut self, label: &str, score: Option<f64>) {
        self.labels.add(label, 1);
        if let Some(score) = score {
            self.scores.get_or_insert_default().add(score);
        }
    }

    /// Adds what other records were like.
    pub fn merge(&mut self, other: &Summary) {
        for (label, count) in &other.labels.counts {
            self.labels.add(label, *count);
        }
        self.labels.other += other.labels.other;
        merge_into(&mut self.scores, &other.scores, Scores::merge);
        merge_into(&mut self.values, &other.values, Values::merge);
        self.embedding_dimension = self.embedding_dimension.max(other.embedding_dimension);
        merge_into(&mut self.images, &other.images, Images::merge);
        merge_into(&mut self.tokens, &other.tokens, Lengths::merge);
        merge_into(&mut self.detections, &other.detections, Lengths::merge);
        for (flag, count) in &other.flags {
            *self.flags.entry(flag.clone()).or_default() += count;
        }
        merge_columns(&mut self.predicted, &other.predicted);
        merge_columns(&mut self.inputs, &other.inputs);
    }
}

fn merge_columns(own: &mut BTreeMap<String, Sketch>, other: &BTreeMap<String, Sketch>) {
    for (column, sketch) in other {
        own.entry(column.clone()).or_default().merge(sketch);
    }
    // Those first by name: whatever the order, the same ones stay.
    while own.len() > MOST_COLUMNS {
        own.pop_last();
    }
}

fn merge_into<T: Clone>(own: &mut Option<T>, other: &Option<T>, merge: impl FnOnce(&mut T, &T)) {
    match (own, other) {
        (Some(own), Some(other)) => merge(own, other),
        (own @ None, other) => own.clone_from(other),
        (Some(_), None) => {}
    }
}

impl Labels {
    fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.other == 0
    }

    fn add(&mut self, label: &str, count: u64) {
        if let Some(known) = self.counts.get_mut(label) {
            *known += count;
            return;
        }
        self.counts.insert(label.to_owned(), count);
        if self.counts.len() > MOST_LABELS
            && let Some(highest) = self.counts.keys().max_by_key(|label| (hash(label), *label)).cloned()
        {
            self.other += self.counts.remove(&highest).unwrap_or_default();
        }
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

impl Default for Scores {
    fn default() -> Self {
        Self { bins: vec![0; SCORE_BINS], outside: 0 }
    }
}

impl Scores {
    fn add(&mut self, score: f64) {
        if (0.0..=1.0).contains(&score) {
            let bin = ((score * SCORE_BINS as f64) as usize).min(SCORE_BINS - 1);
            self.bins[bin] += 1;
        } else {
            self.outside += 1;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.bins.iter_mut().zip(&other.bins).for_each(|(own, other)| *own += other);
        self.outside += other.outside;
    }
}

impl Values {
    /// Of finite numbers; those that are not are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let one = |value| Self { count: 1, min: value, max: value, sum: value };
        values.into_iter().filter(|value| value.is_finite()).map(one).reduce(|mut all, value| {
            all.merge(&value);
            all
        })
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        // Of numbers near the largest the sum is none; JSON has no infinity.
        self.sum = (self.sum + other.sum).clamp(f64::MIN, f64::MAX);
    }
}

impl Lengths {
    /// Of these numbers, if there are any.
    pub fn of(lengths: impl IntoIterator<Item = u64>) -> Option<Self> {
        let one = |length| Self { count: 1, min: length, max: length, sum: length, histogram: BTreeMap::from([(power_of_two(length), 1)]) };
        lengths.into_iter().map(one).reduce(|mut all, length| {
            all.merge(&length);
            all
        })
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum = self.sum.saturating_add(other.sum);
        for (from, count) in &other.histogram {
            *self.histogram.entry(*from).or_default() += count;
        }
    }
}

/// The largest power of two that is not larger; 0 for 0.
fn power_of_two(length: u64) -> u64 {
    if length == 0 { 0 } else { 1 << length.ilog2() }
}

impl Images {
    /// Of pictures of these widths and heights, if there are any.
    pub fn of(sizes: impl IntoIterator<Item = (u32, u32)> + Clone) -> Option<Self> {
        let width = Lengths::of(sizes.clone().into_iter().map(|(width, _)| u64::from(width)))?;
        let height = Lengths::of(sizes.clone().into_iter().map(|(_, height)| u64::from(height)))?;
        let mut buckets = BTreeMap::new();
        for (width, height) in sizes {
            let bucket = format!("{}x{}", power_of_two(width.into()), power_of_two(height.into()));
            *buckets.entry(bucket).or_default() += 1;
        }
        Some(Self { width, height, sizes: buckets })
    }

    fn merge(&mut self, other: &Self) {
        self.width.merge(&other.width);
        self.height.merge(&other.height);
        for (size, count) in &other.sizes {
            *self.sizes.entry(size.clone()).or_default() += count;
        }
    }
}

/// A summary as people read it: on the job and in the manifest.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The most frequent labels, at most [`LISTED_LABELS`], most frequent first.
    pub labels: Vec<LabelCount>,
    /// How often a label was given that is not among them.
    pub other_labels: u64,
    /// Scores of all those labels.
    pub scores: Option<Scores>,
    /// A regression's numbers.
    pub values: Option<ValuesReport>,
    /// Elements of an embedding.
    pub embedding_dimension: Option<u32>,
    /// Sizes of the pictures.
    pub images: Option<ImagesReport>,
    /// Tokens of each text.
    pub tokens: Option<LengthsReport>,
    /// Boxes in each picture.
    pub detections: Option<LengthsReport>,
    /// Records that met each flag.
    pub flags: BTreeMap<String, u64>,
}

/// How often a label was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCount {
    /// The label.
    pub label: String,
    /// How often.
    pub count: u64,
}

/// Numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValuesReport {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
}

/// Whole numbers, by powers of two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthsReport {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// Their mean.
    pub mean: f64,
    /// Ascending; bins without any are left out.
    pub histogram: Vec<LengthBin>,
}

/// Numbers from one power of two to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthBin {
    /// The smallest number of the bin; the next bin begins at twice of it.
    pub from: u64,
    /// How many.
    pub count: u64,
}

/// Sizes of pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagesReport {
    /// How many.
    pub count: u64,
    /// The narrowest, pixels.
    pub min_width: u64,
    /// The widest, pixels.
    pub max_width: u64,
    /// The lowest, pixels.
    pub min_height: u64,
    /// The highest, pixels.
    pub max_height: u64,
    /// The most common sizes, at most [`LISTED_SIZES`], most common first.
    pub common: Vec<SizeCount>,
}

/// Pictures of about one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeCount {
    /// Widths and heights from these, as `1024x512`, to below twice of them.
    pub from: String,
    /// How many.
    pub count: u64,
}

impl Summary {
    /// As people read it.
    pub fn report(&self) -> Report {
        let mut labels: Vec<LabelCount> =
            self.labels.counts.iter().map(|(label, count)| LabelCount { label: label.clone(), count: *count }).collect();
        labels.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.label.cmp(&b.label)));
        let unlisted = labels.split_off(labels.len().min(LISTED_LABELS));
        Report {
            labels,
            other_labels: self.labels.other + unlisted.iter().map(|l| l.count).sum::<u64>(),
            scores: self.scores.clone(),
            values: self.values.map(|v| ValuesReport { count: v.count, min: v.min, max: v.max, mean: v.sum / v.count.max(1) as f64 }),
            embedding_dimension: self.embedding_dimension,
            images: self.images.as_ref().map(Images::report),
            tokens: self.tokens.as_ref().map(Lengths::report),
            detections: self.detections.as_ref().map(Lengths::report),
            flags: self.flags.clone(),
        }
    }
}

impl Lengths {
    fn report(&self) -> LengthsReport {
        LengthsReport {
            count: self.count,
            min: self.min,
            max: self.max,
            mean: self.sum as f64 / self.count.max(1) as f64,
            histogram: self.histogram.iter().map(|(from, count)| LengthBin { from: *from, count: *count }).collect(),
        }
    }
}

impl Images {
    fn report(&self) -> ImagesReport {
        let mut common: Vec<SizeCount> = self.sizes.iter().map(|(from, count)| SizeCount { from: from.clone(), count: *count }).collect();
        common.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.from.cmp(&b.from)));
        common.truncate(LISTED_SIZES);
        ImagesReport {
            count: self.width.count,
            min_width: self.width.min,
            max_width: self.width.max,
            min_height: self.height.min,
            max_height: self.height.max,
            common,
        }
    }
}

/// A map by numbers as JSON has it, by their texts: inside a tagged enum serde reads such keys as texts and nothing else.
mod numbered {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<u64, u64>, serializer: S) -> Result<S::Ok, S::Error> {
        let texts: BTreeMap<String, u64> = map.iter().map(|(key, count)| (key.to_string(), *count)).collect();
        texts.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u64, u64>, D::Error> {
        let texts = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let number = |(key, count): (String, u64)| key.parse().map(|key| (key, count)).map_err(|_| D::Error::custom("a key is no number"));
        texts.into_iter().map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_records(records: &[(u16, f64, u32)]) -> Summary {
        let mut all = Summary::default();
        for (label, score, size) in records {
            let mut one = Summary {
                values: Values::of([*score]),
                tokens: Lengths::of([u64::from(*size)]),
                images: Images::of([(*size, *size / 2)]),
                embedding_dimension: Some(384),
                flags: BTreeMap::from([("f".to_owned(), u64::from(*score > 0.5))]),
                ..Summary::default()
            };
            one.add_label(&format!("label {label}"), Some(*score));
            all.merge(&one);
        }
        all
    }

    /// Without the one number whose last digits depend on the order.
    fn exact(mut summary: Summary) -> Summary {
        if let Some(values) = &mut summary.values {
            values.sum = (values.sum * 1e6).round();
        }
        summary
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn the_same_records_give_the_same_summary_in_whatever_order_and_chunks(
            records in prop::collection::vec((0u16..3000, -200i32..1200, 0u32..5000), 0..2500).prop_shuffle(), seed in any::<u64>(),
        ) {
            // Numbers as people write them: serde_json reads one of 17 digits to within one unit in the last place only.
            let records: Vec<(u16, f64, u32)> =
                records.into_iter().map(|(label, score, size)| (label, f64::from(score) / 1000.0, size)).collect();
            let whole = of_records(&records);
            let chunk = 1 + (seed % 700) as usize;
            let mut chunks: Vec<Summary> = records.chunks(chunk).map(of_records).collect();
            chunks.reverse();
            let mut merged = Summary::default();
            chunks.iter().for_each(|chunk| merged.merge(chunk));
            // Not printed: a summary of so many labels is long.
            prop_assert!(exact(merged.clone()) == exact(whole.clone()));
            prop_assert!(whole.labels.counts.len() <= MOST_LABELS);
            let counted = whole.labels.counts.values().sum::<u64>() + whole.labels.other;
            prop_assert_eq!(counted, records.len() as u64);
            let mut exactly: BTreeMap<String, u64> = BTreeMap::new();
            records.iter().for_each(|(label, ..)| *exactly.entry(format!("label {label}")).or_default() += 1);
            prop_assert!(whole.labels.counts.iter().all(|(label, count)| exactly.get(label) == Some(count)));
            let read: Summary = serde_json::from_str(&serde_json::to_string(&merged).unwrap()).unwrap();
            prop_assert!(exact(read) == exact(whole));
        }
    }

    #[test]
    fn a_report_lists_the_most_frequent_and_says_what_it_leaves_out() {
        let mut summary = Summary::default();
        for label in 0..60 {
            (0..=label).for_each(|_| summary.add_label(&format!("{label:02}"), None));
        }
        let report = summary.report();
        assert_eq!(report.labels.len(), LISTED_LABELS);
        assert_eq!(report.labels[0], LabelCount { label: "59".to_owned(), count: 60 });
        assert_eq!(report.other_labels, (1..=10).sum::<u64>());
        assert_eq!(report.scores, None);
    }

    #[test]
    fn scores_fall_into_their_bins() {
        let mut summary = Summary::default();
        for score in [0.0, 0.049, 0.05, 0.999, 1.0, 1.1, -0.1, f64::NAN] {
            summary.add_label("x", Some(score));
        }
        let scores = summary.scores.unwrap();
        assert_eq!((scores.bins[0], scores.bins[1], scores.bins[19], scores.outside), (2, 1, 2, 3));
    }

    #[test]
    fn lengths_and_sizes_are_counted_by_powers_of_two() {
        let report = Summary { tokens: Lengths::of([0, 1, 2, 3, 4, 511, 512]), ..Summary::default() }.report().tokens.unwrap();
        let bins: Vec<(u64, u64)> = report.histogram.iter().map(|bin| (bin.from, bin.count)).collect();
        assert_eq!(bins, [(0, 1), (1, 1), (2, 2), (4, 1), (256, 1), (512, 1)]);
        assert_eq!((report.min, report.max, report.count), (0, 512, 7));
        let report = Summary { images: Images::of([(640, 480), (1023, 511), (8, 8)]), ..Summary::default() }.report().images.unwrap();
        assert_eq!(report.common[0], SizeCount { from: "512x256".to_owned(), count: 2 });
        assert_eq!((report.min_width, report.max_height), (8, 511));
    }
}
