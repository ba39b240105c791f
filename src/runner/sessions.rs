//! The sessions of one loaded model: one for each worker, or one that all workers take turns at.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{
    featurize::Group,
    infer::{self, Inferred, Interrupt, LoadOptions, ModelFile, Room, Session},
    models::lock,
    tune::{Layout, Way},
};
use crate::domain::Signature;

/// What a model's sessions are made of.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) file: PathBuf,
    pub(super) signature: Signature,
    /// For a session of one worker.
    pub(super) options: LoadOptions,
    pub(super) room: Arc<Room>,
    /// Of a shared session.
    pub(super) threads: usize,
}

/// Sessions by layout; those of a layout that is not used are not there.
#[derive(Debug)]
pub(super) struct Sessions {
    apart: Vec<Slot>,
    shared: Slot,
    state: Mutex<State>,
    recipe: Recipe,
}

type Slot = parking_lot::Mutex<Option<Session>>;

/// How long a worker waits for a session before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// What is known of the shared session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Untried,
    /// A worker loads it and holds it against its own.
    Checking,
    Ready,
    /// It was refused, or let go.
    Closed,
}

/// Why the shared session is not used.
#[derive(Debug)]
pub(super) enum Refused {
    /// The runtime does not load or run it, now.
    Load(infer::Error),
    /// It gives other bits for so many records.
    Differs(usize),
}

/// What a run gave.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) outputs: Vec<Inferred>,
    pub(super) refused: Vec<infer::Refused>,
    /// Of the session that it ran on.
    pub(super) layout: Layout,
    /// From the worker's turn on.
    pub(super) took: Duration,
}

impl Sessions {
    /// Loads what the layout has: `count` sessions apart, or one.
    pub(super) fn load(file: &ModelFile, count: usize, layout: Layout, recipe: Recipe) -> Result<Self, infer::Error> {
        let mut apart: Vec<Slot> = (0..count).map(|_| Slot::default()).collect();
        let (mut shared, mut state) = (Slot::default(), State::Untried);
        match layout {
            Layout::Apart => {
                for slot in &mut apart {
                    *slot.get_mut() = Some(recipe.session(file, Layout::Apart)?);
                }
            }
            Layout::Shared => {
                *shared.get_mut() = Some(recipe.session(file, Layout::Shared)?);
                state = State::Ready;
            }
        }
        Ok(Self { apart, shared, state: Mutex::new(state), recipe })
    }

    /// Runs a group on the worker's session, or on the shared one once nobody else does.
    pub(super) fn run(
        &self,
        worker: usize,
        way: Way,
        group: Group,
        interrupt: &Interrupt,
        busy: &mut dyn FnMut(Option<usize>),
    ) -> Result<Ran, infer::Error> {
        // What one worker has just chosen, others may learn a batch later.
        let other = if way.layout == Layout::Apart { Layout::Shared } else { Layout::Apart };
        for layout in [way.layout, other] {
            let mut slot = self.turn(worker, layout, interrupt)?;
            let Some(session) = &mut *slot else { continue };
            let started = Instant::now();
            let (outputs, refused) = session.run(group, way.size, interrupt, busy)?;
            return Ok(Ran { outputs, refused, layout, took: started.elapsed() });
        }
        Err(infer::Error::Load { code: "model_load_failed", detail: "the model's sessions were let go".to_owned() })
    }

    /// Waits for a session, unless the attempt has ended: those before it may be at work for another one.
    fn turn(&self, worker: usize, layout: Layout, interrupt: &Interrupt) -> Result<MutexGuard<'_, Option<Session>>, infer::Error> {
        let slot = match layout {
            Layout::Apart => &self.apart[worker % self.apart.len()],
            Layout::Shared => &self.shared,
        };
        loop {
            if let Some(session) = slot.try_lock_for(LOOK) {
                return Ok(session);
            }
            if interrupt.is_set() {
                return Err(infer::Error::Interrupted);
            }
        }
    }

    /// Whether the shared session can be used now. The first worker that asks loads it, and holds it against its own: they must not differ
    /// by a bit on the first records of a group, nor on the first alone, which some operators add up in another order. The others go on as
    /// they did until that is done. `busy` is told before it is loaded and before each run, and after.
    pub(super) fn is_shared(
        &self,
        worker: usize,
        size: usize,
        group: &Group,
        interrupt: &Interrupt,
        busy: &mut dyn FnMut(Option<usize>),
    ) -> Result<bool, Refused> {
        {
            let mut state = lock(&self.state);
            match *state {
                State::Ready => return Ok(true),
                State::Checking | State::Closed => return Ok(false),
                State::Untried => *state = State::Checking,
            }
        }
        let checked = self.checked(worker, size, group, interrupt, busy);
        let state = match &checked {
            Ok(_) => State::Ready,
            Err(Refused::Load(infer::Error::Interrupted)) => State::Untried,
            Err(_) => State::Closed,
        };
        let stored = checked.map(|session| *self.shared.lock() = Some(session));
        *lock(&self.state) = state;
        stored.map(|()| true)
    }

    fn checked(
        &self,
        worker: usize,
        size: usize,
        group: &Group,
        interrupt: &Interrupt,
        busy: &mut dyn FnMut(Option<usize>),
    ) -> Result<Session, Refused> {
        let file = ModelFile::open(self.recipe.file.clone(), &self.recipe.options.providers);
        // Watched like a batch: where it does not end, the chunk goes on in isolation, where nothing is tried.
        busy(Some(1));
        let loaded = self.recipe.session(&file, Layout::Shared);
        busy(None);
        let mut new = loaded.map_err(Refused::Load)?;
        for records in [size, 1] {
            let first = group.first(records);
            let way = Way { layout: Layout::Apart, size: records };
            let own = self.run(worker, way, first.clone(), interrupt, busy).map_err(Refused::Load)?;
            let (outputs, refused) = new.run(first, records, interrupt, busy).map_err(Refused::Load)?;
            let same = own.outputs.len() == outputs.len() && own.outputs.iter().zip(&outputs).all(|(one, two)| one.same_bits(two));
            if !same || own.refused != refused {
                return Err(Refused::Differs(records));
            }
        }
        Ok(new)
    }

    /// Lets the sessions of the other layout go.
    pub(super) fn keep(&self, layout: Layout) {
        match layout {
            Layout::Apart => {
                *lock(&self.state) = State::Closed;
                *self.shared.lock() = None;
            }
            Layout::Shared => self.apart.iter().for_each(|slot| *slot.lock() = None),
        }
    }

    /// Sessions and threads of each, in a layout.
    pub(super) fn shape(&self, layout: Layout) -> (usize, usize) {
        match layout {
            Layout::Apart => (self.apart.len(), 1),
            Layout::Shared => (1, self.recipe.threads),
        }
    }
}

impl Recipe {
    fn session(&self, file: &ModelFile, layout: Layout) -> Result<Session, infer::Error> {
        let mut options = self.options.clone();
        if layout == Layout::Shared {
            options.intra_threads = self.threads;
        }
        Session::load(file, &self.signature, &options, &self.room)
    }
}
