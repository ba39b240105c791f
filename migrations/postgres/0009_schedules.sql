-- Schedules, their fires and what they covered; jobs that wait.

CREATE TABLE schedule (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    spec          TEXT    NOT NULL,
    overlap       TEXT    NOT NULL CHECK (overlap IN ('skip', 'queue', 'replace')),
    -- The first fire that has no row in schedule_run yet; none when there is none any more.
    next_at       BIGINT,
    paused_at     BIGINT,
    revision      BIGINT  NOT NULL DEFAULT 0,
    created_at    BIGINT  NOT NULL,
    updated_at    BIGINT  NOT NULL
);

CREATE INDEX schedule_due ON schedule (next_at) WHERE next_at IS NOT NULL AND paused_at IS NULL;

-- A fire is written once, in the transaction that moves next_at past it; its job is made in the one that moves it from `waiting`.
CREATE TABLE schedule_run (
    schedule_id   TEXT COLLATE "C" NOT NULL REFERENCES schedule (id) ON DELETE CASCADE,
    fire_at       BIGINT  NOT NULL,
    manual        BIGINT  NOT NULL DEFAULT 0,
    state         TEXT COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'started', 'skipped', 'failed')),
    -- Kept when the job is removed.
    job_id        TEXT COLLATE "C",
    problem       TEXT,
    attempts      BIGINT  NOT NULL DEFAULT 0,
    due_at        BIGINT  NOT NULL,
    lease_epoch   BIGINT  NOT NULL DEFAULT 0,
    lease_until   BIGINT,
    settled_at    BIGINT,
    PRIMARY KEY (schedule_id, fire_at),
    CHECK ((job_id IS NOT NULL) = (state = 'started')),
    CHECK ((settled_at IS NULL) = (state = 'waiting'))
);

CREATE INDEX schedule_run_waiting ON schedule_run (schedule_id, fire_at) WHERE state = 'waiting';

-- What successful runs covered: blocks of names and marks, each from `first` to the next one's.
CREATE TABLE covered (
    schedule_id   TEXT COLLATE "C" NOT NULL REFERENCES schedule (id) ON DELETE CASCADE,
    first         TEXT COLLATE "C" NOT NULL,
    block         BYTEA   NOT NULL,
    PRIMARY KEY (schedule_id, first)
);

ALTER TABLE job ADD COLUMN schedule_id TEXT COLLATE "C";
ALTER TABLE job ADD COLUMN fire_at BIGINT;
-- What the job reads is held against what earlier runs covered; once it has completed and `covered` holds it as well, 2.
ALTER TABLE job ADD COLUMN only_new BIGINT NOT NULL DEFAULT 0 CHECK (only_new IN (0, 1, 2));
-- It waits for the jobs of job_dependency.
ALTER TABLE job ADD COLUMN blocked BIGINT NOT NULL DEFAULT 0;
-- It waits for an object, which is looked for next at this time, and last at wait_until.
ALTER TABLE job ADD COLUMN look_at BIGINT;
ALTER TABLE job ADD COLUMN wait_until BIGINT;

CREATE INDEX job_of_schedule ON job (schedule_id, id) WHERE schedule_id IS NOT NULL;
CREATE INDEX job_blocked ON job (id) WHERE blocked = 1 AND finished_at IS NULL;
CREATE INDEX job_to_look ON job (look_at) WHERE look_at IS NOT NULL AND finished_at IS NULL;

-- As before, and jobs that wait for something else than capacity are told apart.
DROP INDEX job_backlog;
CREATE INDEX job_backlog ON job (finished_at, ending, started_at, created_at, pending, running, chunks_done, blocked, look_at) WHERE finished_at IS NULL;

CREATE TABLE job_dependency (
    job_id        TEXT COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    parent_id     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (job_id, parent_id)
);
