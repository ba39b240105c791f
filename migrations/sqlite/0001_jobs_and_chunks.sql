-- Times are microseconds since the Unix epoch, documents are JSON.

CREATE TABLE job (
    id            TEXT    NOT NULL PRIMARY KEY,
    spec          TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    pipeline      TEXT    NOT NULL,
    labels        TEXT    NOT NULL,
    -- The output prefix, with a slash at its end: unique among unfinished jobs, nested prefixes included.
    output        TEXT    NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('queued', 'validating', 'in_progress', 'finalizing', 'completed', 'failed',
                                                    'cancelling', 'cancelled', 'expired')),
    ending        TEXT    CHECK (ending IN ('completed', 'failed', 'cancelled', 'expired')),
    error         TEXT,
    priority      INTEGER NOT NULL,
    max_parallel  INTEGER,
    deadline_at   INTEGER,
    plan          TEXT    NOT NULL,
    plan_done     INTEGER NOT NULL DEFAULT 0,
    objects       INTEGER NOT NULL DEFAULT 0,
    bytes         INTEGER NOT NULL DEFAULT 0,
    chunks        INTEGER NOT NULL DEFAULT 0,
    chunks_done   INTEGER NOT NULL DEFAULT 0,
    -- Chunks in states pending and running: kept here so that claiming never counts rows.
    pending       INTEGER NOT NULL DEFAULT 0 CHECK (pending >= 0),
    running       INTEGER NOT NULL DEFAULT 0 CHECK (running >= 0),
    succeeded     INTEGER NOT NULL DEFAULT 0,
    failed        INTEGER NOT NULL DEFAULT 0,
    error_codes   TEXT    NOT NULL DEFAULT '{}',
    first_error   TEXT,
    usage         TEXT    NOT NULL,
    lease_epoch   INTEGER NOT NULL DEFAULT 0,
    lease_until   INTEGER,
    lease_worker  TEXT,
    created_at    INTEGER NOT NULL,
    started_at    INTEGER,
    finished_at   INTEGER,
    CHECK ((finished_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled', 'expired')))
) STRICT;

CREATE INDEX job_to_plan ON job (id) WHERE finished_at IS NULL AND plan_done = 0;
CREATE INDEX job_to_run ON job (priority DESC, running, id) WHERE finished_at IS NULL AND pending > 0;
CREATE INDEX job_to_finalize ON job (id) WHERE state IN ('finalizing', 'cancelling');
CREATE INDEX job_deadline ON job (deadline_at) WHERE finished_at IS NULL AND deadline_at IS NOT NULL;
CREATE INDEX job_output ON job (output) WHERE finished_at IS NULL;
CREATE INDEX job_state ON job (state, id);

CREATE TABLE chunk (
    job_id        TEXT    NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    seq           INTEGER NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('pending', 'running', 'done', 'failed', 'cancelled')),
    claims        INTEGER NOT NULL DEFAULT 0,
    failures      INTEGER NOT NULL DEFAULT 0,
    crashes       INTEGER NOT NULL DEFAULT 0,
    not_before    INTEGER,
    lease_epoch   INTEGER NOT NULL DEFAULT 0,
    lease_until   INTEGER,
    worker        TEXT,
    started_at    INTEGER,
    finished_at   INTEGER,
    error         TEXT,
    result        TEXT,
    inputs        TEXT    NOT NULL,
    PRIMARY KEY (job_id, seq),
    CHECK ((result IS NOT NULL) = (state = 'done'))
) STRICT;

CREATE INDEX chunk_pending ON chunk (job_id, seq) WHERE state = 'pending';
CREATE INDEX chunk_running ON chunk (lease_until) WHERE state = 'running';
CREATE INDEX chunk_running_of ON chunk (job_id, lease_until) WHERE state = 'running';
