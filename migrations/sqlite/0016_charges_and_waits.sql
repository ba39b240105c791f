-- Attempts that were charged, and jobs that wait for something that is away.

-- Attempts that came to nothing and were charged: one that says its end again, because the answer was lost, is charged no more.
CREATE TABLE charged (
    job_id        TEXT    NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    seq           INTEGER NOT NULL,
    lease_epoch   INTEGER NOT NULL,
    PRIMARY KEY (job_id, seq, lease_epoch)
) STRICT, WITHOUT ROWID;

-- Until when no chunk of the job is handed out, because something that it needs is away; NULL, or a time that is over, when nothing is
-- waited for.
ALTER TABLE job ADD COLUMN not_before INTEGER;
