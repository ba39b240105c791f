//! How many requests a bucket gets at once.
//!
//! A store that asks to slow down gets half as many, and one more for every round of answers that went well: additive increase,
//! multiplicative decrease, as TCP does it (RFC 5681). Nothing has to be known of the store, and all who use a bucket in this process
//! share what it bears.
//!
//! A request counts from its first byte to the head of its answer. Bodies do not: a decoder may need a second object before it can
//! read on in the first, and with one request at a time it would wait for ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The controller alone: plain arithmetic, without time or waiting.
#[derive(Debug, Clone)]
struct Window {
    size: f64,
    most: f64,
    /// Times that it was halved.
    halvings: u64,
}

impl Window {
    fn new(most: usize) -> Self {
        let most = most.max(1) as f64;
        Self { size: most, most, halvings: 0 }
    }

    /// Requests allowed at once, 1 at least.
    fn allowed(&self) -> usize {
        self.size as usize
    }

    /// A request went well while `busy` were under way, itself among them. A window that is not used is no reason for a larger one.
    fn good(&mut self, busy: usize) {
        if busy * 2 >= self.allowed() {
            self.size = (self.size + 1.0 / self.size).min(self.most);
        }
    }

    /// A request was throttled that was sent after `halvings`. One that was on its way when the window was last halved says nothing of
    /// the new size: else one burst would close it altogether.
    fn throttled(&mut self, halvings: u64) -> bool {
        let news = halvings == self.halvings;
        if news {
            self.size = (self.size / 2.0).max(1.0);
            self.halvings += 1;
        }
        news
    }
}

/// Lets requests through, no more at once than the window allows, in the order in which they came.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    window: Window,
    /// Permits there are, free and taken. Above what is allowed while requests are under way that were let through before.
    issued: usize,
}

impl Gate {
    /// Open for this many.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let window = Window::new(most);
        let issued = window.allowed();
        Arc::new(Self { permits: Arc::new(Semaphore::new(issued)), state: Mutex::new(State { window, issued }) })
    }

    /// Waits for a place.
    pub(super) async fn enter(self: &Arc<Self>) -> Pass {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let halvings = self.state().window.halvings;
        Pass { gate: self.clone(), permit, halvings }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain numbers: a panic elsewhere leaves them usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place. Dropped, it is free again, and nothing is learnt.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    permit: OwnedSemaphorePermit,
    halvings: u64,
}

impl Pass {
    /// The store did as it was asked, or said why not.
    pub(super) fn answered(self) {
        let gate = self.gate.clone();
        let mut state = gate.state();
        let busy = state.issued.saturating_sub(gate.permits.available_permits());
        state.window.good(busy);
        self.settle(&mut state);
    }

    /// The store asked for patience; whether the window was halved for it.
    pub(super) fn throttled(self) -> bool {
        let gate = self.gate.clone();
        let mut state = gate.state();
        let halved = state.window.throttled(self.halvings);
        self.settle(&mut state);
        halved
    }

    /// Gives the place back, or takes it away where there are too many.
    fn settle(self, state: &mut State) {
        let allowed = state.window.allowed();
        if state.issued < allowed {
            self.gate.permits.add_permits(allowed - state.issued);
            state.issued = allowed;
        } else if state.issued > allowed {
            self.permit.forget();
            state.issued -= 1;
            state.issued -= self.gate.permits.forget_permits(state.issued - allowed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_window_stays_between_one_and_its_most_whatever_is_answered(most in 1usize..300, answers in prop::collection::vec(any::<(bool, u16)>(), 0..400)) {
            let mut window = Window::new(most);
            for (throttled, busy) in answers {
                let before = window.clone();
                if throttled {
                    prop_assert!(window.throttled(before.halvings));
                    prop_assert!(window.size == (before.size / 2.0).max(1.0));
                } else {
                    window.good(usize::from(busy));
                    prop_assert!(window.size >= before.size && window.size <= before.size + 1.0);
                }
                prop_assert!((1..=most).contains(&window.allowed()));
            }
        }

        #[test]
        fn a_burst_of_throttled_requests_halves_a_window_once(most in 2usize..300, burst in 1usize..300) {
            let mut window = Window::new(most);
            let sent = window.halvings;
            let halved = (0..burst).filter(|_| window.throttled(sent)).count();
            prop_assert_eq!(halved, 1);
            prop_assert_eq!(window.allowed(), (most / 2).max(1));
        }

        #[test]
        fn a_window_grows_by_about_one_a_round_and_back_to_its_most(most in 1usize..100) {
            let mut window = Window::new(most);
            while window.allowed() > 1 {
                window.throttled(window.halvings);
            }
            let mut rounds = 0;
            while window.allowed() < most {
                let before = window.allowed();
                (0..before).for_each(|_| window.good(before));
                prop_assert!(window.allowed() <= before + 1);
                rounds += 1;
                prop_assert!(rounds < 2 * most + 2, "{window:?}");
            }
        }

        #[test]
        fn a_window_that_is_not_used_does_not_grow(most in 8usize..300) {
            let mut window = Window::new(most);
            window.throttled(0);
            let before = window.allowed();
            (0..10_000).for_each(|_| window.good(1));
            prop_assert_eq!(window.allowed(), before);
        }
    }

    #[tokio::test]
    async fn no_more_requests_pass_than_the_window_allows_and_none_is_lost() {
        let gate = Gate::new(8);
        let first: Vec<Pass> = futures::future::join_all((0..8).map(|_| gate.enter())).await;
        assert!(futures::FutureExt::now_or_never(gate.enter()).is_none(), "eight are under way");
        let halved = first.into_iter().map(Pass::throttled).filter(|halved| *halved).count();
        assert_eq!((halved, gate.permits.available_permits(), gate.state().issued), (1, 4, 4));

        // A caller that goes away gives its place back.
        let gone = gate.enter().await;
        drop(gone);
        assert_eq!(gate.permits.available_permits(), 4);

        for _ in 0..200 {
            let passes: Vec<Pass> = futures::future::join_all((0..4).map(|_| gate.enter())).await;
            passes.into_iter().for_each(Pass::answered);
        }
        assert_eq!((gate.permits.available_permits(), gate.state().issued), (8, 8));
    }
}
