//! The sessions of one loaded model: one for each worker, or one that all workers take turns at.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use super::{
    featurize::Group,
    infer::{self, Inferred, Interrupt, LoadOptions, ModelFile, Refused, Room, Session},
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
    apart: Vec<Mutex<Option<Session>>>,
    shared: Mutex<Option<Session>>,
    recipe: Recipe,
}

impl Sessions {
    /// Loads what the layout has: `count` sessions apart, or one.
    pub(super) fn load(file: &ModelFile, count: usize, layout: Layout, recipe: Recipe) -> Result<Self, infer::Error> {
        let mut sessions = Self { apart: (0..count).map(|_| Mutex::default()).collect(), shared: Mutex::default(), recipe };
        match layout {
            Layout::Apart => {
                for slot in &mut sessions.apart {
                    *slot = Mutex::new(Some(sessions.recipe.session(file, Layout::Apart)?));
                }
            }
            Layout::Shared => sessions.shared = Mutex::new(Some(sessions.recipe.session(file, Layout::Shared)?)),
        }
        Ok(sessions)
    }

    /// Runs a group on the worker's session, or on the shared one once nobody else does; `enter` is told when it is the worker's turn.
    pub(super) fn run(
        &self,
        worker: usize,
        way: Way,
        group: Group,
        interrupt: &Interrupt,
        mut enter: impl FnMut(),
        busy: &mut dyn FnMut(Option<usize>),
    ) -> Result<(Vec<Inferred>, Vec<Refused>), infer::Error> {
        // What one worker has just chosen, others may learn a batch later.
        let other = if way.layout == Layout::Apart { Layout::Shared } else { Layout::Apart };
        for layout in [way.layout, other] {
            if let Some(session) = &mut *lock(self.slot(worker, layout)) {
                enter();
                return session.run(group, way.size, interrupt, busy);
            }
        }
        Err(infer::Error::Load { code: "model_load_failed", detail: "the model's sessions were let go".to_owned() })
    }

    /// Loads the shared session unless it is there, and holds it against the worker's own: they must not differ by a bit on the first
    /// records of a group, nor on the first alone, which some operators add up in another order. What is wrong with it otherwise.
    pub(super) fn check_shared(&self, worker: usize, size: usize, group: &Group, interrupt: &Interrupt) -> Result<(), String> {
        let mut shared = lock(&self.shared);
        if shared.is_some() {
            return Ok(());
        }
        let Some(own) = &mut *lock(self.slot(worker, Layout::Apart)) else { return Ok(()) };
        let file = ModelFile::open(self.recipe.file.clone(), &self.recipe.options.providers);
        let mut other = self.recipe.session(&file, Layout::Shared).map_err(|e| e.to_string())?;
        for records in [size, 1] {
            let first = group.first(records);
            let one = own.run(first.clone(), records, interrupt, &mut |_| ()).map_err(|e| e.to_string())?;
            let two = other.run(first, records, interrupt, &mut |_| ()).map_err(|e| e.to_string())?;
            let same = one.0.len() == two.0.len() && one.0.iter().zip(&two.0).all(|(one, two)| one.same_bits(two)) && one.1 == two.1;
            if !same {
                return Err(format!("several threads do not give the same bits for {records} records as one does"));
            }
        }
        *shared = Some(other);
        Ok(())
    }

    /// Lets the sessions of the other layout go.
    pub(super) fn keep(&self, layout: Layout) {
        match layout {
            Layout::Apart => *lock(&self.shared) = None,
            Layout::Shared => self.apart.iter().for_each(|slot| *lock(slot) = None),
        }
    }

    /// Sessions and threads of each, in a layout.
    pub(super) fn shape(&self, layout: Layout) -> (usize, usize) {
        match layout {
            Layout::Apart => (self.apart.len(), 1),
            Layout::Shared => (1, self.recipe.threads),
        }
    }

    fn slot(&self, worker: usize, layout: Layout) -> &Mutex<Option<Session>> {
        match layout {
            Layout::Apart => &self.apart[worker % self.apart.len()],
            Layout::Shared => &self.shared,
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
