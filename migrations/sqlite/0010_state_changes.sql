-- Every state that a job came to, in the order in which the changes were committed: what its followers hear of it. Written in the
-- transaction of the change.
CREATE TABLE state_change (
    seq           INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id        TEXT    NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    -- The job at that moment.
    data          TEXT    NOT NULL,
    at            INTEGER NOT NULL
) STRICT;

CREATE INDEX state_change_of_job ON state_change (job_id, seq);
