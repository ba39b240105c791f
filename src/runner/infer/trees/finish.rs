//! From what the trees add up to, to the outputs: base values, transforms and labels, to the bit what the runtime's own operator gives.
//!
//! ONNX leaves much of it open, above all for two classes; the runtime's choices are what models were validated with. Source:
//! <https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cpu/ml/tree_ensemble_aggregator.h>.

use super::{
    ensemble::{Tree, Unsupported},
    graph::{LABELS, Node},
};

/// The end of an ensemble.
#[derive(Debug)]
pub(super) enum Finish {
    Regress(Regress),
    Classify(Classify),
}

#[derive(Debug)]
pub(super) struct Regress {
    targets: usize,
    /// What sums are divided by: the number of trees, or 1.
    divisor: f32,
    /// One a target, or none.
    base: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct Classify {
    /// Of labels that are texts, their numbers.
    labels: Vec<i64>,
    base: Vec<f32>,
    transform: Transform,
    /// Of two classes only one has weights.
    one_sided: bool,
    no_weight_is_negative: bool,
    /// Classes that every record gets something for from the trees.
    scored: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transform {
    None,
    Logistic,
    Softmax,
}

impl Finish {
    pub(super) fn read(node: &Node) -> Result<Self, Unsupported> {
        let find = |name: &str| node.attributes.iter().find(|a| a.name == name);
        let text = |name: &str| find(name).map(|a| String::from_utf8_lossy(&a.text).into_owned());
        let base = find("base_values").map(|a| a.floats.clone()).unwrap_or_default();
        let transform = match text("post_transform").as_deref() {
            None | Some("NONE") => Transform::None,
            Some("LOGISTIC") => Transform::Logistic,
            Some("SOFTMAX") => Transform::Softmax,
            Some(other) => return Err(format!("its post_transform is {other}")),
        };
        if node.op_type == "TreeEnsembleRegressor" {
            if transform != Transform::None {
                return Err("it is a regression with a post_transform".to_owned());
            }
            let targets = find("n_targets").map_or(1, |a| a.int);
            let targets = usize::try_from(targets).ok().filter(|n| (1..=1024).contains(n));
            let targets = targets.ok_or("its number of targets is not between 1 and 1024")?;
            let divisor = match text("aggregate_function").as_deref() {
                None | Some("SUM") => false,
                Some("AVERAGE") => true,
                Some(other) => return Err(format!("its aggregate_function is {other}")),
            };
            // For a single one, the runtime adds a zero.
            let base = if base.is_empty() && targets == 1 { vec![0.0] } else { base };
            if ![0, targets].contains(&base.len()) {
                return Err("it has not one base value a target".to_owned());
            }
            return Ok(Self::Regress(Regress { targets, divisor: if divisor { f32::NAN } else { 1.0 }, base }));
        }
        let texts = find(LABELS).map_or(0, |a| a.texts.len());
        let labels = match find("classlabels_int64s") {
            _ if texts > 0 => (0..texts as i64).collect(),
            Some(labels) => labels.ints.clone(),
            None => Vec::new(),
        };
        if !(2..=1024).contains(&labels.len()) {
            return Err("its number of classes is not between 2 and 1024".to_owned());
        }
        let wanted: &[usize] = if labels.len() == 2 { &[0, 1, 2] } else { &[0, labels.len()] };
        if !wanted.contains(&base.len()) {
            return Err("it has not one base value a class".to_owned());
        }
        let ids = find("class_ids").map(|a| a.ints.as_slice()).unwrap_or_default();
        let weights = find("class_weights").map(|a| a.floats.as_slice()).unwrap_or_default();
        Ok(Self::Classify(Classify {
            one_sided: labels.len() == 2 && ids.iter().all(|id| Some(id) == ids.first()),
            no_weight_is_negative: weights.iter().all(|weight| *weight >= 0.0),
            scored: vec![false; labels.len()],
            labels,
            base,
            transform,
        }))
    }

    /// Sums a record.
    pub(super) fn targets(&self) -> usize {
        match self {
            Self::Regress(regress) => regress.targets,
            Self::Classify(classify) => classify.labels.len(),
        }
    }

    /// Takes note of the trees.
    pub(super) fn fits(&mut self, trees: &[Tree]) -> Result<(), Unsupported> {
        match self {
            Self::Regress(regress) if regress.divisor.is_nan() => regress.divisor = trees.len() as f32,
            Self::Regress(_) => {}
            Self::Classify(classify) => {
                for (class, scored) in classify.scored.iter_mut().enumerate() {
                    *scored = trees.iter().any(|tree| tree.leaves.always_add_to(class, &tree.nodes));
                    if !*scored && trees.iter().any(|tree| tree.leaves.ever_add_to(class)) {
                        return Err(format!("some records get no weight for class {class}"));
                    }
                }
                if !classify.scored.contains(&true) {
                    return Err("it has no weights".to_owned());
                }
            }
        }
        Ok(())
    }
}

impl Regress {
    /// In place: sums → values, `targets` a record.
    pub(super) fn finish(&self, sums: &mut [f32]) {
        for record in sums.chunks_exact_mut(self.targets) {
            // Division by 1 changes nothing.
            record.iter_mut().for_each(|sum| *sum /= self.divisor);
            record.iter_mut().zip(&self.base).for_each(|(sum, base)| *sum += base);
        }
    }
}

impl Classify {
    /// In place: sums → scores, one a class and record; and the labels.
    pub(super) fn finish(&self, sums: &mut [f32], labels: &mut [i64]) {
        let classes = self.labels.len();
        for (scores, label) in sums.chunks_exact_mut(classes).zip(labels) {
            *label = if let [first, second] = scores { self.two(first, second) } else { self.many(scores) };
        }
    }

    fn many(&self, scores: &mut [f32]) -> i64 {
        for (score, base) in scores.iter_mut().zip(&self.base) {
            *score += base;
        }
        let counts = |class: usize| self.scored[class] || !self.base.is_empty();
        let mut best: Option<usize> = None;
        for (class, score) in scores.iter().enumerate() {
            if counts(class) && best.is_none_or(|best| *score > scores[best]) {
                best = Some(class);
            }
        }
        self.transform.apply(scores);
        self.labels[best.unwrap_or_default()]
    }

    /// Two classes: with weights for one of them only, its sum says both scores.
    fn two(&self, first: &mut f32, second: &mut f32) -> i64 {
        let second_is_scored = self.scored[1];
        match self.base.as_slice() {
            [_, base] if second_is_scored => {
                *second = base + *first;
                *first = -*second;
            }
            [base, other] => {
                *second += other;
                *first += base;
            }
            [base] => *first += base,
            _ => {}
        }
        let decides = if second_is_scored { *second } else { *first };
        let (yes, no) = if self.one_sided { (self.labels[1], self.labels[0]) } else { (1, 0) };
        let above = if self.one_sided && self.no_weight_is_negative { 0.5 } else { 0.0 };
        let label = if decides > above { yes } else { no };
        if second_is_scored || self.base.len() == 2 {
            // What no leaf has added to counts as 0, whatever its base value.
            let mut both = [(*first, self.scored[0]), (*second, second_is_scored)].map(|(score, scored)| if scored { score } else { 0.0 });
            self.transform.apply(&mut both);
            [*first, *second] = both;
            return label;
        }
        let score = *first;
        (*first, *second) = match self.transform {
            Transform::Logistic => (logistic(-score), logistic(score)),
            _ if self.no_weight_is_negative => (1.0 - score, score),
            _ => (-score, score),
        };
        label
    }
}

impl Transform {
    fn apply(self, scores: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Self::Softmax => {
                let most = scores.iter().copied().fold(f32::NEG_INFINITY, |most, score| if score > most { score } else { most });
                let mut sum = 0.0;
                for score in scores.iter_mut() {
                    *score = (*score - most).exp();
                    sum += *score;
                }
                scores.iter_mut().for_each(|score| *score /= sum);
            }
        }
    }
}

fn logistic(x: f32) -> f32 {
    let y = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - y } else { y }
}
