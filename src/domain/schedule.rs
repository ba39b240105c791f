//! Schedules: which jobs are made at which times, and what became of each fire.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    cron::Cron,
    fault::{Fault, Problem},
    job::JobId,
    template::{self, Known},
    time::Timestamp,
};

/// `sch_` and a UUIDv7: ids sort by time of creation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScheduleId(String);

impl ScheduleId {
    /// A new id.
    pub fn generate() -> Self {
        Self(format!("sch_{}", uuid::Uuid::now_v7().simple()))
    }

    /// Reads an id; `None` when the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sch_")?;
        let plain = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        plain.then(|| Self(text.to_owned()))
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Why a job with `only_new` cannot be planned when its schedule is gone.
    pub fn deleted(&self) -> Problem {
        let detail =
            format!("{self} was deleted, and the record of what its jobs read with it: which objects are new cannot be told any more");
        Problem::new("schedule_deleted", "The schedule of the job was deleted", detail)
    }
}

impl std::fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a fire does while an earlier job of the schedule is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It makes no job.
    #[default]
    Skip,
    /// It waits for the end of that job.
    Queue,
    /// It cancels that job, and makes its own once that one has ended.
    Replace,
}

impl Overlap {
    /// All of them, by the words that requests and tables use.
    pub const WORDS: [(&'static str, Self); 3] = [("skip", Self::Skip), ("queue", Self::Queue), ("replace", Self::Replace)];
}

/// What becomes of fires that nobody was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are skipped.
    None,
    /// The last of them is made up for.
    #[default]
    Last,
    /// All of them are, [`MOST_CAUGHT_UP`] at most.
    All,
}

impl CatchUp {
    /// All of them, by the words that requests and tables use.
    pub const WORDS: [(&'static str, Self); 3] = [("none", Self::None), ("last", Self::Last), ("all", Self::All)];
}

/// Fires that are made up for at once, at most: the latest.
pub const MOST_CAUGHT_UP: usize = 1000;
/// A fire that is no later than this was not missed: a service that restarts makes up for it under any policy. Microseconds.
pub const GRACE_US: i64 = 60_000_000;

/// A time zone by its IANA name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(TimeZone);

impl Zone {
    /// Looks a zone up in the machine's database of them, or else in the one that the program brings along; `None` when neither knows it.
    pub fn parse(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().filter(|zone| zone.iana_name().is_some()).map(Self)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// A time as its clocks show it; `None` outside of the years that a calendar has.
    pub fn wall(&self, time: Timestamp) -> Option<jiff::ZonedDateTime> {
        Some(jiff::Timestamp::from_microsecond(time.0).ok()?.to_zoned_datetime(self.0.clone()))
    }
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name).ok_or_else(|| format!("{name:?} is no time zone"))
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name().to_owned()
    }
}

/// A job definition with placeholders, as it was given. It may hold a webhook's secret: it is never shown whole.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(pub Value);

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Template(…)")
    }
}

/// A schedule's definition, validated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// For people, and for `{{ schedule }}`.
    pub name: String,
    /// When it fires.
    pub cron: Cron,
    /// In whose time.
    pub time_zone: Zone,
    /// What each fire makes.
    pub job: Template,
    /// What a fire does while an earlier job is not over.
    pub overlap: Overlap,
    /// What becomes of fires that were missed.
    pub catch_up: CatchUp,
    /// Whether a job reads only objects that no earlier one of the schedule covered.
    pub only_new: bool,
    /// What each job waits for, with placeholders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for: Option<Value>,
    /// No fire is later than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<Timestamp>,
}

/// What is due of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// Fires that are to make jobs, oldest first.
    pub fires: Vec<Timestamp>,
    /// The first and the last of those that were missed and are not made up for.
    pub missed: Option<(Timestamp, Timestamp)>,
    /// The first fire after these; `None` when there is none.
    pub next: Option<Timestamp>,
}

impl ScheduleSpec {
    /// The first fire later than `after`, unless the schedule has ended by then.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let next = self.cron.next(after, &self.time_zone.0)?;
        (self.end_at.is_none_or(|end| next <= end)).then_some(next)
    }

    /// Fires from `from`, which is one, to `now`, by the catch-up policy.
    pub fn due(&self, from: Timestamp, now: Timestamp) -> Due {
        let until = self.end_at.map_or(now, |end| now.min(end));
        let (all, cut) = self.cron.latest(from, until, MOST_CAUGHT_UP, &self.time_zone.0);
        let in_time = all.partition_point(|fire| fire.0 < now.0 - GRACE_US);
        let kept = match self.catch_up {
            CatchUp::All => 0,
            CatchUp::Last => in_time.min(all.len().saturating_sub(1)),
            CatchUp::None => in_time,
        };
        let last_missed =
            if kept > 0 { Some(all[kept - 1]) } else { cut.then(|| all.first().map_or(from, |first| Timestamp(first.0 - 1))) };
        Due { missed: last_missed.map(|last| (from, last)), fires: all[kept..].to_vec(), next: self.next(now) }
    }

    /// The definition of the job of one fire, without placeholders, and what is wrong with those, by its place in that definition.
    pub fn definition(&self, fire: Timestamp, parents: &[(JobId, super::Uri)]) -> (Value, Vec<Fault>) {
        let mut definition = self.job.0.clone();
        if let (Some(wait), Value::Object(fields)) = (&self.wait_for, &mut definition) {
            fields.insert("wait_for".to_owned(), wait.clone());
        }
        let known = Known { fire_time: self.time_zone.wall(fire), schedule: Some(&self.name), parents };
        template::render(&definition, &known)
    }

    /// A fault of the job's definition as one of the schedule's.
    pub fn placed(&self, fault: Fault) -> Fault {
        let own = self.wait_for.is_some() && fault.pointer.starts_with("/wait_for");
        let pointer = if own { fault.pointer } else { format!("/job{}", fault.pointer) };
        Fault { pointer, ..fault }
    }
}

/// A schedule as the store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Which.
    pub id: ScheduleId,
    /// As accepted.
    pub spec: ScheduleSpec,
    /// Its next fire; `None` when there is none any more.
    pub next_at: Option<Timestamp>,
    /// Since when it is paused, if it is.
    pub paused_at: Option<Timestamp>,
    /// Changes with every change of the definition.
    pub revision: u64,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its definition was last changed.
    pub updated_at: Timestamp,
}

impl Schedule {
    /// `active`, `paused`, or `ended` when no fire will come any more.
    pub fn state(&self) -> &'static str {
        match (self.paused_at, self.next_at) {
            (Some(_), _) => "paused",
            (None, Some(_)) => "active",
            (None, None) => "ended",
        }
    }
}

/// A schedule that this version of the program cannot read: it was changed by hand, kept by a later version, or is in a time zone that this
/// machine does not know. It fires nothing here until it can be read; others are not concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokenSchedule {
    /// As its row has it.
    pub id: String,
    /// Its definition as far as it is one; null when it is no JSON.
    pub definition: Template,
    /// What is wrong with it.
    pub why: String,
    /// Since when it is paused, if it is.
    pub paused_at: Option<Timestamp>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its definition was last changed.
    pub updated_at: Timestamp,
}

impl BrokenSchedule {
    /// A text of its definition, such as its name; empty when it has none.
    pub fn text(&self, field: &str) -> &str {
        self.definition.0.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// Why nothing can be done with it.
    pub fn problem(&self) -> Problem {
        let detail = format!(
            "{:?} cannot be read ({}), so that it fires nothing; delete it and make it anew, unless another version of the service kept it",
            self.text("name"),
            self.why
        );
        Problem::new("schedule_broken", "The schedule cannot be read", detail)
    }
}

/// A schedule as it was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    /// As a rule.
    Whole(Box<Schedule>),
    /// It can be shown and deleted.
    Broken(BrokenSchedule),
}

/// Which fire made a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    /// Of which schedule.
    pub schedule: ScheduleId,
    /// At which time.
    pub time: Timestamp,
    /// Whether the job reads only what is new.
    pub only_new: bool,
}

/// Where a fire is on its way to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Its job is not made yet.
    Waiting,
    /// It made a job.
    Started,
    /// It made none, as its schedule says.
    Skipped,
    /// It could not become a job.
    Failed,
}

impl RunState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Started, Self::Skipped, Self::Failed];

    /// As the tables and the API write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Started => "started",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }

    /// Reads what [`RunState::name`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == text)
    }
}

/// A fire, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// When it was due.
    pub fire_time: Timestamp,
    /// Whether a caller asked for it.
    pub manual: bool,
    /// What became of it.
    pub state: RunState,
    /// Its job, once it is made.
    pub job: Option<JobId>,
    /// Why there is none.
    pub problem: Option<Problem>,
    /// How often its job was to be made, and a store or the database did not answer.
    pub attempts: u32,
    /// When that was decided.
    pub settled_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn daily(catch_up: CatchUp) -> ScheduleSpec {
        ScheduleSpec {
            name: "fraud".to_owned(),
            cron: Cron::parse("0 2 * * *").unwrap(),
            time_zone: Zone::parse("UTC").unwrap(),
            job: Template(json!({"input": "s3://lake/{{ fire_time | date(\"%Y-%m-%d\") }}/"})),
            overlap: Overlap::Skip,
            catch_up,
            only_new: false,
            wait_for: Some(json!({"uri": "s3://lake/{{ fire_tim }}/_SUCCESS"})),
            end_at: None,
        }
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn what_was_missed_is_made_up_for_as_the_policy_says() {
        let (from, now) = (at("2026-11-20T02:00:00Z"), at("2026-11-23T09:00:00Z"));
        let day = |day: u8| at(&format!("2026-11-{day}T02:00:00Z"));
        let due = |policy| daily(policy).due(from, now);
        let next = Some(day(24));
        assert_eq!(due(CatchUp::All), Due { fires: vec![day(20), day(21), day(22), day(23)], missed: None, next });
        assert_eq!(due(CatchUp::Last), Due { fires: vec![day(23)], missed: Some((day(20), day(22))), next });
        assert_eq!(due(CatchUp::None), Due { fires: vec![], missed: Some((day(20), day(23))), next });
        for policy in [CatchUp::All, CatchUp::Last, CatchUp::None] {
            let due = daily(policy).due(day(23), at("2026-11-23T02:00:30Z"));
            assert_eq!(due, Due { fires: vec![day(23)], missed: None, next }, "a little late is not missed");
        }
    }

    #[test]
    fn catching_up_is_bounded_and_says_so() {
        let spec = ScheduleSpec { cron: Cron::parse("* * * * * *").unwrap(), ..daily(CatchUp::All) };
        let (from, now) = (at("2026-11-20T02:00:00Z"), at("2026-11-23T09:00:00Z"));
        let due = spec.due(from, now);
        assert_eq!((due.fires.len(), due.fires.last()), (MOST_CAUGHT_UP, Some(&now)));
        assert!(due.missed.is_some_and(|(first, last)| first == from && last < due.fires[0]));
    }

    #[test]
    fn no_fire_is_later_than_the_end() {
        let spec = ScheduleSpec { end_at: Some(at("2026-11-21T12:00:00Z")), ..daily(CatchUp::All) };
        let due = spec.due(at("2026-11-20T02:00:00Z"), at("2026-11-23T09:00:00Z"));
        assert_eq!((due.fires.len(), due.next), (2, None));
        assert_eq!(spec.next(at("2026-11-21T02:00:00Z")), None);
    }

    #[test]
    fn faults_of_the_template_are_placed_in_the_schedule() {
        let spec = daily(CatchUp::All);
        let (definition, faults) = spec.definition(at("2026-11-20T02:00:00Z"), &[]);
        assert_eq!(definition["input"], "s3://lake/2026-11-20/");
        assert_eq!(spec.placed(faults[0].clone()).pointer, "/wait_for/uri");
        assert_eq!(spec.placed(Fault::new("/input", "x", "y")).pointer, "/job/input");
        assert!(!format!("{:?}", daily(CatchUp::All)).contains("lake/{{ fire_time"), "a template may hold a secret");
    }
}
