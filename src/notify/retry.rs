//! When a delivery that failed is tried again.

use std::time::{Duration, SystemTime};

/// Delays before each attempt, counted from the end of the one before: ten attempts over three days (the schedule that Standard
/// Webhooks recommends).
pub(super) const SCHEDULE: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];
/// Delays are longer by up to this share, so that what failed together does not come back together.
const JITTER: f64 = 0.1;
/// A receiver cannot put an attempt off for longer than this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(24);

/// How long to wait before the attempt after `tries` failed ones; `None` when there is none left.
///
/// `wanted`: what the receiver asked for, honoured where it is later than the schedule. `scale` multiplies the schedule.
pub(super) fn delay(tries: u32, wanted: Option<Duration>, scale: f64) -> Option<Duration> {
    let scheduled = SCHEDULE.get(tries as usize)?;
    let factor = scale * (1.0 + JITTER * rand::random::<f64>());
    let scheduled = Duration::try_from_secs_f64(scheduled.as_secs_f64() * factor).unwrap_or(*scheduled);
    Some(scheduled.max(wanted.unwrap_or_default().min(LONGEST_RETRY_AFTER)))
}

/// Reads `Retry-After` (RFC 9110, section 10.2.3): seconds or a date; `None` for anything else.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        // A number too large to hold is larger than what is honoured.
        return Some(value.parse().map_or(LONGEST_RETRY_AFTER, Duration::from_secs));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_attempts_are_spread_over_three_days() {
        let delays: Vec<Duration> = (1..).map_while(|tries| delay(tries, None, 1.0)).collect();
        assert_eq!(delays.len(), 9);
        for (delay, scheduled) in delays.iter().zip(&SCHEDULE[1..]) {
            assert!(*delay >= *scheduled && delay.as_secs_f64() <= scheduled.as_secs_f64() * 1.1, "{delay:?} {scheduled:?}");
        }
        assert_eq!(SCHEDULE.iter().sum::<Duration>(), Duration::from_secs(5 + 35 * 60 + 75 * 3600));
        assert_eq!(delay(10, Some(Duration::from_secs(1)), 1.0), None, "a receiver cannot ask for an eleventh attempt");
    }

    #[test]
    fn a_receiver_can_ask_for_later_and_not_for_sooner_or_never() {
        let hour = Duration::from_secs(3600);
        assert_eq!(delay(1, Some(hour), 1.0), Some(hour));
        assert!(delay(2, Some(Duration::ZERO), 1.0).unwrap() >= SCHEDULE[2]);
        assert_eq!(delay(1, Some(hour * 1000), 1.0), Some(hour * 24));
        assert_eq!(delay(5, None, 0.0), Some(Duration::ZERO));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("99999999999999999999999", now), Some(LONGEST_RETRY_AFTER));
        assert_eq!(retry_after("Sun, 06 Nov 1994 09:49:37 GMT", now), Some(Duration::from_secs(3600)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 07:49:37 GMT", now), Some(Duration::ZERO), "a date that is past");
        for nonsense in ["", "-5", "1.5", "soon", "1h"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense:?}");
        }
    }
}
