//! How often one piece of work may ask a store again.
//!
//! Each request has its own few retries, but a thousand requests have a few thousand of them: enough to keep a store down that has just
//! come up. So what works for one job shares a budget: a retry takes from it, a request that went well gives back. While fewer requests
//! fail than succeed it never runs out; in an outage it does within seconds. Then the work ends as one that may be tried again,
//! which happens later, and less often each time.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Retries that a budget begins with, and the most that it holds: the first five or so of all requests that one chunk has under way.
const MOST: u32 = 200;

/// A handle on the budget of one piece of work; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicU32>);

impl Budget {
    /// A full one.
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU32::new(MOST)))
    }

    /// Pays for a retry; false when there is nothing left.
    pub(super) fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// A request went well.
    pub(super) fn give(&self) {
        let _full = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| (left < MOST).then_some(left + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_lasts_while_half_of_the_requests_succeed_and_no_longer() {
        let budget = Budget::new();
        for _ in 0..10 * MOST {
            assert!(budget.take());
            budget.give();
        }
        budget.give();
        assert_eq!((0..2 * MOST).filter(|_| budget.take()).count(), MOST as usize);
        budget.give();
        assert!(budget.take() && !budget.take());
    }
}
