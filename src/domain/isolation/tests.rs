use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const BATCH: u64 = 16;

fn record(position: u64) -> RecordId {
    RecordId { object: 0, position }
}

fn loss(end: End, place: Place, passed: u64) -> Loss {
    Loss { end, place, passed, problem: Problem::new("runner_crash", "The runner process died", "it ended") }
}

/// A chunk of one object, and what in it ends a runner.
#[derive(Debug, Clone, Default)]
struct Input {
    records: u64,
    /// End it alone and in every batch.
    poison: BTreeSet<u64>,
    /// End it together in one batch, and not alone.
    pair: Option<(u64, u64)>,
    end: Option<End>,
}

impl Input {
    fn end(&self) -> End {
        self.end.unwrap_or(End::Fault)
    }

    fn is_lost(&self, batch: &[u64]) -> bool {
        let both = |(a, b)| batch.contains(&a) && batch.contains(&b);
        batch.iter().any(|r| self.poison.contains(r)) || self.pair.is_some_and(both)
    }

    /// One attempt as the runner makes it: the loss that ends it, if one does. `kill` ends it from outside when that batch enters, unless
    /// the last loss was there: a kill that meets one place twice is taken for no chance.
    fn attempt(&self, known: &Isolation, kill: Option<usize>, last: Option<Place>) -> Option<Loss> {
        let (mut passed, mut entered) = (0, 0);
        let all: Vec<u64> = (0..self.records).collect();
        for batch in all.chunks(BATCH as usize) {
            let mut pieces: Vec<Vec<u64>> = Vec::new();
            let mut open = false;
            for at in batch {
                let left_out = known.left_out(Blamed::Record(record(*at))).is_some();
                let alone = left_out || known.is_single(record(*at));
                match pieces.last_mut().filter(|_| open && !alone) {
                    Some(piece) => piece.push(*at),
                    None => pieces.push(vec![*at]),
                }
                open = !alone;
            }
            for piece in pieces {
                if known.left_out(Blamed::Record(record(piece[0]))).is_some() {
                    passed = 0;
                    continue;
                }
                let span = Span { first: record(piece[0]), last: record(piece[piece.len() - 1]) };
                if kill == Some(entered) && last != Some(Place::Records(span)) {
                    return Some(loss(End::Kill, Place::Records(span), passed));
                }
                entered += 1;
                if self.is_lost(&piece) {
                    return Some(loss(self.end(), Place::Records(span), passed));
                }
                passed += piece.len() as u64;
            }
        }
        None
    }

    /// Attempts until one gets through: what is known at last, or why it was given up; and how many were lost.
    fn run(&self, mut kills: impl Iterator<Item = usize>) -> (Result<Isolation, Problem>, u32) {
        let (mut known, mut lost, mut last) = (Isolation::default(), 0, None);
        while let Some(loss) = self.attempt(&known, kills.next(), last) {
            lost += 1;
            last = Some(loss.place);
            known = match Isolation::next(2, Some(&known), &loss) {
                Ok(next) => next.unwrap(),
                Err(problem) => return (Err(problem), lost),
            };
        }
        (Ok(known), lost)
    }
}

fn records_left_out(known: &Isolation) -> BTreeSet<u64> {
    let position = |left: &LeftOut| match left.what {
        Blamed::Record(record) => record.position,
        Blamed::Object(_) => unreachable!("no object is lost here"),
    };
    known.left_out.iter().map(position).collect()
}

proptest! {
    #[test]
    fn exactly_the_records_that_end_a_runner_are_left_out_at_two_losses_each(
        records in 1u64..200,
        poison in prop::collection::btree_set(0u64..200, 0..7),
        pair in prop::option::of((0u64..200, 0u64..200)),
    ) {
        let poison: BTreeSet<u64> = poison.into_iter().filter(|at| *at < records).collect();
        let input = Input { records, poison: poison.clone(), pair: pair.filter(|(a, b)| a != b), end: None };
        let (known, lost) = input.run(std::iter::empty());
        prop_assert_eq!(records_left_out(&known.unwrap()), poison.clone());
        prop_assert!(lost as usize <= 2 * poison.len() + 1, "{lost} losses");
    }

    #[test]
    fn kills_from_outside_make_no_innocent_record_an_error_row(
        records in 1u64..120,
        poison in prop::collection::btree_set(0u64..120, 0..4),
        kills in prop::collection::vec(0usize..60, 0..20),
    ) {
        let poison: BTreeSet<u64> = poison.into_iter().filter(|at| *at < records).collect();
        let input = Input { records, poison: poison.clone(), ..Input::default() };
        let (known, _) = input.run(kills.into_iter());
        prop_assert_eq!(records_left_out(&known.unwrap()), poison);
    }

    #[test]
    fn the_document_is_read_back_as_it_was_written(records in 1u64..100, poison in prop::collection::btree_set(0u64..100, 0..7)) {
        let (known, _) = Input { records, poison, ..Input::default() }.run([3, 1].into_iter());
        let known = known.unwrap();
        prop_assert_eq!(serde_json::from_str::<Isolation>(&serde_json::to_string(&known).unwrap()).unwrap(), known);
    }
}

#[test]
fn a_chunk_is_isolated_after_its_second_loss_among_others_and_none_fails_it() {
    let crash = loss(End::Fault, Place::Elsewhere, 0);
    assert_eq!(Isolation::next(0, None, &crash), Ok(None));
    assert_eq!(Isolation::next(1, None, &crash), Ok(Some(Isolation::default())));
    assert_eq!(Isolation::next(100, None, &crash), Ok(Some(Isolation::default())));
}

#[test]
fn what_kills_met_is_left_out_only_when_many_in_a_row_meet_it() {
    let at = |position| Place::Records(Span { first: record(position), last: record(position) });
    let next = |known: &Isolation, place| Isolation::next(2, Some(known), &loss(End::Kill, place, 3)).unwrap().unwrap();
    for (place, what) in [(at(7), Blamed::Record(record(7))), (Place::Object(0), Blamed::Object(0))] {
        let mut known = Isolation::default();
        for _ in 1..KILLS_TO_BLAME {
            known = next(&known, place);
            assert!(known.left_out.is_empty(), "whoever kills from outside meets anything");
        }
        assert!(next(&known, at(8)).left_out.is_empty(), "another place is another suspicion");
        let known = next(&known, place);
        assert_eq!((known.left_out[0].what, known.left_out[0].code.as_str()), (what, "runner_crash"));
    }
}

#[test]
fn an_object_that_ends_its_reader_is_left_out_as_a_whole() {
    let known = Isolation::next(2, Some(&Isolation::default()), &loss(End::Fault, Place::Object(3), 0)).unwrap().unwrap();
    assert!(known.left_out(Blamed::Object(3)).is_some_and(|left| left.detail.contains("read this object")));
    assert!(known.left_out(Blamed::Object(2)).is_none());
}

#[test]
fn a_model_that_ends_on_every_record_is_given_up_soon() {
    let input = Input { records: 5000, poison: (0..5000).collect(), ..Input::default() };
    let (given_up, lost) = input.run(std::iter::empty());
    assert!(given_up.unwrap_err().detail.contains("8 in a row"));
    assert_eq!(lost, 1 + MOST_IN_A_ROW);
}

#[test]
fn more_losses_than_a_chunk_may_cost_give_it_up() {
    let input = Input { records: 5000, poison: (0..5000).step_by(2).collect(), ..Input::default() };
    let (given_up, lost) = input.run(std::iter::empty());
    assert!(given_up.unwrap_err().detail.contains("64 times"));
    assert_eq!(lost, MOST_LOSSES);
}

#[test]
fn a_runner_that_dies_at_no_record_is_given_up() {
    for (end, most) in [(End::Fault, MOST_ELSEWHERE), (End::Kill, MOST_KILLED_ELSEWHERE)] {
        let mut known = Isolation::default();
        for _ in 1..most {
            known = Isolation::next(2, Some(&known), &loss(end, Place::Elsewhere, 0)).unwrap().unwrap();
        }
        let given_up = Isolation::next(2, Some(&known), &loss(end, Place::Elsewhere, 0)).unwrap_err();
        assert!(given_up.detail.contains("while the model loads"), "{given_up}");
    }
}

#[test]
fn an_endless_record_is_left_out_and_an_endless_model_is_given_up() {
    let endless = |poison: BTreeSet<u64>| Input { records: 100, poison, end: Some(End::Timeout), ..Input::default() };
    let (known, lost) = endless(BTreeSet::from([0, 40])).run(std::iter::empty());
    let known = known.unwrap();
    assert_eq!((records_left_out(&known), lost), (BTreeSet::from([0, 40]), 4));
    assert!(known.left_out.iter().all(|left| left.code == "inference_timeout"));
    let (given_up, lost) = endless((0..100).collect()).run(std::iter::empty());
    assert!(given_up.is_err());
    assert_eq!(lost, 1 + MOST_ENDLESS_IN_A_ROW);
}

#[test]
fn batches_that_are_merely_slow_are_given_up_at_the_second() {
    let batch = |first, last| Place::Records(Span { first: record(first), last: record(last) });
    let known = Isolation::next(0, None, &loss(End::Timeout, batch(0, 15), 0)).unwrap().unwrap();
    assert!(known.is_single(record(15)) && !known.is_single(record(16)));
    assert!(Isolation::next(1, Some(&known), &loss(End::Timeout, batch(16, 31), 16)).is_err());
}
