//! Named conditions over labels and scores: which predictions a person should look at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Conditions by name.
pub type Flags = BTreeMap<String, Flag>;

/// One condition. A label that the model gives without a score has the score 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Flag {
    /// One of these labels has a score of at least `min_score`, whether or not it is the best.
    AnyOf {
        /// The labels.
        any_of: Vec<String>,
        /// The lowest score that counts; any does when absent.
        #[serde(default)]
        min_score: f64,
    },
    /// The best label's score is below this; so it is where there is no label at all.
    TopBelow {
        /// The score.
        top_below: f64,
    },
}

impl Flag {
    /// Whether a record with these labels and scores meets the condition.
    pub fn is_met<'l>(&self, scores: impl IntoIterator<Item = (&'l str, f64)>) -> bool {
        let mut scores = scores.into_iter();
        match self {
            Self::AnyOf { any_of, min_score } => {
                scores.any(|(label, score)| score >= *min_score && any_of.iter().any(|wanted| wanted == label))
            }
            Self::TopBelow { top_below } => !scores.any(|(_, score)| score >= *top_below),
        }
    }

    /// The labels that it names.
    pub fn labels(&self) -> &[String] {
        match self {
            Self::AnyOf { any_of, .. } => any_of,
            Self::TopBelow { .. } => &[],
        }
    }

    /// The score that it compares with.
    pub fn score(&self) -> f64 {
        match self {
            Self::AnyOf { min_score, .. } => *min_score,
            Self::TopBelow { top_below } => *top_below,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, to_string};

    use super::*;

    #[test]
    fn a_condition_reads_back_as_it_was_written_and_takes_no_other_fields() {
        for text in [r#"{"any_of":["a","b"],"min_score":0.6}"#, r#"{"top_below":0.5}"#] {
            assert_eq!(to_string(&from_str::<Flag>(text).unwrap()).unwrap(), text);
        }
        assert_eq!(from_str::<Flag>(r#"{"any_of":["a"]}"#).unwrap().score(), 0.0);
        for text in ["{}", r#"{"any_of":["a"],"top_below":0.5}"#, r#"{"all_of":["a"]}"#, r#"{"any_of":["a"],"min_scor":0.5}"#] {
            assert!(from_str::<Flag>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn conditions_are_met_at_their_borders() {
        let flag = |text: &str| from_str::<Flag>(text).unwrap();
        let scores = [("safe", 0.4), ("unsafe", 0.6)];
        assert!(flag(r#"{"any_of":["unsafe"],"min_score":0.6}"#).is_met(scores));
        assert!(!flag(r#"{"any_of":["unsafe"],"min_score":0.61}"#).is_met(scores));
        assert!(flag(r#"{"any_of":["safe","x"],"min_score":0.3}"#).is_met(scores), "it need not be the best");
        assert!(!flag(r#"{"any_of":["x"]}"#).is_met(scores));
        assert!(!flag(r#"{"any_of":["safe"]}"#).is_met([("safe", f64::NAN)]));
        assert!(!flag(r#"{"top_below":0.6}"#).is_met(scores));
        assert!(flag(r#"{"top_below":0.7}"#).is_met(scores));
        assert!(flag(r#"{"top_below":0.1}"#).is_met([]), "nothing was found");
    }
}
