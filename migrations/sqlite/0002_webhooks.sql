-- What happened to jobs, written in the transaction in which it happened, and the deliveries that came of it.

CREATE TABLE event (
    seq           INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    message_id    TEXT    NOT NULL UNIQUE,
    job_id        TEXT    NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    kind          TEXT    NOT NULL,
    -- The job at that moment.
    data          TEXT    NOT NULL,
    at            INTEGER NOT NULL,
    fanned_out    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX event_to_fan_out ON event (seq) WHERE fanned_out = 0;
CREATE INDEX event_of_job ON event (job_id, seq);

CREATE TABLE webhook_delivery (
    id            TEXT    NOT NULL PRIMARY KEY,
    job_id        TEXT    NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    message_id    TEXT    NOT NULL,
    kind          TEXT    NOT NULL,
    -- A configured endpoint; none for the job's own webhook, whose secret stays with the job's definition.
    endpoint      TEXT,
    url           TEXT    NOT NULL,
    -- Host and port of the URL: deliveries to one receiver share its limits.
    receiver      TEXT    NOT NULL,
    body          TEXT    NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'gone')),
    attempts      INTEGER NOT NULL DEFAULT 0,
    -- Attempts since the last replay.
    tries         INTEGER NOT NULL DEFAULT 0,
    next_at       INTEGER NOT NULL,
    lease_epoch   INTEGER NOT NULL DEFAULT 0,
    lease_until   INTEGER,
    created_at    INTEGER NOT NULL,
    finished_at   INTEGER,
    CHECK ((finished_at IS NULL) = (state = 'pending'))
) STRICT;

CREATE INDEX delivery_pending ON webhook_delivery (receiver, next_at) WHERE state = 'pending';
CREATE INDEX delivery_of_job ON webhook_delivery (job_id, id);
CREATE INDEX delivery_state ON webhook_delivery (state, id);

CREATE TABLE webhook_attempt (
    delivery_id   TEXT    NOT NULL REFERENCES webhook_delivery (id) ON DELETE CASCADE,
    number        INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    status        INTEGER,
    error         TEXT,
    latency_us    INTEGER NOT NULL,
    PRIMARY KEY (delivery_id, number),
    CHECK (status IS NOT NULL OR error IS NOT NULL)
) STRICT;
