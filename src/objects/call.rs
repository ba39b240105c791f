//! What the requests of one call of a store know of each other.
//!
//! A call is one thing asked of a store, and may take several requests: object_store sends another when one failed. The call is a
//! task-local value that the store's wrapper sets and its HTTP client finds.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::budget::Budget;
use crate::{
    domain::time::full_jitter,
    telemetry::tally::{Operation, RetryReason, Tally},
};

tokio::task_local! {
    pub(super) static CALL: Arc<Call>;
}

/// The first delay before a request is sent again; doubled each time, up to [`MOST_DELAY`], and drawn at random below that.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MOST_DELAY: Duration = Duration::from_secs(10);

/// Who counts and who pays for what is asked of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) tally: Tally,
    /// None sets no bound beyond that of each request.
    pub(super) budget: Option<Budget>,
}

/// A call of the store that is under way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) account: Account,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Why the last request of this call failed, until another is sent.
    failed: Option<RetryReason>,
    /// Requests that failed one after the other.
    failures: u32,
    /// Whether requests are made only because something failed that is not seen here.
    rest: bool,
}

/// The budget of retries is spent.
#[derive(Debug, thiserror::Error)]
#[error("the last request failed ({reason}), as many others did, and it is not sent again for now")]
pub(super) struct Spent {
    reason: &'static str,
}

impl Call {
    pub(super) fn new(operation: Operation, account: Account) -> Arc<Self> {
        Arc::new(Self { operation, account, state: Mutex::default() })
    }

    /// A call whose head came already: any request that its body makes is one for the rest of an answer that broke off.
    pub(super) fn of_body(operation: Operation, account: Account) -> Arc<Self> {
        let state = State { failed: Some(RetryReason::Interrupted), failures: 1, rest: true };
        Arc::new(Self { operation, account, state: Mutex::new(state) })
    }

    /// A request failed, so that one which follows is a retry.
    pub(super) fn fail(&self, reason: RetryReason) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed = Some(reason);
        state.failures += 1;
    }

    /// A request went well.
    pub(super) fn succeed(&self) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.failures, state.failed) = if state.rest { (1, Some(RetryReason::Interrupted)) } else { (0, None) };
        }
        if let Some(budget) = &self.account.budget {
            budget.give();
        }
    }

    /// A request is about to be sent: waits if it is a retry.
    ///
    /// # Errors
    /// [`Spent`].
    pub(super) async fn pace(&self) -> Result<(), Spent> {
        let (reason, failures) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(reason) = state.failed.take() else { return Ok(()) };
            (reason, state.failures)
        };
        if self.account.budget.as_ref().is_some_and(|budget| !budget.take()) {
            return Err(Spent { reason: reason.name() });
        }
        self.account.tally.retry(self.operation, reason);
        tokio::time::sleep(delay(failures)).await;
        Ok(())
    }
}

fn delay(failures: u32) -> Duration {
    full_jitter(FIRST_DELAY, MOST_DELAY, failures.saturating_sub(1), rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_drawn_from_the_whole_span_below_a_bound_that_doubles() {
        for (failures, most_ms) in [(1, 200), (2, 400), (3, 800), (7, 10_000), (40, 10_000)] {
            let drawn: Vec<u64> = (0..2_000).map(|_| delay(failures).as_millis() as u64).collect();
            assert!(drawn.iter().all(|ms| *ms <= most_ms));
            assert!(drawn.iter().any(|ms| *ms < most_ms / 10) && drawn.iter().any(|ms| *ms > most_ms * 9 / 10));
        }
    }
}
