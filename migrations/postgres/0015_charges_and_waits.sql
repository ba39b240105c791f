-- Attempts that were charged.

-- Attempts that came to nothing and were charged: one that says its end again, because the answer was lost, is charged no more.
CREATE TABLE charged (
    job_id        TEXT COLLATE "C" NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    seq           BIGINT  NOT NULL,
    lease_epoch   BIGINT  NOT NULL,
    PRIMARY KEY (job_id, seq, lease_epoch)
);
