//! Schedules and their fires, what they covered, and jobs that wait.

mod load;

use serde_json::json;

use super::*;
use crate::domain::{
    RunState, ScheduleSpec,
    cron::Cron,
    schedule::{CatchUp, Kept, Overlap, Template, Zone},
    spec::WaitSpec,
};

on_both_databases! {
    a_fire_is_opened_once_and_makes_one_job,
    a_renewed_lease_keeps_a_fire_from_others,
    a_fire_whose_schedule_is_gone_makes_no_job,
    a_schedule_that_was_changed_is_not_opened_as_it_was,
    fires_of_a_schedule_are_claimed_in_their_order_one_at_a_time,
    a_fire_during_an_earlier_job_does_what_overlap_says,
    a_fire_that_was_asked_for_and_one_that_came_at_the_same_time_do_not_both_make_a_job,
    a_job_that_is_retried_while_a_fire_is_accepted_counts_for_overlap,
    pausing_skips_the_fires_that_wait_and_leaves_those_that_were_asked_for,
    a_fire_that_is_put_off_keeps_its_problem_and_counts_its_attempts,
    a_schedule_that_cannot_be_read_is_found_as_such_and_others_go_on,
    jobs_that_cannot_tell_what_is_new_any_more_go_with_their_schedule,
    what_was_covered_is_what_was_added_last,
    a_completed_run_is_kept_until_what_it_read_is_in_the_record,
    what_a_run_read_that_was_retried_in_vain_is_taken_back,
    no_run_is_retried_beside_another_that_reads_what_is_new,
    a_job_waits_for_its_object_and_fails_when_that_does_not_come,
    a_job_waits_for_its_parents_and_is_cancelled_when_one_fails,
    a_retried_job_waits_again,
    a_parent_that_completed_and_is_removed_has_completed,
    a_job_that_many_wait_for_is_kept_until_all_are_told,
    a_job_that_waits_for_one_that_is_gone_is_cancelled,
}

fn every_minute(overlap: Overlap) -> ScheduleSpec {
    ScheduleSpec {
        name: "every minute".to_owned(),
        cron: Cron::parse("* * * * *").unwrap(),
        time_zone: Zone::parse("UTC").unwrap(),
        job: Template(json!({})),
        overlap,
        catch_up: CatchUp::All,
        only_new: true,
        wait_for: None,
        end_at: None,
    }
}

impl Bench {
    /// One with a fire a minute. Early in a minute, so that none comes by the time that a test itself takes.
    async fn schedule(&self, overlap: Overlap) -> Schedule {
        let into_minute = self.store.now().await.unwrap().0.rem_euclid(60_000_000);
        if into_minute > 30_000_000 {
            self.advance(Duration::from_micros(61_000_000 - into_minute as u64));
        }
        let spec = every_minute(overlap);
        let next_at = spec.next(self.store.now().await.unwrap());
        self.store.create_schedule(NewSchedule { id: ScheduleId::generate(), spec, next_at, paused: false }).await.unwrap()
    }

    /// The present, and schedules that are due; of those that can be read.
    async fn due_schedules(&self) -> (Timestamp, Vec<Schedule>) {
        let (now, due) = self.store.due_schedules(10).await.unwrap();
        let whole = due.into_iter().filter_map(|kept| match kept {
            Kept::Whole(schedule) => Some(*schedule),
            Kept::Broken(_) => None,
        });
        (now, whole.collect())
    }

    /// Lets so many minutes pass, and opens the fires that they bring.
    async fn minutes(&self, minutes: u64) {
        self.advance(Duration::from_secs(60 * minutes));
        let (now, due) = self.due_schedules().await;
        for schedule in due {
            let due = schedule.spec.due(schedule.next_at.unwrap(), now);
            assert_eq!(self.store.open_runs(&schedule, &due).await.unwrap(), Written::Done);
        }
    }

    async fn claim_run(&self) -> Option<ClaimedRun> {
        self.store.claim_run(TTL).await.unwrap()
    }

    async fn make(&self, claimed: &ClaimedRun) -> JobId {
        self.create(fired(claimed)).await
    }

    async fn run_states(&self, schedule: &Schedule) -> Vec<RunState> {
        let runs = self.store.runs(&schedule.id, None, 100).await.unwrap();
        runs.iter().rev().map(|run| run.state).collect()
    }

    /// Tells all jobs that wait for one that has ended; how many rows that changed.
    async fn settle(&self) -> u64 {
        let mut changed = 0;
        loop {
            match self.store.settle_dependencies().await.unwrap() {
                0 => return changed,
                more => changed += more,
            }
        }
    }

    /// Plans a queued job to nothing and completes it.
    async fn complete(&self) {
        let (lease, _) = self.store.claim_planning("p", TTL).await.unwrap().expect("a job to plan");
        let cursor = PlanCursor { done: true, ..PlanCursor::default() };
        assert_eq!(self.store.append_chunks(&lease, TTL, Vec::new(), &cursor).await.unwrap(), Written::Done);
        self.finalize(Ending::Completed).await;
    }
}

/// The job of a fire.
fn fired(claimed: &ClaimedRun) -> NewJob {
    let time = claimed.run.fire_time;
    let fire = Some(Fire { schedule: claimed.schedule.id.clone(), time, only_new: claimed.schedule.spec.only_new });
    NewJob { fire, ..new_job(&format!("s3://lake/{}/{}/", claimed.schedule.id, time.0)) }
}

async fn a_fire_is_opened_once_and_makes_one_job(b: Bench) {
    let schedule = b.schedule(Overlap::Skip).await;
    b.advance(Duration::from_secs(60));
    let (now, due) = b.due_schedules().await;
    assert_eq!(due, std::slice::from_ref(&schedule));
    let due = schedule.spec.due(schedule.next_at.unwrap(), now);
    assert_eq!(b.store.open_runs(&schedule, &due).await.unwrap(), Written::Done);
    assert_eq!(b.store.open_runs(&schedule, &due).await.unwrap(), Written::Fenced, "whoever comes later changes nothing");
    assert!(b.due_schedules().await.1.is_empty());
    let claimed = b.claim_run().await.unwrap();
    assert!(b.claim_run().await.is_none(), "a live lease is respected");
    b.advance(TTL * 2);
    let again = b.claim_run().await.unwrap();
    assert!(again.lease.epoch > claimed.lease.epoch && again.run == claimed.run);
    // Both are at it, and the first one's answer was lost.
    let job = b.make(&claimed).await;
    for late in [&again, &claimed] {
        match b.store.create_job(fired(late)).await.unwrap() {
            Created::Replay(known) => assert_eq!(known.id, job),
            other => panic!("{other:?}"),
        }
    }
    let unmade = Unmade { state: RunState::Failed, problem: problem() };
    assert_eq!(b.store.settle_run(&again.lease, &unmade).await.unwrap(), Written::Fenced);
    assert_eq!(b.store.delay_run(&again.lease, None, TTL).await.unwrap(), Written::Fenced);
    let runs = b.store.runs(&schedule.id, None, 10).await.unwrap();
    assert_eq!((runs.len(), runs[0].state, &runs[0].job), (1, RunState::Started, &Some(job.clone())));
    let filter = JobFilter { schedule: Some(schedule.id.clone()), limit: 10, ..JobFilter::default() };
    let jobs = b.store.jobs(&filter).await.unwrap();
    assert_eq!((jobs.len(), jobs[0].fire.as_ref().map(|fire| fire.time)), (1, Some(runs[0].fire_time)));
}

async fn a_renewed_lease_keeps_a_fire_from_others(b: Bench) {
    b.schedule(Overlap::Skip).await;
    b.minutes(1).await;
    let claimed = b.claim_run().await.unwrap();
    for _ in 0..5 {
        b.advance(TTL / 2);
        assert_eq!(b.store.renew_run(&claimed.lease, TTL).await.unwrap(), Written::Done);
        assert!(b.claim_run().await.is_none());
    }
    b.advance(TTL * 2);
    let other = b.claim_run().await.unwrap();
    assert_eq!(b.store.renew_run(&claimed.lease, TTL).await.unwrap(), Written::Fenced, "it is another's");
    assert_eq!(b.store.delay_run(&other.lease, None, Duration::ZERO).await.unwrap(), Written::Done);
    assert_eq!(b.store.renew_run(&other.lease, TTL).await.unwrap(), Written::Fenced, "what was given back is not renewed");
    let last = b.claim_run().await.unwrap();
    b.make(&last).await;
    assert_eq!(b.store.renew_run(&last.lease, TTL).await.unwrap(), Written::Fenced, "it has its job");
}

async fn a_fire_whose_schedule_is_gone_makes_no_job(b: Bench) {
    let schedule = b.schedule(Overlap::Skip).await;
    b.minutes(1).await;
    let claimed = b.claim_run().await.unwrap();
    assert!(b.store.delete_schedule(&schedule.id).await.unwrap());
    assert!(!b.store.delete_schedule(&schedule.id).await.unwrap());
    assert!(matches!(b.store.create_job(fired(&claimed)).await.unwrap(), Created::Settled));
    assert!(b.store.schedule(&schedule.id).await.unwrap().is_none());
    assert!(b.store.run_now(&schedule.id).await.unwrap().is_none());
    assert!(b.store.runs(&schedule.id, None, 10).await.unwrap().is_empty());
}

async fn a_schedule_that_was_changed_is_not_opened_as_it_was(b: Bench) {
    let schedule = b.schedule(Overlap::Skip).await;
    let change = ScheduleChange { spec: every_minute(Overlap::Queue), paused: false, next: NextFire::Kept };
    let changed = b.store.change_schedule(&schedule.id, schedule.revision, change.clone()).await.unwrap().unwrap();
    assert_eq!((changed.next_at, changed.spec.overlap), (schedule.next_at, Overlap::Queue));
    assert!(b.store.change_schedule(&schedule.id, schedule.revision, change).await.unwrap().is_none(), "it was changed since");
    let due = schedule.spec.due(schedule.next_at.unwrap(), schedule.next_at.unwrap());
    assert_eq!(b.store.open_runs(&schedule, &due).await.unwrap(), Written::Fenced);
    assert_eq!(b.store.open_runs(&changed, &due).await.unwrap(), Written::Done);
}

async fn fires_of_a_schedule_are_claimed_in_their_order_one_at_a_time(b: Bench) {
    let (one, other) = (b.schedule(Overlap::Queue).await, b.schedule(Overlap::Queue).await);
    b.minutes(3).await;
    let first = b.claim_run().await.unwrap();
    let second = b.claim_run().await.unwrap();
    assert_ne!(first.schedule.id, second.schedule.id, "the next one of a schedule waits for the one before it");
    assert!(b.claim_run().await.is_none());
    let unmade = Unmade { state: RunState::Failed, problem: problem() };
    assert_eq!(b.store.settle_run(&first.lease, &unmade).await.unwrap(), Written::Done);
    let next = b.claim_run().await.unwrap();
    assert_eq!(next.schedule.id, first.schedule.id);
    assert_eq!(next.run.fire_time.0 - first.run.fire_time.0, 60_000_000);
    for schedule in [one, other] {
        assert_eq!(b.run_states(&schedule).await.len(), 3);
    }
}

async fn a_fire_during_an_earlier_job_does_what_overlap_says(b: Bench) {
    let schedule = b.schedule(Overlap::Skip).await;
    b.minutes(1).await;
    b.make(&b.claim_run().await.unwrap()).await;
    b.minutes(1).await;
    assert!(b.claim_run().await.is_none());
    let skipped = &b.store.runs(&schedule.id, None, 1).await.unwrap()[0];
    assert_eq!((skipped.state, skipped.problem.as_ref().unwrap().code.as_str()), (RunState::Skipped, "overlap"));
    b.complete().await;

    let queue = ScheduleChange { spec: every_minute(Overlap::Queue), paused: false, next: NextFire::Kept };
    let schedule = b.store.change_schedule(&schedule.id, schedule.revision, queue).await.unwrap().unwrap();
    b.minutes(2).await;
    b.make(&b.claim_run().await.unwrap()).await;
    assert!(b.claim_run().await.is_none(), "it waits");
    b.complete().await;
    let third = b.make(&b.claim_run().await.unwrap()).await;

    let replace = ScheduleChange { spec: every_minute(Overlap::Replace), paused: false, next: NextFire::Kept };
    b.store.change_schedule(&schedule.id, schedule.revision, replace).await.unwrap().unwrap();
    b.minutes(1).await;
    assert!(b.claim_run().await.is_none(), "it waits for the end of the job that it cancelled");
    assert_eq!(b.state(&third).await, JobState::Cancelling);
    b.finalize(Ending::Cancelled).await;
    b.advance(Duration::from_secs(1));
    b.make(&b.claim_run().await.unwrap()).await;
    let started = RunState::Started;
    assert_eq!(b.run_states(&schedule).await, [started, RunState::Skipped, started, started, started]);
}

async fn a_fire_that_was_asked_for_and_one_that_came_at_the_same_time_do_not_both_make_a_job(b: Bench) {
    for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Replace] {
        let schedule = b.schedule(overlap).await;
        b.advance(Duration::from_secs(60));
        // It is leased before the other one, which is due since earlier, is opened.
        b.store.run_now(&schedule.id).await.unwrap().unwrap();
        let asked = b.claim_run().await.unwrap();
        b.minutes(0).await;
        assert!(asked.run.manual && b.run_states(&schedule).await.len() == 2);
        assert!(b.claim_run().await.is_none(), "{overlap:?}: the job of the one is being made");
        let job = b.make(&asked).await;
        assert!(b.claim_run().await.is_none(), "{overlap:?}: the job of the one is not over");
        let expected = if overlap == Overlap::Skip { RunState::Skipped } else { RunState::Waiting };
        assert_eq!(b.run_states(&schedule).await, [expected, RunState::Started]);
        let ending = if overlap == Overlap::Replace { Ending::Cancelled } else { Ending::Completed };
        if overlap == Overlap::Replace {
            b.finalize(ending).await
        } else {
            b.complete().await
        }
        assert_eq!(b.job(&job).await.ending, Some(ending));
        assert!(b.store.delete_schedule(&schedule.id).await.unwrap());
    }
}

async fn a_job_that_is_retried_while_a_fire_is_accepted_counts_for_overlap(b: Bench) {
    let schedule = b.schedule(Overlap::Skip).await;
    b.minutes(1).await;
    let first = b.make(&b.claim_run().await.unwrap()).await;
    b.store.fail_job(&first, &problem()).await.unwrap();
    b.finalize(Ending::Failed).await;
    b.minutes(1).await;
    let claimed = b.claim_run().await.unwrap();
    assert!(matches!(b.store.retry_job(&first).await.unwrap(), Retried::Job(_)));
    match b.store.create_job(fired(&claimed)).await.unwrap() {
        Created::Overlaps { by } => assert_eq!(by, first),
        other => panic!("{other:?}"),
    }
    assert_eq!(b.store.delay_run(&claimed.lease, None, Duration::ZERO).await.unwrap(), Written::Done);
    assert!(b.claim_run().await.is_none());
    assert_eq!(b.run_states(&schedule).await, [RunState::Started, RunState::Skipped]);
}

async fn pausing_skips_the_fires_that_wait_and_leaves_those_that_were_asked_for(b: Bench) {
    let schedule = b.schedule(Overlap::Queue).await;
    b.minutes(2).await;
    b.advance(Duration::from_millis(1));
    let asked = b.store.run_now(&schedule.id).await.unwrap().unwrap();
    let pause = ScheduleChange { spec: schedule.spec.clone(), paused: true, next: NextFire::Kept };
    let paused = b.store.change_schedule(&schedule.id, schedule.revision, pause).await.unwrap().unwrap();
    assert_eq!(paused.state(), "paused");
    assert_eq!(b.run_states(&schedule).await, [RunState::Skipped, RunState::Skipped, RunState::Waiting]);
    b.advance(Duration::from_secs(600));
    assert!(b.due_schedules().await.1.is_empty(), "no fire comes");
    let claimed = b.claim_run().await.unwrap();
    assert_eq!((claimed.run.fire_time, claimed.run.manual), (asked.fire_time, true));
    let next = NextFire::At(schedule.spec.next(b.store.now().await.unwrap()));
    let resume = ScheduleChange { spec: schedule.spec.clone(), paused: false, next };
    let resumed = b.store.change_schedule(&schedule.id, paused.revision, resume).await.unwrap().unwrap();
    assert_eq!(resumed.state(), "active");
    assert!(b.due_schedules().await.1.is_empty(), "nothing is made up for");
}

async fn a_fire_that_is_put_off_keeps_its_problem_and_counts_its_attempts(b: Bench) {
    let schedule = b.schedule(Overlap::Queue).await;
    b.minutes(1).await;
    let claimed = b.claim_run().await.unwrap();
    assert_eq!(b.store.delay_run(&claimed.lease, Some(&problem()), TTL).await.unwrap(), Written::Done);
    assert!(b.claim_run().await.is_none(), "not yet");
    b.advance(TTL);
    let again = b.claim_run().await.unwrap();
    assert_eq!((again.run.attempts, again.run.problem.as_ref()), (1, Some(&problem())));
    assert_eq!(b.store.delay_run(&again.lease, None, Duration::ZERO).await.unwrap(), Written::Done);
    let last = b.claim_run().await.unwrap();
    assert_eq!(last.run.attempts, 1, "a drain is no attempt");
    b.make(&last).await;
    let run = &b.store.runs(&schedule.id, None, 1).await.unwrap()[0];
    assert_eq!((run.state, &run.problem), (RunState::Started, &None));
}

async fn a_schedule_that_cannot_be_read_is_found_as_such_and_others_go_on(b: Bench) {
    let (broken, whole) = (b.schedule(Overlap::Queue).await, b.schedule(Overlap::Queue).await);
    b.minutes(1).await;
    let spec = format!("UPDATE schedule SET spec = replace(spec, 'UTC', 'Mars/Phobos') WHERE id = '{}' RETURNING revision", broken.id);
    b.number(&spec).await;
    let is_whole = |kept: &Kept| matches!(kept, Kept::Whole(schedule) if schedule.id == whole.id);
    let is_broken =
        |kept: &Kept| matches!(kept, Kept::Broken(found) if found.id == broken.id.as_str() && found.text("name") == "every minute");
    let listed = b.store.schedules(&ScheduleFilter { before: None, limit: 10 }).await.unwrap();
    assert!(is_whole(&listed[0]) && is_broken(&listed[1]) && listed.len() == 2, "{listed:?}");
    assert!(is_broken(&b.store.schedule(&broken.id).await.unwrap().unwrap()));
    // Its fire waits, and says why.
    let claimed = b.claim_run().await.unwrap();
    assert_eq!(claimed.schedule.id, whole.id);
    b.make(&claimed).await;
    assert!(b.claim_run().await.is_none());
    let run = &b.store.runs(&broken.id, None, 1).await.unwrap()[0];
    assert_eq!((run.state, run.problem.as_ref().unwrap().code.as_str()), (RunState::Waiting, "schedule_broken"));
    b.advance(Duration::from_secs(60));
    let (_, due) = b.store.due_schedules(10).await.unwrap();
    assert!(due.len() == 2 && due.iter().any(is_broken) && due.iter().any(is_whole), "{due:?}");
    // Mended, it goes on.
    b.number(&spec.replace("'UTC', 'Mars/Phobos'", "'Mars/Phobos', 'UTC'")).await;
    assert_eq!(b.claim_run().await.unwrap().schedule.id, broken.id);
    assert!(b.store.delete_schedule(&broken.id).await.unwrap());
}

async fn jobs_that_cannot_tell_what_is_new_any_more_go_with_their_schedule(b: Bench) {
    let schedule = b.schedule(Overlap::Queue).await;
    b.minutes(1).await;
    let planned = b.planned(fired(&b.claim_run().await.unwrap()), 1).await;
    // Two that are unplanned, as after a retry, and one of them does not ask what is new.
    let unplanned = async |only_new| {
        let id = b.create(new_job(&format!("s3://lake/{only_new}/"))).await;
        let set = format!("UPDATE job SET schedule_id = '{}', only_new = {only_new} WHERE id = '{id}' RETURNING only_new", schedule.id);
        b.number(&set).await;
        id
    };
    let (all, new) = (unplanned(0).await, unplanned(1).await);
    assert!(b.store.delete_schedule(&schedule.id).await.unwrap());
    let job = b.job(&new).await;
    assert_eq!((job.ending, job.error.unwrap().code.as_str()), (Some(Ending::Cancelled), "schedule_deleted"));
    for id in [&planned, &all] {
        assert_eq!(b.job(id).await.ending, None, "it goes on");
    }
}

async fn what_was_covered_is_what_was_added_last(b: Bench) {
    let schedule = b.schedule(Overlap::Queue).await;
    let entry = |n: u64, mark: u64| Entry { name: format!("s3://lake/in/{n:05}.csv"), mark };
    let is_covered = async |entry: &Entry| {
        let block = b.store.covered_block(&schedule.id, &entry.name).await.unwrap().expect("a record");
        assert!(block.spans(&entry.name));
        block.covers(entry)
    };
    assert!(!is_covered(&entry(7, 7)).await, "nothing is covered");
    // Even ones, then all of the first half with other marks; and each time once more.
    let evens: Vec<Entry> = (0..3000).map(|n| entry(n * 2, 1)).collect();
    let half: Vec<Entry> = (0..3000).map(|n| entry(n, 2)).collect();
    for entries in [&evens, &evens, &half, &half] {
        b.store.cover(&schedule.id, &JobId::generate(), Change::Add, entries.clone()).await.unwrap();
    }
    for n in (0..6000).step_by(97).chain([0, 1, 2999, 3000, 3001, 5998, 5999]) {
        let mark = if n < 3000 { 2 } else { 1 };
        let known = n < 3000 || n % 2 == 0;
        assert_eq!(is_covered(&entry(n, mark)).await, known, "{n}");
        assert!(!is_covered(&entry(n, 3)).await, "another object of that name is new");
    }
    assert!(b.store.covered_block(&schedule.id, "a").await.unwrap().unwrap().entries.len() <= 1024);
    // All but the last hundred, some of them as they are not, and twice.
    let taken: Vec<Entry> = (0..5900).map(|n| entry(n, if n < 3000 { 2 } else { 1 + n / 2 % 2 })).collect();
    for _ in 0..2 {
        b.store.cover(&schedule.id, &JobId::generate(), Change::TakeBack, taken.clone()).await.unwrap();
    }
    for n in (0..6000).step_by(97).chain([0, 1, 2999, 3000, 3002, 5898, 5900, 5998]) {
        let left = n >= 3000 && n % 2 == 0 && (n >= 5900 || n / 2 % 2 == 1);
        assert_eq!(is_covered(&entry(n, 1)).await || is_covered(&entry(n, 2)).await, left, "{n}");
    }
    b.store.cover(&schedule.id, &JobId::generate(), Change::Add, half).await.unwrap();
    assert!(is_covered(&entry(1, 2)).await && is_covered(&entry(5998, 1)).await);
    // More blocks than one transaction writes; then some objects of each once more, with other marks.
    let many: Vec<Entry> = (0..150_000).map(|n| Entry { name: format!("s3://lake/many/{n:06}.csv"), mark: 1 }).collect();
    let some: Vec<Entry> = many.iter().step_by(400).map(|entry| Entry { mark: 2, ..entry.clone() }).collect();
    for entries in [many.clone(), some] {
        b.store.cover(&schedule.id, &JobId::generate(), Change::Add, entries).await.unwrap();
    }
    for n in (0..150_000).step_by(2999).chain([149_600, 149_999]) {
        assert!(is_covered(&Entry { mark: if n % 400 == 0 { 2 } else { 1 }, ..many[n].clone() }).await, "{n}");
    }
    assert!(b.store.delete_schedule(&schedule.id).await.unwrap());
    b.store.cover(&schedule.id, &JobId::generate(), Change::Add, evens).await.unwrap();
    assert!(b.store.covered_block(&schedule.id, "a").await.unwrap().is_none(), "of a schedule that is gone nothing is kept");
}

async fn a_completed_run_is_kept_until_what_it_read_is_in_the_record(b: Bench) {
    let schedule = b.schedule(Overlap::Queue).await;
    b.minutes(2).await;
    let first = b.make(&b.claim_run().await.unwrap()).await;
    assert_eq!(b.store.job_to_cover(&schedule.id).await.unwrap(), None, "it is not over");
    b.complete().await;
    assert_eq!(b.store.job_to_cover(&schedule.id).await.unwrap(), Some((first.clone(), Change::Add)));
    b.advance(Duration::from_secs(3600));
    assert_eq!(b.store.purge(Duration::from_secs(1), 10).await.unwrap(), 0);
    b.store.job_is_covered(&first, Change::Add).await.unwrap();
    assert_eq!(b.store.job_to_cover(&schedule.id).await.unwrap(), None);
    assert!(b.job(&first).await.fire.unwrap().only_new);
    assert_eq!(b.store.purge(Duration::from_secs(1), 10).await.unwrap(), 1);
    let second = b.make(&b.claim_run().await.unwrap()).await;
    b.store.fail_job(&second, &problem()).await.unwrap();
    b.finalize(Ending::Failed).await;
    assert_eq!(b.store.job_to_cover(&schedule.id).await.unwrap(), None, "what a failed run read comes again");
}

async fn no_run_is_retried_beside_another_that_reads_what_is_new(b: Bench) {
    let schedule = b.schedule(Overlap::Queue).await;
    b.minutes(1).await;
    let first = b.planned(fired(&b.claim_run().await.unwrap()), 1).await;
    assert_eq!(b.store.commit_chunk(&b.claim_one().await, &result(1, 1)).await.unwrap(), Written::Done);
    b.finalize(Ending::Completed).await;
    b.minutes(1).await;
    let second = b.make(&b.claim_run().await.unwrap()).await;
    match b.store.retry_job(&first).await.unwrap() {
        Retried::Overlaps { by } => assert_eq!(by, second, "of {}", schedule.id),
        other => panic!("{other:?}"),
    }
    b.complete().await;
    assert!(matches!(b.store.retry_job(&first).await.unwrap(), Retried::Job(_)));
}

async fn what_a_run_read_that_was_retried_in_vain_is_taken_back(b: Bench) {
    let schedule = b.schedule(Overlap::Queue).await;
    b.minutes(1).await;
    let job = b.planned(fired(&b.claim_run().await.unwrap()), 1).await;
    let due = async || b.store.job_to_cover(&schedule.id).await.unwrap().map(|(id, change)| (id == job, change));
    let complete = async |failed| {
        assert_eq!(b.store.commit_chunk(&b.claim_one().await, &result(1, failed)).await.unwrap(), Written::Done);
        b.finalize(Ending::Completed).await;
    };
    let retried = async || assert!(matches!(b.store.retry_job(&job).await.unwrap(), Retried::Job(_)));
    let fail = async || {
        b.store.fail_job(&job, &problem()).await.unwrap();
        b.finalize(Ending::Failed).await;
    };
    complete(1).await;
    assert_eq!(due().await, Some((true, Change::Add)));
    b.store.job_is_covered(&job, Change::Add).await.unwrap();

    // One that completes again needs nothing; nor does one that is at it.
    retried().await;
    assert_eq!(due().await, None);
    complete(1).await;
    assert_eq!(due().await, None);
    retried().await;
    fail().await;
    assert_eq!(due().await, Some((true, Change::TakeBack)));
    b.advance(Duration::from_secs(3600));
    assert_eq!(b.store.purge(Duration::from_secs(1), 10).await.unwrap(), 0, "its chunks say what it read");
    // Half of it is taken back when somebody retries the job, and it completes after all.
    b.store.cover(&schedule.id, &job, Change::TakeBack, Vec::new()).await.unwrap();
    retried().await;
    complete(1).await;
    assert_eq!(due().await, Some((true, Change::Add)), "it is added whole");
    // Half of it is added when the same happens, and it fails.
    b.store.cover(&schedule.id, &job, Change::Add, Vec::new()).await.unwrap();
    retried().await;
    fail().await;
    assert_eq!(due().await, Some((true, Change::TakeBack)));
    b.store.job_is_covered(&job, Change::TakeBack).await.unwrap();
    assert_eq!(due().await, None);
}

fn waiting(output: &str, seconds: u64) -> NewJob {
    let mut new = new_job(output);
    new.spec.wait_for = Some(WaitSpec { uri: uri("s3://lake/in/_SUCCESS"), timeout_seconds: seconds });
    new
}

async fn a_job_waits_for_its_object_and_fails_when_that_does_not_come(b: Bench) {
    let id = b.create(waiting("s3://lake/a/", 10_000)).await;
    assert!(b.store.claim_planning("p", TTL).await.unwrap().is_none(), "nobody plans it");
    let (lease, job) = b.store.claim_waiting("p", TTL).await.unwrap().unwrap();
    assert_eq!((&job.id, job.state), (&id, JobState::Queued));
    assert!(job.waits.object_until.is_some());
    assert!(b.store.claim_waiting("p", TTL).await.unwrap().is_none(), "a live lease is respected");
    assert_eq!(b.store.wait_again(&lease).await.unwrap(), Written::Done);
    assert_eq!(b.store.wait_again(&JobLease { epoch: lease.epoch - 1, ..lease }).await.unwrap(), Written::Fenced);
    b.advance(Duration::from_secs(5000));
    let (lease, _) = b.store.claim_waiting("p", TTL).await.unwrap().unwrap();
    assert_eq!(b.store.wait_again(&lease).await.unwrap(), Written::Done);
    b.advance(Duration::from_secs(30));
    assert!(b.store.claim_waiting("p", TTL).await.unwrap().is_none(), "it is looked for again after a minute");
    b.advance(Duration::from_secs(30));
    let (lease, _) = b.store.claim_waiting("p", TTL).await.unwrap().unwrap();
    assert_eq!(b.store.wait_again(&lease).await.unwrap(), Written::Done);
    b.advance(Duration::from_secs(5000));
    let (lease, _) = b.store.claim_waiting("p", TTL).await.unwrap().unwrap();
    assert_eq!(b.store.wait_again(&lease).await.unwrap(), Written::Done);
    let job = b.job(&id).await;
    assert_eq!((job.ending, job.error.unwrap().code.as_str()), (Some(Ending::Failed), "wait_timeout"));
    b.finalize(Ending::Failed).await;

    let id = b.create(waiting("s3://lake/a/", 100)).await;
    let (lease, _) = b.store.claim_waiting("p", TTL).await.unwrap().unwrap();
    assert_eq!(b.store.wait_is_over(&lease).await.unwrap(), Written::Done);
    assert_eq!(b.store.claim_planning("p", TTL).await.unwrap().unwrap().1.id, id);
}

async fn a_job_waits_for_its_parents_and_is_cancelled_when_one_fails(b: Bench) {
    let parents = [b.create(new_job("s3://lake/a/")).await, b.create(new_job("s3://lake/b/")).await];
    let mut child = new_job("s3://lake/c/");
    child.spec.depends_on = parents.to_vec();
    let child = b.create(child).await;
    assert!(b.job(&child).await.waits.jobs);
    let mut grandchild = new_job("s3://lake/d/");
    grandchild.spec.depends_on = vec![child.clone(), parents[0].clone()];
    let grandchild = b.create(grandchild).await;
    assert_eq!(b.settle().await, 0);
    b.complete().await;
    assert!(b.settle().await > 0);
    assert!(b.job(&child).await.waits.jobs, "it waits for the other one");
    b.complete().await;
    assert!(b.settle().await > 0);
    assert_eq!(b.store.settle_dependencies().await.unwrap(), 0, "once");
    let (_, planned) = b.store.claim_planning("p", TTL).await.unwrap().unwrap();
    assert_eq!(planned.id, child);
    b.store.fail_job(&child, &problem()).await.unwrap();
    assert_eq!(b.settle().await, 0, "it is not over");
    b.finalize(Ending::Failed).await;
    assert!(b.settle().await > 0);
    let job = b.job(&grandchild).await;
    assert_eq!((job.state, job.ending), (JobState::Cancelling, Some(Ending::Cancelled)));
    let error = job.error.unwrap();
    assert!(error.code == "dependency_failed" && error.detail.contains(child.as_str()), "{error:?}");
    b.finalize(Ending::Cancelled).await;
    assert_eq!(b.state(&grandchild).await, JobState::Cancelled);
}

async fn a_retried_job_waits_again(b: Bench) {
    let parent = b.create(new_job("s3://lake/p/")).await;
    let mut new = waiting("s3://lake/a/", 10);
    new.spec.depends_on = vec![parent.clone()];
    let id = b.create(new).await;
    b.store.cancel_job(&id).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    b.complete().await;
    assert!(matches!(b.store.retry_job(&id).await.unwrap(), Retried::Job(_)));
    assert!(b.store.claim_waiting("p", TTL).await.unwrap().is_none(), "first for the parent");
    assert!(b.settle().await > 0);
    assert!(b.store.claim_planning("p", TTL).await.unwrap().is_none());
    assert_eq!(b.store.claim_waiting("p", TTL).await.unwrap().unwrap().1.id, id);
}

async fn a_parent_that_completed_and_is_removed_has_completed(b: Bench) {
    let early = b.create(new_job("s3://lake/early/")).await;
    b.complete().await;
    let failed = b.create(new_job("s3://lake/failed/")).await;
    b.store.fail_job(&failed, &problem()).await.unwrap();
    b.finalize(Ending::Failed).await;
    let late = b.create(new_job("s3://lake/late/")).await;
    let child = async |parent: &JobId| {
        let mut new = new_job(&format!("s3://lake/after/{parent}/"));
        new.spec.depends_on = vec![parent.clone(), late.clone()];
        b.create(new).await
    };
    let (good, bad) = (child(&early).await, child(&failed).await);
    b.advance(Duration::from_secs(3600));
    b.settle().await;
    while b.store.purge(Duration::from_secs(60), 10).await.unwrap() > 0 {}
    assert!(b.store.job(&early).await.unwrap().is_none() && b.store.job(&failed).await.unwrap().is_none());
    b.settle().await;
    assert_eq!(b.job(&bad).await.error.unwrap().code, "dependency_failed");
    assert_eq!((b.job(&good).await.ending, b.job(&good).await.waits.jobs), (None, true), "the other one is not over");
    b.complete().await;
    b.settle().await;
    assert!(!b.job(&good).await.waits.jobs);
    // Both are retried: what is known of the parent that is gone counts.
    b.finalize(Ending::Cancelled).await;
    b.store.cancel_job(&good).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    for (id, ending) in [(&good, None), (&bad, Some(Ending::Cancelled))] {
        assert!(matches!(b.store.retry_job(id).await.unwrap(), Retried::Job(_)));
        b.settle().await;
        assert_eq!((b.job(id).await.ending, b.job(id).await.waits.jobs), (ending, ending.is_some()));
    }
}

async fn a_job_that_many_wait_for_is_kept_until_all_are_told(b: Bench) {
    let parent = b.create(new_job("s3://lake/p/")).await;
    let mut children = Vec::new();
    for n in 0..250 {
        let mut child = new_job(&format!("s3://lake/{n}/"));
        child.spec.depends_on = vec![parent.clone()];
        children.push(b.create(child).await);
    }
    // Of its own accord one of them waits no more.
    b.store.cancel_job(&children[7]).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    let cancelled = b.job(&children[7]).await;
    b.complete().await;
    let age = Duration::from_secs(60);
    b.advance(age * 2);
    assert!(b.store.settle_dependencies().await.unwrap() > 0);
    assert!(b.job(&children[249]).await.waits.jobs, "not all at once");
    while b.store.purge(age, 100).await.unwrap() > 0 {}
    assert_eq!(b.state(&parent).await, JobState::Completed);
    b.settle().await;
    for child in children.iter().filter(|child| **child != cancelled.id) {
        assert!(!b.job(child).await.waits.jobs);
    }
    while b.store.purge(age, 100).await.unwrap() > 0 {}
    assert!(b.store.job(&parent).await.unwrap().is_none());
    assert_eq!((cancelled.state, cancelled.error), (JobState::Cancelled, None));
}

async fn a_job_that_waits_for_one_that_is_gone_is_cancelled(b: Bench) {
    let (parent, gone) = (b.create(new_job("s3://lake/p/")).await, JobId::generate());
    let mut child = new_job("s3://lake/c/");
    child.spec.depends_on = vec![parent.clone(), gone.clone()];
    let child = b.create(child).await;
    let job = b.job(&child).await;
    let error = job.error.unwrap();
    assert_eq!((job.state, error.code.as_str()), (JobState::Cancelling, "dependency_failed"));
    assert!(error.detail.contains(gone.as_str()), "{}", error.detail);
    b.finalize(Ending::Cancelled).await;
    b.complete().await;
    b.settle().await;
    assert_eq!(b.state(&child).await, JobState::Cancelled);
}
