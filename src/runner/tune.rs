//! Finds how a model is best run by trying, on the first records of its first job, whose results count like any others: powers of two
//! as batch sizes, each worker with a session of its own; then, on a processor, one session with a thread a worker.
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

use super::{models::lock, sessions::Refused};

/// A way is tried for as long, but for its first rows, for which memory is allocated; and with this many batches at least.
const TRIAL: Duration = Duration::from_millis(60);
const TRIAL_BATCHES: usize = 2;
/// The smallest size tried is the largest by this much.
const SPAN: usize = 32;
/// What is slower than the best by this much, and the next size too, is not worth more trials.
const HOPELESS: f64 = 0.9;
/// A way must be faster by this much than the one that is used without a trial: less is noise.
const BETTER: f64 = 1.03;

/// How the workers share the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Layout {
    /// Each has a session of its own, of one thread; of a device's few sessions, each has its turn at one.
    #[default]
    Apart,
    /// All take turns at one session, which has as many threads as there are workers.
    Shared,
}

/// How to call the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) layout: Layout,
    /// Records a call, at most.
    pub(super) size: usize,
}

/// What was found for one model, one provider and one shape of machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) layout: Layout,
    /// Records a call of the runtime.
    pub(super) batch_size: usize,
    /// Elements of input tensors that one session of one thread took a second, by batch size: of texts that differ in length, records
    /// say little.
    pub(super) apart: BTreeMap<usize, f64>,
    /// Those that the shared session took; empty where none was tried.
    pub(super) shared: BTreeMap<usize, f64>,
}

impl Found {
    /// Elements that all sessions of a layout took a second, with its best size; nothing where only one layout was tried.
    pub(super) fn layouts(&self, sessions: usize) -> Vec<(Layout, f64)> {
        let fastest = |rates: &BTreeMap<usize, f64>| rates.values().copied().fold(0.0, f64::max);
        if self.shared.is_empty() {
            return Vec::new();
        }
        vec![(Layout::Apart, sessions as f64 * fastest(&self.apart)), (Layout::Shared, fastest(&self.shared))]
    }
}

/// What there is to choose from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choices {
    /// What is used without a trial: the largest size that is tried.
    pub(super) usual: usize,
    /// Whether smaller ones may be tried.
    pub(super) sizes: bool,
    /// Threads that a shared session would have; `None` where there is nothing to share.
    pub(super) threads: Option<usize>,
}

/// Chooses how the runtime is called; shared by the workers of one model.
#[derive(Debug)]
pub(super) struct Tuner(Mutex<State>);

#[derive(Debug)]
struct State {
    choices: Choices,
    /// Still to be tried, the next one last; empty once one is chosen.
    to_try: Vec<Way>,
    tried: BTreeMap<Way, Tried>,
    found: Option<Found>,
    /// Where to keep what is found, and under which name.
    file: PathBuf,
    name: String,
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
    /// Tries what there is to choose from, unless the file says what was found before.
    pub(super) fn new(choices: Choices, file: PathBuf, name: String) -> Self {
        let known = read(&file).remove(&name).filter(|found| choices.allow(found));
        let mut state = State { choices, to_try: Vec::new(), tried: BTreeMap::new(), found: known, file, name };
        if state.found.is_none() && (choices.sizes || choices.threads.is_some()) {
            state.to_try = choices.ways(Layout::Apart);
        }
        Self(Mutex::new(state))
    }

    /// How to call the runtime next.
    pub(super) fn way(&self) -> Way {
        let state = lock(&self.0);
        state.to_try.last().copied().unwrap_or_else(|| state.chosen())
    }

    /// What was found, once it is.
    pub(super) fn found(&self) -> Option<Found> {
        lock(&self.0).found.clone()
    }

    /// How to call it where nothing is tried.
    pub(super) fn chosen(&self) -> Way {
        lock(&self.0).chosen()
    }

    /// So many batches, tensors of so many elements in all, took so long in this way. Whether that has led to a choice.
    pub(super) fn ran(&self, way: Way, batches: usize, elements: usize, took: Duration) -> bool {
        let mut state = lock(&self.0);
        if batches == 0 || state.to_try.last() != Some(&way) {
            return false;
        }
        let tried = state.tried.entry(way).or_default();
        if std::mem::replace(&mut tried.began, true) {
            tried.batches += batches;
            tried.elements += elements as f64;
            tried.seconds += took.as_secs_f64();
        }
        let enough = tried.batches > 0 && tried.seconds >= TRIAL.as_secs_f64();
        // Batches of texts take seconds: a shared session that is slow is not waited for twice.
        if tried.is_done() || (enough && way.layout == Layout::Shared && state.together(way) < HOPELESS * state.fastest()) {
            state.next();
        }
        state.found.is_some()
    }

    /// A session cannot be shared, for this reason: that is not tried any more.
    pub(super) fn leave_shared(&self, why: &Refused) {
        let mut state = lock(&self.0);
        if state.choices.threads.take().is_none() {
            return;
        }
        match why {
            Refused::Load(why) => tracing::warn!(%why, "a shared session for {} cannot be had: the workers keep one each", state.name),
            Refused::Differs(records) => {
                tracing::info!("several threads give other bits for {records} records than one does, for {}: one it is", state.name);
            }
        }
        state.tried.retain(|way, _| way.layout == Layout::Apart);
        if state.to_try.last().is_some_and(|way| way.layout == Layout::Shared) {
            // What may pass is tried again by the next runner.
            state.choose(matches!(why, Refused::Differs(_)));
        }
    }
}

impl Choices {
    /// Sizes of a layout, the largest last.
    fn ways(&self, layout: Layout) -> Vec<Way> {
        let smallest = if self.sizes { (self.usual / SPAN).max(1) } else { self.usual };
        let sizes = std::iter::successors(Some(self.usual), |size| Some(size / 2)).take_while(|size| *size >= smallest);
        let mut ways: Vec<Way> = sizes.map(|size| Way { layout, size }).collect();
        ways.reverse();
        ways
    }

    fn allow(&self, found: &Found) -> bool {
        let size = if self.sizes { (1..=self.usual).contains(&found.batch_size) } else { found.batch_size == self.usual };
        size && (found.layout == Layout::Apart || self.threads.is_some())
    }
}

impl State {
    /// What is used when nothing is tried.
    fn chosen(&self) -> Way {
        match &self.found {
            Some(found) => Way { layout: found.layout, size: found.batch_size },
            None => Way { layout: Layout::Apart, size: self.choices.usual },
        }
    }

    fn rate(&self, way: Way) -> f64 {
        self.tried.get(&way).map_or(0.0, Tried::rate)
    }

    /// The fastest size of a layout.
    fn best(&self, layout: Layout) -> Option<Way> {
        let ways = self.tried.keys().copied().filter(|way| way.layout == layout);
        ways.max_by(|a, b| self.rate(*a).total_cmp(&self.rate(*b)))
    }

    /// Elements a second of all sessions of a layout. Those of sessions apart were measured with as many of them at work as there was work
    /// for, and cannot be more together than this.
    fn together(&self, way: Way) -> f64 {
        let sessions = if way.layout == Layout::Apart { self.choices.threads.unwrap_or(1) } else { 1 };
        sessions as f64 * self.rate(way)
    }

    /// What the fastest way gave so far.
    fn fastest(&self) -> f64 {
        let best = [Layout::Apart, Layout::Shared].into_iter().filter_map(|layout| self.best(layout));
        best.map(|way| self.together(way)).fold(0.0, f64::max)
    }

    /// Goes on to the next way, or chooses.
    fn next(&mut self) {
        let Some(last) = self.to_try.pop() else { return };
        let best = self.fastest();
        // Sizes are tried from the largest down.
        let larger = Way { size: last.size * 2, ..last };
        let hopeless = [last, larger].iter().all(|way| self.tried.contains_key(way) && self.together(*way) < HOPELESS * best);
        if !self.to_try.is_empty() && !hopeless {
            return;
        }
        self.to_try.clear();
        if last.layout == Layout::Apart && self.choices.threads.is_some() {
            self.to_try = self.choices.ways(Layout::Shared);
        } else {
            self.choose(true);
        }
    }

    fn choose(&mut self, keep: bool) {
        self.to_try.clear();
        let usual = Way { layout: Layout::Apart, size: self.choices.usual };
        let better = |way: Option<Way>, than: Way| way.filter(|way| self.together(*way) > BETTER * self.together(than)).unwrap_or(than);
        let chosen = better(self.best(Layout::Shared), better(self.best(Layout::Apart), usual));
        let rates = |layout: Layout| {
            let tried = self.tried.iter().filter(|(way, _)| way.layout == layout);
            tried.map(|(way, tried)| (way.size, tried.rate().round())).collect::<BTreeMap<_, _>>()
        };
        let (apart, shared) = (rates(Layout::Apart), rates(Layout::Shared));
        let name = &self.name;
        let layout = match chosen.layout {
            Layout::Apart => "a session for each worker",
            Layout::Shared => "one session for all workers",
        };
        tracing::info!(
            batch_size = chosen.size,
            ?apart,
            ?shared,
            "{layout} and batches of {} records are the best for {name}",
            chosen.size
        );
        let found = Found { layout: chosen.layout, batch_size: chosen.size, apart, shared };
        if keep && let Err(error) = write(&self.file, name, &found) {
            tracing::warn!(%error, "{} cannot be written: the batch size will be looked for again", self.file.display());
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

    /// Runs batches until a way is chosen; `rate` gives elements a second of one session.
    fn tune(tuner: &Tuner, rate: impl Fn(Way) -> f64) -> Vec<Way> {
        let mut ways = Vec::new();
        for _ in 0..10_000 {
            if tuner.found().is_some() {
                break;
            }
            let way = tuner.way();
            ways.push(way);
            tuner.ran(way, 1, 10_000, Duration::from_secs_f64(10_000.0 / rate(way)));
        }
        ways.dedup();
        ways
    }

    fn sizes(ways: &[Way], layout: Layout) -> Vec<usize> {
        ways.iter().filter(|way| way.layout == layout).map(|way| way.size).collect()
    }

    const fn choices(usual: usize) -> Choices {
        Choices { usual, sizes: true, threads: None }
    }

    fn tuner(choices: Choices) -> (tempfile::TempDir, Tuner) {
        let folder = tempfile::tempdir().unwrap();
        let tuner = Tuner::new(choices, folder.path().join("x.json"), "cpu".to_owned());
        (folder, tuner)
    }

    #[test]
    fn the_fastest_size_is_chosen_and_kept() {
        let (folder, first) = tuner(choices(64));
        let best_at_16 = |way: Way| 1e6 / (1.0 + (way.size as f64 / 16.0).log2().abs());
        assert_eq!(sizes(&tune(&first, best_at_16), Layout::Apart), [64, 32, 16, 8, 4]);
        assert_eq!((first.way().size, first.found().unwrap().batch_size), (16, 16));
        let again = |choices: Choices, name: &str| Tuner::new(choices, folder.path().join("x.json"), name.to_owned());
        let second = again(choices(64), "cpu");
        assert_eq!(second.found(), first.found());
        assert_eq!(second.way().size, 16);
        // Elsewhere it may be another one.
        let other = again(choices(64), "cuda");
        assert_eq!((other.found(), other.way().size), (None, 64));
        // And what is not allowed any more is not used.
        assert_eq!(again(choices(8), "cpu").way().size, 8);
        assert_eq!(again(Choices { usual: 8, sizes: false, threads: None }, "cpu").way().size, 8);
    }

    #[test]
    fn noise_does_not_move_the_size_and_what_is_hopeless_is_not_tried_to_the_end() {
        let (_folder, tuner) = tuner(choices(1024));
        assert_eq!(sizes(&tune(&tuner, |way| way.size as f64 * 1000.0), Layout::Apart), [1024, 512, 256]);
        assert_eq!(tuner.way().size, 1024);
        let (_folder, tuner) = self::tuner(choices(8));
        assert_eq!(sizes(&tune(&tuner, |way| if way.size == 4 { 1.01e6 } else { 1e6 }), Layout::Apart), [8, 4, 2, 1]);
        assert_eq!(tuner.way().size, 8);
    }

    #[test]
    fn a_shared_session_is_chosen_when_it_is_faster_than_all_others_together() {
        let with_4_threads = |rate: f64| move |way: Way| if way.layout == Layout::Apart { 1e6 } else { rate };
        let (folder, tuner) = tuner(Choices { threads: Some(4), ..choices(8) });
        let ways = tune(&tuner, with_4_threads(4.5e6));
        assert_eq!((sizes(&ways, Layout::Apart), sizes(&ways, Layout::Shared)), (vec![8, 4, 2, 1], vec![8, 4, 2, 1]));
        assert_eq!(tuner.chosen().layout, Layout::Shared);
        let found = tuner.found().unwrap();
        assert_eq!((found.apart[&8], found.shared[&8]), (1e6, 4.5e6));
        // Kept, but not for those who may not share.
        let again = |threads| Tuner::new(Choices { threads, ..choices(8) }, folder.path().join("x.json"), "cpu".to_owned());
        assert_eq!((again(Some(4)).chosen().layout, again(None).chosen().layout), (Layout::Shared, Layout::Apart));

        // As fast as all together is noise, and what is much slower is soon given up.
        for (rate, tried) in [(4.05e6, vec![8, 4, 2, 1]), (3e6, vec![8, 4])] {
            let (_folder, tuner) = self::tuner(Choices { threads: Some(4), ..choices(8) });
            let ways = tune(&tuner, with_4_threads(rate));
            assert_eq!((tuner.chosen().layout, sizes(&ways, Layout::Shared)), (Layout::Apart, tried), "{rate}");
        }
    }

    #[test]
    fn a_size_that_is_given_is_the_only_one_in_either_layout_and_a_shared_session_that_cannot_be_had_is_left() {
        let given = Choices { usual: 8, sizes: false, threads: Some(2) };
        let (_folder, one) = tuner(given);
        let ways = tune(&one, |_| 1e6);
        assert_eq!(ways, [Layout::Apart, Layout::Shared].map(|layout| Way { layout, size: 8 }));
        assert_eq!(one.chosen().layout, Layout::Apart);

        let (folder, other) = tuner(given);
        while other.way().layout == Layout::Apart {
            other.ran(other.way(), 1, 1000, TRIAL);
        }
        other.leave_shared(&Refused::Load(crate::runner::infer::Error::Output("it does not load".to_owned())));
        assert!(read(&folder.path().join("x.json")).is_empty(), "the next runner tries again");
        assert_eq!((other.way(), other.found().unwrap().shared), (Way { layout: Layout::Apart, size: 8 }, BTreeMap::new()));
        // With nothing to choose from, nothing is tried.
        let (_folder, none) = tuner(Choices { threads: None, ..given });
        assert!(!none.ran(none.way(), 9, 9, TRIAL) && none.found().is_none());
    }

    #[test]
    fn a_file_that_is_none_is_found_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.json");
        fs::write(&file, "no JSON").unwrap();
        let tuner = Tuner::new(choices(2), file.clone(), "cpu".to_owned());
        tune(&tuner, |_| 1e6);
        assert_eq!(read(&file)["cpu"].batch_size, 2);
    }
}
