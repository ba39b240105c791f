//! Cron expressions: which wall times they name, and at which instants those come.
//!
//! Five fields (minute, hour, day of month, month, day of week) as Paul Vixie's cron reads them, or six with seconds first. A field is
//! `*`, a number, a name, a range, a list of these, each range with a step if wanted. When days of the month and days of the week are both
//! restricted, a day that meets either counts; a field that begins with `*` restricts nothing.
//!
//! Daylight saving: an expression whose hours begin with `*` follows real time, so that it fires in every hour that passes, those that a
//! clock shows twice included, and never for a wall time that is left out. One that names hours follows the wall clock: of a time that
//! comes twice the first counts, and times that are left out come once, at the first instant after the gap.

use jiff::{civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// How far ahead a fire is looked for: a 29th of February may be eight years away, as from 2096.
const HORIZON_SECONDS: i64 = 9 * 366 * 86_400;

/// A cron expression, read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cron {
    text: String,
    /// Bit n stands for the number n; so in every field.
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// The field begins with `*`.
    any_hour: bool,
    any_day: bool,
    any_weekday: bool,
}

/// Why a text is no cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    /// What is wrong with it.
    pub detail: String,
    /// What to write instead.
    pub hint: String,
}

/// One of the fields.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    /// Names of the numbers from `first` on.
    names: &'static [&'static str],
}

const SECOND: Field = Field { name: "second", first: 0, last: 59, names: &[] };
const MINUTE: Field = Field { name: "minute", first: 0, last: 59, names: &[] };
const HOUR: Field = Field { name: "hour", first: 0, last: 23, names: &[] };
const DAY: Field = Field { name: "day of month", first: 1, last: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    first: 1,
    last: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
/// 7 is Sunday as well.
const WEEKDAY: Field = Field { name: "day of week", first: 0, last: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    /// Says which field is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (seconds, words) = match words.len() {
            5 => ("0", &words[..]),
            6 => (words[0], &words[1..]),
            count => {
                return Err(Error {
                    detail: format!("{text:?} has {count} fields, and five are wanted: minute, hour, day of month, month, day of week"),
                    hint: "write \"0 2 * * *\" for two o'clock each night; a sixth field, put first, is the second".to_owned(),
                });
            }
        };
        let weekdays = WEEKDAY.parse(words[4])?;
        Ok(Self {
            text: text.to_owned(),
            seconds: SECOND.parse(seconds)?,
            minutes: MINUTE.parse(words[0])?,
            hours: HOUR.parse(words[1])?,
            days: DAY.parse(words[2])?,
            months: MONTH.parse(words[3])?,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            any_hour: words[1].starts_with('*'),
            any_day: words[2].starts_with('*'),
            any_weekday: words[4].starts_with('*'),
        })
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first fire later than `after`; `None` when there is none within nine years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut at = after.0.div_euclid(1_000_000) + 1;
        let horizon = at + HORIZON_SECONDS;
        // Between two changes of the offset, wall time and real time go side by side.
        while at <= horizon {
            let now = instant(at)?;
            let offset = i64::from(zone.to_offset(now).seconds());
            let began = zone.preceding(instant(at + 1)?).next().map(|change| change.timestamp().as_second());
            let before = began.and_then(|began| instant(began - 1)).map_or(offset, |t| i64::from(zone.to_offset(t).seconds()));
            let ends = zone.following(now).next().map_or(horizon, |change| change.timestamp().as_second().min(horizon + 1));
            let mut wall = at + offset;
            if let (false, Some(began)) = (self.any_hour, began) {
                let left_out = (began + before)..(began + offset);
                if at == began && !left_out.is_empty() && self.next_wall(left_out.start, left_out.end).is_some() {
                    return Some(Timestamp(at * 1_000_000));
                }
                wall = wall.max(began + before);
            }
            if let Some(found) = self.next_wall(wall, ends + offset) {
                return Some(Timestamp((found - offset) * 1_000_000));
            }
            at = ends.max(at + 1);
        }
        None
    }

    /// The latest fires from `from` on, up to `to`, at most `most` of them and oldest first; whether there are earlier ones. Looks back
    /// from the end, over twice the time at each step, so that a long time without looking costs no more than what came of it.
    pub fn latest(&self, from: Timestamp, to: Timestamp, most: usize, zone: &TimeZone) -> (Vec<Timestamp>, bool) {
        let mut span = 1_000_000_i64.saturating_mul(most as i64);
        loop {
            let start = Timestamp(from.0.max(to.0.saturating_sub(span)));
            let mut fires = std::collections::VecDeque::new();
            let mut cut = false;
            let mut at = Timestamp(start.0 - 1);
            while let Some(fire) = self.next(at, zone).filter(|fire| *fire <= to) {
                fires.push_back(fire);
                if fires.len() > most {
                    fires.pop_front();
                    cut = true;
                }
                at = fire;
            }
            if cut || start == from {
                return (fires.into(), cut);
            }
            if fires.len() == most {
                let earlier = self.next(Timestamp(from.0 - 1), zone).is_some_and(|first| fires.front().is_some_and(|f| first < *f));
                return (fires.into(), earlier);
            }
            span = span.saturating_mul(2);
        }
    }

    /// The first wall time that is named, from `from` on and before `until`; both in seconds since 1970 as the wall clock has them.
    fn next_wall(&self, from: i64, until: i64) -> Option<i64> {
        let mut day = from.div_euclid(86_400);
        let mut second = from.rem_euclid(86_400);
        let mut date = instant(day * 86_400)?.to_zoned_datetime(TimeZone::UTC).date();
        while day * 86_400 < until {
            if self.names_day(date)
                && let Some(found) = self.next_in_day(second)
            {
                let found = day * 86_400 + found;
                return (found < until).then_some(found);
            }
            (day, second, date) = (day + 1, 0, date.tomorrow().ok()?);
        }
        None
    }

    fn names_day(&self, date: Date) -> bool {
        let day = self.days >> date.day() & 1 == 1;
        let weekday = self.weekdays >> date.weekday().to_sunday_zero_offset() & 1 == 1;
        let named = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        self.months >> date.month() & 1 == 1 && named
    }

    /// The first second of a day that is named, from `from` on.
    fn next_in_day(&self, from: i64) -> Option<i64> {
        let (hour, minute, second) = (from / 3600, from / 60 % 60, from % 60);
        let first = |mask: u64| i64::from(mask.trailing_zeros());
        let at_least = |mask: u64, least: i64| if least > 63 { None } else { Some(mask >> least << least).filter(|m| *m != 0).map(first) };
        let found = at_least(self.hours, hour)?;
        if found > hour {
            return Some(found * 3600 + first(self.minutes) * 60 + first(self.seconds));
        }
        match at_least(self.minutes, minute) {
            Some(found) if found > minute => return Some(hour * 3600 + found * 60 + first(self.seconds)),
            Some(_) => {
                if let Some(found) = at_least(self.seconds, second) {
                    return Some(hour * 3600 + minute * 60 + found);
                }
                if let Some(found) = at_least(self.minutes, minute + 1) {
                    return Some(hour * 3600 + found * 60 + first(self.seconds));
                }
            }
            None => {}
        }
        at_least(self.hours, hour + 1).map(|hour| hour * 3600 + first(self.minutes) * 60 + first(self.seconds))
    }
}

fn instant(second: i64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(second).ok()
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, Error> {
        let mut numbers = 0;
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, Some(step)),
                None => (item, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.first, self.last.min(if self.name == WEEKDAY.name { 6 } else { 59 })),
                Some((first, last)) => (self.number(first, text)?, self.number(last, text)?),
                None => {
                    let number = self.number(range, text)?;
                    if step.is_some() {
                        let last = self.last;
                        return Err(self.wrong(text, "a step needs a range", format!("write \"{range}-{last}/…\" or \"*/…\"")));
                    }
                    (number, number)
                }
            };
            if first > last {
                let hint = format!("write two ranges, such as \"{first}-{},{}-{last}\"", self.last, self.first);
                return Err(self.wrong(text, "a range goes upwards", hint));
            }
            let step = match step.map(str::parse::<u32>) {
                None => 1,
                Some(Ok(step)) if (1..=self.last).contains(&step) => step,
                Some(_) => return Err(self.wrong(text, "the step is no number that fits", format!("write 1 to {}", self.last))),
            };
            (first..=last).step_by(step as usize).for_each(|number| numbers |= 1 << number);
        }
        Ok(numbers)
    }

    fn number(&self, word: &str, text: &str) -> Result<u32, Error> {
        if let Some(at) = self.names.iter().position(|name| name.eq_ignore_ascii_case(word)) {
            return Ok(self.first + at as u32);
        }
        let number = word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse::<u32>().ok()).flatten();
        number.filter(|n| (self.first..=self.last).contains(n)).ok_or_else(|| {
            let names = if self.names.is_empty() { String::new() } else { format!(", or {} …", self.names[..2].join(", ")) };
            let hint = format!(
                "write *, a number from {} to {}{names}, a range such as {}-{}, a list, or */2",
                self.first, self.last, self.first, self.last
            );
            self.wrong(text, &format!("{word:?} is none of its values"), hint)
        })
    }

    fn wrong(&self, text: &str, why: &str, hint: String) -> Error {
        Error { detail: format!("the {} {text:?}: {why}", self.name), hint }
    }
}

impl std::fmt::Display for Cron {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Cron {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl From<Cron> for String {
    fn from(cron: Cron) -> Self {
        cron.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    /// The fires after `from`, as the wall clock shows them.
    fn fires(cron: &str, name: &str, from: &str, count: usize) -> Vec<String> {
        let (cron, zone) = (Cron::parse(cron).unwrap(), zone(name));
        let mut after = at(from);
        (0..count)
            .map(|_| {
                after = cron.next(after, &zone).unwrap();
                let wall = jiff::Timestamp::from_microsecond(after.0).unwrap().to_zoned_datetime(zone.clone());
                wall.strftime("%m-%d %H:%M:%S%:z").to_string()
            })
            .collect()
    }

    #[test]
    fn plain_expressions_fire_when_they_say() {
        assert_eq!(fires("30 2 * * *", "UTC", "2026-11-23T02:30:00Z", 2), ["11-24 02:30:00+00:00", "11-25 02:30:00+00:00"]);
        assert_eq!(fires("*/20 9-10 * * mon-fri", "UTC", "2026-11-27T10:20:01Z", 2), ["11-27 10:40:00+00:00", "11-30 09:00:00+00:00"]);
        assert_eq!(fires("0 0 1 jan,JUL *", "UTC", "2026-11-23T00:00:00Z", 2), ["01-01 00:00:00+00:00", "07-01 00:00:00+00:00"]);
        assert_eq!(
            fires("*/30 * * * * *", "UTC", "2026-11-23T23:59:29Z", 3),
            ["11-23 23:59:30+00:00", "11-24 00:00:00+00:00", "11-24 00:00:30+00:00"]
        );
        assert_eq!(fires("0 12 * * 7", "UTC", "2026-11-23T00:00:00Z", 1), ["11-29 12:00:00+00:00"]);
        assert_eq!(fires("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1), ["02-29 00:00:00+00:00"]);
        // A zone that is not whole hours away.
        assert_eq!(fires("0 2 * * *", "Asia/Kolkata", "2026-11-23T00:00:00Z", 1), ["11-24 02:00:00+05:30"]);
    }

    #[test]
    fn with_both_kinds_of_days_restricted_either_counts() {
        assert_eq!(
            fires("0 0 13 * fri", "UTC", "2026-11-08T00:00:00Z", 3),
            ["11-13 00:00:00+00:00", "11-20 00:00:00+00:00", "11-27 00:00:00+00:00"]
        );
        assert_eq!(fires("0 0 1 * fri", "UTC", "2026-11-28T00:00:00Z", 2), ["12-01 00:00:00+00:00", "12-04 00:00:00+00:00"]);
        assert_eq!(fires("0 0 */2 * fri", "UTC", "2026-11-23T00:00:00Z", 1), ["11-27 00:00:00+00:00"], "a star restricts nothing");
    }

    #[test]
    fn in_spring_a_time_that_is_left_out_comes_once_after_the_gap() {
        // 02:00 becomes 03:00, in Berlin on 28 March, in New York on 14 March.
        for (name, day, summer) in [("Europe/Berlin", "03-28", "+02:00"), ("America/New_York", "03-14", "-04:00")] {
            let eve = if name == "Europe/Berlin" { "2027-03-27T03:00:00Z" } else { "2027-03-13T09:00:00Z" };
            let next = fires("30 2 * * *", name, eve, 2);
            assert_eq!(next[0], format!("{day} 03:00:00{summer}"));
            assert!(next[1].ends_with(&format!("02:30:00{summer}")), "{next:?}");
            let several = fires("*/15 2,3 * * *", name, eve, 2);
            assert_eq!(several, [format!("{day} 03:00:00{summer}"), format!("{day} 03:15:00{summer}")], "what falls together is one fire");
        }
    }

    #[test]
    fn in_autumn_a_time_that_comes_twice_fires_at_the_first() {
        // 03:00 becomes 02:00 in Berlin, 02:00 becomes 01:00 in New York.
        assert_eq!(fires("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2), ["10-25 02:30:00+02:00", "10-26 02:30:00+01:00"]);
        assert_eq!(fires("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2), ["11-01 01:30:00-04:00", "11-02 01:30:00-05:00"]);
        assert_eq!(fires("30 2 * * *", "Europe/Berlin", "2026-10-25T01:15:00Z", 1), ["10-26 02:30:00+01:00"], "asked in the second hour");
    }

    #[test]
    fn wildcard_hours_go_on_with_real_time() {
        let spring = fires("30 * * * *", "Europe/Berlin", "2027-03-28T00:00:00Z", 2);
        assert_eq!(spring, ["03-28 01:30:00+01:00", "03-28 03:30:00+02:00"]);
        let autumn = fires("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3);
        assert_eq!(autumn, ["10-25 02:30:00+02:00", "10-25 02:30:00+01:00", "10-25 03:30:00+01:00"]);
        let minutes = fires("* * * * *", "America/New_York", "2026-11-01T05:58:00Z", 3);
        assert_eq!(minutes, ["11-01 01:59:00-04:00", "11-01 01:00:00-05:00", "11-01 01:01:00-05:00"]);
    }

    #[test]
    fn what_is_no_expression_is_said_by_field() {
        for (text, wanted) in [
            ("", "0 fields"),
            ("0 2 * *", "4 fields"),
            ("60 2 * * *", "minute"),
            ("0 24 * * *", "hour"),
            ("0 2 0 * *", "day of month"),
            ("0 2 L * *", "day of month"),
            ("0 2 * 13 *", "month"),
            ("0 2 * * 8", "day of week"),
            ("0 2 * * fri-mon", "upwards"),
            ("0 2/3 * * *", "a step needs a range"),
            ("*/0 2 * * *", "step"),
            ("0 2 * * mon#1", "day of week"),
            ("0, 2 * * *", "minute"),
        ] {
            let error = Cron::parse(text).unwrap_err();
            assert!(error.detail.contains(wanted) && !error.hint.is_empty(), "{text}: {error:?}");
        }
        assert_eq!(Cron::parse("0 0 30 2 *").unwrap().next(at("2026-01-01T00:00:00Z"), &TimeZone::UTC), None);
    }

    #[test]
    fn the_latest_fires_are_found_from_the_end() {
        let cron = Cron::parse("* * * * * *").unwrap();
        let (from, to) = (at("2020-01-01T00:00:00Z"), at("2026-11-23T00:00:00Z"));
        let (fires, cut) = cron.latest(from, to, 5, &TimeZone::UTC);
        assert_eq!((fires.len(), fires[4], cut), (5, to, true));
        let daily = Cron::parse("0 2 * * *").unwrap();
        let (fires, cut) = daily.latest(at("2026-11-20T02:00:00Z"), to, 5, &TimeZone::UTC);
        assert_eq!((fires.len(), fires[0], cut), (3, at("2026-11-20T02:00:00Z"), false));
        assert!(!daily.latest(at("2026-11-18T02:00:00Z"), to, 5, &TimeZone::UTC).1);
        assert!(daily.latest(at("2026-11-17T02:00:00Z"), to, 5, &TimeZone::UTC).1);
        assert!(daily.latest(to, at("2026-11-23T01:00:00Z"), 5, &TimeZone::UTC).0.is_empty());
    }

    fn field(first: u32, last: u32) -> impl Strategy<Value = String> {
        let number = move || first..=last;
        prop_oneof![
            Just("*".to_owned()),
            (1..=last).prop_map(|step| format!("*/{step}")),
            number().prop_map(|n| n.to_string()),
            (number(), number()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Minute by minute over a change of the offset, the fires are those that the definition says, told in another way.
        #[test]
        fn fires_are_those_of_a_clock_that_is_watched(
            minutes in field(0, 59), hours in field(0, 23), weekdays in field(0, 6),
            place in prop::sample::select(vec![
                ("Europe/Berlin", "2027-03-27T20:00:00Z"), ("Europe/Berlin", "2026-10-24T20:00:00Z"),
                ("America/New_York", "2027-03-14T00:00:00Z"), ("America/New_York", "2026-11-01T00:00:00Z"),
                ("Australia/Lord_Howe", "2026-10-03T10:00:00Z"), ("UTC", "2026-11-23T00:00:00Z"),
            ]),
        ) {
            let (cron, zone) = (Cron::parse(&format!("{minutes} {hours} * * {weekdays}")).unwrap(), zone(place.0));
            let start = at(place.1).0 / 60_000_000;
            let wall = |minute: i64| instant(minute * 60).unwrap().to_zoned_datetime(zone.clone()).datetime();
            let named = |wall: jiff::civil::DateTime| {
                cron.names_day(wall.date()) && cron.hours >> wall.hour() & 1 == 1 && cron.minutes >> wall.minute() & 1 == 1
            };
            let mut watched = Vec::new();
            let mut highest = wall(start);
            for minute in start + 1..=start + 48 * 60 {
                let now = wall(minute);
                let fires = if cron.any_hour {
                    named(now)
                } else {
                    // Every wall minute that the clock has not yet passed, those that it jumps over included.
                    let mut fires = false;
                    while highest < now {
                        highest = highest.checked_add(jiff::Span::new().minutes(1)).unwrap();
                        fires |= named(highest);
                    }
                    fires
                };
                if fires {
                    watched.push(minute * 60_000_000);
                }
            }
            let mut found = Vec::new();
            let mut after = Timestamp(start * 60_000_000);
            while let Some(fire) = cron.next(after, &zone).filter(|f| f.0 <= (start + 48 * 60) * 60_000_000) {
                found.push(fire.0);
                after = fire;
            }
            prop_assert_eq!(found, watched);
        }
    }
}
