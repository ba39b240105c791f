//! Of boxes that mean the same object, the best.

use super::Candidate;

/// Candidates in the order of their scores without those that overlap a better one of their class by more than `threshold`
/// (intersection over union); at most `most` of them.
pub(super) fn keep_best(candidates: &[Candidate], threshold: f64, most: usize) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if kept.len() == most {
            break;
        }
        let better = kept.iter().filter(|k| k.class == candidate.class);
        if !better.into_iter().any(|k| overlap(&k.corners, &candidate.corners) > threshold) {
            kept.push(*candidate);
        }
    }
    kept
}

/// Intersection over union; 0 where both are empty.
fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let area = |c: &[f64; 4]| (c[2] - c[0]).max(0.0) * (c[3] - c[1]).max(0.0);
    let common = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    let shared = area(&common);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}
