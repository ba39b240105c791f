//! Points in time as the tables keep them: microseconds since the Unix epoch, UTC.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01T00:00:00Z; shown as RFC 3339 in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The present, by this machine's clock. Leases never use it: they expire by the database's clock.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_microsecond())
    }

    /// Reads a time as RFC 3339 writes it, with `Z` or an offset; `None` when the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|time| Self(time.as_microsecond()))
    }

    /// Seconds from `earlier` to `self`, negative when `earlier` is later.
    pub fn seconds_since(self, earlier: Timestamp) -> f64 {
        (self.0 - earlier.0) as f64 / 1e6
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.6}"),
            // Outside jiff's range (year 9999): no clock gives this, a damaged row might.
            Err(_) => write!(f, "{} µs since 1970", self.0),
        }
    }
}

/// A delay after so many failures before this one: `draw`, from 0 to 1, of a span that begins with `first` and doubles up to `most`. Full
/// jitter: <https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/>.
pub fn full_jitter(first: Duration, most: Duration, failures: u32, draw: f64) -> Duration {
    first.saturating_mul(1 << failures.min(10)).min(most).mul_f64(draw)
}

/// Seconds in a span such as `90s`, `30m`, `6h`, `2d`; more than zero.
pub fn parse_span(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let number: u64 = text[..text.len() - 1].parse().ok()?;
    number.checked_mul(factor).filter(|s| (1..=10 * 366 * 86_400).contains(s))
}

/// The same span in its largest whole unit: what [`parse_span`] reads to `seconds`.
pub fn write_span(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm')];
    let (factor, unit) = units.into_iter().find(|(factor, _)| seconds > 0 && seconds.is_multiple_of(*factor)).unwrap_or((1, 's'));
    format!("{}{unit}", seconds / factor)
}
