//! Reading in isolation: one thing at a time, said before it begins.
//!
//! In: batches as they are packed. Out: pieces of them to be run one after the other, and error rows for what is left out. When the process
//! ends, the last word that the supervisor has heard names what it ended at.

use std::sync::Arc;

use super::{attempt::Attempt, batch::Batch, protocol::FromRunner, voice::Voice};
use crate::domain::{
    Isolation, Place, RecordError, Stage,
    isolation::{Blamed, LeftOut},
};

/// What a reader keeps in mind in isolation.
#[derive(Debug)]
pub(super) struct Isolated {
    attempt: Arc<Attempt>,
    isolation: Isolation,
    voice: Voice,
    /// Which input is being read.
    object: u32,
    /// Records that have come through since the last one that was left out.
    passed: u64,
}

/// What a batch falls into, in input order.
#[derive(Debug)]
pub(super) enum Piece {
    /// To be run.
    Run(Batch),
    /// Left out.
    Lost(RecordError),
}

impl Isolated {
    pub(super) fn new(attempt: Arc<Attempt>, isolation: Isolation, voice: Voice) -> Self {
        Self { attempt, isolation, voice, object: 0, passed: 0 }
    }

    /// The next input is about to be read; its error row when it is left out.
    pub(super) fn begin(&mut self, object: u32, source: &Arc<str>) -> Option<RecordError> {
        self.object = object;
        if let Some(left) = self.isolation.left_out(Blamed::Object(object)) {
            self.passed = 0;
            return Some(error_row(left, source.clone(), None, Stage::Decode));
        }
        self.reads_on();
        None
    }

    /// The input is read on.
    pub(super) fn reads_on(&self) {
        self.say(Place::Object(self.object));
    }

    /// This piece is about to go to the workers.
    pub(super) fn enters(&self, piece: &Batch) {
        self.say(Place::Records(self.attempt.span(&piece.provenance)));
    }

    /// It has come back.
    pub(super) fn passes(&mut self, piece: &Batch) {
        self.passed += piece.rows() as u64;
    }

    /// This piece is left out.
    pub(super) fn leaves_out(&mut self) {
        self.passed = 0;
    }

    /// Everything is read, and the part is finished.
    pub(super) fn ends(&self) {
        self.say(Place::Elsewhere);
    }

    fn say(&self, place: Place) {
        self.voice.say(&FromRunner::At { attempt: self.attempt.task.attempt, place, passed: self.passed });
    }

    /// Cuts a batch: what is left out, what is fed alone, and the stretches between.
    pub(super) fn pieces(&self, batch: &Batch) -> Vec<Piece> {
        let ids = self.attempt.ids(&batch.provenance);
        let (mut pieces, mut start) = (Vec::new(), 0);
        let stretch = |from: usize, to: usize| (from < to).then(|| Piece::Run(batch.slice(from, to - from)));
        for (row, id) in ids.iter().enumerate() {
            let left = self.isolation.left_out(Blamed::Record(*id));
            if left.is_none() && !self.isolation.is_single(*id) {
                continue;
            }
            pieces.extend(stretch(start, row));
            start = row + 1;
            pieces.push(match left {
                Some(left) => Piece::Lost(error_row(left, batch.provenance.source(row).clone(), Some(id.position), Stage::Infer)),
                None => Piece::Run(batch.slice(row, 1)),
            });
        }
        pieces.extend(stretch(start, batch.rows()));
        pieces
    }
}

fn error_row(left: &LeftOut, source: Arc<str>, position: Option<u64>, stage: Stage) -> RecordError {
    RecordError { source, position, stage, code: left.code.clone(), detail: left.detail.clone() }
}
