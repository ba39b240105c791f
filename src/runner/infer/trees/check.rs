//! Holds an ensemble against the runtime's own operator before it is trusted with records.

use ort::{
    session::{RunOptions, Session},
    value::TensorRef,
};

use super::{ensemble::Ensemble, finish::Finish};

/// Records that are drawn, at most, and values of all of them together.
const RECORDS: usize = 512;
const VALUES: usize = 1 << 22;

impl Ensemble {
    /// Whether a session of this ensemble's node alone gives the same, to the bit, for drawn records: values at the trees' own thresholds,
    /// just above and below them, far away and missing; in batches of several sizes. `texts` are the labels, if they are texts.
    ///
    /// # Errors
    /// What differs.
    pub(super) fn agrees(&self, session: &mut Session, texts: &[Vec<u8>]) -> Result<(), String> {
        let width = self.width.max(1);
        let records = RECORDS.min(VALUES / width).max(1);
        let x = self.drawn(records, width);
        // The runtime goes other ways for other numbers of records.
        for records in [records, records.min(200), records.min(40), 1] {
            self.agrees_on(session, texts, &x[..records * width], records)?;
        }
        Ok(())
    }

    fn agrees_on(&self, session: &mut Session, texts: &[Vec<u8>], x: &[f32], records: usize) -> Result<(), String> {
        let width = x.len() / records;
        let mut sums = self.sums(x, width);
        let mut labels = vec![0i64; records];
        let scores_at = match &self.finish {
            Finish::Regress(regress) => {
                regress.finish(&mut sums);
                0
            }
            Finish::Classify(classify) => {
                classify.finish(&mut sums, &mut labels);
                1
            }
        };
        let said = |e: ort::Error| e.to_string();
        let input = TensorRef::from_array_view(([records, width], x)).map_err(said)?;
        let options = RunOptions::new().map_err(said)?;
        let outputs = session.run_with_options(ort::inputs![input], &options).map_err(said)?;
        if scores_at == 1 && texts.is_empty() {
            let (_, theirs) = outputs[0].try_extract_tensor::<i64>().map_err(said)?;
            if let Some(at) = differs(theirs, &labels, |a, b| a == b) {
                return Err(format!("the label is {:?} and not {:?}", labels.get(at), theirs.get(at)));
            }
        } else if scores_at == 1 {
            let (_, theirs) = outputs[0].try_extract_strings().map_err(said)?;
            let ours: Vec<&[u8]> = labels.iter().map(|label| texts[*label as usize].as_slice()).collect();
            if let Some(at) = differs(&theirs, &ours, |a, b| a.as_bytes() == *b) {
                return Err(format!("the label is {:?} and not {:?}", labels.get(at), theirs.get(at)));
            }
        }
        let (_, theirs) = outputs[scores_at].try_extract_tensor::<f32>().map_err(said)?;
        let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        if let Some(at) = differs(theirs, &sums, same) {
            return Err(format!("the score is {:?} and not {:?}", sums.get(at), theirs.get(at)));
        }
        Ok(())
    }

    /// Drawn records; the same ones for the same trees.
    pub(super) fn drawn(&self, records: usize, width: usize) -> Vec<f32> {
        let mut thresholds = vec![Vec::new(); width];
        let nodes = self.trees.iter().flat_map(|tree| &tree.nodes).filter(|node| !node.threshold().is_nan());
        for node in nodes {
            thresholds[self.columns[node.column::<true>()]].push(node.threshold());
        }
        // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
        let mut state = 0u64;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) as usize
        };
        let mut x = Vec::with_capacity(records * width);
        for _ in 0..records {
            for thresholds in &thresholds {
                let threshold = if thresholds.is_empty() { 0.0 } else { thresholds[next() % thresholds.len()] };
                x.push(match next() % 32 {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2 => f32::NEG_INFINITY,
                    3 => 0.0,
                    4 => -0.0,
                    5..12 => threshold,
                    12..18 => threshold.next_up(),
                    18..22 => threshold.next_down(),
                    22..27 => threshold + threshold.abs().max(1.0) * 0.1,
                    _ => threshold - threshold.abs().max(1.0) * 0.1,
                });
            }
        }
        x
    }
}

/// Where two lists differ first.
fn differs<T, O>(theirs: &[T], ours: &[O], same: impl Fn(&T, &O) -> bool) -> Option<usize> {
    if theirs.len() != ours.len() {
        return Some(theirs.len().min(ours.len()));
    }
    theirs.iter().zip(ours).position(|(a, b)| !same(a, b))
}
