//! One outcome a record: what a part and its errors file say, put together.
//!
//! In: places of rows as they come. Out: findings. Uniqueness rests on the order that parts promise (rows in input order, slices
//! disjoint), so no set of all records is kept; error rows, which promise no strict order, are held and sorted, sixteen bytes a row of
//! one chunk.

use std::{collections::HashMap, iter::Peekable, sync::Arc};

use super::findings::{Finding, Findings};
use crate::domain::Slice;

/// A record, or what is left of an object: the place of its object among the part's inputs, and its position there.
pub(super) type Place = (u32, u64);

/// The position of an error row that stands for an object whose records could not be counted.
pub(super) const LOST: u64 = u64::MAX;

/// The inputs of one part.
pub(super) struct Inputs {
    keys: Vec<Arc<str>>,
    slices: Vec<Slice>,
    by_key: HashMap<Arc<str>, u32>,
}

impl Inputs {
    /// `keys` as `_source` shows them.
    pub(super) fn new(keys: Vec<Arc<str>>, slices: Vec<Slice>) -> Self {
        let by_key = keys.iter().enumerate().rev().map(|(at, key)| (key.clone(), at as u32)).collect();
        Self { keys, slices, by_key }
    }

    /// Where a row belongs, or why nowhere in this part.
    pub(super) fn place(&self, near: u32, source: Option<&str>, position: Option<u64>) -> Result<Place, String> {
        let Some(source) = source else { return Err("it has no _source".to_owned()) };
        let at = match self.keys.get(near as usize) {
            Some(key) if **key == *source => near,
            _ => *self.by_key.get(source).ok_or_else(|| format!("its _source {source:?} is no object that this part covers"))?,
        };
        let Some(position) = position else { return Ok((at, LOST)) };
        match self.slices[at as usize] {
            Slice::Bytes { start, end } | Slice::Rows { start, end } if !(start..end).contains(&position) => {
                Err(format!("its _position {position} of {source:?} is not in {start} to {end}, which this part covers"))
            }
            _ => Ok((at, position)),
        }
    }

    /// A place in words.
    pub(super) fn describe(&self, (at, position): Place) -> String {
        let key = self.keys.get(at as usize).map(|k| k.as_ref()).unwrap_or_default();
        if position == LOST { format!("{key:?} as a whole") } else { format!("the record of {key:?} at {position}") }
    }
}

/// Error rows of one part, sorted by their places, each with its row.
#[derive(Debug, Default)]
pub(super) struct ErrorRows(Vec<(Place, u32)>);

impl ErrorRows {
    pub(super) fn push(&mut self, place: Place, row: u64) {
        self.0.push((place, u32::try_from(row).unwrap_or(u32::MAX)));
    }

    /// Sorts, and finds records that stand twice.
    pub(super) fn settle(&mut self, file: &str, inputs: &Inputs, findings: &mut Findings) {
        self.0.sort_unstable();
        for pair in self.0.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let detail = format!("{} has two outcomes: it stands in row {} too", inputs.describe(pair[1].0), pair[0].1);
            findings.add(Finding::of_row("two_outcomes", file, u64::from(pair[1].1), detail));
        }
    }

    /// The place of the `at`-th, in input order.
    pub(super) fn at(&self, at: usize) -> Option<Place> {
        self.0.get(at).map(|(place, _)| *place)
    }

    /// The row of this place, if any.
    pub(super) fn row_of(&self, place: Place) -> Option<u64> {
        let at = self.0.partition_point(|(p, _)| *p < place);
        self.0.get(at).filter(|(p, _)| *p == place).map(|(_, row)| u64::from(*row))
    }
}

/// What the input holds, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// A record, or an object that ends in an error.
    Record(Place),
    /// The object cannot be read as it was.
    Unreadable(u32, String),
}

/// Compares outcomes, given in order, with what the input holds.
pub(super) struct Comparison<'a> {
    expected: Peekable<Box<dyn Iterator<Item = Expected> + 'a>>,
    inputs: &'a Inputs,
    /// What findings are named after.
    file: &'a str,
    /// Records of the input that were met.
    pub(super) records: u64,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(expected: Box<dyn Iterator<Item = Expected> + 'a>, inputs: &'a Inputs, file: &'a str) -> Self {
        Self { expected: expected.peekable(), inputs, file, records: 0 }
    }

    /// The next outcome: whatever the input holds before it has none.
    pub(super) fn found(&mut self, place: Place, findings: &mut Findings) {
        loop {
            match self.expected.peek() {
                Some(Expected::Record(wanted)) if *wanted < place => {
                    let wanted = *wanted;
                    self.missing(wanted, findings);
                    self.expected.next();
                }
                Some(Expected::Record(wanted)) if *wanted == place => {
                    self.records += 1;
                    self.expected.next();
                    return;
                }
                Some(Expected::Unreadable(at, _)) if *at == place.0 => {
                    // That it could not be read is what its error row says.
                    if place.1 == LOST {
                        self.expected.next();
                    }
                    return;
                }
                Some(Expected::Unreadable(at, detail)) if *at < place.0 => {
                    findings.add(unreadable(self.file, detail));
                    self.expected.next();
                }
                _ => {
                    let detail = format!("{} has an outcome, and the input holds no such record", self.inputs.describe(place));
                    findings.add(Finding::of_file("invented_outcome", self.file, detail));
                    return;
                }
            }
        }
    }

    /// No more outcomes: what the input still holds has none.
    pub(super) fn finish(&mut self, findings: &mut Findings) {
        while let Some(expected) = self.expected.next() {
            match expected {
                Expected::Record(place) => self.missing(place, findings),
                Expected::Unreadable(_, detail) => findings.add(unreadable(self.file, &detail)),
            }
        }
    }

    fn missing(&mut self, place: Place, findings: &mut Findings) {
        self.records += 1;
        let detail = format!("{} has no outcome, neither a prediction nor an error", self.inputs.describe(place));
        findings.add(Finding::of_file("missing_outcome", self.file, detail));
    }
}

fn unreadable(file: &str, detail: &str) -> Finding {
    Finding::of_file("input_unreadable", file, format!("its input cannot be read again: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Inputs {
        Inputs::new(vec!["a".into(), "b".into()], vec![Slice::Whole, Slice::Rows { start: 10, end: 20 }])
    }

    fn codes(findings: Findings) -> Vec<(&'static str, String)> {
        findings.take().0.into_iter().map(|f| (f.code, f.detail)).collect()
    }

    #[test]
    fn a_row_belongs_to_an_object_and_a_slice_of_its_part() {
        let inputs = inputs();
        assert_eq!(inputs.place(0, Some("a"), Some(7)), Ok((0, 7)));
        assert_eq!(inputs.place(0, Some("b"), Some(10)), Ok((1, 10)));
        assert_eq!(inputs.place(0, Some("b"), None), Ok((1, LOST)));
        for (source, position) in [(Some("c"), Some(1)), (None, Some(1)), (Some("b"), Some(20)), (Some("b"), Some(9))] {
            assert!(inputs.place(1, source, position).is_err(), "{source:?} {position:?}");
        }
    }

    #[test]
    fn what_the_input_holds_and_what_has_an_outcome_are_told_apart_in_one_walk() {
        let (inputs, mut findings) = (inputs(), Findings::at_most(10));
        let expected = [(0, 0), (0, 1), (0, 2), (1, 10)].map(Expected::Record).into_iter();
        let mut comparison = Comparison::new(Box::new(expected), &inputs, "part");
        for place in [(0, 0), (0, 2), (1, 11)] {
            comparison.found(place, &mut findings);
        }
        comparison.finish(&mut findings);
        let found = codes(findings);
        let words: Vec<&str> = found.iter().map(|(code, _)| *code).collect();
        assert_eq!(words, ["missing_outcome", "missing_outcome", "invented_outcome"]);
        assert!(found[0].1.contains("\"a\" at 1") && found[1].1.contains("\"b\" at 10") && found[2].1.contains("\"b\" at 11"), "{found:?}");
    }

    #[test]
    fn an_object_that_cannot_be_read_again_is_one_finding_unless_its_error_row_says_so() {
        let unreadable = || Box::new([Expected::Unreadable(0, "gone".into()), Expected::Record((1, 10))].into_iter());
        let inputs = inputs();
        let mut findings = Findings::at_most(10);
        let mut comparison = Comparison::new(unreadable(), &inputs, "part");
        [(0, 5), (0, 9), (1, 10)].into_iter().for_each(|place| comparison.found(place, &mut findings));
        comparison.finish(&mut findings);
        assert_eq!(codes(findings).len(), 1);

        let mut findings = Findings::at_most(10);
        let mut comparison = Comparison::new(unreadable(), &inputs, "part");
        [(0, LOST), (1, 10)].into_iter().for_each(|place| comparison.found(place, &mut findings));
        comparison.finish(&mut findings);
        assert_eq!(codes(findings), []);
    }

    #[test]
    fn error_rows_that_stand_twice_are_found_wherever_they_stand() {
        let (inputs, mut findings, mut rows) = (inputs(), Findings::at_most(10), ErrorRows::default());
        for (row, place) in [(0, 4), (1, 12), (0, 2), (0, 4)].into_iter().enumerate() {
            rows.push(place, row as u64);
        }
        rows.settle("errors/part", &inputs, &mut findings);
        let (found, total) = findings.take();
        assert_eq!((total, found[0].row), (1, Some(3)));
        assert_eq!((rows.row_of((1, 12)), rows.row_of((1, 13))), (Some(1), None));
    }
}
