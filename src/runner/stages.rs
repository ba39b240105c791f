//! What the threads of an attempt are at, how long, and which of it holds the others up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

/// What a thread is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum At {
    /// It waits for what others hand it.
    Nothing,
    /// It has something in hand, and nobody to take it.
    Blocked,
    /// It waits for the store.
    Fetch,
    Decode,
    Featurize,
    Infer,
    Interpret,
    Encode,
    /// It waits for the store to take what it gives.
    Put,
}

impl At {
    const ALL: [Self; 9] =
        [Self::Nothing, Self::Blocked, Self::Fetch, Self::Decode, Self::Featurize, Self::Infer, Self::Interpret, Self::Encode, Self::Put];

    /// The name of a stage; `None` for what is none.
    fn stage(self) -> Option<&'static str> {
        Some(match self {
            Self::Nothing | Self::Blocked => return None,
            Self::Fetch => "fetch",
            Self::Decode => "decode",
            Self::Featurize => "featurize",
            Self::Infer => "infer",
            Self::Interpret => "interpret",
            Self::Encode => "encode",
            Self::Put => "put",
        })
    }
}

/// What one thread is at, for others to look.
#[derive(Debug, Default)]
pub(super) struct Mark(AtomicU8);

impl Mark {
    /// From now on it is at this; what it was at before.
    pub(super) fn set(&self, at: At) -> At {
        At::ALL[usize::from(self.0.swap(at as u8, Ordering::Relaxed))]
    }

    pub(super) fn get(&self) -> At {
        At::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }
}

/// Time by stage, added up over threads.
#[derive(Debug, Default)]
pub(super) struct StageTimes([AtomicI64; At::ALL.len()]);

impl StageTimes {
    pub(super) fn add(&self, at: At, time: Duration) {
        self.0[at as usize].fetch_add(time.as_nanos() as i64, Ordering::Relaxed);
    }

    /// Runs `work`, and adds its time to a stage.
    pub(super) fn timed<T>(&self, mark: &Mark, at: At, work: impl FnOnce() -> T) -> T {
        let before = mark.set(at);
        let start = Instant::now();
        let value = work();
        self.add(at, start.elapsed());
        mark.set(before);
        value
    }

    /// Seconds by the name of the stage.
    pub(super) fn seconds(&self) -> BTreeMap<String, f64> {
        let seconds = |at: At| self.0[at as usize].load(Ordering::Relaxed).max(0) as f64 / 1e9;
        At::ALL.into_iter().filter_map(|at| Some((at.stage()?.to_owned(), seconds(at)))).collect()
    }
}

/// The waits for the store within another stage, which they do not count for.
#[derive(Debug, Clone, Default)]
pub struct Waits(Option<(Arc<StageTimes>, Arc<Mark>)>);

impl Waits {
    pub(super) fn of(times: &Arc<StageTimes>, reader: &Arc<Mark>) -> Self {
        Self(Some((times.clone(), reader.clone())))
    }

    /// Runs `work`, which waits.
    pub(super) fn waiting<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some((times, mark)) = &self.0 else { return work() };
        let within = mark.set(At::Fetch);
        let start = Instant::now();
        let value = work();
        let time = start.elapsed();
        times.add(At::Fetch, time);
        times.0[within as usize].fetch_sub(time.as_nanos() as i64, Ordering::Relaxed);
        mark.set(within);
        value
    }
}

/// What holds an attempt up at this moment, by what its threads are at. `turn` picks among workers that are all busy.
pub(super) fn bound(workers: &[At], turn: usize, reader: At, writer: At) -> Option<At> {
    if workers.iter().all(|at| *at != At::Nothing) {
        return workers.get(turn % workers.len().max(1)).copied();
    }
    match (reader, writer) {
        (At::Fetch | At::Decode, _) => Some(reader),
        // As many batches are under way as may be, and yet a worker is idle: they wait to be written.
        (At::Blocked, At::Encode | At::Put) => Some(writer),
        // All is read: what is left is the last batch, and then its writing.
        _ => workers.iter().copied().find(|at| *at != At::Nothing).or(Some(writer).filter(|at| *at != At::Nothing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_that_others_wait_for_is_the_bound() {
        use At::{Blocked, Decode, Encode, Fetch, Infer, Interpret, Nothing, Put};
        // With every worker busy it is they, whatever the others do.
        assert_eq!(bound(&[Infer, Interpret], 0, Blocked, Put), Some(Infer));
        assert_eq!(bound(&[Infer, Interpret], 1, Decode, Encode), Some(Interpret));
        // An idle worker waits for the reader, or for the writer where the reader does.
        assert_eq!(bound(&[Infer, Nothing], 0, Fetch, Encode), Some(Fetch));
        assert_eq!(bound(&[Nothing, Nothing], 0, Decode, Nothing), Some(Decode));
        assert_eq!(bound(&[Nothing, Nothing], 0, Blocked, Put), Some(Put));
        // At the end.
        assert_eq!(bound(&[Nothing, Infer], 0, Nothing, Nothing), Some(Infer));
        assert_eq!(bound(&[Nothing, Nothing], 0, Nothing, Put), Some(Put));
        assert_eq!(bound(&[Nothing, Nothing], 0, Nothing, Nothing), None);
    }

    #[test]
    fn a_wait_within_a_stage_is_not_of_that_stage() {
        let (times, mark) = (Arc::new(StageTimes::default()), Arc::new(Mark::default()));
        let waits = Waits::of(&times, &mark);
        times.timed(&mark, At::Decode, || {
            waits.waiting(|| {
                assert_eq!(mark.get(), At::Fetch);
                std::thread::sleep(Duration::from_millis(20));
            });
            assert_eq!(mark.get(), At::Decode);
        });
        assert_eq!(mark.get(), At::Nothing);
        let seconds = times.seconds();
        assert!(seconds["fetch"] >= 0.02 && seconds["decode"] < seconds["fetch"], "{seconds:?}");
    }
}
