//! A strict reader of the text format of OpenMetrics 1.0: what it does not take, a collector may not take either.

use std::collections::{BTreeMap, BTreeSet};

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// One scrape.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// Type and help text by family.
    pub families: BTreeMap<String, (String, String)>,
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Reads a scrape.
    ///
    /// # Panics
    /// At the first line that the format does not allow.
    pub fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the last line is # EOF");
        let mut scrape = Self::default();
        let mut family = String::new();
        let mut seen = BTreeSet::new();
        for line in body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("no help text: {line}"));
                assert!(name_is_plain(name), "{line}");
                family = name.to_owned();
                let known = scrape.families.insert(family.clone(), (String::new(), help.to_owned()));
                assert!(known.is_none(), "a family comes once: {line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert_eq!(name, family, "HELP and TYPE stand together");
                assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
                scrape.families.get_mut(name).expect("it has a help text").0 = kind.to_owned();
            } else if let Some(unit) = line.strip_prefix("# UNIT ") {
                let (name, unit) = unit.split_once(' ').unwrap_or_else(|| panic!("no unit: {line}"));
                assert!(name == family && name.ends_with(&format!("_{unit}")), "a family's name ends in its unit: {line}");
            } else {
                let sample = sample(line);
                let kind = scrape.families.get(&family).map(|(kind, _)| kind.as_str()).unwrap_or_default();
                let suffix = sample.name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} stands under {family}"));
                let fits = match kind {
                    "counter" => suffix == "_total",
                    "gauge" => suffix.is_empty(),
                    "histogram" => matches!(suffix, "_bucket" | "_sum" | "_count"),
                    _ => false,
                };
                assert!(fits, "{line} is no sample of a {kind}");
                assert_eq!(suffix == "_bucket", sample.labels.contains_key("le"), "{line}");
                assert!(kind == "gauge" || sample.value >= 0.0, "{line}");
                assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "a series comes once: {line}");
                scrape.samples.push(sample);
            }
        }
        scrape.check_histograms();
        scrape
    }

    /// Buckets are cumulative and end at the count.
    fn check_histograms(&self) {
        for (family, _) in self.families.iter().filter(|(_, (kind, _))| kind == "histogram") {
            let mut below: BTreeMap<BTreeMap<String, String>, (f64, f64)> = BTreeMap::new();
            for sample in self.samples.iter().filter(|s| s.name == format!("{family}_bucket")) {
                let mut labels = sample.labels.clone();
                let le: f64 = labels.remove("le").expect("a bound").parse().expect("a number");
                let last = below.entry(labels).or_insert((f64::NEG_INFINITY, 0.0));
                assert!(le > last.0 && sample.value >= last.1, "buckets of {family} grow: {sample:?}");
                *last = (le, sample.value);
            }
            for (labels, (le, count)) in below {
                assert_eq!(le, f64::INFINITY, "{family} has a last bucket");
                let total = self.samples.iter().find(|s| s.name == format!("{family}_count") && s.labels == labels);
                assert_eq!(total.expect("a count").value, count, "{family} {labels:?}");
            }
        }
    }

    /// The sum of the series of this name that have all of these labels; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |s: &&Sample| s.name == name && labels.iter().all(|(key, value)| s.labels.get(*key).is_some_and(|v| v == value));
        self.samples.iter().filter(fits).map(|s| s.value).sum()
    }

    /// The series, without values.
    pub fn series(&self) -> BTreeSet<String> {
        self.samples.iter().map(|s| format!("{}{:?}", s.name, s.labels)).collect()
    }
}

fn name_is_plain(name: &str) -> bool {
    name.starts_with("nightshift_") && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(name_is_plain(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label without a value: {line}"));
            assert!(!key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            let end = value.find('"').unwrap_or_else(|| panic!("a label without an end: {line}"));
            let (value, after) = value.split_at(end);
            assert!(!value.contains(['\\', '\n']) && !value.is_empty(), "no label of ours needs an escape: {line}");
            assert!(labels.insert(key.to_owned(), value.to_owned()).is_none(), "a label comes once: {line}");
            rest = &after[1..];
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("labels are joined by commas: {line}"));
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("one space before the value: {line}"));
    Sample { name: name.to_owned(), labels, value: value.parse().unwrap_or_else(|_| panic!("no number: {line}")) }
}
