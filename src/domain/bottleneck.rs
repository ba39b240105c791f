//! What a job waited for most, and what would change that.

use super::chunk::Usage;

/// The stage that the others waited for most of the time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bottleneck<'u> {
    /// `fetch`, `decode`, `featurize`, `infer`, `interpret`, `encode` or `put`.
    pub stage: &'u str,
    /// Share of the time for which it was the one, 0 to 1.
    pub share: f64,
    /// For people.
    pub advice: &'static str,
}

impl Usage {
    /// What bound the work; `None` until something was done.
    pub fn bottleneck(&self) -> Option<Bottleneck<'_>> {
        let all: f64 = self.bound_seconds.values().sum();
        let (stage, seconds) = self.bound_seconds.iter().max_by(|a, b| a.1.total_cmp(b.1))?;
        (*seconds > 0.0).then(|| Bottleneck { stage, share: seconds / all, advice: advice(stage, &self.provider) })
    }
}

fn advice(stage: &str, provider: &str) -> &'static str {
    match stage {
        "fetch" => "more chunks at once (--chunk-slots), more requests at once (--store-requests), or a store that is nearer",
        "decode" => {
            "Parquet or Arrow rather than CSV or JSON Lines, uncompressed or lightly compressed input, or more chunks at once (--chunk-slots)"
        }
        "featurize" => "more cores and workers (--workers); for pictures, smaller ones",
        "infer" if provider == "cpu" => "more cores and workers (--workers), more nodes, or a GPU (execution.providers)",
        "infer" => "a larger batch size (execution.batch_size), more devices, or more nodes",
        "interpret" => "fewer prediction columns (pipeline.top_k, pipeline.probabilities, pipeline.outputs)",
        "encode" => "fewer input columns in the output (output.include_input), or no compression (output.compression)",
        "put" => "more chunks at once (--chunk-slots), Parquet (output.format), or a store that is nearer",
        _ => "nothing that is known",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_stage_that_was_waited_for_longest_is_named_with_its_share() {
        let bound_seconds = BTreeMap::from([("decode", 1.0), ("infer", 3.0), ("put", 0.0)].map(|(stage, s)| (stage.to_owned(), s)));
        let usage = Usage { bound_seconds, provider: "cpu".to_owned(), ..Usage::default() };
        let found = usage.bottleneck().unwrap();
        assert_eq!((found.stage, found.share), ("infer", 0.75));
        assert!(found.advice.contains("--workers"));
        assert_eq!(Usage::default().bottleneck(), None);
    }
}
