//! Keeps receivers apart: how many requests one of them may have in flight, and when one that does not answer is left alone.
//!
//! In: how attempts went. Out: how many places are taken at each receiver. Lives in memory: it decides only who goes first.
//!
//! A receiver that answers, be it with an error, is served at once. One that does not answer holds a place for as long as an attempt
//! may last; after some of these in a row it is left alone for a while, then tried with one request, and left alone for twice as long
//! if that is not answered either.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

/// Requests in flight to one receiver.
pub(super) const PER_RECEIVER: u32 = 4;
/// Unanswered attempts in a row after which a receiver is left alone.
const PATIENCE: u32 = 4;
/// How long for, the first time.
const FIRST_REST: Duration = Duration::from_secs(15);
/// How long for, at most.
const LONGEST_REST: Duration = Duration::from_mins(5);
/// A receiver of which nothing was heard for this long is forgotten.
const FORGET: Duration = Duration::from_hours(1);

/// What is known of the receivers that are being called or did not answer.
#[derive(Debug, Default)]
pub(super) struct Receivers(HashMap<String, Receiver>);

#[derive(Debug)]
struct Receiver {
    in_flight: u32,
    /// Attempts in a row that got no answer.
    unanswered: u32,
    /// Left alone until then.
    rests_until: Option<Instant>,
    touched: Instant,
}

impl Receivers {
    /// Places taken at each receiver: all of them where it is left alone, all but one where it is being tried.
    pub(super) fn taken(&self, now: Instant) -> BTreeMap<String, u32> {
        let places = |r: &Receiver| match r.rests_until {
            Some(until) if now < until => PER_RECEIVER,
            Some(_) => PER_RECEIVER - 1 + r.in_flight,
            None => r.in_flight,
        };
        self.0.iter().map(|(name, r)| (name.clone(), places(r))).collect()
    }

    /// An attempt begins.
    pub(super) fn began(&mut self, name: &str, now: Instant) {
        let fresh = || Receiver { in_flight: 0, unanswered: 0, rests_until: None, touched: now };
        let receiver = self.0.entry(name.to_owned()).or_insert_with(fresh);
        receiver.in_flight += 1;
        receiver.touched = now;
    }

    /// An attempt is over.
    pub(super) fn ended(&mut self, name: &str, answered: bool, now: Instant) {
        let Some(receiver) = self.0.get_mut(name) else { return };
        receiver.in_flight = receiver.in_flight.saturating_sub(1);
        receiver.touched = now;
        if answered {
            (receiver.unanswered, receiver.rests_until) = (0, None);
        } else {
            receiver.unanswered = receiver.unanswered.saturating_add(1);
            if receiver.unanswered >= PATIENCE {
                let doublings = (receiver.unanswered - PATIENCE).min(10);
                receiver.rests_until = Some(now + LONGEST_REST.min(FIRST_REST * 2_u32.pow(doublings)));
            }
        }
        self.0.retain(|_, r| r.in_flight > 0 || r.unanswered > 0 && now.saturating_duration_since(r.touched) < FORGET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_does_not_answer_is_left_alone_then_tried_with_one_request() {
        let (mut receivers, start) = (Receivers::default(), Instant::now());
        let attempt = |receivers: &mut Receivers, answered, now| {
            receivers.began("a:443", now);
            receivers.ended("a:443", answered, now);
        };
        for _ in 0..PATIENCE {
            assert_eq!(receivers.taken(start).get("a:443").copied().unwrap_or_default(), 0);
            attempt(&mut receivers, false, start);
        }
        assert_eq!(receivers.taken(start)["a:443"], PER_RECEIVER, "left alone");
        let later = start + FIRST_REST;
        assert_eq!(receivers.taken(later)["a:443"], PER_RECEIVER - 1, "one place, to try it");
        receivers.began("a:443", later);
        assert_eq!(receivers.taken(later)["a:443"], PER_RECEIVER, "and no other beside it");
        receivers.ended("a:443", false, later);
        assert_eq!(receivers.taken(later + FIRST_REST)["a:443"], PER_RECEIVER, "twice as long");
        attempt(&mut receivers, true, later + FIRST_REST * 2);
        assert!(receivers.taken(later + FIRST_REST * 2).is_empty(), "an answer, and all is forgotten");
        for _ in 0..40 {
            attempt(&mut receivers, false, later);
        }
        assert_eq!(receivers.taken(later + LONGEST_REST)["a:443"], PER_RECEIVER - 1, "never longer than that");
    }

    #[test]
    fn receivers_have_places_of_their_own_and_are_forgotten_in_time() {
        let (mut receivers, start) = (Receivers::default(), Instant::now());
        for _ in 0..3 {
            receivers.began("a:443", start);
        }
        receivers.began("b:443", start);
        assert_eq!(receivers.taken(start), BTreeMap::from([("a:443".to_owned(), 3), ("b:443".to_owned(), 1)]));
        receivers.ended("b:443", false, start);
        receivers.ended("a:443", true, start + FORGET);
        assert_eq!(receivers.taken(start + FORGET), BTreeMap::from([("a:443".to_owned(), 2)]));
    }
}
