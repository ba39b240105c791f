//! What the values of a column are like, in counts that add up.
//!
//! Numbers fall into buckets whose borders are eight to each power of two, as in DDSketch (Masson, Rim and Lee, VLDB 2019) and in HDR
//! histograms: a quantile read from them is off by an eighth at most, and by twice as much each time that a wide range makes two buckets one. Texts fall into as many buckets by their hash: which ones there
//! are is lost, how they are distributed is not. The same values give the same sketch, in whatever order they come and are merged.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::summary::hash;

/// Buckets of numbers that a sketch has at most; when there are more, two become one.
const MOST_BUCKETS: usize = 64;
/// Buckets of texts.
const TEXT_BUCKETS: usize = 32;
/// How often two buckets can have become one at most: then there is one bucket for numbers below zero and one for the others.
const MOST_COARSE: u8 = 14;
/// Bits of a double's mantissa that a bucket keeps.
const MANTISSA_BITS: u32 = 3;
/// Groups of numbers that distributions are compared by, with as many of the earlier ones in each as can be.
const GROUPS: f64 = 10.0;

/// Counts of a column's values.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sketch {
    /// Values that are missing, or no number where one is wanted.
    pub nulls: u64,
    /// Numbers by bucket, ascending; a bucket's number over 2 to the power of `coarse`.
    pub numbers: Vec<(i32, u64)>,
    /// How often two buckets became one.
    #[serde(deserialize_with = "coarse")]
    pub coarse: u8,
    /// Texts by hash; empty where there are none.
    pub texts: Vec<u64>,
}

impl Sketch {
    /// Of numbers, of which those that are none count as missing, and of values that are missing.
    pub fn of_numbers(numbers: impl IntoIterator<Item = f64>, nulls: u64) -> Self {
        let mut sketch = Self { nulls, ..Self::default() };
        let mut buckets: Vec<i32> = Vec::new();
        for number in numbers {
            match bucket(number) {
                Some(bucket) => buckets.push(bucket),
                None => sketch.nulls += 1,
            }
        }
        buckets.sort_unstable();
        sketch.numbers = buckets.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u64)).collect();
        sketch.bound();
        sketch
    }

    /// Of texts, and of values that are missing.
    pub fn of_texts<'t>(texts: impl IntoIterator<Item = &'t str>, nulls: u64) -> Self {
        let mut counts = vec![0; TEXT_BUCKETS];
        for text in texts {
            counts[(hash(text) % TEXT_BUCKETS as u64) as usize] += 1;
        }
        Self { nulls, texts: counts, ..Self::default() }
    }

    /// Adds what other values of the column were like.
    pub fn merge(&mut self, other: &Self) {
        self.nulls += other.nulls;
        if self.texts.is_empty() {
            self.texts.clone_from(&other.texts);
        } else {
            self.texts.iter_mut().zip(&other.texts).for_each(|(own, other)| *own += other);
        }
        let coarse = self.coarse.max(other.coarse);
        self.coarsen(coarse);
        let mut other = other.clone();
        other.coarsen(coarse);
        self.numbers.append(&mut other.numbers);
        self.numbers.sort_unstable_by_key(|(bucket, _)| *bucket);
        self.join();
        self.bound();
    }

    /// Values seen, missing ones included.
    pub fn count(&self) -> u64 {
        self.nulls + self.numbers() + self.texts.iter().sum::<u64>()
    }

    /// The share of the values that are missing; 0 when there are none at all.
    pub fn null_rate(&self) -> f64 {
        if self.count() == 0 { 0.0 } else { self.nulls as f64 / self.count() as f64 }
    }

    /// The number below which this share of the numbers lies; `None` when there are none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (share.clamp(0.0, 1.0) * self.numbers() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.numbers.iter().find(|(_, count)| {
            seen += count;
            seen >= wanted
        });
        found.map(|(bucket, _)| middle(*bucket, self.coarse))
    }

    /// How far these values are from those of an earlier time, as the population stability index: the sum of
    /// `(now − before) × ln(now ÷ before)` over the shares of ten groups of numbers, of the buckets of texts, and of what is missing. Below
    /// 0.1 is called little as a rule, from 0.25 on much. 0 when there is nothing to compare.
    pub fn drift_from(&self, before: &Self) -> f64 {
        if self.count() == 0 || before.count() == 0 {
            return 0.0;
        }
        let (mut now, mut before) = (self.clone(), before.clone());
        let coarse = now.coarse.max(before.coarse);
        now.coarsen(coarse);
        before.coarsen(coarse);
        let mut shares = vec![(before.nulls, now.nulls)];
        shares.extend((0..before.texts.len().max(now.texts.len())).map(|at| (at_or_none(&before.texts, at), at_or_none(&now.texts, at))));
        shares.extend(grouped(&before, &now));
        stability_index(&shares)
    }

    fn numbers(&self) -> u64 {
        self.numbers.iter().map(|(_, count)| count).sum()
    }

    fn coarsen(&mut self, coarse: u8) {
        let by = coarse.saturating_sub(self.coarse);
        self.coarse += by;
        self.numbers.iter_mut().for_each(|(bucket, _)| *bucket >>= by);
        self.join();
    }

    /// One entry a bucket, of entries in their order.
    fn join(&mut self) {
        self.numbers.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
    }

    /// Whoever holds some of the values has never more buckets than whoever holds them all: nobody is coarser than the whole has to be.
    fn bound(&mut self) {
        while self.numbers.len() > MOST_BUCKETS {
            self.coarsen(self.coarse + 1);
        }
    }
}

/// A number of bits to shift by, out of a document that anybody may have written.
fn coarse<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let coarse = u8::deserialize(deserializer)?;
    if coarse <= MOST_COARSE { Ok(coarse) } else { Err(D::Error::custom(format!("coarse is {coarse}, and {MOST_COARSE} at most"))) }
}

fn at_or_none(counts: &[u64], at: usize) -> u64 {
    counts.get(at).copied().unwrap_or_default()
}

/// Numbers of both, equally coarse, in groups that each have a tenth of the earlier ones as nearly as their buckets allow.
fn grouped(before: &Sketch, now: &Sketch) -> Vec<(u64, u64)> {
    let all = before.numbers() as f64;
    let mut buckets: Vec<i32> = before.numbers.iter().chain(&now.numbers).map(|(bucket, _)| *bucket).collect();
    buckets.sort_unstable();
    buckets.dedup();
    let of =
        |sketch: &Sketch, bucket: i32| sketch.numbers.binary_search_by_key(&bucket, |(own, _)| *own).map_or(0, |at| sketch.numbers[at].1);
    let mut groups: Vec<(u64, u64)> = vec![(0, 0)];
    let mut passed = 0.0;
    for bucket in buckets {
        let (earlier, later) = (of(before, bucket), of(now, bucket));
        // Where there were none before, the bucket belongs to the group that it lies in.
        if passed >= all / GROUPS * groups.len() as f64 && (groups.len() as f64) < GROUPS {
            groups.push((0, 0));
        }
        passed += earlier as f64;
        if let Some(group) = groups.last_mut() {
            *group = (group.0 + earlier, group.1 + later);
        }
    }
    groups
}

/// The population stability index of counts before and now. Half a value is added to each count, so that what was never seen is unlikely
/// and not impossible.
pub fn stability_index(counts: &[(u64, u64)]) -> f64 {
    let kinds: Vec<&(u64, u64)> = counts.iter().filter(|(before, now)| before + now > 0).collect();
    let total = |of: fn(&(u64, u64)) -> u64| kinds.iter().map(|pair| of(pair) as f64 + 0.5).sum::<f64>();
    let (before, now) = (total(|pair| pair.0), total(|pair| pair.1));
    let term = |pair: &&(u64, u64)| {
        let (before, now) = ((pair.0 as f64 + 0.5) / before, (pair.1 as f64 + 0.5) / now);
        (now - before) * (now / before).ln()
    };
    kinds.iter().map(term).sum()
}

/// The bucket of a number: its exponent and the first bits of its mantissa, which order as the numbers do; none for what is not finite.
fn bucket(number: f64) -> Option<i32> {
    if !number.is_finite() {
        return None;
    }
    if number == 0.0 {
        return Some(0);
    }
    let magnitude = (number.abs().to_bits() >> (f64::MANTISSA_DIGITS - 1 - MANTISSA_BITS)) as i32 + 1;
    Some(if number < 0.0 { -magnitude } else { magnitude })
}

/// The smallest magnitude in a bucket.
fn border(bucket: i32) -> f64 {
    match bucket {
        0 => 0.0,
        bucket => f64::from_bits(((bucket.unsigned_abs() - 1) as u64) << (f64::MANTISSA_DIGITS - 1 - MANTISSA_BITS)),
    }
}

/// A number in the middle of a bucket.
fn middle(bucket: i32, coarse: u8) -> f64 {
    let first = bucket << coarse;
    let last = first + (1 << coarse) - 1;
    if first == 0 && last == 0 {
        return 0.0;
    }
    // The farther border of a bucket is the nearer one of the next.
    let low = if first > 0 {
        border(first)
    } else if first == 0 {
        0.0
    } else {
        -border(first - 1)
    };
    let high = if last >= 0 { border(last + 1) } else { -border(last) };
    let (low, high) = (low.max(f64::MIN), high.min(f64::MAX));
    low / 2.0 + high / 2.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(numbers: &[f64]) -> Sketch {
        Sketch::of_numbers(numbers.iter().copied(), 0)
    }

    proptest! {
        #[test]
        fn the_same_values_give_the_same_sketch_however_they_are_split(numbers in prop::collection::vec(any::<f64>(), 0..2000), cut in any::<prop::sample::Index>()) {
            let at = cut.index(numbers.len() + 1);
            let (mut left, right) = (of(&numbers[..at]), of(&numbers[at..]));
            left.merge(&right);
            prop_assert_eq!(&left, &of(&numbers));
            prop_assert!(left.numbers.len() <= MOST_BUCKETS);
            prop_assert_eq!(left.count(), numbers.len() as u64);
        }

        #[test]
        fn a_quantile_is_off_by_an_eighth_at_most_or_by_what_the_buckets_are_coarser(mut numbers in prop::collection::vec(-1e6f64..1e6, 1..300), share in 0.0f64..=1.0) {
            let sketch = of(&numbers);
            prop_assume!(sketch.coarse < 3);
            numbers.sort_by(f64::total_cmp);
            let rank = ((share * numbers.len() as f64).ceil().max(1.0)) as usize - 1;
            let (found, wanted) = (sketch.quantile(share).unwrap(), numbers[rank]);
            prop_assert!((found - wanted).abs() <= wanted.abs() / 8.0 * f64::from(1 << sketch.coarse) + 1e-300, "{} for {}", found, wanted);
        }

        #[test]
        fn buckets_are_in_the_order_of_the_numbers(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(a.is_finite() && b.is_finite() && a <= b);
            prop_assert!(bucket(a) <= bucket(b));
        }
    }

    #[test]
    fn a_document_cannot_make_a_sketch_coarser_than_numbers_do() {
        let all = of(&[f64::MIN, -f64::MIN_POSITIVE, 0.0, f64::from_bits(1), f64::MAX]);
        let mut coarsest = all.clone();
        coarsest.coarsen(MOST_COARSE);
        assert_eq!(coarsest.numbers, [(-1, 2), (0, 3)]);
        let kept: Sketch = serde_json::from_str(&serde_json::to_string(&coarsest).unwrap()).unwrap();
        assert_eq!((&kept, kept.quantile(1.0).is_some_and(f64::is_finite)), (&coarsest, true));
        let error = serde_json::from_str::<Sketch>(r#"{"numbers": [[1, 1]], "coarse": 32}"#).unwrap_err();
        assert!(error.to_string().contains("coarse is 32"), "{error}");
    }

    #[test]
    fn what_is_no_number_counts_as_missing() {
        let sketch = Sketch::of_numbers([1.0, f64::NAN, f64::INFINITY], 1);
        assert_eq!((sketch.count(), sketch.nulls, sketch.null_rate()), (4, 3, 0.75));
        assert_eq!((Sketch::default().null_rate(), Sketch::default().quantile(0.5)), (0.0, None));
    }

    #[test]
    fn drift_is_nothing_for_the_same_distribution_and_much_for_another() {
        let uniform = |from: f64, to: f64, count: u32| {
            of(&(0..count).map(|n| from + (to - from) * f64::from(n) / f64::from(count)).collect::<Vec<_>>())
        };
        let before = uniform(0.0, 100.0, 10_000);
        assert!(uniform(0.0, 100.0, 7_000).drift_from(&before) < 0.01);
        assert!(uniform(5.0, 105.0, 10_000).drift_from(&before) < 0.25);
        assert!(uniform(50.0, 150.0, 10_000).drift_from(&before) > 1.0);
        let missing = Sketch { nulls: 5_000, ..before.clone() };
        assert!(missing.drift_from(&before) > 0.25, "half as many missing as there");
        let words = |words: &[&str], times: usize| Sketch::of_texts(words.iter().copied().cycle().take(times), 0);
        let before = words(&["card", "cash"], 1000);
        assert!(words(&["cash", "card"], 500).drift_from(&before) < 0.01);
        assert!(words(&["card", "cash", "coin"], 900).drift_from(&before) > 0.25);
        assert!(of(&[1.0; 100]).drift_from(&before) > 1.0, "numbers where there were words");
        assert_eq!(Sketch::default().drift_from(&before), 0.0);
    }
}
