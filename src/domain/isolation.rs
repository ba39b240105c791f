//! How the records that end a runner are found: what is known of a chunk so far, and what follows from the next loss.
//!
//! A chunk in isolation has a runner to itself, in which one thing happens at a time, announced before it begins: so a loss has a place.
//! A batch that was lost is fed record by record from then on, which gets through, or names a record; that record is left out and becomes
//! an error row. The chunk stays one chunk with one part, whatever is left out of it.
//!
//! The idea a reader could not guess: a kill comes from outside (the kernel short of memory, a person), and may meet any record. What a kill
//! names is therefore only suspected, and left out when several in a row name it. A fault of the process itself is certain.

use serde::{Deserialize, Serialize};

use super::fault::Problem;

/// A chunk that lost its runner this often, together with others, gets one to itself.
const LOST_TOGETHER: u32 = 2;
/// Records in a row, none good between them, that each end the runner alone: it is the model then, or the runtime, and no record.
const MOST_IN_A_ROW: u32 = 8;
/// The same for records whose inference does not end: each costs the whole of its deadline.
const MOST_ENDLESS_IN_A_ROW: u32 = 2;
/// So many kills in a row that meet the same record or object are its doing: whoever kills from outside, however often, does not wait for it.
const KILLS_TO_BLAME: u32 = 5;
/// Losses in isolation, in all: each costs the chunk's time up to there.
const MOST_LOSSES: u32 = 64;
/// Losses at no record and no object: while the model loads, or at the chunk's end.
const MOST_ELSEWHERE: u32 = 5;
/// The same where the last one was a kill: as long as it may be chance.
const MOST_KILLED_ELSEWHERE: u32 = 16;

/// A record of a chunk. Their order is the order in which they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordId {
    /// Which of the chunk's inputs it lies in.
    pub object: u32,
    /// As `_position` shows it.
    pub position: u64,
}

/// Records from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first.
    pub first: RecordId,
    /// The last.
    pub last: RecordId,
}

impl Span {
    /// Whether a record is one of these.
    pub fn contains(&self, record: RecordId) -> bool {
        (self.first..=self.last).contains(&record)
    }
}

/// What an attempt was at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Neither a record nor an object: the model loads, or the part is finished. Or it is not known.
    Elsewhere,
    /// One of the chunk's inputs is read and decoded.
    Object(u32),
    /// These records are featurized, in the runtime, interpreted or encoded.
    Records(Span),
}

/// How a runner, or its batch, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process ended by its own doing: an abort, a fault, an exit.
    Fault,
    /// It was ended from outside, or stopped answering.
    Kill,
    /// A batch was not done at its deadline.
    Timeout,
}

/// Why an attempt was lost: its runner died under it, or its batch did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// How.
    pub end: End,
    /// What it was at.
    pub place: Place,
    /// Records that had come through since the last one that was left out.
    pub passed: u64,
    /// What happened, as the job would say it.
    pub problem: Problem,
}

/// What is left out of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blamed {
    /// All of one of its inputs.
    Object(u32),
    /// A record.
    Record(RecordId),
}

/// What is left out, and why: an error row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// What.
    pub what: Blamed,
    /// `runner_crash` or `inference_timeout`.
    pub code: String,
    /// What happened.
    pub detail: String,
}

/// What kills in a row have met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    what: Blamed,
    kills: u32,
}

/// What is known of a chunk in isolation; the database keeps it, so that any node goes on where another was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// Records that are fed one by one: a batch of them was lost.
    pub singly: Vec<Span>,
    /// What is left out.
    pub left_out: Vec<LeftOut>,
    /// What the last kills met.
    suspect: Option<Suspect>,
    /// Losses in isolation.
    losses: u32,
    /// Those of them at no record and no object.
    elsewhere: u32,
    /// Batches that were not done at their deadline.
    slow_batches: u32,
    /// What was left out last, with nothing good between.
    in_a_row: u32,
}

impl Isolation {
    /// What the next attempt at a chunk does after a loss, given how often its runner died before and what was known of it; `None` when
    /// it runs among others as ever.
    ///
    /// # Errors
    /// Why there is no next attempt.
    pub fn next(crashes: u32, known: Option<&Self>, loss: &Loss) -> Result<Option<Self>, Problem> {
        match (known, loss.end) {
            (Some(known), _) => known.clone().after(loss).map(Some),
            // Its own batch did not end, whoever else was there.
            (None, End::Timeout) => Self::default().after(loss).map(Some),
            (None, End::Fault | End::Kill) => Ok((crashes + 1 >= LOST_TOGETHER).then(Self::default)),
        }
    }

    fn after(mut self, loss: &Loss) -> Result<Self, Problem> {
        self.losses += 1;
        if self.losses >= MOST_LOSSES {
            let why = format!("this chunk, alone in its runner, has now lost it {MOST_LOSSES} times");
            return Err(because(&loss.problem, &why));
        }
        let blamed = match loss.place {
            Place::Elsewhere => return self.after_loss_elsewhere(loss),
            Place::Records(span) if span.first != span.last => return self.after_lost_batch(span, loss),
            Place::Records(span) => Blamed::Record(span.first),
            Place::Object(object) => Blamed::Object(object),
        };
        if loss.end == End::Kill {
            let kills = self.suspect.filter(|suspect| suspect.what == blamed).map_or(1, |suspect| suspect.kills + 1);
            if kills < KILLS_TO_BLAME {
                self.suspect = Some(Suspect { what: blamed, kills });
                return Ok(self);
            }
        }
        self.suspect = None;
        self.in_a_row = if loss.passed == 0 { self.in_a_row + 1 } else { 1 };
        let (most, code) = match loss.end {
            End::Timeout => (MOST_ENDLESS_IN_A_ROW, "inference_timeout"),
            End::Fault | End::Kill => (MOST_IN_A_ROW, "runner_crash"),
        };
        if self.in_a_row >= most {
            let why = format!(
                "so it went with {most} in a row, each alone in a runner, and none good between them: it is the model or the runtime, \
                 not the records"
            );
            return Err(because(&loss.problem, &why));
        }
        let at = match blamed {
            Blamed::Object(_) => "while it read this object",
            Blamed::Record(_) => "with this record alone",
        };
        self.left_out.push(LeftOut { what: blamed, code: code.to_owned(), detail: format!("{}, {at}", loss.problem.detail) });
        Ok(self)
    }

    fn after_loss_elsewhere(mut self, loss: &Loss) -> Result<Self, Problem> {
        self.suspect = None;
        self.elsewhere += 1;
        let most = if loss.end == End::Kill { MOST_KILLED_ELSEWHERE } else { MOST_ELSEWHERE };
        if self.elsewhere >= most {
            let why = format!("so it went {most} times, alone in its runner and at no record: while the model loads, or at the end");
            return Err(because(&loss.problem, &why));
        }
        Ok(self)
    }

    /// A batch that takes too long and has no record that does so alone is slow work, and so will the next ones be.
    fn after_lost_batch(mut self, span: Span, loss: &Loss) -> Result<Self, Problem> {
        self.suspect = None;
        if loss.end == End::Timeout {
            let endless = self.left_out.iter().filter(|left| left.code == "inference_timeout").count();
            if self.slow_batches as usize > endless {
                return Err(loss.problem.clone());
            }
            self.slow_batches += 1;
        }
        self.singly.push(span);
        Ok(self)
    }

    /// Whether a record is fed alone.
    pub fn is_single(&self, record: RecordId) -> bool {
        self.singly.iter().any(|span| span.contains(record))
    }

    /// Why a record or an object is left out, if it is.
    pub fn left_out(&self, what: Blamed) -> Option<&LeftOut> {
        self.left_out.iter().find(|left| left.what == what)
    }
}

fn because(problem: &Problem, why: &str) -> Problem {
    Problem { detail: format!("{}; {why}", problem.detail), ..problem.clone() }
}

#[cfg(test)]
mod tests;
