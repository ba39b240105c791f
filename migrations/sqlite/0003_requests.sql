-- Idempotency keys, pauses, retries, labels as an index.

-- A paused job keeps in `state` what it was before; that it is paused is said here alone.
ALTER TABLE job ADD COLUMN paused_at INTEGER CHECK (paused_at IS NULL OR state IN ('queued', 'validating', 'in_progress'));
-- How long the job was paused, or had ended before a retry, since `started_at`.
ALTER TABLE job ADD COLUMN idle INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
-- When a chunk of it was last claimed: among equals, the job that has waited longest has its turn.
ALTER TABLE job ADD COLUMN served_at INTEGER NOT NULL DEFAULT 0;

DROP INDEX job_to_plan;
CREATE INDEX job_to_plan ON job (id) WHERE finished_at IS NULL AND plan_done = 0 AND paused_at IS NULL;
DROP INDEX job_to_run;
CREATE INDEX job_to_run ON job (priority DESC, running, served_at, id) WHERE finished_at IS NULL AND pending > 0 AND paused_at IS NULL;
CREATE INDEX job_paused ON job (id) WHERE paused_at IS NOT NULL;

-- The labels of `job.labels`, to find jobs by.
CREATE TABLE job_label (
    key           TEXT    NOT NULL,
    value         TEXT    NOT NULL,
    job_id        TEXT    NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    PRIMARY KEY (key, value, job_id)
) STRICT, WITHOUT ROWID;
INSERT INTO job_label (key, value, job_id) SELECT label.key, label.value, job.id FROM job, json_each(job.labels) AS label;
CREATE INDEX job_label_of ON job_label (job_id);

CREATE TABLE idempotency (
    key           TEXT    NOT NULL PRIMARY KEY,
    -- Of the request that the key came with.
    fingerprint   TEXT    NOT NULL,
    job_id        TEXT    NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    created_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX idempotency_age ON idempotency (created_at);
CREATE INDEX idempotency_of ON idempotency (job_id);
