-- The tables of migrations/sqlite, as they are after its step 0008. Times are microseconds since the Unix epoch, documents are JSON.
-- Texts sort by their bytes: ids by the time at which they were made, prefixes before what lies below them.

CREATE TABLE job (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    spec          TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    pipeline      TEXT    NOT NULL,
    labels        TEXT    NOT NULL,
    -- The output prefix, with a slash at its end: unique among unfinished jobs, nested prefixes included.
    output        TEXT COLLATE "C" NOT NULL,
    -- The review prefix, with a slash at its end: claimed as the output prefix is.
    review        TEXT COLLATE "C",
    state         TEXT COLLATE "C" NOT NULL CHECK (state IN ('queued', 'validating', 'in_progress', 'finalizing', 'completed', 'failed',
                                                             'cancelling', 'cancelled', 'expired')),
    ending        TEXT    CHECK (ending IN ('completed', 'failed', 'cancelled', 'expired')),
    error         TEXT,
    priority      BIGINT  NOT NULL,
    max_parallel  BIGINT,
    deadline_at   BIGINT,
    plan          TEXT    NOT NULL,
    plan_done     BIGINT  NOT NULL DEFAULT 0,
    objects       BIGINT  NOT NULL DEFAULT 0,
    bytes         BIGINT  NOT NULL DEFAULT 0,
    chunks        BIGINT  NOT NULL DEFAULT 0,
    chunks_done   BIGINT  NOT NULL DEFAULT 0,
    -- Chunks in states pending and running: kept here so that claiming never counts rows.
    pending       BIGINT  NOT NULL DEFAULT 0 CHECK (pending >= 0),
    running       BIGINT  NOT NULL DEFAULT 0 CHECK (running >= 0),
    succeeded     BIGINT  NOT NULL DEFAULT 0,
    failed        BIGINT  NOT NULL DEFAULT 0,
    error_codes   TEXT    NOT NULL DEFAULT '{}',
    first_error   TEXT,
    usage         TEXT    NOT NULL,
    -- What the predictions of a job are like, merged over its committed chunks.
    summary       TEXT    NOT NULL DEFAULT '{}',
    lease_epoch   BIGINT  NOT NULL DEFAULT 0,
    lease_until   BIGINT,
    lease_worker  TEXT,
    created_at    BIGINT  NOT NULL,
    started_at    BIGINT,
    finished_at   BIGINT,
    -- A paused job keeps in `state` what it was before; that it is paused is said here alone.
    paused_at     BIGINT  CHECK (paused_at IS NULL OR state IN ('queued', 'validating', 'in_progress')),
    -- How long the job was paused, or had ended before a retry, since `started_at`.
    idle          BIGINT  NOT NULL DEFAULT 0,
    retries       BIGINT  NOT NULL DEFAULT 0,
    -- When a chunk of it was last claimed: among equals, the job that has waited longest has its turn.
    served_at     BIGINT  NOT NULL DEFAULT 0,
    -- The trace that a job belongs to, as the header traceparent writes it.
    trace         TEXT,
    -- Since when a job that ended long ago is being removed; nobody sees it any more.
    purged_at     BIGINT,
    CHECK ((finished_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled', 'expired')))
);

CREATE INDEX job_to_plan ON job (id) WHERE finished_at IS NULL AND plan_done = 0 AND paused_at IS NULL;
CREATE INDEX job_to_run ON job (priority DESC, running, served_at, id) WHERE finished_at IS NULL AND pending > 0 AND paused_at IS NULL;
CREATE INDEX job_to_finalize ON job (id) WHERE state IN ('finalizing', 'cancelling');
CREATE INDEX job_deadline ON job (deadline_at) WHERE finished_at IS NULL AND deadline_at IS NOT NULL;
CREATE INDEX job_output ON job (output) WHERE finished_at IS NULL;
CREATE INDEX job_review ON job (review) WHERE finished_at IS NULL AND review IS NOT NULL;
CREATE INDEX job_state ON job (state, id);
CREATE INDEX job_paused ON job (id) WHERE paused_at IS NOT NULL;
CREATE INDEX job_finished ON job (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX job_purged ON job (id) WHERE purged_at IS NOT NULL;
-- What a scrape reads of unfinished jobs, so that it opens no row: those hold long documents.
CREATE INDEX job_backlog ON job (finished_at, ending, started_at, created_at, pending, running, chunks_done) WHERE finished_at IS NULL;

CREATE TABLE chunk (
    job_id        TEXT COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    seq           BIGINT  NOT NULL,
    state         TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'running', 'done', 'failed', 'cancelled')),
    claims        BIGINT  NOT NULL DEFAULT 0,
    failures      BIGINT  NOT NULL DEFAULT 0,
    crashes       BIGINT  NOT NULL DEFAULT 0,
    not_before    BIGINT,
    lease_epoch   BIGINT  NOT NULL DEFAULT 0,
    lease_until   BIGINT,
    worker        TEXT,
    started_at    BIGINT,
    finished_at   BIGINT,
    error         TEXT,
    result        TEXT,
    -- Error rows of a chunk that is done.
    failed        BIGINT  NOT NULL DEFAULT 0,
    inputs        TEXT    NOT NULL,
    -- What is known of a chunk that has a runner to itself, because its runner died under it; none while it runs among others.
    isolation     TEXT,
    PRIMARY KEY (job_id, seq),
    CHECK ((result IS NOT NULL) = (state = 'done'))
);

CREATE INDEX chunk_pending ON chunk (job_id, seq) WHERE state = 'pending';
CREATE INDEX chunk_running ON chunk (lease_until) WHERE state = 'running';
CREATE INDEX chunk_running_of ON chunk (job_id, lease_until) WHERE state = 'running';

-- The labels of `job.labels`, to find jobs by.
CREATE TABLE job_label (
    key           TEXT COLLATE "C" NOT NULL,
    value         TEXT COLLATE "C" NOT NULL,
    job_id        TEXT COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    PRIMARY KEY (key, value, job_id)
);
CREATE INDEX job_label_of ON job_label (job_id);

CREATE TABLE idempotency (
    key           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- Of the request that the key came with.
    fingerprint   TEXT    NOT NULL,
    job_id        TEXT COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    created_at    BIGINT  NOT NULL
);
CREATE INDEX idempotency_age ON idempotency (created_at);
CREATE INDEX idempotency_of ON idempotency (job_id);

-- What happened to jobs, written in the transaction in which it happened, and the deliveries that came of it.
CREATE TABLE event (
    seq           BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id    TEXT COLLATE "C" NOT NULL UNIQUE,
    job_id        TEXT COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    kind          TEXT    NOT NULL,
    -- The job at that moment.
    data          TEXT    NOT NULL,
    at            BIGINT  NOT NULL,
    fanned_out    BIGINT  NOT NULL DEFAULT 0
);
CREATE INDEX event_to_fan_out ON event (seq) WHERE fanned_out = 0;
CREATE INDEX event_of_job ON event (job_id, seq);

CREATE TABLE webhook_delivery (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    job_id        TEXT COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    message_id    TEXT    NOT NULL,
    kind          TEXT    NOT NULL,
    -- A configured endpoint; none for the job's own webhook, whose secret stays with the job's definition.
    endpoint      TEXT,
    url           TEXT    NOT NULL,
    -- Host and port of the URL: deliveries to one receiver share its limits.
    receiver      TEXT COLLATE "C" NOT NULL,
    body          TEXT    NOT NULL,
    state         TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'gone')),
    attempts      BIGINT  NOT NULL DEFAULT 0,
    -- Attempts since the last replay.
    tries         BIGINT  NOT NULL DEFAULT 0,
    next_at       BIGINT  NOT NULL,
    lease_epoch   BIGINT  NOT NULL DEFAULT 0,
    lease_until   BIGINT,
    created_at    BIGINT  NOT NULL,
    finished_at   BIGINT,
    CHECK ((finished_at IS NULL) = (state = 'pending'))
);
CREATE INDEX delivery_pending ON webhook_delivery (receiver, next_at) WHERE state = 'pending';
CREATE INDEX delivery_of_job ON webhook_delivery (job_id, id);
CREATE INDEX delivery_state ON webhook_delivery (state, id);

CREATE TABLE webhook_attempt (
    delivery_id   TEXT COLLATE "C" NOT NULL REFERENCES webhook_delivery (id) ON DELETE CASCADE,
    number        BIGINT  NOT NULL,
    at            BIGINT  NOT NULL,
    status        BIGINT,
    error         TEXT,
    latency_us    BIGINT  NOT NULL,
    PRIMARY KEY (delivery_id, number),
    CHECK (status IS NOT NULL OR error IS NOT NULL)
);
