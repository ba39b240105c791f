-- Every state that a job came to: what its followers hear of it. Written in the transaction of the change, as the last it does and one
-- transaction at a time, so that the numbers are in the order in which they become visible.
CREATE TABLE state_change (
    seq           BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id        TEXT COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    -- The job at that moment.
    data          TEXT    NOT NULL,
    at            BIGINT  NOT NULL
);

CREATE INDEX state_change_of_job ON state_change (job_id, seq);
