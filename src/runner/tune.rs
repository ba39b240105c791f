//! Finds the batch size of a model by trying: powers of two on the first records of its first job, whose results count like any others.
//!
//! What was found is kept beside the model's folder, by provider and by the shape of the machine, so that the next job begins with it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::models::lock;

/// A size is tried for as long, but for its first rows, for which memory is allocated; and with this many batches at least.
const TRIAL: Duration = Duration::from_millis(60);
const TRIAL_BATCHES: usize = 2;
/// The smallest size tried is the largest by this much.
const SPAN: usize = 32;
/// What is slower than the best by this much, and the next one too, is not worth more trials.
const HOPELESS: f64 = 0.9;
/// A size must be faster by this much than the one that is used without a trial: less is noise.
const BETTER: f64 = 1.03;

/// What was found for one model, one provider and one shape of machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Found {
    /// Records a call of the runtime.
    pub(super) batch_size: usize,
    /// Elements of input tensors that one session took a second, by batch size: of texts that differ in length, records say little.
    pub(super) elements_per_second: BTreeMap<usize, f64>,
}

/// Chooses the size of batches; shared by the workers of one model.
#[derive(Debug)]
pub(super) struct Tuner(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Still to be tried, the next one last; empty once one is chosen.
    to_try: Vec<usize>,
    tried: BTreeMap<usize, Tried>,
    usual: usize,
    found: Option<Found>,
    /// Where to keep what is found, and under which name.
    keep: Option<(PathBuf, String)>,
}

#[derive(Debug, Default)]
struct Tried {
    began: bool,
    batches: usize,
    elements: f64,
    seconds: f64,
}

impl Tried {
    fn rate(&self) -> f64 {
        self.elements / self.seconds.max(f64::MIN_POSITIVE)
    }

    fn is_done(&self) -> bool {
        self.batches >= TRIAL_BATCHES && self.seconds >= TRIAL.as_secs_f64()
    }
}

impl Tuner {
    /// Tries sizes up to `usual`, which is what is used without a trial, unless the file says what was found before.
    pub(super) fn new(usual: usize, file: PathBuf, name: String) -> Self {
        let known = read(&file).remove(&name).filter(|found| (1..=usual).contains(&found.batch_size));
        let mut to_try = Vec::new();
        if known.is_none() {
            let mut size = usual;
            while size >= 1 && size >= usual / SPAN {
                to_try.insert(0, size);
                size /= 2;
            }
        }
        Self(Mutex::new(State { to_try, tried: BTreeMap::new(), usual, found: known, keep: Some((file, name)) }))
    }

    /// Records of the next call of the runtime, at most.
    pub(super) fn size(&self) -> usize {
        let state = lock(&self.0);
        state.to_try.last().copied().or(state.found.as_ref().map(|found| found.batch_size)).unwrap_or(state.usual)
    }

    /// What was found, once it is.
    pub(super) fn found(&self) -> Option<Found> {
        lock(&self.0).found.clone()
    }

    /// So many batches of `size` records, tensors of so many elements in all, took so long.
    pub(super) fn ran(&self, size: usize, batches: usize, elements: usize, took: Duration) {
        let mut state = lock(&self.0);
        if state.to_try.last() != Some(&size) {
            return;
        }
        let tried = state.tried.entry(size).or_default();
        if std::mem::replace(&mut tried.began, true) {
            tried.batches += batches;
            tried.elements += elements as f64;
            tried.seconds += took.as_secs_f64();
        }
        if tried.is_done() {
            state.next();
        }
    }
}

impl State {
    /// Goes on to the next size, or chooses.
    fn next(&mut self) {
        let last = self.to_try.pop();
        let rate = |size: usize| self.tried.get(&size).map_or(0.0, Tried::rate);
        let best = self.tried.keys().copied().max_by(|a, b| rate(*a).total_cmp(&rate(*b))).unwrap_or(self.usual);
        // Sizes are tried from the largest down.
        let hopeless = last.is_some_and(|last| [last, last * 2].iter().all(|size| rate(*size) < HOPELESS * rate(best)));
        if !self.to_try.is_empty() && !hopeless {
            return;
        }
        self.to_try.clear();
        let chosen = if rate(best) > BETTER * rate(self.usual) { best } else { self.usual };
        let found = Found {
            batch_size: chosen,
            elements_per_second: self.tried.iter().map(|(size, tried)| (*size, tried.rate().round())).collect(),
        };
        if let Some((file, name)) = &self.keep {
            tracing::info!(batch_size = chosen, tried = ?found.elements_per_second, "batches of {chosen} records are the best for {name}");
            if let Err(error) = write(file, name, &found) {
                tracing::warn!(%error, "{} cannot be written: the batch size will be looked for again", file.display());
            }
        }
        self.found = Some(found);
    }
}

fn read(file: &Path) -> BTreeMap<String, Found> {
    // What cannot be read is found anew.
    fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write(file: &Path, name: &str, found: &Found) -> io::Result<()> {
    let mut all = read(file);
    all.insert(name.to_owned(), found.clone());
    // Whole or not at all; another runner may write at the same time.
    let draft = file.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&draft, serde_json::to_vec_pretty(&all)?)?;
    fs::rename(&draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs batches until a size is chosen; `rate` gives elements a second by size.
    fn tune(tuner: &Tuner, rate: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut sizes = Vec::new();
        for _ in 0..10_000 {
            if tuner.found().is_some() {
                break;
            }
            let size = tuner.size();
            sizes.push(size);
            tuner.ran(size, 1, 10_000, Duration::from_secs_f64(10_000.0 / rate(size)));
        }
        sizes.dedup();
        sizes
    }

    fn tuner(usual: usize) -> (tempfile::TempDir, Tuner) {
        let folder = tempfile::tempdir().unwrap();
        let tuner = Tuner::new(usual, folder.path().join("x.json"), "cpu".to_owned());
        (folder, tuner)
    }

    #[test]
    fn the_fastest_size_is_chosen_and_kept() {
        let (folder, first) = tuner(64);
        let best_at_16 = |size: usize| 1e6 / (1.0 + (size as f64 / 16.0).log2().abs());
        assert_eq!(tune(&first, best_at_16), [64, 32, 16, 8, 4]);
        assert_eq!((first.size(), first.found().unwrap().batch_size), (16, 16));
        let second = Tuner::new(64, folder.path().join("x.json"), "cpu".to_owned());
        assert_eq!(second.found(), first.found());
        assert_eq!(second.size(), 16);
        // Elsewhere it may be another one.
        let other = Tuner::new(64, folder.path().join("x.json"), "cuda".to_owned());
        assert_eq!((other.found(), other.size()), (None, 64));
        // And what is not allowed any more is not used.
        assert_eq!(Tuner::new(8, folder.path().join("x.json"), "cpu".to_owned()).size(), 8);
    }

    #[test]
    fn noise_does_not_move_the_size_and_what_is_hopeless_is_not_tried_to_the_end() {
        let (_folder, tuner) = tuner(1024);
        assert_eq!(tune(&tuner, |size| size as f64 * 1000.0), [1024, 512, 256]);
        assert_eq!(tuner.size(), 1024);
        let (_folder, tuner) = self::tuner(8);
        assert_eq!(tune(&tuner, |size| if size == 4 { 1.01e6 } else { 1e6 }), [8, 4, 2, 1]);
        assert_eq!(tuner.size(), 8);
    }

    #[test]
    fn a_file_that_is_none_is_found_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.json");
        fs::write(&file, "no JSON").unwrap();
        let tuner = Tuner::new(2, file.clone(), "cpu".to_owned());
        tune(&tuner, |_| 1e6);
        assert_eq!(read(&file)["cpu"].batch_size, 2);
    }
}
