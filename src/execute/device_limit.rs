//! What a runner may hold of its device's memory, and when one that holds more is replaced.

use std::time::{Duration, Instant};

/// A runner that holds too much sooner than this after another one did is not replaced: models take long to load.
const REPLACE_AGAIN: Duration = Duration::from_secs(600);

/// Where the runner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// No chunk is done yet: what its models need is not known.
    Fresh,
    /// A chunk is done: what it holds next is what it needs.
    Loaded,
    /// That was within the limit.
    Within,
    /// It went beyond after that: it is handed nothing more, and replaced when all attempts have ended.
    Beyond,
    /// Another one would be beyond as well, or nobody knows: it is not looked at any more.
    Never,
}

/// Holds runners, one after the other, against their limit.
#[derive(Debug)]
pub(super) struct DeviceLimit {
    device: u32,
    /// Bytes; `None` where there is no limit.
    limit: Option<u64>,
    standing: Standing,
    /// When a runner was last found beyond it.
    replaced: Option<Instant>,
}

impl DeviceLimit {
    pub(super) fn new(device: u32, limit: Option<u64>) -> Self {
        Self { device, limit, standing: Standing::Fresh, replaced: None }
    }

    /// Another process was started.
    pub(super) fn started(&mut self) {
        self.standing = Standing::Fresh;
    }

    /// A chunk was done in it, so that its models are loaded.
    pub(super) fn done(&mut self) {
        if self.standing == Standing::Fresh {
            self.standing = Standing::Loaded;
        }
    }

    /// Whether the runner is to be handed nothing more.
    pub(super) fn is_beyond(&self) -> bool {
        self.standing == Standing::Beyond
    }

    /// The runner holds so much, as far as the driver tells. Whether that has just put it beyond its limit.
    pub(super) fn weigh(&mut self, held: Option<u64>) -> bool {
        let (device, Some(limit)) = (self.device, self.limit) else { return false };
        let soon = self.replaced.is_some_and(|at| at.elapsed() < REPLACE_AGAIN);
        self.standing = match (self.standing, held) {
            (Standing::Loaded, None) => {
                tracing::warn!(
                    device,
                    "the driver does not tell what the runner holds of its device's memory: the limit is that of its arenas alone"
                );
                Standing::Never
            }
            (Standing::Loaded, Some(held)) if held <= limit => {
                tracing::debug!(device, held, limit, "the runner holds {held} bytes of its device's memory, within what it may");
                Standing::Within
            }
            (Standing::Loaded, Some(held)) => {
                tracing::warn!(
                    device,
                    held,
                    limit,
                    "with what it has loaded, the runner holds {held} bytes of its device's memory, more than the {limit} that it may \
                     (--device-memory-limit), after its first chunk: another one would as well, so it stays"
                );
                Standing::Never
            }
            (Standing::Within, Some(held)) if held > limit && soon => {
                tracing::warn!(
                    device,
                    held,
                    limit,
                    "the runner holds {held} bytes of its device's memory, more than the {limit} that it may (--device-memory-limit), soon \
                     after another one did: it stays, as its models need that much"
                );
                Standing::Never
            }
            (Standing::Within, Some(held)) if held > limit => {
                tracing::warn!(
                    device,
                    held,
                    limit,
                    "the runner holds {held} bytes of its device's memory, more than the {limit} that it may (--device-memory-limit): \
                     it is replaced when the chunks in flight are done"
                );
                self.replaced = Some(Instant::now());
                self.standing = Standing::Beyond;
                return true;
            }
            (standing, _) => standing,
        };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_is_replaced_for_what_it_came_to_hold_and_not_for_what_it_needs_nor_again_at_once() {
        let mut limit = DeviceLimit::new(0, Some(100));
        assert!(!limit.weigh(Some(500)), "nothing is known of it yet");
        limit.done();
        assert!(!limit.weigh(Some(90)) && !limit.is_beyond());
        assert!(limit.weigh(Some(101)) && limit.is_beyond());
        assert!(!limit.weigh(Some(101)), "said once");
        limit.started();
        limit.done();
        assert!(!limit.is_beyond() && !limit.weigh(Some(90)) && !limit.weigh(Some(101)) && !limit.is_beyond(), "soon after the other");
        for held in [Some(101), None] {
            let mut limit = DeviceLimit::new(0, Some(100));
            limit.done();
            assert!(!limit.weigh(held) && !limit.weigh(Some(102)) && !limit.is_beyond(), "{held:?}");
        }
    }
}
