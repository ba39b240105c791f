-- No look of the service at its tables grows with how much waits, or with how much is over.

-- Without those that wait for something else than a planner.
DROP INDEX job_to_plan;
CREATE INDEX job_to_plan ON job (id)
    WHERE finished_at IS NULL AND plan_done = 0 AND paused_at IS NULL AND blocked = 0 AND look_at IS NULL;
DROP INDEX job_to_look;
CREATE INDEX job_to_look ON job (look_at) WHERE look_at IS NOT NULL AND finished_at IS NULL AND blocked = 0 AND paused_at IS NULL;
-- As before, but not by what every unfinished job has in common: it was taken for the others' sake, and read from end to end.
DROP INDEX job_backlog;
CREATE INDEX job_backlog ON job (created_at, finished_at, ending, started_at, pending, running, chunks_done, blocked, look_at) WHERE finished_at IS NULL;
CREATE INDEX job_started ON job (id) WHERE finished_at IS NULL AND started_at IS NOT NULL;

-- Of a schedule: its unfinished jobs, its latest run with predictions, its runs that are to be added to `covered`.
CREATE INDEX job_unfinished_of ON job (schedule_id, id) WHERE schedule_id IS NOT NULL AND finished_at IS NULL;
CREATE INDEX job_run_of ON job (schedule_id, fire_at)
    WHERE schedule_id IS NOT NULL AND state = 'completed' AND succeeded > 0 AND purged_at IS NULL;
CREATE INDEX job_to_cover ON job (schedule_id, id)
    WHERE schedule_id IS NOT NULL AND only_new > 0
    AND (state = 'completed' AND covered < 2 OR state IN ('failed', 'cancelled', 'expired') AND covered > 0) AND purged_at IS NULL;

-- Whoever is waited for says so, and whoever waits is told once when that one has ended: both are found by this.
ALTER TABLE job ADD COLUMN awaited BIGINT NOT NULL DEFAULT 0;
ALTER TABLE job_dependency ADD COLUMN told BIGINT NOT NULL DEFAULT 0;
UPDATE job_dependency SET told = 1 WHERE completed = 1 OR job_id NOT IN (SELECT id FROM job WHERE blocked = 1 AND finished_at IS NULL);
UPDATE job SET awaited = 1 WHERE id IN (SELECT parent_id FROM job_dependency WHERE told = 0);
UPDATE job SET blocked = 0 WHERE blocked = 1 AND finished_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM job_dependency WHERE job_id = job.id AND told = 0);
CREATE INDEX job_dependency_untold ON job_dependency (parent_id, job_id) WHERE told = 0;
CREATE INDEX job_awaited ON job (id) WHERE awaited = 1 AND finished_at IS NOT NULL;
DROP INDEX job_blocked;

-- Fires that wait, in the order in which they are claimed.
CREATE INDEX schedule_run_due ON schedule_run (due_at, fire_at) WHERE state = 'waiting';
