//! Arrow's dates, times and spans → ISO 8601 text, appended to a byte buffer.
//!
//! Every value that the types can hold has a text, also far outside the years of RFC 3339: years beyond 0 to 9999 are written with a
//! sign and six digits or more, as ECMAScript does. Fractions of a second have 0, 3, 6 or 9 digits, as few as the value allows.

use arrow::datatypes::TimeUnit;

use super::text::integer;

const SECONDS_A_DAY: i64 = 86_400;

/// Ticks of `unit` in a second.
fn ticks(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Appends `2026-11-23`; `days` since 1970-01-01 in the proleptic Gregorian calendar, at most 1.1e14 (a timestamp in seconds).
///
/// Howard Hinnant's `civil_from_days` ("chrono-Compatible Low-Level Date Algorithms"): eras of 400 years that begin in March.
pub(super) fn date(days: i64, out: &mut Vec<u8>) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if (0..=9999).contains(&year) {
        padded(year.unsigned_abs(), 4, out);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        padded(year.unsigned_abs(), 6, out);
    }
    out.push(b'-');
    padded(month.unsigned_abs(), 2, out);
    out.push(b'-');
    padded(day.unsigned_abs(), 2, out);
}

/// Appends the day of `milliseconds` since 1970-01-01: the type is a date, whatever fraction of a day it holds.
pub(super) fn date_of_milliseconds(milliseconds: i64, out: &mut Vec<u8>) {
    date(milliseconds.div_euclid(SECONDS_A_DAY * 1_000), out);
}

/// Appends `09:30:00.250`. Values outside one day, which only a broken writer makes, have a sign or hours past 23.
pub(super) fn time(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let (value, ticks) = (value.unsigned_abs(), ticks(unit).unsigned_abs());
    let seconds = value / ticks;
    padded(seconds / 3_600, 2, out);
    out.push(b':');
    padded(seconds / 60 % 60, 2, out);
    out.push(b':');
    padded(seconds % 60, 2, out);
    fraction(value % ticks * (1_000_000_000 / ticks), out);
}

/// Appends `2026-11-23T09:30:00.250`, the local time of a timestamp without a zone.
pub(super) fn local(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    let a_day = SECONDS_A_DAY * ticks(unit);
    date(value.div_euclid(a_day), out);
    out.push(b'T');
    time(value.rem_euclid(a_day), unit, out);
}

/// Appends `2026-11-23T09:30:00.250Z`: a timestamp with a zone is a point in time, and all zones are written as UTC.
pub(super) fn instant(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    local(value, unit, out);
    out.push(b'Z');
}

/// Appends `PT90.500S` or `-PT1S`: a span of time in seconds, since a day has no fixed number of hours.
pub(super) fn duration(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(b"PT");
    let (value, ticks) = (value.unsigned_abs(), ticks(unit).unsigned_abs());
    integer(value / ticks, out);
    fraction(value % ticks * (1_000_000_000 / ticks), out);
    out.push(b'S');
}

/// Appends `P14M3DT1.500S`, each part with its own sign and only where it is not zero; `PT0S` for nothing at all.
pub(super) fn interval(months: i64, days: i64, nanoseconds: i64, out: &mut Vec<u8>) {
    out.push(b'P');
    for (value, letter) in [(months, b'M'), (days, b'D')] {
        if value != 0 {
            integer(value, out);
            out.push(letter);
        }
    }
    if nanoseconds != 0 || (months == 0 && days == 0) {
        out.push(b'T');
        if nanoseconds < 0 {
            out.push(b'-');
        }
        integer(nanoseconds.unsigned_abs() / 1_000_000_000, out);
        fraction(nanoseconds.unsigned_abs() % 1_000_000_000, out);
        out.push(b'S');
    }
}

fn fraction(nanoseconds: u64, out: &mut Vec<u8>) {
    let (value, digits) = match nanoseconds {
        0 => return,
        n if n % 1_000_000 == 0 => (n / 1_000_000, 3),
        n if n % 1_000 == 0 => (n / 1_000, 6),
        n => (n, 9),
    };
    out.push(b'.');
    padded(value, digits, out);
}

fn padded(value: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fractions_are_as_short_as_the_value_allows() {
        let of = |value, unit| written(|out| instant(value, unit, out));
        assert_eq!(of(0, TimeUnit::Nanosecond), "1970-01-01T00:00:00Z");
        assert_eq!(of(-1, TimeUnit::Nanosecond), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(of(1_764_000_000_250, TimeUnit::Millisecond), "2025-11-24T16:00:00.250Z");
        assert_eq!(of(1_764_000_000_250_001, TimeUnit::Microsecond), "2025-11-24T16:00:00.250001Z");
        assert_eq!(written(|out| local(951_782_400, TimeUnit::Second, out)), "2000-02-29T00:00:00");
    }

    #[test]
    fn every_value_of_every_type_has_a_text() {
        for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
            for value in [i64::MIN, -1, 0, 1, i64::MAX] {
                for text in [
                    written(|out| instant(value, unit, out)),
                    written(|out| time(value, unit, out)),
                    written(|out| duration(value, unit, out)),
                ] {
                    assert!(!text.is_empty());
                }
            }
        }
        assert_eq!(written(|out| date(i64::from(i32::MAX), out)), "+5881580-07-11");
        assert_eq!(written(|out| date(-719_529, out)), "-000001-12-31");
        assert_eq!(written(|out| date(2_932_897, out)), "+010000-01-01");
        assert_eq!(written(|out| date_of_milliseconds(-1, out)), "1969-12-31");
        assert_eq!(written(|out| local(i64::MAX, TimeUnit::Second, out)), "+292277026596-12-04T15:30:07");
    }

    #[test]
    fn spans_are_iso_durations() {
        assert_eq!(written(|out| duration(-90_500, TimeUnit::Millisecond, out)), "-PT90.500S");
        assert_eq!(written(|out| duration(0, TimeUnit::Second, out)), "PT0S");
        assert_eq!(written(|out| interval(14, -3, -1_500_000_000, out)), "P14M-3DT-1.500S");
        assert_eq!(written(|out| interval(0, 0, 0, out)), "PT0S");
        assert_eq!(written(|out| interval(-1, 0, 0, out)), "P-1M");
        assert_eq!(written(|out| time(34_200_000_001, TimeUnit::Microsecond, out)), "09:30:00.000001");
    }

    proptest! {
        #[test]
        fn another_calendar_reads_the_same_point_in_time(nanoseconds in any::<i64>(), seconds in -62_167_219_200i64..253_402_300_799) {
            let text = written(|out| instant(nanoseconds, TimeUnit::Nanosecond, out));
            prop_assert_eq!(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond(), i128::from(nanoseconds));
            let text = written(|out| local(seconds, TimeUnit::Second, out));
            let read = jiff::tz::TimeZone::UTC.to_timestamp(text.parse().unwrap()).unwrap();
            prop_assert_eq!(read.as_second(), seconds);
        }
    }
}
