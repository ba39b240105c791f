//! Many records down many trees, one level of one tree at a time.
//!
//! A record's way down a tree is a chain of loads that wait for one another and of branches that nobody can predict; what makes it fast is to go
//! down with many records side by side, without a branch: a step is the same arithmetic for all of them, at leaves too, which lead to themselves.

use super::ensemble::{BLOCK, Ensemble, Leaves, Tree};

impl Ensemble {
    /// What the trees add up to, tree after tree as the runtime does on one thread: `targets` sums a record. `x` has `stride` columns a record.
    ///
    /// # Panics
    /// When `stride` is 0 or less than [`Ensemble::width`].
    pub(super) fn sums(&self, x: &[f32], stride: usize) -> Vec<f32> {
        assert!(stride > 0 && stride >= self.width, "{stride} columns are less than {}", self.width);
        let mut sums = vec![0.0; x.len() / stride * self.targets];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq") {
                // SAFETY: the processor has been asked for the features that it is compiled for.
                unsafe { sums_avx512(self, x, stride, &mut sums) };
                return sums;
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: as above.
                unsafe { sums_avx2(self, x, stride, &mut sums) };
                return sums;
            }
        }
        add_up::<16>(self, x, stride, &mut sums);
        sums
    }
}

/// Records side by side were tried from 4 to 128: 64 are the best with vectors of 16 numbers, 32 with 8, 16 where there are none.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx2")]
fn sums_avx512(ensemble: &Ensemble, x: &[f32], stride: usize, sums: &mut [f32]) {
    add_up::<64>(ensemble, x, stride, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sums_avx2(ensemble: &Ensemble, x: &[f32], stride: usize, sums: &mut [f32]) {
    add_up::<32>(ensemble, x, stride, sums);
}

#[inline(always)]
pub(super) fn add_up<const N: usize>(ensemble: &Ensemble, x: &[f32], stride: usize, sums: &mut [f32]) {
    if ensemble.tracks_missing {
        walk::<N, true>(ensemble, x, stride, sums);
    } else {
        walk::<N, false>(ensemble, x, stride, sums);
    }
}

/// Takes `BLOCK` records at a time down one tree after the other, so that both stay in the first cache.
#[inline(always)]
fn walk<const N: usize, const MISSING: bool>(ensemble: &Ensemble, x: &[f32], stride: usize, sums: &mut [f32]) {
    let (columns, targets) = (ensemble.columns.len(), ensemble.targets);
    // Of each group of N records, column by column. Where the last group is not full, what was there before goes along and is not heard.
    let most = (x.len() / stride).min(BLOCK).div_ceil(N);
    let mut lanes = vec![[0f32; N]; most * columns];
    let mut added = vec![[0f32; N]; most * targets];
    for (records, sums) in x.chunks(BLOCK * stride).zip(sums.chunks_mut(BLOCK * targets)) {
        let groups = (records.len() / stride).div_ceil(N);
        for (at, record) in records.chunks_exact(stride).enumerate() {
            for (number, column) in ensemble.columns.iter().enumerate() {
                lanes[at / N * columns + number][at % N] = record[*column];
            }
        }
        added[..groups * targets].fill([0.0; N]);
        for tree in &ensemble.trees {
            for group in 0..groups {
                let leaves = down::<N, MISSING>(tree, &lanes[group * columns..(group + 1) * columns]);
                let added = &mut added[group * targets..(group + 1) * targets];
                match &tree.leaves {
                    Leaves::Single { target, values } => {
                        for (sum, leaf) in added[*target].iter_mut().zip(leaves) {
                            *sum += values[leaf as usize];
                        }
                    }
                    Leaves::Many { spans, pairs } => {
                        for (lane, leaf) in leaves.into_iter().enumerate() {
                            let (start, end) = spans[leaf as usize];
                            for (target, weight) in &pairs[start as usize..end as usize] {
                                added[*target as usize][lane] += weight;
                            }
                        }
                    }
                }
            }
        }
        for (at, sums) in sums.chunks_exact_mut(targets).enumerate() {
            for (target, sum) in sums.iter_mut().enumerate() {
                *sum = added[at / N * targets + target][at % N];
            }
        }
    }
}

/// The leaves that N records come to.
#[inline(always)]
fn down<const N: usize, const MISSING: bool>(tree: &Tree, lanes: &[[f32; N]]) -> [u32; N] {
    let mut at = [0u32; N];
    for _ in 0..tree.depth {
        let mut moved = 0;
        for (lane, at) in at.iter_mut().enumerate() {
            // SAFETY: `Tree::new` builds all nodes there are: it has a root, children are nodes of the same tree, columns are numbers of
            // `Ensemble::columns`, of which `lanes` has one each, and leaves have the first of them, which is there where a tree has any depth.
            // Without these two checks a step is a fifth to a half faster, and only then do compilers make vectors of it.
            let (node, value) = unsafe {
                let node = *tree.nodes.get_unchecked(*at as usize);
                (node, lanes.get_unchecked(node.column::<MISSING>())[lane])
            };
            let mut second = value <= node.threshold();
            if MISSING {
                second |= value.is_nan() & node.missing_goes_true();
            }
            let next = node.child() + u32::from(second);
            moved |= next ^ *at;
            *at = next;
        }
        if moved == 0 {
            break;
        }
    }
    at
}
